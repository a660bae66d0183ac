"""Define the thresholds of the verdicts, each with its meaning, for a report to print."""

from dataclasses import dataclass, field, fields
from typing import Any


def _at(default: float, means: str) -> Any:
    return field(default=default, metadata={"means": means})


@dataclass(frozen=True)
class Thresholds:
    """Where one outcome or step mode ends and the next begins. Losses are compared as ratios."""

    # Reading a curve
    end: float = _at(0.05, "share of the evaluations, the last ones, whose median is the end loss")
    blocks: int = _at(100, "means into which the mini-batch losses are gathered for the end loss")
    trend_blocks: int = _at(20, "means of mini-batch losses that stand for epochs in the trend")
    epochs: int = _at(8, "evaluations from which on they show the trend by themselves")
    # Outcomes, in the order in which they are tried
    diverged: float = _at(1.05, "diverged: end above this × the smaller of initial and guessing")
    growing: float = _at(0.05, "... and the last quarter above the third by this share")
    guessing: float = _at(0.98, "collapsed, nothing learned: at or above this × guessing's loss")
    spike: float = _at(1.5, "collapsed: and a loss above this × the initial loss on the way")
    learned: float = _at(0.9, "... or a smaller lr of the setting below this × guessing's loss")
    converged: float = _at(0.05, "converged: within this share of the best end loss")
    gap: float = _at(0.25, "... and no lr between it and the best is worse by more than this share")
    arrived: float = _at(1e-5, "... a difference below this share of the initial loss is none")
    # At the end
    gain: float = _at(0.05, "would anneal: lr/10 gains more than this in log train loss")
    slope: float = _at(-0.2, "still falling: d log loss / d log step in the last quarter")
    moved: float = _at(0.05, "settled: and the loss has changed by this share of the initial loss")
    steep: float = _at(-1.0, "of a run alone, a slope below this says that a larger lr does better")
    annealed: float = _at(0.1, "settled: the schedule ended below this share of the lr")
    overfitting: float = _at(1.1, "overfitting: val loss above this × its lowest, train loss lower")
    # Step modes
    oscillating: float = _at(0.5, "plain SGD: stability ratio from which on steps cross the valley")
    edge: float = _at(0.9, "stability ratio from which on steps are at the edge of stability")
    unstable: float = _at(1.1, "stability ratio above which steps climb out of the valley")
    short: float = _at(0.1, "steps are far too short below this ratio, or share of the way to 0")
    measured: int = _at(3, "fewer measured steps do not say how long the steps were")
    smooth: float = _at(0.99, "a curve alone: share of steps that fall, for a monotone one")
    swinging: float = _at(0.3, "... a swing, where at most this share of its steps turn round")
    alternating: float = _at(0.9, "... or at least this share: noise turns two times in three")
    rising: float = _at(0.2, "... and at least this share of the steps of a swing rises")
    # The answer
    noise: float = _at(2.0, "differences within this many standard errors may be chance")
    target: float = _at(0.95, "target loss, unless given: this share of the way to the best")
    few_steps: int = _at(100, "runs with fewer steps say little")


THRESHOLDS = Thresholds()


def lines(thresholds: Thresholds = THRESHOLDS) -> list[str]:
    """Return one line a threshold: name, value, meaning."""
    width = max(len(each.name) for each in fields(thresholds))
    return [
        f"{each.name:{width}}  {getattr(thresholds, each.name):>5g}  {each.metadata['means']}"
        for each in fields(thresholds)
    ]
