"""Check the values that a scheduler leaves in its optimizer: one real number for each rate."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from lrlab.errors import UserError
from lrlab.plan.schedules.dummy import Dummy
from lrlab.plan.schedules.reading import Settings


def check_moved(settings: Settings, start: Mapping[str, Any], optimizer: Dummy, tick: int) -> None:
    """Refuse a scheduler that moves a value which no run would follow.

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


def number_of(settings: Settings, name: str, value: Any, tick: int) -> float:
    """Return a value that a scheduler left in its optimizer as a number.

    Raises:
        UserError: it is complex, a text, nothing, or several numbers.
    """
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
