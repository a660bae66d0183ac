"""Work on tensors, captured once as a flat list of operations, to be repeated without overhead.

A training step in PyTorch spends most of its time on small networks in Python, in vmap and in
autograd. All of that decides the same way at each step: the operations that reach the kernels are
the same ones, in the same order. So one step is watched below autograd and vmap, where only these
operations are left, and a *program* repeats them on the same memory: views are taken once, what
does not hang on anything that changes is computed once, and each result is written where it was
before. The kernels are those that ran while it was watched, so a program gives the same bits; the
caller checks that it does.

On a GPU a program is captured a second time, as a CUDA graph, which costs one launch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

LARGE = 1 << 20  # multiplications of a lane's product that are worth a call of its own
FEWEST_ROWS = 16  # of a thread's share: the fewer, the longer each takes

# What these return hangs on the shape of what they are given, not on the numbers in it.
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
_NEVER = (
    torch.Tag.nondeterministic_seeded,  # draws random numbers
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
)


class NotCapturable(Exception):
    """The work does something that a program cannot repeat; the text says what."""


# Past autograd's layer of each operation, which would only find that it has nothing to do.
_below_autograd = getattr(torch._C, "_AutoDispatchBelowAutograd", torch.no_grad)


@dataclass(frozen=True)
class Program:
    """Operations on fixed memory.

    Attributes:
        calls: in their order; each reads and writes tensors that it holds.
        results: what the work returned, as tensors that hold it after each run.
        memory: what must live as long as the program, beside what the calls hold.
    """

    calls: Sequence[Callable[[], Any]]
    results: Sequence[Tensor | None]
    memory: Any = None

    def run(self) -> None:
        """Repeat the work on what its inputs hold now."""
        with _below_autograd():
            for call in self.calls:
                call()

    def on(self, device: torch.device) -> Program:
        """The same program as it runs best there: on a GPU as one CUDA graph.

        To capture that, the work is done some times more.
        """
        if device.type != "cuda":
            return self
        # a graph knows addresses only; the tensors at them are the calls'
        return Program([_graph(self.run, device).replay], self.results, memory=self)


def _graph(work: Callable[[], None], device: torch.device) -> Any:
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):  # libraries set themselves up at their first calls
        for _ in range(2):
            work()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


@dataclass(frozen=True)
class Capture:
    """Work that was watched.

    Attributes:
        results: what the work returned, None for what it has none of.
    """

    operations: list[_Operation]
    results: Sequence[Tensor | None]
    changing: list[Tensor]

    @torch.no_grad()
    def program(
        self,
        into: Mapping[int, Tensor] | None = None,
        copied: Container[int] = (),
        shared: bool = False,
    ) -> Program:
        """A program of the work, which it does not run.

        Args:
            into: place of a result to the tensor that shall hold it. Where the layouts allow it is
                written there at once; a product may then be computed as its transpose.
            copied: places in ``into`` that are to be written as they come, and copied.
            shared: whether a product may be computed in parts that all threads share evenly.

        Raises:
            NotCapturable: an operation cannot be repeated on fixed memory.
        """
        return _Builder(
            self.operations, self.results, self.changing, dict(into or {}), copied, shared
        ).build()


def capture(work: Callable[[], Sequence[Tensor | None]], changing: Iterable[Tensor]) -> Capture:
    """Watch some work. It is done twice, and all that it changes in place is changed twice.

    Args:
        work: returns tensors; it does the same operations at each call.
        changing: all tensors whose numbers may differ from run to run. What the work finds by
            itself besides them counts as constant, unless the work changes it.

    Raises:
        NotCapturable: the work draws random numbers, looks at numbers, or is not the same twice.
        Exception: what the work raises.
    """
    changing = list(changing)
    first, _ = _watch(work)
    second, results = _watch(work)
    if _described(first, changing) != _described(second, changing):
        raise NotCapturable("it does not do the same at each call")
    return Capture(second, results, changing)


# --- watching -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Operation:
    call: Any  # torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    @property
    def inputs(self) -> list[Tensor]:
        return _tensors([*self.args, *self.kwargs.values()])

    @property
    def outputs(self) -> list[Tensor]:
        return _tensors(self.output)

    @property
    def is_view(self) -> bool:
        """Whether all that it returns is memory of its inputs, under another shape."""
        returned = self.call._schema.returns
        return bool(returned) and all(r.alias_info and not r.alias_info.is_write for r in returned)

    @property
    def written(self) -> list[Tensor]:
        """The inputs that it changes."""
        arguments = self.call._schema.arguments
        names = [a.name for a in arguments if a.alias_info and a.alias_info.is_write]
        by_name = {a.name: v for a, v in zip(arguments, self.args, strict=False)} | self.kwargs
        return _tensors([by_name.get(n) for n in names])


class _Watch(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to keep torch's compiler out torch would import it, which takes seconds

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[_Operation] = []

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
        self.operations.append(_Operation(func, args, kwargs, output))
        return output


def _watch(
    work: Callable[[], Sequence[Tensor | None]],
) -> tuple[list[_Operation], Sequence[Tensor | None]]:
    with _Watch() as watch:
        results = work()
    return watch.operations, results


def _described(
    operations: Sequence[_Operation], changing: Sequence[Tensor]
) -> list[tuple[Any, ...]]:
    """The operations with all their arguments: a tensor by where it comes from, and its layout."""
    changes = {_storage(t) for t in changing}
    origin: dict[int, tuple[Any, ...]] = {}

    def named(tensor: Tensor) -> tuple[Any, ...]:
        made = origin.get(id(tensor))
        if made is None:
            place = tensor.data_ptr() if _storage(tensor) in changes else _contents(tensor)
            made = origin[id(tensor)] = ("given", place)
        return (*made, *_layout(tensor))

    found = []
    for place, operation in enumerate(operations):
        arguments = _mapped(named, (operation.args, operation.kwargs))
        found.append((operation.call, repr(arguments)))
        for i, output in enumerate(operation.outputs):
            origin.setdefault(id(output), (place, i))
    return found


def _contents(tensor: Tensor) -> int:
    """A constant: a small one by its numbers, for a network may make it anew at each call."""
    if tensor.numel() > 10_000:
        return tensor.data_ptr()
    return hash(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())


def _tensors(value: Any) -> list[Tensor]:
    """All tensors in an operation's arguments or results."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for one in value for tensor in _tensors(one)]
    return []


