"""Which side of the best an lr lies on: by construction in order along lr."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrlab.verdicts.judging import verdicts
from lrlab.verdicts.sides import AtLr, Sides, compare, gathered

pytestmark = pytest.mark.unit

ORDER = settings(max_examples=200, deadline=None, database=None)
ENDS = st.one_of(st.floats(1e-6, 1e3), st.just(math.inf))


def of(ends: dict[float, Sequence[float] | float], start: float = math.nan) -> Sides:
    """Sides of end losses by lr, one a seed."""
    each = {lr: [end] if isinstance(end, int | float) else list(end) for lr, end in ends.items()}
    return compare([AtLr(lr, dict(enumerate(of_lr))) for lr, of_lr in each.items()], start)


# --- in order along lr ----------------------------------------------------------------------------


@pytest.mark.default
@ORDER
@given(st.lists(st.lists(ENDS, min_size=1, max_size=4), min_size=1, max_size=12))
def test_sides_are_in_order_along_lr_and_the_best_is_good(ends: list[list[float]]) -> None:
    lrs = [2.0**i for i in range(len(ends))]
    found = of(dict(zip(lrs, ends, strict=True)))
    sides = [found.side(lr) for lr in lrs]
    assert sides == sorted(sides), "below, as good, above: never back"
    if all(np.median(of_lr) == math.inf for of_lr in ends):
        assert math.isnan(found.best)
    else:
        assert found.side(found.best) == 0 and found.low <= found.best <= found.high
        fewest = min(np.mean(np.isinf(e)) for e in ends if np.isfinite(np.median(e)))
        best = ends[lrs.index(found.best)]
        assert np.mean(np.isinf(best)) == fewest, "no lr at which fewer failed"
        rivals = [float(np.median(e)) for e in ends if np.mean(np.isinf(e)) == fewest]
        assert found.best_end == pytest.approx(min(rivals))


@pytest.mark.default
@ORDER
@given(st.lists(st.floats(1e-3, 2.0), min_size=2, max_size=10), st.randoms())
def test_the_order_in_which_runs_come_is_of_no_account(ends: list[float], random: object) -> None:
    at_lrs = [AtLr(0.1 * (i + 1), {0: end}) for i, end in enumerate(ends)]
    shuffled = list(at_lrs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert compare(shuffled) == compare(at_lrs)


WORDS = ("undershooting", "converged", "overshooting")


@pytest.mark.default
@settings(max_examples=40, deadline=None, database=None)
@given(
    st.lists(
        st.tuples(st.floats(1e-3, 2.0), st.booleans(), st.floats(-3, 3)), min_size=2, max_size=8
    )
)
def test_the_outcomes_of_a_table_are_in_order_whatever_trend_and_branches_say(
    runs: list[tuple[float, bool, float]],
) -> None:
    """Falling to any end, by a straight or a bent curve, with any gains of the branch test."""
    import pandas as pd

    parts = []
    for i, (end, is_bent, gain) in enumerate(runs):
        step = np.arange(41)
        share = np.sqrt(step / 40) if is_bent else step / 40
        loss = 2.3 * (end / 2.3) ** share
        frame = pd.DataFrame({"step": step, "train_loss": loss, "run": i, "lr": 0.01 * 2.0**i})
        parts.append(
            frame.assign(gain_low=gain, gain_high=-gain, chance_loss=2.3, initial_loss=2.3)
        )
    found = verdicts(pd.concat(parts))
    assert set(found["outcome"]) <= set(WORDS)
    places = [WORDS.index(word) for word in found["outcome"]]
    assert places == sorted(places)
    assert found["outcome"][int(found["end_loss"].argmin())] == "converged"


# --- as good as the best --------------------------------------------------------------------------


@pytest.mark.parametrize(("end", "side"), [(0.1049, 0), (0.1051, 1), (0.15, 1), (0.2, 1)])
def test_as_good_is_within_a_twentieth_of_the_best_loss_itself(end: float, side: int) -> None:
    """Not of the way from the start: of that, all of these are within 5%."""
    for start in (2.3, math.nan):
        assert of({0.1: 0.1, 0.2: end}, start).side(0.2) == side
        assert of({0.1: end, 0.2: 0.1}, start).side(0.1) == -side


def test_a_loss_below_zero_has_a_twentieth_too() -> None:
    found = of({0.1: -10.0, 0.2: -9.6, 0.3: -9.4})
    assert (found.best, found.low, found.high) == (0.1, 0.1, 0.2)


def test_a_difference_that_is_nothing_of_the_start_is_none() -> None:
    found = of({0.1: 1e-9, 0.2: 9e-6, 0.3: 9e-4}, start=1.0)
    assert (found.low, found.high) == (0.1, 0.2), "1e-5 of the start"
    assert of({0.1: 1e-9, 0.2: 9e-6}).high == 0.1, "no start is known"


def test_one_lr_that_is_a_little_worse_does_not_end_the_range_but_a_gap_does() -> None:
    # within 5%: as good; worse by up to 5% + 25%: passed over; worse by more: the range ends
    found = of({0.1: 0.100, 0.2: 0.120, 0.4: 0.102})
    assert (found.low, found.high) == (0.1, 0.4) and found.side(0.2) == 0
    cut = of({0.1: 0.100, 0.2: 0.135, 0.4: 0.102})
    assert (cut.low, cut.high) == (0.1, 0.1) and cut.side(0.4) == 1
    failed = of({0.1: 0.100, 0.2: math.inf, 0.4: 0.102})
    assert failed.high == 0.1, "a failure between is a gap"
    trailing = of({0.1: 0.100, 0.2: 0.102, 0.4: 0.120})
    assert trailing.high == 0.2, "only one that is as good makes the range wider"


# --- noise between seeds --------------------------------------------------------------------------


def test_differences_are_paired_by_seed() -> None:
    """An offset that all lrs share is no noise: here ±1, with differences of 0.2 ± 0.01."""
    offsets = np.array([1.0, 2.0, 3.0, 2.0])
    wobble = 0.01 * np.array([1, -1, 1, -1])
    found = of({0.1: offsets, 0.2: offsets + 0.2 + wobble, 0.4: offsets + 0.2 - wobble})
    # deviations of (±0.01) around their mean 0, twice 3 degrees of freedom
    deviation = math.sqrt(2 * 4 * 0.01**2 / 6)
    assert found.noise == pytest.approx(deviation)
    assert found.errors[0.2] == pytest.approx(deviation / 2)
    assert found.high == 0.1, "0.2 is 10% above, and far beyond the paired noise"
    unpaired = compare(
        [
            AtLr(0.1, {i: end for i, end in enumerate(offsets)}),
            AtLr(0.2, {10 + i: end for i, end in enumerate(offsets + 0.2 + wobble)}),
        ]
    )
    assert unpaired.high == 0.2, "of other seeds, the offset is noise"
    squares = sum(((x - x.mean()) ** 2).sum() for x in (offsets, offsets + 0.2 + wobble))
    own = math.sqrt(squares / 6)
    assert unpaired.noise == pytest.approx(own * math.sqrt(2))
    assert unpaired.errors[0.2] == pytest.approx(own * math.sqrt(1 / 4 + 1 / 4))


def test_within_two_standard_errors_is_as_good() -> None:
    # differences 0.02 ± 0.02, of two seeds: deviation 0.02·√2, error 0.02, two of them 0.04
    best, other = np.array([0.1, 0.1]), np.array([0.10, 0.14])
    found = of({0.1: best, 0.2: other})
    assert found.errors[0.2] == pytest.approx(0.02)
    assert found.high == 0.2, "0.02 above, which is 20%, but within 0.04"
    assert of({0.1: [0.1] * 8, 0.2: [0.119, 0.121] * 4}).high == 0.1


def test_the_stated_error_is_that_of_a_simulation() -> None:
    """Paired normal noise: the difference of means scatters by deviation / √n."""
    rng = np.random.default_rng(0)
    errors, differences = [], []
    for _ in range(400):
        offset = rng.normal(0, 5, 6)
        ends = [100 + offset + rng.normal(0, 0.5, 6), 101 + offset + rng.normal(0, 0.5, 6)]
        found = of({0.1: ends[0], 0.2: ends[1]})
        errors.append(found.errors[0.2 if found.best == 0.1 else 0.1])
        differences.append(found.higher[0.2] if found.best == 0.1 else -found.higher[0.1])
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(differences), rel=0.1)


def test_medians_of_other_seeds_do_not_decide_where_differences_tell() -> None:
    """Medians 0.6 apart, which is 6%, though seed by seed nothing is: the offsets do it."""
    best, other = [9.0, 10.0, 13.0], [9.0, 10.6, 12.4]
    found = of({0.1: best, 0.2: other})
    assert found.higher[0.2] == pytest.approx(0.0) and found.high == 0.2
    # 10 and 11 at the middle, and each seed 1.0 higher but for a wobble of 0.01
    far = of({0.1: [9.0, 10.0, 13.0], 0.2: [10.0, 11.01, 13.99]})
    assert far.higher[0.2] == pytest.approx(1.0) and far.high == 0.1


def test_an_lr_with_other_seeds_than_the_best_is_not_free_of_noise() -> None:
    at_lrs = [
        AtLr(0.1, {0: 0.10, 1: 0.12}),
        AtLr(0.2, {0: 0.13, 1: 0.15}),
        AtLr(0.4, {7: 0.14, 8: 0.16}),
    ]
    found = compare(at_lrs)
    # each lr's own seeds deviate by 0.01·√2; of other seeds the difference has √(1/2 + 1/2) of it
    assert found.errors[0.2] == pytest.approx(0.0, abs=1e-12)
    assert found.errors[0.4] == pytest.approx(0.01 * math.sqrt(2))


def test_one_seed_tells_no_noise() -> None:
    found = of({0.1: 0.1, 0.2: 0.2})
    assert math.isnan(found.noise) and found.errors == {}


def test_an_lr_at_which_a_larger_share_fails_is_not_as_good() -> None:
    found = of({0.1: [0.1, 0.1, 0.1], 0.2: [0.09, 0.09, math.inf]})
    assert (found.best, found.high) == (0.1, 0.1) and found.side(0.2) == 1
    assert of({0.2: [0.09, 0.09, math.inf]}).best == 0.2


def test_a_repeated_run_is_no_seed() -> None:
    (at,) = gathered([(0.1, 0, "a", 0.3), (0.1, 0, "b", 0.1), (0.1, 0, "c", 0.2)])
    assert dict(at.ends) == {("seed", "0"): 0.2}
    (unknown,) = gathered([(0.1, None, "a", 0.3), (0.1, math.nan, "b", 0.1)])
    assert len(unknown.ends) == 2 and unknown.end == pytest.approx(0.2)
    assert [at.lr for at in gathered([(0.3, 0, 1, 1.0), (0.1, 0, 2, 1.0)])] == [0.1, 0.3]


def test_no_run_and_no_run_that_ended() -> None:
    assert math.isnan(compare([]).best)
    none = of({0.1: math.inf})
    assert math.isnan(none.best) and none.side(0.1) == 0
