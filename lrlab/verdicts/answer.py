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
    """The recommendation for runs with equal other settings.

    Attributes:
        settings: the other settings by name.
        refusal: why no lr is recommended; "" where one is. Then best_lr is None.
        best_lr: with the lowest median end loss over its seeds, of the lrs at which fewest failed.
        best_run: of its runs the one in the middle.
        best_loss: that median.
        judged_by: the name of that loss.
        as_good: lowest and highest of the lrs around it that do as well.
        noise: standard deviation between seeds of a difference to the best; NaN with one seed.
        rival: the lr that ended next to the best, and how large the noise of the difference is.
        seeds: of the runs at the best lr.
        failed_seeds: how many of these diverged or collapsed.
        lrs: how many lrs were trained to their end.
        runs: how many runs there are, of every state.
        not_judged: how many of them had not had their whole budget.
        too_small: the largest lr below `as_good` at which most runs undershoot; None: none does.
        too_large: the smallest lr above `as_good` at which most runs overshoot, collapse or
            diverge; None: none does.
        larger_overfit: whether most of the runs that overshoot overfit.
        fails_from: the smallest lr at which a run collapsed or diverged; None: none did.
        at_end: how most of the runs at the best lr stood at their end; see `mechanics.at_end`.
        step_words: how their steps were: far too short, about right, unstable; "" not measured.
        decay_gain: the gain in log train loss from ending at a tenth of the best lr; NaN: not
            measured.
        overfit_from: the median lowest val loss of the best runs, if most of them overfit;
            otherwise NaN.
        overfit_epoch: after how many epochs, or at which step, that was.
        edge: "low", "high" or "both" where the best is the smallest or largest lr tried; else "".
        try_next: range of lrs to try next, None if none.
        unit: of steps, step or epoch.
        steps: how many steps, or epochs, the runs have; NaN: not known.
        target_loss: the loss for to_target; NaN: none.
        to_target: one for each lr, sorted by it.
        counts: how many runs had each outcome.
        search: the joint result of all runs of a search over several settings; otherwise None.
    """

    settings: Mapping[str, Any]
    refusal: str = ""
    best_lr: float | None = None
    best_run: Hashable = None
    best_loss: float = math.nan
    judged_by: str = ""
    as_good: tuple[float, float] | None = None
    noise: float = math.nan
    rival: Rival | None = None
    seeds: int = 0
    failed_seeds: int = 0
    lrs: int = 0
    runs: int = 0
    not_judged: int = 0
    too_small: float | None = None
    too_large: float | None = None
    larger_overfit: bool = False
    fails_from: float | None = None
    at_end: str = ""
    step_words: str = ""
    decay_gain: float = math.nan
    overfit_from: float = math.nan
    overfit_epoch: float = math.nan
    edge: str = ""
    try_next: tuple[float, float] | None = None
    unit: str = "step"
    steps: float = math.nan
    target_loss: float = math.nan
    to_target: tuple[ToTarget, ...] = ()
    counts: Mapping[str, int] | None = None
    search: Search | None = None

    @property
    def overshoots_from(self) -> float | None:
        """`too_large`, unless runs fail from there on; None: none overshoots before that."""
        if self.fails_above is not None and self.too_large is not None:
            return self.too_large if self.too_large < self.fails_above else None
        return self.too_large

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
