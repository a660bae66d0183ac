# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""What each learning rate did: outcome, step mode and the evidence in words, from curves alone."""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import numpy as np
import pandas as pd

from lrlab.evidence import Numbers, StepMode, measure
from lrlab.thresholds import THRESHOLDS, Thresholds
from lrlab.tidy import settings_of

Outcome = Literal[
    "diverged", "collapsed", "converged", "overshooting", "undershooting", "plateau", "unknown"
]
FAILED = ("diverged", "collapsed")
TOO_LARGE = (*FAILED, "overshooting")

# A run in one of these states has not had its whole budget; an empty state says nothing.
UNFINISHED = ("pruned", "interrupted", "failed", "running", "training", "waiting")

# Losses of different tasks cannot be compared: the best of the sweep is the best of the task.
_TASK = ("network", "loss", "data")
GAIN_EPSILON = 1e-3  # of the initial loss, in a branch's gain: below it a loss counts as nothing
_MODES: tuple[StepMode, ...] = ("unknown", "monotone", "oscillating", "unstable")
_FIELDS = (  # the numbers of a run that the table shows
    *("state", "judged_by", "unit", "last", "initial_loss", "chance_loss", "peak_loss"),
    *("train_end_loss", "first_nonfinite", "rising_share", "slope"),
    *("alpha", "stability_ratio", "stability_ratio_max", "gain_low", "gain_high"),
    *("overfits", "lowest_loss"),
)


@dataclass(frozen=True)
class _Sweep:
    """What a run is compared with.

    Attributes:
        initial: the median initial loss of the task; NaN where no run has one.
        best: the lowest end loss of the task; NaN where no run has one.
        lrs: how many different lrs of the task have an end loss.
        tried: how many there are of all its runs.
        ends: of the finished runs with the run's own settings, the median end loss at each lr.
        lowest: of all runs with these settings, the lowest end loss at each lr.
        smoothest: the same of the finished runs whose loss fell at every step.
    """

    initial: float
    best: float
    lrs: int
    tried: int
    ends: Mapping[float, float]
    lowest: Mapping[float, float]
    smoothest: Mapping[float, float]


def verdicts(
    curves: pd.DataFrame,
    settings: Sequence[str] | None = None,
    target: float | None = None,
    thresholds: Thresholds = THRESHOLDS,
) -> pd.DataFrame:
    """One row a run: what its learning rate did, how its steps behaved, and why one can say so.

    Args:
        curves: one row a recorded step of a run, in any order. Needed columns:

            - run: a number or a name.
            - lr: one a run, the lr that its schedule multiplies.
            - step or epoch: where the row stands in training. If both are there: step.
            - train_loss: at that step (of a mini-batch or of all data) or the epoch's mean.

            More is used where it is there; an empty cell or NaN is what was not measured:

            - val_loss: an evaluation on held-out data; the end loss is of it, if there are two.
            - alpha, stability_ratio: how far steps go, see `lrlab.thresholds`; grad_norm: only
              tells a row where something was measured from one where the loss was NaN.
            - seconds: since the run began. lr_at_step: that of the update, where it changes.
            - seed, state: a run's; "finished", "diverged", "pruned", "failed", "interrupted" ...
            - initial_loss: before training. num_classes, or chance_loss: what guessing costs.
            - first_nonfinite_step: if it is known.
            - gain_low, gain_high: of the branch test, log(loss at lr / loss at lr/10) and
              log(loss at lr / loss at 3·lr) after training on from the end; -inf, or empty beside
              one that is not: that branch became non-finite.
            - the settings, by which runs are told apart besides lr and seed.

            A loss of inf, or NaN from some row to the run's end, is a diverged run.
        settings: names of these columns; None: "schedule", "optimizer", "network", "loss", "data",
            "batch_size", "epochs" and all with a dot in their name, where they are there. A larger
            and a smaller lr are looked for among runs whose settings are all equal; the best loss
            among those with the same network, loss and data.
        target: the loss to be reached; None: 95% of the way from the initial to the best loss.

    Returns:
        Sorted by run. Columns: run, lr, seed, the settings;
        outcome: diverged, collapsed, converged, undershooting, overshooting, plateau, or unknown
        where less than two losses were recorded; for the rules see `lrlab.thresholds`;
        step_mode: monotone, oscillating, unstable, or unknown where it was not measured and the
        loss has noise; evidence: a sentence; end_loss: inf if the loss became non-finite;
        decay_gain: gain_low, what a decaying schedule would still win, in log train loss;
        best_loss (of the task), share (of the way to it);
        target_loss, steps_to_target (inf: never; in units of `unit`), seconds_to_target;
        and the numbers behind, as described at `lrlab.evidence.Numbers`.

    Raises:
        UserError: a column is missing, holds what is no number, or contradicts itself.
    """
    names = _told_apart_by(curves, settings)
    return judge(measure(curves, names, thresholds), names, target, thresholds)


