"""Find out which program wrote a path, and read it as runs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lrlab import records
from lrlab.errors import UserError, in_a_line
from lrlab.logs import (
    algoperf,
    columns,
    ends,
    generic,
    huggingface,
    keras,
    lightning,
    mlflow,
    optuna_study,
    rates,
    tensorboard,
    wandb,
)
from lrlab.logs.columns import Wanted
from lrlab.logs.log import Log, cleaned, split, told_line
from lrlab.records import files
from lrlab.tables import curve_csv, text_table
from lrlab.tables.sweep_folder import has_own_metrics
from lrlab.tables.text_table import Table

_CSV = (  # the first that takes a table reads it
    (wandb.takes_chart, wandb.read_chart),
    (tensorboard.takes, tensorboard.read),
    (algoperf.takes, algoperf.read),
    (wandb.takes_history, wandb.read_history),
    (keras.takes, keras.read),
    (ends.takes, ends.read),
    (lightning.takes, lightning.read),
    (generic.takes, generic.read),
)
_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".jsonl")
_PLAIN_NAMES = {"metrics", "measurements", "trainer_state", "log", "history", "progress", "results"}
_DEEPEST, _MOST = 8, 50_000  # folders within folders, entries of all


@dataclass(frozen=True)
class Found:
    """The runs of a path.

    Attributes:
        rows: curves as `lrlab.verdicts.judging.verdicts` takes them; or one row a run with end_loss
            and judged_by.
        ends: whether these are end losses.
        notes: what was taken for which column, and what was assumed or left out.
        counts_steps: whether the steps are steps of training, as far as that is known.
    """

    rows: pd.DataFrame
    ends: bool
    notes: tuple[str, ...]
    counts_steps: bool = True


def read(path: Path, wanted: Wanted) -> Found | None:
    """Return the runs of another program's log, or of a folder of them; None if it is none.

    Raises:
        UserError: it is damaged or ambiguous, or the lr of a run is not known.
    """
    folder = path if path.is_dir() else path.parent
    if all(os.path.exists(folder / name) for name in ("suggestions.json", "ramp.csv")):
        raise UserError(
            f"{path}: is of a range test by lrlab.find, not of a sweep; run the sweep that it names"
        )
    if path.is_dir():
        if is_sweep(path) or _holds_sweeps(path):
            return None
        logs, notes = read_folder(path, wanted)
    else:
        logs, notes = read_file(path, wanted, is_named=True) or [], []
    return _found(path, logs, notes, wanted) if logs else None


def file_of(path: Path) -> Path:
    """Return the file of a path that was typed as a database's URL, as Optuna takes them.

    Raises:
        UserError: it is the URL of a database that is no file.
    """
    match = re.match(r"(\w+)(?:\+\w+)?:/+", str(path))  # Path has made one slash of several
    if match is None or path.exists():
        return path
    if match[1] == "sqlite":
        rest = Path(str(path)[match.end() :])
        return rest if rest.exists() else Path("/") / rest
    if match[1] in ("postgresql", "postgres", "mysql", "mariadb", "mssql", "oracle", "redis"):
        raise UserError(
            f"{match[1]}: the URL of a database; copy the study into a file first, with "
            "optuna.copy_study(..., to_storage='sqlite:///study.db'), and name study.db"
        )
    return path


def is_sweep(folder: Path) -> bool:
    """Return whether a folder is a sweep of lrlab's, or a run of one, or may not be read."""
    try:
        if (folder / "multirun.yaml").is_file() or (folder / ".hydra").is_dir():
            return True
        return _is_run(folder) or any(_is_run(run) for run in records.run_folders(folder))
    except PermissionError:  # whoever reads sweeps says so
        return True


def _holds_sweeps(folder: Path) -> bool:
    """Return whether sweeps lie directly in a folder, as in outputs/."""
    inside = [each for each in files.entries(folder) if each.is_dir(follow_symlinks=False)]
    return any(is_sweep(folder / each.name) for each in inside)


def _is_run(folder: Path) -> bool:
    if (folder / ".hydra").is_dir() or (folder / "summary.json").is_file():
        return True
    return has_own_metrics(folder)


def is_own(names: Sequence[str]) -> bool:
    """Return whether a CSV has the columns of lrlab's own curves."""
    return {"run", "lr", "train_loss"} <= set(names) and bool({"step", "epoch"} & set(names))


# --- a file ---------------------------------------------------------------------------------------