def _mapped(function: Callable[[Tensor], Any], value: Any) -> Any:
    """An operation's arguments with another thing for each tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, list | tuple):
        return type(value)(_mapped(function, one) for one in value)
    if isinstance(value, dict):
        return {key: _mapped(function, one) for key, one in value.items()}
    return value


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return (tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)


# --- building -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Call:
    work: Callable[[], Any]
    reads: set[int]  # of memory
    writes: set[int]


@dataclass
class _Builder:
    """Makes a program of what was watched.

    The tensors that were watched are called old; each has a new one with the same numbers at the
    same place of the program, whose memory is fixed. Old ones are all kept, so that an address is
    one tensor's.
    """

    operations: list[_Operation]
    results: Sequence[Tensor | None]
    changing: list[Tensor]
    into: dict[int, Tensor]
    copied: Container[int]
    shared: bool
    new: dict[int, Tensor] = field(default_factory=dict)  # by id of the old
    calls: list[_Call] = field(default_factory=list)
    copies: dict[int, int] = field(default_factory=dict)  # memory that is never made, to its like

    def build(self) -> Program:
        self.written = {_storage(t) for o in self.operations for t in o.written}
        for operation in self.operations:
            if self._is_copy(operation):
                self.copies[_storage(operation.output)] = self._memory(operation.inputs[0])
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

    def _add(self, place: int, operation: _Operation) -> None:
        args, kwargs = _mapped(self._new, (operation.args, operation.kwargs))
        call, outputs = operation.call, operation.outputs
        if operation.is_view or call is aten._unsafe_view.default:
            view = aten.view.default if call is aten._unsafe_view.default else call
            try:
                self._name(operation, view(*args, **kwargs))
            except RuntimeError as error:  # it lies otherwise than what was watched
                raise NotCapturable(f"{call}: {error}") from error
            return
        if operation.written:
            work = functools.partial(_plain(call), *args, **kwargs)
            changed = [self._new(t) for t in operation.written]
            self._call(work, [self._new(t) for t in operation.inputs], changed)
            for output in outputs:  # an operation in place returns what it has changed
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
            works = _product(left, right, buffers[0], self.shared)
        else:
            works = [_writing(call, args, kwargs, buffers)]
        for work in works:
            self._call(work, inputs, buffers)

    def _new(self, old: Tensor) -> Tensor:
        new = self.new.get(id(old), old)
        return new.detach() if new.requires_grad else new

    def _name(self, operation: _Operation, found: Any) -> None:
        for old, new in zip(operation.outputs, _tensors(found), strict=True):
            self.new[id(old)] = new

    def _call(self, work: Callable[[], Any], reads: list[Tensor], writes: list[Tensor]) -> None:
        self.calls.append(_Call(work, {*map(_storage, reads)}, {*map(_storage, writes)}))

    def _memory(self, old: Tensor) -> int:
        storage = _storage(old)
        return self.copies.get(storage, storage)

    def _is_copy(self, operation: _Operation) -> bool:
        """Whether it is a product with 1, as vmap makes of a bias, and both are never changed."""
        if operation.call is not aten.mul.Scalar or operation.args[1] != 1:
            return False
        source, copy = operation.args[0], operation.output
        unchanged = not self.written & {_storage(source), _storage(copy)}
        return unchanged and source.dtype == copy.dtype

    def _buffer(self, place: int, operation: _Operation, old: Tensor) -> Tensor:
        """Where an operation shall write: where its result is wanted, or over an input that no one
        reads again, which is still in the cache, or into memory of its own."""
        wanted = self.targets.get(self._memory(old))
        if wanted is not None:
            return wanted
        if torch.Tag.pointwise in operation.call.tags and isinstance(operation.output, Tensor):
            for tensor in operation.inputs:
                if self._may_write_over(tensor, old, operation, place):
                    return self._new(tensor)
        return torch.empty_strided(old.shape, old.stride(), dtype=old.dtype, device=old.device)

    def _may_write_over(
        self, tensor: Tensor, old: Tensor, operation: _Operation, place: int
    ) -> bool:
        memory, new = self._memory(tensor), self._new(tensor)
        if memory not in self.live or self.last_use[memory] != place:
            return False
        same = [t for t in operation.inputs if self._memory(t) == memory]
        if any(_layout(self._new(t)) != _layout(old) for t in same):
            return False
        return new.numel() * new.itemsize == new.untyped_storage().nbytes()

    def _targets(self) -> dict[int, Tensor]:
        """Memory of an old tensor to where it is wanted, with the layout of its operation."""
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
        """The calls without those that nothing comes of."""
        wanted = {_storage(t) for t in [*results, *self.changing] if t is not None}
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
    """The strides that make ``base``, of which ``result`` is a view, be ``target`` in that view."""
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


# --- calls ----------------------------------------------------------------------------------------


def _plain(call: Any) -> Callable[..., Any]:
    """torch's own function of an in-place operation, whose way to the kernel is shorter."""
    return getattr(torch.Tensor, call._schema.name.removeprefix("aten::"), call)


