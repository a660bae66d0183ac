"""budget=60s: as much is trained as ends in that time; with made speeds, never by the clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.commands import QUICK, assert_refused, command, error, strict_json, summaries, sweep
from torch import nn
from torch.utils.data import DataLoader

import lrlab
from lrlab import find, records, reproduce, resume
from lrlab.config import checks
from lrlab.config.words import arguments
from lrlab.engine.diagnostics import branch_budget
from lrlab.range_test import command as find_budget
from lrlab.range_test import training
from lrlab.range_test.found import Options
from lrlab.sweep import main as sweep_main
from lrlab.sweeping import budget
from lrlab.training import speed
from lrlab.training.speed import Speed

# An epoch of all runs is 100 s: 90 of steps and 10 of evaluation; begin and end take 20.
MADE = Speed(
    *(4, 4, 1000, 1.0),
    setup=5.0,
    step=0.09,
    evaluation=10.0,
    ending=15.0,
)


def asked(seconds: float, epochs: int = 9, mode: str = "off", **more: Any) -> budget.Asked:
    return budget.Asked(f"{seconds:g}s", seconds, epochs, mode, **more)


# --- the arithmetic -------------------------------------------------------------------------------


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "seconds"),
    [("60s", 60), ("5m", 300), ("2h", 7200), ("0.5h", 1800), (90, 90), ("45", 45), (None, None)],
)
def test_a_budget_is_a_time(text: Any, seconds: float | None) -> None:
    assert checks.budget({"budget": text}) == seconds


@pytest.mark.unit
@pytest.mark.parametrize("text", ["0s", "-5s", "5d", "soon", True, "1e99h", "", "5m30s", "nan"])
def test_what_is_no_time_is_refused(text: Any) -> None:
    said = error(checks.budget, {"budget": text})
    assert said.startswith(f"budget={text}: must be null or a time above 0, like budget=60s")


@pytest.mark.unit
def test_the_time_of_a_group_is_that_of_its_waves() -> None:
    assert budget.seconds(MADE, 3, "off") == pytest.approx(320)
    assert budget.seconds(replace(MADE, runs=9), 3, "off") == pytest.approx(3 * 320)
    # measuring takes a quarter of the steps' time, and so does the branch test at most
    measured = budget.seconds(MADE, 3, "default")
    branches = 3 * branch_budget.branch_steps("default", 3000, False) + branch_budget.BRANCH_SETUP
    assert measured == pytest.approx(320 + 270 * (0.25 + branches / 3000))
    assert budget.seconds(MADE, 3, "full") > measured


@pytest.mark.unit
@pytest.mark.parametrize("epochs", range(1, 10))
def test_as_many_epochs_are_trained_as_fit(epochs: int) -> None:
    just = budget.MARGIN * (20 + 100 * epochs) + budget.AFTER
    found = budget.plan(asked(just), [MADE])
    assert (found.epochs, found.mode, found.trials) == (epochs, "off", None)
    assert found.needs == pytest.approx(just)
    if epochs > 1:
        assert budget.plan(asked(just - 1), [MADE]).epochs == epochs - 1
    left_out = [f"{9 - epochs} of 9 epochs"] if epochs < 9 else []
    assert found.left_out() == left_out
    assert budget.plan(asked(1e6), [MADE]).epochs == 9  # never more than were asked for


@pytest.mark.unit
def test_single_steps_are_measured_unless_one_epoch_then_does_not_fit() -> None:
    one = budget.MARGIN * budget.seconds(MADE, 1, "default") + budget.AFTER
    assert budget.plan(asked(one, mode="default"), [MADE]).mode == "default"
    found = budget.plan(asked(one - 1, mode="default"), [MADE])
    assert (found.epochs, found.mode) == (1, "off")
    measuring = "the measuring of single steps, and the branch test"
    assert found.left_out() == ["8 of 9 epochs", measuring]


@pytest.mark.unit
def test_all_groups_of_a_grid_count_and_of_a_search_the_slowest() -> None:
    slow = replace(MADE, step=0.18)
    both = budget.MARGIN * (120 + 210) + budget.AFTER
    assert budget.plan(asked(both, 1), [MADE, slow]).needs == pytest.approx(both)
    found = budget.plan(asked(1e5, 1, trials=8), [MADE, slow])
    assert found.needs == pytest.approx(budget.MARGIN * 2 * 210 + budget.AFTER)
    assert found.one_run == pytest.approx(budget.MARGIN * 210 + budget.AFTER)


@pytest.mark.unit
def test_a_search_has_fewer_settings_only_if_one_epoch_of_all_does_not_fit() -> None:
    wave = budget.MARGIN * 120
    given = asked(5 * wave + budget.AFTER, trials=20, least=4)  # 5 waves of 4 lanes
    assert (budget.plan(given, [MADE]).epochs, budget.plan(given, [MADE]).trials) == (1, 20)
    found = budget.plan(replace(given, seconds=given.seconds - 1), [MADE])
    assert (found.epochs, found.trials) == (1, 16)
    assert found.left_out() == ["8 of 9 epochs", "4 of 20 settings of the search"]
    seeds = budget.plan(replace(given, seeds=2), [MADE])
    assert seeds.trials == 10


@pytest.mark.unit
@pytest.mark.parametrize("more", [{}, {"trials": 20, "least": 4}])
def test_what_never_fits_is_refused_with_the_least_that_would(more: dict[str, Any]) -> None:
    least = budget.MARGIN * 120 + budget.AFTER  # 147 s
    said = error(budget.plan, replace(asked(100, **more), seconds=90.0), [MADE])
    assert said.startswith("budget=100s: too short, one epoch of ")
    assert "use at least budget=3m," in said  # 147 s and the 10 that were used before, rounded up
    assert math.ceil((least + 10) / 60) == 3


@pytest.mark.unit
def test_a_time_is_spelt_as_it_is_typed() -> None:
    told = [budget.spelt(amount) for amount in (0.2, 59.5, 120, 121, 7200, 7201)]
    assert told == ["1s", "60s", "120s", "3m", "120m", "3h"]
    assert all(checks.budget({"budget": text}) for text in told)


# --- find -----------------------------------------------------------------------------------------


def made(step: float) -> training.Speed:
    return lambda points: (0.1 * points, step * points)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("left", "steps", "points", "said"),
    [
        (1e4, 300, 32, []),
        (10.8 + 1.5 * 0.32 * 100.5, 100, 32, ["200 of 300 steps"]),
        (8.4 + 1.5 * 0.16 * 60.5, 60, 16, ["240 of 300 steps", "16 of 32 points"]),
    ],
)
def test_find_tries_fewer_steps_and_then_fewer_points(
    left: float, steps: int, points: int, said: list[str]
) -> None:
    found, left_out = find_budget.fit(Options(), "9m", lambda: left, made(0.01))
    assert (found.steps, found.ramp_steps, found.points) == (steps, steps, points)
    assert left_out == said


@pytest.mark.unit
def test_find_refuses_a_budget_in_which_nothing_fits() -> None:
    said = error(find_budget.fit, Options(), "10s", lambda: 8.0, made(0.1))
    least = math.floor(6 + 1.5 * (0.8 + 60 * 0.8) + 2) + 1
    assert said.startswith("budget=10s: too short, 60 steps at 8 learning rates")
    assert said.endswith(f"use at least budget={least}s")


@pytest.mark.unit
@pytest.mark.parametrize(("left", "asked"), [(1e3, [8, 32]), (100.0, [8]), (10.0, [8])])
def test_many_learning_rates_are_measured_only_if_that_is_quick(
    left: float, asked: list[int]
) -> None:
    """By the speed of few of them, measuring 32 takes 45 s at most."""
    known: list[int] = []

    def speed(points: int) -> tuple[float, float]:
        known.append(points)
        return 1.0, 0.2

    if left > 10:
        find_budget.fit(Options(), "9m", lambda: left, speed)
    else:
        assert error(find_budget.fit, Options(), "9m", lambda: left, speed)
    assert known == asked


@pytest.fixture
def quick_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "measured", lambda *given: lambda points: (0.0, 10.0))
    monkeypatch.setattr(find_budget, "LEAST_STEPS", 10)


SMALL = [word for word in QUICK if not word.startswith(("epochs", "diagnostics"))]


def test_find_records_what_it_tried(quick_find: None, tmp_path: Path) -> None:
    words = [*SMALL, "network.hidden=[16]", "points=3", "steps=40", "budget=10m", "name=f"]
    ended = command(find.main, words, tmp_path)
    folder = tmp_path / "outputs" / "f"
    assert ended.err == "" and ended.code in (0, 1)
    first, *_ = ended.out.splitlines()[1:]
    assert first == "lrlab: budget=10m: left out: 1 of 40 steps"
    found = strict_json((folder / "suggestions.json").read_text("utf-8"))
    assert (found["options"]["steps"], found["options"]["points"]) == (39, 3)
    assert "find: left out for the budget: 1 of 40 steps" in ended.out.splitlines()
    limited = found["budget"]
    assert limited["used"] > 0 and limited["left_out"] == ["1 of 40 steps"]
    assert (limited["budget"], limited["seconds"]) == ("10m", 600)
    again = command(find.main, [*found["command"][3:], "name=g"], tmp_path)
    assert again.code == ended.code
    for name in ("ramp.csv", "constant.csv"):
        texts = [(folder.parent / each / name).read_bytes() for each in ("f", "g")]
        assert texts[0] == texts[1]


ROWS = [{"x": x, "y": y} for x, y in zip(torch.ones(40, 3), torch.zeros(40, 1), strict=True)]


def of_dict(model: nn.Module, batch: Any) -> torch.Tensor:
    return (model(batch["x"]) - batch["y"]).square().mean()


@pytest.mark.parametrize("budget", ["10m", 600, 600.0])
def test_find_in_python_has_a_budget(quick_find: None, budget: Any) -> None:
    torch.manual_seed(0)
    loader = DataLoader(ROWS, 8)
    settings: Any = {"lr": (1e-3, 0.1), "points": 3}
    found = lrlab.find(nn.Linear(3, 1), loader, of_dict, steps=40, budget=budget, **settings)
    assert found.left_out == ("1 of 40 steps",) and found.constant_losses.shape == (39, 3)
    assert found.answer[-1] == "find: left out for the budget: 1 of 40 steps"
    torch.manual_seed(0)
    same = lrlab.find(nn.Linear(3, 1), loader, of_dict, steps=39, **settings)
    assert same.left_out == () and "budget" not in str(same)
    np.testing.assert_array_equal(found.constant_losses, same.constant_losses)


@pytest.mark.unit
@pytest.mark.parametrize("budget", [0, -1, "1h30m", True, math.nan, math.inf, [3]])
def test_what_is_no_time_is_refused_in_python(budget: Any) -> None:
    said = error(lrlab.find, nn.Linear(3, 1), ROWS, of_dict, budget=budget)
    assert said.startswith(f"budget={budget}: must be null or a time above 0")


@pytest.mark.unit
def test_measuring_a_slow_loop_takes_a_small_part_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each mini-batch takes 2 s by this clock, each step of a lane 3 s, and the first 5 s more."""
    now, read, timed = [0.0], [0], []

    def batch(step: int) -> Any:
        now[0], read[0] = now[0] + 2.0, read[0] + 1

    def train(subject: Any, lrs: np.ndarray, width: int) -> None:
        timed.append(len(lrs))
        now[0] += 5.0 + 3.0 * lrs.size

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])
    subject = training.Subject(nn.Linear(3, 1), nn.MSELoss(), {}, batch, 0, "cpu")
    for seconds, most, steps, reads in [
        (10.0, 300, [2, 4], 2),
        (1e6, 300, [2, 10, 30], 30),
        (1e6, 12, [2, 10, 30], 12),
    ]:
        read[0] = 0
        timed.clear()
        speed = training.measured(subject, None, seconds, most)
        assert speed(4) == pytest.approx((5.0, 3.0 * 5 + 2.0))
        assert (timed, read[0]) == (steps, reads)
        assert speed(1) == pytest.approx((5.0, 3.0 * 2 + 2.0))
        assert read[0] == reads  # those in memory are not read again, and would cost nothing


