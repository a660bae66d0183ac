"""The first steps of runs as lanes, and nothing beside: no evaluations, no records.

For what looks at the start of training only: the range test, and the replay of recorded runs for a
picture of their paths. ``train`` would evaluate all held-out data before and after, which costs
more than a few hundred steps do, and write a folder for each run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lrlab import environment, optimizers, plan
from lrlab import lanes as lane_stacks
from lrlab.lanes import Lanes, Loss

if TYPE_CHECKING:
    from lrlab.data import Dataset
    from lrlab.optimizers import LaneOptimizer

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
            order = torch.from_numpy(plan.batch_order(seed, epoch, len(x))).to(x.device)
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


def train(
    network: nn.Module,
    loss: Loss,
    optimizer: Mapping[str, Any],
    lrs: np.ndarray,
    batch: Batches,
    *,
    seed: int,
    device: str,
    held_out: tuple[Tensor, Tensor],
    width: int,
    tell: Callable[[int], None] = lambda steps: None,
) -> np.ndarray:
    """Train one network at many learning rates, all from its weights on the same mini-batches.

    Args:
        network: its copies are trained; it is put on the device and into training mode.
        optimizer: ``_target_`` and arguments, without lr.
        lrs: (steps, lanes) float64; NaN behind the last step of a lane that ends early.
        held_out: samples and labels as for ``Lanes.settle``.
        width: the most lanes at once; where memory does not hold them, half as many.
        tell: hears now and then how many steps were made, over all lanes.

    Returns:
        (steps, lanes) float64, each step's loss before its update; from the first one that is not
        finite on NaN but for itself, and NaN where no step was made.
    """
    found = np.full(lrs.shape, np.nan)
    first = 0
    while first < lrs.shape[1]:
        part = slice(first, first + width)
        count = len(lrs[0, part])
        try:
            lanes = lane_stacks.stack([network] * count, [seed] * count, loss, device)
            _train(lanes, optimizer, lrs[:, part], batch, held_out, found[:, part], tell)
        except (RuntimeError, MemoryError) as error:
            if count == 1 or not environment.out_of_memory(error):
                raise
            width = count // 2
            found[:, part] = np.nan
            continue
        first += count
    return found


def _train(
    lanes: Lanes,
    optimizer: Mapping[str, Any],
    lrs: np.ndarray,
    batch: Batches,
    held_out: tuple[Tensor, Tensor],
    found: np.ndarray,
    tell: Callable[[int], None],
) -> None:
    lanes.settle(*batch(0), held_out)
    configs = [{**optimizer, "lr": float(lr)} for lr in lrs[0]]
    params = list(lanes.params.values())
    rule = optimizers.build(configs, params, each_lr_is_a_runs=True)
    left = np.arange(len(lanes))
    for first in range(0, len(lrs), SEGMENT):
        part = lrs[first : first + SEGMENT, left]
        losses = torch.stack(list(walk(lanes, rule, {"lr": part}, batch, first)))
        table = np.where(np.isnan(part), np.nan, losses.cpu().double().numpy())
        failed = ~np.isfinite(table)
        before = np.cumsum(failed, axis=0) - failed  # how many failed before this step
        found[first : first + SEGMENT, left] = np.where(before > 0, np.nan, table)
        tell(len(part) * len(left))
        going = np.flatnonzero(~failed.any(axis=0))
        if not len(going):
            return
        if len(going) < len(left):
            left = left[going]
            lanes = lanes.select(going.tolist())
            rule.keep(torch.from_numpy(going), list(lanes.params.values()))
            lanes.settle(*batch(0), held_out)
