"""Choose the held-out samples that judge the learning rates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lrlab.data import Dataset, inputs
from lrlab.data.constant_prediction import least_loss
from lrlab.data.inputs import Inputs
from lrlab.data.random_state import random_state_kept
from lrlab.engine.lanes.chunks import Samples
from lrlab.errors import UserError
from lrlab.range_test.batches import check_batch, evenly_spaced, pair
from lrlab.range_test.given import Loss, broadcasts, copied, error_line, kind, of_batch

PARTS = 5  # of equal length; the spread of their losses shows how much depends on the samples
MOST, LEAST = 500, 100  # samples
MOST_READ = 100_000  # samples from a source of mini-batches, which may never end


def held_out(
    val: Any, data: Any, network: nn.Module, loss: Loss, most: int, device: str
) -> tuple[list[Samples], str]:
    """Return the held-out samples to evaluate on, in parts, and if there are none, why.

    Args:
        val: as data of `lrlab.find.find`; None: the samples that a `lrlab.data.Dataset` holds out.
        data: the training data.
        network: ready to be trained; it is tried on the samples.
        most: how many samples at most.

    Raises:
        UserError: the network or the loss does not work on them.
    """
    val, why = asked(val, data)
    if val is None:
        return [], why
    if isinstance(val, Dataset):
        val = (val.val_x, val.val_y)
    whole = pair(val, "val", most) or _thinned(val, most)
    parts = [
        (inputs.mapped(lambda tensor: tensor.to(device), x), y.to(device))
        for x, y in in_parts(*whole, most)
    ]
    own = copied(network).to(device).eval()
    with torch.no_grad():
        for x, y in parts:
            _check_held_out(own, x, y, loss)
    return parts, ""


def asked(val: Any, data: Any) -> tuple[Any, str]:
    """Return what holds the held-out samples; if nothing does, None and why."""
    if val is None:
        if not isinstance(data, Dataset):
            return (
                None,
                "no held-out samples were given (val), which also favours an lr that memorises",
            )
        if not len(data.val_y):
            return None, "the data has no held-out part"
        val = data
    if val is data and isinstance(val, Iterator):
        raise UserError("val: is the same iterator as data; give samples that are held out")
    return val, ""


def most_samples(batch_size: int, steps: int) -> int:
    """Return how many held-out samples to evaluate, for at most a quarter of the time.

    Evaluating a sample takes about half of the time of training on it.
    """
    return min(MOST, max(LEAST, batch_size * steps // 18))


def in_parts(x: Inputs, y: Tensor, most: int) -> list[Samples]:
    """Return at most so many evenly spaced samples, dealt out to parts of equal length."""
    device = inputs.tensors(x)[0].device
    places = torch.tensor(evenly_spaced(len(y), most), device=device)
    count = min(PARTS, len(places))
    size = len(places) // count
    chosen = [places[k::count][:size] for k in range(count)]
    return [
        (inputs.mapped(lambda tensor, at=index: tensor[at], x), y[index.to(y.device)])
        for index in chosen
    ]


def guess(network: nn.Module, loss: Loss, parts: Sequence[Samples]) -> float:
    """Return the least loss of one answer to all held-out samples; inf if that is not known.

    Args:
        network: from samples to one tensor of outputs. A copy is run.
    """
    x, y = inputs.joined([x for x, _ in parts]), torch.cat([y for _, y in parts])
    few = inputs.mapped(lambda tensor: tensor[:2], x)
    own = copied(network).to(inputs.tensors(x)[0].device).eval()
    try:
        with random_state_kept(), torch.no_grad():
            outputs = inputs.called(own, few)
    except Exception:  # a network may refuse so few
        return math.inf
    if outputs.dim() < 2 or len(outputs) != len(y[:2]):
        return math.inf  # losses of whole mini-batches
    found = least_loss(loss, y.cpu(), outputs.shape[1:])
    return math.inf if found is None else found


def _thinned(data: Iterable[Any], most: int) -> Samples:
    """Return evenly spaced samples from mini-batches, without ever keeping more than 2·most."""
    kept: list[Samples] = []
    apart, read = 1, 0
    for found in data:
        check_batch(found, "val")
        x, y = found
        if (samples := len(inputs.tensors(x)[0])) != len(y):
            raise UserError(f"val: {samples} samples and {len(y)} targets; need as many of each")
        kept += [
            (inputs.mapped(lambda tensor, at=i: tensor[at].clone(), x), y[i].clone())
            for i in range(-read % apart, len(y), apart)
        ]
        read += len(y)
        while len(kept) > 2 * most:
            kept, apart = kept[::2], 2 * apart
        if read >= MOST_READ:
            break
    if not kept:
        raise UserError("val: gives no mini-batch")
    try:
        return inputs.stacked([x for x, _ in kept]), torch.stack([y for _, y in kept])
    except RuntimeError as error:
        raise UserError(f"val: its samples do not make a batch: {error_line(error)}") from error


def _check_held_out(network: nn.Module, x: Inputs, y: Tensor, loss: Loss) -> None:
    shapes = f"samples {of_batch(x)}, and targets {tuple(y.shape)}, {y.dtype}"
    try:
        outputs = inputs.called(network, x)
    except Exception as error:
        raise UserError(
            f"val: the network's forward pass fails on {shapes}: {error_line(error)}"
        ) from error
    if not isinstance(outputs, Tensor):
        raise UserError(f"val: the network in eval mode returns {kind(outputs)}; return one tensor")
    if broadcasts(outputs, y, loss):
        raise UserError(f"val: the loss broadcasts each output against each target of {shapes}")
    try:
        value = float(loss(outputs, y))
    except Exception as error:
        raise UserError(f"val: the loss fails on {shapes}: {error_line(error)}") from error
    if not math.isfinite(value):
        raise UserError(
            f"val: the loss is {value:g} before training; look for inf and nan in the samples"
        )
