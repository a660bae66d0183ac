"""Runs on data of the user's own, against ordinary torch loops; and regression."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.commands import command, error, forget, summaries, without_notices
from helpers.training import Trainer, assert_same_bits, make_specs
from torch import nn

from lrlab import own_data
from lrlab.plan import build, checks
from lrlab.reproduce import main as reproduce
from lrlab.resume import main as resume
from lrlab.sweep import main as sweep
from lrlab.tables.frames import runs as runs_of
from lrlab.verdicts.printed import sweep_table

pytestmark = pytest.mark.unit


QUICK = ("threads=1", "plots=false", "diagnostics=off", "device=cpu")


def line(**arguments: Any) -> str:
    """The numbers of a plane with noise, as a file's parts."""
    draw = np.random.default_rng(3)
    x = draw.normal(size=(160, 3))
    y = x @ np.array([[1.0, 0.5], [-2.0, 0.0], [0.5, 3.0]]) + 0.1 * draw.normal(size=(160, 2))
    path = str(arguments.pop("path"))
    np.savez(path, x=x, y=y, **arguments)
    return path


def uneven(file: Path) -> None:
    draw = np.random.default_rng(1)
    y = (draw.random(120) < 0.1).astype(np.int64)
    np.savez(file, x=draw.normal(size=(120, 3)) + 4 * y[:, None], y=y)


