"""Train the ramp and the constant lrs together as lanes, then read and compare them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from lrlab.data import inputs
from lrlab.engine import devices
from lrlab.engine.lanes import memory
from lrlab.engine.lanes.chunks import Samples
from lrlab.plan.schedules import lane_schedules
from lrlab.range_test import held_out, misleading, training
from lrlab.range_test.constants import Constants, read_constants, window
from lrlab.range_test.found import Found, Options
from lrlab.range_test.ramp import Ramp, read_ramp
from lrlab.range_test.rates import evenly, lr_grid
from lrlab.range_test.training import Looks, Subject
from lrlab.range_test.words import words

_MEMORY_SHARE = 0.6  # of the free memory; the rest is for the data and other programs
_LEAST_LOOKS, _MOST_LOOKS = 16, 61  # evaluations of the ramp
_EARLY_LOOKS, _LAST_LOOKS = 2, 5  # evaluations of the constant lrs before and in their last steps


def both(
    subject: Subject,
    options: Options,
    parts: Sequence[Samples],
    *,
    width: int | None = None,
    tell: Callable[[float], None] = lambda share: None,
    unit: float = 1.0,
    no_val: str = "",
    samples: int | None = None,
) -> Found:
    """Train the ramp and the constant lrs as lanes, and read them.

    Args:
        subject: its network is trained; give a copy.
        parts: held-out samples in parts of equal length, which judge the lrs. Without them the
            training loss judges, and ``no_val`` says why.
        width: the most lanes at once; None: as many as memory holds.
        tell: called with the finished share of the training.
        unit: factor of the losses.
        samples: how many held-out samples the parts stand for; None: one for each target.
    """
    ramp_lr, grid = _ramp(options), lr_grid(options.low, options.high, options.points)
    lrs = np.full((max(options.steps, options.ramp_steps), 1 + options.points), np.nan)
    lrs[: options.ramp_steps, 0] = ramp_lr
    lrs[: options.steps, 1:] = grid
    ramp_steps, steps = _ramp_looks(options.ramp_steps), _constant_looks(options.steps)
    at_ramp, at_constants = np.zeros((2, *lrs.shape), bool)
    at_ramp[ramp_steps, 0] = True
    at_constants[steps, 1:] = True
    looks = []
    if parts:
        whole = inputs.joined([x for x, _ in parts]), torch.cat([y for _, y in parts])
        looks = [Looks([whole], at_ramp), Looks(parts, at_constants)]

    total, made = options.ramp_steps + options.points * options.steps, 0

    def count(steps: int) -> None:
        nonlocal made
        made += steps
        tell(min(made / total, 1.0))

    most = _lanes_at_once(subject) if width is None else width
    losses, seen = training.train(subject, lrs, max(1, min(most, lrs.shape[1])), looks, count)
    losses = unit * losses
    ramp_loss, constant_losses = losses[: options.ramp_steps, 0], losses[: options.steps, 1:]
    ramp = read_ramp(ramp_lr, ramp_loss, options.smoothing)
    constants = read_constants(grid, constant_losses)
    trained = ramp_lr, ramp_loss, grid, constant_losses
    if not parts:
        return _in_words(Found(options, *trained, *_read(ramp, constants, None), no_val=no_val))
    ramp_val, by_part = unit * seen[0][ramp_steps, 0, 0], unit * seen[1][steps][:, :, 1:]
    constant_val = by_part.mean(axis=1)
    last = int((steps >= options.steps - window(options.steps)).sum())
    judged_ramp = read_ramp(ramp_lr[ramp_steps], ramp_val, options.smoothing)
    guess = unit * held_out.guess(subject.network, subject.loss, parts)
    judged = read_constants(grid, constant_val, last, by_part, guess)
    found = Found(
        options,
        *trained,
        *_read(judged_ramp, judged, constants),
        val_samples=sum(len(y) for _, y in parts) if samples is None else samples,
        val_steps=steps,
        constant_val=constant_val,
        ramp_val_steps=ramp_steps,
        ramp_val=ramp_val,
        train_ramp=ramp,
        train_constants=constants,
    )
    return _in_words(found)


def _in_words(found: Found) -> Found:
    return replace(found, answer=tuple(words(found)))


def _ramp(options: Options) -> np.ndarray:
    """Return (ramp_steps,) the lr at each step of the ramp."""
    rise = {"_target_": "lrlab.schedules.RangeTestLR", "min_lr": options.low}
    rise |= {"max_lr": options.high, "total_steps": "auto"}
    longest = max(options.steps, options.ramp_steps)
    schedule = lane_schedules.build(rise, {"lr": options.high}, options.ramp_steps, longest)
    return schedule.values(0, options.ramp_steps)["lr"].copy()


def _lanes_at_once(subject: Subject) -> int:
    x, y = subject.batch(0)
    network = copy.deepcopy(subject.network).cpu()
    evaluated = subject.evaluated_at_once
    x = inputs.mapped(torch.Tensor.cpu, x)
    cost = memory.bytes_a_lane(network, subject.loss, x, y.cpu(), evaluated=evaluated)
    return int(devices.free_memory(subject.device) * _MEMORY_SHARE / max(cost, 1))


def _read(
    ramp: Ramp, constants: Constants, train: Constants | None
) -> tuple[Ramp, Constants, tuple[str, ...], tuple[float, float] | None]:
    overfit = misleading.overfits(constants, train)
    misleads = tuple(misleading.where_the_ramp_misleads(ramp, constants, overfit))
    return ramp, constants, misleads, misleading.sweep_range(constants)


def _ramp_looks(steps: int) -> np.ndarray:
    """Return the steps before which the ramp is evaluated: at most every third one of many."""
    return evenly(0, steps - 1, min(max(steps // 3, _LEAST_LOOKS), _MOST_LOOKS))


def _constant_looks(steps: int) -> np.ndarray:
    """Return the steps before which the constant lrs are evaluated, most of them among the last."""
    last = steps - window(steps)
    early = evenly(0, last, _EARLY_LOOKS + 1)
    return np.unique(np.append(early, evenly(last, steps - 1, _LAST_LOOKS)))
