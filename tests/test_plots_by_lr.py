"""Figures over the learning rate: what they show is what the tables say."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import made_tables
from helpers.drawn import assert_legible, drawn, rail_marks, ribbons, written
from matplotlib.figure import Figure

from lrlab import plots
from lrlab.plots import style
from lrlab.verdicts.answer import Answer
from lrlab.verdicts.recommend import recommend


def end_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    fixed = {"seed": 0, "state": "finished", "train_loss": 0.1, "test_loss": 0.2, "loss": "nll"}
    fixed |= {"train_acc": 0.97, "test_acc": 0.95, "num_classes": 10}
    return pd.DataFrame([{**fixed, "run": i, **row} for i, row in enumerate(rows)])


def judged(outcomes: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"run": range(len(outcomes)), "outcome": outcomes})


# --- outcomes and the recommendation --------------------------------------------------------------


def test_the_ribbon_names_the_outcomes_from_halfway_to_halfway() -> None:
    runs = end_table([{"lr": lr} for lr in (0.01, 0.1, 1.0, 10.0)])
    verdicts = judged(["undershooting", "converged", "converged", "collapsed"])
    figure = plots.lr_against_loss(runs, verdicts)
    (ribbon,) = ribbons(figure)
    assert [outcome for *_, outcome in ribbon] == ["undershooting", "converged", "collapsed"]
    np.testing.assert_allclose(ribbon[1][:2], [10**-1.5, 10**0.5])
    limits = figure.axes[0].get_xlim()
    np.testing.assert_allclose([ribbon[0][0], ribbon[-1][1]], limits)


def test_each_lr_has_the_colour_and_shape_of_what_most_of_its_seeds_did() -> None:
    rows = [{"lr": lr, "seed": seed} for lr in (0.1, 1.0) for seed in range(3)]
    verdicts = judged(["converged"] * 2 + ["overshooting"] + ["converged"] + ["collapsed"] * 2)
    figure = plots.lr_against_loss(end_table(rows), verdicts)
    for outcome, lr in (("converged", 0.1), ("collapsed", 1.0)):
        (mark,) = drawn(figure, f"outcome:{outcome}")
        assert mark.get_xdata().tolist() == [lr]
        assert mark.get_color() == style.OUTCOMES[outcome].colour
        assert mark.get_marker() == style.OUTCOMES[outcome].shape
    assert not drawn(figure, "outcome:overshooting")
    assert style.majority(["converged", "collapsed"]) == "collapsed", "a tie warns"
    assert style.majority([]) == style.majority(["nonsense"]) == ""


def test_the_recommended_range_is_shaded_and_the_best_is_a_line() -> None:
    runs = end_table([{"lr": lr} for lr in (0.01, 0.1, 1.0)])
    answer = Answer(settings={}, best_lr=0.1, as_good=(0.05, 0.2))
    for figure in (
        plots.lr_against_loss(runs, answers=[answer]),
        plots.lr_against_accuracy(runs, answers=[answer]),
    ):
        (span,) = [p for p in figure.axes[0].patches if p.get_gid() == "recommended"]
        box = span.get_path().get_extents(span.get_patch_transform())
        np.testing.assert_allclose([box.x0, box.x1], [0.05, 0.2])
        assert drawn(figure, "best")[0].get_xdata()[0] == 0.1
        assert "recommended: lr 0.1; as good from 0.05 to 0.2" in written(figure)
    one = plots.lr_against_loss(runs, answers=[Answer({}, best_lr=0.1, as_good=(0.1, 0.1))])
    assert "recommended: lr 0.1" in written(one) and "as good" not in written(one)
    none = plots.lr_against_loss(runs, answers=[Answer({}, refusal="nothing was learned")])
    assert "recommended" not in written(none) and not drawn(none, "best")


def test_several_settings_have_a_ribbon_each_and_keep_their_colours() -> None:
    t = made_tables.tables([0.01, 0.1, 1.0], schedules=["fixed", "cosine"])
    figure = plots.lr_against_loss(t.runs, t.verdicts, t.answers)
    assert len(ribbons(figure)) == 2
    assert len({line.get_color() for line in drawn(figure, "median:val_loss")}) == 2
    assert not [line for ax in figure.axes for line in ax.lines if line.get_gid() == "outcome:x"]
    assert_legible(figure)


def test_many_settings_have_a_colour_and_shape_or_a_dash_of_their_own() -> None:
    names = [f"setting {i:02}" for i in range(49)]
    hues, shapes = style.looks(names, style.HUES), style.looks(names, style.SHAPES, shift=1)
    assert len({(hues[name], shapes[name]) for name in names}) == 49
    assert len(set(map(str, style.dashes(names).values()))) == 49
    assert list(style.dashes(names[:6]).values()) == list(style.DASHES), "few have plain ones"
    t = made_tables.tables([0.1], schedules=["fixed"] * 16, measured=False)
    runs = t.runs.assign(schedule=[f"s{i:02}" for i in range(16)])
    lines = drawn(plots.lr_against_loss(runs), "median:val_loss")
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 16
    judged = pd.DataFrame({"run": range(16), "lr": 0.1, "steps_to_target": 5.0})
    judged["schedule"] = runs["schedule"]
    lines = drawn(plots.to_target(judged), "median:steps_to_target")
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 16


def test_the_band_spans_the_seeds() -> None:
    rows = [
        {"lr": lr, "seed": i, "train_loss": loss}
        for lr, losses in ((0.1, (0.2, 0.3, 0.9)), (1.0, (0.4, 0.5, 0.6)))
        for i, loss in enumerate(losses)
    ]
    (band,) = drawn(plots.lr_against_loss(end_table(rows)), "band:train_loss")
    points = {tuple(np.round(p, 6)) for p in band.get_paths()[0].vertices}
    assert {(0.1, 0.2), (0.1, 0.9), (1.0, 0.4), (1.0, 0.6)} <= points


@pytest.mark.parametrize("guess", [5.0, None])
def test_neither_an_offset_nor_a_guess_far_from_the_ends_squashes_them(guess: float | None) -> None:
    ends = (9e5, 3.0, 0.01, 0.02, 4.0)
    lrs = (1e-4, 1e-2, 0.1, 0.2, 0.5)
    rows = [{"lr": lr, "val_loss": end} for lr, end in zip(lrs, ends, strict=True)]
    told = {"initial_loss": 1e6, "loss": "mse", "chance_loss": math.nan if guess is None else guess}
    figure = plots.lr_against_loss(end_table(rows).assign(**told))
    low, high = figure.axes[0].get_ylim()
    assert low < 0.01, "what came down from 1e6 to 0.01 stays in the frame"
    if guess is None:
        assert high > 9e5
        return
    assert 15 <= high < 20, "three times what the best constant costs"
    assert len(drawn(figure, "above")) == 1, "the run that is still at its start is marked"
    assert "5 (best constant)" in written(figure) and "at the start" not in written(figure)
    assert_legible(figure)


def test_a_guess_above_the_initial_loss_is_a_line_where_runs_come_near() -> None:
    rows = [{"lr": lr, "val_loss": end} for lr, end in ((0.01, 0.4), (0.1, 0.05), (1.0, 2.3))]
    figure = plots.lr_against_loss(end_table(rows).assign(initial_loss=0.5, chance_loss=2.3))
    assert figure.axes[0].get_ylim()[1] > 2.3 and drawn(figure, "chance")


def test_guessing_the_largest_class_is_what_accuracies_are_set_against() -> None:
    runs = end_table([{"lr": lr, "val_acc": acc} for lr, acc in ((0.1, 0.96), (1.0, 0.955))])
    (line,) = drawn(plots.lr_against_accuracy(runs.assign(majority_share=0.95)), "chance")
    assert line.get_ydata()[0] == 95.0
    (line,) = drawn(plots.lr_against_accuracy(runs), "chance")
    assert line.get_ydata()[0] == 10.0, "of ten classes, where the share is not known"


def test_a_pruned_run_is_no_field_of_the_ribbon() -> None:
    runs = end_table([{"lr": lr} for lr in (0.01, 0.1, 1.0)])
    figure = plots.lr_against_loss(runs, judged(["undershooting", "pruned", "overshooting"]))
    (ribbon,) = ribbons(figure)
    assert [outcome for *_, outcome in ribbon] == ["undershooting", "overshooting"]
    assert ribbon[0][1] < 0.1 < ribbon[1][0], "nothing is said of the lr between"
    assert style.majority(["pruned", "pruned", "converged"]) == "converged"


def test_references_far_above_all_ends_do_not_squash_them() -> None:
    rows = [{"lr": lr, "initial_loss": 2.3, "chance_loss": math.log(10)} for lr in (0.1, 1.0)]
    assert not drawn(plots.lr_against_loss(end_table(rows)), "chance")
    high = end_table(rows).assign(train_loss=[0.1, 2.2])
    assert drawn(plots.lr_against_loss(high), "chance")


# --- what decides ---------------------------------------------------------------------------------


# Each of these has another best lr: 0.1 by val loss, 1.0 by train loss, 10 by val accuracy.
DECIDED = [
    {"lr": 0.1, "val_loss": 0.30, "train_loss": 0.20, "test_loss": 0.5, "val_acc": 0.90},
    {"lr": 1.0, "val_loss": 0.40, "train_loss": 0.10, "test_loss": 0.3, "val_acc": 0.92},
    {"lr": 10.0, "val_loss": 0.35, "train_loss": 0.15, "test_loss": 0.4, "val_acc": 0.94},
]


def decided(ends: list[float]) -> tuple[pd.DataFrame, list[Answer]]:
    """Verdicts by val loss with these ends, and the answer that lrlab gives to them."""
    verdicts = judged(["converged"] * len(ends))
    verdicts = verdicts.assign(
        lr=[row["lr"] for row in DECIDED], end_loss=ends, judged_by="val_loss", initial_loss=2.3
    )
    return verdicts, recommend(verdicts)


def best_of(figure: Figure) -> float:
    (line,) = drawn(figure, "best")
    return line.get_xdata()[0]


def test_what_decides_is_drawn_first_and_the_best_lr_is_at_its_minimum() -> None:
    runs = end_table(DECIDED)
    verdicts, answers = decided([0.30, 0.40, 0.35])
    figure = plots.lr_against_loss(runs, verdicts, answers)
    (val,), (train,), (test,) = (
        drawn(figure, f"median:{part}_loss") for part in ("val", "train", "test")
    )
    assert val.get_ydata().tolist() == [0.30, 0.40, 0.35]
    assert best_of(figure) == val.get_xdata()[np.argmin(val.get_ydata())] == 0.1
    assert val.get_linewidth() > max(train.get_linewidth(), test.get_linewidth())
    assert val.get_zorder() > max(train.get_zorder(), test.get_zorder())
    assert val.get_linestyle() == "-"
    assert len({str(line._dash_pattern) for line in (val, train, test)}) == 3
    (mark,) = drawn(figure, "outcome:converged")
    assert mark.get_ydata().tolist() == val.get_ydata().tolist()
    said = written(figure)
    assert 0 < said.index("val loss (decides)") < said.index("train loss") < said.index("test loss")
    assert "recommended: lr 0.1" in said
    assert_legible(figure)


def test_the_val_loss_is_the_one_that_the_recommendation_rests_on() -> None:
    """Of a long run the median of the last evaluations, not the last of them."""
    verdicts, answers = decided([0.5, 0.2, 0.6])
    figure = plots.lr_against_loss(end_table(DECIDED), verdicts, answers)
    (val,) = drawn(figure, "median:val_loss")
    assert val.get_ydata().tolist() == [0.5, 0.2, 0.6] and best_of(figure) == 1.0
    of_a_csv = pd.DataFrame({"run": range(3), "lr": [0.1, 1.0, 10.0]})
    figure = plots.lr_against_loss(of_a_csv, verdicts.assign(train_end_loss=0.1), answers)
    (val,) = drawn(figure, "median:val_loss")
    assert val.get_ydata().tolist() == [0.5, 0.2, 0.6] and drawn(figure, "median:train_loss")


@pytest.mark.parametrize(
    ("objective", "word", "best"),
    [("val_acc", "val accuracy", 10), ("train_loss", "train loss", 1)],
)
def test_another_objective_decides_and_the_legend_tells_it_from_the_recommendation(
    objective: str, word: str, best: float
) -> None:
    verdicts, answers = decided([0.30, 0.40, 0.35])
    for draw, kind in ((plots.lr_against_loss, "loss"), (plots.lr_against_accuracy, "acc")):
        figure = draw(end_table(DECIDED), verdicts, answers, objective=objective)
        said = written(figure)
        assert best_of(figure) == best and f"best by {word}: lr {best}" in said
        assert "recommended by val loss: lr 0.1" in said
        assert said.count("(decides)") == objective.endswith(kind)
        if objective.endswith(kind):
            assert f"{word} (decides)" in said
            (line,) = drawn(figure, f"median:{objective}")
            found = np.argmin(line.get_ydata()) if kind == "loss" else np.argmax(line.get_ydata())
            assert line.get_xdata()[found] == best
            assert line.get_linestyle() == "-"
        assert_legible(figure)


def test_a_setting_without_val_loss_is_drawn_beside_many_that_have_one() -> None:
    rows = [{**row, "schedule": f"s{i}"} for i in range(4) for row in DECIDED]
    lines = drawn(plots.lr_against_loss(end_table(rows)), "median:train_loss")
    assert lines == []
    some = end_table(rows)
    some.loc[some["schedule"] == "s0", "val_loss"] = math.nan
    assert len(drawn(plots.lr_against_loss(some), "median:train_loss")) == 4


def test_runs_without_validation_data_are_judged_by_train_loss() -> None:
    runs = end_table(DECIDED).drop(columns=["val_loss", "val_acc"])
    verdicts, _ = decided([0.20, 0.10, 0.15])
    verdicts = verdicts.assign(judged_by="train_loss")
    figure = plots.lr_against_loss(runs, verdicts, recommend(verdicts))
    assert not drawn(figure, "median:val_loss") and "val loss" not in written(figure)
    assert "train loss (decides)" in written(figure) and best_of(figure) == 1.0
    assert "recommended by train loss" in written(
        plots.lr_against_accuracy(runs, verdicts, recommend(verdicts))
    )
    assert "decides" not in written(plots.lr_against_loss(runs)), "nobody has judged them"


# --- accuracy -------------------------------------------------------------------------------------


def test_equal_lengths_of_the_accuracy_axis_are_equal_ratios_of_errors() -> None:
    rows = [{"lr": lr, "train_acc": a} for lr, a in ((0.1, 0.9), (0.2, 0.99), (0.3, 0.999))]
    figure = plots.lr_against_accuracy(end_table(rows))
    ax = figure.axes[0]
    (line,) = drawn(figure, "median:train_acc")
    np.testing.assert_allclose(line.get_ydata(), [90, 99, 99.9])
    heights = [ax.transData.transform((0.1, y))[1] for y in (90, 99, 99.9)]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1])
    assert ax.get_ylim()[1] < 100 and "%" in ax.get_ylabel()
    inside = [t for t in ax.get_yticks() if ax.get_ylim()[0] <= t <= ax.get_ylim()[1]]
    assert {90.0, 99.0, 99.9} <= set(inside)
    assert drawn(figure, "chance")[0].get_ydata()[0] == 10.0


def test_poor_accuracies_have_an_ordinary_axis_and_perfect_ones_a_place() -> None:
    poor = plots.lr_against_accuracy(
        end_table(
            [{"lr": 0.1, "train_acc": 0.5, "test_acc": 0.4}, {"lr": 1.0, "train_acc": 0.3}]
        ).assign(test_acc=0.2)
    )
    assert poor.axes[0].get_yscale() == "linear"
    perfect = plots.lr_against_accuracy(end_table([{"lr": 0.1, "train_acc": 1.0, "test_acc": 1}]))
    top = drawn(perfect, "median:train_acc")[0].get_ydata()[0]
    low, high = perfect.axes[0].get_ylim()
    assert low < top <= high < 100
    assert_legible(perfect)


def test_a_diverged_seed_counts_as_the_worst_accuracy() -> None:
    rows: list[dict[str, Any]] = [
        {"lr": 0.1, "seed": s, "train_acc": a} for s, a in enumerate((0.8, 0.9))
    ]
    rows.append({"lr": 0.1, "seed": 2, "state": "diverged", "train_acc": math.nan})
    figure = plots.lr_against_accuracy(end_table(rows))
    assert drawn(figure, "median:train_acc")[0].get_ydata().tolist() == [80.0]
    assert len(rail_marks(figure)) == 1
    without = end_table(rows).assign(train_acc=math.nan, test_acc=math.nan)
    with pytest.raises(plots.NothingToDraw, match="no run has an accuracy"):
        plots.lr_against_accuracy(without)


# --- the way to a target --------------------------------------------------------------------------


def to_target(rows: list[dict[str, Any]]) -> pd.DataFrame:
    fixed = {"seed": 0, "target_loss": 0.25, "unit": "step", "judged_by": "val_loss"}
    return pd.DataFrame([{**fixed, "run": i, **row} for i, row in enumerate(rows)])


def test_runs_that_never_came_there_stand_on_the_rail_and_slow_their_median() -> None:
    inf = math.inf
    rows = [
        *({"lr": 0.1, "seed": s, "steps_to_target": v} for s, v in enumerate((100, 300, inf))),
        *({"lr": 1.0, "seed": s, "steps_to_target": v} for s, v in enumerate((50, inf, inf))),
        *({"lr": 0.01, "seed": s, "steps_to_target": v} for s, v in enumerate((900, 800, 700))),
    ]
    rows = [{**row, "seconds_to_target": row["steps_to_target"] / 10} for row in rows]
    figure = plots.to_target(to_target(rows))
    assert sorted(rail_marks(figure, "never")[:, 0]) == [0.1, 1.0, 1.0]
    assert "target not reached: 3 of 9 runs" in written(figure)
    assert "a val loss of 0.25" in written(figure)
    for name, unit in (("steps_to_target", 1), ("seconds_to_target", 10)):
        (line,) = drawn(figure, f"median:{name}")
        np.testing.assert_allclose(line.get_xdata(), [0.01, 0.1, 1.0])
        np.testing.assert_allclose(line.get_ydata(), np.array([800, 300, math.nan]) / unit)
        assert len(drawn(figure, f"seeds:{name}")[0].get_xdata()) == 6
        assert drawn(figure, f"fastest:{name}")[0].get_xdata() == [0.1]
    assert [ax.get_ylabel() for ax in figure.axes[:2]] == [
        "steps to target",
        "seconds of training to target",
    ]
    assert all(ax.get_xscale() == ax.get_yscale() == "log" for ax in figure.axes[:2])
    assert_legible(figure)


def test_without_seconds_there_is_one_panel_and_where_all_are_equal_none_is_the_fastest() -> None:
    rows = [{"lr": lr, "steps_to_target": 3.0, "unit": "epoch"} for lr in (0.1, 0.2, 0.3)]
    figure = plots.to_target(to_target(rows))
    assert [ax.get_ylabel() for ax in figure.axes] == ["epochs to target"]
    assert not drawn(figure, "fastest:steps_to_target") and "fastest" not in written(figure)


def test_nobody_there_is_still_a_picture_and_no_target_is_none() -> None:
    figure = plots.to_target(to_target([{"lr": 0.1, "steps_to_target": math.inf}]))
    assert len(rail_marks(figure, "never")) == 1
    assert_legible(figure)
    with pytest.raises(plots.NothingToDraw, match="no run has a target"):
        plots.to_target(to_target([{"lr": 0.1, "steps_to_target": math.nan}]))


# --- the branch test ------------------------------------------------------------------------------


def test_gains_stand_at_their_lr_and_what_blew_up_at_the_edge() -> None:
    t = made_tables.tables([0.01, 0.3, 1.55])
    assert t.branches is not None and t.verdicts is not None
    figure = plots.branch_fan(t.branches, t.verdicts, t.curves)
    gains = t.verdicts.set_index("lr")
    (low,) = drawn(figure, "gain_low")
    np.testing.assert_allclose(low.get_ydata(), gains["gain_low"])
    (high,) = drawn(figure, "gain_high")
    np.testing.assert_allclose(high.get_ydata(), gains["gain_high"].iloc[:2])
    assert math.isinf(gains["gain_high"].iloc[2]), "3 × 1.55 is above what is stable"
    (lost,) = drawn(figure, "lost:gain_high")
    assert lost.get_xdata().tolist() == [1.55]
    assert lost.get_ydata()[0] == pytest.approx(-1.0)


def test_a_fan_has_three_branches_that_begin_where_the_run_ended() -> None:
    t = made_tables.tables([0.01, 0.3, 1.55], steps=80)
    assert t.branches is not None
    figure = plots.branch_fan(t.branches, t.verdicts, t.curves)
    for multiplier in made_tables.MULTIPLIERS:
        found = drawn(figure, f"branch:{multiplier:g}")
        assert len(found) == 3
        assert all(line.get_xdata()[0] == 80 for line in found if len(line.get_xdata()))
    assert (
        len({line.get_color() for m in (0.1, 1, 3) for line in drawn(figure, f"branch:{m:g}")}) == 3
    )
    for before, same in zip(drawn(figure, "before"), drawn(figure, "branch:1"), strict=True):
        assert before.get_xdata()[-1] == 79
        assert before.get_ydata()[-1] == pytest.approx(same.get_ydata()[0], rel=0.25)
    (cross,) = drawn(figure, "nonfinite")
    part = t.branches[(t.branches["lr"] == 1.55) & (t.branches["multiplier"] == 3)]
    assert cross.get_xdata()[0] == part.loc[part["train_loss"].isna(), "step"].iloc[0]
    fans = plots.branch_fan(t.branches)
    assert not drawn(fans, "gain_low") and len(drawn(fans, "branch:3")) == 3
    assert_legible(fans)


def test_of_many_runs_some_fans_are_drawn_and_all_gains() -> None:
    t = made_tables.tables([float(lr) for lr in np.geomspace(0.001, 1.55, 40)])
    assert t.branches is not None
    figure = plots.branch_fan(t.branches, t.verdicts)
    assert len(drawn(figure, "branch:1")) == 9
    assert "9 of 40 runs drawn below" in written(figure)
    points = [*drawn(figure, "gain_high"), *drawn(figure, "lost:gain_high")]
    assert sum(len(line.get_xdata()) for line in points) == 40
    with pytest.raises(plots.NothingToDraw, match="no branch test"):
        plots.branch_fan(t.branches.iloc[:0])
