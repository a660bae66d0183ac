"""Runs of losses that do not compare: no loss names the best among them, an accuracy does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.made_sweeps import write_run
from helpers.searches import SMALL, go_on, sweep
from helpers.training import make_specs

import lrlab
from lrlab import plots, records, report
from lrlab.comparison.reading import read
from lrlab.comparison.words import text
from lrlab.plan.spec import new_summary
from lrlab.verdicts.loss_kinds import incomparable, kind, of_best

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"loss": "nll"}, {"loss": "cross_entropy"}, True),
        ({"loss": "nll"}, {"loss": "mse_one_hot"}, False),
        ({"loss": "mse"}, {"loss": "l1"}, False),
        ({"loss": "mse", "lr": 0.1}, {"loss": "mse", "lr": 0.2, "loss.delta": None}, True),
        ({"loss": "H", "loss.delta": 1.0}, {"loss": "H", "loss.delta": 2.0}, False),
        ({"loss": "H", "loss.a": 1, "loss.b": 2}, {"loss.b": 2, "+loss.a": 1, "loss": "H"}, True),
        (
            {"loss": "nll", "loss._target_": "lrlab.losses.nll"},
            {"loss": "cross_entropy", "loss._target_": "lrlab.losses.cross_entropy"},
            True,
        ),
        (
            {"loss": "MSELoss", "loss._target_": "torch.nn.MSELoss"},
            {"loss": "MSELoss", "loss._target_": "torch.nn.modules.loss.MSELoss"},
            True,
        ),
        ({"loss._target_": "torch.nn.MSELoss"}, {"loss._target_": "torch.nn.L1Loss"}, False),
        ({"loss._target_": "mine.MSELoss"}, {"loss._target_": "torch.nn.MSELoss"}, False),
    ],
)
def test_which_losses_are_one_quantity(
    one: dict[str, Any], other: dict[str, Any], same: bool
) -> None:
    assert (kind(one) == kind(other)) == same
    assert (incomparable([one, other], "val_loss") == "") == same
    assert incomparable([one, other], "val_acc") == ""


def test_the_kinds_are_those_of_the_runs_that_finished() -> None:
    runs = pd.DataFrame({"loss": ["nll", "mse", "l1"], "val_acc": [0.5, None, None]})
    told = {
        ("finished", "finished", "finished"): "nll, mse and l1 do not compare by train_loss; use "
        "objective=val_acc, or a sweep for each loss",
        ("diverged", "finished", "finished"): "mse and l1 do not compare by train_loss; use a "
        "sweep for each loss",
        ("diverged", "finished", "failed"): "",
    }
    for states, words in told.items():
        assert of_best(runs.assign(state=list(states)), "train_loss") == words


def test_what_a_spec_says_before_it_trains_is_what_its_run_says_after(tmp_path: Path) -> None:
    specs = make_specs(tmp_path, ["loss=nll", "loss=mse_one_hot", "loss=cross_entropy"])
    assert [kind(new_summary(spec)) for spec in specs] == ["nll", "mse_one_hot", "nll"]


@pytest.mark.full
def test_a_grid_over_losses_names_no_best_by_a_loss_and_one_by_accuracy(tmp_path: Path) -> None:
    grid = ["lr=0.1,0.3", SMALL, "epochs=1"]
    # A best of before the second loss came is none any more.
    assert sweep(*grid, "loss=nll,cross_entropy", "name=x", cwd=tmp_path).code == 0
    best = tmp_path / "outputs" / "x" / "best.yaml"
    assert best.is_file() and lrlab.load(best.parent).best is not None
    ended = go_on("outputs/x", "loss=nll,cross_entropy,mse_one_hot", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert "best   run" not in ended.out and not best.exists()
    assert ended.out.endswith(
        "lrlab: none is the best: nll and mse_one_hot do not compare by val_loss; "
        "use objective=val_acc, or a sweep for each loss\n"
    )
    # One that an earlier lrlab wrote is not believed.
    best.write_text(f"source: {tmp_path}/outputs/x/0\n")
    loaded = lrlab.load(best.parent)
    assert loaded.best is None and "best   run" not in repr(loaded)

    by_accuracy = [*grid, "loss=nll,mse_one_hot", "objective=val_acc", "name=y"]
    ended = sweep(*by_accuracy, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    folder = tmp_path / "outputs" / "y"
    loaded, number = lrlab.load(folder), records.best_run(folder)
    accuracies = loaded.runs["val_acc"].tolist()
    assert loaded.best is not None and number == accuracies.index(max(accuracies))
    assert f"best   run {number}: lr=" in ended.out


@pytest.mark.default
@pytest.mark.parametrize(
    ("options", "what"),
    [(["lr=1e-3..1", "n_trials=4"], "search"), (["lr=0.1,0.3", "pruner=median"], "pruner")],
)
def test_losses_do_not_compete_while_they_train(
    options: list[str], what: str, tmp_path: Path
) -> None:
    ended = sweep(*options, "loss=nll,mse_one_hot", SMALL, "epochs=1", cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "lrlab: objective=val_loss: nll and mse_one_hot do not compare by val_loss, and the "
        f"{what} would be misled; use objective=val_acc, or a sweep for each loss\n"
    )
    assert not (tmp_path / "outputs").exists()


@pytest.mark.default
def test_losses_compete_by_accuracy(tmp_path: Path) -> None:
    typed = ["lr=1e-3..1", "n_trials=2", "loss=nll,mse_one_hot", "objective=val_acc"]
    ended = sweep(*typed, SMALL, "epochs=1", "pruner=median", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "") and "best   run" in ended.out


# --- what is made of the records ------------------------------------------------------------------


@pytest.fixture
def two_losses(tmp_path: Path) -> Path:
    """lr 0.1 is the best with nll, and 0.2 with a squared error, whose numbers are smaller."""
    folder = tmp_path / "two"
    number = 0
    for loss, lrs in (("nll", (0.01, 0.1, 1.0)), ("mse_one_hot", (0.02, 0.2, 1.0))):
        for lr in lrs:
            write_run(folder, number, lr, loss=loss, measured=False)
            number += 1
    (folder / "multirun.yaml").write_text("{}\n")
    return folder


def test_the_answer_is_one_for_each_loss_in_full(two_losses: Path) -> None:
    found = lrlab.load(two_losses).answer
    assert [(a.settings["loss"], a.best_lr) for a in found.answers] == [
        ("nll", 0.1),
        ("mse_one_hot", 0.2),
    ]
    assert found.lr is None
    heads = [line for line in found.text.splitlines() if line.startswith("answer  ")]
    assert ["loss=nll lr=0.1" in heads[0], "loss=mse_one_hot lr=0.2" in heads[1]] == [True, True]
    assert found.text.count("how sure:") == 2
    assert found.text.endswith("losses of different kinds do not compare, accuracies do")


def test_the_report_recommends_one_lr_for_each_loss(two_losses: Path) -> None:
    page = report.write(two_losses).read_text("utf-8")
    assert "Use lr <strong>0.1</strong>" in page and "Use lr <strong>0.2</strong>" in page
    assert page.count('class="best"') == 2
    assert "Losses of different kinds do not compare, accuracies do." in page


def test_compare_tells_the_best_of_each_loss_and_ranks_none(two_losses: Path) -> None:
    one = two_losses.parent / "one"
    write_run(one, 0, 0.1, loss="cross_entropy", measured=False)
    write_run(one, 1, 0.3, loss="cross_entropy", measured=False)
    (one / "multirun.yaml").write_text("{}\n")
    words = text(read([two_losses, one])[0])
    best = [line.split(": end loss")[0] for line in words.splitlines() if line.startswith("best  ")]
    assert best == [
        "best    A loss=nll lr=0.1",
        "best    A loss=mse_one_hot lr=0.2",
        "best    B lr=0.1",
    ]
    assert "not comparable, because they are mse_one_hot and nll" in words
    assert "lower than" not in words


def test_schedules_of_several_losses_are_not_ranked(two_losses: Path) -> None:
    curves = lrlab.load(two_losses).curves
    curves["schedule"] = ["step" if run % 2 else "fixed" for run in curves["run"]]
    with pytest.raises(plots.NothingToDraw, match="nll and mse_one_hot do not compare"):
        plots.schedules(curves)
    plots.schedules(curves.loc[curves["loss"] == "nll"])
