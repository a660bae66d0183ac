"""Train lanes on batches from a function, without records.

It serves the start of training only: the range test, and runs that are trained again for a figure
of their paths.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrlab.data import inputs
from lrlab.data.inputs import Batch, Inputs
from lrlab.data.random_state import random_state_kept
from lrlab.engine.lanes.chunks import Samples
from lrlab.engine.lanes.lane_stack import Lanes
from lrlab.engine.optimizers import lane_optimizers
from lrlab.engine.optimizers.protocol import Coefficients, Gradients
from lrlab.plan.build import batch_order
from lrlab.training.loop import Course, Lockstep

if TYPE_CHECKING:
    from lrlab.data import Dataset

Batches = Callable[[int], Samples]

SEGMENT = 100  # steps between two looks at the losses


def batches(data: Dataset, seed: int, batch_size: int) -> Batches:
    """Return the batches of a sweep's run with this seed: step to (samples, labels)."""
    return batches_of(data.train_x, data.train_y, seed, batch_size)


def batches_of(x: Inputs, y: Tensor, seed: int, batch_size: int) -> Batches:
    """Like ``batches``, for samples (samples, ...) and their targets (samples, ...)."""
    steps_per_epoch = len(y) // batch_size
    epoch_of, order = -1, torch.empty(0)

    def batch(step: int) -> Samples:
        nonlocal epoch_of, order
        epoch, place = divmod(step, steps_per_epoch)
        if epoch != epoch_of:
            epoch_of = epoch
            order = torch.from_numpy(batch_order(seed, epoch, len(y))).to(y.device)
        index = order[place * batch_size : (place + 1) * batch_size]
        return inputs.mapped(lambda tensor: tensor[index], x), y[index]

    return batch


@dataclass
class OnBatches(Lockstep[Course]):
    """Lanes at the same step that get the same batches.

    Attributes:
        batch: step to samples and targets.
        evaluated: samples and targets, each of which the lanes may be evaluated on.
    """

    batch: Batches
    evaluated: Sequence[Samples]

    def begin(self, count: int, coefficients: Coefficients) -> _Steps:
        """Prepare the next steps."""
        return _Steps(self, coefficients)

    def settle(self) -> None:
        """Choose the fastest way that keeps each lane's bits."""
        settle(self.lanes, self.batch, self.evaluated)


class _Steps:
    """The next steps, through vmap, autograd and the optimizer's own code."""

    def __init__(self, stack: OnBatches, coefficients: Coefficients) -> None:
        self._stack, self._coefficients = stack, coefficients
        self._first_steps = stack.steps()
        self._losses: list[Tensor] = []

    @property
    def losses(self) -> Tensor:
        """(steps, lanes) float64 on the CPU, which holds every type of loss exactly."""
        return torch.stack(self._losses).cpu().double()

    def gradients(self, i: int) -> tuple[Tensor, Gradients]:
        stack = self._stack
        self.batch = Batch(*stack.batch(self._first_steps[0] + i))
        x, y, _ = self.batch
        losses, self._gradients = stack.lanes.gradients(x, y, self._first_steps, i)
        self._losses.append(losses)
        return losses, self._gradients

    def update(self, i: int) -> None:
        self._stack.optimizer.update(self._gradients, self._coefficients, i)

    def end(self, seconds_a_step: float) -> None:
        pass


def build(
    lanes: Lanes,
    configs: Sequence[Mapping[str, Any]],
    batch: Batches,
    evaluated: Sequence[Samples],
    each_lr_is_a_runs: bool = False,
) -> OnBatches:
    """Lanes before their first step.

    Args:
        configs: (lanes,) of their optimizers, each with ``lr``.
        each_lr_is_a_runs: as for ``lane_optimizers.build``.
    """
    params = list(lanes.params.values())
    optimizer = lane_optimizers.build(
        configs, params, lanes.units, each_lr_is_a_runs, list(lanes.params)
    )
    courses = [Course() for _ in configs]
    stack = OnBatches(courses, lanes, optimizer, sys.maxsize, batch, evaluated)
    stack.settle()
    return stack


def copies(stack: OnBatches, lane: int, step: int) -> OnBatches:
    """Return as many copies of a lane at a step as there are lanes, with its optimizer's memory.

    Each copy has the lr of its own lane. ``settle`` them before use.
    """
    index = [lane] * len(stack.runs)
    lanes = stack.lanes.select(index)
    # deep: the general optimizer shares leaves; the stack's own are never written to
    optimizer = copy.deepcopy(stack.optimizer)
    optimizer.keep(torch.tensor(index), list(lanes.params.values()), lanes.units)
    optimizer.take_rates(stack.optimizer)
    courses = [Course(step=step) for _ in index]
    return replace(stack, runs=courses, lanes=lanes, optimizer=optimizer)


def settle(lanes: Lanes, batch: Batches, parts: Sequence[Samples]) -> None:
    """Settle lanes without an effect on later random draws, however many trials it took."""
    x, y = batch(0)
    with randomness_kept(lanes):
        lanes.settle(x, y, *parts)


def randomness_kept(lanes: Lanes) -> AbstractContextManager[None]:
    """Put the states of torch's random number generators back at the end."""
    return random_state_kept([t.device for t in lanes.params.values() if t.is_cuda][:1])
