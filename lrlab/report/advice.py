"""Write the answer of a sweep as a part of the page, in the words of the terminal."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lrlab.report.chart import setting_text
from lrlab.report.markup import Markup, render
from lrlab.verdicts import loss_kinds
from lrlab.verdicts.outcomes import OUTCOMES

if TYPE_CHECKING:
    from lrlab.verdicts.answer import Answer

_EDGES = {"low": "smallest tried", "high": "largest tried", "both": "only one tried"}
_STACK = 6  # dots over each other at one lr; more are counted
_MARK = 0.6  # percent of the axis: half the width of the mark at a single lr
_MARGIN = 0.04  # percent of the axis, free at each end


def section(
    answers: Sequence[Answer], rows: Sequence[Mapping[Any, Any]], command: str = ""
) -> Markup:
    """Return the answer for the best settings in full, and those for others as a table.

    Several kinds of loss do not compare: the answer for the best settings of each is in full.

    Args:
        answers: as from `recommend.recommend`, the best first.
        rows: all verdicts as mappings; those with an answer's settings are drawn on its axis.
        command: the command line that began the sweep, for the command to run next; "" if unknown.
    """
    from lrlab.verdicts.printed.answer_words import NOT_COMPARABLE
    from lrlab.verdicts.recommend import best_of_each

    firsts = best_of_each(answers) if answers else []
    others = [answer for answer in answers if all(answer is not first for first in firsts)]
    return render(
        "answer.html",
        best=[_in_full(first, answers, rows, command) for first in firsts],
        others=[_in_short(each) for each in others],
        loss=judged_by(rows),
        not_comparable=NOT_COMPARABLE.capitalize(),
    )


def _in_full(
    first: Answer, answers: Sequence[Answer], rows: Sequence[Mapping[Any, Any]], command: str
) -> dict[str, Any]:
    """Return the answer for the best combination among those of its kind of loss."""
    from lrlab.verdicts.printed.answer_words import details

    # In a search all runs count, whatever their settings.
    mine = [row for row in rows if first.search is not None or _belongs(row, first)]
    of = [a for a in answers if loss_kinds.kind(a.settings) == loss_kinds.kind(first.settings)]
    counts = [(name, count) for name, count in (first.counts or {}).items() if count]
    use = "Trained alone: lr" if first.is_alone else "Use lr"
    is_refused = first.best_lr is None
    best_of = f"The best of {len(of)} settings: " if first.settings and len(of) > 1 else ""
    return {
        "where": best_of + _settings(first),
        "headline": "No learning rate is recommended" if is_refused else use,
        "lr": None if is_refused else f"{first.best_lr:g}",
        "lead": _lead(first),
        "ruler": ruler(first, mine, _in_words(first)),
        "counts": sorted(counts, key=lambda each: OUTCOMES.index(each[0])),
        "details": [line.partition(": ")[::2] for line in details(first)],
        "next": next_command(first, command),
    }


def judged_by(rows: Sequence[Mapping[Any, Any]]) -> str:
    """Return the loss that decides, in words: val loss, or train loss without one.

    rows: verdicts as mappings.
    """
    from lrlab.verdicts.judging import most_judged_by

    return most_judged_by(row.get("judged_by") for row in rows).replace("_", " ") or "loss"


def _lead(a: Answer) -> str:
    """Return the text after the lr in the answer's first line."""
    from lrlab.verdicts.printed.answer_words import headline

    line = headline(replace(a, settings={})).removeprefix("answer  ")
    told = line.partition(": ")[2]
    return f"{told[:1].upper()}{told[1:]}."


def next_command(a: Answer, command: str) -> str:
    """Return the sweep's command line over the range to try next; "" if either is not known."""
    from lrlab.verdicts.printed.answer_json import next_words

    return shlex.join(next_words(a, shlex.split(command)))


def _in_short(a: Answer) -> dict[str, str]:
    if a.best_lr is None:
        return {"settings": _settings(a), "refusal": a.refusal}
    low, high = a.as_good or (a.best_lr, a.best_lr)
    return {
        "settings": _settings(a),
        "lr": f"{a.best_lr:g}",
        "loss": f"{a.best_loss:.4g}",
        "as_good": f"{low:g} to {high:g}" if low < high else "–",
        "edge": _EDGES.get(a.edge, "–"),
        "at_end": a.at_end or "–",
    }


