"""Write the records of a sweep or of a run."""

from __future__ import annotations

import contextlib
import itertools
import re
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrlab.errors import NotWritten, UserError
from lrlab.process.plain import to_json
from lrlab.records import files
from lrlab.records.names import (
    BRANCHES,
    DIAGNOSTICS,
    METRICS,
    OF_AVERAGE,
    PROBE,
    VAL_PARTS,
    answer_file,
    budget_file,
    summary_file,
)
from lrlab.records.reading import read_summary

if TYPE_CHECKING:
    import pandas as pd


def start_metrics(folder: Path, averaged: bool = False) -> None:
    """Start metrics.csv again, and remove diagnostics.csv.

    Args:
        averaged: whether it has the columns ``OF_AVERAGE``.
    """
    files.write_whole(folder / "metrics.csv", ",".join(_metrics(averaged)) + "\n")
    files.remove(folder / "diagnostics.csv")


def cut_metrics(folder: Path, step: int) -> bool:
    """Keep the rows before a step in metrics.csv, for a run that goes on from there.

    Rows of an older lrlab get empty cells for the columns that it did not have.

    Returns:
        Whether they are all there; if not, nothing is changed.
    """
    file = folder / "metrics.csv"
    lines = _lines(file)
    if len(lines) <= step or (step and not lines[step].startswith(f"{step - 1},")):
        return False
    if not lines[step].endswith("\n"):
        return False
    kept, names = lines[: step + 1], lines[0].strip().split(",")
    wanted = _metrics(not OF_AVERAGE.keys().isdisjoint(names))
    if names != list(wanted):
        rows = (dict(zip(names, line.rstrip("\n").split(","), strict=False)) for line in kept)
        kept = [",".join(row.get(name, "") for name in wanted) + "\n" for row in rows]
        kept[0] = ",".join(wanted) + "\n"
    files.write_whole(file, "".join(kept))
    return True


def _lines(file: Path) -> list[str]:
    files.check_own(file)
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except FileNotFoundError:
        return []


def cut_diagnostics(folder: Path, step: int) -> None:
    """Keep the rows before a step in diagnostics.csv, for a run that goes on from there."""
    file = folder / "diagnostics.csv"
    lines = _lines(file)
    if not lines:
        return
    numbers = ((line, line.partition(",")[0]) for line in lines[1:] if line.endswith("\n"))
    kept = [line for line, number in numbers if number.isdecimal() and int(number) < step]
    files.write_whole(file, "".join(lines[:1] + kept))


def append_diagnostics(folder: Path, rows: Sequence[Sequence[float]]) -> None:
    """Append rows as in ``DIAGNOSTICS``; the cell of a NaN, not measured, is empty."""
    if not rows:
        return
    file = folder / "diagnostics.csv"
    is_new = not file.exists()
    text = ",".join(DIAGNOSTICS) + "\n" if is_new else ""
    for step, *values in rows:
        cells = ("" if value != value else f"{value:.9g}" for value in values)
        text += f"{step},{','.join(cells)}\n"
    if is_new:  # written whole, because a resumed run could not repair a torn header
        files.write_whole(file, text)
    else:
        files.append(file, text)


def append_probe(folder: Path, step: int, measured: Mapping[str, Any]) -> None:
    """Append a row as in ``PROBE``, with ``group_ratios`` after it; leave NaN empty."""
    ratios = measured["group_ratios"]
    values = [*(measured[name] for name in PROBE[1:]), *ratios]
    cells = ["" if value != value else f"{value:.9g}" for value in values]
    text = f"{step},{','.join(cells)}\n"
    file = folder / "probe.csv"
    if file.exists():
        files.append(file, text)
    else:
        names = [*PROBE, *(f"update_ratio_{i}" for i in range(len(ratios)))]
        files.write_whole(file, f"{','.join(names)}\n{text}")


def write_branches(folder: Path, rows: Iterable[Sequence[float]]) -> None:
    """Write branches.csv, rows as in ``BRANCHES``."""
    lines = (
        f"{step},{lr!r},{','.join(f'{loss:.9g}' for loss in losses)}\n"
        for step, lr, *losses in rows
    )
    files.write_whole(folder / "branches.csv", ",".join(BRANCHES) + "\n" + "".join(lines))


def append_metrics(
    folder: Path, columns: Mapping[str, Sequence[float]], averaged: bool = False
) -> None:
    """Append rows to metrics.csv.

    Args:
        columns: name, as in ``METRICS``, to the values of the rows; the other cells stay empty.
        averaged: as for ``start_metrics``.
    """
    metrics = _metrics(averaged)
    row = ",".join(form if name in columns else "" for name, form in metrics.items()) + "\n"
    values = [columns[name] for name in metrics if name in columns]
    cells = tuple(itertools.chain.from_iterable(zip(*values, strict=True)))
    text = row * len(values[0]) % cells  # at once: half the time of row by row
    files.append(folder / "metrics.csv", text)


