"""Workers on one queue: each run once, whoever is interrupted, dies or comes late."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from helpers.studies import (
    FOREVER,
    PRUNERS,
    SAMPLERS,
    Opener,
    Worker,
    finish,
    grid,
    pool,
    search,
    states,
    take,
    take_all,
)

from lrlab.study import heartbeat

pytestmark = pytest.mark.unit


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(heartbeat, "clock", lambda: now[0])
    return now


# --- interruptions --------------------------------------------------------------------------------


def test_a_run_that_is_given_back_goes_on_where_it_was(opened: Opener) -> None:
    queue = opened(grid(lr="1,2,3"), "new")
    assert (take(queue, 0).number, take(queue, 5).number) == (0, 1)
    queue.report({0: (7, 1.0), 1: (2, 1.0)})
    queue.give_back(0)
    queue.give_back(1)
    assert states(queue) == {0: "interrupted", 1: "interrupted", 2: "waiting"}
    opened.close(queue)

    queue = opened(grid(lr="1,2,3"), "resume")
    assert queue.start_tick() == 7
    trials = [take(queue, 7) for _ in range(3)]
    assert [(t.number, t.tick, t.epochs_reported) for t in trials] == [
        (0, 0, 7),
        (1, 5, 2),
        (2, 7, 0),
    ]


def test_a_new_queue_starts_at_tick_0_and_a_finished_one_where_its_places_fell_free(
    opened: Opener,
) -> None:
    queue = opened(grid(lr="1,2"), "new")
    assert queue.start_tick() == 0
    queue.tell(take(queue, 3).number, "finished", 1.0)
    assert queue.start_tick() == 4
    number = take(queue, 8).number
    queue.report({number: (2, 1.0)})  # of the third epoch's end only the end is told
    queue.tell(number, "finished", 1.0)
    assert queue.start_tick() == 11


@pytest.mark.full(after=1)
@pytest.mark.parametrize(
    ("sampler", "pruner", "seeds"),
    [
        ("tpe", "none", ""),
        ("tpe", "median", "0,1"),
        ("qmc", "hyperband", ""),
        ("cmaes", "asha", "0,1,2"),
        ("random", "threshold", ""),
    ],
)
def test_a_queue_resumed_after_any_write_ends_as_the_uninterrupted_one(
    opened: Opener, tmp_path: Path, sampler: str, pruner: str, seeds: str
) -> None:
    """A worker that dies leaves the first lines of the journal, and perhaps a torn one."""
    space = search(seeds, network="mlp,cnn")
    options = {"sampler": SAMPLERS[sampler], "pruner": PRUNERS[pruner], "n_trials": 10}
    pool(queue := opened(space, "new", **options))
    expected = queue.trials()
    assert {run.state for run in expected} >= {"finished"}
    if pruner != "none":
        assert "pruned" in {run.state for run in expected}
    opened.close(queue)

    lines = opened.journal.read_bytes().splitlines(keepends=True)
    started = next(n for n, line in enumerate(lines) if b'"claim"' in line)
    for end in range(started - 3, len(lines), 13 if seeds else 7):
        journal = tmp_path / f"{end}.journal"
        torn = lines[end][: len(lines[end]) // 2] if end % 2 else b""
        journal.write_bytes(b"".join(lines[:end]) + torn)
        resumed = opened(space, "resume", journal=journal, **options)
        pool(resumed)
        assert resumed.trials() == expected, f"died after {end} of {len(lines)} writes"
        opened.close(resumed)
        journal.unlink()


def test_a_resumed_sweep_knows_its_journal_in_a_renamed_folder(opened: Opener) -> None:
    finish(queue := opened(grid(lr="1,2"), "new"))
    opened.close(queue)
    queue = opened(grid(lr="1,2,3"), "resume", name="renamed")
    assert finish(queue) == [2]


# --- workers --------------------------------------------------------------------------------------


@pytest.fixture
def hire(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    hired: list[Worker] = []

    def one(lists: Mapping[str, list[str]], storage: str = "journal") -> Worker:
        hired.append(Worker(storage, tmp_path / "study.journal", lists))
        return hired[-1]

    yield one
    for worker in hired:
        if worker.process.poll() is None:
            worker.kill()


@pytest.mark.default
def test_a_grid_of_8_points_by_two_workers_is_8_runs(hire: Callable[..., Worker]) -> None:
    lists = {"lr": [str(n) for n in range(1, 9)]}
    workers = [hire(lists) for _ in range(2)]
    for worker in workers:
        worker.say("work")
    told = [number for worker in workers for number in worker.hear()]
    assert sorted(told) == list(range(8))
    assert [worker.end() for worker in workers] == [0, 0]


@pytest.mark.full
def test_workers_that_are_killed_and_started_again_lose_nothing(
    hire: Callable[..., Worker], opened: Opener
) -> None:
    lists = {"lr": [str(n) for n in range(1, 9)]}
    workers = [hire(lists) for _ in range(2)]
    for worker in workers:
        worker.say("take")
    assert sorted(worker.hear() for worker in workers) == [0, 1]
    for worker in workers:
        worker.kill()
    last = hire(lists)
    last.say("work")
    assert sorted(last.hear()) == list(range(8))
    assert last.end() == 0
    queue = opened(grid(lr=",".join(lists["lr"])), settings={})
    assert states(queue) == dict.fromkeys(range(8), "finished")
    assert [file.name for file in opened.journal.parent.glob(".*.alive")] == [
        f".{queue.worker}.alive"
    ]


def test_a_living_worker_keeps_its_runs_and_gives_them_up_when_it_leaves(opened: Opener) -> None:
    one, other = opened(grid(lr="1,2"), "new"), opened(grid(lr="1,2"))
    assert (take(one).number, take(other).number) == (0, 1)
    assert other.take(0) is None
    other.tell(1, "finished", 1.0)
    opened.close(one)
    assert other.wait()
    assert finish(other) == [0]
    assert not other.wait()


def test_waiting_ends_when_it_is_asked_to(opened: Opener) -> None:
    one, other = opened(grid(lr="1"), "new"), opened(grid(lr="1"))
    take(one)
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) > 3

    assert not other.wait(stop)


def test_another_machines_worker_is_dead_when_its_counter_stands_still_for_a_lease(
    opened: Opener, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "_host", lambda: "elsewhere")
    far = opened(grid(lr="1,2"), "new", lease=100.0)
    monkeypatch.undo()
    monkeypatch.setattr(heartbeat, "clock", lambda: clock[0])
    monkeypatch.setattr(type(far._store), "has_left", lambda self, worker: False)
    near = opened(grid(lr="1,2"), lease=100.0)
    assert (take(far).number, take(near).number) == (0, 1)

    def passed(seconds: float) -> int | None:
        clock[0] += seconds
        trial = near.take(0)
        return None if trial is None else trial.number

    assert passed(50) is None
    far._claims.beat()
    assert passed(90) is None  # it was seen alive at 50
    assert passed(90) is None  # its new beat was seen 90 ago
    assert passed(20) == 0
    assert far.lost() == [0]


def test_a_process_that_was_away_too_long_knows_it_and_its_word_no_longer_counts(
    opened: Opener, clock: list[float]
) -> None:
    one = opened(grid(lr="1,2"), "new", lease=100.0)
    other = opened(grid(lr="1,2"), lease=100.0)
    assert [trial.number for trial in take_all(one)] == [0, 1]
    assert other.take(0) is None
    clock[0] += 200
    assert other.wait()
    assert [take(other).number, take(other).number] == [0, 1]
    one._claims.beat()  # its heart may be faster than it
    assert one.lost() == [0, 1]
    assert other.report({0: (1, 0.5)}) == set()
    assert not one.tell(0, "failed", None)
    assert other.tell(0, "finished", 0.5)
    assert not one.tell(0, "finished", 0.7)
    assert one.report({0: (1, 0.6), 1: (1, 0.6)}) == set()
    one.give_back(1)
    assert states(other) == {0: "finished", 1: "running"}


def test_a_process_that_was_away_unnoticed_goes_on(opened: Opener, clock: list[float]) -> None:
    queue = opened(grid(lr="1"), "new", lease=100.0)
    take(queue)
    assert queue.lost() == []
    clock[0] += 200
    assert queue.lost() == []
    assert queue.tell(0, "finished", 0.5)


@pytest.mark.default
def test_a_recycled_process_number_is_not_taken_for_the_worker(opened: Opener) -> None:
    sign = heartbeat.me()
    assert not heartbeat.gone(sign)
    assert heartbeat.gone(dataclasses.replace(sign, born="1"))
    assert not heartbeat.gone(dataclasses.replace(sign, host="elsewhere", pid=1, born="1"))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert heartbeat.gone(dataclasses.replace(sign, pid=ended.pid))


@pytest.mark.default
def test_a_killed_process_that_nobody_has_waited_for_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    sign = dataclasses.replace(heartbeat.me(), pid=child.pid, born=heartbeat._born(child.pid) or "")
    assert not heartbeat.gone(sign)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert heartbeat.gone(sign)
    child.communicate()


def test_the_heart_beats_until_it_is_stopped_and_survives_errors() -> None:
    beats = threading.Semaphore(0)

    def renew() -> None:
        beats.release()
        raise OSError("the storage is gone")

    heart = heartbeat.Heart(0.004, renew)
    for _ in range(3):
        beats.acquire()
    heart.stop()
    assert not heart._thread.is_alive()


@pytest.mark.default
def test_the_heart_and_its_worker_do_not_block_each_other(opened: Opener) -> None:
    queue = opened(grid(lr=",".join(map(str, range(1, 60)))), "new", lease=0.001)
    queue._claims.watch.lease = FOREVER
    assert len(finish(queue)) == 59
