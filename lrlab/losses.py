"""The losses that ship with lrlab: functions from a batch's scores to one number.

A loss takes ``outputs``, which the network returns, and ``targets``. It returns the mean over the
batch as a tensor of shape (). In a classification, outputs are raw scores (batch, num_classes) and
targets are (batch,) class numbers. With positions, targets are (batch, positions, ...), and outputs
have an axis of the classes more: (batch, num_classes, positions, ...), as torch's own losses take
them, or (batch, positions, ..., num_classes). In a regression both have one shape. A loss must work
under ``torch.func.vmap``; any function of your own that does will do.

The losses of a classification have two options:

ignore_index: targets with this number do not count; the mean is over the others. None: all count
class_axis: of the outputs, 1 or -1; None: the one that fits the targets' shape, 1 if both do

Two of them have a third:

label_smoothing: ε, the share of each target that is spread evenly over all C classes, in training
    only: (1 − ε) · nll + ε/C · the sum of -log softmax(outputs) (Szegedy et al. 2016,
    arXiv:1512.00567, section 7; torch's CrossEntropyLoss)
"""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrlab.data import constant_prediction, random_state


def nll(
    outputs: Tensor,
    targets: Tensor,
    ignore_index: int | None = None,
    class_axis: int | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Negative log-likelihood of the true class, in nats: mean of -log softmax(outputs)[target].

    outputs: (batch, num_classes) float; targets: (batch,) int64; or with positions, see the module.
    Returns shape (); NaN if all targets are ignored.
    """
    axis = _axis(outputs, targets, class_axis)
    log_p = F.log_softmax(outputs, dim=axis)
    # Picks by hand what F.nll_loss picks: under vmap that one takes a slow way through Python.
    if ignore_index is None:
        found = -log_p.gather(axis, targets.unsqueeze(axis)).mean()
        if not label_smoothing:
            return found
        return (1 - label_smoothing) * found - label_smoothing * log_p.mean()
    counts = targets != ignore_index
    places = targets.masked_fill(~counts, 0).unsqueeze(axis)
    picked = log_p.gather(axis, places).squeeze(axis)
    if label_smoothing:
        picked = (1 - label_smoothing) * picked + label_smoothing * log_p.mean(axis)
    return -_mean_of(picked, counts)


def cross_entropy(
    outputs: Tensor,
    targets: Tensor,
    ignore_index: int | None = None,
    class_axis: int | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy in nats between one-hot targets and softmax(outputs).

    The same quantity as nll, computed by one call of torch. Arguments and result as for nll.
    """
    if targets.ndim > 1 and _axis(outputs, targets, class_axis) > 1:
        outputs, targets = outputs.flatten(0, -2), targets.flatten()
    if ignore_index is None:
        return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)
    return F.cross_entropy(
        outputs, targets, ignore_index=ignore_index, label_smoothing=label_smoothing
    )


def mse_one_hot(
    outputs: Tensor,
    targets: Tensor,
    ignore_index: int | None = None,
    class_axis: int | None = None,
) -> Tensor:
    """Mean squared error between the raw outputs and one-hot targets (1 at the true class, else 0).

    The mean is over samples and classes, as in torch's mse_loss. Arguments and result as for nll.
    """
    axis = _axis(outputs, targets, class_axis)
    classes = torch.arange(outputs.shape[axis], device=outputs.device)
    if 1 <= axis < outputs.ndim - 1:
        classes = classes.view(-1, *(1,) * (outputs.ndim - 1 - axis))
    one_hot = (targets.unsqueeze(axis) == classes).to(outputs.dtype)
    if ignore_index is None:
        return F.mse_loss(outputs, one_hot)
    squares = F.mse_loss(outputs, one_hot, reduction="none").mean(axis)
    return _mean_of(squares, targets != ignore_index)


def _axis(outputs: Tensor, targets: Tensor, class_axis: int | None) -> int:
    """Return the axis of the classes, from 0 on."""
    if class_axis is None:
        class_axis = next(iter(class_axes(outputs.shape, targets.shape)), 1)
    return class_axis % outputs.ndim


