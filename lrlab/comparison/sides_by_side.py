"""Sweeps set against each other: what differs, lr by lr, the best of each. Numbers, no words."""

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from lrlab import records
from lrlab.errors import UserError
from lrlab.records.thresholds import THRESHOLDS, Thresholds
from lrlab.tables import sweep_settings, tidy
from lrlab.verdicts import loading, loss_kinds
from lrlab.verdicts.judging import FAILED, UNFINISHED, verdicts
from lrlab.verdicts.outcomes import OUTCOMES
from lrlab.verdicts.recommend import Answer, best_of_each, recommend
from lrlab.verdicts.sides import AtLr, compare, gathered

LETTERS = "ABCDEF"
_ENVIRONMENT = "environment"


@dataclass(frozen=True)
class Side:
    """One of the sweeps that are compared.

    Attributes:
        letter: A, B ... in the order given.
        name: unlike that of the others.
        path: its folder, or CSV.
        runs, curves: as from `judge.load`.
        verdicts: as from `verdicts.verdicts`, of this sweep alone, as its own table says.
        answers: of its best combination of settings; of several kinds of loss one of each, for
            these do not compare.
        settings: of each run by dotted key; empty for a CSV.
        environment: of each key in the runs' summaries the values there are; empty for a CSV.
    """

    letter: str
    name: str
    path: Path
    runs: pd.DataFrame
    curves: pd.DataFrame
    verdicts: pd.DataFrame
    answers: tuple[Answer, ...]
    settings: tuple[Mapping[str, Any], ...]
    environment: Mapping[str, tuple[str, ...]]

    @property
    def answer(self) -> Answer:
        """Of its best combination of settings, or one of them."""
        return self.answers[0]


def read(paths: Sequence[Path]) -> tuple[list[Side], tuple[str, ...]]:
    """The sweeps to compare, and lines about what is missing in their records.

    Raises:
        UserError: fewer than two, more than six, one twice, or one that cannot be read.
    """
    if not 2 <= len(paths) <= len(LETTERS):
        raise UserError(
            f"name two to {len(LETTERS)} sweeps to compare, not {len(paths)}; for example "
            "python -m lrlab.compare outputs/a outputs/b"
        )
    loaded = loading.load(paths, with_branches=False)
    sides = []
    for letter, name, path in zip(LETTERS, loaded.names, paths, strict=False):
        runs = loaded.runs.loc[loaded.runs["sweep"] == name]
        curves = loaded.curves.loc[loaded.curves["sweep"] == name]
        found = verdicts(curves)
        folders = runs["folder"].dropna().tolist() if "folder" in runs else []
        sides.append(
            Side(
                letter=letter,
                name=name,
                path=path,
                runs=runs,
                curves=curves,
                verdicts=found,
                answers=tuple(best_of_each(recommend(found))),
                settings=tuple(sweep_settings.of_runs(runs)) if len(folders) else (),
                environment=_environment([Path(folder) for folder in folders]),
            )
        )
    return sides, loaded.notes


def _environment(folders: Sequence[Path]) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for folder in folders:
        try:
            summary = records.read_summary(folder)
        except (FileNotFoundError, UserError):
            continue
        environment = summary.get("environment")
        told = environment if isinstance(environment, dict) else {}
        told = {**told, "data_sha256": str(summary.get("data_sha256") or "")[:12]}
        for key, value in told.items():
            if value not in (None, ""):
                found.setdefault(str(key), set()).add(sweep_settings.shown(value))
    return {key: tuple(sorted(values)) for key, values in found.items()}


# --- what differs ---------------------------------------------------------------------------------


def differences(sides: Sequence[Side]) -> pd.DataFrame:
    """What is not the same in all sweeps.

    Returns:
        One row a difference: setting, kind ("setting" or "environment"), and a column for each
        letter with the value there, or the values, as text; "-" where there is none.
    """
    rows = [{"setting": "swept", "kind": "setting", **{s.letter: _swept(s) for s in sides}}]
    keys = dict.fromkeys(key for side in sides for each in side.settings for key in each)
    for key in keys:
        values = {side.letter: _values(side, key) for side in sides}
        if len(set(values.values())) > 1 and (key == "lr" or _differs(sides, key)):
            told = {letter: _listed(each) for letter, each in values.items()}
            rows.append({"setting": key, "kind": "setting", **told})
    for key in dict.fromkeys(key for side in sides for key in side.environment):
        values = {side.letter: side.environment.get(key, ()) for side in sides}
        if len(set(values.values())) > 1:
            told = {letter: _listed(each) for letter, each in values.items()}
            rows.append({"setting": key, "kind": _ENVIRONMENT, **told})
    if len({rows[0][side.letter] for side in sides}) == 1:
        rows = rows[1:]
    return pd.DataFrame(rows, columns=["setting", "kind", *(side.letter for side in sides)])


