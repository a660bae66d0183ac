"""Losses, learning rates, data, names and folders at the edge of what can be: no traceback."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.commands import Ended, assert_refused, command, summaries, sweep, without_notices
from helpers.made_sweeps import write_sweep

from lrlab import analysis, compare, reproduce, resume
from lrlab.config.words.spelling import quoted
from lrlab.plots import writing
from lrlab.plots.__main__ import main as plots
from lrlab.plots.reading import load
from lrlab.plots.tables import NothingToDraw
from lrlab.report.__main__ import main as report

pytestmark = pytest.mark.full

ROOT = Path(__file__).parent.parent

LOSSES: dict[str, Callable[[int], np.ndarray]] = {
    "inf": lambda steps: np.full(steps, math.inf),
    "nan": lambda steps: np.full(steps, math.nan),
    "1e38": lambda steps: np.full(steps, 1e38),
    "negative": lambda steps: -1.0 - np.arange(steps),
    "constant": lambda steps: np.full(steps, 0.5),
    "all of them": lambda steps: np.resize([0.5, math.inf, -math.inf, math.nan, 1e38, -1], steps),
}
OUTCOMES = {"inf": "diverged", "nan": "diverged"}
OUTCOMES |= {"1e38": "diverged", "all of them": "diverged"}


def well(ended: Ended) -> str:
    assert ended.code == 0, ended
    assert all(line.startswith("lrlab: ") for line in ended.err.splitlines()), ended.err
    return ended.out


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_of_any_kind_are_judged_drawn_and_reported(kind: str, tmp_path: Path) -> None:
    """Each loss of all runs: in the curves, in the evaluations and in the branch tests."""
    folder = write_sweep(tmp_path / "s", 3, steps=60)
    for run in range(3):
        for name in ("metrics", "branches"):
            file = folder / str(run) / f"{name}.csv"
            if not file.exists():
                continue
            table = pd.read_csv(file)
            for column in {"train_loss", "val_loss", "low", "same", "high"} & set(table.columns):
                there = table[column].notna()
                table.loc[there, column] = LOSSES[kind](int(there.sum()))
            table.to_csv(file, index=False)
    shutil.copytree(folder, tmp_path / "t")
    printed = well(command(lambda: analysis.main(["s", "--evidence"]), [], tmp_path))
    if kind in OUTCOMES:
        assert OUTCOMES[kind] in printed or "collapsed" in printed
    well(command(lambda: compare.main(["s", "t", "--no-files"]), [], tmp_path))
    well(command(report, ["s"], tmp_path))
    tables, _ = load(folder)
    for name in ("loss_curves", "lr_against_loss", "heat_map", "branch_fan"):
        try:
            assert writing.written(name, writing.figure(name, tables), tmp_path, ["png"])
        except NothingToDraw as reason:
            assert str(reason)


def test_lrs_over_fifty_powers_of_ten_train_side_by_side(tmp_path: Path) -> None:
    typed = ["lr=1e-12,1e-3,1,1e12,1e38", "data.train_size=128", "name=wide"]
    ended = sweep(*typed, "diagnostics=default", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    found = summaries(tmp_path / "outputs" / "wide")
    assert [one["state"] for one in found[:3]] == ["finished"] * 3
    assert found[4]["state"] == "diverged" and found[4]["first_nonfinite_step"] is not None
    assert "diverged" in well(command(lambda: analysis.main(["outputs/wide"]), [], tmp_path))
    well(command(report, ["outputs/wide"], tmp_path))


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("data.train_size=1 batch_size=1", ""),
        ("data.train_size=1 batch_size=2", "batch_size=2: more than the 1 training samples"),
        ("data.train_size=8 batch_size=8", ""),
        ("data.train_size=8 batch_size=8 diagnostics=full", ""),
        ("data=csv data.path=one.csv data.label=y", "all samples are of one class"),
        ("data=csv data.path=row.csv data.label=y", "data.path=row.csv: holds one sample"),
        ("data=csv data.path=two.csv data.label=y batch_size=1", ""),
    ],
)
def test_hardly_any_data(typed: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("x,y\n1,a\n2,a\n3,a\n")
    (tmp_path / "row.csv").write_text("x,y\n1,a\n")
    (tmp_path / "two.csv").write_text("x,y\n1,a\n2,b\n")
    few = ["threads=1", "epochs=1", "plots=false", "name=few", "lr=0.1", "diagnostics=off"]
    few += [] if "csv" in typed else ["data.val_size=1"]
    from lrlab.sweep import main

    ended = command(main, [*few, *typed.split()], tmp_path)
    if words:
        assert_refused(ended, words)
        assert not (tmp_path / "outputs").exists()
    else:
        assert (ended.code, without_notices(ended.err)) == (0, "")
        (one,) = summaries(tmp_path / "outputs" / "few")
        assert one["state"] == "finished" and one["steps"] >= 1


# --- names and paths ------------------------------------------------------------------------------

NAME = 'it\'s "größe" 中 $x; a'


def test_quotes_blanks_and_letters_of_all_kinds_in_names_and_paths(tmp_path: Path) -> None:
    data = tmp_path / "my 'dätä' \"1\".csv"
    data.write_text("x,y\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(20)))
    here = f"o 'ü\" p/{NAME}"
    typed = ["data=csv", f"data.path={quoted(data.name)}", "data.label=y", "batch_size=4"]
    typed += [f"name={quoted(NAME)}", f"output={quoted(str(Path(here).parent))}", "lr=0.1,0.2"]
    few = ["threads=1", "epochs=1", "plots=false", "diagnostics=off"]
    from lrlab.sweep import main

    assert NAME in well(command(main, [*few, *typed], tmp_path))
    well(command(lambda: analysis.main([here]), [], tmp_path))
    well(command(report, [here], tmp_path))
    only = ["--only", "loss_curves", "--format", "png"]
    assert "loss_curves.png" in well(command(lambda: plots([here, *only]), [], tmp_path))
    well(command(resume.main, [here, "lr=0.1,0.2,0.3"], tmp_path))
    assert [one["lr"] for one in summaries(tmp_path / here)] == [0.1, 0.2, 0.3]
    assert "identical" in well(command(reproduce.main, [f"{here}/1"], tmp_path))


LONG = "x" * 200


def test_a_name_of_200_characters(tmp_path: Path) -> None:
    well(sweep("lr=0.1", f"name={LONG}", cwd=tmp_path))
    here = f"outputs/{LONG}"
    assert "identical" in well(command(reproduce.main, [f"{here}/0"], tmp_path))
    shutil.copytree(tmp_path / here, tmp_path / "outputs" / f"{LONG}y")
    # its names stand beside figures
    well(command(lambda: compare.main([here, f"{here}y"]), [], tmp_path))


@pytest.mark.parametrize("text", ["x" * 256, "中" * 100, "x/" * 3000, "a\0b", "a\udc80b"])
def test_what_no_file_can_be_called_is_one_line(text: str, tmp_path: Path) -> None:
    entries: list[Callable[[], None]] = [
        lambda: analysis.main([text]),
        lambda: compare.main([text, text]),
        lambda: plots([text]),
        lambda: analysis.main(["--output", text, "."]),
    ]
    for entry in entries:
        assert_refused(command(entry, [], tmp_path))
    for entry in (report, reproduce.main, resume.main):
        assert_refused(command(entry, [text], tmp_path))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["name", "output", "lr", "x"])
@pytest.mark.parametrize("text", ["x" * 256, "a\udc80b"])
def test_what_no_option_can_be_is_one_line(option: str, text: str, tmp_path: Path) -> None:
    if option == "x":
        option, text = text, "1"
    assert_refused(sweep(f'{option}="{text}"', cwd=tmp_path))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("typed", ['name="a\nb"', 'output="a\tb"', f"lr={'9' * 5000}"])
def test_control_characters_and_endless_digits_are_one_line(typed: str, tmp_path: Path) -> None:
    assert_refused(sweep(typed, cwd=tmp_path))
    assert not any(tmp_path.iterdir())


# --- folders that nobody can write ----------------------------------------------------------------

# torch, matplotlib, fontconfig, numba ... would each keep something somewhere at home.
NOWHERE = {
    name: "/proc/nobody/writes/here"
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "LRLAB_CACHE")
}


# As python -m lrlab.sweep, which would draw all figures.
TWO_FIGURES = """
import lrlab.plots, lrlab.plots.drawing
lrlab.plots.NAMES = lrlab.plots.drawing.NAMES = ("loss_curves", "textbook")
lrlab.plots.OF_LANDSCAPE = ("textbook",)
from lrlab.sweep import main
main()
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that not even root writes")
@pytest.mark.parametrize("kept", [True, False], ids=["unwritable", "unset"])
def test_nothing_is_needed_of_home_and_nothing_said_of_it(kept: bool, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in NOWHERE}
    environment |= NOWHERE if kept else {}
    environment["PYTHONPATH"] = str(ROOT)
    few = ["threads=1", "epochs=1", "data.train_size=128", "data.val_size=100", "name=s", "lr=0.1"]
    words = [sys.executable, "-c", TWO_FIGURES, *few]
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    # one line, and only where somebody could mend it
    line = "cannot write to the cache folder .*; LRLAB_CACHE may name another folder\n"
    told = line if kept else ""
    assert done.returncode == 0 and re.fullmatch(told, done.stderr), done.stderr
    assert list((tmp_path / "outputs/s/plots").glob("*.png"))
    assert (tmp_path / "outputs/s/report.html").is_file()
