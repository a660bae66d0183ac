"""Train runs again for their first steps, and keep their paths through weight space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from yaml import YAMLError

from lrlab import records
from lrlab.config import schema, trust
from lrlab.engine.lanes import stacking
from lrlab.engine.lanes.real_pairs import as_real
from lrlab.errors import UserError
from lrlab.plan.build import build_network, build_schedule, loss_function
from lrlab.plan.spec import group_key, run_spec
from lrlab.training import on_batches
from lrlab.training.building import note_dropout
from lrlab.training.loop import Values, advance
from lrlab.training.on_batches import SEGMENT, Batches, OnBatches

if TYPE_CHECKING:
    import pandas as pd

    from lrlab.data import Dataset
    from lrlab.plan.spec import RunSpec

SNAPSHOTS = 30  # points on each path, besides its start
CHUNK_BYTES = 2**28  # of lanes that are evaluated at once

_PATH_NUMBERS = 2**27  # weights of all snapshots together


def saved_spec(run: Path, trusted: bool) -> RunSpec:
    """Return a recorded run as a spec to train again."""
    text = records.read_config(run)
    try:
        saved = OmegaConf.create(records.options(text))
        config = OmegaConf.merge(OmegaConf.structured(schema.Config), saved)
        assert isinstance(config, DictConfig)
        config = trust.settled(config, schema.GROUPS, str(run), trust.TRUST, trusted)
        return run_spec(int(run.name), run, config, records.read_choices(run), {})
    except (OmegaConfBaseException, ValueError, TypeError, YAMLError) as error:
        raise UserError(f"{run}: its config is damaged: {str(error).splitlines()[0]}") from None


def unlike(specs: Sequence[RunSpec]) -> str:
    """Return why the paths of runs cannot be compared, or nothing."""
    if len({group_key(spec) for spec in specs}) > 1 or len({s["seed"] for s in specs}) > 1:
        numbers = ", ".join(str(spec.number) for spec in specs)
        return f"runs {numbers} differ in more than their lr, so their paths cannot be compared"
    return ""


def recorded_losses(table: pd.DataFrame, steps: int) -> np.ndarray:
    """Return losses as float32, which the record holds to the bit."""
    return table["train_loss"].to_numpy(float)[:steps].astype(np.float32)


def schedules(
    specs: Sequence[RunSpec],
    recorded: Sequence[pd.DataFrame],
    steps: int,
    steps_per_epoch: int,
) -> dict[str, np.ndarray]:
    """Return schedule values of the replay, name to (steps, lanes); NaN where none is set.

    A schedule that follows val_loss gets the recorded one. After its record ends, a lane keeps its
    last lr.
    """
    tables: list[dict[str, np.ndarray]] = []
    for spec, record in zip(specs, recorded, strict=True):
        schedule = build_schedule(spec, steps_per_epoch)
        evaluations = dict(zip(record["step"], record["val_loss"], strict=True))
        parts = []
        for first in range(0, steps, steps_per_epoch):
            if first and schedule.closed_loop:
                schedule.observe(evaluations.get(first, math.nan))
            parts.append(schedule.values(first, min(steps_per_epoch, steps - first)))
        tables.append({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    unmoved = np.full(steps, np.nan)
    every = dict.fromkeys(name for table in tables for name in table)
    return {name: np.stack([t.get(name, unmoved) for t in tables], axis=1) for name in every}


def clear_step(losses: np.ndarray) -> int:
    """Return the step after half of the good run's progress, by its mean over ten steps."""
    if len(losses) < 12:
        return len(losses) // 2
    mean = np.convolve(losses, np.full(10, 0.1), mode="valid")
    half = (mean[0] + np.nanmin(mean)) / 2
    return int(np.clip(np.argmax(mean <= half) + 5, 5, len(losses) - 1))


@dataclass(frozen=True)
class Replay:
    """The observations of a replay."""

    losses: np.ndarray  # (steps, lanes) float32
    at: list[int]  # steps of the snapshots, 0 first
    weights: list[np.ndarray]  # by lane, (snapshots, weights) float32 on the CPU, while finite
    stack: OnBatches  # at state_step, one lane for each role, all copies of the good run's
    state_step: int
    values: Values  # schedule values at state_step, name to (1, lanes)


def stack(specs: Sequence[RunSpec], data: Dataset, batch: Batches) -> OnBatches:
    """Return the runs as lanes before their first step."""
    networks = [build_network(spec, data) for spec in specs]
    loss = loss_function(specs[0])
    seeds = [spec["seed"] for spec in specs]
    pad = max(records.recorded_pad(spec.folder) for spec in specs)
    ways: dict[tuple[int, bool], str] = {}
    note_dropout(specs[0], ways)
    stacked = stacking.stack(networks, seeds, loss, specs[0].device, ways, pad)
    rules = [{**spec["optimizer"], "lr": spec["lr"]} for spec in specs]
    return on_batches.build(stacked, rules, batch, [(data.val_x, data.val_y)])


def replay(stack: OnBatches, values: Values, state_step: int, good: int) -> Replay:
    """Train the runs again, and take snapshots of their weights.

    Args:
        stack: before its first step; is trained.
        values: of the schedules, for all steps.
        state_step: number of steps after which the lane ``good`` is copied.

    Raises:
        UserError: the networks are too large for snapshots.
    """
    steps, params = len(values["lr"]), stack.lanes.params
    at = _snapshots(sum(tensor[0].numel() for tensor in params.values()), len(stack.runs), steps)
    taken: list[np.ndarray] = []
    copies: list[OnBatches] = []

    def look(step: int) -> None:
        if step in at:
            taken.append(_flat(params))
        if step == state_step:
            copies.append(on_batches.copies(stack, good, step))

    losses = []
    for first in range(0, steps, SEGMENT):
        part = {name: table[first : first + SEGMENT] for name, table in values.items()}
        segment = advance(stack, part, before=lambda made, first=first: look(first + made))
        losses.append(segment.losses)
    look(steps)
    copies[0].settle()
    weights = []
    for lane in range(len(stack.runs)):
        path = np.stack([snapshot[lane] for snapshot in taken])
        finite = np.isfinite(path).all(axis=1)
        weights.append(path[: int(np.argmin(np.append(finite, False)))])
    with np.errstate(over="ignore"):
        found = np.concatenate(losses).astype(np.float32)
    at_state = {name: column[state_step : state_step + 1] for name, column in values.items()}
    return Replay(found, at, weights, copies[0], state_step, at_state)


def _snapshots(count: int, lanes: int, steps: int) -> list[int]:
    """Return the steps before which snapshots are taken, and the number of steps.

    They are dense early, where the path of the large lr departs within a few steps.
    """
    held = _PATH_NUMBERS // max(count * lanes, 1)
    if held < 3:
        raise UserError(f"{count:,} weights are too many for a figure of the paths")
    number = min(SNAPSHOTS, held, steps)
    spaced = np.geomspace(1, steps, number) if number < steps else np.arange(1, steps + 1)
    return [0, *sorted({round(step) for step in spaced})]


def _flat(params: Mapping[str, Tensor]) -> np.ndarray:
    """Return (lanes, weights) float32."""
    flat = [as_real(t.detach()).flatten(1) for t in params.values()]
    return torch.cat(flat, dim=1).float().cpu().numpy()
