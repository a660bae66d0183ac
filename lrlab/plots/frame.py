"""Set a panel's limits and ticks; draw reference lines, and marks where curves leave the panel."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from lrlab.plots.style import GREY, PALE, constant, finite, key, unit
from lrlab.tables import thinning

HEADROOM = 3.0  # the upper limit is at most this multiple of the reference losses
FLOOR = 1e-6  # the lower limit is at least this multiple of them, or of the runs' results
APART = 100.0  # a reference more than this factor above another says nothing about end losses
# Steps 0 and 1 are half a decade apart.
SYMLOG: Any = {"linthresh": 1, "linscale": 0.5}
PERFECT = 1e-4  # the smallest share of errors that the stretched axis of accuracy shows

_TICKS_OF_ACCURACY = (0, 20, 40, 60, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.98)


@dataclass(frozen=True)
class Reference:
    kind: str  # "chance" or "initial"
    low: float
    high: float
    label: str

    @property
    def is_band(self) -> bool:
        return self.high > self.low * 1.02

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2

    @property
    def dash(self) -> Any:
        return (0, (4, 3)) if self.kind == "chance" else (0, (1, 2))


@dataclass(frozen=True)
class Label:
    y: float  # in data coordinates
    text: str
    colour: str = GREY


@dataclass(frozen=True)
class Scale:
    """The ends of an axis, and how values between them are spaced.

    "accuracy" is a percentage; its distance to 100 is spaced logarithmically.
    """

    low: float
    high: float
    kind: Literal["log", "linear", "accuracy"] = "log"

    @property
    def log(self) -> bool:
        return self.kind == "log"

    def shown(self, values: np.ndarray) -> np.ndarray:
        """Return the values to draw.

        On a log axis a loss of 0 is at minus infinity, so it is drawn just below the frame. Numbers
        that would overflow the renderer are drawn just above it.
        """
        if self.log:
            return np.clip(values, self.low / 100, self.high * 100)
        if self.kind == "accuracy":
            return np.clip(values, 0.0, 100 * (1 - PERFECT))
        reach = 10 * (self.high - self.low)
        return np.clip(values, self.low - reach, self.high + reach)

    def fraction(self, y: float) -> float:
        """Return the height in the frame, 0 at its lower end and 1 at its upper."""
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return (math.log(max(y, self.low / 100)) - low) / (high - low)
        if self.kind == "accuracy":
            low, high, y = (float(_stretched(np.array(v))) for v in (self.low, self.high, y))
            return (y - low) / (high - low)
        return (y - self.low) / (self.high - self.low)


def smoothed(
    loss: np.ndarray, span: float, cap: float = math.inf, mean_of: np.ndarray | None = None
) -> np.ndarray:
    """Return (n,) exponential moving average with bias correction; losses are capped.

    mean_of: (n,) how many recorded losses each is the mean of, where curves are thinned.
    """
    return loss if len(loss) < 2 else thinning.average(np.minimum(loss, cap), span, mean_of)


def loss_scale(
    losses: Sequence[np.ndarray],
    references: Sequence[Reference],
    smooth: float | None = None,
    means_of: Sequence[np.ndarray | None] = (),
) -> Scale:
    """Return the limits of the loss axis.

    They hold all finite losses, except explosions above HEADROOM x the reference, and single
    mini-batches far below the curves.
    """
    counts = means_of or [None] * len(losses)
    tops = [one.high for one in references if one.high > 0]
    if smooth is None:  # curves start at their reference, end losses may lie far below it
        tops = [top for top in tops if top <= APART * min(tops)]
    filled = [loss for loss in losses if len(loss)]
    starts = [float(loss[0]) for loss in filled if loss[0] > 0]
    reference = max(tops) if tops else (float(np.median(starts)) if starts else 1.0)
    limit = HEADROOM * reference
    highest = max([float(loss.max()) for loss in filled], default=reference)
    if any(float(loss.min()) < 0 for loss in filled):
        floors = [float(np.quantile(loss, 0.01)) for loss in filled]
        # With a sign change there is no natural lower end: the runs' middle one decides.
        low = max(min(floors), 10 * float(np.median(floors)) - limit)
        high = min(max(highest, reference), limit)
        pad = 0.05 * (high - low) or 1.0
        return Scale(low - pad, high + pad, "linear")
    curves = filled
    if smooth is not None:
        told = zip(losses, counts, strict=True)
        curves = [smoothed(loss, smooth, limit, count) for loss, count in told if len(loss)]
    positive = [float(curve[curve > 0].min()) for curve in curves if (curve > 0).any()]
    low = max(min([*positive, reference]), FLOOR * _usual(filled, positive, tops, smooth))
    high = min(max(highest, reference), limit)
    return Scale(low / (1.6 if smooth else 1.2), max(high, reference) * 1.15, "log")


def _usual(
    losses: Sequence[np.ndarray],
    lowest: Sequence[float],
    tops: Sequence[float],
    smooth: float | None,
) -> float:
    """Return the loss that the lower limit is measured by: a reference, or the better runs' result.

    A run that starts at 1e6 may well reach 0.01, which must not be cut off. A single loss of nearly
    0 may be.
    """
    ends = np.array(lowest) if smooth is not None else np.concatenate([*losses, np.empty(0)])
    ends = ends[ends > 0]
    better = [float(np.quantile(ends, 0.25))] if len(ends) else []
    return min([*tops, *better], default=1.0)


def accuracy_scale(accuracies: Sequence[np.ndarray], chance: Sequence[float] = ()) -> Scale:
    """Return the frame of accuracies in percent, stretched towards 100 if a run comes near it."""
    all_of = np.concatenate([*accuracies, np.asarray(chance, dtype=float)])
    low = max(0.0, float(all_of.min(initial=100.0)) - 3)
    high = float(all_of.max(initial=0.0))
    if high < 85:
        return Scale(low, max(high * 1.06, low + 1), "linear")
    errors = max(100 - high, 100 * PERFECT)
    return Scale(low, 100 - errors / 1.35, "accuracy")


# --- references -----------------------------------------------------------------------------------


def references(frame: pd.DataFrame) -> list[Reference]:
    """Return the loss of guessing and the loss before training, if the table has them."""
    found = []
    is_regression = str(constant(frame, "loss")) in ("mse", "l1")
    if "chance_loss" in frame:
        for chance in sorted(set(finite(frame["chance_loss"]))):
            classes = round(math.exp(min(chance, 50.0)))
            is_log = classes > 1 and math.isclose(chance, math.log(classes), rel_tol=1e-5)
            text = f"ln {classes}" if is_log else f"{chance:.3g}"
            text += " (best constant)" if is_regression else " (guessing)"
            found.append(Reference("chance", chance, chance, text))
    if "initial_loss" in frame and len(initial := finite(frame["initial_loss"])):
        low, high = float(initial.min()), float(initial.max())
        text = f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
        found.append(Reference("initial", low, high, f"at the start {text}"))
    return found


def reference_labels(found: Sequence[Reference]) -> list[Label]:
    return [Label(one.middle, one.label) for one in found]


def reference_handles(found: Sequence[Reference]) -> list[tuple[Line2D, str]]:
    """Return legend entries, for when there is no room for labels."""
    return [
        (
            key(linewidth=8, alpha=0.15) if one.is_band else key(linewidth=1, linestyle=one.dash),
            one.label,
        )
        for one in found
    ]


def draw_references(ax: Axes, found: Sequence[Reference]) -> None:
    for one in found:
        if one.is_band:
            ax.axhspan(one.low, one.high, color=GREY, alpha=0.15, linewidth=0, gid=one.kind)
        else:
            look: Any = {"color": GREY, "linewidth": 1, "linestyle": one.dash}
            ax.axhline(one.middle, zorder=5, gid=one.kind, **look)


# --- what leaves the frame ------------------------------------------------------------------------


def draw_edges(ax: Axes, x: np.ndarray, loss: np.ndarray, scale: Scale, colour: str) -> None:
    """Draw triangles at the panel's edge where a curve first leaves it: up, or down to 0."""
    for out, edge, y, marker, gid in (
        (loss > scale.high, 1.0, 0.982, "^", "above"),
        (_sunk(loss, scale), 0.0, 0.018, "v", "below"),
    ):
        if out.any():
            at = _crossing(x, scale.shown(loss), int(np.argmax(out)), scale, edge)
            look: Any = {"color": colour, "marker": marker, "markersize": 6, "clip_on": False}
            mark_at_height(ax, at, y, mec="white", mew=0.5, zorder=6, gid=gid, **look)


