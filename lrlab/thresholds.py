"""The numbers at which a verdict turns, each with its meaning, for a report to print."""

from dataclasses import dataclass, field, fields
from typing import Any


def _at(default: float, means: str) -> Any:
    return field(default=default, metadata={"means": means})


@dataclass(frozen=True)
class Thresholds:
    """Where one outcome or step mode ends and the next begins. Losses are compared as ratios."""

    # What is read off a curve
    end: float = _at(0.05, "share of the evaluations, the last ones, whose median is the end loss")
    blocks: int = _at(100, "means into which the mini-batch losses are gathered for the end loss")
    trend_blocks: int = _at(20, "means of mini-batch losses that stand for epochs in the trend")
    epochs: int = _at(8, "evaluations from which on they show the trend by themselves")
    # Outcomes
    diverged: float = _at(1.05, "diverged: end above this × the larger of initial and chance loss")
    growing: float = _at(0.05, "diverged: and the last quarter above the third by this share")
    chance: float = _at(0.98, "collapsed, undershooting: end at or above this × chance loss")
    spike: float = _at(1.5, "collapsed: a loss above this × initial loss on the way")
    learned: float = _at(
        0.9, "collapsed: or a smaller lr of the sweep below this × chance loss, it not"
    )
    converged: float = _at(0.99, "converged: this share of the way to the best loss known")
    short: float = _at(-0.5, "undershooting: median alpha at or below this, and still falling")
    stuck: float = _at(0.5, "... or below this share of the way to the best, and no branch gains")
    overtaken: float = _at(0.98, "not converged: a tenth of the step leaves it below this share")
    gain: float = _at(
        0.05, "overshooting, undershooting: a branch gains more than this in log train loss"
    )
    rising: float = _at(0.2, "overshooting without branches: this share of late epochs rises")
    slope: float = _at(-0.2, "... and d log loss / d log step in the last quarter is above this")
    better: float = _at(
        0.05, "... a neighbouring lr ended better by this share, which comes before the trend"
    )
    annealed: float = _at(
        0.1, "... the trend is not heard where the lr ended below this share of itself"
    )
    overfitting: float = _at(1.1, "overfitting: val loss above this × its lowest, train loss lower")
    # Step modes
    oscillating: float = _at(0.5, "stability ratio from which on steps cross the valley")
    unstable: float = _at(1.0, "stability ratio above which steps climb out of it")
    smooth: float = _at(0.99, "a curve alone: share of steps that fall, for a monotone one")
    swinging: float = _at(0.3, "... a swing, where at most this share of its steps turn round")
    alternating: float = _at(0.9, "... or at least this share: noise turns two times in three")
    # The answer
    noise: float = _at(2.0, "as good as the best: within this many standard errors over seeds")
    target: float = _at(0.95, "target loss, unless given: this share of the way to the best")


THRESHOLDS = Thresholds()


def lines(thresholds: Thresholds = THRESHOLDS) -> list[str]:
    """One line a threshold: name, value, meaning."""
    width = max(len(each.name) for each in fields(thresholds))
    return [
        f"{each.name:{width}}  {getattr(thresholds, each.name):>5g}  {each.metadata['means']}"
        for each in fields(thresholds)
    ]
