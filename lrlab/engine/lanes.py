"""Lanes: networks of one architecture on stacked parameters, the lane axis always first.

A lane must have the bits that it has alone. Most networks keep them in a stack, some do not (a
convolution becomes a grouped one, whose sums run in another order), so ``settle`` compares each
new stack with its lanes alone, and where one bit differs the lanes train one at a time. They do
too where that is faster.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor
from torch.func import functional_call, stack_module_state, vmap
from torch.overrides import TorchFunctionMode

from lrlab.engine import devices, python_state
from lrlab.engine.optimizers import protocol
from lrlab.losses import right_answers

Loss = Callable[[Tensor, Tensor], Tensor]
Tensors = dict[str, Tensor]
Samples = tuple[Tensor, Tensor]  # and their targets
T = TypeVar("T")

ALIGNMENT = 16  # numbers, a cache line of float32
SMALL = (
    16_384  # numbers; to write a product of so many with gaps costs less than an operation saves
)
KEEPS_STATE = (0, False)  # in the table of ways: whether it was found to keep state in Python
UNSAVED = (0, True)  # likewise: names of what of that cannot be saved
ASSIGNED = (-1, False)  # likewise: names of the buffers that a forward pass assigns anew
EVALUATION_CHUNK = 1000  # samples a forward pass: more only takes memory


class _Block(NamedTuple):
    """Lanes that go through the network together, as views of the stack, padded if that is."""

    lanes: slice
    module: nn.Module
    loss: Loss
    params: Tensors  # (rows, ...), those behind the lanes are padding
    fixed: Tensors

    @property
    def size(self) -> int:
        """Its lanes, without padding."""
        return self.lanes.stop - self.lanes.start


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
        way: ``together``, ``one at a time``, or ``unmapped`` for a network that vmap cannot take.
        ways: the way that was found for a number of rows, with a batch of their own or without. It
            hangs on shapes alone, so stacks cut from one another or joined share the table.
        pad: the rows of a product, if more than lanes. A GPU's library chooses how to sum by the
            number of rows, so lanes that shall have the bits that they have alone need one width,
            whatever their number. Rows behind the lanes are copies of the first, never updated.
        precision: ``float32`` or ``tf32`` (see ``environment.prepare``), or ``bf16``: the network
            runs under autocast, its parameters and its loss stay float32.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        params: Tensors,
        fixed: Tensors,
        seeds: Sequence[int],
        loss: Loss,
        ways: dict[tuple[int, bool], str] | None = None,
        pad: int = 0,
        precision: str = "float32",
        losses: Sequence[Loss] = (),
    ) -> None:
        self.modules = list(modules)
        count = len(seeds)
        self.losses = list(losses) or [loss] * count
        self._wide_params, wide = _packed(params, max(pad, count))
        self._wide_fixed = _padded(fixed, max(pad, count))
        self.params = {name: tensor[:count] for name, tensor in self._wide_params.items()}
        self.units = [unit[:count] for unit in wide]
        self.fixed = {name: tensor[:count] for name, tensor in self._wide_fixed.items()}
        self.pad = pad
        self.precision = precision
        self.seeds = list(seeds)
        self.loss = loss
        self.way = "together"
        self._draws_in_python = False
        self._mapped_left = False
        self._rehearsing = False
        self._right: Callable[..., Tensor | None] = right_answers
        self.ways = {} if ways is None else ways
        self._shared = vmap(self._lane_loss, in_dims=(0, 0, None, None))
        self._own = vmap(self._lane_loss, in_dims=(0, 0, 0, 0))
        self._scores = vmap(self._lane_scores, in_dims=(0, 0, None, None))
        self._cut()

    def __len__(self) -> int:
        return len(self.seeds)

    def gradients(
        self, x: Tensor, y: Tensor, first_steps: Sequence[int], offset: int
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Losses and their gradients.

        Args:
            x: inputs, (batch, ...) for all lanes or (lanes, batch, ...).
            y: targets, for all lanes or (lanes, ...), see ``of_each_lane``.
            first_steps, offset: a lane is at its step first_steps[lane] + offset, from which a
                random network draws.

        Returns:
            losses: (lanes,), the mean over the batch.
            gradients: (lanes, ...) for each of ``params``; None where no loss depends on it. Where
                some do, those of the others are 0, and ``optimizers.absent`` names the others.
        """
        own = of_each_lane(y)
        found = []
        for block in self._blocks:
            first = block.lanes.start
            alone = own and self.way != "together"
            batch = (x[first], y[first]) if alone else (x, y)
            found.append(self._block_gradients(block, *batch, first_steps[first] + offset))
        if len(found) == 1:
            return found[0]
        losses, gradients = zip(*found, strict=True)
        return torch.cat(losses), _joined(gradients)

    @torch.no_grad()
    def evaluate(
        self, x: Tensor, y: Tensor, classes: int | None = None, logit: bool = False
    ) -> tuple[Tensor, Tensor]:
        """A full evaluation, in the network's eval mode.

        Args:
            x: (samples, ...), y: (samples,) or of a regression (samples, width).
            classes, logit: as for ``losses.right_answers``.

        Returns:
            loss: (lanes,) float32, the mean over the samples.
            accuracy: (lanes,) float32, the share of right answers; NaN where there are none, as of
                a regression.
        """
        self._right = functools.partial(right_answers, classes=classes, logit=logit)
        self._train_mode(False)
        # on a GPU they stay there, for each look would wait for it; others may lack float64
        device = x.device if x.is_cuda else torch.device("cpu")
        total = torch.zeros(len(self), dtype=torch.float64, device=device)
        right = torch.zeros(len(self), dtype=torch.int64, device=device)
        multiple = _summed_at_once(y.device, self.pad)
        sizes = _chunks(len(y), multiple)
        for number, (xs, ys) in enumerate(zip(x.split(sizes), y.split(sizes), strict=True)):
            for block in self._single_blocks() if len(ys) % multiple else self._blocks:
                loss, correct = self._block_scores(block, xs, ys, number)
                total[block.lanes] += loss.to(device).double() * len(ys)
                right[block.lanes] += correct.to(device)
        self._train_mode(True)
        judged = 0 if y.is_floating_point() else (y >= 0).sum().cpu()
        total, right = total.cpu(), right.cpu()
        share = (right.double() / judged).where(right >= 0, math.nan).float()
        return (total / len(y)).float(), share

    def settle(self, x: Tensor, y: Tensor, *evaluated: Samples) -> None:
        """Choose the fastest way in which each lane has the bits that it has alone, by trying.

        Args:
            x, y: a batch as for ``gradients``.
            evaluated: each samples and targets that ``evaluate`` will get, since the number of
                samples decides how a product or a mean is computed.
        """
        key = (self.pad or len(self), of_each_lane(y))
        if key not in self.ways:
            self.ways[key] = self._find_way(x, y, evaluated)
        self.way = self.ways[key]
        if self.way == "together" and self._differ():
            self.way = "one at a time"
        if self.way != "together":
            self._part()
        self._cut()

    @property
    def keeps_state(self) -> bool:
        """Whether a forward pass or a loss was found to change anything in Python."""
        return self.ways.get(KEEPS_STATE) == "yes"

    @property
    def unsaved(self) -> str:
        """Names of what was found to change in Python and cannot be saved, or nothing."""
        return self.ways.get(UNSAVED, "")

    def python(self, lane: int) -> tuple[python_state.State, python_state.State]:
        """What a lane's network and its loss keep in Python."""
        return python_state.of(self.modules[lane]), python_state.of(self.losses[lane], True)

    def changed(self, before: tuple[python_state.State, python_state.State]) -> bool:
        """Whether ``python`` of the first lane gives another state now."""
        pairs = zip(before, self.python(0), strict=True)
        return any(python_state.changes(*pair) for pair in pairs)

    def load_python(self, lane: int, network: python_state.State, loss: python_state.State) -> None:
        """Put changes of what ``python`` gave into a lane.

        Raises:
            python_state.Unfit: they do not belong there.
        """
        if not network and not loss:
            return
        self._part()
        python_state.put_back(self.modules[lane], network)
        python_state.put_back(self.losses[lane], loss)
        if self.way == "together" and self._differ():
            self.way = "one at a time"
        self._cut()

    def _part(self) -> None:
        """Give each lane a network and a loss of its own in Python; the tensors are the stack's."""
        self.modules = _distinct(self.modules, copy.deepcopy)
        self.losses = _distinct(self.losses, _copied)

    def _differ(self) -> bool:
        """Whether lanes differ in Python, as those do that joined at other steps."""
        pairs = {(id(m), id(f)): (m, f) for m, f in zip(self.modules, self.losses, strict=True)}
        if len(pairs) == 1:
            return False
        first, *others = [
            (python_state.of(module), python_state.of(loss, True))
            for module, loss in pairs.values()
        ]
        return any(
            python_state.changes(mine, theirs)
            for other in others
            for mine, theirs in zip(first, other, strict=True)
        )

    def _find_way(self, x: Tensor, y: Tensor, evaluated: Sequence[Samples]) -> str:
        self.way = "together"
        try:
            # A network that draws random numbers is refused here: in a stack its numbers would
            # depend on the other lanes.
            with _Hooks() as hooks:
                together = self._trial(x, y, evaluated)
        except RuntimeError as error:
            if devices.out_of_memory(error):
                raise
            self._note_state(x, y, evaluated)
            return "unmapped"
        if self._draws_in_python:
            return "unmapped"
        if hooks.found or self._mapped_left:  # vmap calls no hook of a tensor's gradient
            self.ways.pop(KEEPS_STATE, None)
            self._note_state(x, y, evaluated)
            return "unmapped"
        if self.keeps_state and len(self) > 1:
            return "one at a time"
        if self.pad:
            return self._padded_way(x, y, evaluated)
        if len(self) == 1:
            return "together"
        self.way = "one at a time"
        if not same_bits(together, self._trial(x, y, evaluated)):
            return "one at a time"
        return "together" if self._is_faster_together(x, y) else "one at a time"

    def _is_faster_together(self, x: Tensor, y: Tensor) -> bool:
        """Whether a step of all lanes takes no longer than a step of each; it changes no bit.

        One convolution of many lanes can take longer than one for each, other layers do not.
        """

        def seconds(way: str, times: int) -> float:
            self.way = way
            with self.rehearsal():
                return min(self._gradient_seconds(x, y) for _ in range(times))

        if x.is_cuda or seconds("together", 1) < seconds("one at a time", 1):
            return True
        return seconds("together", 3) < seconds("one at a time", 3)

    def _gradient_seconds(self, x: Tensor, y: Tensor) -> float:
        started = time.perf_counter()
        self.gradients(x, y, [0] * len(self), 0)
        return time.perf_counter() - started

    def _padded_way(self, x: Tensor, y: Tensor, evaluated: Sequence[Samples]) -> str:
        """Whether lanes have neighbours' numbers in no bit, in a full stack of the padded width.

        All stacks of the group take what is found, the run alone too: it is tried with copies of
        the lanes in all rows, for some of which it is looked at.
        """
        own = of_each_lane(y)
        if y.shape[int(own)] % _summed_at_once(y.device, self.pad):
            return "one at a time"

        def trial(lanes: list[int]) -> list[Tensor]:
            batch = (x[lanes], y[lanes]) if own else (x, y)
            return self.select(lanes)._trial(*batch, evaluated)

        rows = [row % len(self) for row in range(self.pad)]
        together = trial(rows)
        for row in {0, 1, 2, 3, self.pad // 2, self.pad - 1} & set(range(self.pad)):
            if not same_bits([t[row : row + 1] for t in together], trial([rows[row]])):
                return "one at a time"
        return "together"

    def _note_state(self, x: Tensor, y: Tensor, evaluated: Sequence[Samples]) -> None:
        """Try one lane without vmap, to see what it changes in Python."""
        if KEEPS_STATE in self.ways:
            return
        alone = self.select([0])
        alone.way = "unmapped"
        alone._cut()
        own = of_each_lane(y)
        try:
            alone._trial(x[:1] if own else x, y[:1] if own else y, evaluated)
        except Exception as error:  # in training it will raise as well, and be told there
            if devices.out_of_memory(error):
                raise

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """What is tried in here leaves no trace: modules are copies, and buffers are put back."""
        before = {n: t.clone() for n, t in self.fixed.items()}
        modules, losses = self.modules, self.losses
        copies = {id(module): _python_copy(module) for module in modules}
        self.modules = [copies[id(module)] for module in modules]
        copied = {id(loss): _copied(loss) for loss in losses}
        self.losses = [copied[id(loss)] for loss in losses]
        self._cut()
        self._rehearsing = True
        try:
            yield
        finally:
            self._rehearsing = False
            self.modules, self.losses = modules, losses
            for name, tensor in before.items():
                self.fixed[name].copy_(tensor)
            self._cut()

    def twin(self) -> Lanes:
        """Copies of these lanes, run the same way: what is done with them does not touch these."""

        def copied(tensors: Tensors) -> Tensors:
            return {name: tensor.detach().clone() for name, tensor in tensors.items()}

        modules, losses = copy.deepcopy(self.modules), [_copied(loss) for loss in self.losses]
        twin = self._like(modules, copied(self.params), copied(self.fixed), self.seeds, losses)
        twin.way = self.way
        twin._cut()
        return twin

    @torch.no_grad()
    def follow(self, other: Lanes) -> None:
        """Take the numbers of lanes that these are copies of."""
        for mine, theirs in ((self.params, other.params), (self.fixed, other.fixed)):
            for name, tensor in mine.items():
                tensor.copy_(theirs[name])

    def curvature(
        self, x: Tensor, y: Tensor
    ) -> tuple[Tensor, list[Tensor | None], Callable[[Sequence[Tensor]], list[Tensor]]]:
        """Losses, gradients, and what multiplies the Hessian of each lane's loss.

        Args:
            x: inputs, (batch, ...); y: targets, (batch,); the same for all lanes, at step 0.

        Returns:
            losses, gradients: as from ``gradients``.
            product: takes a vector of each lane, (lanes, ...) for each of ``params``, and returns
                its product with the lane's Hessian, likewise; 0 where no loss depends on it. It
                raises RuntimeError where an operation of the network has no second derivative in
                torch.
        """
        losses, slopes = [], []
        for block in self._blocks:
            loss = self._block_losses(block, x, y, 0)
            leaves = list(block.params.values())
            losses.append(loss.detach()[: block.size])
            slopes.append(
                torch.autograd.grad(loss.sum(), leaves, create_graph=True, allow_unused=True)
            )

        def product(vectors: Sequence[Tensor]) -> list[Tensor]:
            pairs = zip(self._blocks, slopes, strict=True)
            return _joined([_hessian_product(*pair, vectors) for pair in pairs])

        gradients = [
            [None if g is None else g.detach()[: block.size] for g in slope]
            for block, slope in zip(self._blocks, slopes, strict=True)
        ]
        return torch.cat(losses), _joined(gradients), product

    def select(self, lanes: Sequence[int]) -> Lanes:
        """A new stack of some lanes. ``settle`` it before use."""
        index = torch.as_tensor(np.asarray(lanes, dtype=np.int64))

        def pick(tensors: Tensors) -> Tensors:
            return {n: t.detach()[index.to(t.device)] for n, t in tensors.items()}

        seeds = [self.seeds[i] for i in lanes]
        modules, losses = [self.modules[i] for i in lanes], [self.losses[i] for i in lanes]
        return self._like(modules, pick(self.params), pick(self.fixed), seeds, losses)

    def join(self, other: Lanes) -> Lanes:
        """A new stack of these lanes and the other's behind them. ``settle`` it before use."""

        def together(these: Tensors, those: Tensors) -> Tensors:
            return {n: torch.cat([t.detach(), those[n].detach()]) for n, t in these.items()}

        return self._like(
            self.modules + other.modules,
            together(self.params, other.params),
            together(self.fixed, other.fixed),
            self.seeds + other.seeds,
            self.losses + other.losses,
        )

    def state(self, lane: int) -> Tensors:
        """Copies of one lane's parameters and buffers on the CPU, by their names in the stack."""
        return {n: t.detach()[lane].cpu().clone() for n, t in {**self.params, **self.fixed}.items()}

    @torch.no_grad()
    def load(self, lane: int, state: Tensors) -> None:
        """Put what ``state`` gave into a lane, in place.

        Raises:
            python_state.Unfit: it is the state of another network.
        """
        own = {**self.params, **self.fixed}
        if set(own) != set(state):
            raise python_state.Unfit("its tensors have other names")
        for name, tensor in own.items():
            python_state.put_tensor(tensor[lane], state[name], name)

    def state_dict(self, lane: int) -> dict[str, Any]:
        """One lane's state dict, on the CPU, as its network alone would have it."""
        own = self.state(lane)
        # tied weights have one name in the stack, and all their names in a state dict
        module = self.modules[lane]
        first = {id(t): n for n, t in module.named_parameters()}
        first |= {id(t): n for n, t in module.named_buffers()}
        saved = module.state_dict(keep_vars=True)
        found = {n: own[first[id(t)]] for n, t in saved.items() if id(t) in first}
        extra = python_state.extra(module)  # of `get_extra_state`, torch's own way
        return found | {n: value for n, value in extra.items() if n in saved}

    # --- inside -----------------------------------------------------------------------------------

    def _like(
        self,
        modules: Sequence[nn.Module],
        params: Tensors,
        fixed: Tensors,
        seeds: Sequence[int],
        losses: Sequence[Loss],
    ) -> Lanes:
        given = (self.loss, self.ways, self.pad, self.precision, losses)
        return Lanes(modules, params, fixed, seeds, *given)

    def _cut(self) -> None:
        if self.way == "together":
            lanes = slice(0, len(self))
            python = self.modules[0], self.losses[0]
            self._blocks = [_block(lanes, *python, self._wide_params, self._wide_fixed)]
            return
        self._blocks = self._single_blocks()

    def _single_blocks(self) -> list[_Block]:
        return [
            _block(
                slice(i, i + 1),
                self.modules[i],
                self.losses[i],
                {n: t[i : i + 1] for n, t in self.params.items()},
                {n: t[i : i + 1] for n, t in self.fixed.items()},
            )
            for i in range(len(self))
        ]

    def _train_mode(self, train: bool) -> None:
        for module in dict.fromkeys(self.modules):
            module.train(train)

    def _block_gradients(
        self, block: _Block, x: Tensor, y: Tensor, step: int
    ) -> tuple[Tensor, list[Tensor | None]]:
        losses = self._block_losses(block, x, y, step)
        leaves = list(block.params.values())
        # A lane's weights are in no other lane's loss: the sum's gradients are each lane's own.
        gradients: list[Tensor | None] = [
            gradient if gradient is None else gradient[: block.size]
            for gradient in torch.autograd.grad(losses.sum(), leaves, allow_unused=True)
        ]
        return losses.detach()[: block.size], gradients

    def _block_losses(self, block: _Block, x: Tensor, y: Tensor, step: int) -> Tensor:
        self._module, self._loss = block.module, block.loss
        if self.way == "unmapped":
            python_state.seed_all(_draw(self.seeds[block.lanes.start], step))
            return self._lane_loss(_first(block.params), _first(block.fixed), x, y)[None]
        if not of_each_lane(y):
            return self._shared(block.params, block.fixed, x, y)
        missing = len(next(iter(block.params.values()), y)) - len(y)
        if missing > 0:
            x, y = (torch.cat([t, t[:1].expand(missing, *t.shape[1:])]) for t in (x, y))
        return self._own(block.params, block.fixed, x, y)

    def _block_scores(
        self, block: _Block, x: Tensor, y: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        self._module, self._loss = block.module, block.loss
        if self.way == "unmapped":
            # A network may draw in evaluations too, such as one with F.dropout(x, 0.5).
            python_state.seed_all(_draw(self.seeds[block.lanes.start], chunk, 1))
            loss, right = self._lane_scores(_first(block.params), _first(block.fixed), x, y)
            return loss[None], right[None]
        loss, right = self._scores(block.params, block.fixed, x, y)
        return loss[: block.size], right[: block.size]

    def _lane_loss(self, params: Tensors, fixed: Tensors, x: Tensor, y: Tensor) -> Tensor:
        loss = self._loss(self._outputs(params, fixed, x), y)
        return loss.sum() if loss.ndim else loss  # (1,), of which backward() makes no difference

    def _lane_scores(
        self, params: Tensors, fixed: Tensors, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        outputs = self._outputs(params, fixed, x)
        loss = self._loss(outputs, y)
        loss = loss.sum() if loss.ndim else loss
        right = self._right(outputs, y)
        return loss, torch.full_like(loss, -1, dtype=torch.int64) if right is None else right

    def _outputs(self, params: Tensors, fixed: Tensors, x: Tensor) -> Tensor:
        known = self.ways.get(ASSIGNED, "")
        outputs, new = self._called(params, fixed, x)
        if self._rehearsing and self.ways.get(ASSIGNED, "") != known:
            outputs, new = self._called(params, fixed, x)  # now with copies of what is assigned
        with torch.no_grad():
            for name, tensor in new.items():
                fixed[name].copy_(tensor)
        return outputs

    def _called(self, params: Tensors, fixed: Tensors, x: Tensor) -> tuple[Tensor, Tensors]:
        """A forward pass, and the buffers that it has assigned anew (``self.mean = ...``).

        A network gets copies of those, for autograd may have kept the old value, into which the
        new one is copied.
        """
        assigned = self.ways.get(ASSIGNED, "").splitlines()
        given = {n: t.clone() if n in assigned else t for n, t in fixed.items()}
        state = {**params, **given}
        if self.precision != "bf16":
            outputs = functional_call(self._module, state, (x,))
        else:
            # uncached: a cast of the parameters is of one step
            with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
                outputs = functional_call(self._module, state, (x,)).float()
        # functional_call leaves in the dict what the module holds at the end
        new = {n: state[n] for n, t in given.items() if state[n] is not t or n in assigned}
        if more := [n for n in new if n not in assigned]:
            self.ways[ASSIGNED] = "\n".join([*assigned, *more])
        return outputs, {n: t.detach() for n, t in new.items()}

    def _trial(self, x: Tensor, y: Tensor, evaluated: Sequence[Samples]) -> list[Tensor]:
        """What a step gives, and an evaluation of each length and layout of samples.

        Outputs are compared too: a mean can hide a last bit in which they differ.
        """
        multiple = _summed_at_once(y.device, self.pad)
        chunks: dict[tuple[int, tuple[int, ...]], Samples] = {}
        for xs, ys in evaluated:
            for length in _chunks(len(ys), multiple):
                chunks[length, xs.stride()] = xs[-length:], ys[-length:]
        with self.rehearsal():
            before, drawn = self.python(0), _global_state()
            losses, gradients = self.gradients(x, y, [0] * len(self), 0)
            found = [losses, *(g for g in gradients if g is not None)]
            self._right = lambda outputs, y: outputs
            self._train_mode(False)
            for xs, ys in chunks.values():
                blocks = self._single_blocks() if len(ys) % multiple else self._blocks
                with torch.no_grad():
                    scores = [self._block_scores(block, xs, ys, 0) for block in blocks]
                found += [torch.cat(parts) for parts in zip(*scores, strict=True)]
            self._train_mode(True)
            if self.way != "unmapped":  # there it is seeded
                self._draws_in_python = drawn != _global_state()
            self._mapped_left = any(map(_keeps_mapped, self.modules + self.losses))
            if self._mapped_left:  # they are of no use outside of vmap, not even to be looked at
                return found
            changed = self.changed(before)
            pairs = zip(before, self.python(0), strict=True)
            lost = [n for pair in pairs for n in python_state.unsaved(python_state.changes(*pair))]
            if lost:
                self.ways[UNSAVED] = ", ".join(lost[:3])
            if changed or KEEPS_STATE not in self.ways:
                self.ways[KEEPS_STATE] = "yes" if changed else "no"
        return found


def of_each_lane(y: Tensor) -> bool:
    """Whether targets are of one batch for each lane, the lane axis first, not of one for all.

    Of one batch they are (batch,) whole numbers, or of a regression (batch, width) floats.
    """
    return y.ndim > (2 if y.is_floating_point() else 1)


def _chunks(samples: int, multiple: int) -> list[int]:
    """How many samples each forward pass of an evaluation takes; all but the last a multiple."""
    whole = samples - samples % multiple
    sizes = [EVALUATION_CHUNK] * (whole // EVALUATION_CHUNK)
    return [size for size in (*sizes, whole % EVALUATION_CHUNK, samples - whole) if size]


def _summed_at_once(device: torch.device, pad: int) -> int:
    """By how many samples a batch must divide for lanes to take it side by side.

    A GPU sums a long row four numbers at a time from the first aligned address on. Where a row is
    no whole number of fours, the bits of a lane's mean hang on its place in the stack.
    """
    return 4 if pad > 1 and device.type == "cuda" else 1


def stack(
    networks: Sequence[nn.Module],
    seeds: Sequence[int],
    loss: Loss,
    device: str,
    ways: dict[tuple[int, bool], str] | None = None,
    pad: int = 0,
    precision: str = "float32",
) -> Lanes:
    """Lanes of networks that differ in their numbers only, on the device.

    What they keep in Python may differ too, such as numbers that a network has drawn.
    """
    module = networks[0].to(device).train()
    for network in networks[1:]:
        network.to(device).train()
    frozen = {n for n, p in module.named_parameters() if not p.requires_grad}
    params, buffers = stack_module_state(list(networks))
    trained = {n: t.detach() for n, t in params.items() if n not in frozen}
    fixed = {n: t.detach() for n, t in {**params, **buffers}.items() if n not in trained}
    first = python_state.of(module)
    modules = [
        module
        if other is module or not python_state.changes(first, python_state.of(other))
        else other
        for other in networks
    ]
    return Lanes(modules, trained, fixed, seeds, loss, ways, pad, precision)


def bytes_a_lane(network: nn.Module, loss: Loss, x: Tensor, y: Tensor, probe: int = 0) -> int:
    """The memory that one more lane takes, by measuring one forward pass on the CPU.

    Parameters, gradients, and what an optimizer and a trial of the stack take; a batch of its own,
    what autograd keeps of it, and the gradients of that; and a chunk of an evaluation, whose
    samples the lanes share. Where the lane is measured with a probe batch of so many samples, the
    meter's vectors, and what second derivatives keep. The factors were measured: what training
    took at its peak was 40% to 97% of this, for MLPs, CNNs, SGD and Adam, measured or not.
    """
    kept = 0
    tensors = [*network.parameters(), *network.buffers()]
    others = {t.untyped_storage().data_ptr() for t in (x, y, *tensors)}

    def count(tensor: Tensor) -> None:
        # Nothing is kept: an output that its own node kept would never be freed.
        nonlocal kept
        if tensor.untyped_storage().data_ptr() not in others:
            kept += tensor.nbytes

    own = sum(t.nbytes for t in tensors)
    with (
        torch.random.fork_rng(devices=[]),
        torch.autograd.graph.saved_tensors_hooks(count, lambda nothing: nothing),
    ):
        loss(network(x), y)
    sample = kept // max(len(y), 1)
    meter = 20 * own + probe * (8 * sample + x[0].nbytes) if probe else 0
    return 7 * own + 2 * kept + x.nbytes + EVALUATION_CHUNK * sample + meter


def _block(lanes: slice, module: nn.Module, loss: Loss, params: Tensors, fixed: Tensors) -> _Block:
    return _Block(
        lanes,
        module,
        loss,
        {n: t.detach().requires_grad_() for n, t in params.items()},
        {n: t.detach() for n, t in fixed.items()},
    )


def _padded(tensors: Tensors, rows: int) -> Tensors:
    """The tensors with copies of their first lane behind the last, (rows, ...)."""

    def padded(tensor: Tensor) -> Tensor:
        missing = rows - len(tensor)
        if not missing:
            return tensor
        return torch.cat([tensor, tensor[:1].expand(missing, *tensor.shape[1:])])

    return {name: padded(tensor) for name, tensor in tensors.items()}


def _packed(params: Tensors, rows: int) -> tuple[Tensors, list[Tensor]]:
    """Copies of the parameters in few tensors, each at an address that suits SIMD.

    Each large matrix is a tensor of its own, for a product of many lanes is written to memory
    without gaps only, else it is copied; all others lie side by side in one. It is the same for any
    number of lanes, for an optimizer's buffers lie likewise and go from stack to stack.

    Returns:
        The parameters, (rows, ...), padded; and what they lie in, (rows, numbers) each, or nothing.
    """
    params = _padded(params, rows)
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


def _hessian_product(
    block: _Block, slopes: Sequence[Tensor | None], vectors: Sequence[Tensor]
) -> list[Tensor]:
    """Of a block's gradients, which have a graph, with its lanes' part of some vectors."""
    leaves = list(block.params.values())
    # As a sum, for with grad_outputs torch imports its compiler, which takes seconds.
    along = [
        (as_real(g[: block.size]) * as_real(v[block.lanes])).sum()
        for g, v in zip(slopes, vectors, strict=True)
        if g is not None and g.requires_grad
    ]
    found: Sequence[Tensor | None] = [None] * len(leaves)
    if along:  # else the loss is linear
        total = torch.stack(along).sum()
        found = torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True)
    pairs = zip(found, leaves, strict=True)
    whole = [torch.zeros_like(p) if t is None else t.detach() for t, p in pairs]
    return [t[: block.size] for t in whole]


def _joined(blocks: Sequence[Sequence[Any]]) -> list[Any]:
    """What all blocks have of each parameter, one behind the other; None where all have."""
    if len(blocks) == 1:
        return list(blocks[0])
    return [_column(column) for column in zip(*blocks, strict=True)]


def _column(of_blocks: Sequence[Any]) -> Any:
    """A gradient of single lanes, some of which may have none, as where layers drop at random."""
    absent = [lane for lane, gradient in enumerate(of_blocks) if gradient is None]
    if not absent:
        return torch.cat(list(of_blocks))
    if len(absent) == len(of_blocks):
        return None
    like = next(gradient for gradient in of_blocks if gradient is not None)
    joined = torch.cat([torch.zeros_like(like) if g is None else g for g in of_blocks])
    protocol.note_absent(joined, absent)
    return joined


def _python_copy(module: nn.Module) -> nn.Module:
    """A copy of all but the tensors, for which a stack has its own."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, memo={id(tensor): tensor for tensor in tensors})


def _copied(loss: Loss) -> Loss:
    try:
        return copy.deepcopy(loss)
    except Exception:  # it holds what cannot be copied, such as a lock
        return loss


def _distinct(owners: Sequence[T], copied: Callable[[T], T]) -> list[T]:
    """Each lane an object of its own: a copy wherever one stands a second time."""
    seen: set[int] = set()
    found = []
    for owner in owners:
        found.append(copied(owner) if id(owner) in seen else owner)
        seen.add(id(owner))
    return found


def _global_state() -> tuple[Any, ...]:
    """The states of the global generators of Python and numpy, comparable."""
    _, keys, place, *gauss = np.random.get_state()
    return random.getstate(), np.asarray(keys).tobytes(), place, gauss


def _first(tensors: Tensors) -> Tensors:
    return {n: t[0] for n, t in tensors.items()}


def _draw(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


def as_real(tensor: Tensor) -> Tensor:
    """A complex tensor as pairs of real numbers, (..., 2), as which it is trained; others as are.

    Real and imaginary part are two parameters: only so have gradients, lengths and the Hessian
    their meaning, and torch's gradient of a complex parameter is that of the two, as a pair.
    """
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def like_real(pairs: Tensor, like: Tensor) -> Tensor:
    """(rows, numbers) as ``as_real`` and ``flatten(1)`` have made them, in like's shape behind."""
    shape = (len(pairs), *like.shape[1:])
    if not like.is_complex():
        return pairs.reshape(shape)
    return torch.view_as_complex(pairs.reshape(*shape, 2).contiguous())


class _Hooks(TorchFunctionMode):
    """Notes whether a tensor is given a hook for its gradient, or asked if it has one.

    Under vmap hooks are not called, and no tensor says that it requires a gradient.

    Attributes:
        found: whether one was.
    """

    found = False
    _asked = (Tensor.requires_grad.__get__, Tensor.grad_fn.__get__)  # type: ignore[attr-defined]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.register_hook:
            self.found = True
        elif func in self._asked and is_batchedtensor(args[0]):
            asker = str(sys._getframe(1).f_globals.get("__name__"))
            self.found |= asker.partition(".")[0] not in ("torch", "lrlab")
        return func(*args, **(kwargs or {}))


def _keeps_mapped(owner: Any) -> bool:
    """Whether a network or loss has kept a tensor of all lanes, as vmap hands out."""
    parts = owner.modules() if isinstance(owner, nn.Module) else [owner]
    values = (value for part in parts for value in getattr(part, "__dict__", {}).values())
    return any(isinstance(v, Tensor) and is_batchedtensor(v) for v in values)


def same_bits(these: Sequence[Tensor], those: Sequence[Tensor]) -> bool:
    """Whether all numbers are equal, a NaN to a NaN."""
    pairs = zip(these, those, strict=True)
    return all(bool(((a == b) | (a.isnan() & b.isnan())).all()) for a, b in pairs)
