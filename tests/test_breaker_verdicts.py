"""Verdicts and answers of tables made to mislead: each line here was once wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from lrlab.verdicts.answer import Answer
from lrlab.verdicts.judging import verdicts
from lrlab.verdicts.printed import answer_words
from lrlab.verdicts.recommend import recommend

pytestmark = pytest.mark.unit

GUESS = 2.303


def run(number: int, lr: float, end: float, steps: int = 200, **columns: Any) -> pd.DataFrame:
    """A loss that falls from 2.3 to its end and lies there; columns override any of these."""
    loss = end + (2.3 - end) * np.exp(-np.linspace(0, 30, steps))
    columns = {"train_loss": loss, "initial_loss": 2.31, "chance_loss": GUESS, **columns}
    return pd.DataFrame({"run": number, "lr": lr, "step": np.arange(steps), **columns})


def broken(number: int, lr: float, **columns: Any) -> pd.DataFrame:
    """Non-finite at its third step."""
    return run(number, lr, 0.0, 3, **{"train_loss": [2.3, 9.0, np.inf], **columns})


def judged(*runs: pd.DataFrame) -> tuple[pd.DataFrame, Answer, str]:
    found = verdicts(pd.concat(runs, ignore_index=True))
    answers = recommend(found)
    return found, answers[0], answer_words.text(answers)


# --- the answer and the table compare the same runs -----------------------------------------------


def test_a_run_without_val_loss_is_not_recommended_among_runs_with_one() -> None:
    """Its lower train loss may be of data seen many times."""
    found, answer, _ = judged(
        run(0, 0.1, 0.5, val_loss=0.8 + np.geomspace(1, 1e-3, 200)),
        run(1, 0.2, 0.01),
        run(2, 0.3, 0.3, val_loss=0.6 + np.geomspace(1, 1e-3, 200)),
    )
    assert found["outcome"].tolist() == ["undershooting", "not compared", "converged"]
    assert "no val loss" in found["evidence"][1] and "no other lr" not in found["evidence"][1]
    assert (answer.best_lr, answer.judged_by, answer.not_judged) == (0.3, "val_loss", 0)


def test_a_second_run_of_an_lr_without_val_loss_is_not_compared_either() -> None:
    val = {"val_loss": 0.8 + np.geomspace(1, 1e-3, 200)}
    found, answer, _ = judged(
        run(0, 0.1, 0.5, seed=0, **val), run(1, 0.1, 0.1, seed=1), run(2, 0.3, 0.3, seed=0, **val)
    )
    assert found["outcome"].tolist() == ["converged", "not compared", "converged"]
    assert answer.seeds == 1


def test_one_finished_run_beside_a_pruned_one_is_not_compared_in_both() -> None:
    found, answer, text = judged(
        run(0, 0.1, 0.5, state="finished"), run(1, 0.2, 0.1, 60, state="pruned")
    )
    assert found["outcome"].tolist() == ["not compared", "pruned"]
    assert answer.is_alone and "so it is not compared" in text


# --- losses below 0 -------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, -2.0, -10.0])
def test_a_collapse_is_one_wherever_the_loss_has_its_zero(offset: float) -> None:
    """A density's log loss can lie below 0; guessing's share is then of its size."""
    guess = 1.0 + offset
    ends = (guess - 3 * max(1, abs(guess)), guess - 0.001)
    runs = [
        run(
            number,
            lr,
            0,
            train_loss=end + (guess + 1 - end) * np.exp(-np.linspace(0, 30, 200)),
            initial_loss=guess + 1,
            chance_loss=guess,
        )
        for number, (lr, end) in enumerate(zip((0.1, 0.4), ends, strict=True))
    ]
    found, answer, _ = judged(*runs)
    assert found["outcome"].tolist() == ["converged", "collapsed"]
    assert answer.fails_from == 0.4


def test_a_small_rise_of_a_loss_below_0_is_no_spike() -> None:
    """1.5 times −3 lies below −3: no curve stays below that."""
    flat = {"initial_loss": -3.0, "chance_loss": -3.0}
    found, _, _ = judged(
        run(0, 0.1, 0, train_loss=np.full(200, -3.0), **flat),
        run(1, 0.4, 0, train_loss=np.full(200, -3.0), **flat),
    )
    assert set(found["outcome"]) == {"nothing learned"}


# --- what the evidence says -----------------------------------------------------------------------


def test_above_a_best_loss_of_0_no_ratio_is_told() -> None:
    zero = np.r_[np.geomspace(2.3, 0.01, 100), np.zeros(100)]
    found, _, text = judged(
        run(0, 0.1, 0.5), run(1, 0.2, 0, train_loss=zero), run(2, 0.3, 0, train_loss=zero)
    )
    assert found["outcome"].tolist() == ["undershooting", "converged", "converged"]
    assert not any("inf" in each for each in [*found["evidence"], text])
    assert "as low as the best, 0" in found["evidence"][2]


def test_the_reason_is_told_where_the_end_loss_alone_would_name_another_side() -> None:
    found, _, _ = judged(run(0, 0.1, 0.3), broken(1, 0.2), run(2, 0.4, 0.3))
    assert found["outcome"].tolist() == ["converged", "diverged", "overshooting"]
    assert "as low as the best" in found["evidence"][2]
    assert "but an lr between them did far worse" in found["evidence"][2]

    found, _, _ = judged(run(0, 0.1, 0.3), run(1, 0.2, 0.36), run(2, 0.4, 0.301))
    assert found["outcome"].tolist() == ["converged"] * 3
    assert "20.0% above the best" in found["evidence"][1]
    assert "but an lr farther from the best is as good" in found["evidence"][1]


def test_a_loss_that_is_nothing_beside_its_start_is_said_to_be_so() -> None:
    found, _, _ = judged(run(0, 0.1, 1e-9), run(1, 0.2, 1e-6))
    assert found["outcome"].tolist() == ["converged"] * 2
    assert "1e+03 times the best" in found["evidence"][1]
    assert "negligible compared with the initial loss" in found["evidence"][1]


def test_lower_than_the_best_is_not_called_as_low() -> None:
    """The best is of the lrs at which the fewest seeds failed."""
    found, answer, _ = judged(
        *(run(seed, 0.1, 0.5, seed=seed) for seed in range(3)),
        broken(10, 0.2, seed=0),
        *(run(10 + seed, 0.2, 0.3, seed=seed) for seed in (1, 2)),
    )
    assert answer.best_lr == 0.1
    row = found.loc[found["run"] == 11].iloc[0]
    assert row["outcome"] == "overshooting"
    assert "as low as" not in row["evidence"] and "fewer seeds failed" in row["evidence"]


def test_of_several_seeds_the_noise_and_the_medians_are_told() -> None:
    ends = {0.1: (0.5, 0.2, 0.8), 0.2: (0.3, 0.6, 0.2)}
    found, _, _ = judged(
        *(
            run(10 * i + seed, lr, end, seed=seed)
            for i, (lr, of) in enumerate(ends.items())
            for seed, end in enumerate(of)
        )
    )
    assert set(found["outcome"]) == {"converged"}
    assert "within the noise of the seeds" in found["evidence"][0]
    assert all("by the medians of the seeds" in each for each in found["evidence"])


def test_small_stability_ratios_are_told_apart() -> None:
    """With momentum 0.9 steps swing from 0.0007 on: both would read 0.00."""
    found, _, _ = judged(
        *(
            run(i, lr, 0.3, stability_ratio=ratio, **{"optimizer.momentum": 0.9})
            for i, (lr, ratio) in enumerate([(0.1, 0.0005), (0.2, 0.003)])
        )
    )
    assert found["step_mode"].tolist() == ["monotone", "oscillating"]
    assert "stability ratio 0.0005" in found["evidence"][0]
    assert "stability ratio 0.003" in found["evidence"][1]


# --- what the answer says -------------------------------------------------------------------------


def test_runs_that_failed_early_do_not_tell_of_a_short_budget() -> None:
    _, answer, text = judged(*(broken(i, lr) for i, lr in enumerate((0.1, 1.0))))
    assert answer.refusal and "budget" not in text
    _, answer, text = judged(run(0, 0.1, 0.5), *(broken(i, i / 1.0) for i in (1, 2, 3)))
    assert answer.steps == 199 and "budget" not in text


def test_one_loss_a_run_is_not_called_a_budget_of_no_steps() -> None:
    _, answer, text = judged(run(0, 0.1, 0.5, 1), run(1, 0.2, 0.5, 1))
    assert answer.refusal and "0 steps" not in text


def test_an_lr_that_still_trains_is_not_called_untried() -> None:
    _, _, text = judged(
        run(0, 0.1, 0.5, state="finished"),
        run(1, 0.2, 0.3, state="finished"),
        run(2, 0.4, 0.3, 90, state="running"),
    )
    assert "lr 0.2 is the largest lr trained to its end" in text and "lr tried" not in text
    _, _, text = judged(run(0, 0.1, 0.5, state="finished"), run(1, 0.2, 0.3, 90, state="running"))
    assert "no other lr was trained to its end, so it is not compared" in text
    assert "lr tried" not in text


@pytest.mark.parametrize(("best", "within"), [(0.0, (0.0, 0.2)), (0.2, (0.0, np.inf))])
def test_beside_an_lr_of_0_a_range_to_try_next_is_told(
    best: float, within: tuple[float, float]
) -> None:
    _, answer, text = judged(*(run(i, lr, abs(lr - best) + 0.1) for i, lr in enumerate((0.0, 0.2))))
    assert answer.best_lr == best and answer.try_next is not None
    low, high = answer.try_next
    assert within[0] < low < high <= within[1]
    assert ("may lie beyond" in text) == (best > 0), "nothing lies below 0"


@pytest.mark.parametrize(("gain", "what"), [(-0.1, "more epochs"), (0.1, "more epochs or decay")])
def test_too_noisy_to_tell_of_decay_is_not_said_beside_what_decay_would_do(
    gain: float, what: str
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, 200)
    loss = 2.3 * np.exp(noise) * np.arange(1, 201) ** -0.2  # a slope at the border
    tested = {"train_loss": loss, "gain_low": gain, "gain_high": -0.1, "gain_noise": 0.1}
    found, _, text = judged(run(0, 0.1, 0, **tested), run(1, 0.4, 1.9))
    assert found["at_end"][0] == "too noisy to tell"
    assert f"too noisy to tell whether {what} would lower the loss" in text
    assert ("ending at lr/10 would not cut" in text) == (gain < 0)
