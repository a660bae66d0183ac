"""Tell which texts are one class, in a table with classes written as numbers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

_DECORATED = re.compile(
    r"[-+−]?[$€£¥₹]? ?[-+−]?\d[\d.,' \u00a0\u202f]*(e[-+]?\d+)? ?[%$€£¥₹]?", re.IGNORECASE
)
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?([ T].*)?|\d{1,4}([./])\d{1,2}\2\d{2,4}( .*)?")


def as_class(text: str, decimal: str) -> str:
    """Return the class that a number names: 1.0 is class 1, but 01 and +1 have their own.

    A program that meets an empty cell writes a column of whole numbers as 1.0, 2.0.
    """
    found = re.fullmatch(r"([-+]?\d+)(?:\.0*|(\.\d*[1-9])0*)", text.replace(decimal, "."))
    return text if found is None else found[1] + (found[2] or "")


def equal_as_read(texts: Iterable[str], kind: str, decimal: str) -> list[list[str]]:
    """Return different texts that pandas reads as one value.

    Args:
        texts: the different cells of a column, without blanks around them.
        kind: of the column's dtype, one of ``biuf``.
        decimal: the decimal point.
    """
    groups: dict[Any, list[str]] = {}
    for text in texts:
        value: Any = text.casefold()
        if kind != "b":
            try:  # an int, for float64 holds whole numbers up to 2**53
                plain = text.replace(decimal, ".")
                value = int(plain) if kind in "iu" else float(plain)
            except ValueError:
                continue
        groups.setdefault(value, []).append(text)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def folded(text: str) -> str:
    """Return the common form of texts that look alike: any case, any storage of accents."""
    return unicodedata.normalize("NFKC", text).casefold()


def listed(groups: Sequence[Sequence[str]]) -> str:
    """Return the first of such groups, in words."""
    first = " and ".join(map(repr, groups[0]))
    return first + (f" ({len(groups) - 1} more like these)" if len(groups) > 1 else "")


def quantity(texts: Sequence[str]) -> str | None:
    """Return the first text, if all are numbers with signs that no parser takes, or dates."""
    plain = re.compile(r"[-+]?\d+")
    if not texts or all(plain.fullmatch(text) for text in texts):
        return None
    for form in (_DECORATED, _DATE):
        if all(form.fullmatch(text) for text in texts):
            return next(text for text in texts if not plain.fullmatch(text))
    return None
