"""Logs of other programs as they are at times: sorted otherwise, written on, and not logs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.logs import CURVE, curve_text, found, lrs, outcomes, refused, write

from lrlab.logs import columns
from lrlab.logs.columns import Wanted
from lrlab.tables import restarts
from lrlab.verdicts import loading

pytestmark = pytest.mark.unit

SLOW = [2.3 - 0.05 * i for i in range(8)]
LOST = [2.3, 9.0, 80.0, math.nan, math.nan, math.nan, math.nan, math.nan]


def said(told: Any, words: str) -> bool:
    return any(words in note for note in told.notes)


# --- holes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("way", ["reversed", "shuffled"])
def test_rows_in_another_order(tmp_path: Path, way: str, own: bool) -> None:
    """A nan is a hole only if a finite loss follows in training, not in the file."""
    curves = ((0.01, SLOW), (0.1, CURVE), (1.0, LOST))
    rows = [f"r{lr},{lr},{i},{loss}" for lr, of in curves for i, loss in enumerate(of)]
    order: Any = range(len(rows))[::-1]
    if way == "shuffled":
        order = np.random.default_rng(0).permutation(len(rows))
    header = "run,lr,step,train_loss" if own else "run,lr,step,loss"
    file = write(tmp_path / "a.csv", "\n".join([header, *(rows[i] for i in order), ""]))
    verdicts = loading.load([file]).verdicts().set_index("run")
    assert verdicts["outcome"].tolist() == ["undershooting", "converged", "diverged"]
    assert verdicts.loc["r1.0", "first_nonfinite"] == 3
    assert verdicts.loc["r0.1", "last_loss"] == CURVE[-1]


def test_nan_as_a_file_writes_its_holes(tmp_path: Path) -> None:
    """Train and val losses in rows of their own, or a val loss now and then: no run is lost."""
    header = "step,train_loss,val_loss"
    apart = [f"{i},{loss},nan\n{i},nan,{loss + 0.1}" for i, loss in enumerate(CURVE)]
    told = found(write(tmp_path / "a.csv", "\n".join([header, *apart, ""])), lr=("0.1",))
    assert told.rows["train_loss"].dropna().tolist() == CURVE
    assert np.isfinite(told.rows["val_loss"].dropna()).all()
    rows = [f"{i},{2 - i / 20},{1.9 if i % 5 == 0 else 'nan'}" for i in range(20)]
    told = found(write(tmp_path / "b.csv", "\n".join([header, *rows, ""])), lr=("0.1",))
    assert told.rows["val_loss"].dropna().tolist() == [1.9] * 4
    assert said(told, "as this file writes its holes: taken as not measured")
    never = [f"{i},{loss},nan" for i, loss in enumerate(CURVE)]
    file = write(tmp_path / "c.csv", "\n".join([header, *never, ""]))
    assert outcomes(file, lr=("0.1",)) == {"c": "not compared"}
    assert loading.load([file], wanted=Wanted(lr=("0.1",))).verdicts()["last_loss"][0] == CURVE[-1]
    # Lost for good: longer than any hole before, and nothing else is finite there.
    lost = apart[:5] + [f"{i},nan,nan\n{i},nan,nan" for i in range(5, 8)]
    file = write(tmp_path / "d.csv", "\n".join([header, *lost, ""]))
    assert outcomes(file, lr=("0.1",)) == {"d": "diverged"}


# --- steps that begin again -----------------------------------------------------------------------


def test_trainings_one_after_the_other_are_runs(tmp_path: Path) -> None:
    """As Keras's CSVLogger(append=True) leaves them: no training's end is another's middle."""
    curves = [SLOW, CURVE, [2.3, 2.0, 1.8, 1.7, 1.6, 1.5, 1.4, 1.3]]
    rows = [f"{i},{loss},{loss}" for of in curves for i, loss in enumerate(of)]
    file = write(tmp_path / "k.csv", "\n".join(["epoch,loss,val_loss", *rows, ""]))
    given = ("k/1=0.01", "k/2=0.1", "k/3=0.3")
    told = found(file, lr=given)
    assert lrs(told) == {"k/1": 0.01, "k/2": 0.1, "k/3": 0.3}
    assert [of["train_loss"].tolist() for _, of in told.rows.groupby("run")] == curves
    assert said(told, "its epochs begin again at 1 with a new loss: taken as 3 runs")
    assert outcomes(file, lr=given) == {
        "k/1": "undershooting", "k/2": "converged", "k/3": "overshooting"
    }
    assert "is the rate of one run, and there are 3 (k/1, k/2, k/3)" in refused(file, lr=("0.1",))
    for shape in ([1] * 8, [0.2, 0.6, 1, 0.8, 0.6, 0.4, 0.2, 0.1]):  # and with the lr in a column
        rates = [lr * each for lr in (0.01, 0.1, 0.3) for each in shape]
        with_lr = [f"{row},{lr}" for row, lr in zip(rows, rates, strict=True)]
        header = "epoch,loss,val_loss,lr"
        other = write(tmp_path / "l.csv", "\n".join([header, *with_lr, ""]))
        assert lrs(found(other)) == {"l/1": 0.01, "l/2": 0.1, "l/3": 0.3}, shape


