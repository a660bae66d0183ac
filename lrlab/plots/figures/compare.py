"""Draw sweeps next to each other: a panel each, on the same axes."""

import math

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lrlab.plots import frame, reach, runs, style
from lrlab.plots.figures.curves import bundle, draw_curves, handles
from lrlab.plots.parts.colour_bar import bar_room, draw_lr_bar
from lrlab.plots.sheet import Panels, cut_to, head, sheet


@reach.within
def side_by_side(
    curves: pd.DataFrame, verdicts: pd.DataFrame | None = None, *, title: str | None = None
) -> Figure:
    """Draw the loss curves of several sweeps, a panel each, with one scale and one colour an lr.

    curves: as for `loss_curves`, with a column sweep; a run belongs to one sweep.
    verdicts: as from `lrlab.verdicts.judging.verdicts`: outcomes at the ends of the curves.

    Each panel is as `loss_curves` draws it; runs that became non-finite or failed have a cross at
    its upper edge. Its heading has the sweep's name and how its runs ended.

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
            rows=(3.0 if bands == 1 else 2.4,) * bands,
            columns=columns,
            above=0.42,
            between=0.7,
            beside=0.16,
        ),
        handles=handles(drawn, with_references=True),
        bar=bar_room(drawn.norm, {}),  # an lr can mean another outcome in each sweep
    )
    for place in range(columns * bands):
        band, column = divmod(place, columns)
        ax = page.panels[band][column]
        if place >= len(names):
            ax.remove()
            continue
        mine = [run for run in drawn.runs if of_run[run.run] == names[place]]
        draw_curves(ax, drawn, mine)
        for run in mine:
            if run.mark:
                ax.plot(
                    [run.mark_step],
                    [0.965],
                    transform=ax.get_xaxis_transform(),
                    color=drawn.colour(run.lr),
                    marker="x" if run.mark == "nonfinite" else "s",
                    markersize=6,
                    markeredgewidth=1.6,
                    linestyle="",
                    clip_on=False,
                    zorder=6,
                    gid=run.mark,
                )
        frame.step_axis(ax, drawn.last_step, unit=drawn.unit)
        ax.xaxis.set_major_locator(MaxNLocator(5 if columns < 3 else 3, integer=True))
        frame.finish_y(ax, drawn.scale)
        if column:
            ax.tick_params(labelleft=False)
        else:
            ax.set_ylabel(frame.loss_label(curves))
        lost = sum(bool(run.mark) for run in mine)
        told = f"{len(mine)} runs" + (f", {lost} lost" if lost else "")
        head(ax, cut_to(names[place], page.width, weight="bold"), line=1, weight="bold")
        head(ax, cut_to(told, page.width))
    if drawn.norm is not None:
        draw_lr_bar(page, drawn.norm, drawn.lrs)
    return page.figure
