"""What the steps of a segment can do, whichever way they are made: the protocol ``Step``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

Coefficients = Mapping[str, Tensor]


class Step(Protocol):
    """The steps of a segment, one after the other.

    Attributes:
        way: ``captured`` or ``plain``.
        batch: what the lanes were last given: inputs and targets.
        losses: (steps, lanes), of the mini-batch before each update.
    """

    way: str
    batch: tuple[Tensor, Tensor]
    losses: Tensor

    def begin(self, order: Tensor, first_steps: Sequence[int], coefficients: Coefficients) -> None:
        """Make ready for a segment.

        Args:
            order: (steps, orders, batch) int64, the samples of its batches.
            first_steps: (lanes,) each lane's step at its beginning.
            coefficients: of the optimizer for its steps.
        """
        ...

    def gradients(self, i: int) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Losses, (lanes,), and gradients, (lanes, ...) for each parameter, at its i-th step."""
        ...

    def update(self, i: int) -> None:
        """Change the parameters by the gradients that were found last."""
        ...

    @property
    def on_trial(self) -> bool:
        """Whether the next segment finds out how fast something is."""
        ...

    def holds(self) -> bool:
        """Whether the networks' own Python state is what it was; asked between two epochs, for
        evaluations and changes of the mode may change it."""
        ...

    def end(self, seconds_a_step: float) -> None:
        """Hear how long the steps of the segment took, which is over."""
        ...
