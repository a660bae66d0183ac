"""`workers=N`: processes that share a sweep, and what is left of it when they are killed."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import command, summaries, trials
from helpers.interrupted import QUICK, found
from helpers.warm import Process, Server

from lrlab import records
from lrlab.sweep import main

GRID = ("lr=0.1,0.03", "seed=0,1", "optimizer=sgd,momentum", "lanes=2", "name=x")
pytestmark = [pytest.mark.full, pytest.mark.skipif(not Path("/proc/self").exists(), reason="Linux")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, Any]]:
    """What one process comes to, by the number of epochs."""

    def whole(epochs: int) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("alone")
        ended = command(main, [*QUICK, *GRID, f"epochs={epochs}"], folder)
        assert ended.code == 0
        return found(folder / "outputs" / "x")

    return whole


# Workers that are forked from the command that starts them, and need not import torch again.
FORKED = """
import os, signal, sys, traceback
from hydra.core.global_hydra import GlobalHydra
from lrlab import resume
from lrlab.sweeping import workers

class Forked:
    returncode = None

    def __init__(self, folder, overrides, own):
        self.pid = os.fork()
        if self.pid:
            return
        code = 0
        try:
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.environ |= own
            del os.environ["HYDRA_FULL_ERROR"]
            sys.argv = ["lrlab.resume", str(folder), *overrides]
            GlobalHydra.instance().clear()
            resume.main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

workers._start = Forked
"""


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
def start(server: Server, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts a command in tmp_path; it is ended with the test, and its workers."""
    started: list[Process] = []

    def one(*arguments: str) -> Process:
        started.append(server.start(*arguments, cwd=tmp_path, prepare=FORKED))
        return started[-1]

    yield one
    for each in started:
        if not each.ended():
            for pid in (*children(each.pid), each.pid):
                os.kill(pid, signal.SIGKILL)
            each.wait()


def test_a_grid_of_8_points_by_two_workers_is_8_runs(
    alone: Callable[[int], dict[str, Any]], start: Callable[..., Process], tmp_path: Path
) -> None:
    """Workers that are started as a user's are, README's search has: test_readme.py."""
    done = start("lrlab.sweep", *QUICK, *GRID, "epochs=2", "workers=2").wait()
    assert (done.code, done.err) == (0, "")
    folder = tmp_path / "outputs" / "x"
    assert found(folder) == {**alone(2), "best.yaml": (folder / "best.yaml").read_text()}
    assert len(trials(folder)) == 8
    logs = [(run / "run.log").read_text("utf-8") for run in records.run_folders(folder)]
    assert [log.count("lane ") for log in logs] == [1] * 8  # each began once
    claims = {trial.user_attrs["claim"]["worker"] for trial in trials(folder)}
    assert 1 <= len(claims) <= 2
    assert "8 runs by 2 workers on cpu" in done.out
    ended = re.findall(r"^run (\d+) .* finished$", done.out, re.MULTILINE)
    assert sorted(ended) == [str(number) for number in range(8)]
    assert len(re.findall(r"^run +lr ", done.out, re.MULTILINE)) == 1  # one table, at the end


EPOCHS = 30  # so that they are killed in the middle


def test_workers_that_are_killed_and_resumed_come_to_the_same(
    alone: Callable[[int], dict[str, Any]], start: Callable[..., Process], tmp_path: Path
) -> None:
    typed = ("lrlab.sweep", *QUICK, *GRID, f"epochs={EPOCHS}", "workers=2", "checkpoint_every=10")
    parent = start(*typed)
    folder = tmp_path / "outputs" / "x"
    when(lambda: trained(folder))
    first, second = children(parent.pid)
    os.kill(first, signal.SIGKILL)  # what it leaves undone the other takes over ...
    taken = {s["run"] for s in summaries_that_are(folder, "running")}
    when(lambda: taken - {s["run"] for s in summaries_that_are(folder, "running")})
    os.kill(second, signal.SIGKILL)  # ... until it is killed as well
    done = parent.wait()
    ended = [s for state in records.ENDED for s in summaries_that_are(folder, state)]
    if len(ended) < 8:  # a worker may have died between making a run's folder and its summary
        assert done.code == 1
        assert "go on with python -m lrlab.resume outputs/x" in done.out
    told = ["lrlab: worker 1 was ended by SIGKILL", "lrlab: worker 2 was ended by SIGKILL"]
    assert done.err.splitlines() == told

    # and the parent too, with its workers
    parent = start("lrlab.resume", "outputs/x")
    both = when(lambda: len(children(parent.pid)) == 2 and children(parent.pid))
    for pid in (parent.pid, *both):
        os.kill(pid, signal.SIGKILL)
    assert parent.wait().code == -signal.SIGKILL
    done = start("lrlab.resume", "outputs/x", "workers=1").wait()
    assert (done.code, done.err) == (0, "")
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
    start: Callable[..., Process], tmp_path: Path
) -> None:
    typed = ("lrlab.sweep", *QUICK, *GRID, "epochs=4000", "workers=2", "checkpoint_every=null")
    parent = start(*typed)
    folder = tmp_path / "outputs" / "x"
    when(lambda: trained(folder))
    parent.kill(signal.SIGINT)
    done = parent.wait()
    assert done.code == 130
    assert done.err.splitlines() == [
        "lrlab: stopping after this step; interrupt again to stop at once",
        "lrlab: interrupted, 8 of 8 runs have not ended; what was trained is recorded",
        "lrlab: go on with python -m lrlab.resume outputs/x",
    ]
    assert {s["state"] for s in summaries(folder)} == {"interrupted"}
    assert "finished" not in done.out
    parent = start("lrlab.resume", "outputs/x")
    both = when(lambda: len(children(parent.pid)) == 2 and children(parent.pid))
    when(lambda: len(summaries_that_are(folder, "running")) >= 2)
    parent.kill(signal.SIGTERM)
    assert parent.wait().code == 143
    assert not any(Path(f"/proc/{pid}").exists() for pid in both)
    assert {s["state"] for s in summaries(folder)} == {"interrupted"}
