"""A search over several settings as one answer, from tables in which it is known what mattered."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lrlab.records.thresholds import THRESHOLDS as T
from lrlab.verdicts import pooled
from lrlab.verdicts.answer import Answer
from lrlab.verdicts.printed.answer_words import text
from lrlab.verdicts.recommend import recommend

pytestmark = pytest.mark.unit

MOMENTUM, DECAY = "optimizer.momentum", "optimizer.weight_decay"


def rows(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    return frame.to_dict("records")


def searched(n: int = 40, seed: int = 0, best: float = 0.05, **columns: Any) -> pd.DataFrame:
    """A random search: the loss is a parabola in log lr with its lowest at `best`, and no more."""
    rng = np.random.default_rng(seed)
    lr = 10 ** rng.uniform(-4, 0, n)
    frame = pd.DataFrame(
        {
            "run": range(n),
            "lr": lr,
            MOMENTUM: rng.uniform(0, 0.99, n),
            DECAY: 10 ** rng.uniform(-6, -2, n),
            "outcome": "not compared",
            "state": "finished",
            "end_loss": 0.1 + 0.5 * np.log10(lr / best) ** 2,
            "initial_loss": 2.31,
            "chance_loss": 2.3026,
            "last": 900.0,
            "unit": "step",
        }
    )
    return frame.assign(**columns)


def only(frame: pd.DataFrame) -> Answer:
    answers = recommend(frame)
    assert len(answers) == 1
    return answers[0]


# --- what a search is -----------------------------------------------------------------------------


def test_many_combinations_of_one_lr_each_are_a_search() -> None:
    a = only(searched(18))
    assert a.search is not None and (a.search.ended, a.search.tried) == (18, 18)
    best = searched(18).sort_values("end_loss").iloc[0]
    assert a.best_lr == best["lr"] and a.best_run == best["run"]
    assert a.settings == {MOMENTUM: best[MOMENTUM], DECAY: best[DECAY]}
    assert a.best_loss == best["end_loss"]
    said = text([a])
    assert said.count("answer  ") == 1 and "only lr tried" not in said
    assert "search: the best of 18 configurations trained to their end\n" in said


def test_a_grid_is_no_search() -> None:
    grid = pd.DataFrame(
        [{"lr": lr, "batch_size": b} for lr in (0.01, 0.1, 1.0) for b in (32, 64, 128)]
    )
    assert not pooled.is_search([rows(part) for _, part in grid.groupby("batch_size")])
    seeds = [[{"lr": 0.1, "seed": s} for s in range(5)]]
    assert not pooled.is_search(seeds)
    one_lr = [[{"lr": 0.1, "optimizer": name}] for name in "abcd"]
    assert not pooled.is_search(one_lr), "four optimizers at one lr, with nothing said of the lr"
    two = [[{"lr": 0.1}], [{"lr": 0.2}]]
    assert not pooled.is_search(two)


def test_losses_of_two_kinds_are_no_search() -> None:
    groups = [[{"lr": 0.1 * i, "loss": "nll" if i % 2 else "mse_one_hot"}] for i in range(1, 9)]
    assert not pooled.is_search(groups)


# --- runs of one configuration --------------------------------------------------------------------


def test_runs_that_differ_in_their_seed_are_one_configuration() -> None:
    frame = searched(3)
    again = pd.concat(
        [frame, frame.assign(end_loss=lambda t: t["end_loss"] + 0.2, run=lambda t: t["run"] + 3)]
    )
    found = pooled.configurations(rows(again), [MOMENTUM, DECAY])
    assert [list(each.runs) for each in found] == [[0, 3], [1, 4], [2, 5]]
    assert found[0].end == pytest.approx(frame["end_loss"][0] + 0.1)
    failed = again.assign(outcome=["diverged"] + ["not compared"] * 5)
    first = pooled.configurations(rows(failed), [MOMENTUM, DECAY])[0]
    assert first.failed == 0.5 and math.isinf(first.end)


def test_a_configuration_that_fails_less_often_is_better() -> None:
    frame = searched(12, seed=3)
    best = int(frame["end_loss"].argmin())
    twin = frame.iloc[[best, best]].assign(run=[100, 101], outcome=["diverged", "not compared"])
    a = only(pd.concat([frame, twin]))
    assert a.best_lr != frame["lr"][best], "one of its three seeds diverged"
    assert a.fails_from == frame["lr"][best]
    assert f"failures: no run failed below lr {a.fails_from:g}" in text([a])


# --- the loss by lr -------------------------------------------------------------------------------


def of_lrs(ends: dict[float, float]) -> pooled.Search:
    frame = pd.DataFrame({"lr": ends.keys(), "end_loss": ends.values()})
    frame = frame.assign(run=range(len(frame)), outcome="not compared", a=range(len(frame)))
    configurations = pooled.configurations(rows(frame), ["a"])
    return pooled.search(configurations, rows(frame), ["a"], T)


def test_bins_are_a_factor_of_two_wide_around_the_best_and_hold_the_lowest() -> None:
    found = of_lrs({0.1: 0.5, 0.13: 0.9, 0.2: 0.7, 0.21: 0.6, 0.05: 0.8, 1.6: 3.0})
    bins = [(b.low, b.high, b.end, b.count) for b in found.bins]
    side = 0.1 / math.sqrt(2)
    assert bins == [
        (pytest.approx(side / 2), pytest.approx(side), 0.8, 1),
        (pytest.approx(side), pytest.approx(side * 2), 0.5, 2),
        (pytest.approx(side * 2), pytest.approx(side * 4), 0.6, 2),
        (pytest.approx(side * 16), pytest.approx(side * 32), 3.0, 1),
    ]
    assert sum(b.count for b in found.bins) == found.ended == 6


def test_good_are_the_lrs_that_came_as_low_in_ranges_next_to_one_another() -> None:
    found = of_lrs({0.025: 0.51, 0.05: 0.52, 0.1: 0.5, 0.11: 0.9, 0.2: 0.53, 0.4: 0.51})
    assert found.good == (0.025, 0.1), "0.53 is 6% above, so 0.4 is beyond a worse range"
    alone = of_lrs({0.01: 0.9, 0.1: 0.5, 1.0: 0.9})
    assert alone.good == (0.1, 0.1)


def test_how_well_the_range_around_the_best_is_covered() -> None:
    few = of_lrs({0.001: 2.0, 0.06: 0.7, 0.1: 0.5, 0.3: 0.9, 10.0: 3.0})
    assert few.near == 2 and few.try_next == (0.05, 0.2)
    many = of_lrs({0.001: 2.0, **{0.1 + 0.01 * i: 0.5 + i / 10 for i in range(6)}, 10.0: 3.0})
    assert many.near == 6 and many.try_next is None


def test_coverage_and_what_to_try_are_said() -> None:
    a = only(searched(18))
    assert a.search is not None
    near = [lr for lr in searched(18)["lr"] if 0.5 <= lr / a.best_lr <= 2]  # type: ignore[operator]
    count = f"{len(near)} configurations" if len(near) > 1 else "1 configuration"
    low, high = a.best_lr / 2, a.best_lr * 2  # type: ignore[operator]
    assert (
        f"coverage: {count} within a factor of 2 of lr {a.best_lr:g}; "
        f"try lr={low:.3g}..{high:.3g} next, and keep the other settings" in text([a])
    )
    dense = only(searched(400))
    assert dense.search is not None and dense.search.near > 6 and dense.try_next is None
    assert f"coverage: {dense.search.near} configurations within" in text([dense])


# --- the edge -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("best", "edge"), [(1e-5, "low"), (0.05, ""), (30.0, "high"), (1e-2, ""), (1e-3, "")]
)
def test_a_search_has_an_edge_only_at_the_ends_of_its_interval(best: float, edge: str) -> None:
    for seed in range(3):
        a = only(searched(60, seed=seed, best=best))
        assert a.edge == edge and ("edge:" in text([a])) == bool(edge)
        if edge:
            assert a.try_next is not None and a.best_lr is not None
            assert a.try_next[0] < a.best_lr < a.try_next[1], "it overlaps the tried ones"
            beyond = a.try_next[0] < 1e-4 if edge == "low" else a.try_next[1] > 1
            assert beyond


def test_a_pruned_run_is_within_what_was_tried() -> None:
    frame = searched(40, best=30.0)
    top = frame["lr"].nlargest(20).index
    frame.loc[top, ["state", "outcome"]] = "pruned"
    a = only(frame)
    assert a.edge == "" and a.not_judged == 20
    assert "trained to their end; 40 were tried" in text([a])


# --- what mattered --------------------------------------------------------------------------------


def test_the_only_setting_that_matters_has_nearly_all_importance() -> None:
    frame = searched(200)
    found = pooled.importances(rows(frame), [MOMENTUM, DECAY])
    assert next(iter(found)) == "lr" and found["lr"] > 0.8
    assert sum(found.values()) == pytest.approx(1)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    by_momentum = frame.assign(end_loss=(frame[MOMENTUM] - 0.9) ** 2 + 0.1)
    found = pooled.importances(rows(by_momentum), [MOMENTUM, DECAY])
    assert next(iter(found)) == MOMENTUM and found[MOMENTUM] > 0.8


def test_a_choice_that_matters_is_found_among_numbers() -> None:
    frame = searched(200)
    name = np.where(np.arange(200) % 4 == 0, "adam", "sgd")
    rng = np.random.default_rng(1)
    ends = np.where(name == "adam", 0.1, 1.0) + 0.01 * rng.random(200)
    frame = frame.assign(optimizer=name, end_loss=ends)
    found = pooled.importances(rows(frame), ["optimizer", MOMENTUM])
    assert next(iter(found)) == "optimizer" and found["optimizer"] > 0.8


def test_of_few_runs_it_is_not_said_what_mattered() -> None:
    assert pooled.importances(rows(searched(pooled.FEWEST - 1)), [MOMENTUM]) == {}
    assert "what mattered: too few runs to say" in text([only(searched(pooled.FEWEST - 1))])
    assert "what mattered (PED-ANOVA): lr " in text([only(searched(60))])


def test_pruned_and_failed_runs_count_as_worse_than_all_that_ended() -> None:
    """lr decides who fails and who is pruned, though their last losses are the lowest."""
    frame = searched(200, end_loss=0.5)
    rng = np.random.default_rng(2)
    frame["end_loss"] = 0.5 + 0.01 * rng.random(200)
    large, small = frame["lr"] > 0.1, frame["lr"] < 1e-3
    frame.loc[large, ["outcome", "state"]] = "diverged"
    frame.loc[small, ["outcome", "state"]] = "pruned"
    frame.loc[small | large, "end_loss"] = 1e-3
    found = pooled.importances(rows(frame), [MOMENTUM, DECAY])
    assert next(iter(found)) == "lr" and found["lr"] > 0.6
    middle = frame.loc[~(small | large), "lr"]
    a = only(frame)
    assert a.best_lr is not None and middle.min() <= a.best_lr <= middle.max()


def test_optunas_own_words_stay_as_they_were() -> None:
    import optuna

    before = optuna.logging.get_verbosity()
    pooled.importances(rows(searched(20)), [MOMENTUM])
    assert optuna.logging.get_verbosity() == before


# --- where none is recommended --------------------------------------------------------------------


def test_a_search_that_learned_nothing_or_failed_recommends_nothing() -> None:
    flat = searched(12, outcome="nothing learned", end_loss=2.31)
    a = only(flat)
    assert a.best_lr is None
    assert "nothing was learned, because no run is better than guessing" in a.refusal
    failed = only(searched(12, outcome="diverged", end_loss=math.inf))
    assert failed.best_lr is None
    assert failed.refusal.startswith("every run diverged or collapsed (lr ")
    waiting = only(searched(12, state="running"))
    assert waiting.refusal == "no run has been trained to its end"
