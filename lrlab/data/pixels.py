"""Hold images as arrays of pixels, all of one size, for image folders and torchvision's sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lrlab.errors import UserError
from lrlab.process.plain import is_whole

GREY, COLOURED = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV")  # Pillow's


class Pixels:
    """Images of one size, as arrays of bytes (height, width) or (height, width, 3)."""

    def __init__(self, size: Sequence[int] | None) -> None:
        if size is not None and not (
            isinstance(size, Iterable) and len(size) == 2 and all(is_whole(n, 1) for n in size)
        ):
            raise UserError(f"data.size={size}: must be [height,width], like data.size=[32,32]")
        self.resized = None if size is None else (size[1], size[0])  # Pillow's order
        self.first: tuple[str, tuple[int, int]] | None = None  # the size that all must have

    def read(self, file: str, option: str) -> np.ndarray:
        from PIL import Image

        try:
            with Image.open(file) as image:
                return self.of(image, file, option)
        except UserError:
            raise
        except Exception as error:  # Pillow's exceptions depend on the format
            raise UserError(f"{option}: {file} cannot be read as an image ({error})") from error

    def of(self, image: Any, name: str, option: str) -> np.ndarray:
        """Return the pixels of a Pillow image."""
        mode = getattr(image, "mode", None)
        if mode not in (*GREY, *COLOURED):
            what = type(image).__name__ if mode is None else f"mode {mode}"
            raise UserError(f"{option}: {name} is no image of 8 bits a channel ({what})")
        image = image.convert("L" if mode in GREY else "RGB")
        if self.resized is not None and image.size != self.resized:
            image = image.resize(self.resized, 2)  # bilinear
        first, (width, height) = self.first = self.first or (name, image.size)
        if image.size != (width, height):
            raise UserError(
                f"{option}: {name} is {image.height} x {image.width}, but {first} {height} x "
                f"{width}; data.size=[{height},{width}] would resize all"
            )
        return np.asarray(image)

    @staticmethod
    def stacked(parts: Mapping[str, Any]) -> dict[str, Any]:
        """Stack images as (N, channels, height, width) uint8: one channel if all are grey."""
        images = {k: v for k, v in parts.items() if isinstance(v, list)}
        grey = all(image.ndim == 2 for listed in images.values() for image in listed)

        def whole(image: np.ndarray) -> np.ndarray:
            if grey:
                return image[None]
            return np.moveaxis(image, 2, 0) if image.ndim == 3 else np.stack([image] * 3)

        return {**parts, **{k: np.stack([whole(i) for i in v]) for k, v in images.items()}}
