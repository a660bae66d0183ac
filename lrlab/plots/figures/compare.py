"""Draw sweeps next to each other: a panel each, on the same axes."""

import math

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lrlab.plots import frame, reach, runs, style
from lrlab.plots.figures.curves import bundle, draw_curves, handles
from lrlab.plots.parts import bar_room, draw_lr_bar
from lrlab.plots.sheet import Panels, cut_to, head, sheet


@reach.within
def side_by_side(
    curves: pd.DataFrame, verdicts: pd.DataFrame | None = None, *, title: str | None = None
) -> Figure:
    """Draw the loss curves of several sweeps, a panel each, with one scale and one colour an lr.

    curves: as for `loss_curves`, with a column sweep; a run belongs to one sweep.
    verdicts: as from `lrlab.verdicts.judging.verdicts`: outcomes at the ends of the curves.

    Each panel is as `loss_curves` draws it. A cross or a square at its upper edge marks a run that
    became non-finite or failed. Its heading has the sweep's name and counts its runs.

    Raises:
        NothingToDraw: there are no runs, or a column is missing.
    """
    runs.need(curves, "sweep", "run")
    of_run = curves.drop_duplicates("run").set_index("run")["sweep"]
    drawn = bundle(curves.drop(columns="sweep"), verdicts)
    names = list(dict.fromkeys(of_run))
    columns = min(3, len(names)) if len(names) != 4 else 2
    bands = math.ceil(len(names) / columns)
    page = sheet(
        title or f"Train loss against {drawn.unit}, {len(names)} sweeps side by side",
        style.subtitle(curves, drawn.blended),
        Panels(
            (3.0 if bands == 1 else 2.4,) * bands, columns, between=0.7, beside=0.16, above=0.42
        ),
        handles=handles(drawn, with_references=True),
        bar=bar_room(drawn.norm, {}),  # an lr can mean another outcome in each sweep
    )
    for place, (ax, name) in enumerate(zip(page.places(len(names)), names, strict=True)):
        mine = [run for run in drawn.runs if of_run[run.run] == name]
        lost = [run for run in mine if run.mark]
        draw_curves(ax, drawn, mine)
        for run in lost:
            marker = "x" if run.mark == "nonfinite" else "s"
            frame.mark_lost(ax, run.mark_step, 0.965, drawn.colour(run.lr), run.mark, marker)
        frame.step_axis(ax, drawn.last_step, unit=drawn.unit)
        ax.xaxis.set_major_locator(MaxNLocator(5 if columns < 3 else 3, integer=True))
        frame.finish_y(ax, drawn.scale)
        if place % columns:
            ax.tick_params(labelleft=False)
        else:
            ax.set_ylabel(frame.loss_label(curves))
        count = f"{len(mine)} runs" + (f", {len(lost)} lost" if lost else "")
        head(ax, cut_to(name, page.width, weight="bold"), line=1, weight="bold")
        head(ax, cut_to(count, page.width))
    draw_lr_bar(page, drawn.norm, drawn.lrs)
    return page.figure
