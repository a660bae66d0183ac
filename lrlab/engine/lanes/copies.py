"""Copy and compare the Python parts of lanes' networks and losses; make state dicts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import nn

from lrlab.engine import python_state
from lrlab.engine.lanes.block import Loss
from lrlab.engine.lanes.packing import Tensors

T = TypeVar("T")


def python_copy(module: nn.Module) -> nn.Module:
    """Return a copy of everything but the tensors; a stack has its own."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, memo={id(tensor): tensor for tensor in tensors})


def copied_loss(loss: Loss) -> Loss:
    """Return a copy of a loss, or the loss itself where it cannot be copied."""
    try:
        return copy.deepcopy(loss)
    except Exception:  # it holds something that cannot be copied, such as a lock
        return loss


def distinct(owners: Sequence[T], copied: Callable[[T], T]) -> list[T]:
    """Return an object of its own for each lane: a copy of each repeated one."""
    seen: set[int] = set()
    found = []
    for owner in owners:
        found.append(copied(owner) if id(owner) in seen else owner)
        seen.add(id(owner))
    return found


def each_once(owners: Sequence[T], copied: Callable[[T], T]) -> list[T]:
    """Return copies, one of each object: lanes that share an object share its copy."""
    copies = {id(owner): copied(owner) for owner in owners}
    return [copies[id(owner)] for owner in owners]


def differ(modules: Sequence[nn.Module], losses: Sequence[Loss]) -> bool:
    """Return whether lanes differ in Python, as those that joined at other steps do."""
    pairs = {(id(m), id(f)): (m, f) for m, f in zip(modules, losses, strict=True)}
    if len(pairs) == 1:
        return False
    first, *others = [
        (python_state.of(module), python_state.of(loss, True)) for module, loss in pairs.values()
    ]
    return any(
        python_state.changes(mine, theirs)
        for other in others
        for mine, theirs in zip(first, other, strict=True)
    )


def state_dict_of(module: nn.Module, own: Tensors) -> dict[str, Any]:
    """Return the state dict of one lane's network, as that network alone would have it.

    Args:
        own: the lane's parameters and buffers, by their names in the stack.
    """
    # tied weights have one name in the stack, and all their names in a state dict
    first = {id(t): n for n, t in module.named_parameters()}
    first |= {id(t): n for n, t in module.named_buffers()}
    saved = module.state_dict(keep_vars=True)
    found = {n: own[first[id(t)]] for n, t in saved.items() if id(t) in first}
    extra = python_state.extra(module)  # from `get_extra_state`, torch's own way
    return found | {n: value for n, value in extra.items() if n in saved}
