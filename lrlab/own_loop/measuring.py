"""Evaluate the loss along one update that an optimizer has made."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrlab.engine.diagnostics import quantities
from lrlab.errors import UserError
from lrlab.own_loop.keeping import evaluated, kept

# How far along the update the search for the critical multiple goes, in updates.
FARTHEST = 1024.0
PASSES = 5  # forward passes at most, besides the two with gradients
ENOUGH = 2  # of them, once there is a bracket
FLOOR = 8.0  # a change of the loss below so many units of its rounding shows nothing
WIDE = 2.0  # a bracket whose ends differ by more says "more than its low end"
CLOSE = 1.15  # a bracket whose ends differ by this factor is close enough

Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Measured:
    """What one update did to the loss of its own batch.

    Attributes:
        loss, loss_after: before and after the update.
        alpha: as from ``quantities.alpha``.
        critical: the critical multiple: this many times the update brings the loss back to where
            it began. It is interpolated in a narrow bracket; in a wide one it is ``low``, or
            ``high`` if ``low`` is 0. 0 if the loss rises at once, inf if it does not rise up to
            ``FARTHEST``. NaN if the loss has no slope, is not finite, or changes by less than it is
            rounded to.
        low, high: its bracket: at ``low`` times the update the loss was not above its start, at
            ``high`` it was.
        grad_norm: length of the loss's gradient before the update, without clipping or momentum.
        update_ratio: length of the update, divided by that of the weights before it.
        group_ratios: the same for each parameter group.
        noise: standard error of ``loss_after - loss`` as the batch's samples differ; NaN if the
            loss gave one number, and no batch was given whose halves have a loss.
        stability_ratio: on the fixed batch of ``Probe``; NaN without one.
        lr, lrs: at this step, of the first parameter group and of each.
    """

    loss: float
    loss_after: float
    alpha: float
    critical: float
    low: float
    high: float
    grad_norm: float
    update_ratio: float
    group_ratios: tuple[float, ...]
    noise: float
    stability_ratio: float
    lr: float = math.nan
    lrs: tuple[float, ...] = ()


def measure(
    model: nn.Module,
    groups: Sequence[Sequence[Tensor]],
    before: list[Tensor],
    loss: Loss,
    batch: Sequence[Any] = (),
    ratio: Callable[[], float] | None = None,
) -> Measured | None:
    """Measure the update between ``before`` and the parameters as they are now.

    All evaluations draw the same random numbers (dropout). Weights, buffers, training modes,
    gradients and random states are afterwards as before, to the bit.

    Args:
        groups: the optimizer's parameters, by group.
        before: their values before the update, in the same order.
        loss: called with ``batch``, returns the loss of the batch: one number, or one a sample,
            whose mean counts.
        batch: tensors with the samples along their first axis, for ``noise``; other values are
            handed on as they are.
        ratio: returns the stability ratio; it is called where the update began.

    Returns:
        None if nothing moved, because a gradient scaler left the step out.
    """
    params = [p for group in groups for p in group]
    after = [p.detach().clone() for p in params]
    start = _flat(before)
    update = _flat(after) - start
    sizes = [sum(p.numel() * (1 + p.is_complex()) for p in group) for group in groups]
    lengths = [[_length(part) for part in whole.split(sizes)] for whole in (update, start)]
    if not any(lengths[0]):
        return None
    with kept(model, params, after) as put_back:
        line = _Line(params, before, after, update, loss, batch, put_back)
        begin, slope, grad_norm, samples = line.with_slope(0.0)
        stability_ratio = math.nan
        if ratio is not None:
            line.go(0.0)
            stability_ratio = ratio()
        end, slope_after, _, samples_after = line.with_slope(1.0)
        noise = _noise(line, samples, samples_after)
        ends = (np.asarray(value) for value in (end - begin, slope, slope_after))
        alpha = float(quantities.alpha(*ends))
        floor = FLOOR * torch.finfo(samples.dtype).eps * abs(begin)
        low, high, critical = _critical(line, floor, begin, slope, end, alpha)
    return Measured(
        begin,
        end,
        alpha,
        critical,
        low,
        high,
        grad_norm,
        _ratio(*(math.hypot(*parts) for parts in lengths)),
        tuple(map(_ratio, *lengths)),
        noise,
        stability_ratio,
    )


@dataclass(frozen=True)
class _Line:
    """The loss along an update: 0 is before it, 1 after it."""

    params: list[Tensor]
    before: list[Tensor]
    after: list[Tensor]
    update: Tensor  # from the one to the other, as of ``_flat``
    loss: Loss
    batch: Sequence[Any]
    put_back: Callable[[], None]

    def go(self, t: float) -> None:
        self.put_back()  # what the last evaluation changed in buffers and attributes
        torch.clear_autocast_cache()
        with torch.no_grad():
            if t in (0, 1):
                values = self.after if t else self.before
            else:
                values = torch._foreach_lerp(self.before, self.after, t)  # type: ignore[reportPrivateImportUsage]
            torch._foreach_copy_(self.params, values)  # type: ignore[reportPrivateImportUsage]

    def at(self, t: float, batch: Sequence[Any] | None = None) -> float:
        """Return the loss at t, one forward pass."""
        self.go(t)
        with torch.no_grad():
            return float(evaluated(self.loss, self.batch if batch is None else batch).mean())

    def with_slope(self, t: float) -> tuple[float, float, float, Tensor]:
        """Return loss, derivative along the update, gradient's length, and losses by sample."""
        self.go(t)
        with torch.enable_grad():
            losses = evaluated(self.loss, self.batch)
            found = _gradients(losses.mean(), self.params)
        gradient = _flat(found)
        along = (gradient * self.update).sum(dtype=_double(gradient))
        square = (gradient * gradient).sum(dtype=_double(gradient))
        mean = losses.detach().mean().to(along)
        loss, slope, squared = torch.stack([mean, along, square]).tolist()  # one transfer
        return loss, slope, math.sqrt(squared), losses.detach()


