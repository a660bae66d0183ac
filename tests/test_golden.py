"""The same numbers everywhere: a small sweep against its curves in tests/golden."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))

import make  # noqa: E402

# Other versions and processors add up in another order, which moves single roundings. Over the 40
# steps these grow to far less than this, and a wrong formula makes far more.
TOLERANCE = 1e-3


def golden() -> tuple[pd.DataFrame, dict[str, str]]:
    curves = pd.read_csv(GOLDEN / "curves.csv")
    return curves, json.loads((GOLDEN / "made_on.json").read_text())


def compare(curves: pd.DataFrame, here: Mapping[str, str]) -> None:
    """Bit by bit where torch and processor are the golden file's, else within TOLERANCE."""
    wanted, there = golden()
    keys = ["run", "optimizer", "schedule", "lr", "step"]
    assert curves[keys].to_numpy().tolist() == wanted[keys].to_numpy().tolist()
    other = {name: (there[name], here[name]) for name in there if there[name] != here[name]}
    for name in ("lr_at_step", "train_loss", "val_loss"):
        new, old = curves[name].to_numpy(float), wanted[name].to_numpy(float)
        if other:
            said = f"{name}: beyond {TOLERANCE:g} of the golden file, made with other {other}"
            np.testing.assert_allclose(new, old, rtol=TOLERANCE, err_msg=said)
        else:
            said = f"{name}: not the bits of the golden file, made with this torch and processor"
            np.testing.assert_array_equal(new, old, err_msg=said)


def test_a_small_sweep_has_the_golden_curves(tmp_path: Path) -> None:
    compare(*make.train(tmp_path))


def test_one_bit_is_told_here_and_a_thousandth_elsewhere() -> None:
    curves, here = golden()
    compare(curves, here)
    last = curves["train_loss"].last_valid_index()
    moved = curves.copy()
    moved.loc[last, "train_loss"] = np.nextafter(curves.loc[last, "train_loss"], 9)
    with pytest.raises(AssertionError, match="train_loss: not the bits of the golden file"):
        compare(moved, here)
    elsewhere = {**here, "torch": "2.99.0"}
    compare(moved, elsewhere)
    moved.loc[last, "train_loss"] = curves.loc[last, "train_loss"] * 1.002
    with pytest.raises(AssertionError, match=r"made with other \{'torch': .*'2.99.0'"):
        compare(moved, elsewhere)
