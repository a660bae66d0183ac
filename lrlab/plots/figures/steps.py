"""Draw how single steps behave: alpha and the stability ratio against step."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lrlab.plots import frame, reach, runs, style
from lrlab.plots.frame import Label
from lrlab.plots.parts import bar_room, draw_lr_bar, draw_margin, draw_rail, rail_heading
from lrlab.plots.runs import Run
from lrlab.plots.sheet import Panels, sheet
from lrlab.plots.style import GREY, key
from lrlab.plots.tables import NothingToDraw
from lrlab.records.thresholds import THRESHOLDS

WINDOW = 1.5  # a line is the median of measurements within this factor of its step
_POINTS = 13  # with more runs than this, the measurements themselves are not drawn
_HIGHEST_ALPHA = 10.0
_LOWEST_RATIO, _HIGHEST_RATIO = 1e-3, 10.0
# The labels to the right of each panel.
_ALPHAS = (Label(-1.0, "−1 no progress"), Label(0.0, "0 at the minimum"), Label(1.0, "1 mirrored"))
_RATIOS = (
    Label(THRESHOLDS.unstable * 1.7, "unstable"),
    Label(math.sqrt(THRESHOLDS.edge * THRESHOLDS.unstable), "edge"),
    Label(math.sqrt(THRESHOLDS.oscillating * THRESHOLDS.edge), "oscillating"),
    Label(THRESHOLDS.oscillating / 2, "monotone"),
)


@reach.within
def mechanics(
    curves: pd.DataFrame,
    verdicts: pd.DataFrame | None = None,
    *,
    alpha: str = "alpha",
    title: str | None = None,
) -> Figure:
    """Draw alpha against step over the stability ratio against step, coloured by log lr.

    curves: as from `frames.curves`: columns run, lr, step, train_loss, and alpha, stability_ratio
    or both, NaN where not measured. Optional: state, the settings.
    verdicts: as from `lrlab.verdicts.judging.verdicts`: the outcomes next to the colour bar.
    alpha: which column is alpha: "alpha" of the mini-batch, "alpha_probe" of the probe batch.

    Dots are measurements, lines the median of those within a factor WINDOW of the step. Steps are
    logarithmic, because measurements are dense at first and rare later. Alpha is linear from −1 to
    1 and logarithmic beyond. The ratio is logarithmic; lower values than its axis shows are drawn
    at the lower end. The rail marks runs that became non-finite.

    Raises:
        NothingToDraw: nothing was measured, or a column is missing.
    """
    measured = [
        name
        for name in (alpha, "stability_ratio")
        if name in curves and len(style.finite(curves[name]))
    ]
    if not measured:
        raise NothingToDraw(
            f"neither {alpha} nor stability_ratio was measured; diagnostics=default measures them "
            "in runs that are long enough, diagnostics=full in any"
        )
    found, styles, blended = runs.of_curves(curves, verdicts)
    unit = runs.unit(curves)
    curves = runs.in_steps(curves)
    colour, norm = style.lr_colours([run.lr for run in found])
    last = max((run.last_step for run in found if math.isfinite(run.last_step)), default=1.0)
    parts = {run: part for run, part in curves.groupby("run", sort=True)}
    outcomes = runs.by_lr(found)
    entries = []
    if len(found) <= _POINTS:
        dots = key(marker=".", markersize=4, alpha=0.5, linestyle="")
        entries.append((dots, "one measurement"))
    entries.append((key(linewidth=1.6), f"median within a factor of {WINDOW} in {unit}s"))
    entries += style.dash_handles(styles)
    entries.append((key(marker="^", linestyle=""), "leaves the frame"))
    entries += style.outcome_handles(run.outcome for run in found)
    labels = {alpha: _ALPHAS, "stability_ratio": _RATIOS}
    page = sheet(
        title or "How far single steps go: alpha and the stability ratio",
        style.subtitle(curves, blended),
        Panels(rows=(2.5,) * len(measured), between=0.2, left=0.98),
        rail=rail_heading([run.mark for run in found], len(found)),
        margin=[label for name in measured for label in labels[name]],
        handles=entries,
        bar=bar_room(norm, outcomes),
    )
    for row, name in enumerate(measured):
        ax = page.panels[row][0]
        medians = _draw(ax, found, parts, name, styles, colour)
        _step_axis(ax, last, unit if row == len(measured) - 1 else "")
        (_ratio_axis if name == "stability_ratio" else _alpha_axis)(ax, medians)
        _draw_edges(ax)
        draw_margin(ax, labels[name])
    lost = [run for run in found if run.mark]
    draw_rail(page, [max(run.mark_step, 0.0) for run in lost], lost, colour)
    draw_lr_bar(page, norm, sorted({run.lr for run in found if run.lr > 0}), outcomes)
    return page.figure


def _draw(
    ax: Axes, found: list[Run], parts: Any, name: str, styles: Any, colour: Any
) -> np.ndarray:
    """Draw the measurements and their running medians; return the medians, all runs together."""
    medians = []
    low = _LOWEST_RATIO if name == "stability_ratio" else -math.inf
    for run in found:
        part = parts[run.run].sort_values(by="step", kind="stable")
        values = part[name].to_numpy(float)
        there = np.isfinite(values) & np.isfinite(part["step"].to_numpy(float))
        if not there.any():
            continue
        step, values = part["step"].to_numpy(float)[there], np.clip(values[there], low, 1e12)
        median = _running_median(step, values)
        medians.append(median)
        look: Any = {"color": colour(run.lr)}
        if len(found) <= _POINTS:
            dots: Any = {"linestyle": "", "marker": ".", "markersize": 3, "alpha": 0.3}
            ax.plot(step, values, gid="dot", **dots, **look)
        look["linewidth"] = 1.6 if len(found) <= 30 else 0.8
        look["marker"] = "o" if len(step) == 1 else None
        ax.plot(step, median, linestyle=styles[run.setting], gid=f"median:{name}", **look)
    return np.concatenate(medians) if medians else np.empty(0)


def _running_median(step: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return (n,) medians within a factor WINDOW: few at first steps, many at late, noisy ones."""
    first = np.searchsorted(step, step / WINDOW, side="left")
    last = np.searchsorted(step, step * WINDOW, side="right")
    bounds = zip(first, last, strict=True)
    return np.array([np.median(values[begin:end]) for begin, end in bounds])


