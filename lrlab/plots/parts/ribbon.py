"""Draw ribbons of outcomes along the lrs."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from lrlab.plots.sheet import bare, inches, text_width
from lrlab.plots.style import OUTCOMES, SIZE


def draw_ribbon(ribbon: Axes, outcomes: Mapping[float, str], low: float, high: float) -> None:
    """Draw a field in the outcome's colour around each lr that was judged.

    A field reaches halfway (on the log axis) to the next lr. Neighbours with the same outcome share
    one. It has the outcome's name if that fits, else its mark.

    Args:
        outcomes: by lr; "" if it is not known. Pruned runs have no field.
        low, high: the ends of the lr axis.
    """
    upright = inches(ribbon)[1] > inches(ribbon)[0]
    bare(ribbon)
    (ribbon.set_ylim if upright else ribbon.set_xlim)(math.log(low), math.log(high))
    (ribbon.set_xlim if upright else ribbon.set_ylim)(0, 1)
    ribbon.set_facecolor("#f3f3f3")
    length = max(inches(ribbon))
    per_unit = length / (math.log(high) - math.log(low))
    for start, end, outcome in _fields(outcomes, low, high):
        look = OUTCOMES[outcome]
        corner, size = ((0, start), (1, end - start)) if upright else ((start, 0), (end - start, 1))
        field = Rectangle(corner, *size, facecolor=look.colour, edgecolor="white", linewidth=1.2)
        field.set_gid(f"field:{outcome}")
        ribbon.add_patch(field)
        room = (end - start) * per_unit
        middle = (start + end) / 2
        at = (0.5, middle) if upright else (middle, 0.5)
        if not upright and text_width(outcome, SIZE - 0.5) + 0.08 <= room:
            words: Any = {"color": "white", "size": SIZE - 0.5, "gid": "outcome"}
            ribbon.text(*at, outcome, ha="center", va="center_baseline", **words)
        elif room >= 0.13:
            ribbon.plot(*at, marker=look.shape, color="white", markersize=6, mew=1.4, mec="white")


def _fields(
    outcomes: Mapping[float, str], low: float, high: float
) -> list[tuple[float, float, str]]:
    """Return the fields: begin and end in log lr, and the outcome."""
    lrs = sorted(lr for lr in outcomes if lr > 0)
    if not lrs:
        return []
    logs = np.log(lrs)
    borders = [math.log(low), *((logs[1:] + logs[:-1]) / 2), math.log(high)]
    fields: list[tuple[float, float, str]] = []
    for i, lr in enumerate(lrs):
        start, end, outcome = borders[i], borders[i + 1], outcomes[lr]
        if fields and fields[-1][2] == outcome and fields[-1][1] == start:
            fields[-1] = (fields[-1][0], end, outcome)
        elif outcome and outcome != "pruned":
            fields.append((start, end, outcome))
    return fields
