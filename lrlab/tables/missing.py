"""Report which records a sweep lacks, a line each, and what that means for the verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lrlab import records
from lrlab.errors import UserError
from lrlab.process import paths
from lrlab.records import thresholds
from lrlab.tables import branch_gains
from lrlab.tables.mending import cut_short

_STATES = ("running", "training", "waiting", "interrupted")


def missing_notes(folder: Path, runs: pd.DataFrame, curves: pd.DataFrame) -> list[str]:
    """Return a line for each kind of record that is missing or damaged."""
    notes = []
    begun = set(curves.loc[curves["step"].notna(), "run"].unique())
    unread = unreadable(runs)
    unread += [r for r in runs.loc[runs["state"] == "waiting", "run"] if r in begun - {*unread}]
    states = runs.loc[~runs["run"].isin(unread), "state"].tolist()
    going = {name: states.count(name) for name in _STATES if name in states}
    if going:
        told = ", ".join(f"{count} {name}" for name, count in going.items())
        notes.append(
            f"{sum(going.values())} of {len(runs)} runs have not ended ({told}); "
            "they are not compared"
        )
    expected = runs.loc[~runs["state"].isin(("waiting", "failed")), "run"]
    notes += _some_lack("readable metrics.csv", [r for r in expected if r not in begun], runs)
    notes += _some_lack("readable summary.json", sorted(unread), runs)
    if short := [run for run in cut_short(runs, curves) if run in begun]:
        notes.append(
            f"{len(short)} of {len(runs)} runs have a metrics.csv that ends before their last step "
            f"({_named(short)}); they are not compared"
        )
    ended = runs.loc[runs["state"] == "finished", "run"].tolist()
    measured = _having(curves, ("alpha", "stability_ratio"))
    if measured:  # else the user switched them off
        lacking = [run for run in ended if run not in measured]
        then = "their steps are judged by their curves alone"
        notes += _some_lack("diagnostics", lacking, runs, then)
    notes += _branch_notes(folder, runs, curves, ended)
    return [f"{folder}: {note}" for note in notes]


def unreadable(runs: pd.DataFrame) -> list[Any]:
    """Return the runs of `frames.runs` with a summary that cannot be read."""
    found = []
    for row in runs.loc[runs["state"] == "waiting"].to_dict("records"):
        try:
            records.read_summary(Path(row["folder"]))
        except FileNotFoundError:
            continue
        except UserError:
            found.append(row["run"])
    return found


def unread_notes(folder: Path, runs: pd.DataFrame) -> list[str]:
    """Return a line about summaries that cannot be read, if any."""
    lacking = unreadable(runs)
    return [f"{folder}: {note}" for note in _some_lack("readable summary.json", lacking, runs)]


def _branch_notes(
    folder: Path, runs: pd.DataFrame, curves: pd.DataFrame, ended: Sequence[Any]
) -> list[str]:
    """Return lines about runs without a branch test, and why they have none."""
    tested = _having(curves, ("gain_low", "gain_high"))
    folders = {row["run"]: Path(row["folder"]) for row in runs.to_dict("records")}
    lacking = [run for run in ended if run not in tested]
    to_make = [run for run in lacking if records.end_file(folders[run]).is_file()]
    notes = []
    if to_make:
        path = paths.typed_path(folder)
        notes.append(
            f"the branch test of {len(to_make)} of {len(runs)} runs was not made "
            f"({_named(to_make)}); python -m lrlab.resume {path} makes it"
        )
    lacking = [run for run in lacking if run not in to_make]
    brief = [run for run in lacking if _has_branches(folders[run])]
    if brief:
        notes.append(
            f"the branch test of {len(brief)} of {len(runs)} runs ({_named(brief)}) had less than "
            f"{branch_gains.FEWEST_STEPS} steps, too few to be used"
        )
    if tested:  # else the user switched it off
        rows = curves.loc[curves["lr_at_step"].notna()].groupby("run")
        share = rows["lr_at_step"].last() / rows["lr"].first()
        low = {run for run, value in share.items() if value < thresholds.THRESHOLDS.annealed}
        lacking = [run for run in lacking if run not in brief]
        annealed = [run for run in lacking if run in low]
        then = "their schedules have brought the lr down already, so they count as settled"
        notes += _some_lack("branch test, by design", annealed, runs, then)
        others = [run for run in lacking if run not in low]
        then = "their state at the end is judged by their curves"
        notes += _some_lack("branch test", others, runs, then)
    return notes


def _having(curves: pd.DataFrame, names: Sequence[str]) -> set[Any]:
    """Return the runs with a value in one of these columns."""
    measured = curves.reindex(columns=list(names)).notna().any(axis=1)
    return set(curves.loc[measured, "run"].unique())


def _has_branches(run: Path) -> bool:
    try:
        return len(records.read_branches(run)) > 0
    except (FileNotFoundError, UserError):
        return False


def _some_lack(what: str, lacking: Sequence[Any], runs: pd.DataFrame, then: str = "") -> list[str]:
    if not lacking:
        return []
    line = f"{len(lacking)} of {len(runs)} runs have no {what} ({_named(lacking)})"
    return [f"{line}; {then}" if then else line]


def _named(numbers: Sequence[Any]) -> str:
    return f"run {', '.join(map(str, numbers[:5]))}{', ...' if len(numbers) > 5 else ''}"
