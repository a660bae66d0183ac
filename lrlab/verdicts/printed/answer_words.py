# pyright: strict
"""Write the answer as lines for a terminal."""

import math
from collections.abc import Sequence
from typing import Any

from lrlab.process import fitting
from lrlab.records.thresholds import THRESHOLDS
from lrlab.verdicts.answer import Answer, ToTarget
from lrlab.verdicts.mechanics import less
from lrlab.verdicts.noise import Rival
from lrlab.verdicts.pooled import NEAR
from lrlab.verdicts.recommend import best_of_each, comparable

NOT_COMPARABLE = "losses of different kinds do not compare, accuracies do"
HEAD = len("answer  ")  # columns of the words before a line's text
_OTHERS = 8  # further combinations of settings that the text shows, one line each
FAR = 10  # a lead of more than this × the noise is not due to the seed
_BINS = 6  # ranges of lrs of a search that the text shows


def text(answers: Sequence[Answer]) -> str:
    """Write the best combination in full, and others in one line each, with a note at an edge.

    If there are several kinds of loss, the best combination of each is shown in full.
    """
    if not answers:
        return "answer  none: there are no runs"
    firsts = best_of_each(answers)
    others = [answer for answer in answers if all(answer is not first for first in firsts)]
    lines: list[str] = []
    for first in firsts:
        lines += [headline(first), *(f"        {line}" for line in details(first))]
    for other in others[:_OTHERS]:
        lines += [headline(other), *(f"        {line}" for line in _edge_words(other))]
    if len(others) > _OTHERS:
        lines.append(f"        and {len(others) - _OTHERS} other settings, none of them better")
    if not comparable(answers):
        lines.append(f"        {NOT_COMPARABLE}")
    return "\n".join(lines)


def terminal_text(answers: Sequence[Answer], width: int | None) -> str:
    """Return the lines of `text`, wrapped to so many columns; None: not wrapped."""
    return "\n".join(fitting.sentences(text(answers).splitlines(), width, HEAD))


def headline(a: Answer) -> str:
    where = "".join(f"{name}={_setting(value)} " for name, value in a.settings.items())
    if a.best_lr is None:
        return f"answer  {where}no lr is recommended: {a.refusal}{_next(a)}"
    of = f"the median of {a.seeds} seeds" if a.seeds > 1 else "one seed"
    loss = f" ({a.judged_by.replace('_', ' ')})" if a.judged_by else ""
    line = f"answer  {where}lr={a.best_lr:g}: end loss {a.best_loss:.4g}{loss}, {of}"
    if a.is_alone:
        return f"{line}; no other lr was trained to its end, so it is not compared"
    low, high = a.as_good or (a.best_lr, a.best_lr)
    return line if low == high else f"{line}; lr {low:g} to {high:g} are as good"


