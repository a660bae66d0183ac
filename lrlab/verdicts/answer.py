"""The answer: what a sweep recommends as lr, and the facts that support it."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from lrlab.verdicts.noise import Rival
from lrlab.verdicts.pooled import Search


@dataclass(frozen=True)
class ToTarget:
    """How long it took to reach the target loss at one lr; medians over seeds, inf for never."""

    lr: float
    steps: float
    seconds: float  # NaN where not known


@dataclass(frozen=True)
class Answer:
    """The recommendation for runs with equal other settings. NaN: not known or not measured."""

    settings: Mapping[str, Any]  # the other settings by name
    refusal: str = ""  # why no lr is recommended; then best_lr is None
    # The lr with the lowest median end loss over its seeds, of those at which the fewest failed.
    best_lr: float | None = None
    best_run: Hashable = None  # of its runs the one in the middle
    best_loss: float = math.nan  # that median
    judged_by: str = ""  # the name of that loss
    as_good: tuple[float, float] | None = None  # lowest and highest lr that do as well as the best
    noise: float = math.nan  # standard deviation between seeds of a difference to the best
    rival: Rival | None = None  # the lr that ended next to the best
    seeds: int = 0  # of the runs at the best lr
    failed_seeds: int = 0  # how many of these diverged or collapsed
    lrs: int = 0  # how many lrs were trained to their end
    runs: int = 0  # of every state
    not_judged: int = 0  # runs that were not trained to their end
    too_small: float | None = None  # the largest lr below as_good at which most runs undershoot
    # The smallest lr above as_good at which most runs overshoot, collapse or diverge.
    too_large: float | None = None
    larger_overfit: bool = False  # most of the runs that overshoot overfit
    fails_from: float | None = None  # the smallest lr at which a run collapsed or diverged
    at_end: str = ""  # how most runs at the best lr stood at their end, see mechanics.at_end
    step_words: str = ""  # how their steps were, see mechanics.steps
    decay_gain: float = math.nan  # gain in log train loss from ending at a tenth of the best lr
    overfit_from: float = math.nan  # median lowest val loss of the best runs, if most overfit
    overfit_epoch: float = math.nan  # the epoch, or step, of that loss
    edge: str = ""  # "low", "high" or "both" if the best is the smallest or largest lr tried
    try_next: tuple[float, float] | None = None  # range of lrs
    unit: str = "step"  # of steps: step or epoch
    steps: float = math.nan  # of the runs
    target_loss: float = math.nan
    to_target: tuple[ToTarget, ...] = ()  # one for each lr, sorted by it
    counts: Mapping[str, int] | None = None  # how many runs had each outcome
    search: Search | None = None  # of a search over several settings, the result of all runs

    @property
    def overshoots_from(self) -> float | None:
        """`too_large`, unless runs fail from there on; None: none overshoots before that."""
        fails = math.inf if self.fails_above is None else self.fails_above
        return self.too_large if self.too_large is not None and self.too_large < fails else None

    @property
    def fails_above(self) -> float | None:
        """`fails_from`, if it is above all lrs that are as good as the best."""
        if self.fails_from is None or self.as_good is None:
            return self.fails_from
        return self.fails_from if self.fails_from > self.as_good[1] else None

    @property
    def overfits(self) -> bool:
        return self.at_end == "overfitting"

    @property
    def decay_helps(self) -> bool:
        return self.at_end == "would anneal"

    @property
    def is_alone(self) -> bool:
        """Whether there was only one lr, so that nothing could be compared with it."""
        return self.best_lr is not None and self.lrs == 1
