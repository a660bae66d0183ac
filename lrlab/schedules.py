"""Learning rate schedules: torch's own schedulers, stepped once ahead and read off into a table.

The table holds the lr that is used AT a step. It comes from ``scheduler.step()`` over a dummy
optimizer and from nothing else: ``StepLR.get_lr()`` jumps ahead at a boundary, and a scheduler
that is rebuilt with ``last_epoch=`` decays twice.

Time. A schedule's clock starts at 0 when its warm-up of w steps is over, and ticks after every
step (interval=step) or at every epoch boundary (interval=epoch)::

    tick(t) = t // u − w // u       u = 1 for interval=step, steps_per_epoch for interval=epoch
    lr(t)   = schedule(tick(t))                           for t >= w
    lr(t)   = schedule(0) · (f + (1 − f) · t / w)         for t < w, f = warmup_start_factor

``total_iters=0`` of torch's ConstantLR and LinearLR is their end from the first tick on: lr itself,
and lr · end_factor. torch's own code steps past that end and stays at its start for ever.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import math
import numbers
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.optim.lr_scheduler import ConstantLR, LinearLR, LRScheduler

from lrlab.config import targets
from lrlab.config.schema import nearest
from lrlab.engine.python_state import seeded
from lrlab.errors import UserError
from lrlab.process.plain import is_number, is_whole

OWN_KEYS = ("interval", "warmup_steps", "warmup_start_factor")
INTERVALS = ("step", "epoch")


class LaneSchedule(Protocol):
    """One lane's schedule.

    Attributes:
        closed_loop: it follows val_loss; then ``values`` reaches to the end of the current epoch.
    """

    closed_loop: bool

    def values(self, first_step: int, count: int) -> dict[str, np.ndarray]:
        """What the schedule gives to steps first_step .. first_step + count − 1.

        Returns:
            ``lr``: (count,) float64, used at each step. Also ``momentum`` or ``beta1``, (count,)
            float64, where the scheduler moves it.

        Raises:
            ValueError: a step outside the run, or one that a closed loop does not know yet.
        """
        ...

    def observe(self, val_loss: float) -> None:
        """Tell the schedule the full evaluation at the end of an epoch, once an epoch."""
        ...


def build(
    schedule: Mapping[str, Any],
    hyperparameters: Mapping[str, Any],
    steps: int,
    steps_per_epoch: int,
) -> LaneSchedule:
    """The schedule of one lane.

    Args:
        schedule: ``_target_`` of a torch scheduler, its arguments, and lrlab's own keys interval,
            warmup_steps and warmup_start_factor. An argument "auto" becomes the run's length after
            warm-up, counted in ticks.
        hyperparameters: lr, and momentum or betas (or beta1 and beta2) if the optimizer has them.
        steps: the run's length in steps.
        steps_per_epoch: the number of steps in an epoch.

    Raises:
        UserError: a value that cannot work, named as the user would type it.
    """
    settings = read(schedule, steps, steps_per_epoch)
    start = _start(hyperparameters, settings.target)
    if settings.closed_loop:
        return _ClosedLoop(settings, start)
    key = json.dumps([dict(schedule), start, steps, steps_per_epoch], sort_keys=True)
    return _Table(_cached_table(key), steps)


def check_groups(
    schedule: Mapping[str, Any],
    hyperparameters: Mapping[str, Any],
    steps: int,
    steps_per_epoch: int,
    groups: int,
) -> None:
    """Refuse a scheduler of one's own that gives each parameter group a curve of its own.

    lrlab keeps each group's ratio to the run's lr, so such curves would be lost.

    Args:
        schedule, hyperparameters, steps, steps_per_epoch: as for ``build``.
        groups: how many parameter groups the optimizer has.

    Raises:
        UserError: groups that start at the same lr come apart.
    """
    settings = read(schedule, steps, steps_per_epoch)
    if groups < 2 or settings.closed_loop or not _is_own(settings.target):
        return
    start = _start(hyperparameters, settings.target)
    try:
        with seeded(0):
            optimizer, scheduler = _scheduler(settings, start, groups)
            lrs = [group["lr"] for group in optimizer.param_groups]
            for _ in range(1, settings.ticks):
                if any(lr != lrs[0] for lr in lrs):
                    break
                scheduler.step()
                lrs = [group["lr"] for group in optimizer.param_groups]
    except Exception:  # it is made for one group, whose curve all have
        return
    if any(lr != lrs[0] for lr in lrs):
        raise UserError(
            f"{settings.target.option}: gives each parameter group a curve of its own "
            f"({', '.join(f'{float(lr):g}' for lr in lrs[:3])} from the same lr), but each group "
            "keeps its ratio to the run's lr; give all groups the same curve"
        )


class RangeTestLR(LRScheduler):
    """The range test's exponential rise (Smith 2017, arXiv:1506.01186), straight in log lr.

    lr(tick) = min_lr · (max_lr / min_lr)^(tick / (total_steps − 1)), and max_lr from there on. The
    optimizer's own lr has no part in it.

    Args:
        optimizer: whose lr it moves.
        min_lr: lr at tick 0, above 0.
        max_lr: lr at tick total_steps − 1, not below min_lr.
        total_steps: number of ticks of the rise, at least 1; with 1 all are at min_lr.
        last_epoch: as in torch's schedulers.

    Attributes:
        rises_to_the_end: true, for that is what it is for.

    Raises:
        ValueError: max_lr is below min_lr.
    """

    rises_to_the_end = True

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        min_lr: float,
        max_lr: float,
        total_steps: int,
        last_epoch: int = -1,
    ) -> None:
        if max_lr < min_lr:
            raise ValueError(f"max_lr={max_lr} must not be below min_lr={min_lr}")
        self.min_lr, self.max_lr = float(min_lr), float(max_lr)
        self.total_steps = total_steps
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | torch.Tensor]:
        last = max(self.total_steps - 1, 1)
        tick = min(self.last_epoch, self.total_steps - 1)
        rise = (self.max_lr / self.min_lr) ** (tick / last)
        lr = self.max_lr if tick == last else self.min_lr * rise
        return [lr for _ in self.optimizer.param_groups]


class Settings(NamedTuple):
    """A schedule's settings in a run.

    Attributes:
        target: the scheduler and its arguments; none of them is "auto" any more.
        closed_loop: it follows val_loss.
        steps: the run's length in steps, and unit the steps a tick.
    """

    target: targets.Target
    closed_loop: bool
    warmup_steps: int
    warmup_start_factor: float
    steps: int
    unit: int

    @property
    def ticks(self) -> int:
        """How many ticks the run sees after warm-up."""
        return max(math.ceil(self.steps / self.unit) - self.warmup_steps // self.unit, 1)


class _Table:
    closed_loop = False

    def __init__(self, table: dict[str, np.ndarray], steps: int) -> None:
        self._table = table
        self._steps = steps

    def values(self, first_step: int, count: int) -> dict[str, np.ndarray]:
        _check_range(first_step, count, self._steps)
        end = first_step + count
        return {name: column[first_step:end] for name, column in self._table.items()}

    def observe(self, val_loss: float) -> None:
        """An open-loop schedule does not look at the loss."""


class _ClosedLoop:
    closed_loop = True

    def __init__(self, settings: Settings, start: dict[str, Any]) -> None:
        self._settings = settings
        self._start = start
        with seeded(0):
            self._optimizer, self._scheduler = _scheduler(settings, start)
        _check_moved(settings, start, self._optimizer, 0)
        first = _checked(settings, "lr", [self._number(0)])[0]
        self._warmup = _warmup(settings, first)
        self._epoch_lrs = [first]

    def values(self, first_step: int, count: int) -> dict[str, np.ndarray]:
        s = self._settings
        _check_range(first_step, count, min(s.steps, len(self._epoch_lrs) * s.unit))
        step = np.arange(first_step, first_step + count)
        lr = np.array(self._epoch_lrs)[step // s.unit]
        warming = step < s.warmup_steps
        lr[warming] = self._warmup[step[warming]]
        return {"lr": lr}

    def observe(self, val_loss: float) -> None:
        # an epoch that ended in warm-up says nothing about the lr that the schedule asks for
        if len(self._epoch_lrs) * self._settings.unit > self._settings.warmup_steps:
            try:
                # seeded, for a run that is resumed hears all its evaluations anew
                with seeded(len(self._epoch_lrs)):
                    self._scheduler.step(val_loss)
            except Exception as error:
                raise targets.failed(self._settings.target, error) from error
        tick = len(self._epoch_lrs)
        _check_moved(self._settings, self._start, self._optimizer, tick)
        lr = [self._number(tick)]
        self._epoch_lrs += _checked(self._settings, "lr", lr, first=tick).tolist()

    def _number(self, tick: int) -> float:
        return _number(self._settings, "lr", self._optimizer.param_groups[0]["lr"], tick)


def _check_range(first_step: int, count: int, known: int) -> None:
    if first_step < 0 or count < 0 or first_step + count > known:
        raise ValueError(
            f"steps {first_step} to {first_step + count - 1} asked for, known are 0 to {known - 1}"
        )


def read(schedule: Mapping[str, Any], steps: int, steps_per_epoch: int) -> Settings:
    """What a schedule's settings mean for a run of so many steps; the arguments of ``build``.

    Raises:
        UserError: a value that cannot work.
    """
    interval = schedule.get("interval", "step")
    if interval not in INTERVALS:
        hint = nearest(str(interval), INTERVALS)
        raise UserError(f"schedule.interval={interval}: must be step or epoch{hint}")
    warmup = schedule.get("warmup_steps", 0)
    if not is_whole(warmup, 0):
        raise UserError(
            f"schedule.warmup_steps={warmup}: must be a whole number of at least 0, "
            "for example schedule.warmup_steps=100"
        )
    if warmup and warmup >= steps:
        raise UserError(
            f"schedule.warmup_steps={warmup}: must be below the run's {steps} steps, "
            f"for example schedule.warmup_steps={steps // 10}"
        )
    factor = schedule.get("warmup_start_factor", 0.01)
    if not is_number(factor) or not 0 < factor <= 1:
        raise UserError(
            f"schedule.warmup_start_factor={factor}: must be above 0 and at most 1, "
            "for example schedule.warmup_start_factor=0.01"
        )
    target = targets.read(
        "schedule", schedule, LRScheduler, withheld=("last_epoch", "verbose"), own_keys=OWN_KEYS
    )
    step = getattr(target.call, "step", None)
    closed_loop = step is not None and "metrics" in inspect.signature(step).parameters
    if closed_loop and interval == "step":
        raise UserError(
            f"schedule.interval=step: {target.name} follows val_loss, which is measured once an "
            "epoch; use schedule.interval=epoch"
        )
    if closed_loop and target.given.get("mode", "min") != "min":
        raise UserError(
            f"schedule.mode={target.given['mode']}: {target.name} follows val_loss, which is "
            "better when it is smaller; use schedule.mode=min"
        )
    unit = 1 if interval == "step" else steps_per_epoch
    settings = Settings(target, closed_loop, warmup, float(factor), steps, unit)
    given = {k: settings.ticks if v == "auto" else v for k, v in target.given.items()}
    settings = settings._replace(
        target=targets.Target(target.option, target.call, given, target.defaults)
    )
    if target.call.__module__ in (LRScheduler.__module__, __name__):
        for name, value in given.items():
            _check_argument(target.name, name, value)
        total = given.get("total_steps")
        if total is not None and total < settings.ticks:
            raise UserError(
                f"schedule.total_steps={total}: the run has {settings.ticks} {interval}s after "
                "warm-up; use schedule.total_steps=auto"
            )
    return settings


_WORKS: dict[str, Callable[[Any], bool]] = {
    "a whole number of at least 1": lambda v: is_whole(v, 1),
    "a whole number of at least 0": lambda v: is_whole(v, 0),
    "a number above 0": lambda v: is_number(v) and v > 0,
    "a number of at least 0": lambda v: is_number(v) and v >= 0,
    "from 0 to 1": lambda v: is_number(v) and 0 <= v <= 1,
    "above 0 and at most 1": lambda v: is_number(v) and 0 < v <= 1,
    "between 0 and 1": lambda v: is_number(v) and 0 < v < 1,
}
# argument of a scheduler of torch's or of ours: what works, and an example
_ARGUMENTS: dict[str, tuple[str, float]] = {
    "gamma": ("a number above 0", 0.3),
    "step_size": ("a whole number of at least 1", 1),
    "T_max": ("a whole number of at least 1", 3),
    "T_0": ("a whole number of at least 1", 3),
    "T_mult": ("a whole number of at least 1", 1),
    "total_steps": ("a whole number of at least 1", 1000),
    "total_iters": ("a whole number of at least 0", 3),
    "patience": ("a whole number of at least 0", 1),
    "cooldown": ("a whole number of at least 0", 0),
    "factor": ("from 0 to 1", 0.1),
    "start_factor": ("above 0 and at most 1", 1.0),
    "end_factor": ("from 0 to 1", 0.0),
    "pct_start": ("between 0 and 1", 0.3),
    "div_factor": ("a number above 0", 25),
    "final_div_factor": ("a number above 0", 1e4),
    "power": ("a number above 0", 1.0),
    "max_lr": ("a number above 0", 0.1),
    "base_lr": ("a number of at least 0", 0.001),
    "min_lr": ("a number of at least 0", 0),
    "eta_min": ("a number of at least 0", 0),
    "threshold": ("a number of at least 0", 1e-4),
}


def _check_argument(scheduler: str, name: str, value: Any) -> None:
    if name not in _ARGUMENTS:
        return  # torch's own check speaks, and the finished table is checked
    if scheduler == "OneCycleLR" and name == "total_steps" and value is None:
        return  # then epochs and steps_per_epoch say it
    words, example = _ARGUMENTS[name]
    if scheduler == "ReduceLROnPlateau" and name == "factor":
        words = "between 0 and 1"
    if scheduler == RangeTestLR.__name__ and name == "min_lr":
        words, example = "a number above 0", 1e-5
    if not _WORKS[words](value):
        raise UserError(
            f"schedule.{name}={value}: must be {words}, for example schedule.{name}={example}"
        )


def _is_own(target: targets.Target) -> bool:
    """Whether a scheduler is neither torch's nor lrlab's, so that nobody knows what it reads."""
    module = str(getattr(target.call, "__module__", ""))
    return not module.startswith("torch.") and module != __name__


def _start(hyperparameters: Mapping[str, Any], target: targets.Target) -> dict[str, Any]:
    """What the dummy optimizer starts from: lr, and momentum or betas.

    A scheduler of one's own finds all numbers of the optimizer there. Torch's read no others, so
    that lanes which differ in weight decay share a table.
    """
    start: dict[str, Any] = {"lr": float(hyperparameters["lr"])}
    if _is_own(target):
        betas = ("beta1", "beta2", "betas")
        start |= {k: v for k, v in hyperparameters.items() if k not in ("lr", *betas)}
    if "momentum" in hyperparameters:
        start["momentum"] = float(hyperparameters["momentum"])
    if "betas" in hyperparameters:
        start["betas"] = [float(beta) for beta in hyperparameters["betas"]]
    elif "beta1" in hyperparameters:
        start["betas"] = [float(hyperparameters[k]) for k in ("beta1", "beta2")]
    return start


def _refusing(what: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise RuntimeError(
            f"reads {what}, but all lrs are computed before training; "
            "let them depend on the step alone"
        )

    return refuse


class _Parameters(list[torch.Tensor]):
    """Stands for a run's parameters: a table is made before there are any."""

    __iter__ = __len__ = __getitem__ = __contains__ = _refusing("parameters or gradients")


