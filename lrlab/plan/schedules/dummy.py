"""Put a scheduler on a dummy optimizer, and check the values that it leaves there."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LRScheduler

from lrlab.config import targets
from lrlab.errors import UserError
from lrlab.plan.schedules.reading import Settings, is_own


def start_of(hyperparameters: Mapping[str, Any], target: targets.Target) -> dict[str, Any]:
    """Return the start values of the dummy optimizer: lr, and momentum or betas.

    A scheduler of the user's own finds all numbers of the optimizer there. torch's read no others,
    so lanes that differ in weight decay share a table.
    """
    start: dict[str, Any] = {"lr": float(hyperparameters["lr"])}
    if is_own(target):
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
    """Stand for a run's parameters: a table is made before there are any."""

    __iter__ = __len__ = __getitem__ = __contains__ = _refusing("parameters or gradients")


class _State(dict[Any, Any]):
    """Stand for the optimizer's state, likewise."""

    __iter__ = __len__ = __getitem__ = __contains__ = _refusing("the optimizer's state")
    get = keys = values = items = __iter__  # type: ignore[assignment]


class Dummy(torch.optim.Optimizer):
    """Hold the values that a scheduler moves; update nothing.

    Its parts are set by hand, because ``Optimizer.__init__`` imports torch's compiler, which takes
    two seconds.
    """

    def __init__(self, start: dict[str, Any], groups: int = 1) -> None:
        self.defaults = {k: tuple(v) if k == "betas" else v for k, v in start.items()}
        self.param_groups = [{"params": _Parameters(), **self.defaults} for _ in range(groups)]
        self.state = _State()  # type: ignore[assignment]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        pass


def scheduler_on(settings: Settings, start: dict[str, Any], groups: int = 1) -> tuple[Dummy, Any]:
    optimizer = Dummy(start, groups)
    try:
        scheduler = settings.target.call(optimizer, **settings.target.given)
    except Exception as error:
        raise targets.failed(settings.target, error) from error
    if not isinstance(scheduler, LRScheduler):
        raise UserError(f"{settings.target.option}: returns no torch LRScheduler")
    optimizer.step()  # torch warns if a scheduler steps before its optimizer has
    return optimizer, scheduler


def check_moved(settings: Settings, start: Mapping[str, Any], optimizer: Dummy, tick: int) -> None:
    """Refuse a scheduler that moves a value which no run would follow.

    A run follows lr and, unless the scheduler follows val_loss, momentum or beta1.
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


def number_of(settings: Settings, name: str, value: Any, tick: int) -> float:
    """Return a value that a scheduler left in its optimizer; refuse all but one real number."""
    plain = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
    is_complex = isinstance(plain, numbers.Complex) and not isinstance(plain, numbers.Real)
    if isinstance(plain, numbers.Number) and not isinstance(plain, bool) and not is_complex:
        with contextlib.suppress(TypeError, OverflowError):  # as for 10**400
            return float(plain)  # type: ignore[arg-type]
    told = f"tensor of shape {tuple(plain.shape)}" if isinstance(plain, torch.Tensor) else plain
    text = " ".join(f"{told}".split())[:40]
    raise _wrong(settings, name, f"{text} ({type(plain).__name__})", tick, "be one real number")


def checked(settings: Settings, name: str, values: Iterable[float], first: int = 0) -> np.ndarray:
    """Return checked rates, (ticks,) float64.

    A negative or non-finite lr would train on without a word.

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
