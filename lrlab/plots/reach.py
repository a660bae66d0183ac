"""Numbers so large or small that no axis can hold them: a figure draws them at its farthest end."""

import functools
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, ParamSpec

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

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
    """The figure of tables whose learning rates, losses and places are within reach.

    Beyond it they stand at SMALLEST or LARGEST, and the figure says so.
    """

    plain: Any = draw

    @functools.wraps(draw)
    def drawn(*args: Given.args, **kwargs: Given.kwargs) -> Figure:
        near: Any = [_near(one) for one in args]
        named: Any = {name: _near(one) for name, one in kwargs.items()}
        moved = any(a is not b for a, b in zip(near, args, strict=True))
        moved = moved or any(named[name] is not kwargs[name] for name in named)
        try:
            figure: Figure = plain(*near, **named)
        except NothingToDraw as error:
            if not (moved and _merged([*args, *kwargs.values()])):
                raise
            at = f"numbers below {SMALLEST:g} or above {LARGEST:g} count as these"
            raise NothingToDraw(f"{error}; {at}") from error
        if moved:
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


def _merged(given: list[Any]) -> bool:
    """Whether learning rates that differ stand at one place."""
    tables = [one for one in given if isinstance(one, pd.DataFrame) and "lr" in one]
    return any(_near(one)["lr"].nunique() < one["lr"].nunique() for one in tables)


def _near(given: Any) -> Any:
    """A table, an answer or a list of answers within reach; the same object where it is already."""
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
