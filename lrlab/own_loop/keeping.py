"""Keep what an evaluation of the loss may change, and put it back to the bit."""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter as versions_of

from lrlab.data.random_state import saved
from lrlab.engine.forms import DICTS, OF_MODULES, PLAIN
from lrlab.errors import UserError


@contextlib.contextmanager
def kept(
    model: nn.Module, params: Sequence[Tensor], values: Sequence[Tensor]
) -> Generator[Callable[[], None], None, None]:
    """Restore parameters, and all that ``Kept`` holds, when the block ends.

    Gradients are not touched: inside the block use ``torch.autograd.grad``, or set ``.grad`` aside.
    A graph that was built before the block can still be used after it.

    Args:
        values: of the parameters, as they are to be afterwards, and are now.

    Yields:
        A function that restores all but the parameters at any time.

    Raises:
        UserError: the block changed parameters of the model that are not among these.
    """
    state = Kept(model, params)
    with versions_of(tuple(params)):
        try:
            yield state.put_back
        finally:
            with torch.no_grad():
                torch._foreach_copy_(list(params), list(values))  # type: ignore[reportPrivateImportUsage]
            state.put_back()
            torch.clear_autocast_cache()  # it holds casts of other weights
    state.check_others()


class Kept:
    """The state of a model: buffers, training modes, attributes, and the random states.

    Attributes are followed into lists, tuples, dicts, sets, deques, modules, arrays and random
    generators; other objects stay as they are.
    """

    def __init__(self, model: nn.Module, params: Sequence[Tensor]) -> None:
        self._seen: dict[int, Any] = {id(p): p for p in params}
        self._others: list[tuple[Tensor, int]] = []
        self._tensors: list[Tensor] = []
        self._parts: list[Callable[[], Any]] = [saved(gpus(params))]
        self._add(model)
        self._values = [t.detach().clone() for t in self._tensors]
        self._versions = versions_of(tuple(self._tensors))

    def put_back(self) -> None:
        for part in self._parts:
            part()
        if self._tensors:
            with torch.no_grad(), self._versions:
                torch._foreach_copy_(self._tensors, self._values)  # type: ignore[reportPrivateImportUsage]

    def check_others(self) -> None:
        if any(p._version != version for p, version in self._others):
            raise UserError(
                "loss: it changes parameters of the model that this optimizer does not own, which "
                "a probe cannot put back; give a function that only computes the loss"
            )

    def _add(self, value: Any) -> None:
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        inner: Any = ()
        if isinstance(value, Tensor):
            self._add_tensor(value)
        elif isinstance(value, nn.Module):
            own = dict(vars(value))
            self._parts.append(partial(_set_attributes, value, own))
            inner = [v for name, v in own.items() if name not in OF_MODULES or name == "_buffers"]
            inner += [*own["_parameters"].values(), *own["_modules"].values()]
        elif type(value) in (*DICTS.values(), list, set, deque):
            content = dict(value) if isinstance(value, dict) else list(value)
            self._parts.append(partial(_refill, value, content))
            inner = content.values() if isinstance(content, dict) else content
        elif isinstance(value, tuple):
            inner = value
        elif isinstance(value, torch.Generator | np.random.RandomState):
            self._parts.append(partial(value.set_state, value.get_state()))
        elif isinstance(value, random.Random):
            self._parts.append(partial(value.setstate, value.getstate()))
        elif isinstance(value, np.random.Generator):
            bits = value.bit_generator
            self._parts.append(partial(setattr, bits, "state", bits.state))
        elif isinstance(value, np.ndarray) and value.flags.writeable:
            self._parts.append(partial(np.copyto, value, value.copy()))
        for each in inner:
            if type(each) not in PLAIN:
                self._add(each)

    def _add_tensor(self, tensor: Tensor) -> None:
        if isinstance(tensor, nn.Parameter):
            self._others.append((tensor, tensor._version))
        elif not (tensor.is_inference() or torch._debug_has_internal_overlap(tensor) == 1):  # type: ignore[reportPrivateImportUsage]
            self._tensors.append(tensor)  # none of the others can be written to


def _set_attributes(module: nn.Module, own: dict[str, Any]) -> None:
    now = vars(module)
    if now.keys() != own.keys():
        for name in [name for name in now if name not in own]:
            del now[name]
    now.update(own)


def _refill(container: Any, content: Any) -> None:
    container.clear()
    if content:
        (container.update if hasattr(container, "update") else container.extend)(content)


def evaluated(loss: Callable[..., Tensor], batch: Sequence[Any], name: str = "loss") -> Tensor:
    """Return what a loss gives; ``name`` is the argument's in errors.

    Raises:
        UserError: it is no loss.
    """
    found = loss(*batch)
    if not isinstance(found, Tensor) or not found.is_floating_point():
        kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
        raise UserError(f"{name}: must return a tensor of floating point, not {kind}")
    if found.dim() > 1:
        shape = tuple(found.shape)
        raise UserError(f"{name}: must return one number, or one for each sample, not {shape}")
    return found


def gpus(params: Iterable[Tensor]) -> list[torch.device]:
    """Return the CUDA devices of these tensors, whose random states an evaluation may change."""
    return list({p.device: None for p in params if p.device.type == "cuda"})
