"""A reader that leaves after the first line ends no command, however its output is buffered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

QUICK = ["threads=1", "plots=off", "diagnostics=off", "data.train_size=640", "data.val_size=100"]


@pytest.mark.full
@pytest.mark.parametrize("flags", [[], ["-u"]], ids=["buffered", "unbuffered"])
def test_a_sweep_whose_reader_leaves_trains_to_its_end(flags: list[str], tmp_path: Path) -> None:
    words = [sys.executable, *flags, "-m", "lrlab.sweep", "lr=0.1,0.2", "name=x", *QUICK]
    process = subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().startswith("lrlab: 2 runs")
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == ("", 0)
    process.stderr.close()
    runs = pd.read_csv(tmp_path / "outputs" / "x" / "runs.csv")
    assert runs["state"].tolist() == ["finished", "finished"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("closed", [">&-", ">/dev/full"])
def test_output_that_cannot_be_written_ends_no_command(closed: str, tmp_path: Path) -> None:
    command = f"'{sys.executable}' -m lrlab --help {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    told = "lrlab: the output cannot be written (No space left on device)\n"
    assert (done.returncode, done.stderr) == (0, told if "full" in closed else "")
