"""Make the range test's mini-batches from data given in Python."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrlab.data import Dataset, inputs
from lrlab.data.own import float32
from lrlab.engine.lanes.chunks import Samples
from lrlab.errors import UserError
from lrlab.process.plain import is_whole
from lrlab.range_test.given import Loss, error_line, kind
from lrlab.training.on_batches import Batches, batches_of

if TYPE_CHECKING:
    from lrlab.range_test.loops.source import Source

_WANTED = "two tensors, a TensorDataset, or a DataLoader of pairs"


def of_whole(data: Any, batch_size: int, seed: int, device: str) -> Batches | None:
    """Return a function from step to mini-batch; None: data gives mini-batches itself."""
    if isinstance(data, Dataset):
        data = (data.train_x, data.train_y)
    whole = pair(data, "data")
    if whole is not None:
        x, y = _on(whole, device)
        if not is_whole(batch_size, 1) or batch_size > len(y):
            raise UserError(f"batch_size={batch_size}: must be from 1 to the {len(y)} samples")
        return batches_of(x, y, seed, batch_size)
    return None


def pair(data: Any, option: str, most: int | None = None) -> Samples | None:
    """Return samples and targets that exist as a whole; None: data gives mini-batches.

    Args:
        option: the name of data in an error.
        most: how many samples to read, evenly spaced, if they are read one by one; None: all.
    """
    if isinstance(data, torch.utils.data.TensorDataset):
        data = data.tensors
        if len(data) != 2:
            raise UserError(f"{option}: a TensorDataset of {len(data)} tensors; must be of two")
    elif isinstance(data, torch.utils.data.Dataset) and hasattr(data, "__len__"):
        data = _collated(data, option, most)
    if isinstance(data, tuple | list) and len(data) == 2 and _are_samples(*data):
        y = _tensor(data[1], option, "y")
        x: Any = data[0]
        if _is_array(x):
            x = _tensor(x, option, "x")
        elif isinstance(x, Mapping):
            x = {name: _tensor(part, option, name) for name, part in x.items()}
        else:
            x = tuple(_tensor(part, option, f"x[{i}]") for i, part in enumerate(x))
        for tensor in inputs.tensors(x):
            if len(tensor) != len(y):
                raise UserError(
                    f"{option}: {len(tensor)} samples and {len(y)} targets; need as many of each"
                )
        if not len(y):
            raise UserError(f"{option}: has no samples")
        return x, y
    if isinstance(data, Tensor | str | bytes | Mapping) or not isinstance(data, Iterable):
        raise UserError(f"{option}: must be {_WANTED}, not {kind(data)}")
    return None


def _are_samples(x: Any, y: Any) -> bool:
    """Return whether these are inputs, one array or several, and their targets."""
    return _is_array(y) and (_is_array(x) or _are_several(x, _is_array))


def _are_several(x: Any, is_one: Callable[[Any], bool]) -> bool:
    """Return whether x is a dict by names, or a tuple, of inputs."""
    if isinstance(x, Mapping):
        named = all(isinstance(name, str) for name in x)
        return bool(x) and named and all(map(is_one, x.values()))
    return isinstance(x, tuple) and bool(x) and all(map(is_one, x))


def _is_array(part: Any) -> bool:
    import numpy as np

    return (isinstance(part, Tensor) and part.dim() > 0) or (
        isinstance(part, np.ndarray) and part.ndim > 0 and part.dtype.kind in "fiub"
    )


def _tensor(part: Any, option: str, key: str) -> Tensor:
    """Return a tensor unchanged, an array with the types that torch's networks and losses take."""
    if isinstance(part, Tensor):
        return part
    found = torch.from_numpy(part.copy())
    if not found.is_floating_point():
        return found.long()
    if words := float32.lost(found, float32.named(None, key, found.ndim)):
        raise UserError(f"{option}: {words}; give ({key} - {key}.mean(0)) / {key}.std(0)")
    return found.float()