def draw_all_edges(ax: Axes, x: np.ndarray, loss: np.ndarray, scale: Scale, colour: str) -> None:
    """As `draw_edges`, for points that no curve joins."""
    for one in range(len(x)):
        draw_edges(ax, x[one : one + 1], loss[one : one + 1], scale, colour)


def mark_at_height(ax: Axes, x: float, height: float, **look: Any) -> None:
    """Draw a mark at x, at this share of the panel's height."""
    ax.plot([x], [height], transform=ax.get_xaxis_transform(), linestyle="", **look)


def mark_lost(ax: Axes, x: float, height: float, colour: str, gid: str, marker: str = "x") -> None:
    """Mark where a run became non-finite or failed, near the panel's upper edge."""
    look: Any = {"color": colour, "marker": marker, "markersize": 6, "clip_on": False}
    mark_at_height(ax, x, height, mew=1.6, zorder=6, gid=gid, **look)


def _crossing(x: np.ndarray, shown: np.ndarray, first: int, scale: Scale, edge: float) -> float:
    """Return the x at which the line to the point `first` crosses the panel's edge."""
    if first == 0:
        return float(x[0])
    before, after = scale.fraction(float(shown[first - 1])), scale.fraction(float(shown[first]))
    if not min(before, after) <= edge <= max(before, after) or before == after:
        return float(x[first])
    share = (edge - before) / (after - before)
    return float(x[first - 1] + share * (x[first] - x[first - 1]))