def _gradients(loss: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradient by each parameter; 0 for one that is frozen or does not matter."""
    moving = [p for p in params if p.requires_grad]
    found: Sequence[Tensor | None] = ()
    if loss.requires_grad:
        try:
            found = torch.autograd.grad(loss, moving, allow_unused=True)
        except RuntimeError as error:
            if "second time" not in str(error) and "inplace operation" not in str(error):
                raise
            raise UserError(
                "loss: it was computed before the step; give a function that computes it anew, "
                "such as lambda: loss_fn(model(x), y)"
            ) from error
    if all(each is None for each in found):
        raise UserError("loss: does not depend on the optimizer's parameters")
    known = dict(zip(map(id, moving), found, strict=True))
    gradients = ((p, known.get(id(p))) for p in params)
    return [torch.zeros_like(p) if gradient is None else gradient for p, gradient in gradients]


def _critical(
    line: _Line, floor: float, start: float, slope: float, end: float, alpha: float
) -> tuple[float, float, float]:
    """Return low, high and the critical multiple; see ``Measured``.

    (loss(t) − loss(0)) / t is a straight line in t where the loss is a parabola, so that its zero
    is found by secants, kept within the bracket.
    """
    unknown = (math.nan, math.nan, math.nan)
    if not math.isfinite(start) or not math.isfinite(slope) or slope == 0:
        return unknown
    if slope > 0:
        return (0.0, 0.0, 0.0) if not end < start else unknown
    points = {0.0: slope}

    def add(t: float, change: float) -> None:
        if not abs(change) <= floor:  # else rounding decides its sign
            points[t] = change / t if math.isfinite(change) else math.inf

    add(1.0, end - start)
    # where the parabola through both ends, of which alpha is, is back at its start
    first = guess = 2 / (1 + alpha) if -1 < alpha < math.inf else FARTHEST
    for made in range(PASSES):
        low, high = _bracket(points)
        if low >= FARTHEST or (low > 0 and high <= low * (WIDE if made >= ENOUGH else CLOSE)):
            break
        last = made == PASSES - 1
        t = FARTHEST if last and math.isinf(high) else _within(guess, low, high)
        change = line.at(t) - start
        if abs(change) <= floor < abs(slope) * t / 64:  # there it is, as near as rounding lets it
            return low, high, t
        add(t, change)
        guess = _secant(points, first)
    low, high = _bracket(points)
    if len(points) == 1:
        return unknown
    if math.isinf(high):
        return (low, math.inf, math.inf) if low >= FARTHEST else unknown
    if low == 0 or high > WIDE * low:
        return low, high, low or high
    fallen, risen = points[low], points[high]
    share = fallen / (fallen - risen) if math.isfinite(risen) else 0.5
    return low, high, low + (high - low) * share


def _bracket(points: dict[float, float]) -> tuple[float, float]:
    high = min((t for t, rise in points.items() if rise > 0), default=math.inf)
    return max(t for t, rise in points.items() if rise <= 0 and t < high), high


def _within(guess: float, low: float, high: float) -> float:
    """Return the next place to try: near the guess, a little beyond it on the open side."""
    if math.isinf(high):
        beyond = CLOSE**0.5 if low <= 1 else 1.2  # a loss that was flatter gets flatter yet
        return min(max(guess * beyond, max(low, 1.0) * 1.3), FARTHEST)
    if low == 0:
        return min(max(guess, high / 16), 0.9 * high)
    least, most = low + 0.1 * (high - low), high - 0.1 * (high - low)
    if WIDE * low < high <= WIDE**2 * low:  # either half can be narrow
        least, most = high / WIDE, low * WIDE
    return min(max(guess, least), most)


def _secant(points: dict[float, float], first: float) -> float:
    """Return where c·t^p, through the two points at the bracket, makes up for the slope.

    Losses flatten far out: p falls from the 1 of a parabola.

    Args:
        first: the parabola's guess, for its curvature at t = 1, which rounding may hide there.
    """
    low, high = _bracket(points)
    slope = points[0.0]
    bent = {t: rise - slope for t, rise in points.items() if t > 0 and math.isfinite(rise)}
    if first < FARTHEST:
        bent[1.0] = -slope / first
    inside, outside = sorted(t for t in bent if t <= low), sorted(t for t in bent if t >= high)
    ends = [*inside[-1:], *outside[:1]]
    if len(ends) < 2:
        ends = inside[-2:] or outside[:2]
    a, b = ends if len(ends) == 2 else (1.0, 1.0)
    if a < b and 0 < bent[a] < bent[b]:
        power = math.log(bent[b] / bent[a]) / math.log(b / a)
        return math.exp(min(math.log(a) + math.log(-slope / bent[a]) / power, 20.0))
    return FARTHEST if math.isinf(high) else math.sqrt(max(low, high / 64) * high)


def _noise(line: _Line, samples: Tensor, samples_after: Tensor) -> float:
    """Return the standard error of the loss's change over this batch."""
    if samples.numel() > 1:
        change = (samples_after - samples).flatten().to(_double(samples))
        return float(change.std() / math.sqrt(len(change)))
    halves = _halves(line.batch)
    if halves is None:
        return math.nan
    try:
        first, second = (line.at(1.0, half) - line.at(0.0, half) for half in halves)
    except Exception:  # not every loss can be taken of half a batch
        return math.nan
    return abs(first - second) / 2


def _halves(batch: Sequence[Any]) -> tuple[list[Any], list[Any]] | None:
    """Return the batch's halves, cut along the first axis; None: it cannot be cut."""
    sizes = {len(part) for part in batch if isinstance(part, Tensor) and part.dim()}
    if len(sizes) != 1 or (size := sizes.pop()) < 2:
        return None
    half = size // 2

    def cut(part: Any, which: slice) -> Any:
        return part[which] if isinstance(part, Tensor) and part.dim() else part

    first, second = slice(0, half), slice(half, 2 * half)
    return [cut(part, first) for part in batch], [cut(part, second) for part in batch]


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """Join tensors to one vector of real numbers, in float32 at least."""
    parts = []
    for tensor in tensors:
        dense = tensor.to_dense() if tensor.is_sparse else tensor
        real = torch.view_as_real(dense.resolve_conj()) if dense.is_complex() else dense
        parts.append(real.detach().reshape(-1).to(tensors[0].device))
    whole = torch.cat(parts)
    return whole if whole.dtype.itemsize >= 4 else whole.float()


def _length(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector, dtype=_double(vector)))


def _double(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def _ratio(length: float, weight: float) -> float:
    return length / weight if weight else math.nan
