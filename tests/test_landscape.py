"""Oracles: a loss that is a quadratic in the weights, ordinary torch loops, and the records."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers.training import CLASSES, IN_SHAPE, Trainer
from torch import Tensor, nn

from lrlab import records
from lrlab.data import Dataset
from lrlab.networks import MLP
from lrlab.plan import build
from lrlab.probes import landscape, paths
from lrlab.probes import surface as plane
from lrlab.probes.landscape import Landscape, write
from lrlab.tables import frames
from lrlab.verdicts import judging
from lrlab.verdicts.three_runs import ROLES, choose


def measure(sweep: Path, verdicts: pd.DataFrame, best: int | None = None) -> Landscape:
    """The runs that a sweep would choose; the data of these tests are the tests' own function."""
    if best is None:
        best = int(verdicts.loc[verdicts["end_loss"].idxmin(), "run"])
    runs = choose(verdicts, best)
    if isinstance(runs, str):
        return landscape.nothing(runs)
    return landscape.measure(sweep, runs, trusted=True)


QUADRATIC = "network=perceptron loss=mse_one_hot"  # one weighted sum a class, squared error
NEAR = (0.01, 0.02, 0.035)  # no path leads out of the picture


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "GRID", 9)
    monkeypatch.setattr(plane, "SAMPLES", 200)


def trained(trainer: Trainer, runs: Sequence[str], common: str = "") -> Path:
    """A sweep's folder as a command leaves it."""
    from omegaconf import OmegaConf

    specs = trainer.specs(runs, common)
    for spec in specs:
        node = OmegaConf.create(dict(spec.config))
        hydra = OmegaConf.create({"hydra": {"runtime": {"choices": dict(spec.choices)}}})
        records.create_run(spec.folder, OmegaConf.to_yaml(node), OmegaConf.to_yaml(hydra), "[]\n")
    from helpers.training import Silent

    from lrlab.training import pool

    rows = {spec.number: row for row, spec in enumerate(specs)}
    pool.run(pool.Batch(specs), None, "cpu", Silent(), rows)
    return specs[0].folder.parent


def judged(sweep: Path) -> pd.DataFrame:
    return judging.verdicts(frames.curves(sweep))


def roles(best: int = 1) -> pd.DataFrame:
    """Verdicts of three runs with rising lr, without looking at them."""
    table = pd.DataFrame({"run": [0, 1, 2], "lr": [0.001, 0.01, 0.1], "seed": 0})
    return table.assign(outcome="not compared", end_loss=[1.0, 0.5, 2.0], state="finished")


def with_lrs(lrs: Sequence[float]) -> pd.DataFrame:
    return roles().assign(lr=list(lrs))


# --- which runs -----------------------------------------------------------------------------------


def table(*runs: tuple[float, str, float], **columns: Any) -> pd.DataFrame:
    frame = pd.DataFrame(
        [{"run": i, "lr": lr, "outcome": o, "end_loss": e} for i, (lr, o, e) in enumerate(runs)]
    )
    return frame.assign(**{"seed": 0, **columns})


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (
            table(
                (0.001, "undershooting", 2.0),
                (0.01, "undershooting", 1.0),
                (0.1, "converged", 0.1),
                (1.0, "overshooting", 0.5),
                (3.0, "diverged", math.inf),
            ),
            {"small": 1, "good": 2, "large": 3},
        ),
        (  # an lr that undershoots, but is near the good one
            table(
                (0.001, "nothing learned", 1.0),
                (0.05, "undershooting", 0.3),
                (0.1, "converged", 0.1),
            ),
            {"small": 0, "good": 2},
        ),
        (table((0.1, "converged", 0.1), (1.0, "converged", 0.3)), {"good": 0, "large": 1}),
        (
            table((0.1, "converged", 0.1), (1.0, "converged", 0.3), (2.0, "converged", 0.4)),
            {"good": 0, "large": 2},
        ),
        (
            table((0.1, "converged", 0.1), (9.0, "diverged", math.inf), (2.0, "collapsed", 2.3)),
            {"good": 0, "large": 2},
        ),
        (table((0.1, "converged", 0.1)), "needs at least two learning rates"),
        (table((0.1, "converged", 0.1), (0.1, "converged", 0.2)), "needs at least two"),
        (  # another network, and another seed, are not the good run's
            table(
                (0.001, "undershooting", 0.5),
                (0.1, "converged", 0.2),
                (0.1, "converged", 0.1),
                (1.0, "overshooting", 0.9),
                (1.0, "overshooting", 0.9),
                network=["cnn", "cnn", "mlp", "cnn", "mlp"],
            ),
            {"good": 2, "large": 4},
        ),
        (
            table(
                (0.001, "undershooting", 0.5),
                (0.1, "converged", 0.1),
                (0.001, "undershooting", 0.5),
                seed=[0, 1, 1],
            ),
            {"small": 2, "good": 1},
        ),
    ],
)
def test_three_runs_that_differ_in_lr_only_are_chosen(verdict: pd.DataFrame, expected: Any) -> None:
    found = choose(verdict, 0 if isinstance(expected, str) else expected["good"])
    if isinstance(expected, str):
        assert isinstance(found, str) and found.startswith(expected)
    else:
        assert found == expected
        assert list(found) == [role for role in ROLES if role in expected]