def test_measuring_a_slow_sweep_takes_a_small_part_of_the_time(
    monkeypatch: pytest.MonkeyPatch, trainer: Any
) -> None:
    """By a clock of which each look takes a second."""
    made: list[int] = []
    train = speed._train
    monkeypatch.setattr(speed, "_train", lambda stack, count: made.append(count) or train(stack, 1))
    specs = trainer.specs(["lr=0.1", "lr=0.2"], "diagnostics=off")
    clock = iter(map(float, range(1000)))
    found = speed.measure(specs, 2, 0.5, lambda: next(clock))
    assert made == [2, 2] and found.step > 0 and found.evaluation > 0
    made.clear()
    found = speed.measure(specs, 2, math.inf, lambda: next(clock))
    assert made == 9 * [10] and found.runs == found.lanes == 2


# --- a sweep --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("budget")


@pytest.fixture(scope="module")
def limited(home: Path) -> Any:
    """A sweep that asks for 5 epochs in a time in which two fit, by speeds made for the test."""
    wanted = budget.MARGIN * (20 + 100 * 2) + budget.AFTER
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "measure", lambda *given: MADE)
        patch.setattr(arguments, "clock", lambda: 0.0)
        words = ("lr=0.03,0.3", "epochs=5", "plots=true", f"budget={wanted + 1:g}s", "name=s")
        return sweep(*words, cwd=home)


