"""Say what a probe has measured, and what it means for the learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from lrlab.own_loop.measuring import FARTHEST, Measured
from lrlab.records.thresholds import THRESHOLDS, Thresholds

LATEST = 5  # measured steps whose median counts

_FRACTIONS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 10: "a tenth"}
_FRACTIONS |= {20: "a twentieth", 50: "a fiftieth", 100: "a hundredth", 1000: "a thousandth"}
_UNDEFINED = (
    ", unless the loss is steeper across the steps than along them (no stability ratio: it needs "
    "SGD or Adam with one lr, and second derivatives)"
)
_UNLESS = ", unless the loss is steeper across the steps than along them (curvature= measures it)"


@dataclass(frozen=True)
class Verdict:
    """What a probe says of the steps so far; ``print`` shows ``text``.

    Attributes:
        text: one or two sentences.
        steps: far too short, short, about right, at the edge, too long; "" if too few were
            measured.
        lr: the learning rate of the last measured step, the highest of several; NaN before it.
        critical: median critical multiple of the last ``LATEST`` measured steps; NaN before them.
        factor: each lr times this ends the steps at the lowest loss along them; NaN if unknown.
    """

    text: str
    steps: str
    lr: float
    critical: float
    factor: float

    def __str__(self) -> str:
        return self.text


def unmoved(count: int) -> Verdict:
    """Return the verdict on steps that changed no weight."""
    text = (
        f"{count} steps changed no weight: lr or the gradient is 0, the change is lost in "
        "rounding, or a gradient scaler left it out"
    )
    return Verdict(text, "", math.nan, math.nan, math.nan)


def verdict(
    measured: Sequence[Measured],
    step: int,
    asked: bool = False,
    thresholds: Thresholds = THRESHOLDS,
) -> Verdict:
    """Return the verdict on the latest of the measured steps, at the last one's lr.

    Args:
        measured: in the order of the steps.
        step: the number of the last one.
        asked: whether the stability ratio was to be measured.
    """
    t = thresholds
    lr = _highest(measured[-1]) if measured else math.nan
    said_lr = _said_lr(measured[-1]) if measured else ""
    if measured and not math.isfinite(measured[-1].loss):
        text = f"the loss is not finite at step {step} ({said_lr})"
        if not any(math.isfinite(m.loss) for m in measured):
            text += ", nor was it before: look at the data and the network first"
            return Verdict(text, "", lr, math.nan, math.nan)
        text += ": diverged; take a smaller lr, if the data are finite"
        return Verdict(text, "too long", lr, math.nan, math.nan)
    if len(measured) < t.measured:
        count = f"{len(measured)} measured step{'s' if len(measured) != 1 else ''}"
        text = f"{count}: too few to judge, {t.measured} are needed"
        return Verdict(text, "", lr, math.nan, math.nan)
    where = f"{said_lr}, step {step}"
    # Steps whose groups had other proportions are no multiples of the last one.
    usable = [m for m in measured[-LATEST:] if lr > 0 and _alike(m, measured[-1])]
    latest = [m for m in usable if not math.isnan(m.critical)]
    needed = min(LATEST, len(measured)) / 2
    if len(latest) < needed:
        why = "along most of them the loss has no slope, or changes by less than it is rounded to"
        if len(usable) < needed:
            why = "lr is 0" if lr == 0 else "most were made when the groups' rates had other ratios"
        text = f"{where}: the steps cannot be judged; {why}"
        return Verdict(text, "", lr, math.nan, math.nan)
    # A schedule may have changed lr since: the length of a step follows it.
    critical = median(m.critical * _highest(m) for m in latest) / lr
    # The lowest loss of a parabola lies halfway to where it is back at its start.
    factor = critical / 2
    if critical == 0:
        uphill = sum(m.critical == 0 for m in latest)
        text = (
            f"{where}: {uphill} of the last {len(latest)} measured steps lead uphill from their "
            "start, so their length says nothing; momentum or noise turns them"
        )
        return Verdict(text, "", lr, critical, math.nan)
    share = 1 / critical
    ratios = [m.stability_ratio / _highest(m) for m in latest if not math.isnan(m.stability_ratio)]
    ratio = median(ratios) * lr if ratios else math.nan
    if ratios:  # an lr may not grow further than the steepest direction allows
        factor = min(factor, t.edge / ratio if ratio > 0 else math.inf)
    alone = len(set(measured[-1].lrs)) <= 1
    better = f"lr={lr * factor:.2g}" if alone else f"{factor:.2g} times each lr"
    about = f"{lr * factor:.2g}" if alone else f"{factor:.2g} times each"
    unless = "" if ratios else _UNDEFINED if asked else _UNLESS
    across = f"; stability ratio {ratio:.2g}" if ratios else ""
    if ratio >= t.edge and share < t.edge:
        kind = "too long" if ratio > t.unstable else "at the edge"
        where_to = "climbs out of the valley" if ratio > t.unstable else "is at its limit"
        said = (
            f"across the steps the loss {where_to} (stability ratio {ratio:.2g}), although each "
            f"could be {_number(critical)} times as long; take {better} or smaller"
        )
    elif math.isinf(critical):
        kind = "far too short" if not ratio >= t.short else "about right"
        times = f"{_number(min(factor, FARTHEST / 2))} times as large"
        times += "" if ratios else " or more"
        said = (
            f"steps are less than a thousandth of what this loss could bear: "
            f"lr could be {times}{across}{unless}"
        )
    elif share > t.unstable:
        kind = "too long"
        said = (
            f"steps are too long: at {_number(critical)} times their length the loss of their own "
            f"batch is back at its start{across}; take a smaller lr, about {about}"
        )
    elif share >= t.edge:
        kind = "at the edge"
        said = (
            f"steps are {share:.0%} of what this loss can bear{across}, so they are at the edge of "
            f"stability; {better} would lower the loss of their own batch most"
        )
    elif share >= t.oscillating:
        kind = "about right"
        said = (
            f"steps are {share:.0%} of what this loss could bear{across}: they end beyond the "
            "lowest loss along them; a larger lr would end higher"
        )
    elif share >= t.short or ratio >= t.short:
        kind = "about right"
        said = f"steps are {_share(critical)} of what this loss could bear{across}: about right"
    else:
        kind = "far too short"
        said = (
            f"steps are {_share(critical)} of what this loss could bear: "
            f"lr could be {_number(factor)} times as large{across}{unless}"
        )
    return Verdict(f"{where}: {said}", kind, lr, critical, factor)


def _lrs(measured: Measured) -> tuple[float, ...]:
    return measured.lrs or (measured.lr,)


def _highest(measured: Measured) -> float:
    return max(_lrs(measured))


def _said_lr(measured: Measured) -> str:
    each = sorted(set(_lrs(measured)))
    if len(each) == 1:
        return f"lr={each[0]:g}"
    between = "and" if len(each) == 2 else "to"
    return f"lr {each[0]:g} {between} {each[-1]:g} ({len(_lrs(measured))} groups)"


def _alike(one: Measured, other: Measured) -> bool:
    """Return whether the groups' rates have the same proportions at both steps."""
    mine, its = _lrs(one), _lrs(other)
    times = _highest(one) / _highest(other)
    return len(mine) == len(its) and all(
        times > 0 and math.isclose(a, b * times, rel_tol=1e-6)
        for a, b in zip(mine, its, strict=True)
    )


def _share(critical: float) -> str:
    """Return 1 / critical in words: a twentieth."""
    near = min(_FRACTIONS, key=lambda each: abs(math.log(each / critical)))
    if abs(math.log(near / critical)) < 0.05:
        return _FRACTIONS[near]
    return f"{1 / critical:.2g}".rstrip("0") if critical < 10 else f"1/{critical:.0f}"


def _number(value: float) -> str:
    return f"{value:.2g}" if value < 100 else f"{value:.0f}"
