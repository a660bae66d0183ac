"""The outcomes in their one order, and the states of runs that have none."""

from typing import Literal, get_args

# First those that name no side of the best lr, then from steps too short to steps too long.
Outcome = Literal[
    "not compared",
    "pruned",
    "nothing learned",
    "undershooting",
    "converged",
    "overshooting",
    "collapsed",
    "diverged",
]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
FAILED = ("diverged", "collapsed")
TOO_LARGE = (*FAILED, "overshooting")

# A run in one of these states has not used its whole budget; an empty state says nothing.
UNFINISHED = ("pruned", "interrupted", "failed", "running", "training", "waiting")


def css_class(outcome: str) -> str:
    """Return a name without spaces, for a class in HTML: o-nothing-learned."""
    return "o-" + "-".join(outcome.split())
