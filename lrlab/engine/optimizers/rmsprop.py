"""Define RMSprop, with or without momentum."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lrlab.engine.optimizers import rule
from lrlab.engine.optimizers.rule import Columns, Common, Rows, Rule


def _state(params: list[Tensor], constants: Columns) -> dict[str, list[Tensor]]:
    return {"square": [torch.zeros_like(p) for p in params]}


def _coefficients(h: Columns, before: np.ndarray) -> Columns:
    return {
        "lr": h["lr"],
        "alpha": h["alpha"],
        "square_share": 1 - h["alpha"],
        "eps": h["eps"],
        **rule.switchable("weight_decay", h["weight_decay"]),
        **rule.switchable("momentum", h["momentum"]),
    }


def _update(param: Tensor, grad: Tensor, state: Rows, c: Rows, common: Common) -> None:
    grad = rule.decayed(param, grad, c)
    square = rule.add_square(state["square"].mul_(c["alpha"]), grad, c, common.get("alpha"))
    root = _divisor({"square": square}, c)
    if "momentum" not in c:
        param.addcdiv_(grad * c["lr"], root, value=-1)
        return
    buffer = state["momentum"].mul_(c["momentum"]).addcdiv_(grad, root)
    if "has_momentum" not in c:
        param.addcmul_(buffer, c["lr"], value=-1)
        return
    with_momentum = torch.addcmul(param, buffer, c["lr"], value=-1)
    without = torch.addcdiv(param, grad * c["lr"], root, value=-1)
    param.copy_(rule.select(c, "momentum", with_momentum, without))


def _divisor(state: Rows, c: Rows) -> Tensor:
    return state["square"].sqrt().add_(c["eps"])


def _scale(h: Columns, before: np.ndarray, nesterov: bool) -> np.ndarray:
    return h["lr"] / (2 * (1 + h["momentum"]))


RMSPROP = Rule(
    general_flags=(*rule.ALWAYS_GENERAL, "centered"),
    state=_state,
    coefficients=_coefficients,
    update=_update,
    stability_scale=_scale,
    numbers={
        "alpha": ("at least 0 and below 1", 0.99),
        "eps": rule.EPS,
        "momentum": rule.MOMENTUM,
        "weight_decay": rule.WEIGHT_DECAY,
    },
    divisor=_divisor,
    momentum="momentum",
)
