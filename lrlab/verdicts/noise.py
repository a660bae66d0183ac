# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Measure how much of the difference between two learning rates may be chance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrlab.records.thresholds import Thresholds
from lrlab.verdicts.sides import Sides

Row = Mapping[Any, Any]


@dataclass(frozen=True)
class Rival:
    """The lr that ended next to the best."""

    lr: float
    # How much higher its end loss is. With several seeds it is the mean difference seed by seed,
    # which can be below 0 although the median end loss is higher.
    higher: float
    error: float  # how much of that may be chance: `thresholds.noise` standard errors; NaN: unknown
    of: str  # the source of the noise: "seeds", "held-out samples" or "last evaluations"
    # The lowest and highest lr that differ from the best by no more than the noise of the held-out
    # samples; None: not measured, or measured by seeds instead.
    held_out: tuple[float, float] | None = None
    fails: bool = False  # it ended lower than the best, but a larger share of its runs failed


def nearest_rival(
    by_lr: Mapping[float, Sequence[Row]], sides: Sides, thresholds: Thresholds
) -> Rival | None:
    """Return the lr next to the best, and the noise; None if no other lr has an end loss.

    Args:
        by_lr: rows of the verdicts, of runs that did not fail: end_loss, and if present end_noise
            and val_parts, the mean val losses of equal parts of the held-out samples as a text.
    """
    others = [lr for lr in sides.ends if lr != sides.best and math.isfinite(sides.ends[lr])]
    if not others:
        return None
    lr = min(others, key=lambda other: sides.ends[other])
    higher = sides.ends[lr] - sides.best_end
    if sides.errors:
        error = thresholds.noise * sides.errors[lr]
        return Rival(lr, sides.higher[lr], error, "seeds", fails=higher < 0)
    best = by_lr[sides.best][0]
    errors = {each: thresholds.noise * held_out_error(best, by_lr[each][0]) for each in others}
    if not math.isnan(errors[lr]):
        alike = [each for each in others if sides.ends[each] - sides.best_end <= errors[each]]
        held_out = (min([sides.best, *alike]), max([sides.best, *alike]))
        return Rival(lr, higher, errors[lr], "held-out samples", held_out, higher < 0)
    late = [row.get("end_noise") for row in (best, by_lr[lr][0])]
    noise = math.hypot(*(math.nan if each is None else float(each) for each in late))
    return Rival(lr, higher, thresholds.noise * noise, "last evaluations", fails=higher < 0)


def held_out_error(one: Row, other: Row) -> float:
    """Return the standard error of the difference of two runs' val losses, due to the samples.

    Both are evaluated on the same samples, so the differences are taken part by part. The mean of n
    of them has the error deviation / √n. NaN if the parts are not known.
    """
    a, b = parts(one), parts(other)
    if len(a) != len(b) or len(a) < 2:
        return math.nan
    differences = np.array(a) - np.array(b)
    return float(differences.std(ddof=1)) / math.sqrt(len(differences))


def parts(row: Row) -> list[float]:
    try:
        return [float(text) for text in str(row.get("val_parts") or "").split()]
    except ValueError:
        return []
