"""What networks, losses and optimizers keep in Python: compared, saved and put back.

A network that counts its calls, or draws from a generator of its own, has state that no tensor of
its state dict holds. Here it becomes tensors and plain numbers, as all else of a checkpoint is: a
*form*. A form is None, a bool, an int, a float, a text, or a list whose first element names its
kind. Where a value has no form that could be put back, its kind is ``opaque``.
"""

from __future__ import annotations

import enum
import functools
import random
import types
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrlab.data.random_state import random_state_kept

Form = Any
State = dict[str, Form]  # "path of the module:attribute" to its form

_OF_UPDATES = 2  # sets the draws of updates apart from those of forward passes
ABSENT: list[Form] = ["absent"]
_PLAIN = (type(None), bool, int, float, str)
_SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_DICTS = {"dict": dict, "OrderedDict": OrderedDict, "Counter": Counter, "defaultdict": defaultdict}
_CONSTANT = (
    *(type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, property),
)
_OF_MODULES = frozenset(vars(nn.Module()))  # torch's own, such as _parameters and training
_OF_OPTIMIZERS = frozenset({"state", "param_groups", "defaults"})  # in its state dict


class Unfit(Exception):
    """A saved form does not belong to the object that it shall be put into."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators of torch, numpy and Python begin at a seed; then as they were."""
    with random_state_kept():
        seed_all(seed)
        yield


def seed_all(seed: int) -> None:
    """Seed the global generators of torch, numpy and Python."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def seed_quickly(*key: int) -> None:
    """As ``seed_all``, by several numbers. torch.manual_seed would take milliseconds."""
    seed = int(np.random.SeedSequence([*key, _OF_UPDATES]).generate_state(1, np.uint64)[0] >> 1)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


# --- of whole objects -----------------------------------------------------------------------------


def of(owner: Any, tensors: bool = False) -> State:
    """All that a network, a loss or an optimizer keeps in Python.

    Args:
        tensors: whether a network's parameters and buffers count too. Lanes have their own of a
            network, but not of a loss.
    """
    seen: dict[int, Form] = {id(part): ["part"] for _, part in _parts(owner)}
    found: State = {}
    for path, part in _parts(owner):
        for name, value in _attributes(part).items():
            found[f"{path}:{name}"] = _form(value, seen)
        if tensors and isinstance(part, nn.Module):
            own = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
            found |= {f"{path}={name}": _of_tensor(tensor) for name, tensor in own}
        if _has_extra(part):
            found[f"{path}!"] = _form(part.get_extra_state(), seen)
    return found


def form(value: Any) -> Form:
    """The form of one value."""
    return _form(value, {})


def changes(before: State, now: State) -> State:
    """The forms of what is another now; what is not there any more is ``ABSENT``."""
    found = {key: form for key, form in now.items() if not equal(form, before.get(key, ABSENT))}
    return found | {key: ABSENT for key in before if key not in now}


def unsaved(state: State) -> list[str]:
    """Names of what cannot be saved. A module's ``get_extra_state`` stands for its attributes."""
    covered = {key[:-1] for key, form in state.items() if key.endswith("!") and not _opaque(form)}
    return [
        _name(key)
        for key, form in state.items()
        if _opaque(form) and not (key.partition(":")[0] in covered and ":" in key)
    ]


def names(state: State) -> list[str]:
    """The attributes as one would write them: ``head.calls``."""
    return [_name(key) for key in state]


def _name(key: str) -> str:
    if key.endswith("!"):
        return f"{key[:-1]}.get_extra_state()".lstrip(".")
    return key.replace(":", ".").replace("=", ".").lstrip(".")


def extra(owner: nn.Module) -> dict[str, Any]:
    """What ``get_extra_state`` returns, by its names in a state dict, where it can be saved."""
    found = {}
    for path, part in _parts(owner):
        if _has_extra(part) and not _opaque(_form(value := part.get_extra_state(), {})):
            found[f"{path}._extra_state".lstrip(".")] = value
    return found


def saved(state: State) -> State:
    """The part that can be put back."""
    return {key: form for key, form in state.items() if not _opaque(form)}


