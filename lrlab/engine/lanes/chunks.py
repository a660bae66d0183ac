"""The samples of an evaluation, in chunks; which targets are of one lane each."""

from __future__ import annotations

import torch
from torch import Tensor

Samples = tuple[Tensor, Tensor]  # and their targets

EVALUATION_CHUNK = 1000  # samples a forward pass: more only takes memory


def of_each_lane(y: Tensor) -> bool:
    """Whether there is one batch for each lane, with the lane axis first, rather than one for all.

    Args:
        y: targets. One batch has (batch,) whole numbers, in a regression (batch, width) floats.
    """
    return y.ndim > (2 if y.is_floating_point() else 1)


def chunk_sizes(samples: int, multiple: int) -> list[int]:
    """How many samples each forward pass of an evaluation takes; all but the last a multiple."""
    whole = samples - samples % multiple
    sizes = [EVALUATION_CHUNK] * (whole // EVALUATION_CHUNK)
    return [size for size in (*sizes, whole % EVALUATION_CHUNK, samples - whole) if size]


def summed_at_once(device: torch.device, pad: int) -> int:
    """By how many samples a batch must divide for lanes to take it side by side.

    A GPU sums a long row four numbers at a time from the first aligned address on. Where a row is
    no whole number of fours, the bits of a lane's mean depend on its place in the stack.
    """
    return 4 if pad > 1 and device.type == "cuda" else 1
