"""A lane has, to the bit, the numbers that its run has alone: whatever trains beside it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import INPUTS, AlwaysNoisy, BatchNorm, Dropout, Noise, Odd
from helpers.training import CLASSES, IN_SHAPE, Trainer, assert_same_bits, tiny_images
from torch import Tensor, nn

from lrlab import losses
from lrlab.data import Dataset
from lrlab.engine.lanes import chunks, memory, stacking
from lrlab.networks import CNN, MLP

# One group: other seeds, schedules, lengths and momenta; lanes that diverge at once and later.
NEIGHBOURS = [
    "lr=0.1",
    "lr=0.1 seed=1",
    "lr=1e38",
    "lr=0.03 schedule=one_cycle schedule.max_lr=0.3 schedule.cycle_momentum=true "
    "optimizer.momentum=0.9",
    "lr=0.3 optimizer.momentum=0.5 optimizer.weight_decay=0.01",
    "lr=0.1 schedule=exponential schedule.gamma=1.8",
    "lr=0.2 epochs=3 schedule=plateau schedule.patience=0",
    "lr=0.05 epochs=1 schedule=step schedule.gamma=0.5 seed=7",
]
FEW_NEIGHBOURS = [NEIGHBOURS[number] for number in (1, 2, 3, 6)]


# --- networks as a user may write them ------------------------------------------------------------


def own_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Huber loss of the scores against one-hot targets."""
    return F.huber_loss(outputs, F.one_hot(targets, outputs.shape[1]).to(outputs.dtype))


def choosy_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Asks for a number's value, which vmap refuses."""
    factor = 2.0 if outputs.abs().max() > 1 else 1.0
    return factor * F.cross_entropy(outputs, targets)


def custom(name: str) -> str:
    return f"network=custom network._target_=test_lanes.{name}"


# --- the same bits --------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize(
    ("common", "way"),
    [
        ("network.hidden=[37,53]", "together"),
        ("network.hidden=[1]", None),
        ("network=perceptron batch_size=50", None),
        ("network=cnn network.channels=[3,5] network.hidden=[]", None),
        (custom("BatchNorm"), None),
        (custom("AlwaysNoisy"), "together"),
        (custom("Noise"), "unmapped"),
        (custom("Odd"), None),
        ("network.hidden=[9] loss._target_=test_lanes.own_loss", None),
        ("network.hidden=[9] loss._target_=test_lanes.choosy_loss", "unmapped"),
    ],
)
def test_a_lane_has_the_bits_that_it_has_alone(
    trainer: Trainer, common: str, way: str | None
) -> None:
    # the other networks are spared the time
    runs = NEIGHBOURS if common == "network.hidden=[37,53]" else FEW_NEIGHBOURS
    group = trainer.together(runs, common)
    assert {run.summary["state"] for run in group} == {"finished", "diverged"}
    if way is not None:
        assert {run.summary["lanes"]["way"] for run in group} == {way}
    for neighbour, run in zip(runs, group, strict=True):
        assert_same_bits(run, trainer.alone(neighbour, common))
    if way is not None:
        backwards = trainer.together(runs[::-1], common)
        for run, other in zip(group, backwards[::-1], strict=True):
            assert_same_bits(run, other)


def test_neighbours_that_share_its_seed_change_nothing(trainer: Trainer) -> None:
    """Lanes of one seed share one batch, others get one each: two ways through the code."""
    runs = ["lr=0.1", "lr=0.2", "lr=1e30", "lr=0.01"]
    shared = trainer.together(runs, "network.hidden=[37]")
    assert_same_bits(shared[0], trainer.alone(runs[0], "network.hidden=[37]"))
    apart = trainer.together([runs[0], "lr=0.2 seed=5"], "network.hidden=[37]")
    assert_same_bits(shared[0], apart[0])


