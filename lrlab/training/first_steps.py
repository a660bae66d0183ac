"""The first steps of runs as lanes, without records, and with few evaluations or none.

For what looks at the start of training only: the range test, and the replay of recorded runs for a
picture of their paths. ``train`` would evaluate all held-out data before and after, which costs
more than a few hundred steps do, and write a folder for each run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lrlab.data.random_state import random_state_kept
from lrlab.engine import devices
from lrlab.engine.lanes import stacking
from lrlab.engine.lanes.block import Loss
from lrlab.engine.lanes.chunks import Samples
from lrlab.engine.lanes.lane_stack import Lanes
from lrlab.engine.optimizers import lane_optimizers
from lrlab.plan import build

if TYPE_CHECKING:
    from lrlab.data import Dataset
    from lrlab.engine.optimizers.protocol import LaneOptimizer

Batches = Callable[[int], tuple[Tensor, Tensor]]

SEGMENT = 100  # steps whose coefficients are computed at once


def batches(data: Dataset, seed: int, batch_size: int) -> Batches:
    """Step to (samples, labels), the mini-batches that ``train`` gives to a run of this seed.

    Args:
        data: on the device.
    """
    return batches_of(data.train_x, data.train_y, seed, batch_size)


def batches_of(x: Tensor, y: Tensor, seed: int, batch_size: int) -> Batches:
    """As ``batches``, of samples (samples, ...) and their targets (samples, ...)."""
    steps_per_epoch = len(x) // batch_size
    epoch_of, order = -1, torch.empty(0)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        nonlocal epoch_of, order
        epoch, place = divmod(step, steps_per_epoch)
        if epoch != epoch_of:
            epoch_of = epoch
            order = torch.from_numpy(build.batch_order(seed, epoch, len(x))).to(x.device)
        index = order[place * batch_size : (place + 1) * batch_size]
        return x[index], y[index]

    return batch


def walk(
    lanes: Lanes,
    optimizer: LaneOptimizer,
    values: Mapping[str, np.ndarray],
    batch: Batches,
    first: int = 0,
) -> Iterator[Tensor]:
    """Train all lanes on the same batches; what each step finds comes out once it is made.

    Between two steps the lanes and the optimizer may be looked at, but not changed.

    Args:
        lanes: settled, and all at step ``first``.
        values: schedule values, name to (steps, lanes) float64, those of step ``first`` first.

    Yields:
        (lanes,) the losses before the update that was made.
    """
    steps, width = len(values["lr"]), len(lanes)
    if optimizer.general:
        optimizer.seeds = lanes.seeds
    for start in range(0, steps, SEGMENT):
        part = {name: v[start : start + SEGMENT] for name, v in values.items()}
        first_steps = [first + start] * width
        coefficients = optimizer.coefficients(part, np.array(first_steps))
        for i in range(len(part["lr"])):
            losses, gradients = lanes.gradients(*batch(first + start + i), first_steps, i)
            optimizer.update(gradients, coefficients, i)
            yield losses


@dataclass(frozen=True, eq=False)
class Looks:
    """Which lanes are evaluated before which steps, on which samples.

    Attributes:
        parts: samples and targets, evaluated one part after the other.
        at: (steps, lanes) bool, whether a lane is evaluated before the update of a step.
    """

    parts: Sequence[Samples]
    at: np.ndarray

    def of(self, lanes: slice | np.ndarray) -> Looks:
        """Those at some of the lanes."""
        return Looks(self.parts, self.at[:, lanes])


def train(
    network: nn.Module,
    loss: Loss,
    optimizer: Mapping[str, Any],
    lrs: np.ndarray,
    batch: Batches,
    *,
    seed: int,
    device: str,
    width: int,
    looks: Sequence[Looks] = (),
    tell: Callable[[int], None] = lambda steps: None,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Train one network at many learning rates, all from its weights on the same mini-batches.

    Evaluations change no bit of the training, nor the random numbers that it or its data draw.

    Args:
        network: its copies are trained; it is put on the device and into training mode.
        optimizer: ``_target_`` and arguments, without lr.
        lrs: (steps, lanes) float64; NaN behind the last step of a lane that ends early.
        width: the most lanes at once; where memory does not hold them, half as many.
        looks: what is evaluated on the way.
        tell: hears now and then how many steps were made, over all lanes.

    Returns:
        losses: (steps, lanes) float64, each step's loss before its update; from the first one that
            is not finite on NaN but for itself, and NaN where no step was made.
        seen: (steps, parts, lanes) float64 for each of ``looks``, the losses of its parts in eval
            mode before the update of a step; NaN where it asks for none, and from the first step on
            whose own loss is not finite.
    """
    found = np.full(lrs.shape, np.nan)
    seen = [np.full((len(lrs), len(each.parts), lrs.shape[1]), np.nan) for each in looks]
    first = 0
    while first < lrs.shape[1]:
        part = slice(first, first + width)
        count = len(lrs[0, part])
        own = [each.of(part) for each in looks], [table[..., part] for table in seen]
        try:
            lanes = stacking.stack([network] * count, [seed] * count, loss, device)
            _train(lanes, optimizer, lrs[:, part], batch, *own, found[:, part], tell)
        except (RuntimeError, MemoryError) as error:
            if count == 1 or not devices.out_of_memory(error):
                raise
            width = count // 2
            for table in (found[:, part], *own[1]):
                table[:] = np.nan
            continue
        first += count
    return found, seen


