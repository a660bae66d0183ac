"""Compute the reference values for a run: the loss of guessing, the unit of its loss."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrlab import losses
from lrlab.plan import build
from lrlab.plan.spec import RunSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lrlab.data import Dataset


@dataclass(frozen=True)
class References:
    """The reference values for a run's results, from the data and the loss alone.

    Attributes:
        unit: factor from the trained loss to the reported one: 1, unless targets are
            standardised.
        chance_loss: the loss of guessing, see ``losses.chance_loss``.
        majority_share: the share, among held-out samples, of the class most frequent in training;
            None without classes.
        logit: whether one output a sample is the logit of class 1, see ``losses.is_logit``.
    """

    unit: float
    chance_loss: float | None
    majority_share: float | None
    logit: bool


def references_of(spec: RunSpec, dataset: Dataset, network: nn.Module) -> References:
    """Compute them, once for the same data, loss and network.

    Args:
        network: the run's, on the CPU. A copy is run, on one sample.
    """
    key = build.network_key(spec, dataset)
    if key not in _references:
        if len(_references) > 256:
            _references.clear()
        _references[key] = _new_references(build.loss_function(spec), dataset, network)
    return _references[key]


_references: dict[tuple[Any, ...], References] = {}


def _new_references(
    loss: Callable[..., Tensor], dataset: Dataset, network: nn.Module
) -> References:
    shape = (dataset.outputs,) if losses.task(loss) else _output_shape(network, dataset)
    unit = loss_unit(loss, dataset)
    chance = None if shape is None else losses.chance_loss(loss, dataset.train_y, shape)
    chance = chance if chance is None else unit * chance
    logit = dataset.num_classes == 2 and shape is not None and losses.is_logit(loss, shape)
    if dataset.num_classes is None or dataset.train_y.is_floating_point():
        return References(unit, chance, None, logit)
    guess = int(losses.shares(dataset.train_y).argmax())
    of_val = losses.shares(dataset.val_y)
    share = float(of_val[guess]) if guess < len(of_val) else 0.0
    return References(unit, chance, share, logit)


def loss_unit(loss: Callable[[Tensor, Tensor], Tensor], dataset: Dataset) -> float:
    """Return the factor from the trained loss to the reported one, see ``losses.unit``."""
    return (losses.unit(loss, dataset.target_std) if dataset.target_mean else None) or 1.0


def _output_shape(network: nn.Module, dataset: Dataset) -> tuple[int, ...] | None:
    """Return the shape of the network's output for one sample; None if it is no tensor."""
    import torch

    try:
        copied = copy.deepcopy(network).cpu().eval()  # it may count its calls
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = copied(dataset.train_x[:2].cpu().clone())
    except Exception:  # it will raise in evaluation, too, and be reported there
        return None
    return tuple(outputs.shape[1:]) if isinstance(outputs, torch.Tensor) else None
