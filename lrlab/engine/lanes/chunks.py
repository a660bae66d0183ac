"""Cut the samples of an evaluation into chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from lrlab.data.inputs import Inputs

Samples = tuple[Inputs, Tensor]  # and their targets

EVALUATION_CHUNK = 1000  # samples a forward pass: more only takes memory


def chunk_sizes(samples: int, multiple: int) -> list[int]:
    """Return the sizes of an evaluation's forward passes; all but the last are a multiple."""
    whole = samples - samples % multiple
    sizes = [EVALUATION_CHUNK] * (whole // EVALUATION_CHUNK)
    return [size for size in (*sizes, whole % EVALUATION_CHUNK, samples - whole) if size]


def summed_at_once(device: torch.device, pad: int) -> int:
    """Return the number by which a batch must divide for lanes to take it together.

    A GPU sums a long row four numbers at a time from the first aligned address on. If a row is no
    whole number of fours, the bits of a lane's mean depend on its position in the stack.
    """
    return 4 if pad > 1 and device.type == "cuda" else 1
