"""What is measured while training, against closed forms, exact Hessians and torch.optim."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers.training import CLASSES, IN_SHAPE, Trained, Trainer, assert_same_bits, tiny_images
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn, optim
from torch.func import functional_call

from lrlab import losses, records
from lrlab.data import Dataset
from lrlab.engine.diagnostics import cadence, quantities
from lrlab.engine.diagnostics.meter import build_meter
from lrlab.engine.lanes import stacking
from lrlab.engine.lanes.lane_stack import Lanes
from lrlab.engine.optimizers import lane_optimizers
from lrlab.networks import MLP

ON = "diagnostics=full"


def measured(run: Trained) -> pd.DataFrame:
    return records.read_diagnostics(run.folder).set_index("step")


# --- alpha ----------------------------------------------------------------------------------------


@given(lr=st.floats(0.01, 5), curvature=st.floats(0.1, 100), at=st.floats(0.1, 10))
def test_alpha_of_a_step_on_a_quadratic_is_lr_times_curvature_minus_1(
    lr: float, curvature: float, at: float
) -> None:
    lr /= curvature
    slope_at = curvature * at
    after = at - lr * slope_at
    change = curvature / 2 * (after**2 - at**2)
    update = after - at
    found = quantities.alpha(
        *map(np.array, (change, slope_at * update, curvature * after * update))
    )
    assert float(found) == pytest.approx(lr * curvature - 1, rel=1e-6, abs=1e-6)


@given(st.tuples(*[st.floats(-10, 10)] * 3))
def test_the_parabola_is_the_least_squares_fit(observed: tuple[float, float, float]) -> None:
    change, slope, slope_after = observed
    design = [[1, 0, 0], [1, 1, 1], [0, 1, 0], [0, 1, 2]]
    truth = np.linalg.lstsq(np.array(design, float), [0, change, slope, slope_after], rcond=None)[0]
    found = quantities.parabola(*map(np.array, observed))
    np.testing.assert_allclose(found, truth, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "slope", "slope_after", "expected"),
    [
        (-1.0, -1.0, -1.0, -1.0),  # straight down: no minimum in sight
        (-1.0, -0.5, -1.5, -1.0),  # ever steeper
        (1.0, 0.5, 1.5, math.inf),  # uphill from the start
        (math.inf, -1.0, 1.0, math.inf),
        (math.nan, -1.0, math.nan, math.inf),
        (math.nan, math.nan, math.nan, math.nan),
    ],
)
def test_alpha_of_steps_without_a_minimum_ahead(
    change: float, slope: float, slope_after: float, expected: float
) -> None:
    found = float(quantities.alpha(*map(np.array, (change, slope, slope_after))))
    assert found == pytest.approx(expected, nan_ok=True)


# --- when -----------------------------------------------------------------------------------------


@pytest.mark.full
def test_what_is_measured_along_the_step_is_what_full_measures_there(trainer: Trainer) -> None:
    common = "lr=0.05 epochs=4"  # 40 steps
    few = measured(trainer.alone(common, "diagnostics=default"))
    many = measured(trainer.alone(common, "diagnostics=full"))
    assert few.index.tolist() == [31]
    along = ["alpha", "grad_norm", "update_ratio", "distance"]
    assert few.drop(columns=along).isna().all(axis=None)
    if 31 in many.index:
        np.testing.assert_allclose(few[along], many.loc[[31], along], rtol=1e-6)


@pytest.mark.full
def test_the_budget_finds_the_sharpness_that_full_finds(trainer: Trainer) -> None:
    """The first direction is the gradient's, and half as many products are made."""
    common = "lr=0.05 epochs=150 batch_size=320"  # a probe of 0.6 batches: measured early
    few = measured(trainer.alone(common, "diagnostics=default"))["sharpness"].dropna()
    many = measured(trainer.alone(common, "diagnostics=full"))["sharpness"]
    both = few.index.intersection(many.index)
    assert len(both)
    np.testing.assert_allclose(few[both], many[both], rtol=0.1)


# --- sharpness ------------------------------------------------------------------------------------


def _network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 6), nn.Tanh(), nn.Linear(6, CLASSES)).double()


