"""The table that ends a sweep, as plain aligned text: it reads the same on a terminal or piped."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lrlab.analysis import varying

_ERROR_WIDTH = 60  # characters of a failed run's error that the table shows; the rest is in its log


def results(runs: pd.DataFrame, folder: Path) -> str:
    """All runs of a sweep, one line each, sorted by run number, and where its files are.

    runs: as from `analysis.runs`. folder: the sweep's folder; the figures in its plots/ are named.
    Columns: run, lr, schedule, every other setting that differs between the runs, train and test
    loss at the end, test accuracy, state. Ends without a newline.
    """
    table = runs.sort_values(by="run")
    settings = ["schedule", *(name for name in varying(table) if name != "schedule")]
    columns = {
        "run": [str(run) for run in table["run"]],
        "lr": [_number(lr) for lr in table["lr"]],
        **{name: [_number(value) for value in table[name]] for name in settings},
        "train loss": _losses(table, "train_loss"),
        "test loss": _losses(table, "test_loss"),
        "test acc": ["-" if pd.isna(acc) else f"{acc:.2%}" for acc in table["test_acc"]],
        "state": [_state(row) for row in table.to_dict("records")],
    }
    left = {name for name in settings if not pd.api.types.is_numeric_dtype(table[name])}
    lines = _aligned(columns, left | {"state"})
    lines.append("")
    lines += _failures(table)
    lines.append(f"sweep  {display_path(folder)}")
    plots = sorted((folder / "plots").glob("*.png"))
    lines += [f"plot   {display_path(path)}" for path in plots]
    return "\n".join(lines)


def display_path(path: Path) -> str:
    """The path as one would type it here: relative if it lies below the current folder."""
    absolute = path.absolute()
    here = Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)


def _aligned(columns: dict[str, list[str]], left: set[str]) -> list[str]:
    widths = {name: max(map(len, [name, *cells])) for name, cells in columns.items()}

    def line(cells: Sequence[str]) -> str:
        parts = [
            cell.ljust(widths[name]) if name in left else cell.rjust(widths[name])
            for name, cell in zip(columns, cells, strict=True)
        ]
        return "  ".join(parts).rstrip()

    rule = ["-" * width for width in widths.values()]
    rows = zip(*columns.values(), strict=True)
    return [line(list(columns)), line(rule), *(line(row) for row in rows)]


def _number(value: object) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return "-"
    # Six digits keep neighbours of a log-spaced grid apart and still read as a number.
    return f"{value:g}" if isinstance(value, float) else str(value)


def _losses(table: pd.DataFrame, name: str) -> list[str]:
    # A summary holds null for a loss that is not finite; only the state tells it from "not yet".
    missing = ["non-finite" if state == "diverged" else "-" for state in table["state"]]
    return [
        instead if pd.isna(loss) else f"{loss:.4g}"
        for loss, instead in zip(table[name], missing, strict=True)
    ]


def _state(row: dict[Any, Any]) -> str:
    state = str(row["state"])
    if state == "diverged" and not pd.isna(row["first_nonfinite_step"]):
        return f"diverged at step {int(row['first_nonfinite_step'])}"
    if state == "failed" and row["error"]:
        error = " ".join(str(row["error"]).split())
        return f"failed: {error[:_ERROR_WIDTH]}{'...' if len(error) > _ERROR_WIDTH else ''}"
    return state


def _failures(table: pd.DataFrame) -> list[str]:
    states = list(table["state"])
    counts = [(name, states.count(name)) for name in ("diverged", "failed")]
    told = [f"{count} {name}" for name, count in counts if count]
    return [f"{' and '.join(told)} of {len(table)} runs"] if told else []
