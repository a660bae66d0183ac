"""Logs of other programs: each is read as exported, and what was taken for what is said."""

from __future__ import annotations

import json
import math
import random
import re
import shlex
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest

import lrlab
from lrlab import analysis, compare
from lrlab.errors import UserError
from lrlab.logs import columns, reading
from lrlab.logs.columns import Wanted
from lrlab.plots import reading as plots_reading
from lrlab.tables import curve_csv
from lrlab.verdicts import loading

pytestmark = pytest.mark.unit

CASES = Path(__file__).parent / "cases_of_logs"
CURVE = [2.3, 1.9, 1.6, 1.2, 0.9, 0.7, 0.5, 0.4]


def found(path: Path, **wanted: Any) -> reading.Found:
    told = reading.read(path, Wanted(**wanted))
    assert told is not None
    return told


def lrs(told: reading.Found) -> dict[str, float]:
    return dict(zip(told.rows["run"], told.rows["lr"], strict=True))


def outcomes(path: Path, **wanted: Any) -> dict[str, str]:
    verdicts = loading.load([path], wanted=Wanted(**wanted)).verdicts()
    return dict(zip(verdicts["run"], verdicts["outcome"], strict=True))


def refused(path: Path, **wanted: Any) -> str:
    with pytest.raises(UserError) as error:
        loading.load([path], wanted=Wanted(**wanted)).verdicts()
    return str(error.value)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: Any) -> tuple[int, str, str]:
        code = 0
        try:
            analysis.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        out, err = capsys.readouterr()
        return code, out, err

    return run


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def curve_text(header: str, losses: list[float], row: str = "{i},{loss}") -> str:
    rows = [row.format(i=i, loss=loss) for i, loss in enumerate(losses)]
    return "\n".join([header, *rows, ""])


# --- each program, as it exports ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wanted", "line", "runs"),
    [
        (
            "lightning_metrics.csv",
            {},
            "lightning_metrics.csv (Lightning): step from step, epoch from epoch, train_loss from "
            "train_loss_step, val_loss from val_loss, lr from lr-SGD",
            {"lightning_metrics": 0.1},
        ),
        (
            "lightning_logs",
            {},
            "lightning_logs (Lightning, 3 runs): step from step, epoch from epoch, train_loss from "
            "train_loss_step, val_loss from val_loss, lr from hparams.yaml",
            {"version_0": 0.003, "version_2": 0.3, "version_4": 30.0},
        ),
        (
            "lightning_logs/version_2",
            {},
            "metrics.csv (Lightning): step from step, epoch from epoch, train_loss from "
            "train_loss_step, val_loss from val_loss, lr from hparams.yaml",
            {"version_2": 0.3},
        ),
        (
            "wandb_history.csv",
            {},
            "wandb_history.csv (W&B history): step from _step, train_loss from train/loss, "
            "val_loss from val/loss, seconds from _runtime, lr from lr",
            {"wandb_history": 0.1},
        ),
        (
            "wandb_wide.csv",
            {},
            "wandb_wide.csv (W&B chart, 3 runs): step from Step, train_loss from train/loss, "
            "lr from their names",
            {"lr=0.001": 0.001, "lr=0.01": 0.01, "lr=0.1": 0.1},
        ),
        (
            "wandb_chart.csv",
            {"lr": ("dandy-sun-0=0.003", "dandy-sun-1=0.03")},
            "wandb_chart.csv (W&B chart, 2 runs): step from Step, train_loss from train/loss, "
            "lr from --lr",
            {"dandy-sun-0": 0.003, "dandy-sun-1": 0.03},
        ),
        (
            "tensorboard.csv",
            {"lr": ("0.05",)},
            "tensorboard.csv (TensorBoard CSV): step from Step, train_loss from Value (assumed), "
            "lr from --lr",
            {"tensorboard": 0.05},
        ),
        (
            "tb_run2_lr0.3.csv",
            {},
            "tb_run2_lr0.3.csv (TensorBoard CSV): step from Step, train_loss from Value (assumed), "
            "lr from its name",
            {"tb_run2_lr0.3": 0.3},
        ),
        (
            "keras_csvlogger.csv",
            {},
            "keras_csvlogger.csv (Keras CSVLogger): epoch from epoch + 1, train_loss from loss, "
            "val_loss from val_loss, lr from learning_rate",
            {"keras_csvlogger": 0.001},
        ),
        (
            "hf",
            {},
            "hf (Hugging Face Trainer, 2 runs): step from step, epoch from epoch, train_loss from "
            "loss, val_loss from eval_loss, grad_norm from grad_norm, lr_at_step from "
            "learning_rate, lr from learning_rate, the highest of each run",
            {"run_0": 0.0029325, "run_2": 0.29325},
        ),
        (
            "hf/run_2/checkpoint-400/trainer_state.json",
            {"lr": ("0.3",)},
            "trainer_state.json (Hugging Face Trainer): step from step, epoch from epoch, "
            "train_loss from loss, val_loss from eval_loss, grad_norm from grad_norm, lr_at_step "
            "from learning_rate, lr from --lr",
            {"run_2": 0.3},
        ),
        (
            "algoperf_measurements.csv",
            {"lr": ("0.1",)},
            "algoperf_measurements.csv (AlgoPerf): step from global_step, train_loss from loss, "
            "val_loss from validation/loss, grad_norm from grad_norm, seconds from "
            "accumulated_submission_time, lr from --lr",
            {"algoperf_measurements": 0.1},
        ),
    ],
)
def test_an_export_is_read_as_it_is(
    name: str, wanted: Any, line: str, runs: dict[str, float]
) -> None:
    told = found(CASES / name, **wanted)
    assert told.notes[0] == line
    assert lrs(told) == runs
    verdicts = loading.load([CASES / name], wanted=Wanted(**wanted)).verdicts()
    assert sorted(verdicts["run"]) == sorted(runs)
    assert verdicts["end_loss"].map(math.isfinite).all()


