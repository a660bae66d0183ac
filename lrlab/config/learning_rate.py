"""Check a learning rate, alone or at the end of a range, by one rule."""

from __future__ import annotations

import math

from lrlab.errors import UserError


def check(lr: float, subject: str = "", example: str = "lr=0.1") -> None:
    """Refuse an lr that cannot work.

    Args:
        subject: the start of the line; by default the lr itself.
        example: a value that would work.

    Raises:
        UserError: it is no finite number above 0.
    """
    if not (math.isfinite(lr) and lr > 0):
        subject = subject or f"lr={lr:g}:"
        raise UserError(f"{subject} must be a finite number above 0, for example {example}")


def check_range(low: float, high: float, typed: str, example: str) -> None:
    """Refuse a range of lrs with an end that cannot work.

    Args:
        typed: the range as given.
        example: a range that would work.

    Raises:
        UserError: an end is no finite number above 0.
    """
    for end in (low, high):
        check(end, f"{typed}: its end {end:g}", example)
