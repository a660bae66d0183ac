"""Evaluate a stack's lanes on held-out samples, and finished runs on all samples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lrlab.data import inputs
from lrlab.data.inputs import Inputs
from lrlab.engine.lanes.lane_stack import Lanes, with_params
from lrlab.engine.optimizers import around
from lrlab.process.profiling import phase
from lrlab.training.stack import Run, Stack, evaluated_on, val_parts


@phase("evaluate")
def evaluate(stack: Stack) -> None:
    """Evaluate all lanes on the held-out samples; store the results in their runs."""
    started = time.perf_counter()
    with stack.optimizer.evaluating():
        val_loss, val_acc = _scores(stack, stack.lanes, stack.data.val_x, stack.data.val_y)
    if averages := around.averages(stack.optimizer):
        averaged = with_params(stack.lanes, averages)
        loss, accuracy = _scores(stack, averaged, stack.data.val_x, stack.data.val_y)
        for run, *found in zip(stack.runs, loss.tolist(), accuracy.tolist(), strict=True):
            run.averaged = (found[0], found[1])
    seconds = time.perf_counter() - started
    for run, loss, accuracy in zip(stack.runs, val_loss.tolist(), val_acc.tolist(), strict=True):
        run.evaluation = (loss, accuracy)
        run.evaluate_seconds += seconds
        reach_target(run)


def reach_target(run: Run) -> None:
    """Note the first evaluation that is as good as ``target``."""
    target = run.spec.config.get("target")
    if target is None or run.summary.get("steps_to_target") is not None:
        return
    if run.evaluation[0] <= target:
        run.summary["steps_to_target"] = run.step
        run.summary["seconds_to_target"] = round(run.train_seconds, 4)


class Final(NamedTuple):
    """The last evaluation of finished runs.

    Attributes:
        lanes: those of the runs.
        train, test: losses and accuracies, (lanes,) each; NaN where there are no test samples.
        averaged: those of the averaged weights, with ``ema``.
        averaged_test: as test, of the averaged weights.
        val_parts: (lanes,) val losses on each of the parts of the held-out samples.
        seconds: how long it took.
    """

    lanes: Lanes
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    averaged: Lanes | None
    averaged_test: tuple[Tensor, Tensor]
    val_parts: list[Tensor]
    seconds: float


def evaluate_finished(stack: Stack, done: Sequence[int]) -> Final:
    """Evaluate some lanes in full, on training and test data and on parts of the held-out data.

    The spread of two runs' differences over the parts shows how far the difference of their val
    losses can be trusted.
    """
    data, finished = stack.data, stack.lanes
    if len(done) < len(stack.runs):
        x, y, own = stack.first_batch()
        if own:
            x, y = inputs.mapped(lambda tensor: tensor[done], x), y[done]
        finished = finished.select(done)
        finished.settle(x, y, *evaluated_on(data), own=own)
    started = time.perf_counter()
    train = _scores(stack, finished, data.train_x, data.train_y)
    averaged, nothing = None, torch.full_like(train[0], torch.nan)
    test = of_average = nothing, nothing
    if averages := around.averages(stack.optimizer):
        averaged = with_params(finished, [average[list(done)] for average in averages])
    if len(data.test_y):
        test = _scores(stack, finished, data.test_x, data.test_y)
        if averaged is not None:
            of_average = _scores(stack, averaged, data.test_x, data.test_y)
    with finished.rehearsal():  # it leaves no trace
        parts = [_scores(stack, finished, x, y)[0] for x, y in val_parts(data)]
    seconds = time.perf_counter() - started
    return Final(finished, train, test, averaged, of_average, parts, seconds)


def _scores(stack: Stack, of: Lanes, x: Inputs, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return losses and accuracies, (lanes,) each, of some of its lanes; see ``Lanes.evaluate``."""
    references = stack.references
    loss, accuracy = of.evaluate(x, y, *references.answers)
    return loss * references.unit, accuracy