@pytest.mark.full
@pytest.mark.parametrize(
    "common",
    [
        "optimizer=adam",
        "optimizer=rmsprop optimizer.momentum=0.5",
        "optimizer=only_target optimizer._target_=torch.optim.NAdam",
    ],
)
def test_the_same_bits_with_other_optimizers(trainer: Trainer, common: str) -> None:
    common += " network.hidden=[37]"
    runs = [
        "lr=0.01",
        "lr=1e30 seed=1",
        "lr=0.003 epochs=1 schedule=warmup schedule.warmup_steps=4 seed=2",
        "lr=0.02 optimizer.weight_decay=0.1 schedule=cosine",
    ]
    group = trainer.together(runs, common)
    assert [run.summary["state"] for run in group] == [
        "finished",
        "diverged",
        "finished",
        "finished",
    ]
    for text, run in zip(runs, group, strict=True):
        assert_same_bits(run, trainer.alone(text, common))
    slow = "lrlab has no stacked update for it" in group[0].log
    assert slow == ("NAdam" in common)


@pytest.mark.full(after=1)
@pytest.mark.parametrize("activation", ["relu", "step"])
def test_the_same_bits_with_each_activation(trainer: Trainer, activation: str) -> None:
    common = f"network.hidden=[37,5] network.activation={activation}"
    runs = ["lr=0.3", "lr=1e30", "lr=0.1 seed=2"]
    group = trainer.together(runs, common)
    for text, run in zip(runs, group, strict=True):
        assert_same_bits(run, trainer.alone(text, common))


@pytest.mark.full
def test_an_odd_width_with_an_odd_batch(trainer: Trainer) -> None:
    common = "batch_size=7 network.hidden=[53,37] epochs=1"
    runs = ["lr=0.1", "lr=1e38", "lr=0.1 seed=1", "lr=0.05 optimizer.momentum=0.9 seed=2"]
    group = trainer.together(runs, common)
    assert group[0].summary["steps"] == 640 // 7
    for text, run in zip(runs, group, strict=True):
        assert_same_bits(run, trainer.alone(text, common))


# A convolution's sums run in another order with another number of threads, so no CNN here.
@pytest.mark.full(after=1)
@pytest.mark.parametrize("network", ["network.hidden=[53,37]", "network.hidden=[64,64,64]"])
def test_one_thread_or_two_give_the_same_bits(trainer: Trainer, network: str) -> None:
    runs = ["lr=0.1", "lr=0.2 seed=1", "lr=0.05"]
    one = trainer.together(runs, f"{network} threads=1 epochs=1")
    two = trainer.together(runs, f"{network} threads=2 epochs=1")
    assert two[0].summary["environment"]["threads"] == 2
    for run, other in zip(one, two, strict=True):
        assert_same_bits(run, other)
    assert_same_bits(one[1], trainer.alone(runs[1], f"{network} threads=2 epochs=1"))


@pytest.mark.full
def test_lanes_that_leave_inside_an_epoch_change_nothing(trainer: Trainer) -> None:
    """160 steps an epoch, so that a diverged lane is dropped at step 100 and at step 260."""
    common = "batch_size=4 network.hidden=[37]"
    runs = [
        "lr=0.03",
        "lr=0.1 schedule=exponential schedule.gamma=1.12",
        "lr=0.03 seed=3 optimizer.momentum=0.5",
        "lr=0.01 schedule=exponential schedule.gamma=1.04 seed=3",
    ]
    group = trainer.together(runs, common)
    ends = [run.summary["first_nonfinite_step"] for run in group]
    assert ends[0] is None and ends[2] is None
    assert 0 < ends[1] < 100 and 160 < ends[3] < 260
    for text, run in zip(runs, group, strict=True):
        assert_same_bits(run, trainer.alone(text, common))


@pytest.mark.full(after=1)
@pytest.mark.parametrize("network", ["Dropout", "AlwaysNoisy", "Noise"])
def test_the_callers_random_state_does_not_matter(trainer: Trainer, network: str) -> None:
    torch.manual_seed(1)
    one = trainer.alone("lr=0.1", custom(network))
    torch.manual_seed(2)
    torch.rand(5)
    assert_same_bits(one, trainer.alone("lr=0.1", custom(network)))


