"""Capture some work: watch it twice, and make a program of it."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lrlab.engine.capture.builder import Builder
from lrlab.engine.capture.operations import Operation, described, watch
from lrlab.engine.capture.program import NotCapturable, Program


@dataclass(frozen=True)
class Capture:
    """Watched work.

    Attributes:
        results: of the work; None where it returned None.
    """

    operations: list[Operation]
    results: Sequence[Tensor | None]
    changing: list[Tensor]

    @torch.no_grad()
    def program(
        self,
        into: Mapping[int, Tensor] | None = None,
        copied: Container[int] = (),
        shared: bool = False,
    ) -> Program:
        """Return a program of the work, without running it.

        Args:
            into: index of a result to the tensor that must hold it. If the layouts allow, it is
                written there at once; a product may then be computed as its transpose.
            copied: indices in ``into`` of results that are written as they come, and copied.
            shared: whether a product may be computed in parts that all threads share evenly.

        Raises:
            NotCapturable: an operation cannot be repeated on fixed memory.
        """
        return Builder(
            self.operations, self.results, self.changing, dict(into or {}), copied, shared
        ).build()


def capture(work: Callable[[], Sequence[Tensor | None]], changing: Iterable[Tensor]) -> Capture:
    """Watch some work.

    It is done twice, and everything that it changes in place is changed twice.

    Args:
        work: returns tensors; it does the same operations at each call.
        changing: all tensors with numbers that may differ from run to run. Other tensors that the
            work uses count as constant, unless the work changes them.

    Raises:
        NotCapturable: the work draws random numbers, looks at numbers, or is not the same twice.
        Exception: what the work raises.
    """
    changing = list(changing)
    first, _ = watch(work)
    second, results = watch(work)
    if described(first, changing) != described(second, changing):
        raise NotCapturable("it does not do the same at each call")
    return Capture(second, results, changing)
