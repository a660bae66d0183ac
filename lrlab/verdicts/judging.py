# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""Judge what each lr did: outcome, state at the end, step mode, and the evidence in words."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from lrlab.records.thresholds import THRESHOLDS, Thresholds
from lrlab.tables.tidy import settings_of, tied
from lrlab.verdicts import mechanics, sentences
from lrlab.verdicts.evidence import Numbers, measure
from lrlab.verdicts.outcomes import FAILED, UNFINISHED, Outcome
from lrlab.verdicts.sides import Sides, compare, gathered

_FAR = 2.0  # times its first record, above which a val loss that grows has diverged
# Losses of different tasks do not compare: the best loss is that of the task.
_TASK = ("network", "loss", "data")
_JUDGED = (
    *("outcome", "at_end", "step_mode", "steps", "evidence", "end_loss", "decay_gain"),
    *("best_loss", "share", "same_rates", "target_loss", "steps_to_target", "seconds_to_target"),
)
_FIELDS = (  # the numbers of a run that the table shows
    *("state", "judged_by", "unit", "last", "initial_loss", "chance_loss", "peak_loss"),
    *("train_end_loss", "last_loss", "end_noise", "first_nonfinite", "slope", "slope_noise"),
    *("alpha", "stability_ratio", "stability_ratio_max", "swings_from"),
    *("gain_low", "gain_high", "gain_noise"),
    *("overfits", "lowest_loss", "lowest_at", "lowest_epoch"),
)


@dataclass(frozen=True)
class _Setting:
    """The runs that differ from a run only in lr and seed."""

    sides: Sides  # the finished runs compared, including those that failed
    lrs: int  # how many lrs were trained to their end, well or not
    nothing: bool  # no run is better than guessing
    same_rates: bool  # all runs used the same rates, whatever their lr
    lowest: Mapping[float, float]  # by lr, the lowest end loss of all runs
    smoothest: Mapping[float, float]  # the same, only of runs with a loss that fell at every step
    failures: Mapping[float, tuple[int, int]]  # by lr, how many of how many runs failed
    by_val: bool  # only runs with a val loss are compared


@dataclass(frozen=True)
class _Task:
    """All runs with the same network, loss and data."""

    start: float  # the smaller of the median initial loss and that of guessing; NaN: unknown
    best: float  # the lowest end loss of a finished run; NaN: none


def verdicts(
    curves: pd.DataFrame,
    settings: Sequence[str] | None = None,
    target: float | None = None,
    thresholds: Thresholds = THRESHOLDS,
) -> pd.DataFrame:
    """Return one row a run: its outcome, how its steps behaved, and the evidence for both.

    The rules are in `lrlab.records.thresholds`. A loss of inf, or NaN from some row to the run's
    end, makes a run diverged.

    Args:
        curves: one row a recorded step of a run, in any order. Needed columns:

            - run: a number or a name.
            - lr: one a run, the lr that its schedule multiplies.
            - step or epoch: where the row stands in training. If both are there: step.
            - train_loss: at that step (of a mini-batch or of all data) or the epoch's mean.

            More columns are used if present. An empty cell or NaN means "not measured".

            - val_loss: on held-out data. With two or more of them, the end loss is a val loss.
            - alpha, stability_ratio: how far the steps go. grad_norm: only distinguishes a row
              where something was measured from one where the loss was NaN.
            - seconds: since the run began. lr_at_step: the lr of the update, where it changes.
            - seed, state: one a run; "finished", "diverged", "pruned", "failed", "interrupted" ...
            - initial_loss: before training. chance_loss: of the best constant prediction; or
              num_classes, for equally frequent classes.
            - swings_from: the stability ratio from which steps swing; or momentum and
              optimizer.nesterov, from which it is computed. Without these 0.5, as for plain SGD.
            - first_nonfinite_step: if it is known.
            - gain_low, gain_high: of the branch test, log(loss at lr / loss at lr/10) and
              log(loss at lr / loss at 3·lr) after training on from the end. -inf, or empty where
              the other one is not: that branch became non-finite. gain_noise: standard error of
              gain_low.
            - the settings, which distinguish runs besides lr and seed.

        settings: names of these columns; None: "schedule", "optimizer", "network", "loss", "data",
            "batch_size", "epochs" and all with a dot in their name, if present. Only runs with
            equal settings are compared; a setting that is the lr times a number is ignored.
        target: the loss to be reached; None: 95% of the way to the best loss with the same network,
            loss and data, from the initial loss or that of guessing, whichever is lower.

    Returns:
        Sorted by run: run, lr, seed, the settings, and

        - outcome: diverged, collapsed, overshooting, converged, undershooting, nothing learned,
          not compared or pruned.
        - at_end: overfitting, would anneal, still falling, settled, too noisy to tell, or "".
        - step_mode: monotone, oscillating, edge or unstable; unknown where it was not measured and
          the loss has noise. steps: far too short, about right, unstable, or "".
        - evidence: a sentence. end_loss: inf if the loss became non-finite.
        - decay_gain: gain_low, the gain in log train loss from a decaying schedule.
        - best_loss: the lowest of the task. share: of the way from the start to it.
        - same_rates: whether all runs of the setting used the same rates, whatever their lr.
        - target_loss, steps_to_target (in units of `unit`; inf: never), seconds_to_target.
        - the numbers behind these, see `lrlab.verdicts.evidence.Numbers`.

    Raises:
        UserError: a column is missing, holds what is no number, or contradicts itself.
    """
    return judge(*measured([curves], settings, thresholds), target, thresholds)


