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
    "lr_and_loss": "loss against step, with the learning rate of each step below",
    "lr_against_loss": "end loss against learning rate, with the recommended range",
    "lr_against_accuracy": "end accuracy against learning rate, with the recommended range",
    "lr_by_setting": "the outcome of every learning rate and the best one, by setting",
    "importances": "how much lr and each other setting of a search mattered",
    "to_target": "steps and seconds to the target loss against learning rate",
    "mechanics": "how far single steps go: alpha and the stability ratio",
    "heat_map": "the loss as colour over step and learning rate",
    "branch_fan": "the loss after more training with shorter and longer steps",
    "schedules": "schedules side by side, with equal numbers of steps",
    "textbook": "one step at a small, a good and a large learning rate",
    "surface": "the loss around the runs' paths through weight space",
}
# How to read each figure.
CAPTIONS: Mapping[str, str] = {
    "loss_curves": (
        "The train loss of every run at every step, coloured by learning rate. Faint lines are "
        "recorded losses, solid lines their moving averages, and bands the spread over seeds. "
        "Below the dashed line, a network does better than guessing. The symbol at a curve's end "
        "is the run's verdict. The rail above the curves marks runs that became non-finite or "
        "failed."
    ),
    "lr_and_loss": (
        "The loss above, and the learning rate of the same step below. Dotted lines mark steps at "
        "which the schedule cuts the learning rate. If the loss falls right there, the noise of "
        "large steps had kept it up, not a lack of training."
    ),
    "lr_against_loss": (
        "The loss at the end of training against the learning rate: too small on the left, too "
        "large on the right, useful values in between. The thick line is the loss that decides: "
        "the validation loss, if there is one. Train and test loss are thin, and only reported. "
        "The strip names the verdicts, the shaded range does as well as the best, and the band "
        "spans the seeds. The rail marks runs without an end loss. In a search over several "
        "settings, each dot is a configuration, and the line shows the lowest loss in each range "
        "of learning rates."
    ),
    "lr_against_accuracy": (
        "The accuracy at the end of training, drawn like the loss. The best learning rate is the "
        "one with the best loss, unless the objective is another. Near 100 % the axis is "
        "stretched, so that equal distances are equal ratios of errors: 90 to 99 % is as far as "
        "99 to 99.9 %."
    ),
    "lr_by_setting": (
        "One row for each setting (optimizer, batch size, width, ...), with the outcome of each "
        "learning rate. The ring marks the best learning rate, the bar those that do as well. If "
        "the rings form a slanted line, the best learning rate depends on the setting."
    ),
    "importances": (
        "How much each setting of a search mattered for a run to be among the best quarter, in "
        "percent of all (PED-ANOVA). It shows which settings are worth a search, not which values "
        "are good. The lr matters more if the search tried only too small or too large ones."
    ),
    "to_target": (
        "How many steps, and how many seconds of training, each learning rate needed to reach the "
        "target loss. Lower is faster. The rail marks learning rates that never reached it."
    ),
    "mechanics": (
        "How single steps behave. Above: alpha. At −1 a step makes no progress, at 0 it lands "
        "exactly at the minimum along its line, at +1 on the other side at the same height. Below: "
        "the stability ratio. Above 1, a step climbs out of the valley that it crosses. From 0.5 "
        "to 1, it jumps from wall to wall and still comes down. The dark strip around 1 is the "
        "edge of stability."
    ),
    "heat_map": (
        "One row for each learning rate, one column for each moment of training. Darker is a "
        "lower loss, so a dark tongue shows where learning is fast. Rows turn black when their "
        "loss becomes non-finite."
    ),
    "branch_fan": (
        "From the end of each run, training continued on the same batches with a tenth of the "
        "learning rate, the same, and three times as much. The upper panel shows how much lower "
        "the loss then was. If a tenth gains, a decaying schedule would still lower the loss. If "
        "only three times gains, the loss is still falling. This does not show whether the "
        "learning rate was too large or too small for the whole training; the end losses do."
    ),
    "schedules": (
        "One panel for each schedule, the loss above its learning rate, all with the same number "
        "of steps and the same axes. Thick lines are the best learning rate of each schedule. The "
        "dashed line is the lowest end loss of all."
    ),
    "textbook": (
        "The textbook picture, from real steps: the loss along the update of a small, a good and a "
        "large learning rate, all from the same state and mini-batch. A step begins at the ring "
        "and lands at the dot. The dashed parabola fits the loss and the slope at both. Alpha "
        "compares the landing with the parabola's minimum."
    ),
    "surface": (
        "The loss on the plane in weight space that holds most of the runs' paths, with these "
        "paths. Small learning rates follow the slope; large ones cross the valley and bounce off "
        "its walls. The line under the title says how much of the paths the plane holds."
    ),
}
NAMES = tuple(SUMMARIES)
OF_LANDSCAPE = ("textbook", "surface")  # drawn from lines, surface and paths
FORMATS = ("png", "svg", "pdf")
