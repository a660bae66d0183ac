"""The range test's curves read: what the ramp suggests, what constant lrs do, where they disagree.

Pure functions of arrays; reads no files, never imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lrlab.errors import UserError

Floats = NDArray[np.float64]

SMOOTHING = 0.03  # standard deviation of the ramp's smoothing window, as a share of its points
LEAST_POINTS = 6  # finite losses; fewer have no inside
BEGUN, DONE = 0.05, 0.95  # shares of the fall between which the valley is
VALLEY = 2 / 3  # of the way through it, in log lr
WINDOW = 0.2  # share of a constant lr's steps, the last ones, whose mean loss counts
AS_GOOD = 0.01  # of what the best lr gains: differences below it count as none
LEARNED = 0.02  # of what the best lr gains: a larger lr that gains less has failed
MISLED = 0.02  # of what the best lr gains: a suggestion that loses less does not mislead
NOISE = 5.0  # standard errors that a fall of the smoothed curve must be worth

_HUGE = 1e100  # losses count as no larger, so that their squares are still numbers
_MOST_POINTS = 2000  # a longer ramp is averaged in neighbours first: smoothing takes points²


@dataclass(frozen=True)
class Suggestion:
    """An lr that a rule reads off the ramp.

    Attributes:
        rule: ``steepest``, ``valley`` or ``minimum/10``.
        lr: None where the rule has nothing to say.
        why_not: then the reason, without the rule's name; else "".
    """

    rule: str
    lr: float | None
    why_not: str = ""


@dataclass(frozen=True)
class Ramp:
    """The exponential range test, read.

    Attributes:
        lr: (points,) of the part that is read: it ends before the explosion and before the first
            loss that is not finite.
        smooth: (points,) the smoothed loss there; empty where it is too short.
        suggestions: steepest, valley, minimum/10.
        minimum: lr at the lowest smoothed loss; None where that is no minimum, because the loss
            never falls or still falls at the end.
        blow_up: lr from which on the loss has lost half of its fall again, or is not finite;
            None: up to the largest lr it does not.
    """

    lr: Floats
    smooth: Floats
    suggestions: tuple[Suggestion, ...]
    minimum: float | None
    blow_up: float | None


@dataclass(frozen=True)
class Constants:
    """Constant learning rates from the same start on the same mini-batches, read.

    Attributes:
        lr: (points,) rising.
        end: (points,) mean loss of the last WINDOW of the steps; inf where one is not finite.
        start: the loss before training.
        best: the lr with the lowest end; None: nothing was learned, or nothing ended.
        as_good: lowest and highest lr around the best whose ends differ by less than two standard
            errors of the difference, step by step on the same mini-batches and part by part of the
            held-out samples, or by AS_GOOD.
        fails_from: the smallest lr above the best whose loss became non-finite, or that gained
            less than LEARNED of what the best did; None: none.
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
        """The end loss at an lr in words: "about" where it was not tried, but lies between."""
        return f"{'' if lr in self.lr else 'about '}{self.loss_at(lr):.3g}"

    def loss_at(self, lr: float) -> float:
        """The end loss at an lr, NaN outside the range.

        By linear interpolation in log lr; next to an lr that ended above the start, where nothing
        is straight, that of the nearest.
        """
        if not self.lr[0] <= lr <= self.lr[-1]:
            return math.nan
        place = float(np.interp(math.log(lr), np.log(self.lr), np.arange(len(self.lr))))
        low, high = math.floor(place), math.ceil(place)
        if max(self.end[low], self.end[high]) > self.start:
            return float(self.end[round(place)])
        return float(self.end[low] + (place - low) * (self.end[high] - self.end[low]))


# --- the ramp -------------------------------------------------------------------------------------


def read_ramp(
    lr: ArrayLike,
    loss: ArrayLike,
    smoothing: float = SMOOTHING,
) -> Ramp:
    """Read the suggestions off an exponential range test.

    Nothing behind the first loss that is not finite is read, and nothing behind an explosion: the
    loss, as a median of five, is above its start by more than half of what it had fallen. The rest
    is smoothed by straight lines in log lr, fitted at each point with Gaussian weights (their
    standard deviation is ``smoothing`` of the points, at least one). Such a fit does not lag, as a
    running average does, and gives the slope as well. Its deepest fall counts, from a high to a
    later low, and must be worth NOISE standard errors. On it:

    - steepest: the most negative slope in log lr between BEGUN and DONE of the fall, and not
      within a window of either end of the curve.
    - valley: VALLEY of the way, in log lr, from where BEGUN of the fall is made to where DONE is.
    - minimum/10: a tenth of the lr at the low.

    No suggestion ever is the first or the last of the finite points, or outside them.

    Args:
        lr: (points,) rising, above 0.
        loss: (points,) any numbers, also below 0, NaN or infinite.
        smoothing: from 0 to 0.5.

    Raises:
        UserError: lr does not rise, the two differ in length, or smoothing is out of range.
    """
    lrs, losses = _checked(lr, loss, smoothing)
    finite = int(np.argmin(np.append(np.isfinite(losses), False)))
    non_finite = finite < len(losses)
    lost_at = float(lrs[finite]) if non_finite else None
    if finite < LEAST_POINTS:
        none = np.empty(0)
        why = f"only {finite} losses{' before one is not finite' if non_finite else ''}, "
        return Ramp(
            lrs[:finite], none, _none(why + f"at least {LEAST_POINTS} are needed"), None, lost_at
        )
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
    high, low = _deepest_fall(smooth[:inside])  # what leads up to the explosion tells little
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


