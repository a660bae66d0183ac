"""Define the thresholds of the verdicts, each with its meaning in words."""

from dataclasses import dataclass, field, fields
from typing import Any


def _at(default: float, means: str) -> Any:
    return field(default=default, metadata={"means": means})


@dataclass(frozen=True)
class Thresholds:
    """Where one outcome or step mode ends and the next begins. Losses are compared as ratios."""

    # Reading a curve
    end: float = _at(0.05, "end loss: the median of this last share of the evaluations")
    blocks: int = _at(100, "without evaluations: means of mini-batch losses for the end loss")
    trend_blocks: int = _at(20, "... and for the trend")
    epochs: int = _at(8, "with fewer evaluations, mini-batch losses show the trend")
    # Outcomes, in the order in which they are tried
    diverged: float = _at(1.05, "diverged: end above this × the lower of initial and guessing loss")
    growing: float = _at(0.05, "... and the last quarter is above the third by this share")
    guessing: float = _at(0.98, "collapsed, nothing learned: at or above this × guessing's loss")
    spike: float = _at(1.5, "collapsed: and an earlier loss is above this × the initial loss")
    learned: float = _at(0.9, "... or a smaller lr ended below this × guessing's loss")
    converged: float = _at(0.05, "converged: within this share of the best end loss")
    gap: float = _at(0.25, "... and no lr between it and the best is worse by more than this share")
    arrived: float = _at(1e-5, "... ignoring differences below this share of the initial loss")
    # At the end
    gain: float = _at(0.05, "would anneal: lr/10 gains more than this in log train loss")
    slope: float = _at(
        -0.2, "still falling: d log loss / d log step below this in the last quarter"
    )
    moved: float = _at(0.05, "settled: and the loss has changed by this share of the initial loss")
    steep: float = _at(-1.0, "run alone: a slope below this says that a larger lr does better")
    annealed: float = _at(0.1, "settled: the schedule ended below this share of the lr")
    overfitting: float = _at(
        1.1, "overfitting: val loss above this × its lowest, train loss below start"
    )
    # Step modes
    oscillating: float = _at(0.5, "plain SGD: steps cross the valley from this stability ratio")
    edge: float = _at(0.9, "steps are at the edge of stability from this stability ratio")
    unstable: float = _at(1.1, "steps climb out of the valley above this stability ratio")
    short: float = _at(0.1, "steps far too short: stability ratio and alpha + 1 below this")
    measured: int = _at(3, "fewer measured steps do not show how long the steps were")
    smooth: float = _at(0.99, "a curve alone: monotone if at least this share of its steps falls")
    swinging: float = _at(0.3, "... a swing if at most this share of its steps turns round")
    alternating: float = _at(0.9, "... or at least this share; noise turns at two steps of three")
    rising: float = _at(0.2, "... and at least this share of a swing's steps rises")
    # The answer
    noise: float = _at(2.0, "differences within this many standard errors may be chance")
    target: float = _at(0.95, "default target loss: this share of the way to the best")
    few_steps: int = _at(100, "runs with fewer steps show little")


THRESHOLDS = Thresholds()


def table(thresholds: Thresholds = THRESHOLDS) -> dict[str, dict[str, Any]]:
    """Return each threshold by name: its value and its meaning."""
    return {
        each.name: {"value": getattr(thresholds, each.name), "means": each.metadata["means"]}
        for each in fields(thresholds)
    }


def lines(thresholds: Thresholds = THRESHOLDS) -> list[str]:
    """Return one line a threshold: name, value, meaning."""
    width = max(len(each.name) for each in fields(thresholds))
    return [
        f"{each.name:{width}}  {getattr(thresholds, each.name):>5g}  {each.metadata['means']}"
        for each in fields(thresholds)
    ]
