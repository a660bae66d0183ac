"""Turn a form back into its value, in place where an object of its kind exists."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrlab.engine.forms import (
    DICTS,
    OF_MODULES,
    PLAIN,
    SEQUENCES,
    Form,
    Unfit,
)


def value_of(form: Form, existing: Any) -> Any:
    """Return the value of a form; if an object of its kind exists, that object with its state.

    It works in place, so that modules still share their common objects.
    """
    if type(form) in PLAIN:
        return form
    if not isinstance(form, list) or not form:
        raise Unfit("no form")
    kind, *rest = form
    if kind in ("part", "constant", "parameter", "leaked", "seen"):
        return existing
    if kind == "int":
        return int(rest[0])
    if kind == "complex":
        return complex(rest[0], rest[1])
    if kind in ("bytes", "bytearray"):
        return (bytes if kind == "bytes" else bytearray)(rest[0].numpy().tobytes())
    if kind == "tensor":
        return _tensor_value(rest[0], rest[1], existing)
    if kind in SEQUENCES:
        old = list(existing) if isinstance(existing, list | tuple) else []
        old += [None] * (len(rest[0]) - len(old))
        values = [value_of(each, was) for each, was in zip(rest[0], old, strict=False)]
        if kind == "list" and type(existing) is list:
            existing[:] = values
            return existing
        return SEQUENCES[kind](values)
    if kind == "deque":
        return deque((value_of(each, None) for each in rest[1]), maxlen=rest[0])
    if kind in DICTS:
        return _dict_value(kind, rest[0], existing)
    if kind in ("array", "scalar"):
        found = np.frombuffer(rest[2].numpy().tobytes(), np.dtype(rest[0])).reshape(rest[1])
        return found.copy() if kind == "array" else found[()]
    if kind == "torch.Generator":
        made = existing if isinstance(existing, torch.Generator) else torch.Generator(rest[0])
        made.set_state(rest[1])
        return made
    if kind == "random.Random":
        made = existing if type(existing) is random.Random else random.Random()
        made.setstate(value_of(rest[0], None))
        return made
    if kind == "numpy.Generator":
        return _numpy_generator(rest[0], value_of(rest[1], None), existing)
    if kind == "numpy.RandomState":
        made = existing if type(existing) is np.random.RandomState else np.random.RandomState()
        made.set_state(value_of(rest[0], None))
        return made
    if kind == "object" and type(existing).__qualname__ == rest[0]:
        for name, each in rest[1]:
            if isinstance(existing, nn.Module) and name in OF_MODULES and name != "_buffers":
                raise Unfit(name)
            object.__setattr__(existing, name, value_of(each, getattr(existing, name, None)))
        return existing
    raise Unfit(str(kind))


def _tensor_value(saved_tensor: Tensor, device: str, existing: Any) -> Tensor:
    if not isinstance(existing, Tensor) or existing.requires_grad:
        return saved_tensor.clone().to(device)
    if existing.shape != saved_tensor.shape or existing.dtype != saved_tensor.dtype:
        return saved_tensor.clone().to(existing.device)
    return existing.copy_(saved_tensor)


def _dict_value(kind: str, items: Sequence[tuple[Form, Form]], existing: Any) -> Any:
    old = existing if isinstance(existing, dict) else {}
    pairs = [(value_of(k, None), v) for k, v in items]
    values = {k: value_of(v, old.get(k)) for k, v in pairs}
    if type(existing) is not DICTS[kind]:
        if kind == "defaultdict":
            raise Unfit(kind)
        return DICTS[kind](values)
    existing.clear()
    existing.update(values)
    return existing


def _numpy_generator(name: str, state: Any, existing: Any) -> np.random.Generator:
    known = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
    if type(existing) is np.random.Generator and type(existing.bit_generator).__name__ == name:
        existing.bit_generator.state = state
        return existing
    if name not in known:
        raise Unfit(name)
    made = np.random.Generator(getattr(np.random, name)())
    made.bit_generator.state = state
    return made
