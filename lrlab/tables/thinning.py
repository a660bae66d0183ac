"""Thin curves to as many rows as a figure can show, so that figures of many runs stay small.

A row of a thinned curve stands for itself and the rows left out before it. Its train_loss is the
mean of their losses, and ``mean_of`` their number. All else is as recorded at its step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame

ROWS = 100_000  # of all runs of a sweep together, about 30 MB: 40 runs of the default's length
FEWEST = 120  # rows of a run, however many runs there are
MEAN_OF = "mean_of"
# Rows are only omitted between lrs that differ by less than this factor. So a schedule's slope does
# not look like a drop, and each drop stays at its step.
_LR_STEP = 0.85

Curve = Mapping[str, np.ndarray]


def rows_of_each(curves: int) -> int:
    """Return how many rows each of so many curves may have."""
    return max(FEWEST, ROWS // max(1, curves))


def thinned(curve: Curve, most: int, keep: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Return a curve of at most so many rows.

    Args:
        curve: (n,) each, sorted by step: lr_at_step, train_loss, and any other column.
        most: rows, at least 8.
        keep: columns that are not recorded at every step. Rows with a value there stay; if they
            are more than half of all, evenly spread ones do.

    Returns:
        The same columns and ``mean_of``, (m,) each. These rows stay: the first and the last, the
        last trained step, the first with a loss that is not finite and the one before it, and both
        sides of a drop of the lr.
    """
    loss, lr = curve["train_loss"], curve["lr_at_step"]
    count = len(loss)
    if count <= most:
        return {**curve, MEAN_OF: np.ones(count)}
    kept = {0, count - 1}
    trained = np.flatnonzero(np.isfinite(lr))
    kept.update(trained[-1:].tolist())
    lost = trained[~np.isfinite(loss[trained])][:1].tolist()
    kept.update(row for first in lost for row in (max(first - 1, 0), first))
    told = np.zeros(count, dtype=bool)
    for name in keep:
        told |= np.isfinite(curve[name])
    kept.update(_spread(np.flatnonzero(told | _moves(lr)), (most - len(kept)) // 2))
    kept.update(_spread(np.arange(count), most - len(kept)))
    rows = np.array(sorted(kept))
    found = {name: values[rows] for name, values in curve.items()}
    finite = np.isfinite(loss)
    starts = np.concatenate([[0], rows[:-1] + 1])
    many = np.add.reduceat(finite.astype(float), starts)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        mean = np.add.reduceat(np.where(finite, loss, 0.0), starts) / many
    own = np.isfinite(found["train_loss"]) & np.isfinite(mean)
    found["train_loss"] = np.where(own, mean, found["train_loss"])
    found[MEAN_OF] = np.where(own, many, 1.0)
    return found


def _spread(rows: np.ndarray, most: int) -> list[int]:
    """Return at most so many of the rows, evenly spaced."""
    if len(rows) > most:
        rows = rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
    return rows.tolist()


def _moves(lr: np.ndarray) -> np.ndarray:
    """Return (n,) whether the lr reaches another level at the row, or at the next."""
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.floor(np.log(lr) / math.log(_LR_STEP))
    level = np.nan_to_num(level, nan=math.inf)
    moves = np.zeros(len(lr), dtype=bool)
    changes = np.flatnonzero(level[1:] != level[:-1])
    moves[changes] = moves[changes + 1] = True
    return moves


def average(loss: np.ndarray, span: float, mean_of: np.ndarray | None = None) -> np.ndarray:
    """Return (n,) the exponential moving average with bias correction, of losses or their means.

    Args:
        loss: (n,).
        span: in recorded losses: each has (1 - 2 / (span + 1)) times the weight of the next.
        mean_of: (n,) how many recorded losses each is the mean of; None: one.
    """
    import pandas as pd

    values = pd.Series(loss)
    if mean_of is None or not (mean_of > 1).any():
        # adjust=True is the bias correction: the weights of a start without history sum to 1.
        return values.ewm(span=max(1.0, span), adjust=True).mean().to_numpy()
    if span <= 1:
        return np.asarray(loss, dtype=float)
    weights = pd.Series(mean_of)
    a_loss = 1_000_000  # of pandas' clock, which counts in nanoseconds
    times = pd.Series((np.cumsum(mean_of) * a_loss).astype("int64").view("datetime64[ns]"))
    half = np.timedelta64(round(a_loss * math.log(2) / -math.log1p(-2 / (span + 1))), "ns")

    def weighed(each: pd.Series) -> np.ndarray:
        return each.ewm(halflife=half, times=times, adjust=True).mean().to_numpy()

    return weighed(values * weights) / weighed(weights)


def of_table(table: DataFrame) -> np.ndarray | None:
    """Return (rows,) how many recorded losses each row of a table stands for; None: one each."""
    return table[MEAN_OF].to_numpy(float) if MEAN_OF in table else None
