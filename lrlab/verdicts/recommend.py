# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""Recommend a learning rate, say how sure that is, and what to try next."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import pandas as pd

from lrlab.errors import UserError
from lrlab.records.thresholds import THRESHOLDS, Thresholds
from lrlab.tables.tidy import varying
from lrlab.verdicts import loss_kinds, pooled
from lrlab.verdicts.answer import Answer, ToTarget
from lrlab.verdicts.judging import most_judged_by
from lrlab.verdicts.noise import nearest_rival
from lrlab.verdicts.outcomes import FAILED, TOO_LARGE, UNFINISHED
from lrlab.verdicts.sentences import FIRST_RECORDED
from lrlab.verdicts.sides import AtLr, Sides, compare, gathered

_NEEDED = ("run", "lr", "outcome", "end_loss")
_NOT_SETTINGS = ("run", "lr", "seed", "outcome")
_RANGE_TEST = "range_test"
_FAR_OFF = 10  # an initial loss above this × guessing's is mostly the targets' offset

Row = Mapping[Any, Any]


def recommend(
    verdicts: pd.DataFrame,
    settings: Sequence[str] | None = None,
    thresholds: Thresholds = THRESHOLDS,
) -> list[Answer]:
    """Return one answer for each combination of the other settings, the best first.

    Losses of different kinds do not compare, so the answers are grouped by kind, in the order of
    the runs. A search over several settings, where most combinations have only one lr, has one
    answer: its best configuration, see `lrlab.verdicts.pooled`.

    Args:
        verdicts: as from `lrlab.verdicts.judging.verdicts`. Needed are run, lr, outcome, end_loss;
            its other columns and val_parts (see `lrlab.verdicts.noise`) are used if present.
        settings: the columns whose values make a combination; None: all settings that differ.

    Raises:
        UserError: a column is missing.
    """
    for name in (*_NEEDED, *(settings or ())):
        if name not in verdicts:
            raise UserError(f"{name}: no such column; give the table that verdicts() returns")
    names = varying(verdicts) if settings is None else list(settings)
    names = [name for name in names if name not in _NOT_SETTINGS]
    rows = [row for row in verdicts.to_dict("records") if not math.isnan(row["lr"])]
    groups: dict[tuple[Any, ...], list[Row]] = {} if names else {(): []}
    for row in rows:
        key = tuple(None if pd.isna(row[name]) else row[name] for name in names)
        groups.setdefault(key, []).append(row)
    if pooled.is_search(list(groups.values())):
        return [_of_search(rows, names, thresholds)]
    answers = [
        _answer(dict(zip(names, key, strict=True)), members, thresholds)
        for key, members in groups.items()
    ]
    answers.sort(key=lambda a: bool(a.refusal))
    kinds = list(dict.fromkeys(loss_kinds.kind(a.settings) for a in answers))

    def rank(a: Answer) -> tuple[int, float]:
        of_kind = kinds.index(loss_kinds.kind(a.settings))
        return of_kind, math.inf if a.refusal else a.best_loss

    return sorted(answers, key=rank)


def comparable(answers: Sequence[Answer]) -> bool:
    """Return whether their losses are of one kind, so that the lowest is the best."""
    return len(best_of_each(answers)) <= 1


def best_of_each(answers: Sequence[Answer]) -> list[Answer]:
    """Return the first of each kind of loss; with only one kind, it is the best of all."""
    found: dict[str, Answer] = {}
    for answer in answers:
        found.setdefault(loss_kinds.kind(answer.settings), answer)
    return list(found.values())


# --- one combination of settings ------------------------------------------------------------------


def _answer(settings: Mapping[str, Any], rows: Sequence[Row], t: Thresholds) -> Answer:
    judged = _judged(rows)
    sides = compare(_at_lrs(judged), _start(judged), t)
    answer = _counted(settings, rows, judged)
    if refusal := _refusal(rows, judged):
        return replace(answer, refusal=refusal)
    if math.isnan(sides.best):
        return _all_failed(answer, sides.lrs)
    if any(row["outcome"] == "nothing learned" or _is_unseen(row) for row in judged):
        return replace(answer, refusal=_nothing(judged, sides), try_next=_elsewhere(judged, sides))
    tried = [float(row["lr"]) for row in rows if row.get("state") in ("", "pruned", None)]
    edge, following = _edge(sides.best, sorted({*tried, *sides.lrs}))
    answer = _of_best(answer, judged, sides, t)
    if edge == "both":  # a run alone
        following = _beside(judged, sides.best, t)
    return replace(answer, edge=edge, try_next=following)


