"""The queue of runs that workers share: each run once, the same draws whatever interrupts."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from helpers.studies import (
    FOREVER,
    PRUNERS,
    RATE,
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
from optuna.trial import TrialState, create_trial

from lrlab.config.passwords import masked
from lrlab.config.space import Interval, Space
from lrlab.errors import NotWritten, UserError
from lrlab.study import heartbeat, sampling
from lrlab.study.claims import Trial
from lrlab.study.queue import Queue

pytestmark = pytest.mark.unit


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    opener = Opener(tmp_path)
    yield opener
    for queue in list(opener.opened):
        opener.close(queue)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(heartbeat, "clock", lambda: now[0])
    return now


def take_all(queue: Queue) -> list[Trial]:
    return list(iter(lambda: queue.take(0), None))


def frozen(queue: Queue) -> list[optuna.trial.FrozenTrial]:
    return queue._study.runs()


# --- grids ----------------------------------------------------------------------------------------


def test_a_grid_is_taken_in_hydras_order(opened: Opener) -> None:
    queue = opened(grid(lr="0.1,1", seed="0,1", network="mlp,cnn"), "new")
    trials = take_all(queue)
    assert [t.number for t in trials] == list(range(8))
    assert [tuple(t.overrides.values()) for t in trials[:3]] == [
        ("0.1", "0", "mlp"),
        ("0.1", "0", "cnn"),
        ("0.1", "1", "mlp"),
    ]
    assert [t.setting for t in trials] == [0, 1, 0, 1, 2, 3, 2, 3]
    assert queue.take(0) is None


def test_numbers_of_a_grid_are_parameters_and_words_are_not(opened: Opener) -> None:
    take_all(queue := opened(grid(lr="1", batch_size="32,64", network="mlp"), "new"))
    assert [trial.params for trial in frozen(queue)] == [
        {"lr": 1.0, "batch_size": 32},
        {"lr": 1.0, "batch_size": 64},
    ]


@pytest.mark.parametrize(
    ("first", "then", "new"),
    [
        ({"lr": "0.1,0.2,0.3"}, {"lr": "0.05,0.1,2e-1,0.3,0.4"}, [{"lr": "0.05"}, {"lr": "0.4"}]),
        ({"lr": "1,0.1"}, {"lr": "-1,1.0,1e-1"}, [{"lr": "-1"}]),
        ({"weight_decay": "0,1"}, {"weight_decay": "0,0.5"}, [{"weight_decay": "0.5"}]),
        ({"network": "mlp"}, {"network": "mlp,cnn"}, [{"network": "cnn"}]),
        ({"lr": "1"}, {"lr": "1", "seed": "0,1"}, [{"lr": "1", "seed": "1"}]),
        (
            {"lr": "1,2", "seed": "0"},
            {"lr": "1,2", "seed": "0,1"},
            [{"lr": "1", "seed": "1"}, {"lr": "2", "seed": "1"}],
        ),
        ({"lr": "1,2"}, {"lr": "1"}, []),
    ],
)
def test_a_finished_grid_is_extended_by_what_is_new(
    opened: Opener, first: dict[str, str], then: dict[str, str], new: list[dict[str, str]]
) -> None:
    queue = opened(grid(**first), "new")
    done = finish(queue)
    assert not queue.wait()
    opened.close(queue)

    queue = opened(grid(**then), "resume")
    trials = take_all(queue)
    assert [trial.overrides for trial in trials] == new
    assert [trial.number for trial in trials] == list(range(len(done), len(done) + len(new)))
    if "seed" in then:  # one setting, whether its first seed was typed or not
        assert {trial.setting for trial in trials} <= set(range(len(done)))


def test_another_key_needs_another_sweep(opened: Opener) -> None:
    opened(grid(lr="1"), "new")
    with pytest.raises(
        UserError, match=r"^momentum: is a list now, but in the sweep sweep it is no"
    ):
        opened(grid(lr="1", momentum="0,0.9"))
    with pytest.raises(UserError, match=r"^lr: is searched from 0.0001 to 1, log-scaled now, but"):
        opened(search())


# --- searches -------------------------------------------------------------------------------------


@pytest.mark.default
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_draws_all_over_the_space_and_finds_the_best(
    opened: Opener, sampler: str, capfd: pytest.CaptureFixture[str]
) -> None:
    space = Space(
        [],
        {"network": ["mlp", "cnn"]},
        {"lr": RATE, "width": Interval(1, 64, log=False, whole=True)},
    )
    settings = 9 if sampler == "gp" else 16  # a Gaussian process thinks for long
    pool(queue := opened(space, "new", sampler=SAMPLERS[sampler], n_trials=settings))
    runs = queue.trials()
    rates = [float(run.overrides["lr"]) for run in runs]
    assert all(1e-4 <= lr <= 1 for lr in rates)
    assert len(set(rates)) == len(runs) == settings
    assert {run.overrides["network"] for run in runs} == {"mlp", "cnn"}
    assert all(1 <= int(run.overrides["width"]) <= 64 for run in runs)
    best = queue.best()
    assert best is not None and abs(math.log10(rates[best[1]]) + 1.5) < 0.5
    assert [trial.params["lr"] for trial in frozen(queue)] == rates
    assert capfd.readouterr() == ("", "")  # no sampler says anything


@pytest.mark.default
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_interval_alone_is_searched(opened: Opener, sampler: str) -> None:
    pool(queue := opened(search(), "new", sampler=SAMPLERS[sampler], n_trials=10))
    assert len({run.overrides["lr"] for run in queue.trials()}) == 10


def test_the_quasi_random_sequence_is_even_from_its_first_point(opened: Opener) -> None:
    take_all(queue := opened(search(), "new", sampler=SAMPLERS["qmc"], n_trials=8))
    eighths = {int((math.log10(float(run.overrides["lr"])) + 4) * 2) for run in queue.trials()}
    assert eighths == set(range(8))


def test_another_seed_draws_others(opened: Opener, tmp_path: Path) -> None:
    draws = []
    for seed in (0, 1):
        queue = opened(search(), "new", journal=tmp_path / f"{seed}.journal", seed=seed)
        draws.append([trial.overrides["lr"] for trial in take_all(queue)])
    assert not set(draws[0]) & set(draws[1])


def test_the_seeds_of_a_setting_follow_its_first_run(opened: Opener) -> None:
    queue = opened(search(seeds="0,1,2"), "new", n_trials=2)
    trials = take_all(queue)
    assert [trial.number for trial in trials] == list(range(6))
    assert [trial.setting for trial in trials] == [0, 0, 0, 1, 1, 1]
    assert [trial.overrides["seed"] for trial in trials] == ["0", "1", "2"] * 2
    rates = [trial.overrides["lr"] for trial in trials]
    assert len(set(rates[:3])) == len(set(rates[3:])) == 1 and rates[0] != rates[3]
    assert len({trial.params["lr"] for trial in frozen(queue)[:3]}) == 1


def test_a_search_grows_by_settings_and_by_seeds(opened: Opener) -> None:
    queue = opened(search(), "new", n_trials=2)
    first = take_all(queue)
    for trial in first:
        queue.tell(trial.number, "finished", 1.0)
    opened.close(queue)
    queue = opened(search(seeds="0,1"), "resume", n_trials=3)
    trials = take_all(queue)
    assert [(t.number, t.setting, t.overrides["seed"]) for t in trials] == [
        (2, 0, "1"),
        (3, 1, "1"),
        (4, 2, "0"),
        (5, 2, "1"),
    ]
    assert [t.overrides["lr"] for t in trials[:2]] == [t.overrides["lr"] for t in first]


def test_a_search_without_end_goes_on(opened: Opener) -> None:
    queue = opened(search(seeds="0,1"), "new", n_trials=None)
    assert queue.wait()
    assert [take(queue).setting for _ in range(5)] == [0, 0, 1, 1, 2]
    assert states(queue) == dict.fromkeys(range(5), "running") | {5: "waiting"}


def test_a_searched_space_cannot_change(opened: Opener) -> None:
    opened(search(network="mlp,cnn"), "new")
    opened(search(network="cnn,mlp"))  # the same choices
    with pytest.raises(UserError, match=r"^network: is one of cnn, mlp, vgg now, but in the sweep"):
        opened(search(network="mlp,cnn,vgg"))
    wider = Space([], {"network": ["mlp", "cnn"]}, {"lr": dataclasses.replace(RATE, high=10)})
    with pytest.raises(UserError, match=r"^lr: is searched from 0.0001 to 10, log-scaled now"):
        opened(wider)
    with pytest.raises(
        UserError, match=r"^lr: is a list now, but in the sweep sweep it is searched"
    ):
        opened(grid(lr="0.1", network="mlp,cnn"))


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ({"_target_": "optuna.samplers.NoSampler"}, "sampler: NoSampler: "),
        ({"_target_": "nowhere.Sampler"}, "sampler: Sampler: "),
        ({"_target_": "optuna.samplers.TPESampler", "speed": 3}, "sampler: TPESampler: .*speed"),
        ({"_target_": "optuna.samplers.QMCSampler", "qmc_type": "x"}, "sampler: QMCSampler: .*x"),
    ],
)
def test_a_wrong_sampler_is_told_in_one_line_before_anything_is_written(
    opened: Opener, node: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=f"^{says}") as caught:
        opened(search(), "new", sampler=node)
    assert len(str(caught.value).splitlines()) == 1
    assert not opened.journal.exists()


def test_a_sampler_without_its_package_names_it(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_PACKAGES", {"CmaEsSampler": "no_such_cmaes"})
    with pytest.raises(UserError, match=r"^sampler: CmaEsSampler needs no_such_cmaes; pip install"):
        opened(search(), "new", sampler=SAMPLERS["cmaes"])


def test_a_wrong_pruner_is_told_in_one_line(opened: Opener) -> None:
    for node in ({"_target_": "optuna.pruners.ThresholdPruner"}, SAMPLERS["random"]):
        with pytest.raises(UserError, match=r"^pruner: .*(lower or upper|is no pruner)"):
            opened(grid(lr="1"), "new", pruner=node)


# --- seeds count as one ---------------------------------------------------------------------------


def runs_of(*given: tuple[TrialState, float | None, dict[int, float]]) -> list[Any]:
    found = []
    for number, (state, value, steps) in enumerate(given):
        trial = create_trial(
            state=state, value=value, intermediate_values=steps, user_attrs={"claim": {"tick": 0}}
        )
        trial.number = trial._trial_id = number
        found.append(trial)
    return found


def test_a_setting_is_the_median_over_its_seeds() -> None:
    done, failed = TrialState.COMPLETE, TrialState.FAIL
    for values, state, expected in (
        ([3.0, 1.0, 2.0], done, 2.0),
        ([4.0, 1.0, 2.0, 3.0], done, 2.5),
        ([1.0, 2.0, None], done, 2.0),  # a diverged seed counts as the worst
        ([1.0, None], failed, None),
        ([1.0, None, None], failed, None),
        ([None], failed, None),
        ([5.0], done, 5.0),
    ):
        runs = runs_of(*((failed if v is None else done, v, {}) for v in values))
        trial = sampling.combined(runs, {}, "minimize")
        assert (trial.state, trial.value) == (state, expected), values
        upward = sampling.combined(runs, {}, "maximize")
        finite = sorted(-math.inf if v is None else v for v in values)
        middle = statistics.median(finite)
        assert upward.value == (middle if math.isfinite(middle) else None)


def test_a_setting_has_the_epochs_that_all_its_seeds_have_reported() -> None:
    running, failed = TrialState.RUNNING, TrialState.FAIL
    runs = runs_of(
        (running, None, {1: 1.0, 2: 5.0, 3: 1.0}),
        (running, None, {1: 3.0, 2: 6.0}),
        (failed, None, {1: 9.0}),
    )
    trial = sampling.combined(runs, {"noted": 1}, "minimize")
    assert trial.state == running
    assert trial.intermediate_values == {1: 3.0, 2: 6.0}
    assert trial.system_attrs == {"noted": 1} and runs[0].system_attrs == {}


def test_a_pruned_seed_prunes_its_setting() -> None:
    pruned, done = TrialState.PRUNED, TrialState.COMPLETE
    runs = runs_of((done, 1.0, {1: 1.0}), (pruned, 3.0, {1: 3.0}))
    trial = sampling.combined(runs, {}, "minimize")
    assert (trial.state, trial.value) == (pruned, 2.0)


def test_the_best_setting_is_named_by_its_median_run(opened: Opener) -> None:
    values = {"0.1": [5.0, 1.0, 2.0], "0.2": [1.5, None, 1.9], "0.3": [0.1, None, None]}
    for direction, best in (("minimize", (1, 5, 1.9)), ("maximize", (0, 2, 2.0))):
        journal = opened.journal.with_name(direction)
        space = grid(lr="0.1,0.2,0.3", seed="0,1,2")
        queue = opened(space, "new", direction=direction, journal=journal)
        assert queue.best() is None
        for trial in take_all(queue):
            value = values[trial.overrides["lr"]][int(trial.overrides["seed"])]
            queue.tell(trial.number, "diverged" if value is None else "finished", value)
        if direction == "maximize":
            best = (1, 3, 1.5) if best[2] < 1.5 else best
        assert queue.best() == best


def test_nan_never_reaches_optuna(opened: Opener) -> None:
    queue = opened(grid(lr="1,2,3,4"), "new", pruner=PRUNERS["median"])
    for state, value in (
        ("diverged", math.nan),
        ("finished", math.inf),
        ("failed", None),
        ("finished", None),
    ):
        trial = take(queue)
        assert queue.report({trial.number: (1, math.nan)}) == set()
        assert queue.tell(trial.number, state, value)
    assert {trial.state for trial in frozen(queue)} == {TrialState.FAIL}
    assert all(not trial.intermediate_values for trial in frozen(queue))
    assert list(states(queue).values()) == ["diverged", "finished", "failed", "finished"]
    assert queue.best() is None and not queue.wait()
    assert "NaN" not in opened.journal.read_text() and "Infinity" not in opened.journal.read_text()


# --- pruning --------------------------------------------------------------------------------------


def wave(queue: Queue, values: list[float], epoch: int = 1) -> set[int]:
    trials = [take(queue) for _ in values]
    return queue.report({t.number: (epoch, v) for t, v in zip(trials, values, strict=True)})


def test_successive_halving_keeps_the_best_of_lanes_that_report_together(opened: Opener) -> None:
    lrs = ",".join(map(str, range(1, 9)))
    queue = opened(grid(lr=lrs), "new", pruner={**PRUNERS["asha"], "reduction_factor": 4})
    assert wave(queue, [8.0, 7.0, 1.0, 5.0, 4.0, 3.0, 2.0, 6.0]) == {0, 1, 3, 4, 5, 7}
    # a report that is made again gets the same answer
    assert queue.report({0: (1, 8.0), 2: (1, 1.0)}) == {0}


def test_successive_halving_maximises_too(opened: Opener) -> None:
    queue = opened(grid(lr="1,2,3,4"), "new", direction="maximize", pruner=PRUNERS["asha"])
    assert wave(queue, [0.1, 0.9, 0.8, 0.2]) == {0, 3}


def test_a_later_wave_is_judged_against_the_earlier_one(opened: Opener) -> None:
    queue = opened(grid(lr="1,2,3,4,5,6"), "new", pruner=PRUNERS["asha"])
    assert wave(queue, [1.0, 2.0, 3.0, 4.0]) == {2, 3}
    assert wave(queue, [1.5, 3.5]) == {5}


def test_median_and_threshold_and_hyperband_prune(opened: Opener) -> None:
    queue = opened(grid(lr="1,2,3,4"), "new", pruner=PRUNERS["median"])
    assert wave(queue, [1.0, 2.0]) == set()
    for number in (0, 1):
        queue.tell(number, "finished", 1.0)
    assert wave(queue, [1.2, 1.8]) == {3}
    opened.close(queue)

    journal = opened.journal.with_name("threshold")
    queue = opened(grid(lr="1,2,3"), "new", pruner=PRUNERS["threshold"], journal=journal)
    assert wave(queue, [1.9, 2.1, 1e9]) == {1, 2}
    opened.close(queue)

    journal = opened.journal.with_name("hyperband")
    lrs = ",".join(map(str, range(1, 25)))
    queue = opened(grid(lr=lrs), "new", pruner=PRUNERS["hyperband"], journal=journal)
    pruned = wave(queue, [float(value) for value in range(24)])
    assert 0 < len(pruned) < 12  # one bracket is judged at once, the others later
    assert 0 not in pruned


def test_a_decision_is_for_all_seeds_and_made_when_all_have_reported(opened: Opener) -> None:
    space = grid(lr="1,2,3", seed="0,1")
    queue = opened(space, "new", pruner=PRUNERS["threshold"])
    take_all(queue)
    assert queue.report({0: (1, 9.0), 2: (1, 1.0), 4: (1, 1.5)}) == set()
    # 0 and 1 have the median 5; 2 has diverged, which leaves no median; 4 and 5 have 2
    queue.tell(3, "diverged", None)
    assert queue.report({1: (1, 1.0), 5: (1, 2.5)}) == {1}
    assert queue.report({0: (2, 1.0), 2: (2, 1.0)}) == {0}
    assert states(queue)[0] == "running"
    queue.tell(0, "pruned", None)
    assert frozen(queue)[0].value == 1.0


def test_the_decision_reaches_another_worker_at_its_next_report(opened: Opener) -> None:
    space = grid(lr="1", seed="0,1")
    one = opened(space, "new", pruner=PRUNERS["threshold"])
    other = opened(space, pruner=PRUNERS["threshold"])
    assert (take(one).number, take(other).number) == (0, 1)
    assert one.report({0: (1, 9.0)}) == set()
    assert other.report({1: (1, 8.0)}) == {1}
    assert one.report({0: (2, 9.0)}) == {0}


def test_a_pruner_may_note_on_a_setting_whose_first_run_has_ended(opened: Opener) -> None:
    queue = opened(grid(lr="1,2", seed="0,1,2"), "new", pruner=PRUNERS["asha"])
    take_all(queue)
    queue.tell(0, "diverged", None)
    values = {1: 1.0, 2: 1.5, 3: 3.0, 4: 3.0, 5: 3.0}
    assert queue.report({n: (1, value) for n, value in values.items()}) == {3, 4, 5}


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


# --- what does not fit ----------------------------------------------------------------------------


def test_a_study_of_the_other_direction_is_refused(opened: Opener) -> None:
    opened(grid(lr="1"), "new")
    with pytest.raises(UserError, match=r"^objective=val_acc: is to be maximized, but the"):
        opened(grid(lr="1"), direction="maximize", settings={"objective": "val_acc"})


def test_other_settings_are_listed(opened: Opener) -> None:
    settings = {"epochs": 3, "optimizer": {"momentum": 0.9, "nesterov": False}, "data": "mnist"}
    opened(grid(lr="1"), "new", settings=settings)
    opened(grid(lr="1"), "resume", settings=json.loads(json.dumps(settings)))
    other = {"epochs": 5, "optimizer": {"momentum": 0.9, "nesterov": True}, "loss": None}
    with pytest.raises(UserError) as caught:
        opened(grid(lr="1"), "resume", settings=other)
    assert str(caught.value) == (
        "name=sweep: was made with other settings: epochs=3 (now 5), "
        "optimizer.nesterov=False (now True), data=mnist (now not given), "
        "loss=not given (now None); keep them as they were, or begin another sweep"
    )


def test_new_must_not_be_there_and_resume_must(opened: Opener) -> None:
    with pytest.raises(UserError, match=r"is not there, so there is nothing to resume"):
        opened(grid(lr="1"), "resume")
    assert not opened.journal.exists()
    opened(grid(lr="1"), "new")
    with pytest.raises(UserError, match=r"^name=sweep: the storage has such a sweep already"):
        opened(grid(lr="1"), "new")
    opened.journal.with_name("empty").touch()
    with pytest.raises(UserError, match=r"^name=sweep: there is no such sweep in the storage"):
        opened(grid(lr="1"), "resume", journal=opened.journal.with_name("empty"))


@pytest.mark.default
def test_a_creator_that_died_at_any_write_is_completed(opened: Opener, tmp_path: Path) -> None:
    space = grid(lr="1,2,3")
    opened.close(opened(space, "new"))
    lines = opened.journal.read_bytes().splitlines(keepends=True)
    for end in range(len(lines)):
        journal = tmp_path / f"{end}"
        journal.write_bytes(b"".join(lines[:end]))
        queue = opened(space, "join", journal=journal)
        assert [trial.overrides["lr"] for trial in take_all(queue)] == ["1", "2", "3"]


# --- the journal ----------------------------------------------------------------------------------


def test_a_torn_line_is_cut_off_before_the_next_is_written(opened: Opener) -> None:
    queue = opened(grid(lr="1,2"), "new")
    with opened.journal.open("ab") as stream:
        stream.write(b'{"op_code":6,"trial')
    assert finish(queue) == [0, 1]
    opened.close(queue)
    for line in opened.journal.read_bytes().splitlines():
        json.loads(line)
    assert states(opened(grid(lr="1,2"), "resume")) == {0: "finished", 1: "finished"}


def test_a_torn_first_line_is_cut_off(opened: Opener) -> None:
    opened.journal.write_bytes(b'{"op_code":0,"wor' + 5000 * b"x")
    assert finish(opened(grid(lr="1"), "join")) == [0]


def test_a_damaged_journal_is_told(opened: Opener) -> None:
    opened.close(opened(grid(lr="1"), "new"))
    text = opened.journal.read_bytes()
    for damage in (b"\0\0\n" + text, text.replace(b'"op_code":4', b'"op_code":99'), b"{}\n" + text):
        opened.journal.write_bytes(damage)
        with pytest.raises(UserError, match=r"study.journal: is damaged, no journal of Optuna"):
            opened(grid(lr="1"), "resume")


def test_a_full_disk_is_told_and_leaves_a_whole_journal(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = opened(grid(lr="1,2"), "new")
    trial = take(queue)
    whole = opened.journal.read_bytes()
    really = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return really(descriptor, data[: len(data) - 15])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(NotWritten, match=r"study.journal: cannot be written .No space left"):
        queue.tell(trial.number, "finished", 1.0)
    monkeypatch.undo()
    assert opened.journal.read_bytes() == whole
    assert queue.tell(trial.number, "finished", 1.0)
    assert finish(queue) == [1]


def test_a_journal_that_cannot_be_made_is_told(opened: Opener, tmp_path: Path) -> None:
    with pytest.raises(NotWritten, match=r"cannot be written"):
        opened(grid(lr="1"), "new", journal=tmp_path / "no" / "such" / "folder")


def test_the_journal_is_never_written_without_its_lock(opened: Opener) -> None:
    queue = opened(grid(lr="1"), "new")
    with pytest.raises(RuntimeError, match=r"without its lock"):
        queue._study.storage.set_study_user_attr(queue._study.id, "a", 1)


def test_optuna_itself_can_read_the_journal(opened: Opener, tmp_path: Path) -> None:
    finish(queue := opened(search(), "new"), 0.5)
    opened.close(queue)
    copied = shutil.copy(opened.journal, tmp_path / "copy")
    backend = optuna.storages.journal.JournalFileBackend(str(copied))
    loaded = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    assert [trial.value for trial in loaded.trials] == [0.5] * 6
    assert all(trial.params.keys() == {"lr"} for trial in loaded.trials)


# --- URLs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("journal", "journal"),
        ("postgresql://u:pw@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u@h/db", "postgresql://u@h/db"),
        ("postgresql://h:5432/db", "postgresql://h:5432/db"),
        ("postgresql://u:p/w@:?x{%@h:1/db", "postgresql://u:***@h:1/db"),
        ("postgresql://u:pw@h/db?sslmode=require", "postgresql://u:***@h/db?sslmode=require"),
        ("postgresql://u@h/db?password=p@w&a=b", "postgresql://u@h/db?password=***&a=b"),
        ("postgresql://h/db?user=u&sslpassword=pw", "postgresql://h/db?user=u&sslpassword=***"),
        ("postgresql+psycopg://u:pw@/db?host=/run", "postgresql+psycopg://u:***@/db?host=/run"),
        ("u:pw@h/db", "u:***@h/db"),
        ("sqlite:////a/b@c.db", "sqlite:////a/b@c.db"),
    ],
)
def test_a_password_is_masked(url: str, shown: str) -> None:
    assert masked(url) == shown


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("foo", "must be journal, or a database's URL"),
        ("secret:secret@host/db", "must be journal, or a database's URL"),
        ("postgresql://u:secret@h:port/db", "must be journal, or a database's URL"),
        ("nosql://u:secret@h/db", "there is no database of this kind"),
        ("mysql://u:secret@h/db", "its driver is not installed; pip install 'pymysql'"),
        ("sqlite://", "is gone with its process; name a file"),
    ],
)
def test_a_wrong_storage_is_told_in_one_line(opened: Opener, url: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        opened(grid(lr="1"), storage=url)
    line = str(caught.value)
    assert line.startswith(f"storage={masked(url)}: ") and says in line
    assert len(line.splitlines()) == 1 and "secret@" not in line


@pytest.mark.default
def test_a_database_in_a_file_works_as_well(opened: Opener, tmp_path: Path) -> None:
    space, url = search(seeds="0,1"), f"sqlite:///{tmp_path}/sweeps.db"
    options = {"sampler": SAMPLERS["tpe"], "pruner": PRUNERS["asha"], "n_trials": 6}
    pool(queue := opened(space, storage=url, **options))
    expected = queue.trials()
    assert {"finished", "pruned"} <= {run.state for run in expected}
    pool(other := opened(space, **options))
    assert other.trials() == expected  # wherever it is kept