def class_axes(outputs: Sequence[int], targets: Sequence[int]) -> list[int]:
    """Return which axes of the outputs can be the classes', by the shapes alone: 1, -1, or both."""
    shape, wanted = tuple(outputs), tuple(targets)
    if len(shape) != len(wanted) + 1:
        return []
    found = [1] if shape[:1] + shape[2:] == wanted else []
    return [*found, -1] if len(shape) > 2 and shape[:-1] == wanted else found


def _mean_of(values: Tensor, counts: Tensor) -> Tensor:
    """Return the mean of those that count."""
    return values.where(counts, torch.zeros_like(values)).sum() / counts.sum()


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error over samples and the width, for a regression.

    outputs, targets: (batch, width, ...) float. Returns shape ().
    """
    return F.mse_loss(outputs, targets)


def l1(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error. Arguments and result as for mse."""
    return F.l1_loss(outputs, targets)


CLASSIFICATION = (nll, cross_entropy, mse_one_hot)
REGRESSION = (mse, l1)
SMOOTHED = (nll, cross_entropy)  # they take label_smoothing
OPTIONS = {"ignore_index", "class_axis", "label_smoothing"}


def task(loss: Callable[..., Tensor]) -> str | None:
    """Return ``classification`` or ``regression``; None for a loss that is not lrlab's.

    loss: the function (also inside functools.partial, as Hydra hands it over).
    """
    loss = _bare(loss)
    if loss in REGRESSION:
        return "regression"
    return "classification" if loss in CLASSIFICATION else None


def _bare(loss: Any) -> Any:
    while isinstance(loss, functools.partial) and not loss.args:
        if loss.keywords and not (loss.func in CLASSIFICATION and set(loss.keywords) <= OPTIONS):
            break
        loss = loss.func
    return loss