def read_file(file: Path, wanted: Wanted, is_named: bool = False) -> list[Log] | None:
    """Return the log in a file; None if it is a CSV of lrlab's own, or of none that is known.

    Args:
        is_named: whether somebody named this file, and must hear why it is no log.

    Raises:
        UserError: it is damaged, or ambiguous.
    """
    try:
        mode = file.stat().st_mode
        if files.is_special(mode):  # a pipe can be read only once
            return None
        with file.open("rb") as stream:
            first = stream.read(2**16)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    if file.name.startswith(tensorboard.EVENT_FILE):
        return tensorboard.read_events(file.parent, [file], wanted)
    if first.startswith(b"SQLite format 3\0"):
        return optuna_study.read_sqlite(file, wanted)
    start = first.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:1] in (b"{", b"["):
        if optuna_study.is_journal(start):
            return optuna_study.read_journal(file, wanted)
        if text_table.is_json_lines(start):
            return _of_table(text_table.read_json_lines(file), wanted, is_named)
        return huggingface.read(file, wanted)
    source, _ = curve_csv.opened(file)
    names = _names(source)
    if (is_own(names) and not wanted.is_asked) or _is_in_a_sweep(file):
        return None
    if all(not name or name[0].isdigit() for name in names):
        return None  # no line names the columns
    return _of_table(text_table.read(file), wanted, is_named)


def _names(source: Any) -> list[str]:
    line = source.text.split("\n", 1)[0]
    return [name.strip().strip('"') for name in line.split(source.delimiter)]


def _is_in_a_sweep(file: Path) -> bool:
    return (file.parent / ".hydra").is_dir() or (file.parent / "multirun.yaml").is_file()


def _of_table(found: Table, wanted: Wanted, is_named: bool = False) -> list[Log] | None:
    if found.lines:
        for takes, read_table in _CSV:
            if takes(found, wanted):
                return read_table(found, wanted)
    if is_named:
        generic.refuse(found)
    return None


# --- a folder -------------------------------------------------------------------------------------


def read_folder(folder: Path, wanted: Wanted) -> tuple[list[Log], list[str]]:
    """Return the logs in a folder and in those within, and lines about what was left out.

    Links are not followed. Sweeps of lrlab's within are left out.

    Raises:
        UserError: a log is damaged or ambiguous, or there are too many files.
    """
    inside = _Inside()
    _walk(folder, inside, 0, [0])
    notes: list[str] = []
    refused: list[UserError] = []

    def each(read: Callable[[Any, Wanted], list[Log] | None], places: Sequence[Path]) -> list[Log]:
        found: list[Log] = []
        for place in places:
            try:
                told = read(place, wanted)
                found += told or []
                if told is None:
                    others.append(place.name)
            except UserError as error:
                refused.append(error)
        return found

    others = [file.name for file in inside.csvs if not _may_be_a_log(file)]
    logs = each(mlflow.read, inside.mlflow)
    logs += each(huggingface.read, _last_states(inside.states))
    tables = each(read_file, [file for file in inside.csvs if _may_be_a_log(file)])
    tables = tensorboard.joined(tables)
    others += [log.place.name for log in tables if not _has_loss(log)]
    logs += [log for log in tables if _has_loss(log)]
    folders = {log.place.parent for log in logs if log.place.is_file()}
    of_run: dict[Path, list[Path]] = {}
    for file in inside.events:
        of_run.setdefault(tensorboard.run_of(file, folder), []).append(file)
    events = {run: found for run, found in of_run.items() if run not in folders}
    logs += each(lambda run, asked: tensorboard.read_events(run, events[run], asked), [*events])
    if refused and not logs:
        raise refused[0]
    notes += [f"left out: {error}" for error in refused[:3]]
    if len(refused) > 3:
        notes.append(f"and {len(refused) - 3} more logs, for reasons like these")
    if logs and len(events) < len(of_run):
        notes.append(f"{len(of_run) - len(events)} folders have a CSV too: event files left out")
    if logs and others:
        listed = in_a_line(", ".join(others[:5])) + (", ..." if len(others) > 5 else "")
        notes.append(
            f"{len(others)} CSVs hold no curve that lrlab knows, and were left out: {listed}"
        )
    if inside.links and logs:
        notes.append(f"{inside.links} links were not followed")
    return logs, notes


def _has_loss(log: Log) -> bool:
    return log.ends or bool({"train_loss", "val_loss"} & {*log.took})


class _Inside:
    """The logs' files in a folder."""

    def __init__(self) -> None:
        self.csvs: list[Path] = []
        self.states: list[Path] = []
        self.events: list[Path] = []
        self.mlflow: list[Path] = []
        self.links = 0


