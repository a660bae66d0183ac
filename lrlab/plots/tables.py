"""Name the figures, their captions and their input tables, without matplotlib.

So a report or a command's --help gets names and captions at no cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from lrlab.errors import NotWritten
    from lrlab.verdicts.answer import Answer


class NothingToDraw(Exception):
    """A table lacks a figure's data. The message is the reason, half a line of prose."""


@dataclass(frozen=True)
class Tables:
    """The tables of one sweep, or of several together, as `lrlab.tables.frames` returns them.

    Attributes:
        runs: one row a run.
        curves: one row a recorded step.
        verdicts: one row a run, as from `lrlab.verdicts.judging.verdicts`; None: not judged.
        branches: one row a step of a branch test; None: there was none.
        lines: losses along one update, three learning rates; None: not measured.
        surface: losses on a plane in weight space; None: not measured.
        paths: the runs' paths projected onto that plane; None: not measured.
        answers: as from `lrlab.verdicts.recommend.recommend`, the best first.
        objective: names the sweep's best run, see `lrlab.config.schema.OBJECTIVES`.
    """

    runs: pd.DataFrame
    curves: pd.DataFrame
    verdicts: pd.DataFrame | None = None
    branches: pd.DataFrame | None = None
    lines: pd.DataFrame | None = None
    surface: pd.DataFrame | None = None
    paths: pd.DataFrame | None = None
    answers: Sequence[Answer] = ()
    objective: str = "val_loss"


@dataclass(frozen=True)
class Drawn:
    """The results of `draw`.

    Attributes:
        paths: the files, in the order of the figures.
        left_out: the reason by the name of each figure without data.
        failed: the error, one line, by the name of each figure that could not be drawn.
        unwritten: the first error of writing or removing a file.
    """

    paths: list[Path] = field(default_factory=list)
    left_out: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    unwritten: NotWritten | None = None


# Each figure's name, and what it shows, in a few words.
SUMMARIES: Mapping[str, str] = {
    "loss_curves": "loss against step, coloured by learning rate",
    "lr_and_loss": "loss against step over the learning rate of the same step",
    "lr_against_loss": "end loss against learning rate, with the recommended range",
    "lr_against_accuracy": "end accuracy against learning rate, likewise",
    "lr_by_setting": "the outcome of every learning rate and the best one, by setting",
    "importances": "how much lr and each other setting of a search mattered",
    "to_target": "steps and seconds to the target loss against learning rate",
    "mechanics": "how far single steps go: alpha and the stability ratio",
    "heat_map": "the loss as a map of learning rate × step",
    "branch_fan": "what a shorter and a longer step would make of each run's end",
    "schedules": "schedules side by side, with equal numbers of steps",
    "textbook": "one step at a small, a good and a large learning rate",
    "surface": "the runs' ways over a plane of the loss",
}
# How to read each figure.
CAPTIONS: Mapping[str, str] = {
    "loss_curves": (
        "The loss of every run at every step, coloured by learning rate. Faint is what was "
        "recorded, the line its moving average, the band the spread over seeds. Below the dashed "
        "line a network knows more than guessing tells. A symbol at a curve's end is its verdict; "
        "runs that became non-finite or failed stand on the rail above."
    ),
    "lr_and_loss": (
        "The loss above, the learning rate of the same step below. A dotted line marks where the "
        "schedule cuts the rate: a loss that falls right there was kept up by the noise of large "
        "steps, not by a lack of training."
    ),
    "lr_against_loss": (
        "Where training ended, against the learning rate: too small on the left, too large on the "
        "right, the useful rates in between. The thick line is the loss that decides, of the data "
        "held out for validation; train and test loss are thin, and only reported. The strip names "
        "the verdicts, the shaded range does as well as the best, the band spans the seeds, and "
        "runs without an end loss stand on the rail. Of a search over several settings the dots "
        "are its configurations, and the line is the lowest of them in each range of rates."
    ),
    "lr_against_accuracy": (
        "The same with accuracy; the best rate is that of the loss, unless the objective is "
        "another. Near 100 % the axis is stretched, so that equal distances are "
        "equal ratios of errors: 90 to 99 % is as far as 99 to 99.9 %."
    ),
    "lr_by_setting": (
        "One row a setting (optimizer, batch size, width, ...): what each learning rate did there, "
        "a ring around the best, a bar over those that do as well. Where the rings slant, the best "
        "learning rate moves with the setting."
    ),
    "importances": (
        "How much each setting of a search mattered for a run to be among the best quarter, in "
        "percent of all (PED-ANOVA). It says which settings to search on, not which values are "
        "good; lrs that are all too large or too small make the lr matter more."
    ),
    "to_target": (
        "How many steps, and how many seconds of training, each learning rate needed to reach the "
        "target loss. Lower is faster; rates that never came there stand on the rail."
    ),
    "mechanics": (
        "How single steps behave. Alpha above: −1 is no progress, 0 lands exactly at the minimum "
        "along the step, +1 on the other side at the same height. The stability ratio below: above "
        "1 a step climbs out of the valley that it crosses, from 0.5 to 1 it jumps from wall to "
        "wall and still comes down. The dark strip around 1 is the edge of stability."
    ),
    "heat_map": (
        "One row a learning rate, one column a moment of training, darker is a lower loss. The "
        "dark tongue is where learning happens fast; black rows ended as non-finite."
    ),
    "branch_fan": (
        "From the end of each run, training went on with a tenth of the step, the same and three "
        "times the step, on the same data. Above: what each gains. What the tenth gains, a "
        "decaying schedule would still win; if only three times the step gains, the loss is still "
        "falling. Whether the rate was too large or too small for the budget this does not tell: "
        "the end losses do."
    ),
    "schedules": (
        "Every schedule in a panel of its own, all with the same number of steps and on the same "
        "axes; its learning rate below its loss. Thick is the best rate of each schedule, and the "
        "dashed line the best of all."
    ),
    "textbook": (
        "The textbook's picture from real steps: the loss along the update that a small, a good "
        "and a large learning rate make of one and the same state and mini-batch. A step begins at "
        "the ring and lands at the dot; the dashed parabola is fitted to the loss and slope at "
        "both, and alpha is where the landing lies against its minimum."
    ),
    "surface": (
        "The loss on the plane in weight space that holds most of the runs' ways, and those ways "
        "over it. Small rates follow the slope, large ones cross the valley and bounce off its "
        "walls. A way leaves the plane as far as its share says."
    ),
}
NAMES = tuple(SUMMARIES)
OF_LANDSCAPE = ("textbook", "surface")  # drawn from lines, surface and paths
FORMATS = ("png", "svg", "pdf")
