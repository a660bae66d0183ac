"""Choose the three runs of a sweep for the figures of the loss: a small, a good and a large lr."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from lrlab.tables import tidy
from lrlab.verdicts.judging import FAILED
from lrlab.verdicts.outcomes import TOO_LARGE

ROLES = ("small", "good", "large")

_CLEARLY = 4.0  # the small lr is below the good one by this factor, if possible


def choose(verdicts: pd.DataFrame, best: int | None = None) -> dict[str, int] | str:
    """Return the chosen runs, by role: small, good, large.

    They differ from the good one only in their lr, not even in their seed. So all start from the
    same weights and see the same mini-batches. Good is ``best``, or the lowest end loss. Small is
    the largest lr that undershoots and is below the good one by a factor of 4, else the smallest
    lr. Large is the smallest lr above the good one that overshoots, collapses or diverges, else the
    largest lr. At an edge of the sweep one of them is missing.

    Args:
        verdicts: of all runs, as from `lrlab.verdicts.judging.verdicts`.
        best: the run that is recommended; None: the one with the lowest end loss.

    Returns:
        Role to run, in the order of ROLES, at least two of them; or why there is nothing to show.
    """
    runs: list[dict[str, Any]] = verdicts.to_dict("records")
    runs = sorted((run for run in runs if math.isfinite(run["lr"])), key=lambda run: run["lr"])
    if not runs:
        return "there are no runs"
    if best is None:
        learned = [r for r in runs if math.isfinite(r["end_loss"]) and r["outcome"] not in FAILED]
        learned = [r for r in learned if r["outcome"] != "pruned"] or learned
        if not learned:
            return "every run diverged or collapsed"
        good = min(learned, key=lambda run: run["end_loss"])
    else:
        found = [run for run in runs if run["run"] == best]
        if not found:
            return f"run {best} has no verdict"
        good = found[0]
    names = ["seed", *tidy.settings_of(verdicts)]
    group = [run for run in runs if all(_same(run.get(n), good.get(n)) for n in names)]
    below = [run for run in group if run["lr"] < good["lr"]]
    above = [run for run in group if run["lr"] > good["lr"]]
    under = [
        run
        for run in below
        if run["outcome"] == "undershooting" and run["lr"] <= good["lr"] / _CLEARLY
    ]
    over = [run for run in above if run["outcome"] in TOO_LARGE]
    small = (under[-1:] or below[:1])[:1]
    large = (over[:1] or above[-1:])[:1]
    chosen = {"small": small, "good": [good], "large": large}
    roles = {role: int(one[0]["run"]) for role, one in chosen.items() if one}
    if len(roles) < 2:
        return "needs at least two learning rates whose other settings are equal"
    return roles


def _same(one: Any, other: Any) -> bool:
    return one == other or (one != one and other != other) or (one is None and other is None)
