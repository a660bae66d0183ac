"""Measure the loss surface under a sweep: along one update for three lrs, and in a plane.

Three runs of a finished sweep, with a small, a good and a large lr, train again as lanes for their
first steps. They repeat their records to the bit. The results are three tables, `lines`, `surface`
and `paths`, in the sweep's folder. Figures are drawn in ``lrlab.plots``. The plane is that of the
runs' paths.
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
from lrlab.probes import along_a_step, paths, surface
from lrlab.training import on_batches

if TYPE_CHECKING:
    from lrlab.plan.spec import RunSpec

STEPS = 300  # steps that are replayed at most


@dataclass(frozen=True)
class Landscape:
    """The tables, with the columns of `records.LANDSCAPE`; empty if there is nothing to show.

    Attributes:
        lines: the mini-batch loss along the update that each lr would make from one state of the
            good run. t is in updates: 0 the state, 1 where the update lands; distance is
            t · the update's length in weight space. f(t) = w0 + w1·t + w2·t² and alpha are as
            in `lrlab.engine.diagnostics`; NaN where the loss is not finite at t = 1.
        surface: the mean loss of some training samples on a regular grid of the
            plane; x and y are distances in weight space from the runs' common start. inf or NaN
            where it is not finite.
        paths: up to the last weights that are finite, with the same loss at the
            weights themselves, which lie off the plane: share says how much of the path's squared
            distance from the start lies in it, as far as it is near (see `surface.FAR`).
        reason: why there is nothing, one line; "" where there is.
        exact: whether the replayed losses were those of the records, to the bit.
    """

    lines: pd.DataFrame
    surface: pd.DataFrame
    paths: pd.DataFrame
    reason: str = ""
    exact: bool = True


def measure(
    sweep: Path,
    runs: Mapping[str, int],
    steps: int = STEPS,
    device: str | None = None,
    threads: int | None = None,
    trusted: bool = False,
) -> Landscape:
    """Replay three runs of a sweep and measure the loss around them.

    The sweep's records and the states of all random number generators stay as they are.

    Args:
        sweep: the sweep's folder.
        runs: role (small, good, large) to run, as from `lrlab.verdicts.three_runs.choose`.
        steps: how many are replayed at most.
        device: where to train; None: as the runs' configs say.
        threads: the most to use when others need the cores, too; None: as the configs say.
        trusted: whether everything that the runs' configs name may be called; otherwise only what
            `lrlab.config.trust` knows to be harmless.

    Returns:
        The tables, or why there are none. Never raises for the content of a sweep.
    """
    try:
        specs = {
            role: paths.saved_spec(sweep / str(run), device, trusted) for role, run in runs.items()
        }
        reason = paths.unlike(list(specs.values()))
        if reason:
            return nothing(reason)
        where = next(iter(specs.values())).device
        cuda = [torch.device(where)] if where.startswith("cuda") else []
        with torch.random.fork_rng(devices=cuda):
            return _measure(specs, steps, threads)
    except UserError as error:
        return nothing(str(error))
    except Exception as error:  # a sweep must not fail at its end because of a figure
        return nothing(f"{type(error).__name__}: {' '.join(str(error).split())}")


def write(sweep: Path, landscape: Landscape) -> None:
    """Write lines.csv, surface.csv and paths.csv into the sweep's folder.

    If there is nothing to show, files of an earlier state of the sweep are removed.

    Raises:
        NotWritten: the disk is full, the folder gone or read-only.
    """
    for name in records.LANDSCAPE:
        table = None if landscape.reason else getattr(landscape, name)
        records.write_landscape(sweep, name, table)


def nothing(reason: str) -> Landscape:
    """Return no landscape, and why."""
    empty = [pd.DataFrame({name: [] for name in names}) for names in records.LANDSCAPE.values()]
    return Landscape(*empty, reason=reason)


def _measure(specs: Mapping[str, RunSpec], steps: int, threads: int | None) -> Landscape:
    any_spec = next(iter(specs.values()))
    devices.make_deterministic()
    allowed = [count for count in (any_spec["threads"], threads) if count is not None]
    devices.prepare(any_spec.device, min(allowed, default=None))
    data = load_data(any_spec).to(any_spec.device)
    steps_per_epoch = len(data.train_y) // any_spec["batch_size"]
    recorded = [records.read_metrics(spec.folder) for spec in specs.values()]
    recorded = [table.dropna(subset=["lr"]) for table in recorded]  # the last row is no step
    roles = list(specs)
    # A run that diverged was recorded up to there, but goes on for the others' sake.
    known = [len(table) for role, table in zip(roles, recorded, strict=True) if role != "large"]
    steps = min(steps, *known)
    if steps < 2:
        return nothing("fewer than two steps are recorded")
    values = paths.schedules(list(specs.values()), recorded, steps, steps_per_epoch)

    batch = on_batches.batches(data, any_spec["seed"], any_spec["batch_size"])
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
