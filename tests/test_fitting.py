"""Tables are as wide as their terminal, never wider, and say what they leave out."""

from __future__ import annotations

import fcntl
import io
import os
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from helpers.judged import make_sweep

from lrlab import compare
from lrlab.comparison.reading import read
from lrlab.comparison.words import text
from lrlab.process import broken_pipe, fitting
from lrlab.verdicts.printed import sweep_table

pytestmark = pytest.mark.unit

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
WHOLE = sweep_table.results(RUNS, Path("s"), verdicts=VERDICTS).splitlines()


def narrow(width: int, runs: pd.DataFrame = RUNS) -> tuple[list[str], str]:
    """The table's lines, and what is said below it."""
    text = sweep_table.results(runs, Path("s"), verdicts=VERDICTS, width=width)
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
        text = sweep_table.results(RUNS, Path("s"), verdicts=VERDICTS, width=width)
        assert text.splitlines() == WHOLE
    assert "optimizer.momentum" in WHOLE[0] and "left out" not in "".join(WHOLE)


@pytest.mark.parametrize("width", range(4, 130, 3))
def test_no_row_is_wider_than_the_terminal(width: int) -> None:
    long = RUNS.assign(optimizer=[f"a/very/long/path/to/an/optimizer.{i}" for i in RUNS["run"]])
    failed = ["failed" if i == 3 else "finished" for i in range(COUNT)]
    long = long.assign(state=failed, error="ValueError: " + "x " * 40)
    for runs in (RUNS, long, long.assign(optimizer="学習率" * 20)):
        text = sweep_table.results(runs, Path("s"), verdicts=VERDICTS, width=width).partition(
            "\n\n"
        )[0]
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


@contextmanager
def terminal(width: int) -> Iterator[tuple[io.TextIOWrapper, int]]:
    """A terminal of so many columns: a stream behind lrlab's gate, and what reads it."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    stream = broken_pipe._Gated(io.BufferedWriter(io.FileIO(theirs, "w")), encoding="utf-8")
    try:
        yield stream, ours
    finally:
        stream.close()
        os.close(ours)


def shown(width: int, text: str) -> list[str]:
    """The lines that such a terminal gets."""
    with terminal(width) as (stream, ours):
        print(text, file=stream, flush=True)
        return os.read(ours, 65536).decode().replace("\r\n", "\n").splitlines()


COMMAND = (
    "python -m lrlab.resume 'outputs/a sweep, with; a long name' lr=0.1,0.2,0.3,0.4,0.5,0.6 seed=1"
)
NOTICE = (
    "lrlab: interrupted, 12 of 40 runs have not ended; what was trained is recorded, and nothing "
    f"of it is trained again; go on with {COMMAND}; or begin anew"
)


@pytest.mark.parametrize("width", [60, 80])
def test_a_notice_is_wrapped_between_words_and_its_command_is_not(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = shown(width, NOTICE)
    (command,) = [line for line in lines if "python" in line]
    assert command == f"       {COMMAND};"
    others = [line for line in lines if line is not command]
    assert len(others) >= 2 and max(map(len, others)) <= width
    assert all(line.startswith("       ") for line in lines[1:])
    assert " ".join(line.strip() for line in lines) == NOTICE
    # what lrlab does not say of itself is left as it is
    assert shown(width, "x" * 70 + " y " * 20) == [("x" * 70 + " y " * 20)]


@pytest.mark.parametrize("columns", [None, "60"])
def test_a_pipe_gets_each_statement_in_one_line(
    columns: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    file = tmp_path / "out"
    with broken_pipe._Gated(io.BufferedWriter(io.FileIO(file, "w")), encoding="utf-8") as stream:
        print(NOTICE, file=stream)
    assert file.read_text() == NOTICE + "\n"


@pytest.mark.parametrize(
    "command",
    [
        "`python -m lrlab.sweep lr=0.1 name='it is mine'`",
        "pip install 'lrlab[postgres]'",
        "python -m lrlab.plots outputs/x --only a b c,",
    ],
)
@pytest.mark.parametrize("before", range(0, 60, 7))
def test_no_width_breaks_a_command(command: str, before: int) -> None:
    text = f"{'w ' * before}{command} then more words follow (of any kind)"
    lines = fitting.wrapped("find: ", text, 40).splitlines()
    assert any(command in line for line in lines)
    assert " ".join(line.strip() for line in lines) == f"find: {text}"
    assert all(len(line) <= 40 for line in lines if command not in line)


ANSWER = """answer  lr=0.1: end loss 0.1267 (val loss), one seed; lr 0.1 to 0.3 are as good
        too small: lr 0.03 and below end with a higher loss in this budget
        how sure: one seed; the next best, lr 0.3, ended 0.0058 higher (4.5%), within the \
noise of the held-out samples (±0.012). Another seed may change the order; try seed=0,1,2"""


@pytest.mark.parametrize("width", [60, 80])
def test_the_answer_is_wrapped_below_the_table(width: int) -> None:
    best = sweep_table.Best(
        1, "lr=0.1 optimizer=rmsprop optimizer.momentum=0.9", "val_loss", 0.1, 3
    )
    text = sweep_table.results(RUNS, Path("s"), best, VERDICTS, ANSWER, width)
    lines = text.partition("\n\n")[2].splitlines()
    assert max(map(fitting.room, lines)) <= width
    told = lines[: lines.index("")]
    assert all(line.startswith(" " * 8) for line in told[1:])
    assert " ".join(" ".join(told).split()) == " ".join(ANSWER.split())
    piped = sweep_table.results(RUNS, Path("s"), best, VERDICTS, ANSWER)
    assert ANSWER in piped and "best   run 1: lr=0.1 optimizer=rmsprop" in piped
    rest = " ".join(" ".join(lines[len(told) :]).split())
    assert " ".join(piped.split()).endswith(rest)


@pytest.mark.full
@pytest.mark.parametrize("width", [40, 80])
def test_compare_is_as_wide_as_the_terminal(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = {0.01: [1.5, 1.52, 1.48], 0.1: [0.20, 0.21, 0.19], 1.0: [9.0, float("inf"), 0.9]}
    paths = []
    for number, name in enumerate("abcdef"):
        environment = {"torch": f"2.{number}+a.build.of.our.own", "device": f"cpu {number}"}
        paths.append(make_sweep(tmp_path / name, ends, environment=environment))
    whole = text(read(paths)[0])
    assert max(map(len, whole.splitlines())) > 100
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "figures", lambda *_: {})
    monkeypatch.setattr(fitting, "terminal_width", lambda *_: width)
    compare.main([*"abcdef", "--output", "out"])
    printed = capsys.readouterr().out
    assert max(map(fitting.room, printed.splitlines())) <= width
    said = " ".join(printed.split())
    assert "(out/compare.txt has all)" in said and "cut: " in said
    assert Path("out/compare.txt").read_text() == whole.replace(f"{tmp_path}/", "") + "\n"
    for letter in "ABCDEF":  # each sweep's answer, whole
        assert f"{letter} lr=0.1: end loss 0.2" in said
    heads = [line.split() for line in printed.splitlines() if line.split()[:1] == ["lr"]]
    assert all(head[:4] == ["lr", "A", "B", "C"] for head in heads) and len(heads) >= 2


def test_the_width_is_that_of_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    with terminal(57) as (stream, _):
        assert fitting.terminal_width(stream) == 57
        monkeypatch.setenv("COLUMNS", "41")
        assert fitting.terminal_width(stream) == 41
