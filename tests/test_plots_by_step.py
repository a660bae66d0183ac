"""Figures over steps: what they show is what the tables say."""

import math

import numpy as np
import pandas as pd
import pytest
from helpers import made_tables
from helpers.drawn import drawn, labels, rail_marks, written
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from lrlab import plots
from lrlab.plots import runs, style
from lrlab.plots.figures import heat


def of(figure: Figure, prefix: str) -> list:
    """The lines whose gid begins so."""
    return [
        line for ax in figure.axes for line in ax.lines if str(line.get_gid()).startswith(prefix)
    ]


# --- loss curves ----------------------------------------------------------------------------------


def test_a_lost_seed_counts_as_infinitely_bad_in_the_median_and_a_shorter_one_not_at_all() -> None:
    step = np.arange(4.0)
    full = [np.array([4.0, 3.0, 2.0, 1.0]), np.array([4.0, 2.0, 2.0, 3.0])]
    short = np.array([9.0, 9.0])
    grid, low, median, high = runs.spread(
        [step, step, step[:2]], [*full, short], [False, False, True]
    )
    assert grid.tolist() == [0, 1, 2, 3]
    assert median.tolist() == [4.0, 3.0, 2.0, 3.0], "behind its end the lost one is the worst"
    assert low.tolist() == [4.0, 2.0, 2.0, 1.0] and high.tolist() == [9.0, 9.0, 2.0, 3.0]
    _, _, median, _ = runs.spread([step, step[:2]], [full[0], short], [False, False])
    assert median.tolist() == [6.5, 6.0, 2.0, 1.0], "one still training does not count"
    _, _, median, _ = runs.spread([step, step[:2]], [full[0], short], [False, True])
    np.testing.assert_array_equal(median, [6.5, 6.0, math.nan, math.nan])


def test_seeds_make_a_band_and_a_median_and_each_stays_visible() -> None:
    t = made_tables.tables([0.1, 0.5], seeds=3)
    figure = plots.loss_curves(t.curves, t.verdicts)
    assert len(drawn(figure, "smooth")) == 6
    assert len(drawn(figure, "band")) == len(drawn(figure, "median")) == 2
    for band, median in zip(drawn(figure, "band"), drawn(figure, "median"), strict=True):
        box = band.get_paths()[0].get_extents()
        assert box.y0 <= np.nanmin(median.get_ydata()) <= np.nanmax(median.get_ydata()) <= box.y1
    assert not drawn(plots.loss_curves(made_tables.tables([0.1, 0.5]).curves), "band")


def test_curves_end_in_their_verdict() -> None:
    t = made_tables.tables(13, pruned=[4])
    assert t.verdicts is not None
    figure = plots.loss_curves(t.curves, t.verdicts)
    ended = t.runs.query("state == 'finished'")["run"]
    expected = t.verdicts.set_index("run").loc[ended, "outcome"].value_counts()
    for outcome, count in expected.items():
        marks = drawn(figure, f"outcome:{outcome}")
        assert len(marks) == count
        assert {m.get_marker() for m in marks} == {style.OUTCOMES[str(outcome)].shape}
    three = made_tables.tables([0.001, 1.0])
    told = labels(plots.loss_curves(three.curves, three.verdicts))
    assert three.verdicts is not None
    for lr, outcome in zip(three.verdicts["lr"], three.verdicts["outcome"], strict=True):
        assert f"lr {lr:g}: {outcome}" in told


# --- lr(t) under the loss -------------------------------------------------------------------------


def test_drops_of_a_staircase_are_marked_where_they_are() -> None:
    t = made_tables.tables([0.01, 0.1], schedules=["step"], steps=90)  # 0.3 after each 30 steps
    figure = plots.lr_and_loss(t.curves)
    assert {line.get_xdata()[0] for line in drawn(figure, "drop")} == {30.0, 60.0}
    assert len(drawn(figure, "drop")) == 4, "through both panels"
    for lr, marks in zip((0.01, 0.1), drawn(figure, "dropped"), strict=True):
        assert marks.get_xdata().tolist() == [30.0, 60.0]
        np.testing.assert_allclose(marks.get_ydata(), [0.3 * lr, 0.09 * lr])
    used = t.curves.query("run == 1").dropna(subset="lr_at_step")
    line = drawn(figure, "lr")[1]
    np.testing.assert_array_equal(line.get_ydata(), used["lr_at_step"])
    above, below = figure.axes[0], figure.axes[1]
    assert above.get_xlim() == below.get_xlim() and below.get_yscale() == "log"


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_slope_to_zero_has_no_drops(schedule: str) -> None:
    t = made_tables.tables([0.1], schedules=[schedule], steps=300)
    assert not drawn(plots.lr_and_loss(t.curves), "drop")


def test_without_a_schedule_there_is_nothing_to_see_of_the_lr() -> None:
    t = made_tables.tables([0.1, 0.2])
    with pytest.raises(plots.NothingToDraw, match="learning rate of every run is constant"):
        plots.lr_and_loss(t.curves)
    with pytest.raises(plots.NothingToDraw, match="no column lr_at_step"):
        plots.lr_and_loss(t.curves.drop(columns="lr_at_step"))


