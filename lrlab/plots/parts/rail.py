"""Draw the rail above the panels: failed runs, at their lr or step."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from lrlab.plots.frame import SYMLOG
from lrlab.plots.runs import Run
from lrlab.plots.sheet import Sheet, bare, inches, text_width
from lrlab.plots.style import SIZE, lr_word

_RAIL_ROWS = 3  # rows of marks, which would overlap in one


def rail_heading(marks: Sequence[str], total: int) -> str:
    """Return how many runs the rail marks, by reason; "" for none."""
    lost = [
        ("✕ non-finite", marks.count("nonfinite")),
        ("■ failed", marks.count("failed")),
        ("◇ target not reached", marks.count("never")),
    ]
    told = [f"{name}: {count} of {total} runs" for name, count in lost if count]
    return "     ".join(told)


def draw_rail(
    drawn: Sheet, xs: Sequence[float], lost: Sequence[Run], colour: Callable[[float], str]
) -> None:
    """Mark runs at their step or lr, in the shape of their `Run.mark`, with their lrs."""
    rail = drawn.rail
    if rail is None or not lost:
        return
    if drawn.axes.get_xscale() == "log":
        rail.set_xscale("log")
    elif drawn.axes.get_xscale() == "symlog":
        rail.set_xscale("symlog", **SYMLOG)
    rail.set_xlim(drawn.axes.get_xlim())
    rail.set_ylim(-0.6, _RAIL_ROWS - 0.4)
    bare(rail)
    rail.set_facecolor("#f3f3f3")

    width = inches(rail)[0]
    start = rail.get_window_extent().x0 / drawn.figure.dpi
    places = [float(rail.transData.transform((x, 0))[0]) / drawn.figure.dpi - start for x in xs]
    order = sorted(range(len(xs)), key=lambda i: (places[i], lost[i].lr))
    taken = [-math.inf] * _RAIL_ROWS
    rows = {}
    for count, i in enumerate(order):
        free = [row for row in range(_RAIL_ROWS) if places[i] - taken[row] >= 0.1]
        rows[i] = free[0] if free else count % _RAIL_ROWS
        taken[rows[i]] = places[i]
    for kind, marker in (("nonfinite", "x"), ("failed", "s"), ("never", "D")):
        mine = [i for i in order if lost[i].mark == kind]
        if mine:
            colours = [colour(lost[i].lr) for i in mine]
            look: Any = {"c": colours, "s": 26, "linewidths": 1.5}
            if kind == "never":
                look = {"fc": "none", "ec": colours, "s": 20, "linewidths": 1.2}
            x, y = [xs[i] for i in mine], [_RAIL_ROWS - 1 - rows[i] for i in mine]
            rail.scatter(x, y, marker=marker, clip_on=False, zorder=5, gid=kind, **look)
    look = {"ha": "center", "va": "bottom", "size": SIZE - 0.5, "gid": "label"}
    labels = _rail_labels(width, [places[i] for i in order], [lost[i].lr for i in order])
    for centre, text in labels:
        rail.text(centre / width, 1.04, text, transform=rail.transAxes, **look)


def _rail_labels(
    width: float, places: Sequence[float], lrs: Sequence[float]
) -> list[tuple[float, str]]:
    """Return labels for the marks (ascending in inches), merged where they would overlap."""
    groups = [[i] for i in range(len(places))]
    while True:
        placed = []
        for group in groups:
            text = _lr_text([lrs[i] for i in group])
            half = text_width(text, SIZE - 0.5) / 2
            centre = (places[group[0]] + places[group[-1]]) / 2
            # Labels may reach a little into the left margin, where the rail has no axis.
            centre = min(max(centre, half - 0.5), width - half)
            placed.append((centre, half, text))
        for i in range(len(groups) - 1):
            (left, left_half, _), (right, right_half, _) = placed[i], placed[i + 1]
            if left + left_half + 0.09 > right - right_half:
                groups[i : i + 2] = [groups[i] + groups[i + 1]]
                break
        else:
            return [(centre, text) for centre, _, text in placed]


def _lr_text(lrs: Sequence[float]) -> str:
    distinct = sorted(set(lrs))
    count = f" ({len(lrs)} runs)" if len(lrs) > 1 else ""
    if len(distinct) <= 3:
        return f"lr {', '.join(map(lr_word, distinct))}{count}"
    return f"lr {lr_word(distinct[0])} to {lr_word(distinct[-1])}{count}"