def _collated(data: Any, option: str, most: int | None) -> Any:
    """Read the samples of a data set one by one, and stack them as a DataLoader does."""
    try:
        samples = [data[i] for i in evenly_spaced(len(data), most or len(data))]
        found = torch.utils.data.default_collate(samples) if samples else ()
    except Exception as error:
        raise UserError(
            f"{option}: its samples do not make a batch: {error_line(error)}; give {_WANTED}"
        ) from error
    if not samples:
        raise UserError(f"{option}: has no samples")
    if not isinstance(found, tuple | list) or len(found) != 2 or not _are_samples(*found):
        raise UserError(f"{option}: each sample must be a pair, of an input and its target")
    return found


def of_pairs(source: Source, device: str) -> Batches:
    """Return a function from step to mini-batch, for a source of pairs of tensors.

    As in lrlab's own training, a smaller batch at the end of a pass is dropped.
    """

    def fits(found: Any, first: Any) -> bool:
        check_batch(found, "data")
        return len(found[1]) >= len(first[1])

    batch = kept(source, fits)
    return lambda step: _on(batch(step), device)


def kept(source: Source, fits: Callable[[Any, Any], bool]) -> Callable[[int], Any]:
    """Return a function from step to mini-batch, which keeps them for lanes that train later.

    Args:
        fits: of a mini-batch and the first one, whether it is used.
    """
    found = [source.peek()]
    source.take()
    fits(found[0], found[0])
    at_start = 0

    def batch(step: int) -> Any:
        nonlocal at_start
        while len(found) <= step:
            if new := source.take():
                found.extend(new if fits(new[0], found[0]) else [])
            elif len(found) == at_start:  # a generator, which cannot begin again
                return found[step % len(found)]
            else:
                at_start = len(found)
        return found[step]

    return batch


def is_pair(found: Any) -> bool:
    """Return whether a mini-batch is a pair of inputs, one tensor or several, and a tensor."""
    if not (isinstance(found, tuple | list) and len(found) == 2 and _is_tensor(found[1])):
        return False
    return _is_tensor(found[0]) or _are_several(found[0], _is_tensor)


def has_several(found: Any) -> bool:
    """Return whether the inputs of a pair are several tensors."""
    return not isinstance(found[0], Tensor)


def _is_tensor(part: Any) -> bool:
    return isinstance(part, Tensor) and part.dim() > 0


def check_batch(found: Any, option: str) -> None:
    if not is_pair(found):
        raise UserError(
            f"{option}: each mini-batch must be a pair of tensors, not {described(found)}"
        )


def described(found: Any) -> str:
    if isinstance(found, tuple | list):
        kinds = [type(part).__name__ for part in itertools.islice(found, 4)]
        return f"{type(found).__name__} of {len(found)}: {', '.join(kinds)}"
    return kind(found)


def _on(pair: Samples, device: str) -> Samples:
    x = dict(pair[0]) if isinstance(pair[0], Mapping) else pair[0]
    return inputs.mapped(lambda tensor: tensor.to(device), x), pair[1].to(device)


def evenly_spaced(count: int, most: int) -> list[int]:
    """Return at most so many integers from 0 to count - 1, evenly spaced."""
    if count <= most:
        return list(range(count))
    return [round(k * (count - 1) / (most - 1)) for k in range(most)]


def indexed(
    batch: Batches, loss: Loss, parts: Sequence[Samples]
) -> tuple[Batches, Loss, list[Samples]]:
    """Replace targets by (batch,) indices, and return a loss that looks them up.

    So targets may be of any kind. An index of 32 bits refers to the held-out targets, one of 64
    bits to the latest mini-batch.
    """
    targets: Tensor | None = None
    held_out = torch.cat([y for _, y in parts]) if parts else None

    def indexed_batch(step: int) -> Samples:
        nonlocal targets
        x, targets = batch(step)
        return x, torch.arange(len(targets), device=targets.device)

    def indexed_loss(outputs: Tensor, index: Tensor) -> Tensor:
        found = held_out if index.dtype == torch.int32 else targets
        assert found is not None
        return loss(outputs, found.to(outputs.device)[index.long()])

    numbered, start = [], 0
    for x, y in parts:
        index = torch.arange(start, start + len(y), device=y.device, dtype=torch.int32)
        numbered.append((x, index))
        start += len(y)
    return indexed_batch, indexed_loss, numbered
