"""Thinned curves: what a figure shows of them is what it would show of the whole ones."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.made_sweeps import write_run

from lrlab.plots import runs
from lrlab.plots.figures.curves import _drops
from lrlab.tables import frames, thinning
from lrlab.verdicts import judging, loading

pytestmark = pytest.mark.unit

STEPS = 2000


def curve(lr: np.ndarray | float = 0.1, loss: np.ndarray | None = None) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    made = 2.3 / (1 + np.arange(STEPS) / 99) * np.exp(draw.normal(0, 0.2, STEPS))
    rare = np.full(STEPS, math.nan)
    rare[::500] = 1.5
    return {
        "step": np.arange(STEPS, dtype=float),
        "lr_at_step": np.broadcast_to(np.asarray(lr, dtype=float), STEPS),
        "train_loss": made if loss is None else loss,
        "val_loss": rare,
    }


def test_a_short_curve_is_as_it_was() -> None:
    whole = curve()
    found = thinning.thinned(whole, STEPS, ["val_loss"])
    assert (found.pop(thinning.MEAN_OF) == 1).all()
    assert found.keys() == whole.keys()
    assert all(np.array_equal(found[k], whole[k], equal_nan=True) for k in whole)


def test_each_row_is_the_mean_of_what_was_left_out_before_it() -> None:
    whole = curve()
    found = thinning.thinned(whole, 200, ["val_loss"])
    assert len(found["step"]) <= 200
    assert found["step"][0] == 0 and found["step"][-1] == STEPS - 1
    rows = found["step"].astype(int)
    for before, row, loss, many in zip(
        [-1, *rows[:-1]], rows, found["train_loss"], found[thinning.MEAN_OF], strict=True
    ):
        assert many == row - before
        assert loss == pytest.approx(whole["train_loss"][before + 1 : row + 1].mean(), rel=1e-12)
    assert np.flatnonzero(np.isfinite(found["val_loss"])).size == 4
    assert np.array_equal(found["lr_at_step"], whole["lr_at_step"][rows])


def test_however_many_rows_are_special_there_are_no_more_than_asked_for() -> None:
    whole = curve(lr=np.tile([1.0, 0.1], STEPS // 2))
    whole["alpha"] = np.ones(STEPS)
    assert len(thinning.thinned(whole, 100, ["val_loss", "alpha"])["step"]) <= 100


def test_the_moving_average_is_that_of_all_losses() -> None:
    whole = curve()
    found = thinning.thinned(whole, 250)
    rows = found["step"].astype(int)
    for span in (50, 80, 200):
        expected = thinning.average(whole["train_loss"], span)[rows]
        got = thinning.average(found["train_loss"], span, found[thinning.MEAN_OF])
        # 8 losses share a weight, which then differ by a factor of up to 1 + 16 / span
        assert np.abs(np.log(got / expected))[20:].max() < 0.03
        ignored = thinning.average(found["train_loss"], span)  # the weights are needed
        assert np.abs(np.log(ignored / expected))[20:].max() > 0.06


def test_an_average_of_one_loss_each_is_pandas_own() -> None:
    loss = curve()["train_loss"]
    expected = pd.Series(loss).ewm(span=30, adjust=True).mean().to_numpy()
    assert np.array_equal(thinning.average(loss, 30), expected)
    assert np.array_equal(thinning.average(loss, 30, np.ones(STEPS)), expected)
    few = np.array([1.0, 3.0])
    by_hand = [1.0, (2 * 3 + 1 * 1 / 9) / (2 + 1 / 9)]  # a span of 2 halves: 1/3 a loss, twice
    assert thinning.average(few, 2, np.array([1.0, 2.0])) == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize(
    "lr",
    [
        np.where(np.arange(STEPS) < 700, 1.0, 0.1),
        np.repeat(0.5 ** np.arange(10.0), STEPS // 10),
        (1 + np.cos(np.pi * np.arange(STEPS) / STEPS)) / 2,
        np.concatenate([np.linspace(1e-6, 1, 100), np.linspace(1, 0, STEPS - 100)]),
        0.997 ** np.arange(STEPS),
    ],
    ids=["step", "steps", "cosine", "warm-up and linear to 0", "exponential"],
)
def test_drops_of_the_lr_stay_and_none_is_added(lr: np.ndarray) -> None:
    def dropped(table: dict[str, np.ndarray]) -> list[float]:
        (one,), _, _ = runs.of_curves(pd.DataFrame({**table, "run": 0, "lr": 1.0}))
        return one.lr_step[_drops(one)].tolist()

    whole = curve(lr)
    assert dropped(thinning.thinned(whole, 150, ["val_loss"])) == dropped(whole)


def test_a_loss_that_is_not_finite_stays_at_its_step() -> None:
    loss = curve()["train_loss"].copy()
    loss[1234:] = math.nan
    lr = np.where(np.arange(STEPS) <= 1234, 3.0, math.nan)  # the last row is an evaluation
    table = thinning.thinned(curve(lr, loss), 100)
    (run,), _, _ = runs.of_curves(pd.DataFrame({**table, "run": 0, "lr": 3.0}))
    assert (run.mark, run.mark_step, run.step[-1]) == ("nonfinite", 1234, 1233)
    assert np.isfinite(run.loss).all() and run.mean_of is not None
    assert run.mean_of.sum() == 1234


def test_huge_losses_are_kept() -> None:
    table = thinning.thinned(curve(loss=np.full(STEPS, 1.7e308)), 100)
    assert (table["train_loss"] == 1.7e308).all() and (table[thinning.MEAN_OF] == 1).all()


# --- of whole sweeps ------------------------------------------------------------------------------


def sweep_of(folder: Path, count: int, steps: int) -> Path:
    for number, lr in enumerate(np.geomspace(1e-3, 3, count)):
        write_run(folder, number, float(lr), steps=steps)
    return folder


@pytest.mark.default
def test_verdicts_are_of_the_whole_curves_and_figures_of_thinned_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sweep_of(tmp_path / "s", 4, 500)
    expected = judging.verdicts(frames.curves(folder))
    same, judged = loading.drawn_and_judged(folder)
    pd.testing.assert_frame_equal(same, frames.curves(folder))
    monkeypatch.setattr(thinning, "ROWS", 500)
    monkeypatch.setattr(frames, "PIECE", 700)
    curves, judged = loading.drawn_and_judged(folder)
    pd.testing.assert_frame_equal(judged, expected)
    assert curves.groupby("run").size().max() <= 125
    assert curves[thinning.MEAN_OF].max() > 4
    loaded = loading.load([folder])
    pd.testing.assert_frame_equal(loaded.verdicts(), expected)
    pd.testing.assert_frame_equal(loaded.curves, curves)


@pytest.mark.full
def test_more_runs_take_hardly_more_memory_to_judge_and_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured: the peak of what Python and NumPy have allocated, which no allocator blurs.

    The bounds are a 25th of lrlab's own, so that few and short runs go beyond them.
    """
    monkeypatch.setattr(thinning, "ROWS", thinning.ROWS // 25)
    monkeypatch.setattr(thinning, "FEWEST", 40)
    monkeypatch.setattr(frames, "PIECE", frames.PIECE // 25)
    peaks, sizes = [], []
    for count in (8, 40):
        folder = sweep_of(tmp_path / str(count), count, 400)
        sizes.append(frames.curves(folder).memory_usage().sum())  # all is imported by now
        tracemalloc.start()
        try:
            loading.drawn_and_judged(folder)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] - peaks[0] < (sizes[1] - sizes[0]) / 5
