"""Load MNIST-like images as tensors: read once, checked, split, normalised.

A data config names a function that returns a `Dataset`. The one here reads MNIST and its drop-in
replacements through torchvision. Importing torchvision takes seconds, so the tensors are kept in a
cache folder, and only the first use is slow.

The cache folder is `$LRLAB_CACHE`, else the platform's own:

    MNIST/raw/...             the files unpacked, in torchvision's layout (usable as data.root)
    tensors/MNIST-<key>.pt    the tensors read from files whose contents have this key

Several processes may use it at once. Each file is written whole under another name and then
renamed, and its contents are checked before use. It is only a cache: if it cannot be written, the
job goes on without.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import logging
import math
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrlab.config import data_paths
from lrlab.data.dataset import Dataset, check_draw, tensors_sha256
from lrlab.data.tensor_cache import (
    RawImages,
    cache_folder,
    file_sha256,
    filled_folder,
    patient,
    quiet_torchvision,
    through_tensor_cache,
    write_whole,
)
from lrlab.errors import UserError
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
        raw = _read(dataset, root)
    except OSError as error:
        option = f"data.dataset={dataset}" if root is None else f"data.root={root}"
        where = "" if error.filename is None else f": {error.filename}"
        raise UserError(
            f"{option}: {error.strerror or error}{where}; the files must be readable, and TMPDIR or"
            " LRLAB_CACHE a folder with 120 MB to spare"
        ) from error

    available = len(raw.train_images)
    if val_size >= available:
        raise UserError(
            f"data.val_size={val_size}: must be below the {available} training images,"
            f" for example data.val_size={available // 12}"
        )
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
        (raw.train_images.index_select(0, trained), raw.train_labels[trained]),
        (raw.train_images.index_select(0, held_out), raw.train_labels[held_out]),
        (raw.test_images, raw.test_labels),
    ]
    # Each pixel is one of 256 values, so their normalised values describe it wholly.
    levels = _normalised(torch.arange(256, dtype=torch.uint8).view(1, 1, 256), mean, std)
    if not levels.isfinite().all():
        raise UserError(
            f"data.std={std}: with data.mean={mean} the images overflow float32,"
            " for example data.std=0.3081"
        )
    sha256 = tensors_sha256([levels, *(tensor for part in parts for tensor in part)])
    (train_x, train_y), (val_x, val_y), (test_x, test_y) = (
        (_normalised(images, mean, std), labels.long()) for images, labels in parts
    )
    return Dataset(
        name=dataset,
        train_x=train_x,
        train_y=train_y,
        val_x=val_x,
        val_y=val_y,
        test_x=test_x,
        test_y=test_y,
        num_classes=NUM_CLASSES,
        sha256=sha256,
    )


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
        raise UserError(
            f"data.val_size={val_size}: must be a whole number of at least 0,"
            " for example data.val_size=5000"
        )
    if not is_number(mean):
        raise UserError(f"data.mean={mean}: must be a number, for example data.mean=0.1307")
    if not (is_number(std) and std > 0):
        raise UserError(f"data.std={std}: must be a number above 0, for example data.std=0.3081")


def _normalised(images: Tensor, mean: float, std: float) -> Tensor:
    """Return (N, height, width) uint8 -> (N, 1, height, width) float32, in one copy.

    The operations and their order are those of torchvision's ToTensor and Normalize, to the bit.
    """
    return images.unsqueeze(1).to(torch.float32).div_(255).sub_(mean).div_(std)


def _read(name: str, root: str | None) -> RawImages:
    if root is not None:
        option = f"data.root={root}"
        return _read_files(name, _files_of_user(name, root), f"{option}: ")
    if name == "MNIST":
        key = hashlib.sha256("".join(SHIPPED_SHA256.values()).encode()).hexdigest()
        return through_tensor_cache(name, key, _read_shipped)
    return _read_downloaded(name)


# --- The copy that ships with lrlab -------------------------------------------------------------


def _read_shipped() -> RawImages:
    with filled_folder("MNIST", unpack_shipped) as folder:
        return _read_unpacked({name: folder / name for name in FILE_NAMES})


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


# --- A folder in torchvision's layout, the user's or one that was downloaded into ----------------


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


def _read_files(name: str, files: Mapping[str, Path], prefix: str) -> RawImages:
    """Read the four files, or the cached tensors of files with the same contents.

    Contents decide, not path, size or time. That takes 0.04 s and never misses a replaced file.
    """
    contents = "".join(f"{path.suffix}{file_sha256(path)}" for path in files.values())
    key = hashlib.sha256(contents.encode()).hexdigest()

    def read() -> RawImages:
        with tempfile.TemporaryDirectory(prefix="lrlab-") as temporary:
            paths = dict(files)
            for file_name, path in files.items():
                if path.suffix == ".gz":
                    paths[file_name] = Path(temporary) / file_name
                    unpacked = _unpacked(path, prefix, "replace it by a whole copy")
                    paths[file_name].write_bytes(unpacked)
            for file_name, path in paths.items():
                problem = _idx_problem(path, dimensions=3 if "images" in file_name else 1)
                if problem:
                    raise UserError(
                        f"{prefix}{files[file_name]} is corrupt or truncated ({problem});"
                        " replace it by a whole copy"
                    )
            raw = _read_unpacked(paths)
        _check_agreement(raw, files, prefix)
        return raw

    return through_tensor_cache(name, key, read)


def _unpacked(path: Path, prefix: str, remedy: str) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = f"is corrupt or truncated ({str(error).rstrip('.')})"
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    raise UserError(f"{prefix}{path} {reason}; {remedy}")


def _idx_problem(path: Path, dimensions: int) -> str | None:
    """Return what is wrong with a file in IDX format with uint8 values, or None.

    IDX: two zero bytes, the type (8: uint8), the number of dimensions, each size as a big-endian
    int32, then the values. It is checked here because torchvision does not report a short file
    clearly.
    """
    header_size = 4 + 4 * dimensions
    with path.open("rb") as file:
        header = file.read(header_size)
    if len(header) < header_size:
        return f"{len(header)} bytes, shorter than its header"
    if header[:4] != bytes([0, 0, 8, dimensions]):
        return f"it starts with {header[:4].hex()}, not {bytes([0, 0, 8, dimensions]).hex()}"
    sizes = [int.from_bytes(header[at : at + 4], "big") for at in range(4, header_size, 4)]
    expected, found = header_size + math.prod(sizes), path.stat().st_size
    if expected != found:
        return f"{found} bytes, but its header promises {expected}"
    if math.prod(sizes) == 0:
        return "it holds nothing"
    return None


def _check_agreement(raw: RawImages, files: Mapping[str, Path], prefix: str) -> None:
    train_images, train_labels, test_images, test_labels = (files[name] for name in FILE_NAMES)
    for images, labels, images_path, labels_path in (
        (raw.train_images, raw.train_labels, train_images, train_labels),
        (raw.test_images, raw.test_labels, test_images, test_labels),
    ):
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
    if raw.train_images.shape[1:] != raw.test_images.shape[1:]:
        train_shape, test_shape = (
            " x ".join(map(str, images.shape[1:])) for images in (raw.train_images, raw.test_images)
        )
        raise UserError(
            f"{prefix}the images are {train_shape} in {train_images}, but {test_shape} in"
            f" {test_images}; they must be of one size"
        )


def _read_unpacked(files: Mapping[str, Path]) -> RawImages:
    """Read four checked files, in the order of FILE_NAMES, with torchvision.

    torchvision's dataset classes would prefer a `processed` folder from versions before 0.9 to the
    checked files. The readers inside them do not.
    """
    with quiet_torchvision():
        from torchvision.datasets.mnist import read_image_file, read_label_file

        train_images, train_labels, test_images, test_labels = (
            str(files[name]) for name in FILE_NAMES
        )
        return RawImages(
            read_image_file(train_images),
            read_label_file(train_labels).to(torch.uint8),
            read_image_file(test_images),
            read_label_file(test_labels).to(torch.uint8),
        )


# --- Downloads ----------------------------------------------------------------------------------


def _read_downloaded(name: str) -> RawImages:
    cache = cache_folder()
    prefix = f"data.dataset={name}: "
    if cache is not None:
        files, missing = _find_files(cache / name / "raw")
        if not missing:
            return _read_files(name, files, prefix)
    with filled_folder(name, lambda folder: _download(name, folder)) as folder:
        return _read_files(name, _find_files(folder)[0], prefix)


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
            raise UserError(_advice_without_network(name, lines[-1] if lines else "")) from error
        for file_name in FILE_NAMES:
            os.replace(Path(temporary) / name / "raw" / file_name, folder / file_name)


def _advice_without_network(name: str, reason: str) -> str:
    cache = cache_folder()
    into_cache = "" if cache is None else f"into {cache / name / 'raw'}, or "
    return (
        f"data.dataset={name}: the download failed ({reason.strip('<>') or 'no reason given'}); put"
        f" {_names_in_words()} {into_cache}into FOLDER/{name}/raw and say data.root=FOLDER"
    )


# --- The cache ----------------------------------------------------------------------------------
