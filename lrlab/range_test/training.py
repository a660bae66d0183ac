"""Train one network at many learning rates at once, and evaluate it on the way."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from lrlab.engine import devices
from lrlab.engine.lanes import stacking
from lrlab.engine.lanes.block import Loss
from lrlab.engine.lanes.chunks import EVALUATION_CHUNK, Samples
from lrlab.training import on_batches
from lrlab.training.loop import advance
from lrlab.training.on_batches import SEGMENT, Batches, OnBatches


@dataclass(frozen=True, eq=False)
class Subject:
    """What is trained: copies of one network, on the same mini-batches."""

    network: nn.Module  # it is put on the device and into training mode
    loss: Loss
    optimizer: Mapping[str, Any]  # ``_target_`` and arguments, without lr
    batch: Batches  # step to mini-batch
    seed: int  # of the network's own random draws in training
    device: str
    evaluated_at_once: int = EVALUATION_CHUNK  # samples, as the network counts them


@dataclass(frozen=True, eq=False)
class Looks:
    """Which lanes are evaluated before which steps, on which samples."""

    parts: Sequence[Samples]  # samples and targets, evaluated one part after the other
    at: np.ndarray  # (steps, lanes) bool, whether a lane is evaluated before the update of a step


def train(
    subject: Subject,
    lrs: np.ndarray,
    width: int,
    looks: Sequence[Looks] = (),
    tell: Callable[[int], None] = lambda steps: None,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Train one network at many learning rates, all from its weights on the same mini-batches.

    Evaluations change no bit of the training, and no random number that it or its data draw.

    Args:
        lrs: (steps, lanes) float64; NaN after the last step of a lane that ends early.
        width: the most lanes at once; if memory does not hold them, half as many.
        looks: the evaluations on the way.
        tell: called at times with the number of steps made, over all lanes.

    Returns:
        losses: (steps, lanes) float64, each step's loss before its update; NaN after the first one
            that is not finite, and where no step was made.
        seen: (steps, parts, lanes) float64 for each of ``looks``, the losses of its parts in eval
            mode before the update of a step; NaN where none was requested, and from the lane's
            first non-finite loss on.
    """
    found = np.full(lrs.shape, np.nan)
    seen = [np.full((len(lrs), len(each.parts), lrs.shape[1]), np.nan) for each in looks]
    first = 0
    while first < lrs.shape[1]:
        part = slice(first, first + width)
        count = len(lrs[0, part])
        own = [Looks(each.parts, each.at[:, part]) for each in looks]
        tables = [table[..., part] for table in (found, *seen)]
        try:
            _train(subject, lrs[:, part], own, tables[1:], tables[0], tell)
        except (RuntimeError, MemoryError) as error:
            if count == 1 or not devices.out_of_memory(error):
                raise
            width = count // 2
            for table in tables:
                table[:] = np.nan
            continue
        first += count
    return found, seen


def _train(
    subject: Subject,
    lrs: np.ndarray,
    looks: Sequence[Looks],
    seen: Sequence[np.ndarray],
    found: np.ndarray,
    tell: Callable[[int], None],
) -> None:
    """Train as many lanes as lrs has columns, and fill the tables ``seen`` and ``found``."""
    count = lrs.shape[1]
    lanes = stacking.stack(
        [subject.network] * count, [subject.seed] * count, subject.loss, subject.device
    )
    configs = [{**subject.optimizer, "lr": float(lr)} for lr in lrs[0]]
    evaluated = [part for each in looks for part in each.parts]
    stack = on_batches.build(lanes, configs, subject.batch, evaluated, each_lr_is_a_runs=True)
    left = np.arange(count)
    first = 0

    def look(made: int) -> None:
        for each, values in zip(looks, seen, strict=True):
            asked = each.at[first + made, left]
            if asked.any():
                where, losses = _look(stack, asked, each.parts)
                values[first + made][:, left[where]] = losses

    for first in range(0, len(lrs), SEGMENT):
        part = lrs[first : first + SEGMENT, left]
        losses = advance(stack, {"lr": part}, before=look).losses
        table = np.where(np.isnan(part), np.nan, losses)
        failed = ~np.isfinite(table)
        before = np.cumsum(failed, axis=0) - failed  # how many failed before this step
        found[first : first + SEGMENT, left] = np.where(before > 0, np.nan, table)
        for values in seen:
            # once a lane has begun to fail, its evaluations count for nothing
            rows = values[first : first + SEGMENT]
            rows[:, :, left] = np.where((before + failed > 0)[:, None], np.nan, rows[:, :, left])
        tell(len(part) * len(left))
        going = np.flatnonzero(~failed.any(axis=0))
        if not len(going):
            return
        stack.keep(going.tolist())
        left = left[going]


def _look(
    stack: OnBatches, asked: np.ndarray, parts: Sequence[Samples]
) -> tuple[np.ndarray, np.ndarray]:
    """Evaluate the requested lanes, alone if they are few.

    Return which lanes, and their losses, (parts, lanes) float64.
    """
    lanes = few = stack.lanes
    where = np.flatnonzero(asked)
    if 2 * len(where) <= len(lanes):
        few = lanes.select(where.tolist())
        on_batches.settle(few, stack.batch, parts)
    leaves_traces = few.keeps_state or (few is lanes and few.fixed)
    with on_batches.randomness_kept(lanes), few.rehearsal() if leaves_traces else nullcontext():
        found = torch.stack([few.evaluate(x, y)[0] for x, y in parts]).double().numpy()
    return where, found if few is not lanes else found[:, where]


# --- its speed ------------------------------------------------------------------------------------

_SHORT, _LONG = 10, 30  # steps that are timed
_FEW = 2, 4  # likewise of slow ones

Speed = Callable[[int], tuple[float, float]]  # points to seconds until the first step, and of each


def measured(subject: Subject, width: int | None, seconds: float, most: int) -> Speed:
    """Return how to measure the speed: copies of the network make a few steps.

    Args:
        width: the most lanes at once; None: all.
        seconds: about as many may be spent; fewer steps are timed if they are slow.
        most: how many mini-batches may be read.
    """
    reading: list[float] = []  # seconds of a mini-batch that is not in memory yet

    def read() -> float:
        if not reading:
            begun, count = time.perf_counter(), 0
            while count < min(_LONG, most) and time.perf_counter() - begun < seconds / 4:
                subject.batch(count)
                count += 1
            reading.append((time.perf_counter() - begun) / max(count, 1))
        return reading[0]

    def timed(points: int, steps: int) -> float:
        own = replace(subject, network=copy.deepcopy(subject.network))
        lrs = np.full((steps, 1 + points), 1e-6)  # so small that none fails and leaves
        begun = time.perf_counter()
        train(own, lrs, min(width or 1 + points, 1 + points))
        return time.perf_counter() - begun

    def speed(points: int) -> tuple[float, float]:
        each = read()
        few, many = _FEW
        short = timed(points, few)
        if short < seconds / 10:  # what comes first takes longer: it counts only if all is slow
            few, many = _SHORT, _LONG
            short = timed(points, few)
        long = timed(points, many)
        step = max((long - short) / (many - few), long / many / 10)
        return max(short - few * step, 0.0), step + each

    return speed
