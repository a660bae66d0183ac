"""Turn Python values into forms, tensors and plain numbers, to save and compare them.

A form is None, a bool, an int, a float, a text, or a list with the name of its kind first. A value
without a form that could be put back has the kind ``opaque``.
"""

from __future__ import annotations

import enum
import functools
import random
import types
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Form = Any

PLAIN = (type(None), bool, int, float, str)
SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
DICTS = {"dict": dict, "OrderedDict": OrderedDict, "Counter": Counter, "defaultdict": defaultdict}
CONSTANT = (
    *(type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, property),
)
OF_MODULES = frozenset(vars(nn.Module()))  # torch's own, such as _parameters and training


class Unfit(Exception):
    """A saved form does not belong to its target object."""


def form(value: Any) -> Form:
    """Return the form of one value."""
    return form_of(value, {})


def form_of(value: Any, seen: dict[int, Form]) -> Form:
    """Return the form of a value; ``seen`` holds, by id, the form of each object around it."""
    kind = type(value)
    if kind in PLAIN:
        return ["int", str(value)] if kind is int and abs(value) >= 2**62 else value
    if kind is complex:
        return ["complex", value.real, value.imag]
    if kind in (bytes, bytearray):
        return [kind.__name__, _bytes(value)]
    if isinstance(value, Tensor):
        return of_tensor(value)
    if isinstance(value, CONSTANT):
        return ["constant", getattr(value, "__qualname__", None) or str(value)]
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = ["seen", len(seen)]
    try:
        return _of_object(value, kind, seen)
    except Exception:  # an object of the user's may raise on access
        return ["opaque", kind.__qualname__, None]
    finally:
        del seen[id(value)]


def _of_object(value: Any, kind: Any, seen: dict[int, Form]) -> Form:
    if kind.__name__ in SEQUENCES and kind is SEQUENCES[kind.__name__]:
        forms = [form_of(each, seen) for each in value]
        if "set" in kind.__name__:
            forms.sort(key=repr)
        return [kind.__name__, forms]
    if kind is deque:
        return ["deque", value.maxlen, [form_of(each, seen) for each in value]]
    if kind.__name__ in DICTS and kind is DICTS[kind.__name__]:
        return [kind.__name__, [[form_of(k, seen), form_of(v, seen)] for k, v in value.items()]]
    if kind is np.ndarray or issubclass(kind, np.generic):
        if value.dtype.hasobject:
            return ["opaque", "array", form_of(value.tolist(), seen)]
        name = "array" if kind is np.ndarray else "scalar"
        return [name, value.dtype.str, list(value.shape), _bytes(value.tobytes())]
    if isinstance(value, torch.Generator):
        return ["torch.Generator", str(value.device), value.get_state().clone()]
    if kind is random.Random:
        return ["random.Random", form_of(value.getstate(), seen)]
    if kind is np.random.Generator:
        bits = value.bit_generator
        return ["numpy.Generator", type(bits).__name__, form_of(bits.state, seen)]
    if kind is np.random.RandomState:
        return ["numpy.RandomState", form_of(value.get_state(legacy=False), seen)]
    if isinstance(value, types.GeneratorType):
        place = -1 if value.gi_frame is None else value.gi_frame.f_lasti
        return ["opaque", "generator", [place, form_of(dict(_locals(value)), seen)]]
    if isinstance(value, enum.Enum):
        return ["constant", str(value)]
    if kind is functools.partial:
        given = [form_of(list(value.args), seen), form_of(dict(value.keywords), seen)]
        return ["opaque", "partial", given]
    if not _of_c(kind) and (hasattr(value, "__dict__") or hasattr(kind, "__slots__")):
        parts = [[name, form_of(each, seen)] for name, each in _fields(value).items()]
        return ["object", kind.__qualname__, parts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of iterators that later Pythons no longer copy
        reduced = value.__reduce_ex__(2)
    return ["opaque", kind.__qualname__, [form_of(_read(each), seen) for each in reduced[1:]]]


def _read(value: Any) -> Any:
    """Return as a list the items that an object yields through iterators."""
    return list(value) if hasattr(value, "__next__") else value


def _of_c(kind: type) -> bool:
    """Return whether it derives from a class in C, which may hold more than its attributes show."""
    heap = 1 << 9  # Py_TPFLAGS_HEAPTYPE
    bases = [base for base in kind.__mro__ if base is not object]
    return any(not base.__flags__ & heap or base is random.Random for base in bases)


def _locals(generator: types.GeneratorType[Any, Any, Any]) -> Mapping[str, Any]:
    return {} if generator.gi_frame is None else generator.gi_frame.f_locals


def _fields(value: Any) -> dict[str, Any]:
    """Return an object's own attributes, in a dict or in slots."""
    slots = [s for base in type(value).__mro__ for s in _slots(base)]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    hidden = OF_MODULES if isinstance(value, nn.Module) else frozenset[str]()
    own = getattr(value, "__dict__", {})
    return found | {k: v for k, v in own.items() if k not in hidden or k == "_buffers"}


def _slots(base: type) -> Sequence[str]:
    slots = vars(base).get("__slots__", ())
    slots = (slots,) if isinstance(slots, str) else tuple(slots)
    return [slot for slot in slots if slot not in ("__dict__", "__weakref__")]


def of_tensor(tensor: Tensor) -> Form:
    """Return the form of a tensor; a parameter's says only that it is one."""
    functorch: Any = getattr(torch._C, "_functorch")  # noqa: B009
    if functorch.is_functorch_wrapped_tensor(tensor):
        return ["leaked"]  # out of vmap, where nothing of it can be read any more
    if isinstance(tensor, nn.Parameter):
        return ["parameter"]
    return ["tensor", tensor.detach().cpu().clone(), str(tensor.device)]


def _bytes(value: bytes | bytearray) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytes(value), np.uint8).copy())


def equal(one: Form, other: Form) -> bool:
    """Return whether two forms are the same to the bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        nan = (one != one) & (other != other)
        return bool(((one == other) | nan).all())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if type(one) is not type(other):
        return False
    return bool(one == other) or (isinstance(one, float) and one != one and other != other)


def opaque(form: Form) -> bool:
    """Return whether a form, or one inside it, cannot be put back."""
    if not isinstance(form, list):
        return False
    return bool(form and form[0] == "opaque") or any(map(opaque, form))
