"""Find which lr of a setting ended best, and which others did as well.

The runs of a setting differ only in lr and seed. The verdicts and the answer both use this file, so
they never disagree.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from lrlab.records.thresholds import THRESHOLDS, Thresholds


@dataclass(frozen=True)
class AtLr:
    """The finished runs at one lr."""

    lr: float
    # End loss by seed; inf for a run that diverged or collapsed. Each run without a seed has a key.
    ends: Mapping[Hashable, float]

    @property
    def end(self) -> float:
        """The median over the seeds."""
        return median(self.ends.values())

    @property
    def failed(self) -> float:
        """The share of the runs that failed."""
        return sum(math.isinf(end) for end in self.ends.values()) / len(self.ends)


def gathered(runs: Iterable[tuple[float, Any, Hashable, float]]) -> list[AtLr]:
    """Return the runs by lr, sorted.

    Args:
        runs: lr, seed (None or NaN: not known), name, and end loss (inf: failed) of each. Of
            several with one lr and seed the middle one counts: a repetition is no new seed.
    """
    found: dict[float, dict[Hashable, list[float]]] = {}
    for lr, seed, run, end in runs:
        key = ("run", run) if seed is None or seed != seed else ("seed", str(seed))
        found.setdefault(lr, {}).setdefault(key, []).append(end)
    return [
        AtLr(lr, {key: sorted(ends)[(len(ends) - 1) // 2] for key, ends in found[lr].items()})
        for lr in sorted(found)
    ]


@dataclass(frozen=True)
class Sides:
    """The lrs of one setting, compared. The mappings are by lr."""

    lrs: Sequence[float]  # sorted, with at least one run that was trained to its end
    ends: Mapping[float, float]  # the median end loss; inf if half of the runs or more failed
    best: float = math.nan  # the lr that ended lowest, of those at which the fewest runs failed
    best_end: float = math.nan  # its end loss
    low: float = math.nan  # the smallest lr around the best that did as well
    high: float = math.nan  # the largest
    noise: float = math.nan  # standard deviation between seeds of the difference to the best
    # How much higher than the best it ended, as the mean difference over the seeds that both have.
    # The medians of `ends` can come from different seeds, whose difference has more noise.
    higher: Mapping[float, float] = field(default_factory=dict)
    errors: Mapping[float, float] = field(default_factory=dict)  # of `higher`; {} with one seed
    room: Mapping[float, float] = field(default_factory=dict)  # how far above the best is good

    def side(self, lr: float) -> int:
        """Return -1: below the lrs that are as good as the best; 0: one of them; 1: above."""
        return -1 if lr < self.low else 1 if lr > self.high else 0


def compare(
    at_lrs: Sequence[AtLr], start: float = math.nan, thresholds: Thresholds = THRESHOLDS
) -> Sides:
    """Return the best lr of a setting, and the range around it that did as well.

    An lr did as well if two things hold. Its median end loss is within `thresholds.converged` of
    the best one's, as a ratio, or its mean difference, seed by seed, is within the noise. And no
    larger share of its runs failed. The range goes on to the last such lr on either side, unless an
    lr in between is worse by more than `thresholds.gap`. The noise of one seed makes a single lr
    worse, but not by so much.

    Args:
        at_lrs: one for each lr, in any order.
        start: the initial loss, or that of guessing. Differences of a tiny share of it are ignored.
    """
    order = sorted(at_lrs, key=lambda at: at.lr)
    lrs, ends = [at.lr for at in order], {at.lr: at.end for at in order}
    learned = [at for at in order if math.isfinite(at.end)]
    if not learned:
        return Sides(lrs, ends)
    best = min(learned, key=lambda at: (at.failed, at.end))
    size = abs(best.end)
    floor = thresholds.arrived * abs(start) if math.isfinite(start) else 0.0
    noise, errors = _paired_noise(best, order)
    higher = {at.lr: _higher(at, best) for at in order}
    share = thresholds.converged * size + floor
    chance = {at.lr: thresholds.noise * errors.get(at.lr, 0.0) for at in order}
    room = {lr: max(share, noise_of) for lr, noise_of in chance.items()}

    def last(outwards: Sequence[AtLr]) -> float:
        reached = best.lr
        for at in outwards:
            over = at.end - best.end
            if at.failed > best.failed or over > room[at.lr] + thresholds.gap * size:
                break
            if over <= share or (errors and higher[at.lr] <= chance[at.lr]):
                reached = at.lr
        return reached

    place = order.index(best)
    low, high = last(order[:place][::-1]), last(order[place + 1 :])
    return Sides(lrs, ends, best.lr, best.end, low, high, noise, higher, errors, room)


def _higher(at: AtLr, best: AtLr) -> float:
    """Return how much higher it ended, seed by seed where both have one that did not fail."""
    differences = _differences(at, best)
    return sum(differences) / len(differences) if differences else at.end - best.end


def _differences(at: AtLr, best: AtLr) -> list[float]:
    shared = [at.ends[seed] - best.ends[seed] for seed in at.ends if seed in best.ends]
    return [each for each in shared if math.isfinite(each)]


def _paired_noise(best: AtLr, at_lrs: Sequence[AtLr]) -> tuple[float, dict[float, float]]:
    """Return the deviation between seeds of a difference to the best, and by lr its standard error.

    One seed gives all lrs the same weights and batches, so differences are taken seed by seed. The
    mean of n of them has the error deviation / √n. The deviation is pooled over the lrs that ended
    within twice the best loss, because the deviation of two or three seeds alone says little. Lrs
    without a seed in common with the best are compared without pairs, with √(1/n + 1/m). So are all
    lrs if none has two.
    """
    squares, freedom = 0.0, 0
    own_squares, own_freedom = 0.0, 0
    for at in at_lrs:
        ends = np.array([end for end in at.ends.values() if math.isfinite(end)])
        if not len(ends) or not (at is best or at.end <= best.end + abs(best.end)):
            continue
        own_squares += _squares(ends)
        own_freedom += len(ends) - 1
        differences = np.array(_differences(at, best))
        if at is best or len(differences) < 2:
            continue
        squares += _squares(differences)
        freedom += len(differences) - 1
    counts = {at.lr: len(_differences(at, best)) for at in at_lrs}
    unpaired = math.sqrt(own_squares / own_freedom) if own_freedom else math.nan
    paired = math.sqrt(squares / freedom) if freedom else math.nan

    def error(at: AtLr) -> float:
        if freedom and counts[at.lr]:
            return paired / math.sqrt(counts[at.lr])
        return unpaired * math.sqrt(1 / len(best.ends) + 1 / len(at.ends))

    if not own_freedom:  # and so no pairs
        return math.nan, {}
    noise = paired if freedom else unpaired * math.sqrt(2)
    return noise, {at.lr: error(at) for at in at_lrs}


def _squares(values: np.ndarray) -> float:
    with np.errstate(over="ignore", invalid="ignore"):  # losses of 1e200 do occur
        return float(((values - values.mean()) ** 2).sum())
