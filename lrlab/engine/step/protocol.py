"""Define the protocol ``Step``: the steps of a segment, however they are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from lrlab.data.inputs import Batch
from lrlab.engine.optimizers.protocol import Coefficients, Gradients


class Steps(Protocol):
    """The steps of a segment, one after another.

    Attributes:
        batch: the lanes' last inputs and targets.
    """

    batch: Batch

    @property
    def losses(self) -> Tensor:
        """(steps, lanes), of the mini-batch before each update."""
        ...

    def gradients(self, i: int) -> tuple[Tensor, Gradients]:
        """Return losses, (lanes,), and gradients, (lanes, ...) a parameter, at its i-th step."""
        ...

    def update(self, i: int) -> None:
        """Change the parameters by the last gradients."""
        ...

    def end(self, seconds_a_step: float) -> None:
        """Take the time of the segment's steps after it has ended."""
        ...


class Step(Steps, Protocol):
    """A way to make the steps of all segments, until the stack's lanes change.

    Attributes:
        way: ``captured`` or ``plain``.
    """

    way: str

    def begin(self, order: Tensor, first_steps: Sequence[int], coefficients: Coefficients) -> None:
        """Prepare a segment.

        Args:
            order: (steps, orders, batch) int64, the samples of its batches.
            first_steps: (lanes,) each lane's step at its beginning.
            coefficients: of the optimizer for its steps.
        """
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