def measured(
    pieces: Iterable[pd.DataFrame],
    settings: Sequence[str] | None = None,
    thresholds: Thresholds = THRESHOLDS,
) -> tuple[list[Numbers], list[str]]:
    """Measure curves that come in pieces and are not kept.

    Args:
        pieces: whole runs each, all with the same columns.

    Returns:
        The first two arguments of `judge`.
    """
    runs: list[Numbers] = []
    names: list[str] = []
    for curves in pieces:
        found = settings_of(curves) if settings is None else settings
        names = [name for name in dict.fromkeys(found) if name not in ("run", "lr", "seed")]
        runs += measure(curves, names, thresholds)
        del curves  # otherwise it would still exist while the next one is made
    return runs, names


def most_judged_by(found: Iterable[Any]) -> str:
    """Return the loss that most runs are judged by, of a tie the first by name; "" for none.

    found: each run's `judged_by`; NaN for a run that failed before its first evaluation.
    """
    names = [name for name in found if isinstance(name, str) and name]
    return min(set(names), key=lambda name: (-names.count(name), name), default="")


def judge(
    runs: Sequence[Numbers],
    names: Sequence[str],
    target: float | None = None,
    thresholds: Thresholds = THRESHOLDS,
) -> pd.DataFrame:
    """Return the table of `verdicts`, from the numbers of all runs.

    Args:
        names: the settings' names, in the order of each run's values.
    """
    settings, tasks = _compared(runs, names, thresholds)
    rows = []
    for n in runs:
        setting, task = settings[n.run], tasks[n.run]
        outcome, why = _outcome(n, setting, task, thresholds)
        failed = outcome in FAILED
        word, told = "", ""
        if not failed and n.state not in UNFINISHED and n.losses > 1:
            word, told = mechanics.at_end(n, thresholds)
        goal = n.end_loss - thresholds.converged * abs(n.end_loss)
        is_slower = any(lr < n.lr and end < goal for lr, end in setting.smoothest.items())
        mode, how = mechanics.step_mode(n, failed, is_slower, thresholds)
        goal = _target(task, thresholds) if target is None else target
        steps, seconds = _reached(n, goal)
        rows.append(
            {
                "run": n.run,
                "lr": n.lr,
                "seed": n.seed,
                **dict(zip(names, n.settings, strict=True)),
                "outcome": outcome,
                "at_end": word,
                "step_mode": mode,
                "steps": mechanics.steps(n, thresholds, failed),
                "evidence": sentences.sentence(n, outcome, why, word, told, how),
                "end_loss": n.end_loss,
                "decay_gain": n.gain_low,
                "best_loss": task.best,
                "share": _share(n, task),
                "same_rates": setting.same_rates,
                "target_loss": goal,
                "steps_to_target": steps,
                "seconds_to_target": seconds,
                **{name: getattr(n, name) for name in _FIELDS},
            }
        )
    columns = ["run", "lr", "seed", *names, *_JUDGED, *_FIELDS]
    return pd.DataFrame(rows, columns=list(dict.fromkeys(columns)))


