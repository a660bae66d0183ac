"""Draw the parts around a figure's panels: labels, rail, ribbons, colour bars."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lrlab.plots.frame import SYMLOG, Label, log_ticks
from lrlab.plots.runs import Run
from lrlab.plots.sheet import LINE, WIDTH, Sheet, bare, inches, text_width
from lrlab.plots.style import MAP, OUTCOMES, RC, SIZE, lr_word

# --- labels right of a panel ----------------------------------------------------------------------


def draw_margin(ax: Axes, margin: Sequence[Label]) -> None:
    """Write the labels to the right of the panel, moved apart where they would overlap.

    Lines join moved labels to their curves. The limits of the y axis must be set before.
    """
    if not margin:
        return
    width, height = inches(ax)
    order = sorted(margin, key=lambda label: label.y)
    true = [_height(ax, label.y) for label in order]
    at = apart(true, (LINE * 0.95) / height)
    for label, y_true, y in zip(order, true, at, strict=True):
        look: Any = {"transform": ax.transAxes, "color": label.colour}
        x = [1.0, 1 + 0.06 / width, 1 + 0.19 / width]
        ax.plot(x, [y_true, y_true, y], clip_on=False, linewidth=0.8, gid="leader", **look)
        look |= {"va": "center_baseline", "size": SIZE, "parse_math": False, "gid": "label"}
        ax.text(1 + 0.23 / width, y, label.text, **look)


def _height(ax: Axes, y: float) -> float:
    """Return the height of a value in the panel, 0 at its lower end and 1 at its upper."""
    low, high = ax.get_ylim()
    at = ax.transData.transform((ax.get_xlim()[0], min(max(y, low), high)))
    return float(ax.transAxes.inverted().transform(at)[1])


def apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Return the positions nearest to the wanted ones (ascending) that are at least gap apart.

    Least squares in order: pool adjacent violators on wanted[i] - i*gap, then move all into 0..1.
    """
    blocks: list[list[float]] = []  # sum, count
    for i, y in enumerate(wanted):
        blocks.append([y - i * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    low, high = 0.0, max(0.0, 1.0 - (len(wanted) - 1) * gap)
    free = [total / count for total, count in blocks for _ in range(int(count))]
    return [min(max(base, low), high) + i * gap for i, base in enumerate(free)]


# --- ribbons of outcomes --------------------------------------------------------------------------


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


# --- colour bars ----------------------------------------------------------------------------------


BAR = 1.0  # inches a colour bar takes with its numbers


def draw_lr_bar(
    drawn: Sheet,
    norm: Normalize | None,
    lrs: Sequence[float],
    outcomes: Mapping[float, str] | None = None,
    shift: float = 0.0,
) -> None:
    """Draw the colours of the lrs to the right of the first panel, with a ribbon of outcomes.

    norm: None: nothing is drawn.
    shift: inches further to the right, after another bar.
    """
    if norm is None:
        return
    judged = any((outcomes or {}).values())
    place = bar_place(drawn, shift + 0.14 + (0.17 if judged else 0.0))
    with matplotlib.rc_context(RC):
        bar = drawn.figure.colorbar(ScalarMappable(norm, MAP), cax=place)
    bar.outline.set_visible(False)  # type: ignore[operator]
    low, high = min(lrs), max(lrs)
    heights = np.log(sorted(lrs)) / (math.log(high) - math.log(low))
    if float(np.diff(heights).min()) * inches(place)[1] >= LINE:
        place.yaxis.set_major_locator(FixedLocator(list(lrs)))
        place.yaxis.set_major_formatter(FuncFormatter(lambda value, _: lr_word(value)))
    else:
        log_ticks(place.yaxis, low, high)
    place.yaxis.set_minor_locator(NullLocator())
    place.set_title("lr", size=SIZE, loc="left")
    if judged:
        box = place.get_position()
        ribbon = drawn.figure.add_axes((box.x0 - 0.17 / WIDTH, box.y0, 0.15 / WIDTH, box.height))
        draw_ribbon(ribbon, outcomes or {}, low, high)


def draw_loss_bar(place: Axes, norm: Normalize, colours: Colormap, **look: Any) -> None:
    """Draw the colours of the losses; look: for `Figure.colorbar`."""
    bar = place.figure.colorbar(ScalarMappable(norm, colours), cax=place, **look)
    bar.outline.set_visible(False)  # type: ignore[operator]
    if isinstance(norm, LogNorm):
        log_ticks(place.yaxis, float(norm.vmin or 1), float(norm.vmax or 1))
    place.tick_params(labelsize=SIZE)


def bar_place(drawn: Sheet, offset: float = 0.14) -> Axes:
    """Return axes for a colour bar next to the first panel; offset: inches from `right`."""
    box = drawn.axes.get_position()
    x = drawn.right + 0.02 + offset
    with matplotlib.rc_context(RC):
        return drawn.figure.add_axes((x / WIDTH, box.y0, 0.14 / WIDTH, box.height))


def bar_room(norm: Normalize | None, outcomes: Mapping[float, str]) -> float:
    """Return the inches that the bar of the lrs takes, with its ribbon of outcomes."""
    return 0.0 if norm is None else BAR + 0.17 * any(outcomes.values())


# --- the rail of lost runs ------------------------------------------------------------------------


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
