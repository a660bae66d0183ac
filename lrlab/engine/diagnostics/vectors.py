"""Compute with vectors in the space of all parameters, one for each lane."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lrlab.engine.lanes.real_pairs import as_real, like_real


def flat(tensors: Sequence[Tensor | None], like: Sequence[Tensor] = ()) -> Tensor:
    """Join tensors (lanes, ...) to one (lanes, numbers); None becomes zeros, shaped as ``like``."""
    whole = [torch.zeros_like(like[i]) if t is None else t for i, t in enumerate(tensors)]
    return torch.cat([as_real(t).flatten(1) for t in whole], dim=1)


def parts_of(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Split the result of ``flat`` into parts again."""
    sizes = [as_real(t[0]).numel() for t in like]
    return [like_real(p, t) for p, t in zip(flat.split(sizes, dim=1), like, strict=True)]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return (lanes,) the scalar product of each lane's vectors, (lanes, numbers)."""
    return (a * b).sum(1)


def length_of(vectors: Tensor) -> Tensor:
    return dot(vectors, vectors).sqrt()


def normed(vectors: Tensor) -> Tensor:
    """Return each lane's vector with length 1; one of length 0 stays."""
    length = length_of(vectors)
    return vectors / torch.where(length > 0, length, torch.ones_like(length))[:, None]


def divided(vectors: Tensor, by: Tensor | None) -> Tensor:
    return vectors if by is None else vectors / by


def random_vectors(params: Sequence[Tensor], seeds: Sequence[int]) -> list[Tensor]:
    """Return (lanes, ...) each, a direction for each seed, of length 1 over all parameters."""
    lanes = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        drawn = [
            torch.randn(p.shape[1:], generator=generator, dtype=torch.complex64)
            if p.is_complex()
            else torch.randn(p.shape[1:], generator=generator)
            for p in params
        ]
        length = torch.stack([as_real(v * v.conj()).sum() for v in drawn]).sum().sqrt()
        lanes.append([v / length for v in drawn])
    return [
        torch.stack(column).to(p)
        for column, p in zip(zip(*lanes, strict=True), params, strict=True)
    ]