def verdicts_of_pieces(
    pieces: Iterable[pd.DataFrame],
    settings: Sequence[str] | None = None,
    target: float | None = None,
    thresholds: Thresholds = THRESHOLDS,
) -> pd.DataFrame:
    """As `verdicts`, of curves that come in pieces and are not kept.

    Args:
        pieces: whole runs each, all with the same columns.
    """
    runs, names = measured(pieces, settings, thresholds)
    return judge(runs, names, target, thresholds)


def measured(
    pieces: Iterable[pd.DataFrame],
    settings: Sequence[str] | None = None,
    thresholds: Thresholds = THRESHOLDS,
) -> tuple[list[Numbers], list[str]]:
    """What `judge` takes of curves that come in pieces and are not kept: numbers, settings."""
    runs: list[Numbers] = []
    names: list[str] = []
    for curves in pieces:
        names = _told_apart_by(curves, settings)
        runs += measure(curves, names, thresholds)
        del curves  # or it would be there still while the next one is made
    return runs, names


def most_judged_by(found: Iterable[Any]) -> str:
    """The loss that most runs are judged by, the first by name of a tie; "" for none.

    found: of each run; a run that failed at once has no evaluation to be judged by, and NaN here.
    """
    names = [name for name in found if isinstance(name, str) and name]
    return min(set(names), key=lambda name: (-names.count(name), name), default="")


def _told_apart_by(curves: pd.DataFrame, settings: Sequence[str] | None) -> list[str]:
    names = settings_of(curves) if settings is None else list(settings)
    return [name for name in dict.fromkeys(names) if name not in ("run", "lr", "seed")]


def judge(
    runs: Sequence[Numbers], names: Sequence[str], target: float | None, thresholds: Thresholds
) -> pd.DataFrame:
    """The table of `verdicts`, from the numbers of all runs.

    Args:
        names: of the settings, in the order that each run has them in.
    """
    sweeps = _sweeps(runs, names)
    rows = []
    for numbers in runs:
        sweep = sweeps[numbers.run]
        share = _share(numbers, sweep.best)
        outcome, why = _outcome(numbers, sweep, thresholds)
        mode, how = _step_mode(numbers, sweep, outcome, thresholds)
        goal = _target(sweep, thresholds) if target is None else target
        steps, seconds = _reached(numbers, goal)
        rows.append(
            {
                "run": numbers.run,
                "lr": numbers.lr,
                "seed": numbers.seed,
                **dict(zip(names, numbers.settings, strict=True)),
                "outcome": outcome,
                "step_mode": mode,
                "evidence": _sentence(numbers, outcome, why, how),
                "end_loss": numbers.end_loss,
                "decay_gain": numbers.gain_low,
                "best_loss": sweep.best,
                "share": share,
                "target_loss": goal,
                "steps_to_target": steps,
                "seconds_to_target": seconds,
                **{name: getattr(numbers, name) for name in _FIELDS},
            }
        )
    columns = ["run", "lr", "seed", *names, *_columns()]
    return pd.DataFrame(rows, columns=list(dict.fromkeys(columns)))


def _columns() -> list[str]:
    return [
        *("outcome", "step_mode", "evidence", "end_loss", "decay_gain", "best_loss", "share"),
        *("target_loss", "steps_to_target", "seconds_to_target", *_FIELDS),
    ]


# --- comparison -----------------------------------------------------------------------------------


