"""Tell trainings apart that one log holds one after the other, without a name for each."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from lrlab.logs.log import Log
from lrlab.tables import curve_csv, holes

_SHORTER = 0.9  # a training that ended before this share of the longest one was broken off


def split(log: Log, label: str) -> Log:
    """Return a log of one run as several, where its steps begin again with a new loss.

    A program that appends to its file, or writes into the folder of an earlier training, leaves
    such a log. Trainings that went on, as after a resume, stay one run: see
    `lrlab.tables.curve_csv.counted_on`.

    Args:
        label: of the log. The runs are called label/1, label/2.
    """
    unit = "step" if "step" in log.rows else "epoch"
    if log.ends or log.runs != [""] or unit not in log.rows:
        return log
    rows: Any = log.rows
    at = rows[unit].to_numpy(dtype=float)
    there = np.flatnonzero(np.isfinite(at))
    places = curve_csv.restarts(at[there])
    if not places or _is_in_epochs(rows, there, places):
        return log
    losses = _losses(rows)[there]
    new = [there[i] for i in places if not curve_csv.goes_on(losses, i, places)]
    edges = [0, *new, len(rows)]
    pieces = [np.arange(low, high) for low, high in pairwise(edges)]
    pieces = _without_copies(rows, pieces)
    if len(pieces) == 1 and not new:
        return log
    notes: list[str] = []
    ends = [float(np.nanmax(at[piece])) for piece in pieces]
    rates = [_rate(rows, piece) for piece in pieces]
    if len(set(rates)) == 1 and not math.isnan(rates[0]):
        whole = [end >= _SHORTER * max(ends) for end in ends]
        if not all(whole):
            pieces = [piece for piece, is_whole in zip(pieces, whole, strict=True) if is_whole]
            rates = rates[: len(pieces)]
            notes.append(
                f"its {unit}s begin again at {at[there[0]]:g} with a new loss: the trainings that "
                "were broken off early were left out"
            )
    if len(pieces) > 1:
        notes.append(
            f"its {unit}s begin again at {at[there[0]]:g} with a new loss: taken as {len(pieces)} "
            "runs"
        )
    elif not notes:
        notes.append("it holds the same training twice: one is left out")
    kept = np.concatenate(pieces)
    names = [label and f"{label}/{i + 1}" for i, piece in enumerate(pieces) for _ in piece]
    rows = rows.iloc[kept].reset_index(drop=True)
    if len(pieces) > 1:
        rates_of = np.concatenate([np.full(len(p), r) for p, r in zip(pieces, rates, strict=True)])
        rows = rows.assign(run=names)
        if not np.isnan(rates_of).any():
            rows = rows.assign(lr=rates_of)
    written = {name: flags[kept] for name, flags in log.written.items()}
    return replace(log.saying(*notes), rows=rows, written=written)


def _is_in_epochs(rows: Any, there: np.ndarray, places: list[int]) -> bool:
    if not {"step", "epoch"} <= {*rows.columns}:
        return False
    epochs = rows["epoch"].to_numpy(dtype=float)[there]
    return curve_csv.is_in_epochs(epochs, places)


def _losses(rows: Any) -> np.ndarray:
    """Return (rows,) the train loss, or the val loss if there is none."""
    for name in holes.LOSSES:
        if name in rows and np.isfinite(found := rows[name].to_numpy(dtype=float)).any():
            return found
    return np.full(len(rows), math.nan)


def _rate(rows: Any, piece: np.ndarray) -> float:
    """Return the highest rate of some rows; NaN if the log does not say it."""
    name = "lr_at_step" if "lr_at_step" in rows else "lr"
    rates = rows[name].to_numpy(dtype=float)[piece]
    return float(np.nanmax(rates)) if np.isfinite(rates).any() else math.nan


def _without_copies(rows: Any, pieces: list[np.ndarray]) -> list[np.ndarray]:
    """Return the pieces, of those with equal losses only the last."""
    losses = _losses(rows)
    last = {losses[piece].tobytes(): i for i, piece in enumerate(pieces)}
    return [pieces[i] for i in sorted(last.values())]
