"""Treat complex parameters as pairs of real numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def as_real(tensor: Tensor) -> Tensor:
    """Return a complex tensor as pairs of real numbers, (..., 2), for training; others unchanged.

    Real and imaginary part are two parameters, because only then gradients, lengths and the Hessian
    have their meaning. torch's gradient of a complex parameter is that of the two, as a pair.
    """
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def like_real(pairs: Tensor, like: Tensor) -> Tensor:
    """Undo ``as_real`` and ``flatten(1)``: from (rows, numbers) to the shape of ``like``."""
    shape = (len(pairs), *like.shape[1:])
    if not like.is_complex():
        return pairs.reshape(shape)
    return torch.view_as_complex(pairs.reshape(*shape, 2).contiguous())
