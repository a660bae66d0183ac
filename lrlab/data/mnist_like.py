"""Load MNIST-like images as tensors: read, checked, split, normalised.

A data config names a function that returns a `Dataset`. The one here reads MNIST and its drop-in
replacements. MNIST ships with lrlab, packed; torchvision downloads the others. The unpacked files
are kept in a cache folder, `$LRLAB_CACHE` or else the platform's own, in torchvision's layout. So
the folder can be used as data.root, too:

    MNIST/raw/train-images-idx3-ubyte ...

Several processes may use it at once. Each file is written whole under another name and then
renamed, and its contents are checked before use. If the folder cannot be written, the files are
unpacked into a temporary one.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import logging
import math
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from lrlab.config import data_paths
from lrlab.data.cache import (
    cache_folder,
    file_sha256,
    filled_folder,
    patient,
    quiet_torchvision,
    write_whole,
)
from lrlab.data.dataset import Dataset, check_draw, tensors_sha256
from lrlab.errors import UserError, must_be
from lrlab.process.plain import is_number, is_whole

log = logging.getLogger("lrlab.data")

SHIPPED_FOLDER = Path(__file__).parent / "mnist"
SHIPPED_SHA256 = {  # of the unpacked files
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
FILE_NAMES = tuple(SHIPPED_SHA256)
CLASS_NAMES = ("MNIST", "FashionMNIST", "KMNIST")  # torchvision's; all share MNIST's format
NUM_CLASSES = 10


# Images (N, height, width) uint8 and labels (N,) uint8, for training and for the test.
Raw = tuple[Tensor, Tensor, Tensor, Tensor]


def torchvision_images(
    dataset: str = "MNIST",
    root: str | None = None,
    train_size: int | None = None,
    val_size: int = 5000,
    split_seed: int = 0,
    mean: float = 0.1307,
    std: float = 0.3081,
) -> Dataset:
    """Load MNIST, FashionMNIST or KMNIST, split and normalised as (x / 255 - mean) / std.

    The arguments are the keys of `conf/data/*.yaml`, described there. A generator with the seed
    `split_seed` shuffles the training images. The first `val_size` of them are held out and the
    next `train_size` are trained on, so `train_size` never changes the held-out ones.

    Raises UserError, in one line, for a value out of range. It also does so, with their names, for
    files that are missing, truncated, corrupt or cannot be downloaded.
    """
    _check_values(dataset, train_size, val_size, split_seed, mean, std)
    try:
        train_images, train_labels, test_images, test_labels = _read(dataset, root)
    except OSError as error:
        option = f"data.dataset={dataset}" if root is None else f"data.root={root}"
        where = "" if error.filename is None else f": {error.filename}"
        raise UserError(
            f"{option}: {error.strerror or error}{where}; the files must be readable, and TMPDIR or"
            " LRLAB_CACHE a folder with 60 MB to spare"
        ) from error

    available = len(train_images)
    if val_size >= available:
        below = f"below the {available} training images"
        raise must_be("data.val_size", val_size, below, available // 12)
    if train_size is not None and train_size > available - val_size:
        raise UserError(
            f"data.train_size={train_size}: only {available - val_size} training images are left"
            f" with data.val_size={val_size}, for example data.train_size={available - val_size}"
        )

    shuffled = torch.randperm(available, generator=torch.Generator().manual_seed(split_seed))
    held_out = shuffled[:val_size]
    trained = shuffled[val_size:][:train_size]
    parts = [
        # index_select copies whole images; plain indexing takes three times as long
        (train_images.index_select(0, trained), train_labels[trained]),
        (train_images.index_select(0, held_out), train_labels[held_out]),
        (test_images, test_labels),
    ]
    # Each pixel is one of 256 values, so their normalised values describe it wholly.
    levels = _normalised(torch.arange(256, dtype=torch.uint8).view(1, 1, 256), mean, std)
    if not levels.isfinite().all():
        raise UserError(
            f"data.std={std}: with data.mean={mean} the images overflow float32,"
            " for example data.std=0.3081"
        )
    sha256 = tensors_sha256([levels, *(tensor for part in parts for tensor in part)])
    tensors = [each for i, y in parts for each in (_normalised(i, mean, std), y.long())]
    return Dataset(dataset, *tensors, num_classes=NUM_CLASSES, sha256=sha256)


def _check_values(
    dataset: Any, train_size: Any, val_size: Any, seed: Any, mean: Any, std: Any
) -> None:
    if dataset not in CLASS_NAMES:
        raise UserError(
            f"data.dataset={dataset}: must be one of {', '.join(CLASS_NAMES)};"
            " for other data let data._target_ name a function that returns an lrlab.data.Dataset"
        )
    check_draw(train_size, seed, "images")
    if not is_whole(val_size, 0):
        raise must_be("data.val_size", val_size, "a whole number of at least 0", 5000)
    if not is_number(mean):
        raise must_be("data.mean", mean, "a number", 0.1307)
    if not (is_number(std) and std > 0):
        raise must_be("data.std", std, "a number above 0", 0.3081)


def _normalised(images: Tensor, mean: float, std: float) -> Tensor:
    """Return (N, height, width) uint8 -> (N, 1, height, width) float32, in one copy.

    The operations and their order are those of torchvision's ToTensor and Normalize, to the bit.
    """
    return images.unsqueeze(1).to(torch.float32).div_(255).sub_(mean).div_(std)


def _read(name: str, root: str | None) -> Raw:
    if root is not None:
        return _read_files(_files_of_user(name, root), f"data.root={root}: ")
    prefix, cache = f"data.dataset={name}: ", cache_folder()
    if name != "MNIST" and cache is not None:
        files, missing = _find_files(cache / name / "raw")
        if not missing:
            return _read_files(files, prefix)
    fill = unpack_shipped if name == "MNIST" else functools.partial(_download, name)
    with filled_folder(name, fill) as folder:
        return _read_files(_find_files(folder)[0], prefix)


def unpack_shipped(folder: Path) -> None:
    """Make the four files exist in `folder` with the right contents. OSError: cannot write."""
    for name, sha256 in SHIPPED_SHA256.items():
        target = folder / name
        with contextlib.suppress(OSError):
            if file_sha256(target) == sha256:
                continue
        packed = SHIPPED_FOLDER / f"{name}.gz"
        contents = _unpacked(packed, "data.dataset=MNIST: ", "install lrlab again")
        if hashlib.sha256(contents).hexdigest() != sha256:
            raise UserError(
                f"data.dataset=MNIST: {packed} is corrupt (its SHA-256 is wrong); install lrlab"
                " again, or name a folder of your own with data.root="
            )
        write_whole(target, contents)


def _files_of_user(name: str, root: str) -> dict[str, Path]:
    """Return the four files under data.root. Nothing is written or downloaded there."""
    folder = data_paths.find(str(root))
    files, missing = _find_files(folder / name / "raw")
    if not missing:
        return files
    layout = f"expected {folder / name / 'raw'} to hold {_names_in_words()}"
    for above, inner in ((folder.parent.parent, folder), (folder.parent, folder / "raw")):
        if inner == above / name / "raw" and not _find_files(inner)[1]:
            layout = f"the folder two levels above the files is meant, data.root={above}"
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.exists() else "no such folder"
    elif not files:
        problem = f"no {folder / name / 'raw' / missing[0]}"
    else:
        problem = f"incomplete, no {', '.join(missing)}"
    raise UserError(f"data.root={root}: {problem}; {layout}")


def _find_files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the files there, packed or not, and the names of missing ones."""
    files = {}
    for name in FILE_NAMES:
        # If both exist the unpacked one counts, as for torchvision.
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                files[name] = path
                break
    return files, [name for name in FILE_NAMES if name not in files]


