"""Check a network, a loss and an optimizer given in Python, and prepare them for lanes."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lrlab.config import schema
from lrlab.config.schema import nearest
from lrlab.data import inputs
from lrlab.data.inputs import Inputs
from lrlab.engine import network_checks
from lrlab.engine.lanes.chunks import Samples
from lrlab.errors import UserError

Loss = Callable[[Tensor, Tensor], Tensor]

_HINT = "; name the first parameter model if it takes (model, batch)"


def copied(network: nn.Module) -> nn.Module:
    """Return a copy of a network, even if it holds results of a forward pass.

    torch refuses to copy such tensors, which an old ``weight_norm`` and networks that store their
    activations keep as plain attributes. Only their values are copied.
    """
    memo: dict[int, Any] = {}
    for module in network.modules():
        for tensor in _tensors(vars(module).values()):
            if tensor.grad_fn is not None:
                memo[id(tensor)] = tensor.detach().clone()
    return copy.deepcopy(network, memo)


def keep_evaluating(own: nn.Module) -> None:
    """Let the layers stay in eval mode that are so in a network in training mode.

    Such as frozen batch norms in a loop of the user's. Switching the whole passes them by.
    """
    for part in own.modules() if own.training else ():
        if not part.training:
            vars(part)["train"] = _stay


def _stay(mode: bool = True) -> None:
    pass


def _tensors(values: Iterable[Any], depth: int = 3) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif depth and isinstance(value, list | tuple):
            yield from _tensors(value, depth - 1)
        elif depth and isinstance(value, Mapping):
            yield from _tensors(value.values(), depth - 1)


def check_network(network: Any) -> None:
    """Raise a UserError unless this is a network with something to train."""
    if not isinstance(network, nn.Module):
        made = isinstance(network, type) and issubclass(network, nn.Module)
        raise UserError(
            f"network: must be a torch.nn.Module, not {kind(network)}"
            + (f"; make one, like {network.__name__}()" if made else "")
        )
    if not any(p.requires_grad for p in network.parameters()):
        raise UserError("network: has nothing to train")
    if any(p.is_meta for p in network.parameters()):
        raise UserError(
            "network: has parameters on the meta device, which hold no numbers; make it on another "
            'device, or call to_empty(device="cpu") and initialise it'
        )


def ready(network: nn.Module, batch: Samples, loss: Loss, seed: int) -> nn.Module:
    """Return a copy of the network for the lanes to train, tried once on a batch.

    Lazy layers of the copy get their shapes from the batch, drawn with the seed.

    Raises:
        UserError: the network or the loss does not work on this batch.
    """
    x, y = batch
    network_checks.check_hooks("network", network)
    if not isinstance(x, Tensor) and (words := inputs.misfit(network.forward, x)):
        raise UserError(f"network: {words}")
    own = copied(network)
    keep_evaluating(own)
    if any(is_lazy(p) for p in own.parameters()):
        torch.manual_seed(seed)
        own.train(False)
        with torch.no_grad():
            _outputs(own, x)
    trial = copied(own).to(y.device).train()
    names = {name for name, _ in trial.named_parameters()}
    tensors = network_checks.places(trial)
    outputs = _outputs(trial, x)
    network_checks.check_places("network", tensors, network_checks.places(trial))
    network_checks.check_made("network", names, trial)
    _check_loss(outputs, y, loss)
    network_checks.check_loss("loss", loss, outputs, y)
    few = inputs.mapped(lambda tensor: tensor[:2], x)
    network_checks.check_stateless("network", copied(own).to(y.device), few)
    return own.train(network.training)


def of_batch(x: Inputs) -> str:
    """Return shape and type of a batch in words."""
    if isinstance(x, Tensor):
        return f"{tuple(x.shape)}, {x.dtype}"
    return inputs.shapes(x)


def _outputs(network: nn.Module, x: Inputs) -> Tensor:
    try:
        outputs = inputs.called(network.to(inputs.tensors(x)[0].device), x)
    except Exception as error:
        raise UserError(
            f"network: its forward pass fails on a batch of shape {of_batch(x)}: "
            f"{error_line(error)}"
            + ("; or give a loss of (model, batch)" if isinstance(error, TypeError) else "")
        ) from error
    if not isinstance(outputs, Tensor):
        raise UserError(
            f"network: its forward pass returns {kind(outputs)}; return one tensor, or give a loss "
            "of (model, batch)"
        )
    return outputs


def _check_loss(outputs: Tensor, y: Tensor, loss: Loss) -> None:
    shapes = f"outputs {tuple(outputs.shape)} and targets {tuple(y.shape)}"
    if not callable(loss):
        raise UserError(
            f"loss: must be a function of outputs and targets, such as "
            f"torch.nn.functional.cross_entropy, not {kind(loss)}"
        )
    if broadcasts(outputs.detach(), y, loss):
        raise UserError(
            f"loss: broadcasts {shapes}, so each output meets each target; give both the same "
            "shape, for example targets[:, None] or outputs.squeeze(1)"
        )
    try:
        value = loss(outputs, y)
    except Exception as error:
        hint = _HINT if isinstance(error, TypeError | AttributeError) else ""
        raise UserError(f"loss: fails on {shapes}: {error_line(error)}{hint}") from error
    check_value(value)


def check_value(value: Any) -> None:
    """Refuse what a loss returns, if it is no mean over the batch that can be trained on."""
    if not isinstance(value, Tensor):
        raise UserError(f"loss: returns {kind(value)}; return a tensor, the mean over the batch")
    if value.numel() != 1:
        raise UserError(
            f"loss: returns a tensor of shape {tuple(value.shape)}; return the mean over the batch"
        )
    if not value.requires_grad:
        raise UserError(
            "loss: has no gradient; compute it from the outputs, without detach or item"
        )
    if not math.isfinite(float(value.detach())):
        raise UserError(
            f"loss: is {float(value.detach()):g} before training; look for inf and nan in the "
            "data and in the network's weights"
        )


def broadcasts(outputs: Tensor, y: Tensor, loss: Loss) -> bool:
    """Return whether a loss of (n, 1) and (n,) pairs each output with each target.

    Such a loss does not depend on which target belongs to which output.
    """
    shapes = sorted((tuple(outputs.shape), tuple(y.shape)), key=len)
    if len(y) < 2 or shapes[1] != (*shapes[0], 1) or bool((y == y.flatten()[0]).all()):
        return False
    order = torch.argsort(y.flatten())  # rising targets, so that reversing them changes most
    y = y[order]
    drawn = torch.linspace(0.1, 0.9, len(y), dtype=outputs.dtype, device=outputs.device)
    drawn = drawn.view(outputs.shape)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch warns of broadcasting
            one, other = float(loss(drawn, y)), float(loss(drawn, y.flip(0)))
    except Exception:
        return False  # errors are reported where it is called
    return math.isclose(one, other, rel_tol=1e-5)


def kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def error_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def optimizer_config(optimizer: Any) -> dict[str, Any]:
    """Return a name, a torch class, a partial of one, or a config, as a config without lr.

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
            raise UserError(
                "optimizer: a partial must have keyword arguments only, for example momentum=0.9"
            )
        settings = {**optimizer.keywords, **settings}
        optimizer = optimizer.func
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