# --- alpha and the stability ratio ----------------------------------------------------------------


def test_the_ratio_of_a_bowl_is_flat_at_half_of_lr_times_its_curvature() -> None:
    lrs = [0.1, 0.4, 1.0]
    t = made_tables.tables(lrs)
    figure = plots.mechanics(t.curves)
    for lr, line in zip(lrs, drawn(figure, "median:stability_ratio"), strict=True):
        np.testing.assert_allclose(line.get_ydata(), lr * made_tables.LAMBDA.max() / 2)
    borders = {line.get_ydata()[0] for line in drawn(figure, "border")}
    assert borders == {1.0, 0.5}
    levels = {line.get_gid(): line.get_ydata()[0] for line in of(figure, "alpha ")}
    assert levels == {"alpha -1": -1.0, "alpha 0": 0.0, "alpha 1": 1.0}


def test_lines_are_medians_of_what_is_within_a_factor_of_the_step() -> None:
    step = np.array([0, 1, 2, 4, 8, 100, 110, 120, 130, 200])
    alpha = np.array([0.0, 5, -1, 2, 3, 1, 9, 2, 4, 7])
    curves = pd.DataFrame({"step": step, "alpha": alpha, "run": 0, "lr": 0.1, "train_loss": 1.0})
    (line,) = drawn(plots.mechanics(curves), "median:alpha")
    expected = [
        np.median(alpha[(step >= s / 1.5) & (step <= s * 1.5)]) if s else alpha[0] for s in step
    ]
    np.testing.assert_allclose(line.get_ydata(), expected)
    assert line.get_ydata()[:5].tolist() == [0, 5, -1, 2, 3], "each early step is its own"


def test_the_rail_stands_over_the_steps_of_the_panel_also_on_its_odd_scale() -> None:
    t = made_tables.tables([0.1, 3.0, 6.0])
    figure = plots.mechanics(t.curves)
    marks = rail_marks(figure)
    lost = t.curves[t.curves["train_loss"].isna() & t.curves["lr_at_step"].notna()]
    assert sorted(marks[:, 0]) == sorted(lost["step"])
    panel = figure.axes[0]
    rail = next(ax for ax in figure.axes if any(c.get_gid() == "nonfinite" for c in ax.collections))
    for x, y in marks:
        there, _ = rail.transData.transform((x, y))
        assert there == pytest.approx(panel.transData.transform((x, 0))[0], abs=0.01)


def test_a_ratio_beyond_the_frame_leaves_it_and_nothing_measured_is_nothing_to_draw() -> None:
    t = made_tables.tables([0.1, 0.4])
    wild = t.curves.copy()
    wild.loc[1, "stability_ratio"] = 1e6
    figure = plots.mechanics(wild)
    assert [mark.get_xdata()[0] for mark in drawn(figure, "above")] == [1.0]
    with pytest.raises(plots.NothingToDraw, match="diagnostics=default"):
        plots.mechanics(made_tables.tables([0.1, 0.4], measured=False).curves)
    only = t.curves.drop(columns="stability_ratio")
    assert len(drawn(plots.mechanics(only), "median:alpha")) == 2


# --- the map --------------------------------------------------------------------------------------


def colours(figure: Figure, lr: float) -> np.ndarray:
    """(columns, 4) of the row of an lr."""
    (row,) = drawn(figure, f"row:{lr:g}")
    return np.asarray(row.get_array()).reshape(-1, 4)


def test_a_row_of_the_map_has_the_colours_of_the_loss() -> None:
    t = made_tables.tables([0.01, 0.5], steps=60)
    figure = plots.heat_map(t.curves)
    bar = next(ax for ax in figure.axes if ax.get_ylabel().startswith("train loss"))
    losses = t.curves.query("run == 1")["train_loss"].to_numpy()
    shown = colours(figure, 0.5)
    assert len(shown) == 60, "a column a step"
    top = made_tables.INITIAL * 1.05
    low = bar.get_ylim()[0]
    for colour, loss in zip(shown, losses[:60], strict=True):
        if loss > top:
            assert to_hex(colour) == heat.WORSE.lower()
        else:
            share = math.log(loss / low) / math.log(top / low)
            np.testing.assert_allclose(colour, heat._MAP(share), atol=0.02)


def test_non_finite_is_black_from_its_step_on_and_a_pruned_run_ends_white() -> None:
    t = made_tables.tables([0.01, 0.1, 3.0], steps=60, pruned=[1])
    lost = t.curves.query("run == 2")
    bad = int(lost.loc[lost["train_loss"].isna(), "step"].iloc[0])
    black = colours(plots.heat_map(t.curves), 3.0)
    assert [to_hex(c) == "#000000" for c in black] == [i >= bad for i in range(60)]
    pruned = colours(plots.heat_map(t.curves), 0.1)
    assert [c[3] == 0 for c in pruned] == [i >= 20 for i in range(60)]


