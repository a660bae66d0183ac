"""Read the trainer_state.json of Hugging Face's Trainer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrlab.errors import UserError
from lrlab.logs.columns import Wanted
from lrlab.logs.log import Log

PROGRAM = "Hugging Face Trainer"
NAME = "trainer_state.json"
_LARGEST = 2**28
_KEYS = {
    "step": "step",
    "epoch": "epoch",
    "train_loss": "loss",
    "val_loss": "eval_loss",
    "grad_norm": "grad_norm",
    "lr_at_step": "learning_rate",
}


def read(file: Path, wanted: Wanted) -> list[Log]:
    """Return its one run.

    Only entries with ``loss`` or ``eval_loss`` are points of the curve: the last entry's
    ``train_loss`` is the mean over all training. The lr of the run is the highest that was logged,
    which a schedule that falls from the first step on has left already.

    Raises:
        UserError: it cannot be read, or is no such file.
    """
    state = _state(file)
    history = state.get("log_history")
    if not isinstance(history, list) or not all(isinstance(each, dict) for each in history):
        raise UserError(f"{file}: is JSON without a log_history; a {NAME} is needed")
    keys = {**_KEYS, **dict(wanted.columns)}
    if wanted.lr_column:
        keys["lr_at_step"] = wanted.lr_column
    points = [each for each in history if keys["train_loss"] in each or keys["val_loss"] in each]
    if not points:
        raise UserError(f"{file}: its log_history has no loss")
    numbers = {ours: _numbers(file, points, key) for ours, key in keys.items()}
    took = {ours: key for ours, key in keys.items() if np.isfinite(numbers[ours]).any()}
    rows = pd.DataFrame({"run": "", **{ours: numbers[ours] for ours in ("step", *took)}})
    norms = [each.get(keys["grad_norm"]) for each in points]
    rows["grad_norm_lost"] = [
        value is not None and not math.isfinite(norm)
        for value, norm in zip(norms, numbers["grad_norm"], strict=True)
    ]
    written = {
        ours: np.array([isinstance(each.get(keys[ours]), float | str) for each in points])
        & np.isnan(numbers[ours])
        for ours in ("train_loss", "val_loss")
    }
    lr_from, lr, notes = "", math.nan, []
    if "lr_at_step" in took:
        lr = float(np.nanmax(numbers["lr_at_step"]))
        lr_from = f"{took['lr_at_step']}, the highest of each run"
        first = numbers["lr_at_step"][np.isfinite(numbers["lr_at_step"])]
        if len(first) > 1 and first[0] == lr > first[-1]:
            notes.append(
                "the first learning_rate logged is the highest: the one that was set may be a "
                "little higher; --lr says it"
            )
        elif len(first) > 2 and int((first == lr).sum()) == 1 and first[-1] < lr:
            notes.append(
                "the highest learning_rate was logged once, between lower ones: the one that was "
                "set may be a little higher; --lr says it"
            )
    means = [each["train_loss"] for each in history if "train_loss" in each and "loss" not in each]
    if means:
        notes.append("train_loss of the last entry is the mean over all training: left out")
    return [Log(file, PROGRAM, rows.assign(lr=lr), took, lr_from, tuple(notes), written)]


def _state(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _LARGEST:
            raise UserError(f"{file}: is too large to be read")
        found = json.loads(file.read_bytes().decode("utf-8-sig", errors="replace"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise UserError(f"{file}: begins like JSON, and is damaged") from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: is JSON, and no {NAME}; a CSV of curves is needed")
    return found


def _numbers(file: Path, points: list[dict[str, Any]], key: str) -> np.ndarray:
    found = np.full(len(points), math.nan)
    for row, each in enumerate(points):
        value = each.get(key)
        if value is None or isinstance(value, bool):
            continue
        try:
            found[row] = float(value)
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"{file}: {key} of an entry of log_history is no number") from None
    return found


def global_step(file: Path) -> float:
    """Return how far the run was when it was written; -1 if that cannot be read."""
    try:
        value = _state(file).get("global_step")
    except UserError:
        return -1.0
    return float(value) if isinstance(value, int | float) else -1.0
