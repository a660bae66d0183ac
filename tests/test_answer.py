"""The recommendation, from tables of verdicts whose answer is known."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.answers import WHOLE, lines, only, seeds, table

from lrlab.errors import UserError
from lrlab.verdicts.judging import verdicts
from lrlab.verdicts.printed.answer_words import how_sure, text
from lrlab.verdicts.recommend import recommend

pytestmark = pytest.mark.unit

HERE = Path(__file__).parent


# --- the whole range ------------------------------------------------------------------------------


def test_the_answer_of_a_whole_range() -> None:
    a = only(table(*WHOLE))
    assert (a.best_lr, a.best_run, a.best_loss) == (0.1, 2, 0.070)
    assert a.as_good == (0.1, 0.3), "0.072 is 3% above 0.070; one seed tells no noise"
    assert (a.too_small, a.too_large, a.fails_from) == (1e-2, 0.5, 1.0)
    assert a.decay_gain == 0.4 and a.decay_helps
    assert (a.edge, a.try_next, a.refusal) == ("", None, "")
    assert (a.seeds, a.failed_seeds, a.runs, a.lrs, a.not_judged) == (1, 0, 7, 7, 0)
    assert a.counts == {
        **{"undershooting": 2, "converged": 2, "overshooting": 1},
        **{"collapsed": 1, "diverged": 1},
    }
    assert lines(table(*WHOLE)) == [
        "answer  lr=0.1: end loss 0.07, one seed; lr 0.1 to 0.3 are as good",
        "too small: lr 0.01 and below end with a higher loss in this budget",
        "too large: lr 0.5 and above end with a higher loss; runs fail from lr 1 on",
        # 1 − e^−0.4 = 0.33
        "decay: ending at lr/10 would cut the train loss by about 33%; use a schedule",
        "how sure: one seed; the next best, lr 0.3, ended 0.002 higher (2.9%); how much of "
        "that is chance was not measured. Another seed may change the order; try seed=0,1,2",
    ]


# --- seeds ----------------------------------------------------------------------------------------


def of_seeds(ends: dict[float, list[float]], **columns: Any) -> pd.DataFrame:
    runs = [(lr, "converged", end) for lr, of_lr in ends.items() for end in of_lr]
    numbers = [seed for of_lr in ends.values() for seed in range(len(of_lr))]
    return table(*runs, seed=numbers, **columns)


def test_as_good_is_within_the_noise_of_paired_differences() -> None:
    """An offset that one seed gives all lrs is no noise, however large."""
    offset = np.array([0.0, 0.5, 1.0, 0.5])
    above = 0.10 + np.array([0.01, -0.01, 0.01, -0.01])
    frame = of_seeds({0.1: [*(offset + 1.0)], 0.2: [*(offset + 1.0 + above)]})
    a = only(frame)
    # differences 0.10 ± 0.01 (deviation √(4·1e-4/3)), so 2 standard errors are 0.0115
    assert a.noise == pytest.approx(math.sqrt(4e-4 / 3))
    assert a.rival is not None and a.rival.of == "seeds" and a.rival.lr == 0.2
    assert a.rival.higher == pytest.approx(0.10)
    assert a.rival.error == pytest.approx(2 * math.sqrt(4e-4 / 3) / 2)
    assert a.as_good == (0.1, 0.1) and a.seeds == 4
    assert "lr 0.2, ended 0.1 higher (6.7%), more than the noise of the seeds (±0.012)" in text([a])
    other_seeds = only(frame.assign(seed=range(8)))
    assert other_seeds.as_good == (0.1, 0.2), "without pairs, the offset is noise"
    assert "within the noise of the seeds" in text([other_seeds])


def test_a_seed_that_failed_counts_against_an_lr_whatever_the_median_says() -> None:
    risky = [*seeds(0.3, "converged", [0.05, 0.05]), (0.3, "diverged", math.inf)]
    a = only(table(*seeds(0.1, "converged", [0.07, 0.07, 0.07]), *risky))
    assert a.best_lr == 0.1 and a.as_good == (0.1, 0.1)
    assert a.fails_from == 0.3 and a.too_large is None
    assert "runs fail from lr 0.3 on" in text([a])
    assert "lr 0.3 ended lower, but a larger share of its runs failed" in text([a])
    alone = only(table(*risky))
    assert alone.best_lr == 0.3 and (alone.seeds, alone.failed_seeds) == (3, 1)
    assert "careful: 1 of 3 seeds failed at lr 0.3" in text([alone])
    both = [(0.1, "converged", 0.05), (0.1, "diverged", math.inf), (0.1, "converged", 0.05), *risky]
    assert "1 of 3 seeds failed at lr 0.1; at no other lr did a smaller share fail" in text(
        [only(table(*both))]
    )


def test_the_best_run_is_the_middle_one_of_its_seeds() -> None:
    a = only(of_seeds({0.1: [0.12, 0.10, 0.11], 0.2: [0.3, 0.3, 0.3]}))
    assert a.best_run == 2 and a.best_loss == 0.11


def test_a_run_that_was_repeated_is_no_second_seed() -> None:
    once = table(*WHOLE, seed=0)
    again = pd.concat([once, once]).assign(run=range(2 * len(once)))
    one, two = only(once), only(again)
    assert (two.seeds, two.runs, two.lrs, two.not_judged) == (1, 14, 7, 0)
    assert math.isnan(two.noise) and two.as_good == one.as_good
    assert "how sure: one seed" in text([two])
    assert only(again.assign(seed=[0] * 7 + [1] * 7)).seeds == 2
    assert only(again.assign(seed=math.nan)).seeds == 2, "not told: each counts"


def test_a_lone_lr_with_seeds_tells_their_deviation() -> None:
    a = only(table(*seeds(0.1, "not compared", [0.10, 0.11, 0.12]), seed=[0, 1, 2]))
    assert "how sure: 3 seeds; their end losses have a standard deviation of 0.01" in text([a])


# --- how sure, with one seed ----------------------------------------------------------------------


def test_the_noise_of_the_held_out_samples_is_that_of_paired_differences() -> None:
    """Both runs are evaluated on the same samples: parts that are hard for both are no noise."""
    best = [1.0, 2.0, 3.0, 2.0]
    other = [1.1, 2.3, 3.1, 2.3]  # differences 0.1, 0.3, 0.1, 0.3: deviation √(4·0.01/3)
    frame = table((0.1, "converged", 2.0), (0.2, "overshooting", 2.2), (0.4, "overshooting", 3.0))
    parts = [" ".join(map(str, x)) for x in (best, other, [3.0, 3.0, 3.0, 3.0])]
    a = only(frame.assign(val_parts=parts))
    error = math.sqrt(4 * 0.01 / 3) / math.sqrt(4)
    assert a.rival is not None and a.rival.of == "held-out samples"
    assert a.rival.error == pytest.approx(2 * error)
    assert (
        "lr 0.2, ended 0.2 higher (10%), more than the noise of the held-out samples (±0.12)"
        in text([a])
    )
    # the third: differences 2, 1, 0, 1 with deviation √(2/3), so 2 errors are 0.82
    assert a.rival.held_out == (0.1, 0.1) and "apart" not in text([a])


def test_lrs_that_so_few_samples_cannot_tell_apart_are_said() -> None:
    frame = table((0.1, "converged", 2.0), (0.2, "overshooting", 2.2), (0.4, "overshooting", 3.0))
    parts = ["1 3 1 3", "3.2 1.2 3.2 1.2", "3 3 3 3"]
    a = only(frame.assign(val_parts=parts))
    # differences to lr 0.2: 2.2, −1.8, ...: deviation 2.31, error 1.15; to lr 0.4: 2, 0, ...: 0.58
    assert a.rival is not None and a.rival.error == pytest.approx(2 * 4 / math.sqrt(3) / 2)
    assert a.rival.held_out == (0.1, 0.4) and a.as_good == (0.1, 0.1)
    assert "The held-out samples are too few to tell lr 0.1 to 0.4 apart" in text([a])


def test_without_parts_the_scatter_of_the_last_evaluations_counts() -> None:
    frame = table((0.1, "converged", 0.50), (0.2, "converged", 0.51)).assign(end_noise=[0.03, 0.04])
    a = only(frame)
    assert a.rival is not None and a.rival.error == pytest.approx(2 * 0.05)  # 3, 4, 5
    assert "within the noise of the last evaluations (±0.1)" in text([a])
    exact = only(frame.assign(end_noise=0.0))
    assert exact.rival is not None and exact.rival.error == 0
    assert "more than the noise of the last evaluations (±0)" in text([exact])
    unknown = only(frame.assign(end_noise=math.nan, val_parts=None))
    assert "how much of that is chance was not measured" in text([unknown])


def test_seeds_tell_more_than_samples() -> None:
    frame = of_seeds({0.1: [1.0, 1.0], 0.2: [1.02, 1.10]}, val_parts="1 2 3", end_noise=0.5)
    assert only(frame).rival is not None and only(frame).rival.of == "seeds"  # type: ignore[union-attr]


def test_one_seed_is_told_to_be_one() -> None:
    assert "Another seed may change the order; try seed=0,1,2" in text([only(table(*WHOLE))])
    assert "try seed=0,1,2" not in text([only(of_seeds({0.1: [0.1, 0.1], 0.2: [0.2, 0.2]}))])


# --- the edge -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runs", "edge", "following"),
    [
        (WHOLE[:2], "high", (1e-3, 0.1)),
        (WHOLE[:3], "high", (1e-2, 1.0)),  # whatever its branches say
        (WHOLE, "", None),
        (WHOLE[2:], "low", (0.01, 0.3)),
        (WHOLE[4:], "low", (0.05, 1.0)),
        ([(0.1, "not compared", 0.5)], "both", (0.01, 1.0)),
    ],
)
def test_the_best_at_an_edge_is_always_said_with_a_range_that_overlaps(
    runs: Any, edge: str, following: Any
) -> None:
    a = only(table(*runs))
    assert a.edge == edge
    assert a.try_next == (following if following is None else pytest.approx(following))
    said = [line for line in text([a]).splitlines() if "edge:" in line]
    assert len(said) == bool(edge)
    if edge:
        assert f"try lr={following[0]:g}..{following[1]:g} next" in said[0]
        assert a.try_next is not None and a.try_next[0] < a.best_lr < a.try_next[1]  # type: ignore[operator]


def test_the_edge_is_said_of_every_setting() -> None:
    frame = pd.concat(
        [
            table(*WHOLE, optimizer="sgd"),
            table(*WHOLE[:3], optimizer="adam").assign(end_loss=lambda t: t["end_loss"] + 0.1),
            table(*WHOLE[2:], optimizer="rmsprop").assign(end_loss=lambda t: t["end_loss"] + 0.2),
        ]
    )
    assert [a.edge for a in recommend(frame)] == ["", "high", "low"]
    said = [line for line in lines(frame) if line.startswith("edge:")]
    assert said == [
        "edge: lr 0.1 is the largest lr tried, so the best may lie beyond; try lr=0.01..1 next",
        "edge: lr 0.1 is the smallest lr tried, so the best may lie beyond; try lr=0.01..0.3 next",
    ]


def test_a_larger_lr_that_was_pruned_was_tried() -> None:
    frame = table((0.1, "converged", 0.1), (1.0, "pruned", 0.5), (0.01, "converged", 0.2))
    assert only(frame.assign(state=["finished", "pruned", "finished"])).edge == ""
    assert only(frame.assign(state=["finished", "failed", "finished"])).edge == "high"


# --- several settings -----------------------------------------------------------------------------


def test_one_answer_for_each_combination_of_the_other_settings_the_best_first() -> None:
    adam = table((0.001, "converged", 0.05), (0.1, "diverged", math.inf), optimizer="adam")
    frame = pd.concat(
        [
            table(*WHOLE, optimizer="sgd"),
            adam,
            table((9.0, "diverged", math.inf), optimizer="rmsprop"),
        ]
    ).assign(epochs=3)
    answers = recommend(frame)
    assert [a.settings for a in answers] == [
        {"optimizer": "adam"},
        {"optimizer": "sgd"},
        {"optimizer": "rmsprop"},
    ]
    assert [a.best_lr for a in answers] == [0.001, 0.1, None]
    said = text(answers).splitlines()
    assert said[0].startswith("answer  optimizer=adam lr=0.001")
    assert said[-2].startswith("answer  optimizer=sgd lr=0.1")
    assert "optimizer=rmsprop no lr is recommended" in said[-1]
    together = only(frame, settings=[])
    assert together.best_lr == 0.001 and together.runs == 10
    assert [len(a.settings) for a in recommend(frame, settings=["optimizer", "epochs"])] == [2] * 3


def test_of_many_combinations_the_best_are_told_and_the_others_counted() -> None:
    parts = [
        table(
            (0.1, "converged", 0.1 + i / 100),
            (0.3, "overshooting", 1.0),
            **{"optimizer.weight_decay": 0.1234567 / (i + 1)},
        )
        for i in range(30)
    ]
    said = text(recommend(pd.concat(parts))).splitlines()
    assert said[0].startswith("answer  optimizer.weight_decay=0.123457 lr=0.1")
    assert sum(line.startswith("answer") for line in said) == 9
    assert said[-1].strip() == "and 21 other settings, none of them better"


def test_a_run_that_has_not_begun_makes_no_combination_of_its_own() -> None:
    begun = table(*WHOLE, optimizer="sgd", epochs=3.0, seed=0.0)
    waiting = {"run": 99, "lr": math.nan, "outcome": "not compared", "end_loss": math.nan}
    a = only(pd.concat([begun, pd.DataFrame([waiting])]))
    assert a.settings == {} and a.best_lr == 0.1


def test_losses_of_two_kinds_are_not_said_to_compare() -> None:
    told = "        losses of different kinds do not compare, accuracies do"
    two = [table(*WHOLE).assign(run=lambda t, n=n: t["run"] + n) for n in (0, 100)]
    for losses, is_told in ((("nll", "mse_one_hot"), True), (("nll", "nll"), False)):
        both = pd.concat([one.assign(loss=loss) for one, loss in zip(two, losses, strict=True)])
        assert (told in text(recommend(both)).splitlines()) == is_told


# --- too small, too large -------------------------------------------------------------------------


def test_what_does_as_well_as_the_best_is_not_called_too_small() -> None:
    near = [(0.1, "converged", 0.10), (0.05, "converged", 0.104)]
    a = only(table(*near, (0.01, "undershooting", 1.0)))
    assert a.as_good == (0.05, 0.1) and a.too_small == 0.01
    assert only(table(*WHOLE[2:])).too_small is None


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([(1.0, "collapsed", 2.3), (3.0, "overshooting", 1.0)], "runs fail from lr 1 on"),
        ([(1.0, "overshooting", 1.0)], "lr 1 and above end with a higher loss"),
        (
            [(0.5, "overshooting", 0.5), (1.0, "diverged", math.inf)],
            "lr 0.5 and above end with a higher loss; runs fail from lr 1 on",
        ),
    ],
)
def test_overshooting_is_said_only_where_it_comes_before_failing(runs: Any, words: str) -> None:
    assert f"too large: {words}\n" in text([only(table(*WHOLE[:3], *runs))])


def test_a_failure_below_what_is_good_is_not_called_too_large() -> None:
    a = only(table(*WHOLE[:3], (0.05, "diverged", math.inf)))
    assert a.best_lr == 0.1 and a.fails_from == 0.05 and "too large:" not in text([a])
    assert "careful: a run failed at lr 0.05, although it is not too large" in text([a])


# --- at the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at_end", "gain", "said", "not_said"),
    [
        ("still falling", math.nan, "at the end: the loss was still falling", "decay"),
        ("settled", math.nan, "at the end: the loss had settled", "decay"),
        ("settled", -0.3, "decay: ending at lr/10 would not cut the train loss", "use a schedule"),
        ("would anneal", math.log(2), "would cut the train loss by about 50%", "at the end"),
        ("too noisy to tell", 0.1, "at the end: too noisy to tell", "decay:"),
        ("", math.nan, "how sure", "at the end"),
    ],
)
def test_the_end_of_the_best_in_words(at_end: str, gain: float, said: str, not_said: str) -> None:
    frame = table(*WHOLE).assign(at_end=at_end, gain_low=gain)
    found = text([only(frame)])
    assert said in found and not_said not in found


def test_where_the_best_overfits_decay_is_not_promised() -> None:
    frame = table(*WHOLE, lowest_loss=0.05, lowest_epoch=7.0).assign(at_end="overfitting")
    a = only(frame)
    assert a.overfits and not a.decay_helps
    assert (a.overfit_from, a.overfit_epoch) == (0.05, 7)
    told = "overfitting: val loss was lowest after epoch 7, at 0.05, and ended at 0.07; "
    assert told + "stop earlier or regularise" in lines(frame)
    assert "decay" not in text([a]) and "schedule" not in text([a])
    other = frame.assign(at_end=["overfitting"] * 2 + ["settled"] * 5)
    assert not only(other).overfits and math.isnan(only(other).overfit_from)


def test_time_to_the_target_counts_never_as_never() -> None:
    frame = table(*seeds(0.1, "converged", [0.1] * 3), (1e-3, "undershooting", 2.0))
    frame["target_loss"] = 0.2
    frame["steps_to_target"] = [100, 300, math.inf, math.inf]
    frame["seconds_to_target"] = [1.0, 3.0, math.inf, math.inf]
    a = only(frame)
    assert [(t.lr, t.steps, t.seconds) for t in a.to_target] == [
        (1e-3, math.inf, math.inf),
        (0.1, 300, 3.0),
    ]
    assert "loss 0.2: reached at lr 0.1 in 300 steps (3 s); never at 1 of 2 lrs" in text([a])
    two = only(frame.assign(steps_to_target=[math.inf, math.inf, 5, 5]))
    assert two.to_target[1].steps == math.inf, "two of three seeds never did"
    once = frame.assign(steps_to_target=1.0, seconds_to_target=math.nan)
    assert "in 1 step, " in text([only(once)])


# --- runs that were trained, or simulated ---------------------------------------------------------


def test_the_answer_of_real_runs() -> None:
    curves = pd.read_csv(HERE / "hand_labelled" / "mnist.csv.gz")
    a = only(verdicts(curves))
    assert a.best_lr == 0.1 and a.seeds == 2 and a.edge == ""
    assert a.as_good is not None and a.as_good[0] <= 0.1 <= a.as_good[1] <= 0.3
    assert (a.too_small, a.fails_from) == (0.03, 0.7)
    assert a.too_large in (0.3, 0.5)
    assert a.decay_helps
    assert 0.0005 < a.noise < 0.02
    reached = {each.lr for each in a.to_target if math.isfinite(each.steps)}
    assert reached == {0.03, 0.1, 0.3, 0.5}
    assert only(verdicts(curves.query("lr > 0.9"))).refusal


def test_noise_makes_the_small_and_the_large_step_lose() -> None:
    """Quadratic in 100 dimensions, λ = 1, gradient noise σ: with n steps the best lr is known.

    E[loss] = ½·(1−lr)^(2n) + ½σ²·lr/(2−lr)·(1 − (1−lr)^(2n)), minimised over the lrs tried.
    """
    lrs, n, sigma = np.geomspace(1e-3, 3, 15), 100, 0.5
    left = (1 - lrs) ** (2 * n)
    with np.errstate(all="ignore"):
        theory = 0.5 * left + 0.5 * sigma**2 * lrs / (2 - lrs) * (1 - left)
    theory = np.where(lrs < 2, theory, math.inf)
    parts = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        for i, lr in enumerate(lrs):
            x = np.ones(100)
            losses = []
            for _ in range(n + 1):
                losses.append(0.5 * float(np.mean(x**2)))
                x = x - lr * (x + sigma * rng.standard_normal(100))
            parts.append(
                pd.DataFrame({"train_loss": losses, "step": range(n + 1)}).assign(
                    run=seed * len(lrs) + i, lr=lr, seed=seed
                )
            )
    a = only(verdicts(pd.concat(parts)))
    best = int(np.argmin(theory))
    assert a.best_lr in lrs[best - 1 : best + 2]
    assert a.as_good is not None and a.as_good[0] <= lrs[best] <= a.as_good[1]
    assert a.fails_from == pytest.approx(lrs[lrs > 2][0])
    assert a.too_large is not None and a.best_lr < a.too_large <= a.fails_from
    assert a.too_small is not None and a.too_small < a.best_lr


# --- bad tables, and words ------------------------------------------------------------------------


def test_bad_tables_and_no_runs() -> None:
    with pytest.raises(UserError, match="outcome: no such column"):
        recommend(pd.DataFrame({"run": [0], "lr": [0.1], "end_loss": [1.0]}))
    with pytest.raises(UserError, match="width: no such column"):
        recommend(table(*WHOLE), settings=["width"])
    empty = only(table(*WHOLE).iloc[:0])
    assert empty.refusal and text([empty]).startswith("answer  no lr is recommended")
    assert text([]) == "answer  none: there are no runs"


def test_a_line_has_short_sentences() -> None:
    """House style: at most about 25 words to a sentence, the terminal's lines apart."""
    frame = table(*WHOLE, val_parts="1 2 3", state=["finished"] * 6 + ["pruned"])
    a = dataclasses.replace(only(frame), not_judged=1)
    for line in [how_sure(a), *text([a]).splitlines()]:
        for sentence in line.replace(";", ". ").split(". "):
            assert len(sentence.split()) <= 25, sentence
