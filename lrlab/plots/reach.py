"""Make tables drawable: replace numbers beyond all axes, and control characters in names.

Such a number is drawn at the figure's farthest end, a control character as "?".
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, ParamSpec

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lrlab.errors import in_a_line
from lrlab.plots import style
from lrlab.plots.style import GREY, SIZE
from lrlab.plots.tables import NothingToDraw

# Frames, ticks and averages reach further than their numbers, and a double ends at 1.8e308; below
# 2.2e-308 it loses digits, and matplotlib its way.
LARGEST, SMALLEST = 1e280, 1e-280

_NUMBERS = (
    *("lr", "lr_at_step", "loss", "train_loss", "val_loss", "test_loss", "initial_loss"),
    *("chance_loss", "end_loss", "train_end_loss", "best_loss", "target_loss", "w0", "w1", "w2"),
    *("distance", "x", "y"),
)
_OF_ANSWER = ("best_lr", "best_loss", "as_good", "too_small", "too_large", "fails_from", "try_next")

Given = ParamSpec("Given")


def within(draw: Callable[Given, Figure]) -> Callable[Given, Figure]:
    """Return the figure of tables after moving lrs, losses and positions within reach.

    Numbers beyond it become SMALLEST or LARGEST, and the figure says so. Words are made printable,
    and none is read as a formula.
    """

    plain: Any = draw

    @functools.wraps(draw)
    def drawn(*args: Given.args, **kwargs: Given.kwargs) -> Figure:
        given: Any = [_clean(one) for one in args]
        with style.words():
            return moved(*given, **{name: _clean(one) for name, one in kwargs.items()})

    def moved(*args: Any, **kwargs: Any) -> Figure:
        near: Any = [_near(one) for one in args]
        named: Any = {name: _near(one) for name, one in kwargs.items()}
        differs = any(a is not b for a, b in zip(near, args, strict=True))
        differs = differs or any(named[name] is not kwargs[name] for name in named)
        try:
            figure: Figure = plain(*near, **named)
        except NothingToDraw as error:
            if not (differs and _merged([*args, *kwargs.values()])):
                raise
            at = f"numbers below {SMALLEST:g} or above {LARGEST:g} count as these"
            raise NothingToDraw(f"{error}; {at}") from error
        if differs:
            figure.text(
                0.99,
                0.004,
                f"numbers below {SMALLEST:g} or above {LARGEST:g} are drawn there",
                ha="right",
                va="bottom",
                size=SIZE - 2.5,
                color=GREY,
                gid="beyond reach",
            )
        return figure

    return drawn


def _clean(given: Any) -> Any:
    """Return printable words on one line; the same object if they all are already."""
    if isinstance(given, str):
        return in_a_line(given)
    if isinstance(given, pd.DataFrame):
        return _clean_table(given)
    if isinstance(given, list | tuple):
        clean = [_clean(one) for one in given]
        if all(a is b for a, b in zip(clean, given, strict=True)):
            return given
        return clean if isinstance(given, list) else tuple(clean)
    if isinstance(given, Mapping):
        return {_clean(key): _clean(value) for key, value in given.items()}
    if is_dataclass(given) and not isinstance(given, type):
        old = {one.name: getattr(given, one.name) for one in fields(given) if one.init}
        new = {name: _clean(value) for name, value in old.items()}
        new = {name: value for name, value in new.items() if value is not old[name]}
        return replace(given, **new) if new else given
    return given


def _clean_table(table: pd.DataFrame) -> pd.DataFrame:
    new = {}
    for name in table:
        if table[name].dtype.kind == "O" or isinstance(table[name].dtype, pd.CategoricalDtype):
            words = {
                word: in_a_line(word) for word in table[name].unique() if isinstance(word, str)
            }
            if any(word != clean for word, clean in words.items()):
                new[name] = (
                    table[name].astype(object).map(lambda one, words=words: words.get(one, one))
                )
    table = table.assign(**new) if new else table
    names = {name: in_a_line(name) for name in table if isinstance(name, str)}
    dirty = {name: clean for name, clean in names.items() if name != clean}
    return table.rename(columns=dirty) if dirty else table


def _merged(given: list[Any]) -> bool:
    """Return whether two different learning rates are drawn at one position."""
    tables = [one for one in given if isinstance(one, pd.DataFrame) and "lr" in one]
    return any(_near(one)["lr"].nunique() < one["lr"].nunique() for one in tables)


def _near(given: Any) -> Any:
    """Return a table, an answer or a list of answers within reach; the same object if unchanged."""
    if isinstance(given, pd.DataFrame):
        moved = {}
        for name in _NUMBERS:
            if name in given and pd.api.types.is_float_dtype(given[name]):
                values = given[name].to_numpy(float)
                if _far(values).any():
                    moved[name] = _bounded(values)
        return given.assign(**moved) if moved else given
    if isinstance(given, list | tuple):
        near = [_near(one) for one in given]
        return given if all(a is b for a, b in zip(near, given, strict=True)) else near
    if is_dataclass(given) and not isinstance(given, type):
        moved = {}
        for field in fields(given):
            value = getattr(given, field.name)
            if field.name in _OF_ANSWER and value is not None:
                values = np.array(value, dtype=float)
                if _far(values).any():
                    near = _bounded(values)
                    moved[field.name] = float(near) if near.ndim == 0 else tuple(near.tolist())
        return replace(given, **moved) if moved else given
    return given


def _far(values: np.ndarray) -> np.ndarray:
    size = np.abs(values)
    return np.isfinite(size) & (size > 0) & ((size < SMALLEST) | (size > LARGEST))


def _bounded(values: np.ndarray) -> np.ndarray:
    size = np.sign(values) * np.clip(np.abs(values), SMALLEST, LARGEST)
    return np.where(_far(values), size, values)
