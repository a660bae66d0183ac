"""Read from a table how each run's curve is drawn."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from lrlab.plots import style
from lrlab.plots.tables import NothingToDraw
from lrlab.tables import thinning


def _none() -> np.ndarray:
    return np.empty(0)


@dataclass(frozen=True)
class Run:
    """One run's curve.

    Attributes:
        mark: "" or the rail's mark for it: "nonfinite", "failed", "never" (reached the target).
        mark_step: the step of the mark.
        outcome: its verdict; "" if it was not judged.
        step, loss: (n,) the steps with a finite mini-batch loss, and these losses.
        mean_of: (n,) how many mini-batches each loss is the mean of; None: one.
        lr_step, lr_used: (m,) the steps with a recorded lr, and these lrs.
    """

    run: Any
    lr: float
    setting: str
    mark: str
    mark_step: float = 0.0
    last_step: float = 0.0
    pruned: bool = False
    outcome: str = ""
    step: np.ndarray = field(default_factory=_none)
    loss: np.ndarray = field(default_factory=_none)
    mean_of: np.ndarray | None = None
    lr_step: np.ndarray = field(default_factory=_none)
    lr_used: np.ndarray = field(default_factory=_none)

    @property
    def kind(self) -> tuple[str, str]:
        """Runs of one kind differ only in the seed."""
        return f"{self.lr:g}", self.setting


def of_curves(
    curves: pd.DataFrame, verdicts: pd.DataFrame | None = None
) -> tuple[list[Run], dict[str, Any], list[str]]:
    """Return a table's runs, sorted; a dash style for each setting; settings not distinguished.

    Raises:
        NothingToDraw: there are no runs, or a column is missing.
    """
    need(curves, "run", "lr", "train_loss")
    curves = in_steps(curves)
    if curves.empty:
        raise NothingToDraw("there are no runs")
    each = curves.drop_duplicates("run").set_index("run")
    settings, blended = style.settings(each)
    outcomes = style.outcome_of_runs(verdicts)
    found = [
        _curve(run, part, str(settings[run]), outcomes.get(run, ""))
        for run, part in curves.groupby("run", sort=True)
    ]
    return found, style.dashes(settings), blended


def unit(curves: pd.DataFrame) -> str:
    """Return the unit of a curve's x: "step", or "epoch" if no steps were recorded."""
    return "epoch" if "step" not in curves and "epoch" in curves else "step"


def in_steps(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a column step, taken from its epochs if there is none.

    Raises:
        NothingToDraw: there is neither.
    """
    if unit(curves) == "epoch":
        return curves.assign(step=curves["epoch"])
    need(curves, "step")
    return curves


def need(table: pd.DataFrame, *columns: str) -> None:
    """Check that a table has these columns.

    Raises:
        NothingToDraw: it lacks one.
    """
    missing = [name for name in columns if name not in table]
    if missing:
        raise NothingToDraw(f"the table has no column {' nor '.join(missing)}")


def mark(state: object) -> str:
    told = {"diverged": "nonfinite", "not finite": "nonfinite", "failed": "failed"}
    return told.get(str(state), "")


def by_lr(runs: Sequence[Run]) -> dict[float, str]:
    """Return the outcome of most runs at each lr; "" if none was judged."""
    of_lr: dict[float, list[str]] = {}
    for run in runs:
        if run.lr > 0 and math.isfinite(run.lr):
            of_lr.setdefault(run.lr, []).append(run.outcome)
    return {lr: style.majority(outcomes) for lr, outcomes in of_lr.items()}


def kinds(runs: Sequence[Run]) -> Mapping[tuple[str, str], list[Run]]:
    """Return the runs that differ only in the seed, together."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault(run.kind, []).append(run)
    return found


def spread(
    steps: Sequence[np.ndarray], curves: Sequence[np.ndarray], lost: Sequence[bool]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return step, lowest, median and highest of several seeds' curves.

    A lost seed counts as infinitely bad after its end, so that the median does not look better
    without it. The median is NaN if half of the seeds were lost. A seed that is only shorter does
    not count after its end.
    """
    grid = np.unique(np.concatenate(steps))
    rows = np.full((len(curves), len(grid)), math.nan)
    for row, step, curve, is_lost in zip(rows, steps, curves, lost, strict=True):
        if len(step):
            inside = (grid >= step[0]) & (grid <= step[-1])
            row[inside] = np.interp(grid[inside], step, curve)
            row[grid > step[-1]] = math.inf if is_lost else math.nan
        elif is_lost:
            row[:] = math.inf
    with np.errstate(invalid="ignore"):
        median = np.array([_median(column) for column in rows.T])
    finite = np.where(np.isfinite(rows), rows, math.nan)
    there = np.isfinite(finite).any(axis=0)
    low, high = np.full(len(grid), math.nan), np.full(len(grid), math.nan)
    if there.any():
        low[there] = np.nanmin(finite[:, there], axis=0)
        high[there] = np.nanmax(finite[:, there], axis=0)
    return grid, low, median, high


def _median(values: np.ndarray) -> float:
    known = np.sort(values[~np.isnan(values)])
    if not len(known):
        return math.nan
    middle = float((known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2)
    return middle if math.isfinite(middle) else math.nan


def _curve(run: Any, part: pd.DataFrame, setting: str, outcome: str) -> Run:
    part = part.sort_values(by="step", kind="stable")
    loss = part["train_loss"].to_numpy(float)
    step = part["step"].to_numpy(float)
    used = np.where(np.isfinite(loss), float(part["lr"].iloc[0]), math.nan)
    if "lr_at_step" in part:
        used = part["lr_at_step"].to_numpy(float)
    finite = np.isfinite(loss) & np.isfinite(step)
    # A missing loss alone is no sign of divergence: the row of the final evaluation has neither lr
    # nor mini-batch loss. An lr without a finite loss is one.
    bad = step[np.isfinite(used) & ~np.isfinite(loss)]
    bad = bad[np.isfinite(bad)]
    known = step[np.isfinite(step)]
    last_step = float(known[-1]) if len(known) else 0.0
    found = mark(part["state"].iloc[0]) if "state" in part else ""
    if "state" not in part:
        # A table of another program: the run has finished, unless its loss says otherwise.
        infinite = step[np.isinf(loss)]
        if outcome == "diverged" or len(infinite) or not np.isfinite(loss).any():
            found = "nonfinite"
            behind = step[~np.isfinite(loss) & (step > max(step[finite], default=-math.inf))]
            bad = np.append(infinite, behind)[:1]
            bad = bad[np.isfinite(bad)]
    if len(bad) and found != "failed":
        found = "nonfinite"
    told = np.isfinite(used) & np.isfinite(step)
    mean_of = thinning.of_table(part)
    return Run(
        run=run,
        lr=float(part["lr"].iloc[0]),
        setting=setting,
        mark=found,
        mark_step=float(bad[0]) if len(bad) else last_step,
        last_step=last_step,
        pruned="state" in part and part["state"].iloc[0] == "pruned" and bool(finite.any()),
        outcome=outcome,
        step=step[finite],
        loss=loss[finite],
        mean_of=None if mean_of is None else mean_of[finite],
        lr_step=step[told],
        lr_used=used[told],
    )
