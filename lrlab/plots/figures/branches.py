"""Draw the branch test: training continued from each run's end with three step lengths."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lrlab.plots import frame, reach, style
from lrlab.plots.frame import smoothed
from lrlab.plots.parts import draw_ribbon
from lrlab.plots.runs import need
from lrlab.plots.sheet import Handles, Panels, cut_to, head, sheet, widen
from lrlab.plots.style import GREY, HUES, PALE, key
from lrlab.plots.tables import NothingToDraw
from lrlab.records.thresholds import THRESHOLDS
from lrlab.tables import thinning

FANS = 9  # at most so many runs get a fan, evenly spread over the lr
SMOOTHING = 0.15  # span of the moving average as a share of a branch
LOWEST_GAIN = -1.0  # lower gains are drawn at the lower edge

_COLUMNS = 3
_TAIL = 0.5  # of the run, so much is drawn before the branches, as a share of their length
_BEFORE = "#9a9a9a"


@dataclass(frozen=True)
class _Branch:
    """How one branch is drawn; its mark points down for a smaller lr, up for a larger one."""

    multiplier: float
    colour: str
    marker: str
    dash: Any
    label: str

    @property
    def line(self) -> dict[str, Any]:
        return {"color": self.colour, "linestyle": self.dash}


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
    """Draw the gains of the branches against lr, and below them the three branches of each run.

    branches: as from `frames.branches`: columns run, lr, multiplier, step, train_loss. Optional:
    seed, the settings.
    verdicts: as from `lrlab.verdicts.judging.verdicts`: the gains, outcomes and states at the end.
    None: the upper panel is left out.
    curves: as from `frames.curves`: the part of the run before the branches.

    The gain of a branch is log(loss at lr / loss of the branch) after it. Gains below LOWEST_GAIN,
    and those of a branch that became non-finite, are drawn at the lower edge. The three branches of
    a run are a fan, with axes of its own: moving averages of the losses of the same mini-batches.
    Of more than FANS learning rates, so many are drawn, evenly spread.

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
    count = "" if len(chosen) == len(each) else f" · {len(chosen)} of {len(each)} runs drawn below"
    ribbon = gains is not None and len(set(settings)) == 1 and any(gains["outcome"] != "")
    page = sheet(
        title or "How training would continue with shorter and longer steps",
        style.subtitle(each.reset_index(), blended) + count,
        Panels(
            rows=(*top, *(1.25,) * rows),
            columns=columns,
            # The panel of gains has numbers and a name below it, which need room.
            above=(0.0, 0.47 + heading, *(heading,) * (rows - 1)) if top else heading,
            between=0.36,
            beside=0.62,
        ),
        handles=_handles(curves is not None),
        ribbons=[""] if ribbon else [],
    )
    if gains is not None:
        ax = widen(page, 0)
        _draw_gains(ax, gains, joined=len(set(settings)) == 1)
        if ribbon:
            by_lr: Any = gains.groupby("lr")["outcome"]
            outcome_at = {float(lr): style.majority(members) for lr, members in by_lr}
            draw_ribbon(page.ribbons[0], outcome_at, *ax.get_xlim())
    places = page.places(len(chosen), first_row=len(top))
    unit = style.unit(branches)
    for place, (ax, run) in enumerate(zip(places, chosen, strict=True)):
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
    return page.figure


def _chosen(each: pd.DataFrame, settings: pd.Series) -> list[Hashable]:
    """Return one seed of each setting and lr, or evenly spread ones of many."""
    order = pd.DataFrame({"setting": settings, "lr": each["lr"].astype(float)})
    order = order.sort_values(by=["setting", "lr"], kind="stable")
    firsts = list(order[~order.duplicated()].index)
    if len(firsts) <= FANS:
        return firsts
    return [firsts[round(i * (len(firsts) - 1) / (FANS - 1))] for i in range(FANS)]


