"""Draw the loss against step: all runs in one frame, alone or with the lr of each step."""

import math
from collections.abc import Callable, Sequence
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
from lrlab.plots.parts.colour_bar import bar_room, draw_lr_bar
from lrlab.plots.parts.margin import draw_margin
from lrlab.plots.parts.rail import draw_rail, rail_heading
from lrlab.plots.runs import Run
from lrlab.plots.sheet import Panels, sheet
from lrlab.plots.style import GREY
from lrlab.plots.tables import NothingToDraw

SMOOTHING = 0.04  # span of the moving average as a share of the longest run's steps
LABELLED_CURVES = 6  # up to so many curves are labelled one by one; more get a colour bar
DROP = 0.75  # an lr below this share of the step before's is a drop
MARKED_DROPS = 12  # up to so many drops have a line through the panels
_VECTORS = 60_000  # more recorded losses than this become pixels in an SVG, or it gets too large


@dataclass(frozen=True)
class Bundle:
    """The curves of a table as they are drawn."""

    runs: list[Run]
    styles: dict[str, Any]
    blended: list[str]
    references: list[Reference]
    scale: Scale
    span: float
    smooths: list[np.ndarray]
    colour: Callable[[float], str]
    norm: LogNorm | None
    last_step: float
    seeds: bool
    unit: str  # of x: "step" or "epoch"

    @property
    def lost(self) -> list[Run]:
        return [run for run in self.runs if run.mark]

    @property
    def lrs(self) -> list[float]:
        return sorted({run.lr for run in self.runs if run.lr > 0})


