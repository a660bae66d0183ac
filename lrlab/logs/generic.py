"""Read a CSV of any program by the names of its columns."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from lrlab.errors import UserError, in_a_line
from lrlab.logs import columns
from lrlab.logs.columns import Wanted
from lrlab.logs.log import Log, asked, log_of
from lrlab.tables import tidy
from lrlab.tables.text_table import Table

PROGRAM = "CSV"
_OWN = {"run", "lr", "train_loss"}


def takes(table: Table, wanted: Wanted) -> bool:
    """Return whether there is a loss, and a column that counts steps or epochs."""
    given = dict(wanted.columns)
    has_loss = any(columns.loss_of(name) in ("train", "val") for name in table.names)
    has_loss = has_loss or "train_loss" in given or "val_loss" in given
    return has_loss and ("step" in given or "epoch" in given or bool(position(table)))


def position(table: Table) -> dict[str, str]:
    """Return the columns of the step and of the epoch, as far as they are there."""
    found: dict[str, str] = {}
    names = table.names
    step = columns.step(names) or columns.count(names)
    if step is None and (plural := columns.plural(names)) and _is_counted(table, plural):
        step = plural
    epoch = columns.epoch(names)
    if step is None and epoch is None:
        step = next((name for name in names if name in ("_step", "t")), None)
    if step is not None and table.is_number(step):
        found["step"] = step
    if epoch is not None and table.is_number(epoch):
        found["epoch"] = epoch
    return found


def _is_counted(table: Table, name: str) -> bool:
    """Return whether a column like "steps" rises from row to row, and is no setting of runs."""
    run = columns.run(table.names)
    if run is None or not table.is_number(name):
        return False
    return len(set(table.cells[run])) < len(table.lines)


def roles_of(table: Table, wanted: Wanted) -> dict[str, str]:
    """Return by our name the column that holds it.

    Raises:
        UserError: a loss is ambiguous, or an option names no column.
    """
    given = asked(table, wanted)
    roles: dict[str, str] = dict(position(table)) | given
    names = table.names
    for part in ("train", "val"):
        ours = f"{part}_loss"
        if ours not in roles and ours in names and table.count(ours) > 1:
            roles[ours] = ours
        if ours not in roles and (found := columns.best_loss(names, part, table.count, table.file)):
            roles[ours] = found
    for ours, theirs in (
        ("run", columns.run(names)),
        ("seed", columns.seed(names)),
        ("grad_norm", columns.grad_norm(names)),
        ("seconds", columns.seconds(names)),
    ):
        if theirs is not None and ours not in roles:
            roles[ours] = theirs
    used = set(roles.values())
    for name in names:
        known = name in tidy.NUMBERS or name in tidy.SETTINGS or name == "state"
        if known and name not in roles and name not in used and name != "lr":
            roles[name] = name
    return roles


def read(table: Table, wanted: Wanted) -> list[Log]:
    """Return the log of one run, or of several.

    Where there are only epochs, and they begin at 0, that is the first: its losses are of its end.
    Without a column for the run, each lr is a run where the steps begin again with each.

    Raises:
        UserError: a column is ambiguous, or holds what is no number.
    """
    roles = roles_of(table, wanted)
    runs = None if "run" in roles else _by_lr(table, roles)
    log = log_of(table, PROGRAM, roles, runs)
    if runs is not None:
        others = " with its seed and settings" if any(" " in run for run in runs[:1]) else ""
        log = log.saying(f"no column names the runs: each learning rate{others} is taken as one")
    if "step" in roles and columns.count([roles["step"]]):
        note = f"{roles['step']} counts samples or tokens: what is called steps are these"
        log = replace(log.saying(note), counts_steps=False)
    if "step" not in roles and "initial_loss" not in roles and is_from_0(log.rows):
        rows = log.rows.assign(epoch=log.rows["epoch"] + 1)
        took = {**log.took, "epoch": f"{roles['epoch']} + 1"}
        log = replace(log, rows=rows, took=took)
    return [log]


def is_from_0(rows: Any) -> bool:
    """Return whether the epochs are whole numbers from 0 on."""
    at = rows["epoch"].to_numpy(dtype=float)
    at = at[np.isfinite(at)]
    return len(at) > 0 and bool((at % 1 == 0).all()) and at.min() == 0


def _by_lr(table: Table, roles: dict[str, str]) -> list[str] | None:
    """Return a name for each row, if the rows are several runs that only their lr tells apart."""
    base, of_step = columns.lr(table.names)
    name = roles.get("lr") or base or of_step
    unit = roles.get("step") or roles.get("epoch")
    if name is None or unit is None or not table.is_number(name):
        return None
    lrs, at = table.numbers(name), table.numbers(unit)
    if np.isnan(lrs).any():
        return None
    by_lr: Any = pd.DataFrame({"lr": lrs, "at": at}).groupby("lr")["at"]
    starts, ends = by_lr.min(), by_lr.max()
    if len(starts) < 2 or starts.isna().any() or starts.max() >= ends.min():
        return None  # each does not begin before any ends: it may be the schedule of one run
    names = [f"lr={lr:g}" for lr in lrs.tolist()]
    for ours, theirs in roles.items():
        if (ours == "seed" or ours in tidy.SETTINGS) and len(set(table.cells[theirs])) > 1:
            told = zip(names, table.cells[theirs], strict=True)
            names = [f"{name} {ours}={cell}" for name, cell in told]
    return names


# --- refused -----------------------------------------------------------------------------------


def refuse(table: Table) -> None:
    """Refuse a table that no program's reader took.

    One that has most of the columns of lrlab's own curves is left to whoever reads those.

    Raises:
        UserError: says what is missing.
    """
    names = table.names
    if len(_OWN & {*names}) > 1 and "train_loss" in names:
        return
    if not table.lines:
        raise UserError(f"{table.file}: names its columns and has no rows")
    losses = [name for name in names if columns.loss_of(name) in ("train", "val")]
    if not losses:
        _no_loss(table)
    for name in (columns.step(names), columns.epoch(names)):
        if name is not None:
            table.numbers(name)  # a cell that is no number is named
    if not position(table):
        raise UserError(
            f"{table.file}: has a loss, {in_a_line(losses[0])[:40]}, and no column that counts "
            f"steps or epochs; name it, --column step=NAME; its columns are {_listed(names)}"
        )


def _no_loss(table: Table) -> NoReturn:
    names = table.names
    test = [name for name in names if columns.loss_of(name) == "test"]
    if test:
        option = f"--column {shlex.quote(f'val_loss={test[0]}')} takes {in_a_line(test[0])[:40]}"
    else:
        option = "--column train_loss=NAME names it; a score that should rise is none"
    raise UserError(
        f"{table.file}: none of its columns is a loss by its name; {option}; its columns are "
        f"{_listed(names)}"
    )


def _listed(names: Sequence[str]) -> str:
    return in_a_line(", ".join(names))[:160]
