"""Make of a network and a loss of (model, batch) a network of batch numbers, as lanes train it."""

from __future__ import annotations

import copy
import inspect
import math
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lrlab.data import Dataset
from lrlab.engine import network_checks
from lrlab.engine.lanes.chunks import Samples
from lrlab.errors import UserError
from lrlab.losses import own_parameters
from lrlab.range_test import batches, given, held_out
from lrlab.range_test.loops.source import Source, fresh, size
from lrlab.range_test.training import Subject

NAMES = ("model", "network", "net", "module")  # of the first parameter of a loss of (model, batch)
# of the first parameter of a loss of (outputs, targets)
OUTPUTS = ("outputs", "output", "input", "inputs", "logits", "scores", "predictions", "prediction")

LossOfBatch = Callable[[nn.Module, Any], Tensor]
Lookup = Callable[[int, bool], Any]  # from a batch's number, and whether it is held out


def is_meant(loss: Any, batch: Any) -> bool:
    """Return whether a loss is called with (model, batch), not with (outputs, targets).

    Batches that are no pairs of tensors have no outputs and targets. For pairs, the name of the
    loss's first parameter decides. So it does for pairs of several inputs and a tensor.
    """
    if not batches.is_pair(batch):
        return True
    name = _first_name(loss)
    return name in NAMES or (batches.has_several(batch) and name not in OUTPUTS)


def _first_name(loss: Any) -> str | None:
    try:
        signature = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss)
    except (TypeError, ValueError):  # a builtin
        return None
    return next(iter(signature.parameters), None)


class OfBatches(nn.Module):
    """A network with its loss: from the numbers of mini-batches to their loss, shape ().

    Numbers of 64 bits are those of training batches. Numbers of 32 bits are those of held-out ones,
    whose losses are weighted by their samples.
    """

    def __init__(self, model: nn.Module, loss: LossOfBatch, lookup: Lookup) -> None:
        super().__init__()
        self.model, self.loss, self.lookup = model, loss, lookup

    def forward(self, numbers: Tensor) -> Tensor:
        device = next(self.model.parameters()).device
        held = numbers.dtype == torch.int32
        found, weights = [], []
        for number in numbers.tolist():
            batch = fresh(self.lookup(number, held), device)
            weights.append(max(size(batch), 1))
            found.append(self.loss(self.model, batch).reshape(()))
        if len(found) == 1:
            return found[0]
        losses = torch.stack(found)
        return (losses * losses.new_tensor(weights)).sum() / sum(weights)


def itself(outputs: Tensor, numbers: Tensor) -> Tensor:
    """The loss of lanes of ``OfBatches``, whose outputs are losses already."""
    return outputs


def subject(
    network: nn.Module,
    loss: LossOfBatch,
    optimizer: dict[str, Any],
    source: Source | batches.Batches,
    seed: int,
    device: str,
) -> tuple[Subject, list[Any]]:
    """Return what is trained, tried once on the first mini-batch, and a list for held-out batches.

    Raises:
        UserError: the network or the loss does not work on this mini-batch.
    """
    read = source if callable(source) else batches.kept(source, lambda found, first: True)
    held: list[Any] = []

    def lookup(number: int, is_held_out: bool) -> Any:
        return held[number] if is_held_out else read(number)

    def numbers(step: int) -> Samples:
        read(step)
        number = torch.tensor([step])
        return number, number

    own = _ready(network, loss, read(0), seed, device, lookup)
    return Subject(own, itself, optimizer, numbers, seed, device, evaluated_at_once=1), held