def test_a_training_that_broke_off_or_stands_twice(tmp_path: Path) -> None:
    header, whole = "step,lr,loss", [f"{i},0.1,{loss}" for i, loss in enumerate(CURVE)]
    for rows, words in (
        (whole[:4] + whole, "1 that broke off early was left out"),
        (whole + [f"{i},0.1,{loss + 0.01}" for i, loss in enumerate(CURVE[:3])], "broke off early"),
        (whole + whole, "it holds a training twice: the later one counts"),
    ):
        told = found(write(tmp_path / "a.csv", "\n".join([header, *rows, ""])))
        assert told.rows["train_loss"].tolist() == CURVE and lrs(told) == {"a": 0.1}
        assert said(told, words)


def test_steps_of_each_epoch_are_numbered_on(tmp_path: Path) -> None:
    """However noisy: the epoch says that the training went on."""
    noise = np.exp(0.8 * np.random.default_rng(3).standard_normal(200))
    losses = (2.3 * 0.98 ** np.arange(200) * noise).round(4).tolist()
    rows = [f"{i // 10},{i % 10},{loss}" for i, loss in enumerate(losses)]
    told = found(write(tmp_path / "a.csv", "\n".join(["epoch,batch,loss", *rows])), lr=("0.1",))
    assert told.rows["step"].tolist() == [*range(200)]
    assert told.rows["train_loss"].tolist() == losses
    assert said(told, "a.csv: its steps begin again with each epoch; they are numbered on")


def test_a_resumed_run_of_val_losses_and_a_noisy_one(tmp_path: Path) -> None:
    rows = [f"{i % 4},{loss}" for i, loss in enumerate(CURVE)]
    told = found(write(tmp_path / "a.csv", "\n".join(["step,val_loss", *rows])), lr=("0.1",))
    assert told.rows["step"].tolist() == [*range(8)]
    assert said(told, "a.csv: its steps begin again at 0; they are numbered on, as for a resumed")
    noise = np.exp(0.3 * np.random.default_rng(0).standard_normal(200))
    losses = 2.3 * 0.98 ** np.arange(200) * noise
    frame = pd.DataFrame(
        {"run": "a", "step": np.arange(200) % 100, "train_loss": losses, "lr": 0.1}
    )
    counted, notes = restarts.counted_on(frame)
    assert counted["step"].tolist() == [*range(200)] and "run a: its steps" in notes[0]


def test_many_restarts_take_no_long_time() -> None:
    """100,000 epochs of 10 steps, which once took a time that grows with the square."""
    at = np.tile(np.arange(10.0), 100_000)
    frame = pd.DataFrame({"run": "a", "step": at, "epoch": np.repeat(np.arange(100_000.0), 10)})
    counted, _ = restarts.counted_on(frame.assign(train_loss=1 / (1 + np.arange(1e6))))
    assert counted["step"].tolist() == [*range(1_000_000)]


# --- columns --------------------------------------------------------------------------------------