def put_back(owner: Any, state: Mapping[str, Form]) -> None:
    """Put what ``changes`` found into an object that was made anew.

    Nothing is called that the state names: a state from elsewhere runs no code.

    Raises:
        Unfit: it does not belong there.
    """
    parts = dict(_parts(owner))
    for key, form in state.items():
        if key.endswith("!"):
            part = parts.get(key[:-1])
            if not _has_extra(part):
                raise Unfit(key)
            part.set_extra_state(_value(form, None))  # type: ignore[union-attr]
    for key, form in state.items():
        if key.endswith("!"):
            continue
        path, sign, name = key.partition(":" if ":" in key else "=")
        part = parts.get(path)
        if part is None or not sign or name in _OF_MODULES or name.startswith("__"):
            raise Unfit(key)
        if sign == "=":
            _put_tensor(getattr(part, name, None), form, key)
        elif form == ABSENT:
            vars(part).pop(name, None)
        else:
            target = part if isinstance(part, functools.partial) else None
            existing = target.keywords.get(name) if target else vars(part).get(name)
            value = _value(form, existing)
            if target:
                target.keywords[name] = value
            else:
                vars(part)[name] = value


def put_tensor(mine: Tensor, saved: Any, key: str) -> None:
    """Put a saved tensor into one of the same form; another would be spread, or rounded, silently.

    Raises:
        Unfit: it has another shape or another kind of numbers, or is none.
    """
    if not isinstance(saved, Tensor) or saved.shape != mine.shape or saved.dtype != mine.dtype:
        raise Unfit(f"{key} has another shape or another kind of numbers")
    mine.copy_(saved)


def _put_tensor(tensor: Any, form: Form, key: str) -> None:
    if not isinstance(tensor, Tensor) or not isinstance(form, list) or form[0] != "tensor":
        raise Unfit(key)
    with torch.no_grad():
        if tensor.shape != form[1].shape:
            raise Unfit(key)
        tensor.copy_(form[1])


def _parts(owner: Any) -> list[tuple[str, Any]]:
    return list(owner.named_modules()) if isinstance(owner, nn.Module) else [("", owner)]


def _attributes(part: Any) -> dict[str, Any]:
    if isinstance(part, functools.partial):
        return dict(part.keywords)
    if isinstance(part, _CONSTANT):
        return {}
    hidden = _OF_OPTIMIZERS if isinstance(part, torch.optim.Optimizer) else frozenset()
    if isinstance(part, nn.Module):
        hidden = _OF_MODULES
    return {k: v for k, v in getattr(part, "__dict__", {}).items() if k not in hidden}


def _has_extra(part: Any) -> bool:
    own = nn.Module.get_extra_state
    return isinstance(part, nn.Module) and type(part).get_extra_state is not own


# --- from a value to its form ---------------------------------------------------------------------


def _form(value: Any, seen: dict[int, Form]) -> Form:
    kind = type(value)
    if kind in _PLAIN:
        return ["int", str(value)] if kind is int and abs(value) >= 2**62 else value
    if kind is complex:
        return ["complex", value.real, value.imag]
    if kind in (bytes, bytearray):
        return [kind.__name__, _bytes(value)]
    if isinstance(value, Tensor):
        return _of_tensor(value)
    if isinstance(value, _CONSTANT):
        return ["constant", getattr(value, "__qualname__", None) or str(value)]
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = ["seen", len(seen)]
    try:
        return _of_object(value, kind, seen)
    except Exception:  # an object of the user's may raise when it is looked at
        return ["opaque", kind.__qualname__, None]
    finally:
        del seen[id(value)]


