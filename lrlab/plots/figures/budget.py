"""Draw schedules next to each other: the same number of steps, the same axes."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrlab.plots import frame, reach, runs, style
from lrlab.plots.figures.curves import Bundle, bundle, lr_y
from lrlab.plots.parts import bar_room, draw_lr_bar
from lrlab.plots.runs import Run
from lrlab.plots.sheet import Handles, Panels, cut_to, head, sheet
from lrlab.plots.style import DARK, key
from lrlab.plots.tables import NothingToDraw
from lrlab.verdicts import loss_kinds

PANELS = 8  # up to so many schedules; more are counted, not drawn
_COLUMNS = 4
_BEST_DASH = (0, (5, 2))  # of the line at the lowest loss of all


@dataclass(frozen=True)
class _Schedule:
    """One schedule's runs, and its best lr: the one with the lowest median end over its seeds."""

    name: str
    runs: list[Run]
    best: tuple[str, str] | None  # `Run.kind` of the best runs; None: every lr failed
    best_lr: float
    end: float  # their median end loss, see _ends
    others: str  # their other settings, as text


@reach.within
def schedules(
    curves: pd.DataFrame, verdicts: pd.DataFrame | None = None, *, title: str | None = None
) -> Figure:
    """Draw one column a schedule: its loss curves over its learning rates, on the same axes.

    curves: as for `loss_curves`, with schedule and lr_at_step. Each value of a schedule's settings
    ("schedule.gamma") is a schedule of its own.
    verdicts: as from `lrlab.verdicts.judging.verdicts`: outcomes at the ends of the curves.

    Only runs with the most common number of steps are compared; the number of others is shown.
    Curves are moving averages of the mini-batch loss. Thick ones are the schedule's best lr and
    other settings: those with the lowest median end_loss of the verdicts over the seeds. A lost
    seed counts as infinitely bad. Without verdicts, the moving average at the end decides.

    Raises:
        NothingToDraw: there is only one schedule, losses of several kinds, or a column is missing.
    """
    runs.need(curves, "schedule", "lr_at_step")
    own = ["schedule", *(str(n) for n in curves.columns if str(n).startswith("schedule."))]
    each = curves.drop_duplicates("run").set_index("run")
    names, _ = style.settings(each.reindex(columns=own))
    others, _ = style.settings(each.drop(columns=own))
    if len(set(names)) < 2:
        raise NothingToDraw(f"all runs have the same schedule ({style.constant(each, 'schedule')})")
    rows: Sequence[Mapping[Any, Any]] = each.to_dict("records")
    if why := loss_kinds.incomparable(rows, "their losses"):
        raise NothingToDraw(why)
    drawn = bundle(curves, verdicts)
    states = each["state"].to_dict() if "state" in each else {}
    finished = {run for run in each.index if states.get(run, "finished") == "finished"}
    lengths = Counter(run.last_step for run in drawn.runs if run.run in finished)
    budget = lengths.most_common(1)[0][0] if lengths else math.inf
    equal = [
        run
        for run in drawn.runs
        if run.last_step == budget or (run.last_step < budget and run.run not in finished)
    ]
    groups: dict[str, list[Run]] = {}
    for run in equal:
        groups.setdefault(str(names[run.run]), []).append(run)
    if len(groups) < 2:
        raise NothingToDraw("no two schedules were trained for the same number of steps")
    ends, loss = _ends(drawn, verdicts)
    found = [_schedule(name, group, ends, others) for name, group in sorted(groups.items())]
    return _figure(curves, drawn, found, loss, budget, len(drawn.runs) - len(equal), title)


def _ends(drawn: Bundle, verdicts: pd.DataFrame | None) -> tuple[dict[Any, float], str]:
    """Return by run the loss that ranks it, as in the answer, and which loss that is."""
    if verdicts is not None and "end_loss" in verdicts:
        pairs = zip(verdicts["run"], verdicts["end_loss"].astype(float), strict=True)
        ends = {run: math.inf if math.isnan(end) else end for run, end in pairs}
        loss = style.constant(verdicts, "judged_by") or "loss"
        name = {"val_loss": "validation loss", "train_loss": "train loss"}.get(str(loss), "loss")
    else:
        ends = {
            run: float(smooth[-1]) if len(smooth) else math.inf
            for run, smooth in drawn.smooths.items()
        }
        name = "train loss"
    lost = [run.run for run in drawn.runs if run.mark or run.pruned]
    return ends | dict.fromkeys(lost, math.inf), name


def _schedule(name: str, group: list[Run], ends: Mapping[Any, float], others: Any) -> _Schedule:
    apart = ""
    best: tuple[str, str] | None = None
    best_lr, lowest = math.nan, math.inf
    for kind, members in runs.kinds(group).items():
        end = float(np.median([ends.get(run.run, math.inf) for run in members]))
        if end < lowest:
            best, best_lr, lowest = kind, members[0].lr, end
            apart = str(others[members[0].run])
    return _Schedule(name, group, best, best_lr, lowest, apart)


