"""Treat one tensor of inputs, and several of them, alike.

A network takes one tensor, or several: a tuple, matched to the parameters of its forward by their
order, or a dict, matched by their names. The samples are the first axis of each. This is the only
code that knows of the difference.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

Inputs: TypeAlias = Tensor | tuple[Tensor, ...] | dict[str, Tensor]

_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Batch(NamedTuple):
    """Inputs and targets of a step.

    Attributes:
        x: (batch, ...) if all lanes share them, else (lanes, batch, ...).
        y: likewise.
        own: whether each lane has its own batch, with the lane axis first.
    """

    x: Inputs
    y: Tensor
    own: bool = False


def mapped(function: Callable[[Tensor], Any], x: Inputs) -> Any:
    """Return the same structure with another value for each tensor."""
    if isinstance(x, Tensor):
        return function(x)
    if isinstance(x, dict):
        return {name: function(tensor) for name, tensor in x.items()}
    return tuple(function(tensor) for tensor in x)


def leaves(structure: Any) -> list[Any]:
    """Return what ``mapped`` has put in the place of each tensor, in their order."""
    if isinstance(structure, dict):
        return list(structure.values())
    return list(structure) if isinstance(structure, tuple) else [structure]


def tensors(x: Inputs) -> list[Tensor]:
    """Return the tensors, in their order."""
    return leaves(x)


def like(x: Inputs, others: Sequence[Tensor]) -> Any:
    """Return other tensors in the structure of ``x``, in the order of ``tensors``."""
    left = iter(others)
    return mapped(lambda _: next(left), x)


def joined(parts: Sequence[Inputs]) -> Any:
    """Return the samples of all parts, one after another."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))  # type: ignore[arg-type]
    columns = zip(*map(tensors, parts), strict=True)
    return like(parts[0], [torch.cat(column) for column in columns])


def stacked(samples: Sequence[Inputs]) -> Any:
    """Return single samples as a batch."""
    columns = zip(*map(tensors, samples), strict=True)
    return like(samples[0], [torch.stack(column) for column in columns])


def split(x: Inputs, sizes: Sequence[int]) -> list[Any]:
    """Return parts of so many samples each."""
    if isinstance(x, Tensor):
        return list(x.split(list(sizes)))
    columns = [tensor.split(list(sizes)) for tensor in tensors(x)]
    return [like(x, part) for part in zip(*columns, strict=True)]


def cloned(x: Inputs) -> Any:
    return mapped(Tensor.clone, x)


def nbytes(x: Inputs) -> int:
    return sum(tensor.nbytes for tensor in tensors(x))


def called(network: Callable[..., Any], x: Inputs) -> Any:
    """Call a network, or something with the arguments of one."""
    arguments, keywords = arguments_of(x)
    return network(*arguments, **keywords)


def arguments_of(x: Inputs) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Return the positional and the keyword arguments of a forward pass."""
    if isinstance(x, Tensor):
        return (x,), {}
    return ((), x) if isinstance(x, dict) else (x, {})


def shapes(x: Inputs) -> str:
    """Return the shapes of a batch in words: ``(2, 4)``, ``tokens (2, 8) int64, mask (2, 8) ...``.

    The type is said where it is not float32.
    """

    def of(tensor: Tensor) -> str:
        kind = str(tensor.dtype).removeprefix("torch.")
        return f"{tuple(tensor.shape)}" + ("" if kind == "float32" else f" {kind}")

    if isinstance(x, Tensor):
        return of(x)
    if isinstance(x, dict):
        return ", ".join(f"{name} {of(tensor)}" for name, tensor in x.items())
    return " and ".join(map(of, x))


def misfit(forward: Callable[..., Any], x: Inputs) -> str | None:
    """Return in words why a forward cannot take these inputs; None if its parameters fit.

    Args:
        forward: bound, without ``self``.
    """
    try:
        parameters = list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):
        return None
    needed = [p.name for p in parameters if p.default is p.empty and p.kind in _BY_PLACE]
    only = [p.name for p in parameters if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
    names = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    places = [p.name for p in parameters if p.kind in _BY_PLACE]
    if isinstance(x, dict):
        anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
        unknown = [name for name in x if name not in names]
        if unknown and not anything:
            return f"its forward has no parameter {unknown[0]}; it has {', '.join(names) or 'none'}"
        lacking = [name for name in (*needed, *only) if name not in x]
        if lacking:
            return f"its forward needs {lacking[0]}, and the data have {', '.join(x)}"
        return None
    count = len(tensors(x))
    if only:
        return (
            f"its forward takes {only[0]} by its name only; give the inputs as a dict "
            f"with {', '.join([*needed, *only])}"
        )
    anything = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if len(needed) > count:
        given = "one" if count == 1 else str(count)
        return (
            f"its forward takes {len(needed)} inputs ({', '.join(needed)}), and the data have "
            f"{given}; give x as a dict with these names, or as a tuple in this order"
        )
    if len(places) < count and not anything:
        named = f" ({', '.join(places)})" if places else ""
        return f"its forward takes {len(places) or 'no'} input{'' if len(places) == 1 else 's'}" + (
            f"{named}, and the data have {count}"
        )
    return None
