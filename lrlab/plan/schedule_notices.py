"""Write notices about the schedules of a sweep, from their tables of rates.

A schedule is judged by its rates and by those that it would give with another lr, or with more
time. Its name is never used. Schedules that follow val_loss have no table and get no notice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lrlab.errors import UserError
from lrlab.plan import build
from lrlab.plan.schedules import lane_schedules, reading
from lrlab.plan.spec import RunSpec, samples_a_step
from lrlab.process.plain import is_number

RISES = 1.5  # the last lr over the lowest in the run's last half, since when it has risen
SEEN = 0.05  # of the largest lr; a smaller rise does not count
NEAR = 0.5  # of the lr that a schedule rises to; below, it has not come near it
MOST = 0.5  # of a run's steps
STANDS = 0.01  # of lr; smaller changes hardly count ...
_FEW_TICKS = 50  # ... but with so few ticks there was no time for more
_LONGER = 1000  # ticks in which any schedule that fits itself to its run reaches its highest lr
_WHOLE_CYCLE = 5000  # ticks in which a schedule that goes up and down by itself has gone up
_LONGEST = 300_000  # ticks that are examined, a few seconds
_FITTING = ("T_max", "T_0", "total_iters", "total_steps")  # arguments that auto fits to the run


def of_sweep(specs: Sequence[RunSpec]) -> Iterator[str]:
    """Return a line for each schedule under which runs that differ only in lr use the same rates.

    Args:
        specs: all runs of the sweep, or in a search those at the ends of its intervals.
    """
    groups: dict[str, dict[float, RunSpec]] = {}
    for spec in specs:
        groups.setdefault(_key(spec, spec["schedule"]), {})[float(spec["lr"])] = spec
    found: dict[tuple[str, str, int, int], list[RunSpec]] = {}
    for by_lr in groups.values():
        if len(by_lr) < 2:
            continue
        one, other = (_rates(by_lr[lr]) for lr in (min(by_lr), max(by_lr)))
        if one is None or other is None:
            continue
        same = int(((one == other) & (one > 0)).sum())
        if same > MOST * len(one):
            first = by_lr[min(by_lr)]
            ruling = json.dumps(_ruling(first))
            key = (first.choices["schedule"], ruling, same, len(one))
            found.setdefault(key, []).append(first)
    for (choice, ruling, same, steps), firsts in found.items():
        names = json.loads(ruling)
        told = ", ".join(f"schedule.{k}={_values(firsts, k)}" for k in names)
        told = f" ({told})" if told else ""
        whole = "all runs" if len(groups) == 1 else "runs that differ in lr alone"
        what = f"{whole} train at the same rates"
        what += f" in {same:,} of {steps:,} steps" if same < steps else ""
        unswept = [f"schedule.{k}" for k in names if "," not in _values(firsts, k)]
        remedy = f"sweep {' and '.join(unswept)} instead" if unswept else "leave lr out"
        if _rises_to_the_end(firsts[0]["schedule"]):
            remedy = "train one run, or use python -m lrlab.find"
        yield f"schedule={choice} sets the rates by itself{told}: {what}; {remedy}"


def one_each(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """Return the first run of each shape of schedule: a shape needs no line for each lr."""
    shapes: dict[str, list[RunSpec]] = {}
    for spec in specs:
        known = shapes.setdefault(_key(spec, {}), [])
        if not any(_one_shape(spec, other) for other in known):
            known.append(spec)
    return [spec for known in shapes.values() for spec in known]


def _one_shape(one: RunSpec, other: RunSpec) -> bool:
    """Return whether their schedules differ only in the lr."""
    a, b = one["schedule"], other["schedule"]
    return a.keys() == b.keys() and all(
        a[k] == b[k] or (a[k] == one["lr"] and b[k] == other["lr"]) for k in a
    )


def of_run(spec: RunSpec) -> list[str]:
    """Return notices about one run's schedule."""
    arguments = build.schedule_arguments(spec, _steps_per_epoch(spec))
    return of_schedule(spec.choices["schedule"], *arguments)


