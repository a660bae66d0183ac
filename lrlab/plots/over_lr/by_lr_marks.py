"""Draw lines, marks, bands and the recommended lr in figures over the lr, with their legend."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lrlab.plots import frame, style
from lrlab.plots.frame import Scale
from lrlab.plots.over_lr import pooled
from lrlab.plots.over_lr.by_lr_table import AT_PRUNING, LOSS, EndTable, Measure, medians_of, pruned
from lrlab.plots.sheet import Handles
from lrlab.plots.style import BEST, DARK, GREY, OUTCOMES, RECOMMENDED, key

if TYPE_CHECKING:
    from lrlab.verdicts.answer import Answer

RIBBONS = 6  # up to so many settings get a ribbon of outcomes each

_SMALL = 0.6  # size of other marks, relative to those of the series that decides
# Dashes of the series that do not decide.
_DASHES: Any = {"val": (0, (7, 1.5, 1.2, 1.5)), "train": (0, (5, 1.8)), "test": (0, (1.2, 1.7))}
_BEST_LINE: Any = {"color": BEST, "linewidth": 1.3}


def ribbons_of(table: EndTable) -> dict[str, dict[float, str]]:
    """Return by setting the outcome of most runs at each lr."""
    if not table.outcomes or table.search or len(table.hues) > RIBBONS or table.on_axis.empty:
        return {}
    found = {}
    for setting, group in table.on_axis.groupby("setting", sort=True):
        of_lr = group.groupby("lr")["run"]
        found[str(setting)] = {
            float(lr): style.majority(table.outcomes.get(run, "") for run in members)
            for lr, members in of_lr
        }
    return found


def handles(table: EndTable, measure: Measure) -> list[tuple[Line2D, str]]:
    """Return legend entries of `draw`."""
    if table.search is not None:
        return pooled.point_handles(
            *_points(table), table.best_run, measure.word_of(table.series[0]), measure is LOSS
        )
    found: list[tuple[Line2D, str]] = []
    for name in table.series:
        look = _look(table, name, GREY, "o", markersize=6.0)
        decides = " (decides)" if table.decides and name == table.series[0] else ""
        found.append((Line2D([], [], **look), f"{measure.word_of(name)}{decides}"))
    if style.distinct(table.all, "seed") > 1:
        found.append((key(marker=".", linestyle=""), "one seed (lines: medians)"))
    if len(table.hues) > 1:
        look = {"linewidth": 1.6, "linestyle": "" if table.blended else "-"}
        found += [(key(hue, marker=table.shapes[n], **look), n) for n, hue in table.hues.items()]
    if len(pruned(table.all)):
        found.append((_cross(GREY), f"pruned: {measure.word_of('val')} at its end"))
    if table.outcomes and ribbons_of(table):
        judged = [table.outcomes.get(run, "") for run in table.on_axis["run"]]
        found += style.outcome_handles(judged)
    return found


def _look(table: EndTable, name: str, hue: str, shape: str, markersize: float) -> dict[str, Any]:
    """Return the look of a series' line and marks: strong for the first one."""
    part = name.partition("_")[0]
    look: dict[str, Any] = {"color": hue, "marker": shape}
    if name == table.series[0]:
        look |= {"linestyle": "-", "linewidth": 1.9, "markersize": markersize, "mfc": hue}
    else:
        if part == "train" and len(table.hues) == 1:
            look["marker"] = "D"  # not to be mistaken for a seed's dot
        look |= {"linestyle": _DASHES[part], "linewidth": 1.1, "mew": 0.9}
        look |= {"markersize": _SMALL * markersize, "mfc": "white" if part == "test" else hue}
    return look | ({"linestyle": ""} if table.blended else {})


def _points(table: EndTable) -> tuple[Any, Any]:
    """Return a search's configurations that ended, and its pruned runs, with lr and value."""
    found = pooled.points(table.on_axis, table.series[0], table.outcomes, table.names)
    return found, pruned(table.all).rename(columns={AT_PRUNING: "value"})


def draw(ax: Axes, table: EndTable, measure: Measure, scale: Scale) -> None:
    """Draw the runs' ends over the lr: a line for each setting and series, or a search's points."""
    if table.search is not None:
        bins = table.search.bins if measure is LOSS else ()
        frame.lr_axis(ax, table.on_axis["lr"])
        pooled.draw_points(ax, *_points(table), table.best_run, scale, bins)
        return
    for setting, group in table.on_axis.groupby("setting", sort=True):
        hue, shape = table.hues[str(setting)], table.shapes[str(setting)]
        if table.coloured_by_outcome:
            hue, shape = DARK, "o"
        for name in table.series:
            first = name == table.series[0]
            lrs, medians, several = medians_of(group, name, measure.worst)
            finite = group[np.isfinite(group[name].astype(float))]
            if several and first:
                _draw_seeds(ax, finite, name, scale, hue)
            look = _look(table, name, hue, shape, table.size)
            if table.coloured_by_outcome and first:
                look["marker"] = ""
            look |= {"zorder": 4 if first else 3, "gid": f"median:{name}"}
            ax.plot(lrs, scale.shown(medians), **look)
            if table.coloured_by_outcome and first:
                _draw_outcomes(ax, table, lrs, scale.shown(medians))
            at, values = lrs[np.isfinite(medians)], medians[np.isfinite(medians)]
            if first:
                at, values = finite["lr"].to_numpy(float), finite[name].to_numpy(float)
            frame.draw_all_edges(ax, at, values, scale, hue)
    for row in pruned(table.all).to_dict("records"):
        hue = table.hues[row["setting"]]
        at, value = np.array([row["lr"]]), np.array([row[AT_PRUNING]], dtype=float)
        cross = _cross(hue)
        cross.set_data(at, scale.shown(value))
        ax.add_line(cross)
        frame.draw_edges(ax, at, value, scale, hue)


