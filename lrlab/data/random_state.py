"""Seed the global random generators, and put them back where they were."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_OF_UPDATES = 2  # sets the draws of updates apart from those of forward passes


@contextmanager
def random_state_kept(cuda: Sequence[torch.device] = ()) -> Iterator[None]:
    """Restore the global generators, and those of GPUs, at the end."""
    put_back = saved(cuda)
    try:
        yield
    finally:
        put_back()


def saved(cuda: Sequence[torch.device] = ()) -> Callable[[], None]:
    """Return a function that puts the global generators, and those of GPUs, back to where they are.

    It may be called many times.
    """
    of_python, of_torch = random.getstate(), torch.get_rng_state()
    of_numpy: Any = np.random.get_state()
    if isinstance(of_numpy, tuple):  # numpy takes a list in a tenth of the time
        of_numpy = (of_numpy[0], of_numpy[1].tolist(), *of_numpy[2:])
    of_gpus = [(torch.cuda.get_rng_state(device), device) for device in cuda]

    def put_back() -> None:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)
        for state, device in of_gpus:
            torch.cuda.set_rng_state(state, device)

    return put_back


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
