"""Networks against hand-computed counts, formulas written out, and themselves outside the lanes."""

import math
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from torch.autograd import forward_ad
from torch.func import functional_call, stack_module_state, vmap

from lrlab.errors import UserError
from lrlab.losses import nll
from lrlab.networks import (
    ACTIVATIONS,
    CNN,
    INITS,
    MLP,
    MUP_INITS,
    Perceptron,
    step,
)

pytestmark = pytest.mark.unit

CONFIGS = Path(__file__).parents[1] / "conf" / "network"
IMAGE = (1, 28, 28)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tensors this small gain nothing from threads, and threads of a busy machine wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def built(name, seed=0, **changes):
    """The network of a config file, as a run builds it."""
    config = OmegaConf.merge(OmegaConf.load(CONFIGS / f"{name}.yaml"), changes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return hydra.utils.instantiate(config, in_shape=IMAGE, num_classes=10)


def images(batch=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, *IMAGE, generator=generator)
    return x, torch.randint(10, (batch,), generator=generator)


class Custom(torch.nn.Module):
    """What a user would bring: knows nothing of lrlab, has an argument of its own."""

    def __init__(self, in_shape, num_classes, width):
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Flatten(),
            torch.nn.Linear(math.prod(in_shape), width),
            torch.nn.LayerNorm(width),
            torch.nn.SiLU(),
            torch.nn.Linear(width, num_classes),
        )

    def forward(self, x):
        return self.body(x)


NETWORKS = {
    "mlp": lambda seed: built("mlp", seed),
    **{f"mlp-{a}": lambda seed, a=a: built("mlp", seed, activation=a) for a in ACTIVATIONS},
    "mlp-mup_sgd": lambda seed: built("mlp", seed, hidden=[96, 32], parametrisation="mup_sgd"),
    "mlp-mup_adam": lambda seed: built("mlp", seed, hidden=[96, 32], parametrisation="mup_adam"),
    "mlp-no-bias": lambda seed: built("mlp", seed, bias=False),
    "perceptron": lambda seed: built("perceptron", seed),
    "cnn": lambda seed: built("cnn", seed),
    "cnn-step": lambda seed: built("cnn", seed, activation="step"),
    "custom": lambda seed: built("custom", seed, _target_=f"{__name__}.Custom", width=3),
}


# Parameter counts, computed by hand


@pytest.mark.parametrize(
    ("name", "changes", "count"),
    [
        ("mlp", {}, 59_210),  # 784·64+64 + 2·(64·64+64) + 64·10+10
        ("mlp", {"bias": False}, 59_008),  # 64+64+64+10 fewer
        ("mlp", {"hidden": [5]}, 3_985),  # 784·5+5 + 5·10+10
        ("mlp", {"hidden": []}, 7_850),
        ("perceptron", {}, 7_850),  # 784·10+10
        ("perceptron", {"bias": False}, 7_840),
        ("cnn", {}, 65_162),  # 16·25+16 + 32·16·25+32 + 800·64+64 + 64·10+10
        ("cnn", {"bias": False}, 65_040),  # 16+32+64+10 fewer
        ("cnn", {"channels": [6, 16], "hidden": [120, 84]}, 61_706),  # LeNet-5, dense second layer
        ("custom", {"_target_": f"{__name__}.Custom", "width": 3}, 2_401),  # 784·3+3 + 6 + 3·10+10
    ],
)
def test_parameter_count(name, changes, count):
    assert sum(p.numel() for p in built(name, **changes).parameters()) == count



# What forward computes


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


