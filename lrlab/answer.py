# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""Which learning rate to use, how sure that is, and what would be worth trying next."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from lrlab import loss_kinds
from lrlab.errors import UserError
from lrlab.thresholds import THRESHOLDS, Thresholds
from lrlab.tidy import settings_of, varying
from lrlab.verdicts import FAILED, TOO_LARGE, UNFINISHED

_NEEDED = ("run", "lr", "outcome", "end_loss")
_NOT_SETTINGS = ("run", "lr", "seed", "outcome")
_RANGE_TEST = "range_test"
_FEW_STEPS = 100  # below so many, an untrained network may just not have had the time to learn
NOT_COMPARABLE = "losses of different kinds do not compare, accuracies do"
_OTHERS = 8  # combinations of settings besides the best that the text shows, one line each


@dataclass(frozen=True)
class ToTarget:
    """How long it took to reach the target loss at one lr; medians over seeds, inf for never."""

    lr: float
    steps: float
    seconds: float  # NaN where not known


@dataclass(frozen=True)
class Answer:
    """What a sweep says of the lr, for runs whose other settings are equal.

    Attributes:
        settings: the other settings by name.
        refusal: why no lr is recommended; "" where one is. Then best_lr is None.
        best_lr: with the lowest median end loss over its seeds, of the lrs at which none failed.
        best_run: of its runs the one in the middle.
        best_loss: that median.
        as_good: lowest and highest of the lrs around it that do as well.
        noise: standard deviation of the end loss over seeds, pooled over the lrs near the best;
            NaN with one seed.
        seeds: runs at the best lr.
        failed_seeds: how many of these diverged or collapsed.
        lrs: how many lrs were tried, and finished.
        runs: how many runs there are, of every state.
        not_judged: how many of them had not had their whole budget.
        too_small: the largest lr below `as_good`, or the best itself, at which most runs
            undershoot; None: none does.
        too_large: the smallest lr above `as_good` at which most runs overshoot, collapse or
            diverge; None: none does.
        best_overshoots: whether most runs at the best lr overshoot: good to come far with, too long
            to end with.
        fails_from: the smallest lr at which a run collapsed or diverged; None: none did.
        decay_gain: what a tenth of the best lr would still win in log train loss; NaN: not
            measured.
        decay_helps: whether that is more than noise, and the runs do not overfit.
        overfit_from: the lowest val loss of the best runs, where most of them overfit, the median;
            NaN: they do not.
        edge: "low", "high" or "both" where the best is the smallest or largest lr tried, and
            nothing shows that it gets worse there; else "".
        try_next: range of lrs to try next, None if none.
        unit: what steps are counted in, step or epoch.
        target_loss: the loss that to_target is about; NaN: none.
        to_target: one for each lr, sorted by it.
        counts: how many runs had each outcome.
    """

    settings: Mapping[str, Any]
    refusal: str = ""
    best_lr: float | None = None
    best_run: Hashable = None
    best_loss: float = math.nan
    as_good: tuple[float, float] | None = None
    noise: float = math.nan
    seeds: int = 0
    failed_seeds: int = 0
    lrs: int = 0
    runs: int = 0
    not_judged: int = 0
    too_small: float | None = None
    too_large: float | None = None
    best_overshoots: bool = False
    fails_from: float | None = None
    decay_gain: float = math.nan
    decay_helps: bool = False
    overfit_from: float = math.nan
    edge: str = ""
    try_next: tuple[float, float] | None = None
    unit: str = "step"
    target_loss: float = math.nan
    to_target: tuple[ToTarget, ...] = ()
    counts: Mapping[str, int] | None = None

    @property
    def overshoots_from(self) -> float | None:
        """`too_large`, where runs do not fail from there on; None: none overshoots before that."""
        if self.fails_above is not None and self.too_large is not None:
            return self.too_large if self.too_large < self.fails_above else None
        return self.too_large

    @property
    def fails_above(self) -> float | None:
        """`fails_from`, where it is above all that is as good as the best."""
        if self.fails_from is None or self.as_good is None:
            return self.fails_from
        return self.fails_from if self.fails_from > self.as_good[1] else None

    @property
    def overfits(self) -> bool:
        return not math.isnan(self.overfit_from)


