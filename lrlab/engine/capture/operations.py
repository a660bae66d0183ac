"""Watch the operations of some work below autograd and vmap, and describe them for comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lrlab.engine.capture.program import NotCapturable


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


_NEVER = (
    torch.Tag.nondeterministic_seeded,  # draws random numbers
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
)


class _Watch(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # keeping torch's compiler out would import it, which takes seconds

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if any(tag in func.tags for tag in _NEVER):
            raise NotCapturable(f"{func} gives something else at each call")
        output = func(*args, **kwargs)
        returned = output if isinstance(output, list | tuple) else [output]
        if any(not isinstance(one, Tensor | list | None) for one in returned):
            raise NotCapturable(f"{func} looks at numbers")
        self.operations.append(Operation(func, args, kwargs, output))
        return output


def watch(
    work: Callable[[], Sequence[Tensor | None]],
) -> tuple[list[Operation], Sequence[Tensor | None]]:
    """Do the work; return its operations and its results."""
    with _Watch() as watched:
        results = work()
    return watched.operations, results


def described(operations: Sequence[Operation], changing: Sequence[Tensor]) -> list[tuple[Any, ...]]:
    """Describe the operations with all arguments: a tensor by its origin and its layout."""
    changes = {storage_of(t) for t in changing}
    origin: dict[int, tuple[Any, ...]] = {}

    def named(tensor: Tensor) -> tuple[Any, ...]:
        made = origin.get(id(tensor))
        if made is None:
            place = tensor.data_ptr() if storage_of(tensor) in changes else _contents(tensor)
            made = origin[id(tensor)] = ("given", place)
        return (*made, *layout_of(tensor))

    found = []
    for place, operation in enumerate(operations):
        arguments = mapped(named, (operation.args, operation.kwargs))
        found.append((operation.call, repr(arguments)))
        for i, output in enumerate(operation.outputs):
            origin.setdefault(id(output), (place, i))
    return found


def _contents(tensor: Tensor) -> int:
    """Describe a constant, a small one by its numbers: a network may make it anew at each call."""
    if tensor.numel() > 10_000:
        return tensor.data_ptr()
    return hash(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
