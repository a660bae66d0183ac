"""Remove remains of earlier drawings from a folder: outdated pictures, parts of pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from lrlab.errors import NotWritten
from lrlab.plots.tables import NAMES
from lrlab.process import signals


def remove(folder: Path, left_out: Iterable[str], formats: Sequence[str]) -> None:
    """Remove older pictures of these figures, and parts of pictures from dead writers.

    Raises:
        NotWritten: one cannot be removed.
    """
    stale = [folder / f"{name}.{kind}" for name in left_out for kind in formats]
    for part in folder.glob(".*.part"):
        name, _, process = part.name.removesuffix(".part").rpartition(".")
        is_ours = name[1:].rpartition(".")[0] in NAMES and process.isdecimal()
        if is_ours and not signals.is_running(int(process)):
            stale.append(part)
    for path in stale:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise NotWritten(path, error) from error
