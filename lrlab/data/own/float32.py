"""Find what float32 loses of float64 or large whole numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

# float32 keeps 24 bits. A std of s of its steps is rounded by 1 / (s √12) of itself.
EXACT_ENOUGH = 256  # steps within a std: the rounding is a thousandth of it
TOO_COARSE = 16  # steps within a std: the rounding is 2% of it
NO_SPREAD = 1e-12  # relative; closer float64 numbers differ by rounding alone
FEW_LEVELS = 256  # of a column with more different values, enough remain
LOOKED_AT = 1000  # samples
_WHOLE = (torch.int32, torch.int64, torch.uint32, torch.uint64)


def _steps(values: Tensor) -> np.ndarray:
    """Return how many steps of float32 fit into the std of each column, or channel.

    Args:
        values: (samples,) or (samples, columns, ...).

    Returns:
        (columns,), inf where float32 holds all values exactly, or they do not differ.
    """
    columns = values.shape[1] if values.ndim > 1 else 1
    found = np.full(columns, np.inf)
    if values.dtype not in (torch.float64, *_WHOLE) or not len(values):
        return found
    given = values.numpy().reshape(len(values), columns, -1)
    with np.errstate(all="ignore"):  # non-finite values are refused elsewhere
        mean = np.mean(given, axis=(0, 2), dtype=np.float64)
        std = np.std(given, axis=(0, 2), dtype=np.float64)
        step = np.spacing(np.abs(mean).astype(np.float32)).astype(np.float64)
        noise = 0 if values.dtype in _WHOLE else NO_SPREAD * np.abs(mean)
        differs = np.isfinite(step) & (std > noise)
        for place in np.flatnonzero(differs & (std < EXACT_ENOUGH * step)).tolist():
            column = given[:, place].astype(np.float64)
            if not np.array_equal(column.astype(np.float32), column):
                found[place] = std[place] / step[place]
    return found


def narrowed(values: Tensor) -> Tensor:
    """Return values as float32, or float64 if float32 would lose differences of some column."""
    rounded = values.float()
    if (_steps(values) < EXACT_ENOUGH).any() or _merged(values, rounded):
        return values.double()
    return rounded


def lost(values: Tensor, called: Callable[[int], str]) -> str | None:
    """Return the first column with a spread that float32 does not hold, as words, or None.

    Args:
        values: (samples,) or (samples, columns, ...).
        called: the name of a column, by its place.
    """
    within = _steps(values)
    if not (within < TOO_COARSE).any():
        return None
    place = int(np.argmin(within))
    given = values.numpy().reshape(len(values), len(within), -1)[:, place].astype(np.float64)
    step = float(np.spacing(np.float32(abs(given.mean()))))
    return (
        f"{called(place)} has a std of {given.std():.3g} around {given.mean():.6g}, where float32 "
        f"has steps of {step:.3g}"
    )


def merged(exact: Tensor, rounded: Tensor, called: Callable[[int], str]) -> list[str]:
    """Return a sentence for each column of which float32 keeps few of many different values.

    Args:
        exact: (samples, columns), as given.
        rounded: the same as float32, standardised or not.
        called: the name of a column, by its place.
    """
    return [
        f"{called(place)} has {many} different values, and float32 keeps {few} of them; take off "
        "what the large ones have in common"
        for place, many, few in _merged(exact, rounded)
    ]


def _merged(exact: Tensor, rounded: Tensor) -> list[tuple[int, int, int]]:
    """Return such columns, each with the number of its different values before and after."""
    if exact.dtype not in (torch.float64, *_WHOLE) or exact.ndim > 2 or not len(exact):
        return []
    head = min(len(exact), LOOKED_AT)
    before, after = (each[:head].reshape(head, -1).numpy() for each in (exact, rounded))
    found = []
    with np.errstate(over="ignore"):
        inexact = (before.astype(np.float32) != before).any(0)
    for place in np.flatnonzero(inexact).tolist():
        values = np.unique(before[:, place])
        many = len(values)
        if exact.dtype not in _WHOLE:
            size = np.maximum(np.abs(values[1:]), np.abs(values[:-1]))
            many = 1 + int((np.diff(values) > NO_SPREAD * size).sum())
        few = len(np.unique(after[:, place]))
        if few < FEW_LEVELS and few * 2 <= many:
            found.append((place, many, few))
    return found


def named(names: Sequence[str] | None, key: str, width: int) -> Callable[[int], str]:
    """Return a column's name in a sentence: its own, or its index in an array."""
    if names is not None:
        return lambda place: f"column {names[place]}"
    return lambda place: f"{key}[:, {place}]" if width > 1 else key
