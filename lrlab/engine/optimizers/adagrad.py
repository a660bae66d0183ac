"""Define Adagrad: its lr falls with the sum of all squared gradients."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lrlab.engine.optimizers import rule
from lrlab.engine.optimizers.rule import Columns, Common, Rows, Rule


def _state(params: list[Tensor], constants: Columns) -> dict[str, list[Tensor]]:
    start = torch.from_numpy(constants["initial_accumulator_value"])
    sums = [torch.zeros_like(p) for p in params]
    for s in sums:
        s.add_(start.to(s).view(-1, *(1,) * (s.ndim - 1)))
    return {"sum": sums}


def _coefficients(h: Columns, before: np.ndarray) -> Columns:
    return {
        "step_size": -(h["lr"] / (1 + before * h["lr_decay"])),
        "eps": h["eps"],
        **rule.switchable("weight_decay", h["weight_decay"]),
    }


def _update(param: Tensor, grad: Tensor, state: Rows, c: Rows, common: Common) -> None:
    grad = rule.decayed(param, grad, c)
    total = state["sum"].addcmul_(grad, grad)
    param.addcdiv_(grad * c["step_size"], _divisor({"sum": total}, c))


def _divisor(state: Rows, c: Rows) -> Tensor:
    return state["sum"].sqrt().add_(c["eps"])


def _scale(h: Columns, before: np.ndarray, nesterov: bool) -> np.ndarray:
    return h["lr"] / (1 + before * h["lr_decay"]) / 2


ADAGRAD = Rule(
    general_flags=rule.ALWAYS_GENERAL,
    state=_state,
    coefficients=_coefficients,
    update=_update,
    stability_scale=_scale,
    numbers={
        "lr_decay": ("a number of at least 0", 0.0),
        "initial_accumulator_value": ("a number of at least 0", 0.0),
        "eps": rule.EPS,
        "weight_decay": rule.WEIGHT_DECAY,
    },
    divisor=_divisor,
)
