"""Draw the branch test: training went on from each run's end with three step lengths."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lrlab.plots import frame, reach, style
from lrlab.plots.frame import smoothed
from lrlab.plots.parts.ribbon import draw_ribbon
from lrlab.plots.runs import need
from lrlab.plots.sheet import Panels, cut_to, head, sheet, widen
from lrlab.plots.style import GREY, HUES, PALE
from lrlab.plots.tables import NothingToDraw
from lrlab.records.thresholds import THRESHOLDS
from lrlab.tables import thinning

FANS = 9  # so many runs get a fan of their own; with more, evenly spread ones over the lr
SMOOTHING = 0.15  # span of the moving average as a share of a branch
LOWEST_GAIN = -1.0  # a branch that loses more is drawn at the edge

_COLUMNS = 3
_TAIL = 0.5  # the end of the run before the branches, as a share of their length


@dataclass(frozen=True)
class _Branch:
    """How one branch is drawn: its mark points to the side of its lr."""

    multiplier: float
    colour: str
    marker: str
    dash: Any
    label: str


_BRANCHES = (
    _Branch(0.1, HUES[4], "v", (0, (5, 1.2)), "lr/10"),
    _Branch(1.0, "#000000", "o", "-", "lr"),
    _Branch(3.0, HUES[3], "^", (0, (1.4, 0.9)), "3·lr"),
)


@reach.within
def branch_fan(
    branches: pd.DataFrame,
    verdicts: pd.DataFrame | None = None,
    curves: pd.DataFrame | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """Draw the gains of the branches against lr, and under them the fans of single runs.

    branches: as from `frames.branches`: columns run, lr, multiplier, step, train_loss; and where
    there, seed, the settings.
    verdicts: as from `lrlab.verdicts.judging.verdicts`, for the gains and outcomes; without them
    the upper panel is left out. A fan's heading has its outcome, and how it stood at its end.
    curves: as from `frames.curves`, for the end of the run that the branches go on from.

    The gain of a branch is log(loss at lr / loss of the branch) after it. One below LOWEST_GAIN, or
    of a branch that became non-finite, is drawn at the lower edge. A fan's lines are moving
    averages of the mini-batch losses; the batches are the same in all three. Each fan has axes of
    its own. If there are more than FANS learning rates, so many are drawn, evenly spread.

    Raises:
        NothingToDraw: there was no branch test, or a column is missing.
    """
    need(branches, "run", "lr", "multiplier", "step", "train_loss")
    if branches.empty:
        raise NothingToDraw("there was no branch test")
    each = branches.drop_duplicates("run").set_index("run")
    settings, blended = style.settings(each)
    outcomes = style.outcome_of_runs(verdicts)
    at_ends = style.words_of_runs(verdicts, "at_end")
    has_words = any(run in at_ends for run in each.index)
    heading = 0.28 + 0.19 * has_words
    chosen = _chosen(each, settings)
    tails = {} if curves is None else {run: part for run, part in curves.groupby("run")}
    gains = _gains(verdicts, set(each.index))
    rows = math.ceil(len(chosen) / _COLUMNS)
    columns = min(_COLUMNS, len(chosen))
    top = [1.9] if gains is not None else []
    count = "" if len(chosen) == len(each) else f" · {len(chosen)} of {len(each)} fans drawn"
    ribbon = gains is not None and len(set(settings)) == 1 and any(gains["outcome"] != "")
    page = sheet(
        title or "What a shorter and a longer step would have made of each run's end",
        style.subtitle(each.reset_index(), blended) + count,
        Panels(
            rows=(*top, *(1.25,) * rows),
            columns=columns,
            above=(0.0, 0.47 + heading, *(heading,) * (rows - 1)) if top else heading,
            between=0.36,
            beside=0.62,
        ),
        handles=_handles(curves is not None),
        ribbons=[""] if ribbon else [],
        # The gains have numbers and a name under them; the first fans leave room for these.
    )
    panels = page.panels
    if gains is not None:
        ax = widen(page, 0)
        _draw_gains(ax, gains, joined=len(set(settings)) == 1)
        if ribbon:
            by_lr = gains.groupby("lr")["outcome"]
            low, high = ax.get_xlim()
            draw_ribbon(
                page.ribbons[0],
                {float(lr): style.majority(members) for lr, members in by_lr},  # type: ignore[arg-type]
                low,
                high,
            )
        panels = page.panels[1:]
    places = [ax for row in panels for ax in row]
    unit = style.unit(branches)
    for place, (ax, run) in enumerate(zip(places, chosen, strict=False)):
        part = branches.loc[branches["run"] == run]
        _draw_fan(ax, part, tails.get(run))
        name = f"lr {style.lr_word(float(each.loc[run, 'lr']))}"  # type: ignore[arg-type]
        setting = str(settings[run])
        outcome = outcomes.get(run, "")
        name += f": {outcome}" if outcome else ""
        name += f" ({setting})" if setting else ""
        colour = style.OUTCOMES[outcome].colour if outcome else "#000000"
        last = place % columns == columns - 1
        head(ax, cut_to(name, page.width + (0.1 if last else 0.35)), colour, line=int(has_words))
        if at_end := at_ends.get(run, ""):
            head(ax, at_end, GREY)
        if place % columns == 0:
            ax.set_ylabel(f"loss{unit}")
        if place + columns >= len(chosen):
            ax.set_xlabel("step")
    for empty in places[len(chosen) :]:
        empty.remove()
    return page.figure


def _chosen(each: pd.DataFrame, settings: pd.Series) -> list[Hashable]:
    """Choose runs by setting and lr, one seed of each; of many, evenly spread ones."""
    order = pd.DataFrame({"setting": settings, "lr": each["lr"].astype(float)})
    order = order.sort_values(by=["setting", "lr"], kind="stable")
    firsts = list(order[~order.duplicated()].index)
    if len(firsts) <= FANS:
        return firsts
    return [firsts[round(i * (len(firsts) - 1) / (FANS - 1))] for i in range(FANS)]


def _gains(verdicts: Any, tested: Any) -> pd.DataFrame | None:
    """Return lr, gain_low, gain_high and outcome of the tested runs; None: not known."""
    if verdicts is None or not {"run", "lr", "gain_low", "gain_high"} <= set(verdicts):
        return None
    mine = verdicts[verdicts["run"].isin(tested) & (verdicts["lr"] > 0)]
    mine = mine[mine["gain_low"].notna() | mine["gain_high"].notna()]
    if mine.empty:
        return None
    outcome = mine["outcome"].astype(str) if "outcome" in mine else ""
    return mine[["lr", "gain_low", "gain_high"]].astype(float).assign(outcome=outcome)


def _handles(with_tail: bool) -> list[tuple[Line2D, str]]:
    found = [
        (
            Line2D(
                [],
                [],
                color=one.colour,
                linestyle=one.dash,
                linewidth=1.7,
                marker="" if one.multiplier == 1 else one.marker,
                markersize=5,
            ),
            f"branch at {one.label}",
        )
        for one in _BRANCHES
    ]
    lost = Line2D([], [], color=GREY, marker="x", markersize=6, markeredgewidth=1.6, linestyle="")
    found.append((lost, f"non-finite, or gain below −{-LOWEST_GAIN:g}"))
    if with_tail:
        found.append((Line2D([], [], color="#9a9a9a", linewidth=1.7), "the run before"))
    found.append(
        (Line2D([], [], color=PALE, linewidth=9, solid_capstyle="butt"), "too little to tell")
    )
    return found


def _draw_gains(ax: Axes, gains: pd.DataFrame, joined: bool) -> None:
    """Draw the gain at lr/10 and at 3·lr against lr; join medians over the seeds if asked to."""
    finite = style.finite(gains[["gain_low", "gain_high"]].to_numpy().ravel())
    high = max(0.3, 1.15 * float(finite.max(initial=0.0)))
    low = min(-0.3, max(LOWEST_GAIN, 1.15 * float(finite.min(initial=0.0))))
    if np.isneginf(gains[["gain_low", "gain_high"]].to_numpy()).any():
        low = LOWEST_GAIN
    frame.lr_axis(ax, gains["lr"])
    ax.set_ylim(low - 0.06 * (high - low), high)
    ax.axhspan(-THRESHOLDS.gain, THRESHOLDS.gain, color=PALE, linewidth=0, zorder=0.5, gid="noise")
    ax.axhline(0, color=GREY, linewidth=0.8)
    for name, one in (("gain_low", _BRANCHES[0]), ("gain_high", _BRANCHES[2])):
        there = gains[gains[name].notna()]
        below = there[there[name] < low]
        inside = there[there[name] >= low]
        look: Any = {"color": one.colour, "marker": one.marker, "clip_on": False}
        ax.plot(inside["lr"], inside[name], linestyle="", markersize=4.5, gid=name, **look)
        ax.plot(
            below["lr"],
            [low] * len(below),
            linestyle="",
            color=one.colour,
            marker="x",
            markersize=6,
            markeredgewidth=1.6,
            clip_on=False,
            gid=f"lost:{name}",
        )
        if not joined:  # with several settings a line through all would say nothing
            continue
        medians = there.groupby("lr")[name].median()
        ax.plot(
            medians.index.to_numpy(float),
            np.where(medians >= low, medians, math.nan),
            color=one.colour,
            linestyle=one.dash,
            linewidth=1.5,
            gid=f"median:{name}",
        )
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.1f}".replace("-", "−")))
    ax.set_ylabel("gain (log loss)")


def _draw_fan(ax: Axes, part: Any, tail: Any) -> None:
    """Draw the three branches of one run, and the end of the run before them."""
    begin = float(part["step"].min())
    length = max(1.0, float(part["step"].max()) - begin)
    shown = []
    past = np.empty(0)  # losses of the run before: a branch's average continues theirs
    counts = np.empty(0)  # how many mini-batches each is the mean of
    if tail is not None:
        before = tail.sort_values(by="step", kind="stable")
        step, loss = before["step"].to_numpy(float), before["train_loss"].to_numpy(float)
        finite = np.isfinite(step) & np.isfinite(loss) & (step <= begin)
        step, past = step[finite], loss[finite]
        mean_of = thinning.of_table(before)
        counts = np.ones(len(past)) if mean_of is None else mean_of[finite]
        smooth = smoothed(past, SMOOTHING * length, mean_of=counts)
        near = step >= begin - _TAIL * length
        ax.plot(step[near], smooth[near], color="#9a9a9a", linewidth=1.7, gid="before")
        shown.append(smooth[near])
    for one in _BRANCHES:
        mine = part[np.isclose(part["multiplier"].astype(float), one.multiplier)]
        mine = mine.sort_values(by="step", kind="stable")
        loss = mine["train_loss"].to_numpy(float)
        bad = ~np.isfinite(loss)
        # After a loss that is not finite, none is drawn.
        end = int(np.argmax(bad)) if bad.any() else len(loss)
        step = mine["step"].to_numpy(float)[:end]
        mean_of = thinning.of_table(mine)
        own = np.ones(end) if mean_of is None else mean_of[:end]
        together = np.append(past, loss[:end])
        smooth = smoothed(together, SMOOTHING * length, mean_of=np.append(counts, own))[len(past) :]
        if not len(past) and end > SMOOTHING * length:  # an average of two losses is only noise
            step, smooth = (each[int(SMOOTHING * length / 2) :] for each in (step, smooth))
        ax.plot(
            step,
            smooth,
            color=one.colour,
            linestyle=one.dash,
            linewidth=1.7,
            marker="o" if end == 1 else None,
            gid=f"branch:{one.multiplier:g}",
        )
        if bad.any():
            ax.plot(
                [mine["step"].to_numpy(float)[end]],
                [0.93],
                transform=ax.get_xaxis_transform(),
                color=one.colour,
                marker="x",
                markersize=7,
                markeredgewidth=1.8,
                linestyle="",
                gid="nonfinite",
            )
        shown.append(smooth)
    _fan_axes(ax, shown, begin, length)


def _fan_axes(ax: Axes, shown: Sequence[np.ndarray], begin: float, length: float) -> None:
    ax.axvline(begin, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
    ax.set_xlim(begin - _TAIL * length * 1.03, begin + length * 1.03)
    ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    values = np.concatenate([*shown, np.empty(0)])
    positive = values[values > 0]
    if not len(positive) or (values < 0).any():
        ax.yaxis.set_major_locator(MaxNLocator(3))
        return
    # The two branches with steps no longer than the run's own set the level. Anything far outside
    # it, an explosion or the run's own past, must not squash the fan.
    core = np.concatenate([*shown[-3:-1], np.empty(0)])
    core = core[core > 0] if (core > 0).any() else positive
    low = max(float(positive.min()), float(core.min()) / 1.6) / 1.08
    high = min(float(positive.max()), float(core.max()) * 1.6) * 1.08
    frame.log_axis(ax.yaxis, low, high, most=4)
