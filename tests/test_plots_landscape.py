"""Figures of the loss in weight space, against a bowl."""

import math

import numpy as np
import pandas as pd
import pytest
from helpers import made_tables
from helpers.drawn import assert_legible, drawn, written

from lrlab import plots


def test_the_textbook_picture_has_start_landing_parabola_and_alpha_of_each_lr() -> None:
    lines = made_tables.lines()
    figure = plots.textbook(lines, unit="nats")
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss of the mini-batch (nats)", "", ""]
    for ax, (role, part) in zip(figure.axes, lines.groupby("role", sort=False), strict=True):
        found = {line.get_gid(): line for line in ax.lines}
        length = (part["distance"] / part["t"]).iloc[-1]
        lr = part["lr"].iloc[0]
        at_landing = 2.3 * ((1 - lr * made_tables.LAMBDA) ** 2).mean() + made_tables.FLOOR
        assert found["start"].get_xdata()[0] == 0
        assert found["start"].get_ydata()[0] == pytest.approx(made_tables.INITIAL, rel=2e-3)
        assert found["landing"].get_xdata()[0] == pytest.approx(length)
        assert found["landing"].get_ydata()[0] == pytest.approx(at_landing, rel=2e-3)
        # On a bowl the parabola is the loss itself.
        inner = np.interp(part["distance"], *found["parabola"].get_data())
        np.testing.assert_allclose(found["loss"].get_ydata(), inner, rtol=1e-3)
        lowest = 1 / (part["alpha"].iloc[0] + 1)
        if lowest <= 1.5:
            assert found["minimum"].get_xdata()[0] == pytest.approx(lowest * length)
            assert found["minimum"].get_ydata()[0] <= part["loss"].min() + 1e-6
        else:
            assert "minimum" not in found
        heads = [text.get_text() for text in ax.texts if text.get_gid() == "head"]
        assert f"{role}: lr {lr:g}" in heads
        assert f"alpha {part['alpha'].iloc[0]:+.2f}".replace("-", "−") in " ".join(heads)
        low, high = ax.get_ylim()
        assert low < found["landing"].get_ydata()[0] < high
    assert "state at step 30" in written(figure)


def test_a_role_that_is_missing_or_not_finite_leaves_the_others() -> None:
    lines = made_tables.lines()
    figure = plots.textbook(lines[lines["role"] != "large"].drop(columns="distance"))
    assert len(figure.axes) == 2 and figure.axes[0].get_xlabel() == "update lengths"
    assert_legible(figure)
    wild = lines.copy()
    wild.loc[(wild["role"] == "large") & (wild["t"] > 0.4), "loss"] = math.inf
    wild.loc[wild["role"] == "large", ["w0", "w1", "w2", "alpha"]] = math.nan
    figure = plots.textbook(wild)
    assert len(drawn(figure, "loss")) == 3 and len(drawn(figure, "landing")) == 2
    assert "not finite where it lands" in written(figure)
    assert_legible(figure)
    with pytest.raises(plots.NothingToDraw):
        plots.textbook(lines.assign(loss=math.nan))
    with pytest.raises(plots.NothingToDraw, match="no column alpha"):
        plots.textbook(lines.drop(columns="alpha"))


def test_ways_over_the_surface_are_those_of_the_table_and_one_leaves() -> None:
    paths = made_tables.paths()
    figure = plots.surface(made_tables.surface(), paths)
    ways = sorted(drawn(figure, "path"), key=lambda line: len(line.get_xdata()))
    assert len(ways) == 4
    inside = paths[paths["lr"] == 1.95]
    same = [line for line in ways if np.array_equal(line.get_xdata(), inside["x"])]
    assert len(same) == 1
    np.testing.assert_array_equal(same[0].get_ydata(), inside["y"])
    (leaves,) = drawn(figure, "leaves")
    out = paths[(paths["lr"] == 2.3)]
    first = int(np.argmax(np.abs(out["y"]) > 2))
    assert leaves.get_xdata()[0] == out["x"].iloc[first - 1]
    assert len(drawn(figure, "end")) == 3
    assert "leaves the frame" in written(figure)
    assert "80 to 86 % of each path's variance" in written(figure)
    ax = figure.axes[0]
    assert ax.get_xlim() == (-1.5, 4.5) and ax.get_ylim() == (-2.0, 2.0)
    per_unit = np.diff(ax.transData.transform([(0, 0), (1, 1)]), axis=0)[0]
    assert per_unit[0] == pytest.approx(per_unit[1]), "both axes have one scale"


@pytest.mark.parametrize("flat", [0.3, 0.2, 0.05])
def test_a_flat_plane_fills_its_sheet_without_a_blank_above_it(flat: float) -> None:
    surface, paths = made_tables.surface(), made_tables.paths([0.3, 1.0])
    for table in (surface, paths):
        table["y"] *= flat * 6 / 4  # the plane is 6 wide and 4 high
    figure = plots.surface(surface, paths)
    assert_legible(figure)
    ax = figure.axes[0]
    ax.apply_aspect()
    place, drawn_in = ax.get_position(original=True), ax.get_position()
    blank = (place.height - drawn_in.height) * figure.get_figheight()
    assert blank < (0.05 if flat >= 0.2 else 1.2), "inches"


def test_many_ways_have_a_colour_bar_and_one_way_needs_none() -> None:
    lrs = [float(lr) for lr in np.geomspace(0.01, 1.9, 13)]
    figure = plots.surface(made_tables.surface(), made_tables.paths(lrs))
    assert len(drawn(figure, "path")) == 13
    assert "lr" in [ax.get_title(loc="left") for ax in figure.axes]
    assert_legible(figure)
    one = plots.surface(made_tables.surface(), made_tables.paths([0.3] * 9))
    assert_legible(one)


def test_a_surface_with_holes_or_negative_losses_is_drawn_and_none_is_not() -> None:
    surface, paths = made_tables.surface(), made_tables.paths()
    holes = surface.copy()
    holes.loc[:30, "loss"] = [math.inf, math.nan] * 15 + [math.inf]
    for table in (holes, surface.assign(loss=surface["loss"] - 1), surface.assign(loss=1.0)):
        figure = plots.surface(table, paths)
        assert len(drawn(figure, "path")) == 4
        assert_legible(figure)
    for table, ways in (
        (surface.assign(loss=math.nan), paths),
        (surface.iloc[:0], paths),
        (surface, paths.iloc[:0]),
        (surface[surface["y"] == 0], paths),
    ):
        with pytest.raises(plots.NothingToDraw):
            plots.surface(table, ways)


def test_a_way_that_becomes_non_finite_ends_there() -> None:
    paths = made_tables.paths([0.3])
    paths.loc[5:, ["x", "y"]] = math.nan
    figure = plots.surface(made_tables.surface(), paths)
    (way,) = drawn(figure, "path")
    assert len(way.get_xdata()) == 5 and len(drawn(figure, "leaves")) == 1
    nowhere = pd.concat([paths.assign(x=math.nan), made_tables.paths([0.5]).assign(run=1)])
    assert len(drawn(plots.surface(made_tables.surface(), nowhere), "path")) == 1