def _of_object(value: Any, kind: Any, seen: dict[int, Form]) -> Form:
    if kind.__name__ in _SEQUENCES and kind is _SEQUENCES[kind.__name__]:
        forms = [_form(each, seen) for each in value]
        if "set" in kind.__name__:
            forms.sort(key=repr)
        return [kind.__name__, forms]
    if kind is deque:
        return ["deque", value.maxlen, [_form(each, seen) for each in value]]
    if kind.__name__ in _DICTS and kind is _DICTS[kind.__name__]:
        return [kind.__name__, [[_form(k, seen), _form(v, seen)] for k, v in value.items()]]
    if kind is np.ndarray or issubclass(kind, np.generic):
        if value.dtype.hasobject:
            return ["opaque", "array", _form(value.tolist(), seen)]
        name = "array" if kind is np.ndarray else "scalar"
        return [name, value.dtype.str, list(value.shape), _bytes(value.tobytes())]
    if isinstance(value, torch.Generator):
        return ["torch.Generator", str(value.device), value.get_state().clone()]
    if kind is random.Random:
        return ["random.Random", _form(value.getstate(), seen)]
    if kind is np.random.Generator:
        bits = value.bit_generator
        return ["numpy.Generator", type(bits).__name__, _form(bits.state, seen)]
    if kind is np.random.RandomState:
        return ["numpy.RandomState", _form(value.get_state(legacy=False), seen)]
    if isinstance(value, types.GeneratorType):
        place = -1 if value.gi_frame is None else value.gi_frame.f_lasti
        return ["opaque", "generator", [place, _form(dict(_locals(value)), seen)]]
    if isinstance(value, enum.Enum):
        return ["constant", str(value)]
    if kind is functools.partial:
        given = [_form(list(value.args), seen), _form(dict(value.keywords), seen)]
        return ["opaque", "partial", given]
    if not _of_c(kind) and (hasattr(value, "__dict__") or hasattr(kind, "__slots__")):
        parts = [[name, _form(each, seen)] for name, each in _fields(value).items()]
        return ["object", kind.__qualname__, parts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of iterators that a later Python copies no more
        reduced = value.__reduce_ex__(2)
    return ["opaque", kind.__qualname__, [_form(_read(each), seen) for each in reduced[1:]]]


def _read(value: Any) -> Any:
    """What an object hands out as iterators of its items, as a list."""
    return list(value) if hasattr(value, "__next__") else value


def _of_c(kind: type) -> bool:
    """Whether it derives from a class of C, which holds what no attribute shows."""
    heap = 1 << 9  # Py_TPFLAGS_HEAPTYPE
    bases = [base for base in kind.__mro__ if base is not object]
    return any(not base.__flags__ & heap or base is random.Random for base in bases)


def _locals(generator: types.GeneratorType[Any, Any, Any]) -> Mapping[str, Any]:
    return {} if generator.gi_frame is None else generator.gi_frame.f_locals


def _fields(value: Any) -> dict[str, Any]:
    """An object's own attributes, in a dict or in slots."""
    slots = [s for base in type(value).__mro__ for s in _slots(base)]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    hidden = _OF_MODULES if isinstance(value, nn.Module) else frozenset[str]()
    own = getattr(value, "__dict__", {})
    return found | {k: v for k, v in own.items() if k not in hidden or k == "_buffers"}


def _slots(base: type) -> Sequence[str]:
    slots = vars(base).get("__slots__", ())
    slots = (slots,) if isinstance(slots, str) else tuple(slots)
    return [slot for slot in slots if slot not in ("__dict__", "__weakref__")]


def _of_tensor(tensor: Tensor) -> Form:
    functorch: Any = getattr(torch._C, "_functorch")  # noqa: B009
    if functorch.is_functorch_wrapped_tensor(tensor):
        return ["leaked"]  # out of vmap, where nothing can be read of it any more
    if isinstance(tensor, nn.Parameter):
        return ["parameter"]
    return ["tensor", tensor.detach().cpu().clone(), str(tensor.device)]


def _bytes(value: bytes | bytearray) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytes(value), np.uint8).copy())


# --- from a form to its value ---------------------------------------------------------------------


def _value(form: Form, existing: Any) -> Any:
    """The value of a form; where an object of its kind exists, that object with its state.

    In place, so that what several modules share they still share.
    """
    if type(form) in _PLAIN:
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
    if kind in _SEQUENCES:
        old = list(existing) if isinstance(existing, list | tuple) else []
        old += [None] * (len(rest[0]) - len(old))
        values = [_value(each, was) for each, was in zip(rest[0], old, strict=False)]
        if kind == "list" and type(existing) is list:
            existing[:] = values
            return existing
        return _SEQUENCES[kind](values)
    if kind == "deque":
        return deque((_value(each, None) for each in rest[1]), maxlen=rest[0])
    if kind in _DICTS:
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
        made.setstate(_value(rest[0], None))
        return made
    if kind == "numpy.Generator":
        return _numpy_generator(rest[0], _value(rest[1], None), existing)
    if kind == "numpy.RandomState":
        made = existing if type(existing) is np.random.RandomState else np.random.RandomState()
        made.set_state(_value(rest[0], None))
        return made
    if kind == "object" and type(existing).__qualname__ == rest[0]:
        for name, each in rest[1]:
            if isinstance(existing, nn.Module) and name in _OF_MODULES and name != "_buffers":
                raise Unfit(name)
            object.__setattr__(existing, name, _value(each, getattr(existing, name, None)))
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
    pairs = [(_value(k, None), v) for k, v in items]
    values = {k: _value(v, old.get(k)) for k, v in pairs}
    if type(existing) is not _DICTS[kind]:
        if kind == "defaultdict":
            raise Unfit(kind)
        return _DICTS[kind](values)
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


# --- forms ----------------------------------------------------------------------------------------


def equal(one: Form, other: Form) -> bool:
    """Whether two forms are the same to the bit."""
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


def _opaque(form: Form) -> bool:
    if not isinstance(form, list):
        return False
    return bool(form and form[0] == "opaque") or any(map(_opaque, form))
