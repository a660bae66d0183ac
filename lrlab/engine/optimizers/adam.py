"""Define Adam, with weight decay as an L2 penalty, and AdamW, with decoupled weight decay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lrlab.engine.optimizers import rule
from lrlab.engine.optimizers.rule import Columns, Common, Rows, Rule


def _state(params: list[Tensor], constants: Columns) -> dict[str, list[Tensor]]:
    return {name: [torch.zeros_like(p) for p in params] for name in ("average", "square")}


def _coefficients(h: Columns, before: np.ndarray) -> Columns:
    step = (before + 1).astype(float)
    correction1 = 1 - rule.power(h["beta1"], step)
    correction2 = 1 - rule.power(h["beta2"], step)
    return {
        "step_size": -(h["lr"] / correction1),
        "correction2_root": rule.power(correction2, 0.5),
        "gradient_share": 1 - h["beta1"],
        "beta2": h["beta2"],
        "square_share": 1 - h["beta2"],
        "eps": h["eps"],
    }


def _l2_coefficients(h: Columns, before: np.ndarray) -> Columns:
    return _coefficients(h, before) | rule.switchable("weight_decay", h["weight_decay"])


def _decoupled_coefficients(h: Columns, before: np.ndarray) -> Columns:
    c = _coefficients(h, before)
    if h["weight_decay"].any():
        c["shrink"] = 1 - h["lr"] * h["weight_decay"]  # a factor of 1 changes no bit
    return c


def _update(param: Tensor, grad: Tensor, state: Rows, c: Rows, common: Common) -> None:
    if "shrink" in c:
        param.mul_(c["shrink"])
    grad = rule.decayed(param, grad, c)
    average = state["average"].lerp_(grad, c["gradient_share"])
    square = rule.add_square(state["square"].mul_(c["beta2"]), grad, c, common.get("beta2"))
    param.addcdiv_(average * c["step_size"], _divisor({"square": square}, c))


def _divisor(state: Rows, c: Rows) -> Tensor:
    return state["square"].sqrt().div_(c["correction2_root"]).add_(c["eps"])


def _scale(h: Columns, before: np.ndarray, nesterov: bool) -> np.ndarray:
    beta = h["beta1"]
    lr = h["lr"] / (1 - rule.power(beta, (before + 1).astype(float)))
    return lr * (1 - beta) / (2 * (1 + beta))


ADAM = Rule(
    general_flags=(*rule.ALWAYS_GENERAL, "amsgrad", "decoupled_weight_decay"),
    state=_state,
    coefficients=_l2_coefficients,
    update=_update,
    stability_scale=_scale,
    numbers={"eps": rule.EPS, "weight_decay": rule.WEIGHT_DECAY},
    divisor=_divisor,
    momentum="beta1",
)
ADAMW = replace(
    ADAM, general_flags=(*rule.ALWAYS_GENERAL, "amsgrad"), coefficients=_decoupled_coefficients
)
