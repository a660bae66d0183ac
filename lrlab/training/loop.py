"""The one training loop: advance lanes together, step by step.

The sweep, ``lrlab.find``, the branch test, the figure of the loss along a step and ``lrlab.bench``
train with ``advance``. Nothing else advances lanes.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from lrlab.engine.diagnostics import quantities
from lrlab.engine.diagnostics.meter import Meter
from lrlab.engine.lanes.lane_stack import Lanes
from lrlab.engine.optimizers.protocol import Coefficients, Gradients, LaneOptimizer
from lrlab.engine.step.protocol import Steps
from lrlab.process.profiling import phase

Values = dict[str, np.ndarray]  # schedule values, name to (steps, lanes) float64


@phase("steps")
def advance(
    stack: Lockstep,
    values: Values,
    stop: Callable[[], bool] = lambda: False,
    before: Callable[[int], None] = lambda made: None,
) -> Segment:
    """Make the next steps of all lanes: gradients, update, measure, until done or stopped.

    Args:
        values: of the schedules for these steps, with ``lr``; all steps lie in one epoch.
        stop: asked after each step; if it returns true, the segment ends with that step.
        before: called before each step with the number of steps made. It may look at the lanes, but
            not change them.
    """
    count, started, measuring = len(values["lr"]), time.perf_counter(), 0.0
    coefficients = stack.coefficients(values)
    step, due, raw = stack.begin(count, coefficients), stack.due(count), {}
    for i in range(count):
        before(i)
        losses, gradients = step.gradients(i)
        if i in due:
            measuring += stack.measure_before()
        step.update(i)
        if i in due:
            raw[i], seconds = stack.measure_after(step, losses, gradients, coefficients, i, due[i])
            measuring += seconds
        if stop():
            count = i + 1
            break

    train_losses = step.losses[:count].cpu().numpy()  # waits for the device
    with np.errstate(over="ignore"):
        train_losses = train_losses * stack.unit
    measured = stack.measured(raw, due, values)
    seconds = time.perf_counter() - started - measuring
    step.end(seconds / count)
    values = {name: table[:count] for name, table in values.items()}
    segment = Segment(stack.steps(), values, train_losses, measured, seconds, measuring)
    stack.move_on(count)
    return segment


@dataclass(frozen=True)
class Segment:
    """The record of some steps.

    Attributes:
        first_steps: (lanes,) each lane's step at the beginning.
        values: of the schedules, name to (steps, lanes).
        losses: (steps, lanes), of the mini-batch before each update, times the stack's ``unit``.
        measured: step within the segment to its measurements, (lanes, 7), see
            ``quantities.table``, and to which of them each lane has, (lanes,) int; 0: none.
        seconds: of wall time, without those of measuring.
    """

    first_steps: list[int]
    values: Values
    losses: np.ndarray
    measured: dict[int, tuple[np.ndarray, np.ndarray]]
    seconds: float
    diagnose_seconds: float


@dataclass
class Course:
    """How far a lane is: ``step`` updates made, out of ``steps`` in all."""

    step: int = field(default=0, kw_only=True)
    steps: int = field(default=0, kw_only=True)


R = TypeVar("R", bound=Course, covariant=True)


@dataclass
class Lockstep(ABC, Generic[R]):
    """Everything that a step changes: lanes, their optimizer, and how far each lane is.

    Attributes:
        runs: (lanes,) how far each lane is; all are at the same step of an epoch.
        meter: measures the steps; None: nothing is measured.
        unit: factor of the losses.
        steps_per_epoch: a segment may not cross an epoch's end.
    """

    runs: list[R]
    lanes: Lanes
    optimizer: LaneOptimizer
    steps_per_epoch: int
    meter: Meter | None = field(default=None, kw_only=True)
    unit: float = field(default=1.0, kw_only=True)

    @abstractmethod
    def begin(self, count: int, coefficients: Coefficients) -> Steps:
        """Prepare the next ``count`` steps."""

    @abstractmethod
    def settle(self) -> None:
        """Prepare for changed lanes, in the fastest way that keeps their bits."""

    @property
    def place(self) -> int:
        """Steps made of the lanes' present epoch; 0 at an epoch's end."""
        return self.runs[0].step % self.steps_per_epoch if self.runs else 0

    def steps(self) -> list[int]:
        """Return (lanes,) the step that each lane is at."""
        return [run.step for run in self.runs]

    def put(self, lane: int, step: int, more: int | None = None) -> None:
        """Set a lane's step and, if given, how many more it makes."""
        run = self.runs[lane]
        run.step, run.steps = step, run.steps if more is None else step + more

    def move_on(self, count: int) -> None:
        """Count the steps that all lanes have made."""
        for run in self.runs:
            run.step += count

    def keep(self, going: Sequence[int]) -> None:
        """Keep only the lanes that go on."""
        if len(going) == len(self.runs):
            return
        self.runs = [self.runs[lane] for lane in going]
        if not self.runs:
            return
        self.lanes = self.lanes.select(going)
        self.meter = self.meter and self.meter.select(going)
        kept = torch.tensor(list(going))
        self.optimizer.keep(kept, list(self.lanes.params.values()), self.lanes.units)
        self.settle()

    def coefficients(self, values: Values) -> Coefficients:
        """Return the factors in the updates of the next steps."""
        if self.optimizer.general:
            self.optimizer.seeds = self.lanes.seeds
        return self.optimizer.coefficients(values, np.array(self.steps()))

    # --- measuring --------------------------------------------------------------------------------

    def due(self, count: int) -> dict[int, np.ndarray]:
        """Return which of the next steps are measured; see ``Meter.due``."""
        if self.meter is None:
            return {}
        totals = [run.steps for run in self.runs]
        return self.meter.due(self.steps(), count, totals, self.steps_per_epoch)

    def measure_before(self) -> float:
        """Remember the lanes before an update; return the seconds that it took."""
        started = time.perf_counter()
        assert self.meter is not None
        self.meter.before(self.lanes)
        return time.perf_counter() - started

    def measure_after(
        self,
        step: Steps,
        losses: Tensor,
        gradients: Gradients,
        coefficients: Coefficients,
        i: int,
        due: np.ndarray,
    ) -> tuple[Tensor, float]:
        """Measure the update just made; return the measurements, and the seconds that it took."""
        started = time.perf_counter()
        assert self.meter is not None
        divisor = self.optimizer.preconditioner(coefficients, i)
        found = self.meter.after(
            self.lanes, losses, gradients, step.batch, self.steps(), i, due, divisor
        )
        return found, time.perf_counter() - started

    def measured(
        self, raw: dict[int, Tensor], due: dict[int, np.ndarray], values: Values
    ) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Return the measurements in the form of ``Segment.measured``."""
        if not raw:
            return {}
        scale = self.optimizer.stability_scale(values, np.array(self.steps()))
        return {
            i: (quantities.table(found.cpu().numpy(), scale[i]), due[i]) for i, found in raw.items()
        }