def _figure(
    curves: pd.DataFrame,
    drawn: Bundle,
    found: list[_Schedule],
    loss: str,
    budget: float,
    others: int,
    title: str | None,
) -> Figure:
    shown = found[:PANELS]
    columns = min(_COLUMNS, len(shown))
    if len(shown) > _COLUMNS:
        columns = math.ceil(len(shown) / 2)
    bands = math.ceil(len(shown) / columns)
    subtitle = style.subtitle(curves, drawn.blended)
    if others:
        subtitle += f" · {others} with another number of steps not drawn"
    if len(found) > len(shown):
        subtitle += f" · {len(found) - len(shown)} more schedules not drawn"
    outcomes = runs.by_lr(drawn.runs)
    page = sheet(
        title or _title(found, budget),
        subtitle,
        Panels(
            rows=(2.1, 0.95) * bands,
            columns=columns,
            above=(0.5, 0.0) + (0.72, 0.0) * (bands - 1),
            between=0.1,
            # the last number of one axis is next to the first of the next
            beside=0.16 if columns < 3 else 0.34,
        ),
        handles=_handles(drawn, loss),
        bar=bar_room(drawn.norm, outcomes),
    )
    best = min((one.end for one in found), default=math.inf)
    for place, one in enumerate(shown):
        band, column = divmod(place, columns)
        above, below = page.panels[2 * band][column], page.panels[2 * band + 1][column]
        _draw_losses(above, one, drawn, best)
        frame.step_axis(above, drawn.last_step, unit=drawn.unit)
        above.set_xlabel("")
        above.tick_params(labelbottom=False)
        frame.finish_y(above, drawn.scale, most=6)
        _draw_lrs(below, one, drawn)
        frame.step_axis(below, drawn.last_step, unit=drawn.unit)
        below.xaxis.get_major_locator().set_params(nbins=3 if columns < 4 else 2)  # type: ignore[attr-defined]
        lr_y(below, drawn.runs, most=3)
        below.set_ylabel("lr")
        above.set_ylabel(frame.loss_label(curves))
        if column:
            for ax in (above, below):
                ax.set_ylabel("")
                ax.tick_params(labelleft=False)
        if place + columns < len(shown):
            below.set_xlabel("")
        head(above, cut_to(one.name, page.width, "bold"), line=1, weight="bold")
        head(above, cut_to(_best_words(one), page.width + (0.3 if columns > 2 else 0.1)))
    for place in range(len(shown), bands * columns):
        band, column = divmod(place, columns)
        for row in (2 * band, 2 * band + 1):
            page.panels[row][column].remove()
    draw_lr_bar(page, drawn.norm, drawn.lrs, outcomes)
    return page.figure


def _best_words(one: _Schedule) -> str:
    if one.best is None:
        return "every lr failed"
    # The number comes first, so that it is not cut off.
    return f"{one.end:.3g} at lr {one.best_lr:.3g}" + (f", {one.others}" if one.others else "")


def _title(found: Sequence[_Schedule], budget: float) -> str:
    length = f", {budget:,.0f} steps each" if math.isfinite(budget) else ""
    best = min(found, key=lambda one: one.end)
    lowest = "" if best.best is None else f": {best.name} ends lowest"
    return f"Schedules side by side{length}{lowest}"


def _handles(drawn: Bundle, loss: str) -> Handles:
    found = [
        (key(linewidth=2.4), "the best lr of each schedule"),
        (key(linewidth=0.9), "other lrs"),
        (key(DARK, linewidth=1, linestyle=_BEST_DASH), f"lowest {loss} at the end"),
    ]
    if lost := {run.mark for run in drawn.runs if run.mark}:
        word = "became non-finite" if lost == {"nonfinite"} else "ended early"
        found.append((key(marker="x", markersize=7, linestyle="", mew=1.6), word))
    return found + frame.reference_handles(drawn.references)


def _draw_losses(ax: Axes, one: _Schedule, drawn: Bundle, best: float) -> None:
    is_best: Any = {"linewidth": 2.2, "alpha": 1.0, "zorder": 4, "gid": "best"}
    is_other: Any = {"linewidth": 0.9, "alpha": 0.6, "zorder": 3, "gid": "other"}
    for run in one.runs:
        colour, look = drawn.colour(run.lr), is_best if run.kind == one.best else is_other
        ax.plot(run.step, drawn.scale.shown(drawn.smooths[run.run]), color=colour, **look)
        if run.mark:
            frame.mark_lost(ax, run.mark_step, 0.955, colour, run.mark)
    frame.draw_references(ax, drawn.references)
    if math.isfinite(best):
        line: Any = {"color": DARK, "linewidth": 1, "linestyle": _BEST_DASH}
        ax.axhline(best, zorder=2.9, gid="best of all", **line)


def _draw_lrs(ax: Axes, one: _Schedule, drawn: Bundle) -> None:
    seen = set()
    for run in one.runs:
        if run.kind in seen and not run.mark:
            continue  # seeds share their lr, or nearly so
        seen.add(run.kind)
        positive = run.lr_used > 0
        look: Any = {
            "color": drawn.colour(run.lr),
            "linewidth": 2.2 if run.kind == one.best else 0.9,
        }
        ax.plot(run.lr_step[positive], run.lr_used[positive], gid="lr", **look)
