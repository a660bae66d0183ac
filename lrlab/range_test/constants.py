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
    """What constant learning rates did from the same start on the same mini-batches."""

    lr: Floats  # (points,) rising
    end: Floats  # (points,) mean loss of the last WINDOW of the steps; inf if one is not finite
    start: float  # the loss before training
    best: float | None  # the lr with the lowest end; None: nothing was learned, see why_none
    # Lowest and highest lr around the best that end within AS_GOOD of it, or within two standard
    # errors of the difference (over the steps and over the parts of the held-out samples).
    as_good: tuple[float, float] | None
    # The smallest lr above the best with a non-finite loss, or with a gain of less than LEARNED of
    # the best one's.
    fails_from: float | None
    edge: str = ""  # "low" or "high" if as_good reaches the smallest or the largest lr
    why_none: str = ""  # why there is no best

    def ends_at(self, lr: float) -> str:
        """Return the end loss at an lr in words, with "about" between the tried lrs."""
        return f"{'' if lr in self.lr else 'about '}{self.loss_at(lr):.3g}"

    def loss_at(self, lr: float) -> float:
        """Return the end loss at an lr, NaN outside the range.

        It is interpolated linearly in log lr, but next to an lr that ended above the start it is
        that of the nearest lr.
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
    guess: float = math.inf,
) -> Constants:
    """Compare constant learning rates by the losses of their last steps.

    Args:
        lr: (points,) rising, above 0.
        losses: (steps, points), either mini-batch losses, where all lrs saw the same mini-batches,
            or held-out losses, some steps of training apart. NaN or infinite once training failed.
        last: how many losses at the end count; None: WINDOW of them.
        by_part: (steps, parts, points) held-out losses of equal parts of the samples; their spread
            shows how much depends on the choice of the samples.
        guess: the loss of the best constant answer; who does not come below it learned nothing of
            the inputs.

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
        why = f"the loss becomes non-finite at every lr; begin below {plain(lrs[0])}"
        return Constants(lrs, end, start, None, None, float(lrs[0]), why_none=why)

    best = int(np.argmin(end))
    gain = start - end[best]
    noise = float(np.std(ends[:, best])) / math.sqrt(count)
    parts = (
        np.zeros((count, 0, len(lrs))) if by_part is None else bounded(np.asarray(by_part, float))
    )
    of_parts = parts[-count:].sum(axis=0) / count  # (parts, points)
    chance_gain = not _surely_fell(parts[0, :, best], of_parts[:, best])

    def nothing(
        why: str = f"no lr brought the loss below its start, {start:.3g}, by more than its noise",
    ) -> Constants:
        bad = np.flatnonzero(~finite)
        fails = float(lrs[bad[0]]) if len(bad) else None
        return Constants(lrs, end, start, None, None, fails, why_none=why)

    if chance_gain or gain <= max(4 * noise, 1e-6 * max(abs(start), abs(end[best]))):
        return nothing()
    if end[best] >= guess:
        return nothing(
            f"no lr brought the loss below {guess:.3g}, that of one answer to all inputs; more "
            "steps may do so"
        )

    with np.errstate(invalid="ignore"):
        chance = _by_samples(of_parts - of_parts[:, [best]])

    def does_as_well(i: int) -> bool:
        if not np.isfinite(ends[:, i]).all():
            return False
        apart = ends[:, i] - ends[:, best]
        error = math.hypot(float(np.std(apart)) / math.sqrt(count), chance[i])
        return float(np.mean(apart)) <= max(2 * error, AS_GOOD * gain)

    good = np.array([does_as_well(i) for i in range(len(lrs))])
    worse = np.flatnonzero(~good)
    lowest = int(worse[worse < best].max(initial=-1)) + 1
    if lowest == 0 and by_part is None:
        # No smaller lr shows what not learning is. And the start is the loss of one mini-batch,
        # which differ as the losses of neighbouring steps do.
        of_batches = float(np.std(np.diff(table[:, 0]))) / math.sqrt(2)
        if gain <= 4 * math.hypot(noise, of_batches):
            return nothing()
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

    If all are above 0, ratios are compared, because squared errors of few samples begin far apart.
    """
    if len(start) < 2:
        return True
    positive = bool((start > 0).all() and (end > 0).all())
    fall = np.log(start) - np.log(end) if positive else start - end
    return float(fall.mean()) > 4 * float(_by_samples(fall))
