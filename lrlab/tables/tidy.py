"""Check a tidy table of curves, from any program, and cut it into runs. Reads no files."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lrlab.config.recipe import RECIPE
from lrlab.errors import UserError
from lrlab.process.plain import A_RATE, is_number

# The settings that distinguish runs, besides lr and seed, in lrlab's tables.
SETTINGS = ("schedule", "optimizer", "network", "loss", "data", "batch_size", "epochs")

Floats = NDArray[np.float64]
_Code = NDArray[np.intp]

BY_STEP = ("train_loss", "val_loss", "alpha", "stability_ratio", "grad_norm", "seconds")
_NEEDED = ("run", "lr", "train_loss")
_BY_RUN = ("lr", "initial_loss", "num_classes", "chance_loss", "first_nonfinite_step")
_BY_RUN += ("swings_from",)
_GAINS = ("gain_low", "gain_high", "gain_noise")
_PLAIN = ("sgd", "adagrad", "rmsprop")  # optimizers without momentum, unless the table has it
NUMBERS = ("step", "epoch", *BY_STEP, "lr_at_step", *_BY_RUN, *_GAINS)  # columns of numbers
_MISSING_WORDS = {"", "nan", "-nan", "+nan", "none", "null", "na", "n/a", "<na>", "nat"}


@dataclass(frozen=True)
class Curve:
    """One run of a table.

    Attributes:
        run: as in the table.
        seed: as in the table; None if unknown.
        settings: the values of the settings, in their order; None where there is none.
        state: as in the table; "" if unknown.
        unit: of the positions, step or epoch.
        rows: (n,) each, sorted by the position "at", which is unique and finite: epoch, the columns
            of BY_STEP, lr_at_step, and other, any other measurement; NaN where not measured.
        constants: the columns of _BY_RUN and _GAINS; NaN where unknown.
    """

    run: Hashable
    seed: Any
    settings: tuple[Any, ...]
    state: str
    unit: str
    rows: Mapping[str, Floats]
    constants: Mapping[str, float]


def split(curves: pd.DataFrame, settings: Sequence[str] | None = None) -> list[Curve]:
    """Return the runs of a table, sorted by run.

    Args:
        curves: as described at `lrlab.verdicts.judging.verdicts`.
        settings: the columns that distinguish runs besides lr and seed; None: see `settings_of`.

    Raises:
        UserError: a column is missing, holds something that is no number, or contradicts itself.
    """
    _check_columns(curves)
    names = settings_of(curves) if settings is None else list(settings)
    for name in names:
        _column(curves, name)
    code, runs = _coded(curves)
    steps = {name: _numbers(curves, name) for name in ("step", "epoch", *BY_STEP, "lr_at_step")}
    told = {name: _numbers(curves, name) for name in _BY_RUN}
    _check_lr(told["lr"], code, runs)
    constants = {name: _first(values, code, len(runs)) for name, values in told.items()}
    for name in _GAINS:  # the last one counts: a branch test can be repeated later in training
        constants[name] = _first(_numbers(curves, name)[::-1], code[::-1], len(runs))
    _check_classes(constants["num_classes"], runs)
    labels = {
        name: _first_labels(curves, name, code, len(runs)) for name in ("seed", "state", *names)
    }
    border = _swing_borders(curves, code, len(runs))
    constants["swings_from"] = np.where(
        np.isnan(constants["swings_from"]), border, constants["swings_from"]
    )
    steps["other"] = _other(curves, names)

    by_epoch = _better_by_epoch(steps, code, len(runs))
    at = np.where(by_epoch[code], steps["epoch"], steps["step"])
    code, rows = _ordered(code, {**steps, "at": at})
    bounds = np.searchsorted(code, np.arange(len(runs) + 1))
    return [
        Curve(
            run=run,
            seed=labels["seed"][i],
            settings=tuple(labels[name][i] for name in names),
            state="" if labels["state"][i] is None else str(labels["state"][i]),
            unit="epoch" if by_epoch[i] else "step",
            rows={name: values[bounds[i] : bounds[i + 1]] for name, values in rows.items()},
            constants={name: float(values[i]) for name, values in constants.items()},
        )
        for i, run in enumerate(runs)
    ]


def settings_of(curves: pd.DataFrame) -> list[str]:
    """Return the settings in a table, without lr and seed: SETTINGS, and those of `is_option`."""
    named = [name for name in SETTINGS if name in curves]
    return named + sorted(name for name in map(str, curves.columns) if is_option(name))


def is_option(column: object) -> bool:
    """Return whether a column holds an option that only some sweeps sweep: a dotted one mostly."""
    return "." in str(column) or column in RECIPE


def tied(lr: Sequence[Any], values: Sequence[Any]) -> bool:
    """Return whether a setting is the lr times a constant in all runs, as weight_decay=${lr}.

    With only two lrs that may be chance, so the constant must be 1.
    """
    pairs = {(a, b) for a, b in zip(lr, values, strict=True) if is_number(a)}
    if len(pairs) < 2 or not all(is_number(b) and a > 0 and b > 0 for a, b in pairs):
        return False
    ratios = [b / a for a, b in pairs]
    lrs = len({a for a, _ in pairs})
    is_tied = max(ratios) - min(ratios) <= 1e-9 * max(ratios)
    return is_tied and (lrs > 2 or (lrs == 2 and abs(ratios[0] - 1) <= 1e-9))


def varying(table: pd.DataFrame) -> list[str]:
    """Return the `settings_of` a table that differ between its runs and are not `tied` to the lr.

    Runs without an lr have not begun, and do not count.
    """
    begun = table.loc[table["lr"].notna()]
    lrs = begun["lr"].tolist()
    return [
        name
        for name in settings_of(table)
        if len(set(map(str, begun[name]))) > 1 and not tied(lrs, begun[name].tolist())
    ]


def _check_columns(curves: pd.DataFrame) -> None:
    if curves.columns.nlevels > 1:
        raise UserError("curves: its columns have several levels; flatten them to plain names")
    known = {"seed", "state", *_NEEDED, *NUMBERS}
    for name in curves.columns[curves.columns.duplicated()]:
        if name in known:
            raise UserError(f"{name}: two columns have this name; keep one")
    for name in _NEEDED:
        _column(curves, name)
    if "step" not in curves and "epoch" not in curves:
        raise UserError(f"step: no such column, nor epoch; one of them is needed, {_has(curves)}")


def _column(curves: pd.DataFrame, name: str) -> pd.Series:
    if name not in curves:
        needed = "run, lr, train_loss and step or epoch are needed"
        needed = needed if name in _NEEDED else "name an existing one"
        raise UserError(f"{name}: no such column; {needed}, {_has(curves)}")
    column = curves[name]
    if not isinstance(column, pd.Series):
        raise UserError(f"{name}: two columns have this name; keep one")
    return column


def _has(curves: pd.DataFrame) -> str:
    names = ", ".join(map(str, curves.columns[:12]))
    return f"the table has {names or 'none'}"


def _coded(curves: pd.DataFrame) -> tuple[_Code, list[Hashable]]:
    """Return each row's run as a number, and the runs by that number, sorted where possible."""
    column = curves["run"]
    try:
        code, values = pd.factorize(column.to_numpy())
    except TypeError:
        raise UserError("run: must hold numbers or names, one for each run") from None
    if (code < 0).any():
        raise UserError(
            f"run: empty in {int((code < 0).sum()):,} of {len(code):,} rows; each row needs its run"
        )
    runs: list[Any] = list(values)
    try:
        order = sorted(range(len(runs)), key=runs.__getitem__)
    except TypeError:
        order = list(range(len(runs)))
    place = np.empty(len(runs), dtype=np.intp)
    place[order] = np.arange(len(runs))
    return place[code], [runs[i] for i in order]