def _walk(folder: Path, inside: _Inside, depth: int, seen: list[int]) -> None:
    if mlflow.is_run(folder):
        inside.mlflow.append(folder)
        return
    for entry in sorted(files.entries(folder), key=lambda each: _natural(each.name)):
        seen[0] += 1
        if seen[0] > _MOST:
            raise UserError(f"{folder}: has more than {_MOST:,} files; name the folder of the logs")
        path = folder / entry.name
        if entry.is_symlink():
            inside.links += 1
        elif entry.is_dir(follow_symlinks=False):
            if depth < _DEEPEST and not entry.name.startswith(".") and not is_sweep(path):
                _walk(path, inside, depth + 1, seen)
        elif entry.is_file(follow_symlinks=False):
            if entry.name == huggingface.NAME:
                inside.states.append(path)
            elif entry.name.startswith(tensorboard.EVENT_FILE):
                inside.events.append(path)
            elif entry.name.endswith(_SUFFIXES):
                inside.csvs.append(path)


def _natural(name: str) -> tuple[Any, ...]:
    parts = re.findall(r"\d+|\D+", name)
    return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts)


def _may_be_a_log(file: Path) -> bool:
    """Return whether the first line names a loss; a data set's CSV is not read further."""
    try:
        with file.open("rb") as stream:
            first = stream.read(2**16)
    except OSError:
        return False
    if first[:2] in (b"\x1f\x8b", b"\xff\xfe", b"\xfe\xff"):
        return True
    if first[:1] == b"{":
        return text_table.is_json_lines(first) and b"loss" in first
    line = first.decode("utf-8", errors="replace").lstrip("\ufeff\r\n\t ").split("\n", 1)[0]
    cells = [
        cell.strip().strip('"') for cell in line.replace(";", ",").replace("\t", ",").split(",")
    ]
    is_download = {"Wall time", "Step", "Value"} <= set(cells)
    return is_download or any(columns.loss_of(cell.rpartition(" - ")[2]) for cell in cells)


def _last_states(states: Sequence[Path]) -> list[Path]:
    """Return of each run the trainer_state.json that was written last."""
    by_run: dict[Path, list[Path]] = {}
    for file in states:
        is_checkpoint = file.parent.name.startswith("checkpoint-")
        by_run.setdefault(file.parent.parent if is_checkpoint else file.parent, []).append(file)
    return [max(each, key=huggingface.global_step) for each in by_run.values()]


# --- together -------------------------------------------------------------------------------------


def of_frame(frame: pd.DataFrame, wanted: Wanted) -> Found:
    """Return the runs of a DataFrame; its NaN are holes, or lost losses, as verdicts decide.

    Raises:
        UserError: a column is missing or ambiguous, or holds what is no number.
    """
    named = any(name is not None for name in frame.index.names)
    frame = frame.reset_index() if named else frame
    names = [str(name) for name in frame.columns]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"frame: two columns are called {twice[0]}; keep one")
    if is_own(names) and not wanted.is_asked:
        return Found(frame, False, ())
    cells = {name: _texts_of(frame[column]) for name, column in zip(names, frame, strict=True)}
    table = Table(Path("frame"), cells, list(range(len(frame))), ())
    logs = _of_table(table, wanted)
    if logs is None:
        raise UserError(
            f"frame: needs run, lr, step or epoch, and train_loss or val_loss; or lr and a loss, "
            f"one row a run. Its columns are {in_a_line(', '.join(names))[:160]}"
        )
    return _found(Path("frame"), logs, [], wanted, has_holes=False)


def _texts_of(column: Any) -> list[str]:
    missing = column.isna().tolist()
    return [
        "" if is_missing else repr(value) if isinstance(value, float) else str(value)
        for value, is_missing in zip(column.tolist(), missing, strict=True)
    ]


