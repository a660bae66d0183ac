"""The seven problems of `verdict_truth.py`, each a sweep of lr with ten seeds."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

SEEDS = 10


def rates(lowest: float, highest: float, a_decade: int = 3) -> list[float]:
    """Log-spaced lrs, so many a decade, rounded to three digits."""
    steps = round(a_decade * np.log10(highest / lowest))
    return [float(f"{lr:.3g}") for lr in np.geomspace(lowest, highest, steps + 1)]


def sgd() -> dict[str, Any]:
    return {"lr": rates(1e-3, 10), "epochs": 3, **_mnist(8000)}


def adam() -> dict[str, Any]:
    return {"lr": rates(1e-5, 0.1), "optimizer": "adam", "epochs": 3, **_mnist(8000)}


def mse_one_hot() -> dict[str, Any]:
    return {"lr": rates(1e-3, 10), "loss": "mse_one_hot", "epochs": 3, **_mnist(8000)}


def overfits() -> dict[str, Any]:
    """100 rows of three classes, a sixth of them mislabelled: val loss turns round early."""
    random = np.random.default_rng(1)
    directions = random.normal(size=(20, 3))

    def drawn(rows: int) -> tuple[np.ndarray, np.ndarray]:
        x = random.normal(size=(rows, 20)).astype(np.float32)
        y = np.argmax(x @ directions, axis=1)
        wrong = random.random(rows) < 1 / 6
        return x, np.where(wrong, random.integers(0, 3, rows), y)

    (x, y), (val_x, val_y) = drawn(100), drawn(1000)
    data = {"x": x, "y": y, "val_x": val_x, "val_y": val_y}
    options = {"network__hidden": (64, 64), "batch_size": 20, "epochs": 150}
    return {"lr": rates(1e-3, 10), "data": data, **options}


def cosine() -> dict[str, Any]:
    return {"lr": rates(1e-3, 10), "schedule": "cosine", "epochs": 3, **_mnist(8000)}


def regression() -> dict[str, Any]:
    """A smooth function of ten inputs with noise; targets stand far from 0."""
    random = np.random.default_rng(2)
    x = random.normal(size=(2000, 10)).astype(np.float32)
    y = np.sin(x[:, 0] + x[:, 1]) + 0.5 * x[:, 2] * x[:, 3] + 0.3 * x[:, 4]
    y = (5 + y + 0.1 * random.normal(size=2000)).astype(np.float32)
    options = {"loss": "mse", "optimizer": "momentum", "optimizer__momentum": 0.9}
    options |= {"network__hidden": (64, 64), "batch_size": 32, "epochs": 15}
    return {"lr": rates(1e-5, 1), "data": (x, y), "data__val_size": 500, **options}


def cnn() -> dict[str, Any]:
    """MNIST at half its size, for a convolutional lane costs many times a perceptron's."""
    from lrlab.data import torchvision_images

    images = torchvision_images(train_size=2000, val_size=1000)

    def halved(x: Any) -> np.ndarray:
        return x.numpy().reshape(-1, 1, 14, 2, 14, 2).mean(axis=(3, 5))

    data = {"x": halved(images.train_x), "y": images.train_y.numpy()}
    data |= {"val_x": halved(images.val_x), "val_y": images.val_y.numpy()}
    options = {"network": "cnn", "network__channels": (8, 16), "network__hidden": (32,)}
    return {"lr": rates(1e-2, 4.64), "data": data, "batch_size": 32, "epochs": 3, **options}


def _mnist(rows: int) -> dict[str, Any]:
    return {"data__train_size": rows, "data__val_size": 2000}


PROBLEMS: Mapping[str, Callable[[], dict[str, Any]]] = {
    each.__name__: each for each in (sgd, adam, mse_one_hot, overfits, cosine, regression, cnn)
}


def trained(name: str, folder: Path, threads: int) -> Path:
    """The folder of a problem's sweep, trained unless it is there already."""
    import lrlab

    kept = folder / name
    if kept.is_dir():
        return kept
    print(f"{name}: trains", file=sys.stderr)
    started = time.perf_counter()
    # A folder of this process alone: another one may be training the same.
    partial = folder / f"{name}.{os.getpid()}.partial"
    options = {"seed": list(range(SEEDS)), "plots": False, "threads": threads}
    try:
        lrlab.run_sweep(output=str(folder), name=partial.name, **options, **PROBLEMS[name]())
        if not kept.is_dir():
            partial.rename(kept)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{name}: trained in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return kept
