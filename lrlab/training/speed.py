"""Measure how fast runs would train, before a sweep with a ``budget`` chooses their epochs.

Nothing of it is recorded, and the runs themselves begin anew: they have the bits that they would
have without it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrlab.plan import build
from lrlab.plan.spec import RunSpec, group_key, samples_a_step
from lrlab.training import building, pool
from lrlab.training.loop import advance
from lrlab.training.train import schedule_values

if TYPE_CHECKING:
    from lrlab.data import Dataset
    from lrlab.training.stack import Stack

_PIECE = 10  # steps
_WARM_UPS = 4  # pieces; in its first ones a step tries which way is fastest
_TIMED = 4  # pieces
_SAMPLES, _FEW_SAMPLES = 5000, 500  # evaluated
_SLOW_PIECE = 2  # steps, where steps are slow


@dataclass(frozen=True)
class Speed:
    """How long the runs of one lane group take.

    Attributes:
        runs: how many there are.
        lanes: how many of them train at once.
        steps_per_epoch: of each run.
        batches: the samples on which steps are measured, in mini-batches.
        setup: seconds until the first step.
        step: seconds of a step of all lanes.
        evaluation: seconds after an epoch.
        ending: seconds after the last one, for the evaluation of all samples.
    """

    runs: int
    lanes: int
    steps_per_epoch: int
    batches: float
    setup: float
    step: float
    evaluation: float
    ending: float


def measure(
    specs: Sequence[RunSpec],
    lanes: int,
    within: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Train a few steps of runs of one group, next to each other, and evaluate them.

    Args:
        specs: all runs of the group.
        lanes: how many of them train at once.
        within: about so many seconds may be spent; with slow steps only a few are timed.
    """
    from lrlab.engine.diagnostics import meter

    first = specs[0]
    begun = clock()
    data = build.load_data(first).to(first.device)
    loaded = clock()
    taken = [specs[lane % len(specs)] for lane in range(lanes)]
    pad = pool.power_of_two(lanes) if pool.is_padded(first) else 0
    stack = building.build_stack(group_key(first), taken, range(lanes), data, {}, pad)
    piece = _PIECE if clock() - loaded < within else _SLOW_PIECE  # building it tries a few steps
    _train(stack, piece)
    setup, warmed = clock() - begun, 0
    while warmed < _WARM_UPS and clock() - loaded < within:
        _train(stack, piece)
        warmed += 1
    seconds = [_train(stack, piece)]
    while len(seconds) < _TIMED and clock() - loaded < 2 * within:
        seconds.append(_train(stack, piece))
    sample = _evaluate(stack, data, within, clock)
    whole = len(data.train_y) + len(data.test_y) + len(data.val_y)
    return Speed(
        runs=len(specs),
        lanes=lanes,
        steps_per_epoch=stack.steps_per_epoch,
        batches=meter.probe_size(data) / samples_a_step(first),
        setup=setup,
        step=sum(seconds) / (len(seconds) * piece),
        evaluation=sample * len(data.val_y),
        ending=sample * whole,
    )


def _train(stack: Stack, count: int) -> float:
    """Make so many steps; return their seconds. After an epoch the lanes begin it again."""
    seconds = 0.0
    while count:
        if stack.place == 0:
            for lane in range(len(stack.runs)):
                stack.put(lane, 0)
            stack.take_order()
        part = min(count, stack.longest_segment(), stack.steps_per_epoch - stack.place)
        seconds += advance(stack, schedule_values(stack.runs, part)).seconds
        count -= part
    return seconds


def _evaluate(stack: Stack, data: Dataset, within: float, clock: Callable[[], float]) -> float:
    """Return the seconds of evaluating a sample with all lanes."""
    found = 0.0
    for count in (_FEW_SAMPLES, _SAMPLES, _SAMPLES):  # the first time is slower
        x, y = data.head(count)
        begun = clock()
        stack.lanes.evaluate(x, y)[0].cpu()
        found = (clock() - begun) / len(y)
        if 2 * found * min(_SAMPLES, len(data.train_y)) > within:
            break
    return found
