"""Write the answer to a table of end losses: the lrs, the settings, how the best lr moves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from lrlab.process import fitting
from lrlab.process.plain import is_number
from lrlab.verdicts.answer import Answer
from lrlab.verdicts.end_losses import ALONE, NOT_FINITE, key_of, varying
from lrlab.verdicts.printed import answer_words

_SHOWN = 40  # settings in the table
_JUDGED = ["outcome", "side", "evidence", "best_loss"]


def text(found: pd.DataFrame, told: Sequence[Answer], width: int | None = None) -> str:
    """Return the table of the lrs, one row a setting where there are several, and the answer."""
    parts = [_by_lr(found, width)]
    if len(told) > 1:
        parts.append(_by_setting(told, width))
    parts.append("\n".join(fitting.sentences(_answer_lines(told), width, answer_words.HEAD)))
    return "\n\n".join(parts)


def _by_lr(found: pd.DataFrame, width: int | None) -> str:
    """Return one line for each setting and lr: the median end loss, and what it is."""
    names = varying(found.drop(columns=_JUDGED))
    groups: dict[tuple[Any, ...], list[Mapping[Any, Any]]] = {}
    for row in found.to_dict("records"):
        groups.setdefault((*key_of(row, names), float(row["lr"])), []).append(row)
    ordered = sorted(groups.items(), key=lambda each: [_order(value) for value in each[0]])
    if set(found["outcome"]) <= {ALONE, NOT_FINITE}:  # a search: each setting has one lr
        ordered.sort(key=lambda each: each[0][-1])
    lines: dict[str, list[str]] = {name: [] for name in (*names, "lr", "runs", "end loss", "")}
    lines["above the lowest"] = []
    for key, rows in ordered[: 25 * _SHOWN]:
        ends = [float(row["end_loss"]) for row in rows]
        end, best = float(np.median(ends)), float(rows[0]["best_loss"])
        for name, value in zip(names, key, strict=False):
            lines[name].append(_cell(value))
        lines["lr"].append(f"{key[-1]:g}")
        lines["runs"].append(str(len(rows)))
        lines["end loss"].append(f"{end:.4g}" if math.isfinite(end) else "non-finite")
        lines[""].append(_word(rows))
        is_alone = any(row["outcome"] == ALONE for row in rows)
        lines["above the lowest"].append("-" if is_alone else _above(end, best))
    if set(lines["runs"]) == {"1"}:
        del lines["runs"]
    if set(lines["above the lowest"]) == {"-"}:
        del lines["above the lowest"]
    lines["outcome"] = lines.pop("")
    left = {name for name in names if not pd.api.types.is_numeric_dtype(found[name])}
    least = ["above the lowest", *reversed(names)]
    shown = fitting.fitted(lines, left | {"outcome"}, width, least, "--output FILE writes")
    return "\n".join(shown)


def _word(rows: Sequence[Mapping[Any, Any]]) -> str:
    words = [str(row["outcome"]) for row in rows]
    lost = words.count(NOT_FINITE)
    word = next((each for each in words if each != NOT_FINITE), NOT_FINITE)
    return f"{word}, {lost} not finite" if 0 < lost < len(words) else word


def _above(end: float, best: float) -> str:
    if not (math.isfinite(end) and math.isfinite(best)):
        return "-"
    return f"{100 * (end / best - 1):.1f}%" if best > 0 else f"{end - best:.3g}"


def _order(value: Any) -> tuple[int, float, str]:
    if is_number(value):
        return 0, float(value), ""
    return 1, 0.0, str(value)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _by_setting(told: Sequence[Answer], width: int | None) -> str:
    """Return one line for each setting: its best lr, the range as good, and the edge."""
    names = list(told[0].settings)
    rows = sorted(told, key=lambda a: [_order(value) for value in a.settings.values()])
    lines: dict[str, list[str]] = {
        **{name: [_cell(a.settings[name]) for a in rows[:_SHOWN]] for name in names},
        "best lr": ["none" if a.best_lr is None else f"{a.best_lr:g}" for a in rows[:_SHOWN]],
        "end loss": ["-" if a.best_lr is None else f"{a.best_loss:.4g}" for a in rows[:_SHOWN]],
        "as good": [_range(a.as_good) for a in rows[:_SHOWN]],
        "lrs": [str(a.lrs) for a in rows[:_SHOWN]],
        "edge": [_EDGES.get(a.edge, "-") for a in rows[:_SHOWN]],
        "try next": [_range(a.try_next) for a in rows[:_SHOWN]],
    }
    left = {"as good", "edge", "try next", *names}
    shown = fitting.fitted(lines, left, width, ["lrs", "end loss"], "--output FILE writes")
    if len(rows) > _SHOWN:
        shown.append(f"and {len(rows) - _SHOWN} other settings")
    return "\n".join(shown)


_EDGES = {"low": "smallest lr", "high": "largest lr", "both": "only lr"}


def _range(told: tuple[float, float] | None) -> str:
    if told is None:
        return "-"
    low, high = (f"{lr:.3g}" for lr in told)
    return low if low == high else f"{low} to {high}"


def _answer_lines(told: Sequence[Answer]) -> list[str]:
    """Return the answer's lines, without outcomes that need a curve."""
    if not told:
        return ["answer  none: no run has an lr"]
    best = told[0]
    plain = replace(best, fails_from=None, failed_seeds=0, not_judged=0)
    first, *rest = answer_words.text([plain]).splitlines()
    lines = [first, *(f"        {line}" for line in _not_finite(best)), *rest]
    lines += [f"        {line}" for line in moves(told)]
    lines.append("        curves: none, so only end losses are compared")
    return lines


