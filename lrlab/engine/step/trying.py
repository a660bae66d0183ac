"""Try a program out: put tensors back, compare bits, notice changes besides tensors."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrlab.engine import devices
from lrlab.engine.bits import same_bits
from lrlab.engine.capture.program import NotCapturable, Program


@contextmanager
def restoring(tensors: Sequence[Tensor]) -> Iterator[Callable[[], None]]:
    """Put these tensors back at the end, and whenever the callable is called."""
    before = [t.detach().clone() for t in tensors]

    def restore() -> None:
        with torch.no_grad():
            for tensor, old in zip(tensors, before, strict=True):
                tensor.copy_(old)

    try:
        yield restore
    finally:
        restore()


def clones(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return copies of the tensors, None for None."""
    return [t if t is None else t.clone() for t in tensors]


def differing(
    program: Program, found: Sequence[Tensor | None], expected: Sequence[Any]
) -> set[int]:
    """Return the indices of those results that have other bits after the program has run.

    Raises:
        NotCapturable: it does not run.
    """
    try:
        program.run()
    except (RuntimeError, TypeError) as error:
        if devices.out_of_memory(error):
            raise
        raise NotCapturable(str(error)) from error
    pairs = zip(found, expected, strict=True)
    return {i for i, (f, e) in enumerate(pairs) if f is not None and not same_bits([f], [e])}


@contextmanager
def same_python(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Refuse work that changes more than tensors, because a program would not repeat that.

    Raises:
        NotCapturable: an attribute of a module or a global random generator has changed.
    """
    before = copy.deepcopy(_python_state(modules))
    yield
    if not equal_values(before, _python_state(modules)):
        raise NotCapturable("it changes more than tensors")


def _python_state(modules: Sequence[nn.Module]) -> list[Any]:
    return [random.getstate(), np.random.get_state(), attributes_of(modules)]


def attributes_of(modules: Sequence[nn.Module]) -> list[dict[str, Any]]:
    """Return all attributes of the networks' modules but their tensors and parts."""
    kept = ("_parameters", "_buffers", "_modules")
    return [
        {name: value for name, value in vars(module).items() if name not in kept}
        for root in dict.fromkeys(modules)
        for module in root.modules()
    ]


def equal_values(one: Any, other: Any) -> bool:
    """Return whether two attributes hold the same numbers."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(equal_values(v, other[k]) for k, v in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal_values, one, other))
    return one is other or bool(one == other)
