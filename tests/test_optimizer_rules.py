"""Optimizers: where steps swing, parameters of every type, and the line for what cannot work."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers.optimizers import configs
from torch import nn, optim

from lrlab.engine.optimizers import lane_optimizers
from lrlab.errors import UserError

pytestmark = pytest.mark.unit


def border(kind, **arguments):
    """The ratio from which on the steps swing, and the lr on a quadratic of curvature 1."""
    (config,) = configs(kind, [arguments], [1.0])
    optimizer = lane_optimizers.build([config], [torch.zeros(1, 1)])
    first = np.array([10**6])  # behind any bias correction
    ratio = optimizer.swings_from({"lr": np.ones((1, 1))}, first)[0, 0]
    return ratio, ratio / optimizer.stability_scale({"lr": np.ones((1, 1))}, first)[0, 0]


def polynomial(beta, tau, h, nesterov):
    """The recurrence of torch's update on a quadratic, x(t+1) = −p[1]·x(t) − p[2]·x(t−1)."""
    if nesterov:
        return [1, -(1 + beta) * (1 - h), beta * (1 - h)]
    return [1, -(1 + beta - h * (1 - tau)), beta]


RECURRENCES = [
    ("SGD", {"momentum": 0.0}, 0.0, 0.0, False),
    ("SGD", {"momentum": 0.5}, 0.5, 0.0, False),
    ("SGD", {"momentum": 0.9}, 0.9, 0.0, False),
    ("SGD", {"momentum": 0.9, "dampening": 0.4}, 0.9, 0.4, False),
    ("SGD", {"momentum": 0.5, "nesterov": True}, 0.5, 0.0, True),
    ("SGD", {"momentum": 0.9, "nesterov": True}, 0.9, 0.0, True),
    ("Adam", {"betas": [0.9, 0.999]}, 0.9, 0.9, False),
    ("AdamW", {"betas": [0.5, 0.999]}, 0.5, 0.5, False),
    ("RMSprop", {"momentum": 0.9}, 0.9, 0.0, False),
    ("RMSprop", {}, 0.0, 0.0, False),
    ("Adagrad", {}, 0.0, 0.0, False),
]


@pytest.mark.parametrize(("kind", "arguments", "beta", "tau", "nesterov"), RECURRENCES)
def test_steps_swing_from_where_the_roots_of_the_recurrence_leave_the_positive_line(
    kind, arguments, beta, tau, nesterov
):
    ratio, h = border(kind, **arguments)
    assert 0 < ratio <= 0.5
    for factor, creeps in [(0.5, True), (0.999, True), (1.001, False), (1.5, False), (4, False)]:
        roots = np.roots(polynomial(beta, tau, factor * h, nesterov))
        roots = roots[roots != 0]  # without momentum nothing is left of the step before
        assert bool((abs(roots.imag) < 1e-12).all() and (roots.real > 0).all()) is creeps


@pytest.mark.full(after=1)
@pytest.mark.parametrize(
    ("beta", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)]
)
def test_where_torchs_own_steps_on_a_quadratic_swing(beta, nesterov):
    """25 rates from far below the border to the one from which on steps grow without bound."""
    _, at = border("SGD", momentum=beta, nesterov=nesterov)
    grows = 2 * (1 + beta) / ((1 + 2 * beta) if nesterov else 1)
    below, above = np.geomspace(at / 20, at * 0.95, 12), np.geomspace(at * 1.05, grows * 0.99, 13)
    for lr in (*below, *above):
        x = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([x], lr=float(lr), momentum=beta, nesterov=nesterov)
        path, changes = [1.0], 0
        while len(path) < 1000 and changes < 2:
            x.grad = x.detach().clone()  # of x²/2
            optimizer.step()
            path.append(x.item())
            changes += path[-1] * path[-2] < 0
        assert (changes == 2) == (lr > at), (lr, at, changes)


