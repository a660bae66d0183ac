"""Compute the gains of the branch test: what shorter and longer steps gain at a run's end."""

import math

import numpy as np
import pandas as pd

from lrlab import records

FEWEST_STEPS = 40  # a branch of fewer steps shows only the noise of a few mini-batches
GAIN_EPSILON = 1e-3  # share of the initial loss; smaller losses do not differ
_TAIL = 0.25  # the last part of a branch, whose mean loss counts


def gains(branches: pd.DataFrame, initial_loss: float) -> tuple[float, float, float]:
    """Return the gains from a tenth of the step and from three times the step at a run's end.

    Gain = log((ℓ_lr + ε) / (ℓ_branch + ε)) with ε = initial_loss / 1000. ℓ is the mean mini-batch
    loss over the last quarter of the branch. −inf: the branch became non-finite; inf: only the one
    at lr did. All branches use the same batches, so the standard error of the first gain is that of
    the mean of ℓ_lr(t)/ℓ_lr − ℓ_low(t)/ℓ_low over these steps t.

    Args:
        branches: (steps) with the columns low, same, high.

    Returns:
        The gain of a tenth, that of three times, and the standard error of the first. All are NaN
        without a test of at least FEWEST_STEPS.
    """
    if len(branches) < FEWEST_STEPS:
        return math.nan, math.nan, math.nan
    steps = max(1, math.ceil(_TAIL * len(branches)))
    ends, late = {}, {}
    for name in records.MULTIPLIERS:
        losses = branches[name].to_numpy(float)
        late[name] = losses[-steps:]
        ends[name] = float(late[name].mean()) if np.isfinite(losses).all() else math.inf
    epsilon = GAIN_EPSILON * initial_loss if math.isfinite(initial_loss) else 0.0

    def gain(name: str) -> float:
        if math.isinf(ends[name]):
            return -math.inf
        if math.isinf(ends["same"]):
            return math.inf
        above, below = ends["same"] + epsilon, ends[name] + epsilon
        return math.log(above / below) if above > 0 and below > 0 else math.nan

    noise = math.nan
    if all(math.isfinite(ends[name]) and ends[name] + epsilon > 0 for name in ("low", "same")):
        each = [late[name] / (ends[name] + epsilon) for name in ("same", "low")]
        noise = float(np.std(each[0] - each[1], ddof=1)) / math.sqrt(steps)
    return gain("low"), gain("high"), noise
