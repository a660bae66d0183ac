"""The layout of a figure in inches: what fits is known before it is drawn, so nothing overlaps.

From top to bottom: title, subtitle, rail (failures), ribbon (outcomes), panels, legend. Labels
stand right of a panel, a colour bar right of them.
"""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Protocol

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lrlab.plots.frame import SYMLOG, Label, log_ticks
from lrlab.plots.style import DPI, MAP, OUTCOMES, RC, SIZE, lr_word

WIDTH, HEIGHT = 8.6, 4.0  # inches: of a figure, of its panel where there is only one
LEFT, PAD = 0.85, 0.15
LINE = 0.19  # inches a line of text of SIZE takes
BAR = 1.0  # inches a colour bar takes with its numbers
_RAIL_HEIGHT, _RAIL_ROWS = 0.3, 3
_RIBBON_HEIGHT = 0.22
_XLABEL = 0.62  # inches below a panel, for numbers and the axis' name

Handles = Sequence[tuple[Line2D, str]]


class Lost(Protocol):
    """A run that a rail marks: its lr, and why, "nonfinite", "failed" or "never"."""

    @property
    def lr(self) -> float: ...
    @property
    def mark(self) -> str: ...


@dataclass(frozen=True)
class Sheet:
    figure: Figure
    panels: list[list[Axes]]  # [row][column], from the top left
    rail: Axes | None
    ribbons: list[Axes]
    width: float  # of one panel, inches
    right: float  # left end of the colour bar's place, inches from the figure's left
    height: float  # of the figure, inches

    @property
    def axes(self) -> Axes:
        return self.panels[0][0]


def sheet(
    title: str,
    subtitle: str,
    *,
    handles: Handles = (),
    margin: Sequence[Label] = (),
    bar: float = 0.0,
    rail: str = "",
    ribbons: Sequence[str] = (),
    rows: Sequence[float] = (HEIGHT,),
    columns: int = 1,
    between: float = 0.3,
    beside: float = 0.3,
    left: float = LEFT,
    above: float | Sequence[float] = 0.0,
    aspect: float | None = None,
) -> Sheet:
    """An empty figure with all its axes.

    Args:
        margin: the labels that will stand right of a panel; room is made for the longest.
        bar: inches for a colour bar, or what else stands on the right.
        rail: the rail's heading; "": no rail.
        ribbons: the name of each ribbon, "" for one that needs none.
        rows: the height of each row of panels, inches.
        between, beside: inches between rows, between columns.
        above: inches over every row, or over each, for the titles of panels.
        aspect: height of the only panel as a share of its width; None: see rows.
    """
    figure = Figure(figsize=(WIDTH, 1.0), dpi=DPI)
    FigureCanvasAgg(figure)
    room = WIDTH - 2 * PAD
    titles = _wrapped(title, SIZE + 3, room, "bold")[:3]
    subtitles = _wrapped(subtitle, SIZE, room)[:3]
    keys = _legend_rows(handles, room)
    texts = [text_width(label.text, SIZE) for label in margin]
    names = [text_width(name, SIZE) for name in ribbons if name]
    left = max(left, PAD + max(names) + 0.08) if names else left
    right = WIDTH - PAD - bar
    # Without anything on the right, half of the last number on the x axis would hang over the edge.
    whole = right - left - (0.3 + max(texts) if texts else 0.0 if bar else 0.12)
    width = (whole - beside * (columns - 1)) / columns
    rows = rows if aspect is None else (width * aspect,)
    heads = [above] * len(rows) if isinstance(above, float | int) else list(above)
    top = PAD + 0.26 * len(titles) + LINE * 1.1 * len(subtitles) + 0.12
    rail_height = (2 * LINE + 0.06 + _RAIL_HEIGHT + 0.04) if rail else 0.0
    ribbon_height = len(ribbons) * (_RIBBON_HEIGHT + 0.03) + 0.03 if ribbons else 0.0
    bottom = _XLABEL + (LINE + 0.05) * len(keys) + PAD
    panels_height = sum(rows) + between * (len(rows) - 1) + sum(heads)
    height = top + rail_height + ribbon_height + panels_height + bottom
    figure.set_size_inches(WIDTH, height)

    y = height - PAD
    for lines, size, step, weight in (
        (titles, SIZE + 3, 0.26, "bold"),
        (subtitles, SIZE, LINE * 1.1, "normal"),
    ):
        for text in lines:
            write(figure, PAD / WIDTH, y / height, text, size, va="top", weight=weight)
            y -= step

    def place(x: float, y: float, w: float, h: float) -> Axes:
        return figure.add_axes((x / WIDTH, y / height, w / WIDTH, h / height))

    with matplotlib.rc_context(RC):
        y = height - top - rail_height - ribbon_height
        panels = []
        for row, over in zip(rows, heads, strict=True):
            y -= over + row
            panels.append(
                [place(left + i * (width + beside), y, width, row) for i in range(columns)]
            )
            y -= between
        y = height - top - rail_height
        strips = []
        for name in ribbons:
            y -= _RIBBON_HEIGHT
            strips.append(place(left, y, whole, _RIBBON_HEIGHT))
            if name:
                middle = (y + _RIBBON_HEIGHT / 2) / height
                write(figure, PAD / WIDTH, middle, name, SIZE, va="center_baseline")
            y -= 0.03
        rail_axes = None
        if rail:
            low = height - top - rail_height + 0.04
            rail_axes = place(left, low, whole, _RAIL_HEIGHT)
            heading = (low + _RAIL_HEIGHT + LINE + 0.05) / height
            write(figure, left / WIDTH, heading, rail, SIZE, va="bottom")
    _draw_legend(figure, keys, height, left)
    return Sheet(figure, panels, rail_axes, strips, width, right, height)


