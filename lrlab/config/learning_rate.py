"""The one rule for a learning rate, alone or at the end of a range."""

from __future__ import annotations

import math

from lrlab.errors import UserError


def check(lr: float, subject: str = "", example: str = "lr=0.1") -> None:
    """Refuse an lr that cannot work.

    Args:
        subject: what the line begins with; by default the lr itself.
        example: what would work instead.

    Raises:
        UserError: it is no finite number above 0.
    """
    if not (math.isfinite(lr) and lr > 0):
        subject = subject or f"lr={lr:g}:"
        raise UserError(f"{subject} must be a finite number above 0, for example {example}")


def check_range(low: float, high: float, typed: str, example: str) -> None:
    """Refuse a range of lrs of which an end cannot work.

    Args:
        typed: the range as it was given.
        example: what would work instead.

    Raises:
        UserError: an end is no finite number above 0.
    """
    for end in (low, high):
        check(end, f"{typed}: its end {end:g}", example)