def evaluated(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the loss of evaluations: that of training, but without ``label_smoothing``.

    So the losses of runs with another smoothing, or with none, compare.
    """
    if not isinstance(loss, functools.partial) or loss.func not in SMOOTHED or loss.args:
        return loss
    kept = {name: value for name, value in loss.keywords.items() if name != "label_smoothing"}
    return functools.partial(loss.func, **kept) if kept else loss.func


def _option(loss: Any, name: str) -> Any:
    """Return an option of a loss that is lrlab's own; None: it has none."""
    while isinstance(loss, functools.partial):
        if name in loss.keywords:
            return loss.keywords[name]
        loss = loss.func
    return None


def ignored(loss: Any) -> int | None:
    """Return the target that a loss ignores; None: none, or it is not known."""
    bare = _bare(loss)
    if bare in CLASSIFICATION:
        return _option(loss, "ignore_index")
    return getattr(bare, "ignore_index", None) if _is_torchs(bare) else None


def class_axis(loss: Any) -> int | None:
    """Return the axis of the classes that a loss always takes; None: the one that fits."""
    bare = _bare(loss)
    if bare in CLASSIFICATION:
        return _option(loss, "class_axis")
    return 1 if _is_torchs(bare) else None


def takes_classes(loss: Any) -> bool:
    """Return whether the loss is known to compare scores, one a class, with class numbers."""
    return task(loss) == "classification" or _is_torchs(_bare(loss))


def _is_torchs(loss: Any) -> bool:
    """Return whether it is torch's loss of classes, or one with its forward."""
    forward = getattr(type(loss), "forward", None)
    return forward in (nn.CrossEntropyLoss.forward, nn.NLLLoss.forward)


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
            count = _classes(loss, targets, outputs)
            found = _of_shares(own, shares(targets, ignored(loss)), count)
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


def held_out_chance(
    loss: Callable[..., Tensor], targets: Tensor, held_out: Tensor, outputs: Sequence[int]
) -> float | None:
    """Return the loss of that prediction on other targets, whose classes have other shares.

    With p the classes' shares in training and q those of the others:

        nll, cross_entropy   -sum q log p
        mse_one_hot          mean over the C outputs of q (1 - p)² + (1 - q) p²

    Args:
        loss, targets, outputs: as for `chance_loss`.
        held_out: as targets.

    Returns:
        None for any other loss, where a class never occurs in training, and where both may be
        draws from the same targets.
    """
    own = _own(loss)
    if own not in CLASSIFICATION or targets.is_floating_point() or not (held_out >= 0).any():
        return None
    found = [shares(each, ignored(loss)) for each in (targets, held_out)]
    p, q = (np.pad(each, (0, max(map(len, found)) - len(each))) for each in found)
    if _may_be_draws(p * targets.numel(), q * held_out.numel()):
        return None
    if own is mse_one_hot:
        return float((q * (1 - p) ** 2 + (1 - q) * p**2).sum() / _classes(loss, targets, outputs))
    return None if (q[p == 0] > 0).any() else float(-(q[p > 0] * np.log(p[p > 0])).sum())


def _may_be_draws(some: np.ndarray, others: np.ndarray) -> bool:
    """Return whether counts of classes may be random draws from one population.

    Pearson's test of homogeneity, with a border that a draw hardly ever exceeds.
    """
    both = some + others
    some, others, both = (each[both > 0] for each in (some, others, both))
    expected = [both * each.sum() / both.sum() for each in (some, others)]
    pairs = zip((some, others), expected, strict=True)
    statistic = sum(float(((each - mean) ** 2 / mean).sum()) for each, mean in pairs)
    freedom = len(both) - 1
    return statistic <= freedom + 6 * math.sqrt(2 * freedom) + 10


def _classes(loss: Any, targets: Tensor, outputs: Sequence[int]) -> int:
    """Return how many classes outputs for one sample have scores for."""
    axes = class_axes((1, *outputs), (1, *targets.shape[1:])) or [1]
    return (1, *outputs)[class_axis(loss) or axes[0]]


def _own(loss: Any) -> Any:
    """Return the function here that computes the same as torch's, if there is one."""
    bare = _bare(loss)
    if getattr(bare, "reduction", "mean") != "mean":
        return bare
    if type(bare) is nn.CrossEntropyLoss:
        is_plain = bare.weight is None and not bare.label_smoothing and bare.ignore_index < 0
        return nll if is_plain else bare
    return {nn.MSELoss: mse, nn.L1Loss: l1}.get(type(bare), bare)


def shares(targets: Tensor, without: int | None = None) -> np.ndarray:
    """Return each class's share of the targets, (classes,) float64.

    Negative targets do not count, nor those that a loss ignores.
    """
    labels = targets.detach().cpu().flatten().numpy()
    counts = np.bincount(labels[(labels >= 0) & (labels != without)])
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


class Answers(NamedTuple):
    """How outputs are read as answers.

    Attributes:
        classes: how many there are; None: as many as there are scores.
        logit: whether one output is the logit of class 1, see `is_logit`.
        without: the target that does not count, if there is one, see `ignored`.
        axis: the one of the classes, see `class_axis`; None: the one that fits.
    """

    classes: int | None = None
    logit: bool = False
    without: int | None = None
    axis: int | None = None


def right_answers(
    outputs: Any, targets: Tensor, classes: int | None = None, logit: bool = False, **more: Any
) -> Tensor | None:
    """Count the targets that are answered rightly, shape () int64; None where that has no sense.

    Args:
        outputs: (batch, C, ...) or (batch, ..., C) scores, the largest of which is the answer;
            with logit also (batch,) or (batch, 1), where one above 0 answers 1.
        targets: (batch,) or (batch, positions, ...) whole numbers; a negative one is never right.
        classes, logit, more: see `Answers`.
    """
    _, _, without, axis = Answers(classes, logit, **more)
    if not isinstance(outputs, Tensor) or outputs.ndim == 0 or targets.is_floating_point():
        return None
    batch, *others = outputs.shape
    if targets.ndim == 1 and logit and others in ([], [1]):
        return ((outputs.reshape(batch) > 0).to(targets.dtype) == targets).sum()
    axes = class_axes(outputs.shape, targets.shape)
    axis = next((one for one in axes if axis in (None, one)), None)
    if axis is None or outputs.shape[axis] < max(2, classes or 2):
        return None
    right = outputs.argmax(axis) == targets
    if without is not None and without >= 0:
        right = right & (targets != without)
    return right.sum()
