"""Follow val_loss with a schedule; its lr is known one epoch ahead."""

from __future__ import annotations

from typing import Any

import numpy as np

from lrlab.config import targets
from lrlab.data.random_state import seeded
from lrlab.plan.schedules.checks import check_moved, checked, number_of
from lrlab.plan.schedules.dummy import scheduler_on
from lrlab.plan.schedules.reading import Settings
from lrlab.plan.schedules.table import warmup_of


class ClosedLoop:
    """A lane's schedule; see ``LaneSchedule``."""

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
        check_range(first_step, count, min(s.steps, len(self._epoch_lrs) * s.unit))
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


def check_range(first_step: int, count: int, known: int) -> None:
    """Refuse steps outside the known ones.

    Raises:
        ValueError: some are outside.
    """
    if first_step < 0 or count < 0 or first_step + count > known:
        raise ValueError(
            f"steps {first_step} to {first_step + count - 1} asked for, known are 0 to {known - 1}"
        )