def _values(side: Side, key: str, choice: str | None = None) -> tuple[str, ...]:
    """The different values of a setting in a sweep, of the runs with that choice of its group."""
    group = key.partition(".")[0]
    found = {
        each[key]
        for each in side.settings
        if key in each and (choice is None or each.get(group) == choice)
    }
    order = sorted(found, key=lambda value: (isinstance(value, str), value is None, value or 0))
    return tuple(dict.fromkeys(map(sweep_settings.shown, order)))


def _differs(sides: Sequence[Side], key: str) -> bool:
    """Whether a setting differs by itself, and not just because another choice has no such one."""
    if "." not in key:
        return True
    choices = {each.get(key.partition(".")[0]) for side in sides for each in side.settings}
    for choice in choices:
        values = [_values(side, key, choice) for side in sides]
        if len({each for each in values if each}) > 1:
            return True
    return False


def _swept(side: Side) -> str:
    keys = dict.fromkeys(key for each in side.settings for key in each)
    own = [key for key in keys if len(_values(side, key)) > 1]
    kept = [key for key in own if "." not in key or _varies_by_itself(side, key)]
    if not side.settings:
        kept = [name for name in ("lr", "seed") if _distinct(side.verdicts, name) > 1]
    return ", ".join(kept) or "-"


def _varies_by_itself(side: Side, key: str) -> bool:
    choices = {each.get(key.partition(".")[0]) for each in side.settings}
    return any(len(_values(side, key, choice)) > 1 for choice in choices)


def _listed(values: Sequence[str]) -> str:
    if not values:
        return "-"
    if len(values) <= 4 or not all(map(_is_number, values)):
        return ", ".join(values)
    return f"{values[0]} to {values[-1]} ({len(values)})"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", text) is not None


def _distinct(frame: pd.DataFrame, name: str) -> int:
    return len(set(map(sweep_settings.shown, frame[name]))) if name in frame else 0


# --- lr by lr -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class At:
    """The finished runs of one sweep at one lr.

    Attributes:
        ends: end losses by seed, inf of those that failed.
        accuracies: those that there are, by seed.
        outcome: of most of them; of a tie, that of the larger step.
    """

    ends: Mapping[Hashable, float]
    accuracies: Mapping[Hashable, float]
    outcome: str

    @property
    def end(self) -> float:
        return _middle(self.ends)

    @property
    def accuracy(self) -> float:
        return _middle(self.accuracies)

    @property
    def failed(self) -> int:
        return sum(map(math.isinf, self.ends.values()))


def _middle(by_seed: Mapping[Hashable, float]) -> float:
    return median(by_seed.values()) if by_seed else math.nan


@dataclass(frozen=True)
class Row:
    """One lr, and one combination of what is swept beside it, in all the sweeps."""

    lr: float
    settings: Mapping[str, Any]
    at: Mapping[str, At]  # by letter; a sweep without such runs is not in it


def by_lr(sides: Sequence[Side]) -> list[Row]:
    """All lrs of all sweeps, sorted; runs that have not had their whole budget are left out."""
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
            # The same lr can differ in its last digits: typed in one sweep, spaced in the other.
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
        ends=_by_seed(rows, [_end(row) for row in rows]),
        accuracies=_by_seed(scored, [float(row["accuracy"]) for row in scored]),
        outcome=max(set(outcomes), key=lambda name: (outcomes.count(name), order(name))),
    )


def _end(row: Mapping[Any, Any]) -> float:
    return math.inf if row["outcome"] in FAILED else float(row["end_loss"])


def _by_seed(
    rows: Sequence[Mapping[Any, Any]], values: Sequence[float]
) -> Mapping[Hashable, float]:
    """The values of runs that differ in nothing but their seed."""
    told = zip(rows, values, strict=True)
    at = gathered((0.0, row.get("seed"), row["run"], value) for row, value in told)
    return at[0].ends if at else {}


