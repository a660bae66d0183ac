"""Which steps are measured, and what is measured there: a budget counted in steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

BUDGET = 0.25  # of the steps so far: what measuring may cost by default, in steps
# What a measurement costs, in steps. Measured with one thread: 2 to 11 along the step (copies, and
# a gradient that is not captured); on the probe 0.4 to 1.3 for each batch's worth of samples, of
# multilayer perceptrons, convolutional and residual networks with batches of 8 to 256.
ALONG_COST = 8.0
PROBE_COST = 1.4

# What is measured at a step.
ALONG = 1  # alpha, and the lengths of gradient, update and way
WHOLE = 2  # the probe batch and the sharpness too
FIRST = 3  # the first whole one, which knows no direction of curvature yet


@dataclass(frozen=True)
class Cadence:
    """How often is measured.

    Attributes:
        gap: steps between two measurements, later in training.
        growth: of the gaps early in training.
        first: products with the Hessian at the first measurement of the sharpness.
        products: at each later one, which goes on where the last one stood.
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
    """What is measured at the steps first, first + 1 ...

    It depends on nothing but the run's length, its epochs and its batch size. Later in training
    measurements lie at the same places of each epoch, so that lanes at different epochs are
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
    """What a measurement costs, in training steps; ``batches`` as for ``due``."""
    if kind == ALONG:
        return ALONG_COST
    products = cadence.first if kind == FIRST else cadence.products
    # two gradients, and products with the Hessian that cost two each
    return ALONG_COST + PROBE_COST * (2 + 2 * products) * batches


@lru_cache(maxsize=64)
def planned(
    cadence: Cadence, steps: int, steps_per_epoch: int, batches: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps of a run that are measured, and what is measured there, as in ``due``.

    Of the steps that the cadence names, those are left out whose measurement the budget does not
    hold: all measurements up to a step cost at most ``cadence.budget`` of the steps up to it.
    Before the first whole measurement, those along the step are made, each at twice the step of the
    last.

    Returns:
        steps, kinds: (measurements,) int each.
    """
    if cadence.budget is None:
        at = _named(cadence, cadence.gap, steps, steps_per_epoch)
        return at, np.where(at == 0, FIRST, WHOLE)
    first, later = cost(FIRST, cadence, batches), cost(WHOLE, cadence, batches)
    along, whole_at = [], math.ceil(first / cadence.budget)  # steps that are to be made before
    made = math.ceil(ALONG_COST / cadence.budget)
    while made <= (whole_at / 2 if whole_at <= steps else steps):
        along.append(made - 1)
        made *= 2
    whole_at = math.ceil((first + len(along) * ALONG_COST) / cadence.budget)
    # so rarely that lanes of one stack that are at different epochs hold the budget together
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
    """Return the steps that a cadence names, rising: ever rarer at first, then one each gap."""
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
