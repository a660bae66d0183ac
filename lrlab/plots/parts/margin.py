"""Write labels to the right of a panel."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from lrlab.plots.frame import Label
from lrlab.plots.sheet import LINE, inches
from lrlab.plots.style import SIZE


def draw_margin(ax: Axes, margin: Sequence[Label]) -> None:
    """Write the labels to the right of the panel, moved apart where they would overlap.

    Lines join moved labels to their curves. The limits of the y axis must be set before.
    """
    if not margin:
        return
    width, height = inches(ax)
    order = sorted(margin, key=lambda label: label.y)
    true = [_height(ax, label.y) for label in order]
    at = apart(true, (LINE * 0.95) / height)
    for label, y_true, y in zip(order, true, at, strict=True):
        look: Any = {"transform": ax.transAxes, "color": label.colour}
        x = [1.0, 1 + 0.06 / width, 1 + 0.19 / width]
        ax.plot(x, [y_true, y_true, y], clip_on=False, linewidth=0.8, gid="leader", **look)
        look |= {"va": "center_baseline", "size": SIZE, "parse_math": False, "gid": "label"}
        ax.text(1 + 0.23 / width, y, label.text, **look)


def _height(ax: Axes, y: float) -> float:
    """Return the height of a value in the panel, 0 at its lower end and 1 at its upper."""
    low, high = ax.get_ylim()
    at = ax.transData.transform((ax.get_xlim()[0], min(max(y, low), high)))
    return float(ax.transAxes.inverted().transform(at)[1])


def apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Return the positions nearest to the wanted ones (ascending) that are at least gap apart.

    Least squares in order: pool adjacent violators on wanted[i] - i*gap, then move all into 0..1.
    """
    blocks: list[list[float]] = []  # sum, count
    for i, y in enumerate(wanted):
        blocks.append([y - i * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    low, high = 0.0, max(0.0, 1.0 - (len(wanted) - 1) * gap)
    free = [total / count for total, count in blocks for _ in range(int(count))]
    return [min(max(base, low), high) + i * gap for i, base in enumerate(free)]
