"""The queue of runs that workers share: each run once, the same draws whatever interrupts."""

from __future__ import annotations

import dataclasses
import math
import statistics
from pathlib import Path
from typing import Any

import optuna
import pytest
from helpers.studies import (
    PRUNERS,
    RATE,
    SAMPLERS,
    Opener,
    finish,
    grid,
    pool,
    search,
    states,
    take,
    take_all,
)
from optuna.trial import TrialState, create_trial

from lrlab.config.space import Interval, Space
from lrlab.errors import UserError
from lrlab.study import sampling
from lrlab.study.queue import Queue

pytestmark = pytest.mark.unit


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
