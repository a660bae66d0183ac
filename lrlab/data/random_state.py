"""Seed the global random generators, and put them back where they were."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

_OF_UPDATES = 2  # sets the draws of updates apart from those of forward passes


@contextmanager
def random_state_kept(cuda: Sequence[torch.device] = ()) -> Iterator[None]:
    """Restore the global generators, and those of GPUs, at the end."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=list(cuda)):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python; restore them at the end."""
    with random_state_kept():
        seed_all(seed)
        yield


def seed_all(seed: int) -> None:
    """Seed the global generators of torch, numpy and Python."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def seed_quickly(*key: int) -> None:
    """As ``seed_all``, by several numbers. torch.manual_seed would take milliseconds."""
    seed = int(np.random.SeedSequence([*key, _OF_UPDATES]).generate_state(1, np.uint64)[0] >> 1)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
