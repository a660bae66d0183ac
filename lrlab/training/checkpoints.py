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
from lrlab.errors import UserError


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
    """Return the run's last checkpoint on the CPU, or None: there is none that fits its records.

    A checkpoint is of use only if metrics.csv has every step before it; after a power failure the
    one may be on the disk and the other not.
    """
    state = read(records.checkpoint_file(run))
    if state is None:
        return None
    return state if records.cut_metrics(run, state["step"]) else None


def read(file: Path) -> dict[str, Any] | None:
    """Return a state on the CPU, with its ``step``; None: there is none, or it is damaged."""
    try:
        state = _loaded(file)
        step = state["step"]
        if type(step) is not int or step < 0:
            return None
    except Exception:  # whatever a damaged file makes of torch.load
        return None
    return state


def tensors(file: Path) -> dict[str, torch.Tensor]:
    """Return a state dict, as model.pt holds one, on the CPU.

    Raises:
        UserError: it is damaged.
    """
    try:
        found = _loaded(file)
    except Exception:  # whatever a damaged file makes of torch.load
        found = None
    if found is None or not all(isinstance(each, torch.Tensor) for each in found.values()):
        raise UserError(f"{file}: is damaged, no tensors by their names")
    return found


def _loaded(file: Path) -> dict[str, Any]:
    """What torch saved there.

    Raises:
        Exception: of any kind, where it is damaged or would fill memory.
    """
    if not file.is_file() or file.is_symlink():  # a pipe would be waited for
        raise ValueError("no ordinary file")
    if _grows(file):
        raise ValueError("unpacks to more than it is")
    found = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(found, dict):
        raise ValueError("no dict")
    _check_plain(found)
    return found


def _grows(file: Path) -> bool:
    """Whether it unpacks to more than it is: torch packs nothing, and a bomb would fill memory."""
    with zipfile.ZipFile(file) as parts:
        entries = parts.infolist()
    packed = any(part.compress_type != zipfile.ZIP_STORED for part in entries)
    # entries that share their bytes
    return packed or sum(part.file_size for part in entries) > file.stat().st_size


def _check_plain(node: Any) -> None:
    """Refuse tensors of more numbers than the file holds, which to copy would fill memory.

    Raises:
        ValueError: there is one.
    """
    left = [node]
    while left:
        each = left.pop()
        if isinstance(each, Mapping):
            left += each.values()
        elif isinstance(each, list | tuple):
            left += each
        elif isinstance(each, torch.Tensor):
            if each.layout != torch.strided or each.device.type != "cpu":
                raise ValueError("no tensor of a state")
            if each.numel() * each.element_size() > each.untyped_storage().nbytes():
                raise ValueError("repeats its numbers")


def drop(run: Path) -> None:
    """Remove the checkpoint of a run that has ended."""
    records.remove(records.checkpoint_file(run))