def _gains(verdicts: Any, tested: Any) -> pd.DataFrame | None:
    """Return lr, gain_low, gain_high and outcome of the tested runs; None if not known."""
    if verdicts is None or not {"run", "lr", "gain_low", "gain_high"} <= set(verdicts):
        return None
    mine = verdicts[verdicts["run"].isin(tested) & (verdicts["lr"] > 0)]
    mine = mine[mine["gain_low"].notna() | mine["gain_high"].notna()]
    if mine.empty:
        return None
    outcome = mine["outcome"].astype(str) if "outcome" in mine else ""
    return mine[["lr", "gain_low", "gain_high"]].astype(float).assign(outcome=outcome)


def _handles(with_tail: bool) -> Handles:
    found = []
    for one in _BRANCHES:
        line = key(one.colour, linestyle=one.dash, linewidth=1.7, markersize=5)
        line.set_marker("" if one.multiplier == 1 else one.marker)
        found.append((line, f"branch at {one.label}"))
    lost = key(marker="x", markersize=6, mew=1.6, linestyle="")
    found.append((lost, f"non-finite, or gain below −{-LOWEST_GAIN:g}"))
    if with_tail:
        found.append((key(_BEFORE, linewidth=1.7), "before the branches"))
    return [*found, (style.patch(PALE), "gains too small to count")]


def _draw_gains(ax: Axes, gains: pd.DataFrame, joined: bool) -> None:
    """Draw the gains at lr/10 and at 3·lr against lr; joined: with a line through the medians."""
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
        look |= {"marker": "x", "markersize": 6, "mew": 1.6, "gid": f"lost:{name}"}
        ax.plot(below["lr"], [low] * len(below), linestyle="", **look)
        if joined:
            medians = there.groupby("lr")[name].median()
            shown = np.where(medians >= low, medians, math.nan)
            look = {**one.line, "linewidth": 1.5, "gid": f"median:{name}"}
            ax.plot(medians.index.to_numpy(float), shown, **look)
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.1f}".replace("-", "−")))
    ax.set_ylabel("gain (log loss)")


def _draw_fan(ax: Axes, part: Any, tail: Any) -> None:
    """Draw the three branches of one run, and the end of the run before them."""
    begin = float(part["step"].min())
    length = max(1.0, float(part["step"].max()) - begin)
    shown = []
    past = np.empty(0)  # losses before the branches, whose average each branch continues
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
        ax.plot(step[near], smooth[near], color=_BEFORE, linewidth=1.7, gid="before")
        shown.append(smooth[near])
    for one in _BRANCHES:
        mine = part[np.isclose(part["multiplier"].astype(float), one.multiplier)]
        mine = mine.sort_values(by="step", kind="stable")
        loss = mine["train_loss"].to_numpy(float)
        bad = ~np.isfinite(loss)
        end = int(np.argmax(bad)) if bad.any() else len(loss)  # drawn up to the first bad loss
        at = mine["step"].to_numpy(float)
        step = at[:end]
        mean_of = thinning.of_table(mine)
        own = np.ones(end) if mean_of is None else mean_of[:end]
        together = np.append(past, loss[:end])
        smooth = smoothed(together, SMOOTHING * length, mean_of=np.append(counts, own))[len(past) :]
        if not len(past) and end > SMOOTHING * length:  # an average of two losses is only noise
            step, smooth = (each[int(SMOOTHING * length / 2) :] for each in (step, smooth))
        look: Any = {"linewidth": 1.7, "marker": "o" if end == 1 else None, **one.line}
        ax.plot(step, smooth, gid=f"branch:{one.multiplier:g}", **look)
        if bad.any():
            look = {"color": one.colour, "marker": "x", "markersize": 7, "mew": 1.8}
            frame.mark_at_height(ax, at[end], 0.93, gid="nonfinite", **look)
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
    # The branches at lr/10 and lr set the limits. Anything far outside them, such as an explosion
    # or the run's own past, must not flatten the fan.
    core = np.concatenate([*shown[-3:-1], np.empty(0)])
    core = core[core > 0] if (core > 0).any() else positive
    low = max(float(positive.min()), float(core.min()) / 1.6) / 1.08
    high = min(float(positive.max()), float(core.max()) * 1.6) * 1.08
    frame.log_axis(ax.yaxis, low, high, most=4)
