"""Read from the ramp's curve which learning rates it suggests."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lrlab.errors import UserError
from lrlab.range_test.rates import Floats, bounded, check_rises, plain

SMOOTHING = 0.03  # standard deviation of the ramp's smoothing window, as a share of its points
LEAST_POINTS = 6  # finite losses; fewer have no inside
BEGUN, DONE = 0.05, 0.95  # shares of the fall between which the valley is
VALLEY = 2 / 3  # of the way through it, in log lr
NOISE = 5.0  # standard errors that a fall of the smoothed curve must reach

_MOST_POINTS = 2000  # a longer ramp is averaged in neighbours first: smoothing takes points²


@dataclass(frozen=True)
class Suggestion:
    """An lr that a rule reads off the ramp."""

    rule: str  # steepest, valley or minimum/10
    lr: float | None  # None: the rule finds none
    why_not: str = ""  # why it finds none, without the rule's name


@dataclass(frozen=True)
class Ramp:
    """What the exponential range test shows."""

    lr: Floats  # (points,) of the part before the explosion and before the first non-finite loss
    smooth: Floats  # (points,) the smoothed loss there; empty if the part is too short
    suggestions: tuple[Suggestion, ...]  # steepest, valley, minimum/10
    minimum: float | None  # lr at the lowest smoothed loss; None: it never falls, or to the end
    blow_up: float | None  # lr at which the loss is back at half of its fall, or is not finite


def read_ramp(
    lr: ArrayLike,
    loss: ArrayLike,
    smoothing: float = SMOOTHING,
) -> Ramp:
    """Read the suggestions off an exponential range test.

    Losses after the first non-finite one are ignored, and so are those after an explosion, where
    the running median of five is above its start by more than half of the earlier fall. The rest is
    smoothed by straight lines in log lr, fitted at each point with Gaussian weights, whose standard
    deviation is ``smoothing`` of the points. Unlike a running average, such a fit does not lag, and
    it also gives the slope. The deepest fall from a high to a later low counts, if it exceeds NOISE
    standard errors. The rules are:

    - steepest: the most negative slope in log lr between BEGUN and DONE of the fall, outside one
      smoothing width of either end of the curve.
    - valley: VALLEY of the way, in log lr, from BEGUN to DONE of the fall.
    - minimum/10: a tenth of the lr at the low.

    No suggestion is the first or the last of the finite points, or outside them.

    Args:
        lr: (points,) rising, above 0.
        loss: (points,) any numbers, also below 0, NaN or infinite.
        smoothing: from 0 to 0.5.

    Raises:
        UserError: lr does not rise, the two differ in length, or smoothing is out of range.
    """
    lrs, losses = np.asarray(lr, float), np.asarray(loss, float)
    if lrs.ndim != 1 or lrs.shape != losses.shape:
        raise UserError(f"lr, loss: shapes {lrs.shape} and {losses.shape}; need one loss for each")
    check_rises(lrs)
    if not 0 <= smoothing <= 0.5:
        raise UserError(f"smoothing={smoothing:g}: must be from 0 to 0.5, for example {SMOOTHING}")
    losses = bounded(losses)
    finite = int(np.argmin(np.append(np.isfinite(losses), False)))
    non_finite = finite < len(losses)
    lost_at = float(lrs[finite]) if non_finite else None
    if finite < LEAST_POINTS:
        none = np.empty(0)
        why = f"only {finite} losses{' before one is not finite' if non_finite else ''}"
        why = f"{why}, at least {LEAST_POINTS} are needed"
        return Ramp(lrs[:finite], none, _none(why), None, lost_at)
    lrs, losses = _averaged(lrs[:finite], losses[:finite])
    steady = _steady(losses)
    end = _explosion(losses, steady)
    exploded = end < len(losses)
    if exploded and lost_at is None:
        lost_at = float(lrs[end])
    if end < LEAST_POINTS:
        why = f"the loss rises from lr {plain(lrs[max(end - 1, 0)])} on; begin at a smaller lr"
        return Ramp(lrs[:end], np.empty(0), _none(why), None, lost_at)

    lrs, losses = lrs[:end], _without_outliers(losses[:end], steady[:end])
    span = max(smoothing * len(lrs), 1.0)
    smooth, slope, error = _smoothed(np.log(lrs), losses, span)
    margin = max(round(span), 1)
    inside = len(lrs) - margin if exploded or non_finite else len(lrs)
    high, low = _deepest_fall(smooth[:inside])  # the points just before the explosion say little
    fall = smooth[high] - smooth[low]
    least = 1e-6 * float(np.abs(losses).max())  # float32 has no more digits
    if fall <= max(NOISE * math.hypot(error[high], error[low]), least):
        if smooth[-1] - smooth[0] > max(NOISE * math.hypot(error[0], error[-1]), least):
            why = "the loss only rises; begin at a smaller lr"
        else:
            more = " by more than its noise" if fall > least else ""
            why = f"the loss does not fall{more} up to lr {plain(lrs[-1])}"
        return Ramp(lrs, smooth, _none(why), None, lost_at)

    ends_low = low >= len(lrs) - margin and not (exploded or non_finite)
    begun = high + int(np.argmax(smooth[high:] <= smooth[high] - BEGUN * fall))
    done = high + int(np.argmax(smooth[high:] <= smooth[high] - DONE * fall))
    back = smooth[low:] > smooth[low] + fall / 2
    if back.any():
        lost_at = float(lrs[low + int(np.argmax(back))])
    return Ramp(
        lr=lrs,
        smooth=smooth,
        suggestions=(
            _steepest(lrs, slope, begun, done, margin),
            _valley(lrs, begun, done, ends_low),
            _tenth(lrs, low, ends_low),
        ),
        minimum=None if ends_low else float(lrs[low]),
        blow_up=lost_at,
    )


def _none(why: str) -> tuple[Suggestion, ...]:
    return tuple(Suggestion(rule, None, why) for rule in ("steepest", "valley", "minimum/10"))


def _averaged(lrs: Floats, losses: Floats) -> tuple[Floats, Floats]:
    if len(lrs) <= _MOST_POINTS:
        return lrs, losses
    parts = np.linspace(0, len(lrs), _MOST_POINTS + 1).astype(int)[:-1]
    counts = np.diff(np.append(parts, len(lrs)))
    x = np.add.reduceat(np.log(lrs), parts) / counts
    return np.exp(x), np.add.reduceat(losses / counts.repeat(counts), parts)


def _steady(losses: Floats) -> Floats:
    """Return (points,) the running median of five; a short curve is returned unchanged."""
    if len(losses) < 50:
        return losses
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(losses, 2, mode="edge"), 5)
    return np.median(windows, axis=1)


def _explosion(losses: Floats, steady: Floats) -> int:
    """Return the first point of an explosion, or how many points there are."""
    start = float(np.median(losses[: max(3, len(losses) // 20)]))
    noise = _spread(np.diff(losses[: max(LEAST_POINTS, len(losses) // 3)])) / math.sqrt(2)
    fallen = np.maximum(start - np.minimum.accumulate(steady), 0.0)
    allowed = np.maximum(fallen / 2, max(6 * noise, 0.05 * float(fallen[-1])))
    above = steady - start > allowed
    return int(np.argmax(above)) if above.any() else len(losses)


def _without_outliers(losses: Floats, steady: Floats) -> Floats:
    """Pull single outliers towards their neighbours, because one would bend the whole curve."""
    off = losses - steady
    most = 6 * _spread(off)
    return steady + np.clip(off, -most, most)


def _spread(values: Floats) -> float:
    """Return the standard deviation from the median of absolute values, which ignores outliers."""
    return 1.4826 * float(np.median(np.abs(values)))


def _smoothed(x: Floats, y: Floats, span: float) -> tuple[Floats, Floats, Floats]:
    """Return (points,) each of the local line: value, slope, and standard error of the value.

    Args:
        span: standard deviation of the weights, in points.
    """
    place = np.arange(len(x))
    weights = np.exp(-0.5 * ((place[:, None] - place[None, :]) / span) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    centre = weights @ x
    offset = x[None, :] - centre[:, None]
    per_x = weights * offset / (weights * offset**2).sum(axis=1, keepdims=True)
    hat = weights + (x - centre)[:, None] * per_x  # the value is a weighted mean as well
    smooth = hat @ y
    rest = np.maximum(1 - np.diag(hat), 0.05)  # weight of a point on its own line
    noise = _spread((y - smooth) / np.sqrt(rest))
    return smooth, per_x @ y, noise * np.sqrt((hat**2).sum(axis=1))


def _deepest_fall(values: Floats) -> tuple[int, int]:
    """Return where it begins and ends."""
    drop = np.maximum.accumulate(values) - values
    low = int(np.argmax(drop))
    return int(np.argmax(values[: low + 1])), low


def _steepest(lrs: Floats, slope: Floats, begun: int, done: int, margin: int) -> Suggestion:
    first, last = max(begun, margin), min(done, len(lrs) - 1 - margin)
    if first > last:
        return Suggestion("steepest", None, "the loss falls at the edge of the curve only")
    at = first + int(np.argmin(slope[first : last + 1]))
    if at == len(lrs) - 1 - margin and slope[at + 1 :].min() < slope[at]:
        return Suggestion(
            "steepest", None, f"the loss falls ever faster up to lr {plain(lrs[-1])}, where it ends"
        )
    return Suggestion("steepest", float(lrs[at]))


def _valley(lrs: Floats, begun: int, done: int, ends_low: bool) -> Suggestion:
    if ends_low:
        return Suggestion("valley", None, _STILL_FALLS.format(plain(lrs[-1])))
    x = math.log(lrs[begun]) + VALLEY * math.log(lrs[done] / lrs[begun])
    lr = math.exp(x)
    if not lrs[0] * (1 + 1e-9) < lr < lrs[-1] * (1 - 1e-9):
        return Suggestion("valley", None, "the loss falls at the edge of the curve only")
    return Suggestion("valley", lr)


def _tenth(lrs: Floats, low: int, ends_low: bool) -> Suggestion:
    if ends_low:
        return Suggestion("minimum/10", None, _STILL_FALLS.format(plain(lrs[-1])))
    lr = float(lrs[low]) / 10
    if lr <= lrs[0] * (1 + 1e-9):
        return Suggestion(
            "minimum/10", None, f"a tenth of {plain(lrs[low])} is below the range; begin lower"
        )
    return Suggestion("minimum/10", lr)


_STILL_FALLS = "the loss still falls at lr {}, where it ends; go higher"
