"""What only this process has, such as a class of a notebook's cell, trains; a record says so."""

from __future__ import annotations

import contextlib
import functools
import linecache
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.commands import command, error, process, summaries
from torch import nn

import lrlab
from lrlab import not_importable, records, reproduce, resume

MINE = """
from torch import nn


class Mine(nn.Module):
    def __init__(self, in_shape, num_classes, width=4):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_shape[0], width), nn.ReLU(), nn.Linear(width, num_classes)
        )

    def forward(self, x):
        return self.layers(x)
"""
draw = torch.Generator().manual_seed(0)
X = torch.randn(120, 3, generator=draw)
Y = (X[:, 0] > 0).long()
FEW: dict[str, Any] = {"data": (X, Y), "lr": [0.1, 0.3], "epochs": 2, "batch_size": 20}
FEW |= {"threads": 1, "diagnostics": "off", "plots": False}


@pytest.fixture(autouse=True)
def home(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "mine_in_a_file.py").write_text(MINE)
    with contextlib.chdir(tmp_path), mock.patch.object(sys, "path", [str(tmp_path), *sys.path]):
        yield tmp_path
    sys.modules.pop("mine_in_a_file", None)


def cell(text: str, name: str) -> Any:
    """What a notebook's cell defines: in ``__main__``, with its lines in ``linecache`` only."""
    file = f"<cell of {name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, file, "exec"), scope)
    return scope[name]


def losses_of(sweep: lrlab.Result) -> list[bytes]:
    return [(sweep.folder / f"{run}/metrics.csv").read_bytes() for run in (0, 1)]


def test_a_class_of_a_notebooks_cell_trains_as_one_from_a_file() -> None:
    there = cell(MINE, "Mine")
    found = lrlab.run_sweep(network=there, network__width=5, **FEW)
    from mine_in_a_file import Mine  # type: ignore[import-not-found]

    assert losses_of(found) == losses_of(lrlab.run_sweep(network=Mine, network__width=5, **FEW))
    (file,) = found.folder.glob("code-*.py")
    assert file.read_text() == MINE.strip().partition("\n\n\n")[2] + "\n"
    assert f"Mine cannot be imported by another process, {SO}; {file.name}" in found.notes[0]
    config = records.read_config(found.folder / "0")
    assert f"_target_: lrlab.not_importable.{file.stem.removeprefix('code-')}" in config


SO = "so resume and reproduce cannot train its runs again"


def test_a_loss_without_a_name_trains() -> None:
    kept = {**FEW, "network": "perceptron"}
    mine = lrlab.run_sweep(loss=lambda outputs, y: F.cross_entropy(outputs, y), **kept)
    assert losses_of(mine) == losses_of(lrlab.run_sweep(loss="cross_entropy", **kept))
    assert mine.notes[0].startswith("lrlab: a lambda cannot be imported by another process")
    (file,) = mine.folder.glob("code-lambda_*.py")
    assert "lambda outputs, y: F.cross_entropy(outputs, y)" in file.read_text()


def test_each_run_trains_a_copy_of_an_object() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    data = {"x": X, "y": Y, "val_x": X, "val_y": Y}
    settings = {**FEW, "data": data, "epochs": 1, "lr": 0.3}
    found = lrlab.run_sweep(network=network, loss=loss, seed=[0, 1], **settings)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert "each run starts from the weights of the given Sequential" in "\n".join(found.notes)
    curves = found.curves
    # the first loss is that of the given weights on the first batch of each seed's order
    for run, seed in enumerate((0, 1)):
        order = torch.from_numpy(np.random.default_rng([seed, 0]).permutation(120))
        first = loss(network(X[order[:20]]), Y[order[:20]])
        row = curves[(curves["run"] == run) & (curves["step"] == 0)]
        assert row["train_loss"].tolist()[0] == pytest.approx(float(first), abs=1e-5)


def test_a_partial_is_its_function_with_these_settings() -> None:
    from mine_in_a_file import Mine  # type: ignore[import-not-found]

    one = lrlab.run_sweep(network=functools.partial(Mine, width=3), **FEW)
    assert losses_of(one) == losses_of(lrlab.run_sweep(network=Mine, network__width=3, **FEW))
    assert error(lrlab.run_sweep, network=functools.partial(Mine, (3,)), **FEW).startswith(
        "network=Mine: a partial must have keyword arguments only"
    )


def test_another_process_says_in_one_line_why_it_cannot_train(home: Path) -> None:
    found = lrlab.run_sweep(network=cell(MINE, "Mine"), **FEW)
    (file,) = found.folder.glob("code-*.py")
    with mock.patch.dict(not_importable._entries, clear=True):
        for verb, words in (
            (reproduce.main, [str(found.folder / "0")]),
            (reproduce.main, [str(found.folder / "0"), "trust=true"]),
            (resume.main, [str(found.folder), "epochs=3"]),
        ):
            ended = command(verb, words, home)
            assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), ended
            assert "only that process could train it" in ended.err, ended
            assert file.name in ended.err
        assert len(lrlab.load(found.folder).runs) == 2


def test_other_processes_are_refused() -> None:
    mine = cell(MINE, "Mine")
    said = error(lrlab.run_sweep, network=mine, **FEW, workers=2)
    assert said.startswith("workers=2: other processes train the runs, and they cannot import Mine")
    assert not Path("outputs").exists()


def test_what_cannot_be_copied_is_refused() -> None:
    network = nn.Linear(3, 2)
    network.stream = (number for number in range(3))  # type: ignore[assignment]
    said = error(lrlab.run_sweep, network=network, **FEW)
    assert said.startswith("network=Linear: the object cannot be copied (") and "its class" in said


def test_a_script_trains_its_own_class(home: Path) -> None:
    script = f"import torch, lrlab\n{MINE}\n" + """
x = torch.arange(60.0).reshape(20, 3)
if __name__ == "__main__":
    print(lrlab.run_sweep(network=Mine, data=(x, (x[:, 0] > 30).long()), lr=[0.1, 0.2], epochs=1,
                          batch_size=5, threads=1, diagnostics="off", plots=False).folder)
"""
    (home / "script.py").write_text(script)
    ended = process("script.py", cwd=home)
    assert (ended.returncode, ended.stderr) == (0, "")
    folder = Path(ended.stdout.strip())
    assert [each["state"] for each in summaries(folder)] == ["finished", "finished"]
    (file,) = folder.glob("code-Mine_*.py")
    assert file.read_text().startswith("class Mine(nn.Module):")
