"""Turn Python values into forms, tensors and plain numbers, to save and compare them, and back.

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


# --- back into values -----------------------------------------------------------------------------


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