def _hessian(network: nn.Module, data: Dataset) -> Tensor:
    """(parameters, parameters), exactly, of the mean loss over all the data."""
    params = {name: p.detach() for name, p in network.named_parameters()}
    shapes = {name: p.shape for name, p in params.items()}
    flat = torch.cat([p.flatten() for p in params.values()])

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([math.prod(shape) for shape in shapes.values()])
        named = {n: part.view(s) for (n, s), part in zip(shapes.items(), parts, strict=True)}
        scores = functional_call(network, named, (data.train_x.double(),))
        return F.cross_entropy(scores, data.train_y)

    return torch.autograd.functional.hessian(loss, flat)


def _meter(networks: list[nn.Module], data: Dataset) -> tuple[Lanes, Any]:
    data = Dataset(**{**vars(data), "train_x": data.train_x.double()})
    stacked = stacking.stack(networks, list(range(len(networks))), losses.nll, "cpu")
    stacked.settle(data.train_x, data.train_y, (data.train_x, data.train_y))
    meter = build_meter("full", stacked, data)
    assert meter is not None
    return stacked, meter


def _sharpness(stacked: Lanes, meter: Any, divisors: list[Tensor] | None = None) -> Tensor:
    for _ in range(15):
        everywhere = np.full(len(stacked), 4)
        found = meter._sharpness(stacked, everywhere, divisors)[2]
    return found


@pytest.mark.full
def test_sharpness_of_each_lane_is_the_largest_eigenvalue_of_its_hessian() -> None:
    data = tiny_images(train_size=80)
    networks = [_network(seed) for seed in range(3)]
    truth = [torch.linalg.eigvalsh(_hessian(network, data))[-1] for network in networks]
    stacked, meter = _meter(networks, data)
    torch.testing.assert_close(_sharpness(stacked, meter), torch.stack(truth), rtol=1e-3, atol=0)


def test_preconditioned_sharpness_is_that_of_the_hessian_over_the_divisors() -> None:
    data = tiny_images(train_size=80)
    network = _network(0)
    draw = torch.Generator().manual_seed(1)
    divisors = [0.1 + torch.rand(p.shape, generator=draw).double() for p in network.parameters()]
    root = torch.cat([d.flatten() for d in divisors]).sqrt()
    truth = torch.linalg.eigvalsh(_hessian(network, data) / torch.outer(root, root))[-1]
    stacked, meter = _meter([network], data)
    found = _sharpness(stacked, meter, [d[None] for d in divisors])
    torch.testing.assert_close(found, truth[None], rtol=1e-3, atol=0)


class Saddle(nn.Module):
    """A loss whose most negative curvature, −9, is larger than its largest, 4."""

    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor([0.3, 0.2, 0.1]))

    def forward(self, x: Tensor) -> Tensor:
        loss = (torch.tensor([4.0, -9.0, 1.0]) * self.at**2 / 2).sum()
        return loss.expand(len(x), 1)


def test_a_steeper_way_down_does_not_hide_the_sharpness() -> None:
    data = tiny_images(train_size=80)
    stacked = stacking.stack([Saddle()], [0], lambda scores, y: scores.mean(), "cpu")
    stacked.settle(data.train_x, data.train_y, (data.train_x, data.train_y))
    meter = build_meter("full", stacked, data)
    assert float(_sharpness(stacked, meter)[0]) == pytest.approx(4, rel=1e-4)


# --- while training -------------------------------------------------------------------------------


