"""Pictures on the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def picture(file: Path, pixels: np.ndarray) -> np.ndarray:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(file)
    return pixels
