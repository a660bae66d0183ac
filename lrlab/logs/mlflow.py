"""Read MLflow's run folders: text files of metrics and parameters. It needs no MLflow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrlab.errors import UserError, in_a_line
from lrlab.logs import columns, lightning
from lrlab.logs.columns import Wanted
from lrlab.logs.log import Log, plain_values, settings_columns
from lrlab.records import files

PROGRAM = "MLflow"
_LARGEST = 2**28
_MOST = 2000  # metrics or parameters of a run


def is_run(folder: Path) -> bool:
    """Return whether this is a run's folder: meta.yaml next to metrics/ or params/."""
    return (folder / "meta.yaml").is_file() and (folder / "metrics").is_dir()


def name_of(run: Path) -> str:
    """Return the name that MLflow's page shows, else the run's id."""
    name = _text(run / "tags" / "mlflow.runName").strip()
    return in_a_line(name)[:80] or run.name


def read(run: Path, wanted: Wanted) -> list[Log]:
    """Return one run.

    Raises:
        UserError: no metric is a loss, or a file is damaged.
    """
    metrics = {name: _points(file) for name, file in _inside(run / "metrics").items()}
    params = {name: _text(file).strip() for name, file in _inside(run / "params").items()}
    roles, notes = _roles(run, metrics, wanted)
    parts = [
        pd.DataFrame(metrics[theirs], columns=["time", ours, "step"])
        for ours, theirs in roles.items()
    ]
    rows: Any = pd.concat(parts, ignore_index=True).sort_values(
        ["step", "time"], kind="stable", ignore_index=True
    )
    written = {ours: np.zeros(len(rows), dtype=bool) for ours in roles if ours.endswith("_loss")}
    for ours in written:  # each row is of one metric, so its other columns are holes
        others = [name for name in roles if name != ours]
        alone = rows.loc[:, others].isna().all(axis=1) if others else rows["step"].notna()
        written[ours] = (rows[ours].isna() & alone).to_numpy()
    seconds = (rows["time"] - rows["time"].min()) / 1000
    rows = rows.assign(run="", seconds=seconds).drop(columns="time")
    lr, lr_from = math.nan, ""
    if "lr_at_step" in rows:
        lr, lr_from = float(rows["lr_at_step"].max()), f"{roles['lr_at_step']}, the highest"
        rows["lr_at_step"] = rows["lr_at_step"].ffill()
    name = wanted.lr_column if wanted.lr_column in params else lightning.lr_name(params)
    if wanted.lr_column and name != wanted.lr_column and wanted.lr_column not in metrics:
        listed = in_a_line(", ".join(params))[:160]
        raise UserError(
            f"--lr-column={wanted.lr_column}: {run} has no such parameter; it has {listed}"
        )
    if name is not None:
        lr, lr_from = _rate(run, name, params[name]), f"params/{name}"
    plain = {key: plain_values([value])[0] for key, value in params.items()}
    settings: dict[str, Any] = settings_columns(plain, "params")
    if (seed := columns.seed(list(plain))) is not None:
        settings["seed"] = plain[seed]
    took = {"step": "step", **roles}
    rows = rows.assign(lr=lr, **settings)
    log = Log(run, PROGRAM, rows, took, lr_from, tuple(notes), written)
    most = max((len(metrics[theirs]) for theirs in roles.values()), default=0)
    if most > 1 and rows["step"].nunique() == 1:
        return [log.saying("all its values have one step: they count as one point")]
    return [log]


def _rate(run: Path, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(
            f"{run}: its parameter {name}={in_a_line(text)[:40]} is no number"
        ) from None


def _roles(
    run: Path, metrics: Mapping[str, list[Any]], wanted: Wanted
) -> tuple[dict[str, str], list[str]]:
    """Return the metric of each of our columns, and lines about them."""
    roles: dict[str, str] = {}
    for ours, theirs in wanted.columns:
        if theirs not in metrics:
            listed = in_a_line(", ".join(metrics))[:160]
            raise UserError(f"--column={ours}={theirs}: {run} has no such metric; it has {listed}")
        roles[ours] = theirs
    names = [name for name in metrics if metrics[name] and name not in roles.values()]
    columns.add_losses(roles, names, lambda name: len(metrics[name]), run)
    if "train_loss" not in roles and "val_loss" not in roles:
        listed = in_a_line(", ".join(metrics))[:160]
        raise UserError(f"{run}: none of its metrics is a loss ({listed or 'it has none'})")
    last = {name: max(point[2] for point in metrics[name]) for name in metrics if metrics[name]}
    free = [name for name in names if "train_loss" not in dict(wanted.columns)]
    notes = columns.with_like_steps(roles, free, last.__getitem__)
    base, of_step = columns.lr(names)
    if wanted.lr_column in metrics:
        of_step = wanted.lr_column
    for ours, theirs in (
        ("lr_at_step", of_step or base),
        ("grad_norm", columns.grad_norm(names)),
        ("epoch", columns.epoch(names)),
    ):
        if theirs is not None:
            roles.setdefault(ours, theirs)
    return roles, notes


def _inside(folder: Path, prefix: str = "") -> dict[str, Path]:
    """Return the files of a folder by name; a name with / is a file in a folder. No links."""
    found: dict[str, Path] = {}
    for entry in sorted(files.entries(folder), key=lambda each: each.name)[:_MOST]:
        if entry.is_dir(follow_symlinks=False) and prefix.count("/") < 4:
            found |= _inside(folder / entry.name, f"{prefix}{entry.name}/")
        elif entry.is_file(follow_symlinks=False):
            found[f"{prefix}{entry.name}"] = folder / entry.name
    return found


def _text(file: Path) -> str:
    """Return a small file's text, "" where there is none."""
    try:
        files.check_own(file)
        if not file.is_file() or file.stat().st_size > _LARGEST:
            return ""
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _points(file: Path) -> list[tuple[float, float, float]]:
    """Return (time, value, step) of each line of a metric's file.

    Raises:
        UserError: a line holds something else.
    """
    found: list[tuple[float, float, float]] = []
    text = _text(file)
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        cells = line.split()
        if not cells:
            continue
        try:
            time, value = float(cells[0]), float(cells[1])
            step = float(cells[2]) if len(cells) > 2 else float(number - 1)
        except (ValueError, IndexError):
            if number == len(lines):  # it breaks off
                continue
            raise UserError(
                f"{file}: line {number} is no time, value and step: {in_a_line(line)[:40]}"
            ) from None
        found.append((time, value, step))
    return found
