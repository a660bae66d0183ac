"""Read AlgoPerf's measurements.csv, and the hparams.json of its trial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lrlab.errors import UserError
from lrlab.logs import lightning
from lrlab.logs.columns import Wanted
from lrlab.logs.log import Log, asked, log_of, settings_columns
from lrlab.records import files
from lrlab.tables.text_table import Table

PROGRAM = "AlgoPerf"
_MARKS = ("score", "total_duration", "accumulated_eval_time", "accumulated_submission_time")
_LARGEST = 2**20
_HPARAMS = "hparams.json"


def takes(table: Table, wanted: Wanted) -> bool:
    return table.has("global_step") and any(mark in table.cells for mark in _MARKS)


def read(table: Table, wanted: Wanted) -> list[Log]:
    """Return its one run: train_loss is that of the mini-batches, where it was logged.

    Raises:
        UserError: there is no loss, or a column holds what is no number.
    """
    roles = {"step": "global_step", **asked(table, wanted)}
    for ours, names in (
        ("train_loss", ("loss", "train/loss")),
        ("val_loss", ("validation/loss",)),
        ("grad_norm", ("grad_norm",)),
        ("seconds", ("accumulated_submission_time",)),
    ):
        theirs = next((name for name in names if name in table.cells and table.count(name)), None)
        if theirs is not None:
            roles.setdefault(ours, theirs)
    if "train_loss" not in roles and "val_loss" not in roles:
        raise UserError(f"{table.file}: has no loss, train/loss or validation/loss")
    log = log_of(table, PROGRAM, roles)
    rows, lr_from, notes = log.rows, log.lr_from, list(log.notes)
    found, told = _hyperparameters(table.file.parent / _HPARAMS)
    notes += told
    name = wanted.lr_column if wanted.lr_column in found else lightning.lr_name(found)
    if name is not None and not lr_from:
        rows, lr_from = rows.assign(lr=float(found[name])), _HPARAMS
    settings = settings_columns(found, "hparams")
    rows = rows.assign(**{key: value for key, value in settings.items() if key not in rows})
    return [Log(log.place, PROGRAM, rows, log.took, lr_from, tuple(notes), log.written)]


def _hyperparameters(file: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        files.check_own(file)
        if not file.is_file() or file.stat().st_size > _LARGEST:
            return {}, []
        found = json.loads(file.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return {}, [f"{file.name} cannot be read as JSON"]
    except UserError as error:
        return {}, [str(error)]
    return (lightning.flat(found), []) if isinstance(found, dict) else ({}, [])
