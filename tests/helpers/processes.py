"""Which processes live."""

from __future__ import annotations

from pathlib import Path


def children(pid: int) -> set[int]:
    """The processes below one, all the way down."""
    found, left = set[int](), [pid]
    while left:
        for listed in Path(f"/proc/{left.pop()}/task").glob("*/children"):
            try:
                new = {int(word) for word in listed.read_text().split()} - found
            except OSError:
                continue
            found |= new
            left += new
    return found


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
