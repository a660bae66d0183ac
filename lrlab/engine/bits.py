"""Compare tensors to the bit."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def same_bits(these: Sequence[Tensor], those: Sequence[Tensor]) -> bool:
    """Return whether all numbers are equal, a NaN to a NaN."""
    pairs = zip(these, those, strict=True)
    return all(bool(((a == b) | (a.isnan() & b.isnan())).all()) for a, b in pairs)
