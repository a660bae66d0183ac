"""Draw the colours of the lrs to the right of the panels, with room for other colour bars."""

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lrlab.plots.frame import log_ticks
from lrlab.plots.parts.ribbon import draw_ribbon
from lrlab.plots.sheet import LINE, WIDTH, Sheet, inches
from lrlab.plots.style import MAP, RC, SIZE, lr_word

BAR = 1.0  # inches a colour bar takes with its numbers


def draw_lr_bar(
    drawn: Sheet,
    norm: Normalize | None,
    lrs: Sequence[float],
    outcomes: Mapping[float, str] | None = None,
    shift: float = 0.0,
) -> None:
    """Draw the colours of the lrs to the right of the first panel, with a ribbon of outcomes.

    norm: None: nothing is drawn.
    shift: inches further to the right, after another bar.
    """
    if norm is None:
        return
    judged = any((outcomes or {}).values())
    place = bar_place(drawn, shift + 0.14 + (0.17 if judged else 0.0))
    with matplotlib.rc_context(RC):
        bar = drawn.figure.colorbar(ScalarMappable(norm, MAP), cax=place)
    bar.outline.set_visible(False)  # type: ignore[operator]
    low, high = min(lrs), max(lrs)
    heights = np.log(sorted(lrs)) / (math.log(high) - math.log(low))
    if float(np.diff(heights).min()) * inches(place)[1] >= LINE:
        place.yaxis.set_major_locator(FixedLocator(list(lrs)))
        place.yaxis.set_major_formatter(FuncFormatter(lambda value, _: lr_word(value)))
    else:
        log_ticks(place.yaxis, low, high)
    place.yaxis.set_minor_locator(NullLocator())
    place.set_title("lr", size=SIZE, loc="left")
    if judged:
        box = place.get_position()
        ribbon = drawn.figure.add_axes((box.x0 - 0.17 / WIDTH, box.y0, 0.15 / WIDTH, box.height))
        draw_ribbon(ribbon, outcomes or {}, low, high)


def bar_place(drawn: Sheet, offset: float = 0.14) -> Axes:
    """Return axes for a colour bar next to the first panel; offset: inches from `right`."""
    box = drawn.axes.get_position()
    x = drawn.right + 0.02 + offset
    with matplotlib.rc_context(RC):
        return drawn.figure.add_axes((x / WIDTH, box.y0, 0.14 / WIDTH, box.height))


def bar_room(norm: Normalize | None, outcomes: Mapping[float, str]) -> float:
    """Return the inches that the bar of the lrs takes, with its ribbon of outcomes."""
    return 0.0 if norm is None else BAR + 0.17 * any(outcomes.values())