FORMULAS = {
    "relu": lambda x: x * (x > 0),
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "tanh": lambda x: (torch.exp(2 * x) - 1) / (torch.exp(2 * x) + 1),
    "gelu": gelu,
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "step": lambda x: (torch.sign(x) + 1) / 2,  # right for x != 0
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_is_the_formula(activation):
    torch.manual_seed(0)
    net = MLP((2, 3), 4, hidden=[5, 7], activation=activation).double()
    x = torch.randn(9, 2, 3, dtype=torch.float64)
    h = x.reshape(9, 6)
    (w1, b1), (w2, b2), (w3, b3) = ((layer.weight, layer.bias) for layer in net.layers)
    f = FORMULAS[activation]
    expected = f(f(h @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)


# The maximal update parametrisation


def effective(net):
    """The weights and biases that an MLP computes with, as leaves of their own."""
    pairs = [
        (layer.weight * layer.weight_factor, layer.bias * layer.bias_factor) for layer in net.layers
    ]
    return [(w.detach().requires_grad_(), b.detach().requires_grad_()) for w, b in pairs]


def plain(pairs, x):
    for number, (weight, bias) in enumerate(pairs, start=1):
        x = x @ weight.T + bias
        x = x if number == len(pairs) else torch.tanh(x)
    return x


@pytest.mark.parametrize("init", MUP_INITS)
@pytest.mark.parametrize("parametrisation", ["mup_sgd", "mup_adam"])
def test_at_the_base_width_mup_is_the_standard_network(parametrisation, init):
    standard = built("mlp", init=init)
    mup = built("mlp", init=init, parametrisation=parametrisation)
    x, _ = images()
    assert torch.equal(mup(x), standard(x))


@pytest.mark.parametrize("parametrisation", ["mup_sgd", "mup_adam"])
def test_mup_starts_as_usual_but_for_smaller_output_weights(parametrisation):
    """Yang et al. 2022, table 3: variance 1/fan_in, and 1/fan_in² for the output."""
    torch.manual_seed(0)
    standard = MLP((6,), 3, hidden=[256, 256])
    torch.manual_seed(0)
    net = MLP((6,), 3, hidden=[256, 256], parametrisation=parametrisation, base_width=64)
    shrunk = [1, 1, 1 / 2]  # the output's: sqrt(64/256)
    for layer, (weight, bias), factor in zip(standard.layers, effective(net), shrunk, strict=True):
        torch.testing.assert_close(weight, layer.weight * factor)
        torch.testing.assert_close(bias, layer.bias)


# By hand from table 3, for base width 8, so widths 32 (4 times as wide) and 16 (twice): the lr of
# weights and biases of each layer, as a multiple of the network's.
LRS = {
    "mup_sgd": [(4, 4), (2 / 4, 2), (1 / 2, 1)],
    "mup_adam": [(1, 1), (1 / 4, 1), (1 / 2, 1)],
}


@pytest.mark.parametrize(
    ("parametrisation", "optimizer", "options"),
    [
        ("mup_sgd", torch.optim.SGD, {}),
        ("mup_sgd", torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
        ("mup_adam", torch.optim.Adam, {"eps": 1e-30}),
    ],
)
def test_training_with_one_lr_is_training_each_layer_with_its_own(
    parametrisation, optimizer, options
):
    torch.manual_seed(0)
    net = MLP((6,), 3, [32, 16], "tanh", parametrisation=parametrisation, base_width=8).double()
    pairs = effective(net)
    x, y = torch.randn(12, 6, dtype=torch.float64), torch.randint(3, (12,))
    options = dict(options)
    decay = options.pop("weight_decay", 0.0)
    groups = [
        {"params": [parameter], "lr": 0.03 * factor, "weight_decay": decay / factor}
        for layer, factors in zip(pairs, LRS[parametrisation], strict=True)
        for parameter, factor in zip(layer, factors, strict=True)
    ]
    one = optimizer(net.parameters(), lr=0.03, weight_decay=decay, **options)
    own = optimizer(groups, **options)
    first = nll(net(x), y).item()
    for _ in range(20):
        losses = nll(net(x), y), nll(plain(pairs, x), y)
        torch.testing.assert_close(*losses, rtol=1e-9, atol=0)
        for loss, each in zip(losses, (one, own), strict=True):
            each.zero_grad()
            loss.backward()
            each.step()
    assert losses[0].item() < 0.97 * first


def test_perceptron_is_one_weighted_sum():
    net = Perceptron((3,), 2)
    x = torch.randn(5, 3)
    (layer,) = net.layers
    torch.testing.assert_close(net(x), x @ layer.weight.T + layer.bias)


def test_cnn_is_convolve_and_pool_written_with_loops():
    torch.manual_seed(0)
    net = CNN((2, 12, 13), 3, channels=[2, 3], hidden=[4], activation="tanh").double()
    x = torch.randn(2, 2, 12, 13, dtype=torch.float64)

    def convolve(maps, weight, bias):
        height, width = maps.shape[2] - 4, maps.shape[3] - 4
        out = torch.empty(len(maps), len(weight), height, width, dtype=torch.float64)
        for r in range(height):
            for c in range(width):
                patch = maps[:, :, r : r + 5, c : c + 5]
                out[:, :, r, c] = torch.einsum("bkrc,okrc->bo", patch, weight) + bias
        return out

    def pool(maps):
        height, width = maps.shape[2] // 2, maps.shape[3] // 2
        out = torch.empty(*maps.shape[:2], height, width, dtype=torch.float64)
        for r in range(height):
            for c in range(width):
                out[:, :, r, c] = maps[:, :, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].amax((2, 3))
        return out

    first, second = net.convolutions
    padded = torch.zeros(2, 2, 16, 17, dtype=torch.float64)
    padded[:, :, 2:-2, 2:-2] = x
    h = pool(torch.tanh(convolve(padded, first.weight, first.bias)))
    h = pool(torch.tanh(convolve(h, second.weight, second.bias))).reshape(2, -1)
    hidden, last = net.head.layers
    expected = torch.tanh(h @ hidden.weight.T + hidden.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("in_shape", [(1, 12, 12), (3, 32, 32), (3, 13, 40)])
def test_cnn_takes_other_image_sizes(in_shape):
    assert CNN(in_shape, 5)(torch.zeros(2, *in_shape)).shape == (2, 5)


# The step activation


def test_step_is_exactly_0_or_1():
    """Also at magnitudes where x + (h - x) would be rounded away, and at infinity."""
    magnitudes = torch.logspace(-45, 38, 10_000, dtype=torch.float64).float()
    x = torch.cat([magnitudes, torch.tensor([0.0, float("inf")])])
    assert torch.equal(step(x), torch.ones_like(x))
    below = -x[x > 0]
    assert torch.equal(step(below), torch.zeros_like(below))
    assert torch.isnan(step(torch.tensor(float("nan"))))
    inside = x.requires_grad_()
    assert torch.equal(step(inside).detach(), torch.ones_like(x))


def test_step_gradient_is_clipped_straight_through():
    x = torch.tensor([-1e9, -1.5, -0.999, -0.2, 0.0, 0.7, 0.999, 1.001, 3.0], requires_grad=True)
    upstream = torch.arange(1.0, 10.0)
    (gradient,) = torch.autograd.grad((upstream * step(x)).sum(), x)
    assert gradient.tolist() == [0, 0, 3, 4, 5, 6, 7, 0, 0]


# torch warns of its own use of torch.jit.script when forward mode first loads.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_step_gradient_has_the_same_rule_in_forward_mode_and_curvature_zero():
    x = torch.tensor([-1.5, -0.5, 0.5, 1.5], requires_grad=True)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.detach(), torch.full((4,), 2.0))
        value, tangent = forward_ad.unpack_dual(step(dual))
    assert value.tolist() == [0, 0, 1, 1]
    assert tangent.tolist() == [0, 2, 2, 0]
    (gradient,) = torch.autograd.grad((step(x) * x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), x)
    assert second.tolist() == [0, 2, 2, 0]  # of step(x)·x: step' + step', no step''


def test_step_network_gradient_is_the_formula():
    """One hidden layer of steps in lanes, gradient taken outside the vmap, against numpy."""
    nets = [MLP((6,), 3, hidden=[8], activation="step").double() for _ in range(3)]
    params, buffers = stack_module_state(nets)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 20, 6)), rng.integers(3, size=(3, 20))

    def lane_loss(p, b, inputs, targets):
        return nll(functional_call(nets[0], (p, b), (inputs,)), targets)

    vmap(lane_loss)(params, buffers, torch.tensor(x), torch.tensor(y)).sum().backward()
    for lane, net in enumerate(nets):
        (w1, b1), (w2, b2) = (
            (layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in net.layers
        )
        z = x[lane] @ w1.T + b1
        h = (z >= 0).astype(float)
        scores = h @ w2.T + b2
        p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        d_scores = (p - np.eye(3)[y[lane]]) / 20
        d_z = (d_scores @ w2) * (np.abs(z) < 1)
        assert 0 < (np.abs(z) < 1).mean() < 1  # both sides of the clip occur
        expected = {
            "layers.0.weight": d_z.T @ x[lane],
            "layers.0.bias": d_z.sum(0),
            "layers.1.weight": d_scores.T @ h,
            "layers.1.bias": d_scores.sum(0),
        }
        for name, gradient in expected.items():
            np.testing.assert_allclose(params[name].grad[lane], gradient, rtol=1e-9, atol=1e-14)


# Lanes


@pytest.mark.parametrize("name", NETWORKS)
def test_a_stack_of_lanes_trains_as_each_network_alone(name):
    """Losses of four SGD steps, each lane with its own lr, against an ordinary torch loop."""
    lrs = [0.003, 0.03, 0.1]
    make = NETWORKS[name]
    batches = [images(seed=s) for s in range(2)] * 2
    base = make(0).to("meta")
    params, buffers = stack_module_state([make(seed) for seed in range(3)])

    def lane_loss(p, b, x, y):
        return nll(functional_call(base, (p, b), (x,)), y)

    stacked = []
    for x, y in batches:
        losses = vmap(lane_loss, in_dims=(0, 0, None, None))(params, buffers, x, y)
        gradients = torch.autograd.grad(losses.sum(), list(params.values()))
        with torch.no_grad():
            for p, g in zip(params.values(), gradients, strict=True):
                p -= torch.tensor(lrs).view(-1, *[1] * (g.ndim - 1)) * g
        stacked.append(losses.detach())
    alone = []
    for seed, lr in enumerate(lrs):
        net = make(seed)
        sgd = torch.optim.SGD(net.parameters(), lr=lr)
        alone.append([])
        for x, y in batches:
            loss = nll(net(x), y)
            alone[-1].append(loss.detach())
            sgd.zero_grad()
            loss.backward()
            sgd.step()
    alone = torch.tensor(alone).T
    torch.testing.assert_close(torch.stack(stacked), alone, rtol=2e-5, atol=2e-6)
    assert (alone[2] != alone[0]).all()  # the same batch again: every lane has moved


# Initialisation


@pytest.mark.parametrize("name", ["mlp", "perceptron", "cnn"])
@pytest.mark.parametrize("init", INITS)
def test_init_is_seeded_and_named(name, init):
    net, again = built(name, 3, init=init), built(name, 3, init=init)
    for a, b in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    biases = [p for n, p in net.named_parameters() if n.endswith("bias")]
    assert all((b == 0).all() for b in biases) == (init != "torch")
    weights = [p for n, p in net.named_parameters() if n.endswith("weight")]
    other = [p for n, p in built(name, 4, init=init).named_parameters() if n.endswith("weight")]
    random = init not in ("zeros", "ones")
    assert all(torch.equal(a, b) for a, b in zip(weights, other, strict=True)) != random


# Standard deviation of the weights of a layer with fan-in 784 and fan-out 200
SPREADS = {
    "torch": 1 / math.sqrt(3 * 784),
    "kaiming_uniform": math.sqrt(2 / 784),
    "kaiming_normal": math.sqrt(2 / 784),
    "xavier_uniform": math.sqrt(2 / 984),
    "xavier_normal": math.sqrt(2 / 984),
    "orthogonal": 1 / math.sqrt(784),
    "uniform": 1 / math.sqrt(12),
    "normal": 1.0,
    "trunc_normal": 0.88,  # a normal cut at ±2: sqrt(1 - 4·φ(2)/(2Φ(2)-1)) = 0.8796
    "zeros": 0.0,
    "ones": 0.0,
}


@pytest.mark.parametrize("init", INITS)
def test_init_spreads_the_weights_as_its_name_says(init):
    weight = built("mlp", hidden=[200], init=init).layers[0].weight
    assert weight.std().item() == pytest.approx(SPREADS[init], rel=0.01)


def test_orthogonal_is_orthogonal():
    weight = built("mlp", init="orthogonal").layers[0].weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(64), atol=1e-5, rtol=0)


# Bad values


@pytest.mark.parametrize(
    ("build", "parts"),
    [
        (lambda: MLP(IMAGE, 10, hidden=[-1]), ["network.hidden=[-1]", "[64,64,64]"]),
        (lambda: MLP(IMAGE, 10, hidden=[64, 0]), ["network.hidden=[64,0]"]),
        (lambda: MLP(IMAGE, 10, hidden=[6.5]), ["network.hidden=[6.5]"]),
        (lambda: MLP(IMAGE, 10, hidden=[True]), ["network.hidden=[True]"]),
        (lambda: MLP(IMAGE, 10, hidden=64), ["network.hidden=64", "list"]),
        (lambda: MLP(IMAGE, 10, hidden="64"), ["network.hidden=64", "list"]),
        (lambda: MLP(IMAGE, 10, activation="rleu"), ["network.activation=rleu", "relu?", "gelu"]),
        (lambda: MLP(IMAGE, 10, activation="ReLU"), ["network.activation=ReLU", "relu?"]),
        (lambda: MLP(IMAGE, 10, activation=None), ["network.activation=None", "choose from relu"]),
        (lambda: MLP(IMAGE, 10, init="xavier_norm"), ["network.init=xavier_norm", "_normal?"]),
        (
            lambda: MLP(IMAGE, 10, parametrisation="mup"),
            ["network.parametrisation=mup", "standard, mup_sgd, mup_adam"],
        ),
        (
            lambda: MLP(IMAGE, 10, init="normal", parametrisation="mup_sgd"),
            ["network.init=normal", "parametrisation=mup_sgd", "kaiming_normal"],
        ),
        (lambda: MLP(IMAGE, 10, base_width=0), ["network.base_width=0", "at least 1"]),
        (lambda: Perceptron(IMAGE, 10, init="foo"), ["network.init=foo", "kaiming_uniform"]),
        (lambda: MLP(IMAGE, 10, bias="off"), ["network.bias=off", "network.bias=false"]),
        (lambda: CNN(IMAGE, 10, bias=1), ["network.bias=1", "true or false"]),
        (lambda: CNN(IMAGE, 10, channels=[8]), ["network.channels=[8]", "[16,32]"]),
        (lambda: CNN(IMAGE, 10, channels=[8, 0]), ["network.channels=[8,0]"]),
        (lambda: CNN(IMAGE, 10, hidden=[0]), ["network.hidden=[0]"]),
        (lambda: CNN(IMAGE, 10, activation="foo"), ["network.activation=foo"]),
        (lambda: CNN((784,), 10), ["network=cnn", "784", "network=mlp"]),
        (lambda: CNN((1, 28, 11), 10), ["network=cnn", "12×12", "1×28×11", "network=mlp"]),
    ],
)
def test_bad_values_are_named_in_one_line(build, parts):
    with pytest.raises(UserError) as caught:
        build()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_bad_value_in_a_config_arrives_as_the_cause():
    with pytest.raises(InstantiationException) as caught:
        built("mlp", hidden=[-1])
    assert isinstance(caught.value.__cause__, UserError)


def test_custom_config_asks_for_the_class():
    assert OmegaConf.is_missing(OmegaConf.load(CONFIGS / "custom.yaml"), "_target_")
