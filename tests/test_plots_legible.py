"""Every figure, of 3, 13 and 100 runs: no text on another, no axis without a name, safe colours."""

import functools
import itertools
import re
from typing import Any

import numpy as np
import pytest
from helpers import made_tables
from helpers.drawn import assert_legible, drawn, rail_marks, written
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from lrlab import plots
from lrlab.plots import style
from lrlab.plots.figures import heat, landscape

# Of one fixed schedule there is nothing to draw.
NO_SCHEDULES = {"lr_and_loss", "schedules", "lr_by_setting"}
SAFE = {
    *map(str.lower, style.HUES),
    style.RECOMMENDED,
    *(look.colour.lower() for look in style.OUTCOMES.values()),
    *(to_hex(style.MAP(i)) for i in range(256)),
    *(to_hex(landscape._GREYS(i)) for i in range(256)),
}


@functools.cache
def tables(case: str) -> plots.Tables:
    match case:
        case "3":
            return made_tables.tables([0.01, 0.3, 3.0])
        case "13":
            return made_tables.tables(13, pruned=[3, 5], failed=[1])
        case "100":
            return made_tables.tables(100, pruned=range(20, 40, 3), failed=[2, 50, 90])
        case "seeds and schedules":
            return made_tables.tables(5, seeds=2, schedules=list(made_tables.SCHEDULES))
    raise AssertionError(case)


CASES = ("3", "13", "100", "seeds and schedules")
FIGURES = [
    (name, case)
    for name, case in itertools.product(plots.NAMES, CASES)
    if (case == CASES[-1] or name not in NO_SCHEDULES)
    and (case != "3" or name == "loss_curves")  # one figure of few runs is as the others
    and name != "importances"  # of a search, see test_plots_pooled
    and (case == "13" or name not in ("textbook", "surface"))  # which know no number of runs
]


def named(figure: Figure) -> list[str]:
    """The names of all axes that have numbers."""
    return [
        axis.get_label_text()
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        if axis.get_label_text()
    ]


@pytest.mark.full(after=2)
@pytest.mark.parametrize(("name", "case"), FIGURES)
def test_a_figure_is_legible_names_its_axes_and_counts_its_runs(name: str, case: str) -> None:
    figure = plots.figure(name, tables(case))
    assert_legible(figure)
    assert_safe_colours(figure)
    assert figure.get_figwidth() == pytest.approx(8.6)
    assert figure.get_figheight() < 11, "a page holds it"
    names = named(figure)
    assert len(names) >= (1 if name == "lr_by_setting" else 2)  # its rows have names
    for axis in names:
        if "loss" in axis and "step" not in axis:
            assert re.search(r"nats|log loss", axis), f"{axis!r} has no unit"
    states = tables(case).runs["state"]
    if name in ("loss_curves", "lr_and_loss", "lr_against_loss", "lr_against_accuracy"):
        assert len(rail_marks(figure)) == (states == "diverged").sum() > 0
        assert len(rail_marks(figure, "failed")) == (states == "failed").sum()
        assert len(drawn(figure, "pruned")) == (states == "pruned").sum()
    if name not in ("textbook", "surface", "branch_fan"):
        assert f"{len(states)} runs" in written(figure)


def assert_safe_colours(figure: Figure) -> None:
    for ax in figure.axes:
        for line in ax.lines:
            red, green, blue = to_rgb(line.get_color())
            is_grey = max(red, green, blue) - min(red, green, blue) < 0.03
            is_best = line.get_gid() == "best" and to_hex(line.get_color()) == style.BEST.lower()
            assert is_grey or is_best or to_hex(line.get_color()) in SAFE, line.get_color()


# Machado, Oliveira and Fernandes, 2009: how linear RGB looks without one kind of cones.
BLIND = {
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
    "none": np.eye(3).tolist(),
}


def lab(colour: Any, eyes: str) -> np.ndarray:
    """CIE L*a*b* (D65) of an sRGB colour as such eyes see it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(BLIND[eyes]) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.array(to_xyz) @ linear / [0.9505, 1.0, 1.089]
    f = [v ** (1 / 3) if v > 216 / 24389 else (24389 / 27 * v + 16) / 116 for v in (x, y, z)]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eyes", list(BLIND))
def test_outcomes_are_told_apart_without_one_kind_of_cones(eyes: str) -> None:
    for one, other in itertools.combinations(style.OUTCOMES, 2):
        a, b = style.OUTCOMES[one], style.OUTCOMES[other]
        assert a.shape != b.shape
        distance = np.linalg.norm(lab(a.colour, eyes) - lab(b.colour, eyes))
        assert distance > 10, f"{one} and {other}: {distance:.0f}"
    for colour in (heat.WORSE, heat.NOT_FINITE):  # against all colours of the map
        shades = [to_rgb(heat._MAP(i)) for i in range(0, 256, 5)]
        if colour == heat.WORSE:
            shades += [to_rgb(look.colour) for look in style.OUTCOMES.values()]
        assert min(np.linalg.norm(lab(colour, eyes) - lab(s, eyes)) for s in shades) > 10


def test_the_fields_of_outcomes_carry_white_text() -> None:
    def luminance(colour: Any) -> float:
        rgb = np.array(to_rgb(colour))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for look in style.OUTCOMES.values():
        assert 1.05 / (luminance(look.colour) + 0.05) > 3.0, look  # WCAG: large text and symbols
