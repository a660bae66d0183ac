"""Define the protocol ``Step``: the steps of a segment, however they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

Coefficients = Mapping[str, Tensor]


class Step(Protocol):
    """The steps of a segment, one after another.

    Attributes:
        way: ``captured`` or ``plain``.
        batch: the lanes' last inputs and targets.
        losses: (steps, lanes), of the mini-batch before each update.
    """

    way: str
    batch: tuple[Tensor, Tensor]
    losses: Tensor

    def begin(self, order: Tensor, first_steps: Sequence[int], coefficients: Coefficients) -> None:
        """Prepare a segment.

        Args:
            order: (steps, orders, batch) int64, the samples of its batches.
            first_steps: (lanes,) each lane's step at its beginning.
            coefficients: of the optimizer for its steps.
        """
        ...

    def gradients(self, i: int) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Return losses, (lanes,), and gradients, (lanes, ...) a parameter, at its i-th step."""
        ...

    def update(self, i: int) -> None:
        """Change the parameters by the last gradients."""
        ...

    @property
    def on_trial(self) -> bool:
        """Whether the next segment measures how fast something is."""
        ...

    def holds(self) -> bool:
        """Return whether the networks' own Python state is unchanged.

        Ask between two epochs, because evaluations and changes of the mode may change it.
        """
        ...

    def end(self, seconds_a_step: float) -> None:
        """Take the time of the segment's steps after it has ended."""
        ...