def test_the_general_way_knows_no_border_and_lanes_have_their_own():
    (nadam,) = configs("NAdam", [{}], [1.0])
    general = lane_optimizers.build([nadam], [torch.zeros(1, 1)])
    ones = np.ones((2, 1))
    assert np.isnan(general.swings_from({"lr": ones}, np.array([0]))).all()
    lanes = configs("SGD", [{"momentum": m} for m in (0.0, 0.25, 0.81)], [1.0, 2.0, 3.0])
    stack = lane_optimizers.build(lanes, [torch.zeros(3, 1)])
    found = stack.swings_from({"lr": np.ones((2, 3))}, np.zeros(3, int))
    np.testing.assert_allclose(found, [[0.5, 0.25 / 2.5, 0.01 / 3.62]] * 2)
    scheduled = np.array([[np.nan, 0.0, 0.25], [0.25, np.nan, np.nan]])
    found = stack.swings_from({"lr": np.ones((2, 3)), "momentum": scheduled}, np.zeros(3, int))
    np.testing.assert_allclose(found, [[0.5, 0.5, 0.1], [0.1, 0.1, 0.01 / 3.62]])


OPTIONS = {
    "SGD": [
        {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.5, "maximize": True},
    ],
    "Adam": [
        {"weight_decay": 0.1},
        {"amsgrad": True},
        {"maximize": True},
        {"decoupled_weight_decay": True, "weight_decay": 0.1},
    ],
    "AdamW": [{"weight_decay": 0.1}, {"amsgrad": True}, {"maximize": True}],
    "RMSprop": [
        {"momentum": 0.9, "weight_decay": 0.1},
        {"centered": True},
        {"momentum": 0.9, "centered": True},
        {"maximize": True},
    ],
    "Adagrad": [
        {"lr_decay": 0.1, "initial_accumulator_value": 0.5, "weight_decay": 0.1},
        {"maximize": True},
    ],
}
TYPES = ["float32", "float64", "complex64", "complex128", "bfloat16", "float16", "mixed"]


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("name", TYPES)
def test_parameters_of_every_type_train_as_in_torch(kind, name):
    """To the last bit; where a rule could not, the general way does it."""
    types = [torch.float32, torch.float64] if name == "mixed" else [getattr(torch, name)] * 2
    generator = torch.Generator().manual_seed(0)

    def drawn(shape, dtype):
        wide = torch.complex128 if dtype.is_complex else torch.float64
        return torch.randn(2, *shape, generator=generator, dtype=wide).to(dtype)

    start = [drawn(s, t) for s, t in zip([(5, 3), (3,)], types, strict=True)]
    grads = [[drawn(p.shape[1:], p.dtype) for p in start] for _ in range(6)]
    lr = np.outer(0.9 ** np.arange(6), [0.1, 0.003])
    for given in [{}, *OPTIONS[kind]]:
        params = [p.clone() for p in start]
        optimizer = lane_optimizers.build(configs(kind, [given] * 2, lr[0].tolist()), params)
        rows = optimizer.coefficients({"lr": lr}, np.zeros(2, int))
        for i, grad in enumerate(grads):
            optimizer.update(grad, rows, i)
        alone = {"amsgrad", "maximize", "centered", "decoupled_weight_decay"} & set(given)
        assert optimizer.general == bool(alone or name not in ("float32", "float64"))
        for lane in range(2):
            leaves = [torch.nn.Parameter(p[lane].clone()) for p in start]
            truth = getattr(torch.optim, kind)(leaves, lr=0.1, foreach=False, **given)
            for i, grad in enumerate(grads):
                truth.param_groups[0]["lr"] = float(lr[i, lane])
                for leaf, g in zip(leaves, grad, strict=True):
                    leaf.grad = g[lane].clone()
                truth.step()
            for p, leaf in zip(params, leaves, strict=True):
                assert leaf.isfinite().all() and torch.equal(p[lane], leaf), given