def _numbers(curves: pd.DataFrame, name: str) -> Floats:
    """Return (rows,) of a column; NaN where it is empty or where there is no such column."""
    if name not in curves:
        return np.full(len(curves), math.nan)
    column = _column(curves, name)
    if pd.api.types.is_float_dtype(column.dtype) or pd.api.types.is_integer_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64, na_value=math.nan)
    if not (column.dtype == object or pd.api.types.is_string_dtype(column.dtype)):
        raise UserError(f"{name}: holds {column.dtype}; must hold numbers")
    return np.array([number(name, value) for value in column.tolist()], dtype=np.float64)


def number(name: str, value: Any) -> float:
    """Return a cell as a number, NaN for an empty one.

    Raises:
        UserError: it is neither.
    """
    if value is None or value is pd.NA or value is pd.NaT:
        return math.nan
    if isinstance(value, str) and value.strip().lower() in _MISSING_WORDS:
        return math.nan
    try:
        if isinstance(value, bool | bytes | bytearray):
            raise ValueError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        shown = " ".join(repr(value).split())[:40]
        raise UserError(f"{name}={shown}: must be a number, or empty if not measured") from None


def _first(values: Floats, code: _Code, runs: int) -> Floats:
    """Return (runs,) the first value of each run that is not NaN."""
    found = np.full(runs, math.nan)
    there = np.flatnonzero(~np.isnan(values))[::-1]
    found[code[there]] = values[there]  # of several assignments to one index the last one stays
    return found


def _first_labels(curves: pd.DataFrame, name: str, code: _Code, runs: int) -> list[Any]:
    """Return [runs] the first value of each run that is not missing, None where there is none."""
    found: list[Any] = [None] * runs
    if name not in curves:
        return found
    column = _column(curves, name)
    there = np.flatnonzero(column.notna().to_numpy())
    _, first = np.unique(code[there], return_index=True)
    rows = there[first]
    for row, value in zip(rows, column.iloc[rows].tolist(), strict=True):
        found[code[row]] = value if value.__hash__ is not None else str(value)
    return found


