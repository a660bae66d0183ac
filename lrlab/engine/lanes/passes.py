"""Run blocks of lanes through the network and the loss: under vmap, or one lane by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, vmap

from lrlab.data import inputs, random_state
from lrlab.data.inputs import Batch, Inputs
from lrlab.engine.lanes.block import Block, first_of
from lrlab.engine.lanes.dropout import DRAWS, LaneDropout, Masks, fill
from lrlab.engine.lanes.packing import Tensors
from lrlab.losses import evaluated

ASSIGNED = (-1, False)  # in the table of ways: names of the buffers that a forward pass assigns

Judge = Callable[[Tensor, Tensor], Tensor | None]  # from outputs and targets to right answers


@dataclass
class Passes:
    """The passes of a stack.

    Attributes:
        seeds, ways, precision: as for ``Lanes``.
        way: as for ``Lanes``; in the way ``unmapped`` a block is one lane.
        rehearsing: whether a pass may be made twice, to learn which buffers it assigns anew.
        masks: dropout masks that passes take instead of drawing new ones; see ``fill``.
        taken: the masks of the latest pass that dropped out, each with its p.
    """

    seeds: Sequence[int]
    ways: dict[tuple[int, bool], str]
    precision: str
    way: str = "together"
    rehearsing: bool = False
    masks: list[tuple[Tensor, float]] | None = None
    taken: list[tuple[Tensor, float]] = field(default_factory=list)

    def gradients(
        self, block: Block, batch: Batch, steps: Sequence[int]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Return losses, (lanes,), and gradients, (lanes, ...) a parameter, of a block's lanes."""
        losses = self.losses(block, batch, steps)
        leaves = list(block.params.values())
        # A lane's weights are in no other lane's loss: the sum's gradients are each lane's own.
        gradients: list[Tensor | None] = [
            gradient if gradient is None else gradient[: block.size]
            for gradient in torch.autograd.grad(losses.sum(), leaves, allow_unused=True)
        ]
        return losses.detach()[: block.size], gradients

    def losses(self, block: Block, batch: Batch, steps: Sequence[int]) -> Tensor:
        """Return losses with their graph, (rows,); those after the block's lanes are padding.

        Args:
            batch: one for all lanes, or one for each. In the way ``unmapped``: the lane's.
            steps: (block's lanes,) from which a random network draws.
        """
        x, y, own = batch
        keys = [(step,) for step in steps]
        if self.way == "unmapped":
            random_state.seed_all(_draw(self.seeds[block.lanes.start], keys[0]))
            return self._loss(block, first_of(block.params), first_of(block.fixed), x, y)[None]

        def of_lane(params: Tensors, fixed: Tensors, lane: Tensor, x: Inputs, y: Tensor) -> Tensor:
            with self._drawing(block, lane, keys):
                return self._loss(block, params, fixed, x, y)

        rows = len(next(iter(block.params.values()), y))
        given = (block.params, block.fixed, torch.arange(rows))
        if not own:
            return vmap(of_lane, in_dims=(0, 0, 0, None, None))(*given, x, y)
        missing = rows - len(y)
        if missing > 0:

            def padded(tensor: Tensor) -> Tensor:
                return torch.cat([tensor, tensor[:1].expand(missing, *tensor.shape[1:])])

            x, y = inputs.mapped(padded, x), padded(y)
        return vmap(of_lane, in_dims=(0, 0, 0, 0, 0))(*given, x, y)

    @contextmanager
    def _drawing(
        self, block: Block, lane: Tensor, keys: Sequence[tuple[int, ...]]
    ) -> Iterator[None]:
        """Let the block's lanes drop out by their seeds and these keys, if their network does."""
        if self.way == "unmapped" or self.ways.get(DRAWS) == "no":
            yield
            return
        rows = len(next(iter(block.params.values())))
        masks = Masks(lambda: _padded(map(_draw, self.seeds[block.lanes], keys), rows), self.masks)
        with LaneDropout(lane, masks):
            yield
        if masks.taken:
            self.ways[DRAWS] = "yes"
            self.taken = masks.taken

    def fill(self, masks: Sequence[tuple[Tensor, float]], steps: Sequence[int]) -> None:
        """Draw masks of all lanes together, as a pass at these steps takes them."""
        if masks:
            keys = [(step,) for step in steps]
            fill(masks, _padded(map(_draw, self.seeds, keys), len(masks[0][0])))

    def scores(
        self, block: Block, x: Inputs, y: Tensor, chunk: int, judge: Judge
    ) -> tuple[Tensor, Tensor]:
        """Return losses and right answers, (lanes,) each; −1 if the judge finds no sense in them.

        Args:
            x, y: samples and targets, the same for all lanes.
            chunk: the number of the samples' chunk, from which a random network draws.
        """

        def of_lane(
            params: Tensors, fixed: Tensors, lane: Tensor, x: Inputs, y: Tensor
        ) -> tuple[Tensor, Tensor]:
            with self._drawing(block, lane, [(chunk, 1)] * block.size):
                outputs = self._outputs(block, params, fixed, x)
            loss = _summed(evaluated(block.loss)(outputs, y))
            right = judge(outputs, y)
            return loss, torch.full_like(loss, -1, dtype=torch.int64) if right is None else right

        lanes = torch.arange(len(next(iter(block.params.values()))))
        if self.way == "unmapped":
            # A network may draw in evaluations, too, such as one with F.dropout(x, 0.5).
            random_state.seed_all(_draw(self.seeds[block.lanes.start], (chunk, 1)))
            one = first_of(block.params), first_of(block.fixed)
            loss, right = of_lane(*one, lanes[0], x, y)
            return loss[None], right[None]
        mapped = vmap(of_lane, in_dims=(0, 0, 0, None, None))
        loss, right = mapped(block.params, block.fixed, lanes, x, y)
        return loss[: block.size], right[: block.size]

    # --- of one lane ------------------------------------------------------------------------------

    def _loss(self, block: Block, params: Tensors, fixed: Tensors, x: Inputs, y: Tensor) -> Tensor:
        return _summed(block.loss(self._outputs(block, params, fixed, x), y))

    def _outputs(self, block: Block, params: Tensors, fixed: Tensors, x: Inputs) -> Tensor:
        known = self.ways.get(ASSIGNED, "")
        outputs, new = self._called(block, params, fixed, x)
        if self.rehearsing and self.ways.get(ASSIGNED, "") != known:
            # now with copies of the assigned buffers
            outputs, new = self._called(block, params, fixed, x)
        with torch.no_grad():
            for name, tensor in new.items():
                fixed[name].copy_(tensor)
        return outputs

    def _called(
        self, block: Block, params: Tensors, fixed: Tensors, x: Inputs
    ) -> tuple[Tensor, Tensors]:
        """Return a forward pass, and the buffers that it has assigned anew (``self.mean = ...``).

        A network gets copies of those, because autograd may have kept the old value, into which the
        new one is copied.
        """
        assigned = self.ways.get(ASSIGNED, "").splitlines()
        given = {n: t.clone() if n in assigned else t for n, t in fixed.items()}
        state = {**params, **given}
        arguments = inputs.arguments_of(x)
        if self.precision != "bf16":
            outputs = functional_call(block.module, state, *arguments)
        else:
            kind = inputs.tensors(x)[0].device.type
            # uncached: a cast of the parameters belongs to one step
            with torch.autocast(kind, torch.bfloat16, cache_enabled=False):
                outputs = functional_call(block.module, state, *arguments).float()
        # functional_call leaves in the dict the module's values at the end
        new = {n: state[n] for n, t in given.items() if state[n] is not t or n in assigned}
        if more := [n for n in new if n not in assigned]:
            self.ways[ASSIGNED] = "\n".join([*assigned, *more])
        return outputs, {n: t.detach() for n, t in new.items()}


def _summed(loss: Tensor) -> Tensor:
    """Return a loss of shape () as it is; one of (1,) as (), which backward() treats alike."""
    return loss.sum() if loss.ndim else loss


def _padded(seeds: Iterable[int], rows: int) -> list[int]:
    """Return the lanes' seeds, then the first one's for the rows of padding."""
    found = list(seeds)
    return found + found[:1] * (rows - len(found))


def _draw(seed: int, key: Sequence[int]) -> int:
    """Return the seed of the draws of a run's pass: at a step, or in a chunk of an evaluation."""
    return int(np.random.SeedSequence((seed, *key)).generate_state(1, np.uint64)[0] >> 1)