def _judged(rows: Sequence[Row]) -> list[Row]:
    """Return the runs that were trained to their end and have an end loss, failures included.

    If some are judged by their val loss, runs without one cannot be compared with them.
    """
    ended = _ended(rows)
    compared = [
        row
        for row in ended
        if row.get("judged_by") == "val_loss" or math.isinf(float(row["end_loss"]))
    ]
    has_val = any(math.isfinite(float(row["end_loss"])) for row in compared)
    return compared if has_val else ended


def _ended(rows: Sequence[Row]) -> list[Row]:
    finished = [row for row in rows if row.get("state") not in UNFINISHED]
    return [row for row in finished if not math.isnan(float(row["end_loss"]))]


def _by_lr(rows: Sequence[Row]) -> dict[float, list[Row]]:
    found: dict[float, list[Row]] = {}
    for row in rows:
        found.setdefault(float(row["lr"]), []).append(row)
    return found


def _at_lrs(rows: Sequence[Row]) -> list[AtLr]:
    return gathered((float(row["lr"]), row.get("seed"), row["run"], _end(row)) for row in rows)


def _end(row: Row) -> float:
    return math.inf if row["outcome"] in FAILED else float(row["end_loss"])


def _start(rows: Sequence[Row]) -> float:
    told = [_median(rows, name) for name in ("initial_loss", "chance_loss")]
    return min([x for x in told if not math.isnan(x)], default=math.nan)


def _counted(settings: Mapping[str, Any], rows: Sequence[Row], judged: Sequence[Row]) -> Answer:
    """Return an answer with the facts that need no comparison."""
    failed = [float(row["lr"]) for row in judged if row["outcome"] in FAILED]
    ended = [row for row in judged if math.isfinite(float(row["end_loss"]))]
    return Answer(
        settings=settings,
        judged_by=most_judged_by(row.get("judged_by") for row in ended),
        lrs=len({row["lr"] for row in judged}),
        runs=len(rows),
        not_judged=len(rows) - len(_ended(rows)),
        fails_from=min(failed, default=None),
        unit=next((str(row["unit"]) for row in rows if row.get("unit")), "step"),
        steps=_median(ended, "last"),
        counts=dict(Counter(row["outcome"] for row in rows)),
    )