def test_group_key_ignores_numbers_and_nothing_else():
    def key(kind="SGD", **arguments):
        node = {"_target_": f"torch.optim.{kind}", "lr": 0.1, **arguments}
        return lane_optimizers.group_key(node)

    assert key() == key(momentum=0.9, weight_decay=1, nesterov=False, foreach=None)
    assert key("Adam") == key("Adam", betas=[0.5, 0.9], eps=1e-3)
    assert key("NAdam") == key("NAdam", betas=[0.5, 0.9], momentum_decay=0.1)
    assert len({key(), key(maximize=True), key(momentum=0.9, nesterov=True), key("Adam")}) == 4
    assert key("Adam") != key("Adam", amsgrad=True)
    with pytest.raises(ValueError, match="one optimizer class"):
        lane_optimizers.build(
            [
                {"_target_": "torch.optim.SGD", "lr": 0.1},
                {"_target_": "torch.optim.Adam", "lr": 0.1},
            ],
            [torch.zeros(2, 3)],
        )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"momentum": -1}, "optimizer.momentum=-1: must be a number of at least 0"),
        ({"momentum": "much"}, "optimizer.momentum=much: must be a number"),
        ({"momentum": float("nan")}, "optimizer.momentum=nan: must be a number"),
        ({"weight_decay": True}, "optimizer.weight_decay=True: must be a number"),
        ({"nesterov": 1}, "optimizer.nesterov=1: must be true or false"),
        ({"nesterov": True}, "optimizer.momentum=0: nesterov needs a momentum above 0"),
        (
            {"nesterov": True, "momentum": 0.9, "dampening": 0.5},
            "optimizer.dampening=0.5: nesterov needs optimizer.dampening=0",
        ),
        ({"momentun": 1}, "optimizer.momentun=1: SGD has no such option (did you mean momentum?)"),
        ({"params": 1}, "optimizer.params=1: SGD has no such option"),
        ({"lr": -0.1}, "lr=-0.1: must be a finite number, not below 0"),
        ({"_target_": "torch.optim.Adam", "betas": [0.9, 1.0]}, "optimizer.betas=[0.9, 1.0]: must"),
        ({"_target_": "torch.optim.Adam", "betas": 0.9}, "optimizer.betas=0.9: must be two"),
        ({"_target_": "torch.optim.RMSprop", "alpha": 1.5}, "optimizer.alpha=1.5: must be at"),
        (
            {"_target_": "torch.optim.NAdam", "betas": [2, 0.9]},
            "optimizer._target_=torch.optim.NAd",
        ),
        (
            {"_target_": "torch.optim.SDG"},
            "optimizer._target_=torch.optim.SDG: cannot be loaded (did you mean torch.optim.SGD?)",
        ),
        ({"_target_": "no_module.Foo"}, "optimizer._target_=no_module.Foo: cannot be loaded"),
        ({"_target_": "torch.nn.Linear"}, "optimizer._target_=torch.nn.Linear: is no Optimizer"),
        ({"_target_": "torch.optim.LBFGS"}, "optimizer._target_=torch.optim.LBFGS: evaluates the"),
        ({"_target_": "torch.optim.SparseAdam"}, "optimizer._target_=torch.optim.SparseAdam: "),
        ({"_target_": None}, "optimizer._target_=None: must name a class"),
    ],
)
def test_bad_input_is_one_line_that_names_the_option(config, message):
    config = {"_target_": "torch.optim.SGD", "lr": 0.1, **config}
    with pytest.raises(UserError) as caught:
        lane_optimizers.group_key(config)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_what_only_the_parameters_show_is_a_user_error_too():
    muon = {"_target_": "torch.optim.Muon", "lr": 0.1}
    with pytest.raises(UserError, match=r"optimizer\._target_=torch\.optim\.Muon: .*2D"):
        lane_optimizers.build([muon], [torch.zeros(1, 3)])


class _Matrices(torch.optim.SGD):
    def step(self, closure=None):
        if any(p.ndim != 2 for group in self.param_groups for p in group["params"]):
            raise RuntimeError("no\nvectors")
        return super().step(closure)