def _sweeps(runs: Sequence[Numbers], names: Sequence[str]) -> dict[Hashable, _Sweep]:
    """What each run is compared with, by run."""
    of_task = [i for i, name in enumerate(names) if name.split(".")[0] in _TASK]
    tasks: dict[tuple[Any, ...], list[Numbers]] = {}
    groups: dict[tuple[Any, ...], list[Numbers]] = {}
    for numbers in runs:
        tasks.setdefault(_task(numbers, of_task), []).append(numbers)
        groups.setdefault(numbers.settings, []).append(numbers)
    bests = {}
    for key, members in tasks.items():
        starts = [n.initial_loss for n in members if not math.isnan(n.initial_loss)]
        ended = [n for n in members if math.isfinite(n.end_loss)]
        # A mini-batch loss is no match for an evaluation: it may be of data seen many times.
        ended = [n for n in ended if n.judged_by == "val_loss"] or ended
        best = min((n.end_loss for n in ended), default=math.nan)
        start = median(starts) if starts else math.nan
        tried = {n.lr for n in members if not math.isnan(n.lr)}
        bests[key] = (start, best, len({n.lr for n in ended}), len(tried))
    by_lr = {}
    for key, members in groups.items():
        told = [n for n in members if not math.isnan(n.end_loss) and not math.isnan(n.lr)]
        finished = [n for n in told if n.state not in UNFINISHED]
        smooth = [n for n in finished if n.curve_mode == "monotone"]
        by_lr[key] = (_at_lrs(finished, median), _at_lrs(told, min), _at_lrs(smooth, min))
    return {n.run: _Sweep(*bests[_task(n, of_task)], *by_lr[n.settings]) for n in runs}


def _at_lrs(
    runs: Sequence[Numbers], of_several: Callable[[list[float]], float]
) -> dict[float, float]:
    ends: dict[float, list[float]] = {}
    for numbers in runs:
        ends.setdefault(numbers.lr, []).append(numbers.end_loss)
    return {lr: of_several(each) for lr, each in ends.items()}


def _task(numbers: Numbers, of_task: Sequence[int]) -> tuple[Any, ...]:
    return tuple(numbers.settings[i] for i in of_task)


def _share(numbers: Numbers, best: float) -> float:
    """(ℓ0 − end) / (ℓ0 − best): the share of the way to the best; NaN where there is no way."""
    way = numbers.initial_loss - best
    if not (way > 0 and math.isfinite(way) and math.isfinite(numbers.end_loss)):
        return math.nan
    return (numbers.initial_loss - numbers.end_loss) / way


def _after_branch(numbers: Numbers, gain: float) -> float:
    """The end loss if a branch's gain came on top of it; as it is where the branch does no good."""
    if not gain > 0 or numbers.initial_loss <= 0:
        return numbers.end_loss
    epsilon = GAIN_EPSILON * numbers.initial_loss
    return max(0.0, (numbers.end_loss + epsilon) * math.exp(-min(gain, 700.0)) - epsilon)


def _target(sweep: _Sweep, thresholds: Thresholds) -> float:
    way = sweep.initial - sweep.best
    return sweep.initial - thresholds.target * way if way > 0 else math.nan


def _reached(numbers: Numbers, target: float) -> tuple[float, float]:
    """Position and seconds of the first evaluation at or below the target; inf: never."""
    if math.isnan(target) or not len(numbers.series):
        return math.nan, math.nan
    there = np.flatnonzero(numbers.series.loss <= target)
    if not len(there):
        return math.inf, math.inf
    return float(numbers.series.at[there[0]]), float(numbers.series.seconds[there[0]])


# --- outcome --------------------------------------------------------------------------------------