def widen(drawn: Sheet, row: int) -> Axes:
    """Make a row of panels one panel over the whole width, and return it."""
    first, *others = drawn.panels[row]
    last = others[-1].get_position() if others else first.get_position()
    box = first.get_position()
    for other in others:
        other.remove()
    first.set_position((box.x0, box.y0, last.x1 - box.x0, box.height))
    drawn.panels[row][1:] = []
    return first


# --- texts ----------------------------------------------------------------------------------------


def write(figure: Figure, x: float, y: float, text: str, size: float, va: str, **look: Any) -> None:
    # Names are the user's: a "$" in them is a dollar and no formula.
    figure.text(x, y, text, size=size, va=va, ha="left", parse_math=False, **look)


@cache
def _scratch() -> Figure:
    figure = Figure(dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Inches that a text takes."""
    one = _scratch().text(0, 0, text, size=size, parse_math=False, weight=weight)
    width = one.get_window_extent().width / DPI
    one.remove()
    return width


def head(ax: Axes, text: str, colour: str = "#000000", line: int = 0, **look: Any) -> None:
    """A line over a panel, left-aligned; line 1 is above line 0."""
    height = _inches(ax)[1]
    ax.text(
        0.0,
        1 + (0.07 + line * LINE) / height,
        text,
        transform=ax.transAxes,
        va="bottom",
        size=SIZE,
        color=colour,
        parse_math=False,
        gid="head",
        **look,
    )


def cut_to(text: str, room: float, weight: str = "normal") -> str:
    """The text, or as much of its beginning as has room (inches), and an ellipsis."""
    if text_width(text, SIZE, weight) <= room:
        return text
    while text and text_width(text + "…", SIZE, weight) > room:
        text = text[: -max(1, len(text) // 12)]
    return text.rstrip() + "…"


def _wrapped(text: str, size: float, room: float, weight: str = "normal") -> list[str]:
    width = text_width(text, size, weight) if text else 0.0
    if width <= room:
        return [text]
    per_line = max(10, int(len(text) * room / width * 0.95))
    return textwrap.wrap(text, per_line) or [text]


def _inches(ax: Axes) -> tuple[float, float]:
    """Width and height of a panel."""
    box = ax.get_window_extent()
    dpi = ax.figure.dpi
    return box.width / dpi, box.height / dpi


# --- legend ---------------------------------------------------------------------------------------


def _legend_rows(handles: Handles, room: float) -> list[list[tuple[Line2D, str, float]]]:
    """The legend's entries in rows that fit, with the width in inches that each takes."""
    rows: list[list[tuple[Line2D, str, float]]] = []
    used = room
    for handle, text in handles:
        text = text if len(text) <= 80 else text[:79] + "…"
        width = (0.25 if _is_marker(handle) else 0.5) + text_width(text, SIZE) + 0.3
        if used + width > room:
            rows.append([])
            used = 0.0
        rows[-1].append((handle, text, width))
        used += width
    return rows


def _is_marker(handle: Line2D) -> bool:
    return handle.get_linestyle() in ("None", "", " ")


def _draw_legend(
    figure: Figure, rows: Sequence[Sequence[tuple[Line2D, str, float]]], height: float, left: float
) -> None:
    y = PAD + (LINE + 0.05) * (len(rows) - 0.5)
    widest = max((sum(width for *_, width in row) for row in rows), default=0.0)
    start = left if left + widest < WIDTH - PAD else PAD
    for row in rows:
        x = start
        for handle, text, width in row:
            handle.set_transform(figure.transFigure)
            key = 0.25 if _is_marker(handle) else 0.5
            xs = [x + 0.1] if _is_marker(handle) else [x, x + 0.4]
            handle.set_data([at / WIDTH for at in xs], [y / height] * len(xs))
            figure.add_artist(handle)
            write(figure, (x + key) / WIDTH, y / height, text, SIZE, va="center_baseline")
            x += width
        y -= LINE + 0.05


# --- labels right of a panel ----------------------------------------------------------------------


def draw_margin(ax: Axes, margin: Sequence[Label]) -> None:
    """The labels right of the frame, moved apart where they would overlap, with leaders.

    The limits of the y axis must be set before.
    """
    if not margin:
        return
    width, height = _inches(ax)
    order = sorted(margin, key=lambda label: label.y)
    true = [_height(ax, label.y) for label in order]
    at = apart(true, (LINE * 0.95) / height)
    for label, y_true, y in zip(order, true, at, strict=True):
        ax.plot(
            [1.0, 1 + 0.06 / width, 1 + 0.19 / width],
            [y_true, y_true, y],
            transform=ax.transAxes,
            clip_on=False,
            color=label.colour,
            linewidth=0.8,
            gid="leader",
        )
        ax.text(
            1 + 0.23 / width,
            y,
            label.text,
            transform=ax.transAxes,
            va="center_baseline",
            color=label.colour,
            size=SIZE,
            parse_math=False,
            gid="label",
        )


def _height(ax: Axes, y: float) -> float:
    """Height of a value in the panel, 0 at its lower end and 1 at its upper."""
    low, high = ax.get_ylim()
    at = ax.transData.transform((ax.get_xlim()[0], min(max(y, low), high)))
    return float(ax.transAxes.inverted().transform(at)[1])


def apart(wanted: Sequence[float], gap: float) -> list[float]:
    """The positions nearest to the (ascending) wanted ones that are at least gap apart.

    Least squares under an order: pool adjacent violators on wanted[i] - i*gap, then move the
    whole back into 0..1 where it fits."""
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


# --- the rail of failures -------------------------------------------------------------------------


def rail_heading(marks: Sequence[str], total: int) -> str:
    lost = [
        ("✕ non-finite", marks.count("nonfinite")),
        ("■ failed", marks.count("failed")),
        ("◇ never there", marks.count("never")),
    ]
    told = [f"{name}: {count} of {total} runs" for name, count in lost if count]
    return "     ".join(told)


def draw_rail(
    drawn: Sheet, xs: Sequence[float], lost: Sequence[Lost], colour: Callable[[float], str]
) -> None:
    """Marks of the runs that became non-finite or failed, at their step or lr, with their lrs."""
    rail = drawn.rail
    if rail is None or not lost:
        return
    if drawn.axes.get_xscale() == "log":
        rail.set_xscale("log")
    elif drawn.axes.get_xscale() == "symlog":
        rail.set_xscale("symlog", **SYMLOG)
    rail.set_xlim(drawn.axes.get_xlim())
    rail.set_ylim(-0.6, _RAIL_ROWS - 0.4)
    _bare(rail)
    rail.set_facecolor("#f3f3f3")

    width = _inches(rail)[0]
    start = rail.get_window_extent().x0 / drawn.figure.dpi
    inches = [float(rail.transData.transform((x, 0))[0]) / drawn.figure.dpi - start for x in xs]
    order = sorted(range(len(xs)), key=lambda i: (inches[i], lost[i].lr))
    taken = [-math.inf] * _RAIL_ROWS
    rows = {}
    for count, i in enumerate(order):
        free = [row for row in range(_RAIL_ROWS) if inches[i] - taken[row] >= 0.1]
        rows[i] = free[0] if free else count % _RAIL_ROWS
        taken[rows[i]] = inches[i]
    for kind, marker in (("nonfinite", "x"), ("failed", "s"), ("never", "D")):
        mine = [i for i in order if lost[i].mark == kind]
        if mine:
            colours = [colour(lost[i].lr) for i in mine]
            look: Any = {"c": colours} if kind != "never" else {"fc": "none", "ec": colours}
            rail.scatter(
                [xs[i] for i in mine],
                [_RAIL_ROWS - 1 - rows[i] for i in mine],
                marker=marker,
                s=26 if kind != "never" else 20,
                linewidths=1.5 if kind != "never" else 1.2,
                clip_on=False,
                zorder=5,
                gid=kind,
                **look,
            )
    labels = _rail_labels(width, [inches[i] for i in order], [lost[i].lr for i in order])
    for centre, text in labels:
        rail.text(
            centre / width,
            1.04,
            text,
            transform=rail.transAxes,
            ha="center",
            va="bottom",
            size=SIZE - 0.5,
            gid="label",
        )


def _rail_labels(
    width: float, inches: Sequence[float], lrs: Sequence[float]
) -> list[tuple[float, str]]:
    """Labels for the marks (ascending in inches), one for several where they would overlap."""
    groups = [[i] for i in range(len(inches))]
    while True:
        placed = []
        for group in groups:
            text = _lr_text([lrs[i] for i in group])
            half = text_width(text, SIZE - 0.5) / 2
            centre = (inches[group[0]] + inches[group[-1]]) / 2
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


# --- ribbons of outcomes --------------------------------------------------------------------------


def draw_ribbon(ribbon: Axes, outcomes: Mapping[float, str], low: float, high: float) -> None:
    """Along the lr: a field of the outcome's colour around each lr that was judged.

    A field reaches halfway (on the log axis) to the next lr; neighbours with the same outcome
    make one, named where the name has room.

    Args:
        outcomes: by lr; "" where it is not known. A pruned run has none, and no field.
        low, high: the ends of the lr axis.
    """
    upright = _inches(ribbon)[1] > _inches(ribbon)[0]
    _bare(ribbon)
    (ribbon.set_ylim if upright else ribbon.set_xlim)(math.log(low), math.log(high))
    (ribbon.set_xlim if upright else ribbon.set_ylim)(0, 1)
    ribbon.set_facecolor("#f3f3f3")
    length = max(_inches(ribbon))
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
            ribbon.text(
                *at,
                outcome,
                color="white",
                size=SIZE - 0.5,
                ha="center",
                va="center_baseline",
                gid="outcome",
            )
        elif room >= 0.13:
            ribbon.plot(*at, marker=look.shape, color="white", markersize=6, mew=1.4, mec="white")


def _fields(
    outcomes: Mapping[float, str], low: float, high: float
) -> list[tuple[float, float, str]]:
    """Begin and end in log lr, and outcome, of neighbours that share it."""
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


def draw_lr_bar(
    drawn: Sheet,
    norm: Normalize,
    lrs: Sequence[float],
    outcomes: Mapping[float, str] | None = None,
    shift: float = 0.0,
) -> None:
    """The colours of the lrs right of the first panel; beside them a ribbon of their outcomes.

    shift: inches further to the right, behind another bar.
    """
    judged = any((outcomes or {}).values())
    place = bar_place(drawn, shift + 0.14 + (0.17 if judged else 0.0))
    with matplotlib.rc_context(RC):
        bar = drawn.figure.colorbar(ScalarMappable(norm, MAP), cax=place)
    bar.outline.set_visible(False)  # type: ignore[operator]
    low, high = min(lrs), max(lrs)
    heights = np.log(sorted(lrs)) / (math.log(high) - math.log(low))
    if float(np.diff(heights).min()) * _inches(place)[1] >= LINE:
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


def bar_place(drawn: Sheet, offset: float = 0.14) -> Axes:
    """Axes for a colour bar beside the first panel, as high as it; offset: inches from `right`."""
    box = drawn.axes.get_position()
    x = drawn.right + 0.02 + offset
    with matplotlib.rc_context(RC):
        return drawn.figure.add_axes((x / WIDTH, box.y0, 0.14 / WIDTH, box.height))


def bar_room(norm: Normalize | None, outcomes: Mapping[float, str]) -> float:
    """Inches that the bar of the lrs takes, with its ribbon of outcomes."""
    if norm is None:
        return 0.0
    return BAR + (0.17 if any(outcomes.values()) else 0.0)


def _bare(ax: Axes) -> None:
    """No ticks, no frame."""
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(NullLocator())
        axis.set_minor_locator(NullLocator())
    for side in ("left", "right", "top", "bottom"):
        ax.spines[side].set_visible(False)
