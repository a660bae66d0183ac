"""Define ``Rule``, the parts of a fast optimizer, and the operations that several rules share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Columns = dict[str, np.ndarray]
Rows = dict[str, Tensor]
Common = Mapping[str, float]
Number = tuple[str, float]  # the numbers that work, a key of ``WORKS``, and an example

WORKS: dict[str, Callable[[float], bool]] = {
    "a number": lambda v: True,
    "a number of at least 0": lambda v: v >= 0,
    "at least 0 and below 1": lambda v: 0 <= v < 1,
}
WEIGHT_DECAY: Number = ("a number of at least 0", 0.0001)
MOMENTUM: Number = ("a number of at least 0", 0.9)
EPS: Number = ("a number of at least 0", 1e-8)
ALWAYS_GENERAL = ("maximize", "fused", "capturable", "differentiable")


@dataclass(frozen=True)
class Rule:
    """One optimizer's stacked update.

    Attributes:
        general_flags: arguments that, if true, need the general way.
        state: (params, constants (lanes,)) to buffers shaped like the params.
        coefficients: (hyperparameters (count, lanes), updates before (count, lanes)) to what
            ``update`` reads. A mask ``has_X`` is there only if X is 0 for some and not for others.
        update: (param, grad, buffers, coefficients that broadcast against param, constants that all
            lanes have in common and no schedule moves).
        stability_scale: (hyperparameters (count, lanes), updates before, nesterov), see
            ``LaneOptimizer.stability_scale``.
        numbers: the hyperparameters that are numbers; all other arguments but betas are flags.
        divisor: (buffers, coefficients that broadcast), what the update divides by; None: nothing.
        momentum: the hyperparameter that is the share of the last step in the next; "": none is.
        check: (all arguments) raises UserError where they do not go together.
        rest: the rule of all parameters but matrices, of which this one is then; their lr and
            weight decay are ``adamw_lr`` and ``adamw_weight_decay``.
    """

    general_flags: tuple[str, ...]
    state: Callable[[list[Tensor], Columns], dict[str, list[Tensor]]]
    coefficients: Callable[[Columns, np.ndarray], Columns]
    update: Callable[[Tensor, Tensor, Rows, Rows, Common], None]
    stability_scale: Callable[[Columns, np.ndarray, bool], np.ndarray]
    numbers: Mapping[str, Number]
    divisor: Callable[[Rows, Rows], Tensor] | None = None
    momentum: str = ""
    check: Callable[[Mapping[str, Any]], None] = lambda arguments: None
    rest: Rule | None = None


def switchable(name: str, values: np.ndarray) -> Columns:
    """Declare a hyperparameter for which torch skips the operation where it is 0."""
    on = values != 0
    if not on.any():
        return {}
    return {name: values} if on.all() else {name: values, f"has_{name}": on}


def select(c: Rows, name: str, on: Tensor, off: Tensor) -> Tensor:
    """Return the switched-on result in the lanes that have it on."""
    mask = c.get(f"has_{name}")
    return on if mask is None else torch.where(mask, on, off)


def decayed(param: Tensor, grad: Tensor, c: Rows) -> Tensor:
    """Return grad + weight_decay · param, the gradient with the L2 penalty."""
    if "weight_decay" not in c:
        return grad
    return select(c, "weight_decay", torch.addcmul(grad, param, c["weight_decay"]), grad)


def power(base: np.ndarray, exponent: np.ndarray | float) -> np.ndarray:
    """Compute Python's own pow, as torch.optim does; numpy's may differ in the last bit."""
    return np.asarray(np.frompyfunc(pow, 2, 1)(base, exponent), float)


def add_square(square: Tensor, grad: Tensor, c: Rows, decay: float | None) -> Tensor:
    """Add (1 − decay)·grad², in one operation less if the decay is the same for all lanes."""
    if decay is None:
        return square.addcmul_(grad * c["square_share"], grad)
    return square.addcmul_(grad, grad, value=1 - decay)
