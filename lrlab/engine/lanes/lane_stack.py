"""Define the class ``Lanes``: a stack of networks as tensors, and its operations."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrlab.data import inputs
from lrlab.data.inputs import Batch, Inputs
from lrlab.engine import forms, python_state
from lrlab.engine.lanes import chunks, copies, hessian
from lrlab.engine.lanes.block import Block, Loss, averaged, block_of, joined, single_blocks
from lrlab.engine.lanes.chunks import Samples
from lrlab.engine.lanes.dropout import DRAWS
from lrlab.engine.lanes.packing import Tensors, packed_together, with_padding
from lrlab.engine.lanes.passes import Passes
from lrlab.engine.lanes.ways import KEEPS_STATE, UNSAVED, find_way
from lrlab.losses import Answers, right_answers


class Lanes:
    """A stack of networks and the ways to run it.

    Attributes:
        params: name to (lanes, ...), the trained parameters. Update them in place only.
        units: (lanes, numbers) each, of which all params are parts, so that an update takes few
            operations; none where their types differ.
        fixed: name to (lanes, ...), buffers and frozen parameters.
        seeds: (lanes,) the runs' seeds; networks that draw random numbers draw from them.
        modules: (lanes,) what runs the forward pass: one for all lanes while they run together, a
            copy for each else, for a forward may count its calls or keep other state in Python.
        losses: (lanes,) the loss function of each, likewise.
        ways: the way that was found for a number of rows, with a batch of their own or without. It
            depends on shapes alone, so stacks cut from one another or joined share the table.
        pad: the rows of a product, if more than lanes. A GPU's library chooses how to sum by the
            number of rows, so lanes that shall have the bits that they have alone need one width,
            whatever their number. Rows after the lanes are copies of the first, never updated.
        precision: ``float32`` or ``tf32`` (see ``devices.prepare``), or ``bf16``: the network
            runs under autocast, its parameters and its loss stay float32.
        accumulate: how many mini-batches ``gradients`` takes one after the other.
        blocks: the lanes in the parts that run side by side.
        passes: runs the blocks, in the stack's ``way``.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        params: Tensors,
        fixed: Tensors,
        seeds: Sequence[int],
        losses: Sequence[Loss],
        ways: dict[tuple[int, bool], str] | None = None,
        pad: int = 0,
        precision: str = "float32",
    ) -> None:
        self.modules, self.losses = list(modules), list(losses)
        count = len(seeds)
        self._wide_params, wide = packed_together(params, max(pad, count))
        self._wide_fixed = with_padding(fixed, max(pad, count))
        self.params = {name: tensor[:count] for name, tensor in self._wide_params.items()}
        self.units = [unit[:count] for unit in wide]
        self.fixed = {name: tensor[:count] for name, tensor in self._wide_fixed.items()}
        self.pad, self.precision, self.seeds = pad, precision, list(seeds)
        self.ways = {} if ways is None else ways
        self.accumulate = 1
        self.passes = Passes(self.seeds, self.ways, precision)
        self.cut()

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def way(self) -> str:
        """``together``, ``one at a time``, or ``unmapped`` for a network that vmap cannot take."""
        return self.passes.way

    @way.setter
    def way(self, way: str) -> None:
        self.passes.way = way

    def gradients(
        self, x: Inputs, y: Tensor, first_steps: Sequence[int], offset: int, own: bool = False
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Return losses and their gradients: the means over ``accumulate`` mini-batches.

        Args:
            x, y, own: inputs and targets, as in ``inputs.Batch``.
            first_steps, offset: a lane is at its step first_steps[lane] + offset, from which a
                random network draws.

        Returns:
            losses: (lanes,), the mean over the batch.
            gradients: (lanes, ...) for each of ``params``; None where no loss depends on it. Where
                some do, those of the others are 0, and ``protocol.absent`` names the others.
        """
        made = self.gradients_at_once if self.accumulate == 1 else functools.partial(_mean, self)
        return made(x, y, first_steps, offset, own)

    def gradients_at_once(
        self, x: Inputs, y: Tensor, first_steps: Sequence[int], offset: int, own: bool = False
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Return losses and their gradients of a single batch; see ``gradients``."""
        found = []
        for block in self.blocks:
            batch, lane = Batch(x, y, own), block.lanes.start
            if own and self.way != "together":
                batch = Batch(inputs.mapped(lambda t, lane=lane: t[lane], x), y[lane])
            steps = [step + offset for step in first_steps[block.lanes]]
            found.append(self.passes.gradients(block, batch, steps))
        if len(found) == 1:
            return found[0]
        losses, gradients = zip(*found, strict=True)
        return torch.cat(losses), joined(gradients)

    @torch.no_grad()
    def evaluate(
        self,
        x: Inputs,
        y: Tensor,
        classes: int | None = None,
        logit: bool = False,
        without: int | None = None,
        axis: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return a full evaluation, in the network's eval mode.

        Args:
            x: (samples, ...), y: (samples,) or of a regression (samples, width); or (samples, ...).
            classes, logit, without, axis: see ``losses.Answers``.

        Returns:
            loss: (lanes,) float32, the mean over the samples, or over the targets that count.
            accuracy: (lanes,) float32, the share of right answers; NaN where there are none, as of
                a regression.
        """
        judge = functools.partial(right_answers, **Answers(classes, logit, without, axis)._asdict())
        self.train_mode(False)
        # on a GPU they stay there, because each look would wait for it; others may lack float64
        device = y.device if y.is_cuda else torch.device("cpu")
        total = torch.zeros(len(self), dtype=torch.float64, device=device)
        right = torch.zeros(len(self), dtype=torch.int64, device=device)
        multiple = chunks.summed_at_once(y.device, self.pad)
        sizes = chunks.chunk_sizes(len(y), multiple)
        for number, (xs, ys) in enumerate(zip(inputs.split(x, sizes), y.split(sizes), strict=True)):
            for block in self.single_blocks() if len(ys) % multiple else self.blocks:
                loss, correct = self.passes.scores(block, xs, ys, number, judge)
                if count := _counted(ys, without):  # else the mean of the chunk is NaN
                    total[block.lanes] += loss.to(device).double() * count
                right[block.lanes] += correct.to(device)
        self.train_mode(True)
        return _means(total.cpu(), right.cpu(), y, without)

    def settle(self, x: Inputs, y: Tensor, *evaluated: Samples, own: bool = False) -> None:
        """Try out, and choose, the fastest way in which each lane has the same bits as alone.

        Args:
            x, y, own: a batch as for ``gradients``.
            evaluated: each samples and targets that ``evaluate`` will get; the number of samples
                decides how a product or a mean is computed.
        """
        key = (self.pad or len(self), own)
        if key not in self.ways:
            self.ways[key] = find_way(self, Batch(x, y, own), evaluated)
        self.way = self.ways[key]
        if self.way == "together" and copies.differ(self.modules, self.losses):
            self.way = "one at a time"
        if self.way != "together":
            self._part()
        self.cut()

    @property
    def keeps_state(self) -> bool:
        """Whether a forward pass or a loss was found to change any Python value."""
        return self.ways.get(KEEPS_STATE) == "yes"

    @property
    def draws(self) -> bool:
        """Whether the lanes drop out together."""
        return self.way != "unmapped" and self.ways.get(DRAWS) == "yes"

    @property
    def unsaved(self) -> str:
        """The names of changing Python values that cannot be saved."""
        return self.ways.get(UNSAVED, "")

    def python(self, lane: int) -> tuple[python_state.State, python_state.State]:
        """Return the Python values of a lane's network and its loss."""
        return python_state.of(self.modules[lane]), python_state.of(self.losses[lane], True)

    def changed(self, before: tuple[python_state.State, python_state.State]) -> bool:
        """Return whether ``python`` of the first lane now gives another state."""
        pairs = zip(before, self.python(0), strict=True)
        return any(python_state.changes(*pair) for pair in pairs)

    def load_python(self, lane: int, network: python_state.State, loss: python_state.State) -> None:
        """Put changes of the values from ``python`` into a lane.

        Raises:
            forms.Unfit: they do not belong there.
        """
        if not network and not loss:
            return
        self._part()
        python_state.put_back(self.modules[lane], network)
        python_state.put_back(self.losses[lane], loss)
        if self.way == "together" and copies.differ(self.modules, self.losses):
            self.way = "one at a time"
        self.cut()

    def _part(self) -> None:
        """Give each lane its own network and loss in Python; the tensors stay the stack's."""
        self.modules = copies.distinct(self.modules, copy.deepcopy)
        self.losses = copies.distinct(self.losses, copies.copied_loss)

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Undo everything done in the block: modules are copies, and buffers are put back."""
        before = {n: t.clone() for n, t in self.fixed.items()}
        modules, losses = self.modules, self.losses
        self.modules = copies.each_once(modules, copies.python_copy)
        self.losses = copies.each_once(losses, copies.copied_loss)
        self.cut()
        self.passes.rehearsing = True
        try:
            yield
        finally:
            self.passes.rehearsing = False
            self.modules, self.losses = modules, losses
            for name, tensor in before.items():
                self.fixed[name].copy_(tensor)
            self.cut()

    def twin(self) -> Lanes:
        """Return copies of these lanes, run the same way, that share nothing with them."""

        def copied(tensors: Tensors) -> Tensors:
            return {name: tensor.detach().clone() for name, tensor in tensors.items()}

        modules = copy.deepcopy(self.modules)
        losses = [copies.copied_loss(loss) for loss in self.losses]
        twin = _like(self, modules, copied(self.params), copied(self.fixed), self.seeds, losses)
        twin.way = self.way
        twin.cut()
        return twin

    @torch.no_grad()
    def follow(self, other: Lanes) -> None:
        """Take the numbers of the lanes that these are copies of."""
        for mine, theirs in ((self.params, other.params), (self.fixed, other.fixed)):
            for name, tensor in mine.items():
                tensor.copy_(theirs[name])

    def curvature(self, x: Inputs, y: Tensor) -> hessian.Curvature:
        """Return losses, gradients, and the Hessian's product; see ``hessian.curvature``."""
        return hessian.curvature(self.passes, self.blocks, x, y)

    def select(self, lanes: Sequence[int]) -> Lanes:
        """Return a new stack of some lanes. ``settle`` it before use."""
        index = torch.as_tensor(np.asarray(lanes, dtype=np.int64))

        def pick(tensors: Tensors) -> Tensors:
            return {n: t.detach()[index.to(t.device)] for n, t in tensors.items()}

        seeds = [self.seeds[i] for i in lanes]
        modules, losses = [self.modules[i] for i in lanes], [self.losses[i] for i in lanes]
        return _like(self, modules, pick(self.params), pick(self.fixed), seeds, losses)

    def join(self, other: Lanes) -> Lanes:
        """Return a new stack of these lanes, then the other's. ``settle`` it before use."""

        def together(these: Tensors, those: Tensors) -> Tensors:
            return {n: torch.cat([t.detach(), those[n].detach()]) for n, t in these.items()}

        return _like(
            self,
            self.modules + other.modules,
            together(self.params, other.params),
            together(self.fixed, other.fixed),
            self.seeds + other.seeds,
            self.losses + other.losses,
        )

    def state(self, lane: int) -> Tensors:
        """Return copies of a lane's parameters and buffers on the CPU, by name in the stack."""
        return {n: t.detach()[lane].cpu().clone() for n, t in {**self.params, **self.fixed}.items()}

    @torch.no_grad()
    def load(self, lane: int, state: Tensors) -> None:
        """Put the result of ``state`` into a lane, in place.

        Raises:
            forms.Unfit: it is the state of another network.
        """
        own = {**self.params, **self.fixed}
        if set(own) != set(state):
            raise forms.Unfit("its tensors have other names")
        for name, tensor in own.items():
            python_state.put_tensor(tensor[lane], state[name], name)

    def state_dict(self, lane: int) -> dict[str, Any]:
        """Return one lane's state dict, on the CPU, as its network alone would have it."""
        return copies.state_dict_of(self.modules[lane], self.state(lane))

    def cut(self) -> None:
        """Cut the stack into the blocks of its way, after that or its modules have changed."""
        if self.way == "together":
            lanes = slice(0, len(self))
            python = self.modules[0], self.losses[0]
            self.blocks = [block_of(lanes, *python, self._wide_params, self._wide_fixed)]
            return
        self.blocks = self.single_blocks()

    def single_blocks(self) -> list[Block]:
        """Return a block for each lane."""
        return single_blocks(self.modules, self.losses, self.params, self.fixed)

    def train_mode(self, train: bool) -> None:
        """Put the networks into training mode, or into evaluation mode."""
        for module in dict.fromkeys(self.modules):
            module.train(train)


@torch.no_grad()
def with_params(lanes: Lanes, params: Sequence[Tensor]) -> Lanes:
    """Return a twin with these numbers, (lanes, ...) each, in the place of its parameters."""
    twin = lanes.twin()
    for mine, tensor in zip(twin.params.values(), params, strict=True):
        mine.copy_(tensor)
    return twin


def _like(
    lanes: Lanes,
    modules: Sequence[nn.Module],
    params: Tensors,
    fixed: Tensors,
    seeds: Sequence[int],
    losses: Sequence[Loss],
) -> Lanes:
    """Return other lanes, run like these; the arguments are those of the class."""
    made = Lanes(modules, params, fixed, seeds, losses, lanes.ways, lanes.pad, lanes.precision)
    made.accumulate = lanes.accumulate
    return made


def _mean(
    lanes: Lanes, x: Inputs, y: Tensor, first_steps: Sequence[int], offset: int, own: bool
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the means of losses and gradients over the mini-batches of a step."""
    count, axis = lanes.accumulate, int(own)
    columns = zip(*(t.chunk(count, axis) for t in [*inputs.tensors(x), y]), strict=True)
    first = [count * step for step in first_steps]  # each mini-batch draws its own numbers
    found = []
    for i, column in enumerate(columns):
        *xs, ys = (part.contiguous() for part in column)
        batch = inputs.like(x, xs), ys
        found.append(lanes.gradients_at_once(*batch, first, count * offset + i, own))
    losses, gradients = zip(*found, strict=True)
    return torch.stack(losses).sum(0) / count, averaged(gradients)


def _means(total: Tensor, right: Tensor, y: Tensor, without: int | None) -> tuple[Tensor, Tensor]:
    """Return the mean loss and the share of right answers, (lanes,) each, from their sums."""
    judged = 0
    if not y.is_floating_point():
        judged = int(((y >= 0) if without is None else (y >= 0) & (y != without)).sum())
    share = (right.double() / judged).where(right >= 0, math.nan).float()
    return (total / _counted(y, without)).float(), share


def _counted(y: Tensor, without: int | None) -> int:
    """Return how many samples, or targets other than those that do not count, a mean is over."""
    return len(y) if without is None else int((y != without).sum())