# --- comparison -----------------------------------------------------------------------------------


def _compared(
    runs: Sequence[Numbers], names: Sequence[str], t: Thresholds
) -> tuple[dict[Hashable, _Setting], dict[Hashable, _Task]]:
    """Return by run the comparison for each run."""
    lrs = [n.lr for n in runs]
    free = [i for i in range(len(names)) if not tied(lrs, [n.settings[i] for n in runs])]
    of_task = [i for i, name in enumerate(names) if name.split(".")[0] in _TASK]
    by_task = _grouped(runs, of_task)
    tasks = {key: _task(members) for key, members in by_task.items()}
    task_of = {n.run: tasks[key] for key, members in by_task.items() for n in members}
    setting_of = {}
    for members in _grouped(runs, free).values():
        setting = _setting(members, task_of[members[0].run], t)
        setting_of.update((n.run, setting) for n in members)
    return setting_of, task_of


def _grouped(
    runs: Sequence[Numbers], places: Sequence[int]
) -> dict[tuple[Any, ...], list[Numbers]]:
    found: dict[tuple[Any, ...], list[Numbers]] = {}
    for n in runs:
        found.setdefault(tuple(n.settings[i] for i in places), []).append(n)
    return found


def _task(members: Sequence[Numbers]) -> _Task:
    starts = [n.initial_loss for n in members if not math.isnan(n.initial_loss)]
    guesses = [n.chance_loss for n in members if not math.isnan(n.chance_loss)]
    start = min([median(each) for each in (starts, guesses) if each], default=math.nan)
    ended = [n for n in members if math.isfinite(n.end_loss) and n.state not in UNFINISHED]
    ended = ended or [n for n in members if math.isfinite(n.end_loss)]
    # A mini-batch loss does not compare with an evaluation: it may be of data seen many times.
    ended = [n for n in ended if n.judged_by == "val_loss"] or ended
    return _Task(start, min((n.end_loss for n in ended), default=math.nan))


def _setting(members: Sequence[Numbers], task: _Task, t: Thresholds) -> _Setting:
    told = [n for n in members if not math.isnan(n.end_loss) and not math.isnan(n.lr)]
    finished = [n for n in told if n.state not in UNFINISHED]
    by_val = [n for n in finished if n.judged_by == "val_loss" or not n.is_finite]
    has_val = any(n.is_finite for n in by_val)
    if has_val:
        finished = by_val
    lowest = _lowest(told)
    at_lrs = gathered(
        (n.lr, n.seed, n.run, math.inf if _failure(n, lowest, task, t) else n.end_loss)
        for n in finished
    )
    smooth = [n for n in finished if n.curve_mode == "monotone"]
    return _Setting(
        compare(at_lrs, task.start, t),
        len(at_lrs),
        bool(finished) and not any(_has_learned(n, task, t) for n in finished),
        _same_rates(members),
        lowest,
        _lowest(smooth),
        {at.lr: (sum(map(math.isinf, at.ends.values())), len(at.ends)) for at in at_lrs},
        has_val,
    )


def _lowest(runs: Sequence[Numbers]) -> dict[float, float]:
    ends: dict[float, float] = {}
    for n in runs:
        ends[n.lr] = min(n.end_loss, ends.get(n.lr, math.inf))
    return ends


def _same_rates(members: Sequence[Numbers]) -> bool:
    """Return whether runs of several lrs used equal rates, as far as they were recorded."""
    told = [n for n in members if not any(map(math.isnan, n.rates)) and n.is_finite]
    if len({n.lr for n in told}) < 2:
        return False
    first = np.array(told[0].rates)
    return all(np.allclose(np.array(n.rates), first, rtol=1e-9, atol=0) for n in told)


