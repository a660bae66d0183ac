"""Draw the range test: the ramp and the constant lrs over each other, with their suggestions."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from lrlab.errors import in_a_line
from lrlab.plots.style import words
from lrlab.range_test.constants import LEARNED, window
from lrlab.range_test.misleading import overfits
from lrlab.range_test.rates import plain

if TYPE_CHECKING:
    from lrlab.range_test.found import Found

# Okabe and Ito's colour-blind-safe palette.
_RAMP, _CONSTANT, _GOOD, _FAIL, _GREY = "#0072B2", "#D55E00", "#009E73", "#A0522D", "#595959"
_SIZE = 10.5  # points: still legible at half size
_WIDTH = 8.6  # inches
_RC: Any = {
    "font.size": _SIZE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.usetex": False,
}
_HEADROOM = 1.25  # the frame ends at this multiple of the start, under a rail


def range_test(found: Found, title: str = "") -> Figure:
    """Draw the loss of both tests against lr on a log axis, with their suggestions in rows above.

    The loss is the one that judges, held-out if there is any; then the training losses are fainter
    still. Blue is the ramp, as recorded and smoothed. Orange is the mean loss of each constant lr
    over its last steps. Crosses are constant lrs that failed, above the frame if their loss is
    outside. The band holds the constant lrs that do as well as the best, and is narrow for a single
    one. Losses below 0 make the loss axis linear.
    """
    title = in_a_line(title)
    with words(), matplotlib.rc_context(_RC):
        notes = (f"• {sentence}" for sentence in found.misleads)
        text = "\n".join(textwrap.fill(note, 116, subsequent_indent="   ") for note in notes)
        legend = 1.35 if found.val_samples is None else 1.55
        below = legend + (0.2 * (text.count("\n") + 2) if text else 0)
        rows = _rows(found)
        above = 0.4 if title else 0.15
        strip, axes_height = 0.26 * len(rows), 4.0
        height = below + axes_height + 0.3 + strip + above
        figure = Figure(figsize=(_WIDTH, height), dpi=150)
        FigureCanvasAgg(figure)
        left, width = 1.5 / _WIDTH, 1 - 1.75 / _WIDTH
        main = figure.add_axes((left, below / height, width, axes_height / height))
        top = figure.add_axes(
            (left, (below + axes_height + 0.3) / height, width, strip / height), sharex=main
        )
        _curves(main, found)
        _strip(top, main, rows)
        if title:
            figure.suptitle(title, x=left, y=1 - 0.12 / height, ha="left", va="top", size=_SIZE + 1)
        if text:
            figure.text(
                0.25 / _WIDTH, (below - legend + 0.05) / height,
                "Where the ramp misleads\n" + text, ha="left", va="top", size=_SIZE - 1.5,
                color="#303030", linespacing=1.35, gid="misleads",
            )  # fmt: skip
    return figure


@dataclass(frozen=True)
class _Row:
    name: str
    lr: float | None
    colour: str
    note: str  # shown if there is no lr
    mark: str = "v"
    bar: tuple[float, float] | None = None


def _rows(found: Found) -> list[_Row]:
    ramp, constants = found.ramp, found.constants
    best, fails = constants.best, constants.fails_from
    lost = _LOST[2:] if overfits(constants, found.train_constants) else _LOST[:2]
    failing = None if fails is None else (fails, math.inf)
    return [
        *(_Row(e.rule, e.lr, _RAMP, f"none: {e.why_not}") for e in ramp.suggestions),
        _Row(
            "best constant", best, _CONSTANT, f"none: {constants.why_none}", "D", constants.as_good
        ),
        _Row(lost[0], ramp.blow_up, _RAMP, "not in this range", "X"),
        _Row(lost[1], fails, _CONSTANT, "not in this range", "X", failing),
    ]


def _strip(axes: Axes, main: Axes, rows: list[_Row]) -> None:
    low, high = main.get_xlim()
    for place, row in enumerate(rows):
        y = len(rows) - 1 - place
        if row.bar is not None:
            begin, end = row.bar[0], min(row.bar[1], high)
            axes.plot([begin, end], [y, y], color=row.colour, linewidth=5, alpha=0.3, gid="bar")
        if row.lr is None:
            axes.text(
                low, y, f"  {row.note}", va="center", size=_SIZE - 2, color=_GREY, gid="none",
                clip_on=True,
            )  # fmt: skip
            continue
        axes.plot(row.lr, y, row.mark, color=row.colour, markersize=6.5, gid=f"mark {row.name}")
        behind = row.lr if row.bar is None else row.bar[1]
        late = not math.log(behind / low) < 0.92 * math.log(high / low) and row.lr > 1.5 * low
        axes.annotate(
            plain(row.lr),
            (row.lr if late or behind == math.inf else behind, y),
            (-8 if late else 8, 0), textcoords="offset points",
            ha="right" if late else "left", va="center", size=_SIZE - 1.5, color="#303030",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8},
        )  # fmt: skip
        if row.name not in _LOST:
            for each, top in ((axes, (y + 0.5) / len(rows)), (main, 1.0)):
                each.axvline(
                    row.lr, ymax=top, color=row.colour, linewidth=0.9, linestyle=(0, (1.2, 1.8)),
                    alpha=0.9, zorder=1,
                )  # fmt: skip
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.set_yticks(range(len(rows)), [row.name for row in reversed(rows)], size=_SIZE - 1)
    for label, row in zip(axes.get_yticklabels(), reversed(rows), strict=True):
        label.set_color(row.colour)
    axes.tick_params(axis="both", length=0, labelbottom=False, which="both")
    for spine in axes.spines.values():
        spine.set_visible(False)


_LOST = ("ramp blows up", "constant fails", "ramp rises again", "constant overfits")


def _curves(axes: Axes, found: Found) -> None:
    ramp, constants = found.ramp, found.constants
    log, low, high = _scale(found)
    axes.set_xscale("log")
    axes.set_xlim(found.options.low / 1.15, found.options.high * 1.15)
    if log:
        axes.set_yscale("log")
        _log_ticks(axes)
    axes.set_ylim(low, high)
    if constants.as_good is not None:
        first, last = constants.as_good
        label = "constant lrs as good as the best"
        if first == last:  # lrs next to it were not tried, or do worse: a mark, not a range
            label = "the best constant lr"
            narrow = (found.options.high / found.options.low) ** 0.004
            first, last = first / narrow, last * narrow
        axes.axvspan(first, last, color=_GOOD, alpha=0.18, linewidth=0, gid="good", label=label)
    if found.ramp_val is None:
        axes.plot(found.ramp_lr, found.ramp_loss, color=_RAMP, alpha=0.35, linewidth=0.8, gid="raw")
    else:
        _training(axes, found)
        axes.plot(
            found.ramp_lr[found.ramp_val_steps], found.ramp_val, ".-", color=_RAMP, alpha=0.45,
            linewidth=0.8, markersize=4, gid="raw", label="ramp: held-out loss, as evaluated",
        )  # fmt: skip
    if len(ramp.smooth):
        axes.plot(
            ramp.lr, ramp.smooth, color=_RAMP, linewidth=2.2, gid="smooth",
            label=f"ramp: lr rises through its {found.options.ramp_steps} steps",
        )  # fmt: skip
    if math.isfinite(constants.start):
        axes.axhline(
            constants.start, color=_GREY, linewidth=1, linestyle=(0, (5, 3)), zorder=1,
            label="loss before training", gid="start",
        )  # fmt: skip
    end = constants.end
    failed = ~np.isfinite(end)
    if constants.fails_from is not None and constants.best is not None:
        gain = constants.start - end
        failed |= (constants.lr >= constants.fails_from) & (gain < LEARNED * gain.max())
    inside = np.isfinite(end) & (end < high)
    last = window(found.options.steps)
    where = "its"
    if found.val_steps is not None:
        looks = int((found.val_steps >= found.options.steps - last).sum())
        where = f"{looks} evaluation{'s' if looks > 1 else ''} in its"
    drawn = inside & ~failed
    axes.plot(
        constants.lr[inside], end[inside], color=_CONSTANT, linewidth=1.2, alpha=0.6, gid="line"
    )
    axes.plot(
        constants.lr[drawn], end[drawn], "o", color=_CONSTANT, markersize=5, gid="constant",
        label=f"constant lr: mean of {where} last {last} of {found.options.steps} steps",
    )  # fmt: skip
    if failed.any():
        what = "failed or overfit" if overfits(constants, found.train_constants) else "failed"
        y = np.where(inside, end, np.nan)
        axes.plot(
            constants.lr[failed], y[failed], "X", color=_CONSTANT, markersize=6.5, gid="failed",
            label=f"{what} (above the frame: a larger loss, or not finite)",
        )  # fmt: skip
    out = ~inside
    axes.plot(
        constants.lr[out], np.full(out.sum(), 1.035), "X", color=_CONSTANT, markersize=6.5,
        transform=axes.get_xaxis_transform(), clip_on=False, gid="rail",
    )  # fmt: skip
    axes.set_xlabel("learning rate")
    axes.set_ylabel("mini-batch loss" if found.val_samples is None else "held-out loss")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.45, -0.12), ncols=2, frameon=False,
        fontsize=_SIZE - 1.5, handlelength=1.8, columnspacing=1.5,
    )  # fmt: skip


def _training(axes: Axes, found: Found) -> None:
    """Draw the training losses, if they do not judge."""
    axes.plot(
        found.ramp_lr, found.ramp_loss, color=_RAMP, alpha=0.22, linewidth=0.7, gid="train ramp",
        label="ramp: training loss of its mini-batches",
    )  # fmt: skip
    assert found.train_constants is not None
    end = found.train_constants.end
    drawn = np.isfinite(end)
    axes.plot(
        found.constant_lr[drawn], end[drawn], color=_CONSTANT, alpha=0.4, linewidth=1,
        linestyle=(0, (2, 2)), gid="train constant", label="constant lr: training loss",
    )  # fmt: skip


def _scale(found: Found) -> tuple[bool, float, float]:
    """Return whether the loss axis is logarithmic, and its ends."""
    start = found.constants.start
    ramp_loss = found.ramp_loss if found.ramp_val is None else found.ramp_val
    shown = np.concatenate([found.ramp.smooth, found.constants.end, ramp_loss, [start]])
    shown = shown[np.isfinite(shown)]
    if not len(shown):
        return False, 0.0, 1.0
    level = start if math.isfinite(start) else float(np.median(shown))
    low = float(shown.min())
    if low > 0:
        high = max(level * _HEADROOM, low * 1.1)
        steady = np.concatenate([found.ramp.smooth, found.constants.end])
        steady = steady[np.isfinite(steady)]
        low = max(low, 0.4 * float(steady.min())) if len(steady) else low
        if level / low > 3:
            return True, low / 1.1, high
        return False, low - 0.06 * (high - low), high
    span = max(level - low, 1e-12)
    return False, low - 0.06 * span, level + 0.25 * span


def _log_ticks(axes: Axes) -> None:
    few = math.log10(axes.get_ylim()[1] / axes.get_ylim()[0]) < 2.5
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
