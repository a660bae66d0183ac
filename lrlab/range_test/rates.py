"""Check, bound and space arrays of learning rates and losses, and write them as text."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lrlab.errors import UserError

Floats = NDArray[np.float64]

_HUGE = 1e100  # losses count as no larger


def bounded(losses: Floats) -> Floats:
    """Limit losses so that their squares are numbers; non-finite ones stay."""
    return np.where(np.isfinite(losses), np.clip(losses, -_HUGE, _HUGE), losses)


def check_rises(lrs: Floats) -> None:
    """Raise a UserError if learning rates do not rise."""
    if not (np.isfinite(lrs).all() and (lrs > 0).all() and (np.diff(lrs) > 0).all()):
        raise UserError("lr: must rise from each point to the next, finite and above 0")


def plain(value: float) -> str:
    """Return a number with three digits, such as 100, 0.00123 or 1e-05."""
    return f"{float(f'{value:.3g}'):g}"


def times(lr: float, other: float) -> str:
    """Return how far an lr is from another one in words: "3 times smaller than"."""
    word = "smaller" if lr < other else "larger"
    return f"{plain(max(lr / other, other / lr))} times {word} than"


def lr_grid(low: float, high: float, points: int) -> Floats:
    """Return (points,) log-spaced lrs, with both ends exact."""
    grid = np.exp(np.linspace(math.log(low), math.log(high), points))
    grid[0], grid[-1] = low, high
    return grid


def evenly(first: int, last: int, count: int) -> NDArray[np.intp]:
    """Return (count,) steps from the first to the last, or all where there are fewer."""
    return np.unique(np.linspace(first, last, count).round().astype(np.intp))
