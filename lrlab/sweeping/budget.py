"""Choose what a sweep with ``budget=60s`` trains, and say what is left out.

A few steps are trained first, to measure their speed. From it follow the epochs, which from then on
are those of the sweep as if they had been typed: so its runs train their whole, shorter schedule,
and `resume` and `reproduce` know of no budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, open_dict

from lrlab.config import checks, schema
from lrlab.config import space as spaces
from lrlab.config.words import arguments
from lrlab.engine.diagnostics import branch_budget
from lrlab.errors import UserError
from lrlab.plan import compose, memory
from lrlab.plan.spec import RunSpec, group_key
from lrlab.sweeping import workers
from lrlab.sweeping.judged import DEFAULT_TRIALS, Sweep, has_lanes
from lrlab.sweeping.resuming import resume_command

if TYPE_CHECKING:
    from lrlab.training.speed import Speed

MARGIN = 1.2  # times the measured speed: other programs, and records that are written
AFTER = 3.0  # seconds to judge the runs and to print the answer
FIGURES = 60.0  # seconds that must be left to draw the figures and the report

_MEASURING = 10  # one part in so many of the time is for measuring the speed
_FIGURES = "the figures and the report"


@dataclass(frozen=True)
class Asked:
    """What the command asks for.

    Attributes:
        text: the budget, as typed; ``seconds`` of it are left.
        epochs, mode: of each run; the value of ``diagnostics``.
        trials: settings of a search, with ``seeds`` runs each; None: a grid, of which all runs
            are trained.
        least: how few settings of a search are worth training.
    """

    text: str
    seconds: float
    epochs: int
    mode: str
    trials: int | None = None
    seeds: int = 1
    least: int = 1


@dataclass(frozen=True)
class Plan:
    """What fits.

    Attributes:
        asked: what the command asks for.
        epochs, mode, trials: what is trained instead, as in ``Asked``.
        needs: the seconds that it takes, as far as the speed tells.
        one_run: the seconds until a run that starts now has ended.
    """

    asked: Asked
    epochs: int
    mode: str
    trials: int | None
    needs: float
    one_run: float

    def left_out(self) -> list[str]:
        """Return what is left out, a phrase each."""
        asked, found = self.asked, []
        if self.epochs < asked.epochs:
            found.append(f"{asked.epochs - self.epochs} of {asked.epochs} epochs")
        if self.trials is not None and asked.trials and self.trials < asked.trials:
            found.append(f"{asked.trials - self.trials} of {asked.trials} settings of the search")
        if self.mode != asked.mode:
            found.append("the measuring of single steps, and the branch test")
        return found


def seconds(speed: Speed, epochs: int, mode: str, runs: int | None = None) -> float:
    """Return how long runs of one group take, without a margin.

    Args:
        mode: the value of ``diagnostics``.
        runs: how many; None: all.
    """
    steps = epochs * speed.steps_per_epoch
    shares = branch_budget.shares(mode, steps, speed.steps_per_epoch, speed.batches)
    training = steps * speed.step * (1 + shares)
    waves = math.ceil((speed.runs if runs is None else runs) / speed.lanes)
    return waves * (speed.setup + training + epochs * speed.evaluation + speed.ending)


def plan(asked: Asked, speeds: Sequence[Speed]) -> Plan:
    """Return the most that fits into the budget.

    As many epochs as fit, up to those asked for, are trained with all settings. If not even one
    does, single steps are not measured; then a search has fewer settings.

    Args:
        speeds: of each lane group; of a search the slowest counts.

    Raises:
        UserError: nothing fits; names the least budget that would do.
    """

    def needs(epochs: int, mode: str, trials: int | None) -> float:
        if trials is None:
            found = sum(seconds(speed, epochs, mode) for speed in speeds)
        else:
            found = max(seconds(speed, epochs, mode, trials * asked.seeds) for speed in speeds)
        return MARGIN * found + AFTER

    def planned(epochs: int, mode: str, trials: int | None) -> Plan:
        one = max(seconds(speed, epochs, mode, 1) for speed in speeds)
        whole = needs(epochs, mode, trials)
        return Plan(asked, epochs, mode, trials, whole, MARGIN * one + AFTER)

    for mode in dict.fromkeys((asked.mode, "off")):
        fits, too_many = 0, asked.epochs + 1
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if needs(middle, mode, asked.trials) <= asked.seconds:
                fits = middle
            else:
                too_many = middle
        if fits:
            return planned(fits, mode, asked.trials)
    least = None if asked.trials is None else min(asked.least, asked.trials)
    if asked.trials is not None and least is not None:
        for trials in range(asked.trials - 1, least - 1, -1):
            if needs(1, "off", trials) <= asked.seconds:
                return planned(1, "off", trials)
    whole = needs(1, "off", least) + _of(asked.text) - asked.seconds
    what = "one epoch of each run" if least is None else f"one epoch of {least} settings"
    raise UserError(
        f"budget={asked.text}: too short, {what} takes longer here; "
        f"use at least budget={spelt(whole)}, or train on fewer samples or at fewer learning rates"
    )


def spelt(amount: float) -> str:
    """Return a time as one would type it, rounded up: 75s, 12m."""
    if amount <= 120:
        return f"{math.ceil(amount)}s"
    return f"{math.ceil(amount / 60)}m" if amount <= 7200 else f"{math.ceil(amount / 3600)}h"


def _of(text: str) -> float:
    return checks.budget({"budget": text}) or 0.0


# --- a sweep --------------------------------------------------------------------------------------


def fit(current: Sweep, specs: Sequence[RunSpec]) -> bool:
    """Choose what a sweep trains within its budget, and say so; return whether it has a budget.

    Args:
        specs: all its runs, or of a search the corners of what it searches.

    Raises:
        UserError: the budget cannot work, or nothing fits into it.
    """
    config = current.config
    total = checks.budget(config)
    if total is None:
        return False
    text = str(config.budget)
    _refuse(current, text)
    speeds = _speeds(current, specs, total - (arguments.clock() - current.command.started))
    searched = current.space.searched
    seeds = len(spaces.seeds(current.space)) or 1
    asked = Asked(
        text=text,
        seconds=total - (arguments.clock() - current.command.started),
        epochs=int(config.epochs),
        mode=schema.diagnostics(config),
        trials=(config.n_trials or DEFAULT_TRIALS) if searched else None,
        seeds=seeds,
        least=max(1, min(speed.lanes for speed in speeds) // seeds),
    )
    found = plan(asked, speeds)
    _apply(current, found)
    current.budget = {
        "budget": text,
        "seconds": total,
        "needs": round(found.needs, 1),
        "asked": {"epochs": asked.epochs, "diagnostics": asked.mode, "n_trials": asked.trials},
        "trained": {"epochs": found.epochs, "diagnostics": found.mode, "n_trials": found.trials},
        "left_out": found.left_out(),
        "speeds": [asdict(speed) for speed in speeds],
    }
    left_out = found.left_out()
    what = f"left out: {', '.join(left_out)}" if left_out else "all training fits"
    print(f"lrlab: budget={text}: {what} (about {spelt(found.needs)} to go)", flush=True)
    return True


def _refuse(current: Sweep, text: str) -> None:
    config, space = current.config, current.space
    said = ""
    if current.resumed:
        said = "a sweep that goes on keeps its epochs; timeout= limits the time of a search"
    elif current.shared or workers.count(config.workers, config.device) > 1:
        said = "it measures one process; leave out workers and storage"
    elif config.timeout is not None:
        said = "timeout limits the same time; leave one of them out"
    elif not has_lanes(current):
        said = "it measures runs that train together; use hydra/launcher=lanes"
    elif "epochs" in {key.lstrip("+") for key in (*space.lists, *space.intervals)}:
        said = "it chooses the epochs, which are swept; give one value of epochs"
    if said:
        raise UserError(f"budget={text}: {said}")


def _speeds(current: Sweep, specs: Sequence[RunSpec], left: float) -> list[Speed]:
    """Return the measured speed of each lane group, in a tenth of the seconds that are left."""
    from lrlab.engine import devices
    from lrlab.sweeping.working import width
    from lrlab.training import speed

    groups: dict[str, list[RunSpec]] = {}
    for spec in specs:
        groups.setdefault(group_key(spec), []).append(spec)
    most = width(current)
    found = []
    for group in groups.values():
        needs = memory.needs(group[0])
        room = memory.budget(group[0], devices.free_memory(group[0].device)) - needs.data_bytes
        lanes = [room / max(needs.lane, 1), math.inf if most is None else most]
        lanes += [needs.fastest] if most is None else []
        lanes += [] if current.space.searched else [len(group)]
        within = left / _MEASURING / len(groups)
        found.append(speed.measure(group, max(1, int(min(*lanes, 1024))), within))
    return found


def _apply(current: Sweep, found: Plan) -> None:
    """Make the plan the sweep's own options, as if they had been typed instead of the budget."""
    config, asked = current.config, found.asked
    new: dict[str, str] = {}
    if found.epochs != asked.epochs:
        new["epochs"] = str(found.epochs)
    if found.mode != asked.mode:
        new["diagnostics"] = found.mode
    if found.trials is not None:
        if found.trials != config.n_trials:
            new["n_trials"] = str(found.trials)
        until = max(asked.seconds - found.one_run, 1.0)  # no run starts that would end too late
        new["timeout"] = f"{until:.3g}"
    kinds: dict[str, Callable[[str], Any]] = {"epochs": int, "n_trials": int, "timeout": float}
    with open_dict(config):
        config.budget = None
        for key, text in new.items():
            config[key] = kinds.get(key, str)(text)
    current.space.fixed[:] = _replaced(current.space.fixed, new)
    arguments.note(config, "task", _replaced(arguments.noted(config, "task"), new))
    compose.forget()


