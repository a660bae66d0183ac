"""Read a CSV of another program as text cells: a blank cell and a written nan stay different."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lrlab.errors import UserError, in_a_line
from lrlab.tables import curve_csv, tidy

_SHOWN = 40


@dataclass(frozen=True)
class Table:
    """The cells of a CSV.

    Attributes:
        cells: by the name of a column, its texts without spaces around them.
        lines: the line of the file on which each row ends.
        notes: lines about what was left out.
        known: by the name of a column its numbers, which are read once.
    """

    file: Path
    cells: Mapping[str, list[str]]
    lines: list[int]
    notes: tuple[str, ...]
    known: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @property
    def names(self) -> list[str]:
        return list(self.cells)

    def numbers(self, name: str) -> np.ndarray:
        """Return (rows,) a column's numbers, NaN for a blank cell and for a written nan. A copy.

        Raises:
            UserError: a cell is no number; names its line.
        """
        if name in self.known:
            return self.known[name].copy()
        found = np.full(len(self.lines), math.nan)
        for row, cell in enumerate(self.cells[name]):
            if not cell:
                continue
            try:
                found[row] = float(cell)
            except ValueError:
                found[row] = self._number(name, row, cell)
        self.known[name] = found
        return found.copy()

    def _number(self, name: str, row: int, cell: str) -> float:
        try:
            return tidy.number(name, cell)
        except UserError:
            shown = in_a_line(cell)[:_SHOWN]
            what = "must be a number, or empty"
            if re.fullmatch(r"[+-]?\d+(?:,\d+)+(?:\.\d+)?(?:[eE][+-]?\d+)?", cell):
                what = (
                    "has a comma; write numbers with a decimal point, like 0.52, and without others"
                )
            raise UserError(
                f"{self.file}: {name}={shown} in line {self.lines[row]}: {what}"
            ) from None

    def is_number(self, name: str) -> bool:
        """Return whether a column holds numbers, and at least one."""
        try:
            return bool(np.isfinite(self.numbers(name)).any())
        except UserError:
            return False

    def count(self, name: str) -> int:
        """Return how many cells of a column are not blank."""
        return sum(map(bool, self.cells[name]))

    def has(self, *names: str) -> bool:
        return all(name in self.cells for name in names)


def read(file: Path) -> Table:
    """Return a CSV's cells.

    Raises:
        UserError: it cannot be read, is damaged, or is no table.
    """
    source, notes = curve_csv.opened(file)
    reader = csv.reader(io.StringIO(source.text), delimiter=source.delimiter)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        names = [name.strip() for name in next(reader, [])]
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append(cells)
                lines.append(reader.line_num + source.before)
    except csv.Error as error:
        source.fail(f"is no table that can be read ({error})")
    for name in names:
        if name and names.count(name) > 1:
            source.fail(f"two columns are called {in_a_line(name)[:_SHOWN]}; keep one")
    for cells, line in zip(rows, lines, strict=True):
        if any(cell.strip() for cell in cells[len(names) :]):
            source.fail(f"line {line} has {len(cells)} cells, not {len(names)}")
    kept = {
        name: [cells[i].strip() if i < len(cells) else "" for cells in rows]
        for i, name in enumerate(names)
        if name
    }
    if source.delimiter == ";":
        kept = {name: curve_csv.with_points(cells) for name, cells in kept.items()}
    return Table(file, kept, lines, tuple(notes))


def is_json_lines(first: bytes) -> bool:
    """Return whether the first line of a file is a JSON object of its own, with scalars in it."""
    line, _, rest = first.partition(b"\n")
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(found, dict) and "log_history" not in found and rest.lstrip()[:1] in (b"{", b"")
    )


def read_json_lines(file: Path) -> Table:
    """Return the scalars of a file with a JSON object in each line; null is a blank cell.

    Raises:
        UserError: it cannot be read, or a line is something else.
    """
    text = curve_csv.text_of(file)
    records: list[dict[str, object]] = []
    lines: list[int] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            if number == text.count("\n") + 1:  # it breaks off
                continue
            raise UserError(f"{file}: line {number} is no JSON object")
        records.append(found)
        lines.append(number)
    names = list(dict.fromkeys(str(name) for each in records for name in each))
    cells = {name: [_cell(each.get(name)) for each in records] for name in names}
    return Table(file, cells, lines, ())


def _cell(value: object) -> str:
    return str(value) if isinstance(value, str | int | float) else ""
