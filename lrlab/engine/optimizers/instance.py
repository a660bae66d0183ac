"""Make the torch optimizer that a config names, and keep the lr of its parameter groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lrlab.config import targets
from lrlab.errors import UserError
from lrlab.process.plain import is_number


def one_step(
    target: targets.Target, leaves: Sequence[torch.nn.Parameter], lr: float
) -> torch.optim.Optimizer:
    """Return an optimizer that has taken one step with gradients of 0.

    Raises:
        UserError: it cannot be made, or its step fails.
    """
    optimizer = instance(target, leaves, lr)
    for leaf in leaves:
        leaf.grad = torch.zeros_like(leaf)
    try:
        optimizer.step()
    except Exception as error:
        raise targets.failed(target, error) from error
    return optimizer


def instance(
    target: targets.Target, leaves: Sequence[torch.nn.Parameter], lr: float
) -> torch.optim.Optimizer:
    """Return the target's optimizer over these parameters, with torch's single-tensor code.

    Raises:
        UserError: it cannot be made, or is no ``torch.optim.Optimizer``.
    """
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in target.given.items()}
    if "betas" in arguments:
        arguments["betas"] = tuple(float(beta) for beta in arguments["betas"])
    if "foreach" in target.arguments:
        # the single-tensor code: a lane's bits then do not depend on how tensors are batched
        arguments["foreach"] = False
    try:
        optimizer = target.call(leaves, lr=lr, **arguments)
    except Exception as error:
        raise targets.failed(target, error) from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(f"{target.option}: returns no torch.optim.Optimizer")
    if has_modes(optimizer):
        optimizer.train()  # pyright: ignore[reportAttributeAccessIssue]
    return optimizer


def has_modes(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether it has other weights for evaluations, as those of ``schedulefree`` do."""
    return all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))


def numbers(arguments: Mapping[str, Any]) -> dict[str, float]:
    """Return all numbers among an optimizer's arguments; betas as beta1, beta2."""
    numbers = {k: float(v) for k, v in arguments.items() if is_number(v)}
    betas = arguments.get("betas", ())
    return numbers | {f"beta{i}": float(beta) for i, beta in enumerate(betas, start=1)}


@dataclass
class Rates:
    """The lr that each parameter group of an optimizer was built with, and the run's lr.

    A schedule moves the lr of every group by the same factor, as ``torch.optim.lr_scheduler`` does,
    so a group keeps its ratio to the run's lr.

    Attributes:
        lr: the run's, above 0.
        groups: each group's.
    """

    lr: float
    groups: list[float]

    def at(self, lr: float) -> list[float]:
        """Return each group's lr for this lr of the run."""
        # lr / self.lr first: if the two are equal, a group's own lr keeps its bits
        return [lr if own == self.lr else own * (lr / self.lr) for own in self.groups]


def rates_of(
    target: targets.Target,
    leaves: Sequence[torch.nn.Parameter],
    lr: float,
    built: torch.optim.Optimizer,
) -> Rates:
    """Return the rates of an optimizer that was built with this lr.

    At an lr of 0 there is no ratio, so the optimizer is built once more with an lr of 1.

    Raises:
        UserError: it has no ratio, for at lr=0 a group has another lr.
    """
    groups = [float(group["lr"]) for group in built.param_groups]
    if lr > 0:
        return Rates(lr, groups)
    if any(groups):
        raise UserError(
            f"lr=0: {target.name} has parameters with lr {max(groups, key=abs):g}, which is in no "
            "ratio to 0; use an lr above 0"
        )
    again = instance(target, leaves, 1.0)
    return Rates(1.0, [float(group["lr"]) for group in again.param_groups])