def _belongs(row: Mapping[Any, Any], a: Answer) -> bool:
    return all(setting_text(row.get(name)) == setting_text(a.settings[name]) for name in a.settings)


def _settings(a: Answer) -> str:
    return ", ".join(f"{name} {setting_text(value)}" for name, value in a.settings.items())


def _in_words(a: Answer) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in (a.counts or {}).items())
    if a.best_lr is None:
        return f"The learning rates tried: {counts}."
    low, high = a.as_good or (a.best_lr, a.best_lr)
    return f"The learning rates tried: {counts}. Best {a.best_lr:g}, as good {low:g} to {high:g}."


# --- the lr axis ----------------------------------------------------------------------------------


def ruler(answer: Answer, rows: Sequence[Mapping[Any, Any]], label: str) -> Markup:
    """Draw the axis from the smallest to the largest lr, logarithmic; nothing without an lr.

    Args:
        rows: the verdicts of the runs that the answer is about: run, lr, outcome.
        label: the axis in words, for screen readers.
    """
    by_lr: dict[float, list[str]] = {}
    for row in rows:
        if row["lr"] > 0 and math.isfinite(row["lr"]):
            by_lr.setdefault(float(row["lr"]), []).append(str(row["outcome"]))
    if not by_lr:
        return Markup("")
    lrs = sorted(by_lr)
    low, high = (lrs[0], lrs[-1]) if len(lrs) > 1 else (lrs[0] / 3, lrs[0] * 3)

    def place(lr: float) -> float:
        """Return the position in percent from the left."""
        share = (math.log(lr) - math.log(low)) / (math.log(high) - math.log(low))
        return 100 * (_MARGIN + (1 - 2 * _MARGIN) * share)

    def border(lr: float, to: int) -> float:
        """Return the middle between this and the next lr tried, in percent."""
        neighbour = lrs.index(lr) + to if lr in lrs else -1
        if not 0 <= neighbour < len(lrs):
            return 0.0 if to < 0 else 100.0
        return (place(lr) + place(lrs[neighbour])) / 2

    bands = []
    if answer.best_lr is not None:
        good = answer.as_good or (answer.best_lr, answer.best_lr)
        # They end with the lrs tried: nothing is known beyond.
        left, right = place(good[0]) - _MARK, place(good[1]) + _MARK
        if answer.too_small is not None and answer.too_small < good[0]:
            bands.append(("small", 0.0, min(left, border(answer.too_small, +1)), "too small"))
        for lr, text in ((answer.too_large, "too large"), (answer.fails_from, "runs fail")):
            if lr is not None and lr > good[1]:
                bands.append(("large", max(right, border(lr, -1)), 100.0, text))
                break
        if good[0] < good[1]:
            bands.append(("good", left, right, "as good as the best"))
        else:
            bands.append(("good mark", left, right, ""))
    highest = min(_STACK + 1, max(map(len, by_lr.values())))
    return render(
        "ruler.html",
        lrs=len(by_lr),
        height=f"{2.6 + 0.9 * highest:.1f}",
        label=label,
        bands=bands,
        stacks=[(place(lr), f"lr {lr:g}: {', '.join(by_lr[lr])}", by_lr[lr]) for lr in lrs],
        most=_STACK,
        best=place(answer.best_lr) if answer.best_lr else None,
        ticks=[(place(lr), text, kind) for lr, text, kind in _ticks(low, high)],
    )


def _ticks(low: float, high: float) -> list[tuple[float, str, str]]:
    """Return (lr, text, kind) at the decades, or at 1, 2 and 5 of each if those are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [10.0**d for d in decades if low / 1.0001 <= 10.0**d <= high * 1.0001]
    if len(found) < 3:
        found = [m * 10.0**d for d in decades for m in (1, 2, 5)]
        found = [lr for lr in found if low / 1.0001 <= lr <= high * 1.0001]
    if len(found) < 2:
        found = sorted({low, high})
    step = math.ceil(len(found) / 9)
    return [(lr, f"{lr:g}", "" if i % step == 0 else "bare") for i, lr in enumerate(found)]