def _checked(lr: ArrayLike, loss: ArrayLike, smoothing: float) -> tuple[Floats, Floats]:
    lrs, losses = np.asarray(lr, float), np.asarray(loss, float)
    if lrs.ndim != 1 or lrs.shape != losses.shape:
        raise UserError(f"lr, loss: shapes {lrs.shape} and {losses.shape}; need one loss for each")
    _check_rises(lrs)
    if not 0 <= smoothing <= 0.5:
        raise UserError(f"smoothing={smoothing:g}: must be from 0 to 0.5, for example {SMOOTHING}")
    return lrs, _bounded(losses)


def _bounded(losses: Floats) -> Floats:
    return np.where(np.isfinite(losses), np.clip(losses, -_HUGE, _HUGE), losses)


def _check_rises(lrs: Floats) -> None:
    if not (np.isfinite(lrs).all() and (lrs > 0).all() and (np.diff(lrs) > 0).all()):
        raise UserError("lr: must rise from each point to the next, finite and above 0")


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
    """(points,) the running median of five; a short curve as it is, for there each point counts."""
    if len(losses) < 50:
        return losses
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(losses, 2, mode="edge"), 5)
    return np.median(windows, axis=1)


def _explosion(losses: Floats, steady: Floats) -> int:
    """The first point of an explosion, or how many points there are."""
    start = float(np.median(losses[: max(3, len(losses) // 20)]))
    noise = _spread(np.diff(losses[: max(LEAST_POINTS, len(losses) // 3)])) / math.sqrt(2)
    fallen = np.maximum(start - np.minimum.accumulate(steady), 0.0)
    allowed = np.maximum(fallen / 2, max(6 * noise, 0.05 * float(fallen[-1])))
    above = steady - start > allowed
    return int(np.argmax(above)) if above.any() else len(losses)


def _without_outliers(losses: Floats, steady: Floats) -> Floats:
    """Single losses far off their neighbours drawn near: one would bend the whole curve."""
    off = losses - steady
    most = 6 * _spread(off)
    return steady + np.clip(off, -most, most)


def _spread(values: Floats) -> float:
    """Standard deviation from the median of absolute values: outliers do not count."""
    return 1.4826 * float(np.median(np.abs(values)))


def _smoothed(x: Floats, y: Floats, span: float) -> tuple[Floats, Floats, Floats]:
    """The local line at each point: its value, its slope, and the standard error of the value.

    Args:
        x, y: (points,).
        span: standard deviation of the weights, in points.

    Returns:
        (points,) each.
    """
    place = np.arange(len(x))
    weights = np.exp(-0.5 * ((place[:, None] - place[None, :]) / span) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    centre = weights @ x
    offset = x[None, :] - centre[:, None]
    per_x = weights * offset / (weights * offset**2).sum(axis=1, keepdims=True)
    hat = weights + (x - centre)[:, None] * per_x  # the value is a weighted mean as well
    smooth = hat @ y
    rest = np.maximum(1 - np.diag(hat), 0.05)  # of a point that pulls its line along
    noise = _spread((y - smooth) / np.sqrt(rest))
    return smooth, per_x @ y, noise * np.sqrt((hat**2).sum(axis=1))


def _deepest_fall(values: Floats) -> tuple[int, int]:
    """Where it begins and ends."""
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


# --- constant learning rates ----------------------------------------------------------------------


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
        by_part: (steps, parts, points) of held-out losses, those of equal parts of the samples: how
            much they differ says what the choice of the samples leaves to chance.

    Raises:
        UserError: lr does not rise, or the shapes do not fit.
    """
    lrs, table = np.asarray(lr, float), np.asarray(losses, float)
    if lrs.ndim != 1 or table.ndim != 2 or table.shape[1] != len(lrs) or not table.size:
        raise UserError(
            f"lr, losses: shapes {lrs.shape} and {table.shape}; need (points,) and (steps, points)"
        )
    _check_rises(lrs)
    table = _bounded(table)
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
        np.zeros((count, 0, len(lrs))) if by_part is None else _bounded(np.asarray(by_part, float))
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
    """How many of a constant lr's steps are its last ones."""
    return max(1, round(WINDOW * steps))


def _by_samples(differences: Floats) -> Floats:
    """The standard error of the mean of (parts, ...) differences; 0 where there are no parts."""
    parts = len(differences)
    if parts < 2:
        return np.zeros(differences.shape[1:])
    return np.std(differences, axis=0, ddof=1) / math.sqrt(parts)


def _surely_fell(start: Floats, end: Floats) -> bool:
    """Whether the losses of (parts,) fell by more than the choice of the samples explains.

    By their ratios where all are above 0: squared errors of few samples begin far apart.
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


# --- both -----------------------------------------------------------------------------------------


def overfits(constants: Constants, train: Constants | None) -> bool:
    """Whether the lrs that fail by the held-out loss still lower the training loss.

    Args:
        train: the constant lrs read by their training losses; None: so are ``constants``.
    """
    fails = constants.fails_from
    if train is None or fails is None:
        return False
    return train.fails_from is None or train.fails_from > fails


def where_the_ramp_misleads(ramp: Ramp, constants: Constants, overfit: bool = False) -> list[str]:
    """What the ramp shows that constant learning rates do not do, a sentence each.

    The ramp reaches an lr with the progress of all smaller ones, and an lr that is too large needs
    some steps to blow up, in which the ramp has gone on. What costs less than MISLED is no matter.

    Args:
        overfit: see ``overfits``.
    """
    fail, blows_up = ("overfit", "rises again") if overfit else ("fail", "blows up")
    whose = "'s loss" if overfit else ""
    best, fails, blow_up = constants.best, constants.fails_from, ramp.blow_up
    if best is None:
        return []
    lowest = float(np.min(constants.end))
    gain = constants.start - lowest

    def loses(lr: float) -> bool:
        return constants.loss_at(lr) - lowest > MISLED * gain

    found = []
    for suggestion in ramp.suggestions:
        lr = suggestion.lr
        if lr is None or not loses(lr):
            continue
        loss = constants.loss_at(lr)
        far = f"{plain(max(lr / best, best / lr))} times {'below' if lr < best else 'above'}"
        does = (
            f"ends at {constants.ends_at(lr)}, the best at {lowest:.3g}"
            if math.isfinite(loss)
            else "fails"
        )
        found.append(
            f"{suggestion.rule}, lr {plain(lr)}, is {far} the best constant lr: held constant, it "
            f"{does}"
        )
    if ramp.minimum is not None and ramp.minimum > best and loses(ramp.minimum):
        what = f"the best constant lr is {plain(best)}"
        if fails is not None and ramp.minimum >= fails:
            what = f"constant lrs {fail} from {plain(fails)} on"
        found.append(
            f"the ramp's loss is lowest at lr {plain(ramp.minimum)}, but {what}: "
            "the ramp brings along what smaller lrs had won before"
        )
    if blow_up is not None and fails is not None and blow_up > fails:
        found.append(
            f"the ramp{whose} {blows_up} at lr {plain(blow_up)}, but constant lrs {fail} from "
            f"{plain(fails)} on: {'that' if overfit else 'a blow-up'} takes steps, in which the "
            "ramp has gone on"
        )
    elif blow_up is not None and constants.loss_at(blow_up) < lowest + gain / 2:
        found.append(
            f"the ramp{whose} {blows_up} at lr {plain(blow_up)}, where a constant lr still trains "
            f"(it ends at {constants.ends_at(blow_up)}): the ramp came there too early in training"
        )
    return found


def sweep_range(constants: Constants) -> tuple[float, float] | None:
    """The lrs that a sweep should try next: a third of those that do as well, to three times them.

    A sweep trains longer, where the best lr is rarely far from here; it may fail at the upper end,
    which is worth seeing once. None where nothing was learned.
    """
    if constants.as_good is None:
        return None
    low, high = constants.as_good
    upper = 3 * high
    if constants.fails_from is not None:
        upper = max(min(upper, constants.fails_from), high)
    return _rounded(low / 3, math.floor), _rounded(upper, math.ceil)


def _rounded(value: float, to: Callable[[float], int]) -> float:
    """To one digit, down or up."""
    exponent = math.floor(math.log10(value))
    return float(f"{to(round(value / 10.0**exponent, 6))}e{exponent}")


def plain(value: float) -> str:
    """Three digits of a number, as one would write it: 100, 0.00123, 1e-05."""
    return f"{float(f'{value:.3g}'):g}"


def lr_grid(low: float, high: float, points: int) -> Floats:
    """(points,) log-spaced, both ends exact."""
    grid = np.exp(np.linspace(math.log(low), math.log(high), points))
    grid[0], grid[-1] = low, high
    return grid


def evenly(first: int, last: int, count: int) -> NDArray[np.intp]:
    """(count,) steps from the first to the last, or all where there are fewer."""
    return np.unique(np.linspace(first, last, count).round().astype(np.intp))


def rows(names: Sequence[str], columns: Sequence[ArrayLike]) -> str:
    """Columns of numbers as CSV text; each number keeps every bit."""
    table = [np.asarray(column).tolist() for column in columns]
    lines = [",".join(names)]
    lines += [",".join(_cell(v) for v in row) for row in zip(*table, strict=True)]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    return "" if isinstance(value, float) and value != value else repr(value)
