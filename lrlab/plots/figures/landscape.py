"""Draw the loss in weight space: along single steps, and on the plane of the runs' paths."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lrlab.plots import frame, reach, style
from lrlab.plots.parts import BAR, apart, bar_place, draw_loss_bar, draw_lr_bar
from lrlab.plots.runs import need
from lrlab.plots.sheet import Handles, Panels, cut_to, head, inches, sheet
from lrlab.plots.style import DARK, GREY, key
from lrlab.plots.tables import NothingToDraw

LABELLED_PATHS = 6  # up to so many paths are named one by one; more get a colour bar
LEVELS = 24  # steps of grey on the surface
# Height of the plane as a share of its width: flatter than _FLAT, the y axis' name takes two lines;
# flatter than _FLATTEST, the panel is higher than the plane.
_FLAT, _FLATTEST = 0.4, 0.2

_ROLES = {  # in the colours of the outcomes that such steps lead to
    "small": style.OUTCOMES["undershooting"].colour,
    "good": style.OUTCOMES["converged"].colour,
    "large": style.OUTCOMES["overshooting"].colour,
}
_GREYS = ListedColormap(matplotlib.colormaps["bone"](np.linspace(0.42, 1.0, 256)))
_CASING = [patheffects.withStroke(linewidth=3.4, foreground="white")]


@reach.within
def textbook(lines: pd.DataFrame, *, unit: str = "", title: str | None = None) -> Figure:
    """Draw the loss along the update of a small, a good and a large lr, from the same state.

    lines: as from `frames.landscape`: columns lr, role (small, good, large), t, loss, w0, w1, w2,
    alpha. Optional: distance (t times the length of the update), run, step. t is 0 at the start
    and 1 at the landing. The parabola w0 + w1·t + w2·t² has its minimum at t*; alpha = 1/t* − 1.
    unit: of the loss, for example "nats".

    Each panel has axes of its own, because the steps differ by orders of magnitude. The loss at the
    start is the same in all of them.

    Raises:
        NothingToDraw: no line was measured, or a column is missing.
    """
    need(lines, "lr", "role", "t", "loss", "w0", "w1", "w2", "alpha")
    finite: Any = lines[np.isfinite(lines[["t", "loss"]].to_numpy(float)).all(axis=1)]
    roles = [role for role in _ROLES if role in set(finite["role"])]
    if not roles:
        raise NothingToDraw("no loss along a step was measured")
    has_distance = "distance" in lines and bool(lines["distance"].notna().all())
    step = style.constant(lines, "step")
    where = "" if step is None else f"from the state at step {float(step):,.0f} · "
    page = sheet(
        title or "One step from one state, at a small, a good and a large learning rate",
        f"{where}loss of one mini-batch along its own update · each panel has its own axes",
        Panels(rows=(2.7,), columns=len(roles), above=0.5, beside=0.62),
        handles=_textbook_handles(),
    )
    for column, role in enumerate(roles):
        ax = page.panels[0][column]
        part = finite[finite["role"] == role].sort_values(by="t")
        _draw_step(ax, part, role, "distance" if has_distance else "t")
        alpha = float(part["alpha"].iloc[0])
        name = f"{role}: lr {style.lr_word(float(part['lr'].iloc[0]))}"
        head(ax, name, _ROLES[role], line=1, weight="bold")
        head(ax, cut_to(_alpha_words(alpha), page.width + 0.5))
        ax.set_xlabel("distance from the start" if has_distance else "update lengths")
        if column == 0:
            ax.set_ylabel(f"loss of the mini-batch{_bracketed(unit)}")
    return page.figure


@reach.within
def surface(
    surface: pd.DataFrame,
    paths: pd.DataFrame,
    verdicts: pd.DataFrame | None = None,
    *,
    unit: str = "",
    title: str | None = None,
) -> Figure:
    """Draw the loss on a plane of weight space as greys, with the runs' paths, coloured by lr.

    surface, paths: as from `frames.landscape`: surface with x, y, loss of a regular grid; paths
    with run, lr, step, x, y. Optional: share (of the path's variance that the plane holds).
    verdicts: as from `lrlab.verdicts.judging.verdicts`: the outcome's mark at the path's end.
    unit: of the loss, for example "nats".

    Both axes are distances in weight space, in the same scale; the longer one is horizontal. The
    greys are logarithmic if all losses are above 0. A cross marks where a path leaves the panel.

    Raises:
        NothingToDraw: there is no surface, no path, or a column is missing.
    """
    need(surface, "x", "y", "loss")
    need(paths, "run", "lr", "step", "x", "y")
    surface = surface.loc[np.isfinite(surface[["x", "y"]].to_numpy(float)).all(axis=1)]
    across, up = "first", "second"
    if np.ptp(surface["y"]) > np.ptp(surface["x"]):  # a page is wider than it is high
        surface, paths = (table.rename(columns={"x": "y", "y": "x"}) for table in (surface, paths))
        across, up = up, across
    grid = surface.pivot_table(index="y", columns="x", values="loss", dropna=False)
    if grid.shape[0] < 2 or grid.shape[1] < 2 or not len(style.finite(surface["loss"])):
        raise NothingToDraw("no surface was measured")
    if paths.empty:
        raise NothingToDraw("no path over the surface was recorded")
    x, y = grid.columns.to_numpy(float), grid.index.to_numpy(float)
    loss = grid.to_numpy(float)
    found = {run: part.sort_values(by="step") for run, part in paths.groupby("run", sort=True)}
    lrs = sorted({float(lr) for lr in paths["lr"]})
    colour, lr_norm = style.lr_colours(lrs)
    outcomes = style.outcome_of_runs(verdicts)
    labelled = len(found) <= LABELLED_PATHS or lr_norm is None
    leave = any(_inside(part, x, y)[1] for part in found.values())
    shape = float(np.ptp(y) / np.ptp(x))
    is_flat = shape < _FLAT
    page = sheet(
        title or "The loss around the runs' paths, on the plane that holds most of them",
        _plane_words(paths, len(found)),
        Panels(aspect=min(1.15, max(_FLATTEST, shape)), left=1.15 if is_flat else 0.95),
        handles=_surface_handles(found, outcomes, colour, labelled, leave),
        bar=BAR + (0.0 if labelled else BAR),
    )
    ax = page.axes
    norm = _draw_surface(ax, x, y, loss)
    # Long paths first, so that they do not cover the short ones near the shared start.
    for run, part in sorted(found.items(), key=lambda one: -float(one[1]["lr"].iloc[0])):
        _draw_path(ax, part, colour(float(part["lr"].iloc[0])), outcomes.get(run, ""), x, y)
    ax.set_xlim(x.min(), x.max())
    ax.set_ylim(y.min(), y.max())
    place = bar_place(page, offset=0.12)  # before a flat plane makes the panel lower
    ax.set_aspect("equal", adjustable="box", anchor="W")
    if labelled:
        _label_ends(ax, found.values(), colour)
    ax.set_xlabel(f"{across} direction (distance)")
    ax.set_ylabel(f"{up} direction{chr(10) if is_flat else ' '}(distance)")
    if is_flat:
        ax.yaxis.set_major_locator(MaxNLocator(max(1, round(page.width * shape / 0.35))))
    draw_loss_bar(place, norm, _GREYS)
    place.set_title(f"loss{_bracketed(unit)}", size=style.SIZE, loc="left")
    if not labelled:
        draw_lr_bar(page, lr_norm, lrs, shift=BAR)
    return page.figure


def _bracketed(unit: str) -> str:
    return f" ({unit})" if unit else ""


# --- one step -------------------------------------------------------------------------------------


_LOSS: Any = {"linewidth": 1.8, "color": DARK}
_PARABOLA: Any = {"linewidth": 1.6, "linestyle": (0, (5, 2))}
_START: Any = {"marker": "o", "markersize": 8, "mfc": "white", "mew": 1.6, "linestyle": ""}
_LANDING: Any = {"marker": "o", "markersize": 8, "linestyle": ""}
_MINIMUM: Any = {"marker": "D", "markersize": 6, "mfc": "white", "mew": 1.4, "linestyle": ""}


def _textbook_handles() -> Handles:
    return [
        (Line2D([], [], **_LOSS), "loss along the step"),
        (key(**_PARABOLA), "fitted parabola"),
        (key(DARK, **_START), "start"),
        (key(**_LANDING), "landing"),
        (key(**_MINIMUM), "parabola's minimum"),
    ]


def _alpha_words(alpha: float) -> str:
    if not np.isfinite(alpha):
        return "not finite where it lands"
    told = f"alpha {alpha:+.2f}".replace("-", "−")
    for border, words in (
        (-0.75, "far too short"),
        (-0.25, "too short"),
        (0.25, "near the minimum"),
        (0.9, "too long"),
        (1.1, "mirrored"),
    ):
        if alpha < border:
            return f"{told}: {words}"
    return f"{told}: worse than before"


def _draw_step(ax: Axes, part: pd.DataFrame, role: str, along: str) -> None:
    colour = _ROLES[role]
    t, loss = part["t"].to_numpy(float), part["loss"].to_numpy(float)
    unit = 1.0
    if along == "distance":
        moved = t != 0
        unit = float(np.median(part["distance"].to_numpy(float)[moved] / t[moved]))
    w0, w1, w2 = (float(part[name].iloc[0]) for name in ("w0", "w1", "w2"))
    fine = np.linspace(t.min(), t.max(), 200)
    ax.plot(t * unit, loss, gid="loss", **_LOSS)
    fitted = w0 + w1 * fine + w2 * fine**2
    ax.plot(fine * unit, fitted, color=colour, gid="parabola", **_PARABOLA)
    start, landing = (float(np.interp(at, t, loss)) for at in (0.0, 1.0))
    ax.axhline(start, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), gid="level of the start")
    near = loss[t <= 1.15]
    low, high = float(near.min()), float(near.max())
    if w2 > 0 and t.min() <= (lowest := -w1 / (2 * w2)) <= t.max():
        height = w0 + w1 * lowest / 2
        low = min(low, height)
        ax.plot([lowest * unit], [height], color=colour, zorder=4, gid="minimum", **_MINIMUM)
    ax.plot([0.0], [start], color=DARK, zorder=5, gid="start", **_START)
    if t.max() >= 1:
        arrow: Any = {"arrowstyle": "-|>", "connectionstyle": "arc3,rad=-0.28", "color": colour}
        arrow |= {"linewidth": 1.4, "shrinkA": 5, "shrinkB": 5}
        ax.annotate("", xy=(unit, landing), xytext=(0.0, start), arrowprops=arrow)
        ax.plot([unit], [landing], color=colour, zorder=5, gid="landing", **_LANDING)
    pad = 0.1 * (high - low) or 0.1 * abs(start) or 0.1
    ax.set_ylim(low - pad, high + 1.6 * pad)
    ax.set_xlim(float(t.min()) * unit, float(t.max()) * unit)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.ticklabel_format(useOffset=False, style="plain")
    frame.grid(ax)


# --- the plane ------------------------------------------------------------------------------------


def _plane_words(paths: pd.DataFrame, count: int) -> str:
    words = f"{count} run{'s' if count != 1 else ''}"
    shares = style.finite(paths["share"].astype(float)) if "share" in paths else np.empty(0)
    if len(shares):
        low, high = f"{100 * shares.min():.0f}", f"{100 * shares.max():.0f}"
        told = low if low == high else f"{low} to {high}"
        words += f" · the plane holds {told} % of each path's variance"
    return words


def _surface_handles(
    found: Mapping[Hashable, pd.DataFrame],
    outcomes: Mapping[Hashable, str],
    colour: Callable[[float], str],
    labelled: bool,
    leave: bool,
) -> Handles:
    entries = [(key(DARK, marker="o", mfc="white", mew=1.4, linestyle=""), "start")]
    if labelled:
        lrs = sorted({float(part["lr"].iloc[0]) for part in found.values()})
        entries += [(key(colour(lr), linewidth=2), f"lr {style.lr_word(lr)}") for lr in lrs]
    told = [outcomes.get(run, "") for run in found]
    if not all(told):
        entries.append((key(marker="o", linestyle=""), "end"))
    if leave:
        entries.append((key(marker="x", mew=1.6, linestyle=""), "leaves the frame"))
    return entries + style.outcome_handles(told)


def _draw_surface(ax: Axes, x: np.ndarray, y: np.ndarray, loss: np.ndarray) -> Normalize:
    """Draw filled contours; non-finite losses are as light as the highest loss."""
    values = loss[np.isfinite(loss)]
    low = float(values.min())
    # A corner that explodes must not turn the rest into a single grey.
    high = min(float(values.max()), float(np.quantile(values, 0.98)) * 1.05)
    if low > 0:
        high = max(high, low * 1.05)
        norm: Normalize = LogNorm(low, high)
        levels = np.geomspace(low, high, LEVELS)
    else:
        high = max(high, low + 1e-12)
        norm = Normalize(low, high)
        levels = np.linspace(low, high, LEVELS)
    shown = np.clip(np.where(np.isfinite(loss), loss, high), low, high)
    filled = ax.contourf(x, y, shown, levels=levels, norm=norm, cmap=_GREYS)
    filled.set_gid("surface")
    ax.contour(x, y, shown, levels=levels[::3], colors="white", linewidths=0.5, alpha=0.7)
    return norm


def _inside(part: pd.DataFrame, x: np.ndarray, y: np.ndarray) -> tuple[int, bool]:
    """Return how many points of a path are finite and in the frame before the first that is not.

    The second value is whether there is such a point.
    """
    px, py = part["x"].to_numpy(float), part["y"].to_numpy(float)
    there = (px >= x.min()) & (px <= x.max()) & (py >= y.min()) & (py <= y.max())
    count = len(px) if there.all() else int(np.argmin(there))
    return count, count < len(px)


def _draw_path(
    ax: Axes, part: pd.DataFrame, colour: str, outcome: str, x: np.ndarray, y: np.ndarray
) -> None:
    """Draw a path up to its first point outside, with its start and its end."""
    count, leaves = _inside(part, x, y)
    shown = part.iloc[: count + leaves]
    shown = shown[np.isfinite(shown[["x", "y"]].to_numpy(float)).all(axis=1)]
    px, py = shown["x"].to_numpy(float), shown["y"].to_numpy(float)
    if not count:
        return
    # A point far outside would overflow the renderer, and shows no more than the frame's edge.
    far = [(v.min() - 3 * np.ptp(v), v.max() + 3 * np.ptp(v)) for v in (x, y)]
    look: Any = {"linewidth": 1.8, "path_effects": _CASING, "zorder": 3, "gid": "path"}
    ax.plot(np.clip(px, *far[0]), np.clip(py, *far[1]), color=colour, **look)
    look = {"linestyle": "", "zorder": 6}
    ax.plot(px[:1], py[:1], color=DARK, marker="o", mfc="white", mew=1.4, gid="start", **look)
    if leaves:
        at = slice(count - 1, count)
        ax.plot(px[at], py[at], color=colour, marker="x", mew=2.2, ms=8, gid="leaves", **look)
        return
    mark = (
        style.outcome_mark(outcome, size=9.0)
        if outcome
        else key(colour, marker="o", markersize=8, mec="white", linestyle="")
    )
    mark.set_data(px[-1:], py[-1:])
    mark.set(zorder=5, gid="end")
    ax.add_line(mark)


def _label_ends(ax: Axes, found: Iterable[pd.DataFrame], colour: Callable[[float], str]) -> None:
    """Write the lr at the end of each path, moved up or down where two would overlap."""
    x, y = (np.array(limits) for limits in (ax.get_xlim(), ax.get_ylim()))
    ends = []
    for part in found:
        count, _ = _inside(part, x, y)
        if count:
            last = part.iloc[count - 1]
            at = ax.transAxes.inverted().transform(ax.transData.transform((last["x"], last["y"])))
            ends.append((float(at[1]), float(at[0]), float(part["lr"].iloc[0])))
    ends.sort()
    width, height = inches(ax)
    inside = 0.1 / height  # half a line: a label stays inside the frame
    ups = apart([min(max(end[0], inside), 1 - inside) for end in ends], 0.2 / height)
    for (_, right, lr), up in zip(ends, ups, strict=True):
        side, gap = ("right", -0.12) if right > 0.82 else ("left", 0.12)
        look: Any = {"ha": side, "va": "center_baseline", "color": colour(lr), "size": style.SIZE}
        look |= {"path_effects": _CASING, "zorder": 7, "gid": "label"}
        text = f"lr {style.lr_word(lr)}"
        ax.text(right + gap / width, up, text, transform=ax.transAxes, **look)