def test_the_losses_are_those_of_the_file() -> None:
    """Against pandas, which reads the columns by name and drops the holes."""
    for name, train, val, step in (
        ("lightning_metrics.csv", "train_loss_step", "val_loss", "step"),
        ("wandb_history.csv", "train/loss", "val/loss", "_step"),
        ("algoperf_measurements.csv", "loss", "validation/loss", "global_step"),
    ):
        raw, told = pd.read_csv(CASES / name), found(CASES / name, lr=("0.1",)).rows
        for ours, theirs in (("train_loss", train), ("val_loss", val)):
            expected = raw[[step, theirs]].dropna().to_numpy()
            rows = told[["step", ours]].dropna().to_numpy()
            assert rows.tolist() == expected.tolist(), (name, ours)
    wide = pd.read_csv(CASES / "wandb_wide.csv")
    rows = found(CASES / "wandb_wide.csv").rows
    for lr in ("0.001", "0.01", "0.1"):
        mine = rows.loc[rows["run"] == f"lr={lr}", "train_loss"].tolist()
        assert mine == wide[f"lr={lr} - train/loss"].dropna().tolist()
    state = json.loads((CASES / "hf/run_2/checkpoint-400/trainer_state.json").read_text())
    losses = [each["loss"] for each in state["log_history"] if "loss" in each]
    rows = found(CASES / "hf").rows
    assert rows.loc[rows["run"] == "run_2", "train_loss"].dropna().tolist() == losses


def test_the_verdicts_of_a_folder_of_versions() -> None:
    assert outcomes(CASES / "lightning_logs") == {
        "version_0": "undershooting",
        "version_2": "converged",
        "version_4": "overshooting",
    }


def test_the_loss_of_keras_first_epoch_stands_after_it() -> None:
    assert found(CASES / "keras_csvlogger.csv").rows["epoch"].tolist() == [*range(1, 13)]


