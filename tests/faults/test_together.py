"""Processes that share a sweep, with clocks that jump and a database that stops: each run once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from helpers.commands import summaries
from helpers.interrupted import AT_STEP, QUICK, found
from helpers.postgres import Server as Postgres
from helpers.postgres import postgres, postgres_url
from helpers.warm import TRAINING, Moment, Server

from lrlab import records
from lrlab.study import storage

__all__ = ["postgres", "postgres_url"]  # fixtures

pytestmark = [pytest.mark.full, pytest.mark.skipif(not Path("/proc/self").exists(), reason="Linux")]
GRID = (*QUICK, "lr=0.1,0.2,0.3,0.4,0.5,0.6", "epochs=3", "lanes=1", "name=x", "timeout=3600")

# Each look at the clock says something else, up to a year ahead or back. Wrapped in the process,
# for nobody may set the clock of the machine.
JUMPS = """
import datetime, random, sys, time
hour, day = 3600 * 10**9, 86400 * 10**9
jumps, draw = (0, 7 * hour, -9 * hour, 30 * day, -365 * day), random.Random(0)
real_ns, real_local, real_format = time.time_ns, time.localtime, time.strftime
time.time_ns = lambda: real_ns() + draw.choice(jumps)
time.time = lambda: time.time_ns() / 1e9
time.localtime = lambda seconds=None: real_local(time.time() if seconds is None else seconds)
time.strftime = lambda shown, at=None: real_format(shown, time.localtime() if at is None else at)

class Jumping(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls):
        return cls.now()

for module in list(sys.modules.values()):
    if vars(module).get("datetime") is Jumping.__base__ and module is not datetime:
        module.datetime = Jumping
datetime.datetime = Jumping
"""

# Let the other come in before the work is done.
PAUSE = """
import pathlib, time
pathlib.Path("paused").touch()
while not pathlib.Path("go").exists():
    time.sleep(0.005)
"""

# Look often whether the other still lives, and say so.
LOOKS = """
import pathlib
from lrlab.study import heartbeat, queue
queue.POLL, looks = 0.02, 0
def living(self, signs, before=heartbeat.Watch.living):
    global looks
    looks += bool(signs)
    if looks == 16:
        pathlib.Path("looked").touch()
    return before(self, signs)
heartbeat.Watch.living = living
"""


@pytest.fixture(scope="module")
def alone(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("alone")
    assert server.run("lrlab.sweep", *GRID, cwd=folder).code == 0
    return found(folder / "outputs" / "x")


def when(seen: Callable[[], Any], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.005)


def assert_each_trained_once(sweep: Path) -> None:
    logs = [(run / "run.log").read_text() for run in records.run_folders(sweep)]
    assert [log.count("  finished") for log in logs] == [1] * 6


def test_two_that_go_on_at_once_share_the_work_and_say_so_whatever_their_clocks_say(
    server: Server, alone: dict[str, Any], tmp_path: Path
) -> None:
    stop = AT_STEP.format(step=3, times=1, name="SIGINT")
    done = server.run("lrlab.sweep", *GRID, cwd=tmp_path, prepare=JUMPS + stop)
    assert done.code == 130
    how: dict[str, Any] = {"cwd": tmp_path, "prepare": JUMPS}
    began = time.monotonic()
    one = server.start("lrlab.resume", "outputs/x", at=Moment(TRAINING, 20, PAUSE), **how)
    when((tmp_path / "paused").exists)
    other = server.start("lrlab.resume", "outputs/x", cwd=tmp_path, prepare=JUMPS + LOOKS)
    when((tmp_path / "looked").exists)  # it has done all the rest, and waits
    (tmp_path / "go").touch()
    first, second = one.wait(), other.wait()
    assert (first.code, first.err) == (second.code, second.err) == (0, "")
    assert "shared with" not in first.out
    assert "shared with another process, on cpu" in second.out
    for done in (first, second):
        assert done.out.count("finished") >= 6  # each ends with the whole table
    sweep = tmp_path / "outputs" / "x"
    assert found(sweep) == alone
    assert_each_trained_once(sweep)
    for summary in summaries(sweep):
        for kind in ("train", "evaluate", "diagnose"):
            assert 0 <= summary["timing"][f"{kind}_seconds"] < time.monotonic() - began


# That the worker has met the outage is said before it is over.
NOTICE = """
import pathlib
from lrlab.study import database
def may_pass(error, before=database._may_pass):
    pathlib.Path("waits").touch()
    return before(error)
database._may_pass = may_pass
"""


def test_workers_wait_for_a_database_that_stops_and_go_on(
    server: Server,
    alone: dict[str, Any],
    postgres: Postgres,
    postgres_url: str,
    tmp_path: Path,
) -> None:
    typed = (*GRID, f"storage={postgres_url}")
    how: dict[str, Any] = {"cwd": tmp_path, "prepare": NOTICE}
    one = server.start("lrlab.sweep", *typed, at=Moment(TRAINING, 20, PAUSE), **how)
    when((tmp_path / "paused").exists)
    other = server.start("lrlab.sweep", *typed, **how)
    other.until_lines(2)
    postgres.stop()
    (tmp_path / "go").touch()
    when((tmp_path / "waits").exists)
    postgres.start()
    first, second = one.wait(), other.wait()
    assert (first.code, first.err) == (second.code, second.err) == (0, "")
    assert "shared with another process" in second.out
    sweep = tmp_path / "outputs" / "x"
    assert_each_trained_once(sweep)
    store = storage.open_store(postgres_url, "x", None)
    trials = optuna.load_study(study_name="x", storage=store.storage).trials
    store.close()
    assert [(t.number, t.state.name) for t in trials] == [(n, "COMPLETE") for n in range(6)]
    curves = [(run / "metrics.csv").read_text("utf-8") for run in records.run_folders(sweep)]
    assert curves == alone["curves"]