@dataclass(frozen=True)
class _AtLr:
    """The finished runs at one lr: end losses (inf: failed), outcomes, and their medians.

    overfit_from: of their lowest val losses, where most overfit; else NaN.
    """

    lr: float
    runs: list[Hashable]
    ends: list[float]
    outcomes: list[str]
    end: float
    gain_low: float
    gain_high: float
    overfit_from: float

    def most(self, outcomes: Sequence[str]) -> bool:
        return sum(outcome in outcomes for outcome in self.outcomes) * 2 > len(self.outcomes)

    @property
    def failed(self) -> int:
        return sum(outcome in FAILED for outcome in self.outcomes)


def recommend(
    verdicts: pd.DataFrame,
    settings: Sequence[str] | None = None,
    thresholds: Thresholds = THRESHOLDS,
) -> list[Answer]:
    """One answer for each combination of the other settings, the best first.

    Of losses of different kinds, which do not compare, those of one come after those of another, in
    the order of their runs.

    Args:
        verdicts: as from `lrlab.verdicts.verdicts`: run, lr, outcome, end_loss; and where there,
            seed, state, initial_loss, chance_loss, gain_low, gain_high, unit, target_loss,
            steps_to_target, seconds_to_target.
        settings: the columns whose values make a combination; None: those of `tidy.SETTINGS` and
            with a dot in their name whose values differ.

    Raises:
        UserError: a column is missing.
    """
    for name in (*_NEEDED, *(settings or ())):
        if name not in verdicts:
            raise UserError(f"{name}: no such column; give the table that verdicts() returns")
    names = varying(verdicts) if settings is None else list(settings)
    names = [name for name in names if name not in _NOT_SETTINGS]
    of_a_run = [name for name in ("lr", "seed", *settings_of(verdicts)) if name in verdicts]
    rows = [row for row in verdicts.to_dict("records") if not math.isnan(row["lr"])]
    groups: dict[tuple[Any, ...], list[dict[Any, Any]]] = {} if names else {(): []}
    for row in rows:
        key = tuple(None if pd.isna(row[name]) else row[name] for name in names)
        groups.setdefault(key, []).append(row)
    answers = [
        _answer(dict(zip(names, key, strict=True)), members, of_a_run, thresholds)
        for key, members in groups.items()
    ]
    told_first = sorted(answers, key=lambda a: bool(a.refusal))
    kinds = list(dict.fromkeys(loss_kinds.kind(a.settings) for a in told_first))

    def rank(a: Answer) -> tuple[int, float]:
        of_kind = kinds.index(loss_kinds.kind(a.settings))
        return of_kind, math.inf if a.refusal else a.best_loss

    return sorted(answers, key=rank)


