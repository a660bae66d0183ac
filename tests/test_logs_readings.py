"""Logs of other programs: holes, restarts, repeated rows, several logs, and the page."""

from __future__ import annotations

import json
import math
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.logs import CASES, CURVE, curve_text, found, lrs, outcomes, refused, write

import lrlab
from lrlab import compare
from lrlab.errors import UserError
from lrlab.logs import columns
from lrlab.logs.columns import Wanted
from lrlab.plots import reading as plots_reading
from lrlab.tables import curve_csv
from lrlab.verdicts import judging, loading

pytestmark = pytest.mark.unit


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
        judged = judging.verdicts(frame)
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
    assert any("begin again at 0; they are numbered on" in note for note in told.notes)


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
    with pytest.raises(UserError, match="must be a finite number, not below 0"):
        lrlab.judge(alone, lr=-1)
