"""What is in a figure: its lines, marks and texts, by their gid."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text


def drawn(figure: Figure, gid: str) -> list[Any]:
    return [
        one for ax in figure.axes for one in (*ax.lines, *ax.collections) if one.get_gid() == gid
    ]


def rail_marks(figure: Figure, kind: str = "nonfinite") -> np.ndarray:
    found = drawn(figure, kind)
    return np.concatenate([one.get_offsets() for one in found]) if found else np.empty((0, 2))


def texts(figure: Figure) -> list[Text]:
    return [one for one in figure.findobj(Text) if one.get_visible() and one.get_text().strip()]


def labels(figure: Figure) -> list[str]:
    return [one.get_text() for one in texts(figure) if one.get_gid() == "label"]


def written(figure: Figure) -> str:
    return "\n".join(one.get_text() for one in texts(figure))


def assert_legible(figure: Figure) -> None:
    """No two texts overlap and none leaves the figure."""
    figure.canvas.draw()
    outer = figure.bbox
    boxes = []
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                inside = low <= tick.get_loc() <= high
                tick.label1.set_visible(tick.label1.get_visible() and inside)
                tick.label2.set_visible(tick.label2.get_visible() and inside)
    for one in texts(figure):
        box = one.get_window_extent()
        assert box.x0 >= -1 and box.y0 >= -1, one
        assert box.x1 <= outer.width + 1 and box.y1 <= outer.height + 1, one
        # The font's line height is more than the ink; a pixel's touch is no overlap.
        boxes.append((one, box.padded(-2)))
    for (a, box_a), (b, box_b) in itertools.combinations(boxes, 2):
        assert not box_a.overlaps(box_b), f"{a.get_text()!r} overlaps {b.get_text()!r}"


def fields(ax: Axes) -> list[tuple[float, float, str]]:
    """Begin and end as lrs, and outcome, of a ribbon's fields."""
    found = [p for p in ax.patches if isinstance(p, Rectangle)]
    found = [p for p in found if str(p.get_gid()).startswith("field:")]
    return [
        (
            math.exp(p.get_x()),
            math.exp(p.get_x() + p.get_width()),
            str(p.get_gid()).removeprefix("field:"),
        )
        for p in found
    ]


def ribbons(figure: Figure) -> list[list[tuple[float, float, str]]]:
    return [found for ax in figure.axes if (found := fields(ax))]
