"""Make tables drawable: bound numbers that no axis can show, and clean names.

Such a number is drawn at the end of the axis, a control character as "?".
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

# A double ends at 1.8e308 and loses digits below 2.2e-308. Limits, ticks and averages reach further
# than the numbers that are drawn.
LARGEST, SMALLEST = 1e280, 1e-280

_NUMBERS = (
    *("lr", "lr_at_step", "loss", "train_loss", "val_loss", "test_loss", "initial_loss"),
    *("chance_loss", "end_loss", "train_end_loss", "best_loss", "target_loss", "w0", "w1", "w2"),
    *("distance", "x", "y"),
)
_OF_ANSWER = ("best_lr", "best_loss", "as_good", "too_small", "too_large", "fails_from", "try_next")

Given = ParamSpec("Given")


def within(draw: Callable[Given, Figure]) -> Callable[Given, Figure]:
    """Wrap a figure's function: bring lrs, losses and positions within reach, and clean names.

    Numbers beyond it become SMALLEST or LARGEST, and the figure says so. No name is read as a
    formula.
    """
    plain: Any = draw

    @functools.wraps(draw)
    def drawn(*args: Given.args, **kwargs: Given.kwargs) -> Figure:
        given = _clean((args, kwargs))
        near = _near(given)
        with style.words():
            try:
                figure: Figure = plain(*near[0], **near[1])
            except NothingToDraw as error:
                if not _merged([*given[0], *given[1].values()]):
                    raise
                at = f"numbers below {SMALLEST:g} or above {LARGEST:g} count as these"
                raise NothingToDraw(f"{error}; {at}") from error
            if near is not given:
                look: Any = {"ha": "right", "va": "bottom", "size": SIZE - 2.5, "color": GREY}
                words = f"numbers below {SMALLEST:g} or above {LARGEST:g} are drawn as these"
                figure.text(0.99, 0.004, words, gid="beyond reach", **look)
        return figure

    return drawn


def _changed(given: Any, change: Callable[[Any, str], Any], name: str = "") -> Any:
    """Change all parts of what is given, each with the name of its field.

    Return the same object if none differs.
    """
    new: Any
    if isinstance(given, list | tuple):
        new = [_changed(one, change, name) for one in given]
        if all(a is b for a, b in zip(new, given, strict=True)):
            return given
        return new if isinstance(given, list) else tuple(new)
    if isinstance(given, Mapping):
        new = {change(key, ""): _changed(value, change) for key, value in given.items()}
        same = all(a is b and new[a] is given[b] for a, b in zip(new, given, strict=True))
        return given if same else new
    if is_dataclass(given) and not isinstance(given, type):
        old = {one.name: getattr(given, one.name) for one in fields(given) if one.init}
        new = {field: _changed(value, change, field) for field, value in old.items()}
        new = {field: value for field, value in new.items() if value is not old[field]}
        return replace(given, **new) if new else given
    return change(given, name)


def _clean(given: Any) -> Any:
    """Make words printable, on one line."""

    def clean(one: Any, _: str) -> Any:
        if isinstance(one, str):
            words = in_a_line(one)
            return one if words == one else words
        return _clean_table(one) if isinstance(one, pd.DataFrame) else one

    return _changed(given, clean)


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
    """Bring the numbers of tables and answers within reach."""

    def near(one: Any, name: str) -> Any:
        if isinstance(one, pd.DataFrame):
            there = [n for n in _NUMBERS if n in one and pd.api.types.is_float_dtype(one[n])]
            moved = {n: one[n].to_numpy(float) for n in there}
            moved = {n: _bounded(values) for n, values in moved.items() if _far(values).any()}
            return one.assign(**moved) if moved else one
        if name in _OF_ANSWER and isinstance(one, float) and _far(np.array(one)):
            return float(_bounded(np.array(one)))
        return one

    return _changed(given, near)


def _far(values: np.ndarray) -> np.ndarray:
    size = np.abs(values)
    return np.isfinite(size) & (size > 0) & ((size < SMALLEST) | (size > LARGEST))


def _bounded(values: np.ndarray) -> np.ndarray:
    size = np.sign(values) * np.clip(np.abs(values), SMALLEST, LARGEST)
    return np.where(_far(values), size, values)
