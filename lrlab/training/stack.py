"""A stack: runs of a sweep as lanes, with the data and the sample order of their epochs."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lrlab.data import inputs
from lrlab.data.inputs import Batch
from lrlab.engine import python_state
from lrlab.engine.lanes.chunks import Samples
from lrlab.engine.optimizers.protocol import Coefficients
from lrlab.engine.step.choosing import build_step
from lrlab.engine.step.plain import gather
from lrlab.engine.step.protocol import Step
from lrlab.plan.build import References, batch_order
from lrlab.plan.spec import RunSpec, samples_a_step
from lrlab.process.profiling import phase
from lrlab.training.loop import Course, Lockstep

if TYPE_CHECKING:
    from lrlab.data import Dataset

Python = dict[str, python_state.State]  # attributes of the network, the loss and the optimizer
SEGMENT = 100  # steps between two looks at the losses; each look waits for the device
TRIAL = 20  # steps of a segment that tests how fast a number of threads is
CAPTURE_FROM = 50  # steps left; capturing one saves its own cost in about so many
VAL_PARTS = 20  # parts of the held-out samples


@dataclass
class Run(Course):
    """A run while it trains: everything that its lane needs next to its tensors.

    Attributes:
        row: its row in the display.
        evaluation: the latest full evaluation, val_loss and val_acc; ``evaluations`` has all that
            its schedule was given.
        epoch_losses: sum and count of this epoch's mini-batch losses.
        last_values: of its schedule at the latest step: lr, and momentum or beta1.
    """

    spec: RunSpec
    row: int
    schedule: Any
    summary: dict[str, Any]
    evaluation: tuple[float, float] = (float("nan"), float("nan"))
    averaged: tuple[float, float] | None = None  # evaluation of the averaged weights, with ema
    evaluations: list[float] = field(default_factory=list)
    epoch_losses: tuple[float, int] = (0.0, 0)
    train_seconds: float = 0.0  # time of its stack while it was part of it: lanes share it
    evaluate_seconds: float = 0.0
    diagnose_seconds: float = 0.0
    last_values: dict[str, float] = field(default_factory=dict)
    last_loss: float = float("nan")  # the mean over the last segment, for the display
    ended: bool = False
    begun: Python = field(default_factory=dict)  # Python values before its first step
    unsaved: str = ""  # those of them that changed and cannot be saved


@dataclass
class Stack(Lockstep[Run]):
    """Lanes of one group at the same step of an epoch, each at an epoch of its own.

    Attributes:
        data: on the device.
        references: the unit of its losses, and the losses to compare them with.
        order: the epoch's samples, (steps, orders, batch); ``order_of``: (rows,) the order
            of each lane, and of the rows that pad the stack.
        step: makes its steps, if it has made any since its lanes changed.
        checkpointed: when its lanes were last saved, as time.monotonic().
    """

    key: str
    data: Dataset
    references: References
    order: Tensor = field(default_factory=lambda: torch.empty(0))
    order_of: Tensor = field(default_factory=lambda: torch.empty(0))
    step: Step | None = None
    checkpointed: float = field(default_factory=time.monotonic)

    def begin(self, count: int, coefficients: Coefficients) -> Step:
        """Prepare the next steps of the epoch, captured where possible."""
        if self.step is not None and self.place == 0 and not self.step.holds():
            self.step = None
        if self.step is None:
            spec, left = self.runs[0].spec, max(run.steps - run.step for run in self.runs)
            self.step = build_step(
                self.lanes,
                self.optimizer,
                self.data,
                self.order[self.place :],
                self.order_of,
                self.longest_segment(),
                captured=left >= CAPTURE_FROM and spec.config.get("capture", True),
                any_threads=spec["threads"] is None,
            )
        order = self.order[self.place : self.place + count]
        self.step.begin(order, self.steps(), coefficients)
        return self.step

    def longest_segment(self) -> int:
        """Return the longest segment, in steps.

        A GPU works ahead of Python, so nothing waits for it before the epoch's end.
        """
        if self.data.train_y.is_cuda:
            return self.steps_per_epoch
        return TRIAL if self.step is not None and self.step.on_trial else SEGMENT

    @phase("order")
    def take_order(self) -> None:
        """Set up the sample order of each lane's present or next epoch."""
        samples, batch_size = len(self.data.train_y), samples_a_step(self.runs[0].spec)
        steps, device = self.steps_per_epoch, self.data.train_y.device
        keys = [(run.spec["seed"], run.step // steps) for run in self.runs]
        distinct = list(dict.fromkeys(keys))
        orders = [
            batch_order(*key, samples)[: steps * batch_size].reshape(steps, -1) for key in distinct
        ]
        self.order = torch.from_numpy(np.stack(orders, axis=1)).to(device)
        padding = [0] * max(self.lanes.pad - len(keys), 0)
        self.order_of = torch.tensor([distinct.index(key) for key in keys] + padding).to(device)

    def first_batch(self) -> Batch:
        """Inputs and targets of the epoch's first step, as the lanes are given them."""
        return gather(self.data, self.order[0], self.order_of, bool(self.lanes.pad))

    def settle(self) -> None:
        """Take the epoch's order, and choose the fastest way that keeps each lane's bits."""
        self.take_order()
        self.step = None
        x, y, own = self.first_batch()
        self.lanes.settle(x, y, *evaluated_on(self.data), own=own)


def merge(stack: Stack, other: Stack) -> None:
    """Add the lanes of another stack of the same group, both at an epoch's start."""
    stack.lanes = stack.lanes.join(other.lanes)
    stack.optimizer.join(other.optimizer, list(stack.lanes.params.values()), stack.lanes.units)
    if stack.meter and other.meter:
        stack.meter.join(other.meter)
    stack.runs += other.runs
    stack.settle()


def split(stack: Stack, leaving: Sequence[int]) -> Stack:
    """Take lanes out into a stack of their own; the others stay."""
    optimizer = copy.copy(stack.optimizer)
    selected = stack.lanes.select(leaving)
    optimizer.keep(torch.tensor(list(leaving)), list(selected.params.values()), selected.units)
    runs = [stack.runs[lane] for lane in leaving]
    meter = stack.meter and stack.meter.select(leaving)
    other = dataclasses.replace(stack, runs=runs, lanes=selected, optimizer=optimizer, meter=meter)
    other.settle()
    stack.keep([lane for lane in range(len(stack.runs)) if lane not in leaving])
    return other


def evaluated_on(data: Dataset) -> list[Samples]:
    """Return all samples and targets on which runs with this data are evaluated."""
    whole = [(data.val_x, data.val_y), (data.train_x, data.train_y), (data.test_x, data.test_y)]
    return [pair for pair in (*whole, *val_parts(data)) if len(pair[1])]


def val_parts(data: Dataset) -> list[Samples]:
    """The parts of the held-out samples: every n-th from the k-th on; none where there are few."""
    count = min(VAL_PARTS, len(data.val_y) // 2)
    if count < 2:
        return []
    return [
        (inputs.mapped(lambda t, first=k: t[first::count], data.val_x), data.val_y[k::count])
        for k in range(count)
    ]
