"""A lane's state at a step, as a file, so that a run can go on as if it had never stopped.

It holds tensors and plain numbers only and is read with ``weights_only=True``, so a file from
elsewhere runs no code.
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


def write(file: Path, state: Mapping[str, Any]) -> None:
    """Write tensors whole under another name in the same folder, then rename.

    Raises:
        NotWritten: there is no space, or no permission.
    """
    buffer = io.BytesIO()  # on a full disk torch's own writer gives no useful message
    torch.save(state, buffer)
    records.write_bytes(file, buffer.getbuffer())


def load(run: Path) -> dict[str, Any] | None:
    """Return the run's last checkpoint on the CPU; None if none fits its records.

    A checkpoint is useful only if metrics.csv has every step before it. After a power failure the
    one may be on the disk without the other.
    """
    state = read(records.checkpoint_file(run))
    return state if state and records.cut_metrics(run, state["step"]) else None


def read(file: Path) -> dict[str, Any] | None:
    """Return a state on the CPU, with its ``step``; None: there is none, or it is damaged."""
    try:
        state = _loaded(file)
    except Exception:  # any exception that torch.load raises on a damaged file
        return None
    step = state.get("step")
    return state if type(step) is int and step >= 0 else None


def tensors(file: Path) -> dict[str, torch.Tensor]:
    """Return a state dict, as model.pt holds one, on the CPU.

    Raises:
        UserError: it is damaged.
    """
    try:
        found = _loaded(file)
    except Exception:  # any exception that torch.load raises on a damaged file
        found = None
    if found is None or not all(isinstance(each, torch.Tensor) for each in found.values()):
        raise UserError(f"{file}: is damaged, no tensors by their names")
    return found


def _loaded(file: Path) -> dict[str, Any]:
    """Return the content that torch saved there; raise any exception if it is damaged."""
    if not file.is_file() or file.is_symlink():  # reading a pipe would wait for ever
        raise ValueError("no ordinary file")
    if _grows(file):
        raise ValueError("unpacks to more than it is")
    found = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(found, dict):
        raise ValueError("no dict")
    _check_plain(found)
    return found


def _grows(file: Path) -> bool:
    """Return whether it unpacks to more than its size: torch packs nothing, a bomb fills memory."""
    with zipfile.ZipFile(file) as parts:
        entries = parts.infolist()
    packed = any(part.compress_type != zipfile.ZIP_STORED for part in entries)
    # entries that share their bytes
    return packed or sum(part.file_size for part in entries) > file.stat().st_size


def _check_plain(node: Any) -> None:
    """Refuse tensors with more numbers than the file holds; a copy of them would fill memory."""
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
