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
    ", unless the loss is steeper across the steps than along them (the stability ratio is not "
    "defined for this optimizer, or for several rates)"
)
_UNLESS = ", unless the loss is steeper across the steps than along them (curvature= measures it)"


@dataclass(frozen=True)
class Verdict:
    """What a probe says of the steps so far; ``print`` shows ``text``.

    Attributes:
        text: one or two sentences.
        steps: far too short, short, about right, at the edge, too long; "" if too few were
            measured.
        lr: the learning rate of the last measured step; NaN before it.
        critical: median critical multiple of the last ``LATEST`` measured steps; NaN before them.
        factor: lr times this would end the steps at the lowest loss along them; NaN if unknown.
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
    text = f"{count} steps changed no weight: lr is 0, or the change is lost in rounding"
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
    lr = measured[-1].lr if measured else math.nan
    if measured and not math.isfinite(measured[-1].loss):
        text = f"the loss is not finite at step {step} (lr={lr:g}): diverged; take a smaller lr"
        return Verdict(text, "too long", lr, math.nan, math.nan)
    if len(measured) < t.measured:
        count = f"{len(measured)} measured step{'s' if len(measured) != 1 else ''}"
        text = f"{count}: too few to judge, {t.measured} are needed"
        return Verdict(text, "", lr, math.nan, math.nan)
    where = f"lr={lr:g}, step {step}"
    latest = [m for m in measured[-LATEST:] if not math.isnan(m.critical) and m.lr > 0]
    if not lr > 0 or 2 * len(latest) < min(LATEST, len(measured)):
        text = (
            f"{where}: the steps cannot be judged; along most of them the loss has no slope, or "
            "changes by less than it is rounded to"
        )
        return Verdict(text, "", lr, math.nan, math.nan)
    # A schedule may have changed lr since: the length of a step follows it.
    critical = median(m.critical * m.lr for m in latest) / lr
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
    ratios = [m.stability_ratio / m.lr for m in latest if not math.isnan(m.stability_ratio)]
    ratio = median(ratios) * lr if ratios else math.nan
    if ratios:  # an lr may not grow further than the steepest direction allows
        factor = min(factor, t.edge / ratio if ratio > 0 else math.inf)
    unless = "" if ratios else _UNDEFINED if asked else _UNLESS
    across = f"; stability ratio {ratio:.2g}" if ratios else ""
    if ratio >= t.edge and share < t.edge:
        kind = "too long" if ratio > t.unstable else "at the edge"
        where_to = "climbs out of the valley" if ratio > t.unstable else "is at its limit"
        said = (
            f"across the steps the loss {where_to} (stability ratio {ratio:.2g}), although each "
            f"could be {_number(critical)} times as long; take lr={lr * factor:.2g} or smaller"
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
            f"batch is back at its start{across}; take a smaller lr, about {lr * factor:.2g}"
        )
    elif share >= t.edge:
        kind = "at the edge"
        said = (
            f"steps are {share:.0%} of what this loss can bear{across}, so they are at the edge of "
            f"stability; lr={lr * factor:.2g} would lower the loss of their own batch most"
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


def _share(critical: float) -> str:
    """Return 1 / critical in words: a twentieth."""
    near = min(_FRACTIONS, key=lambda each: abs(math.log(each / critical)))
    if abs(math.log(near / critical)) < 0.05:
        return _FRACTIONS[near]
    return f"{1 / critical:.2g}".rstrip("0") if critical < 10 else f"1/{critical:.0f}"


def _number(value: float) -> str:
    return f"{value:.2g}" if value < 100 else f"{value:.0f}"
