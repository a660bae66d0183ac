"""`python -m lrlab.reproduce`: a recorded run trained again, and compared to the bit."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.commands import (
    STEPS,
    Ended,
    contents,
    files,
    process,
    reproduce,
    strict_json,
    summaries,
    sweep,
)

from lrlab import records
from lrlab.reproduce import compare, differences

NAN = math.nan


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with outputs/s of three runs, of which the last diverged."""
    home = tmp_path_factory.mktemp("recorded")
    ended = sweep("lr=0.01,0.1,1e9", "schedule=step", "seed=3", "name=s", cwd=home)
    assert ended.code == 0
    assert [s["state"] for s in summaries(home / "outputs" / "s")][2] == "diverged"
    return home


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Path:
    """Run 1's folder, copied alone to another place."""
    return Path(shutil.copytree(home / "outputs" / "s" / "1", tmp_path / "copied"))


# --- equal ----------------------------------------------------------------------------------------


@pytest.mark.full(after=1)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_each_run_of_a_sweep_is_identical(number: int, home: Path, tmp_path: Path) -> None:
    record = home / "outputs" / "s" / str(number)
    before = contents(home / "outputs" / "s")
    ended = reproduce(f"outputs/s/{number}", f"--output={tmp_path}", cwd=home)
    steps = len((record / "metrics.csv").read_text("utf-8").splitlines()) - 1
    steps -= number != 2  # the last row of a finished run is an evaluation
    assert (ended.code, ended.err) == (0, "")
    assert f"identical: {steps} of {steps} steps, bitwise" in ended.out.splitlines()
    assert contents(home / "outputs" / "s") == before

    again = tmp_path / f"reproduce_s_{number}" / str(number)
    assert (again / "metrics.csv").read_bytes() == before[f"{number}/metrics.csv"]
    provenance = strict_json((again / "provenance.json").read_text("utf-8"))
    assert provenance["reproduces"] == str(record)
    assert provenance["record"]["lr"] == [0.01, 0.1, 1e9][number]
    told = provenance["comparison"]
    assert (told["steps"], told["identical"], told["first"]) == (steps, steps, None)
    names = [f"{number}/{name}" for name in ("metrics.csv", "summary.json", "run.log")]
    assert set(names) <= set(files(again.parent))


