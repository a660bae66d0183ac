"""Measure the numbers behind a verdict from a tidy table of curves, without judging them."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lrlab.records.thresholds import THRESHOLDS, Thresholds
from lrlab.tables import tidy
from lrlab.tables.tidy import Floats

StepMode = Literal["monotone", "oscillating", "edge", "unstable", "unknown"]

_NEAR_START = 0.02  # a first loss within this share of the steps stands for that before training
_LARGEST = 1e290  # losses count as no larger, so that their sums stay finite


@dataclass(frozen=True)
class Series:
    """Losses in the order of training, (n,) each."""

    at: Floats  # step or epoch
    loss: Floats  # finite
    seconds: Floats  # since the run began; NaN where unknown

    def __len__(self) -> int:
        return len(self.at)


@dataclass(frozen=True)
class Numbers:
    """The numbers of one run's curve. NaN: not measured, or not available from this curve."""

    run: Hashable
    lr: float  # the one that the run's schedule multiplies
    seed: Any
    settings: tuple[Any, ...]  # the values of the settings, in their order; None: missing
    state: str  # finished, diverged, pruned, failed, interrupted, running, waiting; "": unknown
    unit: str  # what positions count: step or epoch
    last: float  # the last position with a loss
    losses: int  # at how many positions a loss was recorded
    judged_by: str  # the loss that end_loss is of: val_loss where evaluated, else train_loss
    series: Series  # its evaluations; mini-batch losses as means over equal parts of training
    initial_loss: float  # before training; if not measured, the first loss
    chance_loss: float  # of the best constant prediction
    end_loss: float  # median of the last evaluations; inf: a loss became non-finite
    end_noise: float  # standard error of end_loss, from the scatter of the last evaluations
    last_loss: float  # the last evaluation
    lowest_loss: float  # the lowest evaluation
    lowest_at: float  # its position
    lowest_epoch: float  # how many epochs were trained then
    peak_loss: float  # the highest finite loss recorded
    train_end_loss: float  # the end loss of the mini-batches
    train_last_loss: float  # their last mean
    growing: bool  # the loss is well above that of the third quarter of training
    overfits: bool  # val loss rose from its lowest, while train loss is below its start
    # Position of the first loss that is not finite; inf: unknown position; NaN: all are finite.
    first_nonfinite: float
    slope: float  # d log loss / d log position in the last quarter
    slope_noise: float  # its standard error
    alpha: float  # median over training, in units of the step
    stability_ratio: float  # median over training; 1 is the border of stability
    stability_ratio_max: float
    # The stability ratio from which steps cross the valley: 0.5 for plain SGD, NaN for momentum of
    # unknown size.
    swings_from: float
    # The lr was far below its start at the end. That removes the noise and then flattens the curve,
    # whatever the steps were before.
    annealed: bool
    rates: tuple[float, ...]  # first, last, mean and largest lr that its steps used
    measured: int  # at how many steps alpha or the stability ratio was measured
    ratios: int  # at how many steps the stability ratio was measured
    curve_mode: StepMode  # as far as the loss of a run without noise shows it
    gain_low: float  # branch test: log(train loss at lr / at lr/10); -inf: became non-finite
    gain_high: float  # the same at 3·lr
    gain_noise: float  # standard error of gain_low
    # Where initial_loss was measured, if that was later than the start, by which the run may have
    # learned already; 0: at the start, or nearly.
    first_at: float = 0.0
    fell_since: bool = False  # whether the train loss has fallen since then

    @property
    def is_finite(self) -> bool:
        return math.isnan(self.first_nonfinite)

    @property
    def has_branches(self) -> bool:
        return not (math.isnan(self.gain_low) and math.isnan(self.gain_high))


def measure(
    curves: pd.DataFrame,
    settings: Sequence[str] | None = None,
    thresholds: Thresholds = THRESHOLDS,
) -> list[Numbers]:
    """Return the numbers of each run, sorted by run.

    Args:
        curves: as described at `lrlab.verdicts.judging.verdicts`.
        settings: the columns that set runs apart besides lr and seed; None: `tidy.settings_of`.

    Raises:
        UserError: a column is missing, holds what is no number, or contradicts itself.
    """
    with np.errstate(all="ignore"):  # losses of 1e38 and inf are expected here
        return [_of_run(curve, thresholds) for curve in tidy.split(curves, settings)]


