"""What networks, losses and optimizers keep in Python: compared, saved and put back.

A network that counts its calls, or draws from a generator of its own, has state that no tensor of
its state dict holds. It is saved as tensors and plain numbers, like all else of a checkpoint.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from lrlab.constant import random_state_kept


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators of torch, numpy and Python begin at a seed; then as they were."""
    with random_state_kept():
        seed_all(seed)
        yield


def seed_all(seed: int) -> None:
    """Seed the global generators of torch, numpy and Python."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
