"""Choose which steps are measured, and how, within a budget counted in steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

BUDGET = 0.25  # share of the steps so far that measuring may cost by default
# The cost of a measurement, in steps. Measured with one thread. Along the step it is 2 to 11
# (copies, and a gradient that is not captured). On the probe it is 0.4 to 1.3 for each batch's
# worth of samples, for multilayer perceptrons, convolutional and residual networks with batches of
# 8 to 256.
ALONG_COST = 8.0
PROBE_COST = 1.4

# The kinds of measurement at a step.
ALONG = 1  # alpha, and the lengths of gradient, update and path
WHOLE = 2  # the probe batch and the sharpness, too
FIRST = 3  # the first whole one, without a known direction of curvature


@dataclass(frozen=True)
class Cadence:
    """How often to measure.

    Attributes:
        gap: steps between two measurements, later in training.
        growth: of the gaps early in training.
        first: products with the Hessian at the first measurement of the sharpness.
        products: at each later one, which continues the last one.
        budget: share of the steps so far that measuring may cost; None: no limit.
    """

    gap: int
    growth: float
    first: int
    products: int
    budget: float | None


CADENCES = {
    "default": Cadence(450, 2.0, 5, 3, BUDGET),
    "full": Cadence(10, 1.1, 10, 5, None),
}


def due(
    cadence: Cadence, first: int, count: int, steps: int, steps_per_epoch: int, batches: float
) -> np.ndarray:
    """Return the kinds of measurement at the steps first, first + 1 ...

    They depend only on the run's length, its epochs and its batch size. Later in training
    measurements come at the same steps of each epoch, so that lanes at different epochs are
    measured together.

    Args:
        steps: of the whole run.
        batches: how many batches' worth of samples the probe has.

    Returns:
        (count,) int: 0, ``ALONG``, ``WHOLE`` or ``FIRST``.
    """
    at, what = planned(cadence, steps, steps_per_epoch, batches)
    found = np.zeros(count, int)
    inside = (at >= first) & (at < first + count)
    found[at[inside] - first] = what[inside]
    return found


def cost(kind: int, cadence: Cadence, batches: float) -> float:
    """Return the cost of a measurement in training steps; ``batches`` as for ``due``."""
    if kind == ALONG:
        return ALONG_COST
    products = cadence.first if kind == FIRST else cadence.products
    # two gradients, and products with the Hessian that cost two each
    return ALONG_COST + PROBE_COST * (2 + 2 * products) * batches


@lru_cache(maxsize=64)
def planned(
    cadence: Cadence, steps: int, steps_per_epoch: int, batches: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps of a run that are measured, and their kinds, as in ``due``.

    Steps of the cadence that exceed the budget are left out: all measurements up to a step cost at
    most ``cadence.budget`` of the steps up to it. Before the first whole measurement, those along
    the step are made, each at twice the step of the last.

    Returns:
        steps, kinds: (measurements,) int each.
    """
    if cadence.budget is None:
        at = _named(cadence, cadence.gap, steps, steps_per_epoch)
        return at, np.where(at == 0, FIRST, WHOLE)
    first, later = cost(FIRST, cadence, batches), cost(WHOLE, cadence, batches)
    along, whole_at = [], math.ceil(first / cadence.budget)  # steps that must be made before
    made = math.ceil(ALONG_COST / cadence.budget)
    while made <= (whole_at / 2 if whole_at <= steps else steps):
        along.append(made - 1)
        made *= 2
    whole_at = math.ceil((first + len(along) * ALONG_COST) / cadence.budget)
    # so rarely that lanes at different epochs in one stack keep the budget together
    gap = max(cadence.gap, round(8 * later))
    spent, found, seen = 0.0, [], False
    for step in _named(cadence, gap, steps, steps_per_epoch, *along, whole_at - 1).tolist():
        if step in along:
            kind = ALONG
        elif spent + (later if seen else first) <= cadence.budget * (step + 1):
            kind, seen = WHOLE if seen else FIRST, True
        else:
            continue
        spent += cost(kind, cadence, batches)
        found.append((step, kind))
    table = np.array(found, int).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _named(cadence: Cadence, gap: int, steps: int, steps_per_epoch: int, *more: int) -> np.ndarray:
    """Return the steps of a cadence, rising: ever rarer at first, then one each gap."""
    gap = max(1, min(gap, steps // 5))
    epochs = np.arange(0, -(-steps // steps_per_epoch), max(1, gap // steps_per_epoch))
    places = np.arange(0, steps_per_epoch, gap)
    grid = (epochs[:, None] * steps_per_epoch + places).ravel()
    early, at = [0, *more], 1.0
    while at * (cadence.growth - 1) < gap:  # until the gaps have grown to the later ones
        early.append(round(at))
        at = max(at + 1, at * cadence.growth)
    found = np.union1d(grid, np.array(early, int))
    return found[(found >= 0) & (found < steps)]