def _of_run(curve: tidy.Curve, thresholds: Thresholds) -> Numbers:
    rows, constants = curve.rows, curve.constants
    nonfinite = _first_nonfinite(curve)
    lost = _written_as_zero(rows["train_loss"], rows["grad_norm"])
    rows = {**rows, "train_loss": np.where(lost, math.nan, rows["train_loss"])}
    train, val = _series(rows, "train_loss"), _series(rows, "val_loss")
    chance = constants["chance_loss"]
    if not math.isfinite(chance):
        chance = math.log(constants["num_classes"])
    uses_val = len(val) > 1 or (len(val) == 1 and (not len(train) or val.at[0] > train.at[0]))
    each_epoch = not uses_val and _is_by_epoch(rows)
    evaluations = val if uses_val else train if each_epoch else _means(train, thresholds.blocks)
    train_means = _means(train, thresholds.blocks)
    initial = _initial(constants["initial_loss"], train, val, chance)
    told = constants["initial_loss"]
    first_at = _first_at(curve.unit, train, val) if math.isnan(told) and math.isnan(chance) else 0.0
    overfits = uses_val and _overfits(val, train_means, initial, thresholds)
    trend = evaluations
    coarse = len(evaluations) < thresholds.epochs or not (uses_val or each_epoch)
    if overfits or (coarse and len(train) >= 2 * thresholds.trend_blocks):
        trend = _means(train, thresholds.trend_blocks)

    is_finite = math.isnan(nonfinite)
    both = np.concatenate([train.loss, val.loss])
    ratio, alpha = rows["stability_ratio"], rows["alpha"]
    slope, slope_noise = _late_slope(trend)
    rates = _rates(rows["lr_at_step"])
    lowest = int(np.argmin(evaluations.loss)) if len(evaluations) else 0
    return Numbers(
        run=curve.run,
        seed=curve.seed,
        settings=curve.settings,
        state=curve.state,
        unit=curve.unit,
        lr=constants["lr"],
        last=float(max([*train.at[-1:], *val.at[-1:]], default=math.nan)),
        losses=len(np.union1d(train.at, val.at)),
        judged_by="val_loss" if uses_val else "train_loss",
        series=evaluations,
        initial_loss=initial,
        chance_loss=chance,
        end_loss=_end(evaluations.loss, thresholds.end) if is_finite else math.inf,
        end_noise=_end_noise(evaluations.loss),
        last_loss=_last(evaluations.loss),
        lowest_loss=float(np.min(evaluations.loss, initial=math.inf)),
        lowest_at=_last(evaluations.at[: lowest + 1]),
        lowest_epoch=_last(rows["epoch"][np.isin(rows["at"], evaluations.at[lowest : lowest + 1])]),
        peak_loss=float(np.max(both, initial=-math.inf)),
        train_end_loss=_end(train_means.loss, thresholds.end),
        train_last_loss=_last(train_means.loss),
        growing=_is_growing(
            (evaluations if len(evaluations) > 1 else train_means).loss, thresholds
        ),
        overfits=overfits,
        first_nonfinite=nonfinite,
        slope=slope,
        slope_noise=slope_noise,
        alpha=_median_over_time(rows["at"], alpha),
        stability_ratio=_median_over_time(rows["at"], ratio),
        stability_ratio_max=float(np.nanmax(ratio)) if np.isfinite(ratio).any() else math.nan,
        swings_from=constants["swings_from"],
        annealed=rates[1] < thresholds.annealed * constants["lr"],
        rates=rates,
        measured=int((~np.isnan(ratio) | ~np.isnan(alpha)).sum()),
        ratios=int((~np.isnan(ratio)).sum()),
        curve_mode=_curve_mode(train, thresholds) if curve.unit == "step" else "unknown",
        gain_low=_gain(constants, "gain_low", "gain_high"),
        gain_high=_gain(constants, "gain_high", "gain_low"),
        gain_noise=constants["gain_noise"],
        first_at=first_at,
        fell_since=first_at > 0 and _fell(train, train_means, thresholds),
    )


def _series(rows: Mapping[str, Floats], name: str) -> Series:
    there = np.isfinite(rows[name])
    loss = np.clip(rows[name][there], -_LARGEST, _LARGEST)
    return Series(rows["at"][there], loss, rows["seconds"][there])


def _means(series: Series, blocks: int) -> Series:
    """Return the means over so many equal parts, at the end of each; fewer rows stay as they are.

    Means, not medians: a full evaluation is estimated by the mean of mini-batch losses, and their
    median is too low.
    """
    n = len(series)
    if n <= blocks:
        return series
    starts = np.arange(blocks) * n // blocks
    ends = np.append(starts[1:], n)
    loss = np.add.reduceat(series.loss, starts) / (ends - starts)
    return Series(series.at[ends - 1], loss, series.seconds[ends - 1])


