"""Notice side effects of a forward pass: hooks, kept tensors, drawn numbers."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor
from torch.overrides import TorchFunctionMode


def global_state() -> tuple[Any, ...]:
    """Return the states of the global generators of Python and numpy, comparable."""
    _, keys, place, *gauss = np.random.get_state()
    return random.getstate(), np.asarray(keys).tobytes(), place, gauss


class Hooks(TorchFunctionMode):
    """Note whether a tensor is given a hook for its gradient, or asked if it has one.

    Under vmap hooks are not called, and no tensor says that it requires a gradient.

    Attributes:
        found: whether one was.
    """

    found = False
    _asked = (Tensor.requires_grad.__get__, Tensor.grad_fn.__get__)  # type: ignore[attr-defined]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.register_hook:
            self.found = True
        elif func in self._asked and is_batchedtensor(args[0]):
            asker = str(sys._getframe(1).f_globals.get("__name__"))
            self.found |= asker.partition(".")[0] not in ("torch", "lrlab")
        return func(*args, **(kwargs or {}))


def keeps_mapped(owner: Any) -> bool:
    """Return whether a network or loss has kept a tensor of all lanes, which vmap provides."""
    parts = owner.modules() if isinstance(owner, nn.Module) else [owner]
    values = (value for part in parts for value in getattr(part, "__dict__", {}).values())
    return any(isinstance(v, Tensor) and is_batchedtensor(v) for v in values)
