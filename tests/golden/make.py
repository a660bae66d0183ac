"""The golden curves: one small sweep, whose numbers must stay what they are.

    python tests/golden/make.py

trains it anew and writes curves.csv and made_on.json beside this file. Do so where numbers are
meant to change, and say why in the commit.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

import lrlab

HERE = Path(__file__).parent
# What decides the bits of a product: where these are equal, so must the curves be.
DECIDES = ("torch", "device", "device_name", "cpu_capability", "mkl_cbwr", "byteorder")
COLUMNS = ["run", "optimizer", "schedule", "lr", "step", "lr_at_step", "train_loss", "val_loss"]


def train(output: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The sweep's curves, and what they were made on."""
    sweep = lrlab.run_sweep(
        lr=[0.01, 0.1],
        optimizer=["sgd", "momentum", "adam"],
        schedule=["fixed", "cosine"],
        epochs=2,
        seed=3,
        device="cpu",
        threads=1,
        data__train_size=1280,
        data__val_size=256,
        diagnostics="off",
        plots=False,
        output=str(output),
        name="golden",
    )
    summary = json.loads((output / "golden" / "0" / "summary.json").read_text())
    curves = sweep.curves[COLUMNS].sort_values(["run", "step"], ignore_index=True)
    return curves, {name: summary["environment"][name] for name in DECIDES}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        curves, made_on = train(Path(folder))
    curves.to_csv(HERE / "curves.csv", index=False, float_format="%.17g")
    (HERE / "made_on.json").write_text(json.dumps(made_on, indent=2) + "\n")


if __name__ == "__main__":
    main()