def _train(
    lanes: Lanes,
    optimizer: Mapping[str, Any],
    lrs: np.ndarray,
    batch: Batches,
    looks: Sequence[Looks],
    seen: Sequence[np.ndarray],
    found: np.ndarray,
    tell: Callable[[int], None],
) -> None:
    evaluated = [part for each in looks for part in each.parts]
    _settle(lanes, batch, evaluated)
    configs = [{**optimizer, "lr": float(lr)} for lr in lrs[0]]
    params = list(lanes.params.values())
    rule = lane_optimizers.build(configs, params, each_lr_is_a_runs=True)
    left = np.arange(len(lanes))
    for first in range(0, len(lrs), SEGMENT):
        part = lrs[first : first + SEGMENT, left]
        steps, made = walk(lanes, rule, {"lr": part}, batch, first), []
        for step in range(first, first + len(part)):
            for each, values in zip(looks, seen, strict=True):
                if each.at[step, left].any():
                    where, losses = _look(lanes, each.at[step, left], each.parts, batch)
                    values[step][:, left[where]] = losses
            made.append(next(steps))
        table = np.where(np.isnan(part), np.nan, torch.stack(made).cpu().double().numpy())
        failed = ~np.isfinite(table)
        before = np.cumsum(failed, axis=0) - failed  # how many failed before this step
        found[first : first + SEGMENT, left] = np.where(before > 0, np.nan, table)
        for values in seen:
            # of what began to fail at a step, its evaluations from there on are none
            rows = values[first : first + SEGMENT]
            rows[:, :, left] = np.where((before + failed > 0)[:, None], np.nan, rows[:, :, left])
        tell(len(part) * len(left))
        going = np.flatnonzero(~failed.any(axis=0))
        if not len(going):
            return
        if len(going) < len(left):
            left = left[going]
            lanes = lanes.select(going.tolist())
            rule.keep(torch.from_numpy(going), list(lanes.params.values()))
            _settle(lanes, batch, evaluated)


def _settle(lanes: Lanes, batch: Batches, parts: Sequence[Samples]) -> None:
    """Settle lanes; what data draws later does not depend on how many trials that took."""
    x, y = batch(0)
    with _randomness_kept(lanes):
        lanes.settle(x, y, *parts)


def _look(
    lanes: Lanes, asked: np.ndarray, parts: Sequence[Samples], batch: Batches
) -> tuple[np.ndarray, np.ndarray]:
    """Evaluate the lanes that are asked for, alone where they are few.

    Returns:
        Which lanes, and their losses, (parts, lanes) float64.
    """
    where = np.flatnonzero(asked)
    if 2 * len(where) <= len(lanes):
        few = lanes.select(where.tolist())
        _settle(few, batch, parts)
    else:
        few = lanes
    leaves_traces = few.keeps_state or (few is lanes and few.fixed)
    with _randomness_kept(lanes), few.rehearsal() if leaves_traces else nullcontext():
        found = torch.stack([few.evaluate(x, y)[0] for x, y in parts]).double().numpy()
    return where, found if few is not lanes else found[:, where]


def _randomness_kept(lanes: Lanes) -> AbstractContextManager[None]:
    return random_state_kept([t.device for t in lanes.params.values() if t.is_cuda][:1])
