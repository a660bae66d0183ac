"""Where no lr is recommended, or but one was tried, from tables of verdicts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.answers import WHOLE, curves, lines, only, table

from lrlab.verdicts.judging import verdicts
from lrlab.verdicts.printed.answer_words import text
from lrlab.verdicts.recommend import recommend

pytestmark = pytest.mark.unit


# --- a run alone ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "at_end", "following"),
    [
        ("", "", (0.01, 1.0)),
        ("about right", "settled", (0.01, 1.0)),
        ("about right", "still falling", (0.01, 1.0)),
        ("far too short", "settled", (0.01, 1.0)),
        ("far too short", "still falling", (0.1, 10.0)),
        ("unstable", "still falling", (0.001, 0.1)),
    ],
)
def test_a_run_alone_is_not_compared_and_one_side_takes_hard_evidence(
    steps: str, at_end: str, following: tuple[float, float]
) -> None:
    a = only(table((0.1, "not compared", 0.5, at_end), steps=steps))
    assert a.is_alone and a.best_lr == 0.1 and a.edge == "both"
    assert a.try_next == pytest.approx(following)
    said = text([a])
    assert said.startswith("answer  lr=0.1: end loss 0.5, one seed; no other lr was trained")
    assert (f"steps: {steps}, as measured during training" in said) == bool(steps)
    for word in ("converged", "plateau", "as good", "too small", "too large"):
        assert word not in said
    assert f"try lr={following[0]:g}..{following[1]:g} next" in said


def test_a_run_alone_that_diverged_has_smaller_ones_to_try() -> None:
    a = only(table((10.0, "diverged", math.inf)))
    assert a.best_lr is None and a.try_next == (0.01, 10.0)
    why = "every run diverged or collapsed (lr 10), so every step was too large; try lr=0.01..10"
    assert why in text([a])


# --- nothing learned ------------------------------------------------------------------------------


def flat(end: float, **columns: Any) -> pd.DataFrame:
    runs = [(lr, "nothing learned", end + lr) for lr in (0.01, 0.1)]
    return table((1e-3, "nothing learned", end), *runs, **columns)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ("nll", "guessing"),
        ("cross_entropy", "guessing"),
        ("mse", "predicting the mean"),
        ("l1", "predicting the median"),
    ],
)
def test_where_nothing_was_learned_none_is_recommended(loss: str, words: str) -> None:
    a = only(flat(2.32, loss=loss))
    assert a.best_lr is None and a.best_run is None
    assert text([a]) == (
        "answer  no lr is recommended: nothing was learned, because no run is better than "
        f"{words} (2.303); the lowest end loss is 2.32, at lr 0.001"
    )


@pytest.mark.parametrize(
    ("began", "end", "is_on_its_way"), [(3.0, 2.6, True), (2.6, 2.6, False), (3.0, 2.32, False)]
)
def test_a_run_on_its_way_to_guessing_may_need_more_epochs(
    began: float, end: float, is_on_its_way: bool
) -> None:
    told = text([only(flat(end, initial_loss=began))])
    assert told.endswith("; it began at 3, so more epochs may help") == is_on_its_way


def test_nothing_learned_looks_further_only_where_steps_were_far_too_short() -> None:
    short = only(flat(2.3, steps="far too short"))
    assert short.try_next == pytest.approx((0.1, 100.0))
    assert "try lr=0.1..100 next" in text([short])
    assert only(flat(2.3, steps="about right")).try_next is None
    # of a short run there is alpha alone
    assert only(flat(2.3, steps="", alpha=-0.99)).try_next == pytest.approx((0.1, 100.0))
    assert only(flat(2.3, steps="", alpha=-0.5)).try_next is None
    assert only(flat(2.3, steps="", alpha=-0.99, stability_ratio=0.7)).try_next is None
    failed = pd.concat([flat(2.3, steps="far too short"), table((3.0, "diverged", math.inf))])
    assert only(failed).try_next is None


def test_without_a_known_chance_what_stays_where_it_began_is_not_learned() -> None:
    step = np.arange(100)
    rng = np.random.default_rng(0)
    parts = [
        pd.DataFrame(
            {"step": step, "train_loss": 2.3 + 0.01 * rng.standard_normal(100), "run": i, "lr": lr}
        )
        for i, lr in enumerate((0.01, 0.1))
    ]
    a = only(curves(pd.concat(parts).assign(initial_loss=2.3)))
    assert "no run is better than before training (2.3)" in a.refusal


def test_all_failed() -> None:
    a = only(table(*WHOLE[5:]))
    assert a.refusal == "every run diverged or collapsed (lr 1 to 3), so every step was too large"
    assert a.try_next == pytest.approx((1e-3, 1.0))


# --- runs that cannot be compared -----------------------------------------------------------------


def test_runs_that_used_the_same_rates_are_refused() -> None:
    frame = table(*((lr, "not compared", 0.1) for lr in (0.01, 0.1)), schedule="cyclic")
    a = only(frame.assign(same_rates=True))
    assert a.best_lr is None and a.refusal == (
        "schedule=cyclic sets the rates by itself, so all lrs trained at the same rates"
    )
    assert only(frame.assign(same_rates=False)).best_lr is not None


def test_a_setting_that_follows_the_lr_is_one_line_of_rates() -> None:
    frame = table(*WHOLE)
    tied = frame.assign(**{"optimizer.weight_decay": frame["lr"] * 0.01, "optimizer": "sgd"})
    a = only(tied)
    assert a.settings == {} and a.lrs == 7 and a.best_lr == 0.1 and a.edge == ""
    free = tied.assign(**{"optimizer.weight_decay": [0.1, 0.2] * 3 + [0.1]})
    assert len(recommend(free)) == 2


def test_a_range_test_is_referred_to_find() -> None:
    a = only(table(*WHOLE, schedule="range_test"))
    assert a.best_lr is None and a.refusal == (
        "schedule=range_test sweeps the lr within a run; use python -m lrlab.find"
    )
    both = pd.concat([table(*WHOLE, schedule="fixed"), table(*WHOLE, schedule="range_test")])
    assert [each.best_lr for each in recommend(both)] == [0.1, None]


def test_runs_that_were_not_finished_are_not_candidates_but_are_counted() -> None:
    frame = table(*WHOLE[:3], (0.2, "pruned", 0.01), (0.3, "not compared", math.nan))
    frame["state"] = ["finished"] * 3 + ["pruned", "waiting"]
    a = only(frame)
    assert a.best_lr == 0.1 and a.not_judged == 2 and a.edge == ""
    assert "2 of 5 runs were not trained to their end" in text([a])
    none = only(frame.assign(state="running"))
    assert none.refusal == "no run has been trained to its end"


def test_one_loss_is_refused_for_what_it_is() -> None:
    one = table((0.1, "not compared", 2.3), last=0.0)
    assert "one loss shows no trend" in only(one).refusal
    assert only(one.assign(end_loss=math.nan)).refusal == "no loss was recorded"


@pytest.mark.parametrize(("steps", "words"), [(1, "only 1 step"), (6, "only 6 steps")])
def test_few_steps_are_said_whether_or_not_one_is_recommended(steps: int, words: str) -> None:
    for frame in (table(*WHOLE), flat(2.31)):
        told = f"budget: {words}, too few to mean much; raise epochs or lower batch_size"
        assert told in lines(frame.assign(last=float(steps)))
        assert not any(line.startswith("budget") for line in lines(frame.assign(last=100.0)))
        by_epoch = frame.assign(last=float(steps), unit="epoch")
        assert not any(line.startswith("budget:") for line in lines(by_epoch))


def test_where_nothing_was_learned_and_the_smallest_lr_collapsed_smaller_ones_are_named() -> None:
    flat = [2.3, *[2.3] * 39]
    spiked = [2.3, 50.0, *[2.3] * 38]
    parts = [
        pd.DataFrame({"run": i, "lr": lr, "epoch": range(40), "train_loss": losses})
        for i, (lr, losses) in enumerate([(1.0, spiked), (2.0, flat), (4.0, flat)])
    ]
    found = verdicts(pd.concat(parts).assign(num_classes=10))
    assert found["outcome"].tolist() == ["collapsed", "nothing learned", "nothing learned"]
    (a,) = recommend(found)
    assert a.best_lr is None and a.try_next == (pytest.approx(1e-3), 1.0)
    (other,) = recommend(found.assign(lr=[4.0, 2.0, 1.0]))
    assert other.try_next is None, "a larger one collapsed"