# --- the replay -----------------------------------------------------------------------------------


@pytest.mark.full(after=2)
@pytest.mark.parametrize(
    "common",
    [
        "network.hidden=[16]",
        "network.hidden=[16] optimizer=momentum schedule=cosine",
        "network.hidden=[16] optimizer=adamw schedule=one_cycle schedule.cycle_momentum=true",
        "network.hidden=[16] optimizer=only_target optimizer._target_=torch.optim.NAdam",
        "network.hidden=[16] schedule=plateau schedule.patience=0 schedule.threshold=10 epochs=4",
        "network=cnn network.channels=[3,5] network.hidden=[16]",
        "network=custom network._target_=helpers.networks.BatchNorm",
        "network=custom network._target_=helpers.networks.Dropout",
        "network=custom network._target_=helpers.networks.Odd",
    ],
)
def test_the_replay_has_the_bits_of_the_records(trainer: Trainer, common: str) -> None:
    sweep = trained(trainer, ["lr=0.001", "lr=0.01", "lr=0.1"], common)
    found = measure(sweep, roles())
    assert found.reason == "" and found.exact
    assert list(found.lines["role"].unique()) == list(ROLES)
    assert np.isfinite(found.surface["loss"]).all() and np.isfinite(found.paths["loss"]).all()
    assert found.paths["step"].max() == (40 if "epochs=4" in common else 20)


def test_other_bits_than_the_records_are_noticed(trainer: Trainer) -> None:
    sweep = trained(trainer, ["lr=0.001", "lr=0.01", "lr=0.1"], "network.hidden=[8]")
    file = sweep / "1" / "metrics.csv"
    lines = file.read_text().splitlines()
    cells = lines[4].split(",")
    cells[3] = f"{np.nextafter(np.float32(cells[3]), np.float32(9)):.9g}"
    lines[4] = ",".join(cells)
    file.write_text("\n".join(lines) + "\n")
    found = measure(sweep, roles())
    assert found.reason == "" and not found.exact


@pytest.mark.full
def test_records_and_randomness_are_left_as_they_were(trainer: Trainer) -> None:
    common = "network=custom network._target_=helpers.networks.Dropout"
    sweep = trained(trainer, ["lr=0.001", "lr=0.01", "lr=0.1"], common)
    before, state = contents(sweep), torch.get_rng_state()
    found = measure(sweep, roles())
    assert found.reason == ""
    assert contents(sweep) == before and torch.equal(torch.get_rng_state(), state)
    again = measure(sweep, roles())
    for name in ("lines", "surface", "paths"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(again, name))


def contents(folder: Path) -> dict[str, str]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_a_large_lr_that_blows_up_stays_a_part_of_the_picture(trainer: Trainer) -> None:
    sweep = trained(trainer, ["lr=0.001", "lr=0.05", "lr=1e30"], "network.hidden=[16]")
    found = measure(sweep, judged(sweep))
    assert found.reason == "" and found.exact
    assert np.isfinite(found.surface["loss"]).all()
    paths = {role: part for role, part in found.paths.groupby("role")}
    assert len(paths["large"]) < len(paths["good"])
    assert np.isfinite(paths["large"][["x", "y"]]).all(axis=None)
    good = paths["good"][["x", "y"]].abs().max(axis=None)
    assert found.surface["x"].abs().max() < 4 * good  # it does not set the scale
    large = found.lines[found.lines["role"] == "large"]
    assert large["alpha"].eq(math.inf).all() and large["w2"].isna().all()
    assert found.lines[found.lines["role"] == "good"]["w2"].notna().all()