def test_a_download_of_tensorboard_that_is_no_loss_is_none(tmp_path: Path) -> None:
    """Keras names the runs r/train and r/validation; accuracies and rates are other tags."""
    def download(name: str, values: list[float]) -> None:
        rows = [f"{1e9 + i},{i},{value}" for i, value in enumerate(values)]
        write(tmp_path / f"run-{name}.csv", "\n".join(["Wall time,Step,Value", *rows, ""]))

    for run, losses in (("lr=0.1", CURVE), ("lr=0.01", SLOW)):
        download(f"{run}_train-tag-epoch_accuracy", [0.1 * i for i in range(8)])
        download(f"{run}_train-tag-epoch_loss", losses)
        download(f"{run}_validation-tag-epoch_loss", [loss + 0.1 for loss in losses])
        download(f"{run}_train-tag-epoch_learning_rate", [0.7] * 8)
    told = found(tmp_path)
    assert lrs(told) == {"lr=0.1": 0.7, "lr=0.01": 0.7}
    rows = told.rows.loc[told.rows["run"] == "lr=0.1"]
    assert rows["train_loss"].dropna().tolist() == CURVE
    assert rows["val_loss"].dropna().tolist() == [loss + 0.1 for loss in CURVE]
    assert said(told, "is of epoch_accuracy by its name, which is no train or val loss")
    alone = tmp_path / "run-lr=0.1_train-tag-epoch_accuracy.csv"
    assert "is of epoch_accuracy by its name" in refused(alone)
    (tmp_path / "accuracy.csv").write_text(alone.read_text())
    message = refused(tmp_path / "accuracy.csv", lr=("0.1",))
    assert "if it is one, add --column train_loss=Value" in message
    taken = found(tmp_path / "accuracy.csv", lr=("0.1",), columns=(("train_loss", "Value"),))
    assert taken.rows["train_loss"].tolist()[1] == 0.1


def test_losses_that_are_counted_differently() -> None:
    last = {"batch_loss": 1000.0, "epoch_loss": 10.0, "val/epoch_loss": 10.0, "val/loss": 10.0}
    roles = {"train_loss": "batch_loss", "val_loss": "val/epoch_loss"}
    assert columns.with_like_steps(roles, last, last.__getitem__) == []
    assert roles["train_loss"] == "epoch_loss"
    roles = {"train_loss": "batch_loss", "val_loss": "val/loss"}
    (line,) = columns.with_like_steps(roles, ["batch_loss", "val/loss"], last.__getitem__)
    assert line == (
        "batch_loss goes to step 1000, val/loss to 10: they may count different things"
    )
    assert columns.best_loss(["val_loss_step", "val_loss_epoch"], "val", lambda _: 3, "") == (
        "val_loss_epoch"
    )
    assert columns.best_loss(["loss_step", "loss_epoch"], "train", lambda _: 3, "") == "loss_step"


def test_other_groups_have_other_rates(tmp_path: Path) -> None:
    text = curve_text("step,loss,lr-Adam/pg1,lr-Adam/pg2", CURVE, "{i},{loss},0.01,0.1")
    told = found(write(tmp_path / "a.csv", text))
    assert lrs(told) == {"a": 0.01}
    assert said(told, "lr-Adam/pg2 has other rates (up to 0.1); --lr-column NAME takes another")
    text = text.replace("lr-Adam/pg1,lr-Adam/pg2", "lr_body,lr_head")
    file = write(tmp_path / "b.csv", text)
    assert refused(file).endswith("for example --lr 0.1, or --lr-column lr_body")
    assert lrs(found(file, lr_column="lr_head")) == {"b": 0.1}
    same = curve_text("step,loss,lr,lr_2,lr_decay", CURVE, "{i},{loss},0.1,0.1,7")
    assert len(found(write(tmp_path / "c.csv", same)).notes) == 1
    nested = curve_text("global_step,loss,charts/learning_rate", CURVE, "{i},{loss},0.1")
    assert lrs(found(write(tmp_path / "d.csv", nested))) == {"d": 0.1}


