"""Read a CSV of curves from any program, or refuse it in one line."""

import csv
import gzip
import io
import itertools
import re
import stat
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd

from lrlab.errors import UserError
from lrlab.tables import holes, restarts, tidy

_NEEDED = ("run", "lr", "train_loss")
# Other programs' names of these columns.
_ALIASES = {
    "run": ("run_id", "run_name", "trial", "experiment", "exp", "id", "name", "job"),
    "lr": ("learning_rate", "learningrate", "init_lr", "initial_lr", "base_lr", "max_lr", "eta"),
    "train_loss": ("loss", "training_loss", "loss_train", "batch_loss", "train/loss", "trainloss"),
    "step": ("iteration", "iter", "global_step", "_step", "steps", "update", "batch", "t"),
}
_DELIMITERS = ",;\t|"
_WITH_COMMA = re.compile(r"\s*[+-]?\d+(,\d+)+([eE][+-]?\d+)?\s*")  # 0,52 or 1,234
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+(?:[eE][+-]?\d+)?\s*")
_BLANK_LINES = re.compile(r"(?:[ \t]*\n)*")
_SHOWN = 40  # characters of a line or cell that a message shows


@dataclass(frozen=True)
class _Source:
    """A file's text, from the line with the column names on."""

    file: Path
    text: str
    delimiter: str
    before: int  # blank lines above it

    def fail(self, message: str) -> NoReturn:
        raise UserError(f"{self.file}: {message}")


def read(file: Path) -> tuple[pd.DataFrame, list[str]]:
    """Return the table, with its numbers as numbers, and lines about what was left out.

    The first line decides the delimiter: a comma, semicolon, tab or bar. The first bytes decide
    whether it is gzip, UTF-8 or UTF-16. An incomplete last line is left out.

    Args:
        file: columns as described at `lrlab.verdicts.judging.verdicts`; others are kept.

    Raises:
        UserError: it cannot be read, is no such table, or a cell is no number; names the line.
    """
    source, notes = opened(file)
    names = _names(source)
    frame = _parsed(source)
    if len(frame.columns) != len(names):
        source.fail("the line that names the columns is damaged")
    frame.columns = names
    frame = frame.loc[:, [name for name in names if name]]  # a saved index column
    for name in names:
        if name in tidy.NUMBERS:
            frame[name] = _numbers(source, frame[name])
    frame, told = _settled(source, frame)
    frame = _without_blank_rows(frame)
    if frame.empty:
        source.fail("names its columns and has no rows")
    frame, restarted = restarts.counted_on(frame)
    return frame, notes + [f"{file}: {note}" for note in (*told, *restarted)]


def opened(file: Path) -> tuple[_Source, list[str]]:
    """Return a CSV's text from its first line that is not blank, and lines about what was left out.

    Lines that repeat the first one, as of a program that began again, are made blank.

    Raises:
        UserError: it cannot be read, or is no text.
    """
    text = text_of(file)
    before = _BLANK_LINES.match(text)
    start = before.end() if before else 0
    first = text[start:].split("\n", 1)[0]
    body, repeated = text[start:], []
    if f"\n{first}\n" in f"{body}\n":
        lines = body.split("\n")
        body = "\n".join([first, *("" if line == first else line for line in lines[1:])])
        repeated = [f"{file}: its first line comes again, and was left out there"]
    source = _Source(file, body, _delimiter(first), text.count("\n", 0, start))
    source, notes = _without_torn_line(source)
    return source, repeated + notes