def _outcome(numbers: Numbers, sweep: _Sweep, thresholds: Thresholds) -> tuple[Outcome, str]:
    """The first rule that holds, and why it does."""
    n, t = numbers, thresholds
    if not n.is_finite:
        return "diverged", _nonfinite(n)
    if not n.losses:
        return "unknown", "no loss was recorded"
    if n.losses == 1 and not n.has_branches and not (n.last > 0 and n.end_loss != n.initial_loss):
        return "unknown", f"only one loss was recorded, {_loss(n.end_loss)}, which has no direction"
    fell = _fell(n)
    if not n.overfits:
        start = max(x for x in (n.initial_loss, n.chance_loss) if not math.isnan(x))
        if n.growing and n.end_loss > start + (t.diverged - 1) * abs(start):
            return "diverged", f"{fell} and was still growing"
        if n.end_loss >= t.chance * n.chance_loss and (why := _collapse(n, sweep, t)):
            return "collapsed", f"{fell}, {_chance(n)}, {why}"
    if why := _convergence(n, sweep, t):
        return "converged", f"{fell}, {why}"
    if not n.overfits and n.end_loss >= t.chance * n.chance_loss:
        branch = f" ({_branch(n)})" if n.has_branches else ""
        return "undershooting", f"{fell}, {_chance(n)}, and nothing says that it blew up{branch}"
    if n.has_branches:
        return _branch_test(n, sweep, fell, t)
    return _without_branches(n, sweep, fell, t)


def _nonfinite(n: Numbers) -> str:
    where = f" at {n.unit} {n.first_nonfinite:.6g}" if math.isfinite(n.first_nonfinite) else ""
    if not n.losses:
        return f"the loss was not finite from the first record on{where}"
    return f"the loss became non-finite{where}, after {_loss(n.peak_loss)} at its highest"


def _fell(n: Numbers) -> str:
    """How the loss went, from its start to its end."""
    name = "val loss" if n.judged_by == "val_loss" else "loss"
    start, end = n.initial_loss, n.end_loss
    change = (end - start) / abs(start) if start else math.copysign(math.inf, end - start)
    if math.isnan(change) or end == start:
        return f"{name} ended at {_loss(end)}, where it began"
    if abs(change) < 0.02:
        return f"{name} stayed at {end:.4g} ({start:.4g} before training)"
    if n.overfits:
        return (
            f"val loss rose from its lowest, {_loss(n.lowest_loss)}, to {_loss(end)} while train "
            f"loss fell to {_loss(n.train_end_loss)} (overfitting)"
        )
    return f"{name} {'fell' if change < 0 else 'rose'} from {_loss(start)} to {_loss(end)}"


def _chance(n: Numbers) -> str:
    return f"no better than guessing ({n.chance_loss:.4g})"


def _collapse(n: Numbers, sweep: _Sweep, t: Thresholds) -> str:
    """The evidence that it had been better, or could be; empty where there is none."""
    if n.peak_loss > t.spike * n.initial_loss:
        return f"after a peak of {_loss(n.peak_loss)}"
    learned = [
        (lr, end)
        for lr, end in sweep.lowest.items()
        if lr < n.lr and end < t.learned * n.chance_loss
    ]
    if learned:
        lr, end = max(learned)
        return f"while the smaller lr {lr:g} came to {_loss(end)}"
    return ""


def _convergence(n: Numbers, sweep: _Sweep, t: Thresholds) -> str:
    """Why it is as good as the best; empty where it is not, or nothing can say so.

    The best of a sweep is no proof by itself: of steps that are all too small one is the best, too.
    So the branches are heard: the loss that 3·lr would reach counts as known, and that at lr/10
    where it is far below. Nothing that is hardly better than guessing has converged. A run that no
    other can be compared with has come to its end if as little is left of a loss that cannot be
    negative.
    """
    if n.state in UNFINISHED or n.end_loss >= t.learned * n.chance_loss:
        return ""
    alone = sweep.lrs < 2
    best = min(sweep.best, _after_branch(n, n.gain_high))
    compared = "the best of the sweep"
    if alone and not n.has_branches:
        best, compared = (0.0, "zero") if n.series.loss.min() >= 0 else (math.nan, "")
    elif alone:
        compared = "what a longer or shorter step would reach"
        best = min(best, _after_branch(n, n.gain_low))
    share = _share(n, best)
    if not share >= t.converged:
        return ""
    if _share(n, _after_branch(n, n.gain_low)) < t.overtaken:
        return ""
    if n.end_loss == sweep.best and not alone:
        why = f"the best of {sweep.tried} lrs"
        if not n.has_branches and n.lr >= max(sweep.lowest) and n.slope <= t.slope:
            why += ", but it was still falling at the largest: a larger lr may do better"
    else:
        why = f"{min(share, 1):.1%} of the way to {compared} ({_loss(best)})"
    if n.gain_low > t.gain:
        why += f"; a tenth of the step would still win {_gain(n.gain_low)}"
    return why


