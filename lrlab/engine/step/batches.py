"""Gather the samples of a step's batches."""

from __future__ import annotations

from torch import Tensor

from lrlab.data import Dataset


def gather(
    data: Dataset, index: Tensor, order_of: Tensor, apart: bool = False
) -> tuple[Tensor, Tensor]:
    """Samples and labels, (batch, ...) if all lanes have the same ones, else (lanes, batch, ...).

    Lanes of one seed and epoch share what is gathered: to copy it costs less.

    Args:
        index: (orders, batch) int64.
        order_of: (lanes,) int64, each lane's order.
        apart: each lane has a batch of its own even so. In a padded stack, for there a lane must
            take the same products whether others share its batch or not.
    """
    flat = index.reshape(-1)
    x, y = data.train_x.index_select(0, flat), data.train_y.index_select(0, flat)
    if len(index) == 1 and not apart:
        return x, y
    x, y = x.view(*index.shape, *x.shape[1:]), y.view(*index.shape, *y.shape[1:])
    if len(index) == len(order_of):
        return x, y
    return x.index_select(0, order_of), y.index_select(0, order_of)
