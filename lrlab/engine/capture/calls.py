"""Find the fastest call for an operation that gives the same bits into fixed memory."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lrlab.engine.capture.operations import tensors_in

aten = torch.ops.aten

LARGE = 1 << 20  # multiplications of a lane's product that are worth a call of its own
FEWEST_ROWS = 16  # of a thread's share: the fewer, the longer each takes


def plain_call(call: Any) -> Callable[..., Any]:
    """Return torch's function for an in-place operation, with a shorter way to the kernel."""
    return getattr(torch.Tensor, call._schema.name.removeprefix("aten::"), call)


def writing_call(call: Any, args: Any, kwargs: Any, buffers: Sequence[Tensor]) -> Callable[[], Any]:
    """Return a call that writes an operation's results into buffers."""
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
        for buffer, tensor in zip(buffers, tensors_in(call(*args, **kwargs)), strict=True):
            buffer.copy_(tensor)

    return copied


def product_calls(
    left: Tensor, right: Tensor, out: Tensor, shared: bool
) -> list[Callable[[], Any]]:
    """Return calls for a product of matrices, (lanes, rows, columns)."""
    if out.stride(-1) != 1 and out.stride(-2) == 1:
        # The same sums in the same order, written row by row as the buffer is laid out.
        left, right, out = right.mT, left.mT, out.mT
    multiply = _SHORT[aten.bmm.default]
    if not out.is_cpu:
        return [functools.partial(multiply, left, right, out=out)]
    # into memory with gaps torch multiplies one matrix at a time, which takes two to three times as
    # long as all at once plus a copy
    whole = out if out.is_contiguous() else out.new_empty(out.shape)
    parts = _evenly(left, right, whole) if shared else [(left, right, whole)]
    calls = [functools.partial(multiply, a, b, out=c) for a, b, c in parts]
    return calls if whole is out else [*calls, functools.partial(out.copy_, whole)]


def _evenly(left: Tensor, right: Tensor, out: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return parts of a product, each shared equally by all threads.

    The library gives each thread whole matrices. Leftover matrices, or all of a single lane, are
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
    # equal to relu, whose own way to ``out`` makes a copy
    return functools.partial(torch.clamp_min, x, 0, out=out)


def _mean(x: Tensor, dim: list[int], keepdim: bool = False, *, out: Tensor) -> Callable[[], Any]:
    if not x.is_cpu:
        return functools.partial(torch.mean, x, dim, keepdim, out=out)
    add = functools.partial(torch.sum, x, dim, keepdim, out=out)
    count = torch.tensor(math.prod(x.shape[d] for d in dim), dtype=out.dtype)

    def work() -> None:  # equal to mean there, but faster
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
# torch's own functions for the most common operations save several microseconds a call, compared
# with the general overloads
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
    """Return the overload with the same arguments and one tensor to write to, and its name."""
    wanted = [(a.name, str(a.type)) for a in call._schema.arguments]
    for name in call.overloadpacket.overloads():
        overload = getattr(call.overloadpacket, name)
        arguments = overload._schema.arguments
        out = [a.name for a in arguments if a.is_out]
        others = [(a.name, str(a.type)) for a in arguments if not a.is_out]
        if len(out) == 1 and others == wanted:
            return overload, out[0]
    return None, ""