def _has_learned(n: Numbers, task: _Task, t: Thresholds) -> bool:
    """Return whether it ended below guessing or, if that is not known, below its start.

    A run that overfits has learned if it was clearly below on the way. So has one whose start is
    not known, if its train loss has fallen.
    """
    base = task.start if math.isnan(n.chance_loss) else n.chance_loss
    if math.isnan(base) or n.end_loss < base - (1 - t.guessing) * abs(base) or n.fell_since:
        return True
    return n.overfits and n.lowest_loss < base - (1 - t.learned) * abs(base)


def _share(n: Numbers, task: _Task) -> float:
    """Return (start − end) / (start − best), the share of the way to the best; NaN if undefined."""
    way = task.start - task.best
    if not (way > 0 and math.isfinite(way) and math.isfinite(n.end_loss)):
        return math.nan
    return (task.start - n.end_loss) / way


def _target(task: _Task, t: Thresholds) -> float:
    way = task.start - task.best
    return task.start - t.target * way if way > 0 else math.nan


def _reached(n: Numbers, target: float) -> tuple[float, float]:
    """Return position and seconds of the first evaluation at or below the target; inf: never."""
    if math.isnan(target) or not len(n.series):
        return math.nan, math.nan
    there = np.flatnonzero(n.series.loss <= target)
    if not len(there):
        return math.inf, math.inf
    return float(n.series.at[there[0]]), float(n.series.seconds[there[0]])


# --- outcome --------------------------------------------------------------------------------------


def _outcome(n: Numbers, setting: _Setting, task: _Task, t: Thresholds) -> tuple[Outcome, str]:
    """Return the first rule that holds, and why."""
    if n.is_finite and not n.losses:
        return ("pruned" if n.state == "pruned" else "not compared"), "no loss was recorded"
    if n.state == "pruned" and n.is_finite:
        return "pruned", f"{sentences.fell(n)} before it was stopped"
    if failure := _failure(n, setting.lowest, task, t):
        return failure
    fell = sentences.fell(n)
    if n.state in UNFINISHED:
        return "not compared", f"{fell} so far"
    if n.losses == 1 and not n.has_branches and not (n.last > 0 and n.end_loss != n.initial_loss):
        return "not compared", f"only one loss was recorded, {sentences.loss(n.end_loss)}"
    if setting.nothing:
        outcome = "not compared" if n.first_at else "nothing learned"
        return outcome, f"{fell}, and no run is better than {_guessing(n, task)}"
    if setting.same_rates:
        return "not compared", f"{fell}; its schedule sets the same rates for all lrs"
    is_left_out = setting.by_val and n.judged_by != "val_loss"
    is_alone = setting.lrs < 2 or n.lr not in setting.sides.ends
    if is_left_out or is_alone or math.isnan(setting.sides.best):
        alone = "no other lr was trained to its end with these settings"
        if is_left_out:
            alone = "it has no val loss, by which the others are compared"
        steps = mechanics.steps(n, t)
        return "not compared", f"{fell}; {alone}" + (f"; its steps are {steps}" if steps else "")
    return _side(n, setting, fell, t)


