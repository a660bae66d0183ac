"""Compare sweeps lr by lr, and their best runs: end losses, accuracies, outcomes."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from lrlab.comparison.reading import Side
from lrlab.records.thresholds import THRESHOLDS, Thresholds
from lrlab.tables import sweep_settings, tidy
from lrlab.verdicts import loss_kinds
from lrlab.verdicts.outcomes import FAILED, OUTCOMES, UNFINISHED
from lrlab.verdicts.sides import AtLr, compare, gathered


def distinct(frame: pd.DataFrame, name: str) -> int:
    """Return how many values a column has; 0 where it is missing."""
    return len(set(map(sweep_settings.shown, frame[name]))) if name in frame else 0


@dataclass(frozen=True)
class At:
    """The finished runs of one sweep at one lr.

    Attributes:
        ends: end losses by seed; inf for those that failed.
        accuracies: the known ones, by seed.
        outcome: the most common one; for a tie, that of the larger step.
    """

    ends: Mapping[Hashable, float]
    accuracies: Mapping[Hashable, float]
    outcome: str

    @property
    def end(self) -> float:
        return middle(self.ends)

    @property
    def accuracy(self) -> float:
        return middle(self.accuracies)

    @property
    def failed(self) -> int:
        return sum(map(math.isinf, self.ends.values()))


def middle(by_seed: Mapping[Hashable, float]) -> float:
    return median(by_seed.values()) if by_seed else math.nan


@dataclass(frozen=True)
class Row:
    """One lr, and one combination of the other swept settings, in all the sweeps."""

    lr: float
    settings: Mapping[str, Any]
    at: Mapping[str, At]  # by letter; sweeps without such runs are absent


def by_lr(sides: Sequence[Side]) -> list[Row]:
    """Return all lrs of all sweeps, sorted, without unfinished runs."""
    names = within(sides)
    accuracy = accuracy_column(sides)
    groups: dict[tuple[Any, ...], dict[str, list[dict[Any, Any]]]] = {}
    for side in sides:
        found = side.verdicts.loc[~side.verdicts["state"].isin(UNFINISHED)]
        if accuracy:
            runs = side.runs
            scores = dict(zip(runs["run"].tolist(), runs[accuracy].tolist(), strict=True))
            found = found.assign(accuracy=[scores.get(run) for run in found["run"].tolist()])
        for row in found.to_dict("records"):
            # The same lr can differ in its last digits, if it was typed in one sweep only.
            key = (float(f"{row['lr']:.5g}"), *(sweep_settings.shown(row.get(n)) for n in names))
            if not math.isnan(row["end_loss"]) and not math.isnan(row["lr"]):
                groups.setdefault(key, {}).setdefault(side.letter, []).append(row)
    return [
        Row(
            lr=key[0],
            settings=dict(zip(names, key[1:], strict=True)),
            at={letter: _at(rows) for letter, rows in groups[key].items()},
        )
        for key in sorted(groups)
    ]


def _at(rows: Sequence[Mapping[Any, Any]]) -> At:
    outcomes = [str(row["outcome"]) for row in rows]
    order = OUTCOMES.index
    scored = [row for row in rows if not pd.isna(row.get("accuracy", math.nan))]
    return At(
        ends=by_seed(rows, [end_of(row) for row in rows]),
        accuracies=by_seed(scored, [float(row["accuracy"]) for row in scored]),
        outcome=max(set(outcomes), key=lambda name: (outcomes.count(name), order(name))),
    )


def end_of(row: Mapping[Any, Any]) -> float:
    return math.inf if row["outcome"] in FAILED else float(row["end_loss"])


def by_seed(rows: Sequence[Mapping[Any, Any]], values: Sequence[float]) -> Mapping[Hashable, float]:
    """Return the values of runs that differ only in their seed."""
    told = zip(rows, values, strict=True)
    at = gathered((0.0, row.get("seed"), row["run"], value) for row, value in told)
    return at[0].ends if at else {}


def within(sides: Sequence[Side]) -> list[str]:
    """Return the settings that are swept in at least one sweep, except lr and seed."""
    names = dict.fromkeys(name for side in sides for name in tidy.settings_of(side.verdicts))
    return [n for n in names if any(distinct(side.verdicts, n) > 1 for side in sides)]


def accuracy_column(sides: Sequence[Side]) -> str:
    """Return test_acc if all sweeps have it, else val_acc if all have that, else ""."""
    for name in ("test_acc", "val_acc"):
        if all(name in side.runs and side.runs[name].notna().any() for side in sides):
            return name
    return ""


def ended(side: Side) -> pd.DataFrame:
    """Return the verdicts of the runs with an end loss: one that failed early has no evaluation."""
    return side.verdicts.loc[np.isfinite(side.verdicts["end_loss"].astype(float))]


def incomparable(sides: Sequence[Side]) -> str:
    """Return why the losses of these sweeps do not compare; "" if they do."""
    rows: list[dict[Any, Any]] = [row for side in sides for row in ended(side).to_dict("records")]
    losses = {loss_kinds.kind(row) for row in rows} - {""}
    judged_by = {str(row["judged_by"]) for row in rows}
    for kinds in (losses, judged_by):
        if len(kinds) > 1:
            return f"they are {' and '.join(sorted(kinds))}"
    return ""


def told_apart(
    one: Mapping[Hashable, float], other: Mapping[Hashable, float], t: Thresholds = THRESHOLDS
) -> str:
    """Return whether the difference of two medians is "within" or "beyond" the noise of the seeds.

    "within" is at most `Thresholds.noise` times the standard error of `sides.compare`. Equal seeds
    give equal weights and batches, and are compared in pairs; with fewer than three pairs, all are
    compared unpaired. "few seeds": there are fewer than two degrees of freedom.

    Args:
        one, other: end losses by seed; inf for those that failed.
    """
    kept: list[dict[Hashable, float]] = [
        {seed: x for seed, x in each.items() if math.isfinite(x)} for each in (one, other)
    ]
    pairs = len(kept[0].keys() & kept[1].keys())
    freedom = pairs - 1
    if pairs < 3:
        kept = [{(i, seed): x for seed, x in each.items()} for i, each in enumerate(kept)]
        freedom = sum(max(0, len(each) - 1) for each in kept)
    if freedom < 2 or not all(kept):
        return "few seeds"
    by_noise = replace(t, converged=0.0, arrived=0.0)  # noise alone decides what counts as equal
    found = compare([AtLr(place, each) for place, each in enumerate(kept)], thresholds=by_noise)
    room = max(found.room.values())
    return "within" if abs(middle(one) - middle(other)) <= room else "beyond"


def by_lr_table(sides: Sequence[Side]) -> pd.DataFrame:
    """Return `by_lr` as a table: a row an lr, combination and sweep; medians over seeds."""
    rows = [
        {
            "lr": row.lr,
            **row.settings,
            "sweep": side.name,
            "outcome": at.outcome,
            "end_loss": at.end,
            "accuracy": at.accuracy,
            "runs": len(at.ends),
            "failed": at.failed,
        }
        for row in by_lr(sides)
        for side in sides
        if (at := row.at.get(side.letter)) is not None
    ]
    columns = ["lr", *within(sides), "sweep", "outcome", "end_loss", "accuracy", "runs", "failed"]
    return pd.DataFrame(rows, columns=columns)


def best_ends(side: Side) -> Mapping[Hashable, float]:
    """Return the end losses of `best_runs` by seed; inf for those that failed."""
    found = [row for row in best_runs(side).to_dict("records") if not pd.isna(row["end_loss"])]
    return by_seed(found, [end_of(row) for row in found])


def best_runs(side: Side) -> pd.DataFrame:
    """Return the verdicts of a sweep's finished runs with the best lr and settings."""
    found = with_best_settings(side)
    return found.loc[(found["lr"] == side.answer.best_lr) & ~found["state"].isin(UNFINISHED)]


def with_best_settings(side: Side) -> pd.DataFrame:
    """Return the verdicts of a sweep's runs with the best settings, at every lr."""
    found = side.verdicts
    for name, value in side.answer.settings.items():
        same = found[name].isna() if value is None else found[name] == value
        found = found.loc[same]
    return found
