"""Define a block: those lanes of a stack that go through the network together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lrlab.engine.lanes.packing import Tensors
from lrlab.engine.optimizers.protocol import absent, note_absent

Loss = Callable[[Tensor, Tensor], Tensor]


class Block(NamedTuple):
    """Views of the stack's tensors, padded if it is."""

    lanes: slice
    module: nn.Module
    loss: Loss
    params: Tensors  # (rows, ...), those after the lanes are padding
    fixed: Tensors

    @property
    def size(self) -> int:
        """The number of its lanes, without padding."""
        return self.lanes.stop - self.lanes.start


def block_of(lanes: slice, module: nn.Module, loss: Loss, params: Tensors, fixed: Tensors) -> Block:
    """Return a block of these tensors; its parameters are leaves of a graph of their own."""
    return Block(
        lanes,
        module,
        loss,
        {n: t.detach().requires_grad_() for n, t in params.items()},
        {n: t.detach() for n, t in fixed.items()},
    )


def single_blocks(
    modules: Sequence[nn.Module], losses: Sequence[Loss], params: Tensors, fixed: Tensors
) -> list[Block]:
    """Return a block for each lane of a stack; params and fixed hold all lanes, without padding."""
    return [
        block_of(
            slice(i, i + 1),
            module,
            loss,
            {n: t[i : i + 1] for n, t in params.items()},
            {n: t[i : i + 1] for n, t in fixed.items()},
        )
        for i, (module, loss) in enumerate(zip(modules, losses, strict=True))
    ]


def joined(blocks: Sequence[Sequence[Any]]) -> list[Any]:
    """Put the gradients of all blocks together, lane after lane; None where all have None."""
    if len(blocks) == 1:
        return list(blocks[0])
    return [_column(column) for column in zip(*blocks, strict=True)]


def _column(of_blocks: Sequence[Any]) -> Any:
    """Join a gradient of single lanes, some of which may have none: layers may drop at random."""
    absent = [lane for lane, gradient in enumerate(of_blocks) if gradient is None]
    if not absent:
        return torch.cat(list(of_blocks))
    if len(absent) == len(of_blocks):
        return None
    like = next(gradient for gradient in of_blocks if gradient is not None)
    joined = torch.cat([torch.zeros_like(like) if g is None else g for g in of_blocks])
    note_absent(joined, absent)
    return joined


def averaged(batches: Sequence[Sequence[Tensor | None]]) -> list[Tensor | None]:
    """Return the mean gradients of several mini-batches; None where none has one, as in torch."""
    return [_mean(column, len(batches)) for column in zip(*batches, strict=True)]


def _mean(of_batches: Sequence[Tensor | None], count: int) -> Tensor | None:
    there = [gradient for gradient in of_batches if gradient is not None]
    if not there:
        return None
    mean = functools.reduce(torch.add, there) / count
    if never := set.intersection(*(set(absent(gradient)) for gradient in there)):
        note_absent(mean, sorted(never))
    return mean


def first_of(tensors: Tensors) -> Tensors:
    """Return the tensors of the first lane."""
    return {n: t[0] for n, t in tensors.items()}
