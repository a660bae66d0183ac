"""Read the losses of constant learning rates: which did best, which as well, which failed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lrlab.errors import UserError
from lrlab.range_test.rates import Floats, bounded, check_rises, plain

WINDOW = 0.2  # the last share of a constant lr's steps; their mean loss counts
AS_GOOD = 0.01  # of the best lr's gain: smaller differences do not count
LEARNED = 0.02  # of the best lr's gain: a larger lr that gains less has failed


@dataclass(frozen=True)
class Constants:
    """The reading of constant learning rates from the same start on the same mini-batches.

    Attributes:
        lr: (points,) rising.
        end: (points,) mean loss of the last WINDOW of the steps; inf where one is not finite.
        start: the loss before training.
        best: the lr with the lowest end; None: nothing was learned, or nothing ended.
        as_good: lowest and highest lr around the best with ends that differ by less than two
            standard errors of the difference, step by step on the same mini-batches and part by
            part of the held-out samples, or by AS_GOOD.
        fails_from: the smallest lr above the best with a non-finite loss, or with a gain of less
            than LEARNED of the best one's; None: none.
        edge: ``low`` or ``high`` where the best is the smallest lr or the largest, else "".
        why_none: why there is no best; else "".
    """

    lr: Floats
    end: Floats
    start: float
    best: float | None
    as_good: tuple[float, float] | None
    fails_from: float | None
    edge: str = ""
    why_none: str = ""

    def ends_at(self, lr: float) -> str:
        """Return the end loss at an lr in words, with "about" between the tried lrs."""
        return f"{'' if lr in self.lr else 'about '}{self.loss_at(lr):.3g}"

    def loss_at(self, lr: float) -> float:
        """Return the end loss at an lr, NaN outside the range.

        It interpolates linearly in log lr. Next to an lr that ended above the start, where nothing
        is straight, it takes the nearest.
        """
        if not self.lr[0] <= lr <= self.lr[-1]:
            return math.nan
        place = float(np.interp(math.log(lr), np.log(self.lr), np.arange(len(self.lr))))
        low, high = math.floor(place), math.ceil(place)
        if max(self.end[low], self.end[high]) > self.start:
            return float(self.end[round(place)])
        return float(self.end[low] + (place - low) * (self.end[high] - self.end[low]))


def read_constants(
    lr: ArrayLike,
    losses: ArrayLike,
    last: int | None = None,
    by_part: ArrayLike | None = None,
) -> Constants:
    """Compare constant learning rates by the losses of their last steps.

    Args:
        lr: (points,) rising, above 0.
        losses: (steps, points), each lr's mini-batch losses; all saw the same mini-batches. NaN or
            infinite from where training failed. Or held-out losses, some steps of training apart.
        last: how many of the losses, at the end, are the last ones; None: WINDOW of them.
        by_part: (steps, parts, points) of held-out losses, those of equal parts of the samples;
            their spread shows how much the choice of the samples leaves to chance.

    Raises:
        UserError: lr does not rise, or the shapes do not fit.
    """
    lrs, table = np.asarray(lr, float), np.asarray(losses, float)
    if lrs.ndim != 1 or table.ndim != 2 or table.shape[1] != len(lrs) or not table.size:
        raise UserError(
            f"lr, losses: shapes {lrs.shape} and {table.shape}; need (points,) and (steps, points)"
        )
    check_rises(lrs)
    table = bounded(table)
    count = last or window(len(table))
    ends = table[-count:]
    finite = np.isfinite(table).all(axis=0)
    end = np.full(len(lrs), math.inf)
    end[finite] = (ends[:, finite] / count).sum(axis=0)
    first = table[0][np.isfinite(table[0])]
    start = float(np.median(first)) if len(first) else math.nan
    if not finite.any():
        why = f"at every lr the loss becomes non-finite; begin below {plain(lrs[0])}"
        return Constants(lrs, end, start, None, None, float(lrs[0]), why_none=why)

    best = int(np.argmin(end))
    gain = start - end[best]
    noise = float(np.std(ends[:, best])) / math.sqrt(count)
    parts = (
        np.zeros((count, 0, len(lrs))) if by_part is None else bounded(np.asarray(by_part, float))
    )
    of_parts = parts[-count:].sum(axis=0) / count  # (parts, points)
    chance_gain = not _surely_fell(parts[0, :, best], of_parts[:, best])
    if chance_gain or gain <= max(4 * noise, 1e-6 * max(abs(start), abs(end[best]))):
        bad = np.flatnonzero(~finite)
        fails = float(lrs[bad[0]]) if len(bad) else None
        why = f"no lr brought the loss below its start, {start:.3g}, by more than its noise"
        return Constants(lrs, end, start, None, None, fails, why_none=why)

    with np.errstate(invalid="ignore"):
        chance = _by_samples(of_parts - of_parts[:, [best]])
    good = np.array(
        [_does_as_well(ends[:, i], ends[:, best], gain, chance[i]) for i in range(len(lrs))]
    )
    worse = np.flatnonzero(~good)
    lowest = int(worse[worse < best].max(initial=-1)) + 1
    highest = int(worse[worse > best].min(initial=len(lrs))) - 1
    failed = np.flatnonzero((start - end < LEARNED * gain) & (np.arange(len(lrs)) > best))
    return Constants(
        lr=lrs,
        end=end,
        start=start,
        best=float(lrs[best]),
        as_good=(float(lrs[lowest]), float(lrs[highest])),
        fails_from=float(lrs[failed[0]]) if len(failed) else None,
        edge="low" if lowest == 0 else "high" if highest == len(lrs) - 1 else "",
    )


def window(steps: int) -> int:
    """Return how many of a constant lr's steps count as its last ones."""
    return max(1, round(WINDOW * steps))


def _by_samples(differences: Floats) -> Floats:
    """Return the standard error of the mean of (parts, ...) differences; 0 without parts."""
    parts = len(differences)
    if parts < 2:
        return np.zeros(differences.shape[1:])
    return np.std(differences, axis=0, ddof=1) / math.sqrt(parts)


def _surely_fell(start: Floats, end: Floats) -> bool:
    """Return whether the losses of (parts,) fell by more than the choice of the samples explains.

    Ratios are used if all are above 0, because squared errors of few samples begin far apart.
    """
    if len(start) < 2:
        return True
    positive = bool((start > 0).all() and (end > 0).all())
    fall = np.log(start) - np.log(end) if positive else start - end
    return float(fall.mean()) > 4 * float(_by_samples(fall))


def _does_as_well(losses: Floats, best: Floats, gain: float, chance: float) -> bool:
    if not np.isfinite(losses).all():
        return False
    difference = losses - best
    error = math.hypot(float(np.std(difference)) / math.sqrt(len(difference)), chance)
    return float(np.mean(difference)) <= max(2 * error, AS_GOOD * gain)