def test_decimal_commas(tmp_path: Path) -> None:
    rows = [f"a;0,1;{i};{str(loss).replace('.', ',')}" for i, loss in enumerate(CURVE)]
    told = found(write(tmp_path / "a.csv", "\n".join(["run;lr;step;loss", *rows, ""])))
    assert lrs(told) == {"a": 0.1} and told.rows["train_loss"].tolist() == CURVE
    ends = write(tmp_path / "b.csv", "lr;loss\n0,01;2,5\n0,1;1,5\n")
    assert found(ends).rows["end_loss"].tolist() == [2.5, 1.5]
    quoted = write(tmp_path / "c.csv", 'step,loss\n"1,000",2.5\n"2,000",1.5\n')
    message = refused(quoted, lr=("0.1",))
    assert "step=1,000 in line 2: has a comma; write numbers with a decimal point" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run,lr,step,loss\n", "names its columns and has no rows"),
        ("lr,step,reward\n0.1,0,3\n", "none of its columns is a loss by its name"),
        ("lr,step,accuracy\n0.1,0,3\n", "a score that should rise is none"),
        ("lr,step,test_loss\n0.1,0,3\n", "--column val_loss=test_loss takes test_loss"),
        ("iter,lr,loss\n0/9,0.1,2\n1/9,0.1,1\n", "iter=0/9 in line 2: must be a number"),
        ("date,loss\n1,2\n2,3\n", "has a loss, loss, and no column that counts steps or epochs"),
        ('{"step": [0, 1], "loss": [2, 1]}', "and no column that counts steps or epochs"),
    ],
)
def test_a_table_that_is_no_log_is_told_what_would_help(
    tmp_path: Path, text: str, words: str
) -> None:
    assert words in refused(write(tmp_path / "a.csv", text))


def test_charts_over_time_count_no_steps(tmp_path: Path) -> None:
    header = '"Relative Time (Process)","lr: 0.01 - loss","lr: 1 - loss"'
    rows = [f"{10.5 * i},{a},{b}" for i, (a, b) in enumerate(zip(SLOW, CURVE, strict=True))]
    told = found(write(tmp_path / "a.csv", "\n".join([header, *rows, ""])))
    assert lrs(told) == {"lr: 0.01": 0.01, "lr: 1": 1.0} and not told.counts_steps
    assert said(told, "Relative Time (Process) may be no count of steps")
    steps = header.replace("Relative Time (Process)", "trainer/global_step")
    assert found(write(tmp_path / "b.csv", "\n".join([steps, *rows, ""]))).counts_steps


def test_runs_whose_names_are_their_rates(tmp_path: Path) -> None:
    for name in ("0.1", "0.01"):
        write(tmp_path / name / "log.csv", curve_text("step,loss", CURVE))
    assert "add --lr-from '{lr}', else" in refused(tmp_path)
    assert lrs(found(tmp_path, lr_from="{lr}")) == {"0.1": 0.1, "0.01": 0.01}


def test_the_rate_after_a_warmup_that_was_logged_once(tmp_path: Path) -> None:
    rates = [0.05, 0.098, 0.09, 0.07, 0.05, 0.03, 0.02, 0.01]
    history = [
        {"step": i, "loss": loss, "learning_rate": lr}
        for i, (loss, lr) in enumerate(zip(CURVE, rates, strict=True))
    ]
    file = write(tmp_path / "trainer_state.json", json.dumps({"log_history": history}))
    assert said(found(file), "the highest learning_rate was logged once, between lower ones")
    for each in history[1:4]:
        each["learning_rate"] = 0.1
    file.write_text(json.dumps({"log_history": history}))
    assert not said(found(file), "was logged once")


# --- end losses -----------------------------------------------------------------------------------


def test_the_schedule_of_one_run_is_no_table_of_end_losses(tmp_path: Path) -> None:
    """Each has a loss and an lr in each row, and would give a wrong answer."""
    count = 30
    losses = [2.3 * 0.9**i for i in range(count)]
    cosine = [0.05 * (1 + math.cos(math.pi * i / count)) for i in range(count)]
    warm = [0.1 * min((i + 1) / 5, (count - i) / 25) for i in range(count)]
    for rates, words in (
        ([0.1] * count, "has lr 0.1 in each row, and no column counts steps"),
        (cosine, "has an lr that falls from row to row, like the schedule of one run"),
        (warm, "has an lr that falls from row to row, like the schedule of one run"),
    ):
        rows = [f"{lr},{loss}" for lr, loss in zip(rates, losses, strict=True)]
        file = write(tmp_path / "a.csv", "\n".join(["lr,loss", *rows, ""]))
        assert words in refused(file)
        named = [f"{i},{row}" for i, row in enumerate(rows)]
        assert found(write(tmp_path / "b.csv", "\n".join(["run,lr,loss", *named, ""]))).ends
    rising = [f"{1e-4 * 1.5**i},{1 + abs(i - 20)}" for i in range(count)]
    told = found(write(tmp_path / "c.csv", "\n".join(["lr,loss", *rising, ""])))
    assert told.ends and said(told, "each row is taken as a run of its own")
    drawn = np.random.default_rng(0).permutation(rising)
    assert found(write(tmp_path / "d.csv", "\n".join(["lr,loss", *drawn, ""]))).ends


