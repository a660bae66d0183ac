"""Read the CSVs that Weights & Biases exports: a chart of several runs, or one run's history."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from lrlab.errors import UserError, in_a_line
from lrlab.logs import columns, generic
from lrlab.logs.columns import Wanted
from lrlab.logs.log import Log, log_of
from lrlab.tables import holes
from lrlab.tables.text_table import Table

CHART, HISTORY = "W&B chart", "W&B history"
_COLUMN = re.compile(r"(?P<run>.+) - (?P<metric>.+)")
_BAND = ("__MIN", "__MAX")


def takes_chart(table: Table, wanted: Wanted) -> bool:
    """Return whether the columns are "RUN - METRIC", with or without __MIN and __MAX."""
    own = [_COLUMN.fullmatch(name) for name in table.names[1:] if not name.endswith(_BAND)]
    return bool(own) and all(own)


def read_chart(table: Table, wanted: Wanted) -> list[Log]:
    """Return the runs of a chart.

    Raises:
        UserError: it shows no loss, or a cell is no number.
    """
    at = table.names[0]
    metrics: dict[str, dict[str, str]] = {}  # by metric, the column of each run
    for name in table.names[1:]:
        match = None if name.endswith(_BAND) else _COLUMN.fullmatch(name)
        if match is not None:
            metrics.setdefault(match["metric"], {})[match["run"]] = name
    roles = _losses(table, metrics, wanted)
    unit = "epoch" if columns.epoch([at]) else "step"
    positions = table.numbers(at)
    parts, written = [], {ours: [] for ours in roles}
    runs = list(dict.fromkeys(run for theirs in roles.values() for run in metrics[theirs]))
    for run in runs:
        part = {unit: positions}
        for ours, theirs in roles.items():
            column = metrics[theirs].get(run)
            told = [""] * len(positions) if column is None else table.cells[column]
            part[ours] = np.full(len(told), math.nan) if column is None else table.numbers(column)
            written[ours].append(holes.is_written_nan(told))
        parts.append(pd.DataFrame({"run": run, **part}))
    rows = pd.concat(parts, ignore_index=True).assign(lr=math.nan)
    bands = sum(name.endswith(_BAND) for name in table.names)
    notes = [*table.notes]
    if bands:
        notes.append(f"{bands} columns __MIN and __MAX are left out")
    if unit == "step" and at.lower() == "step":
        notes.append("Step counts the calls of wandb.log, which need not be steps of training")
    is_step = columns.step([at]) is not None and at.lower() != "step"
    if unit == "step" and at.lower() != "step" and not is_step:
        notes.append(f"{in_a_line(at)[:40]} may be no count of steps: what is called steps is this")
    return [
        Log(
            *(table.file, CHART, rows, {unit: at, **roles}, "", tuple(notes)),
            written={ours: np.concatenate(each) for ours, each in written.items() if each},
            counts_steps=unit == "epoch" or is_step,
        )
    ]


def _losses(table: Table, metrics: dict[str, dict[str, str]], wanted: Wanted) -> dict[str, str]:
    if wanted.lr_column:
        raise UserError(
            f"--lr-column={wanted.lr_column}: {table.file} is a chart, and has no column for it; "
            "use --lr-from PATTERN or --lr NAME=LR"
        )

    def count(metric: str) -> int:
        return max(table.count(name) for name in metrics[metric].values())

    roles: dict[str, str] = {}
    for ours, theirs in wanted.columns:
        if theirs not in metrics:
            listed = in_a_line(", ".join(metrics))[:160]
            raise UserError(
                f"--column={ours}={theirs}: {table.file} has no such metric; it has {listed}"
            )
        roles[ours] = theirs
    for part in ("train", "val"):
        if f"{part}_loss" not in roles and (
            found := columns.best_loss(metrics, part, count, table.file)
        ):
            roles[f"{part}_loss"] = found
    if not roles:
        shown: Sequence[str] = list(metrics)[:5]
        raise UserError(
            f"{table.file}: shows no loss ({in_a_line(', '.join(shown))}); export the chart of the "
            f"loss, or say which metric is it: --column 'train_loss={in_a_line(shown[0])}'"
        )
    return roles


def takes_history(table: Table, wanted: Wanted) -> bool:
    """Return whether the columns are those of ``run.history()``."""
    return table.has("_step") and (table.has("_runtime") or table.has("_timestamp"))


def read_history(table: Table, wanted: Wanted) -> list[Log]:
    """Return its one run. Its own count of steps is taken where it was logged, else _step.

    Raises:
        UserError: there is no loss, or a cell is no number.
    """
    roles = generic.roles_of(table, wanted)
    own = [name for name in table.names if name != "_step"]
    step = columns.step(own)
    roles["step"] = dict(wanted.columns).get("step") or (
        step if step is not None and table.is_number(step) else "_step"
    )
    if table.has("_runtime"):
        roles.setdefault("seconds", "_runtime")
    if "train_loss" not in roles and "val_loss" not in roles:
        listed = in_a_line(", ".join(table.names))[:160]
        raise UserError(f"{table.file}: has no loss among its columns, {listed}")
    log = log_of(table, HISTORY, roles)
    if roles["step"] != "_step":
        return [log]
    note = "_step counts the calls of wandb.log, which need not be steps of training"
    return [replace(log.saying(note), counts_steps=False)]
