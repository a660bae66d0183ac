"""Draw lines, marks, bands and outcomes in the figures of ends against lr, with their legend."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lrlab.plots import frame, style
from lrlab.plots.frame import Scale
from lrlab.plots.over_lr import pooled
from lrlab.plots.over_lr.by_lr_table import AT_PRUNING, LOSS, EndTable, Measure, medians_of, pruned
from lrlab.plots.style import DARK, GREY, OUTCOMES

RIBBONS = 6  # up to so many settings get a ribbon of outcomes each

_BESIDES = 0.6  # size of the marks of the other series, relative to those of the one that decides
# Look of the other series: dashes, and whether the marks are filled.
_DASHES: Mapping[str, Any] = {
    "val": (0, (7, 1.5, 1.2, 1.5)),
    "train": (0, (5, 1.8)),
    "test": (0, (1.2, 1.7)),
}


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
    if table.search is not None:
        return pooled.point_handles(
            *_points(table), table.best_run, measure.word_of(table.series[0]), measure is LOSS
        )
    solid = "" if table.blended else "-"
    found: list[tuple[Line2D, str]] = []
    for name in table.series:
        look = _look(table, name, GREY, "o", markersize=6.0)
        decides = " (decides)" if table.decides and name == table.series[0] else ""
        found.append((Line2D([], [], **look), f"{measure.word_of(name)}{decides}"))
    if _several(table):
        dot = Line2D([], [], color=GREY, marker=".", linestyle="")
        found.append((dot, "one seed (lines: medians)"))
    if len(table.hues) > 1:
        found += [
            (
                Line2D([], [], color=hue, marker=table.shapes[key], linewidth=1.6, linestyle=solid),
                key,
            )
            for key, hue in table.hues.items()
        ]
    if len(pruned(table.all)):
        found.append((_cross(GREY), f"pruned: {measure.word_of('val')} at its end"))
    if table.outcomes and ribbons_of(table):
        judged = [table.outcomes.get(run, "") for run in table.on_axis["run"]]
        # Outcomes on the rail have its own marks, and are in the ribbon with their name.
        found += style.outcome_handles(judged)
    return found


def _several(table: EndTable) -> bool:
    return style.distinct(table.all, "seed") > 1


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
        look |= {"markersize": _BESIDES * markersize, "mfc": "white" if part == "test" else hue}
    return look | ({"linestyle": ""} if table.blended else {})


def _points(table: EndTable) -> tuple[Any, Any]:
    """Draw a search: the configurations that ended and the pruned runs, at lr and value of each."""
    found = pooled.points(table.on_axis, table.series[0], table.outcomes, table.names)
    return found, pruned(table.all).rename(columns={AT_PRUNING: "value"})


def draw(ax: Axes, table: EndTable, measure: Measure, scale: Scale) -> None:
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
            ax.plot(
                lrs, scale.shown(medians), zorder=4 if first else 3, gid=f"median:{name}", **look
            )
            if table.coloured_by_outcome and first:
                _draw_outcomes(ax, table, lrs, scale.shown(medians))
            at, values = lrs[np.isfinite(medians)], medians[np.isfinite(medians)]
            if first:
                at, values = finite["lr"].to_numpy(float), finite[name].to_numpy(float)
            for one in range(len(values)):
                frame.draw_edges(ax, at[one : one + 1], values[one : one + 1], scale, hue)
    for row in pruned(table.all).to_dict("records"):
        hue = table.hues[row["setting"]]
        value = np.array([row[AT_PRUNING]], dtype=float)
        cross = _cross(hue)
        cross.set_data([row["lr"]], scale.shown(value))
        ax.add_line(cross)
        frame.draw_edges(ax, np.array([row["lr"]]), value, scale, hue)


def _draw_seeds(ax: Axes, finite: Any, name: str, scale: Scale, hue: str) -> None:
    """Draw each seed, and the band that they span."""
    ax.plot(
        finite["lr"],
        scale.shown(finite[name].to_numpy(float)),
        linestyle="",
        marker=".",
        color=hue,
        alpha=0.55,
        gid=f"seeds:{name}",
    )
    by_lr = finite.groupby("lr")[name]
    lrs = np.array([float(lr) for lr in by_lr.groups])
    ax.fill_between(
        lrs,
        scale.shown(by_lr.min().to_numpy(float)),
        scale.shown(by_lr.max().to_numpy(float)),
        color=hue,
        alpha=0.15,
        linewidth=0,
        gid=f"band:{name}",
    )


def _draw_outcomes(ax: Axes, table: EndTable, lrs: np.ndarray, shown: np.ndarray) -> None:
    """Draw marks in the outcome's colour and shape over the medians."""
    outcomes = next(iter(ribbons_of(table).values()), {})
    for outcome, look in OUTCOMES.items():
        mine = [
            i for i, lr in enumerate(lrs) if (outcomes.get(float(lr)) or "not compared") == outcome
        ]
        if not mine:
            continue
        is_line = look.shape == "x"
        ax.plot(
            lrs[mine],
            shown[mine],
            linestyle="",
            marker=look.shape,
            markersize=table.size + 2,
            color=look.colour,
            mec=look.colour if is_line else "white",
            mew=1.4 if is_line else 0.8,
            zorder=5,
            gid=f"outcome:{outcome}",
        )


def _cross(colour: str) -> Line2D:
    """Draw a pruned run among the values at the end."""
    cross = Line2D([], [], color=colour, linestyle="", marker="+", markersize=6, alpha=0.75)
    cross.set(markeredgewidth=1.1, zorder=2.5, gid="pruned")
    return cross
