"""Make plain steps: through vmap, autograd and the optimizer's own code each time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lrlab.data import Dataset, inputs
from lrlab.data.inputs import Batch
from lrlab.engine.lanes.lane_stack import Lanes
from lrlab.engine.optimizers.protocol import Coefficients, Gradients, LaneOptimizer
from lrlab.process.profiling import phase


def gather(data: Dataset, index: Tensor, order_of: Tensor, apart: bool = False) -> Batch:
    """Return samples and labels, (batch, ...) if all lanes share them, else (lanes, batch, ...).

    Lanes of one seed and epoch share one gathered copy, because copying costs less than gathering.

    Args:
        index: (orders, batch) int64.
        order_of: (lanes,) int64, each lane's order.
        apart: give each lane a batch of its own in any case. For a padded stack, where a lane must
            take the same products whether others share its batch or not.
    """
    flat = index.reshape(-1)
    own = len(index) > 1 or apart

    def picked(tensor: Tensor) -> Tensor:
        found = tensor.index_select(0, flat)
        if not own:
            return found
        found = found.view(*index.shape, *found.shape[1:])
        return found if len(index) == len(order_of) else found.index_select(0, order_of)

    return Batch(inputs.mapped(picked, data.train_x), picked(data.train_y), own)


_gather = phase("gather")(gather)  # not if it is captured


class PlainStep:
    way = "plain"
    on_trial = False

    def holds(self) -> bool:
        return True

    def __init__(
        self, lanes: Lanes, optimizer: LaneOptimizer, data: Dataset, order_of: Tensor
    ) -> None:
        self._lanes, self._optimizer, self._data = lanes, optimizer, data
        self._order_of = order_of

    def begin(self, order: Tensor, first_steps: Sequence[int], coefficients: Coefficients) -> None:
        self._order, self._first_steps, self._coefficients = order, first_steps, coefficients
        self.losses = torch.empty(len(order), len(self._lanes), device=order.device)

    @phase("gradients")
    def gradients(self, i: int) -> tuple[Tensor, Gradients]:
        apart = bool(self._lanes.pad)
        self.batch = _gather(self._data, self._order[i], self._order_of, apart)
        x, y, own = self.batch
        losses, self._gradients = self._lanes.gradients(x, y, self._first_steps, i, own)
        self.losses[i] = losses
        return losses, self._gradients

    @phase("update")
    def update(self, i: int) -> None:
        self._optimizer.update(self._gradients, self._coefficients, i)

    def end(self, seconds_a_step: float) -> None:
        pass