def event_file(folder: Path, points: dict[str, list[tuple[int, float]]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    writer = EventFileWriter(str(folder))
    for tag, values in points.items():
        for step, value in values:
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(Event(wall_time=1e9 + step, step=step, summary=summary))
    writer.close()


@pytest.mark.default  # its writer has a thread
def test_event_files_of_tensorboard(tmp_path: Path, command: Any) -> None:
    points = [(10 * i, loss) for i, loss in enumerate(CURVE)]
    for lr, scale in ((0.01, 2.0), (0.1, 1.0)):
        tags = {"Loss/train": [(step, scale * loss) for step, loss in points]}
        tags |= {"Loss/val": [(40, 1.5 * scale), (70, scale)], "accuracy": [(0, 0.1)]}
        event_file(tmp_path / f"lr{lr}", tags)
    (tmp_path / "link").symlink_to(tmp_path / "lr0.1")
    told = found(tmp_path)
    assert lrs(told) == {"lr0.01": 0.01, "lr0.1": 0.1}
    mine = told.rows.loc[told.rows["run"] == "lr0.1"]
    assert np.allclose(mine["train_loss"].dropna(), CURVE) and len(mine["val_loss"].dropna()) == 2
    assert any("1 links were not followed" in note for note in told.notes)
    file = next((tmp_path / "lr0.1").iterdir())
    assert lrs(found(file)) == {"lr0.1": 0.1}
    hidden = {name: None for name in sys.modules if name.split(".")[0] == "tensorboard"}
    with mock.patch.dict(sys.modules, {**hidden, "tensorboard": None}):
        code, out, err = command(file)
    assert (code, out) == (2, "") and "pip install 'lrlab[tensorboard]'" in err
    write(tmp_path / "bad" / f"{reading.tensorboard.EVENT_FILE}.x", "no events here" * 9)
    assert "bad" in refused(tmp_path / "bad")


def test_downloads_of_one_tensorboard_run_go_together(tmp_path: Path) -> None:
    header = "Wall time,Step,Value"
    rows = [f"{1e9 + i},{i},{loss}" for i, loss in enumerate(CURVE)]
    write(tmp_path / "run-lr=0.1-tag-train_loss.csv", "\n".join([header, *rows, ""]))
    write(tmp_path / "run-lr=0.1-tag-val_loss.csv", f"{header}\n1e9,3,1.5\n1e9,7,1\n")
    told = found(tmp_path)
    assert lrs(told) == {"lr=0.1": 0.1}
    assert told.rows["train_loss"].dropna().tolist() == CURVE
    assert told.rows["val_loss"].dropna().tolist() == [1.5, 1.0]


def mlflow_run(folder: Path, name: str, lr: str, losses: list[float]) -> None:
    write(folder / "meta.yaml", f"run_id: {folder.name}\n")
    write(folder / "tags" / "mlflow.runName", name)
    write(folder / "params" / "lr", lr)
    write(folder / "params" / "optimizer", "sgd")
    lines = "".join(f"{1000 + i} {loss} {i}\n" for i, loss in enumerate(losses))
    write(folder / "metrics" / "train" / "loss", lines)
    write(folder / "metrics" / "accuracy", "1000 0.5 0\n")


def test_run_folders_of_mlflow(tmp_path: Path) -> None:
    store = tmp_path / "mlruns"
    mlflow_run(store / "0" / "aa", "small", "0.01", [2.3 - 0.01 * i for i in range(8)])
    mlflow_run(store / "0" / "bb", "good", "0.1", CURVE)
    mlflow_run(store / "0" / "cc", "lost", "1", [2.3, 9.0, math.nan])
    write(store / "0" / "dd" / "meta.yaml", "run_id: dd\n")
    write(store / "0" / "dd" / "metrics" / "accuracy", "1 1 1\n")
    told = found(store)
    assert lrs(told) == {"small": 0.01, "good": 0.1, "lost": 1.0}
    assert set(told.rows["optimizer"]) == {"sgd"}
    assert told.notes[0] == "mlruns (MLflow, 3 runs): train_loss from train/loss, lr from params/lr"
    assert any("dd: none of its metrics is a loss" in note for note in told.notes)
    mine = told.rows.loc[told.rows["run"] == "good"]
    assert mine["train_loss"].tolist() == CURVE and mine["step"].tolist() == [*range(8)]
    assert outcomes(store) == {"small": "undershooting", "good": "converged", "lost": "diverged"}
    assert lrs(found(store / "0" / "bb")) == {"good": 0.1}


def study(storage: Any, points: bool = True, direction: str = "minimize") -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = optuna.create_study(storage=storage, study_name="s", direction=direction)
    space = {"lr": optuna.distributions.FloatDistribution(1e-4, 10, log=True)}
    space["act"] = optuna.distributions.CategoricalDistribution(["relu", "gelu"])
    for lr, scale in ((0.001, 2.0), (0.01, 1.0), (1.0, math.nan)):
        made.enqueue_trial({"lr": lr, "act": "gelu"})
        trial = made.ask(space)
        if points:
            for step, loss in enumerate(CURVE):
                trial.report(scale * loss if step else 2.3, step)
        last = scale * CURVE[-1]
        state = None if math.isfinite(last) else optuna.trial.TrialState.FAIL
        made.tell(trial, last if math.isfinite(last) else None, state=state)


@pytest.mark.default
@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_trials_of_optuna(tmp_path: Path, kind: str) -> None:
    import optuna

    file = tmp_path / ("study.log" if kind == "journal" else "study.db")
    if kind == "journal":
        backend = optuna.storages.journal.JournalFileBackend(str(file))
        study(optuna.storages.JournalStorage(backend))
    else:
        study(f"sqlite:///{file}")
    before = file.read_bytes()
    file.chmod(0o400)
    told = found(file)
    assert lrs(told) == {"0": 0.001, "1": 0.01, "2": 1.0}
    assert told.rows.loc[told.rows["run"] == "1", "val_loss"].tolist() == [2.3, *CURVE[1:]]
    assert set(told.rows["params.act"]) == {"gelu"}
    assert "val_loss from the intermediate values (assumed), lr from the parameter lr" in (
        told.notes[0]
    )
    assert not told.counts_steps, "they may be reported once an epoch"
    judged = outcomes(file)
    assert judged["1"] == "converged" and judged["2"] == "diverged"
    assert file.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == [file.name]


@pytest.mark.default
def test_a_study_without_points_or_of_accuracies(tmp_path: Path) -> None:
    study(f"sqlite:///{tmp_path}/ends.db", points=False)
    told = found(tmp_path / "ends.db")
    assert told.ends and told.rows["end_loss"].tolist() == [2 * CURVE[-1], CURVE[-1]]
    study(f"sqlite:///{tmp_path}/up.db", direction="maximize")
    assert "does not minimize one value" in refused(tmp_path / "up.db")


def test_other_databases_say_what_to_do(tmp_path: Path) -> None:
    import sqlite3

    database = sqlite3.connect(tmp_path / "mlflow.db")
    database.executescript("CREATE TABLE metrics (a); CREATE TABLE params (a);")
    database.close()
    assert "mlflow experiments csv" in refused(tmp_path / "mlflow.db")
    database = sqlite3.connect(tmp_path / "other.db")
    database.executescript("CREATE TABLE x (a);")
    database.close()
    assert "holds no study of Optuna" in refused(tmp_path / "other.db")


# --- the learning rate ----------------------------------------------------------------------------


def test_a_missing_lr_says_what_to_type(tmp_path: Path) -> None:
    assert refused(CASES / "tensorboard.csv") == (
        f"{CASES}/tensorboard.csv: read as TensorBoard CSV, the learning rate is not in it; add "
        "it, for example --lr 0.1"
    )
    assert refused(CASES / "wandb_chart.csv").endswith(
        "is not in it (dandy-sun-0, dandy-sun-1); add --lr dandy-sun-0=0.1 for each run"
    )
    for name in ("net-3_a", "net-1_b"):
        write(tmp_path / name / "log.csv", curve_text("step,loss", CURVE))
    told = refused(tmp_path)
    assert told.endswith("add --lr-from 'net-{lr}_b', else --lr net-1_b=0.1 for each run")


def test_an_lr_from_a_name_a_column_or_a_word(tmp_path: Path) -> None:
    for name in ("eta_0.3_seed1_adam", "eta_3e-2_seed2_sgd"):
        write(tmp_path / name / "log.csv", curve_text("step,loss", CURVE))
    told = found(tmp_path, lr_from="eta_{lr}_seed{seed}_{optimizer}")
    assert lrs(told) == {"eta_0.3_seed1_adam": 0.3, "eta_3e-2_seed2_sgd": 0.03}
    assert set(told.rows["seed"]) == {1, 2} and set(told.rows["optimizer"]) == {"adam", "sgd"}
    assert lrs(found(tmp_path, lr_from=r"eta_(?P<lr>[^_]+)")) == lrs(told)
    file = write(tmp_path / "a.csv", curve_text("step,loss,speed", CURVE, "{i},{loss},0.2"))
    assert lrs(found(file, lr_column="speed")) == {"a": 0.2}
    assert "no such column (did you mean speed?)" in refused(file, lr_column="sped")
    assert lrs(found(file, lr=("0.5",))) == {"a": 0.5}
    name = write(tmp_path / "x_lr1e-3_wd0.1.csv", curve_text("step,loss", CURVE))
    assert lrs(found(name)) == {"x_lr1e-3_wd0.1": 0.001}
    index = write(tmp_path / "lr1.csv", curve_text("step,loss", CURVE))
    assert "--lr 0.1" in refused(index), "it may be the second of lr0, lr1, lr2"
    assert lrs(found(index, lr_from="lr{lr}")) == {"lr1": 1.0}


def test_options_that_cannot_work_are_refused(tmp_path: Path, command: Any) -> None:
    own = write(tmp_path / "own.csv", curve_text("step,train_loss,run,lr", CURVE, "{i},{loss},a,1"))
    folder = tmp_path / "both"
    for name in "ab":
        write(folder / name / "log.csv", curve_text("step,loss", CURVE))
    for words, message in (
        ((folder, "--lr", "0.1"), "--lr=0.1: is the rate of one run, and there are 2 (a, b)"),
        ((folder, "--lr", "c=1", "--lr", "b=1"), "--lr=c=1: there is no run c"),
        ((folder, "--lr", "x"), "--lr=x: must be a number not below 0"),
        ((folder, "--lr-from", "lr"), "--lr-from=lr: needs {lr} or a group (?P<lr>...)"),
        ((folder, "--lr-from", "(?P<lr>"), "is no regular expression"),
        ((folder, "--lr-from", "{lr}{x}"), "{x} is unknown"),
        ((folder, "--lr-from", "net{lr}"), "finds no rate in the name a"),
        ((folder, "--column", "loss"), "--column=loss: must be OURS=THEIRS"),
        ((own, "--column", "val_loss=x"), "--column=val_loss=x"),
    ):
        code, out, err = command(*words)
        assert (code, out) == (2, "") and message in err and err.count("\n") == 1, words
    sweep = tmp_path / "sweep"
    write(sweep / "multirun.yaml", "{}")
    code, out, err = command(sweep, "--lr", "0.1")
    assert (code, out) == (2, "") and "is for logs of other programs" in err


def test_a_rate_that_changes_is_that_of_each_step(tmp_path: Path) -> None:
    rates = [0.01, 0.05, 0.1, 0.1, 0.05, 0.02, 0.01, 0.001]
    rows = [f"{i},{loss},{lr}" for i, (loss, lr) in enumerate(zip(CURVE, rates, strict=True))]
    told = found(write(tmp_path / "a.csv", "\n".join(["step,loss,learning_rate", *rows, ""])))
    assert lrs(told) == {"a": 0.1} and told.rows["lr_at_step"].tolist() == rates
    assert "lr from learning_rate, the highest of each run" in told.notes[0]


def test_rows_that_only_their_lr_tells_apart_are_runs_of_their_own(tmp_path: Path) -> None:
    rows = [f"{lr},{i},{loss}" for lr in (0.1, 0.3) for i, loss in enumerate(CURVE)]
    told = found(write(tmp_path / "a.csv", "\n".join(["lr,step,train_loss", *rows, ""])))
    assert lrs(told) == {"lr=0.1": 0.1, "lr=0.3": 0.3}
    assert any("each learning rate is taken as one" in note for note in told.notes)


# --- right readings -------------------------------------------------------------------------------


def test_a_blank_loss_is_a_hole_and_a_written_nan_is_not(tmp_path: Path) -> None:
    rows = ["0,2.3,", "1,,2.2", "2,1.5,", "3,,1.6", "4,1.0,"]
    header = "step,train_loss,val_loss"
    blank = write(tmp_path / "blank.csv", "\n".join([header, *rows, "5,,", ""]))
    told = found(blank, lr=("0.1",))
    assert not np.isinf(told.rows["train_loss"]).any() and len(told.rows) == 5
    assert any("taken as not measured" in note for note in told.notes)
    lost = write(tmp_path / "lost.csv", "\n".join([header, *rows, "5,nan,", ""]))
    told = found(lost, lr=("0.1",))
    assert told.rows["train_loss"].tolist()[-1] == math.inf
    assert any("train_loss is written as nan in 1 row" in note for note in told.notes)
    assert outcomes(lost, lr=("0.1",)) == {"lost": "diverged"}
    assert outcomes(blank, lr=("0.1",)) == {"blank": "not compared"}
    every = ["0,2.3,2.4", "1,1.9,nan", "2,1.5,1.6", "3,1.2,nan", "4,1.0,1.1"]
    kept = found(write(tmp_path / "k.csv", "\n".join([header, *every, ""])), lr=("0.1",))
    assert not np.isinf(kept.rows["val_loss"]).any(), "nan is how this file writes a hole"
    assert any("with finite losses after: taken as not measured" in note for note in kept.notes)


def test_the_same_in_a_csv_of_lrlabs_own_columns(tmp_path: Path) -> None:
    def outcome_of(*last: str) -> list[str]:
        rows = [f"{run},{lr},{i},{loss}" for run, lr in (("a", 1), ("b", 0.1)) for i, loss in (
            enumerate(CURVE))]
        file = write(tmp_path / "own.csv", "\n".join(["run,lr,step,train_loss", *rows, *last, ""]))
        frame, notes = curve_csv.read(file)
        said.append(" ".join(notes))
        judged = loading.verdicts(frame)
        return judged["outcome"].tolist()

    said: list[str] = []
    assert outcome_of("a,1,8,nan", "b,0.1,8,0.3")[0] == "diverged"
    assert outcome_of("a,1,8,", "b,0.1,8,")[0] != "diverged", "each ends so: a habit"
    assert "taken as not measured" in said[-1]
    assert outcome_of("a,1,8,", "b,0.1,8,0.3")[0] == "diverged", "as pandas writes a lost loss"
    assert "run a: blank losses at the end, taken as lost" in said[-1]


def test_a_trailing_row_of_something_else_is_no_lost_loss() -> None:
    assert outcomes(CASES / "trailing_test_row.csv") == {"a": "not compared"}


def test_a_loss_of_zero_with_a_norm_that_is_none(tmp_path: Path) -> None:
    assert outcomes(CASES / "zero_loss_nan_gradient.csv") == {"a": "diverged", "b": "converged"}
    history = [{"step": i, "loss": loss, "grad_norm": 1.0} for i, loss in enumerate(CURVE)]
    history += [{"step": 8 + i, "loss": 0.0, "grad_norm": math.nan} for i in range(3)]
    file = write(tmp_path / "trainer_state.json", json.dumps({"log_history": history}))
    told = found(file, lr=("0.1",))
    assert told.rows["train_loss"].tolist() == [*CURVE, math.inf, math.inf, math.inf]
    assert any("a loss of exactly 0" in note for note in told.notes)


def test_steps_that_begin_again_are_counted_on(tmp_path: Path) -> None:
    raw = pd.read_csv(CASES / "steps_restart.csv")
    curves = loading.load([CASES / "steps_restart.csv"]).curves
    assert curves["step"].tolist() == [*range(len(raw))]
    text = curve_text("step,loss", [*CURVE[:5]]) + "".join(
        f"{i},{loss}\n" for i, loss in enumerate(CURVE[5:])
    )
    told = found(write(tmp_path / "a.csv", text), lr=("0.1",))
    assert told.rows["step"].tolist() == [*range(8)]
    assert any("begin again at 0; they are counted on" in note for note in told.notes)


def test_repeated_headers_and_steps(tmp_path: Path) -> None:
    header = "epoch,accuracy,loss"
    lines = [header, "0,0.1,2.3", "1,0.2,2.0", header, "2,0.3,1.5", "2,0.3,1.4", ""]
    told = found(write(tmp_path / "a.csv", "\n".join(lines)), lr=("0.1",))
    assert told.rows["train_loss"].tolist() == [2.3, 2.0, 1.5, 1.4]
    assert any("its first line comes again" in note for note in told.notes)
    assert any("train_loss stands twice at 1 of its epochs" in note for note in told.notes)
    judged = loading.load([tmp_path / "a.csv"], wanted=Wanted(lr=("0.1",))).verdicts()
    assert judged["last_loss"].tolist() == [1.4]
    own = ["run,lr,step,train_loss", "a,1,0,2", "run,lr,step,train_loss", "a,1,1,x", ""]
    with pytest.raises(UserError, match="'x' in line 4"):
        curve_csv.read(write(tmp_path / "own.csv", "\n".join(own)))


def test_the_mean_over_all_training_is_no_point(tmp_path: Path) -> None:
    history: list[dict[str, float]] = [{"step": i, "loss": each} for i, each in enumerate(CURVE)]
    history.append({"step": 7, "train_loss": 1.25, "train_runtime": 3.0})
    file = write(tmp_path / "trainer_state.json", json.dumps({"log_history": history}))
    told = found(file, lr=("0.1",))
    assert told.rows["train_loss"].tolist() == CURVE
    assert any("is the mean over all training: left out" in note for note in told.notes)
    rows = [f"{i},{loss}," for i, loss in enumerate(CURVE)]
    table = write(tmp_path / "h.csv", "\n".join(["step,train/loss,train/train_loss", *rows]))
    with table.open("a") as stream:
        stream.write("\n7,,1.25\n")
    assert found(table, lr=("0.1",)).rows["train_loss"].tolist() == CURVE


def test_a_step_may_be_a_count_of_tokens(tmp_path: Path) -> None:
    text = curve_text("tokens_seen,loss", CURVE, "{i}0485760,{loss}")
    file = write(tmp_path / "a.csv", text)
    told = found(file, lr=("0.1",))
    assert told.rows["step"].tolist() == [float(f"{i}0485760") for i in range(8)]
    assert any("tokens_seen counts samples or tokens" in note for note in told.notes)
    loaded = loading.load([file], wanted=Wanted(lr=("0.1",)))
    (answer,) = loaded.answers(loaded.verdicts())
    assert math.isnan(answer.steps), "no budget of steps is claimed"


def test_ambiguous_columns_are_asked_for(tmp_path: Path) -> None:
    text = curve_text("step,val_a_loss,val_b_loss,loss", CURVE, "{i},{loss},{loss},{loss}")
    file = write(tmp_path / "a.csv", text)
    message = refused(file, lr=("0.1",))
    assert "may each be the val loss; say which: --column val_loss=val_a_loss" in message
    told = found(file, lr=("0.1",), columns=(("val_loss", "val_b_loss"),))
    assert "val_loss from val_b_loss" in told.notes[0]


def test_words_of_columns() -> None:
    for name, part in {
        "train/loss": "train",
        "trainLoss": "train",
        "loss": "train",
        "valid_loss": "val",
        "eval/nll": "val",
        "test_loss": "test",
        "val_cross_entropy": "val",
        "best_val_loss": "",
        "loss_scale": "",
        "train/loss__MIN": "",
        "accuracy": "",
    }.items():
        assert columns.loss_of(name) == part, name


def test_folders_that_hold_other_things(tmp_path: Path) -> None:
    write(tmp_path / "data.csv", "pixel,label\n1,2\n")
    write(tmp_path / "lr=0.1" / "progress.csv", curve_text("step,loss", CURVE))
    write(tmp_path / "more" / "old" / "multirun.yaml", "{}")
    write(tmp_path / "more" / "old" / "0" / "metrics.csv", "step,epoch,lr,train_loss,val_loss\n")
    write(tmp_path / "empty" / "metrics.csv", "step,loss\n")
    told = found(tmp_path)
    assert lrs(told) == {"lr=0.1": 0.1}
    line = "2 CSVs hold no curve that lrlab knows, and were left out: data.csv, metrics.csv"
    assert any(line in note for note in told.notes)


def test_the_last_checkpoint_of_a_run_counts(tmp_path: Path) -> None:
    for count in (2, 8, 4):
        history = [{"step": i, "loss": CURVE[i], "learning_rate": 0.1} for i in range(count)]
        text = json.dumps({"global_step": count, "log_history": history})
        write(tmp_path / "a" / f"checkpoint-{count}" / "trainer_state.json", text)
    assert found(tmp_path).rows["train_loss"].tolist() == CURVE
    assert lrs(found(tmp_path)) == {"a": 0.1}


def test_several_logs_are_judged_together(command: Any) -> None:
    code, out, err = command(CASES / "tb_run2_lr0.3.csv", CASES / "keras_csvlogger.csv")
    assert code == 0 and err.count("\n") == 2
    assert "\ntb_run2_lr0.3  " in out and "\nkeras_csvlogger  " in out


def test_figures_and_comparisons_take_the_same_logs(
    capsys: pytest.CaptureFixture[str]
) -> None:
    tables, notes = plots_reading.load(CASES / "lightning_logs")
    assert tables.verdicts is not None and len(tables.runs) == 3 and len(notes) == 1
    assert tables.answers[0].best_lr == 0.3
    compare.main([str(CASES / "lightning_logs"), str(CASES / "hf"), "--no-files"])
    assert "B  lr=0.29325" in capsys.readouterr().out


def test_the_page_shows_what_is_printed(
    command: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CASES)
    page = (CASES.parents[1] / "docs" / "logs.md").read_text(encoding="utf-8")
    typed = re.findall(r"^    \$ python -m lrlab\.analysis (.+)\n((?:    .*\n|\n)*)", page, re.M)
    assert len(typed) == page.count("    $ ") >= 10
    for words, printed in typed:
        _, out, err = command(*shlex.split(words))
        lines = [line.strip() for line in printed.splitlines()]
        assert [line for line in lines if line and line not in (out + err)] == [], words
    (program,) = re.findall(r"^(    import lrlab.*?)^`", page, re.M | re.S)
    exec(compile(textwrap.dedent(program), "logs.md", "exec"), {})
    assert "answer  lr=0.001" in capsys.readouterr().out


def test_a_json_object_in_each_line(tmp_path: Path) -> None:
    lines = [json.dumps({"step": i, "loss": loss, "lr": 0.1}) for i, loss in enumerate(CURVE)]
    lines += ['{"step": 7, "val": {"a": 1}, "lr": 0.1}', '{"step": 8, "loss": NaN, "lr": 0.1}']
    file = write(tmp_path / "a.jsonl", "\n".join([*lines, '{"step": 9, "lo']))
    told = found(file)
    assert told.rows["train_loss"].tolist() == [*CURVE, math.inf] and lrs(told) == {"a": 0.1}
    assert lrs(found(tmp_path)) == {"a": 0.1}
    write(file, "\n".join([lines[0], lines[1], "x", lines[2], ""]))
    assert "line 3 is no JSON object" in refused(file)


def test_a_database_may_be_typed_as_its_url(tmp_path: Path, command: Any) -> None:
    code, out, err = command("postgresql://me:secret@host/db")
    assert (code, out) == (2, "") and "optuna.copy_study" in err and "secret" not in err
    (tmp_path / "s.db").write_bytes(b"SQLite format 3\0")
    assert "s.db: is a database that cannot be read" in command(f"sqlite:///{tmp_path}/s.db")[2]


# --- hostile --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.json", b"{"),
        ("a.json", b"[1, 2]"),
        ("a.json", b'{"log_history": 3}'),
        ("a.json", b'{"log_history": [{"loss": "x", "step": 1}]}'),
        ("a.json", b'{"log_history": [{"loss": ' + b"9" * 5000 + b', "step": 1}]}'),
        ("a.json", b"[" * 100_000),
        ("a.csv", b"step,loss\n0," + b"9" * 200_000 + b"\n"),
        ("a.csv", b'step,loss\n0,"' + b"9" * 200_000),
        ("a.csv", b"step,loss\n0,1\n1,\xff\xfe\n"),
        ("a.csv", b"\x00\x01\x02step,loss\n"),
        ("a.csv", b"step,loss\n0,1,2,3\n"),
        ("a.csv", b"step,loss\n"),
        ("a.csv", b"step,loss,loss\n0,1,2\n"),
        ("a.db", b"SQLite format 3\0" + b"\xff" * 200),
        ("a.log", b'{"op_code": 9}\n{"op_code": 5}\n'),
        ("a.log", b'{"op_code": 4, "study_id": 7}\n'),
        ("events.out.tfevents.1", b"\x80\x04\x95"),
        ("a.pkl", b"\x80\x04\x95\x00\x00."),
    ],
)
def test_damaged_logs_are_one_line(command: Any, tmp_path: Path, name: str, data: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(data)
    code, out, err = command(file, "--lr", "0.1")
    assert (code, out) == (2, "") and err.count("\n") == 1 and err.startswith("lrlab: "), err
    assert len(err) < 1000 and err[:-1].isprintable()


NAMES = (
    *("run", "lr", "step", "epoch", "train_loss", "val_loss", "loss", "learning_rate", "seed"),
    *("width", "acc", "global_step", "score", "_step", "_runtime", "grad_norm", "loss_epoch"),
    *("lr-SGD", "tokens", "a - loss", "a - loss__MIN", "Wall time", "Value", "Step", "", "a.b"),
)
CELLS = ("", "0", "1", "0.1", "nan", "inf", "-inf", "NaN", "Infinity", "2.3", "x", "-1", "1e400")


@pytest.mark.parametrize("seed", range(60))
def test_any_table_ends_in_a_result_or_one_line(command: Any, tmp_path: Path, seed: int) -> None:
    drawn = random.Random(seed)
    likely = ["lr", "loss", "step"][drawn.randint(0, 3) :]
    names = list(dict.fromkeys([*likely, *drawn.sample(NAMES, 5)]))

    def cell(name: str, row: int) -> str:
        usual = {"lr": "0.1", "loss": f"{2 / (row + 1):.3f}", "step": str(row)}
        return drawn.choice([usual.get(name, "1"), usual.get(name, "2"), drawn.choice(CELLS)])

    rows = [",".join(cell(name, row) for name in names) for row in range(drawn.randint(0, 8))]
    file = write(tmp_path / "a.csv", "\n".join([",".join(names), *rows, ""]))
    code, out, err = command(file, *drawn.choice([(), ("--lr", "0.1"), ("--lr-column", "lr")]))
    if code:
        assert (code, out) == (2, "") and err.count("\n") == 1 and err.startswith("lrlab: ")
    else:
        assert "answer  " in out


def test_links_are_not_followed_and_yaml_calls_nothing(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret" / "log.csv", curve_text("step,loss", CURVE))
    folder = tmp_path / "logs"
    text = (CASES / "lightning_metrics.csv").read_text().replace(",lr-SGD", ",x")
    write(folder / "v" / "metrics.csv", text)
    (folder / "out.csv").symlink_to(secret)
    (folder / "up").symlink_to(tmp_path)
    write(folder / "v" / "hparams.yaml", "lr: !!python/object/apply:os.mkdir ['pwned']\n")
    told = refused(folder)
    assert "the learning rate is not in it" in told and not Path("pwned").exists()
    (folder / "v" / "hparams.yaml").unlink()
    write(tmp_path / "elsewhere.yaml", "lr: 0.5\n")
    (folder / "v" / "hparams.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    assert "the learning rate is not in it" in refused(folder)
    assert lrs(found(folder, lr=("0.1",))) == {"v": 0.1}
    link = tmp_path / "mine"
    link.symlink_to(CASES / "hf" / "run_2" / "checkpoint-400" / "trainer_state.json")
    assert len(lrs(found(link))) == 1, "a link that was typed is meant"


def test_a_folder_that_never_ends(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(40):
        deep = deep / "d"
    write(deep / "metrics.csv", curve_text("step,loss", CURVE))
    assert "holds no runs" in refused(tmp_path)
    with mock.patch.object(reading, "_MOST", 3):
        for i in range(5):
            write(tmp_path / f"{i}.csv", "step,loss\n0,1\n")
        assert "has more than 3 files" in refused(tmp_path)


# --- from Python ----------------------------------------------------------------------------------


def test_judge_takes_curves_in_any_names(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "name": ["a"] * 8 + ["b"] * 8,
            "learning_rate": [0.1] * 8 + [0.001] * 8,
            "iteration": [*range(8)] * 2,
            "training_loss": CURVE + [2.3 - 0.01 * i for i in range(8)],
        }
    )
    told = lrlab.judge(frame)
    assert told.answer.lr == 0.1
    assert told.verdicts["outcome"].tolist() == ["converged", "undershooting"]
    assert "train_loss from training_loss" in told.notes[0]
    assert "answer  lr=0.1" in str(told) and "undershooting" in str(told)
    own = frame.set_axis(["run", "lr", "step", "train_loss"], axis=1)
    assert lrlab.judge(own).verdicts["outcome"].tolist() == told.verdicts["outcome"].tolist()
    assert lrlab.judge(own).notes == ()
    lost = own.assign(train_loss=[*CURVE[:6], math.nan, math.nan, *own["train_loss"][8:]])
    assert lrlab.judge(lost).verdicts["outcome"].tolist()[0] == "diverged"
    renamed = lost.rename(columns={"train_loss": "loss"})
    assert lrlab.judge(renamed).verdicts["outcome"].tolist()[0] == "diverged"


def test_judge_says_what_is_missing() -> None:
    alone = pd.DataFrame({"step": [0, 1, 2], "loss": [2.0, 1.0, 0.5]})
    with pytest.raises(UserError, match="the learning rate is not in it"):
        lrlab.judge(alone)
    assert lrlab.judge(alone, lr=0.1).answer.lr == 0.1
    strange = pd.DataFrame({"step": [0, 1], "x": [2.0, 1.0]})
    with pytest.raises(UserError, match="frame: needs run, lr, step or epoch"):
        lrlab.judge(strange, lr=0.1)
    assert lrlab.judge(strange, lr=0.1, columns={"train_loss": "x"}).answer.lr == 0.1
    with pytest.raises(UserError, match="columns=loss: unknown; choose from run, step"):
        lrlab.judge(strange, lr=0.1, columns={"loss": "x"})
    with pytest.raises(UserError, match="must be a pandas DataFrame"):
        lrlab.judge([1])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="must be a number not below 0"):
        lrlab.judge(alone, lr=-1)
