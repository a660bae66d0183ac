"""Tell a blank loss from a written nan: one was not measured, the other is no number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lrlab.tables import tidy

LOSSES = ("train_loss", "val_loss")
_NAN = ("nan", "-nan", "+nan")

Flags = NDArray[np.bool_]


def is_written_nan(cells: Sequence[str]) -> Flags:
    """Return (n,) whether a cell says nan; a blank one, None or null is a hole."""
    return np.array([cell.strip().lower() in _NAN for cell in cells], dtype=bool)


def settled(
    frame: pd.DataFrame,
    written: Mapping[str, Flags],
    losses: Sequence[str] = LOSSES,
    blank_may_be_lost: bool = False,
) -> tuple[pd.DataFrame, list[str]]:
    """Give each loss that is no number its meaning, and take rows without a loss off the curve.

    A written nan becomes inf, a loss that is not finite. It stays a hole only in a column that has
    no blank cell, because such a program may write its holes as nan: see `_are_holes`.

    A blank loss is a hole. But pandas writes NaN as blank: where only some runs end in rows without
    any measurement, after a loss in each row, their loss was lost.

    Args:
        frame: a column run, the losses, and step or epoch. Rows in the order of training, except in
            a file that is sorted otherwise, whose rows are put into that order.
        written: by the name of a loss, (rows,) from `is_written_nan`.
        blank_may_be_lost: whether the last rule holds, as for a table of curves from pandas.

    Returns:
        The frame, and lines that say what was assumed.
    """
    notes: list[str] = []
    order = _order(frame, [name for name in losses if name in frame], written)
    if order is not None:
        frame = frame.iloc[order].reset_index(drop=True)
        written = {name: told[order] for name, told in written.items()}
    code = pd.factorize(frame["run"].to_numpy())[0]
    finite = {
        name: np.isfinite(frame[name].to_numpy(dtype=float)) for name in losses if name in frame
    }
    filled: dict[str, Any] = {}
    for name in losses:
        told = written.get(name)
        if told is None or name not in frame or not told.any():
            continue
        values = frame[name].to_numpy(dtype=float, copy=True)
        has_blanks = bool((np.isnan(values) & ~told).any())
        others = [each for other, each in finite.items() if other != name]
        elsewhere = np.any(others, axis=0) if others else np.zeros(len(frame), dtype=bool)
        bad = told if has_blanks else told & ~_are_holes(told, finite[name], elsewhere, code)
        holes = int((told & ~bad).sum())
        values[bad] = np.inf
        filled[name] = values
        count = int(bad.sum())
        if count:
            notes.append(
                f"{name} is written as nan in {_rows(count)}: taken as a loss that is not finite"
            )
        if holes:
            is_before = bool((_before(finite[name], code) | ~told | bad).all())
            why = " with finite losses after" if is_before else ", as this file writes its holes"
            notes.append(f"{name} is written as nan in {_rows(holes)}{why}: taken as not measured")
    frame = frame.assign(**filled)
    may_be_lost = blank_may_be_lost and not any(told.any() for told in written.values())
    return _off_the_curve(frame, notes, [n for n in losses if n in frame], may_be_lost)


def _are_holes(told: Flags, finite: Flags, elsewhere: Flags, code: np.ndarray) -> Flags:
    """Return (rows,) which written nan are holes, in a column without blank cells.

    Those before a finite loss of the same run. After the last one, in a run that has such holes:
    those next to a finite loss of the other kind, and all if they are no more than the longest hole
    before. And all of a column that has no finite loss, next to a column that has some.

    Args:
        told: (rows,) the cells that say nan. finite: those of this loss that are finite.
        elsewhere: (rows,) whether the other loss is finite. code: (rows,) the run.
    """
    if not finite.any():
        return told & elsewhere.any()
    found = told & _before(finite, code)
    for run in np.unique(code[told & ~found]):
        rows = np.flatnonzero(code == run)
        holes = np.flatnonzero(found[rows])
        if len(holes):
            longest = max(map(len, np.split(holes, np.flatnonzero(np.diff(holes) > 1) + 1)))
            after = rows[told[rows] & ~found[rows]]
            found[after] = elsewhere[after] | (len(after) <= longest)
    return found


def _before(there: Flags, code: np.ndarray) -> Flags:
    """Return (rows,) whether a row with `there` follows in the same run."""
    last = np.full(int(code.max(initial=-1)) + 2, -1)
    rows = np.flatnonzero(there)
    np.maximum.at(last, code[rows], rows)
    return np.arange(len(there)) < last[code]


def _order(
    frame: pd.DataFrame, losses: Sequence[str], written: Mapping[str, Flags]
) -> NDArray[np.intp] | None:
    """Return the rows in the order of training; None if they stand so.

    Only rows with a loss count: others may be counted otherwise, as the batches of an evaluation.
    Steps that fall back to the first one belong to a resumed run, and a few that fall elsewhere to
    a part that was trained twice. If more than a fifth fall, the file is sorted by something else.
    """
    unit = "step" if "step" in frame else "epoch"
    if unit not in frame:
        return None
    there = frame.loc[:, list(losses)].notna().any(axis=1).to_numpy()
    there = np.any([there, *written.values()], axis=0)
    at = np.where(there, frame[unit].to_numpy(dtype=float), np.nan)
    order, is_sorted = np.arange(len(frame)), True
    for rows in frame.groupby("run", sort=False).indices.values():
        own = at[rows]
        own = own[np.isfinite(own)]
        falls = (np.diff(own) < 0) & (own[1:] != own[:1])
        if falls.sum() > 0.2 * len(falls):
            order[rows] = rows[np.argsort(at[rows], kind="stable")]
            is_sorted = False
    return None if is_sorted else order


def _off_the_curve(
    frame: pd.DataFrame, notes: list[str], losses: Sequence[str], may_be_lost: bool
) -> tuple[pd.DataFrame, list[str]]:
    """Take away the position of rows in which nothing was measured: they are no lost losses."""
    measured = [name for name in tidy.BY_STEP if name in frame and name != "seconds"]
    nothing = frame.loc[:, measured].isna().all(axis=1).to_numpy()
    positions = [name for name in ("step", "epoch") if name in frame]
    if not nothing.any():
        return frame, notes
    ended, count = _ended_early(frame, nothing, losses)
    holes = nothing.copy()
    if may_be_lost and all(ended.values()) and 0 < len(ended) < count:
        holes &= ~frame["run"].isin(list(ended)).to_numpy()
        notes.append(
            f"{_named(ended)}: blank losses at the end, taken as lost, for other runs have "
            "none; a loss that is no number is best written nan"
        )
    elif ended:
        notes.append(
            f"{_named(ended)}: blank losses at the end, taken as not measured; a loss that "
            "is no number must be written nan"
        )
    cleared = {
        name: np.where(holes, np.nan, frame[name].to_numpy(dtype=float)) for name in positions
    }
    return frame.assign(**cleared), notes


def _ended_early(
    frame: pd.DataFrame, nothing: Flags, losses: Sequence[str]
) -> tuple[dict[Any, bool], int]:
    """Return the runs that go on without a loss, and of how many.

    For each: whether every row before has a train loss, so that blank is not its habit.
    """
    unit = "step" if "step" in frame else "epoch"
    at = frame[unit].to_numpy(dtype=float)
    values = frame.loc[:, list(losses)].to_numpy(dtype=float)
    has_loss = ~np.isnan(values).all(axis=1)
    silent = nothing & ~_has_other(frame)
    groups = frame.groupby("run", sort=False).indices
    found: dict[Any, bool] = {}
    for run, rows in groups.items():
        there = rows[has_loss[rows] & np.isfinite(at[rows])]
        if not len(there) or np.isinf(values[there[-1]]).any():
            continue  # it is known to have ended there
        after = rows[silent[rows] & (at[rows] > at[there].max())]
        if len(after):
            before = rows[rows < after[0]]
            found[run] = not np.isnan(values[before, losses.index("train_loss")]).any()
    return found, len(groups)


def _named(runs: Mapping[Any, bool]) -> str:
    names = [str(run) for run in runs if str(run)]
    if not names:
        return "its curve"
    return f"run {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


def _has_other(frame: pd.DataFrame) -> Flags:
    """Return (rows,) whether something else was measured, such as test_loss."""
    found = np.zeros(len(frame), dtype=bool)
    for name in frame.columns:
        column = frame[name]
        if name not in tidy.NUMBERS and pd.api.types.is_float_dtype(column.dtype):
            there = column.notna().to_numpy()
            found |= there & ~there.all()
    return found


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"