def _answer(
    settings: Mapping[str, Any],
    rows: Sequence[Mapping[Any, Any]],
    of_a_run: Sequence[str],
    t: Thresholds,
) -> Answer:
    finished = [row for row in rows if row.get("state") not in UNFINISHED]
    judged = [row for row in finished if row["outcome"] != "unknown"]
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["outcome"]] = counts.get(row["outcome"], 0) + 1
    at_lrs = _at_lrs(_once(judged, of_a_run))
    answer = Answer(
        settings=settings,
        lrs=len(at_lrs),
        runs=len(rows),
        not_judged=len(rows) - len(judged),
        fails_from=min((at.lr for at in at_lrs if at.failed), default=None),
        unit=next((str(row["unit"]) for row in rows if row.get("unit")), "step"),
        counts=counts,
    )
    if rows and all(row.get("schedule") == _RANGE_TEST for row in rows):
        return replace(
            answer,
            refusal=f"schedule={_RANGE_TEST} sweeps the lr within a run; see python -m lrlab.find",
        )
    if not at_lrs:
        return replace(answer, refusal=_not_judged(finished))
    # A seed that fails is a risk that a median hides: an lr with fewer of them comes first.
    best = min(at_lrs, key=lambda at: (at.failed / len(at.runs), at.end))
    if not _learned(best.end, finished, t):
        refusal, following = _nothing_learned(best, at_lrs, _few_steps(finished))
        return replace(answer, refusal=refusal, try_next=following)
    noise, as_good = _as_good(best, at_lrs, finished, t)
    ended = (*finished, *(row for row in rows if row.get("state") == "pruned"))
    edge, following = _edge(best, [float(row["lr"]) for row in ended], t)
    target, to_target = _to_target(finished)
    return replace(
        answer,
        best_lr=best.lr,
        best_run=_middle(best),
        best_loss=best.end,
        as_good=as_good,
        noise=noise,
        seeds=len(best.runs),
        failed_seeds=best.failed,
        too_small=max(
            (
                at.lr
                for at in at_lrs
                if (at is best or at.lr < as_good[0]) and at.most(("undershooting",))
            ),
            default=None,
        ),
        too_large=next((at.lr for at in at_lrs if at.lr > as_good[1] and at.most(TOO_LARGE)), None),
        best_overshoots=best.most(("overshooting",)),
        decay_gain=best.gain_low,
        decay_helps=best.gain_low > t.gain and math.isnan(best.overfit_from),
        overfit_from=best.overfit_from,
        edge=edge,
        try_next=following,
        target_loss=target,
        to_target=to_target,
    )


def _not_judged(finished: Sequence[Mapping[Any, Any]]) -> str:
    """Why there is no run with a verdict."""
    if not finished:
        return "no run has been trained to its end"
    if all(math.isnan(float(row["end_loss"])) for row in finished):
        return "no loss was recorded"
    return "only one loss of a run was recorded, and one loss has no direction"


def _few_steps(rows: Sequence[Mapping[Any, Any]]) -> int:
    """How many steps the runs had, where that is too few to say anything; else 0."""
    steps = _median([row.get("last") for row in rows if row.get("unit", "step") == "step"])
    return int(steps) if 0 < steps < _FEW_STEPS else 0


