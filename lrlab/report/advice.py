"""Write the answer of a sweep as a part of the page, in the words that a terminal shows."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lrlab.report.chart import setting_text
from lrlab.report.markup import Markup, render
from lrlab.report.ruler import ruler
from lrlab.verdicts import loss_kinds
from lrlab.verdicts.outcomes import OUTCOMES

if TYPE_CHECKING:
    from lrlab.verdicts.answer import Answer

_EDGES = {"low": "smallest tried", "high": "largest tried", "both": "only one tried"}


def section(
    answers: Sequence[Answer], rows: Sequence[Mapping[Any, Any]], command: str = ""
) -> Markup:
    """Return the answer for the best combination of settings in full, the others as a table.

    If there are several kinds of loss, which do not compare, the best combination of each is in
    full.

    Args:
        answers: as from `recommend.recommend`, the best first.
        rows: all verdicts as mappings; those with an answer's settings are drawn on its axis.
        command: the command line that began the sweep; the next command is made from it. "": not
            known.
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
    return {
        "where": _which(first, len(of)) if first.settings else "",
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


def _which(first: Answer, of: int) -> str:
    return f"The best of {of} settings: {_settings(first)}" if of > 1 else _settings(first)


def _settings(a: Answer) -> str:
    return ", ".join(f"{name} {setting_text(value)}" for name, value in a.settings.items())


def _in_words(a: Answer) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in (a.counts or {}).items())
    if a.best_lr is None:
        return f"The learning rates tried: {counts}."
    low, high = a.as_good or (a.best_lr, a.best_lr)
    return f"The learning rates tried: {counts}. Best {a.best_lr:g}, as good {low:g} to {high:g}."
