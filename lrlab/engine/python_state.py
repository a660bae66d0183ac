"""Compare, save and put back the Python values of networks, losses and optimizers.

A network that counts its calls, or draws from a generator of its own, has state outside the tensors
of its state dict. Here it becomes tensors and plain numbers, as everything in a checkpoint is: a
form, see ``forms``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lrlab.engine.forms import (
    CONSTANT,
    OF_MODULES,
    Form,
    Unfit,
    equal,
    form_of,
    of_tensor,
    opaque,
    value_of,
)

State = dict[str, Form]  # "path of the module:attribute" to its form

ABSENT: list[Form] = ["absent"]
_OF_OPTIMIZERS = frozenset({"state", "param_groups", "defaults"})  # in its state dict


def of(owner: Any, tensors: bool = False) -> State:
    """Return all Python values of a network, a loss or an optimizer.

    Args:
        tensors: whether a network's parameters and buffers count, too. Lanes have their own of a
            network, but not of a loss.
    """
    seen: dict[int, Form] = {id(part): ["part"] for _, part in _parts(owner)}
    found: State = {}
    for path, part in _parts(owner):
        for name, value in _attributes(part).items():
            found[f"{path}:{name}"] = form_of(value, seen)
        if tensors and isinstance(part, nn.Module):
            own = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
            found |= {f"{path}={name}": of_tensor(tensor) for name, tensor in own}
        if _has_extra(part):
            found[f"{path}!"] = form_of(part.get_extra_state(), seen)
    return found


def changes(before: State, now: State) -> State:
    """Return the forms of the changed values; a value that is gone is ``ABSENT``."""
    found = {key: form for key, form in now.items() if not equal(form, before.get(key, ABSENT))}
    return found | {key: ABSENT for key in before if key not in now}


def unsaved(state: State) -> list[str]:
    """Return names of the values that cannot be saved. A module's ``get_extra_state`` stands for
    its attributes.
    """
    covered = {key[:-1] for key, form in state.items() if key.endswith("!") and not opaque(form)}
    return [
        _name(key)
        for key, form in state.items()
        if opaque(form) and not (key.partition(":")[0] in covered and ":" in key)
    ]


def names(state: State) -> list[str]:
    """Return the attributes as one would write them: ``head.calls``."""
    return [_name(key) for key in state]


def _name(key: str) -> str:
    if key.endswith("!"):
        return f"{key[:-1]}.get_extra_state()".lstrip(".")
    return key.replace(":", ".").replace("=", ".").lstrip(".")


def extra(owner: nn.Module) -> dict[str, Any]:
    """Return the saveable values of ``get_extra_state``, by their names in a state dict."""
    found = {}
    for path, part in _parts(owner):
        if _has_extra(part) and not opaque(form_of(value := part.get_extra_state(), {})):
            found[f"{path}._extra_state".lstrip(".")] = value
    return found


def saved(state: State) -> State:
    """Return the part that can be put back."""
    return {key: form for key, form in state.items() if not opaque(form)}


def put_back(owner: Any, state: Mapping[str, Form]) -> None:
    """Put the result of ``changes`` into a newly made object.

    Nothing that the state names is called: a state from elsewhere runs no code.

    Raises:
        Unfit: it does not belong there.
    """
    parts = dict(_parts(owner))
    for key, form in state.items():
        if key.endswith("!"):
            part = parts.get(key[:-1])
            if not _has_extra(part):
                raise Unfit(key)
            part.set_extra_state(value_of(form, None))  # type: ignore[union-attr]
    for key, form in state.items():
        if key.endswith("!"):
            continue
        path, sign, name = key.partition(":" if ":" in key else "=")
        part = parts.get(path)
        if part is None or not sign or name in OF_MODULES or name.startswith("__"):
            raise Unfit(key)
        if sign == "=":
            _put_tensor(getattr(part, name, None), form, key)
        elif form == ABSENT:
            vars(part).pop(name, None)
        else:
            target = part if isinstance(part, functools.partial) else None
            existing = target.keywords.get(name) if target else vars(part).get(name)
            value = value_of(form, existing)
            if target:
                target.keywords[name] = value
            else:
                vars(part)[name] = value


def put_tensor(mine: Tensor, saved: Any, key: str) -> None:
    """Put a saved tensor into one of the same form, without silent broadcasting or rounding.

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
    if isinstance(part, CONSTANT):
        return {}
    hidden = _OF_OPTIMIZERS if isinstance(part, torch.optim.Optimizer) else frozenset()
    if isinstance(part, nn.Module):
        hidden = OF_MODULES
    return {k: v for k, v in getattr(part, "__dict__", {}).items() if k not in hidden}


def _has_extra(part: Any) -> bool:
    own = nn.Module.get_extra_state
    return isinstance(part, nn.Module) and type(part).get_extra_state is not own
