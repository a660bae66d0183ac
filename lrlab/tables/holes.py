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
    frame: pd.DataFrame, written: Mapping[str, Flags], losses: Sequence[str] = LOSSES
) -> tuple[pd.DataFrame, list[str]]:
    """Give each loss that is no number its meaning, and take rows without a loss off the curve.

    A written nan becomes inf, a loss that is not finite. It stays a hole only in a column that has
    no blank cell, if a finite loss follows in the same run: such a program writes its holes as nan.

    Args:
        frame: a column run, the losses, and step or epoch; rows in the order of training.
        written: by the name of a loss, (rows,) from `is_written_nan`.

    Returns:
        The frame, and lines that say what was assumed.
    """
    notes, code = [], pd.factorize(frame["run"].to_numpy())[0]
    filled: dict[str, Any] = {}
    for name in losses:
        told = written.get(name)
        if told is None or name not in frame or not told.any():
            continue
        values = frame[name].to_numpy(dtype=float, copy=True)
        has_blanks = bool((np.isnan(values) & ~told).any())
        bad = told if has_blanks else told & ~_before_finite(values, code)
        holes = int((told & ~bad).sum())
        values[bad] = np.inf
        filled[name] = values
        count = int(bad.sum())
        if count:
            notes.append(
                f"{name} is written as nan in {_rows(count)}: taken as a loss that is not finite"
            )
        if holes:
            notes.append(
                f"{name} is written as nan in {_rows(holes)} with finite losses after: taken as "
                "not measured"
            )
    frame = frame.assign(**filled)
    return _off_the_curve(frame, code, notes, losses)


def _before_finite(values: np.ndarray, code: np.ndarray) -> Flags:
    """Return (rows,) whether a finite value follows in the same run."""
    last = np.full(int(code.max(initial=-1)) + 2, -1)
    there = np.flatnonzero(np.isfinite(values))
    np.maximum.at(last, code[there], there)
    return np.arange(len(values)) < last[code]


def _off_the_curve(
    frame: pd.DataFrame, code: np.ndarray, notes: list[str], losses: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """Take away the position of rows in which nothing was measured: they are no lost losses."""
    measured = [name for name in tidy.BY_STEP if name in frame and name != "seconds"]
    nothing = frame.loc[:, measured].isna().all(axis=1).to_numpy()
    positions = [name for name in ("step", "epoch") if name in frame]
    if not nothing.any():
        return frame, notes
    notes += _ended_early(frame, nothing, [name for name in losses if name in frame])
    cleared = {
        name: np.where(nothing, np.nan, frame[name].to_numpy(dtype=float)) for name in positions
    }
    return frame.assign(**cleared), notes


def _ended_early(frame: pd.DataFrame, nothing: Flags, losses: Sequence[str]) -> list[str]:
    """Say which curves go on without a loss: a lost loss that was not written looks the same."""
    unit = "step" if "step" in frame else "epoch"
    at = frame[unit].to_numpy(dtype=float)
    has_loss = frame.loc[:, list(losses)].notna().any(axis=1).to_numpy()
    silent = nothing & ~_has_other(frame)
    runs = []
    for run, rows in frame.groupby("run", sort=False).indices.items():
        there = rows[has_loss[rows]]
        if len(there) and (at[rows[silent[rows]]] > np.nanmax(at[there])).any():
            runs.append(str(run))
    if not runs:
        return []
    named = ", ".join(filter(None, runs[:3])) + (", ..." if len(runs) > 3 else "")
    which = f"run {named}" if named else "its curve"
    return [
        f"{which}: rows without a loss follow the last one, taken as not measured; a loss that is "
        "no number is written nan"
    ]


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
