"""The answer of a sweep in prose and key figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lrlab import loss_kinds
from lrlab.report.chart import OUTCOMES, setting_text
from lrlab.report.markup import Markup, tag
from lrlab.report.ruler import ruler

if TYPE_CHECKING:
    from lrlab.answer import Answer, ToTarget


def section(answers: Sequence[Answer], rows: Sequence[Mapping[Any, Any]]) -> Markup:
    """The answer for the best combination of settings in full, the others as a table.

    Of several kinds of loss, which do not compare, the best combination of each is told in full.

    Args:
        answers: as from `answer.recommend`, the best first.
        rows: all verdicts as mappings; those with an answer's settings are drawn on its axis.
    """
    if not answers:
        return tag("section", tag("h2", "No answer yet"), id="answer", class_="answer")
    from lrlab.answer import best_of_each
    from lrlab.answer_words import NOT_COMPARABLE

    firsts = best_of_each(answers)
    others = [answer for answer in answers if all(answer is not first for first in firsts)]
    several = tag("p", f"{NOT_COMPARABLE.capitalize()}.", class_="note")
    return tag(
        "section",
        [_in_full(first, answers, rows) for first in firsts],
        several if len(firsts) > 1 else None,
        _others(others, judged_by(rows)),
        id="answer",
        class_="answer" if firsts[0].best_lr is not None else "answer refusal",
        tabindex="-1",
    )


def _in_full(
    first: Answer, answers: Sequence[Answer], rows: Sequence[Mapping[Any, Any]]
) -> list[Markup | None]:
    """The answer for the best combination among those of its kind of loss."""
    mine = [row for row in rows if _belongs(row, first)]
    loss = judged_by(mine)
    said = list(_sentences(first, loss))
    of = [a for a in answers if loss_kinds.kind(a.settings) == loss_kinds.kind(first.settings)]
    return [
        tag("p", _which(first, len(of)), class_="where") if first.settings else None,
        tag("h2", _headline(first)),
        tag("p", " ".join(said), class_="lead") if said else None,
        ruler(first, mine, _in_words(first)),
        _outcomes(first),
        tag("dl", [_figure(*each) for each in _figures(first, loss)], class_="figures"),
    ]


def judged_by(rows: Sequence[Mapping[Any, Any]]) -> str:
    """The loss that decides, in words: val loss, or train loss where there is no other.

    rows: verdicts as mappings.
    """
    from lrlab.verdicts import most_judged_by

    return most_judged_by(row.get("judged_by") for row in rows).replace("_", " ") or "loss"


def _headline(a: Answer) -> list[Any]:
    if a.best_lr is None:
        return ["No learning rate is recommended"]
    return ["Use lr ", tag("strong", f"{a.best_lr:g}")]


def _sentences(a: Answer, loss: str) -> list[str]:
    if a.best_lr is None:
        following = "" if a.try_next is None else f" Try lr={_interval(a.try_next)} next."
        return [f"{_capital(a.refusal)}.{following}"]
    low, high = a.as_good or (a.best_lr, a.best_lr)
    by = f"median of {a.seeds} seeds" if a.seeds > 1 else "one seed"
    said = [f"With it the {loss} ended at {a.best_loss:.4g} ({by})."]
    if low < high:
        said.append(f"From {low:g} to {high:g} it makes no difference that can be told.")
    if a.failed_seeds:
        said.append(
            f"Careful: {a.failed_seeds} of its {a.seeds} seeds failed, and fewer at no other lr."
        )
    if a.overshoots_from is not None:
        said.append(f"From {a.too_large:g} on, steps overshoot or fail.")
    elif a.too_large is not None:
        said.append(f"From {a.fails_from:g} on, runs fail.")
    if a.best_overshoots:
        said.append("Its own steps are too long to end with.")
    if a.too_small is not None and a.too_small < a.best_lr:
        said.append(f"At {a.too_small:g} and below, steps are too small for this budget.")
    elif a.too_small is not None:
        said.append("It still undershoots in this budget.")
    if a.decay_helps:
        said.append(f"An lr that decays would take about {_less(a)} off the train loss left.")
    if a.overfits:
        said.append(
            f"It overfits: val loss rose from its lowest, {a.overfit_from:.3g}; stop earlier or "
            "regularise."
        )
    if a.edge:
        following = "" if a.try_next is None else f": try lr={_interval(a.try_next)} next"
        said.append(f"It is {_edge(a)}, so the best may lie beyond{following}.")
    return said


def _figures(a: Answer, loss: str) -> list[tuple[str, str, str]]:
    """(name, figure, note) of each."""
    if a.best_lr is None:
        told = [] if a.try_next is None else [("Try next", _interval(a.try_next), "lr")]
        return [*told, ("Judged", f"{a.runs - a.not_judged} of {a.runs}", "runs")]
    low, high = a.as_good or (a.best_lr, a.best_lr)
    if math.isnan(a.noise):
        within = "came 99% of the way to the best" if low < high else "no other came 99% of its way"
    else:
        within = "within seed noise" if low < high else "no other is within seed noise"
    found = [
        ("Best lr", f"{a.best_lr:g}", f"{loss} {a.best_loss:.4g} at its end (run {a.best_run})"),
        ("As good", f"{low:g} to {high:g}" if low < high else f"{low:g} only", within),
    ]
    if a.overshoots_from is not None:
        fails = "no run failed" if a.fails_from is None else f"runs fail from {a.fails_from:g} on"
        found.append(("Overshooting from", f"{a.overshoots_from:g}", fails))
    elif a.fails_from is not None:
        found.append(("Failing from", f"{a.fails_from:g}", "a run diverged or collapsed there"))
    else:
        where = (
            "only at its end, at no larger lr" if a.best_overshoots else "at no lr that was tried"
        )
        found.append(("Overshooting from", "–", where))
    if a.too_small is None:
        found.append(("Undershooting below", "–", "at no lr that was tried"))
    else:
        found.append(("Undershooting at, below", f"{a.too_small:g}", "in this budget"))
    if math.isnan(a.decay_gain):
        found.append(("Decay gain", "–", "not measured: no branch test"))
    else:
        gain = f"{round(a.decay_gain, 2) + 0.0:.2f}".replace("-", "−")
        if a.overfits:
            note = "in log train loss; it overfits, so val loss need not follow"
            found.append(("Decay gain", gain, note))
        elif a.decay_helps:
            note = f"in log train loss: {_less(a)} less, worth a schedule"
            found.append(("Decay gain", gain, note))
        else:
            note = f"a tenth of the lr at the end wins nothing ({gain} in log train loss)"
            found.append(("Decay gain", "none", note))
    if a.edge:
        following = "" if a.try_next is None else f"try {_interval(a.try_next)} next"
        found.append(("At the edge", "yes", f"it is {_edge(a)}; {following}".rstrip("; ")))
    else:
        found.append(("At the edge", "no", "larger and smaller lrs are known to be worse"))
    found += _to_target(a)
    spread = "seed=0,1,2 would tell chance from effect"
    if a.seeds > 1:
        spread = "spread unknown" if math.isnan(a.noise) else f"{loss} varies by {a.noise:.2g}"
    if a.not_judged:
        spread += f"; {a.not_judged} of {a.runs} runs had not their whole budget"
    found.append(("How sure", "one seed" if a.seeds == 1 else f"{a.seeds} seeds", spread))
    return found


def _to_target(a: Answer) -> list[tuple[str, str, str]]:
    reached = sorted((e for e in a.to_target if math.isfinite(e.steps)), key=lambda e: e.steps)
    if not reached:
        return []
    never = sum(math.isinf(each.steps) for each in a.to_target)
    note = f"at lr {reached[0].lr:g}{_seconds(reached[0])}"
    note += f"; never at {never} of {len(a.to_target)} lrs" if never else ""
    return [(f"Loss {a.target_loss:.3g} first in", f"{reached[0].steps:,.0f} {a.unit}s", note)]


def _seconds(each: ToTarget) -> str:
    return f", {each.seconds:.3g} s" if math.isfinite(each.seconds) else ""


def _figure(name: str, value: str, note: str) -> Markup:
    return tag("div", tag("dt", name), tag("dd", tag("b", value), tag("span", note)))


def _outcomes(a: Answer) -> Markup | None:
    counts = {name: count for name, count in (a.counts or {}).items() if count}
    if not counts:
        return None
    items = [
        tag("li", tag("i", class_=f"dot o-{name}"), f"{count} {name}")
        for name, count in sorted(counts.items(), key=lambda each: OUTCOMES.index(each[0]))
    ]
    return tag("ul", items, class_="key", aria_label="Runs by outcome")


def _others(others: Sequence[Answer], loss: str) -> Markup | None:
    if not others:
        return None
    rows = []
    for a in others:
        if a.best_lr is None:
            cells = [tag("td", "–", class_="n"), tag("td", a.refusal, colspan=3)]
        else:
            low, high = a.as_good or (a.best_lr, a.best_lr)
            cells = [
                tag("td", f"{a.best_lr:g}", class_="n"),
                tag("td", f"{a.best_loss:.4g}", class_="n"),
                tag("td", f"{low:g} to {high:g}" if low < high else "–"),
                tag("td", f"{_less(a)} less train loss" if a.decay_helps else "–"),
            ]
        rows.append(tag("tr", tag("th", _settings(a), scope="row"), cells))
    heads = ("settings", "best lr", f"its {loss}", "as good", "decay would win")
    numeric = ("best lr", f"its {loss}")
    head = [tag("th", name, scope="col", class_="n" if name in numeric else None) for name in heads]
    return tag(
        "div",
        tag("h3", "With other settings"),
        tag(
            "div",
            tag("table", tag("thead", tag("tr", head)), tag("tbody", rows)),
            class_="scroll",
            tabindex="0",
            role="region",
            aria_label="The answer with other settings",
        ),
        class_="others",
    )


def _belongs(row: Mapping[Any, Any], a: Answer) -> bool:
    return all(str(row.get(name)) == str(value) for name, value in a.settings.items())


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


def _edge(a: Answer) -> str:
    which = "only" if a.lrs == 1 else {"high": "largest", "low": "smallest"}.get(a.edge, "only")
    return f"the {which} lr tried"


def _less(a: Answer) -> str:
    return f"{-math.expm1(-a.decay_gain):.0%}"


def _interval(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.3g}..{interval[1]:.3g}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
