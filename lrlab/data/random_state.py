"""Put the global random generators back where they were."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_state_kept(cuda: Sequence[torch.device] = ()) -> Iterator[None]:
    """Afterwards the global generators, and those of GPUs, are where they were."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=list(cuda)):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