def _settled(source: _Source, frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Tell blank losses from written nan, where a loss is missing."""
    there = [name for name in holes.LOSSES if name in frame]
    lacking = [name for name in there if bool(frame[name].isna().to_numpy().any())]
    if not lacking:
        return frame, []
    texts = pd.read_csv(
        io.BytesIO(source.text.encode("utf-8", errors="replace")),
        sep=source.delimiter,
        index_col=False,
        skipinitialspace=True,
        dtype=str,
        keep_default_na=False,
    )
    texts.columns = [name.strip() for name in texts.columns]
    written = {name: holes.is_written_nan(texts[name].tolist()) for name in lacking}
    return holes.settled(frame, written, blank_may_be_lost=True)


def text_of(file: Path) -> str:
    """Return a file's text, unpacked, with line feeds alone."""
    try:
        mode = file.stat().st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):  # reading it might never end
            raise UserError(f"{file}: is a device; a CSV of curves is needed")
        data = file.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except OSError as error:
        reason = error.strerror or "a damaged gzip file"
        raise UserError(f"{file}: cannot be read ({reason})") from None
    except (EOFError, zlib.error):
        raise UserError(f"{file}: cannot be read (a damaged or unfinished gzip file)") from None
    if data[:4] == b"PK\x03\x04":
        raise UserError(f"{file}: is a workbook or an archive; save its table as CSV")
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = data.decode(encoding, errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        raise UserError(f"{file}: is no text; a CSV of curves is needed")
    if not text.strip():
        raise UserError(f"{file}: is empty")
    return text


def _delimiter(first: str) -> str:
    """Return the delimiter that finds most known columns in the first line, else most columns."""
    known = {*tidy.NUMBERS, "run"}

    def score(delimiter: str) -> tuple[int, int]:
        names = {name.strip() for name in _cells(first, delimiter)}
        return len(known & names), len(names)

    return max(_DELIMITERS, key=score)


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:  # a cell above 128 kB
        return []


def _without_torn_line(source: _Source) -> tuple[_Source, list[str]]:
    """Return the text without an incomplete last line, and a line about that.

    A complete last line without a line end is kept: many programs write none.
    """
    text = source.text
    start = text.rfind("\n") + 1
    last, first = text[start:], text.split("\n", 1)[0]
    if not start or not last.strip(" \t"):
        return source, []
    wanted = len(_cells(first, source.delimiter))
    if len(_cells(last, source.delimiter)) >= wanted and last.count('"') % 2 == 0:
        return source, []
    note = f"{source.file}: its last line is incomplete ({_shown(last)}) and was left out"
    return replace(source, text=text[:start]), [note]


def _names(source: _Source) -> list[str]:
    try:
        cells = next(csv.reader(io.StringIO(source.text), delimiter=source.delimiter))
    except (csv.Error, StopIteration):
        source.fail("the line that names the columns is damaged")
    names = [name.strip() for name in cells]
    listed = _shown(", ".join(name for name in names if name), 120)
    if all(_is_number(name) for name in names):
        source.fail(
            f"its first line is {listed}; it must name the columns: run, lr, train_loss, and step "
            "or epoch"
        )
    for name in names:
        if name and names.count(name) > 1:
            source.fail(f"two columns are called {_shown(name)}; keep one")
    missing = [name for name in _NEEDED if name not in names]
    missing += [] if "step" in names or "epoch" in names else ["step"]
    if missing:
        source.fail(f"{_missing(missing, names)}; its columns are {listed}{_instead(source.file)}")
    return names


def _missing(missing: Sequence[str], names: Sequence[str]) -> str:
    """Return which columns are missing, the names that may be meant, and what is needed."""
    from lrlab.config.schema import nearest

    plain = {re.sub(r"[ -]", "_", name.lower()): name for name in names}
    hints = []
    for name in missing:
        found = [plain[each] for each in (name, *_ALIASES[name]) if each in plain]
        if found:
            hints.append(f' (did you mean "{_shown(found[0])}"?)')
        else:
            hints.append(nearest(name, [each for each in names if each not in tidy.NUMBERS]))
    words = ["step or epoch" if name == "step" else name for name in missing]
    told = ", nor ".join(f"{word}{hint}" for word, hint in zip(words, hints, strict=True))
    return f"has no column {told}; run, lr, train_loss, and step or epoch are needed"


def _instead(file: Path) -> str:
    """Suggest the sweep's folder in place of a file of lrlab's own."""
    if (file.parent / "multirun.yaml").is_file():
        return f"; for the runs of this sweep name its folder, {file.parent}"
    if (file.parent / ".hydra").is_dir():
        return f"; for this run name its sweep's folder, {file.parent.parent}"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shown(text: str, length: int = _SHOWN) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _parsed(source: _Source) -> pd.DataFrame:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(
                io.BytesIO(source.text.encode("utf-8", errors="replace")),
                sep=source.delimiter,
                index_col=False,  # a cell more in each row is no index
                skipinitialspace=True,
                # Read in one piece: a column read in parts can mix numbers and texts.
                low_memory=False,
            )
    except pd.errors.ParserWarning:
        source.fail(f"its rows have more cells than its columns have names{_decimal(source)}")
    except (pd.errors.ParserError, ValueError, OverflowError) as error:
        reason = str(error).strip().splitlines()[0]
        if match := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", reason):
            line = int(match[2]) + source.before
            source.fail(f"line {line} has {match[3]} cells, not {match[1]}{_decimal(source)}")
        source.fail(f"is no table that can be read ({_shown(reason.split('C error: ')[-1], 80)})")


def _decimal(source: _Source) -> str:
    return "; a decimal comma makes two cells of one number" if source.delimiter == "," else ""


def _numbers(source: _Source, column: pd.Series) -> pd.Series:
    if column.dtype != bool and pd.api.types.is_numeric_dtype(column.dtype):
        return column
    found = []
    values = column.tolist()
    if source.delimiter == ";":
        values = with_points(values)
    for row, value in enumerate(values):
        try:
            found.append(tidy.number(str(column.name), value))
        except UserError as error:
            option, _, rest = str(error).partition(": ")
            if isinstance(value, str) and _WITH_COMMA.fullmatch(value):
                rest = "has a comma; write numbers with a decimal point, like 0.52"
            source.fail(f"{option} in line {_line(source, row)}: {rest}")
    return pd.Series(found, column.index, dtype="float64")


def with_points(cells: list[Any]) -> list[Any]:
    """Return a column's cells with points for decimal commas, if it has these and no points."""
    is_one = [isinstance(cell, str) and bool(_DECIMAL_COMMA.fullmatch(cell)) for cell in cells]
    if not any(is_one) or any("." in cell for cell in cells if isinstance(cell, str)):
        return cells
    return [
        cell.replace(",", ".") if one else cell for cell, one in zip(cells, is_one, strict=True)
    ]


def _without_blank_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop empty rows, which spreadsheets write, and restore the whole numbers of the runs."""
    blank = frame.isna().all(axis=1)
    if not blank.any():
        return frame
    frame = frame.loc[~blank].reset_index(drop=True)
    runs = frame["run"].tolist()
    if all(isinstance(run, float) and run.is_integer() for run in runs):
        frame["run"] = list(map(int, runs))
    return frame


def _line(source: _Source, row: int) -> int:
    """Return the line of the file on which a row of the table ends."""
    reader = csv.reader(io.StringIO(source.text), delimiter=source.delimiter)
    ends = (reader.line_num for cells in reader if "".join(cells).strip() or len(cells) > 1)
    return next(itertools.islice(ends, row + 1, None)) + source.before
