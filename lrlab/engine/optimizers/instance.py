"""Make the torch optimizer that a config names, and take a first step with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    return optimizer


def numbers(arguments: Mapping[str, Any]) -> dict[str, float]:
    """Return all numbers among an optimizer's arguments; betas as beta1, beta2."""
    numbers = {k: float(v) for k, v in arguments.items() if is_number(v)}
    betas = arguments.get("betas", ())
    return numbers | {f"beta{i}": float(beta) for i, beta in enumerate(betas, start=1)}