def _writing(call: Any, args: Any, kwargs: Any, buffers: Sequence[Tensor]) -> Callable[[], Any]:
    """A call that writes an operation's results into buffers."""
    if len(buffers) == 1:
        out = buffers[0]
        if call in _MADE and not kwargs:
            return _MADE[call](*args, **kwargs, out=out)
        if call in _SHORT:
            swapped = call in (aten.add.Tensor, aten.mul.Tensor) and args[1] is out and not kwargs
            first, *others = reversed(args) if swapped else args
            in_place = getattr(out, f"{_SHORT[call].__name__}_", None)
            if first is out and in_place is not None:
                return functools.partial(in_place, *others, **kwargs)
            return functools.partial(_SHORT[call], *args, **kwargs, out=out)
        overload, name = _out_overload(call)
        if overload is not None:
            return functools.partial(overload, *args, **kwargs, **{name: out})

    def copied() -> None:
        for buffer, tensor in zip(buffers, _tensors(call(*args, **kwargs)), strict=True):
            buffer.copy_(tensor)

    return copied


def _product(left: Tensor, right: Tensor, out: Tensor, shared: bool) -> list[Callable[[], Any]]:
    """Calls for a product of matrices, (lanes, rows, columns)."""
    if out.stride(-1) != 1 and out.stride(-2) == 1:
        # The same sums in the same order, written row by row as the buffer lies.
        left, right, out = right.mT, left.mT, out.mT
    multiply = _SHORT[aten.bmm.default]
    if not out.is_cpu:
        return [functools.partial(multiply, left, right, out=out)]
    # into memory with gaps torch multiplies one matrix at a time, which takes two to three times
    # as long as all at once and a copy
    whole = out if out.is_contiguous() else out.new_empty(out.shape)
    parts = _evenly(left, right, whole) if shared else [(left, right, whole)]
    calls = [functools.partial(multiply, a, b, out=c) for a, b, c in parts]
    return calls if whole is out else [*calls, functools.partial(out.copy_, whole)]


