"""Draw how many steps and seconds each lr needed to reach the target loss."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrlab.plots import frame, reach, runs, style
from lrlab.plots.over_lr import pooled
from lrlab.plots.over_lr.by_lr_marks import draw_recommended, recommended_handle
from lrlab.plots.over_lr.by_lr_table import DENSE, settings
from lrlab.plots.parts import draw_rail, rail_heading
from lrlab.plots.runs import Run
from lrlab.plots.sheet import Panels, sheet
from lrlab.plots.style import DARK, HUES, SHAPES, key
from lrlab.plots.tables import NothingToDraw

if TYPE_CHECKING:
    from lrlab.verdicts.answer import Answer


_TIED = 2  # if more lrs than this were equally fast, none is marked
_BESIDE = 0.008  # shift between two settings at one lr, as a share of the axis


@reach.within
def to_target(
    verdicts: pd.DataFrame, answers: "Sequence[Answer]" = (), *, title: str | None = None
) -> Figure:
    """Draw steps and seconds until the loss reached its target against lr; both are logarithmic.

    verdicts: as from `lrlab.verdicts.judging.verdicts`: columns run, lr, steps_to_target (inf:
    never). Optional: seconds_to_target, target_loss, unit, judged_by, seed, the settings. Without
    seconds their panel is left out.

    Points are runs. Lines join the medians over the seeds of an lr; a run that never reached the
    target counts as infinitely slow, and is marked on the rail. At one lr, settings are drawn a
    little apart, because many need the same number of steps from one evaluation to the next.

    Raises:
        NothingToDraw: there is no target, or no run to judge by it.
    """
    runs.need(verdicts, "run", "lr", "steps_to_target")
    table = verdicts.reset_index(drop=True)
    setting, blended = settings(table, answers)
    joined = pooled.search_of(answers) is None
    table = table.assign(setting=setting)
    steps = table["steps_to_target"].astype(float)
    judged: Any = table[steps.notna() & (table["lr"] > 0)]
    if judged.empty:
        raise NothingToDraw("no run has a target loss to reach")
    measures = [("steps_to_target", f"{style.constant(table, 'unit') or 'step'}s to target")]
    seconds = judged["seconds_to_target"] if "seconds_to_target" in judged else pd.Series()
    if len(style.finite(seconds.astype(float))):
        measures.append(("seconds_to_target", "seconds of training to target"))
    never = judged[np.isinf(judged["steps_to_target"].astype(float))]
    lost = [
        Run(run=row["run"], lr=float(row["lr"]), setting=row["setting"], mark="never")
        for row in never.to_dict("records")
    ]
    hues, shapes = style.looks(setting, HUES), style.looks(setting, SHAPES, shift=1)
    several = bool((judged.groupby(["lr", "setting"]).size() > 1).any())
    entries = []
    if len(hues) > 1:
        entries += [
            (key(hue, marker=shapes[name], linewidth=1.6), name) for name, hue in hues.items()
        ]
    if several:
        entries.append((key(marker="o", linewidth=1.6), "median of seeds"))
        entries.append((key(marker=".", linestyle=""), "one seed"))
    groups = [group for _, group in judged.groupby("setting")]
    if any(_fastest(_medians_to(group, name)) for group in groups for name, _ in measures):
        entries.append((key(DARK, marker="*", markersize=11, linestyle=""), "fastest"))
    entries += recommended_handle(answers)
    page = sheet(
        title or f"How long it took to reach {_target_words(judged)}",
        style.subtitle(table, blended),
        Panels(rows=(2.5,) * len(measures), between=0.2),
        rail=rail_heading([run.mark for run in lost], len(judged)),
        handles=entries,
    )
    for row, (name, label) in enumerate(measures):
        ax = page.panels[row][0]
        _draw_to_target(ax, judged, name, hues, shapes, several, joined)
        frame.lr_axis(ax, judged["lr"], label=row == len(measures) - 1)
        if row < len(measures) - 1:
            ax.tick_params(labelbottom=False)
        ax.set_ylabel(label)
        draw_recommended(ax, answers)
    draw_rail(page, [run.lr for run in lost], lost, lambda _lr: "#333333")
    return page.figure


def _target_words(judged: pd.DataFrame) -> str:
    # Runs that ended before their first evaluation are judged by the train loss.
    most = judged["judged_by"].mode() if "judged_by" in judged else pd.Series()
    loss = str(most.iloc[0] if len(most) else "loss").replace("_loss", " loss")
    targets = style.finite(judged["target_loss"].astype(float)) if "target_loss" in judged else []
    if not len(targets):
        return "the target loss"
    low, high = f"{min(targets):.3g}", f"{max(targets):.3g}"
    return f"a {loss} of {low}" if low == high else f"a {loss} of {low} to {high}"


def _medians_to(group: Any, name: str) -> Any:
    """Return by lr the median over its seeds; NaN if half of them never reached the target."""
    known = group[group[name].astype(float).notna()]
    return known.groupby("lr")[name].median().replace(math.inf, math.nan)


def _fastest(medians: Any) -> dict[float, float]:
    """Return the fastest lr and its median; none if many are equally fast."""
    lowest = medians.min()
    found = {float(lr): float(value) for lr, value in medians.items() if value == lowest}
    return found if len(found) <= _TIED else {}


def _draw_to_target(
    ax: Axes,
    judged: Any,
    name: str,
    hues: Mapping[str, str],
    shapes: Mapping[str, str],
    several: bool,
    joined: bool,
) -> None:
    values = judged[name].astype(float)
    reached = judged[np.isfinite(values)]
    low, high = frame.lr_limits(judged["lr"])
    for place, (setting, group) in enumerate(judged.groupby("setting", sort=True)):
        hue, shape = hues[str(setting)], shapes[str(setting)]
        beside = frame.ratio(low, high, _BESIDE * (place - (len(hues) - 1) / 2))
        group = group.assign(lr=group["lr"] * beside)
        there = _medians_to(group, name)
        if several:
            points = group[np.isfinite(group[name].astype(float))]
            look: Any = {"linestyle": "", "marker": ".", "color": hue, "alpha": 0.55}
            ax.plot(points["lr"], points[name], gid=f"seeds:{name}", **look)
        look = {"color": hue, "marker": shape, "markersize": 6 if len(there) <= DENSE else 4}
        look |= {"linewidth": 1.6 if joined else 0, "zorder": 3, "gid": f"median:{name}"}
        ax.plot(there.index.to_numpy(float), there.to_numpy(float), **look)
        if fastest := _fastest(there):
            look = {"linestyle": "", "marker": "*", "markersize": 13, "color": hue}
            look |= {"mec": "white", "zorder": 4, "gid": f"fastest:{name}"}
            ax.plot(list(fastest), list(fastest.values()), **look)
    positive = [float(value) for value in reached[name].astype(float) if value > 0]
    if positive:
        low, high = min(positive) / 1.35, max(positive) * 1.35
        frame.log_axis(ax.yaxis, low, high, most=6)
    frame.grid(ax)
