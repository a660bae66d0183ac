"""The outcomes in their one order, for tables, figures and pages; `lrlab.verdicts.judging` gives
them."""

from typing import Literal, get_args

# Those that name no side of the best lr, then from steps that are too short to steps too long.
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


def css_class(outcome: str) -> str:
    """A name without spaces, for a class in HTML: o-nothing-learned."""
    return "o-" + "-".join(outcome.split())