def within(sides: Sequence[Side]) -> list[str]:
    """The settings that are swept in at least one sweep, lr and seed aside."""
    names = dict.fromkeys(name for side in sides for name in tidy.settings_of(side.verdicts))
    return [n for n in names if any(_distinct(side.verdicts, n) > 1 for side in sides)]


def accuracy_column(sides: Sequence[Side]) -> str:
    """test_acc, or val_acc where not all sweeps have it; "" where not all have that either."""
    for name in ("test_acc", "val_acc"):
        if all(name in side.runs and side.runs[name].notna().any() for side in sides):
            return name
    return ""


def _ended(side: Side) -> pd.DataFrame:
    """The runs that came to an end loss: one that failed early has no evaluation to judge by."""
    return side.verdicts.loc[np.isfinite(side.verdicts["end_loss"].astype(float))]


def _values_of(side: Side, name: str) -> list[Any]:
    ended = _ended(side)
    return ended[name].tolist() if name in ended else []


def incomparable(sides: Sequence[Side]) -> str:
    """Why the losses of these sweeps cannot be set against each other; "" where they can."""
    rows: list[dict[Any, Any]] = [row for side in sides for row in _ended(side).to_dict("records")]
    losses = {loss_kinds.kind(row) for row in rows} - {""}
    judged_by = {str(row["judged_by"]) for row in rows}
    for kinds in (losses, judged_by):
        if len(kinds) > 1:
            return f"they are {' and '.join(sorted(kinds))}"
    return ""


def told_apart(
    one: Mapping[Hashable, float], other: Mapping[Hashable, float], t: Thresholds = THRESHOLDS
) -> str:
    """Whether two medians differ by more than seeds make them: "within", "beyond", "few seeds".

    By the standard error of `sides.compare`: seeds that both have give them the same weights and
    batches, so these are compared in pairs. Of fewer than three pairs, which say little, the two
    are compared as they are. What is less than `Thresholds.noise` times that error is within. With
    fewer than two degrees of freedom, as of one seed beside two, it says nothing.

    Args:
        one, other: by seed the end losses, inf of those that failed.
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
    by_noise = replace(t, converged=0.0, arrived=0.0)  # alone, whatever else counts as equal
    found = compare([AtLr(place, each) for place, each in enumerate(kept)], thresholds=by_noise)
    room = max(found.room.values())
    return "within" if abs(_middle(one) - _middle(other)) <= room else "beyond"


# --- the best of each ----------------------------------------------------------------------------


def best_ends(side: Side) -> Mapping[Hashable, float]:
    """By seed, the end losses of its best runs; inf of those that failed."""
    found = [row for row in best_runs(side).to_dict("records") if not pd.isna(row["end_loss"])]
    return _by_seed(found, [_end(row) for row in found])


def best_runs(side: Side) -> pd.DataFrame:
    """The verdicts of the finished runs at the best lr, with the best settings."""
    found = with_best_settings(side)
    return found.loc[(found["lr"] == side.answer.best_lr) & ~found["state"].isin(UNFINISHED)]


def with_best_settings(side: Side) -> pd.DataFrame:
    found = side.verdicts
    for name, value in side.answer.settings.items():
        same = found[name].isna() if value is None else found[name] == value
        found = found.loc[same]
    return found


def by_lr_table(sides: Sequence[Side]) -> pd.DataFrame:
    """`by_lr` as a table: one row an lr, combination and sweep; medians over seeds."""
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


def is_common(sides: Sequence[Side], name: str) -> bool:
    """Whether a setting has one and the same value in all sweeps."""
    values = [_values_of(side, name) or [None] for side in sides]
    return len({sweep_settings.shown(value) for each in values for value in each}) == 1


def to_one_target(sides: Sequence[Side], found: pd.DataFrame) -> pd.DataFrame:
    """The verdicts with steps and seconds to the easiest of the sweeps' targets, for all of them.

    To a harder one the worse sweeps would never come, and nothing could be compared.
    """
    goals = [goal for side in sides for goal in side.verdicts["target_loss"] if goal == goal]
    if incomparable(sides) or not goals:
        return found.drop(columns="steps_to_target")
    again = pd.concat([verdicts(side.curves, target=max(goals)) for side in sides])
    timed = ["target_loss", "steps_to_target", "seconds_to_target"]
    return found.drop(columns=timed).merge(again[["run", *timed]], on="run", how="left")