# --- along one update -----------------------------------------------------------------------------


def test_on_a_quadratic_each_line_is_a_parabola(trainer: Trainer, data: Dataset) -> None:
    """And alpha is lr · gᵀHg / gᵀg − 1, which is lr · λ − 1 in one dimension."""
    lrs = (0.05, 0.5, 4.0)
    sweep = trained(trainer, [f"lr={lr}" for lr in lrs], QUADRATIC)
    found = measure(sweep, with_lrs(lrs))
    assert found.exact
    step = int(found.lines["step"].iloc[0])
    assert 0 < step < 20 and found.lines["step"].nunique() == 1
    network, batch = torch_state(data, lrs[1], step)
    value, gradient, curvature = derivatives(network, *batch)
    for lr, part in found.lines.groupby("lr"):
        t = part["t"].to_numpy()
        w0, w1, w2, alpha = part[["w0", "w1", "w2", "alpha"]].iloc[0]
        fitted, few = w0 + w1 * t + w2 * t * t, 2e-6 * part["loss"].max()
        np.testing.assert_allclose(part["loss"], fitted, rtol=1e-5, atol=few)
        assert w0 == pytest.approx(value, rel=1e-5)
        assert w1 == pytest.approx(-lr * gradient, rel=1e-4)
        assert w2 == pytest.approx(0.5 * lr * lr * curvature, rel=1e-3)
        assert alpha == pytest.approx(lr * curvature / gradient - 1, rel=1e-3, abs=2e-4)
        np.testing.assert_allclose(part["distance"], t * lr * math.sqrt(gradient), rtol=1e-4)
        assert {0.0, 1.0} <= set(t) and t[0] == -0.25 and t[-1] >= 1.5 and len(t) >= 60
        lowest = -w1 / (2 * w2)
        assert lowest > 6 or t[-1] > lowest


def torch_state(data: Dataset, lr: float, steps: int) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A perceptron after some steps of an everyday loop in float64, and the next mini-batch."""
    torch.manual_seed(0)
    network = MLP(IN_SHAPE, CLASSES, hidden=()).double()
    order = np.concatenate([build.batch_order(0, epoch, 640) for epoch in (0, 1)])
    for place in range(steps + 1):
        index = torch.from_numpy(order[place * 64 : (place + 1) * 64])
        batch = data.train_x[index].double(), data.train_y[index]
        if place == steps:
            break
        network.zero_grad()
        squared(network, *batch).backward()
        with torch.no_grad():
            for p in network.parameters():
                assert p.grad is not None
                p -= lr * p.grad
    return network, batch  # pyright: ignore[reportPossiblyUnboundVariable]


def squared(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(network(x), F.one_hot(y, CLASSES).to(x.dtype))


def derivatives(network: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """The loss, gᵀg and gᵀHg."""
    params = list(network.parameters())
    loss = squared(network, x, y)
    gradient = torch.autograd.grad(loss, params, create_graph=True)
    norm = torch.stack([(g * g).sum() for g in gradient]).sum()
    product = torch.autograd.grad(norm, params)  # 2·H·g
    pairs = zip(product, gradient, strict=True)
    curvature = sum(float((p * g).detach().sum()) for p, g in pairs) / 2
    return float(loss.detach()), float(norm.detach()), curvature


@pytest.mark.full(after=1)
@pytest.mark.parametrize(
    ("common", "make"),
    [
        ("optimizer=momentum", lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)),
        ("optimizer=adam", torch.optim.Adam),
        (
            "optimizer=only_target optimizer._target_=torch.optim.NAdam",
            torch.optim.NAdam,
        ),
    ],
)
def test_each_line_follows_the_optimizers_own_update(
    trainer: Trainer, data: Dataset, common: str, make: Any
) -> None:
    """From the good run's weights and what its optimizer remembers, with another lr."""
    lrs = (0.0005, 0.005, 0.05)
    sweep = trained(trainer, [f"lr={lr}" for lr in lrs], f"network.hidden=[16] {common}")
    found = measure(sweep, with_lrs(lrs))
    assert found.exact
    step = int(found.lines["step"].iloc[0])
    order = torch.from_numpy(np.concatenate([build.batch_order(0, e, 640) for e in (0, 1)]))
    for lr, part in found.lines.groupby("lr"):
        torch.manual_seed(0)
        network = MLP(IN_SHAPE, CLASSES, hidden=(16,))
        optimizer = make(network.parameters(), lr=lrs[1])
        losses = []
        for place in (*range(step + 1), step):
            index = order[place * 64 : (place + 1) * 64]
            loss = F.cross_entropy(network(data.train_x[index]), data.train_y[index])
            losses.append(float(loss.detach()))
            optimizer.zero_grad()
            loss.backward()
            if place == step:
                optimizer.param_groups[0]["lr"] = lr
            optimizer.step()
        at = part.set_index("t")["loss"]
        assert at[0.0] == pytest.approx(losses[-2], rel=1e-4)
        assert at[1.0] == pytest.approx(losses[-1], rel=1e-3)


