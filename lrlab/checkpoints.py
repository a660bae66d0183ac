"""A lane's state at a step, as a file: what a run needs to go on as if it had never stopped.

Tensors and plain numbers only, read with ``weights_only=True``: a file from elsewhere runs no code.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lrlab import records


def save(run: Path, state: dict[str, Any]) -> None:
    """Write the run's checkpoint over its last one.

    Args:
        run: the run's folder.
        state: ``step``, and whatever else ``load`` is to give back.

    Raises:
        NotWritten: no room, or no right, to write it.
    """
    write(records.checkpoint_file(run), state)


def write(file: Path, state: Mapping[str, Any]) -> None:
    """Write tensors whole beside the file, then rename.

    Raises:
        NotWritten: no room, or no right, to write it.
    """
    buffer = io.BytesIO()  # of a full disk torch's own writer says nothing that helps
    torch.save(state, buffer)
    records.write_bytes(file, buffer.getbuffer())


def load(run: Path) -> dict[str, Any] | None:
    """The run's last checkpoint on the CPU, or None: there is none that fits its records.

    A checkpoint is of use only if metrics.csv has every step before it; after a power failure the
    one may be on the disk and the other not.
    """
    state = read(records.checkpoint_file(run))
    if state is None:
        return None
    return state if records.cut_metrics(run, state["step"]) else None


def read(file: Path) -> dict[str, Any] | None:
    """A state on the CPU, with its ``step``; None: there is none, or it is damaged."""
    try:
        if file.is_symlink() or _grows(file):
            return None
        state = torch.load(file, map_location="cpu", weights_only=True)
        state["step"] = int(state["step"])
    except Exception:  # whatever a damaged file makes of torch.load
        return None
    return state


def _grows(file: Path) -> bool:
    """Whether it unpacks to more than it is: torch packs nothing, and a bomb would fill memory."""
    with zipfile.ZipFile(file) as parts:
        return any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist())


def drop(run: Path) -> None:
    """Remove the checkpoint of a run that has ended."""
    records.remove(records.checkpoint_file(run))