def _not_finite(a: Answer) -> list[str]:
    if a.failed_seeds:
        of = f"{a.failed_seeds} of {a.seeds}"
        return [f"careful: {of} end losses at lr {a.best_lr:g} are not finite"]
    if a.fails_from is None or a.best_lr is None:
        return []
    if a.fails_above is None:
        return [f"careful: an end loss at lr {a.fails_from:g} is not finite"]
    return [f"not finite: end losses from lr {a.fails_above:g} on"]


def moves(told: Sequence[Answer]) -> list[str]:
    """Return a line for each setting that says how the best lr moves with it."""
    lines = []
    for name in told[0].settings if len(told) > 1 and told[0].search is None else ():
        by_value: dict[Any, list[Answer]] = {}
        for answer in told:
            if answer.best_lr is not None:
                by_value.setdefault(answer.settings[name], []).append(answer)
        if len(by_value) > 1:
            lines.append(_move(name, by_value))
    return lines


def _move(name: str, by_value: Mapping[Any, Sequence[Answer]]) -> str:
    values = sorted(by_value, key=_order)
    lrs = {value: sorted(float(a.best_lr or 0) for a in by_value[value]) for value in values}
    shown = [f"{_cell(value)}: {_span(lrs[value])}" for value in values]
    listed = ", ".join(shown if len(shown) <= 8 else [*shown[:4], "...", *shown[-3:]])
    line = f"best lr by {name}: {listed}"
    pairs = [(float(v), lr) for v in values if is_number(v) and v > 0 for lr in lrs[v] if lr > 0]
    if len({value for value, _ in pairs}) == len(values):
        line += _slope(name, pairs)
    shared = _shared([a for each in by_value.values() for a in each])
    if shared is not None:
        line += f"; lr {shared} is as good for all"
    edges = sum(bool(a.edge) for each in by_value.values() for a in each)
    if edges:
        line += f"; {edges} at the edge of the lrs tried, where the best may lie further out"
    return line


def _slope(name: str, pairs: Sequence[tuple[float, float]]) -> str:
    """Return how the best lr goes with a number: the slope of log lr by log value."""
    x, y = np.log([value for value, _ in pairs]), np.log([lr for _, lr in pairs])
    if np.ptp(y) == 0:
        return "; it does not move"
    slope = float(np.polyfit(x, y, 1)[0])
    if abs(slope) < 0.05:
        return "; no trend"
    return f"; it {'rises' if slope > 0 else 'falls'} about as {name}^{slope:.2g}"


def _span(lrs: Sequence[float]) -> str:
    return f"{lrs[0]:g}" if lrs[0] == lrs[-1] else f"{lrs[0]:g} to {lrs[-1]:g}"


def _shared(told: Sequence[Answer]) -> str | None:
    ranges = [a.as_good for a in told if a.as_good is not None]
    low, high = max(r[0] for r in ranges), min(r[1] for r in ranges)
    return None if low > high else f"{low:g}" if low == high else f"{low:g} to {high:g}"
