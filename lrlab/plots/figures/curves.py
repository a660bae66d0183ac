"""Draw the loss against step: all runs in one frame, alone or with the lr of each step."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lrlab.plots import frame, reach, runs, style
from lrlab.plots.frame import Label, Reference, Scale, smoothed
from lrlab.plots.parts import bar_room, draw_lr_bar, draw_margin, draw_rail, rail_heading
from lrlab.plots.runs import Run
from lrlab.plots.sheet import Panels, Sheet, sheet
from lrlab.plots.style import GREY, key
from lrlab.plots.tables import NothingToDraw

SMOOTHING = 0.04  # span of the moving average as a share of the longest run's steps
LABELLED_CURVES = 6  # up to so many curves are labelled at their ends; more get a colour bar
DROP = 0.75  # an lr below this share of the step before's is a drop
MARKED_DROPS = 12  # up to so many drops have a line through the panels
_VECTORS = 60_000  # more recorded losses than this are pixels in an SVG, which would get too large


@dataclass(frozen=True)
class Bundle:
    """The curves of a table, and everything about their looks that does not depend on the place."""

    runs: list[Run]
    styles: dict[str, Any]
    blended: list[str]
    references: list[Reference]
    scale: Scale
    span: float
    smooths: Mapping[Any, np.ndarray]  # by run
    colour: Callable[[float], str]
    norm: LogNorm | None
    last_step: float
    seeds: bool
    unit: str  # of x: "step" or "epoch"

    @property
    def lrs(self) -> list[float]:
        return sorted({run.lr for run in self.runs if run.lr > 0})


def bundle(curves: pd.DataFrame, verdicts: pd.DataFrame | None = None) -> Bundle:
    """Return the curves of a table with their looks, the same in every panel."""
    found, styles, blended = runs.of_curves(curves, verdicts)
    references = frame.references(curves)
    last = [run.last_step for run in found if math.isfinite(run.last_step)]
    last_step = max(last, default=1)
    span = max(1.0, SMOOTHING * last_step)
    means_of = [run.mean_of for run in found]
    scale = frame.loss_scale(
        [run.loss for run in found], references, smooth=span, means_of=means_of
    )
    colour, norm = style.lr_colours([run.lr for run in found])
    return Bundle(
        runs=found,
        styles=styles,
        blended=blended,
        references=references,
        scale=scale,
        span=span,
        smooths={run.run: smoothed(run.loss, span, 10 * scale.high, run.mean_of) for run in found},
        colour=colour,
        norm=norm,
        last_step=last_step,
        seeds=any(len(group) > 1 for group in runs.kinds(found).values()),
        unit=runs.unit(curves),
    )


@reach.within
def loss_curves(
    curves: pd.DataFrame, verdicts: pd.DataFrame | None = None, *, title: str | None = None
) -> Figure:
    """Draw mini-batch train loss against step, all runs in one panel, coloured by log lr.

    curves: as from `frames.curves`: columns run, lr, step, lr_at_step, train_loss. Optional: state,
    seed, the settings (schedule, optimizer, ...), initial_loss and chance_loss.
    verdicts: as from `lrlab.verdicts.judging.verdicts`; they label the runs by outcome.

    Faint lines are the recorded losses, or means of several if there are very many. Solid lines
    are exponential moving averages with bias correction, with a span of SMOOTHING of the longest
    run's steps. They average the loss itself, to be comparable with a full evaluation; an average
    of the log loss would be too low. A loss counts as at most ten times the upper limit, because
    one explosion would hide all later losses. For several seeds, the band is their spread and the
    thick line their median.

    The upper limit is at most HEADROOM x max(initial, chance); a curve that leaves the panel gets a
    triangle at the edge. A run that becomes non-finite is drawn up to its last finite loss. The
    rail above the panel marks its first non-finite step, or the last step of a run that failed. A
    bar across the end of a curve shows where it was pruned. If any loss is below 0, the axis is
    linear.

    Raises:
        NothingToDraw: the table has no runs, or lacks a column.
    """
    drawn = bundle(curves, verdicts)
    margin, bar = _labels(drawn)
    outcomes = runs.by_lr(drawn.runs)
    page = sheet(
        title or f"Train loss against {drawn.unit}",
        style.subtitle(curves, drawn.blended),
        rail=rail_heading([run.mark for run in drawn.runs], len(drawn.runs)),
        margin=margin,
        handles=handles(drawn, with_references=bar),
        bar=bar_room(drawn.norm, outcomes) if bar else 0.0,
    )
    _draw_losses(page, curves, drawn, margin)
    if bar:
        draw_lr_bar(page, drawn.norm, drawn.lrs, outcomes)
    return page.figure


@reach.within
def lr_and_loss(
    curves: pd.DataFrame, verdicts: pd.DataFrame | None = None, *, title: str | None = None
) -> Figure:
    """Draw the loss against step, and under it the lr of the same step, with drops marked.

    curves, verdicts: as for `loss_curves`, with lr_at_step.

    A drop is a step with an lr below DROP times that of the step before. A triangle on the lr's
    curve marks it. If at most MARKED_DROPS steps have one, so does a dotted line in both panels.

    Raises:
        NothingToDraw: the table has no runs or lacks a column, or no run ever changes its lr.
    """
    runs.need(curves, "lr_at_step")
    drawn = bundle(curves, verdicts)
    if not any(len(run.lr_used) and np.ptp(run.lr_used) > 0 for run in drawn.runs):
        raise NothingToDraw("the learning rate of every run is constant")
    margin, bar = _labels(drawn)
    outcomes = runs.by_lr(drawn.runs)
    drops = [_drops(run) for run in drawn.runs]
    steps = sorted(
        {float(step) for run, at in zip(drawn.runs, drops, strict=True) for step in run.lr_step[at]}
    )
    entries = handles(drawn, with_references=bar)
    if steps:
        entries.append((key(marker="v", markersize=6, linestyle=""), "lr drops"))
    page = sheet(
        title or "Loss and learning rate of each step",
        style.subtitle(curves, drawn.blended),
        Panels(rows=(3.1, 1.7), between=0.16),
        rail=rail_heading([run.mark for run in drawn.runs], len(drawn.runs)),
        margin=margin,
        handles=entries,
        bar=bar_room(drawn.norm, outcomes) if bar else 0.0,
    )
    above, below = page.panels[0][0], page.panels[1][0]
    if len(steps) <= MARKED_DROPS:
        for step in steps:
            for ax in (above, below):
                ax.axvline(step, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), gid="drop")
    _draw_losses(page, curves, drawn, margin)
    above.set_xlabel("")
    above.tick_params(labelbottom=False)
    width = 1.6 if len(drawn.runs) <= 30 else 0.9
    for run, at in zip(drawn.runs, drops, strict=True):
        positive, colour = run.lr_used > 0, drawn.colour(run.lr)
        look: Any = {"color": colour, "linestyle": drawn.styles[run.setting], "linewidth": width}
        below.plot(run.lr_step[positive], run.lr_used[positive], gid="lr", **look)
        if len(at):
            look = {"color": colour, "marker": "v", "markersize": 5, "linestyle": ""}
            below.plot(run.lr_step[at], run.lr_used[at], gid="dropped", **look)
    lr_y(below, drawn.runs)
    frame.step_axis(below, drawn.last_step, curves, drawn.unit)
    if bar:
        draw_lr_bar(page, drawn.norm, drawn.lrs, outcomes)
    return page.figure


def _draw_losses(page: Sheet, curves: pd.DataFrame, drawn: Bundle, margin: Sequence[Label]) -> None:
    """Draw the curves into the first panel, with its axes and labels, and the rail."""
    ax = page.axes
    draw_curves(ax, drawn)
    right = frame.step_axis(ax, drawn.last_step, curves, drawn.unit)
    ax.set_ylabel(frame.loss_label(curves))
    frame.finish_y(ax, drawn.scale)
    draw_margin(ax, margin)
    lost = [run for run in drawn.runs if run.mark]
    steps = [min(max(run.mark_step, 0.0), right) for run in lost]
    draw_rail(page, steps, lost, drawn.colour)


def draw_curves(ax: Axes, drawn: Bundle, only: Sequence[Run] | None = None) -> None:
    """Draw the recorded and the smoothed losses, seed bands, marks at the ends, reference lines.

    only: which of the bundle's runs; None: all.
    """
    chosen = drawn.runs if only is None else only
    many = len(chosen) > 30
    # Many faint curves on top of each other are no longer faint.
    faint = max(0.008, min(0.4, 1.1 / max(1, len(chosen)) ** 0.9))
    thin = 0.9 if drawn.seeds or many else (1.3 if len(drawn.styles) > 1 else 1.8)
    as_pixels = sum(len(run.loss) for run in chosen) > _VECTORS
    scale = drawn.scale
    for run in chosen:
        smooth = drawn.smooths[run.run]
        if not len(smooth):
            continue
        colour = drawn.colour(run.lr)
        look: Any = {"linewidth": 0.7, "alpha": faint, "zorder": 2.4, "rasterized": as_pixels}
        ax.plot(run.step, scale.shown(run.loss), color=colour, gid="raw", **look)
        look = {"linewidth": thin, "linestyle": drawn.styles[run.setting], "zorder": 3}
        look["marker"] = "o" if len(smooth) == 1 else None  # a line needs two points to be seen
        ax.plot(run.step, scale.shown(smooth), color=colour, gid="smooth", **look)
        if run.pruned:
            end = _pruned_mark(colour, many=many)
            end.set_data(run.step[-1:], scale.shown(smooth[-1:]))
            ax.add_line(end)
        elif run.outcome and not run.mark and scale.low <= smooth[-1] <= scale.high:
            end = style.outcome_mark(run.outcome, size=5.0 if many else 7.5)
            end.set_data(run.step[-1:], smooth[-1:])
            end.set(zorder=5, clip_on=False, gid=f"outcome:{run.outcome}")
            ax.add_line(end)
        frame.draw_edges(ax, run.step, run.loss, scale, colour)
    if drawn.seeds:
        _draw_bands(ax, drawn, chosen)
    frame.draw_references(ax, drawn.references)


def _draw_bands(ax: Axes, drawn: Bundle, chosen: Sequence[Run]) -> None:
    """Draw the spread and the median over the seeds of each kind of runs."""
    for group in runs.kinds(chosen).values():
        if len(group) < 2 or not any(len(run.step) for run in group):
            continue
        step, low, median, high = runs.spread(
            [run.step for run in group],
            [drawn.smooths[run.run] for run in group],
            [bool(run.mark) or run.pruned for run in group],
        )
        colour, shown = drawn.colour(group[0].lr), drawn.scale.shown
        look: Any = {"color": colour, "alpha": 0.18, "linewidth": 0}
        ax.fill_between(step, shown(low), shown(high), gid="band", **look)
        look = {"color": colour, "linestyle": drawn.styles[group[0].setting], "linewidth": 1.9}
        ax.plot(step, shown(median), zorder=3.5, gid="median", **look)


def handles(drawn: Bundle, with_references: bool) -> list[tuple[Line2D, str]]:
    """Return the legend of `draw_curves`, with the reference lines if no labels name them."""
    thick = key(linewidth=1.8)
    average = f"moving average over {drawn.span:.0f} {drawn.unit}s" if drawn.span > 1.5 else ""
    found = [(key(alpha=0.35, linewidth=1), _recorded(drawn))] if average else []
    if drawn.seeds:
        found += [
            (key(linewidth=1.0), f"a seed's {average}" if average else "one seed"),
            (thick, "median of seeds"),
            (key(linewidth=8, alpha=0.25), "their spread"),
        ]
    else:
        found.append((thick, average or _recorded(drawn)))
    found += style.dash_handles(drawn.styles)
    if any(run.pruned for run in drawn.runs):
        found.append((_pruned_mark(GREY), "pruned here"))
    found += frame.edge_handles([run.loss for run in drawn.runs], drawn.scale)
    if with_references:
        found += frame.reference_handles(drawn.references)
    found += style.outcome_handles(run.outcome for run in drawn.runs)
    return found


def _recorded(drawn: Bundle) -> str:
    if drawn.unit != "step":
        return "an epoch's loss"
    counts = [run.mean_of for run in drawn.runs if run.mean_of is not None]
    most = max((float(count.max(initial=1)) for count in counts), default=1.0)
    return f"mean of up to {most:.0f} mini-batches" if most > 1 else "mini-batch"


def _pruned_mark(colour: str, many: bool = False) -> Line2D:
    """Return the bar across the end of a pruned curve."""
    size, width = (6, 1.0) if many else (10, 2.0)
    look: Any = {"marker": "|", "markersize": size, "mew": width, "linestyle": ""}
    return key(colour, zorder=4, gid="pruned", **look)


def _labels(drawn: Bundle) -> tuple[list[Label], bool]:
    """Return labels for the right of the panel, or none and True for a colour bar there.

    Curves are labelled at their ends if they are few.
    """
    kinds = runs.kinds(drawn.runs)
    is_many = len(kinds) > LABELLED_CURVES
    if is_many and drawn.norm is not None:
        return [], True
    labels = frame.reference_labels(drawn.references)
    for group in () if is_many else kinds.values():
        ended = [run for run in group if run.mark == "" and len(run.loss)]
        if not ended:
            continue
        first = ended[0]
        name = f"lr {first.lr:.4g}" + (f", {first.setting}" if len(drawn.styles) > 1 else "")
        if all(run.pruned for run in ended):
            name += " (pruned)"
        elif outcome := style.majority(run.outcome for run in group):
            name += f": {outcome}"
        end = float(np.median([drawn.smooths[run.run][-1] for run in ended]))
        labels.append(Label(end, name, drawn.colour(first.lr)))
    return labels, False


def _drops(run: Run) -> np.ndarray:
    """Return indices into lr_step of the first step after each drop.

    The last steps of a slope to 0 fall as fast, but so do their neighbours.
    """
    lrs = run.lr_used
    if len(lrs) < 2 or lrs.min() < 0:
        return np.empty(0, dtype=int)
    with np.errstate(divide="ignore", invalid="ignore"):
        fall = -np.diff(np.log(lrs))
    before = np.abs(np.concatenate([[0.0], fall[:-1]]))
    return 1 + np.flatnonzero((fall > -math.log(DROP)) & (fall > 4 * before))


def lr_y(ax: Axes, drawn: Sequence[Run], most: int = 5) -> None:
    """Make y the lr of a step, logarithmic, down to a thousandth of the lowest initial lr."""
    positive = [run.lr_used[run.lr_used > 0] for run in drawn if (run.lr_used > 0).any()]
    top = max((float(lrs.max()) for lrs in positive), default=1.0)
    lowest = min((float(lrs.min()) for lrs in positive), default=top)
    floor = min((run.lr for run in drawn if run.lr > 0), default=top) * 1e-3
    low, high = max(lowest, floor) / 1.5, top * 1.6
    frame.log_axis(ax.yaxis, low, high, most)
    ax.set_ylabel("learning rate")
    frame.grid(ax)
