"""Make stacks of runs, before their first step or from checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from lrlab import records
from lrlab.config import schema
from lrlab.engine import devices
from lrlab.engine.diagnostics.meter import build_meter
from lrlab.engine.lanes import stacking
from lrlab.engine.lanes.dropout import DRAWS
from lrlab.engine.lanes.lane_stack import Lanes
from lrlab.engine.optimizers import lane_optimizers
from lrlab.engine.optimizers.protocol import LaneOptimizer
from lrlab.plan.build import References, build_network, build_schedule, loss_function, references_of
from lrlab.plan.spec import RunSpec, new_summary, rule_of, samples_a_step
from lrlab.training import checkpoints, saving
from lrlab.training.stack import Run, Stack

if TYPE_CHECKING:
    from lrlab.data import Dataset


def build(
    key: str,
    specs: Sequence[RunSpec],
    rows: Sequence[int],
    data: Dataset,
    ways: dict[tuple[int, bool], str],
    pad: int = 0,
) -> list[Stack]:
    """Build stacks of runs that start, or go on from their checkpoints; runs at one step together.

    Args:
        specs: runs of one ``group_key``, whose folders exist.
        rows: each run's row in the display.
        data: on the device.
        ways: how this group trains fastest, as ``lanes.Lanes.ways``, as far as known.
        pad: as for ``lanes.Lanes``.

    Raises:
        NotWritten: a record could not be written.
        Exception: any error from building or evaluating the networks.
    """
    steps_per_epoch = len(data.train_y) // samples_a_step(specs[0])
    given = (key, specs, rows, data, ways, pad)
    saved = [checkpoints.load(spec.folder) for spec in specs]
    places = [0 if state is None else state["step"] % steps_per_epoch for state in saved]
    found = []
    for place in dict.fromkeys(places):
        chosen = [i for i, other in enumerate(places) if other == place]
        chosen_specs, chosen_rows = [specs[i] for i in chosen], [rows[i] for i in chosen]
        stack = build_stack(key, chosen_specs, chosen_rows, data, ways, pad)
        unfit = saving.restore(stack, [saved[i] for i in chosen])
        if unfit:  # damaged, or from when the network was another: those runs are trained anew
            for lane, reason in unfit.items():
                folder = chosen_specs[lane].folder
                checkpoints.drop(folder)
                records.log(
                    folder, f"starts again at step 0: its checkpoint does not fit ({reason})"
                )
            return build(*given)
        found.append(stack)
    return found


def build_stack(
    key: str,
    specs: Sequence[RunSpec],
    rows: Sequence[int],
    data: Dataset,
    ways: dict[tuple[int, bool], str],
    pad: int = 0,
    measured: bool = True,
) -> Stack:
    """Return a stack of runs before their first step; the arguments are those of ``build``.

    Args:
        measured: whether its steps are measured as the runs' configs say; else not at all.
    """
    device = specs[0].device
    steps_per_epoch = len(data.train_y) // samples_a_step(specs[0])
    devices.prepare(device, specs[0]["threads"], precision(specs[0]))
    networks = [build_network(spec, data) for spec in specs]
    references = references_of(specs[0], data, networks[0])
    loss = loss_function(specs[0])
    seeds = [spec["seed"] for spec in specs]
    note_dropout(specs[0], ways)
    stacked = stacking.stack(networks, seeds, loss, device, ways, pad, precision(specs[0]))
    stacked.accumulate = specs[0].config.get("accumulate", 1)
    optimizer = lane_optimizers.build(
        [rule_of(spec) for spec in specs],
        list(stacked.params.values()),
        stacked.units,
        names=list(stacked.params),
    )
    runs = [
        _run(spec, row, stacked, steps_per_epoch, data, references)
        for spec, row in zip(specs, rows, strict=True)
    ]
    for run, border in zip(runs, _swings_from(runs, optimizer), strict=True):
        run.summary["swings_from"] = border
    saving.note_start(runs, stacked, optimizer)
    mode, size = schema.diagnostics(specs[0].config), samples_a_step(specs[0])
    stack = Stack(
        runs,
        stacked,
        optimizer,
        steps_per_epoch,
        key,
        data,
        references,
        meter=build_meter(mode, stacked, data, size) if measured else None,
        unit=references.unit,
    )
    stack.settle()
    return stack


def note_dropout(spec: RunSpec, ways: dict[tuple[int, bool], str]) -> None:
    """Note in ``Lanes.ways`` if the run's config does not let dropout train together."""
    if not spec.config.get("lane_dropout", False):
        ways[DRAWS] = "no"


def precision(spec: RunSpec) -> str:
    """Return the precision of the products of the run's networks; see ``Lanes``."""
    return spec.config.get("precision", "float32")


def _run(
    spec: RunSpec,
    row: int,
    stack: Lanes,
    steps_per_epoch: int,
    data: Dataset,
    references: References,
) -> Run:
    """Return a run before its first step."""
    steps = spec["epochs"] * steps_per_epoch
    summary = new_summary(spec) | {
        "state": "running",
        "parameters": sum(t[0].numel() for t in stack.params.values()),
        "steps": steps,
        "steps_per_epoch": steps_per_epoch,
        "num_classes": data.num_classes,
        "chance_loss": references.chance_loss,
        **_of_held_out(references),
        "majority_share": references.majority_share,
        "data_sha256": data.sha256,
        **_of_targets(data),
        "environment": devices.describe(spec.device),
        "timing": {"started": datetime.now(UTC).isoformat(timespec="seconds")},
    }
    schedule = build_schedule(spec, steps_per_epoch)
    return Run(spec, row, schedule, summary, steps=steps)


def _of_held_out(references: References) -> dict[str, float]:
    """Return the loss of guessing on held-out samples with targets unlike the trained ones."""
    found = references.chance_val_loss
    return {} if found is None else {"chance_val_loss": found}


def _of_targets(data: Dataset) -> dict[str, Any]:
    """Return the function that turns a prediction of standardised targets into their own units."""
    if not data.target_mean:
        return {}
    return {"target_mean": list(data.target_mean), "target_std": data.target_std}


def _swings_from(runs: Sequence[Run], optimizer: LaneOptimizer) -> list[float | None]:
    """Return the stability ratio at which each run's steps begin to swing; None without a rule.

    If a schedule moves the momentum, its median over the run counts.
    """
    values = {"lr": np.ones((1, len(runs)))}
    for lane, run in enumerate(runs):
        if run.schedule.closed_loop:  # it moves only the lr
            continue
        for name, column in run.schedule.values(0, run.steps).items():
            if name != "lr":
                row = values.setdefault(name, np.full((1, len(runs)), np.nan))
                row[0, lane] = np.median(column)
    borders = optimizer.swings_from(values, np.zeros(len(runs), int))[0]
    return [float(border) if np.isfinite(border) else None for border in borders]
