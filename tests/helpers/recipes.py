"""Words and data that the tests of recipes share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

NET = "network.hidden=[37,11]"
LONG = f"{NET} epochs=8"  # long enough for steps to be captured
DATA = ("data=arrays", "data.path=points.npz", "network.hidden=[5]", "batch_size=16")
FEW = (*DATA, "epochs=4", "threads=1", "plots=false", "diagnostics=off", "device=cpu")


def grouped(head: float = 10, decay: float = 0) -> str:
    own = f'"layers.2":{{"lr":{head}}},"*.bias":{{"weight_decay":{decay}}}'
    return f"optimizer.groups={{{own}}}"


def write_points(folder: Path) -> None:
    """Write points.npz: three classes in the space."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(1600, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0.5)
    np.savez(folder / "points.npz", x=x, y=y)
