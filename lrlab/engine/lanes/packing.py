"""Lay the parameters of a stack out in memory: padded, aligned, few tensors."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

ALIGNMENT = 16  # numbers, a cache line of float32
# numbers; writing a product of so many with gaps costs less than an operation saves
SMALL = 16_384


def with_padding(tensors: Tensors, rows: int) -> Tensors:
    """Return the tensors with copies of their first lane after the last, (rows, ...)."""

    def padded(tensor: Tensor) -> Tensor:
        missing = rows - len(tensor)
        if not missing:
            return tensor
        return torch.cat([tensor, tensor[:1].expand(missing, *tensor.shape[1:])])

    return {name: padded(tensor) for name, tensor in tensors.items()}


def packed_together(params: Tensors, rows: int) -> tuple[Tensors, list[Tensor]]:
    """Copy the parameters into few tensors, each at an address that suits SIMD.

    Each large matrix is a tensor of its own, because a product of many lanes is written only to
    memory without gaps. All others are next to each other in one tensor. The layout is the same for
    any number of lanes, because an optimizer's buffers have it, too, and go from stack to stack.

    Returns:
        The parameters, (rows, ...), padded; and the tensors around them, (rows, numbers) each, or
        nothing.
    """
    params = with_padding(params, rows)
    kinds = {(t.dtype, t.device) for t in params.values()}
    if len(kinds) != 1 or not all(t.numel() for t in params.values()):
        return params, []
    sizes = {name: tensor[0].numel() for name, tensor in params.items()}
    small = [name for name, t in params.items() if t.ndim < 3 or sizes[name] <= SMALL]
    units, found = [], {}
    for names in [small, *([name] for name in params if name not in small)]:
        aligned = [-(-sizes[name] // ALIGNMENT) * ALIGNMENT for name in names]
        width = sum(aligned) if len(names) > 1 else sum(sizes[name] for name in names)
        if not names:
            continue
        unit = params[names[0]].new_zeros(rows, width)
        units.append(unit)
        for name, first in zip(names, itertools.accumulate(aligned, initial=0), strict=False):
            part = unit[:, first : first + sizes[name]]
            found[name] = part.view(params[name].shape).copy_(params[name])
    return {name: found[name] for name in params}, units
