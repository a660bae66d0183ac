"""Draw the loss in weight space: along single steps, and on the plane of the runs' paths."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lrlab.plots import frame, reach, style
from lrlab.plots.parts.colour_bar import BAR, bar_place, draw_lr_bar
from lrlab.plots.parts.margin import apart
from lrlab.plots.runs import need
from lrlab.plots.sheet import Panels, cut_to, head, sheet
from lrlab.plots.style import DARK, GREY, PALE
from lrlab.plots.tables import NothingToDraw

LABELLED_PATHS = 6  # up to so many paths are named one by one; more get a colour bar
LEVELS = 24  # steps of grey on the surface
_FLAT = 0.4  # a plane flatter than this is too low for the name of its y axis in one line
_FLATTEST = 0.2  # height of the plane as a share of its width; flatter ones get blank paper

_ROLES = {  # colours of the outcomes that such steps lead to
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
    alpha; and where there, distance (t times the length of the update), run, step. t is 0 at the
    start and 1 at the landing; w0 + w1·t + w2·t² is the fitted parabola; alpha = 1/t* − 1 with its
    minimum at t*.

    Each panel has axes of its own, because the steps differ by orders of magnitude. The level of
    the start is the same in all of them.

    unit: of the loss, for example "nats".

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
    where = "" if step is None else f"from the state at step {float(step):,.0f}"
    page = sheet(
        title or "One step from one state, at a small, a good and a large learning rate",
        " · ".join(
            part
            for part in (
                where,
                "loss of one mini-batch along its own update",
                "each panel has its own axes",
            )
            if part
        ),
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
    with run, lr, step, x, y, and where there, share (of the way's variance that the plane holds).
    verdicts: as from `lrlab.verdicts.judging.verdicts`: the outcome's shape and colour at the end.
    unit: of the loss, for example "nats".

    Both axes are distances in weight space, in the same scale; the longer one lies across. The
    greys are logarithmic where the losses allow. A path that leaves the plane's frame has a cross
    there.

    Raises:
        NothingToDraw: there is no surface, or no way, or a column is missing.
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
        raise NothingToDraw("no way over the surface was recorded")
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
        title or "The loss around the runs' ways, on the plane that holds most of them",
        _plane_words(paths, len(found)),
        Panels(aspect=min(1.15, max(_FLATTEST, shape)), left=1.15 if is_flat else 0.95),
        handles=_surface_handles(found, outcomes, colour, labelled, leave),
        bar=BAR + (0.0 if labelled else BAR),
    )
    ax = page.axes
    norm = _draw_surface(ax, x, y, loss)
    # The longer paths first; otherwise they would cover the short ones near the shared start.
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
    bar = page.figure.colorbar(ScalarMappable(norm, _GREYS), cax=place)
    bar.outline.set_visible(False)  # type: ignore[operator]
    if isinstance(norm, LogNorm):
        frame.log_ticks(place.yaxis, float(norm.vmin or 1), float(norm.vmax or 1))
    place.tick_params(labelsize=style.SIZE)
    place.set_title(f"loss{_bracketed(unit)}", size=style.SIZE, loc="left")
    if not labelled and lr_norm is not None:
        draw_lr_bar(page, lr_norm, lrs, shift=BAR)
    return page.figure


def _bracketed(unit: str) -> str:
    return f" ({unit})" if unit else ""


# --- one step -------------------------------------------------------------------------------------


def _textbook_handles() -> list[tuple[Line2D, str]]:
    def mark(**look: Any) -> Line2D:
        return Line2D([], [], linestyle="", **look)

    return [
        (Line2D([], [], color=DARK, linewidth=1.8), "loss along the step"),
        (Line2D([], [], color=GREY, linewidth=1.6, linestyle=(0, (5, 2))), "fitted parabola"),
        (mark(color=DARK, marker="o", markersize=8, mfc="white", mew=1.6), "start"),
        (mark(color=GREY, marker="o", markersize=8), "landing"),
        (mark(color=GREY, marker="D", markersize=6, mfc="white", mew=1.4), "parabola's minimum"),
    ]


def _alpha_words(alpha: float) -> str:
    """Return an alpha in words."""
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
    ax.plot(t * unit, loss, color=DARK, linewidth=1.8, gid="loss")
    ax.plot(
        fine * unit,
        w0 + w1 * fine + w2 * fine**2,
        color=colour,
        linewidth=1.6,
        linestyle=(0, (5, 2)),
        gid="parabola",
    )
    start, landing = (float(np.interp(at, t, loss)) for at in (0.0, 1.0))
    lands = t.max() >= 1
    ax.axhline(start, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), gid="level of the start")
    near = loss[t <= 1.15]
    low, high = float(near.min()), float(near.max())
    if w2 > 0 and t.min() <= (lowest := -w1 / (2 * w2)) <= t.max():
        height = w0 + w1 * lowest / 2
        low = min(low, height)
        ax.plot(
            [lowest * unit],
            [height],
            color=colour,
            marker="D",
            markersize=6,
            mfc="white",
            mew=1.4,
            linestyle="",
            zorder=4,
            gid="minimum",
        )
    ax.plot(
        [0.0],
        [start],
        color=DARK,
        marker="o",
        markersize=8,
        mfc="white",
        mew=1.6,
        linestyle="",
        zorder=5,
        gid="start",
    )
    if lands:
        ax.annotate(
            "",
            xy=(unit, landing),
            xytext=(0.0, start),
            arrowprops={
                "arrowstyle": "-|>",
                "color": colour,
                "linewidth": 1.4,
                "shrinkA": 5,
                "shrinkB": 5,
                "connectionstyle": "arc3,rad=-0.28",
            },
        )
        ax.plot(
            [unit],
            [landing],
            color=colour,
            marker="o",
            markersize=8,
            linestyle="",
            zorder=5,
            gid="landing",
        )
    pad = 0.1 * (high - low) or 0.1 * abs(start) or 0.1
    ax.set_ylim(low - pad, high + 1.6 * pad)
    ax.set_xlim(float(t.min()) * unit, float(t.max()) * unit)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.ticklabel_format(useOffset=False, style="plain")
    ax.grid(axis="y", color=PALE, linewidth=0.7)
    ax.set_axisbelow(True)


# --- the plane ------------------------------------------------------------------------------------


def _plane_words(paths: pd.DataFrame, count: int) -> str:
    words = f"{count} run{'s' if count != 1 else ''}"
    shares = style.finite(paths["share"].astype(float)) if "share" in paths else np.empty(0)
    if len(shares):
        low, high = f"{100 * shares.min():.0f}", f"{100 * shares.max():.0f}"
        told = low if low == high else f"{low} to {high}"
        words += f" · the plane holds {told} % of a way's variance"
    return words


def _surface_handles(
    found: Mapping[Hashable, pd.DataFrame],
    outcomes: Mapping[Hashable, str],
    colour: Callable[[float], str],
    labelled: bool,
    leave: bool,
) -> list[tuple[Line2D, str]]:
    entries: list[tuple[Line2D, str]] = [
        (Line2D([], [], color=DARK, marker="o", mfc="white", mew=1.4, linestyle=""), "start")
    ]
    if labelled:
        by_lr = {float(part["lr"].iloc[0]): part for part in found.values()}
        entries += [
            (Line2D([], [], color=colour(lr), linewidth=2), f"lr {style.lr_word(lr)}")
            for lr in sorted(by_lr)
        ]
    told = [outcomes.get(run, "") for run in found]
    if not all(told):
        entries.append((Line2D([], [], color=GREY, marker="o", linestyle=""), "end"))
    if leave:
        cross = Line2D([], [], color=GREY, marker="x", mew=1.6, linestyle="")
        entries.append((cross, "leaves the frame"))
    return entries + style.outcome_handles(told)


def _draw_surface(ax: Axes, x: np.ndarray, y: np.ndarray, loss: np.ndarray) -> Normalize:
    """Draw filled contours; non-finite losses are as light as the highest loss."""
    values = loss[np.isfinite(loss)]
    low = float(values.min())
    # One corner that explodes must not turn the valley into a single grey.
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
    """Return how many of a path's first points are finite and in the frame, and if some are not."""
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
    ax.plot(
        np.clip(px, *far[0]),
        np.clip(py, *far[1]),
        color=colour,
        linewidth=1.8,
        path_effects=_CASING,
        zorder=3,
        gid="path",
    )
    look: Any = {"linestyle": "", "zorder": 6}
    ax.plot(px[:1], py[:1], color=DARK, marker="o", mfc="white", mew=1.4, gid="start", **look)
    if leaves:
        at = slice(count - 1, count)
        ax.plot(px[at], py[at], color=colour, marker="x", mew=2.2, ms=8, gid="leaves", **look)
        return
    mark = (
        style.outcome_mark(outcome, size=9.0)
        if outcome
        else Line2D([], [], color=colour, marker="o", markersize=8, mec="white", linestyle="")
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
    box = ax.get_window_extent()
    width, height = box.width / style.DPI, box.height / style.DPI
    inside = 0.1 / height  # half a line: a label stays inside the frame
    ups = apart([min(max(end[0], inside), 1 - inside) for end in ends], 0.2 / height)
    for (_, right, lr), up in zip(ends, ups, strict=True):
        is_left = right > 0.82
        ax.text(
            right + (-0.12 if is_left else 0.12) / width,
            up,
            f"lr {style.lr_word(lr)}",
            transform=ax.transAxes,
            ha="right" if is_left else "left",
            va="center_baseline",
            color=colour(lr),
            size=style.SIZE,
            path_effects=_CASING,
            zorder=7,
            gid="label",
        )
