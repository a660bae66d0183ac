"""Find state that all runs of a process share: class attributes, globals, default arguments.

A forward pass that changes it affects every other run, so that no run would have the same numbers
as alone. The search covers the classes of a network, its modules and its loss, and the files that
define them. State of other libraries is ignored.
"""

from __future__ import annotations

import random
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from lrlab.engine import forms, python_state

# Larger values are data, not counters, and comparing them would take long.
LARGEST = 10_000
_LIBRARIES = ("torch", "numpy", "builtins", "lrlab", "torchvision", "collections", "functools")
_PLAIN = (bool, int, float, complex, str, list, dict, set, tuple)


def of(*owners: Any) -> python_state.State:
    """Return the state that the owners share with others of their kind.

    Args:
        owners: a network and a loss; also a function.
    """
    found: dict[str, Any] = {}
    for kind in _kinds(owners):
        where = f"{kind.__module__}.{kind.__qualname__}"
        if isinstance(kind, type):
            values = {k: v for k, v in vars(kind).items() if not k.startswith("__")}
            found |= {f"{where}.{k}": v for k, v in values.items() if _is_state(v)}
            functions = [f for f in vars(kind).values() if isinstance(f, types.FunctionType)]
        else:
            functions = [kind]
        for function in functions:
            found |= dict(_of_function(function))
        module = vars(sys.modules.get(kind.__module__) or types.ModuleType("none"))
        names = {k: v for k, v in module.items() if not k.startswith("__") and _is_state(v)}
        found |= {f"{kind.__module__}.{k}": v for k, v in names.items()}
    return {name: forms.form(value) for name, value in found.items()}


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    where = f"{function.__module__}.{function.__qualname__}"
    for value in function.__defaults__ or ():
        if _is_state(value):
            yield f"a default of {where}", value
    for name, value in vars(function).items():
        if _is_state(value):
            yield f"{where}.{name}", value
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # it is not set yet
            continue
        if _is_state(value):
            yield f"{name} around {where}", value


def _kinds(owners: tuple[Any, ...]) -> list[Any]:
    """Return classes and functions that belong to no library."""
    found: dict[Any, None] = {}
    for owner in owners:
        while hasattr(owner, "func"):  # functools.partial
            owner = owner.func
        for part in owner.modules() if isinstance(owner, nn.Module) else [owner]:
            found |= dict.fromkeys(type(part).__mro__)
            own = [part, *getattr(part, "__dict__", {}).values()]
            found |= {f: None for f in own if isinstance(f, types.FunctionType)}
    return [kind for kind in found if kind.__module__.partition(".")[0] not in _LIBRARIES]


def _is_state(value: Any) -> bool:
    if isinstance(value, torch.Tensor | np.ndarray):
        return bool(np.prod(value.shape) <= LARGEST)
    generators = random.Random | np.random.Generator | np.random.RandomState | torch.Generator
    if isinstance(value, generators):
        return True
    if type(value) not in _PLAIN:
        return type(value).__module__ == "itertools" or isinstance(value, types.GeneratorType)
    return not hasattr(value, "__len__") or len(value) <= LARGEST