def _metrics(averaged: bool) -> dict[str, str]:
    return METRICS | OF_AVERAGE if averaged else METRICS


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write summary.json. NaN and infinities become null: JSON has neither."""
    text = to_json(summary)
    files.write_whole(summary_file(folder), text + "\n")


def mark_failed(folder: Path, summary: Mapping[str, Any], error: BaseException) -> None:
    """Write the error's first line into the summary, its traceback into the run's log.

    Args:
        summary: written if the run has none yet.
    """
    with contextlib.suppress(FileNotFoundError, UserError):
        summary = {**summary, **read_summary(folder)}
    message = str(error).strip().splitlines()
    line = f"{type(error).__name__}: {' '.join(message[:1])}"
    write_summary(folder, {**summary, "state": "failed", "error": line})
    log(folder, "".join(traceback.format_exception(error)))


def log(folder: Path, text: str) -> None:
    """Append to the run's run.log, each line with the time."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    lines = "".join(f"{stamp}  {line}\n" for line in text.splitlines())
    files.append(folder / "run.log", lines)


def write_sweep_config(sweep: Path, text: str) -> None:
    """Write multirun.yaml, the config of the sweep with the command line that made it."""
    files.write_whole(sweep / "multirun.yaml", text)


def write_best(sweep: Path, text: str) -> None:
    """Write best.yaml, the config of the best run, which can itself be run."""
    files.write_whole(sweep / "best.yaml", text)


def remove_best(sweep: Path) -> None:
    """Remove best.yaml, if it exists: no run is the best any more."""
    file = sweep / "best.yaml"
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise NotWritten(file, error) from error


def write_runs(sweep: Path, runs: pd.DataFrame) -> None:
    """Write runs.csv, one row a run; the folder's name is the run, wherever the sweep lies."""
    # Timings differ each time, and the table of a sweep that is trained again should not.
    table = runs.drop(columns=["folder", "train_seconds"], errors="ignore")
    table = table.convert_dtypes()  # a column with gaps holds whole numbers as floats
    files.write_whole(sweep / "runs.csv", csv_text(table))


def write_verdicts(sweep: Path, verdicts: pd.DataFrame) -> None:
    """Write verdicts.csv, one row a run, with a sentence of evidence."""
    files.write_whole(sweep / "verdicts.csv", csv_text(verdicts))


def write_answer(sweep: Path, answer: Mapping[str, Any]) -> None:
    """Write answer.json: which lr to use, how sure that is, what to run next."""
    files.write_whole(answer_file(sweep), to_json(answer) + "\n")


def write_budget(sweep: Path, budget: Mapping[str, Any]) -> None:
    """Write budget.json: what fits into the time that the sweep was given."""
    files.write_whole(budget_file(sweep), to_json(budget) + "\n")


_FORMULA = re.compile(r"\s*[=+\-@\t\r]")
_NUMBER = re.compile(r"\s*([+-]?(\d+\.?\d*|\.\d+|inf|nan)(e[+-]?\d+)?%?|-)\s*", re.IGNORECASE)


def csv_text(table: pd.DataFrame) -> str:
    """Return a table as CSV, with an apostrophe before text that a spreadsheet takes for a formula.

    Texts come from options and names, which in a sweep from elsewhere were chosen by others.
    """
    import pandas as pd

    def told(value: Any) -> Any:
        is_formula = isinstance(value, str) and _FORMULA.match(value)
        return f"'{value}" if is_formula and not _NUMBER.fullmatch(value) else value

    safe = table.drop(columns=VAL_PARTS, errors="ignore").rename(columns=told)
    for name in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[name]):
            safe[name] = safe[name].map(told)
    return safe.to_csv(index=False)


def write_landscape(sweep: Path, name: str, table: pd.DataFrame | None) -> None:
    """Write lines.csv, surface.csv or paths.csv, by its name without .csv; None removes it."""
    file = sweep / f"{name}.csv"
    if table is None:
        file.unlink(missing_ok=True)
    else:
        files.write_whole(file, table.to_csv(index=False, lineterminator="\n"))


def write_provenance(run: Path, provenance: Mapping[str, Any]) -> None:
    """Write provenance.json: which run this one reproduces, and the result."""
    files.write_whole(run / "provenance.json", to_json(provenance, ensure_ascii=True) + "\n")