class Turned(nn.Module):
    """A complex matrix, kept as such or as pairs of real numbers."""

    def __init__(self, in_shape: tuple[int, ...], num_classes: int, pairs: bool) -> None:
        super().__init__()
        size = int(np.prod(in_shape))
        start = torch.randn(size, 6, 2) / size**0.5
        self.weight = nn.Parameter(start if pairs else torch.view_as_complex(start))
        self.out = nn.Linear(6, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.weight.is_complex() else torch.view_as_complex(self.weight)
        return self.out((x.flatten(1).to(weight.dtype) @ weight).abs())


def test_a_complex_parameter_is_measured_as_two_real_ones(trainer: Trainer) -> None:
    common = f"network=custom network._target_={__name__}.Turned diagnostics=full"
    found = [trainer.alone(f"network.pairs={pairs}", common) for pairs in ("false", "true")]
    one, other = (measured(run) for run in found)
    ours, theirs = one.drop(columns="stability_ratio"), other.drop(columns="stability_ratio")
    assert one["stability_ratio"].isna().all()  # of the general way, as its log says
    assert "slower: one torch optimizer a lane" in found[0].log and "slower" not in found[1].log
    begun = ["sharpness"]  # from other random vectors, so it comes close only
    pd.testing.assert_frame_equal(
        ours.drop(columns=begun), theirs.drop(columns=begun), rtol=5e-3, atol=5e-3
    )
    np.testing.assert_allclose(one["sharpness"][-3:], other["sharpness"][-3:], rtol=0.05)


class Normed(nn.Module):
    """Batch normalisation, whose buffers a forward pass moves."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(IN_SHAPE), 16), nn.BatchNorm1d(16), nn.ReLU(),
            nn.Linear(16, CLASSES),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Dropped(nn.Module):
    """Random at every step, and with a count in Python that a second forward pass would move."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(math.prod(IN_SHAPE), 24)
        self.last = nn.Linear(24, CLASSES)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        hidden = F.dropout(self.first(x.flatten(1)).relu(), 0.3, self.training)
        return self.last(hidden) * (1 + self.calls / 100)


CUSTOM = "network=custom network._target_=test_diagnostics."


@pytest.mark.full(after=1)
@pytest.mark.parametrize(
    ("common", "mode"),
    [
        ("", "default"),
        ("optimizer=adam lr=0.01", "full"),
        ("optimizer=only_target optimizer._target_=torch.optim.NAdam lr=0.01", "full"),
        ("network=cnn network.channels=[3,4] network.hidden=[8]", "full"),
        (f"{CUSTOM}Normed", "full"),
        (f"{CUSTOM}Dropped", "full"),
    ],
)
def test_measuring_changes_no_bit_of_the_training(trainer: Trainer, common: str, mode: str) -> None:
    runs = ["lr=0.02", "lr=0.1 seed=1", "lr=30"]
    # the budget of "default" holds nothing before step 31
    common += f" epochs={4 if mode == 'default' else 2}"
    plain = trainer.together(runs, common)
    watched = trainer.together(runs, f"{common} diagnostics={mode}")
    for one, other in zip(plain, watched, strict=True):
        assert_same_bits(one, other)
        assert not (one.folder / "diagnostics.csv").exists()
        if mode == "full" or other.summary["state"] == "finished":
            assert len(measured(other)) > 0


def test_what_is_measured_is_what_an_ordinary_loop_finds(trainer: Trainer, data: Dataset) -> None:
    run = trainer.alone("lr=0.2", f"{ON} network.hidden=[37,11]")
    from lrlab.plan import build

    torch.manual_seed(0)
    network = MLP(IN_SHAPE, CLASSES, hidden=(37, 11))
    start = torch.cat([p.detach().flatten() for p in network.parameters()])
    order = torch.from_numpy(build.batch_order(0, 0, len(data.train_y)))
    table = measured(run)
    for step, index in enumerate(order.split(64)[:3]):
        x, y = data.train_x[index], data.train_y[index]
        before = torch.cat([p.detach().flatten() for p in network.parameters()])
        loss = F.cross_entropy(network(x), y)
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, network.parameters())])
        optimizer = optim.SGD(network.parameters(), lr=0.2)
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
        after = torch.cat([p.detach().flatten() for p in network.parameters()])
        end = F.cross_entropy(network(x), y)
        slope = torch.cat([g.flatten() for g in torch.autograd.grad(end, network.parameters())])
        update = after - before
        row = table.loc[step]
        assert row["grad_norm"] == pytest.approx(float(gradient.norm()), rel=1e-4)
        assert row["update_ratio"] == pytest.approx(float(update.norm() / before.norm()), rel=1e-4)
        assert row["distance"] == pytest.approx(float((before - start).norm()), rel=1e-4, abs=1e-6)
        numbers = ((end - loss).item(), float(gradient @ update), float(slope @ update))
        truth = float(quantities.alpha(*map(np.array, numbers)))
        assert row["alpha"] == pytest.approx(truth, rel=0.02, abs=0.02)
        assert row["stability_ratio"] == pytest.approx(0.2 * row["sharpness"] / 2)