def of_schedule(
    choice: str,
    schedule: Mapping[str, Any],
    hyperparameters: Mapping[str, Any],
    steps: int,
    steps_per_epoch: int,
) -> list[str]:
    """Return notices about a schedule: the problem, then a remedy.

    Args:
        choice: the user's name of the schedule.
        schedule, hyperparameters, steps, steps_per_epoch: as for ``lane_schedules.build``.
    """
    built = lane_schedules.build(schedule, hyperparameters, steps, steps_per_epoch)
    if built.closed_loop:
        return []
    s = reading.read(schedule, steps, steps_per_epoch)
    rates = built.values(0, steps)["lr"]
    run = _Run(f"schedule={choice}", schedule, hyperparameters, s, rates)
    few = _never_comes_near(run)
    shape = few or _stands(run) or _is_zero(run) or _rises_at_the_end(run)
    lines = (_warms_up_too_long(run), _has_no_factor(run), shape, _fires_in_part(run))
    return [line for line in lines if line]


class _Run:
    """A schedule in a run.

    Attributes:
        say: how a line begins.
        rates: (steps,) lr; ``after``: those after the warm-up.
        given: the scheduler's arguments as in the config, with "auto".
        counts: those of all its arguments that are whole numbers, as one would type them.
    """

    def __init__(
        self,
        say: str,
        schedule: Mapping[str, Any],
        hyperparameters: Mapping[str, Any],
        settings: reading.Settings,
        rates: np.ndarray,
    ) -> None:
        self.say, self.schedule, self.hyperparameters = say, schedule, hyperparameters
        self.settings, self.rates, self.after = settings, rates, rates[settings.warmup_steps :]
        self.given = {k: v for k, v in schedule.items() if k in settings.target.given}
        self.counts: dict[str, int] = {
            k: v
            for k, v in settings.target.arguments.items()
            if type(v) is int and self.given.get(k) != "auto"
        }
        self.lr = f"lr={hyperparameters['lr']:g}"
        self.interval = str(schedule.get("interval", "step"))

    @property
    def ticks(self) -> str:
        n = self.settings.ticks
        after = " after warm-up" if self.settings.warmup_steps else ""
        return f"{n:,} {self.interval}{'' if n == 1 else 's'}{after}"

    @property
    def fits_itself(self) -> bool:
        return "auto" in self.given.values() or "total_steps" in self.given

    def in_ticks(self, ticks: int, **changes: Any) -> np.ndarray:
        return _in_ticks({**self.schedule, **changes}, self.hyperparameters, ticks)


def _in_ticks(
    schedule: Mapping[str, Any], hyperparameters: Mapping[str, Any], ticks: int
) -> np.ndarray:
    """Return (ticks,) lr of the same schedule without warm-up, in a run of so many ticks.

    Raise ``UserError`` if it cannot be so long.
    """
    node = {**schedule, "interval": "step", "warmup_steps": 0}
    return lane_schedules.build(node, hyperparameters, ticks, 1).values(0, ticks)["lr"]


def _warms_up_too_long(run: _Run) -> str:
    warmup, steps = run.settings.warmup_steps, run.settings.steps
    if warmup <= MOST * steps:
        return ""
    return (
        f"schedule.warmup_steps={warmup}: the warm-up takes more than half of the run's "
        f"{steps:,} steps; use schedule.warmup_steps={max(steps // 10, 1)}, or more epochs"
    )


def _has_no_factor(run: _Run) -> str:
    factor = run.given.get("factor", 1.0)
    if run.settings.target.arguments.get("total_iters") != 0 or factor == 1:
        return ""
    return (
        f"schedule.factor={factor}: applies for schedule.total_iters=0 ticks, so never; "
        f"use schedule.total_iters=auto to train at {factor} of lr, or leave it out"
    )


