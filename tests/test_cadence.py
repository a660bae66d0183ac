"""At which steps something is measured, and what of."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrlab.engine.diagnostics import cadence

pytestmark = pytest.mark.unit


DEFAULT, FULL = cadence.CADENCES["default"], cadence.CADENCES["full"]
LENGTHS = {
    "steps": st.integers(1, 6000),
    "per_epoch": st.integers(1, 900),
    "batches": st.sampled_from([0.1, 0.75, 3.0, 12.0, 24.0, 192.0]),
}


def test_full_is_dense_early_and_lies_at_the_same_places_of_each_epoch_later() -> None:
    found = np.flatnonzero(cadence.due(FULL, 0, 2577, 2577, 859, 3.0))
    assert set(range(12)) <= set(found)
    late = found[found >= 859]
    assert late.tolist() == [e * 859 + p for e in (1, 2) for p in range(0, 859, 10)]


def test_a_whole_measurement_comes_when_the_budget_holds_it_then_at_the_same_places() -> None:
    kinds = cadence.due(DEFAULT, 0, 8590, 8590, 859, 3.0)
    at = np.flatnonzero(kinds)
    assert [(int(s), int(kinds[s])) for s in at[:3]] == [
        (31, cadence.ALONG),
        (63, cadence.ALONG),
        (297, cadence.FIRST),
    ]
    late = at[at >= 859]
    assert late.tolist() == [e * 859 + p for e in range(1, 10) for p in (0, 450)]
    assert set(kinds[late]) == {cadence.WHOLE}


@given(**LENGTHS)
def test_measuring_never_costs_more_than_a_quarter_of_the_steps_so_far(
    steps: int, per_epoch: int, batches: float
) -> None:
    at, kinds = cadence.planned(DEFAULT, steps, per_epoch, batches)
    costs = {
        cadence.ALONG: 8,
        cadence.WHOLE: 8 + 1.4 * 8 * batches,
        cadence.FIRST: 8 + 1.4 * 12 * batches,
    }
    spent = np.cumsum([costs[int(kind)] for kind in kinds])
    assert (spent <= 0.25 * (at + 1) + 1e-9).all()
    assert (kinds == cadence.FIRST).sum() == (kinds >= cadence.WHOLE).any()
    assert steps < 32 or len(at)


@pytest.mark.parametrize("steps", [36, 75])
def test_a_short_run_is_measured_along_its_steps_alone(steps: int) -> None:
    _, kinds = cadence.planned(DEFAULT, steps, steps, 3.0)
    assert set(kinds) == {cadence.ALONG}


@given(
    first=st.integers(0, 5000), cut=st.integers(0, 300), mode=st.sampled_from(["default", "full"]),
    per_epoch=LENGTHS["per_epoch"], batches=LENGTHS["batches"],
)  # fmt: skip
def test_where_the_segments_are_cut_does_not_matter(
    first: int, cut: int, per_epoch: int, mode: str, batches: float
) -> None:
    due = partial(
        cadence.due, cadence.CADENCES[mode], steps=6000, steps_per_epoch=per_epoch,
        batches=batches,
    )  # fmt: skip
    whole = due(first, 300)
    np.testing.assert_array_equal(
        whole, np.concatenate([due(first, cut), due(first + cut, 300 - cut)])
    )


@pytest.mark.parametrize("steps", [1, 2, 7, 30])
def test_with_full_the_shortest_runs_are_measured_from_their_first_step(steps: int) -> None:
    assert cadence.due(FULL, 0, steps, steps, steps, 3.0)[0] == cadence.FIRST