def test_a_sweep_trains_what_fits_and_says_so_before_and_after(home: Path, limited: Any) -> None:
    assert (limited.code, limited.err) == (0, "")
    assert limited.out.startswith("lrlab: budget=268s: left out: 3 of 5 epochs (about 5m to go)\n")
    end = limited.out.splitlines()
    assert "lrlab: budget=268s: left out: 3 of 5 epochs" in end
    assert [each["steps"] for each in summaries(home / "outputs/s")] == [20, 20]
    answer = strict_json((home / "outputs/s/answer.json").read_text("utf-8"))["budget"]
    assert answer["asked"]["epochs"] == 5 and answer["trained"]["epochs"] == 2
    assert answer["left_out"] == ["3 of 5 epochs"] and answer["used"] == 0
    # no time has passed by this clock, so that there was enough for the figures
    assert (home / "outputs/s/report.html").is_file()


def test_its_bits_are_those_of_a_sweep_with_these_epochs(home: Path, limited: Any) -> None:
    assert sweep("lr=0.03,0.3", "epochs=2", "name=t", cwd=home).code == 0
    for file in ("0/metrics.csv", "1/metrics.csv", "runs.csv"):
        one, other = ((home / "outputs" / name / file).read_bytes() for name in "st")
        assert one == other, file
    configs = [records.read_config(home / "outputs" / name / "1") for name in "st"]
    lines = [set(text.splitlines()) for text in configs]
    assert {line.partition(":")[0] for line in lines[0] ^ lines[1]} <= {"name", "plots"}