def _setting(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def details(a: Answer) -> list[str]:
    """Return the further lines; without a recommended lr only those about the budget."""
    lines = _budget(a)
    if a.best_lr is None:
        return lines
    if a.failed_seeds:
        lines.append(f"careful: {a.failed_seeds} of {a.seeds} seeds failed at lr {a.best_lr:g}")
        lines[-1] += "; at no other lr did a smaller share fail" if a.lrs > 1 else ""
    elif a.fails_from is not None and a.fails_above is None:
        lines.append(f"careful: a run failed at lr {a.fails_from:g}, although it is not too large")
    if a.too_small is not None:
        lines.append(
            f"too small: lr {a.too_small:g} and below end with a higher loss in this budget"
        )
    lines += _too_large(a)
    if a.is_alone and a.step_words:
        lines.append(f"steps: {a.step_words}, as measured during training")
    lines += _at_end(a) + _search(a)
    lines += _edge_words(a) + _target_words(a)
    return [*lines, how_sure(a)]


def _budget(a: Answer) -> list[str]:
    if not (a.unit == "step" and 0 < a.steps < THRESHOLDS.few_steps):
        return []
    count = "1 step" if a.steps == 1 else f"{a.steps:g} steps"
    return [f"budget: only {count}, too few to mean much; raise epochs or lower batch_size"]


def _too_large(a: Answer) -> list[str]:
    if a.search is not None:  # its runs at one lr differ in other settings
        return (
            [] if a.fails_from is None else [f"failures: no run failed below lr {a.fails_from:g}"]
        )
    told: list[str] = []
    if a.overshoots_from is not None:
        why = " because they overfit" if a.larger_overfit else ""
        told.append(f"lr {a.overshoots_from:g} and above end with a higher loss{why}")
    if a.fails_above is not None:
        told.append(f"runs fail from lr {a.fails_above:g} on")
    return [f"too large: {'; '.join(told)}"] if told else []


def _at_end(a: Answer) -> list[str]:
    """Return how the runs at the best lr stood at their end."""
    if a.at_end == "overfitting":
        when = f" after epoch {a.overfit_epoch:g}" if math.isfinite(a.overfit_epoch) else ""
        return [
            f"overfitting: val loss was lowest{when}, at {a.overfit_from:.3g}, and ended at"
            f" {a.best_loss:.3g}; stop earlier or regularise"
        ]
    if a.at_end == "would anneal":
        return [
            f"decay: ending at lr/10 would cut the train loss by about {less(a.decay_gain)}; "
            "use a schedule"
        ]
    no_decay = math.isfinite(a.decay_gain) and a.decay_gain <= THRESHOLDS.gain
    if a.at_end == "still falling":
        lines = ["at the end: the loss was still falling; more epochs would lower it"]
    elif a.at_end == "too noisy to tell":
        what = "more epochs" if no_decay else "more epochs or decay"
        lines = [f"at the end: too noisy to tell whether {what} would lower the loss"]
    elif a.at_end == "settled":
        lines = ["at the end: the loss had settled"]
    else:
        lines = []
    if no_decay:
        most = f" by more than {less(THRESHOLDS.gain)}" if a.decay_gain > 0 else ""
        lines.append(f"decay: ending at lr/10 would not cut the train loss{most}")
    return lines


def _search(a: Answer) -> list[str]:
    found = a.search
    if found is None:
        return []
    lines = [f"search: the best of {found.ended} configurations trained to their end"]
    lines[0] += f"; {found.tried} were tried" if found.tried > found.ended else ""
    shown = sorted(sorted(found.bins, key=lambda each: each.end)[:_BINS], key=lambda b: b.low)
    ends = [f"{each.end:.4g}" if math.isfinite(each.end) else "fails" for each in shown]
    by_lr = [
        f"{each.low:.2g} to {each.high:.2g}: {end} ({each.count})"
        for each, end in zip(shown, ends, strict=True)
    ]
    lines.append(f"lowest end loss by lr (number of configurations): {'; '.join(by_lr)}")
    if found.importances:
        shares = [f"{name} {share:.0%}" for name, share in found.importances.items()]
        lines.append(f"what mattered (PED-ANOVA): {', '.join(shares)}")
    else:
        lines.append("what mattered: too few runs to say")
    count = "1 configuration" if found.near == 1 else f"{found.near} configurations"
    lines.append(f"coverage: {count} within a factor of {NEAR:g} of lr {a.best_lr:g}")
    if not found.edge and found.try_next:
        lines[-1] += f"{_next(a)}, and keep the other settings"
    return lines


def _edge_words(a: Answer) -> list[str]:
    if not a.edge or a.best_lr is None:
        return []
    which = {"high": "largest", "low": "smallest"}.get(a.edge, "only")
    tried = "trained to its end" if a.not_judged else "tried"
    where = f"lr {a.best_lr:g} is the {which} lr {tried}"
    if a.search is not None:  # there, the best may be next to the last one
        where = f"lr {a.best_lr:g} is among the {which} lrs tried"
    beyond = "between it and the next" if a.best_lr == 0 and a.edge == "low" else "beyond"
    return [f"edge: {where}, so the best may lie {beyond}{_next(a)}"]


def _next(a: Answer) -> str:
    return "" if a.try_next is None else f"; try lr={a.try_next[0]:.3g}..{a.try_next[1]:.3g} next"


def _target_words(a: Answer) -> list[str]:
    reached = [each for each in a.to_target if math.isfinite(each.steps)]
    reached.sort(key=lambda each: each.steps)
    if not reached or a.is_alone:
        return []
    times = [f"at lr {each.lr:g} in {_duration(each, a.unit)}" for each in reached[:3]]
    never = sum(math.isinf(each.steps) for each in a.to_target)
    end = f"; never at {never} of {len(a.to_target)} lrs" if never else ""
    return [f"loss {a.target_loss:.3g}: reached {', '.join(times)}{end}"]


def _duration(each: ToTarget, unit: str) -> str:
    steps = f"{each.steps:,.0f}" if each.steps >= 10 else f"{each.steps:g}"
    seconds = f" ({each.seconds:.3g} s)" if math.isfinite(each.seconds) else ""
    return f"{steps} {unit}{'' if each.steps == 1 else 's'}{seconds}"


def how_sure(a: Answer) -> str:
    """Return how much of the best lr's lead may be chance, and what would show more."""
    line = f"how sure: {a.seeds} seeds" if a.seeds > 1 else "how sure: one seed"
    if a.rival is not None:
        line += f"; {_compared(a.rival, a.best_loss)}"
    elif a.is_alone and not math.isnan(a.noise):  # noise of a difference, √2 times the noise of one
        line += f"; their end losses have a standard deviation of {a.noise / math.sqrt(2):.2g}"
    sentences = [line, *_not_told_apart(a)]
    if a.seeds == 1 and a.rival is not None:
        # another seed hardly reverses a large lead
        if not a.rival.higher > FAR * a.rival.error:
            sentences.append("Another seed may change the order; try seed=0,1,2")
    elif a.seeds == 1:
        sentences.append("Several seeds would show the noise; try seed=0,1,2")
    if a.not_judged:
        sentences.append(f"{a.not_judged} of {a.runs} runs were not trained to their end")
    return ". ".join(sentences)


def _compared(rival: Rival, best: float) -> str:
    """Return by how much the best leads, and whether that may be chance."""
    if rival.fails:
        return f"lr {rival.lr:g} ended lower, but a larger share of its runs failed"
    higher = f"{abs(rival.higher):.2g} {'higher' if rival.higher > 0 else 'lower on average'}"
    if 0 < rival.higher <= best:
        share = 100 * rival.higher / best
        higher += f" ({share:.0f}%)" if share >= 10 else f" ({share:.2g}%)"
    line = f"the next best, lr {rival.lr:g}, ended {higher if rival.higher else 'as low'}"
    if math.isnan(rival.error):
        return f"{line}; how much of that is chance was not measured"
    word = "within" if abs(rival.higher) <= rival.error else "more than"
    return f"{line}, {word} the noise of the {rival.of} (±{rival.error:.2g})"


def _not_told_apart(a: Answer) -> list[str]:
    """Return the lrs that the held-out samples cannot distinguish, if more than the good ones."""
    wide = a.rival.held_out if a.rival else None
    low, high = a.as_good or (math.inf, -math.inf)
    if wide is None or (wide[0] >= low and wide[1] <= high):
        return []
    return [f"The held-out samples are too few to tell lr {wide[0]:g} to {wide[1]:g} apart"]