@pytest.mark.parametrize(
    ("target", "reason"),
    [("torch.optim.Muon", "Muon only supports 2D"), (f"{__name__}._Matrices", "no vectors;")],
)
def test_an_optimizer_is_tried_on_the_networks_own_parameters(target, reason):
    config = {"_target_": target, "lr": 0.1}
    network = torch.nn.Linear(3, 2)
    before = [p.detach().clone() for p in network.parameters()]
    assert not lane_optimizers.is_known(config)
    with pytest.raises(UserError) as caught:
        lane_optimizers.check_on(config, network)
    line = str(caught.value)
    assert line.startswith(f"optimizer._target_={target}: {reason}")
    assert line.endswith("for example optimizer=adam") and "\n" not in line
    network.bias.requires_grad_(False)  # frozen ones are not trained
    lane_optimizers.check_on(config, network)
    lane_optimizers.check_on(config, torch.nn.Linear(3, 2, bias=False))
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert all(p.grad is None for p in network.parameters())


# --- the border of stability ----------------------------------------------------------------------


CURVATURE = 3.0


def _grows(optimizer: Callable[..., optim.Optimizer], lr: float) -> bool:
    at = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    made = optimizer([at], lr=lr)
    for _ in range(3000):
        at.grad = CURVATURE * at.detach()
        made.step()
        if abs(at.item()) > 1e6:
            return True
    return False


@pytest.mark.parametrize(
    ("config", "optimizer"),
    [
        ({}, optim.SGD),
        ({"momentum": 0.9}, partial(optim.SGD, momentum=0.9)),
        (
            {"momentum": 0.8, "dampening": 0.3},
            partial(optim.SGD, momentum=0.8, dampening=0.3),
        ),
        ({"momentum": 0.9, "nesterov": True}, partial(optim.SGD, momentum=0.9, nesterov=True)),
    ],
)
def test_a_ratio_of_1_is_where_torchs_own_sgd_begins_to_grow(
    config: dict[str, Any], optimizer: Callable[..., optim.Optimizer]
) -> None:
    node = {"_target_": "torch.optim.SGD", **config, "lr": 1.0}
    built = lane_optimizers.build([node], [torch.zeros(1, 1, dtype=torch.float64)])
    scale = built.stability_scale({"lr": np.ones((1, 1))}, np.array([5]))[0, 0]
    border = 1 / (scale * CURVATURE)  # lr, for the scale grows in proportion to it
    assert not _grows(optimizer, 0.99 * border)
    assert _grows(optimizer, 1.01 * border)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_a_ratio_of_1_is_the_border_of_adam_with_a_constant_divisor(beta: float) -> None:
    node = {"_target_": "torch.optim.Adam", "betas": [beta, 0.999], "lr": 1.0}
    built = lane_optimizers.build([node], [torch.zeros(1, 1)])
    scale = built.stability_scale({"lr": np.ones((1, 1))}, np.array([10**6]))[0, 0]

    def radius(lr: float) -> float:  # of the map of (average, position) in one step
        step = np.array(
            [[beta, (1 - beta) * CURVATURE], [-lr * beta, 1 - lr * (1 - beta) * CURVATURE]]
        )
        return float(np.abs(np.linalg.eigvals(step)).max())

    border = 1 / (scale * CURVATURE)
    assert radius(0.999 * border) < 1 < radius(1.001 * border)
    if beta == 0.9:
        assert border * CURVATURE == pytest.approx(38)  # Cohen et al. 2022


def test_the_divisor_is_what_torch_adam_divides_by() -> None:
    draw = torch.Generator().manual_seed(0)
    leaf = nn.Parameter(torch.randn(4, 3, generator=draw))
    stacked = leaf.detach().clone()[None]
    reference = optim.Adam([leaf], lr=0.1, foreach=False)
    built = lane_optimizers.build([{"_target_": "torch.optim.Adam", "lr": 0.1}], [stacked])
    for step in range(3):
        leaf.grad = torch.randn(4, 3, generator=draw)
        values = {"lr": np.full((1, 1), 0.1)}
        coefficients = built.coefficients(values, np.array([step]))
        built.update([leaf.grad[None]], coefficients, 0)
        reference.step()
    (found,) = built.preconditioner(coefficients, 0) or []
    square = reference.state[leaf]["exp_avg_sq"]
    torch.testing.assert_close(found[0], (square / (1 - 0.999**3)).sqrt() + 1e-8)
