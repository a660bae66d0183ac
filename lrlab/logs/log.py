"""Define what a log was read as, make it from a table's columns, and clean its rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrlab.errors import UserError, in_a_line
from lrlab.logs import columns
from lrlab.logs.columns import Wanted
from lrlab.tables import holes, restarts, tidy
from lrlab.tables.text_table import Table

# The order in which a line names what was taken for which column.
OTHER = "measured else"  # a column of rows, until they are cleaned
_TOLD = ("run", "step", "epoch", "train_loss", "val_loss", "grad_norm", "seconds", "lr_at_step")


@dataclass(frozen=True)
class Log:
    """The runs of one log.

    Attributes:
        place: the file, or the folder of a run that has several.
        program: which wrote it.
        rows: a row a recorded step, in the order of training: run ("" for the only one), step or
            epoch, train_loss, and where there: val_loss, grad_norm, seconds, lr_at_step, seed,
            state, settings; lr, NaN where the log does not say.
        took: what was taken for which column, in words.
        lr_from: where the lr is from; "" where the log has none.
        notes: lines about what else was assumed or left out.
        written: by loss, (rows,) whether the cell says nan.
        ends: whether it has an end loss a run, and no curves.
        counts_steps: whether what it calls steps are steps of training, as far as that is known.
        like_lr: its columns that may be learning rates.
    """

    place: Path
    program: str
    rows: pd.DataFrame
    took: Mapping[str, str] = field(default_factory=dict)
    lr_from: str = ""
    notes: tuple[str, ...] = ()
    written: Mapping[str, np.ndarray] = field(default_factory=dict)
    ends: bool = False
    counts_steps: bool = True
    like_lr: tuple[str, ...] = ()

    @property
    def runs(self) -> list[Any]:
        return list(dict.fromkeys(self.rows["run"].tolist()))

    def saying(self, *notes: str) -> Log:
        return replace(self, notes=(*self.notes, *notes))


def times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def settings_columns(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return scalar hyperparameters as columns of settings: dotted, unless lrlab knows the name.

    Names, places and times tell runs apart without being a setting, and are left out.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(value, str | int | float | bool) or columns.is_no_setting(name):
            continue
        plain = name.rsplit(".", 1)[-1].rsplit("/", 1)[-1]
        found[plain if plain in tidy.SETTINGS else f"{prefix}.{name}"] = value
    return found


# --- from the columns of a table ------------------------------------------------------------------


def asked(table: Table, wanted: Wanted) -> dict[str, str]:
    """Return the columns that options name, by our name.

    Raises:
        UserError: there is no such column.
    """
    found = dict(wanted.columns)
    if wanted.lr_column:
        found["lr"] = wanted.lr_column
    for ours, theirs in found.items():
        if theirs not in table.cells:
            from lrlab.config.schema import nearest

            option = "--lr-column=" if ours == "lr" else f"--column={ours}="
            listed = in_a_line(", ".join(table.names))[:160]
            raise UserError(
                f"{option}{theirs}: {table.file} has no such column"
                f"{nearest(theirs, table.names)}; its columns are {listed}"
            )
    return found


def rows_of(
    table: Table, roles: Mapping[str, str], runs: list[str] | None = None
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return the tidy rows, and by loss which cells say nan.

    Args:
        roles: by our name, the column that holds it.
        runs: of each row; None: by the role run, or "" for the only one.
    """
    frame: dict[str, object] = {"run": runs or [""] * len(table.lines)}
    written: dict[str, np.ndarray] = {}
    for ours, theirs in roles.items():
        if ours == "run":
            frame["run"] = table.cells[theirs]
        elif ours in tidy.NUMBERS:
            frame[ours] = table.numbers(theirs)
        elif ours == "seed" or ours in tidy.SETTINGS or "." in ours:
            frame[ours] = plain_values(table.cells[theirs])
        else:
            frame[ours] = [cell or None for cell in table.cells[theirs]]
        if ours in holes.LOSSES:
            written[ours] = holes.is_written_nan(table.cells[theirs])
        if ours == "grad_norm":
            there = np.array([bool(cell) for cell in table.cells[theirs]])
            frame["grad_norm_lost"] = there & ~np.isfinite(table.numbers(theirs))
    return pd.DataFrame(frame), written


def plain_values(cells: list[str]) -> list[object]:
    """Return whole numbers, numbers or texts: all of a column alike; None for a blank cell."""
    for kind in (int, float):
        try:
            return [kind(cell) if cell else None for cell in cells]
        except ValueError:
            continue
    return [cell or None for cell in cells]


