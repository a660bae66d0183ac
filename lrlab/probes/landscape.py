"""Measure the loss surface under a sweep: along one update for three lrs, and in a plane.

Three runs of a finished sweep, with a small, a good and a large lr, train again for their first
steps, equal to their records to the bit. The plane is the one nearest to their paths. The results
are three tables in the sweep's folder, `lines`, `surface` and `paths`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from lrlab import records
from lrlab.engine import devices
from lrlab.errors import UserError
from lrlab.plan.build import load_data, loss_unit
from lrlab.plan.spec import samples_a_step
from lrlab.probes import along_a_step, paths, surface
from lrlab.training import on_batches

if TYPE_CHECKING:
    from lrlab.plan.spec import RunSpec

STEPS = 300  # steps that are replayed at most


@dataclass(frozen=True)
class Landscape:
    """The tables, with the columns of `records.LANDSCAPE`; empty if there is nothing to show."""

    # The mini-batch loss along the update that each lr would make from one state of the good run. t
    # is in updates: 0 is the state, 1 where the update ends; distance is t · the update's length in
    # weight space. f(t) = w0 + w1·t + w2·t² and alpha are as in `lrlab.engine.diagnostics`; NaN if
    # the loss is not finite at t = 1.
    lines: pd.DataFrame
    # The mean loss of some training samples on a regular grid of the plane; x and y are distances
    # in weight space from the runs' common start.
    surface: pd.DataFrame
    # The runs' paths while their weights are finite, with the same loss at the weights themselves,
    # which lie off the plane: share is how much of the path's squared distance from the start lies
    # in the plane, while it is near (see `surface.FAR`).
    paths: pd.DataFrame
    reason: str = ""  # why there is nothing to show, one line
    exact: bool = True  # the replayed losses equal those of the records to the bit


def measure(
    sweep: Path,
    runs: Mapping[str, int],
    threads: int | None = None,
    trusted: bool = False,
) -> Landscape:
    """Replay three runs of a sweep and measure the loss around them.

    The sweep's records and the states of all random number generators stay as they are.

    Args:
        sweep: the sweep's folder.
        runs: role (small, good, large) to run, as from `lrlab.verdicts.three_runs.choose`.
        threads: the most to use, if other programs need the cores; None: as the configs say.
        trusted: whether everything that the runs' configs name may be called; otherwise only what
            `lrlab.config.trust` knows to be harmless.

    Returns:
        The tables, or why there are none. Never raises for the content of a sweep.
    """
    try:
        specs = {role: paths.saved_spec(sweep / str(run), trusted) for role, run in runs.items()}
        reason = paths.unlike(list(specs.values()))
        if reason:
            return nothing(reason)
        where = next(iter(specs.values())).device
        cuda = [torch.device(where)] if where.startswith("cuda") else []
        with torch.random.fork_rng(devices=cuda):
            return _measure(specs, threads)
    except UserError as error:
        return nothing(str(error))
    except Exception as error:  # a sweep must not fail at its end because of a figure
        return nothing(f"{type(error).__name__}: {' '.join(str(error).split())}")


def write(sweep: Path, landscape: Landscape) -> None:
    """Write lines.csv, surface.csv and paths.csv; remove older ones if there is nothing to show."""
    for name in records.LANDSCAPE:
        table = None if landscape.reason else getattr(landscape, name)
        records.write_landscape(sweep, name, table)


def nothing(reason: str) -> Landscape:
    """Return empty tables, and the reason."""
    empty = [pd.DataFrame({name: [] for name in names}) for names in records.LANDSCAPE.values()]
    return Landscape(*empty, reason=reason)


def _measure(specs: Mapping[str, RunSpec], threads: int | None) -> Landscape:
    any_spec = next(iter(specs.values()))
    devices.make_deterministic()
    allowed = [count for count in (any_spec["threads"], threads) if count is not None]
    devices.prepare(any_spec.device, min(allowed, default=None))
    data = load_data(any_spec).to(any_spec.device)
    steps_per_epoch = len(data.train_y) // samples_a_step(any_spec)
    recorded = [records.read_metrics(spec.folder) for spec in specs.values()]
    recorded = [table.dropna(subset=["lr"]) for table in recorded]  # the last row is no step
    roles = list(specs)
    # The record of the large lr may end early because it diverged. Its lane goes on nevertheless.
    known = [len(table) for role, table in zip(roles, recorded, strict=True) if role != "large"]
    steps = min(STEPS, *known)
    if steps < 2:
        return nothing("fewer than two steps are recorded")
    values = paths.schedules(list(specs.values()), recorded, steps, steps_per_epoch)

    batch = on_batches.batches(data, any_spec["seed"], samples_a_step(any_spec))
    good = roles.index("good")
    state_step = paths.clear_step(paths.recorded_losses(recorded[good], steps))
    stack = paths.stack(list(specs.values()), data, batch)
    replay = paths.replay(stack, values, state_step, good)
    unit = loss_unit(stack.lanes.losses[0], data)
    losses = replay.losses * unit
    exact = all(
        np.array_equal(losses[: len(table), i], paths.recorded_losses(table, steps), equal_nan=True)
        for i, table in enumerate(recorded)
    )
    names = [
        {"run": spec.number, "lr": float(spec["lr"]), "role": role} for role, spec in specs.items()
    ]
    lines = along_a_step.lines(replay, batch, names)
    plane, ways = surface.surface(replay, data, names, good)
    for table in (plane, ways):
        table["loss"] *= unit
    for column in ("loss", "w0", "w1", "w2"):
        lines[column] *= unit
    return Landscape(lines, plane, ways, exact=exact)
