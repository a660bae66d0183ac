"""Multiply vectors by the Hessian of each lane's loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lrlab.data.inputs import Batch, Inputs
from lrlab.engine.lanes.block import Block, joined
from lrlab.engine.lanes.passes import Passes
from lrlab.engine.lanes.real_pairs import as_real

Curvature = tuple[Tensor, list[Tensor | None], Callable[[Sequence[Tensor]], list[Tensor]]]


def curvature(passes: Passes, blocks: Sequence[Block], x: Inputs, y: Tensor) -> Curvature:
    """Return losses, gradients, and a function that multiplies by each lane's Hessian.

    Args:
        x: inputs, (batch, ...); y: targets, (batch,); the same for all lanes, at step 0.

    Returns:
        losses, gradients: as from ``Lanes.gradients``.
        product: takes a vector of each lane, (lanes, ...) for each of ``params``, and returns
            its product with the lane's Hessian, likewise; 0 where no loss depends on it. It
            raises RuntimeError where an operation of the network has no second derivative in
            torch.
    """
    losses, slopes = [], []
    for block in blocks:
        loss = passes.losses(block, Batch(x, y), [0] * block.size)
        leaves = list(block.params.values())
        losses.append(loss.detach()[: block.size])
        slopes.append(torch.autograd.grad(loss.sum(), leaves, create_graph=True, allow_unused=True))

    def product(vectors: Sequence[Tensor]) -> list[Tensor]:
        pairs = zip(blocks, slopes, strict=True)
        return joined([_product(*pair, vectors) for pair in pairs])

    gradients = [
        [None if g is None else g.detach()[: block.size] for g in slope]
        for block, slope in zip(blocks, slopes, strict=True)
    ]
    return torch.cat(losses), joined(gradients), product


def _product(
    block: Block, slopes: Sequence[Tensor | None], vectors: Sequence[Tensor]
) -> list[Tensor]:
    """Multiply vectors by the Hessian of a block's lanes, from gradients with their graph."""
    leaves = list(block.params.values())
    # A sum, because with grad_outputs torch imports its compiler, which takes seconds.
    along = [
        (as_real(g[: block.size]) * as_real(v[block.lanes])).sum()
        for g, v in zip(slopes, vectors, strict=True)
        if g is not None and g.requires_grad
    ]
    found: Sequence[Tensor | None] = [None] * len(leaves)
    if along:  # otherwise the loss is linear
        total = torch.stack(along).sum()
        found = torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True)
    pairs = zip(found, leaves, strict=True)
    whole = [torch.zeros_like(p) if t is None else t.detach() for t, p in pairs]
    return [t[: block.size] for t in whole]
