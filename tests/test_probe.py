"""lrlab.Probe in an ordinary loop: closed forms, nothing disturbed, and records that are read."""

import copy
import math
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lrlab
from lrlab import records
from lrlab.errors import UserError
from lrlab.own_loop.measuring import FARTHEST
from lrlab.tables import frames
from lrlab.verdicts import loading

pytestmark = pytest.mark.unit


class Point(nn.Module):
    """A point in a bowl: the loss is Σ ½·curvature·w²."""

    def __init__(self, *curvatures: float) -> None:
        super().__init__()
        self.curvatures = torch.tensor(curvatures, dtype=torch.float64)
        self.w = nn.Parameter(torch.ones(len(curvatures), dtype=torch.float64))

    def loss(self) -> Tensor:
        return (0.5 * self.curvatures * self.w**2).sum()


def descend(model: Point, optimizer: Any, probe: lrlab.Probe, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss().backward()
        with probe.step(model.loss):
            optimizer.step()


@pytest.mark.parametrize("way", [0.002, 0.1, 0.5, 1.0, 1.5, 1.9, 2.5])
def test_along_a_parabola_alpha_and_the_critical_multiple_are_the_closed_form(
    way: float, tmp_path: Path
) -> None:
    # A step of lr on curvature λ goes lr·λ of the way: alpha = lr·λ − 1. The loss is back at its
    # start at 2/(lr·λ) times the step.
    model = Point(4.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=way / 4)
    probe = lrlab.Probe(model, optimizer, tmp_path, curvature=model.loss)
    descend(model, optimizer, probe, 3)
    # A step that ends in the minimum is followed by none.
    assert len(probe.measured) == (1 if way == 1 else 3)
    for found in probe.measured:
        assert found.alpha == pytest.approx(way - 1, abs=1e-9)
        assert found.critical == pytest.approx(2 / way, rel=1e-6)
        assert found.low <= found.critical <= found.high <= 1.4 * found.low + 1
        assert found.stability_ratio == pytest.approx(way / 2, rel=1e-5)
        assert found.update_ratio == pytest.approx(way, rel=1e-6)
    for step, found in enumerate(probe.measured):
        assert found.loss == pytest.approx(2 * (1 - way) ** (2 * step))
    assert probe.measured[0].grad_norm == pytest.approx(4)


def test_beyond_the_farthest_the_multiple_has_no_upper_bound(tmp_path: Path) -> None:
    model = Point(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    probe = lrlab.Probe(model, optimizer, tmp_path)
    descend(model, optimizer, probe, 3)
    assert probe.measured[0].low == FARTHEST and math.isinf(probe.measured[0].critical)
    assert probe.verdict().steps == "far too short"
    assert "512 times as large or more, unless" in str(probe.verdict())


def test_a_step_that_leads_uphill_has_a_critical_multiple_of_0(tmp_path: Path) -> None:
    model = Point(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, maximize=True)
    probe = lrlab.Probe(model, optimizer, tmp_path)
    descend(model, optimizer, probe, 3)
    assert [found.critical for found in probe.measured] == [0, 0, 0]
    assert "uphill" in str(probe.verdict()) and math.isnan(probe.verdict().factor)


@pytest.mark.parametrize("optimizer", ["sgd", "heavy ball", "nesterov", "adam"])
def test_in_a_ravine_only_the_curvature_tells_how_far_the_lr_may_grow(
    optimizer: str, tmp_path: Path
) -> None:
    # Along the ravine's floor a step could be a hundred times as long; across it, it could not.
    model = Point(1.0, 200.0)
    made: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "sgd": torch.optim.SGD,
        "heavy ball": partial(torch.optim.SGD, momentum=0.9),
        "nesterov": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
        "adam": torch.optim.Adam,
    }
    rate = made[optimizer](model.parameters(), lr=0.004)
    probe = lrlab.Probe(model, rate, tmp_path / "with", every=10, curvature=model.loss)
    blind = lrlab.Probe(model, rate, tmp_path / "without", every=10)
    with torch.no_grad():
        model.w[1] = 1e-6  # it has settled across the ravine
    for _ in range(30):
        rate.zero_grad()
        model.loss().backward()
        with probe.step(model.loss), blind.step(model.loss):
            rate.step()
    if optimizer == "adam":  # the matrix that counts is the Hessian over the preconditioner
        state = rate.state[model.w]
        divisor = (state["exp_avg_sq"] / (1 - 0.999 ** float(state["step"]))).sqrt() + 1e-8
        largest = float((model.curvatures / divisor).max()) * 0.1 / 2 / 1.9
        assert probe.measured[-1].stability_ratio == pytest.approx(0.004 * largest, rel=0.2)
        return
    scale = {"sgd": 1 / 2, "heavy ball": 1 / 3.8, "nesterov": 2.8 / 3.8}[optimizer]
    assert probe.measured[-1].stability_ratio == pytest.approx(0.004 * 200 * scale, rel=1e-3)
    assert probe.verdict().factor <= 0.9 / (0.004 * 200 * scale) + 1e-9
    if optimizer == "sgd":
        assert blind.verdict().factor > 100
        assert "unless the loss is steeper across the steps" in str(blind.verdict())
        assert "unless" not in str(probe.verdict())


class Counting(nn.Module):
    """A network with everything that an evaluation may change."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)
        )
        self.calls, self.seen, self.mean = 0, [0], torch.zeros(())
        self.register_buffer("last", None)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(len(x))
        self.mean += x.mean()
        self.last = x.mean(0)
        noise = random.random() + float(np.random.rand())
        return self.layers(x) + 1e-3 * noise


def train(
    steps: int, wrap: Callable[[nn.Module, Any], lrlab.Probe] | None, kind: Any
) -> tuple[Counting, Any, list[Any]]:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))
    model = Counting()
    optimizer = kind(model.parameters())
    probe = None if wrap is None else wrap(model, optimizer)
    for step in range(steps):
        part = slice(step % 4 * 16, step % 4 * 16 + 16)
        optimizer.zero_grad()
        F.cross_entropy(model(x[part]), y[part]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        if probe is None:
            optimizer.step()
        else:
            with probe.step(lambda a, b: F.cross_entropy(model(a), b), x[part], y[part]):
                optimizer.step()
    drawn = [torch.rand(3), random.random(), np.random.rand()]
    return model, optimizer, drawn


KINDS = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "adamw": partial(torch.optim.AdamW, lr=0.01),
    "rprop": partial(torch.optim.Rprop, lr=0.01),
}


def state_of(model: Counting, optimizer: Any) -> dict[str, Any]:
    grads = {name: p.grad for name, p in model.named_parameters()}
    return {
        **copy.deepcopy(model.state_dict()),
        **{f"grad {name}": None if g is None else g.clone() for name, g in grads.items()},
        **{f"python {k}": copy.deepcopy(vars(model)[k]) for k in ("calls", "seen", "mean")},
        "last": model.last,
        "training": [module.training for module in model.modules()],
        "optimizer": copy.deepcopy(optimizer.state_dict()),
    }


def assert_same(mine: Any, other: Any) -> None:
    if isinstance(mine, dict):
        assert mine.keys() == other.keys()
        for key in mine:
            assert_same(mine[key], other[key])
    elif isinstance(mine, list | tuple):
        assert len(mine) == len(other)
        for a, b in zip(mine, other, strict=True):
            assert_same(a, b)
    elif isinstance(mine, Tensor):
        assert torch.equal(mine, other)
    else:
        assert mine == other


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_a_training_with_a_probe_is_the_same_to_the_bit(kind: Any, tmp_path: Path) -> None:
    def wrap(model: nn.Module, optimizer: Any) -> lrlab.Probe:
        x, y = torch.ones(4, 6), torch.tensor([0, 1, 2, 0])
        return lrlab.Probe(
            model, optimizer, tmp_path, 3, curvature=lambda: F.cross_entropy(model(x), y)
        )

    model, optimizer, drawn = train(10, None, kind)
    mine, own, also_drawn = train(10, wrap, kind)
    assert_same(state_of(mine, own), state_of(model, optimizer))
    assert_same(also_drawn, drawn)
    assert records.read_diagnostics(tmp_path / "0")["step"].tolist() == [0, 1, 2, 3, 6, 9]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_the_branch_test_is_three_trainings_from_here_and_puts_all_back(
    kind: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = kind(model.parameters())
    data = [(torch.randn(8, 6), torch.randint(0, 3, (8,))) for _ in range(6)]

    def loss(batch: Any, network: nn.Module = model) -> Tensor:
        return F.cross_entropy(network(batch[0]), batch[1])

    probe = lrlab.Probe(model, optimizer, tmp_path)
    for batch in data:
        optimizer.zero_grad()
        loss(batch).backward()
        with probe.step(lambda batch=batch: loss(batch)):
            optimizer.step()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    gradients = [p.grad.clone() for p in model.parameters()]  # type: ignore[union-attr]
    ended = probe.branch(10, batches=data, loss=loss)
    assert_same((model.state_dict(), optimizer.state_dict()), before)
    assert_same([p.grad for p in model.parameters()], gradients)

    rows = records.read_branches(probe.folder)
    assert rows["step"].tolist() == list(range(6, 16))
    for name, multiplier in records.MULTIPLIERS.items():
        other = copy.deepcopy(model)
        again = kind(other.parameters())
        again.load_state_dict(copy.deepcopy(before[1]))
        again.param_groups[0]["lr"] *= multiplier
        losses = []
        for batch in (data * 2)[:10]:
            again.zero_grad()
            value = loss(batch, other)
            losses.append(float(value.detach()))
            value.backward()
            again.step()
        assert rows[name].tolist() == pytest.approx(losses, rel=1e-6)
        assert ended[name] == pytest.approx(np.median(losses[-2:]), rel=1e-6)


def test_a_step_that_a_scaler_leaves_out_is_not_measured_and_the_next_one_is(
    tmp_path: Path,
) -> None:
    model = Point(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = lrlab.Probe(model, optimizer, tmp_path)
    with probe.step(model.loss):
        pass  # as GradScaler does where gradients are infinite
    descend(model, optimizer, probe, 1)
    assert records.read_diagnostics(probe.folder)["step"].tolist() == [1]
    assert probe.steps == 2


def test_a_gradient_scaler_a_compiled_model_and_sparse_gradients_are_measured(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.EmbeddingBag(10, 4, sparse=True), nn.Linear(4, 3))
    model = torch.compile(net, backend="eager")
    x, y = torch.randint(0, 10, (8, 5)), torch.randint(0, 3, (8,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    probe = lrlab.Probe(model, optimizer, tmp_path, 1)
    for step in range(3):
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(x), y)).backward()
        if step == 1:
            net[1].weight.grad[0, 0] = math.inf  # type: ignore[index]
        with probe.step(lambda: F.cross_entropy(model(x), y)):
            scaler.step(optimizer)
        scaler.update()
    assert records.read_diagnostics(probe.folder)["step"].tolist() == [0, 2]
    first = probe.measured[0]
    assert first.alpha < 0 and first.loss_after < first.loss


def test_frozen_and_complex_parameters_are_measured(tmp_path: Path) -> None:
    class Waves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
            self.z = nn.Parameter(torch.tensor([1 + 1j, 2 - 1j], dtype=torch.complex128))

        def loss(self) -> Tensor:
            return 0.5 * (self.z.abs() ** 2).sum() + 0 * self.frozen.sum()

    model = Waves()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    probe = lrlab.Probe(model, optimizer, tmp_path, 1)
    for _ in range(3):
        optimizer.zero_grad()
        model.loss().backward()
        with probe.step(model.loss):
            optimizer.step()
    for found in probe.measured:
        assert found.alpha == pytest.approx(-0.5, abs=1e-6)
        assert found.critical == pytest.approx(4, rel=1e-5)


def test_the_noise_is_the_standard_error_of_the_change(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(40, 3), torch.randn(40, 1)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = copy.deepcopy(model)
    by_sample = lrlab.Probe(model, optimizer, tmp_path / "a")
    by_half = lrlab.Probe(model, optimizer, tmp_path / "b")

    def errors(network: nn.Module, a: Tensor, b: Tensor) -> Tensor:
        return ((network(a) - b) ** 2).flatten()

    errors(model, x, y).mean().backward()
    with (
        by_sample.step(lambda: errors(model, x, y)),
        by_half.step(lambda a, b: errors(model, a, b).mean(), x, y),
    ):
        optimizer.step()
    change = (errors(model, x, y) - errors(before, x, y)).detach()
    assert by_sample.measured[0].noise == pytest.approx(float(change.std()) / 40**0.5, rel=1e-4)
    halves = change[:20].mean(), change[20:].mean()
    apart = abs(float(halves[0] - halves[1]))
    assert by_half.measured[0].noise == pytest.approx(apart / 2, rel=1e-3)


def test_several_groups_have_a_ratio_each(tmp_path: Path) -> None:
    model = nn.ModuleList([Point(1.0), Point(1.0)])

    def loss() -> Tensor:
        return model[0].loss() + model[1].loss()  # type: ignore[operator]

    groups = [{"params": model[0].parameters()}, {"params": model[1].parameters(), "lr": 0.5}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    probe = lrlab.Probe(model, optimizer, tmp_path)
    loss().backward()
    with probe.step(loss):
        optimizer.step()
    assert probe.measured[0].group_ratios == pytest.approx((0.1, 0.5))
    table = pd.read_csv(probe.folder / "probe.csv")
    assert table["update_ratio_1"].tolist() == pytest.approx([0.5])


def test_its_records_are_judged_like_a_sweep(tmp_path: Path) -> None:
    for lr in (0.001, 0.5, 2.5):
        model = Point(1.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        with lrlab.Probe(model, optimizer, tmp_path, 5, settings={"width": 1}) as probe:
            for _ in range(60):
                optimizer.zero_grad()
                loss = model.loss()
                probe.record(loss)
                loss.backward()
                with probe.step(model.loss):
                    optimizer.step()
            probe.evaluated(float(model.loss().detach()))
    for read, folder in ((records.read_config, "2"), (records.read_sweep_config, "")):
        with pytest.raises(UserError, match="only your program can train it again"):
            read(tmp_path / folder)
    loaded = loading.load([tmp_path])
    assert loaded.notes == ()
    found = loaded.verdicts()
    assert found["outcome"].tolist() == ["undershooting", "converged", "diverged"]
    assert frames.runs(tmp_path)["state"].tolist() == ["finished"] * 3
    assert frames.runs(tmp_path)["own.width"].tolist() == [1, 1, 1]
    curve = frames.curves(tmp_path)
    assert curve.loc[curve["run"] == 0, "train_loss"].notna().sum() == 60


def test_a_loss_that_is_not_finite_is_recorded_and_the_training_goes_on(tmp_path: Path) -> None:
    model = Point(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e200)
    with lrlab.Probe(model, optimizer, tmp_path, 1) as probe:
        descend(model, optimizer, probe, 5)
        assert "not finite" in str(probe.verdict())
    assert records.read_summary(probe.folder)["state"] == "diverged"
    assert records.read_summary(probe.folder)["first_nonfinite_step"] == 1


def test_an_error_of_the_loss_ends_the_first_step_and_later_only_warns(tmp_path: Path) -> None:
    model = Point(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = lrlab.Probe(model, optimizer, tmp_path, 1)

    def broken() -> Tensor:
        raise ValueError("no such batch")

    model.loss().backward()
    with pytest.raises(ValueError, match="no such batch"), probe.step(broken):
        optimizer.step()
    with pytest.raises(UserError, match="must return a tensor"), probe.step(lambda: 1.0):  # type: ignore[arg-type,return-value]
        optimizer.step()
    descend(model, optimizer, probe, 1)
    weights = model.w.detach().clone()
    warned = pytest.warns(UserWarning, match="step 1 was not measured: no such batch")
    with warned, probe.step(broken):
        optimizer.step()
    assert torch.equal(model.w.detach(), weights - 0.1 * model.w.grad)  # type: ignore[operator]


def test_what_cannot_work_is_refused_in_one_line(tmp_path: Path) -> None:
    model = Point(1.0)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    lbfgs = torch.optim.LBFGS(model.parameters())
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").write_text("a: 1\n")
    cases: list[tuple[str, Callable[[], Any]]] = [
        ("optimizer: LBFGS", lambda: lrlab.Probe(model, lbfgs, tmp_path)),
        ("optimizer: must be", lambda: lrlab.Probe(model, [sgd], tmp_path)),  # type: ignore[arg-type]
        ("model: must be", lambda: lrlab.Probe(model.loss, sgd, tmp_path)),  # type: ignore[arg-type]
        ("every=0: must be", lambda: lrlab.Probe(model, sgd, tmp_path, 0)),
        ("lr=nan: must be", lambda: lrlab.Probe(model, sgd, tmp_path, lr=math.nan)),
        ("lr=inf: must be", lambda: lrlab.Probe(model, sgd, tmp_path, lr=math.inf)),
        ("holds a sweep", lambda: lrlab.Probe(model, sgd, tmp_path / "sweep")),
        ("settings: lr=1", lambda: lrlab.Probe(model, sgd, tmp_path, settings={"lr": 1})),
        ("num_classes=1", lambda: lrlab.Probe(model, sgd, tmp_path, settings={"num_classes": 1})),
        ("settings: a=", lambda: lrlab.Probe(model, sgd, tmp_path, settings={"a": [1]})),
    ]
    for line, attempt in cases:
        with pytest.raises(UserError, match=line):
            attempt()
    assert [each.name for each in tmp_path.iterdir()] == ["sweep"]
    probe = lrlab.Probe(model, sgd, tmp_path / "runs")
    with pytest.raises(UserError, match="batches: gives none"):
        probe.branch(batches=[], loss=lambda batch: model.loss())
