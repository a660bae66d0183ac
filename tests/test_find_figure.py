"""The figure of the range test, and what is told of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrlab.errors import NotWritten
from lrlab.find import Found, Options, sweep_command, told
from lrlab.range_test import figure as find_plot
from lrlab.range_test import misleading
from lrlab.range_test.command import draw
from lrlab.range_test.constants import read_constants
from lrlab.range_test.ramp import read_ramp
from lrlab.range_test.rates import lr_grid

pytestmark = pytest.mark.unit


def made(ramp_loss: Any, losses: Any, low: float = 1e-4, high: float = 10.0) -> Found:
    """What is found from given curves."""
    ramp_loss, losses = np.asarray(ramp_loss, float), np.asarray(losses, float)
    ramp_lr = lr_grid(low, high, len(ramp_loss))
    grid = lr_grid(low, high, losses.shape[1])
    ramp = read_ramp(ramp_lr, ramp_loss)
    constants = read_constants(grid, losses)
    options = Options(low, high, losses.shape[1], max(len(losses), 10), max(len(ramp_loss), 10))
    misleads = tuple(misleading.where_the_ramp_misleads(ramp, constants))
    sweep = misleading.sweep_range(constants)
    return Found(options, ramp_lr, ramp_loss, grid, losses, ramp, constants, misleads, sweep)


SHAPE = np.concatenate([np.full(40, 2.3), np.linspace(2.3, 0.5, 30), np.linspace(0.6, 30, 30)])
ENDS = np.array([2.3, 2.2, 1.0, 0.2, 0.3, 2.31, 50.0, np.nan])
TABLE = np.linspace(np.full(8, 2.3), ENDS, 50)
FIGURES = {
    "usual": made(SHAPE, TABLE),
    "negative": made(SHAPE - 10, TABLE - 10),
    "nothing finite": made(np.full(100, np.nan), np.full((50, 4), np.nan)),
    "flat": made(np.full(100, 2.3), np.full((50, 4), 2.3)),
    "short": made(SHAPE[:12], TABLE[:12]),
    "many": made(SHAPE, np.repeat(TABLE, 16, axis=1)),
}


@pytest.mark.full(after=2)
@pytest.mark.parametrize("name", FIGURES)
def test_every_case_can_be_drawn(name: str, tmp_path: Path) -> None:
    figure = find_plot.range_test(FIGURES[name], "a title")
    figure.savefig(tmp_path / "find.png")
    main_axes, strip = figure.axes
    assert main_axes.get_xscale() == "log" and main_axes.get_xlabel() == "learning rate"
    assert main_axes.get_yscale() == ("log" if name in ("usual", "many") else "linear")
    names = [label.get_text() for label in strip.get_yticklabels()]
    assert names[::-1][:4] == ["steepest", "valley", "minimum/10", "best constant"]


def test_the_figure_shows_what_was_found() -> None:
    found = FIGURES["usual"]
    figure = find_plot.range_test(found)
    axes, strip = figure.axes
    lines = {line.get_gid(): line for line in axes.lines if line.get_gid()}
    np.testing.assert_array_equal(lines["smooth"].get_ydata(), found.ramp.smooth)
    np.testing.assert_array_equal(lines["raw"].get_xdata(), found.ramp_lr)
    grid, failed = found.constant_lr, np.array([0, 0, 0, 0, 0, 1, 1, 1], bool)
    np.testing.assert_array_equal(lines["constant"].get_xdata(), grid[~failed])
    np.testing.assert_array_equal(lines["failed"].get_xdata(), grid[failed])
    np.testing.assert_array_equal(lines["rail"].get_xdata(), grid[-2:])  # 50 and NaN
    marks = {str(line.get_gid()): line for line in strip.lines}
    for each in found.ramp.suggestions:
        assert each.lr is not None
        assert marks[f"mark {each.rule}"].get_xdata()[0] == each.lr
    assert marks["mark best constant"].get_xdata()[0] == found.best
    assert marks["mark constant fails"].get_xdata()[0] == found.constants.fails_from
    (text,) = (t.get_text() for t in figure.texts if t.get_gid() == "misleads")
    assert all(" ".join(line.split()) in " ".join(text.split()) for line in found.misleads)


@pytest.mark.parametrize("as_good", [(3, 3), (3, 4)])
def test_the_shade_ends_at_the_lrs_that_were_tried(as_good: tuple[int, int]) -> None:
    ends = ENDS.copy()
    ends[as_good[1]] = ends[as_good[0]]
    found = made(SHAPE, np.linspace(np.full(8, 2.3), ends, 50))
    first, last = found.constant_lr[[*as_good]]
    assert found.constants.as_good == (first, last)
    axes = find_plot.range_test(found).axes[0]
    (good,) = (patch for patch in axes.patches if patch.get_gid() == "good")
    left, right = good.get_extents().transformed(axes.transData.inverted()).intervalx
    # One lr is a mark of under 1% of the axis, which spans five decades, to either side.
    wide = 0.05 if first == last else 1e-9
    assert abs(math.log10(left / first)) <= wide and abs(math.log10(right / last)) <= wide
    assert ("constant lrs" in str(good.get_label())) == (first < last)


def test_what_is_told_is_what_was_found() -> None:
    found = FIGURES["usual"]
    text = told(found, sweep_command(found, ["network=cnn", "name=x"]))
    assert "constant lr" in text and f"{found.best:.3g} did best" in text
    assert "next   python -m lrlab.sweep network=cnn lr=" in text and "name=x" not in text
    for line in found.misleads:
        assert line in text
    flat = told(FIGURES["flat"], sweep_command(FIGURES["flat"]))
    first, second, *_ = flat.splitlines()
    assert first == "find: the training loss judges the learning rates"
    assert second.startswith("find: no learning rate to suggest: no lr brought the loss below")
    assert "the ramp's steepest   none, the loss does not fall up to lr 10" in flat


def test_a_plot_that_fails_is_a_line_and_what_cannot_be_written_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = next(iter(FIGURES.values()))
    assert draw(found, "a title", tmp_path) == ""
    assert (tmp_path / "find.png").is_file()
    (tmp_path / "file").touch()
    with pytest.raises(NotWritten):
        draw(found, "a title", tmp_path / "file")
    monkeypatch.setattr(find_plot, "range_test", lambda *_: {}["no\nsuch"])
    assert draw(found, "a title", tmp_path) == r"KeyError: 'no\nsuch'"
