"""Choose how many steps and points of the range test end within ``budget=30s``, and say so."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from lrlab.errors import UserError
from lrlab.range_test import training
from lrlab.range_test.found import Options
from lrlab.range_test.training import Subject

MARGIN = 1.5  # times the measured speed: evaluations, records, other programs
AFTER = 5.0  # seconds to read the losses and to draw the figure
LEAST_STEPS, LEAST_POINTS = 60, 8  # with fewer the test says little
_SHORT, _LONG = 10, 30  # steps that are timed

Speed = Callable[[int], tuple[float, float]]  # points to seconds until the first step, and of each


def fit(options: Options, text: str, left: float, speed: Speed) -> Options:
    """Return the options with as many steps as fit, or fewer points; say what is left out.

    Args:
        text: the budget as typed, of which so many seconds are left.
        speed: measures what a number of points takes.

    Raises:
        UserError: nothing fits; names the least budget that would do.
    """
    least = min(LEAST_STEPS, options.steps)
    points, needed = options.points, 0.0
    while True:
        setup, step = speed(points)
        fitting = int((left - AFTER - MARGIN * setup) / (MARGIN * step))
        needed = AFTER + MARGIN * (setup + least * step)
        if fitting >= least:
            break
        if points <= LEAST_POINTS:
            total = needed + _used(text, left)
            raise UserError(
                f"budget={text}: too short, {least} steps at {points} learning rates take longer "
                f"here; use at least budget={int(total) + 1}s"
            )
        points = max(points // 2, LEAST_POINTS)
    steps, ramp_steps = min(options.steps, fitting), min(options.ramp_steps, fitting)
    found = []
    if steps < options.steps:
        found.append(f"{options.steps - steps} of {options.steps} steps")
    elif ramp_steps < options.ramp_steps:
        found.append(f"{options.ramp_steps - ramp_steps} steps of the ramp")
    if points < options.points:
        found.append(f"{options.points - points} of {options.points} points")
    what = f"left out: {' and '.join(found)}" if found else "all of it fits"
    print(f"lrlab: budget={text}: {what}", flush=True)
    return replace(options, steps=steps, ramp_steps=ramp_steps, points=points)


def _used(text: str, left: float) -> float:
    from lrlab.config import checks

    return (checks.budget({"budget": text}) or left) - left


def measured(subject: Subject, width: int | None) -> Speed:
    """Return how to measure the speed: copies of the network make a few steps.

    Args:
        width: the most lanes at once; None: all.
    """

    def timed(points: int, steps: int) -> float:
        own = replace(subject, network=copy.deepcopy(subject.network))
        lrs = np.full((steps, 1 + points), 1e-6)  # so small that none fails and leaves
        begun = time.perf_counter()
        training.train(own, lrs, min(width or 1 + points, 1 + points))
        return time.perf_counter() - begun

    def speed(points: int) -> tuple[float, float]:
        timed(points, _SHORT)
        short, long = timed(points, _SHORT), timed(points, _LONG)
        step = max((long - short) / (_LONG - _SHORT), long / _LONG / 10)
        return max(short - _SHORT * step, 0.0), step

    return speed


def recorded(typed: Sequence[str], options: Options) -> list[str]:
    """Return the words of the command that would train the same without a budget."""
    own = {name: str(getattr(options, name)) for name in ("steps", "ramp_steps", "points")}
    kept = [word for word in typed if word.partition("=")[0] not in (*own, "budget")]
    return [*kept, *(f"{key}={text}" for key, text in own.items())]