def _evenly(left: Tensor, right: Tensor, out: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Parts of a product, each of which all threads take equal shares of.

    The library gives each thread whole matrices. Those that are left over, of one lane all, are
    divided by their rows.
    """
    lanes, rows, columns = out.shape
    threads = torch.get_num_threads()
    even = lanes - lanes % threads
    worthwhile = lanes == 1 or rows * columns * left.shape[2] >= LARGE
    if even == lanes or rows % threads or rows // threads < FEWEST_ROWS or not worthwhile:
        return [(left, right, out)]
    parts = [(left[:even], right[:even], out[:even])] if even else []
    for lane in range(even, lanes):
        divided = left[lane].unflatten(0, (threads, -1))
        into = out[lane].unflatten(0, (threads, -1))
        parts.append((divided, right[lane].expand(threads, -1, -1), into))
    return parts


def _relu(x: Tensor, *, out: Tensor) -> Callable[[], Any]:
    if out is x:
        return x.relu_
    # what relu is; its own way to ``out`` makes a copy
    return functools.partial(torch.clamp_min, x, 0, out=out)


def _mean(x: Tensor, dim: list[int], keepdim: bool = False, *, out: Tensor) -> Callable[[], Any]:
    if not x.is_cpu:
        return functools.partial(torch.mean, x, dim, keepdim, out=out)
    add = functools.partial(torch.sum, x, dim, keepdim, out=out)
    count = torch.tensor(math.prod(x.shape[d] for d in dim), dtype=out.dtype)

    def work() -> None:  # what mean is there, only sooner
        add()
        out.div_(count)

    return work


def _threshold_backward(
    gradient: Tensor, x: Tensor, threshold: float, *, out: Tensor
) -> Callable[[], Any]:
    # torch has no function of its own for it; this is the overload without a layer of Python
    call = aten.threshold_backward.grad_input._op
    return functools.partial(call, gradient, x, threshold, grad_input=out)


_MADE: dict[Any, Callable[..., Callable[[], Any]]] = {
    aten.mean.dim: _mean,
    aten.relu.default: _relu,
    aten.threshold_backward.default: _threshold_backward,
}
# torch's own functions for the most common operations: their way to the kernel is shorter than
# that of the general overloads by several microseconds a call
_SHORT: dict[Any, Callable[..., Tensor]] = {
    call: getattr(torch, call._schema.name.removeprefix("aten::"))
    for call in (
        aten._log_softmax.default,
        aten._log_softmax_backward_data.default,
        aten.add.Tensor,
        aten.bmm.default,
        aten.cat.default,
        aten.div.Scalar,
        aten.div.Tensor,
        aten.gather.default,
        aten.index_select.default,
        aten.mm.default,
        aten.mul.Scalar,
        aten.mul.Tensor,
        aten.neg.default,
        aten.scatter_add.default,
        aten.sqrt.default,
        aten.sub.Tensor,
        aten.sum.dim_IntList,
    )
}


def _out_overload(call: Any) -> tuple[Any, str]:
    """The overload that takes the same arguments and one tensor to write to, and its name."""
    wanted = [(a.name, str(a.type)) for a in call._schema.arguments]
    for name in call.overloadpacket.overloads():
        overload = getattr(call.overloadpacket, name)
        arguments = overload._schema.arguments
        out = [a.name for a in arguments if a.is_out]
        others = [(a.name, str(a.type)) for a in arguments if not a.is_out]
        if len(out) == 1 and others == wanted:
            return overload, out[0]
    return None, ""
