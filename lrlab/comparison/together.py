"""Join the tables of several sweeps, for figures of them all on shared axes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from lrlab.comparison.by_lr import ended, incomparable, with_best_settings, within
from lrlab.comparison.reading import Side
from lrlab.tables import sweep_settings, tidy
from lrlab.verdicts.judging import verdicts

_LONGEST_NAME = 32  # characters of a sweep's name in a figure
_DISTINCT = 7  # combinations of sweep and settings that get a colour and a shape each


@dataclass(frozen=True)
class Together:
    """The runs of all sweeps; their names are short enough to stand next to a figure.

    Attributes:
        runs, curves, verdicts: with a column sweep.
        timed: the verdicts with steps and seconds to one target for all sweeps.
        objective: the one that names each sweep's best run; "" if they differ.
        only_best: whether runs and timed hold only the best settings of each sweep, because one
            figure cannot show all combinations.
    """

    runs: pd.DataFrame
    curves: pd.DataFrame
    verdicts: pd.DataFrame
    timed: pd.DataFrame
    objective: str
    only_best: bool


def together(sides: Sequence[Side]) -> Together:
    """Join the tables of all sweeps, without settings that differ only between sweeps.

    The sweep's name stands for those.
    """
    sides = [replace(side, name=_short(side)) for side in sides]
    kept = {*within(sides), "sweep"}
    swept = [n for side in sides for n in tidy.settings_of(side.curves)]
    dropped = {name for name in swept if name not in kept and not _is_common(sides, name)}
    runs, curves, found = (_joined(sides, kind, dropped) for kind in ("runs", "curves", "verdicts"))
    timed = _to_one_target(sides, found)
    rows: list[dict[Any, Any]] = found.to_dict("records")
    combinations = {(row["sweep"], *(str(row.get(n)) for n in within(sides))) for row in rows}
    only_best = len(combinations) > _DISTINCT
    if only_best:
        best = [run for side in sides for run in with_best_settings(side)["run"].tolist()]
        runs = runs.loc[runs["run"].isin(best)]
        timed = timed.loc[timed["run"].isin(best)]
    objectives = {sweep_settings.objective(side.path) for side in sides}
    objective = objectives.pop() if len(objectives) == 1 else ""
    return Together(runs, curves, found, timed, objective, only_best)


def _joined(sides: Sequence[Side], kind: str, dropped: set[str]) -> pd.DataFrame:
    """Join one of their tables, without the dropped columns."""
    parts = [getattr(side, kind).assign(sweep=side.name) for side in sides]
    parts = [part.drop(columns=[c for c in dropped if c in part]) for part in parts]
    filled = [part.dropna(axis=1, how="all") for part in parts if len(part)]
    whole = pd.concat(filled or parts[:1], ignore_index=True)
    return whole.reindex(columns=list(dict.fromkeys(c for p in parts for c in p.columns)))


def _short(side: Side) -> str:
    """Return a name that fits next to a figure; a long one gets the letter, to be unique."""
    name, half = side.name, _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{side.letter} {name[:half]}…{name[-half:]}"


def _is_common(sides: Sequence[Side], name: str) -> bool:
    """Return whether a setting has the same value in all sweeps."""
    values: set[str] = set()
    for side in sides:
        runs = ended(side)
        own = runs[name].tolist() if name in runs else []
        values |= set(map(sweep_settings.shown, own or [None]))
    return len(values) == 1


def _to_one_target(sides: Sequence[Side], found: pd.DataFrame) -> pd.DataFrame:
    """Return the verdicts with steps and seconds to one target: the easiest of the sweeps' targets.

    The worse sweeps would never reach a harder one.
    """
    goals = [goal for side in sides for goal in side.verdicts["target_loss"] if goal == goal]
    if incomparable(sides) or not goals:
        return found.drop(columns="steps_to_target")
    again = pd.concat([verdicts(side.curves, target=max(goals)) for side in sides])
    timed = ["target_loss", "steps_to_target", "seconds_to_target"]
    return found.drop(columns=timed).merge(again[["run", *timed]], on="run", how="left")
