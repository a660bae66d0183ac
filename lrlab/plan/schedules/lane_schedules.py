"""Make the schedule of one lane from its config: the protocol ``LaneSchedule`` and its makers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from lrlab.config import targets
from lrlab.data.random_state import seeded
from lrlab.errors import UserError
from lrlab.plan.schedules.dummy import check_moved, checked, number_of, scheduler_on, start_of
from lrlab.plan.schedules.reading import Settings, is_own, read
from lrlab.plan.schedules.table import cached_table, warmup_of


class LaneSchedule(Protocol):
    """One lane's schedule.

    Attributes:
        closed_loop: it follows val_loss; then ``values`` reaches to the end of the current epoch.
    """

    closed_loop: bool

    def values(self, first_step: int, count: int) -> dict[str, np.ndarray]:
        """Return the schedule's values for steps first_step .. first_step + count − 1.

        Returns:
            ``lr``: (count,) float64, used at each step. Also ``momentum`` or ``beta1``, (count,)
            float64, where the scheduler moves it.

        Raises:
            ValueError: a step outside the run, or one that a closed loop does not know yet.
        """
        ...

    def observe(self, val_loss: float) -> None:
        """Give the schedule the full evaluation at the end of an epoch, once an epoch."""
        ...


def build(
    schedule: Mapping[str, Any],
    hyperparameters: Mapping[str, Any],
    steps: int,
    steps_per_epoch: int,
) -> LaneSchedule:
    """Build the schedule of one lane.

    Args:
        schedule: ``_target_`` of a torch scheduler, its arguments, and lrlab's own keys interval,
            warmup_steps and warmup_start_factor. An argument "auto" becomes the run's length after
            warm-up, counted in ticks.
        hyperparameters: lr, and momentum or betas (or beta1 and beta2) if the optimizer has them.
        steps: the run's length in steps.
        steps_per_epoch: the number of steps in an epoch.

    Raises:
        UserError: a value that cannot work, named as the user would type it.
    """
    settings = read(schedule, steps, steps_per_epoch)
    start = start_of(hyperparameters, settings.target)
    if settings.closed_loop:
        return _ClosedLoop(settings, start)
    key = json.dumps([dict(schedule), start, steps, steps_per_epoch], sort_keys=True)
    return _Table(cached_table(key), steps)


def check_groups(
    schedule: Mapping[str, Any],
    hyperparameters: Mapping[str, Any],
    steps: int,
    steps_per_epoch: int,
    groups: int,
) -> None:
    """Refuse a user's scheduler that gives each parameter group a curve of its own.

    lrlab keeps each group's ratio to the run's lr, so such curves would be lost. The arguments are
    those of ``build``, and how many parameter groups the optimizer has.
    """
    settings = read(schedule, steps, steps_per_epoch)
    if groups < 2 or settings.closed_loop or not is_own(settings.target):
        return
    start = start_of(hyperparameters, settings.target)
    try:
        with seeded(0):
            optimizer, scheduler = scheduler_on(settings, start, groups)
            lrs = [group["lr"] for group in optimizer.param_groups]
            for _ in range(1, settings.ticks):
                if any(lr != lrs[0] for lr in lrs):
                    break
                scheduler.step()
                lrs = [group["lr"] for group in optimizer.param_groups]
    except Exception:  # it is made for one group; the others follow its curve
        return
    if any(lr != lrs[0] for lr in lrs):
        raise UserError(
            f"{settings.target.option}: gives each parameter group a curve of its own "
            f"({', '.join(f'{float(lr):g}' for lr in lrs[:3])} from the same lr), but each group "
            "keeps its ratio to the run's lr; give all groups the same curve"
        )


class _Table:
    closed_loop = False

    def __init__(self, table: dict[str, np.ndarray], steps: int) -> None:
        self._table = table
        self._steps = steps

    def values(self, first_step: int, count: int) -> dict[str, np.ndarray]:
        _check_range(first_step, count, self._steps)
        end = first_step + count
        return {name: column[first_step:end] for name, column in self._table.items()}

    def observe(self, val_loss: float) -> None:
        """Ignore the loss: an open-loop schedule does not depend on it."""


class _ClosedLoop:
    """A schedule that follows val_loss; its lr is known one epoch ahead."""

    closed_loop = True

    def __init__(self, settings: Settings, start: dict[str, Any]) -> None:
        self._settings = settings
        self._start = start
        with seeded(0):
            self._optimizer, self._scheduler = scheduler_on(settings, start)
        check_moved(settings, start, self._optimizer, 0)
        first = checked(settings, "lr", [self._number(0)])[0]
        self._warmup = warmup_of(settings, first)
        self._epoch_lrs = [first]

    def values(self, first_step: int, count: int) -> dict[str, np.ndarray]:
        s = self._settings
        _check_range(first_step, count, min(s.steps, len(self._epoch_lrs) * s.unit))
        step = np.arange(first_step, first_step + count)
        lr = np.array(self._epoch_lrs)[step // s.unit]
        warming = step < s.warmup_steps
        lr[warming] = self._warmup[step[warming]]
        return {"lr": lr}

    def observe(self, val_loss: float) -> None:
        # an epoch that ended in warm-up says nothing about the schedule's own lr
        if len(self._epoch_lrs) * self._settings.unit > self._settings.warmup_steps:
            try:
                # seeded, because a resumed run gets all its evaluations again
                with seeded(len(self._epoch_lrs)):
                    self._scheduler.step(val_loss)
            except Exception as error:
                raise targets.failed(self._settings.target, error) from error
        tick = len(self._epoch_lrs)
        check_moved(self._settings, self._start, self._optimizer, tick)
        lr = [self._number(tick)]
        self._epoch_lrs += checked(self._settings, "lr", lr, first=tick).tolist()

    def _number(self, tick: int) -> float:
        return number_of(self._settings, "lr", self._optimizer.param_groups[0]["lr"], tick)


def _check_range(first_step: int, count: int, known: int) -> None:
    if first_step < 0 or count < 0 or first_step + count > known:
        raise ValueError(
            f"steps {first_step} to {first_step + count - 1} asked for, known are 0 to {known - 1}"
        )
