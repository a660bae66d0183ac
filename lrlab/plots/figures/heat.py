"""Draw the loss as a map: one row a learning rate, one column a moment of training."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, to_rgba
from matplotlib.figure import Figure

from lrlab.plots import frame, reach, runs, style
from lrlab.plots.parts import bar_place, draw_loss_bar, draw_ribbon
from lrlab.plots.runs import Run
from lrlab.plots.sheet import WIDTH, Handles, Panels, head, sheet
from lrlab.plots.tables import NothingToDraw

COLUMNS = 140  # moments that the map shows; the loss of each is the mean of its mini-batches
FACETS = 6  # up to so many settings have a map each
WORSE = "#A50F15"  # worse than before training; no colour of the map, nor of an outcome
NOT_FINITE = "#000000"
_MAP = matplotlib.colormaps["viridis"]
_RIBBON = 0.17
_FARTHEST = 700.0  # log of a number that can still be drawn


@reach.within
def heat_map(
    curves: pd.DataFrame, verdicts: pd.DataFrame | None = None, *, title: str | None = None
) -> Figure:
    """Draw the mini-batch train loss as colour over step and log lr.

    curves, verdicts: as for `loss_curves`.

    A row is the median over the seeds of an lr; one that became non-finite counts as infinitely
    bad. The row reaches halfway to the next lr. Losses above both the initial one and that of
    guessing have one colour; black is non-finite; white is not trained (yet). If the runs differ in
    more than lr and seed, the first FACETS settings have a map each.

    Raises:
        NothingToDraw: there is only one lr, or no finite loss, or a column is missing.
    """
    found, _, blended = runs.of_curves(curves, verdicts)
    unit = runs.unit(curves)
    found = [run for run in found if run.lr > 0 and math.isfinite(run.lr)]
    if len({run.lr for run in found}) < 2:
        raise NothingToDraw("a map needs at least two learning rates")
    losses = [run.loss for run in found if len(run.loss)]
    if not losses:
        raise NothingToDraw("no run has a finite loss")
    settings = sorted({run.setting for run in found})
    shown = settings[:FACETS]
    references = [one.high for one in frame.references(curves)]
    means_of = [run.mean_of for run in found if len(run.loss)]
    norm = _norm(losses, means_of, references)
    # The last evaluation has no mini-batch loss, so it is not in the map.
    last = max(float(run.step[-1]) if len(run.step) else run.mark_step for run in found)
    columns = 2 if len(shown) == 4 else min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    lrs = sorted({run.lr for run in found})
    judged = any(run.outcome for run in found)
    hidden = f" · {len(settings) - len(shown)} more settings not drawn" * (settings != shown)
    page = sheet(
        title or f"Where the loss falls: learning rate × {unit}",
        style.subtitle(curves, blended) + hidden,
        Panels(
            rows=(4.0,) if rows == 1 else (2.2,) * rows,
            columns=columns,
            between=0.35,
            beside=0.3 + (_RIBBON if judged else 0.0),
            above=0.25 if len(shown) > 1 else 0.0,
        ),
        handles=_handles(found),
        bar=1.15 + (_RIBBON if judged else 0.0),
    )
    low, high = frame.lr_limits(lrs)
    for place, (ax, setting) in enumerate(zip(page.places(len(shown)), shown, strict=True)):
        row, column = divmod(place, columns)
        mine = [run for run in found if run.setting == setting]
        _draw(ax, mine, norm, last)
        frame.step_axis(ax, last, curves if columns == 1 else None, unit)
        ax.set_xlim(0, last + 1)
        ax.xaxis.get_major_locator().set_params(nbins=7 if columns == 1 else 3)  # type: ignore[attr-defined]
        frame.log_axis(ax.yaxis, low, high, most=8)
        if column == 0:
            ax.set_ylabel("learning rate (init_lr)")
        else:
            ax.tick_params(labelleft=False)
        if row < rows - 1 and place + columns < len(shown):
            ax.set_xlabel("")
            ax.tick_params(labelbottom=False)
        if len(shown) > 1:
            head(ax, setting)
        if judged:
            box = ax.get_position()
            ribbon = page.figure.add_axes(
                (box.x1 + 0.03 / WIDTH, box.y0, (_RIBBON - 0.03) / WIDTH, box.height)
            )
            draw_ribbon(ribbon, runs.by_lr(mine), low, high)
    bar = bar_place(page, offset=0.16 + (_RIBBON if judged else 0.0))
    draw_loss_bar(bar, norm, _MAP.with_extremes(over=WORSE), extend="max")
    bar.set_ylabel(f"train loss{style.unit(curves)}", size=style.SIZE)
    return page.figure


def _norm(
    losses: Sequence[np.ndarray], means_of: Sequence[np.ndarray | None], references: Sequence[float]
) -> Normalize:
    """Return the range of colours: from the lowest smoothed loss to that of guessing."""
    lows = [
        frame.smoothed(loss, 0.02 * (len(loss) if count is None else count.sum()), mean_of=count)
        for loss, count in zip(losses, means_of, strict=True)
    ]
    firsts = [float(loss[0]) for loss in losses if loss[0] > 0]
    top = max(references, default=0.0) or (float(np.median(firsts)) if firsts else 1.0)
    if min(float(loss.min()) for loss in losses) < 0:
        bottom = min(float(np.quantile(loss, 0.01)) for loss in losses)
        return Normalize(bottom, max(top, bottom + 1e-12) * 1.05)
    positive = [float(loss[loss > 0].min()) for loss in lows if (loss > 0).any()]
    bottom = max(min(positive, default=top / 10), frame.FLOOR * top)
    return LogNorm(min(bottom, top / 1.5), top * 1.05)


def _draw(ax: Axes, found: Sequence[Run], norm: Normalize, last: float) -> None:
    """Draw rows of cells, each an image of its own height; black where the loss is not finite."""
    lrs = sorted({run.lr for run in found})
    edges = _edges(lrs)
    columns = int(min(COLUMNS, last + 1))
    bounds = np.linspace(0, last + 1, columns + 1)
    cmap = _MAP.with_extremes(over=WORSE, bad=(1, 1, 1, 0), under=_MAP(0.0))
    for lr, (low, high) in zip(lrs, edges, strict=True):
        rows = np.array([_row(run, bounds) for run in found if run.lr == lr])
        row = _medians(rows)
        infinite = np.isposinf(row)
        colours = cmap(norm(np.ma.masked_invalid(np.where(infinite, math.nan, row))))
        colours[infinite] = to_rgba(NOT_FINITE)
        ax.pcolormesh(
            bounds, [low, high], colours[None], shading="flat", rasterized=True, gid=f"row:{lr:g}"
        )


def _row(run: Run, bounds: np.ndarray) -> np.ndarray:
    """Return the mean loss in each column; after a run's end inf if it was lost, else NaN.

    A column between two recorded steps has the value of the one before.
    """
    columns = len(bounds) - 1
    values = np.full(columns, math.nan)
    if len(run.step):
        place = np.clip(np.searchsorted(bounds, run.step, side="right") - 1, 0, columns - 1)
        many = np.ones(len(run.loss)) if run.mean_of is None else run.mean_of
        losses = np.minimum(run.loss, 1e300 / many.sum())
        total = np.bincount(place, weights=losses * many, minlength=columns)
        count = np.bincount(place, weights=many, minlength=columns)
        values[count > 0] = total[count > 0] / count[count > 0]
        inside = slice(int(place[0]), int(place[-1]) + 1)
        values[inside] = pd.Series(values[inside]).ffill().to_numpy()
    if run.mark == "nonfinite":
        values[np.searchsorted(bounds, run.mark_step, side="right") - 1 :] = math.inf
    return values


def _medians(rows: np.ndarray) -> np.ndarray:
    """Return (columns,) medians over runs of the values present; inf is a number here."""
    ordered = np.sort(rows, axis=0)  # NaN last
    count = np.sum(~np.isnan(rows), axis=0)
    at = np.arange(rows.shape[1])
    low = ordered[np.maximum((count - 1) // 2, 0), at]
    high = ordered[np.minimum(count // 2, len(rows) - 1), at]
    with np.errstate(invalid="ignore"):
        middle = np.where(np.isinf(high), high, (low + high) / 2)
    return np.where(count > 0, middle, math.nan)


def _edges(lrs: Sequence[float]) -> list[tuple[float, float]]:
    """Return lower and upper end of each row: halfway to its neighbours, without filling gaps."""
    logs = np.log(lrs)
    gaps = np.diff(logs) / 2
    most = 1.5 * float(np.median(gaps)) if len(gaps) else 0.35
    below = np.minimum(np.append(gaps[:1], gaps), most) if len(gaps) else np.array([most])
    above = np.minimum(np.append(gaps, gaps[-1:]), most) if len(gaps) else np.array([most])
    return [
        (math.exp(max(log - down, -_FARTHEST)), math.exp(min(log + up, _FARTHEST)))
        for log, down, up in zip(logs, below, above, strict=True)
    ]


def _handles(found: Sequence[Run]) -> Handles:
    entries = [(style.patch(WORSE), "worse than before training")]
    if any(run.mark == "nonfinite" for run in found):
        entries.append((style.patch(NOT_FINITE), "non-finite"))
    return entries + style.outcome_handles(run.outcome for run in found)
