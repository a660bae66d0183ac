"""Write the comparison of several sweeps as text: tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from lrlab.comparison.by_lr import (
    At,
    Row,
    accuracy_column,
    best_ends,
    best_runs,
    by_lr,
    incomparable,
    told_apart,
)
from lrlab.comparison.differences import differences
from lrlab.comparison.reading import Side
from lrlab.process import fitting, paths
from lrlab.verdicts.judging import verdicts
from lrlab.verdicts.printed import answer_words

_HEAD = len("A  ")


class _Shape(NamedTuple):
    """The width that a table may have, and where all columns are; see ``fitting.fitted``."""

    width: int | None
    where: str

    def table(
        self, columns: Mapping[str, Sequence[str]], left: Set[str], least: Sequence[str] = ()
    ) -> list[str]:
        return fitting.fitted(columns, left, self.width, least, self.where)


def text(sides: Sequence[Side], width: int | None = None, where: str = "a pipe gets") -> str:
    """Return the whole comparison; ends without a newline.

    Args:
        width: columns of the terminal; None: no limit.
        where: the file with all columns, named if a narrow table leaves some out.
    """
    rows = by_lr(sides)
    why_not = incomparable(sides)
    shape = _Shape(width, where)
    told = [f"{side.letter}  {_indented(answer_words.text(side.answers))}" for side in sides]
    parts = [_sweep_lines(sides), *(each.splitlines() for each in told)]
    parts = ["\n".join(fitting.sentences(lines, width, _HEAD)) for lines in parts]
    parts.insert(1, _difference_text(sides, shape))
    if rows:
        of = "" if why_not else f" ({sides[0].verdicts['judged_by'].iloc[0]})"
        title = f"end loss{of}, median over seeds"
        if why_not:
            title += f"; not comparable, because {why_not}"
        parts.append(_block(title, rows, sides, "end", shape, ranked=not why_not))
        if name := accuracy_column(sides):
            title = f"{name.replace('_', ' ')}, median over seeds"
            parts.append(_block(title, rows, sides, "accuracy", shape, ranked=True))
        parts.append(_outcome_block(rows, sides, shape))
    lines = _best_lines(sides, why_not)
    parts.append("\n".join(fitting.sentences(lines, width, answer_words.HEAD)))
    return "\n\n".join(parts)


def _sweep_lines(sides: Sequence[Side]) -> list[str]:
    lines = []
    for side in sides:
        lrs, seeds = (len(side.verdicts[name].dropna().unique()) for name in ("lr", "seed"))
        told = f"{_count(len(side.runs), 'run')}, {_count(lrs, 'lr')}"
        told += f", {seeds} seeds" if seeds > 1 else ""
        lines.append(f"{side.letter}  {paths.display_path(side.path)}: {told}")
    return lines


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _difference_text(sides: Sequence[Side], shape: _Shape) -> str:
    found = differences(sides)
    if len(found) == 0:
        return "no difference in settings, versions, device or data"
    letters = [side.letter for side in sides]
    columns = {"differs": found["setting"].tolist()}
    columns |= {letter: found[letter].tolist() for letter in letters}
    return "\n".join(shape.table(columns, {"differs", *letters}))


def _indented(words: str) -> str:
    return words.removeprefix("answer  ").replace("\n        ", "\n   ")


def _block(
    title: str,
    rows: Sequence[Row],
    sides: Sequence[Side],
    measure: str,
    shape: _Shape,
    ranked: bool,
) -> str:
    """Return a table of one measure: lr, each sweep, and if ranked the best sweep and its lead."""
    columns = _heads(rows)
    is_loss = measure == "end"
    for side in sides:
        columns[side.letter] = [_value(row.at.get(side.letter), measure) for row in rows]
    if ranked:
        ranks = [_ranked(row, measure) for row in rows]
        columns["lowest" if is_loss else "highest"] = [each[0] for each in ranks]
        columns["by"] = [each[1] for each in ranks]
        columns["seed noise"] = [each[2] for each in ranks]
    left = {*rows[0].settings, "lowest", "highest", "seed noise"}
    least = ["seed noise", "by", "lowest", "highest", *reversed(list(rows[0].settings))]
    title_lines = fitting.sentences([title], shape.width)
    return "\n".join([*title_lines, *shape.table(columns, left, least)])


def _heads(rows: Sequence[Row]) -> dict[str, list[str]]:
    names = rows[0].settings
    return {
        "lr": [f"{row.lr:g}" for row in rows],
        **{name: [row.settings[name] for row in rows] for name in names},
    }


def _value(at: At | None, measure: str) -> str:
    if at is None:
        return "-"
    if measure == "accuracy":
        return "-" if math.isnan(at.accuracy) else f"{at.accuracy:.2%}"
    return "fails" if math.isinf(at.end) else f"{at.end:.4g}"


def _ranked(row: Row, measure: str) -> tuple[str, str, str]:
    """Return the best sweep's letter, its lead over the next, and whether that is noise."""
    sign = 1 if measure == "end" else -1
    values = {
        letter: (at.ends if measure == "end" else at.accuracies) for letter, at in row.at.items()
    }
    medians = {letter: median(each.values()) for letter, each in values.items() if each}
    order = sorted((sign * middle, letter) for letter, middle in medians.items())
    if len(order) < 2 or not math.isfinite(order[0][0]):
        return "-", "-", "-"
    (first, best), (second, other) = order[:2]
    if first == second:
        return "equal", "0", "-"
    if math.isinf(second):
        return best, "-", "the other fails" if len(order) == 2 else "the others fail"
    lead = f"{second - first:.3g}" if measure == "end" else f"{second - first:.2%}"
    return best, lead, told_apart(values[best], values[other])


