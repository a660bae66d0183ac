"""The recommendation, from tables of verdicts whose answer is known."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lrlab.answer import Answer, recommend, text
from lrlab.errors import UserError
from lrlab.verdicts import verdicts

HERE = Path(__file__).parent


def table(*runs: tuple[Any, ...], **columns: Any) -> pd.DataFrame:
    """Rows of (lr, outcome, end loss) and, where given, (gain_low, gain_high)."""
    names = ["lr", "outcome", "end_loss", "gain_low", "gain_high"]
    rows = [dict(zip(names, run, strict=False)) for run in runs]
    frame = pd.DataFrame(rows).assign(run=range(len(rows)), initial_loss=2.31, chance_loss=2.3026)
    return frame.assign(**columns)


def only(frame: pd.DataFrame, **kwargs: Any) -> Answer:
    answers = recommend(frame, **kwargs)
    assert len(answers) == 1
    return answers[0]


WHOLE = [
    (1e-3, "undershooting", 1.9, -0.2, 0.6),
    (1e-2, "undershooting", 0.3, -0.1, 0.2),
    (0.1, "converged", 0.070, 0.4, -1.0),
    (0.3, "converged", 0.072, 0.5, -math.inf),
    (0.5, "overshooting", 0.15, 0.8, -math.inf),
    (1.0, "collapsed", 2.306, 0.0, 0.0),
    (3.0, "diverged", math.inf),
]


def test_the_answer_of_a_whole_range() -> None:
    a = only(table(*WHOLE))
    assert (a.best_lr, a.best_run, a.best_loss) == (0.1, 2, 0.070)
    assert a.as_good == (0.1, 0.3), "0.3 is within 1% of the way; one seed tells no noise"
    assert (a.too_small, a.too_large, a.fails_from) == (1e-2, 0.5, 1.0)
    assert a.decay_gain == 0.4 and a.decay_helps
    assert (a.edge, a.try_next, a.refusal) == ("", None, "")
    assert (a.seeds, a.runs, a.lrs, a.not_judged) == (1, 7, 7, 0)
    assert a.counts == {
        **{"undershooting": 2, "converged": 2, "overshooting": 1},
        **{"collapsed": 1, "diverged": 1},
    }
    lines = text([a]).splitlines()
    assert lines[0] == "answer  lr=0.1: end loss 0.07, one seed; as good from lr 0.1 to 0.3"
    assert "overshooting from lr 0.5 on, runs fail from lr 1 on" in lines[1]
    assert "undershooting in this budget at lr 0.01 and below" in lines[2]
    assert "gain 0.40 in log train loss, about 33% less of it: worth a schedule" in lines[3]
    assert not a.best_overshoots and "too long to end with" not in text([a])
    assert "one seed" in lines[-1]


def seeds(lr: float, outcome: str, ends: list[float], **gains: float) -> list[tuple[Any, ...]]:
    return [(lr, outcome, end, gains.get("low"), gains.get("high")) for end in ends]


def test_as_good_is_within_the_noise_over_seeds() -> None:
    near = seeds(0.1, "converged", [0.10, 0.11, 0.12]) + seeds(0.2, "converged", [0.11, 0.12, 0.13])
    far = seeds(0.05, "undershooting", [0.14, 0.15, 0.16])
    a = only(table(*near, *far, *seeds(0.4, "overshooting", [0.30, 0.31, 0.32])))
    assert a.noise == pytest.approx(0.01) and a.seeds == 3
    # 2 standard errors of a difference of means: 2·0.01·√(2/3) = 0.016
    assert a.as_good == (0.1, 0.2)
    assert a.best_run == 1, "the run with the median end loss"
    assert "3 seeds, whose end loss varies by 0.01" in text([a])
    # With more seeds less is chance: 2·0.01·√(2/8) = 0.01
    eight = [0.10, 0.11, 0.12, 0.11, 0.10, 0.12, 0.11, 0.11]
    many = only(
        table(
            *seeds(0.1, "converged", eight),
            *seeds(0.2, "converged", [end + 0.013 for end in eight]),
        )
    )
    assert many.as_good == (0.1, 0.1)
    noisy = only(
        table(
            *seeds(0.1, "converged", [0.05, 0.11, 0.17]),
            *seeds(0.2, "converged", [0.06, 0.12, 0.18]),
            *seeds(0.4, "converged", [0.09, 0.15, 0.21]),
        )
    )
    assert noisy.as_good == (0.1, 0.4)


def test_a_seed_that_failed_counts_against_an_lr_whatever_the_median_says() -> None:
    risky = [*seeds(0.3, "converged", [0.05, 0.05]), (0.3, "diverged", math.inf)]
    a = only(table(*seeds(0.1, "converged", [0.07, 0.07, 0.07]), *risky))
    assert a.best_lr == 0.1 and a.as_good == (0.1, 0.1)
    assert a.fails_from == 0.3 and a.too_large is None
    assert "runs fail from lr 0.3 on" in text([a])
    alone = only(table(*risky))
    assert alone.best_lr == 0.3 and alone.failed_seeds == 1
    assert "careful: 1 of 3 seeds at lr 0.3 failed" in text([alone])


@pytest.mark.parametrize(
    ("runs", "edge", "following"),
    [
        (WHOLE[:2], "high", (1e-2, 0.1)),
        (WHOLE[:3], "", None),  # three times the step was tried from there, and lost
        ([*WHOLE[:2], (0.1, "converged", 0.07)], "high", (0.1, 1.0)),
        (WHOLE[2:], "low", (0.01, 0.1)),
        (WHOLE[4:], "low", (0.05, 0.5)),
        (WHOLE[:1], "high", (1e-3, 1e-2)),
        ([(0.1, "plateau", 0.5)], "both", (0.01, 1.0)),
    ],
)
def test_the_best_at_an_edge_says_where_to_look(runs: Any, edge: str, following: Any) -> None:
    a = only(table(*runs))
    assert a.edge == edge
    assert a.try_next == (following if following is None else pytest.approx(following))
    assert ("edge:" in text([a])) == bool(edge)


@pytest.mark.parametrize(
    ("runs", "words", "following"),
    [
        (WHOLE[5:], "every step was too large (lr 1 to 3)", (0.01, 1.0)),
        ([(1e-5, "undershooting", 2.3)], "at lr 1e-05, and none blew up", (1e-5, 1e-3)),
        (
            [(1e-5, "undershooting", 2.3), *WHOLE[5:]],
            "up to lr 1e-05 steps were too small, from 1 on too large",
            (1e-5, 1.0),
        ),
    ],
)
def test_where_nothing_was_learned_none_is_recommended(
    runs: Any, words: str, following: tuple[float, float]
) -> None:
    a = only(table(*runs))
    assert a.best_lr is None and words in a.refusal
    assert a.try_next == pytest.approx(following)
    line = text([a])
    assert line.startswith("answer  no lr is recommended: nothing was learned")
    assert f"try lr={following[0]:g}..{following[1]:g} next" in line


def test_without_a_known_chance_what_stays_where_it_began_is_not_learned() -> None:
    flat = table((0.1, "undershooting", 2.30)).drop(columns="chance_loss")
    assert only(flat).refusal
    assert not only(table((0.1, "undershooting", 2.0)).drop(columns="chance_loss")).refusal


def test_runs_that_were_not_finished_are_not_candidates_but_are_counted() -> None:
    frame = table(*WHOLE[:3], (0.2, "undershooting", 0.01), (0.3, "unknown", math.nan))
    frame["state"] = ["finished"] * 3 + ["pruned", "waiting"]
    a = only(frame)
    assert a.best_lr == 0.1 and a.not_judged == 2 and a.edge == ""
    assert "2 of 5 runs had not had their whole budget" in text([a])
    none = only(frame.assign(state="running"))
    assert none.refusal == "no run has been trained to its end"


def test_a_larger_lr_that_was_pruned_was_tried() -> None:
    frame = table((0.1, "converged", 0.1), (1.0, "undershooting", 0.5), (0.01, "converged", 0.2))
    assert only(frame.assign(state=["finished", "pruned", "finished"])).edge == ""
    assert only(frame.assign(state=["finished", "failed", "finished"])).edge == "high"


def test_one_answer_for_each_combination_of_the_other_settings_the_best_first() -> None:
    frame = pd.concat(
        [
            table(*WHOLE, optimizer="sgd", epochs=3),
            table((0.001, "converged", 0.05), (0.1, "diverged", math.inf), optimizer="adam"),
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
    lines = text(answers).splitlines()
    assert lines[0].startswith("answer  optimizer=adam lr=0.001")
    assert lines[-2].startswith("answer  optimizer=sgd lr=0.1")
    assert "optimizer=rmsprop no lr is recommended" in lines[-1]
    together = only(frame, settings=[])
    assert together.best_lr == 0.3 and together.runs == 10, "0.1 failed once, 0.001 in the median"
    assert [len(a.settings) for a in recommend(frame, settings=["optimizer", "epochs"])] == [2] * 3


def test_a_run_that_was_repeated_is_no_second_seed() -> None:
    once = table(*WHOLE, seed=0)
    again = pd.concat([once, once]).assign(run=range(2 * len(once)))
    one, two = only(once), only(again)
    assert (two.seeds, two.runs, two.lrs, two.not_judged) == (1, 14, 7, 0)
    assert math.isnan(two.noise) and two.as_good == one.as_good
    assert "how sure: one seed" in text([two])
    assert only(again.assign(seed=[0] * 7 + [1] * 7)).seeds == 2
    assert only(again.assign(seed=math.nan)).seeds == 2, "not told: each counts"


def test_what_does_as_well_as_the_best_is_not_called_too_small() -> None:
    near = seeds(0.1, "converged", [0.10, 0.11, 0.12])
    below = seeds(0.05, "undershooting", [0.11, 0.12, 0.13])
    far = seeds(0.01, "undershooting", [1.0, 1.1, 1.2])
    a = only(table(*near, *below, *far))
    assert a.as_good == (0.05, 0.1) and a.too_small == 0.01
    assert only(table(*WHOLE[:2])).too_small == 1e-2, "the best itself, where all are too small"


def test_the_best_and_smaller_ones_can_overshoot_at_the_end() -> None:
    a = only(table(*WHOLE[:2], *((lr, "overshooting", e, 0.5, -1.0) for lr, e in OVERSHOT)))
    assert (a.best_lr, a.too_large, a.too_small) == (0.3, 0.5, 1e-2)
    assert a.best_overshoots and "too large: overshooting from lr 0.5 on\n" in text([a])
    assert "the steps of lr 0.3 are too long to end with: see decay" in text([a])
    largest = only(table(*WHOLE[:2], *((lr, "overshooting", e) for lr, e in OVERSHOT[:2])))
    assert largest.best_overshoots and largest.too_large is None
    assert "too large" not in text([largest]) and "too long to end with\n" in text([largest])
    gap = only(table(*WHOLE[:2], (0.05, "overshooting", 0.2), *WHOLE[2:]))
    assert gap.too_large == 0.5, "one that overshoots below the best is no beginning"


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([(1.0, "collapsed", 2.3), (3.0, "overshooting", 1.0)], "runs fail from lr 1 on"),
        ([(1.0, "overshooting", 1.0)], "overshooting from lr 1 on"),
        (
            [(0.5, "overshooting", 0.5), (1.0, "diverged", math.inf)],
            "overshooting from lr 0.5 on, runs fail from lr 1 on",
        ),
    ],
)
def test_overshooting_is_said_only_where_it_comes_before_failing(runs: Any, words: str) -> None:
    assert f"too large: {words}\n" in text([only(table(*WHOLE[:3], *runs))])


def test_too_large_begins_above_all_that_is_as_good() -> None:
    many = [(lr, "overshooting", 0.070 + 0.001 * i) for i, lr in enumerate((0.1, 0.2, 0.3))]
    a = only(table(*WHOLE[:2], *many, (0.5, "overshooting", 0.2)))
    assert a.as_good == (0.1, 0.3) and a.too_large == 0.5


def test_a_failure_below_what_is_good_is_not_called_too_large() -> None:
    a = only(table(*WHOLE[:3], (0.05, "diverged", math.inf)))
    assert a.best_lr == 0.1 and a.fails_from == 0.05 and "too large:" not in text([a])
    assert "careful: a run failed at lr 0.05, which is not too large" in text([a])
    both = only(table(*WHOLE[:3], (0.05, "diverged", math.inf), (1.0, "diverged", math.inf)))
    assert "too large: overshooting or failing from lr 1 on" in text([both])


def test_where_the_best_overfits_decay_is_not_promised() -> None:
    frame = table(*WHOLE, overfits=True, lowest_loss=0.05)
    a = only(frame)
    assert a.decay_gain == 0.4 and not a.decay_helps and a.overfit_from == 0.05
    assert (
        "overfitting: val loss rose from its lowest, 0.05, to 0.07: stop earlier or regularise"
        in text([a])
    )
    assert "would gain 0.40 in log train loss, but the run overfits" in text([a])
    assert "worth a schedule" not in text([a])
    assert not only(frame.assign(overfits=[True] * 2 + [False] * 5)).overfits


def test_the_verdicts_tell_the_answer_that_a_run_overfits() -> None:
    epochs = np.arange(60)
    train = 2.3 * np.exp(-epochs / 8)
    val = np.where(epochs < 15, train + 0.3, 0.65 + (epochs - 15) * 0.01)
    frame = pd.DataFrame({"run": 0, "lr": 0.1, "epoch": epochs, "train_loss": train})
    a = only(verdicts(frame.assign(val_loss=val, num_classes=10)))
    assert a.overfit_from == pytest.approx(val.min())


def test_a_range_test_is_referred_to_find() -> None:
    a = only(table(*WHOLE, schedule="range_test"))
    assert a.best_lr is None and a.refusal == (
        "schedule=range_test sweeps the lr within a run; see python -m lrlab.find"
    )
    both = pd.concat([table(*WHOLE, schedule="fixed"), table(*WHOLE, schedule="range_test")])
    assert [each.best_lr for each in recommend(both)] == [0.1, None]


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (1, "the steps were too small or too few (1 step);"),
        (25, "the steps were too small or too few (25 steps);"),
        (500, "the steps were too small;"),
    ],
)
def test_runs_of_few_steps_may_have_had_too_few(steps: int, words: str) -> None:
    assert words in text([only(table((1e-5, "undershooting", 2.3), last=steps, unit="step"))])
    by_epoch = table((1e-5, "undershooting", 2.3), last=steps, unit="epoch")
    assert "too few" not in text([only(by_epoch)])


def test_one_loss_is_refused_for_what_it_is() -> None:
    assert "one loss has no direction" in only(table((0.1, "unknown", 2.3))).refusal
    assert only(table((0.1, "unknown", math.nan))).refusal == "no loss was recorded"


OVERSHOT = [(0.1, 0.08), (0.3, 0.07), (0.5, 0.2)]


def test_of_many_combinations_the_best_are_told_and_the_others_counted() -> None:
    parts = [
        table((0.1, "converged", 0.1 + i / 100), **{"optimizer.weight_decay": 0.1234567 / (i + 1)})
        for i in range(30)
    ]
    lines = text(recommend(pd.concat(parts))).splitlines()
    assert lines[0].startswith("answer  optimizer.weight_decay=0.123457 lr=0.1")
    assert sum(line.startswith("answer") for line in lines) == 9
    assert lines[-1].strip() == "and 21 other settings, none of them better"


def test_a_run_that_has_not_begun_makes_no_combination_of_its_own() -> None:
    begun = table(*WHOLE, optimizer="sgd", epochs=3.0, seed=0.0)
    waiting = {"run": 99, "lr": math.nan, "outcome": "unknown", "end_loss": math.nan}
    a = only(pd.concat([begun, pd.DataFrame([waiting])]))
    assert a.settings == {} and a.best_lr == 0.1


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


def test_the_answer_of_real_runs() -> None:
    found = verdicts(pd.read_csv(HERE / "hand_labelled" / "mnist.csv.gz"))
    a = only(found)
    assert (a.best_lr, a.as_good) == (0.1, (0.1, 0.3))
    assert (a.too_small, a.too_large, a.fails_from) == (0.03, 0.5, 0.7)
    assert a.edge == "" and a.decay_helps and a.seeds == 2
    assert 0.003 < a.noise < 0.01
    reached = {each.lr for each in a.to_target if math.isfinite(each.steps)}
    assert reached == {0.03, 0.1, 0.3, 0.5}
    too_large = only(
        verdicts(pd.read_csv(HERE / "hand_labelled" / "mnist.csv.gz").query("lr > 0.9"))
    )
    assert too_large.refusal


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


def test_bad_tables_and_no_runs() -> None:
    with pytest.raises(UserError, match="outcome: no such column"):
        recommend(pd.DataFrame({"run": [0], "lr": [0.1], "end_loss": [1.0]}))
    with pytest.raises(UserError, match="width: no such column"):
        recommend(table(*WHOLE), settings=["width"])
    empty = only(table(*WHOLE).iloc[:0])
    assert empty.refusal and text([empty]).startswith("answer  no lr is recommended")
    assert text([]) == "answer  none: there are no runs"


def test_losses_of_two_kinds_are_not_said_to_compare() -> None:
    told = "        losses of different kinds do not compare, accuracies do"
    two = [table(*WHOLE).assign(run=lambda t, n=n: t["run"] + n) for n in (0, 100)]
    for losses, is_told in ((("nll", "mse_one_hot"), True), (("nll", "nll"), False)):
        both = pd.concat([one.assign(loss=loss) for one, loss in zip(two, losses, strict=True)])
        assert (told in text(recommend(both)).splitlines()) == is_told
