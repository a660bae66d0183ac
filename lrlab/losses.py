"""The losses that ship with lrlab: functions from a batch's scores to one number.

A loss takes ``outputs`` (batch, num_classes), the network's raw scores, and ``targets`` (batch,),
the number of each sample's true class, and returns the mean over the batch as a tensor of shape ().
It must work under ``torch.func.vmap``; apart from that any function of your own will do.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

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


def chance_loss(loss: str | Callable[..., Tensor], num_classes: int) -> float | None:
    """The loss of the best prediction that does not look at the input.

    loss: a loss's name or the function (also inside functools.partial, as Hydra hands it over).
    num_classes: C; the classes are taken as equally frequent, so that prediction is 1/C for each.
    Returns ln C for nll and cross_entropy, (C-1)/C² for mse_one_hot, None for an unknown loss.
    """
    while isinstance(loss, functools.partial) and not loss.args and not loss.keywords:
        loss = loss.func
    for name, (function, chance) in _CHANCE.items():
        if loss == name or loss is function:
            return chance(num_classes)
    return None