@pytest.mark.full
def test_a_lane_measures_what_it_measures_alone(trainer: Trainer) -> None:
    runs = ["lr=0.02", "lr=0.1 seed=1"]
    for run, lane in zip(runs, trainer.together(runs, ON), strict=True):
        alone, among = measured(trainer.alone(run, ON)), measured(lane)
        assert alone.index.equals(among.index)
        np.testing.assert_allclose(among, alone, rtol=2e-3, atol=2e-3)


@pytest.mark.full
def test_a_run_that_explodes_has_its_rows_up_to_there(trainer: Trainer) -> None:
    calm, wild = trainer.together(["lr=0.1", "lr=1e9"], f"{ON} epochs=1")
    assert wild.summary["state"] == "diverged"
    table = measured(wild)
    assert table.index.max() <= wild.summary["first_nonfinite_step"]
    assert table["stability_ratio"].max() > 1
    alone = trainer.alone("lr=0.1", f"{ON} epochs=1")
    np.testing.assert_allclose(measured(calm), measured(alone), rtol=2e-3, atol=2e-3)


class _Doubled(torch.autograd.Function):
    """2·x, as many an operation in C++: its backward pass has no backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _DoubledBackward.apply(gradient)


class _DoubledBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise RuntimeError("derivative for doubled_backward is not implemented")


class Once(nn.Module):
    """Has no second derivatives in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(math.prod(IN_SHAPE), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return _Doubled.apply(self.linear(x.flatten(1)).tanh())


@pytest.mark.full
def test_without_second_derivatives_only_the_sharpness_is_missing(trainer: Trainer) -> None:
    run = trainer.alone("lr=0.1", f"{ON} {CUSTOM}Once")
    assert run.summary["state"] == "finished"
    table = measured(run)
    assert table["sharpness"].isna().all() and table["stability_ratio"].isna().all()
    assert table[["alpha", "alpha_probe", "grad_norm"]].notna().all(axis=None)


@pytest.mark.full
def test_torch_optimizers_without_a_rule_have_a_sharpness_but_no_ratio(trainer: Trainer) -> None:
    general = "optimizer=only_target optimizer._target_=torch.optim.NAdam"
    table = measured(trainer.alone("lr=0.01", f"{ON} {general}"))
    assert table["sharpness"].notna().all()
    assert table["stability_ratio"].isna().all()


class Tanh(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)
        ).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.full
def test_full_batch_descent_settles_at_the_edge_of_stability(trainer: Trainer) -> None:
    """Cohen et al. 2021 (arXiv:2103.00065): sharpness rises to 2/lr and hovers there."""
    torch.set_num_threads(1)  # the trainer puts it back
    x = torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None]
    y = torch.sin(3 * x).flatten() * 1.5
    data = Dataset("sine", *(x, y) * 3, num_classes=2, sha256="")
    torch.manual_seed(0)
    networks: list[nn.Module] = [Tanh(), Tanh()]

    def half(scores: Tensor, y: Tensor) -> Tensor:
        return ((scores.flatten() - y) ** 2 / 2).mean()

    stacked = stacking.stack(networks, [0, 1], half, "cpu")
    stacked.settle(x, y, (x, y))
    meter = build_meter("full", stacked, data)
    assert meter is not None
    lrs = np.array([[0.5, 0.01]])
    node = {"_target_": "torch.optim.SGD"}
    nodes = [node | {"lr": 0.5}, node | {"lr": 0.01}]
    built = lane_optimizers.build(nodes, [*stacked.params.values()])
    coefficients = built.coefficients({"lr": lrs}, np.array([0, 0]))
    scale = built.stability_scale({"lr": lrs}, np.array([0, 0]))[0]
    ratios = []
    for step in range(1200):
        found, gradients = stacked.gradients(x, y, [step, step], 0)
        watch = step > 800 and step % 5 == 0
        if watch:
            meter.before(stacked)
        built.update(gradients, coefficients, 0)
        if watch:
            every = np.full(2, cadence.WHOLE)
            raw = meter.after(stacked, found, gradients, (x, y), [step, step], 0, every, None)
            ratios.append(quantities.table(raw.numpy(), scale)[:, 2])
    at_the_edge, small = np.median(ratios[20:], axis=0)
    assert 0.99 < at_the_edge < 1.03
    assert small < 0.5
