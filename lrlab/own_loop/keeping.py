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
def kept(model: nn.Module, params: Sequence[Tensor]) -> Generator[Callable[[], None], None, None]:
    """Restore parameters, buffers, training modes and random states when the block ends.

    So are the numbers, tensors, lists, dicts and torch generators that modules keep as attributes.
    Gradients are not touched: inside the block use ``torch.autograd.grad``, or set ``.grad`` aside.

    Yields:
        A function that restores all but the parameters and the random states at any time.
    """
    values = [p.detach().clone() for p in params]
    put_back = [_module_kept(module) for module in model.modules()]

    def reset() -> None:
        for each in put_back:
            each()

    with random_state_kept(gpus(params)):
        try:
            yield reset
        finally:
            with torch.no_grad():
                for param, value in zip(params, values, strict=True):
                    param.copy_(value)
            reset()


def _module_kept(module: nn.Module) -> Callable[[], None]:
    """Return a function that restores a module's own buffers, mode and attributes."""
    buffers = dict(module._buffers)
    own = {name: value for name, value in vars(module).items() if name not in OF_MODULES}
    tensors = [t for t in (*buffers.values(), *own.values()) if isinstance(t, Tensor)]
    copies = [(t, t.detach().clone()) for t in tensors]
    lists = [(each, list(each)) for each in own.values() if isinstance(each, list)]
    dicts = [(each, dict(each)) for each in own.values() if isinstance(each, dict)]
    drawn = [(g, g.get_state()) for g in own.values() if isinstance(g, torch.Generator)]
    mode = module.training

    def put_back() -> None:
        for name in [name for name in vars(module) if name not in (*OF_MODULES, *own)]:
            del vars(module)[name]
        vars(module).update(own)
        module._buffers.clear()
        module._buffers.update(buffers)
        module.training = mode
        with torch.no_grad():
            for tensor, value in copies:
                if not same(tensor, value):  # writing would disturb a graph that still needs it
                    tensor.copy_(value)
        for mine, values in lists:
            mine[:] = values
        for mine, values in dicts:
            mine.clear()
            mine.update(values)
        for generator, state in drawn:
            generator.set_state(state)

    return put_back


def same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors hold the same numbers; NaN equals NaN."""
    if one.shape != other.shape or one.is_sparse or one.layout != torch.strided:
        return False
    if not (one.is_floating_point() or one.is_complex()):
        return torch.equal(one, other)
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


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