def lacking(file: Path) -> None:
    """Take the setting out of a record, as it was written before there was one."""
    text = file.read_text("utf-8")
    assert "  stratify: false\n" in text
    file.write_text(text.replace("  stratify: false\n", ""), "utf-8")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep whose records say nothing of stratify, and so does its study."""
    home = tmp_path_factory.mktemp("old")
    uneven(home / "uneven.npz")
    words = ["data=arrays", "data.path=uneven.npz", "network=perceptron", "batch_size=20"]
    words += ["epochs=20", "lr=0.01,0.1", "data.stratify=false", "name=old", *QUICK]
    assert command(sweep, words, home).code == 0
    for file in [home / "outputs/old/multirun.yaml", *home.glob("outputs/old/*/.hydra/*.yaml")]:
        text = file.read_text("utf-8").replace("  - data.stratify=false\n", "")
        text = text.replace("- data.stratify=false\n", "").replace(",data.stratify=false", "")
        file.write_text(text, "utf-8")
        if "  stratify: false" in text:
            lacking(file)
    for run in "01":
        forget(home / "outputs/old" / run / "summary.json", "data.stratify")
    best = home / "outputs/old/best.yaml"
    text = best.read_text("utf-8")
    assert "  stratify: false\n" in text
    best.write_text(text.replace("  stratify: false\n", ""), "utf-8")
    read_again = [*home.rglob("*.yaml"), *home.rglob("*.journal")]
    assert not any("stratify" in file.read_text("utf-8") for file in read_again)
    return home


@pytest.mark.full
def test_they_reproduce(old: Path) -> None:
    done = command(reproduce, ["outputs/old/1"], old)
    assert done.code == 0 and "bitwise" in done.out, done.out


@pytest.mark.full
def test_they_are_resumed_on_the_same_data(old: Path, tmp_path: Path) -> None:
    shutil.copytree(old, tmp_path, dirs_exist_ok=True)
    done = command(resume, ["outputs/old", "lr=0.01,0.1,1"], tmp_path)
    assert done.code == 0
    assert len({s["data_sha256"] for s in summaries(tmp_path / "outputs/old")}) == 1
    again = command(resume, ["outputs/old", "lr=0.01,0.1,1,2"], tmp_path)
    assert again.code == 0
    found = summaries(tmp_path / "outputs/old")
    assert len(found) == 4 and len({s["data_sha256"] for s in found}) == 1
    done = command(reproduce, ["outputs/old/2"], tmp_path)
    assert done.code == 0 and "bitwise" in done.out, done.out
    words = ["outputs/old", "lr=0.01,0.1,1,2,3", "data.stratify=true"]
    refused = command(resume, words, tmp_path)
    assert refused.code == 2 and "data.stratify" in refused.err


@pytest.mark.default
def test_their_best_is_trained_again_on_the_same_data(old: Path, tmp_path: Path) -> None:
    shutil.copytree(old, tmp_path, dirs_exist_ok=True)
    words = ["--config-dir", "outputs/old", "--config-name", "best", "name=again", *QUICK]
    assert command(sweep, words, tmp_path).code == 0
    both = summaries(tmp_path / "outputs/old") + summaries(tmp_path / "outputs/again")
    assert len({s["data_sha256"] for s in both}) == 1


# --- regression -----------------------------------------------------------------------------------


@pytest.mark.default
def test_least_squares_is_reached(trainer: Trainer, tmp_path: Path) -> None:
    path = line(path=tmp_path / "plane.npz")
    run = trainer.alone(
        "lr=0.2",
        f"data=arrays data.path={path} data.val_size=10 loss=mse network=perceptron batch_size=150 "
        "epochs=150",
    )
    data = own_data.arrays(path, val_size=10)
    x = np.column_stack([data.train_x.double(), np.ones(150)])
    best = np.linalg.lstsq(x, data.train_y.double().numpy(), rcond=None)[0]
    weight, bias = run.weights.values()
    assert np.allclose(weight, best[:3].T, atol=1e-5) and np.allclose(bias, best[3], atol=1e-5)
    optimum = np.mean((x @ best - data.train_y.double().numpy()) ** 2)
    assert math.isclose(run.summary["train_loss"], optimum, rel_tol=1e-5)
    assert run.summary["majority_share"] is run.summary["num_classes"] is None
    variance = data.train_y.double().numpy().var(axis=0).mean()
    assert math.isclose(run.summary["chance_loss"], variance, rel_tol=1e-12)
    assert [run.summary[f"{part}_acc"] for part in ("train", "val", "test")] == [None] * 3
    assert run.summary["test_loss"] is None
    assert run.metrics["val_acc"].isna().all() and run.metrics["val_loss"].count() == 151
    assert "test" not in run.log.partition("finished")[2]
    shown = sweep_table.results(runs_of(run.folder.parent), Path("s"))
    assert "train loss" in shown and "test" not in shown and "acc" not in shown


@pytest.mark.full(after=1)
@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_each_lane_is_an_ordinary_torch_loop(loss: str, trainer: Trainer, tmp_path: Path) -> None:
    path = line(path=tmp_path / "plane.npz")
    common = f"data=arrays data.path={path} loss={loss} network.hidden=[8] batch_size=16"
    runs = ["lr=0.1 seed=1", "lr=0.01 seed=2", "lr=1e9 seed=3"]
    together = trainer.together(runs, common)
    assert together[2].summary["state"] == "diverged"
    for run, own in zip(runs, together, strict=True):
        assert_same_bits(own, trainer.alone(run, common))
    assert_same_bits(together[0], trainer.alone(runs[0], f"{common} capture=false"))

    (spec,) = make_specs(tmp_path, runs[:1], common)
    data = own_data.arrays(path)
    network = build.build_network(spec, data)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    criterion = {"mse": nn.MSELoss(), "l1": nn.L1Loss()}[loss]
    losses = []
    for epoch in range(2):
        order = torch.from_numpy(build.batch_order(1, epoch, len(data.train_y)))
        for index in order.split(16)[: len(order) // 16]:
            optimizer.zero_grad()
            value = criterion(network(data.train_x[index]), data.train_y[index])
            value.backward()
            optimizer.step()
            losses.append(value.item())
    assert np.allclose(together[0].metrics["train_loss"].dropna(), losses, rtol=1e-5)
    network.eval()
    with torch.no_grad():
        end = criterion(network(data.val_x), data.val_y).item()
    assert math.isclose(together[0].summary["val_loss"], end, rel_tol=1e-5)


def test_losses_and_targets_must_be_of_a_kind(tmp_path: Path) -> None:
    path = line(path=tmp_path / "plane.npz")
    data = f"data=arrays data.path={path} network=perceptron batch_size=16"
    for loss in ("nll", "cross_entropy", "mse_one_hot"):
        (spec,) = make_specs(tmp_path, [f"lr=0.1 loss={loss}"], data)
        message = error(checks.check_runs, [spec])
        assert message.startswith(
            f"loss={loss}: compares with classes, and the targets of data=arr"
        )
    for loss in ("mse", "l1"):
        (spec,) = make_specs(tmp_path, [f"lr=0.1 loss={loss}"])
        message = error(checks.check_runs, [spec])
        assert message.startswith(
            f"loss={loss}: compares with floating-point targets, and those of"
        )
    (spec,) = make_specs(tmp_path, ["lr=0.1 loss=mse objective=val_acc"], data)
    assert "objective=val_acc: a regression" in error(checks.check_runs, [spec])
    (spec,) = make_specs(tmp_path, ["lr=0.1 loss=mse loss._target_=torch.nn.HuberLoss"], data)
    checks.check_runs([spec])
    assert build.loss_function(spec)(torch.tensor([3.0]), torch.tensor([0.0])) == 2.5


@pytest.mark.full
def test_reproduce_says_that_the_data_file_has_changed(tmp_path: Path) -> None:
    path = line(path=tmp_path / "plane.npz")
    given = [*QUICK, "data=arrays", f"data.path={path}", "loss=mse", "network=perceptron"]
    ended = command(sweep, [*given, "lr=0.1", "batch_size=16", "name=s"], tmp_path)
    assert (ended.code, without_notices(ended.err)) == (0, "")
    ended = command(reproduce, ["outputs/s/0"], tmp_path)
    assert ended.code == 0 and "steps, bitwise" in ended.out and "data:" not in ended.out
    saved = dict(np.load(path))
    saved["y"] = saved["y"] + 0.5
    np.savez(path, **saved)
    ended = command(reproduce, ["outputs/s/0"], tmp_path)
    assert ended.code == 1 and "data: the training data are not those of the record" in ended.out
    Path(path).unlink()
    ended = command(reproduce, ["outputs/s/0"], tmp_path)
    assert (ended.code, ended.err) == (2, f"lrlab: data.path={path}: no such file, {path}\n")


FUNCTION = """
import numpy as np