def _draw_seeds(ax: Axes, finite: Any, name: str, scale: Scale, hue: str) -> None:
    """Draw each seed, and the band that they span."""
    look: Any = {"linestyle": "", "marker": ".", "color": hue, "alpha": 0.55}
    values = scale.shown(finite[name].to_numpy(float))
    ax.plot(finite["lr"], values, gid=f"seeds:{name}", **look)
    by_lr = finite.groupby("lr")[name]
    lrs = np.array([float(lr) for lr in by_lr.groups])
    low, high = (scale.shown(ends.to_numpy(float)) for ends in (by_lr.min(), by_lr.max()))
    look = {"color": hue, "alpha": 0.15, "linewidth": 0}
    ax.fill_between(lrs, low, high, gid=f"band:{name}", **look)


def _draw_outcomes(ax: Axes, table: EndTable, lrs: np.ndarray, shown: np.ndarray) -> None:
    """Draw marks in the outcome's colour and shape over the medians."""
    outcomes = next(iter(ribbons_of(table).values()), {})
    found = np.array([outcomes.get(float(lr)) or "not compared" for lr in lrs])
    for outcome in (name for name in OUTCOMES if name in found):
        mark = style.outcome_mark(outcome, table.size + 2)
        mark.set_data(lrs[found == outcome], shown[found == outcome])
        mark.set_markeredgewidth(1.4 if OUTCOMES[outcome].shape == "x" else 0.8)
        mark.set(zorder=5, gid=f"outcome:{outcome}")
        ax.add_line(mark)


def _cross(colour: str) -> Line2D:
    """Return the mark of a pruned run."""
    look: Any = {"linestyle": "", "marker": "+", "markersize": 6, "mew": 1.1, "alpha": 0.75}
    return key(colour, zorder=2.5, gid="pruned", **look)


# --- the recommendation ---------------------------------------------------------------------------


def _recommended(answers: "Sequence[Answer]") -> tuple[float, float, float] | None:
    """Return the best lr of all that is drawn, and the ends of the range that is as good."""
    from lrlab.verdicts.recommend import comparable

    if not answers or answers[0].best_lr is None or not comparable(answers):
        return None
    best = answers[0].best_lr
    return (best, *(answers[0].as_good or (best, best)))


def draw_recommended(
    ax: Axes, answers: "Sequence[Answer]", best_by_objective: tuple[str, float] | None = None
) -> None:
    """Shade the range that does as well as the best lr, and draw a line at the best."""
    found = _recommended(answers)
    if best_by_objective is not None:
        ax.axvline(best_by_objective[1], **_BEST_LINE, zorder=1.5, gid="best")
    if found is None:
        return
    best, low, high = found
    left, right = ax.get_xlim()
    if high <= low:  # a single lr gets a narrow band
        low, high = (best * frame.ratio(left, right, share) for share in (-0.008, 0.008))
    ax.axvspan(low, high, color=RECOMMENDED, alpha=0.55, linewidth=0, zorder=0.5, gid="recommended")
    if best_by_objective is None:
        ax.axvline(best, **_BEST_LINE, zorder=1.5, gid="best")


def best_handles(table: EndTable, answers: "Sequence[Answer]") -> Handles:
    """Return legend entries of the recommendation; it names its loss if another series decides."""
    by = "" if table.decides and table.series[0] == table.judged_by else table.judged_by
    found = recommended_handle(answers, by.replace("_", " "))
    if table.best_by_objective is None:
        return found
    return [*found, (Line2D([], [], **_BEST_LINE), table.best_by_objective[0])]


def recommended_handle(answers: "Sequence[Answer]", by: str = "") -> Handles:
    """Return the legend entry of the recommended lr, with the loss it rests on; none without."""
    found = _recommended(answers)
    if found is None:
        return []
    best, low, high = found
    where = "".join(f"{value}, " for value in answers[0].settings.values())
    where = "" if pooled.search_of(answers) else where  # a search has too many for a line
    text = f"recommended{f' by {by}' if by else ''}: {where}lr {style.lr_word(best)}"
    if low < high:
        text += f"; as good from {style.lr_word(low)} to {style.lr_word(high)}"
    return [(style.patch(RECOMMENDED), text)]
