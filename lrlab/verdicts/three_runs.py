"""Choose the three runs of a sweep for the figures of the loss: a small, a good and a large lr."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from lrlab.tables import tidy
from lrlab.verdicts.outcomes import TOO_LARGE

ROLES = ("small", "good", "large")

_CLEARLY = 4.0  # the small lr is below the good one by this factor, if possible


def choose(verdicts: pd.DataFrame, best: int) -> dict[str, int] | str:
    """Return the chosen runs, by role: small, good, large.

    They differ only in lr, and have the same seed, so they start from the same weights and see the
    same mini-batches. At an edge of the sweep, small or large is missing.

    - good: the run ``best``.
    - small: the largest lr that undershoots and is at most a quarter of the good one, else the
      smallest lr.
    - large: the smallest lr above the good one that overshoots, collapses or diverges, else the
      largest lr.

    Args:
        verdicts: of all runs, as from `lrlab.verdicts.judging.verdicts`.
        best: the recommended run.

    Returns:
        Role to run, in the order of ROLES, at least two of them; or why there is nothing to show.
    """
    runs: list[dict[str, Any]] = verdicts.to_dict("records")
    runs = sorted((run for run in runs if math.isfinite(run["lr"])), key=lambda run: run["lr"])
    good = next(run for run in runs if run["run"] == best)
    names = ["seed", *tidy.settings_of(verdicts)]
    group = [run for run in runs if all(_same(run.get(n), good.get(n)) for n in names)]
    below = [run for run in group if run["lr"] < good["lr"]]
    above = [run for run in group if run["lr"] > good["lr"]]
    under = [run for run in below if run["outcome"] == "undershooting"]
    under = [run for run in under if run["lr"] <= good["lr"] / _CLEARLY]
    over = [run for run in above if run["outcome"] in TOO_LARGE]
    chosen = {"small": under[-1:] or below[:1], "good": [good], "large": over[:1] or above[-1:]}
    roles = {role: int(one[0]["run"]) for role, one in chosen.items() if one}
    if len(roles) < 2:
        return "needs at least two learning rates whose other settings are equal"
    return roles


def _same(one: Any, other: Any) -> bool:
    return one == other or (one != one and other != other) or (one is None and other is None)