def _never_comes_near(run: _Run) -> str:
    """Notice a schedule that fits itself to its run, with too few ticks to reach its highest lr."""
    top = float(run.after.max())
    few = run.settings.ticks < _FEW_TICKS or top < NEAR * run.hyperparameters["lr"]
    if not few or not run.fits_itself:
        return ""
    fitted = {"total_steps": "auto"} if "total_steps" in run.given else {}
    try:
        peak = float(run.in_ticks(_LONGER, **fitted).max())
    except UserError:
        return ""
    if top >= NEAR * peak:
        return ""
    remedies = ["schedule.interval=step"] if run.interval == "epoch" else []
    if run.given.get("total_steps", "auto") != "auto":
        remedies.append("schedule.total_steps=auto")
    if run.settings.steps < _FEW_TICKS:
        remedies.append("more epochs")
    return (
        f"{run.say} reaches an lr of only {top:.3g} in the run's {run.ticks}, not "
        f"{peak:.3g} ({run.lr}, schedule.interval={run.interval}); "
        f"use {' and '.join(remedies) or 'more epochs'}"
    )


def _stands(run: _Run) -> str:
    """Notice a schedule that would change the lr, but has no time to."""
    low, high = float(run.after.min()), float(run.after.max())
    ticks = run.settings.ticks
    if high - low >= STANDS * high or (low < high and ticks < _FEW_TICKS):
        return ""
    beyond = {k: v for k, v in _points(run).items() if min(v) >= ticks}
    if ticks == 1 and not run.fits_itself and [1] in beyond.values():
        return ""  # a change after every epoch, in a run of one epoch
    if low < high:
        typed = ", ".join(f"schedule.{k}={v}" for k, v in run.given.items())
        return (
            f"{run.say} changes the lr by only {(high - low) / high:.2%} in the run's "
            f"{run.ticks}; change {typed or 'its settings'}, or use schedule=fixed"
        )
    if not _would_change(run, max((max(v) for v in beyond.values()), default=0)):
        return ""
    typed = ", ".join(f"schedule.{k}={_typed(run.given.get(k, v[0]))}" for k, v in beyond.items())
    typed = f"; {typed} {'lie' if len(beyond) > 1 else 'lies'} beyond its end" if beyond else ""
    if run.fits_itself and run.interval == "epoch":
        remedy = "schedule.interval=step, or more epochs"
    elif ticks > 1 and beyond:
        remedy = f"a value below {ticks}, or more epochs"
    else:
        remedy = "more epochs"
    return (
        f"{run.say} never changes the lr in this run, which has {run.ticks} "
        f"(schedule.interval={run.interval}){typed}; use {remedy}"
    )


def _would_change(run: _Run, last: int) -> bool:
    """Return whether the lr would change in a longer run that goes on after that tick."""
    ticks = min(max(3 * run.settings.ticks, last + 2, 10), _LONGEST)
    try:
        rates = run.in_ticks(ticks)
    except UserError:  # it has a length of its own
        return True
    return bool((rates != rates[0]).any())


def _points(run: _Run) -> dict[str, list[int]]:
    """Return the arguments that are ticks, or lists of them."""
    found: dict[str, list[int]] = {k: [v] for k, v in run.counts.items()}
    for key, value in run.given.items():
        if isinstance(value, list | tuple) and value and all(type(v) is int for v in value):
            found[key] = [*value]
    return found


def _fires_in_part(run: _Run) -> str:
    ticks, milestones = run.settings.ticks, _points(run).get("milestones", [])
    late = [m for m in milestones if m >= ticks]
    if not 0 < len(late) < len(milestones):
        return ""
    verb, fire = ("lies", "fires") if len(late) == 1 else ("lie", "fire")
    return (
        f"schedule.milestones={_typed(milestones)}: {', '.join(map(str, late))} {verb} beyond the "
        f"run's {run.ticks} (schedule.interval={run.interval}) and never {fire}; "
        f"use values below {ticks}"
    )


