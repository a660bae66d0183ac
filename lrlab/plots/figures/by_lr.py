"""Draw the end loss and the accuracy of each run against its learning rate."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lrlab.plots import frame, reach, style
from lrlab.plots.frame import Reference, Scale
from lrlab.plots.over_lr.by_lr_marks import (
    best_handles,
    draw,
    draw_recommended,
    handles,
    ribbons_of,
)
from lrlab.plots.over_lr.by_lr_table import (
    ACCURACY,
    AT_PRUNING,
    LOSS,
    EndTable,
    Measure,
    end_table,
    medians_of,
    pruned,
)
from lrlab.plots.parts import draw_margin, draw_rail, draw_ribbon, rail_heading
from lrlab.plots.sheet import sheet
from lrlab.plots.tables import NothingToDraw

if TYPE_CHECKING:
    from lrlab.verdicts.answer import Answer

_FAR = 0.4  # if all end losses are below this share of the reference losses, these are not drawn


@reach.within
def lr_against_loss(
    runs: pd.DataFrame,
    verdicts: pd.DataFrame | None = None,
    answers: "Sequence[Answer]" = (),
    *,
    objective: str = "val_loss",
    title: str | None = None,
) -> Figure:
    """Draw validation, train and test loss at the end of training against lr, on logarithmic axes.

    Args:
        runs: as from `frames.runs`: columns run, lr. Optional: state, val_loss, train_loss,
            test_loss, seed, the settings, initial_loss and chance_loss. Without state, runs have
            finished unless their verdict is diverged. Without losses, the verdicts' end_loss and
            train_end_loss are drawn.
        verdicts: as from `lrlab.verdicts.judging.verdicts`. A ribbon names the outcomes along the
            lr, and with a single setting the marks have the outcome's colour and shape. The val
            loss of a finished run is then its end_loss, as in the recommendation.
        answers: as from `lrlab.verdicts.recommend.recommend`: the first one's range is shaded.
        objective: names the sweep's best run, see `lrlab.config.schema.OBJECTIVES`. If it is not
            the loss of the verdicts, the line and the legend give the best lr by the objective.

    Each setting (schedule, optimizer, ...) has a colour. The solid line with large marks is the
    loss that decides: the objective, else val loss, else train loss. Train loss is dashed, test
    loss dotted with open marks; with more than three settings they are left out. Lines join the
    medians over the seeds of an lr. A diverged run counts as infinitely bad, so a line breaks where
    half of the seeds diverged. Dots and band show the seeds of the loss that decides. The rail
    marks diverged and failed runs at their lr. A cross is the last val_loss of a pruned run; no
    line joins it, because it had fewer epochs.

    In a search over several settings, dots are the configurations that ended, the star the best,
    and the step line the lowest in each range of lrs. There is no ribbon.

    Raises:
        NothingToDraw: there are no runs, or a column is missing.
    """
    table = end_table(runs, verdicts, LOSS, objective, answers)
    finals = _finals(table, LOSS)
    references = _near(frame.references(table.all), finals)
    scale = frame.loss_scale(finals, references)
    title = title or "Loss at the end of training against learning rate"
    label = f"loss at the end{style.unit(table.all)}"
    edges = frame.edge_handles(finals, scale)
    return _figure(table, LOSS, scale, references, edges, answers, title, label)


@reach.within
def lr_against_accuracy(
    runs: pd.DataFrame,
    verdicts: pd.DataFrame | None = None,
    answers: "Sequence[Answer]" = (),
    *,
    objective: str = "val_loss",
    title: str | None = None,
) -> Figure:
    """Draw validation, train and test accuracy at the end of training against lr.

    It is drawn as `lr_against_loss` is. The recommendation is by the loss, and the legend says so.

    runs: columns run, lr, and at least one of val_acc, train_acc, test_acc, as shares. Optional:
    state, num_classes, chance_loss, seed, the settings.

    The y axis is in percent. If a run comes near 100, the axis is stretched towards 100, so that
    equal lengths are equal ratios of errors. A perfect run is at the upper edge.

    Raises:
        NothingToDraw: there are no runs, none has an accuracy, or a column is missing.
    """
    percent = runs.copy()
    for name in ACCURACY.names:
        if name in percent:
            percent[name] = 100 * percent[name].astype(float)
    table = end_table(percent, verdicts, ACCURACY, objective, answers)
    finals = _finals(table, ACCURACY)
    if not any(map(len, finals)):
        raise NothingToDraw("no run has an accuracy")
    chances = _chance_accuracies(table.all)
    scale = frame.accuracy_scale(finals, chances)
    references = [Reference("chance", x, x, f"{x:.3g} % (guessing)") for x in chances]
    title = title or "Accuracy at the end of training against learning rate"
    label = f"accuracy at the end (%{', stretched towards 100' * (scale.kind == 'accuracy')})"
    return _figure(table, ACCURACY, scale, references, [], answers, title, label)


def _finals(table: EndTable, measure: Measure) -> list[np.ndarray]:
    """Return all drawn values: each run's by the loss that decides, medians of others, pruned."""
    first, *others = table.series
    medians = [
        style.finite(medians_of(group, name, measure.worst)[1])
        for _, group in table.on_axis.groupby("setting", sort=True)
        for name in others
    ]
    own = style.finite(table.all[first].astype(float))
    return [own, *medians, style.finite(pruned(table.all)[AT_PRUNING])]


