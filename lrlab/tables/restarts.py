"""Tell what it means that a log's steps begin again: a resumed run, epochs, or another training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lrlab.errors import in_a_line
from lrlab.tables import holes

_SHORTER = 0.9  # a training that ended before this share of the longest one was broken off

Rows = NDArray[np.intp]


def counted_on(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Renumber steps that begin again, as in a resumed run, to continue from the last step.

    A run was resumed if its next loss is nearer to the last one than to the first, or if its epoch
    does not begin again too: then its steps are those of each epoch. Otherwise the later rows
    replace the earlier ones of the same step, as they always do.
    """
    unit = "step" if "step" in frame else "epoch"
    at = frame[unit].to_numpy(dtype=float, copy=True)
    losses = _losses(frame)
    epochs = frame["epoch"].to_numpy(dtype=float) if {"step", "epoch"} <= {*frame} else None
    told: dict[str, list[str]] = {}
    for run, rows in frame.groupby("run", sort=False).indices.items():
        rows = rows[np.isfinite(at[rows])]
        own = at[rows]
        places = _places(own)
        in_epochs = epochs is not None and _is_in_epochs(epochs[rows], places)
        again = places if in_epochs else [i for i in places if _goes_on(losses[rows], i, places)]
        if not again:
            continue
        steps = np.diff(own)
        further = np.zeros(len(own))
        further[again] = own[np.array(again) - 1] + steps[steps > 0][0] - own[again]
        at[rows] = own + np.cumsum(further)
        why = "with each epoch; they are numbered on"
        if not in_epochs:
            why = f"at {own[0]:g}; they are numbered on, as for a resumed run"
        told.setdefault(why, []).append(in_a_line(str(run))[:40])
    notes: list[str] = []
    for why, runs in told.items():
        named = f"{', '.join(runs[:3])}{', ...' if len(runs) > 3 else ''}"
        notes.append(f"{f'run {named}: ' if named else ''}its {unit}s begin again {why}")
    return (frame.assign(**{unit: at}), notes) if notes else (frame, notes)


def trainings(rows: Any) -> tuple[list[Rows], list[str]]:
    """Return the rows of each training of one run, if its steps begin again with a new loss.

    A program that appends to its file, or writes into the folder of an earlier training, leaves
    such a log. A training that went on, as after a resume, is one: see `counted_on`. Of equal ones
    the last is returned. If all have one lr, those that were broken off early are left out.

    Args:
        rows: step or epoch, the losses, lr, and where there lr_at_step; in the order of training.

    Returns:
        The rows of each, and lines about it. None: there is one training, of all rows.
    """
    unit = "step" if "step" in rows else "epoch"
    if unit not in rows:
        return [], []
    at = rows[unit].to_numpy(dtype=float)
    of_loss = rows.loc[:, [name for name in holes.LOSSES if name in rows]].notna().any(axis=1)
    there = np.flatnonzero(np.isfinite(at) & of_loss.to_numpy())
    places = _places(at[there])
    if not places:
        return [], []
    epochs = rows["epoch"].to_numpy(dtype=float)[there] if "epoch" in rows else None
    if unit == "step" and epochs is not None and _is_in_epochs(epochs, places):
        return [], []
    losses = _losses(rows)
    new = [there[i] for i in places if not _goes_on(losses[there], i, places)]
    if not new:
        return [], []
    pieces = [np.arange(low, high) for low, high in pairwise([0, *new, len(rows)])]
    last = {losses[piece].tobytes(): i for i, piece in enumerate(pieces)}
    notes: list[str] = []
    if len(last) < len(pieces):
        notes.append("it holds a training twice: the later one counts")
    pieces = [pieces[i] for i in sorted(last.values())]
    again = f"its {unit}s begin again at {at[there[0]]:g} with a new loss"
    ends = [float(np.nanmax(at[piece])) for piece in pieces]
    is_whole = [end >= _SHORTER * max(ends) for end in ends]
    rates = {rate_of(rows, piece) for piece in pieces}
    if len(rates) == 1 and not math.isnan(next(iter(rates))) and not all(is_whole):
        pieces = [piece for piece, whole in zip(pieces, is_whole, strict=True) if whole]
        notes.append(f"{again}: {is_whole.count(False)} that broke off early was left out")
    if len(pieces) > 1:
        notes.append(f"{again}: taken as {len(pieces)} runs")
    return pieces, notes


def rate_of(rows: Any, piece: Rows) -> float:
    """Return the highest rate of some rows; NaN if the log does not say it."""
    name = "lr_at_step" if "lr_at_step" in rows else "lr"
    rates = rows[name].to_numpy(dtype=float)[piece]
    return float(np.nanmax(rates)) if np.isfinite(rates).any() else math.nan


def _places(at: np.ndarray) -> list[int]:
    """Return the places at which positions fall back to the first one."""
    return (np.flatnonzero((at[1:] == at[:1]) & (at[:-1] > at[:1])) + 1).tolist()


def _is_in_epochs(epochs: np.ndarray, places: Sequence[int]) -> bool:
    """Return whether steps begin again with each higher epoch, so they are counted in each."""
    return bool(places) and all(epochs[i] > epochs[i - 1] for i in places)


def _losses(rows: Any) -> np.ndarray:
    """Return (rows,) the train loss, or the val loss if there is none."""
    for name in holes.LOSSES:
        if name in rows and np.isfinite(found := rows[name].to_numpy(dtype=float)).any():
            return found
    return np.full(len(rows), math.nan)


def _goes_on(losses: np.ndarray, place: int, places: Sequence[int]) -> bool:
    """Return whether the loss from a row on is nearer to that before it than to the first.

    So it is too if both differ by no more than the noise of the last losses before.

    Args:
        losses: (n,) of a run.
        place: the row at which its steps begin again; `places` has all such rows.
    """
    begin = max((each for each in places if each < place), default=0)
    finite = np.flatnonzero(np.isfinite(losses))
    low, high = np.searchsorted(finite, [begin, place])
    if low == high or high == len(finite):
        return False
    first, now = losses[finite[0]], losses[finite[high]]
    last = losses[finite[max(low, high - 10) : high]]
    noise = float(np.std(np.diff(last))) if len(last) > 3 else 0.0
    jump = abs(now - last[-1])
    return bool(jump < abs(now - first) or jump <= 3 * noise)
