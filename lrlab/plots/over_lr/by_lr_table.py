"""Prepare the runs for figures over the lr: how each ended, and which series are shown."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lrlab.plots import runs, style
from lrlab.plots.over_lr import pooled
from lrlab.plots.runs import Run
from lrlab.plots.style import HUES, SHAPES
from lrlab.plots.tables import NothingToDraw
from lrlab.verdicts.judging import most_judged_by
from lrlab.verdicts.outcomes import UNFINISHED

if TYPE_CHECKING:
    from lrlab.verdicts.answer import Answer
    from lrlab.verdicts.pooled import Search


DENSE = 40  # more lrs than this have smaller marks
_WHOLE = 3  # more settings than this show only the series that decides


@dataclass(frozen=True)
class Measure:
    """The quantity on the y axis, for validation, training and test data."""

    kind: str  # as its columns' names end
    word: str
    worst: float  # counts as the value of a run that became non-finite

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{part}_{self.kind}" for part in ("val", "train", "test"))

    def word_of(self, name: str) -> str:
        return f"{name.partition('_')[0]} {self.word}"


LOSS = Measure("loss", "loss", math.inf)
ACCURACY = Measure("acc", "accuracy", -math.inf)
AT_PRUNING = "at pruning"  # the column with the last value of a pruned run


@dataclass(frozen=True)
class EndTable:
    """The runs to draw.

    series: the columns to draw, first the one that compares the lrs.
    left_out: the parts of the data that are not drawn, because there are many settings.
    decides: whether the first series is what the sweep's best run is chosen by.
    judged_by: the loss that the recommendation rests on; "" if nothing was judged.
    """

    all: pd.DataFrame  # with a column setting, a text
    on_axis: Any  # those with an lr above 0
    blended: list[str]
    hues: Mapping[str, str]
    shapes: Mapping[str, str]
    outcomes: Mapping[Any, str]  # by run
    lost: list[Run]
    series: list[str]
    left_out: list[str]
    decides: bool
    judged_by: str
    best_by_objective: tuple[str, float] | None
    search: "Search | None"  # of a search over several settings, which have no looks of their own
    best_run: Any
    names: Sequence[str]  # the settings of the search, besides lr

    @property
    def coloured_by_outcome(self) -> bool:
        return bool(self.outcomes) and len(self.hues) == 1 and self.search is None

    @property
    def size(self) -> float:
        return 6.5 if self.on_axis["lr"].nunique() <= DENSE else 4.0


def _ended(table: pd.DataFrame, verdicts: pd.DataFrame | None, measure: Measure) -> pd.DataFrame:
    """Return the table with states, end losses, and the last values of pruned runs in AT_PRUNING.

    A CSV of curves has only verdicts: a run without a state has finished, unless it diverged.
    """
    outcomes = style.outcome_of_runs(verdicts)
    if "state" not in table:
        diverged = [outcomes.get(run) == "diverged" for run in table["run"]]
        table = table.assign(state=np.where(diverged, "diverged", "finished"))
    val = measure.names[0]
    untold = not any(name in table for name in measure.names)
    if verdicts is not None and measure is LOSS:
        if untold:
            runs.need(verdicts, "train_end_loss")
            table = table.assign(train_loss=_of_runs(table, verdicts, "train_end_loss"))
        table = _with_end_loss(table, verdicts, untold)
    if val in table:
        values, state = table[val].astype(float), table["state"]
        table = table.assign(
            **{
                val: values.where(~state.isin(list(UNFINISHED))),
                AT_PRUNING: values.where(state == "pruned"),
            }
        )
    return table


def _of_runs(table: pd.DataFrame, verdicts: pd.DataFrame, name: str) -> list[float]:
    """Return a column of the verdicts, in the table's order; NaN for a run without one."""
    found = dict(zip(verdicts["run"], verdicts[name].astype(float), strict=True))
    return [found.get(run, math.nan) for run in table["run"]]


def _with_end_loss(table: pd.DataFrame, verdicts: pd.DataFrame, untold: bool) -> pd.DataFrame:
    """Return the table with the verdicts' end loss as the loss that decides, for runs that ended.

    It is the number that the recommendation and all texts use.
    """
    if not {"end_loss", "judged_by"} <= set(verdicts):
        return table
    name = most_judged_by(verdicts["judged_by"])
    if not name or not (name in table or untold):
        return table
    mine = verdicts.loc[verdicts["judged_by"] == name]
    ends = pd.Series(_of_runs(table, mine, "end_loss"), table.index, dtype=float)
    own = table[name].astype(float) if name in table else pd.Series(np.nan, table.index)
    takes = np.isfinite(ends) & ~table["state"].isin([*UNFINISHED, "diverged"])
    return table.assign(**{name: own.where(~takes, ends)})