def _once(rows: Sequence[Mapping[Any, Any]], of_a_run: Sequence[str]) -> list[Mapping[Any, Any]]:
    """Of runs with equal lr, seed and settings the middle one: a repetition is no new seed."""
    same: dict[tuple[Any, ...], list[Mapping[Any, Any]]] = {}
    for i, row in enumerate(rows):
        seed = row.get("seed")
        own = ("run", i) if seed is None or pd.isna(seed) else ("seed", seed)
        same.setdefault((*own, *(str(row[name]) for name in of_a_run)), []).append(row)
    kept = []
    for group in same.values():
        order = sorted(group, key=lambda row: float(row["end_loss"]))
        kept.append(order[(len(order) - 1) // 2])
    return kept


def _at_lrs(rows: Sequence[Mapping[Any, Any]]) -> list[_AtLr]:
    """The runs by lr, sorted."""
    by_lr: dict[float, list[Mapping[Any, Any]]] = {}
    for row in rows:
        by_lr.setdefault(float(row["lr"]), []).append(row)
    found = []
    for lr, group in sorted(by_lr.items()):
        failed = [row["outcome"] in FAILED for row in group]
        ends = [math.inf if f else float(r["end_loss"]) for f, r in zip(failed, group, strict=True)]
        found.append(
            _AtLr(
                lr=lr,
                runs=[row["run"] for row in group],
                ends=ends,
                outcomes=[row["outcome"] for row in group],
                end=_median(ends),
                gain_low=_median([row.get("gain_low", math.nan) for row in group]),
                gain_high=_median([row.get("gain_high", math.nan) for row in group]),
                overfit_from=_overfit_from(group),
            )
        )
    return found


def _overfit_from(rows: Sequence[Mapping[Any, Any]]) -> float:
    lowest = [row.get("lowest_loss") for row in rows if row.get("overfits") is True]
    return _median(lowest) if 2 * len(lowest) > len(rows) else math.nan


def _median(values: Sequence[float | None]) -> float:
    """Of those that are there."""
    there = [float(value) for value in values if value is not None and not math.isnan(value)]
    return median(there) if there else math.nan


def _middle(at: _AtLr) -> Hashable:
    order = sorted(range(len(at.runs)), key=at.ends.__getitem__)
    return at.runs[order[(len(order) - 1) // 2]]


def _learned(end: float, rows: Sequence[Mapping[Any, Any]], t: Thresholds) -> bool:
    """Whether the best end loss is below what it was at first, and below guessing."""
    if not math.isfinite(end):
        return False
    chance = _median([row.get("chance_loss", math.nan) for row in rows])
    initial = _median([row.get("initial_loss", math.nan) for row in rows])
    if chance > 0 and end >= t.chance * chance:
        return False
    return not (initial - end <= (1 - t.chance) * abs(initial))


def _nothing_learned(
    best: _AtLr, at_lrs: Sequence[_AtLr], few: int
) -> tuple[str, tuple[float, float] | None]:
    """Why nothing was learned, as far as the outcomes tell, and where to look.

    few: how many steps the runs had, if that is few; else 0.
    """
    or_few = f" or too few ({few} {'step' if few == 1 else 'steps'})" if few else ""
    low, high = at_lrs[0].lr, at_lrs[-1].lr
    span = f"lr {low:g}" if low == high else f"lr {low:g} to {high:g}"
    large = [at.lr for at in at_lrs if at.most(TOO_LARGE)]
    small = [at.lr for at in at_lrs if at.lr not in large]
    if not small:
        return f"nothing was learned: every step was too large ({span})", _range(low / 100, low)
    if not large:
        end = f"best end loss {best.end:.4g}"
        why = f"nothing was learned: {end} at {span}, and none blew up, so the steps were too small"
        return f"{why}{or_few}", _range(high, high * 100)
    below = [lr for lr in small if lr < min(large)]
    if not below:
        return f"nothing was learned at {span}, and no lr stands out", _range(low / 100, low)
    why = f"nothing was learned: up to lr {max(below):g} steps were too small{or_few}"
    return f"{why}, from {min(large):g} on too large", _range(max(below), min(large))


def _as_good(
    best: _AtLr, at_lrs: Sequence[_AtLr], rows: Sequence[Mapping[Any, Any]], t: Thresholds
) -> tuple[float, tuple[float, float]]:
    """The spread over seeds, and the lrs around the best that do as well within it.

    The means of n and m seeds differ by √(1/n + 1/m) standard deviations by chance alone; what
    differs by less than `noise` times that cannot be told apart. The deviation is pooled over the
    best lr and its two neighbours, for one of two or three seeds alone says little. With one seed,
    what came 99% of the way to the best counts as good.
    """
    place = at_lrs.index(best)
    near = [
        at
        for at in at_lrs[max(0, place - 1) : place + 2]
        if not at.failed and (at is best or at.end <= 2 * abs(best.end))
    ]
    with np.errstate(over="ignore", invalid="ignore"):  # losses of 1e200 have been seen
        spread = [(len(at.ends) - 1, np.var(at.ends, ddof=1)) for at in near if len(at.ends) > 1]
    freedom = sum(n for n, _ in spread)
    if freedom:
        noise = math.sqrt(sum(n * float(v) for n, v in spread) / freedom)
        room = {
            at.lr: t.noise * noise * math.sqrt(1 / len(best.ends) + 1 / len(at.ends))
            for at in at_lrs
        }
    else:
        noise = math.nan
        initial = _median([row.get("initial_loss", math.nan) for row in rows])
        way = (1 - t.converged) * (initial - best.end)
        room = {at.lr: 0.0 if math.isnan(way) else way for at in at_lrs}

    def good(at: _AtLr) -> bool:
        return at.failed <= best.failed and at.end <= best.end + room[at.lr]

    first = last = place
    while first > 0 and good(at_lrs[first - 1]):
        first -= 1
    while last + 1 < len(at_lrs) and good(at_lrs[last + 1]):
        last += 1
    return noise, (at_lrs[first].lr, at_lrs[last].lr)


def _edge(
    best: _AtLr, tried: Sequence[float], t: Thresholds
) -> tuple[str, tuple[float, float] | None]:
    """Whether nothing larger or smaller was tried than the best, and nothing else settles it.

    What settles it above: 3·lr lost in the branch test, or the best itself overshoots. Below: the
    best undershoots. That a tenth of its step gains in the branch test speaks for decay, not for
    beginning with less.
    """
    high = best.lr >= max(tried) and not best.gain_high < -t.gain and not best.most(TOO_LARGE)
    low = best.lr <= min(tried) and not best.most(("undershooting",))
    if not (high or low):
        return "", None
    following = _range(best.lr / 10 if low else best.lr, best.lr * 10 if high else best.lr)
    return "both" if high and low else "high" if high else "low", following


def _range(low: float, high: float) -> tuple[float, float] | None:
    return (low, high) if 0 < low < high < math.inf else None


def _to_target(rows: Sequence[Mapping[Any, Any]]) -> tuple[float, tuple[ToTarget, ...]]:
    target = _median([row.get("target_loss", math.nan) for row in rows])
    if math.isnan(target):
        return target, ()
    by_lr: dict[float, list[Mapping[Any, Any]]] = {}
    for row in rows:
        by_lr.setdefault(float(row["lr"]), []).append(row)
    return target, tuple(
        ToTarget(
            lr,
            _median([row.get("steps_to_target", math.nan) for row in group]),
            _median([row.get("seconds_to_target", math.nan) for row in group]),
        )
        for lr, group in sorted(by_lr.items())
    )


# --- words ----------------------------------------------------------------------------------------


def comparable(answers: Sequence[Answer]) -> bool:
    """Whether their losses are of one kind, so that the lowest is the best."""
    return len(best_of_each(answers)) <= 1


def best_of_each(answers: Sequence[Answer]) -> list[Answer]:
    """The first of each kind of loss: of one kind only, it is the best of all."""
    found: dict[str, Answer] = {}
    for answer in answers:
        found.setdefault(loss_kinds.kind(answer.settings), answer)
    return list(found.values())


def text(answers: Sequence[Answer]) -> str:
    """The answer as lines for a terminal: of the best combination in full, of others in one line.

    Of several kinds of loss, the best combination of each is told in full.

    answers: as from `recommend`. Ends without a newline.
    """
    if not answers:
        return "answer  none: there are no runs"
    firsts = best_of_each(answers)
    others = [answer for answer in answers if all(answer is not first for first in firsts)]
    lines = []
    for first in firsts:
        lines += [_headline(first), *(f"        {line}" for line in _details(first))]
    lines += [_headline(other) for other in others[:_OTHERS]]
    if len(others) > _OTHERS:
        lines.append(f"        and {len(others) - _OTHERS} other settings, none of them better")
    if not comparable(answers):
        lines.append(f"        {NOT_COMPARABLE}")
    return "\n".join(lines)


def _headline(a: Answer) -> str:
    where = "".join(f"{name}={_setting(value)} " for name, value in a.settings.items())
    if a.best_lr is None:
        return f"answer  {where}no lr is recommended: {a.refusal}{_next(a)}"
    of = f"the median of {a.seeds} seeds" if a.seeds > 1 else "one seed"
    line = f"answer  {where}lr={a.best_lr:g}: end loss {a.best_loss:.4g}, {of}"
    low, high = a.as_good or (a.best_lr, a.best_lr)
    return line if low == high else f"{line}; as good from lr {low:g} to {high:g}"


def _setting(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _details(a: Answer) -> list[str]:
    if a.best_lr is None:
        return []
    lines = []
    if a.failed_seeds:
        lines.append(
            f"careful: {a.failed_seeds} of {a.seeds} seeds at lr {a.best_lr:g} failed, and fewer at"
            " no other lr"
        )
    larger = []
    if a.overshoots_from is not None:
        or_failing = "" if a.fails_from == a.fails_above else " or failing"
        larger.append(f"overshooting{or_failing} from lr {a.overshoots_from:g} on")
    if a.fails_above is not None:
        larger.append(f"runs fail from lr {a.fails_above:g} on")
    elif a.fails_from is not None and not a.failed_seeds:
        lines.append(f"careful: a run failed at lr {a.fails_from:g}, which is not too large")
    if larger:
        lines.append(f"too large: {', '.join(larger)}")
    if a.best_overshoots:
        see = "" if math.isnan(a.decay_gain) else ": see decay"
        lines.append(f"at the end: the steps of lr {a.best_lr:g} are too long to end with{see}")
    if a.too_small is not None:
        lines.append(f"too small: undershooting in this budget at lr {a.too_small:g} and below")
    lines += _decay(a) + _overfitting(a) + _edge_words(a) + _target_words(a)
    lines.append(_how_sure(a))
    return lines


def _decay(a: Answer) -> list[str]:
    if math.isnan(a.decay_gain):
        return []
    if a.overfits:
        gain = f"{round(a.decay_gain, 2) + 0.0:.2f}"
        return [
            f"decay: a tenth of the lr at the end would gain {gain} in log train loss, but the"
            " run overfits: val loss need not follow"
        ]
    if not a.decay_helps:
        return ["decay: a tenth of the lr at the end would gain nothing in train loss"]
    less = -math.expm1(-a.decay_gain)
    return [
        f"decay: a tenth of the lr at the end would gain {a.decay_gain:.2f} in log train loss,"
        f" about {less:.0%} less of it: worth a schedule"
    ]


def _overfitting(a: Answer) -> list[str]:
    if not a.overfits:
        return []
    return [
        f"overfitting: val loss rose from its lowest, {a.overfit_from:.3g}, to {a.best_loss:.3g}:"
        " stop earlier or regularise"
    ]


def _edge_words(a: Answer) -> list[str]:
    if not a.edge:
        return []
    which = "only" if a.lrs == 1 else {"high": "largest", "low": "smallest"}.get(a.edge, "only")
    return [f"edge: it is the {which} lr tried, so the best may lie beyond{_next(a)}"]


def _next(a: Answer) -> str:
    return "" if a.try_next is None else f"; try lr={a.try_next[0]:.3g}..{a.try_next[1]:.3g} next"


def _target_words(a: Answer) -> list[str]:
    reached = sorted((each for each in a.to_target if math.isfinite(each.steps)), key=_steps)
    if not reached:
        return []
    times = [f"at lr {each.lr:g} in {_duration(each, a.unit)}" for each in reached[:3]]
    never = sum(math.isinf(each.steps) for each in a.to_target)
    end = f"; never at {never} of {len(a.to_target)} lrs" if never else ""
    return [f"loss {a.target_loss:.3g}: reached {', '.join(times)}{end}"]


def _duration(each: ToTarget, unit: str) -> str:
    steps = f"{each.steps:,.0f}" if each.steps >= 10 else f"{each.steps:g}"
    seconds = f" ({each.seconds:.3g} s)" if math.isfinite(each.seconds) else ""
    return f"{steps} {unit}s{seconds}"


def _steps(each: ToTarget) -> float:
    return each.steps


def _how_sure(a: Answer) -> str:
    if a.seeds == 1:
        line = "how sure: one seed, so small differences may be chance; seed=0,1,2 would tell"
    elif math.isnan(a.noise):
        line = f"how sure: {a.seeds} seeds"
    else:
        line = f"how sure: {a.seeds} seeds, whose end loss varies by {a.noise:.2g} (one deviation)"
    if a.not_judged:
        line += f"; {a.not_judged} of {a.runs} runs had not had their whole budget"
    return line