def bundle(curves: pd.DataFrame, verdicts: pd.DataFrame | None = None) -> Bundle:
    """Return everything about a table's curves that does not depend on the place of the drawing."""
    found, styles, blended = runs.of_curves(curves, verdicts)
    references = frame.references(curves)
    last = [run.last_step for run in found if math.isfinite(run.last_step)]
    last_step = max(last, default=1)
    span = max(1.0, SMOOTHING * last_step)
    tables = [run.loss for run in found]
    means_of = [run.mean_of for run in found]
    scale = frame.loss_scale(tables, references, smooth=span, means_of=means_of)
    colour, norm = style.lr_colours([run.lr for run in found])
    return Bundle(
        runs=found,
        styles=styles,
        blended=blended,
        references=references,
        scale=scale,
        span=span,
        smooths=[
            smoothed(loss, span, 10 * scale.high, mean_of)
            for loss, mean_of in zip(tables, means_of, strict=True)
        ],
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
    """Draw mini-batch train loss against step, all runs in one frame, coloured by log lr.

    curves: as from `frames.curves`: columns run, lr, step, lr_at_step, train_loss; and where
    there, state, seed, the settings (schedule, optimizer, ...), initial_loss and chance_loss.
    verdicts: as from `lrlab.verdicts.judging.verdicts`; where given, the runs are labelled by
    outcome.

    Faint: the recorded loss, or means where all would be too much. On it: its exponential moving
    average with bias correction, whose span is SMOOTHING of the longest run's steps. It averages
    the loss itself, so that it compares with a full evaluation; an average of log loss would be too
    low. Losses far above the frame count as ten times its upper end, because one explosion would
    hide all later losses. Where an lr has several seeds, the band is their spread and the thick
    line their median.

    The frame ends at HEADROOM x max(initial, chance) at most; a curve that leaves it gets a
    triangle at the edge. A run that becomes non-finite is drawn up to its last finite loss. A rail
    above the frame marks its first non-finite step; for one that failed, its last. A pruned run
    ends where it was pruned, with a bar across its end. Losses below 0 have no place on a log axis:
    if there are any, the axis is linear.

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
    ax = page.axes
    draw_curves(ax, drawn)
    right = frame.step_axis(ax, drawn.last_step, curves, drawn.unit)
    ax.set_ylabel(frame.loss_label(curves))
    frame.finish_y(ax, drawn.scale)
    draw_margin(ax, margin)
    steps = [min(max(run.mark_step, 0.0), right) for run in drawn.lost]
    draw_rail(page, steps, drawn.lost, drawn.colour)
    if bar and drawn.norm is not None:
        draw_lr_bar(page, drawn.norm, drawn.lrs, outcomes)
    return page.figure


@reach.within
def lr_and_loss(
    curves: pd.DataFrame, verdicts: pd.DataFrame | None = None, *, title: str | None = None
) -> Figure:
    """Draw the loss against step, and under it the lr of the same step, with drops marked.

    curves, verdicts: as for `loss_curves`, with lr_at_step.

    A drop is a step with an lr below DROP times that of the step before. Each has a triangle on the
    lr's curve and, if no more than MARKED_DROPS steps have one, a dotted line through both panels.

    Raises:
        NothingToDraw: the table has no runs or lacks a column, or no run ever changes its lr.
    """
    runs.need(curves, "lr_at_step")
    drawn = bundle(curves, verdicts)
    if not any(len(run.lr_used) and np.ptp(run.lr_used) > 0 for run in drawn.runs):
        raise NothingToDraw("every run keeps its learning rate from its first step to its last")
    margin, bar = _labels(drawn)
    outcomes = runs.by_lr(drawn.runs)
    drops = [_drops(run) for run in drawn.runs]
    steps = sorted(
        {float(step) for run, at in zip(drawn.runs, drops, strict=True) for step in run.lr_step[at]}
    )
    entries = handles(drawn, with_references=bar)
    if steps:
        key = Line2D([], [], color=GREY, marker="v", markersize=6, linestyle="")
        entries.append((key, "lr drops"))
    page = sheet(
        title or "The loss, and the learning rate that made it",
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
    draw_curves(above, drawn)
    right = frame.step_axis(above, drawn.last_step, curves, drawn.unit)
    above.set_xlabel("")
    above.tick_params(labelbottom=False)
    above.set_ylabel(frame.loss_label(curves))
    frame.finish_y(above, drawn.scale)
    draw_margin(above, margin)

    width = 1.6 if len(drawn.runs) <= 30 else 0.9
    for run, at in zip(drawn.runs, drops, strict=True):
        positive = run.lr_used > 0
        below.plot(
            run.lr_step[positive],
            run.lr_used[positive],
            color=drawn.colour(run.lr),
            linestyle=drawn.styles[run.setting],
            linewidth=width,
            gid="lr",
        )
        if len(at):
            below.plot(
                run.lr_step[at],
                run.lr_used[at],
                color=drawn.colour(run.lr),
                marker="v",
                markersize=5,
                linestyle="",
                gid="dropped",
            )
    _lr_y(below, drawn.runs)
    frame.step_axis(below, drawn.last_step, curves, drawn.unit)
    rail_steps = [min(max(run.mark_step, 0.0), right) for run in drawn.lost]
    draw_rail(page, rail_steps, drawn.lost, drawn.colour)
    if bar and drawn.norm is not None:
        draw_lr_bar(page, drawn.norm, drawn.lrs, outcomes)
    return page.figure


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
    ids = {run.run for run in chosen}
    for run, smooth in zip(drawn.runs, drawn.smooths, strict=True):
        if run.run not in ids or not len(smooth):
            continue
        marker = "o" if len(smooth) == 1 else None  # a line needs two points to be seen
        colour = drawn.colour(run.lr)
        ax.plot(
            run.step,
            scale.shown(run.loss),
            alpha=faint,
            linewidth=0.7,
            color=colour,
            zorder=2.4,
            rasterized=as_pixels,
            gid="raw",
        )
        ax.plot(
            run.step,
            scale.shown(smooth),
            linewidth=thin,
            linestyle=drawn.styles[run.setting],
            marker=marker,
            color=colour,
            zorder=3,
            gid="smooth",
        )
        if run.pruned:
            end = pruned_mark(colour, many=many)
            end.set_data(run.step[-1:], scale.shown(smooth[-1:]))
            ax.add_line(end)
        elif run.outcome and not run.mark and scale.low <= smooth[-1] <= scale.high:
            end = style.outcome_mark(run.outcome, size=5.0 if many else 7.5)
            end.set_data(run.step[-1:], smooth[-1:])
            end.set(zorder=5, clip_on=False, gid=f"outcome:{run.outcome}")
            ax.add_line(end)
        frame.draw_edges(ax, run.step, run.loss, scale, colour)
    if drawn.seeds:
        _draw_bands(ax, drawn, ids)
    frame.draw_references(ax, drawn.references)


def _draw_bands(ax: Axes, drawn: Bundle, ids: set[Any]) -> None:
    """Draw the spread and the median over the seeds of each kind of runs."""
    smooths = {run.run: smooth for run, smooth in zip(drawn.runs, drawn.smooths, strict=True)}
    for group in runs.kinds([run for run in drawn.runs if run.run in ids]).values():
        if len(group) < 2 or not any(len(run.step) for run in group):
            continue
        step, low, median, high = runs.spread(
            [run.step for run in group],
            [smooths[run.run] for run in group],
            [bool(run.mark) or run.pruned for run in group],
        )
        colour = drawn.colour(group[0].lr)
        shown = drawn.scale.shown
        ax.fill_between(
            step, shown(low), shown(high), color=colour, alpha=0.18, linewidth=0, gid="band"
        )
        ax.plot(
            step,
            shown(median),
            color=colour,
            linewidth=1.9,
            linestyle=drawn.styles[group[0].setting],
            zorder=3.5,
            gid="median",
        )


def handles(drawn: Bundle, with_references: bool) -> list[tuple[Line2D, str]]:
    """Return the legend of `draw_curves`; with the reference lines if no labels name them."""
    thick = Line2D([], [], color=GREY, linewidth=1.8)
    found: list[tuple[Line2D, str]] = [(thick, _recorded(drawn))]
    if drawn.span > 1.5:
        faint = Line2D([], [], color=GREY, alpha=0.35, linewidth=1)
        found = [
            (faint, _recorded(drawn)),
            (thick, f"moving average over {drawn.span:.0f} {drawn.unit}s"),
        ]
    if drawn.seeds:
        found.pop()
        found += [
            (
                Line2D([], [], color=GREY, linewidth=1.0),
                f"a seed's moving average over {drawn.span:.0f} {drawn.unit}s"
                if drawn.span > 1.5
                else "one seed",
            ),
            (thick, "median of seeds"),
            (Line2D([], [], color=GREY, linewidth=8, alpha=0.25), "their spread"),
        ]
    if len(drawn.styles) > 1:
        found += [
            (Line2D([], [], color=GREY, linewidth=1.6, linestyle=dash), setting)
            for setting, dash in drawn.styles.items()
        ]
    if any(run.pruned for run in drawn.runs):
        found.append((pruned_mark(GREY), "pruned here"))
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


def pruned_mark(colour: str, many: bool = False) -> Line2D:
    """Return the bar across the end of a pruned curve."""
    size, width = (6, 1.0) if many else (10, 2.0)
    mark = Line2D([], [], color=colour, linestyle="", marker="|", markersize=size, zorder=4)
    mark.set(markeredgewidth=width, gid="pruned")
    return mark


def _labels(drawn: Bundle) -> tuple[list[Label], bool]:
    """Return what is to the right of the frame: labels, or whether a colour bar takes the room."""
    labels, labelled = _end_labels(drawn)
    if not labelled and drawn.norm is not None:
        return [], True
    return [*frame.reference_labels(drawn.references), *labels], False


def _end_labels(drawn: Bundle) -> tuple[list[Label], bool]:
    """Return a label at the end of each kind of runs, and whether there are few enough for that."""
    kinds = runs.kinds(drawn.runs)
    if len(kinds) > LABELLED_CURVES:
        return [], False
    smooths = {run.run: smooth for run, smooth in zip(drawn.runs, drawn.smooths, strict=True)}
    labels = []
    for group in kinds.values():
        ended = [run for run in group if run.mark == "" and len(run.loss)]
        if not ended:
            continue
        first = ended[0]
        name = f"lr {first.lr:.4g}" + (f", {first.setting}" if len(drawn.styles) > 1 else "")
        if all(run.pruned for run in ended):
            name += " (pruned)"
        elif outcome := style.majority(run.outcome for run in group):
            name += f": {outcome}"
        end = float(np.median([smooths[run.run][-1] for run in ended]))
        labels.append(Label(end, name, drawn.colour(first.lr)))
    return labels, True


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


def _lr_y(ax: Axes, drawn: Sequence[Run]) -> None:
    """Set up the lr's axis: logarithmic, at most four decades below the lowest initial lr."""
    lr_y(ax, [run.lr_used for run in drawn], [run.lr for run in drawn])


def lr_y(ax: Axes, used: Sequence[np.ndarray], initial: Sequence[float], most: int = 5) -> None:
    """Make y the lr of a step, logarithmic; an lr that falls to 0 leaves at the bottom."""
    positive = [lrs[lrs > 0] for lrs in used if (lrs > 0).any()]
    top = max((float(lrs.max()) for lrs in positive), default=1.0)
    lowest = min((float(lrs.min()) for lrs in positive), default=top)
    floor = min((lr for lr in initial if lr > 0), default=top) * 1e-3
    low, high = max(lowest, floor) / 1.5, top * 1.6
    frame.log_axis(ax.yaxis, low, high, most)
    ax.set_ylabel("learning rate")
    ax.grid(axis="y", color=style.PALE, linewidth=0.7)
    ax.set_axisbelow(True)
