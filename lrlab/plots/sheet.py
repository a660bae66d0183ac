"""Lay a figure out in inches. All sizes are known before drawing, so that nothing overlaps.

From top to bottom: title, subtitle, rail (failures), ribbon (outcomes), panels, legend. Labels are
to the right of a panel, a colour bar to the right of them.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from lrlab.plots.frame import Label
from lrlab.plots.style import DPI, RC, SIZE

WIDTH, HEIGHT = 8.6, 4.0  # inches: of a figure, of its panel if it has only one
LEFT, PAD = 0.85, 0.15
LINE = 0.19  # inches a line of text of SIZE takes
_RAIL_HEIGHT = 0.3
_RIBBON_HEIGHT = 0.22
_XLABEL = 0.62  # inches below a panel, for numbers and the axis' name

Handles = Sequence[tuple[Line2D, str]]


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

    def places(self, count: int, first_row: int = 0) -> list[Axes]:
        """Return so many panels, row by row, and remove those that are left over."""
        found = [ax for row in self.panels[first_row:] for ax in row]
        for empty in found[count:]:
            empty.remove()
        return found[:count]


@dataclass(frozen=True)
class Panels:
    """The size of a figure's panels, in inches, and their arrangement.

    Attributes:
        rows: the height of each row.
        columns: how many panels a row has.
        between, beside: room between rows, and between columns.
        left: room left of the first column; more where a ribbon's name needs it.
        above: room over every row, or over each, for the titles of panels.
        aspect: height of the only panel as a share of its width; None: see rows.
    """

    rows: Sequence[float] = (HEIGHT,)
    columns: int = 1
    between: float = 0.3
    beside: float = 0.3
    left: float = LEFT
    above: float | Sequence[float] = 0.0
    aspect: float | None = None


def sheet(
    title: str,
    subtitle: str,
    panels: Panels | None = None,
    *,
    handles: Handles = (),
    margin: Sequence[Label] = (),
    bar: float = 0.0,
    rail: str = "",
    ribbons: Sequence[str] = (),
) -> Sheet:
    """Make an empty figure with all its axes.

    Args:
        panels: None: one panel.
        handles: the legend's entries.
        margin: the labels to the right of the panel; room is made for the longest.
        bar: inches for a colour bar, or for something else on the right.
        rail: the rail's heading; "": no rail.
        ribbons: the name of each ribbon, "" for one that needs none.
    """
    shape = panels or Panels()
    columns, between, beside, above = shape.columns, shape.between, shape.beside, shape.above
    figure = Figure(figsize=(WIDTH, 1.0), dpi=DPI)
    FigureCanvasAgg(figure)
    room = WIDTH - 2 * PAD
    titles = _wrapped(title, SIZE + 3, room, "bold")[:3]
    subtitles = _wrapped(subtitle, SIZE, room)[:3]
    keys = _legend_rows(handles, room)
    texts = [text_width(label.text, SIZE) for label in margin]
    names = [text_width(name, SIZE) for name in ribbons if name]
    left = max(shape.left, PAD + max(names) + 0.08) if names else shape.left
    right = WIDTH - PAD - bar
    # Leave room for half of the last number on the x axis.
    whole = right - left - (0.3 + max(texts) if texts else 0.0 if bar else 0.12)
    width = (whole - beside * (columns - 1)) / columns
    rows = shape.rows if shape.aspect is None else (width * shape.aspect,)
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
        axes = []
        for row, over in zip(rows, heads, strict=True):
            y -= over + row
            axes.append([place(left + i * (width + beside), y, width, row) for i in range(columns)])
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
    return Sheet(figure, axes, rail_axes, strips, width, right, height)


def widen(drawn: Sheet, row: int) -> Axes:
    """Turn a row of panels into one panel over the whole width, and return it."""
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
    """Return the inches that a text takes."""
    one = _scratch().text(0, 0, text, size=size, parse_math=False, weight=weight)
    width = one.get_window_extent().width / DPI
    one.remove()
    return width


def head(ax: Axes, text: str, colour: str = "#000000", line: int = 0, **look: Any) -> None:
    """Write a line over a panel, left-aligned; line 1 is above line 0."""
    height = inches(ax)[1]
    look |= {"va": "bottom", "size": SIZE, "color": colour, "parse_math": False, "gid": "head"}
    ax.text(0.0, 1 + (0.07 + line * LINE) / height, text, transform=ax.transAxes, **look)


def cut_to(text: str, room: float, weight: str = "normal") -> str:
    """Return the text, or as much of its beginning as fits (inches), and an ellipsis."""
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


def inches(ax: Axes) -> tuple[float, float]:
    """Return width and height of a panel."""
    box = ax.get_window_extent()
    dpi = ax.figure.dpi
    return box.width / dpi, box.height / dpi


# --- legend ---------------------------------------------------------------------------------------


def _legend_rows(handles: Handles, room: float) -> list[list[tuple[Line2D, str, float]]]:
    """Return the legend's entries in rows that fit, with the width in inches that each takes."""
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


def bare(ax: Axes) -> None:
    """Remove ticks and frame."""
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(NullLocator())
        axis.set_minor_locator(NullLocator())
    for side in ("left", "right", "top", "bottom"):
        ax.spines[side].set_visible(False)
