"""`workers=N`: processes that share a sweep, and what is left of it when they are killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from interrupted import QUICK, found
from test_sweep import command, process, summaries, trials

from lrlab import records
from lrlab.sweep import main

GRID = ("lr=0.1,0.03", "seed=0,1", "optimizer=sgd,momentum", "lanes=2", "name=x")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc/self").exists(), reason="Linux")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, Any]]:
    """What one process comes to, by the number of epochs."""

    def whole(epochs: int) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("alone")
        ended = command(main, [*QUICK, *GRID, f"epochs={epochs}"], folder)
        assert ended.code == 0
        return found(folder / "outputs" / "x")

    return whole


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def children(pid: int) -> list[int]:
    """The workers that a process has started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for task in tasks for word in task.read_text().split()]


def when(seen: Callable[[], Any], seconds: float = 180) -> Any:
    """Wait for something to be true, and return it."""
    end = time.monotonic() + seconds
    while not (what := seen()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return what


def trained(folder: Path) -> bool:
    """Whether training has begun: two workers have each written something of a run."""
    logs = list(folder.glob("*/run.log"))
    return len(logs) >= 4


@pytest.fixture
def hired() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are ended with the test, and their workers."""
    found: list[subprocess.Popen[str]] = []
    yield found
    for one in found:
        if one.poll() is None:
            for worker in children(one.pid):
                os.kill(worker, signal.SIGKILL)
            one.kill()
        one.communicate(timeout=60)


def test_a_grid_of_8_points_by_two_workers_is_8_runs(
    alone: Callable[[int], dict[str, Any]], tmp_path: Path
) -> None:
    typed = ("lrlab.sweep", *QUICK, *GRID, "epochs=2", "workers=2")
    done = process("-m", *typed, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / "outputs" / "x"
    assert found(folder) == {**alone(2), "best.yaml": (folder / "best.yaml").read_text()}
    assert len(trials(folder)) == 8
    logs = [(run / "run.log").read_text("utf-8") for run in records.run_folders(folder)]
    assert [log.count("lane ") for log in logs] == [1] * 8  # each began once
    claims = {trial.user_attrs["claim"]["worker"] for trial in trials(folder)}
    assert 1 <= len(claims) <= 2
    assert "8 runs by 2 workers on cpu" in done.stdout
    ended = re.findall(r"^run (\d+) .* finished$", done.stdout, re.MULTILINE)
    assert sorted(ended) == [str(number) for number in range(8)]
    assert done.stdout.count("\nrun ") - done.stdout.count("epoch") == 1  # one table, at the end


EPOCHS = 60  # so that they are killed in the middle


def test_workers_that_are_killed_and_resumed_come_to_the_same(
    alone: Callable[[int], dict[str, Any]], hired: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    typed = ("lrlab.sweep", *QUICK, *GRID, f"epochs={EPOCHS}", "workers=2", "checkpoint_every=20")
    parent = start(*typed, cwd=tmp_path)
    hired.append(parent)
    folder = tmp_path / "outputs" / "x"
    when(lambda: trained(folder))
    first, second = children(parent.pid)
    os.kill(first, signal.SIGKILL)  # what it leaves undone the other takes over ...
    taken = {s["run"] for s in summaries_that_are(folder, "running")}
    when(lambda: taken - {s["run"] for s in summaries_that_are(folder, "running")})
    os.kill(second, signal.SIGKILL)  # ... until it is killed as well
    out, err = parent.communicate(timeout=180)
    ended = [s for state in records.ENDED for s in summaries_that_are(folder, state)]
    if len(ended) < 8:  # a worker may have died between making a run's folder and its summary
        assert parent.returncode == 1
        assert "go on with python -m lrlab.resume outputs/x" in out
    told = ["lrlab: worker 1 was ended by SIGKILL", "lrlab: worker 2 was ended by SIGKILL"]
    assert err.splitlines() == told

    # and the parent too, with its workers
    parent = start("lrlab.resume", "outputs/x", cwd=tmp_path)
    hired.append(parent)
    both = when(lambda: len(children(parent.pid)) == 2 and children(parent.pid))
    for pid in (parent.pid, *both):
        os.kill(pid, signal.SIGKILL)
    parent.communicate(timeout=60)
    done = process("-m", "lrlab.resume", "outputs/x", "workers=1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    same = {"best.yaml": (folder / "best.yaml").read_text()}
    whole = alone(EPOCHS)
    assert {**found(folder), **same} == {**whole, **same}


def summaries_that_are(folder: Path, state: str) -> list[dict[str, Any]]:
    told = []
    for run in records.run_folders(folder):
        try:
            summary = records.read_summary(run)
        except FileNotFoundError:
            continue
        told += [summary] if summary["state"] == state else []
    return told


def test_one_interrupt_stops_all_workers_and_the_printed_command_goes_on(
    hired: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    typed = ("lrlab.sweep", *QUICK, *GRID, "epochs=4000", "workers=2", "checkpoint_every=null")
    parent = start(*typed, cwd=tmp_path)
    hired.append(parent)
    folder = tmp_path / "outputs" / "x"
    when(lambda: trained(folder))
    parent.send_signal(signal.SIGINT)
    out, err = parent.communicate(timeout=180)
    assert parent.returncode == 130
    assert err.splitlines() == [
        "lrlab: stopping after this step; once more to stop at once",
        "lrlab: interrupted, 8 of 8 runs have not ended; what was trained is recorded",
        "lrlab: go on with python -m lrlab.resume outputs/x",
    ]
    assert {s["state"] for s in summaries(folder)} == {"interrupted"}
    assert "finished" not in out
    parent = start("lrlab.resume", "outputs/x", cwd=tmp_path)
    hired.append(parent)
    both = when(lambda: len(children(parent.pid)) == 2 and children(parent.pid))
    when(lambda: len(summaries_that_are(folder, "running")) >= 2)
    parent.send_signal(signal.SIGTERM)
    parent.communicate(timeout=180)
    assert parent.returncode == 143
    assert not any(Path(f"/proc/{pid}").exists() for pid in both)
    assert {s["state"] for s in summaries(folder)} == {"interrupted"}