def test_it_is_reproduced_and_resumed_without_a_budget(home: Path, limited: Any) -> None:
    ended = command(reproduce.main, ["outputs/s/1"], home)
    assert ended.code == 0 and "identical: 20 of 20 steps" in ended.out
    ended = command(resume.main, ["outputs/s", "lr=0.03,0.3,0.1", "plots=false"], home)
    assert (ended.code, ended.err) == (0, "")
    assert [each["steps"] for each in summaries(home / "outputs/s")] == [20] * 3
    assert "lrlab: budget=268s: left out: 3 of 5 epochs" in ended.out.splitlines()
    ended = command(resume.main, ["outputs/s", "budget=5m"], home)
    assert_refused(ended, "budget=5m: a sweep that goes on keeps its epochs; timeout=")


def test_figures_are_left_out_when_little_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "measure", lambda *given: replace(MADE, step=1e-4))
    now = iter([0.0, 0.0, 0.0, *[50.0] * 9])  # all but parsing and planning comes late
    monkeypatch.setattr(arguments, "clock", lambda: next(now))
    ended = sweep("lr=0.03,0.3", "plots=true", "budget=100s", "name=s", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert not (tmp_path / "outputs/s/report.html").exists()
    assert ended.out.splitlines()[-1] == (
        "lrlab: budget=100s: left out: the figures and the report, "
        "which python -m lrlab.resume outputs/s makes"
    )
    answer = strict_json((tmp_path / "outputs/s/answer.json").read_text("utf-8"))["budget"]
    assert answer["left_out"] == ["the figures and the report"] and answer["used"] == 50


def test_a_search_starts_no_run_that_would_end_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = replace(MADE, lanes=2, runs=2, setup=1.0, step=0.001, evaluation=1.0, ending=1.0)
    monkeypatch.setattr(speed, "measure", lambda *given: fast)
    monkeypatch.setattr(arguments, "clock", lambda: 0.0)
    # a wave of two takes 4 s, and 4.8 with the margin: two of them fit into 13 s
    ended = sweep(
        *("lr=1e-2..1", "n_trials=9", "epochs=2", "sampler=random", "name=s", "budget=13s"),
        cwd=tmp_path,
    )
    assert (ended.code, ended.err) == (0, "")
    assert "lrlab: budget=13s: left out: 1 of 2 epochs, 5 of 9 settings of the search" in ended.out
    assert len(summaries(tmp_path / "outputs/s")) == 4
    saved = records.plain_yaml(records.read_sweep_config(tmp_path / "outputs/s"))
    assert (saved["epochs"], saved["n_trials"], saved["budget"]) == (1, 4, None)
    assert saved["timeout"] == pytest.approx(13 - 1.2 * 4 - 3)


def test_the_speed_is_measured_by_steps_that_leave_nothing(tmp_path: Path) -> None:
    """The real measuring, with a time in which all fits however slow the machine is."""
    ended = sweep("lr=0.03,0.3", "budget=20h", "name=s", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("lrlab: budget=20h: all training fits (about ")
    (found,) = records.read_budget(tmp_path / "outputs/s")["speeds"]  # type: ignore[index]
    assert (found["runs"], found["lanes"], found["steps_per_epoch"]) == (2, 2, 10)
    assert min(found[name] for name in ("setup", "step", "evaluation", "ending")) > 0
    assert sweep("lr=0.03,0.3", "name=t", cwd=tmp_path).code == 0
    texts = [(tmp_path / f"outputs/{name}/1/metrics.csv").read_bytes() for name in "st"]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("main", "words", "said"),
    [
        (sweep_main, "budget=soon", "budget=soon: must be null or a time above 0"),
        (sweep_main, "budget=1s,2s", "budget=1s,2s: takes one value"),
        (sweep_main, "budget=1m workers=2", "budget=1m: it measures one process"),
        (sweep_main, "budget=1m epochs=1,2", "budget=1m: it chooses the epochs"),
        (sweep_main, "budget=1m timeout=9", "budget=1m: timeout limits the same time"),
        (sweep_main, "budget=1m hydra/launcher=basic", "budget=1m: it measures runs that train"),
        (sweep_main, "budget=1ms", "budget=1ms: must be null or a time above 0"),
        (find.main, "budget=0s", "budget=0s: must be null or a time above 0"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    main: Callable[[], None], words: str, said: str, tmp_path: Path
) -> None:
    assert_refused(command(main, ["threads=1", *words.split()], tmp_path), said)
    assert not (tmp_path / "outputs").exists()


def test_one_run_of_hydras_has_no_budget(tmp_path: Path) -> None:
    ended = command(sweep_main, [*QUICK, "budget=1m", "hydra.mode=RUN"], tmp_path)
    assert_refused(ended, "budget=1m: is a sweep's; leave out hydra.mode=RUN")
