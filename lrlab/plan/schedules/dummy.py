"""Provide a dummy optimizer that holds the values a scheduler moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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