def test_one_of_three_seeds_that_is_lost_does_not_blacken_a_row_two_do() -> None:
    t = made_tables.tables([0.01, 0.1], seeds=3, steps=30)
    lost = t.curves.copy()
    for run, black in ((3, False), (4, True)):
        mine = lost["run"] == run
        lost.loc[mine & (lost["step"] >= 10), "train_loss"] = math.nan
        lost.loc[mine, "state"] = "diverged"
        row = colours(plots.heat_map(lost), 0.1)
        assert [to_hex(c) == "#000000" for c in row] == [black and i >= 10 for i in range(30)]


def test_a_map_needs_two_lrs_and_a_finite_loss() -> None:
    with pytest.raises(plots.NothingToDraw, match="two learning rates"):
        plots.heat_map(made_tables.tables([0.1]).curves)
    t = made_tables.tables([0.1, 0.2])
    with pytest.raises(plots.NothingToDraw, match="finite loss"):
        plots.heat_map(t.curves.assign(train_loss=math.nan))


def test_settings_have_a_map_each() -> None:
    t = made_tables.tables([0.01, 0.1], schedules=["fixed", "cosine", "linear"])
    figure = plots.heat_map(t.curves)
    assert len(drawn(figure, "row:0.1")) == 3
    heads = [x.get_text() for ax in figure.axes for x in ax.texts if x.get_gid() == "head"]
    assert sorted(heads) == ["cosine", "fixed", "linear"]


# --- schedules ------------------------------------------------------------------------------------


def test_schedules_are_ranked_by_the_end_loss_that_the_answer_ranks_by() -> None:
    t = made_tables.tables([0.1, 0.5], schedules=["fixed", "cosine"], seeds=2)
    assert t.verdicts is not None
    names = ["momentum" if run % 2 else "adam" for run in range(8)]  # the seeds' numbers
    curves = t.curves.assign(optimizer=[names[run] for run in t.curves["run"]], seed=0)
    # Against what the train losses say, an order of its own.
    ends = [0.9, 0.8, 0.7, 0.2, 0.5, 0.6, math.nan, 0.55]
    figure = plots.schedules(curves, t.verdicts.assign(end_loss=ends, judged_by="val_loss"))
    lines = sorted(x.get_text() for ax in figure.axes for x in ax.texts if x.get_gid() == "head")
    assert lines == ["0.2 at lr 0.5, momentum", "0.5 at lr 0.1, adam", "cosine", "fixed"]
    told = dict(zip(t.runs["run"], t.runs["schedule"], strict=True))
    assert told[3] == "fixed" and told[4] == "cosine"
    assert "fixed ends lowest" in written(figure)
    assert "lowest validation loss at the end" in written(figure)
    assert [set(line.get_ydata()) for line in drawn(figure, "best of all")] == [{0.2}, {0.2}]


def test_schedules_share_axes_and_each_shows_its_best_lr() -> None:
    t = made_tables.tables([0.05, 0.5, 1.0, 3.0], schedules=["fixed", "cosine", "step"], seeds=2)
    figure = plots.schedules(t.curves)
    panels = [ax for ax in figure.axes if any(line.get_gid() == "best" for line in ax.lines)]
    assert len(panels) == 3
    assert len({ax.get_ylim() for ax in panels}) == len({ax.get_xlim() for ax in panels}) == 1
    for ax, schedule in zip(panels, ("cosine", "fixed", "step"), strict=True):
        finished = t.runs[(t.runs["schedule"] == schedule) & (t.runs["state"] == "finished")]
        best = finished.groupby("lr")["train_loss"].median().idxmin()
        _, told = sorted(x.get_text() for x in ax.texts if x.get_gid() == "head")[::-1]
        assert told.endswith(f" at lr {best:g}")
        assert sum(line.get_gid() == "best" for line in ax.lines) == 2, "both its seeds"
        assert sum(line.get_gid() == "nonfinite" for line in ax.lines) == 2
    ends = t.runs.groupby(["schedule", "lr"])["train_loss"].median().unstack().min(axis=1)
    assert f"{ends.idxmin()} ends lowest" in written(figure) and "90 steps each" in written(figure)


def test_runs_of_another_length_are_counted_and_not_compared() -> None:
    t = made_tables.tables([0.1, 0.5], schedules=["fixed", "cosine"])
    other = made_tables.tables([0.3], schedules=["cosine"], steps=30).curves
    both = pd.concat([t.curves, other.assign(run=99)])
    figure = plots.schedules(both)
    assert "1 with another number of steps not drawn" in written(figure)
    assert len(drawn(figure, "best")) + len(drawn(figure, "other")) == 4
    with pytest.raises(plots.NothingToDraw, match="same schedule"):
        plots.schedules(other)
    apart = pd.concat([t.curves.query("schedule == 'fixed'"), other.assign(run=99)])
    with pytest.raises(plots.NothingToDraw, match="same number of steps"):
        plots.schedules(apart)