def _outcome_block(rows: Sequence[Row], sides: Sequence[Side], shape: _Shape) -> str:
    columns = _heads(rows)
    for side in sides:
        cells = []
        for row in rows:
            at = row.at.get(side.letter)
            if at is None:
                cells.append("-")
            elif 0 < at.failed < len(at.ends):
                cells.append(f"{at.outcome} ({at.failed} of {len(at.ends)} failed)")
            else:
                cells.append(at.outcome)
        columns[side.letter] = cells
    left = {*rows[0].settings, *(side.letter for side in sides)}
    return "\n".join(["outcome", *shape.table(columns, left, list(rows[0].settings)[::-1])])


def _best_lines(sides: Sequence[Side], why_not: str) -> list[str]:
    """Return lines that compare the best of each sweep with that of the others."""
    having = [side for side in sides if side.answer.best_lr is not None]
    if not having:
        return ["best    nothing was learned in any sweep"]
    ends = {side.letter: best_ends(side) for side in having}
    order = sorted(having, key=lambda side: median(ends[side.letter].values()))
    if why_not:
        order = having
    lines = [
        f"best    {side.letter} {_indented(answer_words.headline(answer))}"
        for side in order
        for answer in side.answers
        if answer.best_lr is not None
    ]
    if why_not or len(order) < 2:
        return lines
    first, *others = order
    more = [*(_lead(first, other, ends) for other in others), *_time_lines(order)]
    return [*lines, *(f"        {line}" for line in more)]


def _lead(first: Side, other: Side, ends: Mapping[str, Mapping[Any, float]]) -> str:
    low, high = first.answer.best_loss, other.answer.best_loss
    if low == high:
        return f"{first.letter} and {other.letter} are equal"
    share = (high - low) / abs(high) if high else math.inf
    percent = f", {share:.1%}" if share >= 0.001 else ", less than 0.1%"
    lead = f"{high - low:.3g} lower than {other.letter}{percent if high else ''}"
    words = {
        "within": "which is within seed noise: they cannot be told apart",
        "beyond": "which is beyond seed noise",
        "few seeds": "which may be chance: more seeds would tell",
    }[told_apart(ends[first.letter], ends[other.letter])]
    return f"{first.letter} is {lead}, {words}"


def _time_lines(order: Sequence[Side]) -> list[str]:
    """Return how soon the best of each sweep reached the end loss of the last of them."""
    goal = max(side.answer.best_loss for side in order)
    told = []
    for side in order:
        runs = best_runs(side)["run"]
        found = verdicts(side.curves.loc[side.curves["run"].isin(runs)], target=goal)
        steps, seconds = median(found["steps_to_target"]), found["seconds_to_target"]
        if not math.isfinite(steps):
            continue
        known = seconds[np.isfinite(seconds)]
        time = f" ({median(known):.3g} s)" if len(known) else ""
        told.append(f"{side.letter} in {steps:,.0f} {found['unit'].iloc[0]}s{time}")
    return [f"loss {goal:.4g}: reached by {', '.join(told)}"] if len(told) > 1 else []
