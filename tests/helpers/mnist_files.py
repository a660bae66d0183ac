"""Tiny data sets in the layout of torchvision's files."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lrlab import data
from lrlab.data import torchvision_images
from lrlab.data.mnist_like import FILE_NAMES
from lrlab.errors import UserError

TENSORS = ("train_x", "train_y", "val_x", "val_y", "test_x", "test_y")


def idx(values: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()


def write_folder(root: Path, name="MNIST", packed=False, train=40, test=12, seed=0) -> Path:
    """A tiny data set in torchvision's layout; returns the folder of the four files."""
    random = np.random.default_rng(seed)
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for file_name, shape in zip(
        FILE_NAMES, [(train, 28, 28), (train,), (test, 28, 28), (test,)], strict=True
    ):
        high = 256 if "images" in file_name else 10
        contents = idx(random.integers(0, high, shape, dtype=np.uint8))
        if packed:
            (folder / f"{file_name}.gz").write_bytes(gzip.compress(contents))
        else:
            (folder / file_name).write_bytes(contents)
    return folder


def error_of(**arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        torchvision_images(**arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def same_tensors(one: data.Dataset, other: data.Dataset) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in TENSORS)
