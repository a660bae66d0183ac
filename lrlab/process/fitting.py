# pyright: strict
"""Fit printed text to the width of its terminal; in a pipe or a file there is no limit.

Tables have their least important columns shortened, then left out, and a line says so. Sentences
are wrapped, but the commands in them stay on one line.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import TextIO

from lrlab.errors import printable

Columns = dict[str, list[str]]

NOTICE = "lrlab: "  # start of a line about the command itself

_CELL = 20  # a narrow table first cuts cells to so many characters
_LEAST = 5  # and at last to so many
_GAP = 2
_INDENT = 8  # of further lines, if a sentence begins far to the right
# A command to be copied extends to the end of its sentence, because all of it may be arguments.
_WORD = r"""(?>'[^']*'|"[^"]*"|[^\s`])+"""
_COMMAND = re.compile(
    rf"`[^`]+`|(?<!\S)(?:python -m lrlab|pip install)\S*(?:(?<![;,:)]) (?![(`]){_WORD})*"
)
_UNBROKEN = "\0"  # stands for a space at which no line may end; printed text never holds one


def terminal_width(stream: TextIO | None = None) -> int | None:
    """Return the columns of the stream's terminal (default stdout); None if it is no terminal.

    The variable COLUMNS takes precedence.
    """
    stream = sys.stdout if stream is None else stream
    if stream is None or not stream.isatty():  # pyright: ignore[reportUnnecessaryComparison]
        return None
    if (stated := os.environ.get("COLUMNS", "")).isdecimal() and int(stated):
        return int(stated)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):  # a stream that imitates a terminal
        return shutil.get_terminal_size().columns


def wrapped(head: str, text: str, width: int | None) -> str:
    """Return head and text, broken between words; further lines are indented like the text.

    Commands are never broken, even if they are wider than the terminal.

    Args:
        head: with its spaces.
        width: of the terminal; None: one line.
    """
    if width is None or room(head) + room(text) <= width:
        return head + text
    indent = room(head) if room(head) <= width // 3 else min(_INDENT, width // 3)
    whole = _COMMAND.sub(lambda found: found[0].replace(" ", _UNBROKEN), text)
    lines: list[str] = []
    line, taken = head, room(head)
    for word in whole.split(" "):
        begun = line.strip() != "" and (lines != [] or line != head)
        if begun and taken + 1 + room(word) > width:
            lines.append(line)
            line, taken = " " * indent, indent
            begun = False
        line += f" {word}" if begun else word
        taken += room(word) + (1 if begun else 0)
    return "\n".join([*lines, line]).replace(_UNBROKEN, " ")


def sentences(lines: Sequence[str], width: int | None, head: int = 0) -> list[str]:
    """As `wrapped`, for lines whose text begins at the column ``head``."""
    found = [wrapped(line[:head], line[head:], width) for line in lines]
    return "\n".join(found).splitlines() if found else []


def notices(text: str, stream: TextIO) -> str:
    """Return the text, with lines that begin with ``lrlab: `` wrapped to the stream's terminal."""
    width = terminal_width(stream)
    if width is None:
        return text
    lines = text.split("\n")
    return "\n".join(
        wrapped(NOTICE, line.removeprefix(NOTICE), width) if line.startswith(NOTICE) else line
        for line in lines
    )


def aligned(columns: Mapping[str, Sequence[str]], left: Set[str], gap: int = _GAP) -> list[str]:
    """Return lines of a table: the names, a rule, the rows. Control characters are replaced.

    Args:
        columns: cells by name.
        left: the columns that hold words.
        gap: spaces between two columns.
    """
    left = {printable(name) for name in left}
    clean = _clean(columns)
    widths = _widths(clean)

    def line(cells: Sequence[str]) -> str:
        parts = [
            cell + " " * (widths[name] - room(cell))
            if name in left
            else " " * (widths[name] - room(cell)) + cell
            for name, cell in zip(clean, cells, strict=True)
        ]
        return (" " * gap).join(parts).rstrip()

    rule = ["-" * width for width in widths.values()]
    rows = zip(*clean.values(), strict=True)
    return [line(list(clean)), line(rule), *(line(row) for row in rows)]


def fitted(
    columns: Mapping[str, Sequence[str]],
    left: Set[str],
    width: int | None,
    least: Sequence[str],
    where: str,
) -> list[str]:
    """As `aligned`, no wider than a terminal; a last line names the columns left out.

    Args:
        width: of the terminal; None: no limit.
        least: the columns that may be left out, the least important first.
        where: the file with all columns, and its verb: ``outputs/x/runs.csv has``.
    """
    whole = _clean(columns)
    if width is None or _total(whole, _GAP) <= width:
        return aligned(whole, left)
    names = _short_names(list(whole))
    short, gap = whole, _GAP
    for short, gap in _narrower(whole, [printable(name) for name in least], names):
        if _total({names[name]: cells for name, cells in short.items()}, gap) <= width:
            break
    shown = {names[name]: cells for name, cells in short.items()}
    found = aligned(shown, {names[name] for name in map(printable, left) if name in names}, gap)
    return [*(_clipped(line, width) for line in found), *_note(whole, short, width, where)]


def room(text: str) -> int:
    """Return the columns that a text takes: two for a wide letter, none for an accent."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def _narrower(
    whole: Columns, least: Sequence[str], names: Mapping[str, str]
) -> Iterator[tuple[Columns, int]]:
    """Yield ever narrower tables, each with the spaces between its columns."""
    yield whole, _GAP
    short = {name: [_cut(cell, _CELL) for cell in cells] for name, cells in whole.items()}
    yield short, _GAP
    for name in least:
        if name in short:
            # try narrower gaps before a column goes
            yield short, 1
            short = {each: cells for each, cells in short.items() if each != name}
            yield short, _GAP
    while True:
        yield short, 1
        widths = _widths({names[name]: cells for name, cells in short.items()})
        widest = max(short, key=lambda name: _widths({"": short[name]})[""])
        size = max(map(room, short[widest]), default=0) - 1
        if size < _LEAST or not widths:
            return
        short = {**short, widest: [_cut(cell, size) for cell in short[widest]]}


def _note(whole: Columns, short: Columns, width: int, where: str) -> list[str]:
    out = [name for name in whole if name not in short]
    cut = [name for name in short if short[name] != whole[name]]
    told = [
        f"{what}: {', '.join(each)}" for what, each in (("left out", out), ("cut", cut)) if each
    ]
    if not told:
        return []
    line = f"{'; '.join(told)} ({where} all)"
    return textwrap.wrap(line, width, break_on_hyphens=False) if width > 10 else [line[:width]]


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """Shorten names: ``optimizer.momentum`` is momentum if no other column is."""
    ends = [name.rpartition(".")[2] for name in names]
    return {
        name: end if ends.count(end) == 1 else name for name, end in zip(names, ends, strict=True)
    }


def _cut(cell: str, size: int) -> str:
    if room(cell) <= size:
        return cell
    return _clipped(cell, size - 2).rstrip() + ".."


def _clipped(text: str, size: int) -> str:
    while room(text) > size:
        text = text[:-1]
    return text


def _clean(columns: Mapping[str, Sequence[str]]) -> Columns:
    return {printable(name): [printable(c) for c in cells] for name, cells in columns.items()}


def _widths(columns: Mapping[str, Sequence[str]]) -> dict[str, int]:
    return {name: max(map(room, [name, *cells])) for name, cells in columns.items()}


def _total(columns: Mapping[str, Sequence[str]], gap: int) -> int:
    widths = _widths(columns).values()
    return sum(widths) + gap * (len(widths) - 1)