def test_a_copied_and_a_moved_folder_reproduce_from_anywhere(
    home: Path, run: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    ended = reproduce(str(run), cwd=elsewhere)
    assert ended.code == 0
    assert f"identical: {STEPS} of {STEPS} steps, bitwise" in ended.out
    assert [p.name for p in elsewhere.iterdir()] == ["outputs"]
    moved = elsewhere / "moved sweep"
    shutil.copytree(home / "outputs" / "s", moved)
    ended = reproduce("1/", "--output", "../new", cwd=moved)
    assert ended.code == 0
    assert f"identical: {STEPS} of {STEPS} steps, bitwise" in ended.out
    assert len(list((elsewhere / "new").iterdir())) == 1
    assert files(moved) == files(home / "outputs" / "s")


def test_a_second_reproduction_leaves_the_first(run: Path, tmp_path: Path) -> None:
    assert reproduce(str(run), cwd=tmp_path).code == 0
    before = contents(tmp_path / "outputs")
    assert reproduce(str(run), cwd=tmp_path).code == 0
    after = contents(tmp_path / "outputs")
    assert before.items() <= after.items() and len(after) == 2 * len(before)


def test_a_reproduction_can_be_reproduced(run: Path, tmp_path: Path) -> None:
    assert reproduce(str(run), "--output=new", cwd=tmp_path).code == 0
    ended = reproduce("new/reproduce_" + run.parent.name + "_copied/1", cwd=tmp_path)
    assert ended.code == 0 and "bitwise" in ended.out


@pytest.mark.full
def test_whole_process(run: Path, tmp_path: Path) -> None:
    done = process("-m", "lrlab.reproduce", str(run), "--tolerance", "0", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"identical: {STEPS} of {STEPS} steps, bitwise" in done.stdout


# --- different ------------------------------------------------------------------------------------


def edit_metrics(run: Path, step: int, column: str, change: Callable[[float], float]) -> None:
    file = run / "metrics.csv"
    lines = file.read_text("utf-8").splitlines()
    cells = lines[step + 1].split(",")
    place = lines[0].split(",").index(column)
    cells[place] = f"{change(float(cells[place])):.9g}"
    lines[step + 1] = ",".join(cells)
    file.write_text("\n".join(lines) + "\n", "utf-8")


def edit_summary(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    change(summary)
    (run / "summary.json").write_text(json.dumps(summary), "utf-8")


def test_a_difference_is_told_with_its_step_and_size(run: Path, tmp_path: Path) -> None:
    edit_metrics(run, 5, "train_loss", lambda loss: loss + 0.25)
    edit_metrics(run, 7, "train_loss", lambda loss: loss + 0.5)
    ended = reproduce(str(run), cwd=tmp_path)
    assert ended.code == 1 and "identical:" not in ended.out
    assert "step 5" in ended.out and f"8 of {STEPS} steps" in ended.out
    assert "0.5 (train_loss at step 7), beyond the tolerance of 0.001" in ended.out
    (again,) = (tmp_path / "outputs").glob("*/1/provenance.json")
    told = strict_json(again.read_text("utf-8"))["comparison"]
    assert (told["identical"], told["first"]) == (STEPS - 2, 5)
    assert told["largest"] == pytest.approx(0.5, rel=1e-6)
    assert told["where"] == [7, "train_loss"]


def test_one_bit_is_a_difference_that_the_tolerance_forgives(run: Path, tmp_path: Path) -> None:
    def next_float32(loss: float) -> float:
        return float(np.nextafter(np.float32(loss), np.float32(9)))

    edit_metrics(run, 4, "train_loss", next_float32)
    ended = reproduce(str(run), cwd=tmp_path)
    assert ended.code == 0 and "within the tolerance" in ended.out
    assert "step 4" in ended.out and "identical:" not in ended.out
    assert reproduce(str(run), "--tolerance=0", cwd=tmp_path).code == 1


def test_a_changed_setting_is_found(run: Path, tmp_path: Path) -> None:
    """The comparison is real: with another lr the record is another run's."""
    file = run / ".hydra" / "config.yaml"
    file.write_text(file.read_text("utf-8").replace("lr: 0.1\n", "lr: 0.2\n", 1), "utf-8")
    ended = reproduce(str(run), cwd=tmp_path)
    assert ended.code == 1
    assert "step 0" in ended.out and f"0 of {STEPS} steps" in ended.out


def test_versions_that_differ_are_named_where_results_differ(run: Path, tmp_path: Path) -> None:
    def older(summary: dict[str, Any]) -> None:
        summary["environment"] |= {"torch": "1.0.0", "cpu_capability": "ABACUS"}

    edit_summary(run, older)
    ended = reproduce(str(run), cwd=tmp_path)
    assert ended.code == 0 and "1.0.0" not in ended.out  # no difference to explain
    edit_metrics(run, 5, "train_loss", lambda loss: loss + 1)
    ended = reproduce(str(run), cwd=tmp_path)
    assert ended.code == 1
    assert "torch: 1.0.0 in the record" in ended.out and "ABACUS" in ended.out


def test_equal_versions_are_said_to_be_equal(run: Path, tmp_path: Path) -> None:
    edit_metrics(run, 5, "train_loss", lambda loss: loss + 1)
    assert "versions, device and threads are the same" in reproduce(str(run), cwd=tmp_path).out


def test_the_records_threads_are_taken(run: Path, tmp_path: Path) -> None:
    edit_summary(run, lambda summary: summary["environment"].update(threads=2))
    file = run / ".hydra" / "config.yaml"
    file.write_text(file.read_text("utf-8").replace("threads: 1", "threads: null"), "utf-8")
    assert reproduce(str(run), cwd=tmp_path).code == 0
    (again,) = (tmp_path / "outputs").glob("*/1/summary.json")
    assert strict_json(again.read_text("utf-8"))["environment"]["threads"] == 2


# --- damaged and wrong ----------------------------------------------------------------------------


def spoil(file: str, text: str | None) -> Callable[[Path], None]:
    def spoiler(run: Path) -> None:
        if text is None:
            (run / file).unlink()
        else:
            (run / file).write_text(text, "utf-8")

    return spoiler


HEADER = ",".join(records.METRICS) + "\n"
DAMAGE = {
    "YAML that ends": (spoil(".hydra/config.yaml", "lr: ["), "config"),
    "YAML with tabs": (spoil(".hydra/config.yaml", "lr:\n\t- 1"), "config"),
    "a YAML list": (spoil(".hydra/config.yaml", "- 1\n"), "config"),
    "an empty YAML": (spoil(".hydra/config.yaml", ""), ""),
    "an unknown key": (spoil(".hydra/config.yaml", "lrr: 1\n"), "lrr"),
    "a bad value": (spoil(".hydra/config.yaml", "lr: abc\n"), "lr"),
    "no config": (spoil(".hydra/config.yaml", None), "config.yaml"),
    "summary torn": (spoil("summary.json", '{"state": "fin'), "summary.json"),
    "summary without keys": (spoil("summary.json", "{}"), "summary.json"),
    "no summary": (spoil("summary.json", None), "summary.json"),
    "metrics empty": (spoil("metrics.csv", ""), "metrics.csv"),
    "metrics of a header": (spoil("metrics.csv", HEADER), "no step"),
    "metrics of words": (spoil("metrics.csv", HEADER + "a,b,c,d,e,f\n"), "metrics.csv"),
    "no metrics": (spoil("metrics.csv", None), "metrics.csv"),
}


def assert_refused(ended: Ended, *words: str) -> None:
    assert ended.code == 2, ended
    assert ended.out == ""
    assert ended.err.startswith("lrlab: ") and ended.err.count("\n") == 1
    for word in words:
        assert word in ended.err


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_one_line(damage: str, run: Path, tmp_path: Path) -> None:
    spoiler, word = DAMAGE[damage]
    spoiler(run)
    assert_refused(reproduce(str(run), "--output=new", cwd=tmp_path), word)
    assert [p.name for p in tmp_path.iterdir()] == ["copied"]


def test_the_wrong_folder_is_one_line(home: Path, tmp_path: Path) -> None:
    for path, *words in (
        ("outputs/s", "sweep's folder", str(Path("outputs/s/0"))),
        ("outputs", "no folder of a run"),
        (".", "no folder of a run"),
        ("nowhere", "nowhere: is no folder of a run"),
        ("outputs/s/9", "no folder of a run"),
        ("outputs/s/0/metrics.csv", "no folder of a run"),
    ):
        assert_refused(reproduce(path, f"--output={tmp_path / 'new'}", cwd=home), *words)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("--tolerance=-1", "--tolerance=-1"),
        ("--tolerance=nan", "--tolerance=nan"),
        ("--device=foo", "device=foo"),
        ("--output=copied/metrics.csv", "output"),
    ],
)
def test_a_bad_option_is_one_line(option: str, word: str, run: Path, tmp_path: Path) -> None:
    before = contents(tmp_path)
    assert_refused(reproduce(str(run), option, cwd=tmp_path), word)
    assert contents(tmp_path) == before


# --- compare, by itself ---------------------------------------------------------------------------


def table(*rows: tuple[float, ...]) -> pd.DataFrame:
    """(step, lr, train_loss, val_loss) -> as read_metrics gives it."""
    frame = pd.DataFrame(rows, columns=["step", "lr", "train_loss", "val_loss"])
    return frame.astype({"step": int}).assign(epoch=0, val_acc=NAN)[list(records.METRICS)]


RECORD = table((0, 0.1, 2.5, 2.4), (1, 0.1, 2.25, NAN), (2, NAN, NAN, 2.0))


def test_equal_tables_are_identical() -> None:
    found = compare(RECORD, RECORD.copy())
    assert (found.steps, found.identical, found.first) == (2, 2, None)
    assert (found.largest, found.where) == (0.0, None)


@pytest.mark.parametrize(
    ("again", "identical", "first", "largest", "where"),
    [
        (
            table((0, 0.1, 2.5, 2.4), (1, 0.1, 2.75, NAN), (2, NAN, NAN, 2.0)),
            1,
            1,
            0.5,
            "train_loss",
        ),
        (table((0, 0.1, 2.5, 2.4), (1, 0.1, 2.25, NAN), (2, NAN, NAN, 4.0)), 2, 2, 2.0, "val_loss"),
        (table((0, 0.2, 2.5, 2.4), (1, 0.1, 2.25, NAN), (2, NAN, NAN, 2.0)), 1, 0, 0.1, "lr"),
        # one not finite where the other is
        (table((0, 0.1, NAN, 2.4), (1, 0.1, 2.25, NAN), (2, NAN, NAN, 2.0)), 1, 0, math.inf, None),
        (
            table((0, 0.1, math.inf, 2.4), (1, 0.1, 2.25, NAN), (2, NAN, NAN, 2)),
            1,
            0,
            math.inf,
            None,
        ),
        # a row too few, a row too many
        (table((0, 0.1, 2.5, 2.4), (1, 0.1, 2.25, NAN)), 2, 2, math.inf, None),
        (table((0, 0.1, 2.5, 2.4)), 1, 1, math.inf, None),
        (table((0, 0.1, 2.5, 2.4), (2, NAN, NAN, 2.0)), 1, 1, math.inf, None),
    ],
)
def test_differences_are_found(
    again: pd.DataFrame, identical: int, first: int, largest: float, where: str | None
) -> None:
    for found in (compare(RECORD, again),):
        assert (found.steps, found.identical, found.first) == (2, identical, first)
        assert found.largest == pytest.approx(largest)
        assert found.where is not None
        if where:
            assert found.where == (first, where)


def test_a_longer_run_differs() -> None:
    found = compare(RECORD.iloc[:1], RECORD)
    assert (found.steps, found.identical, found.first, found.largest) == (1, 1, 1, math.inf)


@pytest.mark.parametrize("end", [NAN, math.inf, -math.inf])
def test_the_same_divergence_is_identical(end: float) -> None:
    record = table((0, 0.1, 2.5, 2.4), (1, 0.1, end, NAN))
    found = compare(record, record.copy())
    assert (found.identical, found.first, found.largest) == (2, None, 0.0)


def test_opposite_infinities_differ() -> None:
    one, other = (table((0, 0.1, end, NAN)) for end in (math.inf, -math.inf))
    assert compare(one, other).first == 0 and compare(one, other).largest == math.inf


def test_zero_and_the_smallest_number_differ() -> None:
    one, other = table((0, 0.1, 0.0, NAN)), table((0, 0.1, 1e-45, NAN))
    found = compare(one, other)
    assert (found.identical, found.first) == (0, 0) and 0 < found.largest < 1e-44


def test_environments_name_first_what_may_change_bits() -> None:
    old = {"environment": {"torch": "1", "python": "3.9", "threads": 4, "device": "cpu"}}
    new = {"environment": {"torch": "2", "python": "3.11", "threads": 2, "device": "cpu"}}
    told = differences(old, new)
    assert [line.split(":")[0] for line in told] == ["threads", "torch", "python"]
    assert told[0] == "threads: 4 in the record, 2 here"
    assert differences(old, old) == []
    other_data = differences({**old, "data_sha256": "a"}, {**old, "data_sha256": "b"})
    assert len(other_data) == 1 and other_data[0].startswith("data:")
