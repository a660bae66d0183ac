"""Pictures on the disk."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def picture(file: Path, pixels: np.ndarray) -> np.ndarray:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(file)
    return pixels


def png(width: int = 60, height: int = 40, noise: bool = False) -> bytes:
    """A picture; of noise it is as large as one can be."""
    from PIL import Image

    shape = (height, width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape) if noise else np.full(shape, 200)
    written = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(written, "PNG")
    return written.getvalue()
