"""Gather the samples of a step's batches."""

from __future__ import annotations

from torch import Tensor

from lrlab.data import Dataset


def gather(
    data: Dataset, index: Tensor, order_of: Tensor, apart: bool = False
) -> tuple[Tensor, Tensor]:
    """Return samples and labels, (batch, ...) if all lanes share them, else (lanes, batch, ...).

    Lanes of one seed and epoch share one gathered copy, because copying costs less than gathering.

    Args:
        index: (orders, batch) int64.
        order_of: (lanes,) int64, each lane's order.
        apart: give each lane a batch of its own in any case. For a padded stack, where a lane must
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
