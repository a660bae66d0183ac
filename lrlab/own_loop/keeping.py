"""Keep what an evaluation of the loss may change, and put it back to the bit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lrlab.data.random_state import random_state_kept
from lrlab.engine.forms import OF_MODULES


@contextlib.contextmanager
def kept(model: nn.Module, params: Sequence[Tensor]) -> Generator[None, None, None]:
    """Restore parameters, buffers, training modes and random states when the block ends.

    So are the values that modules keep in Python, such as counters. Gradients are not touched:
    inside the block use ``torch.autograd.grad``, or set ``.grad`` aside.

    Args:
        model: whose buffers, modes and Python values are kept.
        params: the parameters that the block may change.
    """
    values = [p.detach().clone() for p in params]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    modes = [(module, module.training) for module in model.modules()]
    attributes = [_attributes_kept(module) for module in model.modules()]
    with random_state_kept(gpus(params)):
        try:
            yield
        finally:
            with torch.no_grad():
                for param, value in zip(params, values, strict=True):
                    param.copy_(value)
                for module, name, buffer, value in buffers:
                    buffer.copy_(value)
                    module._buffers[name] = buffer  # also where forward made a new tensor
            for module, mode in modes:
                module.training = mode
            for put_back in attributes:
                put_back()


def _attributes_kept(module: nn.Module) -> Callable[[], None]:
    """Return a function that restores what a module keeps in Python: counters, lists, tensors."""
    own = {name: value for name, value in vars(module).items() if name not in OF_MODULES}
    tensors = [(t, t.detach().clone()) for t in own.values() if isinstance(t, Tensor)]
    lists = [(each, list(each)) for each in own.values() if isinstance(each, list)]
    dicts = [(each, dict(each)) for each in own.values() if isinstance(each, dict)]

    def put_back() -> None:
        for name in [name for name in vars(module) if name not in OF_MODULES]:
            if name not in own:
                del vars(module)[name]
        vars(module).update(own)
        with torch.no_grad():
            for tensor, value in tensors:
                tensor.copy_(value)
        for mine, values in lists:
            mine[:] = values
        for mine, values in dicts:
            mine.clear()
            mine.update(values)

    return put_back


def evaluated(
    loss: Callable[..., Tensor], batch: Sequence[Any], params: Sequence[Tensor]
) -> Tensor:
    """Return what a loss gives, with the random numbers that each evaluation draws.

    Raises:
        TypeError: it is no loss.
    """
    with random_state_kept(gpus(params)):
        found = loss(*batch)
    if not isinstance(found, Tensor) or not found.is_floating_point():
        kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
        raise TypeError(f"the loss must return a tensor of floating point, not {kind}")
    return found


def gpus(params: Sequence[Tensor]) -> list[torch.device]:
    """Return the CUDA devices of these tensors, whose random states an evaluation may change."""
    return list({p.device: None for p in params if p.device.type == "cuda"})