def _names_in_words() -> str:
    return f"{', '.join(FILE_NAMES[:-1])} and {FILE_NAMES[-1]} (or each as .gz)"


def _read_files(files: Mapping[str, Path], prefix: str) -> Raw:
    """Read the four files, and check that they belong together."""
    read = [_read_idx(files[name], 3 if "images" in name else 1, prefix) for name in FILE_NAMES]
    for first in (0, 2):
        (images, labels), names = read[first : first + 2], FILE_NAMES[first : first + 2]
        images_path, labels_path = (files[name] for name in names)
        if len(images) != len(labels):
            raise UserError(
                f"{prefix}{images_path} holds {len(images)} images, but {labels_path} holds"
                f" {len(labels)} labels; they must be of one set"
            )
        if labels.max() >= NUM_CLASSES:
            raise UserError(
                f"{prefix}{labels_path} holds the label {labels.max()}; labels must be"
                f" 0 to {NUM_CLASSES - 1}"
            )
    train, test = (" x ".join(map(str, read[place].shape[1:])) for place in (0, 2))
    if train != test:
        raise UserError(
            f"{prefix}the images are {train} in {files[FILE_NAMES[0]]}, but {test} in"
            f" {files[FILE_NAMES[2]]}; they must be of one size"
        )
    return cast("Raw", tuple(read))


def _read_idx(path: Path, dimensions: int, prefix: str) -> Tensor:
    """Read a file in IDX format with uint8 values, which may be packed by gzip.

    IDX: two zero bytes, the type (8: uint8), the number of dimensions, each size as a big-endian
    int32, then the values.
    """
    remedy = "replace it by a whole copy"
    is_packed = path.suffix == ".gz"
    contents = _unpacked(path, prefix, remedy) if is_packed else path.read_bytes()
    magic, start = bytes([0, 0, 8, dimensions]), 4 + 4 * dimensions
    sizes = [int.from_bytes(contents[at : at + 4], "big") for at in range(4, start, 4)]
    expected = start + math.prod(sizes)
    if len(contents) < start:
        problem = f"{len(contents)} bytes, shorter than its header"
    elif contents[:4] != magic:
        problem = f"it starts with {contents[:4].hex()}, not {magic.hex()}"
    elif len(contents) != expected:
        problem = f"{len(contents)} bytes, but its header promises {expected}"
    elif len(contents) == start:
        problem = "it holds nothing"
    else:
        return torch.frombuffer(bytearray(contents), dtype=torch.uint8, offset=start).view(sizes)
    raise UserError(f"{prefix}{path} is corrupt or truncated ({problem}); {remedy}")


def _unpacked(path: Path, prefix: str, remedy: str) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = f"is corrupt or truncated ({str(error).rstrip('.')})"
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    raise UserError(f"{prefix}{path} {reason}; {remedy}")


def _download(name: str, folder: Path) -> None:
    """Download the four files into `folder`, unpacked. OSError: cannot write.

    torchvision writes in place, where another process could read half a file. So it gets a folder
    of its own, and each whole file is moved. It checks their MD5.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log.info("downloading %s into %s", name, folder)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as temporary:
        try:
            with quiet_torchvision(), patient():
                import torchvision.datasets

                getattr(torchvision.datasets, name)(temporary, download=True)
        except UserError:
            raise
        except Exception as error:  # urllib, http.client, ssl and torchvision raise any exception
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = lines[-1].strip("<>") if lines else "no reason given"
            raise UserError(
                f"data.dataset={name}: the download failed ({reason}); put {_names_in_words()} into"
                f" FOLDER/{name}/raw and say data.root=FOLDER"
            ) from error
        for file_name in FILE_NAMES:
            os.replace(Path(temporary) / name / "raw" / file_name, folder / file_name)
