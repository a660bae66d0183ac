"""The losses that ship with lrlab: functions from a batch's scores to one number.

A loss takes ``outputs``, what the network returns, and ``targets``, and returns the mean over the
batch as a tensor of shape (). Of a classification, outputs are raw scores (batch, num_classes) and
targets (batch,) the number of each sample's true class; of a regression both are (batch, width).
It must work under ``torch.func.vmap``; apart from that any function of your own will do.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def nll(outputs: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of the true class, in nats: mean of -log softmax(outputs)[target].

    outputs: (batch, num_classes) float; targets: (batch,) int64. Returns shape ().
    """
    # Picked by hand what F.nll_loss picks: under vmap that one takes a slow way through Python.
    return -F.log_softmax(outputs, dim=1).gather(1, targets.unsqueeze(1)).mean()


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats between one-hot targets and softmax(outputs).

    The same quantity as nll, by torch's one-call way. Arguments and result as for nll.
    """
    return F.cross_entropy(outputs, targets)


def mse_one_hot(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error between the raw outputs and one-hot targets (1 at the true class, else 0).

    The mean is over samples and classes, as in torch's mse_loss. Arguments and result as for nll.
    """
    classes = torch.arange(outputs.shape[1], device=outputs.device)
    one_hot = (targets.unsqueeze(1) == classes).to(outputs.dtype)
    return F.mse_loss(outputs, one_hot)


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error, over samples and the width: a regression's.

    outputs, targets: (batch, width) float. Returns shape ().
    """
    return F.mse_loss(outputs, targets)


def l1(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error. Arguments and result as for mse."""
    return F.l1_loss(outputs, targets)


def _uniform_nll(num_classes: int) -> float:
    """-log(1/C)."""
    return math.log(num_classes)


def _uniform_mse(num_classes: int) -> float:
    """((1 - 1/C)² + (C - 1)·(1/C)²) / C."""
    return (num_classes - 1) / num_classes**2


_CHANCE: dict[str, tuple[Callable[..., Tensor], Callable[[int], float]]] = {
    "nll": (nll, _uniform_nll),
    "cross_entropy": (cross_entropy, _uniform_nll),
    "mse_one_hot": (mse_one_hot, _uniform_mse),
}


REGRESSION = (mse, l1)


def task(loss: Callable[..., Tensor]) -> str | None:
    """``classification`` or ``regression``; None: a loss that is not lrlab's, of which none knows.

    loss: the function (also inside functools.partial, as Hydra hands it over).
    """
    loss = _bare(loss)
    if loss in REGRESSION:
        return "regression"
    return "classification" if any(loss is own for own, _ in _CHANCE.values()) else None


def _bare(loss: Any) -> Any:
    while isinstance(loss, functools.partial) and not loss.args and not loss.keywords:
        loss = loss.func
    return loss


def chance_loss(loss: str | Callable[..., Tensor], num_classes: int | None) -> float | None:
    """The loss of the best prediction that does not look at the input.

    loss: a loss's name or the function (also inside functools.partial, as Hydra hands it over).
    num_classes: C; the classes are taken as equally frequent, so that prediction is 1/C for each.
    Returns ln C for nll and cross_entropy, (C-1)/C² for mse_one_hot, None for an unknown loss
    and where there are no classes.
    """
    loss = _bare(loss)
    for name, (function, chance) in _CHANCE.items():
        if num_classes is not None and (loss == name or loss is function):
            return chance(num_classes)
    return None
