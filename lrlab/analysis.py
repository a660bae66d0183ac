"""The saved runs of a sweep as tidy tables. Reads through `records`; never imports torch."""

from pathlib import Path
from typing import Any

import pandas as pd

from lrlab import records
from lrlab.errors import UserError

# What makes one run different from another, besides its lr. Dotted names are overrides that were
# swept beyond these ("optimizer.momentum") and count as settings too.
SETTINGS = ("schedule", "optimizer", "network", "loss", "data", "batch_size", "epochs", "seed")

_TEXT = ("state", "error", "schedule", "optimizer", "network", "loss", "data", "data_sha256")
_NUMBERS = (
    "lr",
    "seed",
    "parameters",
    "steps",
    "steps_per_epoch",
    "epochs",
    "batch_size",
    "num_classes",
    "first_nonfinite_step",
    "pruned_at_epoch",
    "initial_loss",
    "chance_loss",
    "train_loss",
    "train_acc",
    "val_loss",
    "val_acc",
    "test_loss",
    "test_acc",
)
_CURVE_NUMBERS = ("step", "epoch", "lr_at_step", "train_loss", "val_loss", "val_acc")
# Run-level columns that a curve carries along, so that a figure needs no second table.
_CARRIED = ("lr", *SETTINGS, "state", "steps_per_epoch", "first_nonfinite_step", "pruned_at_epoch")
_REFERENCES = ("initial_loss", "chance_loss")


def runs(sweep: Path) -> pd.DataFrame:
    """One row a run, sorted by run number: the scalar keys of its summary.json, and its folder.

    A run without a (readable) summary is still starting: its state is "waiting" and all else is
    missing. Numbers are float64 with NaN where missing or not finite; run is int64. Dotted keys
    ("optimizer.momentum") are kept as they are, lists among them as text.
    Raises UserError when the sweep's folder does not exist or holds no run.
    """
    rows = [_row(folder) for folder in _run_folders(sweep)]
    frame = pd.DataFrame(rows)
    for name in _NUMBERS:
        values = frame[name] if name in frame else pd.Series(None, frame.index, dtype=object)
        frame[name] = pd.Series(pd.to_numeric(values, errors="coerce"), dtype="float64")
    for name in _TEXT:
        values = frame[name] if name in frame else pd.Series(None, frame.index, dtype=object)
        frame[name] = values.astype(object).where(values.notna(), None)
    frame["run"] = frame["run"].astype("int64")
    first = ["run", "lr", *SETTINGS, "state"]
    others = [name for name in frame.columns if name not in first]
    return frame.reindex(columns=first + others).sort_values(by="run", ignore_index=True)


def curves(sweep: Path) -> pd.DataFrame:
    """The curves of all runs, one row a recorded step, sorted by run and step.

    Columns: run, lr (the run's init_lr), the settings (schedule, optimizer, ...), state,
    steps_per_epoch, first_nonfinite_step, pruned_at_epoch (the epochs it had done then), step,
    epoch, lr_at_step, train_loss (mini-batch, before the update), val_loss, val_acc (where
    evaluated, else NaN), initial_loss, chance_loss.
    A run that has recorded nothing (it failed at once, or is still starting) keeps one row whose
    step is NaN: a run must not vanish from a comparison.
    Raises UserError as `runs` does.
    """
    table = runs(sweep)
    dotted = [name for name in table.columns if "." in name]
    parts = []
    for run in table.to_dict("records"):
        part = _metrics(Path(run["folder"])).rename(columns={"lr": "lr_at_step"})
        if part.empty:
            part = pd.DataFrame({"step": [float("nan")]})
        part = part.reindex(columns=list(_CURVE_NUMBERS)).astype("float64")
        for name in ("run", *_CARRIED, *dotted, *_REFERENCES):
            part[name] = run[name]
        parts.append(part.sort_values(by="step", kind="stable"))
    frame = pd.concat(parts, ignore_index=True)
    return frame.reindex(columns=["run", *_CARRIED, *dotted, *_CURVE_NUMBERS, *_REFERENCES])


def varying(frame: pd.DataFrame) -> list[str]:
    """The settings (lr aside) that differ between the runs of this table, in a fixed order."""
    names = [name for name in SETTINGS if name in frame]
    names += sorted(name for name in frame.columns if "." in str(name))
    return [name for name in names if len(frame[name].dropna().unique()) > 1]


def _run_folders(sweep: Path) -> list[Path]:
    if not sweep.is_dir():
        raise UserError(f"{sweep}: no such folder; name a sweep's folder, for example outputs/NAME")
    folders = records.run_folders(sweep)
    if not folders:
        raise UserError(
            f"{sweep}: holds no runs; name a sweep's folder, the one with 0/, 1/, ... in it"
        )
    return folders


def _row(folder: Path) -> dict[str, Any]:
    try:
        summary = records.read_summary(folder)
    except (FileNotFoundError, UserError):
        summary = {"state": "waiting"}
    row = {
        key: str(value) if isinstance(value, list) else value
        for key, value in summary.items()
        if not isinstance(value, dict) and (not isinstance(value, list) or "." in key)
    }
    # The folder's name is the run's number (trial.number); it is there before any file is.
    return {**row, "run": int(folder.name), "folder": str(folder)}


def _metrics(folder: Path) -> pd.DataFrame:
    try:
        return records.read_metrics(folder)
    except (FileNotFoundError, UserError):
        return pd.DataFrame()
