"""Build a program from the watched operations: decide where each result is written."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lrlab.engine.capture.calls import plain_call, product_calls, writing_call
from lrlab.engine.capture.operations import Operation, layout_of, mapped, storage_of, tensors_in
from lrlab.engine.capture.program import NotCapturable, Program

aten = torch.ops.aten

# The results of these depend on the shape of their arguments, not on the numbers in them.
_SHAPE_ONLY = {
    aten.empty_like.default,
    aten.full_like.default,
    aten.new_empty.default,
    aten.new_full.default,
    aten.new_ones.default,
    aten.new_zeros.default,
    aten.ones_like.default,
    aten.zeros_like.default,
}


@dataclass(frozen=True)
class _Call:
    work: Callable[[], Any]
    reads: set[int]  # arguments that are memory
    writes: set[int]


@dataclass
class Builder:
    """Make a program of the watched operations.

    The watched tensors are called old. Each has a new one with the same numbers at the same point
    of the program, in fixed memory. Old ones are all kept, so that an address is one tensor's.
    """

    operations: list[Operation]
    results: Sequence[Tensor | None]
    changing: list[Tensor]
    into: dict[int, Tensor]
    copied: Container[int]
    shared: bool
    new: dict[int, Tensor] = field(default_factory=dict)  # by id of the old
    calls: list[_Call] = field(default_factory=list)
    copies: dict[int, int] = field(default_factory=dict)  # memory that is never made, to its like

    def build(self) -> Program:
        self.written = {storage_of(t) for o in self.operations for t in o.written}
        for operation in self.operations:
            if self._is_copy(operation):
                self.copies[storage_of(operation.output)] = self._memory(operation.inputs[0])
        self.live = {self._memory(t) for t in self.changing} | self.written
        self.last_use = {
            self._memory(t): place for place, o in enumerate(self.operations) for t in o.inputs
        }
        kept = {self._memory(t) for t in self.results if t is not None}
        self.last_use |= dict.fromkeys(kept | self.live, len(self.operations))
        self.targets = self._targets()
        for place, operation in enumerate(self.operations):
            self._add(place, operation)
        results = [None if t is None else self._new(t) for t in self.results]
        for i, target in self.into.items():
            result = results[i]
            if result is None:
                continue
            if not _same_place(result, target):
                self._call(functools.partial(target.copy_, result), [result], [target])
            results[i] = target
        return Program(self._needed(results), results)

    def _add(self, place: int, operation: Operation) -> None:
        args, kwargs = mapped(self._new, (operation.args, operation.kwargs))
        call, outputs = operation.call, operation.outputs
        if operation.is_view or call is aten._unsafe_view.default:
            view = aten.view.default if call is aten._unsafe_view.default else call
            try:
                self._name(operation, view(*args, **kwargs))
            except RuntimeError as error:  # its layout differs from the watched one
                raise NotCapturable(f"{call}: {error}") from error
            return
        if operation.written:
            work = functools.partial(plain_call(call), *args, **kwargs)
            changed = [self._new(t) for t in operation.written]
            self._call(work, [self._new(t) for t in operation.inputs], changed)
            for output in outputs:  # an operation in place returns the tensor that it changed
                same = next((t for t in operation.written if t is output), None)
                if same is None:
                    raise NotCapturable(f"{call} returns more than what it changes")
            return
        if self._is_copy(operation):
            self._name(operation, args[0])
            return
        constant = not any(self._memory(t) in self.live for t in operation.inputs)
        changed = any(self._memory(t) in self.written for t in outputs)
        if (call in _SHAPE_ONLY or constant) and not changed:
            self._name(operation, call(*args, **kwargs))
            return
        self.live |= {self._memory(t) for t in outputs}
        buffers = [self._buffer(place, operation, t) for t in outputs]
        self._name(operation, buffers[0] if isinstance(operation.output, Tensor) else buffers)
        inputs = [self._new(t) for t in operation.inputs]
        if call is aten.bmm.default:
            left, right = args
            works = product_calls(left, right, buffers[0], self.shared)
        else:
            works = [writing_call(call, args, kwargs, buffers)]
        for work in works:
            self._call(work, inputs, buffers)

    def _new(self, old: Tensor) -> Tensor:
        new = self.new.get(id(old), old)
        return new.detach() if new.requires_grad else new

    def _name(self, operation: Operation, found: Any) -> None:
        for old, new in zip(operation.outputs, tensors_in(found), strict=True):
            self.new[id(old)] = new

    def _call(self, work: Callable[[], Any], reads: list[Tensor], writes: list[Tensor]) -> None:
        self.calls.append(_Call(work, {*map(storage_of, reads)}, {*map(storage_of, writes)}))

    def _memory(self, old: Tensor) -> int:
        storage = storage_of(old)
        return self.copies.get(storage, storage)

    def _is_copy(self, operation: Operation) -> bool:
        """Return whether it is a product with 1, as vmap makes of a bias, and both are constant."""
        if operation.call is not aten.mul.Scalar or operation.args[1] != 1:
            return False
        source, copy = operation.args[0], operation.output
        unchanged = not self.written & {storage_of(source), storage_of(copy)}
        return unchanged and source.dtype == copy.dtype

    def _buffer(self, place: int, operation: Operation, old: Tensor) -> Tensor:
        """Return where an operation writes.

        That is where its result is wanted, over an input in the cache that no one reads again, or
        in memory of its own.
        """
        wanted = self.targets.get(self._memory(old))
        if wanted is not None:
            return wanted
        if torch.Tag.pointwise in operation.call.tags and isinstance(operation.output, Tensor):
            for tensor in operation.inputs:
                if self._may_write_over(tensor, old, operation, place):
                    return self._new(tensor)
        return torch.empty_strided(old.shape, old.stride(), dtype=old.dtype, device=old.device)

    def _may_write_over(
        self, tensor: Tensor, old: Tensor, operation: Operation, place: int
    ) -> bool:
        memory, new = self._memory(tensor), self._new(tensor)
        if memory not in self.live or self.last_use[memory] != place:
            return False
        same = [t for t in operation.inputs if self._memory(t) == memory]
        if any(layout_of(self._new(t)) != layout_of(old) for t in same):
            return False
        return new.numel() * new.itemsize == new.untyped_storage().nbytes()

    def _targets(self) -> dict[int, Tensor]:
        """Return the memory of an old tensor to where it is wanted, with its operation's layout."""
        made = {
            self._memory(o.output): o.output
            for o in reversed(self.operations)
            if isinstance(o.output, Tensor) and not (o.is_view or o.written or self._is_copy(o))
        }
        asked = [self._memory(t) for t in self.results if t is not None]
        found = {}
        for i, target in self.into.items():
            result = self.results[i]
            memory = -1 if result is None else self._memory(result)
            if i in self.copied or memory not in made or asked.count(memory) > 1:
                continue
            base = made[memory]
            strides = None if result is None else _strides_in(base, result, target)
            if strides is not None:
                offset = target.storage_offset()
                found[memory] = target.as_strided(base.shape, strides, offset)
        return found

    def _needed(self, results: Sequence[Tensor | None]) -> list[Callable[[], Any]]:
        """Return the calls without those that have no effect."""
        wanted = {storage_of(t) for t in [*results, *self.changing] if t is not None}
        wanted |= self.written
        kept = []
        for call in reversed(self.calls):
            if call.writes & wanted:
                wanted |= call.reads
                kept.append(call.work)
        return kept[::-1]


def _same_place(one: Tensor, other: Tensor) -> bool:
    strides = zip(one.shape, one.stride(), other.stride(), strict=True)
    return one.data_ptr() == other.data_ptr() and all(a == b for n, a, b in strides if n > 1)


def _strides_in(base: Tensor, result: Tensor, target: Tensor) -> list[int] | None:
    """Return strides of ``base`` that make its view ``result`` have the strides of ``target``."""
    if result.numel() != base.numel() or target.shape != result.shape:
        return None
    left = [d for d in range(result.ndim) if result.shape[d] > 1]
    found = []
    for size, stride in zip(base.shape, base.stride(), strict=True):
        if size == 1:
            found.append(stride)
            continue
        same = [d for d in left if (result.shape[d], result.stride(d)) == (size, stride)]
        if not same:
            return None
        found.append(target.stride(same[0]))
        left.remove(same[0])
    return found
