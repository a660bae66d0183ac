"""Figures by what is in them (lines, their data, marks, the boxes of the texts), not by pixels."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.drawn import assert_legible, drawn, labels, rail_marks, written
from matplotlib.figure import Figure

from lrlab import plots
from lrlab.plots import style
from lrlab.plots.figures import curves as loss_plots

LN10 = math.log(10)


def run_curve(
    run: int, lr: float, losses: list[float] | np.ndarray, state: str = "finished", **settings: Any
) -> pd.DataFrame:
    losses = np.asarray(losses, dtype=float)
    frame = pd.DataFrame(
        {"step": np.arange(len(losses), dtype=float), "lr_at_step": lr, "train_loss": losses}
    )
    if state == "finished":  # the row of the final evaluation: neither lr nor mini-batch loss
        last = pd.DataFrame(
            {"step": [float(len(losses))], "lr_at_step": [np.nan], "train_loss": [np.nan]}
        )
        frame = pd.concat([frame, last], ignore_index=True)
    fixed = {
        "run": run,
        "lr": lr,
        "seed": 0,
        "schedule": "fixed",
        "optimizer": "sgd",
        "network": "mlp",
        "data": "mnist",
        "loss": "nll",
        "batch_size": 64,
        "state": state,
        "initial_loss": 2.31,
        "chance_loss": LN10,
    }
    return frame.assign(**{**fixed, **settings})


def decaying(lr: float, steps: int = 60, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 0.2, steps)
    return 2.3 * np.exp(-lr * np.arange(steps) / 10 + noise)


def many(count: int) -> pd.DataFrame:
    """lrs from 1e-4 to 10, of which those above 1 diverge at different steps."""
    parts = []
    for run, lr in enumerate(np.geomspace(1e-4, 10, count)):
        if lr > 1:
            losses = [2.3, *[3.0] * (run % 40), 1e30, math.nan]
            parts.append(run_curve(run, float(lr), losses, "diverged"))
        else:
            parts.append(run_curve(run, float(lr), decaying(float(lr), seed=run)))
    return pd.concat(parts, ignore_index=True)


def final_runs(rows: list[dict[str, Any]]) -> pd.DataFrame:
    fixed = {
        "seed": 0,
        "schedule": "fixed",
        "optimizer": "sgd",
        "loss": "nll",
        "state": "finished",
        "initial_loss": 2.31,
        "chance_loss": LN10,
        "train_loss": 0.1,
        "test_loss": 0.2,
    }
    return pd.DataFrame([{**fixed, "run": i, **row} for i, row in enumerate(rows)])


@pytest.mark.full(after=2)
@pytest.mark.parametrize("count", [1, 3, 13, 100])
def test_no_run_vanishes_and_no_label_overlaps(count: int) -> None:
    curves = many(count)
    figure = plots.loss_curves(curves)
    diverged = curves.query("state == 'diverged'")["run"].nunique()
    assert len(drawn(figure, "raw")) == len(drawn(figure, "smooth")) == count
    assert len(rail_marks(figure)) == diverged
    assert (f"non-finite: {diverged} of {count} runs" in written(figure)) == (diverged > 0)
    assert_legible(figure)

    ends = curves.drop_duplicates("run").assign(train_loss=0.1, test_loss=0.2)
    ends.loc[ends["state"] == "diverged", ["train_loss", "test_loss"]] = math.nan
    figure = plots.lr_against_loss(ends)
    assert len(rail_marks(figure)) == diverged
    assert_legible(figure)


def test_raw_curve_is_the_data_and_the_smooth_one_its_debiased_average() -> None:
    losses = decaying(0.05, steps=500)
    figure = plots.loss_curves(run_curve(0, 0.05, losses))
    (raw,), (smooth,) = drawn(figure, "raw"), drawn(figure, "smooth")
    np.testing.assert_array_equal(raw.get_xdata(), np.arange(500))
    np.testing.assert_allclose(raw.get_ydata(), losses)
    # The formula: sum of w**k * loss[t-k] over the sum of w**k, w = 1 - 2/(span + 1).
    w = 1 - 2 / (loss_plots.SMOOTHING * 500 + 1)
    expected = []
    above = below = 0.0
    for loss in losses:
        above, below = w * above + loss, w * below + 1
        expected.append(above / below)
    np.testing.assert_allclose(smooth.get_ydata(), expected, rtol=1e-9)
    assert raw.get_alpha() < 0.5 and smooth.get_linewidth() > raw.get_linewidth()


def test_a_diverged_run_ends_at_its_last_finite_loss_and_is_marked_at_the_first_bad_step() -> None:
    curves = pd.concat(
        [
            run_curve(0, 0.1, decaying(0.1)),
            run_curve(1, 3.0, [2.3, 2.9, 4.0, math.inf], "diverged"),
            run_curve(2, 0.2, [2.3, 2.0, 1.5], "failed"),
        ]
    )
    figure = plots.loss_curves(curves)
    curve = drawn(figure, "raw")[1]
    np.testing.assert_allclose(curve.get_ydata(), [2.3, 2.9, 4.0])
    assert rail_marks(figure)[:, 0].tolist() == [3.0]
    assert rail_marks(figure, "failed")[:, 0].tolist() == [2.0]
    assert "lr 0.1" in labels(figure)
    assert any("3" in label and "0.2" in label for label in labels(figure))
    assert "1 diverged, 1 failed" in written(figure)


def pruned_curve(run: int, lr: float, steps: int) -> pd.DataFrame:
    frame = run_curve(run, lr, decaying(lr, steps, seed=run))  # ends as a finished one does
    return frame.assign(state="pruned", pruned_at_epoch=1.0)


def test_a_pruned_curve_ends_with_a_bar_where_it_was_pruned() -> None:
    curves = pd.concat(
        [
            run_curve(0, 0.1, decaying(0.1)),
            pruned_curve(1, 0.03, steps=20),
            pruned_curve(2, 0.01, steps=40),
        ]
    )
    figure = plots.loss_curves(curves)
    marks, smooth = drawn(figure, "pruned"), drawn(figure, "smooth")
    ends = {1: (19.0, smooth[1]), 2: (39.0, smooth[2])}
    for mark, (step, curve) in zip(marks, ends.values(), strict=True):
        assert mark.get_xdata().tolist() == [step]
        assert mark.get_ydata()[0] == curve.get_ydata()[-1]
        assert mark.get_color() == curve.get_color()
    assert "pruned here" in written(figure) and "1 finished, 2 pruned" in written(figure)
    assert {"lr 0.1", "lr 0.03 (pruned)", "lr 0.01 (pruned)"} <= set(labels(figure))
    assert len(rail_marks(figure)) == 0, "a pruned run has not failed"
    assert_legible(figure)
    assert "pruned" not in written(plots.loss_curves(curves.query("run == 0")))


def searched(count: int, seed: int = 0) -> pd.DataFrame:
    """Runs at the end of a search over lr and weight_decay: each run has values of its own."""
    draw = np.random.default_rng(seed)
    states = ["finished", "pruned", "pruned", "diverged", "failed", "finished", "interrupted"]
    rows = []
    for run in range(count):
        state = states[run % len(states)]
        finished = state == "finished"
        rows.append(
            {
                "lr": float(10 ** draw.uniform(-4, 0.5)),
                "optimizer.weight_decay": float(10 ** draw.uniform(-6, -2)),
                "state": state,
                "val_loss": 0.5 + 0.01 * run if state in ("finished", "pruned") else math.nan,
                "train_loss": 0.1 + 0.01 * run if finished else math.nan,
                "test_loss": 0.2 + 0.01 * run if finished else math.nan,
            }
        )
    return final_runs(rows)


def test_pruned_runs_stand_apart_at_their_last_val_loss_and_no_line_joins_them() -> None:
    rows = [
        {"lr": 0.1, "train_loss": 0.3},
        {"lr": 0.2, "state": "pruned", "val_loss": 0.9, "train_loss": None, "test_loss": None},
        {"lr": 0.3, "train_loss": 0.1},
        {"lr": 0.4, "state": "pruned", "val_loss": 50.0, "train_loss": None, "test_loss": None},
    ]
    runs = final_runs(rows)
    figure = plots.lr_against_loss(runs)
    (line,) = drawn(figure, "median:train_loss")
    np.testing.assert_allclose(line.get_xdata(), [0.1, 0.3])
    np.testing.assert_allclose(line.get_ydata(), [0.3, 0.1])
    one, other = drawn(figure, "pruned")
    assert (one.get_xdata()[0], one.get_ydata()[0]) == (0.2, 0.9)
    assert one.get_marker() != line.get_marker() and one.get_color() == line.get_color()
    assert other.get_xdata()[0] == 0.4 and len(drawn(figure, "above")) == 1, "50 is off the frame"
    assert len(rail_marks(figure)) == 0
    assert "pruned: val loss at its end" in written(figure)
    assert "2 finished, 2 pruned" in written(figure)
    assert_legible(figure)


def test_a_pruned_seed_counts_as_worse_than_those_that_finished() -> None:
    rows = [
        *({"lr": 0.1, "seed": s, "train_loss": v, "val_loss": v} for s, v in enumerate((0.2, 0.3))),
        {"lr": 0.1, "seed": 2, "state": "pruned", "val_loss": 0.1, "train_loss": None},
        *({"lr": 1.0, "seed": s, "state": "pruned", "train_loss": None} for s in range(3)),
    ]
    figure = plots.lr_against_loss(final_runs(rows))
    for name in ("val_loss", "train_loss"):
        (line,) = drawn(figure, f"median:{name}")
        assert line.get_xdata().tolist() == [0.1] and line.get_ydata().tolist() == [0.3]


@pytest.mark.full(after=1)
@pytest.mark.parametrize("count", [7, 8, 32, 200])
def test_a_search_over_two_numbers_stays_legible(count: int) -> None:
    runs = searched(count)
    figure = plots.lr_against_loss(runs)
    joined = drawn(figure, "median:val_loss")
    points = np.concatenate([line.get_ydata() for line in joined])
    finished = runs.query("state == 'finished'")
    assert sorted(points[np.isfinite(points)]) == sorted(finished["val_loss"]), (
        "each finished run is drawn"
    )
    assert len(drawn(figure, "pruned")) == (runs["state"] == "pruned").sum()
    told = "optimizer.weight_decay not shown" in written(figure)
    assert told == (count > style.TOLD_APART)
    if told:
        assert all(line.get_linestyle() == "None" for line in joined), "a zigzag says nothing"
    assert figure.get_figheight() < 8, "no legend with a row a run"
    assert_legible(figure)

    curves = pd.concat(
        run_curve(
            row["run"],
            row["lr"],
            decaying(row["lr"], 5 + row["run"] % 9),
            row["state"],
            **{"optimizer.weight_decay": row["optimizer.weight_decay"]},
        )
        for row in runs.to_dict("records")
    )
    figure = plots.loss_curves(curves)
    assert len(drawn(figure, "smooth")) == count
    assert len(drawn(figure, "pruned")) == (runs["state"] == "pruned").sum()
    assert figure.get_figheight() < 8
    assert_legible(figure)


def test_many_settings_that_are_names_are_still_told_apart() -> None:
    rows = [
        {"lr": 0.1, "optimizer": optimizer, "schedule": schedule}
        for optimizer in ("sgd", "adam")
        for schedule in ("fixed", "step", "cosine", "linear", "warmup", "plateau", "one_cycle")
    ]
    figure = plots.lr_against_loss(final_runs(rows))
    assert len(drawn(figure, "median:train_loss")) == 14
    assert "not shown" not in written(figure)


def test_a_blank_last_row_is_no_divergence_even_without_a_state() -> None:
    figure = plots.loss_curves(run_curve(0, 0.1, decaying(0.1)).drop(columns="state"))
    assert len(rail_marks(figure)) == 0


def test_an_explosion_does_not_squash_the_others_and_is_seen_to_leave() -> None:
    calm = run_curve(0, 0.1, decaying(0.1))
    wild = run_curve(1, 9.0, [2.3, 10.0, 1e30, math.nan], "diverged")
    figure = plots.loss_curves(pd.concat([calm, wild]))
    top = figure.axes[0].get_ylim()[1]
    assert 3 * 2.31 <= top < 10
    (mark,) = drawn(figure, "above")
    assert 0 < mark.get_xdata()[0] <= 1.0, "it leaves between step 0 (2.3) and step 1 (10)"
    assert "leaves the frame" in written(figure)
    calm_only = plots.loss_curves(calm)
    assert not drawn(calm_only, "above") and "leaves the frame" not in written(calm_only)


def test_chance_and_initial_loss_are_marked() -> None:
    figure = plots.loss_curves(run_curve(0, 0.1, decaying(0.1)))
    (chance,), (initial,) = drawn(figure, "chance"), drawn(figure, "initial")
    assert chance.get_ydata()[0] == LN10 and initial.get_ydata()[0] == 2.31
    assert "ln 10 (guessing)" in labels(figure) and "at the start 2.31" in labels(figure)
    other = plots.loss_curves(run_curve(0, 0.1, [0.2, 0.1], chance_loss=0.09, loss="mse_one_hot"))
    assert "0.09 (guessing)" in labels(other)
    assert "train loss (squared error)" in written(other)


def test_zero_and_negative_losses_stay_in_the_picture() -> None:
    zero = plots.loss_curves(run_curve(0, 0.1, [2.3, 1.0, 0.5, 0.0, 0.0]))
    assert zero.axes[0].get_yscale() == "log"
    assert len(drawn(zero, "below")) == 1 and "reaches 0" in written(zero)
    assert np.isfinite(drawn(zero, "raw")[0].get_ydata()).all()
    negative = plots.loss_curves(run_curve(0, 0.1, [2.3, 1.0, -0.5, -1.0]))
    assert negative.axes[0].get_yscale() == "linear"
    low, high = negative.axes[0].get_ylim()
    assert low <= -1.0 and high >= 2.3
    for figure in (zero, negative):
        assert_legible(figure)


@pytest.mark.parametrize(
    "curves",
    [
        run_curve(0, 0.1, [2.3]),
        run_curve(0, 0.1, [math.nan], "diverged"),
        run_curve(0, 0.0, [2.3, 2.3]),
        pd.concat([run_curve(i, 10.0 * (i + 1), [2.3, math.nan], "diverged") for i in range(5)]),
        run_curve(0, math.nan, [math.nan], "waiting").assign(step=math.nan, lr_at_step=math.nan),
        run_curve(0, 0.1, decaying(0.1), initial_loss=math.nan, chance_loss=math.nan),
    ],
    ids=["one step", "diverged at once", "lr 0", "all diverged", "nothing yet", "no references"],
)
def test_odd_sweeps_are_drawn(curves: pd.DataFrame) -> None:
    figure = plots.loss_curves(curves)
    assert_legible(figure)
    diverged = curves.query("state == 'diverged'")["run"].nunique()
    assert len(rail_marks(figure)) == diverged
    ends = curves.drop_duplicates("run").assign(test_loss=math.nan)
    assert_legible(plots.lr_against_loss(ends))


def test_schedules_differ_by_dash_lrs_by_colour_and_seeds_by_neither() -> None:
    settings = itertools.product((0.01, 0.1), ("fixed", "step", "cosine"), (0, 1))
    curves = pd.concat(
        run_curve(i, lr, decaying(lr, seed=i), schedule=schedule, seed=seed)
        for i, (lr, schedule, seed) in enumerate(settings)
    )
    figure = plots.loss_curves(curves)
    looks = [(line.get_color(), line._dash_pattern) for line in drawn(figure, "smooth")]
    assert all(looks[i] == looks[i + 1] for i in range(0, 12, 2)), "two seeds of one setting"
    assert len(set(map(str, looks))) == 6
    assert {"lr 0.1, step", "lr 0.01, cosine"} <= set(labels(figure))
    assert_legible(figure)


def test_every_colour_is_readable_on_white() -> None:
    def luminance(colour: Any) -> float:
        rgb = np.asarray(colour[:3])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    shades = [luminance(colour) for colour in style.MAP(np.linspace(0, 1, 64))]
    assert min(1.05 / (shade + 0.05) for shade in shades) > 2.5
    assert all(a < b for a, b in itertools.pairwise(shades)), "a larger lr is always lighter"


def test_names_with_dollars_are_not_formulas() -> None:
    curves = run_curve(0, 0.1, decaying(0.1), network="net_$x", data="$\\frac$")
    title = "costs $5 and $\\notatex$ " + "very " * 40 + "long"
    figure = plots.loss_curves(curves, title=title)
    assert_legible(figure)  # draws: mathtext would raise
    assert "$5 and $\\notatex$" in written(figure)


def test_lr_against_loss_joins_the_medians_and_breaks_where_half_the_seeds_diverged() -> None:
    rows = [
        *({"lr": 0.1, "seed": s, "train_loss": v} for s, v in enumerate((0.2, 0.3, 0.9))),
        *({"lr": 1.0, "seed": s, "train_loss": v} for s, v in enumerate((0.1, 0.2))),
        {"lr": 1.0, "seed": 2, "state": "diverged", "train_loss": None, "test_loss": None},
        {"lr": 5.0, "seed": 0, "train_loss": 0.05},
        {"lr": 5.0, "seed": 1, "state": "diverged", "train_loss": None, "test_loss": None},
        {"lr": 5.0, "seed": 2, "state": "diverged", "train_loss": None, "test_loss": None},
    ]
    figure = plots.lr_against_loss(final_runs(rows))
    (line,) = drawn(figure, "median:train_loss")
    np.testing.assert_allclose(line.get_xdata(), [0.1, 1.0, 5.0])
    # 1.0: the middle of 0.1, 0.2 and infinity; 5.0: the middle one is infinite.
    np.testing.assert_allclose(line.get_ydata(), [0.3, 0.2, np.nan])
    (seeds,) = drawn(figure, "seeds:train_loss")
    assert len(seeds.get_xdata()) == 6
    assert sorted(rail_marks(figure)[:, 0]) == [1.0, 5.0, 5.0]
    assert "non-finite: 3 of 9 runs" in written(figure)
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"


def test_lr_against_loss_has_a_line_a_setting_and_of_a_few_all_losses() -> None:
    rows = [
        {"lr": lr, "optimizer": optimizer, "schedule": schedule, "val_loss": 0.15}
        for lr in (0.01, 0.1)
        for optimizer in ("sgd", "adam")
        for schedule in ("fixed", "step", "a_rather_long_name_of_a_schedule")
    ]
    figure = plots.lr_against_loss(final_runs(rows))
    vals = drawn(figure, "median:val_loss")
    assert len({line.get_color() for line in vals}) == len(vals) == 6
    assert not drawn(figure, "median:train_loss") and not drawn(figure, "median:test_loss")
    assert "step, adam" in written(figure) and "train and test loss not drawn" in written(figure)
    assert_legible(figure)
    few = plots.lr_against_loss(final_runs([row for row in rows if row["optimizer"] == "sgd"]))
    kinds = [drawn(few, f"median:{part}_loss") for part in ("val", "train", "test")]
    assert list(map(len, kinds)) == [3, 3, 3] and "not drawn" not in written(few)
    assert all(line.get_markerfacecolor() == "white" for line in kinds[2])
    assert len({str(lines[0]._dash_pattern) for lines in kinds}) == 3
    assert_legible(few)


def test_runs_with_lr_zero_are_counted_if_they_cannot_be_drawn() -> None:
    figure = plots.lr_against_loss(final_runs([{"lr": 0.0}, {"lr": 0.1}]))
    assert "1 with lr 0 not drawn" in written(figure)


def test_save_writes_whole_pictures_and_leaves_nothing_else(tmp_path: Path) -> None:
    figure = plots.loss_curves(run_curve(0, 0.1, decaying(0.1)))
    (path,) = plots.save({"loss_curves": figure}, tmp_path / "plots")
    assert path == tmp_path / "plots" / "loss_curves.png"
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    before = path.read_bytes()

    class Broken(Figure):
        def savefig(self, fname: Any, **_: Any) -> None:  # type: ignore[override]
            Path(fname).write_bytes(b"half a pic")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        plots.save({"loss_curves": Broken()}, tmp_path / "plots")
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["loss_curves.png"]
