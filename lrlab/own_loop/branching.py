"""Make the branch test inside a loop of the user's own, and put everything back."""

from __future__ import annotations

import contextlib
import copy
import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lrlab import records
from lrlab.errors import UserError
from lrlab.own_loop.keeping import evaluated, kept

Step = Callable[[Any], Tensor]


def branches(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Step,
    batches: Sequence[Any],
    before_step: Callable[[], Any] | None,
) -> list[list[float]]:
    """Train on from here at a tenth of the lr, at it, and at three times it, on the same batches.

    The three branches draw the same random numbers. Weights, buffers, gradients, the optimizer's
    state, groups and attributes, and all random states are afterwards as before, to the bit. Hooks
    of the optimizer do not run.

    Args:
        loss: of one of the batches, a tensor of one number.
        before_step: called between backward and the optimizer's step, to clip gradients.

    Returns:
        [steps][3] loss before each update; NaN after a loss that is not finite.
    """
    found = []
    for multiplier in records.MULTIPLIERS.values():
        params = [p for group in optimizer.param_groups for p in group["params"]]
        everything = list(dict.fromkeys([*params, *model.parameters()]))
        with (
            kept(model, everything, [p.detach().clone() for p in everything]),
            _gradients_aside(everything),
            _optimizer_kept(optimizer),
        ):
            for group in optimizer.param_groups:
                lr = group["lr"]
                group["lr"] = lr.clone() * multiplier if isinstance(lr, Tensor) else lr * multiplier
            found.append(_branch(optimizer, loss, batches, before_step))
    return [list(row) for row in zip(*found, strict=True)]


def _branch(
    optimizer: torch.optim.Optimizer,
    loss: Step,
    batches: Sequence[Any],
    before_step: Callable[[], Any] | None,
) -> list[float]:
    losses = []
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():
            value = evaluated(loss, (batch,))
            if value.numel() != 1 or not value.requires_grad:
                raise UserError("loss: must return one number that depends on the parameters")
            losses.append(float(value.detach()))
            if not math.isfinite(losses[-1]):
                break
            value.backward()
        if before_step is not None:
            before_step()
        optimizer.step()
    return losses + [math.nan] * (len(batches) - len(losses))


@contextlib.contextmanager
def _gradients_aside(params: Sequence[Tensor]) -> Generator[None, None, None]:
    own = [p.grad for p in params]
    for p in params:
        p.grad = None
    try:
        yield
    finally:
        for p, grad in zip(params, own, strict=True):
            p.grad = grad


@contextlib.contextmanager
def _optimizer_kept(optimizer: torch.optim.Optimizer) -> Generator[None, None, None]:
    """Let the block work on copies of the optimizer's state, groups and attributes, no hooks."""
    chain: list[Any] = [optimizer]  # a wrapper holds another, as Accelerate's does
    while isinstance(inner := vars(chain[-1]).get("optimizer"), torch.optim.Optimizer):
        chain.append(inner)
    own = [dict(vars(each)) for each in chain]
    groups = [(group, dict(group)) for each in chain for group in each.param_groups]
    for each in chain:
        copied: defaultdict[Any, Any] = defaultdict(dict)
        copied.update({key: copy.deepcopy(value) for key, value in each.state.items()})
        each.state = copied
        hooks = [name for name in vars(each) if name.startswith("_optimizer_step_p")]
        vars(each).update({name: OrderedDict() for name in hooks})
    try:
        yield
    finally:
        for each, before in zip(chain, own, strict=True):
            vars(each).clear()
            vars(each).update(before)
        for group, before in groups:
            group.clear()
            group.update(before)
