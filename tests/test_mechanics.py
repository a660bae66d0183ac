"""What a run tells by itself: step modes by the roots of the recurrence, and its end in words."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lrlab.records.thresholds import THRESHOLDS as T
from lrlab.verdicts import mechanics
from lrlab.verdicts.evidence import Numbers, measure

pytestmark = pytest.mark.unit


def numbers(**changed: Any) -> Numbers:
    """Of a run that fell, without noise, to a plateau; and what is changed of it."""
    step = np.arange(201)
    loss = 0.5 + 1.8 * 0.9 ** np.arange(201)
    frame = pd.DataFrame({"run": 0, "lr": 0.1, "step": step, "train_loss": loss})
    (n,) = measure(frame.assign(optimizer="sgd"), [])
    return dataclasses.replace(n, **{"measured": 9, "ratios": 9, **changed})


def measured(ratio: float, **columns: Any) -> Numbers:
    """Of a run with a constant stability ratio, read off a table."""
    step = np.arange(60)
    noisy = 1 + 0.3 * np.random.default_rng(0).random(60)
    frame = pd.DataFrame({"run": 0, "lr": 0.1, "step": step, "train_loss": noisy})
    (n,) = measure(frame.assign(stability_ratio=ratio, **columns), [])
    return n


# --- step modes by roots --------------------------------------------------------------------------


def by_roots(roots: np.ndarray) -> str:
    """How a sequence behaves that a linear recurrence with these roots makes."""
    if np.abs(roots).max() > 1:
        return "unstable"
    is_monotone = bool(np.all(np.abs(roots.imag) < 1e-12) and np.all(roots.real >= 0))
    return "monotone" if is_monotone else "oscillating"


@pytest.mark.full(after=3)
@pytest.mark.parametrize(
    ("beta", "is_nesterov"),  # torch has no Nesterov without momentum
    [(0.0, False), *((beta, flag) for beta in (0.3, 0.9, 0.99) for flag in (False, True))],
)
def test_step_modes_are_those_of_the_roots_of_the_recurrence(
    beta: float, is_nesterov: bool
) -> None:
    """x' = x − lr·v with v' = β·v + λ·x (torch's SGD), h = lr·λ, for many h.

    Heavy ball: r² − (1 + β − h)·r + β. Nesterov: r² − (1 + β)(1 − h)·r + β·(1 − h). Both leave the
    unit circle where the ratio is 1: at h = 2(1 + β), and at h = 2(1 + β)/(1 + 2β).
    """
    limit = 2 * (1 + beta) / ((1 + 2 * beta) if is_nesterov else 1)
    seen = set()
    for h in np.geomspace(1e-7, 1.5, 80) * limit:
        ratio = h / limit
        if T.edge <= ratio <= T.unstable:
            continue  # a band of its own around 1
        if is_nesterov:
            polynomial = [1, -(1 + beta) * (1 - h), beta * (1 - h)]
        else:
            polynomial = [1, -(1 + beta - h), beta]
        truth = by_roots(np.roots(polynomial))
        told = {"optimizer.momentum": beta, "optimizer.nesterov": is_nesterov, "optimizer": "sgd"}
        mode, how = mechanics.step_mode(measured(ratio, **told), False, False, T)
        assert mode == truth, (beta, h)
        assert how.startswith("steps: median stability ratio ")
        seen.add(mode)
    assert seen == {"monotone", "oscillating", "unstable"}


def test_around_the_border_of_stability_steps_are_at_the_edge() -> None:
    for ratio, mode in ((0.89, "oscillating"), (0.91, "edge"), (1.09, "edge"), (1.11, "unstable")):
        assert mechanics.step_mode(measured(ratio), False, False, T)[0] == mode


def test_the_ratio_counts_before_alpha_which_alone_shows_a_crossing_only() -> None:
    """Across a ravine alpha stays small. On one mini-batch it is noisy, the ratio is not."""
    n = numbers(stability_ratio=0.2, alpha=0.3, swings_from=0.5)
    assert mechanics.step_mode(n, False, False, T)[0] == "monotone"
    assert mechanics.step_mode(numbers(alpha=0.3), False, False, T)[0] == "oscillating"
    assert mechanics.step_mode(numbers(alpha=-0.3), False, False, T)[0] == "unknown"
    n = numbers(stability_ratio=0.7, alpha=-0.9, swings_from=0.5)
    assert mechanics.step_mode(n, False, False, T)[0] == "oscillating"
    n = numbers(stability_ratio=0.2, alpha=-0.7, swings_from=0.5)
    assert mechanics.step_mode(n, False, False, T)[0] == "monotone"


def test_a_run_that_failed_is_judged_by_its_largest_ratio() -> None:
    n = numbers(stability_ratio=0.0, stability_ratio_max=3.0, alpha=-1.0)
    mode, how = mechanics.step_mode(n, True, False, T)
    assert mode == "unstable" and "largest stability ratio 3.00" in how


# --- steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "alpha", "word"),
    [
        (0.02, -0.98, "far too short"),
        (0.02, math.nan, "far too short"),
        (math.nan, -0.98, ""),  # alpha misses a ravine
        (math.nan, -0.5, "about right"),
        (math.nan, 1.5, "unstable"),
        (0.5, -0.98, "about right"),  # ten times as long would be unstable
        (0.02, -0.5, "about right"),  # half the way to the minimum along the step
        (0.4, -0.1, "about right"),
        (1.05, 0.0, "about right"),  # where full-batch training settles
        (1.2, 0.0, "unstable"),
        (0.5, 1.5, "unstable"),  # lr·λ = 2.5 along the step
        (math.nan, math.nan, ""),
    ],
)
def test_steps_of_plain_sgd_in_a_word(ratio: float, alpha: float, word: str) -> None:
    n = numbers(stability_ratio=ratio, alpha=alpha, swings_from=0.5)
    assert mechanics.steps(n, T) == word


def test_with_momentum_a_small_ratio_alone_does_not_tell_that_steps_are_short() -> None:
    n = numbers(stability_ratio=0.02, alpha=math.nan, swings_from=0.001)
    assert mechanics.steps(n, T) == ""
    assert mechanics.steps(dataclasses.replace(n, alpha=-0.95), T) == "far too short"


def ravine(lr: float, steps: int) -> Numbers:
    """Of gradient descent on ½·(w₁² + w₂²/1000), alpha as measured: exact on a quadratic."""
    curvature, w, rows = np.array([1.0, 1e-3]), np.array([1.0, 1.0]), []
    for step in range(steps):
        update = -lr * curvature * w
        there = -(curvature * w) @ update / (update @ (curvature * update))
        loss = float(w @ (curvature * w) / 2)
        rows.append({"run": 0, "lr": lr, "step": step, "train_loss": loss, "alpha": 1 / there - 1})
        w = w + update
    (n,) = measure(pd.DataFrame(rows).assign(optimizer="sgd"), [])
    return n


def test_alpha_alone_does_not_call_the_steps_of_a_ravine_far_too_short() -> None:
    """At lr 1.4 of a border of 2 they have come down its walls; ten times as long they explode."""
    bounced, exploded = ravine(1.4, 200), ravine(14.0, 50)
    assert bounced.train_end_loss < 0.001 * bounced.initial_loss and bounced.alpha < -0.99
    assert exploded.train_end_loss > 1e9 * exploded.initial_loss
    assert mechanics.steps(bounced, T) == ""
    known = dataclasses.replace(bounced, stability_ratio=0.7, ratios=200)
    assert mechanics.steps(known, T) == "about right"


@pytest.mark.parametrize("count", [1, 2])
def test_few_measured_steps_do_not_say_how_long_the_steps_were(count: int) -> None:
    where = {1: "at the one step measured", 2: "of 2 steps"}[count]
    for alpha in (-0.99, -0.5, 0.4, 1.5):
        n = numbers(alpha=alpha, swings_from=0.5, measured=count, ratios=0)
        assert mechanics.steps(n, T) == ""
        mode, how = mechanics.step_mode(n, False, False, T)
        assert mode == "unknown" and how.endswith(f"alpha {alpha:.2f} {where}")
    # the ratio is known late in a short run: it counts, but a single one calls no run unstable
    n = numbers(stability_ratio=1.2, alpha=0.0, swings_from=0.5, ratios=count)
    assert mechanics.steps(n, T) == "" and mechanics.steps(n, T, failed=True) == "unstable"
    assert (
        f"{'median ' * (count > 1)}stability ratio 1.20 {where}, median alpha 0.00"
        in (mechanics.step_mode(n, False, False, T)[1])
    )
    n = numbers(stability_ratio=0.02, alpha=-0.98, swings_from=0.5, ratios=count)
    assert mechanics.steps(n, T) == "far too short"


# --- at the end -----------------------------------------------------------------------------------


FLAT = {"slope": 0.0, "slope_noise": 0.01}


@pytest.mark.parametrize(
    ("changed", "word", "told"),
    [
        ({**FLAT}, "settled", "slope 0.00"),
        ({"slope": -0.5, "slope_noise": 0.01}, "still falling", "slope -0.50"),
        ({"slope": -0.5, "slope_noise": 0.3}, "too noisy to tell", "slope -0.50 ± 0.60"),
        ({"slope": -0.1, "slope_noise": 0.01}, "settled", "slope -0.10"),
        # log(1.5) = 0.405: a loss smaller by a third
        ({**FLAT, "gain_low": math.log(1.5)}, "would anneal", "cut the train loss by 33%"),
        ({**FLAT, "gain_low": math.inf}, "would anneal", "by 100%"),
        (
            {**FLAT, "gain_low": 0.1, "gain_noise": 0.06},
            "too noisy to tell",
            "lr/10 gains 0.10 ± 0.12",
        ),
        ({**FLAT, "gain_low": 0.1, "gain_noise": 0.04}, "would anneal", "by 10%"),
        ({**FLAT, "gain_low": 0.04, "gain_noise": 0.001}, "settled", "slope 0.00"),
        ({**FLAT, "gain_low": -0.3}, "settled", "slope 0.00"),
        ({"slope": -0.5, "slope_noise": 0.0, "annealed": True}, "settled", "ended below 10%"),
        (
            {"slope": math.nan, "gain_low": -0.1, "gain_high": 0.3},
            "still falling",
            "lr/10 gains -0.10, 3·lr gains 0.30",
        ),
        (
            {"slope": math.nan, "gain_low": 0.0, "gain_high": -math.inf},
            "settled",
            "lr/10 gains 0.00, 3·lr explodes",
        ),
        ({"slope": math.nan}, "", ""),
    ],
)
def test_how_a_run_stood_at_its_end(changed: dict[str, Any], word: str, told: str) -> None:
    found, why = mechanics.at_end(numbers(**changed), T)
    assert found == word and told in why


def test_of_a_run_that_overfits_branches_of_the_train_loss_say_nothing() -> None:
    n = numbers(
        overfits=True, gain_low=0.9, gain_high=0.1, lowest_loss=0.25, lowest_at=40, lowest_epoch=2.0
    )
    assert mechanics.at_end(n, T) == ("overfitting", "val loss was lowest after epoch 2, at 0.25")
    by_step = dataclasses.replace(n, lowest_epoch=math.nan)
    assert mechanics.at_end(by_step, T)[1] == "val loss was lowest at step 40, at 0.25"
