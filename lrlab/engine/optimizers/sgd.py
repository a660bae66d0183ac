"""Define SGD: plain, with momentum, and with Nesterov's momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrlab.engine.optimizers import rule
from lrlab.engine.optimizers.rule import Columns, Common, Rows, Rule
from lrlab.errors import UserError


def _coefficients(h: Columns, before: np.ndarray) -> Columns:
    c = {"lr": h["lr"], **rule.switchable("weight_decay", h["weight_decay"])}
    c |= rule.switchable("momentum", h["momentum"])
    if "momentum" in c:
        # torch starts the buffer with the whole gradient, whatever the dampening
        share = np.where(before == 0, 1.0, 1 - h["dampening"])
        if "has_momentum" in c:  # the buffer of a lane that does not use it now stays unchanged
            c["momentum"] = np.where(c["has_momentum"], h["momentum"], 1.0)
            share = np.where(c["has_momentum"], share, 0.0)
        if (share != 1).any():
            c["gradient_share"] = share
    return c


def _update(param: Tensor, grad: Tensor, state: Rows, c: Rows, common: Common) -> None:
    grad = rule.decayed(param, grad, c)
    if "momentum" in c:
        buffer = state["momentum"].mul_(c["momentum"])
        if "gradient_share" in c:
            buffer.addcmul_(grad, c["gradient_share"])
        else:
            buffer.add_(grad)
        ahead = torch.addcmul(grad, buffer, c["momentum"]) if common["nesterov"] else buffer
        grad = rule.select(c, "momentum", ahead, grad)
    param.addcmul_(grad, c["lr"], value=-1)


def _scale(h: Columns, before: np.ndarray, nesterov: bool) -> np.ndarray:
    beta = h["momentum"]
    share = 1 + 2 * beta if nesterov else np.where(beta == 0, 1.0, 1 - h["dampening"])
    return h["lr"] * share / (2 * (1 + beta))


def _check(arguments: Mapping[str, Any]) -> None:
    if not arguments["nesterov"]:
        return
    if arguments["momentum"] <= 0:
        raise UserError(
            f"optimizer.momentum={arguments['momentum']}: nesterov needs a momentum above 0, "
            "for example optimizer.momentum=0.9"
        )
    if arguments["dampening"] != 0:
        raise UserError(
            f"optimizer.dampening={arguments['dampening']}: nesterov needs optimizer.dampening=0"
        )


SGD = Rule(
    general_flags=rule.ALWAYS_GENERAL,
    state=lambda params, constants: {},  # the momentum's buffer is made when it is first needed
    coefficients=_coefficients,
    update=_update,
    stability_scale=_scale,
    numbers={
        "momentum": rule.MOMENTUM,
        "dampening": ("a number", 0.0),
        "weight_decay": rule.WEIGHT_DECAY,
    },
    momentum="momentum",
    check=_check,
)