class _State(dict[Any, Any]):
    """Stands for the optimizer's state, likewise."""

    __iter__ = __len__ = __getitem__ = __contains__ = _refusing("the optimizer's state")
    get = keys = values = items = __iter__  # type: ignore[assignment]


class _Dummy(torch.optim.Optimizer):
    """Holds what a scheduler moves; updates nothing.

    Its parts are set by hand: ``Optimizer.__init__`` imports torch's compiler, two seconds.
    """

    def __init__(self, start: dict[str, Any], groups: int = 1) -> None:
        self.defaults = {k: tuple(v) if k == "betas" else v for k, v in start.items()}
        self.param_groups = [{"params": _Parameters(), **self.defaults} for _ in range(groups)]
        self.state = _State()  # type: ignore[assignment]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        pass


def _scheduler(settings: Settings, start: dict[str, Any], groups: int = 1) -> tuple[_Dummy, Any]:
    optimizer = _Dummy(start, groups)
    try:
        scheduler = settings.target.call(optimizer, **settings.target.given)
    except Exception as error:
        raise targets.failed(settings.target, error) from error
    if not isinstance(scheduler, LRScheduler):
        raise UserError(f"{settings.target.option}: returns no torch LRScheduler")
    optimizer.step()  # torch warns where a scheduler steps before its optimizer has
    return optimizer, scheduler