def lr_roles(table: Table, roles: dict[str, str], frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the rows with the lr of each run, and where it is from; "" if no column has it.

    A rate that changes within a run is that of each step: its highest is the run's lr.
    """
    base, of_step = columns.lr(table.names)
    if "lr" in roles:
        base, of_step = roles["lr"], None
    told = base or of_step
    if told is None or not table.is_number(told):
        return frame.assign(lr=math.nan), ""
    values = pd.Series(table.numbers(told))
    by_run = values.groupby(frame["run"].to_numpy())
    lr = by_run.transform("max")
    frame = frame.assign(lr=lr.to_numpy())
    is_one = bool((by_run.nunique() <= 1).all())
    where = told if is_one else f"{told}, the highest of each run"
    changing = told if not is_one else of_step if of_step != told else None
    if changing is not None and not table.is_number(changing):
        changing = None
    if changing is not None and "lr_at_step" not in roles:
        roles["lr_at_step"] = changing
        rates = pd.Series(table.numbers(changing)).groupby(frame["run"].to_numpy()).ffill()
        frame = frame.assign(lr_at_step=rates.to_numpy())
    return frame, where


def _measured_else(table: Table, roles: Mapping[str, str]) -> np.ndarray | None:
    """Return (rows,) 1 where a loss that has no role has a value, such as a test loss; else NaN."""
    used = {*roles.values()}
    names = [
        name
        for name in table.names
        if name not in used and 0 < table.count(name) < len(table.lines) and columns.loss_of(name)
    ]
    if not names:
        return None
    there = np.any([[bool(cell) for cell in table.cells[name]] for name in names], axis=0)
    return np.where(there, 1.0, math.nan)


def log_of(
    table: Table,
    program: str,
    roles: dict[str, str],
    runs: list[str] | None = None,
) -> Log:
    """Return the log of a table whose columns are known."""
    frame, written = rows_of(table, {k: v for k, v in roles.items() if k != "lr"}, runs)
    frame, lr_from = lr_roles(table, roles, frame)
    if (other := _measured_else(table, roles)) is not None:
        frame = frame.assign(**{OTHER: other})
    took = {ours: theirs for ours, theirs in roles.items() if ours != "lr"}
    like = tuple(name for name in columns.like_lr(table.names) if table.is_number(name))
    notes = table.notes
    if lr_from and "lr" not in roles:
        highest = {name: float(np.nanmax(table.numbers(name))) for name in like}
        notes = (*notes, *columns.other_rates(lr_from.split(",")[0], highest))
    return Log(table.file, program, frame, took, lr_from, notes, written, like_lr=like)


# --- trainings one after the other ----------------------------------------------------------------


def split(log: Log, label: str) -> Log:
    """Return a log of one run as several, if it holds trainings one after the other.

    Args:
        label: of the log. The runs are called label/1, label/2.
    """
    if log.ends or log.runs != [""]:
        return log
    rows: Any = log.rows
    pieces, notes = restarts.trainings(rows)
    if not pieces:
        return log
    kept = np.concatenate(pieces)
    written = {name: flags[kept] for name, flags in log.written.items()}
    parts: list[Any] = [rows.iloc[piece] for piece in pieces]
    if len(pieces) > 1:
        parts = [part.assign(run=f"{label}/{i}") for i, part in enumerate(parts, 1)]
        rates = [restarts.rate_of(rows, piece) for piece in pieces]
        if not any(map(math.isnan, rates)):
            parts = [part.assign(lr=rate) for part, rate in zip(parts, rates, strict=True)]
    rows = pd.concat(parts, ignore_index=True)
    return replace(log.saying(*notes), rows=rows, written=written)


# --- cleaned --------------------------------------------------------------------------------------


def cleaned(log: Log, has_holes: bool = True, blank_may_be_lost: bool = False) -> Log:
    """Return the log with holes, restarted steps and repeated steps settled, and lines about it.

    Args:
        has_holes: whether a blank loss was not measured; False: it may also be a lost one.
        blank_may_be_lost: see `lrlab.tables.holes.settled`.
    """
    rows, notes, written = log.rows, list(log.notes), log.written
    if "train_loss" not in rows:
        rows = rows.assign(train_loss=math.nan)
    rows, told = _zero_losses(rows)
    notes += told
    unit = "step" if "step" in rows else "epoch"
    has_loss = rows["run"].notna()
    if has_holes:
        rows, told = holes.settled(rows, written, blank_may_be_lost=blank_may_be_lost)
        notes += told
        has_loss = rows.loc[:, [n for n in holes.LOSSES if n in rows]].notna().any(axis=1)
        if blank_may_be_lost:  # then a row that kept its place is of a lost loss
            has_loss |= rows["run"].isin(rows.loc[has_loss, "run"])
    rows = rows.drop(columns=OTHER, errors="ignore")
    kept = rows.loc[has_loss & rows[unit].notna()].reset_index(drop=True)
    if lost := len(set(log.runs) - set(kept["run"])):
        notes.append(f"{lost} of {len(log.runs)} runs have no loss, and were left out")
    kept, told = restarts.counted_on(kept)
    notes += told
    notes += _repeated(kept, unit)
    return replace(log, rows=kept, notes=tuple(notes), written={})


def _zero_losses(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Read a loss of exactly 0 whose gradient norm is not finite as a loss that is not finite."""
    norms = rows.get("grad_norm_lost")
    if norms is None:
        return rows, []
    lost = (rows["train_loss"].to_numpy(dtype=float) == 0) & norms.to_numpy(dtype=bool)
    rows = rows.drop(columns="grad_norm_lost")
    if not lost.any():
        return rows, []
    rows = rows.assign(train_loss=np.where(lost, np.inf, rows["train_loss"].to_numpy(dtype=float)))
    return rows, [
        "a loss of exactly 0 has a gradient norm that is not finite, "
        f"{times(int(lost.sum()))}: taken as a loss that is not finite"
    ]


def _repeated(rows: pd.DataFrame, unit: str) -> list[str]:
    """Say where a step has two values of one loss: the later one counts."""
    for name in holes.LOSSES:
        if name not in rows:
            continue
        told = rows.loc[rows[name].notna(), ["run", unit]]
        twice = int(told.duplicated().sum())
        if twice:
            return [f"{name} stands twice at {twice:,} of its {unit}s; the later value counts"]
    return []


def told_line(logs: Sequence[Log], name: str) -> str:
    """Return the line that says what was taken for which column, of logs that are alike."""
    one = logs[0]
    count = sum(len(log.runs) for log in logs)
    of = f", {count} runs" if count > 1 else ""
    took = {key: one.took[key] for key in (*_TOLD, *one.took) if key in one.took}
    words = [f"{ours} from {theirs}" for ours, theirs in took.items()]
    lr_from = "their names" if one.lr_from == "its name" and count > 1 else one.lr_from
    words.append(f"lr from {lr_from}")
    return f"{name} ({one.program}{of}): {', '.join(words)}"