def _branch_test(n: Numbers, sweep: _Sweep, fell: str, t: Thresholds) -> tuple[Outcome, str]:
    """The rule for runs that had a branch test.

    Where no branch gains much, its few steps have not told; then the neighbouring lrs are heard,
    and where these are no better, whether steps that stop short have brought it far.
    """
    if n.gain_low > t.gain and n.gain_low >= n.gain_high:
        return "overshooting", f"{fell}; a tenth of the step gains {_gain(n.gain_low)}"
    falling = " and was still falling" if n.slope <= t.slope else ""
    if n.gain_high > t.gain:
        gain = _gain(n.gain_high)
        return "undershooting", f"{fell}{falling}; three times the step gains {gain}"
    guessing = n.initial_loss if math.isnan(n.chance_loss) else n.chance_loss
    if n.end_loss >= t.learned * guessing and n.peak_loss > t.spike * n.initial_loss > 0:
        # What an explosion has broken, no step mends: neither a shorter one nor a longer one.
        return "collapsed", f"{fell} after a peak of {_loss(n.peak_loss)}; {_branch(n)}"
    if found := _neighbours(n, sweep, t):
        return found[0], f"{fell}{falling}; {_branch(n)}, but {found[1]}"
    if not n.annealed and (short := _short_steps(n, t)):
        share = _share(n, sweep.best)
        if n.slope <= t.slope:
            return (
                "undershooting",
                f"{fell}{falling} by steps that stop short ({short}); {_branch(n)}",
            )
        if share < t.stuck:
            way = f"{share:.0%} of the way to the best ({_loss(sweep.best)})"
            return (
                "undershooting",
                f"{fell}, {way}, by steps that stop short ({short}); {_branch(n)}",
            )
    return "plateau", f"{fell}{falling}; {_branch(n)}"


def _short_steps(n: Numbers, t: Thresholds) -> str:
    """What says that its steps stop well before the valley's floor; empty where nothing does."""
    if not math.isnan(n.alpha):
        return f"alpha {n.alpha:.2f}" if n.alpha <= t.short else ""
    if n.stability_ratio < t.oscillating:  # False for NaN
        return f"stability ratio {_ratio(n.stability_ratio)}"
    return ""


def _neighbours(n: Numbers, sweep: _Sweep, t: Thresholds) -> tuple[Outcome, str] | None:
    """What the lrs beside it say, and how far they came; None where none was better."""
    # A run that was stopped early has not had the steps that its neighbours had.
    ends = {} if n.state in UNFINISHED else sweep.ends
    goal = n.end_loss - t.better * abs(n.end_loss)
    larger = min((lr for lr in ends if lr > n.lr), default=math.nan)
    if ends.get(larger, math.inf) < goal:
        return "undershooting", f"the next larger lr {larger:g} came to {_loss(ends[larger])}"
    smaller = min((lr for lr in ends if lr < n.lr), key=ends.__getitem__, default=math.nan)
    if ends.get(smaller, math.inf) < goal:
        return "overshooting", f"the smaller lr {smaller:g} came to {_loss(ends[smaller])}"
    return None


def _without_branches(n: Numbers, sweep: _Sweep, fell: str, t: Thresholds) -> tuple[Outcome, str]:
    """The rule for curves from elsewhere: by the neighbouring lrs, then by the trend.

    Where a smaller lr did better and the next larger one did not, the steps were too long, whatever
    the trend: noise of long steps can look like a loss that still falls.
    """
    if found := _neighbours(n, sweep, t):
        return found[0], f"{fell}; {found[1]}"
    ends = {} if n.state in UNFINISHED else sweep.ends
    larger = min((lr for lr in ends if lr > n.lr), default=math.nan)
    if math.isnan(n.rising_share):
        return "undershooting", f"{fell}; too few losses for a trend, and no smaller lr did better"
    rose = f"rose in {n.rising_share:.0%} of the parts of its second half"
    if n.annealed:
        beside = "no other lr did better" if ends.keys() - {n.lr} else "there is no other lr"
        return "plateau", f"{fell} as its lr went to nothing, which hides the trend; {beside}"
    if n.slope <= t.slope:
        return "undershooting", f"{fell} and was still falling (slope {n.slope:.2g})"
    if n.rising_share < t.rising:
        return "undershooting", f"{fell}, and {rose} only, so its steps did not hinder it"
    slope = "" if math.isnan(n.slope) else f" without falling any more (slope {n.slope:.2g})"
    beside = "" if math.isnan(larger) else f", and the next larger lr {larger:g} was no better"
    return "overshooting", f"{fell}, and {rose}{slope}{beside}"


