"""Find the least loss of a constant prediction by minimising any loss over it."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lrlab.data.random_state import random_state_kept

MOST_NUMBERS = 2**17  # outputs that one call of the loss takes; more only cost time
ITERATIONS = 80
HISTORY = 50  # pairs for the guess of the Hessian; with as few iterations it is plain BFGS
FAR = 1e6  # from the start, in units: there the loss has no minimum
FLAT = 1e-7  # a slope so small, for a loss of 1, means a minimum
GAIN = 1e-7  # gain of a step, as a share of the loss, that hardly counts
AGREEMENT = 1e-3  # how far two searches may differ, as a share, where no slope is flat

Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]


def least_loss(
    loss: Callable[[Tensor, Tensor], Tensor], targets: Tensor, shape: Sequence[int]
) -> float | None:
    """Return the least of loss(constant, targets) over all constants, or None.

    If there are very many targets, some stand for all. None: the loss raises, has no gradient or no
    minimum, or is not finite; or two searches with kinks in their way end at different values. It
    never raises, and restores the random generators.

    Args:
        loss: (outputs (samples, *shape), targets (samples, ...)) to one number. A copy is called.
        targets: (samples, ...) on the CPU.
        shape: of the outputs for one sample.
    """
    with random_state_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for dtype in (torch.float64, torch.float32):  # some losses hold numbers in float32
            try:
                few = _representatives(targets, shape)
                found = _searched(copy.deepcopy(loss), few, shape, dtype)
            except Exception:  # a loss of the user's can raise anything
                continue
            if found is not None:
                return found
    return None


def _searched(
    loss: Callable[[Tensor, Tensor], Tensor], targets: Tensor, shape: Sequence[int], dtype: Any
) -> float | None:
    if isinstance(loss, nn.Module):
        loss = loss.cpu().to(dtype)
    if targets.is_floating_point():
        targets = targets.to(dtype)
    zeros = torch.zeros(len(targets), *shape, dtype=dtype)

    def at(point: np.ndarray) -> tuple[float, np.ndarray]:
        constant = torch.from_numpy(point).to(dtype).view(tuple(shape)).requires_grad_()
        with torch.enable_grad():
            value = loss(zeros + constant, targets)
            (slope,) = torch.autograd.grad(value.sum(), [constant])
        return float(value.double()), slope.double().numpy().ravel()

    flat = FLAT if dtype == torch.float64 else 1e3 * FLAT
    ends = []
    for start, unit in _starts(targets, math.prod(shape)):
        end = minimum(at, start, unit, flat)
        if end.is_flat:
            return end.value
        ends.append(end.value)
    if not all(map(math.isfinite, ends)) or np.ptp(ends) > AGREEMENT * np.abs(ends).max():
        return None
    return min(ends)


class End(NamedTuple):
    """Where a search ended: the least value, NaN if there is none, and whether it is flat there."""

    value: float
    is_flat: bool


def minimum(at: Objective, start: np.ndarray, unit: np.ndarray, flat: float) -> End:
    """Search for a minimum by BFGS.

    Each step is bisected until it meets the weak Wolfe conditions. With them BFGS also minimises
    functions with kinks (Lewis and Overton, Nonsmooth optimization via quasi-Newton methods, 2013).

    Args:
        at: a point (numbers,) to value and gradient.
        start: (numbers,) float64.
        unit: (numbers,), how far apart points are that differ.
        flat: the largest slope, for a value of 1, that ends the search.
    """

    def objective(u: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = at(start + unit * u)
        return value, unit * slope

    point = np.zeros_like(start)
    value, slope = objective(point)
    pairs: list[tuple[np.ndarray, np.ndarray, float]] = []
    slow = 0  # steps in a row with hardly any gain: rounding, or a kink
    for _ in range(ITERATIONS):
        if not (math.isfinite(value) and np.isfinite(slope).all() and np.abs(point).max() < FAR):
            return End(math.nan, False)
        if np.abs(slope).max(initial=0.0) <= flat * max(1.0, abs(value)):
            return End(value, True)
        direction = -_preconditioned(slope, pairs)
        if (fall := float(direction @ slope)) >= 0:
            direction, pairs = -slope, []
            fall = -float(slope @ slope)
        found = _step(objective, point, value, direction, fall)
        if found is None:
            break
        moved, new_value, new_slope = found
        s, y = moved - point, new_slope - slope
        if (curvature := float(s @ y)) > 0:
            pairs = [*pairs[-HISTORY + 1 :], (s, y, curvature)]
        slow = slow + 1 if value - new_value <= GAIN * abs(value) else 0
        point, value, slope = moved, new_value, new_slope
        if slow == 3:
            break
    return End(value, False)


def _preconditioned(
    slope: np.ndarray, pairs: Sequence[tuple[np.ndarray, np.ndarray, float]]
) -> np.ndarray:
    """Return the guessed inverse Hessian times the slope (Nocedal's two loops)."""
    found, shares = slope.copy(), []
    for s, y, curvature in reversed(pairs):
        shares.append((s @ found) / curvature)
        found -= shares[-1] * y
    if pairs:
        _, y, curvature = pairs[-1]
        found *= curvature / (y @ y)
    for (s, y, curvature), share in zip(pairs, reversed(shares), strict=True):
        found += (share - (y @ found) / curvature) * s
    return found


def _step(
    objective: Objective, point: np.ndarray, value: float, direction: np.ndarray, fall: float
) -> tuple[np.ndarray, float, np.ndarray] | None:
    low, high, length = 0.0, math.inf, 1.0
    best = None
    for _ in range(30):
        moved = point + length * direction
        new_value, slope = objective(moved)
        if not new_value <= value + 1e-4 * length * fall:  # NaN is too far, as well
            high = length
        elif direction @ slope < 0.9 * fall:
            best, low = (moved, new_value, slope), length
        else:
            return moved, new_value, slope
        length = 2 * low if math.isinf(high) else (low + high) / 2
    return best


def _starts(targets: Tensor, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return two starting points, and the units of the search from there."""
    ones = np.ones(size)
    if not targets.is_floating_point() or targets[0].numel() != size:
        return [(0.0 * ones, ones), (0.5 * ones, ones)]
    values = targets.double().reshape(len(targets), size).numpy()
    spread = values.std(0)
    return [(values.mean(0), np.where(spread > 0, spread, 1.0)), (0.0 * ones, ones)]


def _representatives(targets: Tensor, shape: Sequence[int]) -> Tensor:
    """Return some of the targets if they are many; quantiles if they are one number each.

    Raises:
        ValueError: so few cannot represent the shares of so many classes.
    """
    most = max(MOST_NUMBERS // max(math.prod(shape), 1), 1)
    if len(targets) <= most:
        return targets
    if targets[0].numel() == 1:
        targets = targets[targets.reshape(len(targets)).sort().indices]
    places = (torch.arange(most, dtype=torch.float64) + 0.5) * len(targets) / most
    few = targets[places.long()]
    if not targets.is_floating_point() and len(targets.unique()) > most // 4:
        raise ValueError("too many classes")
    return few
