"""The losses that ship with lrlab: functions from a batch's scores to one number.

A loss takes ``outputs``, which the network returns, and ``targets``. It returns the mean over the
batch as a tensor of shape (). In a classification, outputs are raw scores (batch, num_classes) and
targets are (batch,) class numbers. In a regression both are (batch, width). A loss must work under
``torch.func.vmap``; any function of your own that does will do.
"""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrlab.data import constant_prediction, random_state


def nll(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Negative log-likelihood of the true class, in nats: mean of -log softmax(outputs)[target].

    outputs: (batch, num_classes) float; targets: (batch,) int64. Returns shape ().
    label_smoothing: ε, the share of each target that is spread evenly over all C classes, in
    training only: (1 − ε) · nll + ε/C · the sum of -log softmax(outputs) (Szegedy et al. 2016,
    arXiv:1512.00567, section 7; torch's CrossEntropyLoss).
    """
    log_p = F.log_softmax(outputs, dim=1)
    # Picks by hand what F.nll_loss picks: under vmap that one takes a slow way through Python.
    found = -log_p.gather(1, targets.unsqueeze(1)).mean()
    if not label_smoothing:
        return found
    return (1 - label_smoothing) * found - label_smoothing * log_p.mean()


def cross_entropy(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy in nats between one-hot targets and softmax(outputs).

    The same quantity as nll, computed by one call of torch. Arguments and result as for nll.
    """
    return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)


def mse_one_hot(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error between the raw outputs and one-hot targets (1 at the true class, else 0).

    The mean is over samples and classes, as in torch's mse_loss. Arguments and result as for nll.
    """
    classes = torch.arange(outputs.shape[1], device=outputs.device)
    one_hot = (targets.unsqueeze(1) == classes).to(outputs.dtype)
    return F.mse_loss(outputs, one_hot)


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error over samples and the width, for a regression.

    outputs, targets: (batch, width) float. Returns shape ().
    """
    return F.mse_loss(outputs, targets)


def l1(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error. Arguments and result as for mse."""
    return F.l1_loss(outputs, targets)


CLASSIFICATION = (nll, cross_entropy, mse_one_hot)
REGRESSION = (mse, l1)
SMOOTHED = (nll, cross_entropy)  # they take label_smoothing


def task(loss: Callable[..., Tensor]) -> str | None:
    """Return ``classification`` or ``regression``; None for a loss that is not lrlab's.

    loss: the function (also inside functools.partial, as Hydra hands it over).
    """
    loss = _bare(loss)
    if loss in REGRESSION:
        return "regression"
    return "classification" if loss in CLASSIFICATION else None


def _bare(loss: Any) -> Any:
    while isinstance(loss, functools.partial) and not loss.args and not loss.keywords:
        loss = loss.func
    return evaluated(loss)


def evaluated(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the loss of evaluations: that of training, but without ``label_smoothing``.

    So the losses of runs with another smoothing, or with none, compare.
    """
    if not isinstance(loss, functools.partial) or loss.func not in SMOOTHED or loss.args:
        return loss
    return loss.func if loss.keywords.keys() <= {"label_smoothing"} else loss


def unit(loss: Callable[..., Tensor], target_std: float) -> float | None:
    """Return the factor from a loss on standardised targets to one in the targets' own units.

    It is the square of their standard deviation for mse, the standard deviation for l1, and None
    for other losses, where it is not known.
    """
    return {mse: target_std**2, l1: target_std}.get(_own(loss))


def chance_loss(
    loss: Callable[..., Tensor], targets: Tensor, outputs: Sequence[int]
) -> float | None:
    """Return the loss of guessing: that of the best prediction without a look at the input.

    That prediction is one constant for all samples, the best for these targets. With p the classes'
    shares:

        nll, cross_entropy   -sum p log p, the entropy in nats
        mse_one_hot          mean over the C outputs of p (1 - p)
        mse                  variance, mean over the width
        l1                   mean distance from the median, mean over the width

    Any other loss is minimised numerically; see `lrlab.data.constant_prediction`.

    Args:
        loss: the function (also inside functools.partial, as Hydra hands it over), or an object.
        targets: of the training part. Classes (samples,), or (samples, positions) of sequences,
            where a negative one is not counted; or (samples, width) float.
        outputs: the shape of what a network returns for one sample.

    Returns:
        None where it is not known. It never raises, and draws no random number.
    """
    targets, own = targets.detach().cpu(), _own(loss)
    try:
        if own in CLASSIFICATION and not targets.is_floating_point():
            found = _of_shares(own, shares(targets), outputs[0])
        elif own in REGRESSION and tuple(outputs) == tuple(targets.shape[1:]):
            values = targets.double().numpy()
            if own is mse:
                found = float(values.var(axis=0).mean())
            else:
                found = float(np.abs(values - np.median(values, axis=0)).mean())
        else:
            return constant_prediction.least_loss(loss, targets, outputs)
    except Exception:  # no targets at all, or no outputs
        return None
    return found if math.isfinite(found) else None


def _own(loss: Any) -> Any:
    """Return the function here that computes the same as torch's, if there is one."""
    bare = _bare(loss)
    if getattr(bare, "reduction", "mean") != "mean":
        return bare
    if type(bare) is nn.CrossEntropyLoss:
        is_plain = bare.weight is None and not bare.label_smoothing and bare.ignore_index < 0
        return nll if is_plain else bare
    return {nn.MSELoss: mse, nn.L1Loss: l1}.get(type(bare), bare)


def shares(targets: Tensor) -> np.ndarray:
    """Return each class's share of the targets, (classes,) float64, without negative targets."""
    labels = targets.detach().cpu().flatten().numpy()
    counts = np.bincount(labels[labels >= 0])
    return counts / counts.sum()


def _of_shares(loss: Callable[..., Tensor], p: np.ndarray, outputs: int) -> float:
    if loss is mse_one_hot:
        return float((p * (1 - p)).sum() / outputs)
    return float(-(p * np.log(p, where=p > 0, out=np.zeros_like(p))).sum())


def is_logit(loss: Callable[..., Tensor], shape: Sequence[int]) -> bool:
    """Return whether the loss takes one output a sample as the logit of class 1 of two.

    Then an output above 0 is an answer for class 1. A probability is no logit, nor is a value that
    is compared with 0 and 1: there an output below 0 is no better for class 0.

    Args:
        shape: of the outputs for one sample.
    """
    if math.prod(shape) != 1:
        return False
    classes = torch.tensor([0, 0]), torch.tensor([1, 1])

    def at(value: float, target: Tensor) -> float:
        return float(copied(torch.full((2, *shape), value), target))

    try:
        with random_state.random_state_kept(), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            copied = copy.deepcopy(loss)
            of_none, of_one = ([at(0.0, y), at(float(2 * y[0] - 1), y)] for y in classes)
    except Exception:  # a loss of the user's can raise anything
        return False
    return of_none[1] < of_none[0] and of_one[1] < of_one[0]


def own_parameters(loss: Any) -> list[str]:
    """Return the names of the loss's parameters that ask for a gradient."""
    bare = _bare(loss)
    if not isinstance(bare, nn.Module):
        return []
    return [name for name, p in bare.named_parameters() if p.requires_grad]


def is_sum(loss: Callable[..., Tensor], outputs: Tensor, targets: Tensor) -> bool:
    """Return whether the loss of several copies of a batch is the loss of one, so many times.

    Args:
        outputs: (batch, ...), targets: (batch, ...). A copy of the loss is called.
    """

    def at(count: int) -> float:
        return float(copied(torch.cat([outputs] * count), torch.cat([targets] * count)))

    try:
        with random_state.random_state_kept(), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            copied = copy.deepcopy(loss)
            one, *more = at(1), at(2), at(3)
    except Exception:  # a loss of the user's can raise anything
        return False
    return one != 0 and all(
        math.isclose(value, count * one, rel_tol=1e-4) for count, value in enumerate(more, start=2)
    )


def right_answers(
    outputs: Any, targets: Tensor, classes: int | None = None, logit: bool = False
) -> Tensor | None:
    """Count the targets that are answered rightly, shape () int64; None where that has no sense.

    Args:
        outputs: (batch, C, ...) scores, the largest of which is the answer; with logit also
            (batch,) or (batch, 1), where one above 0 answers 1.
        targets: (batch,) or (batch, positions, ...) whole numbers; a negative one is never right.
        classes: how many there are; None: as many as there are scores.
        logit: see `is_logit`.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim == 0 or targets.is_floating_point():
        return None
    batch, *others = outputs.shape
    if targets.ndim == 1 and logit and others in ([], [1]):
        return ((outputs.reshape(batch) > 0).to(targets.dtype) == targets).sum()
    if not others or others[0] < max(2, classes or 2) or others[1:] != list(targets.shape[1:]):
        return None
    return (outputs.argmax(1) == targets).sum()