def test_a_loss_that_says_diverged(tmp_path: Path) -> None:
    told = found(write(tmp_path / "a.csv", "lr,loss\n0.01,2\n0.1,1\n1,Diverged\n3,div.\n"))
    assert told.rows["end_loss"].tolist() == [2, 1, math.inf, math.inf]
    assert said(told, "loss says Diverged, div.: taken as not finite")
    assert "loss=broken in line 2" in refused(write(tmp_path / "b.csv", "lr,loss\n0.1,broken\n"))


def test_a_lead_of_its_own_size_is_written_out(tmp_path: Path, command: Any) -> None:
    _, out, _ = command(write(tmp_path / "a.csv", "lr,loss\n0.01,2\n0.1,1\n1,3\n"))
    assert "ended 1 higher (100%)" in out


def test_what_tells_runs_apart_is_no_setting(tmp_path: Path) -> None:
    """As Optuna's trials_dataframe() has it: each row has its own number, date and time."""
    header = "number,value,datetime_complete,best_epoch,time_s,params_lr,params_wd,user_attrs_note"
    rows = [
        f"{i},{2 + abs(i % 4 - 2) + wd},2026-11-30 18:0{i}:00,{7 - i},{i}.5,{10.0 ** (i % 4 - 3)},"
        f"{wd},note {i}"
        for i, wd in enumerate([0.0] * 4 + [0.1] * 4)
    ]
    file = write(tmp_path / "a.csv", "\n".join([header, *rows, ""]))
    told = found(file, columns=(("val_loss", "value"),))
    assert "settings from params_wd, lr from params_lr" in told.notes[0]
    answers = loading.load([file], wanted=Wanted(columns=(("val_loss", "value"),)))
    assert [a.best_lr for a in answers.answers(answers.verdicts())] == [0.1, 0.1]


# --- as the programs' own loggers write -----------------------------------------------------------


def test_batches_of_an_evaluation_are_no_steps_of_training(tmp_path: Path) -> None:
    """As Lightning's CSVLogger writes `log("val_loss", ..., on_step=True, on_epoch=True)`."""
    lines = ["epoch,lr-SGD,step,train_loss_step,val_loss_epoch,val_loss_step,test_loss"]
    lines += [",0.1,0,,,,"]
    for epoch, loss in enumerate(CURVE):
        lines += [f"{epoch},,{10 * epoch + step},{loss},,," for step in (4, 9)]
        lines += [f",,{8 * epoch + batch},,,{loss + batch / 9}," for batch in range(8)]
        lines += [f"{epoch},,{10 * epoch + 9},,{loss + 0.1},,"]
    text = "\n".join([*lines, "8,,80,,,,0.4", ""])
    told = found(write(tmp_path / "version_0" / "metrics.csv", text))
    assert "train_loss from train_loss_step, val_loss from val_loss_epoch" in told.notes[0]
    assert len(told.notes) == 1, "the row of the test loss is no blank loss"
    rows = told.rows
    assert rows["train_loss"].dropna().tolist() == [loss for loss in CURVE for _ in range(2)]
    assert rows["val_loss"].dropna().tolist() == [loss + 0.1 for loss in CURVE]
    assert rows["step"].is_monotonic_increasing


def event_file(folder: Path, tag: str, losses: list[float], wall: float = 1e9) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    writer = EventFileWriter(str(folder), filename_suffix=f".{wall:g}")
    for step, loss in enumerate(losses):
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=loss)])
        writer.add_event(Event(wall_time=wall + step, step=step, summary=summary))
    writer.close()


