"""Read image folders and torchvision's sets as arrays of pixels, all of one size."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lrlab.config import data_paths
from lrlab.config.schema import nearest
from lrlab.data.cache import cache_folder, patient, quiet_torchvision
from lrlab.data.own.parts import IMAGE_ENDINGS
from lrlab.errors import UserError
from lrlab.process.plain import is_whole

GREY, COLOURED = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV")  # Pillow's
PARTS_OF_FOLDERS = {
    *("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"),
}


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
            raise UserError(f"{option}: {name} is not an image with 8 bits a channel ({what})")
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


def read_folder(
    root: str, test_root: str | None, size: Sequence[int] | None
) -> tuple[dict[str, Any], list[str]]:
    """Return the parts of a folder of classes and of the test's, with notes.

    See ``own_data.image_folder``.
    """
    roots = {"": root} if test_root is None else {"": root, "test_": test_root}
    found: dict[str, list[tuple[str, str]]] = {}
    for prefix, folder in roots.items():
        option = f"data.{prefix}root={folder}"
        if not isinstance(folder, str):
            raise UserError(f"{option}: must be a folder's name")
        base = data_paths.find(folder)
        if not base.is_dir():
            raise UserError(f"{option}: no such folder, {data_paths.tried(folder)}")
        found[prefix] = [
            (file.relative_to(base).parts[0], str(file))
            for file in sorted(base.rglob("*"))
            if file.suffix.lower() in IMAGE_ENDINGS
            and len(file.relative_to(base).parts) > 1
            and not (file.name.startswith("._") or "__MACOSX" in file.parts)  # hidden on macOS
        ]
        if not found[prefix]:
            raise UserError(
                f"{option}: holds no folders of images; it must hold one for each class, like "
                f"{base / 'cat' / '1.png'}"
            )
    names = sorted({name for name, _ in found[""]})
    parts = {}
    pixels = Pixels(size)
    for prefix, listed in found.items():
        option = f"data.{prefix}root={roots[prefix]}"
        for name, _ in listed:
            if name not in names:
                raise UserError(f"{option}: has a class {name}, which {root} has not")
        parts[f"{prefix}x"] = [pixels.read(file, option) for _, file in listed]
        parts[f"{prefix}y"] = np.array([names.index(name) for name, _ in listed])
    said = [line for prefix in roots for line in _said_of_folder(roots[prefix], prefix, names)]
    if test_root is not None and data_paths.find(test_root).samefile(data_paths.find(root)):
        said.append(f"data.test_root={test_root}: is the folder of data.root, so it is no test")
    return pixels.stacked(parts), said


def _said_of_folder(root: str, prefix: str, names: Sequence[str]) -> list[str]:
    """Return notes on a folder of classes: files that are no images, folders of another kind."""
    option, inside = f"data.{prefix}root={root}", sorted(data_paths.find(root).iterdir())
    said = []
    stray = sum(file.is_file() and file.suffix.lower() in IMAGE_ENDINGS for file in inside)
    if stray:
        said.append(f"{option}: {stray} images outside the class folders are left out")
    empty = [each.name for each in inside if each.is_dir() and each.name not in names]
    if empty and not prefix:
        said.append(f"{option}: folders without images are left out: {', '.join(empty[:9])}")
    if not prefix and (parts := [name for name in names if name.lower() in PARTS_OF_FOLDERS]):
        said.append(
            f"{option}: {' and '.join(parts)} are taken for classes; if they are parts, use "
            f"data.root={Path(root) / parts[-1]}, and data.test_root for the test"
        )
    if hidden := [name for name in names if name.startswith(".")]:
        said.append(f"{option}: the hidden folder {hidden[0]} is taken for a class")
    return said


def read_torchvision(
    dataset: str,
    root: str | None,
    download: bool,
    arguments: Mapping[str, Any] | None,
    size: Sequence[int] | None,
) -> dict[str, Any]:
    """Return the parts of a set of torchvision; see ``own_data.torchvision_set``."""
    option, folder = f"data.dataset={dataset}", _image_cache(root)
    if not isinstance(dataset, str):
        raise UserError(f"{option}: must be the name of a class, like data.dataset=CIFAR10")
    if not isinstance(download, bool):
        raise UserError(f"data.download={download}: must be true or false")
    if not isinstance(arguments, Mapping | None):
        raise UserError(f"data.arguments={arguments}: must be a mapping, like {{split: letters}}")
    with quiet_torchvision():
        from torchvision import datasets
    call = getattr(datasets, dataset, None)
    if not (isinstance(call, type) and issubclass(call, datasets.VisionDataset)):
        raise UserError(
            f"{option}: torchvision.datasets has no such set{nearest(dataset, datasets.__all__)}"
        )
    given, known = dict(arguments or {}), _parameters(call)
    offered = {"root": str(folder), "download": download}
    given = {key: value for key, value in offered.items() if key in known} | given
    if "train" in known and "train" not in given:
        kinds: dict[str, dict[str, Any]] = {"": {"train": True}, "test_": {"train": False}}
    elif "split" in known and "split" not in given:
        kinds = {"": {"split": "train"}, "test_": {"split": "test"}}
    else:
        kinds = {"": {}}
    parts: dict[str, Any] = {}
    pixels = Pixels(size)
    for prefix, kind in kinds.items():
        try:
            with quiet_torchvision(), patient():
                samples: Any = call(**given, **kind)
                pairs = [samples[i] for i in range(len(samples))]
        except UserError:
            raise
        except Exception as error:  # urllib, PIL and torchvision raise any exception
            reason = " ".join(str(error).split()) or type(error).__name__
            hint = "" if download else "; data.download=true lets torchvision download it"
            raise UserError(f"{option}: cannot be read from {folder} ({reason}){hint}") from error
        if not all(len(pair) == 2 and _is_class(pair[1]) for pair in pairs):
            raise UserError(f"{option}: is no set of images with one class each")
        parts[f"{prefix}x"] = [
            pixels.of(image, f"sample {number}", option) for number, (image, _) in enumerate(pairs)
        ]
        parts[f"{prefix}y"] = np.array([int(target) for _, target in pairs], dtype=np.int64)
    return pixels.stacked(parts)


def _parameters(call: type) -> set[str]:
    """Return a class's arguments, with those that it passes on to its base classes."""
    found: set[str] = set()
    for base in call.__mro__:
        parameters = inspect.signature(base).parameters.values()
        found |= {p.name for p in parameters}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def _image_cache(root: str | None) -> Path:
    if root is not None:
        return data_paths.find(root)
    cache = cache_folder()
    if cache is None:
        raise UserError("data.root=null: there is no home folder; name one, like data.root=data")
    return cache / "torchvision"


def _is_class(target: Any) -> bool:
    return isinstance(target, int | np.integer) or (
        isinstance(target, Tensor) and target.ndim == 0 and not target.is_floating_point()
    )
