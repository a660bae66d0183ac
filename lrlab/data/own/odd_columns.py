"""Find columns that are no features: a saved index, a running number, the label once more."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

UNNAMED = re.compile(r"(Unnamed: \d+(\.\d+)*(_level_\d+)?)?")  # pandas' names for them
KEYS = re.compile(r"(?i)(row|sample|record|line)?[ _.-]?(id|idx|index|nr|no|number|rownames?)")
LEAST_ROWS = 3  # rows needed before a column can be said to number them
LEAST_ALIKE = 20  # below it, a column may be one-to-one with the classes by chance
LOOKED_AT = 1000  # rows, before all are


def is_unnamed(name: Any) -> bool:
    """Return whether a column has no name, or the one that pandas gives to such."""
    return name is None or UNNAMED.fullmatch(str(name).strip()) is not None


def without_index(frame: pd.DataFrame, features: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """Return the features without saved indices, and a sentence for each unnamed column.

    A saved index is a column without a name, with cells that all differ and are whole numbers or
    texts. It need not be in order, because a table may have been shuffled, or rows removed.
    """
    kept, said = [], []
    for name in features:
        column = frame[name]
        if not is_unnamed(name) or len(column) < LEAST_ROWS:
            kept.append(name)
            continue
        called = f"the column {name}" if str(name or "").strip() else "a column without a name"
        whole = column.dtype.kind in "iu" or (
            column.dtype.kind == "f" and bool((column % 1 == 0).all())
        )
        if column.is_unique and not column.hasnans and (whole or column.dtype.kind not in "bf"):
            said.append(f"{called} is a saved index, and left out")
        else:
            kept.append(name)
            said.append(f"{called} is taken as a feature; if it is a saved index, leave it out")
    return kept, said


def numbering(x: np.ndarray, names: Sequence[Any] | None = None) -> list[int]:
    """Return the columns that number the samples: by steps of 1, or by name and in any order.

    Args:
        x: (samples, features).
        names: of the features, where they have any.
    """
    if x.ndim != 2 or len(x) < LEAST_ROWS or x.shape[1] < 2 or x.dtype.kind not in "iuf":
        return []
    head = x[:LOOKED_AT].astype(np.float64)
    with np.errstate(invalid="ignore"):  # non-finite values are refused elsewhere
        steps = np.diff(head, axis=0)
        running = ((steps == 1).all(0) | (steps == -1).all(0)) & (head[0] % 1 == 0)
    if names is not None:
        running |= [KEYS.fullmatch(str(name).strip()) is not None for name in names]
    return [place for place in np.flatnonzero(running).tolist() if _numbers(x[:, place])]


def _numbers(column: np.ndarray) -> bool:
    values = column.astype(np.float64)
    return bool((values % 1 == 0).all()) and len(np.unique(values)) == len(values)


def repeats(x: np.ndarray, y: np.ndarray) -> list[tuple[int, str]]:
    """Return the features that are a label: equal to it, or one-to-one with its classes.

    Args:
        x: (samples, features).
        y: (samples, labels), whole numbers if they are classes.

    Returns:
        The indices of such features, each with its relation to the label, in words.
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) < 2 or x.dtype.kind not in "biuf":
        return []
    found = {}
    head, heads = x[:LOOKED_AT], y[:LOOKED_AT]
    for target, first in zip(y.T, heads.T, strict=True):
        for place in np.flatnonzero((head == first[:, None]).all(0)).tolist():
            if np.array_equal(x[:, place], target):
                found[place] = "equals"
    if y.dtype.kind in "iu" and y.shape[1] == 1 and len(y) >= LEAST_ALIKE:
        for place in _constant_in_classes(head, heads[:, 0]):
            if place not in found and _one_to_one(x[:, place], y[:, 0]):
                found[place] = "is one-to-one with"
    return sorted(found.items())


def _constant_in_classes(x: np.ndarray, y: np.ndarray) -> list[int]:
    """Return the features that have one value in each class."""
    order = np.argsort(y, kind="stable")
    x, y = x[order], y[order]
    starts = np.flatnonzero(np.r_[True, y[1:] != y[:-1]])
    if len(starts) * 2 > len(y):  # too few samples a class to say so
        return []
    same = np.maximum.reduceat(x, starts) == np.minimum.reduceat(x, starts)
    return np.flatnonzero(same.all(0)).tolist()


def _one_to_one(column: np.ndarray, y: np.ndarray) -> bool:
    values, places = np.unique(column, return_inverse=True)
    classes, of = np.unique(y, return_inverse=True)
    if len(values) != len(classes):
        return False
    return len(np.unique(places * len(classes) + of)) == len(classes)
