"""Read a CSV as a table of cells: its form, its first bytes and its header."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrlab.config import data_paths
from lrlab.data.own import odd_columns
from lrlab.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

MOST_LISTED = 20  # columns that a message names
SEPARATORS = {
    "comma": ",",
    "semicolon": ";",
    "tab": "\t",
    r"\t": "\t",
    "pipe": "|",
    "space": " ",
    "blanks": r"\s+",
}
# How files of other formats begin.
_OTHER_FORMATS = (
    (b"PK\x03\x04", "a spreadsheet or a zip file; save it as CSV, or let its name end in .zip"),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet; save it as CSV"),
    (b"PAR1", "a Parquet file; save it as CSV"),
    (b"\x1f\x8b", "packed by gzip; let its name end in .gz"),
    ((b'{"', b"[{", b"[[", b"<!", b"<html"), "no table; save it as CSV"),
)
DECIMALS = {".": ".", ",": ",", "point": ".", "comma": ","}


@dataclass(frozen=True)
class Form:
    """How a CSV is written.

    Attributes:
        sep: the separator between two cells, as pandas takes it.
        decimal: the decimal point.
        header: whether the first line names the columns.
        check: whether to drop or refuse what is surely not meant; older records lack it.
    """

    sep: str
    decimal: str
    header: bool
    check: bool


def form(sep: Any, decimal: Any, header: Any, check: Any) -> Form:
    """Return how a CSV is written, from its options; refuse values that cannot work."""
    for key, value in (("header", header), ("check", check)):
        if not isinstance(value, bool):
            raise UserError(f"data.{key}={value}: must be true or false")
    named = SEPARATORS.get(sep, sep) if isinstance(sep, str) else ""
    if not (len(named) == 1 or named == r"\s+") or named in '\n\r"':
        raise UserError(
            f"data.sep={sep}: must be one character, like data.sep=';', or one of "
            f"{', '.join(name for name in SEPARATORS if name.isalpha())}"
        )
    point = DECIMALS.get(decimal) if isinstance(decimal, str) else None
    if point is None:
        raise UserError(f"data.decimal={decimal}: must be point or comma")
    if point == named:
        raise UserError(f"data.decimal={decimal}: must differ from data.sep={sep}")
    return Form(named, point, header, check)


def file_of(option: str, path: str) -> Path:
    """Return the file that an option names; raise ``UserError`` if there is none."""
    if not (isinstance(path, str) and path and "\0" not in path):
        raise UserError(f"{option}={path}: must be a file's name")
    try:
        file = data_paths.find(path)
        is_there = file.is_file()
    except (OSError, RuntimeError) as error:  # too long a name; ~ of nobody
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{option}={path}: cannot be read ({reason})") from None
    if not is_there:
        what = "is a folder" if file.is_dir() else "no such file"
        raise UserError(f"{option}={path}: {what}, {data_paths.tried(path)}")
    return file


def listed(columns: Sequence[str]) -> str:
    more = len(columns) - MOST_LISTED
    return ", ".join(columns[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def reads_as_number(cell: Any) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return not (isinstance(cell, str) and "_" in cell) and cell == cell


# --- a file ---------------------------------------------------------------------------------------


class Table:
    """A CSV that was read.

    Attributes:
        option: what the user typed; an error line begins with it.
        file: the file.
        frame: its cells; the columns have the names of its header.
    """

    def __init__(self, key: str, path: str, how: Form, said: list[str]) -> None:
        self.option, self.how = f"{key}={path}", how
        self.file = file_of(key, path)
        self.encoding = _encoding(self.option, self.file)
        first = self._csv(header=None, nrows=1, dtype=str, keep_default_na=False)
        names = [str(cell).strip() for cell in first.iloc[0]] if len(first) else []
        _check_first_line(self.option, names, how)
        self.given: dict[str, Any] = {"header": 0 if how.header else None}
        if how.check and how.header:
            self._check_names(names)
        frame = self._csv(**self.given)
        self.is_plain = _is_counted(frame)
        if how.check and not self.is_plain:
            frame = self._without_surplus(frame, said)
        if frame.empty:
            raise UserError(f"{self.option}: holds no rows")
        frame = frame.rename(columns=str)
        if how.check:
            frame = frame.rename(columns=str.strip)
            frame = self._without_empty(frame, said)
        self.frame = frame
        self._check_header_is_one(names)

    def texts(self, name: str) -> pd.Series:
        """Return a column's cells as they are written; an empty one is missing."""
        given = {**self.given}
        if self.how.check and self.is_plain:  # then no two columns have this name
            given["usecols"] = lambda column: str(column).strip() == name
        frame = self._csv(**given, dtype=str, keep_default_na=False).rename(columns=str)
        if self.how.check:
            frame = frame.rename(columns=str.strip)
        cells = frame[name].iloc[: len(self.frame)].str.strip()
        return cells.mask(cells == "")

    def _csv(self, **given: Any) -> pd.DataFrame:
        import pandas as pd

        how, given = self.how, {"low_memory": False, **given}
        try:
            return pd.read_csv(
                self.file,
                sep=how.sep,
                decimal=how.decimal,
                skipinitialspace=True,
                encoding=self.encoding,
                **given,
            )
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.option}: is no text in UTF-8 (byte {error.object[error.start]:#x}); save "
                "it as UTF-8"
            ) from error
        except Exception as error:  # from csv, codecs or pandas
            reason = " ".join(str(error).split())
            raise UserError(f"{self.option}: cannot be read as a CSV ({reason})") from error

    def _check_names(self, names: Sequence[str]) -> None:
        numbers = [name for name in names if reads_as_number(name)]
        if len(names) > 1 and len(numbers) == len(names) and not _even_steps(numbers):
            raise self._no_header(names)
        if len(numbers) * 2 >= len(names) and len(set(numbers)) < len(numbers):
            raise self._no_header(names)
        for name, count in Counter(names).items():
            if name and count > 1:
                raise UserError(
                    f"{self.option}: {count} columns are called {name}; give each a name of its own"
                )

    def _check_header_is_one(self, names: Sequence[str]) -> None:
        """Refuse a header of numbers and texts that is data: texts recur below, or numbers jump."""
        if not (self.how.check and self.how.header) or len(names) != len(self.frame.columns):
            return
        numbers = [float(name) for name in names if reads_as_number(name)]
        if not len(names) <= len(numbers) * 2 < len(names) * 2:
            return
        recurs = any(
            (self.frame.iloc[:, place] == name).any()
            for place, name in enumerate(names)
            if name and not reads_as_number(name) and self.frame.dtypes.iloc[place].kind == "O"
        )
        ordered = sorted(numbers)  # as years and wavelengths are
        if recurs or numbers not in (ordered, ordered[::-1]):
            raise self._no_header(names)

    def _no_header(self, names: Sequence[str]) -> UserError:
        return UserError(
            f"{self.option}: its first line, {listed(names)}, looks like data and not like the "
            "names of columns; give it a header line, or use data.header=false, which calls the "
            f"columns 0 to {len(names) - 1}"
        )

    def _without_surplus(self, frame: pd.DataFrame, said: list[str]) -> pd.DataFrame:
        """Repair rows with more cells than the header, whose first pandas took for names."""
        wider = frame.reset_index()
        surplus = len(wider.columns) - len(frame.columns)
        last = wider.iloc[:, len(frame.columns) :]
        if last.isna().all(axis=None):  # each row ends with a separator
            self.given["index_col"] = False
            self.given["usecols"] = list(range(len(frame.columns)))
            return self._csv(**self.given)
        if surplus == 1 and frame.index.is_unique and frame.index.dtype.kind != "f":
            said.append(
                f"{self.option}: rows have one cell more than the header, so the first is taken "
                "for the row's name and left out"
            )
            return frame.reset_index(drop=True)
        raise UserError(
            f"{self.option}: the header names {len(frame.columns)} columns, and rows have "
            f"{len(wider.columns)} cells; give each column a name"
        )

    def _without_empty(self, frame: pd.DataFrame, said: list[str]) -> pd.DataFrame:
        """Drop unnamed columns and last rows without content, as spreadsheets leave them."""
        empty = [
            name
            for name in frame.columns
            if odd_columns.is_unnamed(name) and bool(frame[name].isna().all())
        ]
        if empty and len(empty) < len(frame.columns):
            frame = frame.drop(columns=empty)
            what = "an empty column" if len(empty) == 1 else f"{len(empty)} empty columns"
            said.append(f"{self.option}: {what} without a name left out")
        filled = frame.notna().any(axis=1).to_numpy()
        rows = len(frame) if filled.all() else int(np.flatnonzero(filled)[-1:].sum()) + 1
        if 1 < rows < len(frame):
            said.append(f"{self.option}: the last {len(frame) - rows} rows are empty, and left out")
            frame = frame.iloc[:rows]
            # without the gaps, whole numbers are whole numbers again
            again = self._csv(**self.given, nrows=rows).rename(columns=str)
            frame = again.rename(columns=str.strip).loc[:, list(frame.columns)]
        return frame


def _is_counted(frame: pd.DataFrame) -> bool:
    import pandas as pd

    return isinstance(frame.index, pd.RangeIndex)


def _encoding(option: str, file: Path) -> str:
    """Return the encoding by the file's first bytes; refuse a file that is no text."""
    with file.open("rb") as stream:
        head = stream.read(4096)
    packed = file.suffix.lower() in (".gz", ".bz2", ".zip", ".xz", ".zst", ".tar", ".tgz")
    if packed or not head:
        return "utf-8"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    for begins, what in _OTHER_FORMATS:
        if head.lstrip().startswith(begins):
            raise UserError(f"{option}: is {what}")
    if b"\0" in head:
        raise UserError(f"{option}: is no text; save it as CSV in UTF-8")
    return "utf-8"


def _check_first_line(option: str, names: Sequence[str], how: Form) -> None:
    """Refuse a file that has another separator, by its first line."""
    if names and (match := re.match(r"sep=(.?)", names[0])) and how.header:
        raise UserError(
            f"{option}: begins with the line {match[0]}, which names no columns; take that line out"
        )
    if len(names) != 1:
        return
    counts = {name: names[0].count(SEPARATORS[name]) for name in SEPARATORS if name.isalpha()}
    counts["blanks"] = 0
    best = max(counts, key=lambda name: counts[name])
    if best == "space":
        best = "blanks"
        if how.sep != ",":  # texts have blanks too
            return
    if names[0].count(SEPARATORS[best]) or (best == "blanks" and " " in names[0]):
        here = next((name for name, sep in SEPARATORS.items() if sep == how.sep), how.sep)
        raise UserError(
            f"{option}: is one column by data.sep={here}; its first line, "
            f"{names[0][:60]!r}, suggests data.sep={best}"
        )


def _even_steps(names: Sequence[str]) -> bool:
    """Return whether names are whole numbers in equal steps, as in columns without names."""
    numbers = np.array([float(name) for name in names])
    steps = np.diff(numbers)
    return bool((numbers % 1 == 0).all() and steps[0] != 0 and (steps == steps[0]).all())