@pytest.mark.parametrize("kind", [AlwaysNoisy, Noise])
def test_random_networks_draw_anew_at_each_step_and_seed(kind: type[nn.Module]) -> None:
    network = stacking.stack([kind(CLASSES)] * 2, [0, 1], losses.nll, "cpu")
    data = tiny_images(64, 8, 8)
    network.settle(data.train_x, data.train_y, (data.val_x, data.val_y))
    first = network.gradients(data.train_x, data.train_y, [0, 0], 0)[0]
    again = network.gradients(data.train_x, data.train_y, [0, 0], 0)[0]
    later = network.gradients(data.train_x, data.train_y, [0, 0], 1)[0]
    assert first[0] != first[1]
    assert torch.equal(first, again)
    assert (first != later).all()


# --- against an ordinary network ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("own_batches", [False, True])
@pytest.mark.parametrize("way", ["together", "one at a time", "unmapped"])
def test_gradients_are_those_of_the_network_itself(kind: str, own_batches: bool, way: str) -> None:
    networks = _networks(3, kind)
    data = tiny_images(63, 8, 8)
    x = data.train_x.view(3, 21, *IN_SHAPE) if own_batches else data.train_x[:21]
    y = data.train_y.view(3, 21) if own_batches else data.train_y[:21]
    stack = stacking.stack(networks, [0, 1, 2], losses.nll, "cpu")
    stack.way = way
    stack.cut()
    found, gradients = stack.gradients(x, y, [0, 0, 0], 0, own_batches)
    for lane, network in enumerate(networks):
        batch = (x[lane], y[lane]) if own_batches else (x, y)
        network.zero_grad()
        loss = F.cross_entropy(network(batch[0]), batch[1])
        loss.backward()
        torch.testing.assert_close(found[lane], loss.detach(), rtol=1e-6, atol=0)
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            assert parameter.grad is not None and gradient is not None
            torch.testing.assert_close(gradient[lane], parameter.grad, rtol=1e-5, atol=1e-7)


class Tokens(nn.Module):
    """Scores (batch, 4, 9) of the 9 places of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(9, 36)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).view(-1, 4, 9)


def test_each_place_of_a_sequence_is_judged_but_padding() -> None:
    torch.manual_seed(0)
    networks = [Tokens(), Tokens()]
    x, y = torch.randn(2500, 9), torch.randint(0, 4, (2500, 9))
    y[:1000, 5:] = -100
    copies = [copy.deepcopy(network) for network in networks]

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    _, accuracy = stacking.stack(networks, [0, 1], loss, "cpu").evaluate(x, y)
    for found, network in zip(accuracy, copies, strict=True):
        right = (network(x).argmax(1) == y).sum() / (1000 * 5 + 1500 * 9)
        assert float(found) == pytest.approx(float(right), rel=1e-6)


@pytest.mark.parametrize("samples", [1, 999, 1000, 2345])
def test_evaluation_in_chunks_is_the_mean_over_all_samples(
    samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "EVALUATION_CHUNK", 100)
    networks = _networks(2, "mlp")
    data = tiny_images(samples, 8, 8)
    stack = stacking.stack(networks, [0, 1], losses.nll, "cpu")
    loss, accuracy = stack.evaluate(data.train_x, data.train_y)
    for lane, network in enumerate(networks):
        scores = network.double()(data.train_x.double())
        right = (scores.argmax(1) == data.train_y).double().mean()
        exact = F.cross_entropy(scores, data.train_y)
        torch.testing.assert_close(loss[lane].double(), exact.detach(), rtol=1e-6, atol=0)
        assert accuracy[lane] == right.float()


def test_a_stack_that_would_change_bits_trains_one_at_a_time() -> None:
    """The loss of ``Sensitive`` depends on how many lanes go through it together."""
    networks: list[Any] = [Sensitive() for _ in range(3)]
    data = tiny_images(64, 100, 8)
    stack = stacking.stack(networks, [0, 1, 2], losses.nll, "cpu")
    stack.settle(data.train_x, data.train_y, (data.val_x, data.val_y))
    assert stack.way == "one at a time"
    stack = stacking.stack(_networks(3, "mlp"), [0, 1, 2], losses.nll, "cpu")
    stack.settle(data.train_x, data.train_y, (data.val_x, data.val_y))
    assert stack.way == "together"


class _CountLanes(torch.autograd.Function):
    """x plus the number of lanes it is called with: what no lane may notice."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor) -> tuple[Tensor, int]:  # type: ignore[override]
        return x * (1 + 1e-6 * info.batch_size), in_dims[0]


