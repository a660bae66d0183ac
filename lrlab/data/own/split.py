"""Divide a user's own samples into training and held-out samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrlab.config.schema import nearest
from lrlab.data.dataset import check_draw
from lrlab.errors import UserError, must_be
from lrlab.process.plain import is_whole


@dataclass(frozen=True)
class Split:
    """How samples are divided and scaled, see the module."""

    standardise: bool = False
    train_size: int | None = None
    val_size: float = 0.1
    split_seed: int = 0
    stratify: bool = False  # true in conf/; the saved configs of older runs lack it
    standardise_targets: bool = False
    integers: str = "float"  # auto in conf/; the saved configs of older runs lack it
    floats: str = "float32"  # the option precision sets float64

    @property
    def kind(self) -> torch.dtype:
        """The type of inputs and targets that are floats."""
        return torch.float64 if self.floats == "float64" else torch.float32


INTEGERS = ("auto", "keep", "float")
SPLIT = tuple(field.name for field in fields(Split) if field.name != "floats")


def checked_split(split: Mapping[str, Any]) -> Split:
    for key, value in split.items():
        if key not in (*SPLIT, "floats"):
            raise UserError(
                f"data.{key}={value}: no such setting of these data{nearest(key, SPLIT)}; "
                f"all data have {', '.join(SPLIT)}"
            )
    how = Split(**split)
    size = how.val_size
    is_count = is_whole(size, 1)
    if not (is_count or (isinstance(size, float) and 0 < size < 1)):
        works = "a number of samples from 1 or a share below 1"
        raise must_be("data.val_size", size, works, 0.1)
    check_draw(how.train_size, how.split_seed, "samples")
    for key in ("standardise", "stratify", "standardise_targets"):
        if not isinstance(value := getattr(how, key), bool):
            raise UserError(f"data.{key}={value}: must be true or false")
    if how.integers not in INTEGERS:
        raise UserError(f"data.integers={how.integers}: must be auto, keep or float")
    if how.integers == "keep" and how.standardise:
        raise UserError(
            "data.integers=keep: does not work with data.standardise=true, which makes floats of "
            "them; use data.integers=auto, or data.standardise=false"
        )
    return how


def divided(y: Tensor, how: Split, option: str) -> tuple[Tensor, Tensor]:
    """Return the indices of the samples to train on, shuffled, and of those held out."""
    available = len(y)
    share = isinstance(how.val_size, float)
    size = max(1, int(how.val_size * available)) if share else int(how.val_size)
    if available == 1:
        raise UserError(
            f"{option}: holds one sample; at least two are needed, to train on and to hold out"
        )
    if size >= available:
        raise must_be("data.val_size", how.val_size, f"below the {available} samples", 0.1)
    generator = split_generator(how)
    shuffled = torch.randperm(available, generator=generator)
    if not how.stratify or y.is_floating_point() or y.ndim > 1:
        return shuffled[size:], shuffled[:size]
    labels = y[shuffled]
    labels = torch.where(labels < 0, labels.max() + 1, labels)  # those that do not count
    counts = torch.bincount(labels)
    ties = torch.randperm(len(counts), generator=generator)
    quotas = torch.from_numpy(_quotas(counts.numpy(), size, ties.numpy()))
    # each sample's place among those of its class, in the shuffled order
    by_class = labels.argsort(stable=True)
    first = counts.cumsum(0) - counts
    place = torch.empty_like(labels)
    place[by_class] = torch.arange(available) - first[labels[by_class]]
    held_out = place < quotas[labels]
    return shuffled[~held_out], shuffled[held_out]


def _quotas(counts: np.ndarray, size: int, ties: np.ndarray) -> np.ndarray:
    """Return how many samples of each class to hold out, by the largest remainder.

    At least one of each class stays in training, if enough samples remain.

    Args:
        counts: (classes,) int64, the samples of each class.
        size: how many to hold out in all, at most as many as there are.
        ties: (classes,) an order, in which classes of equal remainders are served.
    """
    most = np.maximum(counts - 1, 0)
    most = most if most.sum() >= size else counts
    exact = counts * (size / counts.sum())
    quotas = np.minimum(np.floor(exact).astype(np.int64), most)
    while (missing := size - quotas.sum()) > 0:
        wanting = np.where(quotas < most, exact - quotas, -np.inf)
        order = ties[np.argsort(-wanting[ties], kind="stable")]
        chosen = order[: min(missing, (quotas < most).sum())]
        quotas[chosen] += 1
    return quotas


def split_generator(how: Split) -> torch.Generator:
    return torch.Generator().manual_seed(how.split_seed)