def _ready(
    network: nn.Module, loss: LossOfBatch, batch: Any, seed: int, device: str, lookup: Lookup
) -> OfBatches:
    """Like ``given.ready``, for a loss of (model, batch)."""
    if not callable(loss):
        raise UserError(
            f"loss: must be a function of (model, batch), such as "
            f"lambda model, batch: model(**batch).loss, not {given.kind(loss)}"
        )
    if own_names := own_parameters(loss):
        raise UserError(
            f"loss: has parameters of its own ({', '.join(own_names[:3])}), which nothing would "
            "train; make them parameters of the network, or buffers if they are constant"
        )
    network_checks.check_hooks("network", network)
    own = OfBatches(given.copied(network), _copyable(loss), lookup)
    given.keep_evaluating(own.model)
    first = torch.tensor([0])

    def called(one: Any) -> Any:
        try:
            return one.loss(one.model, fresh(batch, torch.device(device)))
        except Exception as error:
            raise UserError(_fails(batch, error)) from error

    if any(is_lazy(p) for p in own.parameters()):
        torch.manual_seed(seed)
        with torch.no_grad():
            called(own.to(device).train(False))
    trial: Any = given.copied(own).to(device).train()
    names = {name for name, _ in trial.model.named_parameters()}
    tensors = network_checks.places(trial.model)
    with _buffers_kept(network):  # a loss may call the user's own network
        value = called(trial)
    network_checks.check_places("network", tensors, network_checks.places(trial.model))
    network_checks.check_made("network", names, trial.model)
    given.check_value(value)
    leaves = [p for p in trial.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise UserError(
            "loss: depends on no parameter of the model that it is given; compute it by its first "
            "argument, which is a copy of your network"
        )
    if any(gradient is not None and gradient.is_sparse for gradient in gradients):
        raise UserError(
            "network: gives sparse gradients, which lanes cannot share; use sparse=False in its "
            "embeddings, which trains alike"
        )
    network_checks.check_stateless("network", given.copied(own).to(device), first, network)
    return own.train(network.training)


@contextmanager
def _buffers_kept(network: nn.Module) -> Iterator[None]:
    before = [(b, b._version, b.clone()) for b in network.buffers() if not is_lazy(b)]
    try:
        yield
    finally:
        for buffer, version, value in before:
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(value)


def _copyable(loss: LossOfBatch) -> LossOfBatch:
    """Return a loss that lanes may copy with their network, or a function, which they share."""
    if not isinstance(loss, types.MethodType):  # the copy of a method copies its object
        try:
            return copy.deepcopy(loss)
        except Exception:  # it holds something that cannot be copied, such as a lock
            pass
    return lambda model, batch: loss(model, batch)


def _fails(batch: Any, error: Exception) -> str:
    if batches.is_pair(batch):
        return (
            "loss: fails on (model, batch), with which it is called because of the name of its "
            f"first parameter: {given.error_line(error)}; call that outputs if it takes "
            "(outputs, targets)"
        )
    return (
        f"data: each mini-batch must be a pair of tensors, not {batches.described(batch)}, or else "
        f"loss a function of (model, batch); called so, it fails: {given.error_line(error)}"
    )


def held_out_batches(
    val: Any, data: Any, own: nn.Module, first: Any, steps: int, device: str, ends: ExitStack
) -> tuple[list[Any], list[Samples], str]:
    """Return held-out mini-batches, their numbers in parts of equal length, and if none, why.

    Args:
        val, data: as for ``held_out.held_out``.
        own: from ``subject``; its loss is tried on the mini-batches.
        first: a training batch.

    Raises:
        UserError: the network or the loss does not work on them.
    """
    val, why = held_out.asked(val, data)
    if val is None:
        return [], [], why
    if isinstance(val, Dataset):
        val = (val.val_x, val.val_y)
    most = held_out.most_samples(max(size(first), 1), steps)
    whole = batches.pair(val, "val", most)
    if whole is not None:
        chosen: list[Any] = list(held_out.in_parts(*whole, most))
    else:
        kept = _thinned(ends.enter_context(Source(val, "val")), most)
        count = max(held_out.PARTS, most // max(size(kept[0]), 1))
        chosen = [kept[i] for i in batches.evenly_spaced(len(kept), count)]
    numbers = torch.arange(len(chosen), dtype=torch.int32)
    parts = held_out.in_parts(numbers, numbers, len(chosen))
    _check(chosen, own, device)
    return chosen, parts, ""


def _thinned(source: Source, most: int) -> list[Any]:
    """Return evenly spaced mini-batches of one pass; hardly more than of 2·most samples."""
    kept: list[Any] = [source.peek()]
    source.take()
    apart, read = 1, size(kept[0])
    place = 0
    while read < held_out.MOST_READ and (found := source.take()):
        place += 1
        kept += found if place % apart == 0 else []
        read += max(size(found[0]), 1)
        while sum(map(size, kept)) > 2 * most and len(kept) > 2 * held_out.PARTS:
            kept, apart = kept[::2], 2 * apart
    return kept


def _check(chosen: list[Any], own: nn.Module, device: str) -> None:
    trial: Any = given.copied(own).to(device).eval()
    for batch in chosen:
        try:
            with torch.no_grad():
                value = float(trial.loss(trial.model, fresh(batch, torch.device(device))))
        except Exception as error:
            raise UserError(
                f"val: the loss fails on a mini-batch, {batches.described(batch)}, in eval mode: "
                f"{given.error_line(error)}"
            ) from error
        if not math.isfinite(value):
            raise UserError(
                f"val: the loss is {value:g} before training; look for inf and nan in the samples"
            )


def samples(chosen: list[Any], parts: list[Samples]) -> int:
    """Return how many held-out samples the numbers in the parts stand for."""
    used: Iterator[int] = (number for _, numbers in parts for number in numbers.tolist())
    return sum(max(size(chosen[number]), 1) for number in used)
