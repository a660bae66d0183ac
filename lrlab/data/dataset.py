"""Define a data set as tensors, and the hash by which a record identifies it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lrlab.errors import must_be
from lrlab.process.plain import is_whole


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs and targets, wholly in memory.

    Inputs are (N, ...) float32, images (N, channels, height, width), and normalised. Targets are
    (N,) int64, classes below `num_classes`. In a regression they are (N, width) float32, and
    `num_classes` is None. `val_*` is held out from training; `test_*` may be empty. `sha256` covers
    the contents and order of all six tensors: two datasets with equal hashes hold equal tensors.

    If targets are standardised, `target_std` times one of them, plus `target_mean` of its column,
    (width,), is the target in its own unit. One deviation is for all columns.

    `notices` are sentences for before training: omitted parts, and values that may not be meant.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    val_x: Tensor
    val_y: Tensor
    test_x: Tensor
    test_y: Tensor
    num_classes: int | None
    sha256: str
    target_mean: tuple[float, ...] = ()
    target_std: float = 1.0
    notices: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """How many numbers a network returns for a sample: one a class, or the targets' width."""
        return self.num_classes or self.train_y.shape[1]

    def to(self, device: torch.device | str) -> Dataset:
        """Return the same data on `device`; tensors that are there already are not copied."""
        names = ("train_x", "train_y", "val_x", "val_y", "test_x", "test_y")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def check_draw(train_size: Any, seed: Any, samples: str) -> None:
    """Check the settings that say which samples are trained on.

    Args:
        samples: what they are called in a message.
    """
    if train_size is not None and not is_whole(train_size, 1):
        works = f"a whole number of at least 1, or null for all {samples}"
        raise must_be("data.train_size", train_size, works, 1000)
    if not (is_whole(seed) and 0 <= seed < 2**63):
        raise must_be("data.split_seed", seed, "a whole number from 0 to 2**63 - 1", 0)


def tensors_sha256(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).numpy().data)
    return digest.hexdigest()