def test_the_lines_begin_where_half_of_the_progress_is_made(trainer: Trainer) -> None:
    sweep = trained(trainer, ["lr=0.001", "lr=0.01", "lr=0.1"], "network.hidden=[16] epochs=6")
    found = measure(sweep, with_lrs((0.001, 0.01, 0.1)), best=2)
    losses = frames.curves(sweep).query("run == 2")["train_loss"].dropna().to_numpy()
    step = int(found.lines["step"].iloc[0])
    mean = [losses[max(0, i - 5) : i + 5].mean() for i in range(5, len(losses) - 5)]
    half = (mean[0] + min(mean)) / 2
    assert mean[step - 5] <= half < mean[step - 6]


# --- the plane of the paths -----------------------------------------------------------------------


def test_on_a_quadratic_the_surface_is_one(trainer: Trainer, data: Dataset) -> None:
    sweep = trained(trainer, [f"lr={lr}" for lr in NEAR], QUADRATIC)
    found = measure(sweep, with_lrs(NEAR))
    surface, paths = found.surface, found.paths
    x, y = surface["x"].to_numpy(), surface["y"].to_numpy()

    def terms(x: Any, y: Any) -> Any:
        return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)

    fit, *_ = np.linalg.lstsq(terms(x, y), surface["loss"].to_numpy(), rcond=None)
    np.testing.assert_allclose(terms(x, y) @ fit, surface["loss"], rtol=1e-4, atol=1e-6)

    torch.manual_seed(0)
    start = MLP(IN_SHAPE, CLASSES, hidden=())
    chosen = np.sort(np.random.default_rng(0).permutation(640)[:200])
    with torch.no_grad():
        truth = float(squared(start, data.train_x[chosen], data.train_y[chosen]))
    assert fit[0] == pytest.approx(truth, rel=1e-4)  # the plane goes through the common start
    first = paths[paths["step"] == 0]
    assert len(first) == 3 and first[["x", "y"]].eq(0).all(axis=None)
    np.testing.assert_allclose(first["loss"], truth, rtol=1e-5)


def test_places_are_distances_in_weight_space(trainer: Trainer, data: Dataset) -> None:
    """Along two orthonormal axes: no path is longer in the plane than in truth."""
    sweep = trained(trainer, [f"lr={lr}" for lr in NEAR], QUADRATIC)
    found = measure(sweep, with_lrs(NEAR))
    start, _ = torch_state(data, NEAR[1], 0)
    for lr, part in found.paths.groupby("lr"):
        assert part["step"].tolist() == list(range(21))
        lengths = []
        for step in part["step"]:
            network, _ = torch_state(data, float(lr), step)
            moved = [a - b for a, b in zip(network.parameters(), start.parameters(), strict=True)]
            lengths.append(math.sqrt(sum(float((m * m).detach().sum()) for m in moved)))
        flat = np.hypot(part["x"], part["y"])
        assert (flat <= np.array(lengths) * (1 + 1e-4) + 1e-6).all()
        share = (flat**2).sum() / (np.array(lengths) ** 2).sum()
        assert part["share"].iloc[0] == pytest.approx(share, rel=1e-3)
        assert share > 0.9
    good = found.paths[found.paths["role"] == "good"]
    assert good["x"].iloc[-1] > 0