def _found(
    path: Path, logs: list[Log], notes: list[str], wanted: Wanted, has_holes: bool = True
) -> Found:
    kinds = {log.ends for log in logs}
    if len(kinds) > 1:
        one = next(log for log in logs if log.ends)
        raise UserError(
            f"{path}: holds end losses ({one.place}) and curves; judge them one after the other"
        )
    labels = [_label(path, log) for log in logs]
    logs = [split(log, label) for log, label in zip(logs, labels, strict=True)]
    shown = [_names_of(label, log) for label, log in zip(labels, logs, strict=True)]
    names = _distinct([name for each in shown for name in each])
    resolved: list[Log] = []
    place = 0
    for label, log in zip(labels, logs, strict=True):
        own = names[place : place + len(log.runs)]
        place += len(log.runs)
        texts = [
            _texts(path, label, str(run), name) for run, name in zip(log.runs, own, strict=True)
        ]
        resolved.append(rates.resolved(log, texts, wanted))
    rates.check(resolved, names, wanted)
    pieces: list[pd.DataFrame] = []
    settled: list[Log] = []
    place = 0
    for log in resolved:
        own = dict(zip(log.runs, names[place : place + len(log.runs)], strict=True))
        place += len(log.runs)
        may_be_lost = log.program == generic.PROGRAM  # a table of many runs from pandas
        settled.append(log if log.ends else cleaned(log, has_holes, may_be_lost))
        rows: Any = settled[-1].rows
        pieces.append(rows.assign(run=rows["run"].map(own)))
    columns_ = list(dict.fromkeys(name for part in pieces for name in part.columns))
    filled = [part.dropna(axis=1, how="all") for part in pieces if len(part)]
    if not filled:
        raise UserError(f"{path}: has no loss at any step")
    rows = pd.concat(filled, ignore_index=True).reindex(columns=columns_)
    notes = [*notes, *rates.schedules(rows)]
    told = [*_told(path, settled), *(f"{path}: {note}" for note in notes)]
    counted = all(log.counts_steps for log in logs)
    return Found(_typed(rows), kinds == {True}, tuple(told), counted)


def _told(path: Path, logs: Sequence[Log]) -> list[str]:
    """Return a line about the columns for each kind of log, and the notes of all."""
    alike: dict[tuple[Any, ...], list[Log]] = {}
    for log in logs:
        key = (log.program, tuple(log.took.items()), log.lr_from)
        alike.setdefault(key, []).append(log)
    lines = []
    for members in alike.values():
        place = members[0].place if len(members) == 1 else path
        lines.append(told_line(members, place.name or str(place)))
    notes: dict[str, list[Log]] = {}
    for log in logs:
        for note in log.notes:
            notes.setdefault(note.removeprefix(f"{log.place}: "), []).append(log)
    for note, members in notes.items():
        where = members[0].place if len(members) == 1 else path
        of = f" ({len(members)} runs)" if len(members) > 1 else ""
        lines.append(f"{where}: {note}{of}")
    return lines


def _typed(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with whole steps as numbers of their own kind."""
    for name in ("train_loss", "val_loss"):
        if name in rows:
            rows[name] = rows[name].astype(float)
    if "train_loss" not in rows and "end_loss" not in rows:
        rows["train_loss"] = float("nan")
    return rows


def _label(path: Path, log: Log) -> str:
    """Return where the log lies below the path, without what all logs have in common."""
    place = log.place
    inside = place.relative_to(path) if path.is_dir() else Path(place.name)
    parts = [part for part in inside.parts if part not in ("", ".")]
    if log.program == mlflow.PROGRAM:
        return mlflow.name_of(place)
    if parts and (place.suffix == ".csv" or place.is_file()):
        stem = Path(parts.pop().removesuffix(".gz")).stem
        parts += [] if stem in _PLAIN_NAMES else [stem]
    parts = [part for part in parts if not part.startswith("checkpoint-")]
    return "/".join(parts) or _folder_name(path)


def _folder_name(path: Path) -> str:
    whole = path.absolute()
    folder = whole if path.is_dir() else whole.parent
    while folder.name.startswith("checkpoint-"):
        folder = folder.parent
    return folder.name or "run"


def _names_of(label: str, log: Log) -> list[str]:
    runs = [str(run) for run in log.runs]
    if runs == [""]:
        return [label]
    if all(run.startswith(f"{label}/") for run in runs):
        return runs
    is_folder = "/" in label or not log.place.stem.startswith(label)
    return [f"{label}/{run}" for run in runs] if is_folder else runs


def _distinct(names: Sequence[str]) -> list[str]:
    """Return the names, those that come again with a number."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def _texts(path: Path, label: str, run: str, name: str) -> tuple[str, ...]:
    """Return the texts that may hold a run's lr, the nearest first."""
    file = path.name.removesuffix(".gz").removesuffix(".csv") if not path.is_dir() else path.name
    parts = [run, name, *reversed(label.split("/")), file, path.absolute().parent.name]
    return tuple(dict.fromkeys(part for part in parts if part))


def check_unasked(path: Path, wanted: Wanted) -> None:
    """Check that no option about logs was typed for a path that is none.

    Raises:
        UserError: names the first of them.
    """
    if wanted.is_asked:
        raise UserError(f"{wanted.is_asked}: is for logs of other programs, and {path} is none")
