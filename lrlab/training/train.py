"""Train a stack for an epoch: segment by segment, recorded, then evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from lrlab.engine import devices
from lrlab.errors import Stopped
from lrlab.training.building import precision
from lrlab.training.ending import finish
from lrlab.training.evaluation import evaluate
from lrlab.training.loop import Values, advance
from lrlab.training.recording import record, show_epoch, show_step
from lrlab.training.saving import checkpoint, checkpoint_due
from lrlab.training.stack import Run, Stack

if TYPE_CHECKING:
    from lrlab.process.progress import Update


def train_epoch(stack: Stack, update: Update, stop: Callable[[], bool]) -> None:
    """Train a stack to the end of the epoch, and evaluate it.

    A lane leaves when its run is over: at its last epoch's end, or at its first non-finite loss.
    The other lanes go on, unchanged to the bit. Each run's metrics, summary and log are written
    along the way.

    Args:
        update: reports to the display.
        stop: asked at every step.

    Raises:
        Stopped: ``stop`` returned true; everything trained so far is recorded.
        NotWritten: a record could not be written.
    """
    spec = stack.runs[0].spec
    devices.prepare(spec.device, spec["threads"], precision(spec))
    if stack.place == 0:
        stack.take_order()
    while True:
        count = min(stack.longest_segment(), stack.steps_per_epoch - stack.place)
        values = schedule_values(stack.runs, count)
        segment = advance(stack, values, stop, partial(show_step, stack, update))
        stack.keep(record(stack, segment, update))
        if not stack.runs:
            return
        if stack.place == 0:
            break
        if stop():
            raise Stopped
        if checkpoint_due(stack, at_boundary=False):
            checkpoint(stack)

    evaluate(stack)
    for run in stack.runs:
        run.schedule.observe(run.evaluation[0])
        run.evaluations.append(run.evaluation[0])
    done = [lane for lane, run in enumerate(stack.runs) if run.step == run.steps]
    if done:
        finish(stack, done)
    show_epoch(stack, update)
    stack.keep([lane for lane in range(len(stack.runs)) if lane not in done])


def schedule_values(runs: Sequence[Run], count: int) -> Values:
    """Return name to (count, lanes) float64; NaN where a lane's schedule sets no such number."""
    tables = [run.schedule.values(run.step, count) for run in runs]
    unmoved = np.full(count, np.nan)
    names = dict.fromkeys(name for table in tables for name in table)
    return {n: np.stack([t.get(n, unmoved) for t in tables], axis=1) for n in names}