def _sunk(loss: np.ndarray, scale: Scale) -> np.ndarray:
    # A single mini-batch below the frame is noise; a loss of 0 has no place on a log axis at all.
    if scale.kind == "accuracy":
        return np.zeros(len(loss), dtype=bool)
    return (loss <= scale.low * 1e-3) if scale.log else (loss < scale.low - 1e3 * abs(scale.low))


def edge_handles(losses: Sequence[np.ndarray], scale: Scale) -> list[tuple[Line2D, str]]:
    """Return legend entries of `draw_edges`."""
    found = []
    if any((loss > scale.high).any() for loss in losses):
        found.append((key(marker="^", linestyle=""), "leaves the frame"))
    if any(_sunk(loss, scale).any() for loss in losses):
        found.append((key(marker="v", linestyle=""), "reaches 0"))
    return found


# --- axes -----------------------------------------------------------------------------------------


def ratio(low: float, high: float, share: float) -> float:
    """Return (high / low) ** share, also where the ratio itself is too large for a number."""
    return math.exp(share * (math.log(high) - math.log(low)))


def lr_limits(lrs: Iterable[float]) -> tuple[float, float]:
    there = [lr for lr in lrs if lr > 0 and math.isfinite(lr)]
    low, high = (min(there), max(there)) if there else (0.1, 0.1)
    pad = max(1.25, ratio(low, high, 0.04), 2.0 if high / 2 < low else 1.0)
    return low / pad, high * pad