def _figure(
    table: EndTable,
    measure: Measure,
    scale: Scale,
    references: Sequence[Reference],
    edges: list[tuple[Line2D, str]],
    answers: "Sequence[Answer]",
    title: str,
    label: str,
) -> Figure:
    """Draw the runs' ends against lr; label: the name of the y axis."""
    margin = frame.reference_labels(references)
    not_drawn = len(table.all) - len(table.on_axis)
    subtitle = style.subtitle(table.all, table.blended)
    subtitle += f" · {not_drawn} with lr 0 not drawn" if not_drawn else ""
    left_out = f"{' and '.join(table.left_out)} {measure.word}"
    subtitle += f" · {left_out} not drawn" if table.left_out else ""
    page = sheet(
        title,
        subtitle,
        rail=rail_heading([run.mark for run in table.lost], len(table.all)),
        ribbons=[name if len(table.hues) > 1 else "" for name in ribbons_of(table)],
        margin=margin,
        handles=[*handles(table, measure), *edges, *best_handles(table, answers)],
    )
    ax = page.axes
    draw(ax, table, measure, scale)
    frame.draw_references(ax, references)
    frame.lr_axis(ax, table.on_axis["lr"])
    ax.set_ylabel(label)
    frame.finish_y(ax, scale)
    draw_recommended(ax, answers, table.best_by_objective)
    draw_margin(ax, margin)
    draw_rail(page, [run.lr for run in table.lost], table.lost, lambda _lr: "#333333")
    low, high = ax.get_xlim()
    for ribbon, outcomes in zip(page.ribbons, ribbons_of(table).values(), strict=True):
        draw_ribbon(ribbon, outcomes, low, high)
    return page.figure


def _near(references: list[Reference], finals: Sequence[np.ndarray]) -> list[Reference]:
    """Return the references near or below a run's end; others would flatten the differences.

    If two lie far apart, as for targets with an offset, the upper one is left out.
    """
    highest = max([float(values.max()) for values in finals if len(values)], default=math.inf)
    lowest = min([one.high for one in references if one.high > 0], default=math.inf)
    near = [one for one in references if highest >= _FAR * one.low]
    return [one for one in near if not one.low > frame.APART * lowest]


def _chance_accuracies(table: pd.DataFrame) -> list[float]:
    """Return the accuracies of guessing in percent: the share of the largest class, if known."""
    if "majority_share" in table and len(shares := style.finite(table["majority_share"])):
        return sorted({100 * float(share) for share in shares})
    if "num_classes" in table and len(classes := style.finite(table["num_classes"])):
        return sorted({100 / float(count) for count in classes if count >= 2})
    return []
