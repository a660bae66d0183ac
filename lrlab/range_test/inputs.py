"""What `lrlab.find.find` is given from Python: made fit for its lanes, or refused in one line."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lrlab.config import schema
from lrlab.config.schema import nearest
from lrlab.data import Dataset, own_float32
from lrlab.engine import network_checks
from lrlab.engine.constant import random_state_kept
from lrlab.engine.lanes import Samples
from lrlab.errors import UserError
from lrlab.process.plain import is_whole
from lrlab.training.on_batches import Batches, batches_of

Loss = Callable[[Tensor, Tensor], Tensor]

# --- the network ----------------------------------------------------------------------------------


def copied(network: nn.Module) -> nn.Module:
    """A copy of a network, also of one that holds results of a forward pass.

    An old ``weight_norm`` keeps its product as a plain attribute, as does a network that remembers
    its activations; torch copies no such tensor, so its number alone is copied.
    """
    memo: dict[int, Any] = {}
    for module in network.modules():
        for tensor in _tensors(vars(module).values()):
            if tensor.grad_fn is not None:
                memo[id(tensor)] = tensor.detach().clone()
    return copy.deepcopy(network, memo)


def _tensors(values: Iterable[Any], depth: int = 3) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif depth and isinstance(value, list | tuple):
            yield from _tensors(value, depth - 1)
        elif depth and isinstance(value, Mapping):
            yield from _tensors(value.values(), depth - 1)


def check_network(network: Any) -> None:
    """See to it that there is a network with something to train.

    Raises:
        UserError: there is not.
    """
    if not isinstance(network, nn.Module):
        made = isinstance(network, type) and issubclass(network, nn.Module)
        raise UserError(
            f"network: must be a torch.nn.Module, not {_kind(network)}"
            + (f"; make one, like {network.__name__}()" if made else "")
        )
    if not any(p.requires_grad for p in network.parameters()):
        raise UserError("network: has nothing to train")


def ready(network: nn.Module, batch: tuple[Tensor, Tensor], loss: Loss, seed: int) -> nn.Module:
    """A copy of the network for the lanes to train, tried once on a batch.

    Lazy layers of the copy get their shapes from the batch, drawn with the seed.

    Raises:
        UserError: the network or the loss does not work on this batch.
    """
    x, y = batch
    network_checks.check_hooks("network", network)
    own = copied(network)
    if any(is_lazy(p) for p in own.parameters()):
        torch.manual_seed(seed)
        own.train(False)
        with torch.no_grad():
            _outputs(own, x)
    trial = copied(own).to(x.device).train()
    names = {name for name, _ in trial.named_parameters()}
    tensors = network_checks.places(trial)
    outputs = _outputs(trial, x)
    network_checks.check_places("network", tensors, network_checks.places(trial))
    network_checks.check_made("network", names, trial)
    _check_loss(outputs, y, loss)
    network_checks.check_loss("loss", loss, outputs, y)
    network_checks.check_stateless("network", copied(own).to(x.device), x[:2])
    return own.train(network.training)


def _outputs(network: nn.Module, x: Tensor) -> Tensor:
    try:
        outputs = network.to(x.device)(x)
    except Exception as error:
        raise UserError(
            f"network: its forward pass fails on a batch of shape {tuple(x.shape)}, {x.dtype}: "
            f"{_line(error)}"
        ) from error
    if not isinstance(outputs, Tensor):
        raise UserError(
            f"network: its forward pass returns {_kind(outputs)}; return one tensor, the outputs"
        )
    return outputs


def _check_loss(outputs: Tensor, y: Tensor, loss: Loss) -> None:
    shapes = f"outputs {tuple(outputs.shape)} and targets {tuple(y.shape)}"
    if not callable(loss):
        raise UserError(
            f"loss: must be a function of outputs and targets, such as "
            f"torch.nn.functional.cross_entropy, not {_kind(loss)}"
        )
    if _broadcasts(outputs.detach(), y, loss):
        raise UserError(
            f"loss: compares each of the {shapes} with each other; give both the same shape, for "
            "example targets[:, None] or outputs.squeeze(1)"
        )
    try:
        value = loss(outputs, y)
    except Exception as error:
        raise UserError(f"loss: fails on {shapes}: {_line(error)}") from error
    if not isinstance(value, Tensor):
        raise UserError(f"loss: returns {_kind(value)}; return a tensor, the mean over the batch")
    if value.numel() != 1:
        raise UserError(
            f"loss: returns a tensor of shape {tuple(value.shape)}; return the mean over the batch"
        )
    if not value.requires_grad:
        raise UserError("loss: has no gradient; compute it of the outputs, without detach or item")
    if not math.isfinite(float(value.detach())):
        raise UserError(
            f"loss: is {float(value.detach()):g} before training; look for such numbers in the "
            "data and in the network's weights"
        )


def _broadcasts(outputs: Tensor, y: Tensor, loss: Loss) -> bool:
    """Whether a loss of (n, 1) and (n,) pairs each output with each target.

    Then it does not matter which target belongs to which output.
    """
    shapes = sorted((tuple(outputs.shape), tuple(y.shape)), key=len)
    if len(y) < 2 or shapes[1] != (*shapes[0], 1) or bool((y == y.flatten()[0]).all()):
        return False
    order = torch.argsort(y.flatten())  # targets that rise, so that turning them round moves most
    y = y[order]
    drawn = torch.linspace(0.1, 0.9, len(y), dtype=outputs.dtype, device=outputs.device)
    drawn = drawn.view(outputs.shape)
    try:
        import warnings

        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch's own word on broadcasting
            one, other = float(loss(drawn, y)), float(loss(drawn, y.flip(0)))
    except Exception:
        return False  # what is wrong is said where it is called
    return math.isclose(one, other, rel_tol=1e-5)


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


# --- the optimizer --------------------------------------------------------------------------------


def optimizer_config(optimizer: Any) -> dict[str, Any]:
    """A name, a torch class, a partial of one, or a config, as a config without lr.

    Raises:
        UserError: it is none of these.
    """
    if optimizer is None:
        return {"_target_": "torch.optim.SGD"}
    if isinstance(optimizer, str):
        return _named(optimizer)
    if isinstance(optimizer, Mapping):
        if "_target_" not in optimizer:
            raise UserError("optimizer: a mapping needs _target_, for example torch.optim.Adam")
        return {key: value for key, value in optimizer.items() if key != "lr"}
    settings: dict[str, Any] = {}
    while isinstance(optimizer, functools.partial):
        if optimizer.args:
            raise UserError("optimizer: name the settings of the partial, like momentum=0.9")
        settings = {**optimizer.keywords, **settings}
        optimizer = optimizer.func
    if isinstance(optimizer, torch.optim.Optimizer):
        name = type(optimizer).__name__
        raise UserError(
            f"optimizer: is a {name} that holds a network's parameters already; give its class, "
            f"torch.optim.{name}, or functools.partial of it with settings"
        )
    if not (isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)):
        raise UserError(
            f"optimizer={optimizer}: must be a name such as adam, a class such as torch.optim.SGD, "
            "a functools.partial of one, or a mapping with _target_"
        )
    settings.pop("lr", None)
    return {"_target_": f"{optimizer.__module__}.{optimizer.__qualname__}", **settings}


def _named(name: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    files = {path.stem: path for path in sorted(schema.folder("conf").glob("optimizer/*.yaml"))}
    if name not in files:
        raise UserError(
            f"optimizer={name}: no such optimizer{nearest(name, files)}; "
            f"choose from {', '.join(files)}, or give a class such as torch.optim.Adam"
        )
    found = OmegaConf.to_container(OmegaConf.load(files[name]))
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items() if key != "lr"}


# --- the data -------------------------------------------------------------------------------------

_WANTED = "two tensors, a TensorDataset, or a DataLoader, which gives mini-batches as pairs"


def batches(data: Any, batch_size: int, seed: int, device: str) -> Batches:
    """Step to mini-batch, of anything that `lrlab.find.find` takes as data.

    Raises:
        UserError: the data cannot be trained on.
    """
    if isinstance(data, Dataset):
        data = (data.train_x, data.train_y)
    pair = _pair(data, "data")
    if pair is not None:
        x, y = pair
        if not is_whole(batch_size, 1) or batch_size > len(x):
            raise UserError(f"batch_size={batch_size}: must be from 1 to the {len(x)} samples")
        return batches_of(x.to(device), y.to(device), seed, batch_size)
    return _kept(data, device)


def _pair(data: Any, option: str, most: int | None = None) -> tuple[Tensor, Tensor] | None:
    """Samples and targets that are there as a whole; None: data gives mini-batches.

    Args:
        option: what data is called in an error.
        most: how many samples to read of those that are read one by one, evenly spaced; None: all.
    """
    if isinstance(data, torch.utils.data.TensorDataset):
        data = data.tensors
        if len(data) != 2:
            raise UserError(f"{option}: a TensorDataset of {len(data)} tensors; must be of two")
    elif isinstance(data, torch.utils.data.Dataset) and hasattr(data, "__len__"):
        data = _collated(data, option, most)
    if isinstance(data, tuple | list) and len(data) == 2 and all(map(_is_array, data)):
        x, y = (_tensor(part, option, key) for part, key in zip(data, "xy", strict=True))
        if len(x) != len(y):
            raise UserError(
                f"{option}: {len(x)} samples and {len(y)} targets; need as many of each"
            )
        if not len(x):
            raise UserError(f"{option}: has no samples")
        return x, y
    if isinstance(data, Tensor | str | bytes | Mapping) or not isinstance(data, Iterable):
        raise UserError(f"{option}: must be {_WANTED}, not {_kind(data)}")
    return None


def _is_array(part: Any) -> bool:
    import numpy as np

    return (isinstance(part, Tensor) and part.dim() > 0) or (
        isinstance(part, np.ndarray) and part.ndim > 0 and part.dtype.kind in "fiub"
    )


def _tensor(part: Any, option: str, key: str) -> Tensor:
    """A tensor as it is; an array with the types that torch's networks and losses take."""
    if isinstance(part, Tensor):
        return part
    found = torch.from_numpy(part.copy())
    if not found.is_floating_point():
        return found.long()
    if words := own_float32.lost(found, own_float32.named(None, key, found.ndim)):
        raise UserError(f"{option}: {words}; give ({key} - {key}.mean(0)) / {key}.std(0)")
    return found.float()


