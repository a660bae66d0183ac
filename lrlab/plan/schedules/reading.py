"""Read a schedule's config: check its settings, and resolve them for a run of so many steps."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch.optim.lr_scheduler import LRScheduler

from lrlab.config import targets
from lrlab.config.schema import nearest
from lrlab.errors import UserError, must_be
from lrlab.process.plain import is_number, is_whole
from lrlab.schedules import RangeTestLR

OWN_KEYS = ("interval", "warmup_steps", "warmup_start_factor")
INTERVALS = ("step", "epoch")
SHARES = {"T_0", "decay_steps"}  # arguments that may be a share of the run's ticks, below 1


class Settings(NamedTuple):
    """A schedule's settings in a run.

    Attributes:
        target: the scheduler and its arguments; none of them is "auto" any more.
        closed_loop: it follows val_loss.
        steps: the run's length in steps; unit: the steps in a tick.
    """

    target: targets.Target
    closed_loop: bool
    warmup_steps: int
    warmup_start_factor: float
    steps: int
    unit: int

    @property
    def ticks(self) -> int:
        """Return how many ticks the run has after warm-up."""
        return max(math.ceil(self.steps / self.unit) - self.warmup_steps // self.unit, 1)


def read(schedule: Mapping[str, Any], steps: int, steps_per_epoch: int) -> Settings:
    """Resolve a schedule's settings for a run of so many steps; refuse values that cannot work.

    The arguments are those of ``lane_schedules.build``.
    """
    interval = schedule.get("interval", "step")
    if interval not in INTERVALS:
        hint = nearest(str(interval), INTERVALS)
        raise UserError(f"schedule.interval={interval}: must be step or epoch{hint}")
    warmup = schedule.get("warmup_steps", 0)
    if is_number(warmup) and 0 < warmup < 1:
        warmup = ticks_of(warmup, steps)
    if not is_whole(warmup, 0):
        raise must_be("schedule.warmup_steps", warmup, "a whole number of at least 0", 100)
    if warmup and warmup >= steps:
        below = f"below the run's {steps} steps"
        raise must_be("schedule.warmup_steps", warmup, below, steps // 10)
    factor = schedule.get("warmup_start_factor", 0.01)
    if not is_number(factor) or not 0 < factor <= 1:
        raise must_be("schedule.warmup_start_factor", factor, "above 0 and at most 1", 0.01)
    target = targets.read(
        "schedule", schedule, LRScheduler, withheld=("last_epoch", "verbose"), own_keys=OWN_KEYS
    )
    step = getattr(target.call, "step", None)
    closed_loop = step is not None and "metrics" in inspect.signature(step).parameters
    if closed_loop and interval == "step":
        raise UserError(
            f"schedule.interval=step: {target.name} follows val_loss, which is measured once an "
            "epoch; use schedule.interval=epoch"
        )
    if closed_loop and target.given.get("mode", "min") != "min":
        raise UserError(
            f"schedule.mode={target.given['mode']}: {target.name} follows val_loss, which is "
            "better when it is smaller; use schedule.mode=min"
        )
    unit = 1 if interval == "step" else steps_per_epoch
    settings = Settings(target, closed_loop, warmup, float(factor), steps, unit)
    given = {k: settings.ticks if v == "auto" else v for k, v in target.given.items()}
    for name in SHARES & given.keys():
        if is_number(given[name]) and 0 < given[name] < 1:
            given[name] = ticks_of(given[name], settings.ticks)
    settings = settings._replace(
        target=targets.Target(target.option, target.call, given, target.defaults)
    )
    if target.call.__module__ in (LRScheduler.__module__, RangeTestLR.__module__):
        for name, value in given.items():
            _check_argument(target, name, value)
        total = given.get("total_steps")
        if total is not None and total < settings.ticks:
            raise UserError(
                f"schedule.total_steps={total}: the run has {settings.ticks} {interval}s after "
                "warm-up; use schedule.total_steps=auto"
            )
        if total is not None and (decay := given.get("decay_steps", 0)) > total:
            raise UserError(
                f"schedule.decay_steps={decay}: is more than the schedule's {total} {interval}s; "
                "use a share, for example schedule.decay_steps=0.2"
            )
    return settings


def ticks_of(share: float, ticks: int) -> int:
    """Return a share of so many ticks, rounded up: then n shares of 1/n are no fewer than all."""
    return math.ceil(round(share * ticks, 6))


WORKS: dict[str, Callable[[Any], bool]] = {
    "a whole number of at least 1": lambda v: is_whole(v, 1),
    "a whole number of at least 0": lambda v: is_whole(v, 0),
    "a number above 0": lambda v: is_number(v) and v > 0,
    "a number of at least 0": lambda v: is_number(v) and v >= 0,
    "from 0 to 1": lambda v: is_number(v) and 0 <= v <= 1,
    "above 0 and at most 1": lambda v: is_number(v) and 0 < v <= 1,
    "between 0 and 1": lambda v: is_number(v) and 0 < v < 1,
    "linear, 1-sqrt or cosine": lambda v: v in ("linear", "1-sqrt", "cosine"),
}
# argument of a scheduler of torch's or lrlab's: the values that work, and an example
ARGUMENTS: dict[str, tuple[str, float]] = {
    "gamma": ("a number above 0", 0.3),
    "step_size": ("a whole number of at least 1", 1),
    "T_max": ("a whole number of at least 1", 3),
    "T_0": ("a whole number of at least 1", 3),
    "T_mult": ("a whole number of at least 1", 1),
    "total_steps": ("a whole number of at least 1", 1000),
    "total_iters": ("a whole number of at least 0", 3),
    "patience": ("a whole number of at least 0", 1),
    "cooldown": ("a whole number of at least 0", 0),
    "factor": ("from 0 to 1", 0.1),
    "start_factor": ("above 0 and at most 1", 1.0),
    "end_factor": ("from 0 to 1", 0.0),
    "pct_start": ("between 0 and 1", 0.3),
    "div_factor": ("a number above 0", 25),
    "final_div_factor": ("a number above 0", 1e4),
    "power": ("a number above 0", 1.0),
    "max_lr": ("a number above 0", 0.1),
    "base_lr": ("a number of at least 0", 0.001),
    "min_lr": ("a number of at least 0", 0),
    "eta_min": ("a number of at least 0", 0),
    "threshold": ("a number of at least 0", 1e-4),
}


def _check_argument(target: targets.Target, name: str, value: Any) -> None:
    known = {**ARGUMENTS, **getattr(target.call, "numbers", {})}
    if name not in known:
        return  # torch's own check reports it, and the finished table is checked
    if target.name == "OneCycleLR" and name == "total_steps" and value is None:
        return  # then epochs and steps_per_epoch say it
    words, example = known[name]
    if target.name == "ReduceLROnPlateau" and name == "factor":
        words = "between 0 and 1"
    if not WORKS[words](value):
        raise must_be(f"schedule.{name}", value, words, example)


def is_own(target: targets.Target) -> bool:
    """Return whether a scheduler is neither torch's nor lrlab's, so that its reads are unknown."""
    module = str(getattr(target.call, "__module__", ""))
    return not module.startswith("torch.") and module != RangeTestLR.__module__