def _is_zero(run: _Run) -> str:
    zeros = int((run.after == 0).sum())
    if zeros <= MOST * len(run.rates):
        return ""
    return (
        f"{run.say} has an lr of 0 in {zeros:,} of the run's {len(run.rates):,} steps, in which "
        f"nothing is learned ({_counts(run)}); use {_shorter(run)}"
    )


def _rises_at_the_end(run: _Run) -> str:
    rates = run.after
    half = rates[len(rates) // 2 :]
    low, last, top = float(half.min()), float(half[-1]), float(rates.max())
    if last <= RISES * low or last - low <= SEEN * top or _rises_to_the_end(run.schedule):
        return ""
    place = len(rates) // 2 + int(half.argmin())
    what = f"{low:.3g} at step {place + run.settings.warmup_steps}, {last:.3g} at the last"
    if rates[:place].max(initial=low) > RISES * low:
        return (
            f"{run.say} raises the lr again before the run ends: {what} ({run.lr}, {_counts(run)});"
            f" to end with small steps use {_shorter(run)}"
        )
    return (
        f"{run.say} still raises the lr when the run ends: {what} ({run.lr}, {_counts(run)}); "
        "use a shorter rise, or more epochs"
    )


def _shorter(run: _Run) -> str:
    """Return a setting with which the schedule ends with the run."""
    for key in _FITTING:
        if key in run.counts:
            return f"schedule.{key}=auto"
    if run.counts:
        typed = " and ".join(f"schedule.{k}" for k in run.counts)
        return f"{typed} with which it ends low after {run.ticks}"
    return "more epochs, or another schedule"


def _counts(run: _Run) -> str:
    return ", ".join([*(f"schedule.{k}={v}" for k, v in run.counts.items()), run.ticks])


def _typed(value: Any) -> str:
    return str(value).replace(" ", "")


# --- all runs of a sweep --------------------------------------------------------------------------


def _rises_to_the_end(schedule: Mapping[str, Any]) -> bool:
    """Return whether a rising lr is its purpose, as for the range test's."""
    target = reading.read({**schedule, "warmup_steps": 0}, 1, 1).target
    return getattr(target.call, "rises_to_the_end", False)


def _key(spec: RunSpec, schedule: Mapping[str, Any]) -> str:
    """Return a key that is equal for runs with tables of rates that differ at most by their lr."""
    numbers = {k: v for k, v in spec["optimizer"].items() if k in ("momentum", "betas")}
    shared = [spec["data"], spec["epochs"], samples_a_step(spec)]
    named = [spec.choices["schedule"], dict(schedule), numbers, *shared]
    return json.dumps(named, sort_keys=True, default=str)


def _steps_per_epoch(spec: RunSpec) -> int:
    return len(build.load_data(spec).train_y) // samples_a_step(spec)


def _rates(spec: RunSpec) -> np.ndarray | None:
    built, steps = build.build_schedule(spec, _steps_per_epoch(spec)), _steps_per_epoch(spec)
    return None if built.closed_loop else built.values(0, spec["epochs"] * steps)["lr"]


def _ruling(spec: RunSpec) -> list[str]:
    """Return the settings that scale the largest rate."""
    schedule, numbers, _, _ = build.schedule_arguments(spec, 1)
    node = dict(schedule)
    if "total_steps" in node:
        node["total_steps"] = "auto"

    def top(**changes: Any) -> float:
        try:
            return float(_in_ticks({**node, **changes}, numbers, _WHOLE_CYCLE).max())
        except UserError:
            return math.nan

    now = top()
    numeric = [k for k, v in node.items() if k not in reading.OWN_KEYS and is_number(v)]
    return [k for k in numeric if 1.09 * now < top(**{k: node[k] * 1.1}) < 1.11 * now]


def _values(specs: Sequence[RunSpec], key: str) -> str:
    return ",".join(dict.fromkeys(f"{spec['schedule'][key]:g}" for spec in specs))