def end_table(
    table: pd.DataFrame,
    verdicts: pd.DataFrame | None,
    measure: Measure,
    objective: str,
    answers: "Sequence[Answer]" = (),
) -> EndTable:
    """Return the runs of a table with everything that their figure over the lr shows."""
    runs.need(table, "run", "lr")
    table = _ended(table, verdicts, measure)
    there = [name for name in measure.names if name in table]
    if not there:
        raise NothingToDraw(f"the table has no column {' nor '.join(measure.names)}")
    if table.empty:
        raise NothingToDraw("there are no runs")
    table = table.reset_index(drop=True)
    search = pooled.search_of(answers)
    setting, blended = settings(table, answers)
    table = table.assign(setting=setting)
    on_axis: Any = table[table["lr"] > 0]
    outcomes = style.outcome_of_runs(verdicts)
    lost = [
        Run(run=row["run"], lr=float(row["lr"]), setting=row["setting"], mark=mark)
        for row in on_axis.to_dict("records")
        if (mark := runs.mark(row["state"]))
    ]
    hues, shapes = style.looks(setting, HUES), style.looks(setting, SHAPES, shift=1)
    judged = [] if verdicts is None or "judged_by" not in verdicts else verdicts["judged_by"]
    judged_by = most_judged_by(judged)
    decider = judged_by or objective if objective == "val_loss" else objective
    known = [name for name in there if len(style.finite(table[name].astype(float)))] or there[:1]
    known = sorted(known, key=lambda name: name != decider)
    finite = np.isfinite(table[known].to_numpy(dtype=float, na_value=math.nan))
    has_some, has_first = set(setting[finite.any(axis=1)]), set(setting[finite[:, 0]])
    # The series that decides must not hide a setting without it, such as a CSV without val loss.
    is_much = len(hues) > _WHOLE or search is not None
    drawn = known[:1] if is_much and has_some == has_first else known
    return EndTable(
        table,
        on_axis,
        blended,
        hues,
        shapes,
        outcomes,
        lost,
        series=drawn,
        left_out=[name.partition("_")[0] for name in known if name not in drawn],
        decides=known[0] == decider and len(table) > 1,
        judged_by=judged_by,
        best_by_objective=_best_by_objective(table, objective, judged_by),
        search=search,
        best_run=answers[0].best_run if search is not None else None,
        names=list(answers[0].settings) if search is not None else [],
    )


def settings(table: pd.DataFrame, answers: "Sequence[Answer]") -> tuple[pd.Series, list[str]]:
    """As `style.settings`; those of a search over several settings are not told apart."""
    if pooled.search_of(answers) is None:
        return style.settings(table)
    return pd.Series("", index=table.index, dtype=object), list(answers[0].settings)


def _best_by_objective(table: Any, objective: str, judged_by: str) -> tuple[str, float] | None:
    """Return the best lr by the objective, in words and as a number, if verdicts use another."""
    measure = next((m for m in (LOSS, ACCURACY) if objective in m.names), None)
    if measure is None or objective == judged_by or not judged_by or objective not in table:
        return None
    sign = 1.0 if measure is LOSS else -1.0
    ranked = [
        (sign * float(median), float(lr), str(setting))
        for setting, group in table[table["lr"] > 0].groupby("setting", sort=True)
        for lr, median in zip(*medians_of(group, objective, measure.worst)[:2], strict=True)
        if math.isfinite(median)
    ]
    if not ranked:
        return None
    _, best, setting = min(ranked)
    where = f"{setting}, " if setting else ""
    return f"best by {measure.word_of(objective)}: {where}lr {style.lr_word(best)}", best


def pruned(table: pd.DataFrame) -> pd.DataFrame:
    """Return the pruned runs that have an lr and a value."""
    if AT_PRUNING not in table:
        return table.iloc[:0].assign(**{AT_PRUNING: np.nan})
    return table.loc[(table["lr"] > 0) & np.isfinite(table[AT_PRUNING].astype(float))]


def medians_of(group: Any, name: str, worst: float) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return lrs, the median of each (NaN: none, or half diverged), and whether seeds repeat."""
    values = group[name].astype(float).where(group["state"] != "diverged", worst)
    # A pruned seed was worse than those that finished; if all were pruned there is no value.
    reached = set(group["lr"][values.notna()])
    beside = (group["state"] == "pruned") & group["lr"].isin(reached)
    values = values.where(~beside, worst)
    known = values[values.notna()]
    by_lr = known.groupby(group["lr"].loc[known.index])
    medians = by_lr.median().replace(worst, np.nan)
    return medians.index.to_numpy(float), medians.to_numpy(float), bool((by_lr.size() > 1).any())
