"""Pages of docs/: their tables, and the commands that they have people type."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path

from helpers.commands import Ended, command
from lrlab.__main__ import VERBS

DOCS = Path(__file__).parents[2] / "docs"
OPTIONS, FILES, TROUBLES = (
    (DOCS / f"{name}.md").read_text(encoding="utf-8")
    for name in ("options", "files", "troubleshooting")
)
# As written, but on few images.
FEW = ("data.train_size=384", "data.val_size=100", "threads=1")


def entry(words: list[str]) -> tuple[Callable[[], None], list[str]]:
    """The function that a typed command calls, and its arguments."""
    if words[0] == "lrlab":
        return importlib.import_module("lrlab.__main__").main, words[1:]
    assert words[:2] == ["python", "-m"]
    return importlib.import_module(VERBS[words[2].removeprefix("lrlab.")][0]).main, words[3:]


def run(typed: str, cwd: Path, *more: str) -> Ended:
    call, arguments = entry(shlex.split(typed))
    return command(call, [*arguments, *more], cwd)


def section(page: str, heading: str) -> str:
    """The text below a heading, up to the next one of its rank or above."""
    rank = heading.index(" ")
    ends = rf"^#{{1,{rank}}} "
    _, found, text = f"\n{page}".partition(f"\n{heading}\n")
    assert found, heading
    return re.split(ends, text, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of all tables in a text, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    tables = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    rules = [number for number, line in enumerate(lines) if line.startswith(("|---", "| ---"))]
    return [c for n, c in enumerate(tables) if n not in rules and n + 1 not in rules]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def commands(page: str) -> list[tuple[str, list[str]]]:
    """What is typed in a page, each with the lines that it prints."""
    found = re.findall(r"^    \$ (.+)\n((?:    (?!\$ ).+\n)*)", page, re.MULTILINE)
    assert len(found) == page.count("    $ ")
    return [(typed, [line.strip() for line in lines.splitlines()]) for typed, lines in found]