def make(file):
    return np.arange(40.0).reshape(40, 1) / 40, np.load(file)["y"][:40]
"""
PLANE = ["data=arrays", "data.path=plane.npz", "loss=mse", "network=perceptron", "batch_size=16"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project's folder with a file of data and, in outputs/s, a sweep that names it as it lies.

    In the folder beside it is another file of that name.
    """
    project, beside = tmp_path / "project", tmp_path / "beside"
    for folder in (project, beside):
        folder.mkdir()
    path = line(path=project / "plane.npz")
    saved = dict(np.load(path))
    np.savez(beside / "plane.npz", **{**saved, "y": saved["y"] + 0.5})
    ended = command(sweep, [*QUICK, *PLANE, "lr=0.1,0.01", "name=s"], project)
    assert (ended.code, without_notices(ended.err)) == (0, "")
    return project


def bitwise(run: str, cwd: Path, *words: str) -> None:
    ended = command(reproduce, [run, *words], cwd)
    assert (ended.code, ended.err) == (0, ""), ended
    assert "steps, bitwise" in ended.out and "data:" not in ended.out


@pytest.mark.full
def test_a_relative_path_leads_to_where_the_sweep_began(project: Path) -> None:
    bitwise(str(project / "outputs" / "s" / "1"), project.parent / "beside")
    bitwise("outputs/reproduce_s_1/1", project.parent / "beside")
    ended = command(resume, [str(project / "outputs" / "s"), "lr=0.1,0.01,0.2"], project.parent)
    assert (ended.code, without_notices(ended.err)) == (0, "")
    told = summaries(project / "outputs" / "s")
    assert [summary["state"] for summary in told] == ["finished"] * 3
    assert len({summary["data_sha256"] for summary in told}) == 1
    # What was added elsewhere has no data in the folder that it was added from.
    bitwise(str(project / "outputs" / "s" / "2"), project.parent / "beside")


