"""Workers on one PostgreSQL server: every run once, whoever dies and whatever fails."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from helpers.postgres import PASSWORD, QUOTED, Server, postgres, postgres_url
from helpers.studies import (
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
)

from lrlab.config.passwords import masked
from lrlab.errors import UserError
from lrlab.study import database, heartbeat
from lrlab.study.queue import Queue

pytestmark = pytest.mark.full

__all__ = ["postgres", "postgres_url"]  # fixtures

EIGHT = {"lr": [str(n) for n in range(1, 9)]}


@pytest.fixture
def opened(tmp_path: Path, postgres_url: str) -> Iterator[Callable[..., Queue]]:
    opener = Opener(tmp_path)

    def one(*given: Any, **options: Any) -> Queue:
        return opener(*given, **{"storage": postgres_url, **options})

    yield one
    for queue in list(opener.opened):
        opener.close(queue)


@pytest.fixture
def hire(tmp_path: Path, postgres_url: str) -> Iterator[Callable[[], Worker]]:
    hired: list[Worker] = []

    def one() -> Worker:
        hired.append(Worker(postgres_url, tmp_path / "unused", EIGHT))
        return hired[-1]

    yield one
    for worker in hired:
        if worker.process.poll() is None:
            worker.kill()


def test_four_workers_that_start_at_once_on_an_empty_database_and_one_is_killed(
    hire: Callable[[], Worker], opened: Callable[..., Queue]
) -> None:
    victim, *others = [hire() for _ in range(4)]
    victim.say("take")
    victim.say("take")
    held = [victim.hear(), victim.hear()]
    assert len(set(held)) == 2 and set(held) <= set(range(8))
    for worker in others:
        worker.say("work")
    victim.kill()
    told = [number for worker in others for number in worker.hear()]
    assert sorted(told) == list(range(8))
    assert [worker.end() for worker in others] == [0, 0, 0]
    queue = opened(grid(lr=",".join(EIGHT["lr"])), settings={})
    assert states(queue) == dict.fromkeys(range(8), "finished")


def test_a_dead_worker_of_another_machine_is_found_by_its_counter(
    opened: Callable[..., Queue], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(heartbeat, "clock", lambda: now[0])
    monkeypatch.setattr(heartbeat, "_host", lambda: "elsewhere")
    far = opened(grid(lr="1,2"), lease=100.0)
    monkeypatch.setattr(heartbeat, "_host", lambda: "here")
    near = opened(grid(lr="1,2"), lease=100.0)
    assert (take(far).number, take(near).number) == (0, 1)
    for seconds, number in ((50, None), (99, None), (2, 0)):  # it is watched from the first look
        now[0] += seconds
        trial = near.take(0)
        assert (trial and trial.number) == number
    assert far.lost() == [0]
    assert not far.tell(0, "finished", 1.0)
    assert near.tell(0, "finished", 2.0)


def test_a_search_with_pruning_and_seeds_is_the_same_as_in_a_journal(
    opened: Callable[..., Queue], tmp_path: Path
) -> None:
    space = search(seeds="0,1,2", network="mlp,cnn")
    options = {"sampler": SAMPLERS["tpe"], "pruner": PRUNERS["asha"], "n_trials": 8}
    pool(queue := opened(space, **options), width=6)
    pool(other := opened(space, **options, storage="journal"), width=6)
    assert queue.trials() == other.trials()
    assert {"finished", "pruned"} <= set(states(queue).values())
    assert queue.best() == other.best()


def test_what_was_given_back_and_what_another_worker_did_is_seen(
    opened: Callable[..., Queue],
) -> None:
    one, other = opened(search(seeds="0,1"), n_trials=3), opened(search(seeds="0,1"), n_trials=3)
    lead = take(one, 4)
    follower = take(other, 7)
    assert (lead.number, follower.number) == (0, 1)
    assert lead.overrides["lr"] == follower.overrides["lr"]
    one.report({0: (2, 0.5)})
    one.give_back(0)
    trial = take(other, 9)
    assert (trial.number, trial.tick, trial.epochs_reported) == (0, 4, 2)
    assert finish(one) == [2, 3, 4, 5]
    other.tell(0, "finished", 1.0)
    other.tell(1, "finished", 1.0)
    assert not one.wait() and not other.wait()
    assert one.trials() == other.trials()


def test_a_finished_sweep_is_extended(opened: Callable[..., Queue]) -> None:
    assert finish(opened(grid(lr="0.1,0.2,0.3"))) == [0, 1, 2]
    assert finish(opened(grid(lr="0.1,0.2,0.3,0.4,0.5"))) == [3, 4]
    with pytest.raises(UserError, match=r"^name=sweep: the storage has such a sweep already"):
        opened(grid(lr="1"), "new")
    with pytest.raises(UserError, match=r"^name=no: there is no such sweep in the storage"):
        opened(grid(lr="1"), "resume", name="no")
    assert finish(opened(grid(lr="1"), "new", name="another")) == [0]


def test_two_creators_at_once_make_one_study(
    opened: Callable[..., Queue], postgres_url: str
) -> None:
    queues: list[Queue] = []
    threads = [
        threading.Thread(target=lambda: queues.append(opened(grid(lr="1,2,3")))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(queues) == 4
    assert [finish(queue) for queue in queues] == [[0, 1, 2], [], [], []]
    assert len(optuna.get_all_study_names(queues[0]._study.storage)) == 1


def test_a_server_that_stays_away_is_told_in_one_line(
    opened: Callable[..., Queue], postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = opened(grid(lr="1"))
    monkeypatch.setattr(database, "PATIENCE", 0.0)
    postgres.stop()
    try:
        with pytest.raises(UserError, match=r"^storage=postgresql://lrlab:\*\*\*@.*: fails ") as e:
            queue.take(0)
    finally:
        postgres.start()
    assert_discreet(e.value)


def assert_discreet(error: UserError) -> None:
    text = str(error)
    assert len(text.splitlines()) == 1
    assert PASSWORD not in text and QUOTED not in text


def test_a_storage_that_cannot_be_used_is_told_in_one_line(
    opened: Callable[..., Queue], postgres: Server
) -> None:
    with socket.socket() as closed:  # a port that nobody listens to
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        good = postgres.url("postgres")
        for url, says in (
            (good.replace(f":{postgres.port}", f":{port}"), "refused"),
            (good.replace("/postgres", "/nothing"), 'database "nothing" does not exist'),
            (good.replace("lrlab:", "lrlab:x"), "password authentication failed"),
            (good.replace("127.0.0.1", "no-such-host.invalid"), "no-such-host.invalid"),
        ):
            assert url != good
            with pytest.raises(UserError, match=r"^storage=postgresql://lrlab:\*\*\*@") as caught:
                opened(grid(lr="1"), storage=url)
            assert_discreet(caught.value)
            assert says in str(caught.value)


def test_a_password_may_be_typed_as_it_is_or_in_the_query(
    opened: Callable[..., Queue], postgres: Server, postgres_url: str
) -> None:
    place = postgres_url.rpartition("@")[2]
    raw = postgres_url.replace(QUOTED, PASSWORD.replace("%", "%25"))
    query = f"postgresql://lrlab@{place}?password={QUOTED}"
    assert finish(opened(grid(lr="1,2"), storage=raw)) == [0, 1]
    assert finish(opened(grid(lr="1,2,3"), storage=query)) == [2]
    assert masked(raw) == f"postgresql://lrlab:***@{place}"


def test_a_missing_driver_is_named(postgres_url: str) -> None:
    script = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from lrlab.study import storage; from lrlab.errors import UserError\n"
        "try: storage.open_store(sys.argv[1], 'sweep', None)\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, postgres_url], capture_output=True, text=True, check=True
    )
    assert done.stdout.rstrip().endswith(
        ": its driver is not installed; pip install 'lrlab[postgres]'"
    )
    assert QUOTED not in done.stdout + done.stderr


def test_optuna_says_nothing(hire: Callable[[], Worker], capfd: pytest.CaptureFixture[str]) -> None:
    worker = hire()
    worker.say("work")
    assert sorted(json.loads(json.dumps(worker.hear()))) == list(range(8))
    assert worker.end() == 0
    assert capfd.readouterr() == ("", "")
