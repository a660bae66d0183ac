"""Write the table of all runs with their verdicts; its boxes switch the curves on and off."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrlab.report.advice import judged_by
from lrlab.report.chart import setting_text
from lrlab.report.markup import Markup, render
from lrlab.verdicts.outcomes import FAILED, OUTCOMES


@dataclass(frozen=True)
class _Column:
    """One column: its heading, a row's cell, and for numbers its sort key."""

    name: str
    cell: Callable[[Mapping[Any, Any]], str]
    sort: Callable[[Mapping[Any, Any]], float] | None = None
    kind: str = ""
    means: str = ""


def section(
    rows: Sequence[Mapping[Any, Any]],
    settings: Sequence[str],
    best: Collection[Hashable],
    drawn: Sequence[str],
    notes: Sequence[str] = (),
) -> Markup:
    """Return the table with its filters.

    Args:
        rows: one a run: its verdict, and its columns of `frames.runs`: state, error, test_acc ...
        settings: names of the settings that differ, except lr.
        best: the recommended runs, one for each kind of loss.
        drawn: the runs in the chart, as text.
        notes: what was not measured.
    """
    columns = _columns(rows, settings)
    counts = {name: sum(row["outcome"] == name for row in rows) for name in OUTCOMES}
    return render(
        "runs.html",
        filters=_filters(rows, settings),
        outcomes=[(name, count) for name, count in counts.items() if count],
        columns=columns,
        runs=[
            {
                "name": str(row["run"]),
                "outcome": row["outcome"],
                "settings": [setting_text(row.get(name)) for name in settings],
                "is_best": row["run"] in best,
                "is_drawn": str(row["run"]) in drawn,
                "cells": [(column, column.cell(row), _sort(column, row)) for column in columns],
                "evidence": row["evidence"],
            }
            for row in rows
        ],
        notes=notes,
    )


def _sort(column: _Column, row: Mapping[Any, Any]) -> str | None:
    """Return a cell's sort key, as Python writes floats; None to sort by its text."""
    value = None if column.sort is None else column.sort(row)
    return None if value is None else "" if math.isnan(value) else repr(float(value))


def _filters(
    rows: Sequence[Mapping[Any, Any]], settings: Sequence[str]
) -> list[tuple[int, str, list[str]]]:
    """Return (position, name, values) of each setting that fits a list of choices."""
    found = []
    for place, name in enumerate(settings):
        values = list(dict.fromkeys(setting_text(row.get(name)) for row in rows))
        if len(values) <= 60:
            found.append((place, name, values))
    return found


def _columns(rows: Sequence[Mapping[Any, Any]], settings: Sequence[str]) -> list[_Column]:
    def any_finite(name: str) -> bool:
        return any(math.isfinite(_number(row.get(name))) for row in rows)

    order = {row["run"]: float(i) for i, row in enumerate(rows)}
    columns = [
        _Column("run", lambda row: str(row["run"]), lambda row: order[row["run"]], "n"),
        _numeric("lr", "lr", "{:.6g}", "the learning rate that the schedule multiplies"),
    ]
    columns += [
        _Column(name, lambda row, name=name: setting_text(row.get(name)), _order(rows, name))
        for name in settings
    ]
    columns.append(_Column("outcome", lambda row: str(row["outcome"]), kind="whole"))
    # Runs that failed have a mode without any measurement.
    if any(row["step_mode"] != "unknown" and row["outcome"] not in FAILED for row in rows):
        columns.append(
            _Column(
                "steps",
                lambda row: "–" if row["step_mode"] == "unknown" else row["step_mode"],
                means="how its steps behave",
            )
        )
    if any(row.get("at_end") for row in rows):
        means = "the state at the end of training; the evidence says why"
        columns.append(
            _Column("at the end", lambda row: row.get("at_end") or "–", kind="whole", means=means)
        )
    columns.append(
        _numeric(judged_by(rows), "end_loss", "{:.4g}", "median of the last evaluations")
    )
    if any_finite("test_acc"):
        columns.append(_numeric("test acc", "test_acc", "{:.2%}", "accuracy on the test data"))
    if any_finite("decay_gain"):
        means = "how much a tenth of the lr would still lower the log loss at the end"
        columns.append(_numeric("decay gain", "decay_gain", "{:.2f}", means))
    if any_finite("steps_to_target"):
        target = next((_number(row.get("target_loss")) for row in rows), math.nan)
        means = f"{rows[0].get('unit', 'step')}s until the loss is {target:.3g}"
        columns.append(_numeric("to target", "steps_to_target", "{:,.0f}", means, inf="never"))
    if any(row.get("state") not in ("finished", "diverged", "", None) for row in rows):
        columns.append(_Column("state", _state, kind="words"))
    return columns


def _numeric(name: str, key: str, form: str, means: str, inf: str = "∞") -> _Column:
    def cell(row: Mapping[Any, Any]) -> str:
        value = _number(row.get(key))
        if math.isnan(value):
            return "–"
        if math.isinf(value):
            return inf if value > 0 else f"−{inf}"
        text = form.format(value)
        is_zero = not text.strip("-0.,%")
        return text.lstrip("-") if is_zero else text.replace("-", "−")

    return _Column(name, cell, lambda row: _number(row.get(key)), "n", means)


def _order(
    rows: Sequence[Mapping[Any, Any]], name: str
) -> Callable[[Mapping[Any, Any]], float] | None:
    """Return a sort key for numbers; None for a column with text, which sorts as text."""
    values = [row.get(name) for row in rows]
    if all(v is None or isinstance(v, int | float) for v in values):
        return lambda row: _number(row.get(name))
    return None


def _number(value: Any) -> float:
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError):
        return math.nan


def _state(row: Mapping[Any, Any]) -> str:
    state = str(row.get("state") or "")
    if state == "diverged" and math.isfinite(at := _number(row.get("first_nonfinite_step"))):
        return f"diverged at step {at:.0f}"
    if state == "pruned" and math.isfinite(at := _number(row.get("pruned_at_epoch"))):
        return f"pruned after epoch {at:.0f}"
    if state == "failed" and row.get("error"):
        return f"failed: {row['error']}"
    return state
