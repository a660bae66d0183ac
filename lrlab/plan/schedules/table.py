"""Step a scheduler through a whole run, and keep its rates in a table."""

from __future__ import annotations

import functools
import json
import sys
from typing import Any

import numpy as np
from torch.optim.lr_scheduler import ConstantLR, LinearLR

from lrlab.config import targets
from lrlab.data.random_state import seeded
from lrlab.plan.schedules.dummy import Dummy, check_moved, checked, number_of, scheduler_on
from lrlab.plan.schedules.reading import Settings, read


@functools.lru_cache(maxsize=256)
def cached_table(key: str) -> dict[str, np.ndarray]:
    """Return the table from a cache: lanes that differ only in their seed share one."""
    schedule, start, steps, steps_per_epoch = json.loads(key)
    with seeded(0):  # so that a scheduler that draws its rates draws the same again
        return table_of(read(schedule, steps, steps_per_epoch), start)


def table_of(settings: Settings, start: dict[str, Any]) -> dict[str, np.ndarray]:
    """Step the scheduler through the run.

    Returns:
        Name to (steps,) float64, read only: lr, and momentum or beta1 if it is moved.
    """
    optimizer, scheduler = scheduler_on(settings, start)
    group = optimizer.param_groups[0]
    ticks: dict[str, list[float]] = {"lr": [], "momentum": [], "beta1": []}
    moving = min(settings.ticks, _rests_from(settings.target) + 1)
    for tick in range(moving):
        if tick:
            try:
                scheduler.step()
            except Exception as error:
                raise targets.failed(settings.target, error) from error
        check_moved(settings, start, optimizer, tick)
        ticks["lr"].append(number_of(settings, "lr", group["lr"], tick))
        if "momentum" in start:
            momentum = number_of(settings, "momentum", group["momentum"], tick)
            ticks["momentum"].append(momentum)
        if "betas" in start:
            betas = group["betas"]
            beta1 = betas[0] if isinstance(betas, list | tuple) and betas else betas
            ticks["beta1"].append(number_of(settings, "beta1", beta1, tick))
    for values in ticks.values():
        values += values[-1:] * (settings.ticks - moving)
    if (share := _ends_at_once(settings.target)) is not None:
        ticks["lr"] = [start["lr"] * share] * settings.ticks
    initial = {"momentum": start.get("momentum"), "beta1": start.get("betas", [None])[0]}

    step = np.arange(settings.steps)
    tick_of_step = np.maximum(step // settings.unit - settings.warmup_steps // settings.unit, 0)
    table = {}
    for name, values in ticks.items():
        if name != "lr" and all(v == initial[name] for v in values):
            continue
        column = checked(settings, name, values)[tick_of_step]
        if name == "lr":
            column[: settings.warmup_steps] = warmup_of(settings, float(values[0]))
        column.flags.writeable = False
        table[name] = column
    return table


def _rests_from(target: targets.Target) -> int:
    """Return the tick from which the scheduler no longer changes the lr; very large if unknown.

    Stepping a fixed lr through thousands of ticks takes as long as many training steps.
    """
    total = target.given.get("total_iters")
    if target.call in (ConstantLR, LinearLR) and isinstance(total, int):
        return total + 1
    return sys.maxsize - 1


def _ends_at_once(target: targets.Target) -> float | None:
    """Return the final share of lr of a scheduler without a tick to reach it; None: it has one."""
    if target.call not in (ConstantLR, LinearLR) or target.arguments["total_iters"] != 0:
        return None
    return 1.0 if target.call is ConstantLR else float(target.arguments["end_factor"])


def warmup_of(settings: Settings, end: float) -> np.ndarray:
    """Return (warmup_steps,) float64, linear from end·warmup_start_factor to end, the later lr."""
    if not settings.warmup_steps:
        return np.empty(0)
    optimizer = Dummy({"lr": end})
    scheduler = LinearLR(
        optimizer,
        start_factor=settings.warmup_start_factor,
        total_iters=settings.warmup_steps,
    )
    optimizer.step()
    group = optimizer.param_groups[0]
    lrs = [float(group["lr"])]
    for _ in range(settings.warmup_steps - 1):
        scheduler.step()
        lrs.append(float(group["lr"]))
    return np.array(lrs)