def _check_moved(
    settings: Settings, start: Mapping[str, Any], optimizer: _Dummy, tick: int
) -> None:
    """Refuse a scheduler that moves what no run would follow.

    Raises:
        UserError: it moves more than lr, and momentum or beta1 where it does not follow val_loss.
    """
    group = optimizer.param_groups[0]
    before = {k: v for k, v in start.items() if k not in ("lr", "momentum", "betas")}
    now = {k: group.get(k) for k in before}
    if isinstance(betas := group.get("betas"), list | tuple) and "betas" in start:
        before |= {f"beta{i}": beta for i, beta in enumerate(start["betas"], 1) if i > 1}
        now |= {f"beta{i}": beta for i, beta in enumerate(betas, 1) if i > 1}
    works = "lr, momentum and beta1"
    if settings.closed_loop:
        works = "lr, if it follows val_loss"
        if "momentum" in start:
            before["momentum"], now["momentum"] = start["momentum"], group.get("momentum")
        if betas and "betas" in start:
            before["beta1"], now["beta1"] = start["betas"][0], betas[0]
    for name, was in before.items():
        if now.get(name) != was:
            unit = "step" if settings.unit == 1 else "epoch"
            raise UserError(
                f"{settings.target.option}: changes {name} from {was:g} to {now.get(name)} at "
                f"{unit} {tick}; a schedule can change {works}, so leave {name} as it is"
            )


