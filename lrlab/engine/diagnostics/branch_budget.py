"""Limit the length of the branch test, and say in words what ``diagnostics=full`` costs."""

from __future__ import annotations

import math

from lrlab.engine.diagnostics.cadence import BUDGET, CADENCES, cost, planned
from lrlab.records.thresholds import THRESHOLDS

# The branch test has three branches of at most a fifteenth of the run. With building and capturing
# their stack it costs a quarter of the run's steps at most.
BRANCH_SHARE = 1 / 15
BRANCH_SETUP = 80  # steps
BRANCH_SHARE_ASKED = 1 / 8  # with diagnostics=full, which has no budget
FEWEST_BRANCH_STEPS = 40  # the mean over fewer mini-batches says little
BRANCHES = 3


def branch_steps(mode: str, steps: int, annealed: bool) -> int:
    """Return the steps of each branch of the branch test; 0: there is none.

    A run with an annealed lr has none. It has had its shorter steps already, and three times almost
    nothing is almost nothing.

    Args:
        mode: ``off``, ``default`` or ``full``.
        steps: of the run.
    """
    if mode == "off" or annealed:
        return 0
    if mode == "full":
        return max(FEWEST_BRANCH_STEPS, round(BRANCH_SHARE_ASKED * steps))
    found = int(min(BRANCH_SHARE * steps, (BUDGET * steps - BRANCH_SETUP) / BRANCHES))
    return found if found >= FEWEST_BRANCH_STEPS else 0


def no_branches(steps: int) -> str:
    """Return why a run of so few steps has no branch test."""
    least = math.ceil((BRANCHES * FEWEST_BRANCH_STEPS + BRANCH_SETUP) / BUDGET)
    return (
        f"no branch test: with {steps:,} steps, fewer than {least}, it would take more than a "
        "quarter of the training time; diagnostics=full makes it"
    )


def is_annealed(last_lr: float, lr: float) -> bool:
    """Return whether a schedule has lowered the lr to the end; False if that is unknown."""
    return not last_lr >= THRESHOLDS.annealed * lr


def shares(mode: str, steps: int, steps_per_epoch: int, batches: float) -> float:
    """Return how much of the training time measuring and the branch test take at most.

    Args:
        mode: ``off``, ``default`` or ``full``.
        steps: of the run.
        batches: the samples on which steps are measured, in mini-batches.
    """
    if mode == "off":
        return 0.0
    share = BUDGET
    if mode == "full":
        cadence = CADENCES[mode]
        _, what = planned(cadence, steps, steps_per_epoch, batches)
        share = sum(cost(int(kind), cadence, batches) for kind in what) / steps
    branches = branch_steps(mode, steps, annealed=False)
    return share + ((BRANCHES * branches + BRANCH_SETUP) / steps if branches else 0.0)


def asked_line(steps: int, steps_per_epoch: int, batches: float) -> str:
    """Return a line, printed before training, about the cost of ``diagnostics=full``."""
    cadence, mode = CADENCES["full"], "full"
    at, what = planned(cadence, steps, steps_per_epoch, batches)
    share = sum(cost(int(kind), cadence, batches) for kind in what) / steps
    branches = (BRANCHES * branch_steps(mode, steps, annealed=False) + BRANCH_SETUP) / steps
    return (
        f"diagnostics=full measures {len(at):,} of {steps:,} steps, which takes about "
        f"{times(share)} the training time, and the branch test about {times(branches)} it; "
        f"diagnostics=default takes at most {BUDGET:.0%} for each"
    )


def times(share: float) -> str:
    """Return a share of a time in words: "38% of", "1.6 times"."""
    if round(share, 2) < 1:
        return f"{share:.0%} of"
    return f"{share:.2g} times" if share < 9.95 else f"{share:.0f} times"