class Sensitive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(INPUTS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return _CountLanes.apply(self.linear(x.flatten(1)))  # type: ignore[return-value]


@pytest.mark.parametrize("network", [BatchNorm, Dropout])
def test_settling_leaves_parameters_and_buffers_as_they_are(network: type[nn.Module]) -> None:
    """Also where vmap refuses the network only after its batch norm has moved its buffers."""
    networks = [network(CLASSES) for _ in range(2)]
    data = tiny_images(64, 8, 8)
    stack = stacking.stack(networks, [0, 1], losses.nll, "cpu")
    before = [stack.state_dict(lane) for lane in range(2)]
    stack.settle(data.train_x, data.train_y, (data.val_x, data.val_y))
    for lane in range(2):
        for name, tensor in stack.state_dict(lane).items():
            assert torch.equal(tensor, before[lane][name]), name


def test_select_copies_the_lanes_in_the_given_order() -> None:
    networks = _networks(4, "mlp")
    stack = stacking.stack(networks, [10, 11, 12, 13], losses.nll, "cpu")
    part = stack.select([3, 1])
    assert part.seeds == [13, 11]
    for lane, of in enumerate((3, 1)):
        for name, tensor in part.state_dict(lane).items():
            assert torch.equal(tensor, networks[of].state_dict()[name])
    part.params["layers.0.weight"].zero_()
    assert stack.params["layers.0.weight"].abs().sum() > 0


@pytest.mark.parametrize("network", [Odd, BatchNorm, Dropout])
def test_a_state_dict_loads_into_the_ordinary_network(network: type[nn.Module]) -> None:
    networks = [network(CLASSES) for _ in range(3)]
    stack = stacking.stack(networks, [0, 1, 2], losses.nll, "cpu")
    other = network(CLASSES)
    saved = stack.state_dict(1)
    assert list(saved) == list(networks[1].state_dict())
    other.load_state_dict(saved)
    x = tiny_images(8, 8, 8).val_x
    assert torch.equal(other.eval()(x), networks[1].eval()(x))


def test_memory_of_a_lane_is_that_of_its_tensors(data: Dataset) -> None:
    """By hand: its own weights, batch and scores; an evaluation's samples are shared by all."""
    network = MLP(IN_SHAPE, CLASSES, hidden=())
    x, y = data.train_x[:50], data.train_y[:50]
    found = memory.bytes_a_lane(network, losses.nll, x, y)
    weights = 4 * (INPUTS + 1) * CLASSES
    # parameters, gradients, two buffers of Adam; and the scores of a chunk
    least = 4 * weights + x.nbytes + 4 * chunks.EVALUATION_CHUNK * CLASSES
    assert least <= found <= 3 * least
    twice = memory.bytes_a_lane(MLP(IN_SHAPE, CLASSES, hidden=(64, 64)), losses.nll, x, y)
    assert twice > found


def _networks(count: int, kind: str) -> list[nn.Module]:
    made: list[nn.Module] = []
    for seed in range(count):
        torch.manual_seed(seed)
        if kind == "mlp":
            made.append(MLP(IN_SHAPE, CLASSES, hidden=(37, 11)))
        else:
            made.append(CNN(IN_SHAPE, CLASSES, channels=(3, 4), hidden=(7,)))
    return made