def _of_best(answer: Answer, judged: Sequence[Row], sides: Sides, t: Thresholds) -> Answer:
    """Return the answer with the facts about the best lr, and about the lrs next to it."""
    mine = [row for row in judged if row["lr"] == sides.best]
    well = _well(mine)
    by_lr = _by_lr(judged)
    small = [lr for lr in by_lr if lr < sides.low and _most(by_lr[lr], ("undershooting",))]
    large = [lr for lr in by_lr if lr > sides.high and _most(by_lr[lr], TOO_LARGE)]
    of_seeds = next(at.ends for at in _at_lrs(mine))
    well_by_lr = {lr: _well(of) for lr, of in by_lr.items()}
    larger = _well([row for lr in large for row in by_lr[lr]])
    at_end = _commonest(well, "at_end")
    overfit = _overfit(well)
    target, to_target = _to_target(judged)
    return replace(
        answer,
        best_lr=sides.best,
        best_run=sorted(mine, key=_end)[(len(mine) - 1) // 2]["run"],
        best_loss=sides.best_end,
        as_good=(sides.low, sides.high),
        noise=sides.noise,
        rival=nearest_rival(well_by_lr, sides, t),
        seeds=len(of_seeds),
        failed_seeds=sum(map(math.isinf, of_seeds.values())),
        too_small=max(small, default=None),
        too_large=min(large, default=None),
        larger_overfit=2 * len(_overfit(larger)) > len(larger),
        at_end=at_end,
        step_words=_commonest(well, "steps"),
        decay_gain=_median(well, "gain_low"),
        overfit_from=_median(overfit, "lowest_loss") if at_end == "overfitting" else math.nan,
        overfit_epoch=_median(overfit, "lowest_epoch"),
        target_loss=target,
        to_target=to_target,
    )


def _refusal(rows: Sequence[Row], judged: Sequence[Row]) -> str:
    """Return why nothing can be compared, or ""."""
    if rows and all(row.get("schedule") == _RANGE_TEST for row in rows):
        return f"schedule={_RANGE_TEST} sweeps the lr within a run; use python -m lrlab.find"
    if not judged:
        finished = any(row.get("state") not in UNFINISHED for row in rows)
        return "no loss was recorded" if finished else "no run has been trained to its end"
    if any(row.get("same_rates") is True for row in judged):
        chosen = {str(row["schedule"]) for row in judged if row.get("schedule")}
        name = f"schedule={chosen.pop()}" if len(chosen) == 1 else "the schedule"
        return f"{name} sets the rates by itself, so all lrs trained at the same rates"
    if all(row["outcome"] == "not compared" and not row.get("last") for row in judged):
        return "only one loss of a run was recorded, and one loss shows no trend"
    return ""


def _all_failed(answer: Answer, lrs: Sequence[float]) -> Answer:
    span = f"lr {lrs[0]:g}" + (f" to {lrs[-1]:g}" if lrs[-1] > lrs[0] else "")
    refusal = f"every run diverged or collapsed ({span}), so every step was too large"
    return replace(answer, refusal=refusal, try_next=_range(lrs[0] / 1000, lrs[0]))


def _is_unseen(row: Row) -> bool:
    """Return whether no run is better than the first loss recorded, and that was no start."""
    is_alone = row["outcome"] == "not compared"
    return is_alone and f"better than {FIRST_RECORDED}" in str(row.get("evidence"))


def _nothing(judged: Sequence[Row], sides: Sides) -> str:
    """Return that nothing was learned, compared with which loss."""
    guess = _median(judged, "chance_loss")
    lowest = f"the lowest end loss is {sides.best_end:.4g}, at lr {sides.best:g}"
    if math.isnan(guess):
        start = _median(judged, "initial_loss")
        if any(map(_is_unseen, judged)):
            told = f"no run is better than {FIRST_RECORDED} ({start:.4g})"
            return f"{told}, and what was learned before it is not known; {lowest}"
        told = f"no run is better than before training ({start:.4g})"
        return f"nothing was learned, because {told}; {lowest}"
    constant = {"mse": "predicting the mean", "l1": "predicting the median"}
    losses = {str(row.get("loss")) for row in judged}
    what = constant.get(losses.pop(), "guessing") if len(losses) == 1 else "guessing"
    told = f"nothing was learned, because no run is better than {what} ({guess:.4g}); {lowest}"
    lowest_run = min(judged, key=lambda row: float(row["end_loss"]))
    start, end = float(lowest_run.get("initial_loss") or math.nan), float(lowest_run["end_loss"])
    if lowest_run.get("at_end") == "still falling":
        told += "; its loss was still falling, so more epochs may help"
    elif (1 + THRESHOLDS.converged) * guess < end < THRESHOLDS.guessing * start:
        told += f"; it began at {start:.4g}, so more epochs may help"
    if what in constant.values() and _median(judged, "initial_loss") > _FAR_OFF * guess:
        told += "; the targets are far from 0; data.standardise_targets=true helps"
    return told


def _elsewhere(judged: Sequence[Row], sides: Sides) -> tuple[float, float] | None:
    """Return where to look after nothing was learned, if anything shows it.

    Smaller lrs, if most runs at the smallest diverged or collapsed. Larger lrs, if no run failed
    and the steps at the largest were far too short, by alpha if there is no stability ratio. Alpha
    misses a ravine, but a run that comes down while it bounces in one has learned something.
    """
    if _most([row for row in judged if row["lr"] == sides.lrs[0]], FAILED):
        return _range(sides.lrs[0] / 1000, sides.lrs[0])
    largest = [row for row in judged if row["lr"] == sides.lrs[-1]]
    if any(row["outcome"] in FAILED for row in judged):
        return None
    alpha_alone = math.isnan(_median(largest, "stability_ratio"))
    creeps = alpha_alone and _median(largest, "alpha") + 1 < THRESHOLDS.short
    if not (creeps or _too_short(largest)):
        return None
    return _range(sides.lrs[-1], sides.lrs[-1] * 1000)


def _too_short(rows: Sequence[Row]) -> bool:
    return _commonest(rows, "steps") == "far too short"


def _beside(judged: Sequence[Row], lr: float, t: Thresholds) -> tuple[float, float] | None:
    """Return where to look from a single lr: on both sides, unless there is hard evidence for one.

    A failure or unstable steps are evidence for smaller lrs. A falling loss is evidence for larger
    ones, if the steps are far too short or the loss falls faster than 1 / step.
    """
    mine = [row for row in judged if row["lr"] == lr]
    if _commonest(mine, "steps") == "unstable" or any(row["outcome"] in FAILED for row in mine):
        return _range(lr / 100, lr)
    slope, noise = _median(mine, "slope"), _median(mine, "slope_noise")
    steep = slope + t.noise * noise < t.slope and slope <= t.steep
    if _commonest(mine, "at_end") == "still falling" and (steep or _too_short(mine)):
        return _range(lr, lr * 100)
    return _range(lr / 10, lr * 10)


def _edge(best: float, tried: Sequence[float]) -> tuple[str, tuple[float, float] | None]:
    """Return at which edge of the lrs the best is, and a range that overlaps and goes beyond."""
    below = max((lr for lr in tried if lr < best), default=None)
    above = min((lr for lr in tried if lr > best), default=None)
    if below is not None and above is not None:
        return "", None
    low = below or (best or (above or 0) / 100) / 10  # no range of lrs goes down to 0
    high = best * 10 if above is None else above
    edge = "both" if below is above else "low" if below is None else "high"
    return edge, _range(low, high)


def _range(low: float, high: float) -> tuple[float, float] | None:
    return (low, high) if 0 < low < high < math.inf else None


# --- a search over several settings ---------------------------------------------------------------


def _of_search(rows: Sequence[Row], names: Sequence[str], t: Thresholds) -> Answer:
    """Return the best configuration, and the joint result of all runs for the lr."""
    judged = _judged(rows)
    answer = _counted({}, rows, judged)
    if refusal := _refusal(rows, judged):
        return replace(answer, refusal=refusal)
    configurations = pooled.configurations(judged, names)
    best = min(configurations, key=lambda each: (each.failed, each.end))
    lrs = sorted({float(row["lr"]) for row in judged})
    if not math.isfinite(best.end):
        return _all_failed(answer, lrs)
    if all(row["outcome"] in (*FAILED, "nothing learned") for row in judged):
        sides = Sides(lrs, {}, best.lr, best.end)
        return replace(answer, refusal=_nothing(judged, sides), try_next=_elsewhere(judged, sides))
    found = pooled.search(configurations, rows, names, t)
    mine = [row for row in judged if row["run"] in best.runs]
    sides = Sides(lrs, {}, best.lr, best.end, *found.good)
    answer = replace(
        _of_best(answer, mine, sides, t),
        settings=best.settings,
        lrs=len(lrs),
        fails_from=answer.fails_from,
        rival=None,
        search=found,
    )
    return replace(answer, edge=found.edge, try_next=found.try_next)


# --- rows -----------------------------------------------------------------------------------------


def _most(rows: Sequence[Row], outcomes: Sequence[str]) -> bool:
    return sum(row["outcome"] in outcomes for row in rows) * 2 > len(rows)


def _well(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["outcome"] not in FAILED]


def _overfit(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.get("at_end") == "overfitting"]


def _commonest(rows: Sequence[Row], name: str) -> str:
    """Return the word that occurs most often among the runs; for a tie, the first."""
    words = [str(row[name]) for row in rows if row.get(name)]
    return max(dict.fromkeys(words), key=words.count, default="")


def _median(rows: Sequence[Row], name: str) -> float:
    """Return the median of the values that are present."""
    values = [float(value) for row in rows if (value := row.get(name)) is not None]
    return median([value for value in values if not math.isnan(value)] or [math.nan])


def _to_target(rows: Sequence[Row]) -> tuple[float, tuple[ToTarget, ...]]:
    target = _median(rows, "target_loss")
    if math.isnan(target):
        return target, ()
    return target, tuple(
        ToTarget(lr, _median(group, "steps_to_target"), _median(group, "seconds_to_target"))
        for lr, group in sorted(_by_lr(rows).items())
    )
