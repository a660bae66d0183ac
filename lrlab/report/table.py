"""The table of all runs with their verdicts, which also switches the curves on and off."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrlab.report.advice import judged_by
from lrlab.report.chart import setting_text
from lrlab.report.markup import Markup, tag
from lrlab.verdicts.outcomes import FAILED, OUTCOMES, css_class


@dataclass(frozen=True)
class _Column:
    """One column: what it is called, a row's cell, and for numbers what to sort by."""

    name: str
    cell: Callable[[Mapping[Any, Any]], Any]
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
    """The table with its filters.

    Args:
        rows: one a run: its verdict, and of `analysis.runs` state, error, test_acc ...
        settings: names of the settings that differ, lr aside.
        best: the recommended runs, one for each kind of loss.
        drawn: the runs in the chart, as text.
        notes: what was not measured.
    """
    columns = _columns(rows, settings)
    head = [
        tag(
            "th",
            tag("span", "in chart", class_="unseen"),
            scope="col",
            class_="tick no-print",
        ),
        *(
            tag(
                "th",
                tag("button", column.name, tag("span", class_="arrow", aria_hidden="true")),
                scope="col",
                class_=column.kind or None,
                aria_sort="ascending" if column.name == "run" else "none",
                title=column.means or None,
                data_numeric=column.sort is not None,
                data_name=column.name,
            )
            for column in columns
        ),
    ]
    bodies = [_body(row, columns, settings, best, drawn) for row in rows]
    return tag(
        "section",
        tag("h2", "Runs and verdicts"),
        _filters(rows, settings),
        tag(
            "div",
            tag(
                "table",
                tag("caption", "All runs, with verdict and evidence", class_="unseen"),
                tag("thead", tag("tr", head)),
                bodies,
                id="verdicts",
            ),
            class_="scroll tall",
            tabindex="0",
            role="region",
            aria_label="Runs and verdicts",
        ),
        [tag("p", note, class_="note") for note in notes],
        id="runs",
    )


def _body(
    row: Mapping[Any, Any],
    columns: Sequence[_Column],
    settings: Sequence[str],
    best: Collection[Hashable],
    drawn: Sequence[str],
) -> Markup:
    """A run: its cells, and below them the evidence, which is too long for a column."""
    run = str(row["run"])
    box = tag(
        "input",
        type="checkbox",
        checked=run in drawn,
        disabled=run not in drawn,
        aria_label=f"Show run {run} in the chart",
    )
    cells = []
    for column in columns:
        value = None if column.sort is None else column.sort(row)
        sort = None if value is None else "" if math.isnan(value) else repr(float(value))
        content = column.cell(row)
        if column.name == "run" and row["run"] in best:
            content = [content, " ", tag("span", "best", class_="tag")]
        name = "th" if column.name == "run" else "td"
        scope = "row" if name == "th" else None
        cells.append(tag(name, content, class_=column.kind or None, data_v=sort, scope=scope))
    box_cell = tag("td", box, tag("i", class_="swatch", aria_hidden="true"), class_="tick no-print")
    evidence = tag("td", tag("div", row["evidence"]), colspan=len(columns), class_="evidence")
    return tag(
        "tbody",
        tag("tr", box_cell, cells),
        tag("tr", tag("td", class_="no-print"), evidence),
        data_run=run,
        data_outcome=row["outcome"],
        **{f"data_s{i}": setting_text(row.get(name)) for i, name in enumerate(settings)},
        class_="best" if row["run"] in best else None,
    )


def _columns(rows: Sequence[Mapping[Any, Any]], settings: Sequence[str]) -> list[_Column]:
    def any_finite(name: str) -> bool:
        return any(math.isfinite(_number(row.get(name))) for row in rows)

    columns = [
        _Column("run", lambda row: str(row["run"]), _run_order(rows), "n"),
        _numeric("lr", "lr", "{:.6g}", "the learning rate that the schedule multiplies"),
    ]
    columns += [
        _Column(name, lambda row, name=name: setting_text(row.get(name)), _order(rows, name))
        for name in settings
    ]
    columns.append(
        _Column(
            "outcome",
            lambda row: [tag("i", class_=f"dot {css_class(row['outcome'])}"), row["outcome"]],
            kind="whole",
        )
    )
    # Of a run that failed the mode is known without any measurement.
    if any(row["step_mode"] != "unknown" and row["outcome"] not in FAILED for row in rows):
        columns.append(
            _Column(
                "steps",
                lambda row: "–" if row["step_mode"] == "unknown" else row["step_mode"],
                means="how its steps behave",
            )
        )
    if any(row.get("at_end") for row in rows):
        means = "how it stood at its end; the evidence says by what"
        columns.append(
            _Column("at the end", lambda row: row.get("at_end") or "–", kind="whole", means=means)
        )
    columns.append(
        _numeric(judged_by(rows), "end_loss", "{:.4g}", "median of the last evaluations", inf="∞")
    )
    if any_finite("test_acc"):
        columns.append(_numeric("test acc", "test_acc", "{:.2%}", "accuracy on the test data"))
    if any_finite("decay_gain"):
        means = "log loss that a tenth of the lr would still win at the end"
        columns.append(_numeric("decay gain", "decay_gain", "{:.2f}", means, inf="∞"))
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


def _run_order(rows: Sequence[Mapping[Any, Any]]) -> Callable[[Mapping[Any, Any]], float] | None:
    order = {row["run"]: i for i, row in enumerate(rows)}
    return lambda row: float(order[row["run"]])


def _order(
    rows: Sequence[Mapping[Any, Any]], name: str
) -> Callable[[Mapping[Any, Any]], float] | None:
    """Numbers sort as numbers; a column with any text in it sorts as text."""
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


def _filters(rows: Sequence[Mapping[Any, Any]], settings: Sequence[str]) -> Markup:
    counts: dict[str, int] = {}
    for outcome in OUTCOMES:
        if found := sum(row["outcome"] == outcome for row in rows):
            counts[outcome] = found
    outcomes = [
        tag(
            "button",
            tag("i", class_=f"dot {css_class(name)}"),
            f"{name} ",
            tag("small", count),
            type="button",
            class_="chip",
            aria_pressed="false",
            data_outcome=name,
        )
        for name, count in counts.items()
    ]
    selects = []
    for place, name in enumerate(settings):
        values = list(dict.fromkeys(setting_text(row.get(name)) for row in rows))
        if len(values) > 60:
            continue
        options = [tag("option", value, value=value) for value in values]
        selects.append(
            tag(
                "label",
                tag("span", name),
                tag("select", tag("option", "all", value=""), options, data_setting=place),
            )
        )
    return tag(
        "div",
        tag(
            "label",
            tag("span", "search"),
            tag("input", type="search", id="search", placeholder="run, lr, evidence …"),
        ),
        selects,
        tag("div", outcomes, role="group", aria_label="Show only these outcomes", class_="chips"),
        tag("output", f"{len(rows)} runs", id="count", aria_live="polite"),
        class_="filters no-print needs-js",
    )
