"""Read a table of end losses: one row a run, its lr and settings, and no curve."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from lrlab.errors import UserError, in_a_line
from lrlab.logs import columns, generic
from lrlab.logs.columns import Wanted
from lrlab.logs.log import Log, asked, plain_values, times
from lrlab.process.plain import A_RATE
from lrlab.tables import holes
from lrlab.tables.text_table import Table

PROGRAM = "end losses"
_FEW = 10  # rows that may be runs, though nothing but their lr tells them apart
_LOSSES = ("val", "test", "train")


def takes(table: Table, wanted: Wanted) -> bool:
    """Return whether each row is a run of its own: an lr, a loss, and no curve."""
    given = dict(wanted.columns)
    has_loss = any(columns.loss_of(name) for name in table.names) or "val_loss" in given
    base, of_step = columns.lr(table.names)
    has_lr = bool(base or of_step or wanted.lr_column or wanted.lr_from or wanted.lr)
    if not has_loss or not has_lr:
        return False
    if "step" in given or "epoch" in given:
        return False
    run = given.get("run") or columns.run(table.names)
    if run is not None and columns.is_run(run) and not _is_distinct(table, run):
        return False  # rows of one run: a curve, whose steps are missing
    if run is not None and len(table.lines) > 1 and _is_distinct(table, run):
        return True
    if columns.step(table.names) is not None and not generic.position(table):
        return False  # steps that are no numbers: whoever reads curves says so
    told = list(generic.position(table).values())
    return not told or not any(_moves(table, name) for name in told)


def _check_rows(table: Table, lr: np.ndarray, settings: list[str]) -> None:
    """Check that the rows are runs, where no other column tells them apart.

    Raises:
        UserError: their lr is that of one run: always the same, or falling, at least at the end.
    """
    told = lr[np.isfinite(lr)]
    moves = np.sign(np.diff(told))
    moves = moves[moves != 0]
    varies = any(len(set(table.cells[name])) > 1 for name in settings)
    if len(told) < _FEW or (varies and len(moves)):
        return
    turns = int((np.diff(moves) != 0).sum())
    what = ""
    if not len(moves):
        what = f"has lr {told[0]:g} in each row"
    elif moves[-1] < 0 and turns <= 1 and (turns or len(told) > 2 * _FEW):
        what = "has an lr that falls from row to row, like the schedule of one run"
    if what:
        raise UserError(
            f"{table.file}: {what}, and no column counts steps; add a column step, or a column run "
            "if each row is a run of its own"
        )


def _moves(table: Table, name: str) -> bool:
    """Return whether steps or epochs differ; equal ones are how long each run was trained."""
    return len(table.lines) < 2 or len(set(table.cells[name])) > 1


def _is_distinct(table: Table, name: str) -> bool:
    return len(set(table.cells[name])) == len(table.lines)


def read(table: Table, wanted: Wanted) -> list[Log]:
    """Return the runs: run, lr, end_loss, judged_by, and seed and settings.

    Raises:
        UserError: a loss is ambiguous, or a cell is no number.
    """
    given = asked(table, wanted)
    names, notes = table.names, [*table.notes]
    base, of_step = columns.lr(names)
    lr = given.get("lr") or base or of_step
    loss, judged_by = _loss(table, given)
    run = given.get("run") or columns.run(names)
    if run is not None and not _is_distinct(table, run):
        run = None
    seed = given.get("seed") or columns.seed(names)
    used = {lr, loss, run, seed, *generic.position(table).values()}
    rest = [name for name in names if name not in used]
    left = [name for name in rest if _is_left(table, name)]
    settings = [name for name in rest if name not in left]
    rates = table.numbers(lr) if lr else np.full(len(table.lines), math.nan)
    if run is None and seed is None:
        _check_rows(table, rates, settings)
        if len(table.lines) > 2 * _FEW and not settings:
            notes.append(
                "each row is taken as a run of its own; the rows of a range test are not, and its "
                "lowest loss recommends nothing"
            )
    values = _losses(table, loss)
    told = holes.is_written_nan(table.cells[loss])
    values = np.where(told, math.inf, values)
    frame = pd.DataFrame(
        {
            "run": table.cells[run] if run else [str(i) for i in range(len(table.lines))],
            "lr": rates,
            "seed": plain_values(table.cells[seed]) if seed else None,
            "end_loss": values,
            "judged_by": judged_by,
            **{name: plain_values(table.cells[name]) for name in settings},
        }
    )
    if told.any():
        notes.append(f"{loss} is written as nan {times(int(told.sum()))}: taken as not finite")
    if words := sorted({cell for cell in table.cells[loss] if _is_diverged(cell)}):
        notes.append(f"{loss} says {', '.join(words)[:80]}: taken as not finite")
    if blank := int(np.isnan(values).sum()):
        notes.append(f"{blank} of {len(frame)} runs have no {loss}, and were left out")
        frame = frame.loc[frame["end_loss"].notna()].reset_index(drop=True)
    bad = frame.loc[frame["lr"].notna() & ~frame["lr"].between(0, 1e300), "lr"]
    if len(bad):
        raise UserError(f"{table.file}: lr={bad.iloc[0]:g}: must be {A_RATE}")
    if frame.empty:
        raise UserError(f"{table.file}: has no run with a {loss}")
    took = {"end loss": loss}
    took |= {"run": run} if run else {}
    took |= {"seed": seed} if seed else {}
    took |= {"settings": in_a_line(", ".join(settings))} if settings else {}
    if left:
        notes.append(f"left out: {in_a_line(', '.join(left))[:160]}")
    return [Log(table.file, PROGRAM, frame, took, lr or "", tuple(notes), ends=True)]


def _is_diverged(cell: str) -> bool:
    return cell.lower().strip(".") in ("diverged", "div", "diverges", "divergence")


def _losses(table: Table, name: str) -> np.ndarray:
    """Return (rows,) the losses; inf where a cell says that the run diverged."""
    lost = [_is_diverged(cell) for cell in table.cells[name]]
    cells = ["" if is_lost else c for c, is_lost in zip(table.cells[name], lost, strict=True)]
    values = replace(table, cells={**table.cells, name: cells}, known={}).numbers(name)
    return np.where(lost, math.inf, values)


def _loss(table: Table, given: dict[str, str]) -> tuple[str, str]:
    """Return the column of the loss that decides, and what lrlab calls it."""
    for ours in ("val_loss", "train_loss"):
        if ours in given:
            return given[ours], ours
    for part in _LOSSES:
        found = columns.best_loss(table.names, part, table.count, table.file)
        if found is not None:
            told = set(columns.words(found)) & (columns.TRAIN | columns.VAL | columns.TEST)
            return found, f"{part}_loss" if told else "loss"
    raise UserError(f"{table.file}: has no loss in any row")


def _is_left(table: Table, name: str) -> bool:
    if columns.is_measured(name) or columns.is_no_setting(name) or not table.count(name):
        return True
    # A text that is another in each row tells runs apart, and is no setting: a date, a name.
    is_text = len(table.lines) > 3 and _is_distinct(table, name) and not table.is_number(name)
    return is_text or columns.plain(name).startswith(("tags_", "system_attrs_"))
