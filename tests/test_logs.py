"""Logs of other programs: each is read as exported, and what was taken for what is said."""

from __future__ import annotations

import json
import math
import random
import sys
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from helpers.logs import CASES, CURVE, curve_text, found, lrs, outcomes, refused, write

from lrlab.logs import reading
from lrlab.logs.columns import Wanted
from lrlab.verdicts import loading

pytestmark = pytest.mark.unit


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
    assert told.notes[0] == (
        "mlruns (MLflow, 3 runs): step from step, train_loss from train/loss, lr from params/lr"
    )
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
        ((folder, "--lr", "x"), "--lr=x: must be a finite number, not below 0"),
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