# --- steps ----------------------------------------------------------------------------------------


def _step_mode(
    n: Numbers, sweep: _Sweep, outcome: Outcome, thresholds: Thresholds
) -> tuple[StepMode, str]:
    """How the steps behaved, and what says so.

    The larger of both measurements counts: alpha looks along the step only and misses a swing
    across a ravine; the stability ratio is of the whole loss and misses what one batch does. A run
    that failed is judged by its largest ratio, for behind the explosion the loss can be flat.
    """
    t = thresholds
    ratio = n.stability_ratio_max if outcome in FAILED else n.stability_ratio
    kind = "at most" if outcome in FAILED else "median"
    if not (math.isnan(ratio) and math.isnan(n.alpha)):
        by_ratio = 0 if math.isnan(ratio) else 1 + (ratio >= t.oscillating) + (ratio > t.unstable)
        by_alpha = 0 if math.isnan(n.alpha) else 1 + (n.alpha >= 0) + (n.alpha > 1)
        told = [] if math.isnan(ratio) else [f"stability ratio {kind} {_ratio(ratio)}"]
        told += [] if math.isnan(n.alpha) else [f"median alpha {n.alpha:.2f}"]
        if outcome in FAILED and max(by_ratio, by_alpha) < len(_MODES) - 1:
            told.append("where it was measured, before it failed")
            by_ratio = len(_MODES) - 1
        edge = " at the edge of stability" if abs(ratio - t.unstable) < 0.1 else ""
        return _MODES[max(by_ratio, by_alpha)], f"steps{edge} by {', '.join(told)}"
    if outcome in FAILED:
        return "unstable", "steps by the curve alone"
    mode = n.curve_mode
    if mode == "monotone":
        # On a quadratic the loss falls at every step up to the border of stability, but beyond
        # lr·λ = 1, where each step crosses the valley, it falls the slower the longer the step.
        goal = n.end_loss - t.better * abs(n.end_loss)
        if any(lr < n.lr and end < goal for lr, end in sweep.smoothest.items()):
            return "oscillating", "steps by the curve alone: smooth, but a smaller lr fell faster"
        return mode, "steps by the curve alone: the loss fell at every step"
    if mode == "unknown":
        return mode, "steps not measured"
    return mode, "steps by the curve alone"


# --- words ----------------------------------------------------------------------------------------


def _sentence(n: Numbers, outcome: Outcome, why: str, how: str) -> str:
    before = ""
    if n.state in UNFINISHED:
        where = f" at {n.unit} {n.last:g}" if math.isfinite(n.last) else ""
        before = f"{_STATES[n.state]}{where}, judged as far as it came: "
    if outcome == "unknown":
        return f"{before}{why}: unknown"
    if math.isnan(n.chance_loss) and n.is_finite and n.end_loss > 0.5 * n.initial_loss:
        lacking = "num_classes, or a regression's chance_loss"
        why += f"; without {lacking}, it was not compared with guessing"
    return f"{before}{why}: {outcome} ({how})"


_STATES = {
    "pruned": "pruned",
    "interrupted": "interrupted",
    "failed": "failed with an error",
    "running": "still running",
    "training": "still running",
    "waiting": "not begun",
}


def _branch(n: Numbers) -> str:
    low, high = (
        "becomes non-finite" if gain == -math.inf else f"gains {round(gain, 2) + 0.0:.2f}"
        for gain in (n.gain_low, n.gain_high)
    )
    return f"in train loss a tenth of the step {low}, three times the step {high}"


def _gain(gain: float) -> str:
    # Measured against going on with the same step, which need not stay where the run ended.
    return f"{gain:.2f} more in log train loss ({-math.expm1(-gain):.0%} less than the same step)"


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 1000 else f"{ratio:.3g}"


def _loss(loss: float) -> str:
    return f"{loss:.3g}"
