# pyright: strict
"""Check whether values are numbers, and write values as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeGuard, cast

# What a learning rate must be that is read, not trained: it may be 0.
A_RATE = "a finite number, not below 0"


def is_whole(value: object, least: float = -math.inf) -> TypeGuard[int]:
    """Return whether this is an int, no bool, and not below the least."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_real(value: object) -> TypeGuard[int | float]:
    """Return whether this is an int or a float, also an infinity or NaN, but no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether this is a finite int or float, but no bool."""
    return is_real(value) and math.isfinite(value)


def is_rate(value: object) -> TypeGuard[int | float]:
    """Return whether this is ``A_RATE``."""
    return is_number(value) and value >= 0


def to_json(value: object, **options: Any) -> str:
    """Return JSON, with null for NaN, infinities and missing values; options: of ``json.dumps``."""
    usual: dict[str, Any] = {"indent": 2, "ensure_ascii": False, "allow_nan": False}
    return json.dumps(_finite(value), **usual | options)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in cast("list[Any]", value)]
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):
        value = value.item()  # a number of numpy's
    if type(value).__name__ in ("NAType", "NaTType"):  # pandas' own missing values
        return None
    return None if isinstance(value, float) and not math.isfinite(value) else value
