"""Lines before training begins: what is said, of what, and of what nothing is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.commands import command
from helpers.training import make_specs

from lrlab.plan import notices
from lrlab.sweep import main as sweep

pytestmark = pytest.mark.unit

QUICK = ("threads=1", "plots=false", "diagnostics=off", "device=cpu")
ENOUGH = "batch_size=20 epochs=20"


def said(folder: Path, y: Any, common: str = ENOUGH, val: int | None = 100) -> list[str]:
    """What is said of such targets."""
    y = np.asarray(y)
    x = np.random.default_rng(0).normal(size=(len(y), 2))
    parts = {"x": x, "y": y} | ({} if val is None else {"val_x": x[:val], "val_y": y[:val]})
    np.savez(folder / "a.npz", **parts)
    return notices.lines(
        make_specs(folder, ["lr=0.1", "lr=1"], f"data=arrays data.path={folder / 'a.npz'} {common}")
    )


def test_nothing_is_said_of_an_ordinary_classification_or_regression(tmp_path: Path) -> None:
    assert said(tmp_path, np.arange(600) % 3) == []
    assert said(tmp_path, np.arange(600) / 7, f"{ENOUGH} loss=mse") == []
    assert said(tmp_path, np.arange(4000) % 100) == []  # many classes, of 40 samples each


@pytest.mark.parametrize("targets", [np.arange(600) // 2, np.arange(600) // 11, np.arange(40) * 9])
def test_whole_numbers_that_look_like_quantities(targets: np.ndarray, tmp_path: Path) -> None:
    distinct = len(np.unique(targets))
    lines = said(tmp_path, targets, "batch_size=4 epochs=20", val=None)
    assert lines[0] == (
        f"the targets are {distinct} different whole numbers, taken as classes; "
        "if they are quantities, give them as floats with loss=mse"
    )
    # a loss of one's own may well want whole numbers
    own = "loss._target_=test_notices.poisson batch_size=4 epochs=20"
    assert not any("quantities" in line for line in said(tmp_path, targets, own))


def poisson(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.poisson_nll_loss(outputs[:, 0], targets.float())


def test_of_a_table_the_option_is_named(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": np.arange(400) / 3.0, "price": np.arange(400) // 2 * 10})
    frame.to_csv(tmp_path / "t.csv", index=False)
    node = f"data=csv data.path={tmp_path / 't.csv'} data.label=price batch_size=20 epochs=20"
    lines = notices.lines(make_specs(tmp_path, ["lr=0.1"], node))
    assert len(lines) == 2 and "if they are quantities, use data.task=regression" in lines[0]
    lines = notices.lines(make_specs(tmp_path, ["lr=0.1"], f"{node} data.task=regression loss=mse"))
    assert len(lines) == 1 and "held out" in lines[0]


def test_labels_that_leave_gaps(tmp_path: Path) -> None:
    assert said(tmp_path, np.arange(600) % 2 * 255) == [
        "the labels are 0, 255 and there are gaps between them, but the network has 256 outputs, "
        "by the largest label; renumber them 0 to 1"
    ]
    assert said(tmp_path, np.arange(600) % 10 + 1) == [
        "the labels are 1, 2, 3, ... and class 0 never occurs, but the network has 11 outputs, "
        "by the largest label; renumber them 0 to 9"
    ]


def test_a_small_held_out_part(tmp_path: Path) -> None:
    y = np.arange(600) % 3
    (line,) = said(tmp_path, y, val=99)
    assert line.startswith("only 99 samples held out, so one of them is 1.0% of the val accuracy; ")
    assert "data.val_size" in line
    (line,) = said(tmp_path, y / 2, f"{ENOUGH} loss=mse data.val_size=1", val=None)
    assert line.startswith("only 1 sample held out, so val losses are noisy; ")


def test_few_steps(tmp_path: Path) -> None:
    (line,) = said(tmp_path, np.arange(135) % 3, "epochs=3")  # iris
    assert line == (
        "6 steps only: 3 epochs of 2, with batch_size=64; use more epochs or a smaller batch_size"
    )
    (line,) = said(tmp_path, np.arange(110) % 3, "batch_size=100 epochs=1")
    assert line.startswith("1 step only: 1 epoch of 1, with")
    assert said(tmp_path, np.arange(110) % 3, "batch_size=10 epochs=10") == []
    assert said(tmp_path, np.arange(999) % 3, "data.train_size=100") == []  # wanted so


def test_the_lines_are_those_of_the_page(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "troubleshooting.md").read_text("utf-8")
    shown = [line.strip().removeprefix("lrlab: ") for line in page.splitlines()]
    frame = pd.DataFrame({"a": np.arange(400) / 3.0, "price": np.arange(400) // 2 * 10})
    frame.to_csv(tmp_path / "t.csv", index=False)
    node = f"data=csv data.path={tmp_path / 't.csv'} data.label=price {ENOUGH}"
    table = notices.lines(make_specs(tmp_path, ["lr=0.1"], node))
    iris = said(tmp_path, np.arange(150) % 3, "epochs=3", val=None)
    for line in (table[0], *iris, *said(tmp_path, np.arange(600) % 2 * 255)):
        assert line in shown


@pytest.mark.default
def test_a_sweep_says_them_once_before_it_trains(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(150, 4))
    np.savez(tmp_path / "iris.npz", x=x, y=np.arange(150) // 50)
    words = ["data=arrays", "data.path=iris.npz", "lr=0.01,0.1", "seed=0,1", "name=s", *QUICK]
    ended = command(sweep, words, tmp_path)
    assert ended.code == 0
    assert [line.partition(":")[0] for line in ended.err.splitlines()] == ["lrlab"] * 2
    assert "lrlab: 6 steps only: " in ended.err and "lrlab: only 15 samples held out" in ended.err


def test_a_sweep_of_many_lrs_is_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Any] = []
    monkeypatch.setattr(notices, "_of_data", lambda spec: looked.append(spec) or iter(()))
    np.savez(tmp_path / "a.npz", x=np.zeros((40, 2)), y=np.arange(40) % 2)
    runs = [f"lr={0.1 + i / 100} seed={i % 3}" for i in range(20)]
    node = f"data=arrays data.path={tmp_path / 'a.npz'} batch_size=8"
    notices.lines(make_specs(tmp_path, [*runs, "lr=0.1 epochs=9"], node))
    assert len(looked) == 2
