"""Hydra's own launchers train the runs of a sweep too: one process or cluster job a run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from test_sweep import QUICK, process

from lrlab import records

pytestmark = pytest.mark.slow

# Three runs, of which the middle one raises while it trains.
NETWORK = """
import torch

class Net(torch.nn.Module):
    def __init__(self, in_shape, num_classes, kind=0):
        super().__init__()
        self.kind = kind
        self.layers = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(784, 3 + kind), torch.nn.Tanh(),
            torch.nn.Linear(3 + kind, num_classes))

    def forward(self, x):
        if self.kind == 1 and self.training:
            raise RuntimeError("my own bug")
        return self.layers(x)
"""
RUNS = ("network=custom", "network._target_=mine.Net", "+network.kind=0,1,2", "name=here")

# It builds where the command is typed and not where it trains: a cluster's node lacks something.
ELSEWHERE = """
import os
import torch

os.environ.setdefault("TYPED_HERE", str(os.getpid()))

def net(in_shape, num_classes, kind=0):
    if kind == 1 and os.environ["TYPED_HERE"] != str(os.getpid()):
        raise RuntimeError("not on this node")
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, num_classes))
"""


def sweep(folder: Path, launcher: str, *arguments: str, code: str = NETWORK) -> Path:
    """Run it as a user does, in a process of its own; returns the sweep's folder."""
    folder.mkdir()
    (folder / "mine.py").write_text(code)
    done = process(
        *("-m", "lrlab.sweep", *QUICK, *arguments, f"hydra/launcher={launcher}"), cwd=folder
    )
    assert done.returncode == 1, "a run failed\n" + done.stderr + done.stdout
    assert done.stderr == "", "no warnings and no traceback on the terminal"
    assert "1 failed of 3 runs" in done.stdout and "sweep  outputs/here" in done.stdout
    return folder / "outputs" / "here"


@pytest.fixture(scope="module")
def by_lanes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sweep(tmp_path_factory.mktemp("lanes") / "x", "lanes", *RUNS)


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_launcher_of_hydras_trains_the_same_bits_and_marks_what_fails(
    launcher: str, by_lanes: Path, tmp_path: Path
) -> None:
    folder = sweep(tmp_path / "y", launcher, *RUNS)
    assert [run.name for run in records.run_folders(folder)] == ["0", "1", "2"]
    for run in ("0", "2"):
        metrics = (folder / run / "metrics.csv").read_bytes()
        assert metrics == (by_lanes / run / "metrics.csv").read_bytes()
        assert records.read_summary(folder / run)["state"] == "finished"
    failed = records.read_summary(folder / "1")
    assert failed["state"] == "failed" and failed["error"] == "RuntimeError: my own bug"
    log = (folder / "1" / "run.log").read_text(encoding="utf-8")
    assert "mine.py" in log and log.rstrip().endswith("RuntimeError: my own bug")

    ours, theirs = (pd.read_csv(sweep / "runs.csv") for sweep in (folder, by_lanes))
    results = ["run", "state", "network", "network.kind", "train_loss", "val_loss", "test_loss"]
    pd.testing.assert_frame_equal(ours[results], theirs[results])
    for run in ("0", "1", "2"):
        config = records.read_config(folder / run)
        assert config == records.read_config(by_lanes / run)


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_run_that_cannot_begin_where_it_should_train_fails_alone(
    launcher: str, tmp_path: Path
) -> None:
    arguments = ("network=custom", "network._target_=mine.net", "+network.kind=0,1,2", "name=here")
    folder = sweep(tmp_path / "z", launcher, *arguments, code=ELSEWHERE)
    states = [records.read_summary(run)["state"] for run in records.run_folders(folder)]
    assert states == ["finished", "failed", "finished"]
    assert "not on this node" in records.read_summary(folder / "1")["error"]
    assert "not on this node" in (folder / "1" / "run.log").read_text(encoding="utf-8")
