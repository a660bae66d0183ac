"""What a sweep says of its schedules before it trains, against tables that torch itself makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from helpers.searches import sweep
from omegaconf import OmegaConf

from lrlab.plan import schedule_notices

pytestmark = pytest.mark.unit

CONF = Path(__file__).parents[1] / "conf" / "schedule"
PER_EPOCH = 859  # of MNIST
TORCH = "torch.optim.lr_scheduler."


def shipped(name: str, lr: float = 0.1, **changes: Any) -> dict[str, Any]:
    node = OmegaConf.create({"lr": lr, "schedule": OmegaConf.load(CONF / f"{name}.yaml")})
    found = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
    return {**found["schedule"], **changes}


def of_torch(name: str, **settings: Any) -> dict[str, Any]:
    return {"_target_": TORCH + name, "interval": "step", **settings}


def said(
    schedule: dict[str, Any], epochs: int, per_epoch: int = PER_EPOCH, lr: float = 0.1
) -> list[str]:
    numbers = {"lr": lr, "momentum": 0.9}
    return schedule_notices.of_schedule("x", schedule, numbers, epochs * per_epoch, per_epoch)


@pytest.mark.default
@pytest.mark.parametrize("epochs", [1, 3, 30])
@pytest.mark.parametrize("name", [path.stem for path in sorted(CONF.glob("*.yaml"))])
def test_of_what_ships_nothing_is_said(name: str, epochs: int) -> None:
    assert said(shipped(name), epochs) == []


# what a schedule is, epochs, and the line
LINES = {
    "one tick of one cycle": (
        shipped("one_cycle", interval="epoch"),
        1,
        "schedule=x reaches an lr of only 4e-07 in the run's 1 epoch, not 0.1 "
        "(lr=0.1, schedule.interval=epoch); use schedule.interval=step",
    ),
    "a cycle that is longer than the run": (
        shipped("one_cycle", total_steps=100_000),
        1,
        "schedule=x reaches an lr of only 0.00419 in the run's 859 steps, not 0.1 "
        "(lr=0.1, schedule.interval=step); use schedule.total_steps=auto",
    ),
    "one tick of a cosine": (
        shipped("cosine", interval="epoch"),
        1,
        "schedule=x never changes the lr in this run, which has 1 epoch "
        "(schedule.interval=epoch); use schedule.interval=step, or more epochs",
    ),
    "no milestone fires": (
        of_torch("MultiStepLR", milestones=[30, 60], interval="epoch"),
        10,
        "schedule=x never changes the lr in this run, which has 10 epochs "
        "(schedule.interval=epoch); schedule.milestones=[30,60] lies beyond its end; "
        "use a value below 10, or more epochs",
    ),
    "a step that is longer than the run": (
        shipped("step", interval="step", step_size=3000),
        3,
        "schedule=x never changes the lr in this run, which has 2,577 steps "
        "(schedule.interval=step); schedule.step_size=3000 lies beyond its end; "
        "use a value below 2577, or more epochs",
    ),
    "the last milestone does not fire": (
        of_torch("MultiStepLR", milestones=[3, 6, 8], interval="epoch", warmup_steps=100),
        8,
        "schedule.milestones=[3,6,8]: 8 lies beyond the run's 8 epochs after warm-up "
        "(schedule.interval=epoch) and never fires; use values below 8",
    ),
    "gamma next to 1": (
        shipped("exponential", gamma=0.999999),
        1,
        "schedule=x changes the lr by only 0.09% in the run's 859 steps; "
        "change schedule.gamma=0.999999, or use schedule=fixed",
    ),
    "a factor for no ticks": (
        shipped("fixed", factor=0.5),
        1,
        "schedule.factor=0.5: applies for schedule.total_iters=0 ticks, so never; "
        "use schedule.total_iters=auto to train at 0.5 of lr, or leave it out",
    ),
    "a line to 0 in no ticks": (
        shipped("linear", total_iters=0),
        1,
        "schedule=x has an lr of 0 in 859 of the run's 859 steps, in which nothing is learned "
        "(schedule.total_iters=0, 859 steps); use schedule.total_iters=auto",
    ),
    "a cosine that is shorter than the run": (
        shipped("cosine", T_max=200),
        1,
        "schedule=x raises the lr again before the run ends: 0 at step 600, 0.0806 at the last "
        "(lr=0.1, schedule.T_max=200, 859 steps); to end with small steps use schedule.T_max=auto",
    ),
    "a cycle that ends on its way up": (
        of_torch("CyclicLR", base_lr=0.001, max_lr=0.1, step_size_up=200),
        3,
        "schedule=x raises the lr again before the run ends: 0.001 at step 1600, 0.0881 at the "
        "last (lr=0.1, schedule.step_size_up=200, 2,577 steps); to end with small steps use "
        "schedule.step_size_up with which it ends low after 2,577 steps",
    ),
    "a first rise that the run does not see the end of": (
        of_torch("CyclicLR", base_lr=0.001, max_lr=0.1),
        1,
        "schedule=x still raises the lr when the run ends: 0.0222 at step 429, 0.0435 at the last "
        "(lr=0.1, schedule.step_size_up=2000, 859 steps); use a shorter rise, or more epochs",
    ),
    "warm-up for most of the run": (
        shipped("warmup", warmup_steps=600),
        1,
        "schedule.warmup_steps=600: the warm-up takes more than half of the run's 859 steps; "
        "use schedule.warmup_steps=85, or more epochs",
    ),
}


@pytest.mark.parametrize("what", LINES)
def test_a_schedule_that_may_not_be_meant_is_said_in_one_line(what: str) -> None:
    schedule, epochs, line = LINES[what]
    assert said(schedule, epochs) == [line]


@pytest.mark.parametrize(
    ("schedule", "epochs"),
    [
        (of_torch("MultiStepLR", milestones=[3, 6, 7], interval="epoch"), 8),
        (shipped("exponential", gamma=1.0), 3),  # which is asked for
        (of_torch("StepLR", step_size=1, gamma=1.0), 3),
        (shipped("fixed", factor=0.5, total_iters="auto"), 3),
        (shipped("linear", total_iters=0, end_factor=0.1), 3),
        (shipped("linear", start_factor=0.01, end_factor=1.0, total_iters=200), 3),
        (of_torch("CyclicLR", base_lr=0.001, max_lr=0.1, step_size_up=215), 1),  # ends low
        (of_torch("CosineAnnealingWarmRestarts", T_0=10, interval="epoch"), 20),
        (shipped("one_cycle", interval="epoch"), 30),
        (shipped("plateau", patience=100), 3),  # follows val_loss: there is no table
        (shipped("cosine", warmup_steps=400), 1),
    ],
)
def test_what_is_meant_has_no_line(schedule: dict[str, Any], epochs: int) -> None:
    assert said(schedule, epochs) == []


def test_a_few_steps_are_no_reason_to_call_a_gamma_too_near_to_1() -> None:
    assert said(shipped("exponential"), 2, per_epoch=2) == []


# --- of a sweep -----------------------------------------------------------------------------------

SMALL = ("network.hidden=[8]", "epochs=1", "lanes=1", "name=x")


@pytest.mark.full(after=1)
@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (
            ["schedule=one_cycle", "schedule.max_lr=0.3"],
            "schedule=one_cycle sets the rates by itself (schedule.max_lr=0.3): "
            "all runs train at the same rates; sweep schedule.max_lr instead",
        ),
        (
            ["schedule=one_cycle", "schedule.max_lr=0.3,0.1"],
            "schedule=one_cycle sets the rates by itself (schedule.max_lr=0.3,0.1): "
            "runs that differ in lr alone train at the same rates; leave lr out",
        ),
        (
            ["schedule=range_test"],
            "schedule=range_test sets the rates by itself (schedule.max_lr=10): "
            "all runs train at the same rates; train one run, or use python -m lrlab.find",
        ),
        (
            [
                f"schedule._target_={TORCH}CyclicLR",
                *("+schedule.base_lr=0.1", "+schedule.max_lr=0.3", "+schedule.mode=exp_range"),
                "+schedule.cycle_momentum=false",
            ],
            "schedule=CyclicLR sets the rates by itself (schedule.max_lr=0.3): "
            "all runs train at the same rates; sweep schedule.max_lr instead",
        ),
        (
            ["schedule=range_test,fixed"],
            "schedule=range_test sets the rates by itself (schedule.max_lr=10): runs that differ "
            "in lr alone train at the same rates; train one run, or use python -m lrlab.find",
        ),
    ],
)
def test_a_schedule_that_ignores_lr_is_said_once(
    typed: list[str], line: str, tmp_path: Path
) -> None:
    ended = sweep("lr=0.1,0.3,1", *typed, *SMALL, cwd=tmp_path)
    assert ended.code == 0
    assert [told for told in ended.err.splitlines() if " by itself" in told] == [f"lrlab: {line}"]


@pytest.mark.default
def test_a_search_over_lr_that_a_schedule_ignores_is_told_so(tmp_path: Path) -> None:
    typed = ["lr=0.01..1", "n_trials=2", "schedule=one_cycle", "schedule.max_lr=0.3"]
    assert "all runs train at the same rates" in sweep(*typed, *SMALL, cwd=tmp_path).err


@pytest.mark.full
def test_a_schedule_that_is_tied_to_lr_does_not_ignore_it(tmp_path: Path) -> None:
    typed = ["lr=0.1,0.3", "schedule=one_cycle,cosine,linear,fixed,exponential", "epochs=3"]
    ended = sweep(*typed, *SMALL[2:], SMALL[0], cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    one = ["lr=0.1", "schedule=one_cycle", "schedule.max_lr=0.3", "epochs=3", "name=y"]
    ended = sweep(*one, SMALL[0], cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.default
def test_of_many_lrs_a_shape_is_said_once(tmp_path: Path) -> None:
    typed = ["lr=0.1,0.3,1", "schedule=one_cycle", "schedule.interval=epoch"]
    ended = sweep(*typed, *SMALL, cwd=tmp_path)
    assert ended.err == (
        "lrlab: schedule=one_cycle reaches an lr of only 4e-07 in the run's 1 epoch, not "
        "0.1 (lr=0.1, schedule.interval=epoch); use schedule.interval=step and more epochs\n"
    )
    assert "none is the best: nothing was learned" in ended.out
    assert "best   run" not in ended.out
    assert not (tmp_path / "outputs" / "x" / "best.yaml").exists()


@pytest.mark.default
def test_a_single_run_is_the_best_whatever_it_came_to(tmp_path: Path) -> None:
    ended = sweep("lr=1e-9", *SMALL, cwd=tmp_path)
    assert "no lr is recommended: nothing was learned" in ended.out
    assert "none is the best" not in ended.out
    assert (tmp_path / "outputs" / "x" / "best.yaml").exists()


@pytest.mark.default
def test_one_answer_that_recommends_is_enough_for_a_best(tmp_path: Path) -> None:
    typed = ["lr=0.1,0.3", "optimizer.weight_decay=0,1e6", "epochs=3"]
    ended = sweep(*typed, *SMALL[2:], SMALL[0], cwd=tmp_path)
    assert ended.code == 0 and "no lr is recommended" in ended.out
    assert "best   run" in ended.out and (tmp_path / "outputs" / "x" / "best.yaml").exists()