@pytest.mark.default  # its writer has a thread
def test_folders_of_one_tensorboard_run_go_together(tmp_path: Path) -> None:
    """As add_scalars("loss", {"train": ..., "val": ...}) writes them, and as people do."""
    for lr, losses in (("0.1", CURVE), ("0.01", SLOW)):
        event_file(tmp_path / "a" / f"lr{lr}", "lr", [float(lr)] * 8)
        for part, more in (("train", 0.0), ("val", 0.5)):
            of_part = [loss + more for loss in losses]
            event_file(tmp_path / "a" / f"lr{lr}" / f"loss_{part}", "loss", of_part)
            event_file(tmp_path / "b" / f"lr{lr}_{part}", "loss", of_part)
    for name in "ab":
        told = found(tmp_path / name)
        assert lrs(told) == pytest.approx({"lr0.1": 0.1, "lr0.01": 0.01})
        rows = told.rows.loc[told.rows["run"] == "lr0.1"]
        assert np.allclose(rows["train_loss"].dropna(), CURVE)
        assert np.allclose(rows["val_loss"].dropna(), np.array(CURVE) + 0.5)
    event_file(tmp_path / "alone_val", "loss", CURVE)
    assert lrs(found(tmp_path / "alone_val", lr=("0.1",))) == {"alone_val": 0.1}


@pytest.mark.default
def test_a_folder_of_tensorboard_that_was_used_twice(tmp_path: Path) -> None:
    event_file(tmp_path / "x", "loss", SLOW)
    event_file(tmp_path / "x", "loss", CURVE, wall=2e9)
    told = found(tmp_path / "x", lr=("x/1=0.01", "x/2=0.1"))
    assert outcomes(tmp_path / "x", lr=("x/1=0.01", "x/2=0.1"))["x/2"] == "converged"
    assert np.allclose(told.rows.loc[told.rows["run"] == "x/1", "train_loss"], SLOW)


def test_runs_whose_rates_go_differently_are_named(tmp_path: Path) -> None:
    falls = [0.1, 0.1, 0.1, 0.08, 0.06, 0.04, 0.02, 0.01]
    for name, rates in (("a", [0.2] * 8), ("b", falls), ("c", [0.2, 0.2])):
        rows = [f"{i},{loss},{lr}" for i, (loss, lr) in enumerate(zip(CURVE, rates, strict=False))]
        write(tmp_path / name / "log.csv", "\n".join(["step,loss,lr", *rows, ""]))
    told = found(tmp_path)
    assert said(told, "the rate stays in a, and falls in b: these may differ in more than their lr")
    (tmp_path / "a" / "log.csv").unlink()
    assert not said(found(tmp_path), "the rate stays in")


# --- what is claimed ------------------------------------------------------------------------------


def by_epoch(folder: Path, runs: dict[float, list[tuple[float, float]]]) -> Path:
    for lr, losses in runs.items():
        rows = [f"{i},{train},{val}" for i, (train, val) in enumerate(losses)]
        write(folder / f"lr={lr}.csv", "\n".join(["epoch,loss,val_loss", *rows, ""]))
    return folder


def test_a_loss_after_an_epoch_is_none_before_training(tmp_path: Path) -> None:
    """Fine-tuning has learned most in its first epoch: that later ones gain little says nothing."""
    tuned = {
        1e-5: [(0.6, 0.42), (0.45, 0.38), (0.40, 0.37)],
        3e-5: [(0.5, 0.35), (0.3, 0.34), (0.2, 0.36)],
        1e-4: [(0.48, 0.36), (0.25, 0.37), (0.1, 0.39)],
    }
    folder = by_epoch(tmp_path / "a", tuned)
    loaded = loading.load([folder])
    judged = loaded.verdicts()
    assert dict(zip(judged["lr"], judged["outcome"], strict=True)) == {
        1e-5: "converged", 3e-5: "converged", 1e-4: "overshooting"
    }
    assert loaded.answers(judged)[0].best_lr == 3e-5
    flat = by_epoch(tmp_path / "b", {lr: [(0.35, 0.35)] * 4 for lr in (1e-5, 1e-4)})
    loaded = loading.load([flat])
    judged = loaded.verdicts()
    assert set(judged["outcome"]) == {"not compared"}
    assert not judged["evidence"].str.contains("before training").any()
    assert judged["evidence"][0].startswith("val loss ended at 0.35, as at epoch 1, and no run is")
    (answer,) = loaded.answers(judged)
    assert answer.best_lr is None and answer.refusal.startswith(
        "no run is better than the first loss recorded (0.35), and what was learned before it is "
        "not known"
    )


