"""Oracles: curves whose steepest point, valley and minimum are known; a quadratic's divergence."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrlab.errors import UserError
from lrlab.range_test.constants import read_constants
from lrlab.range_test.files import rows
from lrlab.range_test.misleading import sweep_range, where_the_ramp_misleads
from lrlab.range_test.ramp import LEAST_POINTS, read_ramp
from lrlab.range_test.rates import lr_grid, plain

pytestmark = pytest.mark.unit

LOW, HIGH, POINTS = 1e-5, 10.0, 300
GRID = lr_grid(LOW, HIGH, POINTS)
log_lr = np.log10(GRID)
STEP = math.log10(GRID[1] / GRID[0])  # of the grid, in decades


def lrs(ramp):
    return {each.rule: each.lr for each in ramp.suggestions}


def reasons(ramp):
    return {each.why_not for each in ramp.suggestions}


def decades(one, other):
    return abs(math.log10(one / other))


def bowl(noise=0.0, seed=0):
    """Falls from 2.3 by 2, steepest at 1e-2; from 0.5 on it blows up."""
    loss = 2.3 - 1 - np.tanh((log_lr + 2) * 1.5)
    loss = loss + np.where(log_lr > math.log10(0.5), (log_lr - math.log10(0.5)) * 30, 0)
    return loss + noise * np.random.default_rng(seed).standard_normal(POINTS)


# --- the ramp -------------------------------------------------------------------------------------


@pytest.mark.parametrize("centre", [-4.0, -3.0, -2.0, -1.3])
def test_steepest_is_the_inflection_in_log_lr_and_not_in_lr(centre):
    loss = -np.tanh((log_lr - centre) * 3)
    loss[log_lr > 0] = np.nan
    ramp = read_ramp(GRID, loss)
    assert decades(lrs(ramp)["steepest"], 10**centre) < 1.01 * STEP
    # the slope in lr itself is steepest at one decade's fraction below, the usual mistake
    by_lr = GRID[np.nanargmin(np.gradient(loss, GRID))]
    assert decades(by_lr, 10**centre) > 3 * STEP


def test_the_valley_is_two_thirds_through_the_fall():
    first, last = -3.0, -1.0
    loss = 2 - np.clip((log_lr - first) / (last - first), 0, 1) + np.clip(log_lr - last, 0, None)
    ramp = read_ramp(GRID, loss, smoothing=0)
    expected = first + (0.05 + 2 / 3 * 0.9) * (last - first)
    assert decades(lrs(ramp)["valley"], 10**expected) < 2 * STEP
    assert decades(lrs(ramp)["minimum/10"], 10 ** (last - 1)) < 2 * STEP
    assert decades(ramp.minimum, 10**last) < 2 * STEP
    # it has lost half of its fall of 1 again half a decade behind
    assert decades(ramp.blow_up, 10 ** (last + 0.5)) < 3 * STEP


def test_smoothing_does_not_lag():
    """A running average would move all to larger lrs; straight lines in log lr move nothing."""
    loss = -np.tanh((log_lr + 2) * 3)
    loss[log_lr > 0] = np.inf
    steepest = [
        lrs(read_ramp(GRID, loss, smoothing=share))["steepest"] for share in (0, 0.02, 0.05)
    ]
    assert all(decades(lr, 1e-2) < 1.01 * STEP for lr in steepest)
    line = 3 - 0.5 * log_lr
    np.testing.assert_allclose(read_ramp(GRID, line, smoothing=0.1).smooth, line, rtol=1e-12)


def test_noise_moves_the_suggestions_little():
    clean = lrs(read_ramp(GRID, bowl()))
    for seed in range(20):
        noisy = lrs(read_ramp(GRID, bowl(noise=0.1, seed=seed)))
        for rule, lr in clean.items():
            assert decades(noisy[rule], lr) < 0.5, (seed, rule)


def test_the_edge_before_a_nan_is_never_suggested():
    grid = np.logspace(-4, 0, 7)
    ramp = read_ramp(grid, [0.90, 0.89, 0.87, 0.86, 0.85, 0.84, math.nan])
    found = lrs(ramp)
    assert found["steepest"] in grid[1:4]  # 0.90 to 0.86, where it falls most
    assert all(lr is None or grid[0] < lr < grid[5] for lr in found.values())
    assert ramp.blow_up == grid[6]


@pytest.mark.parametrize("tail", [math.nan, math.inf, -math.inf])
def test_what_comes_behind_the_first_loss_that_is_not_finite_does_not_count(tail):
    loss = bowl(0.05)
    expected = loss.copy()
    expected[200:] = math.nan
    loss[200] = tail
    loss[201:] = -100.0  # deeper than anything before
    assert lrs(read_ramp(GRID, loss)) == lrs(read_ramp(GRID, expected))
    assert read_ramp(GRID, loss).blow_up == GRID[200]


@pytest.mark.parametrize("height", [20.0, 1e6, 1e30, 1e300])
def test_what_comes_behind_an_explosion_does_not_count(height):
    loss = bowl(0.02)
    loss[230:250] = height
    loss[250:] = -100.0
    found = lrs(read_ramp(GRID, loss))
    assert decades(found["steepest"], 1e-2) < 0.2
    assert all(lr < GRID[230] for lr in found.values())


def test_a_single_outlier_is_no_explosion():
    loss = bowl(0.02)
    loss[60] = 50.0
    assert decades(lrs(read_ramp(GRID, loss))["steepest"], 1e-2) < 0.2


def test_a_loss_that_still_falls_at_the_end_has_no_minimum():
    ramp = read_ramp(GRID, 2.3 - 0.1 * (log_lr + 5))
    assert ramp.minimum is None and ramp.blow_up is None
    assert lrs(ramp)["minimum/10"] is None and lrs(ramp)["valley"] is None
    assert any("still falls at lr 10" in why for why in reasons(ramp))
    faster = read_ramp(GRID, 2.3 - np.exp(log_lr))
    assert set(lrs(faster).values()) == {None}
    assert any("falls ever faster" in why for why in reasons(faster))


@pytest.mark.parametrize("noise", [0.0, 1e-9, 0.03, 0.3])
@pytest.mark.parametrize("level", [2.3, 0.0, -40.0])
def test_a_flat_curve_suggests_nothing_and_says_why(level, noise):
    for seed in range(30):
        draw = np.random.default_rng(seed)
        ramp = read_ramp(GRID, level + noise * draw.standard_normal(POINTS))
        assert set(lrs(ramp).values()) == {None}
        assert len(reasons(ramp)) == 1 and "the loss does not fall" in reasons(ramp).pop()


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("power", [0.2, 1.0, 5.0])
def test_a_curve_that_only_rises_suggests_nothing(power, noise):
    draw = np.random.default_rng(0)
    ramp = read_ramp(GRID, 2.3 + (log_lr + 5) ** power + noise * draw.standard_normal(POINTS))
    assert set(lrs(ramp).values()) == {None}
    assert any("rises" in why for why in reasons(ramp))


@pytest.mark.parametrize("count", range(LEAST_POINTS))
def test_too_few_points_are_said(count):
    ramp = read_ramp(GRID[: count + 2], [*np.linspace(2, 1, count), math.nan, 1.0])
    assert set(lrs(ramp).values()) == {None}
    assert reasons(ramp) == {f"only {count} losses before one is not finite, at least 6 are needed"}
    assert (
        read_ramp(GRID[:count], np.linspace(2, 1, count))
        .suggestions[0]
        .why_not.startswith(f"only {count} losses,")
    )


def test_a_tenth_below_the_range_is_not_suggested():
    grid = lr_grid(0.1, 10, 100)
    loss = 1 + np.abs(np.log10(grid) + 0.5)  # minimum at 0.32
    found = read_ramp(grid, loss)
    assert lrs(found)["minimum/10"] is None
    assert "below the range" in found.suggestions[2].why_not


@pytest.mark.parametrize(
    ("lr", "loss", "smoothing", "message"),
    [
        ([1, 2, 3], [1, 2], 0.03, "need one loss for each"),
        ([1, 3, 2], [1, 2, 3], 0.03, "lr: must rise"),
        ([0, 1, 2], [1, 2, 3], 0.03, "lr: must rise"),
        ([1, 2, math.inf], [1, 2, 3], 0.03, "lr: must rise"),
        ([1, 2, 3], [1, 2, 3], 0.6, "smoothing=0.6: must be from 0 to 0.5"),
        ([1, 2, 3], [1, 2, 3], math.nan, "smoothing=nan"),
    ],
)
def test_input_that_cannot_work(lr, loss, smoothing, message):
    with pytest.raises(UserError, match=message):
        read_ramp(lr, loss, smoothing)


def test_a_very_long_ramp_is_read_alike():
    grid = lr_grid(LOW, HIGH, 50_000)
    loss = -np.tanh((np.log10(grid) + 2) * 1.5)
    loss[grid > 1] = np.nan
    assert decades(lrs(read_ramp(grid, loss))["steepest"], 1e-2) < 2 * STEP


numbers = st.floats(-1e3, 1e3, width=32)
anything = st.one_of(numbers, st.sampled_from([math.nan, math.inf, -math.inf, 1e38, -1e308, 0.0]))


@pytest.mark.default
@settings(max_examples=300, deadline=None)
@given(st.lists(anything, max_size=80), st.sampled_from([0.0, 0.03, 0.2, 0.5]))
def test_whatever_the_losses_are_the_edge_is_never_suggested(losses, smoothing):
    grid = np.logspace(-4, 1, len(losses))
    ramp = read_ramp(grid, losses, smoothing)
    finite = np.append(np.isfinite(losses), False)
    last = int(np.argmin(finite)) - 1
    for suggestion in ramp.suggestions:
        assert (suggestion.lr is None) == bool(suggestion.why_not)
        if suggestion.lr is not None:
            assert grid[0] < suggestion.lr < grid[last]
    assert len(ramp.smooth) <= last + 1 and np.isfinite(ramp.smooth).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-1000, 1000), st.floats(1e-3, 1e3))
def test_units_do_not_matter(seed, scale, shift, factor):
    """Loss in other units, from another zero, below 0; and lr in other units."""
    loss = bowl(0.05, seed)
    found, other = lrs(read_ramp(GRID, loss)), lrs(read_ramp(factor * GRID, scale * loss + shift))
    for rule, lr in found.items():
        assert other[rule] == pytest.approx(factor * lr, rel=1e-9), rule


# --- constant lrs ---------------------------------------------------------------------------------

LAMBDA = 4.0


def quadratic(grid, steps=300, noise=0.0):
    """½·λ·w² from w = 1: each step multiplies the loss by (1 − lr·λ)²; noise common to all."""
    with np.errstate(over="ignore"):
        table = 0.5 * LAMBDA * ((1 - grid * LAMBDA) ** 2) ** np.arange(steps)[:, None]
    common = noise * np.random.default_rng(0).standard_normal((steps, 1))
    return table + common


@pytest.mark.parametrize("points", [8, 32, 128])
def test_a_quadratic_fails_from_two_over_its_curvature(points):
    grid = lr_grid(1e-4, 100, points)
    found = read_constants(grid, quadratic(grid))
    assert found.fails_from == grid[grid > 2 / LAMBDA][0]
    assert found.start == 0.5 * LAMBDA
    low, high = found.as_good
    assert low <= 1 / LAMBDA < 2 / LAMBDA and low <= found.best <= high < found.fails_from
    assert found.edge == ""


def test_noise_that_all_lrs_share_hides_no_difference():
    grid = lr_grid(1e-4, 1e-2, 16)  # all too small: the largest is the best by far
    found = read_constants(grid, quadratic(grid, steps=30, noise=0.3))
    assert found.best == grid[-1] and found.as_good == (grid[-1], grid[-1])
    assert found.edge == "high"


def test_an_lr_that_differs_by_noise_only_does_as_well():
    draw = np.random.default_rng(0)
    grid = lr_grid(0.01, 1, 5)
    table = np.linspace(2, 1, 100)[:, None] + np.array([0.4, 0, 0, 0, 0.4])
    table = np.where(np.arange(100)[:, None] < 10, 2.5, table)
    found = read_constants(grid, table + 0.1 * draw.standard_normal((100, 5)))
    assert found.as_good == (grid[1], grid[3]) and found.best in grid[1:4]


def test_a_loss_that_became_non_finite_has_no_end_though_it_came_back():
    grid = lr_grid(0.01, 1, 3)
    table = np.linspace([2, 2, 2], [1.5, 1, 0.5], 100)
    table[3, 2] = math.nan
    found = read_constants(grid, table)
    assert found.end[2] == math.inf and found.best == grid[1]
    assert found.fails_from == grid[2]


def test_an_lr_that_ends_where_it_began_has_failed_also_below_zero():
    grid = lr_grid(0.01, 1, 3)
    table = np.linspace([2.0, 2.0, 2.0], [1.0, 0.5, 1.99], 100) - 50
    assert read_constants(grid, table).fails_from == grid[2]


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (np.full((20, 3), math.nan), "the loss becomes non-finite at every lr; begin below 0.01"),
        (np.full((20, 3), 2.3), "no lr brought the loss below its start, 2.3"),
        (np.linspace([2.0] * 3, [3.0] * 3, 20), "no lr brought the loss below its start, 2,"),
    ],
)
def test_where_nothing_was_learned_there_is_no_best(table, why):
    found = read_constants(lr_grid(0.01, 1, 3), table)
    assert found.best is None and found.as_good is None
    assert found.why_none.startswith(why)
    assert sweep_range(found) is None
    ramp = read_ramp(GRID, bowl())
    (said,) = where_the_ramp_misleads(ramp, found)
    assert said.endswith(": no constant lr learned anything, so the ramp says nothing")
    assert all(f"{each.rule}, lr " in said for each in ramp.suggestions)
    assert where_the_ramp_misleads(replace(ramp, suggestions=()), found) == []


def test_noise_alone_is_no_learning():
    """Also where the first mini-batch, which is the start, has a high loss by chance."""
    grid = lr_grid(0.01, 1, 8)
    for seed in range(100):
        draw = np.random.default_rng(seed)
        table = 2.3 + 0.2 * draw.standard_normal((300, 1)).repeat(8, axis=1)
        table += 1e-4 * draw.standard_normal((300, 8))
        assert read_constants(grid, table).best is None
        learned = table - 1.5 * (1 - np.exp(-np.arange(300)[:, None] / 30))
        assert read_constants(grid, learned).edge == "low"


@pytest.mark.parametrize("shape", [(3,), (10, 4), (0, 3)])
def test_shapes_that_do_not_fit(shape):
    with pytest.raises(UserError, match="lr, losses: shapes"):
        read_constants(lr_grid(0.01, 1, 3), np.zeros(shape))


def test_the_loss_between_two_lrs_is_on_the_line_and_next_to_a_failure_the_nearest() -> None:
    ends = [[9.0, 9.0, 9.0, 9.0], [1.0, 2.0, 8.0, 50.0]]
    found = read_constants([0.01, 1.0, 100.0, 1e4], ends)
    assert found.loss_at(0.1) == pytest.approx(1.5)
    assert found.loss_at(1.0) == 2 and found.loss_at(1e4) == 50
    assert found.loss_at(900) == 8 and found.loss_at(1100) == 50
    assert math.isnan(found.loss_at(1e-3)) and math.isnan(found.loss_at(1e5))
    lost = read_constants([0.01, 1.0, 100.0], [[9, 9, 9], [3, 2, math.nan]])
    assert lost.loss_at(9) == 2 and lost.loss_at(11) == math.inf


# --- both -----------------------------------------------------------------------------------------


def quadratic_ramp(grid):
    """The same quadratic while lr rises."""
    w, losses = 1.0, []
    for lr in grid:
        losses.append(0.5 * LAMBDA * w * w)
        w *= 1 - lr * LAMBDA
    return np.array(losses) + 0.5  # a loss that cannot be won, so that there is something to lose


def test_the_ramps_blow_up_lags_behind_the_truth():
    grid = lr_grid(1e-3, 100, 150)
    ramp, constants = read_ramp(grid, quadratic_ramp(grid)), None
    assert ramp.blow_up > 1.5 * 2 / LAMBDA  # the truth is 2/λ
    lanes = lr_grid(1e-3, 100, 32)
    constants = read_constants(lanes, quadratic(lanes) + 0.5)
    told = where_the_ramp_misleads(ramp, constants)
    assert any("blows up" in line and "a blow-up takes some steps" in line for line in told)


def test_a_suggestion_that_does_as_well_does_not_mislead():
    grid = lr_grid(1e-3, 1, 7)
    losses = np.linspace([2.3] * 7, [2.2, 2.0, 1.0, 0.3, 0.3, 2.3, 9.0], 100)
    constants = read_constants(grid, losses)
    good = read_ramp(grid_at(0.05), shape_at(0.05))
    assert not any(line.startswith("steepest") for line in where_the_ramp_misleads(good, constants))
    low = read_ramp(grid_at(0.004), shape_at(0.004))
    assert any(
        line.startswith("steepest") and "times smaller than the best constant lr" in line
        for line in where_the_ramp_misleads(low, constants)
    )


def grid_at(centre):
    return lr_grid(centre / 300, centre * 100, 200)


def shape_at(centre):
    x = np.log10(grid_at(centre) / centre)
    return 2.3 - np.tanh(x * 3) + np.where(x > 1, 40 * (x - 1), 0)


def test_a_sweep_covers_what_does_as_well_and_stops_where_training_fails():
    grid = lr_grid(1e-3, 10, 9)
    losses = np.linspace([2.3] * 9, [2.2, 2.1, 1.5, 0.9, 0.3, 0.3, 2.3, 9, 9], 100)
    found = read_constants(grid, losses)
    low, high = found.as_good
    assert (low, high) == (pytest.approx(0.1), pytest.approx(0.316, rel=0.01))
    assert sweep_range(found) == (0.03, 1.0)
    assert sweep_range(read_constants(grid[:6], losses[:, :6])) == (0.03, 1.0)


def test_the_grid_is_even_in_log_lr_and_its_ends_are_exact():
    grid = lr_grid(1e-7, 0.3, 11)
    assert grid[0] == 1e-7 and grid[-1] == 0.3
    np.testing.assert_allclose(grid, np.geomspace(1e-7, 0.3, 11), rtol=1e-12)


def test_a_table_holds_every_bit():
    columns = [np.arange(3), np.array([0.1, 1 / 3, math.nan]), np.array([math.inf, 1e-300, -0.0])]
    read = pd.read_csv(io.StringIO(rows(("step", "a", "b"), columns)))
    assert read["step"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(read[["a", "b"]].to_numpy().T, columns[1:])


@pytest.mark.parametrize(
    ("value", "told"),
    [(100.0, "100"), (126.4, "126"), (0.0012345, "0.00123"), (1e-5, "1e-05"), (9.999, "10")],
)
def test_numbers_are_told_in_a_plain_form(value: float, told: str) -> None:
    assert plain(value) == told


def test_a_loss_between_two_tried_lrs_is_told_as_about() -> None:
    table = np.linspace(np.full(3, 2.3), np.array([2.0, 1.0, 1.4]), 50)
    found = read_constants([0.1, 1.0, 100.0], table)
    assert found.ends_at(1.0) == f"{found.end[1]:.3g}"
    assert found.ends_at(10.0) == f"about {(found.end[1] + found.end[2]) / 2:.3g}"