def _collated(data: Any, option: str, most: int | None) -> Any:
    """Samples of a data set that is read one by one, stacked as a DataLoader stacks them."""
    try:
        samples = [data[i] for i in _evenly(len(data), most or len(data))]
        found = torch.utils.data.default_collate(samples) if samples else ()
    except Exception as error:
        raise UserError(
            f"{option}: its samples do not make a batch: {_line(error)}; give {_WANTED}"
        ) from error
    if not samples:
        raise UserError(f"{option}: has no samples")
    if not isinstance(found, tuple | list) or len(found) != 2 or not all(map(_is_array, found)):
        raise UserError(f"{option}: each sample must be a pair, of an input and its target")
    return found


def _kept(data: Iterable[Any], device: str) -> Batches:
    """Step to mini-batch; kept, for lanes that do not fit in at once see them again.

    A smaller batch at the end of a pass is dropped, as in lrlab's own training.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    source, at_start = iter(data), 0

    def batch(step: int) -> tuple[Tensor, Tensor]:
        nonlocal source, at_start
        while len(kept) <= step:
            found = next(source, None)
            if found is None:
                if not kept:
                    raise UserError("data: gives no mini-batch")
                if len(kept) == at_start:  # a generator is given once, and cannot begin again
                    return _on(kept[step % len(kept)], device)
                source, at_start = iter(data), len(kept)
                continue
            _check_batch(found, "data")
            if not kept or len(found[0]) >= len(kept[0][0]):
                kept.append((found[0], found[1]))
        return _on(kept[step], device)

    return batch


def _check_batch(found: Any, option: str) -> None:
    pair = isinstance(found, tuple | list) and len(found) == 2
    if not pair or not all(isinstance(part, Tensor) and part.dim() for part in found):
        raise UserError(
            f"{option}: each mini-batch must be a pair of tensors, not {_described(found)}"
        )


def _described(found: Any) -> str:
    if isinstance(found, tuple | list):
        kinds = [type(part).__name__ for part in itertools.islice(found, 4)]
        return f"{type(found).__name__} of {len(found)}: {', '.join(kinds)}"
    return _kind(found)


def _on(pair: tuple[Tensor, Tensor], device: str) -> tuple[Tensor, Tensor]:
    return pair[0].to(device), pair[1].to(device)


# --- the held-out data ----------------------------------------------------------------------------

PARTS = 5  # of equal length, whose losses say how much is left to chance
MOST, LEAST = 500, 100  # samples
_MOST_READ = 100_000  # samples of what gives mini-batches, which may never end


def held_out(
    val: Any, data: Any, network: nn.Module, loss: Loss, most: int, device: str
) -> tuple[list[Samples], str]:
    """The held-out samples to evaluate on, in parts, and why there are none.

    Args:
        val: as data of `lrlab.find.find`; None: what a `lrlab.data.Dataset` holds out itself.
        data: what is trained on.
        network: ready to be trained; it is tried on the samples.
        most: how many samples at most.

    Raises:
        UserError: the network or the loss does not work on them.
    """
    if val is None:
        if not isinstance(data, Dataset):
            return [], "no held-out samples were given (val)"
        if not len(data.val_y):
            return [], "the data has no held-out part"
        val = data
    if val is data and isinstance(val, Iterator):
        raise UserError("val: is the iterator that data is; give samples that are held out")
    if isinstance(val, Dataset):
        val = (val.val_x, val.val_y)
    pair = _pair(val, "val", most) or _thinned(val, most)
    parts = [(x.to(device), y.to(device)) for x, y in in_parts(*pair, most)]
    own = copied(network).to(device).eval()
    with torch.no_grad():
        for x, y in parts:
            _check_held_out(own, x, y, loss)
    return parts, ""


def most_samples(batch_size: int, steps: int) -> int:
    """How many held-out samples to evaluate on, so that it takes at most a quarter of the time.

    An evaluated sample takes about half of the time of one that is trained on.
    """
    return min(MOST, max(LEAST, batch_size * steps // 18))


def in_parts(x: Tensor, y: Tensor, most: int) -> list[Samples]:
    """Samples at evenly spaced places, at most so many, dealt out to parts of equal length."""
    places = torch.tensor(_evenly(len(y), most), device=x.device)
    count = min(PARTS, len(places))
    size = len(places) // count
    chosen = [places[k::count][:size] for k in range(count)]
    return [(x[index], y[index.to(y.device)]) for index in chosen]


def _evenly(count: int, most: int) -> list[int]:
    """Places from 0 to count - 1, at most so many, all alike far from each other."""
    if count <= most:
        return list(range(count))
    return [round(k * (count - 1) / (most - 1)) for k in range(most)]


def _thinned(data: Iterable[Any], most: int) -> tuple[Tensor, Tensor]:
    """Samples out of mini-batches, evenly spaced; never more than 2·most are kept."""
    kept: list[tuple[Tensor, Tensor]] = []
    apart, read = 1, 0
    for found in data:
        _check_batch(found, "val")
        x, y = found
        if len(x) != len(y):
            raise UserError(f"val: {len(x)} samples and {len(y)} targets; need as many of each")
        kept += [(x[i].clone(), y[i].clone()) for i in range(-read % apart, len(y), apart)]
        read += len(y)
        while len(kept) > 2 * most:
            kept, apart = kept[::2], 2 * apart
        if read >= _MOST_READ:
            break
    if not kept:
        raise UserError("val: gives no mini-batch")
    try:
        return torch.stack([x for x, _ in kept]), torch.stack([y for _, y in kept])
    except RuntimeError as error:
        raise UserError(f"val: its samples do not make a batch: {_line(error)}") from error


def _check_held_out(network: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> None:
    shapes = f"samples {tuple(x.shape)}, {x.dtype}, and targets {tuple(y.shape)}, {y.dtype}"
    try:
        outputs = network(x)
    except Exception as error:
        raise UserError(
            f"val: the network's forward pass fails on {shapes}: {_line(error)}"
        ) from error
    if not isinstance(outputs, Tensor):
        raise UserError(
            f"val: the network in eval mode returns {_kind(outputs)}; return one tensor"
        )
    if _broadcasts(outputs, y, loss):
        raise UserError(f"val: the loss compares each output with each target of {shapes}")
    try:
        value = float(loss(outputs, y))
    except Exception as error:
        raise UserError(f"val: the loss fails on {shapes}: {_line(error)}") from error
    if not math.isfinite(value):
        raise UserError(
            f"val: the loss is {value:g} before training; look for such numbers in the samples"
        )


# --- for the lanes --------------------------------------------------------------------------------


@contextmanager
def randomness_kept(device: str, data: Any) -> Generator[None, None, None]:
    """Afterwards all random number generators are where they were, a data loader's own as well."""
    cuda = [torch.device(device)] if device.startswith("cuda") else []
    parts = [data, *(getattr(data, name, None) for name in ("sampler", "batch_sampler"))]
    own = [getattr(part, "generator", None) for part in parts]
    states = [(g, g.get_state()) for g in own if isinstance(g, torch.Generator)]
    try:
        with random_state_kept(cuda):
            yield
    finally:
        for generator, state in states:
            generator.set_state(state)


def indexed(
    batch: Batches, loss: Loss, parts: Sequence[Samples]
) -> tuple[Batches, Loss, list[Samples]]:
    """Samples whose targets are (batch,) numbers, and a loss that looks up what they are.

    Lanes take targets with more dimensions for those of several lanes. A number of 32 bits is that
    of a held-out target, one of 64 that of the mini-batch that was asked for last.
    """
    targets: Tensor | None = None
    held_out = torch.cat([y for _, y in parts]) if parts else None

    def indexed_batch(step: int) -> tuple[Tensor, Tensor]:
        nonlocal targets
        x, targets = batch(step)
        return x, torch.arange(len(targets), device=targets.device)

    def indexed_loss(outputs: Tensor, index: Tensor) -> Tensor:
        found = held_out if index.dtype == torch.int32 else targets
        assert found is not None
        return loss(outputs, found.to(outputs.device)[index.long()])

    first = itertools.accumulate((len(y) for _, y in parts), initial=0)
    numbers = [
        torch.arange(start, start + len(y), device=y.device, dtype=torch.int32)
        for start, (_, y) in zip(first, parts, strict=False)
    ]
    return indexed_batch, indexed_loss, [(x, n) for (x, _), n in zip(parts, numbers, strict=True)]