def lr_axis(ax: Axes, lrs: Iterable[float], label: bool = True) -> None:
    """Make x the learning rate, logarithmic."""
    low, high = lr_limits(lrs)
    log_axis(ax.xaxis, low, high)
    if label:
        ax.set_xlabel("learning rate (init_lr)")


def step_axis(
    ax: Axes, last: float, curves: pd.DataFrame | None = None, unit: str = "step"
) -> float:
    """Make x the step, or the epoch, from 0 to the last; return the right end of the data."""
    right = last if last > 0 else 1.0
    ax.set_xlim(-0.015 * right, right * 1.015)
    ax.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    per_epoch = None if curves is None else constant(curves, "steps_per_epoch")
    if per_epoch is not None and unit == "step":
        unit += f" ({float(per_epoch):,.0f} an epoch)"
    ax.set_xlabel(unit)
    return right


class _Decades(LogLocator):
    """matplotlib's locator, which looks beyond the frame, without ticks that overflow."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        with np.errstate(over="ignore"):
            ticks = np.asarray(super().tick_values(vmin, vmax))
        return ticks[np.isfinite(ticks)]


def log_axis(axis: Any, low: float, high: float, most: int = 10) -> None:
    """Set limits, scale and ticks of an x or y axis."""
    name = axis.axis_name
    # limits first; otherwise the scale is made for all drawn data
    axis.axes.set(**{f"{name}lim": (low, high)})
    axis.axes.set(**{f"{name}scale": "log"})
    log_ticks(axis, low, high, most)


def grid(ax: Axes, axis: Literal["x", "y"] = "y") -> None:
    """Draw pale lines at the axis' ticks, below all else."""
    ax.grid(axis=axis, color=PALE, linewidth=0.7)
    ax.set_axisbelow(True)


def log_ticks(axis: Any, low: float, high: float, most: int = 10) -> None:
    decades = math.log10(high) - math.log10(low)
    subs = (1.0, 2.0, 5.0) if decades < 2.6 else (1.0,)
    if decades < 1.1:
        subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    if decades < 0.5:
        axis.set_major_locator(MaxNLocator(min(5, most)))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(_Decades(subs=subs, numticks=most))
        tight = most <= 5 and decades > 4
        minor = NullLocator() if tight else _Decades(subs=range(2, 10), numticks=100)  # type: ignore[arg-type]
        axis.set_minor_locator(minor)
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.set_minor_formatter(NullFormatter())


def number(value: float) -> str:
    """Return the shortest text of a number: 0.001, 1e-4."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:g}"
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def finish_y(ax: Axes, scale: Scale, most: int = 10) -> None:
    """Set limits, ticks and grid of the y axis."""
    if scale.log:
        log_axis(ax.yaxis, scale.low, scale.high, most)
    else:
        ax.set_ylim(scale.low, scale.high)
    if scale.kind == "accuracy":
        ax.set_yscale("function", functions=(_stretched, _unstretched))
        ticks = [tick for tick in _TICKS_OF_ACCURACY if scale.low <= tick <= scale.high]
        ax.yaxis.set_major_locator(FixedLocator(_spaced(ticks, scale)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    grid(ax)


def loss_label(frame: pd.DataFrame) -> str:
    return f"train loss{unit(frame)}"


def _spaced(ticks: Sequence[float], scale: Scale) -> list[float]:
    """Return those of the ticks, from the top, that are far enough apart for their numbers."""
    kept: list[float] = []
    for tick in reversed(ticks):
        if not kept or scale.fraction(kept[-1]) - scale.fraction(tick) >= 0.055:
            kept.append(tick)
    return kept[::-1]


def _stretched(percent: np.ndarray) -> np.ndarray:
    return -np.log10(np.maximum(1 - np.asarray(percent, dtype=float) / 100, PERFECT / 10))


def _unstretched(value: np.ndarray) -> np.ndarray:
    return 100 * (1 - 10.0 ** -np.asarray(value, dtype=float))
