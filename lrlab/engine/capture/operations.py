"""Describe one watched operation of torch, and the tensors in its arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Operation:
    call: Any  # torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    @property
    def inputs(self) -> list[Tensor]:
        return tensors_in([*self.args, *self.kwargs.values()])

    @property
    def outputs(self) -> list[Tensor]:
        return tensors_in(self.output)

    @property
    def is_view(self) -> bool:
        """Return whether all results are memory of its inputs, under another shape."""
        returned = self.call._schema.returns
        return bool(returned) and all(r.alias_info and not r.alias_info.is_write for r in returned)

    @property
    def written(self) -> list[Tensor]:
        """Return the inputs that it changes."""
        arguments = self.call._schema.arguments
        names = [a.name for a in arguments if a.alias_info and a.alias_info.is_write]
        by_name = {a.name: v for a, v in zip(arguments, self.args, strict=False)} | self.kwargs
        return tensors_in([by_name.get(n) for n in names])


def tensors_in(value: Any) -> list[Tensor]:
    """Return all tensors in an operation's arguments or results."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for one in value for tensor in tensors_in(one)]
    return []


def mapped(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Return an operation's arguments with another thing for each tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, list | tuple):
        return type(value)(mapped(function, one) for one in value)
    if isinstance(value, dict):
        return {key: mapped(function, one) for key, one in value.items()}
    return value


def storage_of(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def layout_of(tensor: Tensor) -> tuple[Any, ...]:
    return (tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)
