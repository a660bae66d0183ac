# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""Read the saved runs of a sweep as tidy tables, through `records`. Never imports torch."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrlab import records
from lrlab.errors import UserError
from lrlab.tables import thinning, tidy
from lrlab.tables.branch_gains import gains
from lrlab.tables.sweep_folder import NO_RUNS

# The settings that distinguish runs, besides the lr. Columns with dotted names, of other swept
# options such as "optimizer.momentum", are settings, too.
SETTINGS = (*tidy.SETTINGS, "seed")

_TEXT = ("state", "error", "schedule", "optimizer", "network", "loss", "data", "data_sha256")
_NUMBERS = (
    *("lr", "seed", "parameters", "steps", "steps_per_epoch", "epochs", "batch_size"),
    *("num_classes", "first_nonfinite_step", "pruned_at_epoch", "initial_loss", "chance_loss"),
    *("majority_share", "swings_from", "train_loss", "train_acc", "val_loss", "val_acc"),
    *("test_loss", "test_acc", "train_seconds"),
)
# the columns of metrics.csv; a curve's "lr" is the run's init_lr
_CURVE_NUMBERS = tuple("lr_at_step" if name == "lr" else name for name in records.METRICS)
# Columns of `runs` that are repeated in each row of a curve, so that figures need no second table.
_CARRIED = ("lr", *SETTINGS, "state", "steps_per_epoch", "first_nonfinite_step", "pruned_at_epoch")
_REFERENCES = ("initial_loss", "chance_loss", "num_classes", "swings_from")
_MEASURED = records.DIAGNOSTICS[1:]
_GAINS = ("gain_low", "gain_high", "gain_noise")
_NOW_AND_THEN = ("val_loss", "val_acc", *_MEASURED)  # columns with a value in few rows
PARTS = records.VAL_PARTS
PIECE = 50_000  # rows of curves in memory at once, about 15 MB


def rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table for `lrlab.process.plain.to_json`, with every bit of a number."""
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def runs(sweep: Path | str) -> pd.DataFrame:
    """Return one row a run, sorted by run number: its folder, and the scalars of its summary.json.

    A run without a readable summary has the state "waiting", and nothing else. Numbers are float64,
    NaN where missing or not finite; run is int64. Lists of dotted keys ("optimizer.betas") are
    text, as is val_parts: the val loss of equal parts of the held-out samples.

    Raises:
        UserError: the sweep's folder does not exist, or holds no run.
    """
    rows = [_row(folder) for folder in _run_folders(Path(sweep))]
    frame = pd.DataFrame(rows)
    frame = frame.reindex(columns=list(dict.fromkeys([*frame.columns, *_NUMBERS, *_TEXT])))
    for name in _NUMBERS:
        frame[name] = pd.Series(pd.to_numeric(frame[name], errors="coerce"), dtype="float64")
    for name in _TEXT:
        frame[name] = frame[name].astype(object).where(frame[name].notna(), None)
    frame["run"] = frame["run"].astype("int64")
    first = ["run", "lr", *SETTINGS, "state"]
    others = [name for name in frame.columns if name not in first]
    return frame.reindex(columns=first + others).sort_values(by="run", ignore_index=True)


def curves(sweep: Path | str) -> pd.DataFrame:
    """Return the curves of all runs, one row a recorded step, sorted by run and step.

    Columns:
    - run, lr (the run's init_lr), the settings (schedule, optimizer, ...), state, steps_per_epoch,
      first_nonfinite_step, pruned_at_epoch (how many epochs it had trained);
    - step, epoch, lr_at_step, train_loss (mini-batch, before the update), val_loss, val_acc (NaN
      where not evaluated);
    - seconds of training up to this step: the run's train_seconds, spread equally over its steps;
    - measurements of the step's update: alpha, alpha_probe, stability_ratio, sharpness, grad_norm,
      update_ratio, distance; NaN where not measured;
    - initial_loss, chance_loss, num_classes, swings_from (the stability ratio at which steps begin
      to swing);
    - gain_low, gain_high and gain_noise of the branch test, see `gains`.

    A run without recorded steps has one row with the step NaN, so that it is not lost.

    Raises:
        UserError: as `runs` does.
    """
    (whole,) = Reading(sweep).pieces(math.inf)
    return whole


class Reading:
    """The curves of a sweep, read once, in pieces that are not kept; only thinned curves are.

    Attributes:
        runs: as from `runs`.
    """

    def __init__(self, sweep: Path | str) -> None:
        self.runs = runs(sweep)
        self._most = thinning.rows_of_each(len(self.runs))
        self._thinned: list[dict[str, np.ndarray]] = []
        self._gains: list[tuple[float, ...]] = []

    def pieces(self, rows: float | None = None) -> Iterator[pd.DataFrame]:
        """Yield the table of `curves` in pieces of whole runs, up to so many rows each.

        rows: None: PIECE.
        """
        rows = PIECE if rows is None else rows
        self._thinned, self._gains = [], []
        first, length = 0, 0
        parts: list[dict[str, np.ndarray]] = []
        for place, run in enumerate(self.runs.to_dict("records"), start=1):
            folder = Path(run["folder"])
            parts.append(_curve(folder, run["train_seconds"]))
            self._thinned.append(thinning.thinned(parts[-1], self._most, _NOW_AND_THEN))
            tested = _read(records.read_branches, folder)
            self._gains.append(gains(tested, run["initial_loss"]))
            length += len(parts[-1]["step"])
            if length >= rows or place == len(self.runs):
                yield _joined(self.runs.iloc[first:place], parts, self._gains[first:place])
                first, length, parts = place, 0, []

    @property
    def thinned(self) -> pd.DataFrame:
        """Return the table of `curves` for figures, after `pieces` is used up.

        If there are very many rows, each curve has fewer, and a column mean_of; see
        `lrlab.tables.thinning`.
        """
        thinned = [dict(part) for part in self._thinned]
        means = np.concatenate([part.pop(thinning.MEAN_OF) for part in thinned])
        found = _joined(self.runs, thinned, self._gains)
        return found.assign(**{thinning.MEAN_OF: means}) if (means > 1).any() else found


def _joined(
    table: pd.DataFrame, parts: list[dict[str, np.ndarray]], of_test: list[tuple[float, ...]]
) -> pd.DataFrame:
    """Join the curves of the runs of a table; uses them up."""
    dotted = [name for name in table.columns if tidy.is_option(name)]
    # Joining a thousand small tables would take three times the time and twice the memory.
    columns: dict[str, Any] = {}
    lengths = [len(part["step"]) for part in parts]
    for name in ("run", *_CARRIED, *dotted):
        columns[name] = _repeated(table[name], lengths)
    for name in (*_CURVE_NUMBERS, "seconds", *_MEASURED):
        columns[name] = np.concatenate([part.pop(name) for part in parts])
    for name in _REFERENCES:
        values = table[name]
        if name == "chance_loss" and "chance_val_loss" in table:  # the val loss judges
            own = pd.Series(pd.to_numeric(table["chance_val_loss"], errors="coerce"))
            values = own.where(own.notna(), values)
        columns[name] = _repeated(values, lengths)
    for name, values in zip(_GAINS, np.array(of_test).T, strict=True):
        columns[name] = np.repeat(values, lengths)
    return pd.DataFrame(columns, copy=False)


def _repeated(column: Any, lengths: list[int]) -> Any:
    """Repeat each run's value; texts as pandas' own arrays, which it need not check."""
    return pd.Series(column.tolist()).array.repeat(lengths)


def _curve(folder: Path, train_seconds: float) -> dict[str, np.ndarray]:
    """Return (steps) each, sorted by step: a run's metrics, seconds, and measurements."""
    values = _values(records.read_metrics, folder, tuple(records.METRICS))
    if not len(values):
        values = np.full((1, len(records.METRICS)), math.nan)
    if not (np.diff(values[:, 0]) > 0).all():
        values = values[np.argsort(values[:, 0], kind="stable")]
    found: dict[str, np.ndarray] = dict(zip(_CURVE_NUMBERS, values.T, strict=True))
    step = found["step"]
    found["seconds"] = train_seconds * (step / step[-1] if step[-1] > 0 else 0.0 * step)
    measured = _values(records.read_diagnostics, folder, records.DIAGNOSTICS)
    # If a step has two rows, the later one counts: a resumed run wrote it.
    rows = np.searchsorted(step, measured[:, 0]).clip(max=len(step) - 1)
    there = step[rows] == measured[:, 0]
    for name, column in zip(_MEASURED, measured.T[1:], strict=True):
        found[name] = np.full(len(step), math.nan)
        found[name][rows[there]] = column[there]
    return found


def _values(
    reader: Callable[[Path], pd.DataFrame], folder: Path, columns: tuple[str, ...]
) -> np.ndarray:
    """Return (rows, columns) of a run's table."""
    table = _read(reader, folder)
    return table.to_numpy(dtype=np.float64) if len(table) else np.empty((0, len(columns)))


def branches(sweep: Path | str) -> pd.DataFrame:
    """Return the branch tests of all runs, a row a step of a branch, by run; thinned if many.

    Columns: run, lr, the settings; multiplier (0.1, 1, 3) of the lr at the run's end; lr_at_step of
    the branch; step, counted on from the run's last; train_loss (mini-batch, before the update).
    The three branches of a run use the same batches. Without a test there are no rows. If there are
    very many, each branch has fewer, and a column mean_of; see `lrlab.tables.thinning`.

    Raises:
        UserError: as `runs` does.
    """
    table = runs(sweep)
    names = ["run", "lr", *SETTINGS, *filter(tidy.is_option, table.columns)]
    most = thinning.rows_of_each(len(table) * len(records.MULTIPLIERS))
    parts = []
    for run in table.to_dict("records"):
        found = _read(records.read_branches, Path(run["folder"]))
        for column, multiplier in records.MULTIPLIERS.items() if len(found) else ():
            lr = multiplier * found["lr"].to_numpy()
            curve = {"step": found["step"].to_numpy(), "lr_at_step": lr}
            curve = thinning.thinned({**curve, "train_loss": found[column].to_numpy()}, most)
            told = {name: run[name] for name in names}
            parts.append(pd.DataFrame(curve).assign(**told, multiplier=multiplier))
    columns = [*names, "multiplier", "lr_at_step", "step", "train_loss"]
    if not parts:
        return pd.DataFrame(columns=columns)
    whole = pd.concat(parts, ignore_index=True)
    columns += [thinning.MEAN_OF] if (whole[thinning.MEAN_OF].to_numpy() > 1).any() else []
    return whole.reindex(columns=columns)


def landscape(sweep: Path | str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Read the measurements of `lrlab.probes.landscape`: the tables lines, surface and paths.

    Their columns are those of `records.LANDSCAPE`. They are empty if nothing was measured.
    """
    lines, surface, paths = (_landscape(Path(sweep), name) for name in records.LANDSCAPE)
    return lines, surface, paths


def _landscape(sweep: Path, name: str) -> pd.DataFrame:
    try:
        return records.read_landscape(sweep, name)
    except (FileNotFoundError, UserError):
        return pd.DataFrame(columns=list(records.LANDSCAPE[name]))


def varying(frame: pd.DataFrame) -> list[str]:
    """Return the settings, except lr, that differ between the table's runs, in a fixed order."""
    names = [name for name in SETTINGS if name in frame]
    names += sorted(filter(tidy.is_option, frame.columns))
    return [name for name in names if len(frame[name].dropna().unique()) > 1]


def _run_folders(sweep: Path) -> list[Path]:
    if not sweep.is_dir():
        what = "is a file, and no sweep" if sweep.is_file() else "no such folder"
        raise UserError(f"{sweep}: {what}; name a sweep's folder, for example outputs/NAME")
    records.check_contained(sweep)
    folders = records.run_folders(sweep)
    if not folders:
        raise UserError(f"{sweep}: {NO_RUNS}")
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
    parts = summary.get(PARTS)
    if isinstance(parts, list) and all(isinstance(part, int | float) for part in parts):
        row[PARTS] = " ".join(f"{part:.9g}" for part in parts)
    timing = summary.get("timing")
    if isinstance(timing, dict):
        row["train_seconds"] = timing.get("train_seconds")
    # The folder's name is the run's number (trial.number); it exists before any file does.
    return {**row, "run": int(folder.name), "folder": str(folder)}


def _read(reader: Callable[[Path], pd.DataFrame], folder: Path) -> pd.DataFrame:
    """Return a table of a run; one without rows where it is missing or damaged."""
    try:
        return reader(folder)
    except (FileNotFoundError, UserError):
        return pd.DataFrame()