def _replaced(words: Sequence[str], new: Mapping[str, str]) -> list[str]:
    gone = {"budget", *new}
    kept = [word for word in words if word.partition("=")[0].lstrip("+") not in gone]
    return [*kept, *(f"{key}={text}" for key, text in new.items())]


def draws(config: DictConfig, planned: Mapping[str, Any] | None, started: float) -> bool:
    """Return whether figures are drawn: with a budget only if enough of it is left."""
    if planned is None:
        return bool(config.plots)
    return bool(config.plots) and planned["seconds"] - (arguments.clock() - started) >= FIGURES


def ended(
    current: Sweep, planned: Mapping[str, Any], drawn: bool, not_trained: int
) -> dict[str, Any]:
    """Return what answer.json says of the budget.

    Args:
        not_trained: how many of the planned runs have not ended, for the time was over.
    """
    left_out = list(planned["left_out"])
    if not_trained:
        left_out.append("1 planned run" if not_trained == 1 else f"{not_trained} planned runs")
    if current.config.plots and not drawn:
        left_out.append(_FIGURES)
    used = None if current.resumed else round(arguments.clock() - current.command.started, 1)
    kept = {key: planned[key] for key in ("budget", "seconds", "asked", "trained")}
    return {**kept, "left_out": left_out, "used": used}


def say_left_out(current: Sweep, told: Mapping[str, Any]) -> None:
    """Print what the budget left out, and how to have it; and whether it was not enough."""
    lines = [f"left out: {each}" for each in told["left_out"]]
    if _FIGURES in told["left_out"]:
        lines[-1] += f", which {resume_command(current.folder)} makes"
    if told["used"] is not None and told["used"] > told["seconds"]:
        lines.append(f"it took {spelt(told['used'])}, for training was slower than measured before")
    for line in lines:
        print(f"lrlab: budget={told['budget']}: {line}", flush=True)