def _failure(
    n: Numbers, lowest: Mapping[float, float], task: _Task, t: Thresholds
) -> tuple[Outcome, str] | None:
    """Return why the run diverged or collapsed; None if it did neither.

    If the evaluated loss is at guessing and the train loss is far below, the network has learned
    its training data and is not broken.
    """
    if not n.is_finite:
        return "diverged", sentences.nonfinite(n)
    if not n.losses or n.state in UNFINISHED:
        return None
    start = min([x for x in (n.initial_loss, task.start) if not math.isnan(x)], default=math.nan)
    by_val = n.judged_by == "val_loss" and not math.isnan(n.train_end_loss)
    # A val loss alone that is above its first record may be overfitting, until it is far above.
    is_unseen = n.first_at > 0 and n.judged_by == "val_loss" and math.isnan(n.train_end_loss)
    above = _FAR if is_unseen else t.diverged
    grew = n.growing and n.end_loss > start + (above - 1) * abs(start)
    if grew and not (by_val and (n.overfits or n.train_end_loss < n.initial_loss)):
        return "diverged", f"{sentences.fell(n)} and was still growing"
    guessing, learning = (_times(share, n.chance_loss) for share in (t.guessing, t.learned))
    if not max(n.end_loss, n.last_loss) >= guessing:
        return None
    if by_val and (n.overfits or n.train_last_loss < learning):
        return None
    broken = f"{sentences.fell(n)}, no better than guessing ({sentences.loss(n.chance_loss)})"
    if not n.end_loss >= guessing:
        last = f"at the last evaluation it was guessing ({sentences.loss(n.last_loss)})"
        broken = f"{sentences.fell(n)}, but {last}"
    if n.peak_loss > _times(t.spike, n.initial_loss):
        return "collapsed", f"{broken}, after a peak of {sentences.loss(n.peak_loss)}"
    learned = [(lr, end) for lr, end in lowest.items() if lr < n.lr and end < learning]
    if learned:
        lr, end = max(learned)
        return "collapsed", f"{broken}, while the smaller lr {lr:g} came to {sentences.loss(end)}"
    return None


def _times(share: float, loss: float) -> float:
    """Return a share of a loss; below 0, where a larger share is higher too, as far above it."""
    return share * loss if loss >= 0 else (2 - share) * loss


def _side(n: Numbers, setting: _Setting, fell: str, t: Thresholds) -> tuple[Outcome, str]:
    """Return on which side of the best lr the run lies, and how far its end is from the best."""
    sides = setting.sides
    failed, of = setting.failures[n.lr]
    fails = f"; {failed} of {of} seeds failed at this lr" if failed else ""
    medians = ", by the medians of the seeds" if of > 1 else ""
    if n.lr == sides.best:
        return "converged", f"{fell}, the lowest of {setting.lrs} lrs{medians}{fails}"
    which = "smaller" if sides.best < n.lr else "larger"
    best = f"{sentences.loss(sides.best_end)} at the {which} lr {sides.best:g}"
    above = f"{sentences.above(sides.ends[n.lr], sides.best_end, best)}{medians}"
    side = sides.side(n.lr)
    above += f"{_although(n.lr, side, setting, t)}{fails}"
    if side == 0:
        return "converged", f"{fell}, {above}"
    if side > 0:
        return "overshooting", f"{fell}, {above}"
    if n.end_loss > n.initial_loss + (1 - t.guessing) * abs(n.initial_loss):
        rose = "it ended above its start, so its steps were not too small"
        return "not compared", f"{fell}, {above}; {rose}"
    return "undershooting", f"{fell}, {above}"


def _although(lr: float, side: int, setting: _Setting, t: Thresholds) -> str:
    """Return why an lr is on this side if its end loss alone says another; otherwise ""."""
    sides = setting.sides
    over = sides.ends[lr] - sides.best_end
    is_near = over <= t.converged * abs(sides.best_end)
    if side == 0 and not is_near:
        noise = t.noise * sides.errors.get(lr, 0.0)
        if sides.higher.get(lr, over) <= noise:
            return ", within the noise of the seeds"
        if noise < over <= sides.room[lr]:
            return ", which is negligible compared with the initial loss"
        return ", but an lr farther from the best is as good"
    if side == 0 or not is_near:
        return ""
    failed, of = setting.failures[lr]
    best_failed, best_of = setting.failures[sides.best]
    if failed / of > best_failed / best_of:
        return ", at which fewer seeds failed"
    return ", but an lr between them did far worse"


def _guessing(n: Numbers, task: _Task) -> str:
    if n.first_at:
        return f"{sentences.FIRST_RECORDED} ({sentences.loss(task.start)})"
    if math.isnan(n.chance_loss):
        return f"before training ({sentences.loss(task.start)})"
    return f"guessing ({sentences.loss(n.chance_loss)})"
