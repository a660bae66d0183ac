"""Tables are as wide as their terminal, never wider, and say what they leave out."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

from lrlab import fitting, table

COUNT = 12
RUNS = pd.DataFrame(
    {
        "run": range(COUNT),
        "lr": [0.01, 0.1, 1.0] * 4,
        "schedule": "fixed",
        "optimizer": ["sgd"] * 6 + ["rmsprop"] * 6,
        "optimizer.momentum": [0.0, 0.9] * 6,
        "state": "finished",
        "first_nonfinite_step": float("nan"),
        "error": None,
        "train_loss": 0.123456,
        "val_loss": 1e9,
        "test_loss": 0.2,
        "test_acc": 0.9512,
    }
)
VERDICTS = pd.DataFrame(
    {
        "run": range(COUNT),
        "outcome": "undershooting",
        "at_end": ["too noisy to tell", "would anneal", "settled"] * 4,
        "judged_by": "val_loss",
        "end_loss": 0.25,
    }
)
WHOLE = table.results(RUNS, Path("s"), verdicts=VERDICTS).splitlines()


def narrow(width: int, runs: pd.DataFrame = RUNS) -> tuple[list[str], str]:
    """The table's lines, and what is said below it."""
    text = table.results(runs, Path("s"), verdicts=VERDICTS, width=width)
    head, _, _ = text.partition("\n\n")
    lines = head.splitlines()
    return lines[: COUNT + 2], " ".join(lines[COUNT + 2 :])


@pytest.mark.parametrize(
    ("width", "heading", "out"),
    [
        (
            80,
            ["run", "lr", "optimizer", "momentum", "val loss", "test acc", "outcome", "at the end"],
            "schedule, state, train loss, test loss",
        ),
        (
            60,
            ["run", "lr", "optimizer", "momentum", "val loss", "test acc", "outcome"],
            "schedule, state, train loss, test loss, at the end",
        ),
        (
            40,
            ["run", "lr", "val loss", "outcome"],
            "schedule, optimizer, optimizer.momentum, state, train loss",
        ),
    ],
)
def test_what_matters_least_is_left_out_first(width: int, heading: list[str], out: str) -> None:
    lines, note = narrow(width)
    assert max(map(len, lines)) <= width
    words = lines[0]
    for name in heading:  # in this order, and nothing else
        words = words.removeprefix(name).lstrip()
    assert words == ""
    told = {"schedule", "state", "train loss", "test loss", "test acc", "at the end", "val loss"}
    told |= {"optimizer", "optimizer.momentum"}
    shown = {"momentum": "optimizer.momentum"}
    left = told - {shown.get(name, name) for name in heading}
    said = note.partition("left out: ")[2].partition(" (")[0].split(", ")
    assert set(said) == left and len(said) == len(left) and set(out.split(", ")) <= left
    assert note.endswith("(s: runs.csv and verdicts.csv have all)")


def test_a_wide_terminal_and_a_file_get_the_whole_table() -> None:
    for width in (None, max(map(len, WHOLE))):
        text = table.results(RUNS, Path("s"), verdicts=VERDICTS, width=width)
        assert text.splitlines() == WHOLE
    assert "optimizer.momentum" in WHOLE[0] and "left out" not in "".join(WHOLE)


@pytest.mark.parametrize("width", range(4, 130, 3))
def test_no_row_is_wider_than_the_terminal(width: int) -> None:
    long = RUNS.assign(optimizer=[f"a/very/long/path/to/an/optimizer.{i}" for i in RUNS["run"]])
    failed = ["failed" if i == 3 else "finished" for i in range(COUNT)]
    long = long.assign(state=failed, error="ValueError: " + "x " * 40)
    for runs in (RUNS, long, long.assign(optimizer="学習率" * 20)):
        text = table.results(runs, Path("s"), verdicts=VERDICTS, width=width).partition("\n\n")[0]
        assert all(fitting.room(line) <= width for line in text.splitlines())
        assert "left out" in " ".join(text.splitlines()[COUNT:]) or not 20 < width < 100


def test_a_failure_stays_to_be_seen_and_long_words_are_cut() -> None:
    runs = RUNS.assign(state=["failed"] + ["finished"] * 11, error="ValueError: " + "x" * 60)
    lines, note = narrow(110, runs)
    assert "failed: ValueError.." in lines[2]
    assert "cut: state" in note


def test_wide_letters_take_two_columns() -> None:
    lines = fitting.aligned({"a": ["学習率", "x", "e\u0301"], "b": ["1", "2", "3"]}, {"a"})
    assert [fitting.room(line) for line in lines[1:]] == [9, 9, 9, 9]


def test_only_a_terminal_has_a_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "57")
    assert fitting.terminal_width() is None
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert fitting.terminal_width() == 57
