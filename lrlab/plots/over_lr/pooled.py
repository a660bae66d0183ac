"""Draw a search over several settings: its result at each lr."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lrlab.plots import style
from lrlab.plots.frame import Scale, draw_all_edges
from lrlab.plots.style import BEST, DARK, HUES, key

if TYPE_CHECKING:
    from lrlab.verdicts.answer import Answer
    from lrlab.verdicts.pooled import Bin, Search

HUE = HUES[0]  # of all finished configurations: settings have no colours here
_PRUNED = "#9aa3ab"
_ENVELOPE: Any = {"color": DARK, "linewidth": 1.4, "solid_joinstyle": "miter"}


def search_of(answers: "Sequence[Answer]") -> "Search | None":
    """Return the joint result of a search over several settings; None if it is no search."""
    return answers[0].search if answers else None


def points(on_axis: Any, name: str, outcomes: Mapping[Any, str], names: Sequence[str]) -> Any:
    """Return the configurations with an end value: lr, value, collapsed, run; medians over seeds.

    on_axis: one row a run; names: of the settings that make a configuration, besides lr.
    """
    there = on_axis[np.isfinite(on_axis[name].astype(float)) & (on_axis["state"] == "finished")]
    found = pd.DataFrame(
        {
            "lr": there["lr"].astype(float),
            "value": there[name].astype(float),
            "collapsed": [outcomes.get(run, "") == "collapsed" for run in there["run"]],
            "run": there["run"],
        }
    )
    keys = [there[key].astype(str) for key in names if key in there]
    groups = found.groupby([found["lr"], *keys], sort=False)
    kinds: Any = {"lr": "first", "value": "median", "collapsed": "max", "run": list}
    return groups.agg(kinds).reset_index(drop=True)


def draw_points(
    ax: Axes, found: Any, pruned: Any, best: Any, scale: Scale, bins: "Sequence[Bin]"
) -> None:
    """Draw dots for configurations that ended, light crosses for pruned ones, a star for the best.

    found: as from `points`; pruned: lr and value of each pruned run; best: the run of the answer;
    bins: the lowest loss in each range of lrs, drawn as a step line.
    """
    ended, broken = found[~found["collapsed"]], found[found["collapsed"]]
    for gid, handle, rows in (
        ("pruned", _cross(), pruned),
        ("configuration", _dot(), ended),
        ("collapsed", _broken(), broken),
    ):
        if not len(rows):
            continue
        lrs, values = rows["lr"].to_numpy(float), rows["value"].to_numpy(float)
        handle.set_data(lrs, scale.shown(values))
        handle.set(zorder=2.5 if gid == "pruned" else 3.5, gid=gid)
        ax.add_line(handle)
        draw_all_edges(ax, lrs, values, scale, str(handle.get_color()))
    x, y = envelope(bins, *ax.get_xlim())
    if len(x):
        ax.plot(x, scale.shown(y), zorder=3, gid="envelope", **_ENVELOPE)
    mine = ended[[best in runs for runs in ended["run"]]]
    if len(mine):
        star = _star()
        star.set_data(mine["lr"].to_numpy(float), scale.shown(mine["value"].to_numpy(float)))
        star.set(zorder=5, gid="best configuration")
        ax.add_line(star)


def envelope(bins: "Sequence[Bin]", low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of the step line over the bins, clipped to the lr axis; NaN at gaps."""
    x: list[float] = []
    y: list[float] = []
    for each in bins:
        if not math.isfinite(each.end):
            continue
        left, right = max(each.low, low), min(each.high, high)
        if x and not math.isclose(x[-1], left, rel_tol=1e-6):
            x.append(math.nan)
            y.append(math.nan)
        x += [left, right]
        y += [each.end, each.end]
    return np.array(x), np.array(y)


def point_handles(
    found: Any, pruned: Any, best: Any, word: str, has_bins: bool
) -> list[tuple[Line2D, str]]:
    """Return legend entries of `draw_points`.

    word: the name of the value, such as val loss.
    """
    handles = [(_dot(), f"{word} of a configuration")]
    if any(best in runs for runs in found["run"]):
        handles.append((_star(), "the best one"))
    if found["collapsed"].any():
        handles.append((_broken(), "collapsed"))
    if len(pruned):
        handles.append((_cross(), f"pruned: its last {word}"))
    if has_bins:
        handles.append((Line2D([], [], **_ENVELOPE), "lowest in each range of lrs"))
    return handles


def _dot() -> Line2D:
    return key(HUE, marker="o", linestyle="", markersize=7, mec="white", mew=0.7)


def _star() -> Line2D:
    return key(BEST, marker="*", linestyle="", markersize=16, mec="white", mew=1.0)


def _cross() -> Line2D:
    return key(_PRUNED, marker="+", linestyle="", markersize=6.5, mew=1.2)


def _broken() -> Line2D:
    return style.outcome_mark("collapsed", 8.0)
