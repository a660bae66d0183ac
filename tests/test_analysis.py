"""Tables of saved runs, against files written here by hand in the documented format."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lrlab.errors import UserError
from lrlab.tables import frames
from lrlab.verdicts import judging, loading
from lrlab.verdicts.printed import sweep_table

pytestmark = pytest.mark.unit

HEADER = "step,epoch,lr,train_loss,val_loss,val_acc\n"


def write_run(sweep: Path, number: int, rows: str | None, **summary: Any) -> Path:
    folder = sweep / str(number)
    folder.mkdir(parents=True)
    if rows is not None:
        (folder / "metrics.csv").write_text(HEADER + rows)
    if summary:
        whole = {
            "run": number,
            "state": "finished",
            "error": None,
            "lr": 0.1,
            "seed": 0,
            "schedule": "fixed",
            "optimizer": "sgd",
            "network": "mlp",
            "loss": "nll",
            "data": "mnist",
            "parameters": 59210,
            "steps": 2,
            "steps_per_epoch": 2,
            "epochs": 1,
            "batch_size": 64,
            "first_nonfinite_step": None,
            "initial_loss": 2.31,
            "chance_loss": math.log(10),
            "num_classes": 10,
            "train_loss": 0.5,
            "train_acc": 0.9,
            "val_loss": 0.55,
            "val_acc": 0.88,
            "test_loss": 0.6,
            "test_acc": 0.87,
            "data_sha256": "ab",
            "environment": {"torch": "2"},
            "lanes": {"group": 0},
            "timing": {"train_s": 1.0},
        }
        (folder / "summary.json").write_text(json.dumps({**whole, **summary}))
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    finished = "0,0,0.1,2.3,2.31,0.1\n1,0.5,0.1,1.5,,\n2,1,,,0.55,0.88\n"
    write_run(tmp_path, 10, finished, lr=1e-3)
    write_run(tmp_path, 2, finished, lr=0.1, seed=1)
    gone = {name: None for name in ("train_loss", "train_acc", "test_loss", "test_acc")}
    diverged = "0,0,10,2.3,2.31,0.1\n1,0.5,10,nan,,\n"
    write_run(
        tmp_path, 3, diverged, lr=10, state="diverged", first_nonfinite_step=1, seed=0, **gone
    )
    write_run(tmp_path, 4, None)  # still starting: a folder and nothing in it
    (tmp_path / "plots").mkdir()
    return tmp_path


def test_runs_has_a_row_a_run_in_numeric_order(sweep: Path) -> None:
    runs = frames.runs(sweep)
    assert list(runs["run"]) == [2, 3, 4, 10]
    assert list(runs["state"]) == ["finished", "diverged", "waiting", "finished"]
    assert runs["lr"].tolist()[:2] == [0.1, 10.0]
    assert math.isnan(runs["lr"][2])
    assert math.isnan(runs["train_loss"][1]) and runs["train_loss"][0] == 0.5
    assert runs["first_nonfinite_step"][1] == 1
    assert runs["folder"][3] == str(sweep / "10")
    assert not {"environment", "lanes", "timing"} & set(runs.columns)


def test_curves_carries_the_run_beside_each_recorded_step(sweep: Path) -> None:
    curves = frames.curves(sweep)
    last = curves[curves["run"] == 10]
    assert last["step"].tolist() == [0, 1, 2]
    assert last["lr"].tolist() == [1e-3] * 3, "lr is the run's init_lr"
    assert last["lr_at_step"].tolist()[:2] == [0.1, 0.1] and math.isnan(last["lr_at_step"].iloc[2])
    assert last["train_loss"].tolist()[:2] == [2.3, 1.5]
    assert last["val_loss"].iloc[2] == 0.55
    assert last["chance_loss"].iloc[0] == pytest.approx(2.302585, abs=1e-6)
    diverged = curves[curves["run"] == 3]
    assert len(diverged) == 2 and math.isnan(diverged["train_loss"].iloc[1])
    assert diverged["lr_at_step"].iloc[1] == 10


def test_a_run_that_recorded_nothing_stays_in_the_curves(sweep: Path) -> None:
    waiting = frames.curves(sweep).query("run == 4")
    assert len(waiting) == 1 and math.isnan(waiting["step"].iloc[0])


def test_a_pruned_run_keeps_its_curve_and_says_when_it_was_pruned(tmp_path: Path) -> None:
    none = dict.fromkeys(("train_loss", "train_acc", "test_loss", "test_acc"))
    rows = "0,0,0.1,2.3,2.31,0.1\n1,0.5,0.1,1.5,,\n2,1,,,0.55,0.88\n"
    write_run(tmp_path, 0, rows, state="pruned", pruned_at_epoch=1, val_loss=0.55, **none)
    write_run(tmp_path, 1, rows)
    runs, curves = frames.runs(tmp_path), frames.curves(tmp_path)
    assert runs["pruned_at_epoch"][0] == 1 and math.isnan(runs["pruned_at_epoch"][1])
    assert runs["val_loss"][0] == 0.55 and math.isnan(runs["train_loss"][0])
    pruned = curves.query("state == 'pruned'")
    assert pruned["pruned_at_epoch"].tolist() == [1, 1, 1]
    assert pruned["train_loss"].tolist()[:2] == [2.3, 1.5]


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, 0, "0,0,0.1,2.3,2.31,0.1\n1,0.5,0.1,1.", state="running")
    curves = frames.curves(tmp_path)
    assert curves["step"].tolist() == [0]
    assert curves["train_loss"].tolist() == [2.3]


@pytest.mark.parametrize("read", [frames.runs, frames.curves])
def test_a_folder_without_runs_is_the_users_error(tmp_path: Path, read: Any) -> None:
    with pytest.raises(UserError, match="no such folder"):
        read(tmp_path / "missing")
    with pytest.raises(UserError, match="holds no runs"):
        read(tmp_path)


def test_varying_names_settings_that_differ_and_swept_dotted_keys() -> None:
    frame = pd.DataFrame(
        {
            "lr": [1.0, 2.0],
            "seed": [0.0, 1.0],
            "schedule": ["fixed", "fixed"],
            "optimizer.momentum": [0.0, 0.9],
            "train_loss": [1.0, 2.0],
        }
    )
    assert frames.varying(frame) == ["seed", "optimizer.momentum"]


@pytest.mark.default
def test_whoever_reads_imports_no_torch() -> None:
    code = (
        "import sys, lrlab.analysis, lrlab.compare, lrlab.verdicts.judging\n"
        "import lrlab.verdicts.recommend, lrlab.tables.frames\n"
        "print('torch' in sys.modules, 'matplotlib' in sys.modules)\n"
        "import lrlab.plots; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"] * 3


def test_results_prints_every_run_and_tells_what_failed(sweep: Path) -> None:
    write_run(sweep, 5, None, lr=0.5, state="failed", error="ValueError: no\nsuch thing")
    (sweep / "plots" / "loss_curves.png").write_bytes(b"")
    (sweep / "report.html").write_text("")
    verdicts = pd.DataFrame(
        {"run": [2, 3], "outcome": ["not compared", "diverged"], "at_end": ["settled", ""]}
    )
    lines = sweep_table.results(frames.runs(sweep), sweep, verdicts=verdicts).splitlines()
    lines += sweep_table.drawn(sweep).splitlines()
    header = "run lr schedule seed val loss train loss test loss test acc state outcome at the end"
    assert lines[0].split() == header.split()
    rows = [line.split() for line in lines[2:7]]
    assert [row[0] for row in rows] == ["2", "3", "4", "5", "10"]
    assert rows[0] == [
        "2",
        "0.1",
        "fixed",
        "1",
        "0.55",
        "0.5",
        "0.6",
        "87.00%",
        "finished",
        "not",
        "compared",
        "settled",
    ]
    failed = "0.55 non-finite non-finite - diverged at step 1 diverged -"
    assert " ".join(rows[1]) == f"3 10 fixed 0 {failed}"
    assert lines[4].split()[-3:] == ["waiting", "-", "-"]
    assert " ".join(lines[5].split()).endswith("failed: ValueError: no such thing - -")
    assert rows[4][1] == "0.001"
    assert lines[-4:] == [
        "1 diverged and 1 failed of 5 runs",
        f"sweep  {sweep}",
        f"plots  {sweep / 'plots'}: 1 figure",
        f"report {sweep / 'report.html'}",
    ]
    # Aligned: the column of the losses ends at one place in every line.
    end = lines[0].index("test loss") + len("test loss")
    assert all(line[end : end + 2] == "  " and line[end - 1] != " " for line in lines[:4])


def final(**columns: Any) -> pd.DataFrame:
    fixed = {"schedule": "fixed", "error": None, "first_nonfinite_step": math.nan}
    return pd.DataFrame({**fixed, **columns})


def test_results_of_a_search_tells_what_was_pruned_and_what_is_best(tmp_path: Path) -> None:
    runs = final(
        run=[0, 1, 2, 3, 4],
        lr=[0.183, 1e-4, 3e-4, 5.0, 0.2],
        state=["finished", "pruned", "pruned", "diverged", "failed"],
        error=[None, None, None, None, "KeyError: 'x'"],
        pruned_at_epoch=[math.nan, 1, 2, math.nan, math.nan],
        first_nonfinite_step=[math.nan, math.nan, math.nan, 7, math.nan],
        val_loss=[0.0912, 2.2, 1.9, math.nan, math.nan],
        train_loss=[0.08, *[math.nan] * 4],
        test_loss=[0.1, *[math.nan] * 4],
        test_acc=[0.97, *[math.nan] * 4],
    )
    best = sweep_table.Best(run=0, setting="lr=0.183", objective="val_loss", value=0.091234)
    lines = sweep_table.results(runs, tmp_path, best).splitlines()
    assert "schedule val loss train loss test loss test acc" in " ".join(lines[0].split())
    rows = [" ".join(line.split()) for line in lines[2:7]]
    assert rows == [
        "0 0.183 fixed 0.0912 0.08 0.1 97.00% finished",
        "1 0.0001 fixed 2.2 - - - pruned after epoch 1",
        "2 0.0003 fixed 1.9 - - - pruned after epoch 2",
        "3 5 fixed non-finite non-finite non-finite - diverged at step 7",
        "4 0.2 fixed - - - - failed: KeyError: 'x'",
    ]
    assert lines[-3:] == [
        "2 pruned, 1 diverged and 1 failed of 5 runs",
        "best   run 0: lr=0.183, val_loss 0.09123",
        f"sweep  {tmp_path}",
    ]
    without = sweep_table.results(runs, tmp_path).splitlines()
    assert "val loss" in without[0] and not any(line.startswith("best") for line in without)


def test_results_says_what_the_most_frequent_class_would_get(tmp_path: Path) -> None:
    fixed = {"lr": 0.1, "state": "finished", "train_loss": 0.1, "val_loss": 0.3, "val_acc": 0.96}
    line = "accuracy of always answering the most frequent class"

    def said(**more: Any) -> list[str]:
        shown = sweep_table.results(final(run=[0, 1], **fixed, **more), tmp_path)
        return [row for row in shown.splitlines() if row.startswith(line)]

    assert said(majority_share=0.95, num_classes=2) == [f"{line}: 95.00%"]
    assert said(majority_share=0.74, num_classes=2) == []
    assert said(majority_share=0.16, num_classes=10) == [f"{line}: 16.00%"]
    assert said(majority_share=0.11, num_classes=10) == []
    assert said(majority_share=math.nan, num_classes=math.nan) == []
    assert said() == []
    assert said(majority_share=[0.8, 0.9], num_classes=2) == [f"{line}: 80.00% to 90.00%"]
    two = {"data": ["a", "b"], "majority_share": [0.95, 0.8], "num_classes": 2}
    assert said(**two) == [f"{line} (data=a): 95.00%", f"{line} (data=b): 80.00%"]
    assert said(**two | {"majority_share": [0.95, 0.5]}) == [f"{line} (data=a): 95.00%"]


def test_one_run_is_no_choice_and_a_setting_may_be_nameless(tmp_path: Path) -> None:
    fixed = {"state": "finished", "train_loss": 0.1, "test_loss": 0.2, "test_acc": 0.9}
    best = sweep_table.Best(0, "", "val_loss", 0.3, seeds=2)
    one = sweep_table.results(
        final(run=[0], lr=0.1, val_loss=0.3, val_acc=0.8, **fixed), tmp_path, best
    )
    assert "best   run" not in one
    head, _, row = (re.split(r"  +", line.strip()) for line in one.splitlines()[:3])
    told = dict(zip(head, row, strict=True))
    assert told["val loss"] == "0.3" and told["val acc"] == "80.00%", "what decides, of one too"
    assert told["train loss"] == "0.1" and told["test acc"] == "90.00%"
    two = sweep_table.results(final(run=[0, 1], lr=0.1, val_loss=0.3, **fixed), tmp_path, best)
    assert "best   run 0: val_loss 0.3, the median of 2 seeds" in two.splitlines()


@pytest.mark.parametrize(
    ("objective", "value", "column", "cell", "line"),
    [
        ("val_acc", 0.9712, "val acc", "97.12%", "val_acc 97.12%"),
        ("seconds_to_target", 3.25, "seconds to target", "3.25", "seconds_to_target 3.25"),
        ("train_loss", 0.08, None, "0.08", "train_loss 0.08"),
    ],
)
def test_results_shows_the_objective_whatever_it_is(
    tmp_path: Path, objective: str, value: float, column: str | None, cell: str, line: str
) -> None:
    runs = final(
        run=[3, 4],
        lr=[0.1, 0.1],
        state="finished",
        train_loss=0.08,
        test_loss=0.1,
        test_acc=0.96,
        **({} if objective == "train_loss" else {objective: value}),
    )
    best = sweep_table.Best(3, "lr=0.1", objective, value, seeds=3)
    lines = sweep_table.results(runs, tmp_path, best).splitlines()
    names = [name for name in lines[0].split("  ") if name]
    assert [name.strip() for name in names].count("train loss") == 1
    assert column is None or f"  {column}  " in lines[0]
    assert cell in lines[2].split()
    assert lines[-2] == f"best   run 3: lr=0.1, {line}, the median of 3 seeds"


def test_results_keeps_a_hundred_runs_and_close_lrs_apart(tmp_path: Path) -> None:
    runs = pd.DataFrame(
        {
            "run": range(100),
            "lr": [0.1 * 1.001**i for i in range(100)],
            "schedule": "fixed",
            "state": "finished",
            "error": None,
            "first_nonfinite_step": math.nan,
            "train_loss": 0.1,
            "test_loss": 0.2,
            "test_acc": 0.9,
        }
    )
    lines = sweep_table.results(runs.sample(frac=1, random_state=0), tmp_path).splitlines()
    cells = [line.split() for line in lines[2:102]]
    assert [cell[0] for cell in cells] == [str(i) for i in range(100)]
    assert len({cell[1] for cell in cells}) == 100
    assert lines[102:] == ["", f"sweep  {tmp_path}"], "nothing failed, so nothing is said of it"


def test_verdicts_of_a_sweep_in_pieces_are_those_of_it_whole(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = frames.curves(sweep)
    pieces = list(frames.Reading(sweep).pieces(rows=4))
    assert [piece["run"].unique().tolist() for piece in pieces] == [[2, 3], [4, 10]]
    pd.testing.assert_frame_equal(pd.concat(pieces, ignore_index=True), whole, check_dtype=False)
    expected = judging.verdicts(whole, target=0.6)
    monkeypatch.setattr(frames, "PIECE", 4)
    monkeypatch.setattr(frames, "curves", None)  # it is not asked for the whole
    pd.testing.assert_frame_equal(loading.verdicts_of(sweep, target=0.6), expected)


def test_a_data_frame_is_judged_as_the_documents_say() -> None:
    from lrlab.analysis import verdicts

    rows = {"run": [0, 0, 1, 1], "lr": [0.1, 0.1, 0.2, 0.2], "step": [0, 9, 0, 9]}
    found = verdicts(pd.DataFrame({**rows, "train_loss": [2.0, 1.9, 2.0, 0.5]}))
    assert found["outcome"].tolist() == ["undershooting", "converged"]