def _end(loss: Floats, share: float) -> float:
    if not len(loss):
        return math.nan
    return float(np.median(loss[-max(1, math.ceil(share * len(loss))) :]))


def _last(values: Floats) -> float:
    return float(values[-1]) if len(values) else math.nan


def _end_noise(loss: Floats) -> float:
    """Return the standard error of the end loss, from the last tenth; NaN for few evaluations.

    Half the mean squared difference of neighbours estimates the variance without the trend (von
    Neumann 1941).
    """
    late = loss[-max(5, len(loss) // 10) :]
    if len(loss) < 20:
        return math.nan
    with np.errstate(over="ignore"):
        variance = float(np.mean(np.diff(late) ** 2)) / 2
    return math.sqrt(variance / math.ceil(len(late) / 2))


def _rates(lr_at_step: Floats) -> tuple[float, ...]:
    used = lr_at_step[np.isfinite(lr_at_step)]
    if not len(used):
        return (math.nan,) * 4
    return float(used[0]), float(used[-1]), float(used.mean()), float(used.max())


def _initial(told: float, train: Series, val: Series, chance: float) -> float:
    if math.isfinite(told):
        return told
    firsts = [(series.at[0], series.loss[0]) for series in (val, train) if len(series)]
    if not firsts:
        return math.nan
    at, loss = min(firsts, key=lambda first: first[0])
    # A curve that begins after some training hides its start: most networks begin by guessing.
    return float(loss) if at <= 0 or math.isnan(chance) else max(float(loss), chance)


def _first_at(unit: str, train: Series, val: Series) -> float:
    """Return the first position with a loss; 0 if it is the start, or a step that is near it."""
    firsts = [float(series.at[0]) for series in (val, train) if len(series)]
    lasts = [float(series.at[-1]) for series in (val, train) if len(series)]
    at, last = min(firsts, default=0.0), max(lasts, default=0.0)
    is_late = at > 0 and (unit == "epoch" or at > _NEAR_START * last)
    return at if is_late else 0.0


def _fell(train: Series, means: Series, thresholds: Thresholds) -> bool:
    """Return whether the train loss ended clearly below its first value."""
    if not len(train):
        return False
    first = float(train.loss[0])
    return _end(means.loss, thresholds.end) < first - (1 - thresholds.guessing) * abs(first)


def _is_by_epoch(rows: Mapping[str, Floats]) -> bool:
    """Return whether there is one loss an epoch, each then the mean of many mini-batches."""
    epochs = rows["epoch"][np.isfinite(rows["train_loss"])]
    return bool(np.isfinite(epochs).all()) and len(np.unique(np.floor(epochs))) >= 0.9 * len(epochs)


def _overfits(val: Series, train: Series, initial: float, thresholds: Thresholds) -> bool:
    """Return whether val loss stayed well above its lowest while train loss is below its start."""
    lowest = int(np.argmin(val.loss))
    since, then = val.loss[lowest + 1 :], train.loss[train.at <= val.at[lowest]]
    # At least three evaluations: one may be a spike, which is not overfitting.
    if len(since) < 3 or not len(train) or not val.loss[lowest] > 0:
        return False
    risen = since[-3:].min() > thresholds.overfitting * val.loss[lowest]
    begun = initial if math.isfinite(initial) else float(train.loss[0])
    # Where train loss rose as well, the steps destroyed what was learned.
    ended = _end(train.loss, thresholds.end)
    return bool(risen and ended < begun and ended < (then[-1] if len(then) else begun))


def _is_growing(loss: Floats, thresholds: Thresholds) -> bool:
    """Return whether the last quarter lies above the third by more than the noise of both.

    With momentum, noise is slow, and alone it moves a median.
    """
    n = len(loss)
    if n < 2:
        return False
    half, cut = (n // 2, 3 * n // 4) if n >= 4 else (0, 1)
    third, last = loss[half:cut], loss[cut:]
    earlier = np.median(third)
    apart = np.quantile(last, 0.1) > np.quantile(third, 0.9)
    return bool(apart and np.median(last) > earlier + thresholds.growing * abs(earlier))


def _first_nonfinite(curve: tidy.Curve) -> float:
    """Return where the loss stopped being finite; inf: not known where; NaN: it stayed finite.

    An inf counts anywhere. NaN also means "not measured", so it counts only after the last finite
    loss, in a row where nothing else was measured either. Some trainers write a loss of NaN as 0;
    then the gradient norm is missing, which every row before has.
    """
    told = curve.constants["first_nonfinite_step"]
    if math.isfinite(told) and curve.unit == "step":
        return told
    train, val = curve.rows["train_loss"], curve.rows["val_loss"]
    bad = np.isinf(train) | np.isinf(val)
    finite = np.flatnonzero(np.isfinite(train) | np.isfinite(val))
    measured = [curve.rows[name] for name in (*tidy.BY_STEP, "other") if name != "seconds"]
    after = np.arange(len(train)) > (finite[-1] if len(finite) else -1)
    bad |= after & np.all(np.isnan(measured), axis=0)
    bad |= _written_as_zero(train, curve.rows["grad_norm"])
    if bad.any():
        return float(curve.rows["at"][np.argmax(bad)])
    return math.inf if curve.state == "diverged" or not math.isnan(told) else math.nan


def _written_as_zero(loss: Floats, grad_norm: Floats) -> NDArray[np.bool_]:
    """Return (n,) the last rows, if they have a loss of exactly 0 and no gradient norm."""
    lost = (loss == 0) & ~np.isfinite(grad_norm)
    first = len(lost) - int(np.argmin(lost[::-1])) if not lost.all() else 0
    is_so = 0 < first < len(lost) and np.isfinite(grad_norm[:first]).all()
    return (np.arange(len(lost)) >= first) & is_so


def _late_slope(trend: Series) -> tuple[float, float]:
    """Return the least-squares slope of log loss by log position in the last quarter; its error."""
    if len(trend) < 4 or trend.loss.min() <= 0:
        return math.nan, math.nan
    late = (trend.at > 0) & (trend.at >= 0.75 * trend.at[-1])
    late[-3:] = trend.at[-3:] > 0
    if late.sum() < 3:
        return math.nan, math.nan
    x, y = np.log(trend.at[late]), np.log(trend.loss[late])
    x, y = x - x.mean(), y - y.mean()
    width = float(x @ x)
    if not width > 0:
        return math.nan, math.nan
    slope = float(x @ y) / width
    left = y - slope * x
    return slope, math.sqrt(float(left @ left) / (len(x) - 2) / width)


def _median_over_time(at: Floats, values: Floats) -> float:
    """Return the median weighted by how long each value stood; measurements are denser early on."""
    there = ~np.isnan(values)
    if not there.any():
        return math.nan
    at, values = at[there], values[there]
    gaps = np.diff(at)
    weights = np.append(gaps, np.median(gaps)) if len(gaps) else np.ones(1)
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])


def _curve_mode(train: Series, thresholds: Thresholds) -> StepMode:
    """Return how the steps behave, as far as the loss before each of them shows.

    A loss that falls at every step is free of noise: below the border of stability, full-batch
    gradient descent lowers it at every step. The number of turning points distinguishes a swinging
    loss from a noisy one. Independent noise turns at 2/3 of the steps (Bienaymé's turning points).
    A slow swing, as from momentum, turns at few. Steps across the valley and back turn at nearly
    all.
    """
    if len(train) < 8 or np.median(np.diff(train.at)) != 1:
        return "unknown"
    loss = train.loss
    # Near the floor of the arithmetic only rounding is left to see.
    high = loss[: 1 + int(np.flatnonzero(np.abs(loss) > 1e-10 * np.abs(loss).max()).max(initial=0))]
    if len(high) < 8:
        high = loss
    moved = np.diff(np.log(high) if high.min() > 0 else high)
    if np.mean(moved <= 0) >= thresholds.smooth and moved.min() < 0:
        return "monotone"
    if moved.min() > 0:
        return "unstable"
    if len(moved) < 30:
        return "unknown"
    turned = np.sign(moved[1:]) != np.sign(moved[:-1])
    turns = float(np.mean(turned))
    # A falling loss turns seldom, too, but in a swing a fair share of the steps rises. A loss that
    # falls first and is noisy later does both, but not in the same half.
    late = len(moved) // 2
    is_swing = max(turns, float(np.mean(turned[late:]))) <= thresholds.swinging
    is_swing &= min(np.mean(moved > 0), np.mean(moved[:late] > 0)) >= thresholds.rising
    if is_swing or turns >= thresholds.alternating:
        return "oscillating" if loss[-1] < loss[0] else "unstable"
    return "unknown"


def _gain(constants: Mapping[str, float], name: str, other: str) -> float:
    """Return a branch's gain; if only the other branch's was recorded, this one was not finite."""
    gain = constants[name]
    return -math.inf if math.isnan(gain) and not math.isnan(constants[other]) else gain