def _draw_edges(ax: Axes) -> None:
    """Draw a triangle where a line first leaves the frame at its upper edge."""
    top = ax.get_ylim()[1]
    for line in ax.get_lines():
        out = np.asarray(line.get_ydata(), dtype=float) > top
        if str(line.get_gid()).startswith("median:") and out.any():
            at = np.asarray(line.get_xdata(), dtype=float)[int(np.argmax(out))]
            look: Any = {"color": line.get_color(), "marker": "^", "markersize": 6, "zorder": 6}
            frame.mark_at_height(ax, at, 0.975, mec="white", mew=0.5, gid="above", **look)


def _step_axis(ax: Axes, last: float, unit: str) -> None:
    """Make x the step: linear from 0 to 1, logarithmic from there on."""
    right = max(last, 1.0)
    ax.set_xscale("symlog", **frame.SYMLOG)
    ax.set_xlim(-0.06, right * 1.15)
    ticks = [0.0, *(10.0**power for power in range(1 + int(math.log10(right))))]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if unit:
        ax.set_xlabel(f"{unit} (logarithmic)")
    else:
        ax.tick_params(labelbottom=False)


def _alpha_axis(ax: Axes, medians: np.ndarray) -> None:
    high = min(_HIGHEST_ALPHA, max(1.4, float(medians.max(initial=1.0)) * 1.3))
    low = min(-1.25, max(-_HIGHEST_ALPHA, float(medians.min(initial=-1.0)) * 1.3))
    ax.set_yscale("symlog", linthresh=1, linscale=1)
    ax.set_ylim(low, high)
    ticks = [-100.0, -10.0, -1.0, -0.5, 0.0, 0.5, 1.0, 10.0, 100.0]
    ax.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    for value in (-1.0, 0.0, 1.0):
        dash: Any = "-" if value == 0 else (0, (1, 2))
        ax.axhline(value, color=GREY, linewidth=1, linestyle=dash, gid=f"alpha {value:g}")
    ax.set_ylabel("alpha (no unit)")


def _ratio_axis(ax: Axes, medians: np.ndarray) -> None:
    positive = medians[medians > 0]
    low = max(_LOWEST_RATIO, float(positive.min(initial=THRESHOLDS.oscillating / 4))) / 1.5
    high = max(3 * THRESHOLDS.unstable, min(_HIGHEST_RATIO, float(positive.max(initial=1.0))) * 1.5)
    frame.log_axis(ax.yaxis, low, high, most=6)
    ax.yaxis.set_major_formatter(
        FuncFormatter(lambda v, _: "≤" * int(v < _LOWEST_RATIO * 1.01) + frame.number(v))
    )
    ax.axhspan(THRESHOLDS.unstable, high, color=GREY, alpha=0.08, linewidth=0, gid="unstable")
    ax.axhspan(
        THRESHOLDS.edge, THRESHOLDS.unstable, color=GREY, alpha=0.22, linewidth=0, gid="edge"
    )
    for value, dash in ((1.0, "-"), (THRESHOLDS.oscillating, (0, (1, 2)))):
        ax.axhline(value, color=GREY, linewidth=1.2, linestyle=dash, zorder=1.8, gid="border")  # type: ignore[arg-type]
    ax.set_ylabel("stability ratio (no unit)")
