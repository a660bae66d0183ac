"""End losses alone: the lowest, the range as good, the edge, and no word that needs a curve."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.text import Text

import lrlab
from lrlab import compare
from lrlab.errors import UserError
from lrlab.plots import reading as plots_reading
from lrlab.plots.writing import figure
from lrlab.report import write as report_write
from lrlab.verdicts import loading
from lrlab.verdicts.outcomes import OUTCOMES

pytestmark = pytest.mark.unit

BOWL = "lr,loss\n0.001,2\n0.003,1.5\n0.01,1.13\n0.03,1.1\n0.1,1.3\n0.3,nan\n"
CLAIMS = (*(set(OUTCOMES) - {"not compared"}), "oscillat", "still falling", "settled")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bowl.csv"
    path.write_text(BOWL)
    return path


def test_the_bowl(command: Any, file: Path) -> None:
    code, out, err = command(file, "--evidence")
    assert code == 0
    line = "lrlab: bowl.csv (end losses, 6 runs): end loss from loss, lr from lr"
    assert err.splitlines()[0] == line
    assert "loss is written as nan once: taken as not finite" in err
    assert "answer  lr=0.03: end loss 1.1 (loss), one seed; lr 0.01 to 0.03 are as good" in out
    assert "not finite: end losses from lr 0.3 on" in out
    assert "too small: lr 0.003 and below end with a higher loss" in out
    assert "too large: lr 0.1 and above end with a higher loss" in out and "edge:" not in out
    assert "0.01        1.13              2.7%  as good" in out
    assert not [word for word in CLAIMS if word in out]


def test_the_words_of_the_verdicts(command: Any, file: Path, tmp_path: Path) -> None:
    code, _, _ = command(file, "--output", tmp_path / "verdicts.csv")
    written = pd.read_csv(tmp_path / "verdicts.csv")
    assert code == 0 and written["outcome"].tolist() == [
        *("ends higher", "ends higher", "as good", "lowest", "ends higher", "not finite"),
    ]
    sides = written["side"].fillna("").tolist()
    assert sides == ["smaller", "smaller", "smaller", "", "larger", ""]
    assert command(file, "--output", tmp_path / "verdicts.csv")[0] == 0, "its own is replaced"
    whole = json.loads(command(file, "--json")[1])
    assert whole["answers"][0]["best_lr"] == 0.03 and len(whole["verdicts"]) == 6


def test_the_best_at_the_edge_says_where_to_go_on(tmp_path: Path) -> None:
    frame = pd.DataFrame({"lr": [0.01, 0.03, 0.1], "val_loss": [1.5, 1.2, 1.0]})
    told = lrlab.judge(frame)
    (answer,) = told.answer.answers
    assert (answer.edge, answer.try_next) == ("high", (0.03, 1.0))
    assert "edge: lr 0.1 is the largest lr tried" in told.answer.text
    assert "curves: none" in str(told)


def widths() -> pd.DataFrame:
    """The best lr is 12.8 / width, within a grid: halving it for each doubling."""
    rows = [
        {"width": width, "lr": lr, "seed": seed, "test_loss": 1 + math.log2(lr * width / 12.8) ** 2}
        for width in (128, 256, 512)
        for lr in (0.0125, 0.025, 0.05, 0.1, 0.2)
        for seed in (0, 1)
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(test_loss=frame["test_loss"] + 0.01 * frame["seed"])


def test_one_row_a_setting_and_how_the_best_lr_moves() -> None:
    told = lrlab.judge(widths())
    best = {a.settings["width"]: a.best_lr for a in told.answer.answers}
    assert best == {128: 0.1, 256: 0.05, 512: 0.025}
    assert all(a.seeds == 2 and a.judged_by == "test_loss" for a in told.answer.answers)
    line = next(each for each in told.answer.text.splitlines() if "best lr by width" in each)
    assert line.strip() == (
        "best lr by width: 128: 0.1, 256: 0.05, 512: 0.025; it falls about as width^-1"
    )
    assert "width  best lr" in str(told)


def test_a_setting_that_is_a_word_and_one_lr_for_all(tmp_path: Path) -> None:
    rows = [("sgd", 0.1, 1.0), ("sgd", 1, 1.01), ("sgd", 0.01, 2), ("adam", 0.1, 1.2)]
    rows += [("adam", 1, 3), ("adam", 0.01, 2.2)]
    frame = pd.DataFrame(rows, columns=["optimizer", "lr", "loss"])
    text = str(lrlab.judge(frame))
    assert "best lr by optimizer: adam: 0.1, sgd: 0.1; lr 0.1 is as good for all" in text


def test_seeds_of_which_some_are_not_finite() -> None:
    ends = [1.0, 1.1, math.inf, 1.5, 1.6, 1.4]
    frame = pd.DataFrame({"lr": [0.1] * 3 + [0.01] * 3, "seed": [0, 1, 2] * 2, "loss": ends})
    told = lrlab.judge(frame)
    assert told.answer.lr == 0.01, "fewer of its end losses are lost"
    assert "not finite: end losses from lr 0.1 on" in told.answer.text
    frame["loss"] = math.inf
    told = lrlab.judge(frame)
    assert told.answer.lr is None and "no end loss is finite" in told.answer.text
    assert not [word for word in CLAIMS if word in str(told)]


def test_a_blank_loss_is_left_out_and_results_are_no_settings(tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    file.write_text(
        "Name,State,lr,width,val/loss,val_acc,Runtime,created\n"
        "a,finished,0.1,64,1.0,0.9,10,x\nb,finished,0.01,64,1.5,0.8,11,y\nc,crashed,1,64,,,3,z\n"
    )
    loaded = loading.load([file])
    assert loaded.ends and loaded.verdicts()["run"].tolist() == ["a", "b"]
    assert "1 of 3 runs have no val/loss, and were left out" in " ".join(loaded.notes)
    assert "settings from width" in loaded.notes[0]
    assert "left out: State, val_acc, Runtime, created" in " ".join(loaded.notes)


def test_a_random_search_is_judged_as_a_whole() -> None:
    """The loss depends on the lr alone, so the lowest is the one next to 0.01."""
    rates = [10 ** (-4 + 4 * i / 29) for i in range(30)]
    frame = pd.DataFrame(
        {
            "lr": rates,
            "weight_decay": [1e-6 * 1.3**i for i in (7 * j % 30 for j in range(30))],
            "val_loss": [1 + (math.log10(lr) + 2.05) ** 2 for lr in rates],
        }
    )
    told = lrlab.judge(frame)
    (answer,) = told.answer.answers
    best = min(rates, key=lambda lr: abs(math.log10(lr) + 2.05))
    assert answer.search is not None and answer.best_lr == best
    assert "search: the best of 30 configurations" in told.answer.text
    assert not [word for word in CLAIMS if word in str(told)]


def test_runs_exported_from_mlflow(tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    file.write_text(
        "run_id,experiment_id,status,artifact_uri,metrics.loss,params.lr,tags.mlflow.user\n"
        "aa,0,FINISHED,x,1.0,0.1,me\nbb,0,FINISHED,y,1.5,0.01,me\n"
    )
    found = loading.load([file]).verdicts()
    assert found["outcome"].tolist() == ["lowest", "ends higher"]


def test_what_needs_curves_is_refused(file: Path, tmp_path: Path, command: Any) -> None:
    code, out, err = command(file, "--target", "1")
    assert (code, out) == (2, "") and "end losses alone do not say when" in err
    curves = tmp_path / "c.csv"
    curves.write_text("run,lr,step,train_loss\na,1,0,2\na,1,1,1\n")
    code, out, err = command(file, curves)
    assert (code, out) == (2, "") and "holds end losses alone, the others curves" in err
    other = tmp_path / "o.csv"
    other.write_text(BOWL)
    with pytest.raises(SystemExit):
        compare.main([str(file), str(other), "--no-files"])
    with pytest.raises(UserError):
        report_write(file)
    assert command(file, other)[0] == 0, "two tables of end losses go together"
    rows = "run,lr,train_loss\na,0.1,2\na,0.1,1\n"
    curves.write_text(rows)
    assert command(curves)[0] == 2, "rows of one run without a step are no end losses"


def test_the_figures(file: Path, tmp_path: Path) -> None:
    tables, notes = plots_reading.load(file)
    assert any("drawn as val loss" in note for note in notes)
    drawn = figure("lr_against_loss", tables)
    texts = " ".join(text.get_text() for text in drawn.findobj(Text))
    assert "1 not finite" in texts and not [word for word in CLAIMS if word in texts]
    several = tmp_path / "w.csv"
    widths().to_csv(several, index=False)
    tables, _ = plots_reading.load(several)
    assert len(figure("lr_by_setting", tables).axes) >= 1