def _other(curves: pd.DataFrame, settings: Sequence[str]) -> Floats:
    """Return (rows,) any measurement in another column, like test_loss; NaN if there is none.

    A column with a value in every row may be a setting, and does not count.
    """
    known = {"run", "seed", "state", *NUMBERS, *settings}
    found = np.full(len(curves), math.nan)
    for name in curves.columns:
        if name in known or is_option(name):
            continue
        column = curves[name]
        if isinstance(column, pd.Series) and pd.api.types.is_float_dtype(column.dtype):
            values = column.to_numpy(dtype=np.float64, na_value=math.nan)
            if np.isnan(values).any():
                found = np.where(np.isnan(values), found, values)
    return found


def _swing_borders(curves: pd.DataFrame, code: _Code, runs: int) -> Floats:
    """Return (runs,) the stability ratio from which steps oscillate, if the momentum β is known.

    β is in the column momentum or optimizer.momentum. With h = lr·λ, heavy ball's recurrence
    r² − (1 + β − h)·r + β has complex roots from h = (1 − √β)² on. With optimizer.nesterov,
    r² − (1 + β)(1 − h)·r + β·(1 − h) has them from ((1 − β) / (1 + β))² on.
    """
    beta = np.full(runs, math.nan)
    for name in ("optimizer.momentum", "momentum"):
        if name in curves and pd.api.types.is_numeric_dtype(curves[name].dtype):
            told = _first(_numbers(curves, name), code, runs)
            beta = np.where((told >= 0) & (told < 1), told, beta)
    optimizer = [str(o).lower() for o in _first_labels(curves, "optimizer", code, runs)]
    plain = np.array([o in ("none", "nan", *_PLAIN) for o in optimizer], dtype=bool)
    beta = np.where(np.isnan(beta) & plain, 0.0, beta)
    flags = _first_labels(curves, "optimizer.nesterov", code, runs)
    told = zip(flags, optimizer, strict=True)
    is_nesterov = np.array([str(f).lower() == "true" or o == "nesterov" for f, o in told], bool)
    heavy = (1 - np.sqrt(beta)) ** 2 / (2 * (1 + beta))
    nesterov = ((1 - beta) / (1 + beta)) ** 2 * (1 + 2 * beta) / (2 * (1 + beta))
    return np.where(is_nesterov, nesterov, heavy)


def _check_lr(lr: Floats, code: _Code, runs: list[Hashable]) -> None:
    bad = np.flatnonzero(~np.isnan(lr) & ~((lr >= 0) & np.isfinite(lr)))
    if len(bad):
        raise UserError(f"lr={lr[bad[0]]:g} of run {runs[code[bad[0]]]}: must be {A_RATE}")
    first = _first(lr, code, len(runs))[code]
    differs = np.flatnonzero(np.abs(lr - first) > 1e-6 * np.abs(first))
    if len(differs):
        row = differs[0]
        raise UserError(
            f"lr={lr[row]:g} of run {runs[code[row]]}: is {first[row]:g} in another row; give each "
            "run one lr, and the lr of each step, if it changes, in another column (lr_at_step)"
        )


def _check_classes(classes: Floats, runs: list[Hashable]) -> None:
    bad = np.flatnonzero(~np.isnan(classes) & ~((classes >= 2) & np.isfinite(classes)))
    if len(bad):
        raise UserError(
            f"num_classes={classes[bad[0]]:g} of run {runs[bad[0]]}: must be 2 or more, or empty "
            "where there are no classes"
        )


def _better_by_epoch(steps: Mapping[str, Floats], code: _Code, runs: int) -> NDArray[np.bool_]:
    """Return (runs,) whether more of a run's rows have an epoch than have a step."""
    counts = {
        name: np.bincount(code[np.isfinite(steps[name])], minlength=runs)
        for name in ("step", "epoch")
    }
    return counts["epoch"] > counts["step"]


def _ordered(code: _Code, rows: Mapping[str, Floats]) -> tuple[_Code, dict[str, Floats]]:
    """Sort by run and position; drop rows without a position, and merge rows at the same one."""
    at = rows["at"]
    sorted_rows = dict(rows)
    between = np.diff(code)
    in_order = (between > 0) | ((between == 0) & (np.diff(at) >= 0))
    if not (np.isfinite(at).all() and in_order.all()):  # copying many rows is slow
        keep = np.flatnonzero(np.isfinite(at))
        keep = keep[np.lexsort((at[keep], code[keep]))]
        code, sorted_rows = code[keep], {name: values[keep] for name, values in rows.items()}
    at = sorted_rows["at"]
    new = np.append(True, (np.diff(code) != 0) | (np.diff(at) != 0))[: len(at)]
    if not new.all():
        # A later row, of a resumed run, replaces an earlier one.
        group = np.cumsum(new)
        last = pd.DataFrame(sorted_rows).groupby(group).last()
        sorted_rows = {name: last[name].to_numpy(dtype=np.float64) for name in sorted_rows}
        code = code[new]
    return code, sorted_rows