@pytest.mark.full
def test_a_relative_path_is_found_after_a_move(project: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    moved = (project / "outputs" / "s").rename(tmp_path / "out" / "moved")  # the sweep alone
    bitwise(str(moved / "0"), tmp_path)
    moved = moved.rename(project / "outputs" / "s")
    project = project.rename(tmp_path / "other")  # all of it
    bitwise("0", project / "outputs" / "s")
    assert command(resume, [str(project / "outputs" / "s")], tmp_path).code == 0
    (project / "plane.npz").unlink()
    ended = command(reproduce, [str(project / "outputs" / "s" / "0")], tmp_path)
    assert ended.code == 2
    assert ended.err.startswith(f"lrlab: data.path=plane.npz: no such file, {tmp_path}/plane.npz, ")
    assert f", nor {project}/plane.npz" in ended.err and ended.err.count("\n") == 1


@pytest.mark.full
def test_code_is_found_where_the_sweep_began(project: Path, tmp_path: Path) -> None:
    (project / "made_of_places.py").write_text(FUNCTION)
    words = ["data=custom", "data._target_=made_of_places.make", f"+data.file={project}/plane.npz"]
    typed = [*QUICK, *words, "loss=mse", "network=perceptron", "batch_size=16"]
    ended = command(sweep, [*typed, "lr=0.1", "name=own"], project)
    assert (ended.code, without_notices(ended.err)) == (0, "")
    sys.modules.pop("made_of_places")
    bitwise(str(project / "outputs" / "own" / "0"), tmp_path, "trust=true")
    sys.modules.pop("made_of_places")


# --- standardised targets -------------------------------------------------------------------------


def far(path: Path, columns: int = 1) -> str:
    """The plane's targets around 1000, and some more with spreads of their own."""
    draw = np.random.default_rng(3)
    x = draw.normal(size=(160, 3))
    slopes = np.array([[1.0, 0.5], [-2.0, 0.0], [0.5, 3.0]])[:, :columns]
    y = 1000 + (x @ slopes + 0.1 * draw.normal(size=(160, columns))) * np.array([7, 50])[:columns]
    np.savez(path, x=x, y=y)
    return str(path)


@pytest.mark.full(after=1)
@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_standardised_targets_train_as_in_torch_and_losses_have_their_units(
    loss: str, columns: int, trainer: Trainer, tmp_path: Path
) -> None:
    path = far(tmp_path / "far.npz", columns)
    common = f"data=arrays data.path={path} loss={loss} network.hidden=[8] batch_size=16 "
    common += "data.standardise_targets=true diagnostics=full"
    together = trainer.together(["lr=0.1 seed=1", "lr=0.01 seed=2", "lr=1e9 seed=3"], common)
    assert_same_bits(together[0], trainer.alone("lr=0.1 seed=1", common))
    assert [run.summary["state"] for run in together] == ["finished", "finished", "diverged"]

    raw = own_data.arrays(path)
    mean = raw.train_y.double().mean(0)
    std = raw.train_y.double().var(0, unbiased=False).mean().sqrt()
    (spec,) = make_specs(tmp_path, ["lr=0.1 seed=1"], common)
    network = build.build_network(spec, build.load_data(spec))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    criterion = {"mse": nn.MSELoss(), "l1": nn.L1Loss()}[loss]
    told = []
    for epoch in range(2):
        order = torch.from_numpy(build.batch_order(1, epoch, len(raw.train_y)))
        for index in order.split(16)[: len(order) // 16]:
            optimizer.zero_grad()
            outputs, y = network(raw.train_x[index]), raw.train_y[index]
            criterion(outputs, ((y - mean) / std).float()).backward()
            optimizer.step()
            told.append(criterion(outputs.double() * std + mean, y.double()).item())
    assert np.allclose(together[0].metrics["train_loss"].dropna(), told, rtol=1e-4)
    summary = together[0].summary
    with torch.no_grad():
        said = network(raw.val_x).double() * std + mean
    assert math.isclose(summary["val_loss"], criterion(said, raw.val_y), rel_tol=1e-4)
    assert np.isclose(np.mean(summary["val_parts"]), summary["val_loss"], rtol=1e-5)
    assert np.allclose(summary["target_mean"], mean) and math.isclose(summary["target_std"], std)
    values = raw.train_y.double().numpy()
    spread = values.var(0) if loss == "mse" else np.abs(values - np.median(values, axis=0)).mean(0)
    assert math.isclose(summary["chance_loss"], spread.mean(), rel_tol=1e-4)


@pytest.mark.full
def test_branches_diagnostics_and_records_of_standardised_targets(tmp_path: Path) -> None:
    far(tmp_path / "far.npz")
    words = ["data=arrays", "network=perceptron", "batch_size=16", "loss=mse"]
    words += ["epochs=4", "lr=0.01,0.1", "threads=1", "plots=false", "device=cpu"]
    words += ["diagnostics=full"]
    # the same numbers, standardised before lrlab sees them
    data = own_data.arrays(str(tmp_path / "far.npz"), standardise_targets=True)
    parts = {"x": data.train_x, "y": data.train_y, "val_x": data.val_x, "val_y": data.val_y}
    np.savez(tmp_path / "plain.npz", **{key: part.numpy() for key, part in parts.items()})
    for name in ("far", "plain"):
        more = [f"data.path={name}.npz", f"name={name}"]
        more += ["data.standardise_targets=true"] if name == "far" else []
        assert command(sweep, [*words, *more], tmp_path).code == 0
    unit = data.target_std**2
    assert unit > 100
    for run in ("0", "1"):
        told, plain = tmp_path / "outputs/far" / run, tmp_path / "outputs/plain" / run
        for file, losses in (
            ("metrics.csv", ["train_loss", "val_loss"]),
            ("branches.csv", ["low", "same", "high"]),
            ("diagnostics.csv", []),
        ):
            one, other = pd.read_csv(told / file), pd.read_csv(plain / file)
            assert list(one) == list(other)
            for column in one:
                factor = unit if column in losses else 1
                assert np.allclose(one[column], factor * other[column], rtol=1e-4, equal_nan=True)
    done = command(reproduce, ["outputs/far/1"], tmp_path)
    assert done.code == 0 and "bitwise" in done.out, done.out
    done = command(resume, ["outputs/far", "lr=0.01,0.1,0.3"], tmp_path)
    assert done.code == 0
    assert len({s["target_std"] for s in summaries(tmp_path / "outputs/far")}) == 1


def test_where_targets_cannot_be_standardised(tmp_path: Path) -> None:
    message = error(
        own_data.make,
        (np.zeros((9, 2)), np.arange(9) % 3),
        "a",
        "data.path=a",
        standardise_targets=True,
    )
    assert message.startswith("data.standardise_targets=true: ") and "classes" in message
    node = f"data=arrays data.path={far(tmp_path / 'far.npz')} data.standardise_targets=true "
    for loss in ("loss._target_=torch.nn.HuberLoss", "loss._target_=test_own_data_training.cubed"):
        specs = make_specs(tmp_path, ["lr=0.1"], node + loss)
        message = error(checks.check_runs, specs)
        assert message.endswith("use loss=mse or loss=l1")
    constant = np.full(9, 3.0)
    data = own_data.make((np.zeros((9, 2)), constant), "a", "data.path=a", standardise_targets=True)
    assert data.target_std == 1 and not data.train_y.any()


def cubed(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).abs().pow(3).mean()
