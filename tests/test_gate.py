"""What is printed or drawn of names that are anybody's is shown, and obeyed by nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from helpers import made_tables

from lrlab import errors, plots
from lrlab.plots import style, writing
from lrlab.process import broken_pipe
from lrlab.verdicts.judging import verdicts
from lrlab.verdicts.recommend import recommend

# An OSC title, a cleared screen, a C1 sequence, a turned direction, and a way back in the line.
HOSTILE = "a\x1b]0;owned\x07b\x1b[2Jc\x9b31md\u202ee"
SHOWN = "a?]0;owned?b?[2Jc?31md?e"

PROGRAM = """
import logging, sys, warnings
from lrlab.process import broken_pipe, progress
broken_pipe.outlive()
word = sys.argv[1]
print("P" + word)
print("one\\rtwo\\r\\nthree\\u3000four")
with progress.show([progress.LaneRow(0, "L" + word, epochs=1)]) as update:
    print("D" + word)
    warnings.warn("E" + word)
    update.note("N" + word)
    update(0, epoch=1, lr=0.1, loss=0.3, accuracy=0.5, state="finished")
warnings.warn("W" + word)
logging.basicConfig()
logging.warning("G" + word)
raise RuntimeError("T" + word)
"""


def printed(terminal: bool) -> str:
    """All that the program prints, on a terminal or into a pipe."""
    words = [sys.executable, "-c", PROGRAM, HOSTILE]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    if not terminal:
        done = subprocess.run(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.stdout.decode()
    ours, theirs = os.openpty()
    with subprocess.Popen(words, env=env, stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        found = b""
        try:
            while part := os.read(ours, 65536):
                found += part
        except OSError:  # the program has ended
            pass
    os.close(ours)
    return found.decode()


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
def test_all_that_is_printed_passes_the_gate(terminal: bool) -> None:
    text = printed(terminal)
    for kind in "PLDENWGT":
        if kind in "N" and not terminal:
            continue
        assert kind + SHOWN in text, (kind, text)
    assert not re.search("[\x80-\x9f\u202e\x07]|\x1b\\]|\x1b\\[2J", text)
    assert "three four" in text, "a wide space is no command"
    if terminal:
        assert "\x1b[32m" in text and "\x1b[2K" in text, "rich draws as before"
    else:
        assert "\x1b" not in text and "\r" not in text and "one\ntwo\nthree" in text


def test_a_stream_that_is_no_terminal_s_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    broken_pipe.outlive()
    assert broken_pipe.ungated(sys.stdout) is sys.stdout
    assert errors.printable("\u3000\xa0学習率\r\x85\u2066") == "  学習率???"
    assert errors.printable(family := "👩\u200d👩\u200d👧 می\u200cخواهم") == family


# A letter that matplotlib's font lacks, what would be a formula, and a formula that is broken.
NAMES = {"fixed": "学習率 $x^{$", "step": f"{HOSTILE}\n$\\frac$"}


def renamed() -> plots.Tables:
    base = made_tables.tables([0.03, 0.1, 10.0], schedules=("fixed", "step"), steps=30)
    made = {
        name: table.assign(schedule=table["schedule"].replace(NAMES))
        if (table := getattr(base, name)) is not None and "schedule" in table
        else table
        for name in ("runs", "curves", "branches")
    }
    judged = verdicts(made["curves"])
    return replace(base, **made, verdicts=judged, answers=recommend(judged))


def test_names_of_any_kind_are_drawn_as_they_are(tmp_path: Path) -> None:
    given, texts = renamed(), set[str]()
    before = given.runs["schedule"].tolist()
    for name in ("lr_against_loss", "schedules"):
        figure = plots.figure(name, given)
        found = figure.findobj(matplotlib.text.Text)
        texts |= {one.get_text() for one in found if isinstance(one, matplotlib.text.Text)}
        writing.written(name, figure, tmp_path, ["png"])  # a warning is an error here
    assert any("学習率 $x^{$" in text for text in texts)
    assert any(SHOWN in text for text in texts)
    assert all(c.isprintable() or c == "\n" for text in texts for c in text)
    assert given.runs["schedule"].tolist() == before


def test_a_table_whose_words_are_clean_is_not_copied() -> None:
    from lrlab.plots import reach

    table = pd.DataFrame({"run": np.arange(3), "optimizer": ["sgd", "adam", None]})
    assert reach._clean(table) is table
    dirty = table.assign(optimizer=pd.Categorical(["\x1b[2J", "adam", None]))
    assert reach._clean(dirty)["optimizer"].tolist()[:2] == ["?[2J", "adam"]


def test_the_fonts_that_are_named_are_there() -> None:
    there = {font.name for font in matplotlib.font_manager.fontManager.ttflist}
    assert style.WORDS["font.family"][0] == "sans-serif"
    assert set(style.WORDS["font.family"][1:]) <= there