def test_steps_near_the_start_still_show_that_nothing_was_learned(tmp_path: Path) -> None:
    for lr in (0.01, 0.1):
        noise = 0.001 * np.random.default_rng(0).standard_normal(100)
        rows = [f"{10 * i + 10},{2.3 + noise[i]}" for i in range(100)]
        write(tmp_path / f"lr={lr}.csv", "\n".join(["step,loss", *rows, ""]))
    assert set(outcomes(tmp_path).values()) == {"nothing learned"}


def test_a_val_loss_alone_that_rises_a_little_has_not_diverged(tmp_path: Path) -> None:
    for lr, losses in (
        (3e-5, [0.35, 0.30, 0.29, 0.28, 0.28, 0.29, 0.28, 0.28, 0.28]),
        (1e-4, [0.36, 0.35, 0.37, 0.39, 0.42, 0.45, 0.48, 0.51, 0.54]),
        (0.01, [0.6, 3, 8, 20, 40, 80, 160, 300, 600]),
    ):
        rows = [f"{i},{loss}" for i, loss in enumerate(losses)]
        write(tmp_path / f"lr={lr}.csv", "\n".join(["epoch,val_loss", *rows, ""]))
    assert outcomes(tmp_path) == {
        "lr=3e-05": "converged", "lr=0.0001": "overshooting", "lr=0.01": "diverged"
    }
    judged = loading.load([tmp_path]).verdicts().set_index("lr")
    assert judged.loc[1e-4, "at_end"] == "", "it rose, and so has not settled"


def test_a_blank_loss_at_the_end_of_some_runs_of_a_table_is_lost(tmp_path: Path) -> None:
    """As pandas writes NaN, under any name of the loss: it fell, and then it was lost."""
    rows = [f"a,0.1,{i},{loss}" for i, loss in enumerate(SLOW)]
    rows += [f"b,1,{i},{loss if i < 5 else ''}" for i, loss in enumerate(CURVE)]
    file = write(tmp_path / "a.csv", "\n".join(["run,lr,step,loss", *rows, ""]))
    assert outcomes(file) == {"a": "converged", "b": "diverged"}
    assert said(found(file), "run b: blank losses at the end, taken as lost")


def test_rows_that_only_lr_and_seed_tell_apart(tmp_path: Path) -> None:
    rows = [
        f"{seed},{lr},{i},{loss + seed / 100}"
        for seed in (0, 1) for lr, losses in ((0.1, CURVE), (0.01, SLOW))
        for i, loss in enumerate(losses)
    ]
    told = found(write(tmp_path / "a.csv", "\n".join(["seed,lr,epoch,val_loss", *rows, ""])))
    assert lrs(told) == {
        "lr=0.1 seed=0": 0.1, "lr=0.01 seed=0": 0.01, "lr=0.1 seed=1": 0.1, "lr=0.01 seed=1": 0.01
    }
    assert said(told, "each learning rate with its seed and settings is taken as one")
    assert told.rows["epoch"].tolist() == [*range(1, 9)] * 4, "the losses are of each epoch's end"


def test_a_schedule_of_many_rates_is_read_in_no_long_time(tmp_path: Path) -> None:
    """Once the time grew with the number of rates times that of rows."""
    count = 20_000
    rows = [f"{i},{2 - i / count},{0.1 * (1 - i / count):.9f}" for i in range(count)]
    assert len(found(write(tmp_path / "a.csv", "\n".join(["step,loss,lr", *rows]))).rows) == count


def test_numbers_of_hparams_that_name_an_object(tmp_path: Path) -> None:
    """As save_hyperparameters() leaves it for a path or an enum; nothing of it is called."""
    write(tmp_path / "metrics.csv", curve_text("step,epoch,loss", CURVE, "{i},0,{loss}"))
    hparams = write(tmp_path / "hparams.yaml", "lr: 0.3\nseed: 7\nkind: !!python/object:a.B {}\n")
    told = found(tmp_path)
    assert set(lrs(told).values()) == {0.3} and set(told.rows["seed"]) == {7}
    assert said(told, "hparams.yaml is no plain YAML: only its lines with numbers are read")
    hparams.write_text("kind: !!python/object:a.B {}\n")
    assert "is not in it (hparams.yaml is no plain YAML" in refused(tmp_path)