def test_the_grid_is_regular_and_holds_the_paths(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plane, "GRID", 31)
    sweep = trained(trainer, [f"lr={lr}" for lr in NEAR], "network.hidden=[16]")
    found = measure(sweep, with_lrs(NEAR))
    surface, paths = found.surface, found.paths
    grid = surface.pivot(index="y", columns="x", values="loss")
    assert grid.shape == (31, 31) and grid.notna().all(axis=None)
    for name in ("x", "y"):
        values = np.unique(surface[name])
        np.testing.assert_allclose(np.diff(values), np.diff(values)[0], rtol=1e-6)
        assert values[0] < paths[name].min() and paths[name].max() < values[-1]


def test_runs_of_a_few_steps_have_a_picture_too(trainer: Trainer) -> None:
    runs = [f"lr={lr} batch_size=300 epochs=1" for lr in NEAR]  # two steps
    found = measure(trained(trainer, runs, "network.hidden=[8]"), with_lrs(NEAR))
    assert found.reason == "" and found.exact
    assert found.paths.groupby("role")["step"].apply(list).tolist() == [[0, 1, 2]] * 3
    assert set(found.lines["step"]) == {1}


def test_a_costly_network_is_drawn_coarser(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = trained(trainer, ["lr=0.001", "lr=0.01", "lr=0.1"], "network.hidden=[16]")
    monkeypatch.setattr(plane, "GRID", 31)
    monkeypatch.setattr(plane, "_WORK", 128 * 5_000 * 150)
    found = measure(sweep, roles())
    assert 121 <= len(found.surface) < 31 * 31
    monkeypatch.setattr(paths, "_PATH_NUMBERS", 5000)
    assert "weights are too many" in measure(sweep, roles()).reason


# --- files and refusals ---------------------------------------------------------------------------


def test_the_tables_are_written_whole(trainer: Trainer) -> None:
    sweep = trained(trainer, ["lr=0.001", "lr=0.01", "lr=1e30"], "network.hidden=[16]")
    found = measure(sweep, with_lrs((0.001, 0.01, 1e30)))
    write(sweep, found)
    for name, columns in records.LANDSCAPE.items():
        read = pd.read_csv(sweep / f"{name}.csv")
        assert tuple(read.columns) == columns == tuple(getattr(found, name).columns)
        pd.testing.assert_frame_equal(read, getattr(found, name), check_dtype=False)
    assert not list(sweep.glob(".*.tmp"))


def test_where_there_is_nothing_to_show_nothing_is_written(trainer: Trainer) -> None:
    sweep = trained(trainer, ["lr=0.001", "lr=0.01"], "network.hidden=[16]")
    before = contents(sweep)
    one = measure(sweep, judged(sweep).iloc[:1])
    assert "two learning rates" in one.reason
    assert empty(one)
    write(sweep, one)
    assert contents(sweep) == before
    write(sweep, measure(sweep, with_lrs((0.001, 0.01, 0.1)).iloc[:2]))
    assert len(contents(sweep)) == len(before) + 3
    write(sweep, one)  # the sweep is another now: its old pictures go
    assert contents(sweep) == before


def empty(found: Landscape) -> bool:
    return all(
        tuple(getattr(found, name).columns) == columns and getattr(found, name).empty
        for name, columns in records.LANDSCAPE.items()
    )


def test_records_that_are_damaged_are_a_reason(trainer: Trainer) -> None:
    sweep = trained(trainer, ["lr=0.001", "lr=0.01", "lr=0.1"], "network.hidden=[16]")
    table = roles()
    (sweep / "2" / "metrics.csv").unlink()
    assert "metrics.csv" in measure(sweep, table).reason
    (sweep / "1" / "metrics.csv").write_text("step,epoch,lr,train_loss,val_loss,val_acc\n")
    (sweep / "2" / "metrics.csv").write_text("step,epoch,lr,train_loss,val_loss,val_acc\n")
    assert "fewer than two steps" in measure(sweep, table).reason
    config = sweep / "1" / ".hydra" / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("batch_size: 64", "batch_size: 32"))
    assert "differ in more than their lr" in measure(sweep, table).reason
    config.write_text("lr: [")
    found = measure(sweep, table)
    assert "its config is damaged" in found.reason and "\n" not in found.reason and empty(found)
    config.unlink()
    assert "is no folder of a run" in measure(sweep, table).reason
