"""Hydra's own launchers train the runs of a sweep too: one process or cluster job a run."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers.commands import QUICK, command, process

from lrlab import records
from lrlab.sweep import main

pytestmark = pytest.mark.full

# Four runs. The second raises while it trains; the last is built where the command is typed and not
# where it trains: a cluster's node lacks something.
NETWORK = """
import os
import torch

os.environ.setdefault("TYPED_HERE", str(os.getpid()))

class Net(torch.nn.Module):
    def __init__(self, in_shape, num_classes, kind=0):
        super().__init__()
        if kind == 3 and os.environ["TYPED_HERE"] != str(os.getpid()):
            raise RuntimeError("not on this node")
        if os.environ["TYPED_HERE"] != str(os.getpid()):
            print("from a job \\x1b]0;title\\x07")
        self.kind = kind
        self.layers = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(784, 3 + kind), torch.nn.Tanh(),
            torch.nn.Linear(3 + kind, num_classes))

    def forward(self, x):
        if self.kind == 1 and self.training:
            raise RuntimeError("my own bug")
        return self.layers(x)
"""
RUNS = ("network=custom", "network._target_=mine.Net", "+network.kind=0,1,2,3", "name=here")


def arguments(folder: Path, launcher: str) -> list[str]:
    folder.mkdir()
    (folder / "mine.py").write_text(NETWORK)
    return [*QUICK, *RUNS, f"hydra/launcher={launcher}"]


@pytest.fixture(scope="module")
def by_lanes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lanes") / "x"
    try:
        ended = command(main, arguments(folder, "lanes"), folder)
    finally:
        sys.modules.pop("mine", None)
    assert ended.code == 1 and "1 failed of 4 runs" in ended.out
    return folder / "outputs" / "here"


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_launcher_of_hydras_trains_the_same_bits_and_marks_what_fails(
    launcher: str, by_lanes: Path, tmp_path: Path
) -> None:
    home = tmp_path / "y"  # run as a user does, in a process of its own
    done = process("-m", "lrlab.sweep", *arguments(home, launcher), cwd=home)
    assert done.returncode == 1, "a run failed\n" + done.stderr + done.stdout
    assert done.stderr == "", "no warnings and no traceback on the terminal"
    assert "2 failed of 4 runs" in done.stdout and "sweep  outputs/here" in done.stdout

    folder = home / "outputs" / "here"
    logs = [log.read_text("utf-8") for log in (folder / ".submitit").glob("*/*.out")]
    printed = "".join([done.stdout, *logs])
    assert "from a job ?]0;title?" in printed and printed.replace("\n", "").isprintable()
    assert not list(folder.glob("*/.*.owner"))
    assert [run.name for run in records.run_folders(folder)] == ["0", "1", "2", "3"]
    for run in ("0", "2"):
        metrics = (folder / run / "metrics.csv").read_bytes()
        assert metrics == (by_lanes / run / "metrics.csv").read_bytes()
        assert records.read_summary(folder / run)["state"] == "finished"
    for run, error in (("1", "my own bug"), ("3", "not on this node")):
        failed = records.read_summary(folder / run)
        assert failed["state"] == "failed" and error in failed["error"]
        assert error in (folder / run / "run.log").read_text(encoding="utf-8")
    assert records.read_summary(folder / "1")["error"] == "RuntimeError: my own bug"
    log = (folder / "1" / "run.log").read_text(encoding="utf-8")
    assert "mine.py" in log and log.rstrip().endswith("RuntimeError: my own bug")

    ours, theirs = (pd.read_csv(sweep / "runs.csv")[:3] for sweep in (folder, by_lanes))
    results = ["run", "state", "network", "network.kind", "train_loss", "val_loss", "test_loss"]
    pd.testing.assert_frame_equal(ours[results], theirs[results])
    for run in ("0", "1", "2"):
        config = records.read_config(folder / run)
        assert config == records.read_config(by_lanes / run)