@functools.lru_cache(maxsize=256)
def _cached_table(key: str) -> dict[str, np.ndarray]:
    """Lanes that differ only in their seed share a table."""
    schedule, start, steps, steps_per_epoch = json.loads(key)
    with seeded(0):  # so that a scheduler that draws its rates draws the same again
        return _table(read(schedule, steps, steps_per_epoch), start)


def _table(settings: Settings, start: dict[str, Any]) -> dict[str, np.ndarray]:
    """Step the scheduler through the run.

    Returns:
        Name to (steps,) float64, read only: lr, and momentum or beta1 if it is moved.
    """
    optimizer, scheduler = _scheduler(settings, start)
    group = optimizer.param_groups[0]
    ticks: dict[str, list[float]] = {"lr": [], "momentum": [], "beta1": []}
    moving = min(settings.ticks, _rests_from(settings.target) + 1)
    for tick in range(moving):
        if tick:
            try:
                scheduler.step()
            except Exception as error:
                raise targets.failed(settings.target, error) from error
        _check_moved(settings, start, optimizer, tick)
        ticks["lr"].append(_number(settings, "lr", group["lr"], tick))
        if "momentum" in start:
            momentum = _number(settings, "momentum", group["momentum"], tick)
            ticks["momentum"].append(momentum)
        if "betas" in start:
            betas = group["betas"]
            beta1 = betas[0] if isinstance(betas, list | tuple) and betas else betas
            ticks["beta1"].append(_number(settings, "beta1", beta1, tick))
    for values in ticks.values():
        values += values[-1:] * (settings.ticks - moving)
    if (share := _ends_at_once(settings.target)) is not None:
        ticks["lr"] = [start["lr"] * share] * settings.ticks
    initial = {"momentum": start.get("momentum"), "beta1": start.get("betas", [None])[0]}

    step = np.arange(settings.steps)
    tick_of_step = np.maximum(step // settings.unit - settings.warmup_steps // settings.unit, 0)
    table = {}
    for name, values in ticks.items():
        if name != "lr" and all(v == initial[name] for v in values):
            continue
        column = _checked(settings, name, values)[tick_of_step]
        if name == "lr":
            column[: settings.warmup_steps] = _warmup(settings, float(values[0]))
        column.flags.writeable = False
        table[name] = column
    return table


def _rests_from(target: targets.Target) -> int:
    """The tick from which the scheduler leaves the lr as it is; very large where that is not known.

    To step one through the thousands of ticks of a fixed lr takes as long as many training steps.
    """
    total = target.given.get("total_iters")
    if target.call in (ConstantLR, LinearLR) and isinstance(total, int):
        return total + 1
    return sys.maxsize - 1


def _ends_at_once(target: targets.Target) -> float | None:
    """The share of lr at which a scheduler ends that has no tick to come there; None: it has."""
    if target.call not in (ConstantLR, LinearLR) or target.arguments["total_iters"] != 0:
        return None
    return 1.0 if target.call is ConstantLR else float(target.arguments["end_factor"])


def _warmup(settings: Settings, end: float) -> np.ndarray:
    """(warmup_steps,) float64: linear from end·warmup_start_factor; end is the lr thereafter."""
    if not settings.warmup_steps:
        return np.empty(0)
    optimizer = _Dummy({"lr": end})
    scheduler = LinearLR(
        optimizer,
        start_factor=settings.warmup_start_factor,
        total_iters=settings.warmup_steps,
    )
    optimizer.step()
    group = optimizer.param_groups[0]
    lrs = [float(group["lr"])]
    for _ in range(settings.warmup_steps - 1):
        scheduler.step()
        lrs.append(float(group["lr"]))
    return np.array(lrs)


def _number(settings: Settings, name: str, value: Any, tick: int) -> float:
    """What a scheduler left in its optimizer, as a number.

    Raises:
        UserError: it is complex, a text, nothing, or several numbers.
    """
    plain = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
    is_complex = isinstance(plain, numbers.Complex) and not isinstance(plain, numbers.Real)
    if isinstance(plain, numbers.Number) and not isinstance(plain, bool) and not is_complex:
        with contextlib.suppress(TypeError, OverflowError):  # as of 10**400
            return float(plain)  # type: ignore[arg-type]
    told = f"tensor of shape {tuple(plain.shape)}" if isinstance(plain, torch.Tensor) else plain
    text = " ".join(f"{told}".split())[:40]
    raise _wrong(settings, name, f"{text} ({type(plain).__name__})", tick, "be one real number")


def _checked(settings: Settings, name: str, values: Iterable[float], first: int = 0) -> np.ndarray:
    """(ticks,) float64. A negative or non-finite lr would train on without a word.

    Args:
        first: the tick of the first value.
    """
    column = np.array([float(v) for v in values])
    wrong = np.flatnonzero(~np.isfinite(column) | (column < 0))
    if len(wrong):
        value = f"{column[wrong[0]]:g}"
        raise _wrong(settings, name, value, first + wrong[0], "stay finite and at least 0")
    return column


def _wrong(settings: Settings, name: str, value: str, tick: int, works: str) -> UserError:
    unit = "step" if settings.unit == 1 else "epoch"
    arguments = ", ".join(f"schedule.{k}={v}" for k, v in settings.target.given.items())
    return UserError(
        f"{settings.target.option}: {name} is {value} at {unit} {tick}, but must {works}; "
        f"change {arguments or 'the scheduler'}"
    )
