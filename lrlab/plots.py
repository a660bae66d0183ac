"""Figures of a sweep: DataFrame in, matplotlib Figure out. Reads no files, keeps no pyplot state.

The frames are those of `analysis.curves` and `analysis.runs`. Every drawn thing carries a gid
("raw", "smooth", "nonfinite", "chance", ...), so that a figure can be taken apart again.
"""

import math
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, LogNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)
from matplotlib.transforms import blended_transform_factory

SMOOTHING = 0.04  # span of the moving average as a share of the longest run's steps
HEADROOM = 3.0  # the frame ends at this multiple of max(initial loss, chance loss) at most
FLOOR = 1e-6  # ... and begins at this multiple of it at the lowest
LABELLED_CURVES = 6  # up to so many curves are labelled one by one; more get a colour bar
TOLD_APART = 7  # up to so many values of a number have a look each; a search has one a run

DPI = 150
_WIDTH, _AXES_HEIGHT = 8.6, 4.0  # inches
_LEFT, _PAD = 0.85, 0.15
_SIZE = 10.5  # points: still legible at half size
_LINE = 0.19  # inches a line of text of that size takes
_RAIL_HEIGHT, _RAIL_ROWS = 0.3, 3
_GREY = "#595959"
_DASHES = (
    "-",
    (0, (5, 1.6)),
    (0, (1.2, 1.2)),
    (0, (7, 1.5, 1.2, 1.5)),
    (0, (9, 3)),
    (0, (2.5, 2.5)),
)
# Okabe and Ito's colour-blind-safe palette, without the yellow that vanishes on white.
_HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_SHAPES = ("o", "s", "D", "P", "v", "h", "*")
# A perceptually uniform map that colour-blind people can read, cut where it is too light for white.
_MAP = ListedColormap(matplotlib.colormaps["plasma"](np.linspace(0.0, 0.7, 256)))
_UNITS = {"nll": "nats", "cross_entropy": "nats", "mse_one_hot": "squared error"}
_NAMED = ("network", "data", "optimizer", "schedule", "batch_size", "epochs")
_SETTINGS = ("schedule", "optimizer", "network", "loss", "data", "batch_size", "epochs")
_STATES = (
    "finished",
    "training",
    "running",
    "waiting",
    "pruned",
    "diverged",
    "failed",
    "interrupted",
)
_RC: Any = {
    "font.size": _SIZE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelsize": _SIZE + 0.5,
    "axes.titlesize": _SIZE + 0.5,
    "text.usetex": False,
}


def loss_curves(curves: pd.DataFrame, title: str | None = None) -> Figure:
    """Mini-batch train loss against step, all runs in one frame, coloured by log lr.

    curves: as from `analysis.curves`: columns run, lr, step, lr_at_step, train_loss; and where
    there, state, seed, the settings (schedule, optimizer, ...), initial_loss and chance_loss.

    Faint: the recorded loss. On it: its exponential moving average with bias correction, taken of
    the loss itself, so that it is on the same footing as a full evaluation (an average of log loss
    would read too low); its span is SMOOTHING of the longest run's steps. Losses far above the
    frame count as ten times its upper end there, or one explosion would hide all that follows.

    The frame ends at HEADROOM x max(initial, chance) at most; a curve that leaves it gets a
    triangle at the edge. A run that becomes non-finite is drawn up to its last finite loss and
    marked on a rail above the frame at its first non-finite step; one that failed, at its last.
    One that was pruned ends where it was, with a bar across its end.
    Losses below 0 cannot stand on a log axis: if there are any, the axis is linear.
    """
    each = curves.drop_duplicates("run").set_index("run")
    settings, blended = _settings(each)
    styles = _looks(settings, _DASHES)
    lines = [
        _curve(run, part, str(settings[run])) for run, part in curves.groupby("run", sort=True)
    ]
    references = _references(curves)
    last_step = max([line.last_step for line in lines if math.isfinite(line.last_step)], default=1)
    span = max(1.0, SMOOTHING * last_step)
    tables = [line.loss for line in lines]
    scale = _scale(tables, references, smooth=span)
    smooths = [_smoothed(loss, span, 10 * scale.high) for loss in tables]
    colour, norm = _lr_colours([line.lr for line in lines])
    seeds = _distinct(curves, "seed") > 1
    lost = [line for line in lines if line.mark]

    ends: dict[tuple[str, str], list[float]] = {}
    names: dict[tuple[str, str], str] = {}
    all_pruned: dict[tuple[str, str], bool] = {}
    for line, smooth in zip(lines, smooths, strict=True):
        if line.mark == "" and len(smooth):
            key = (f"{line.lr:g}", line.setting)
            ends.setdefault(key, []).append(float(smooth[-1]))
            names[key] = f"lr {line.lr:.4g}" + (f", {line.setting}" if len(styles) > 1 else "")
            all_pruned[key] = all_pruned.get(key, True) and line.pruned
    kinds = {(f"{line.lr:g}", line.setting) for line in lines}
    labelled = len(kinds) <= LABELLED_CURVES
    margin = _reference_labels(references)
    if labelled:
        margin += [
            _Label(
                float(np.median(ends[key])),
                names[key] + (" (pruned)" if all_pruned[key] else ""),
                colour(float(key[0])),
            )
            for key in ends
        ]

    thick = Line2D([], [], color=_GREY, linewidth=1.8)
    handles: list[tuple[Line2D, str]] = [(thick, "mini-batch")]
    if span > 1.5:
        faint = Line2D([], [], color=_GREY, alpha=0.35, linewidth=1)
        handles = [(faint, "mini-batch"), (thick, f"moving average over {span:.0f} steps")]
    if len(styles) > 1:
        handles += [
            (Line2D([], [], color=_GREY, linewidth=1.6, linestyle=style), setting)
            for setting, style in styles.items()
        ]
    if any(line.pruned for line in lines):
        handles.append((_pruned_mark(_GREY), "pruned here"))
    handles += _edge_handles(tables, scale)

    bar = not labelled and norm is not None
    sheet = _sheet(
        title or "Train loss against step",
        _subtitle(curves, blended),
        _rail_header([line.mark for line in lines], len(lines)),
        margin,
        handles,
        bar=0.95 if bar else 0.0,
    )
    ax = sheet.axes
    # Many faint curves on each other are not faint any more.
    faint = max(0.008, min(0.4, 1.6 / max(1, len(lines)) ** 0.9))
    thin = 0.9 if seeds or len(lines) > 30 else (1.3 if len(styles) > 1 else 1.8)
    for line, smooth in zip(lines, smooths, strict=True):
        if not len(smooth):
            continue
        marker = "o" if len(smooth) == 1 else None  # a line needs two points to be seen
        look = {"color": colour(line.lr), "zorder": 3}
        raw = scale.shown(line.loss)
        ax.plot(line.step, raw, alpha=faint, linewidth=0.7, gid="raw", **{**look, "zorder": 2.5})
        ax.plot(
            line.step,
            scale.shown(smooth),
            linewidth=thin,
            linestyle=styles[line.setting],
            marker=marker,
            gid="smooth",
            **look,
        )
        if line.pruned:
            end = _pruned_mark(colour(line.lr), many=len(lines) > 30)
            end.set_data(line.step[-1:], scale.shown(smooth[-1:]))
            ax.add_line(end)
        _edges(ax, line.step, line.loss, scale, colour(line.lr))
    _draw_references(ax, references)

    right = last_step if last_step > 0 else 1.0
    ax.set_xlim(-0.015 * right, right * 1.015)
    ax.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    per_epoch = _constant(curves, "steps_per_epoch")
    ax.set_xlabel("step" if per_epoch is None else f"step ({float(per_epoch):,.0f} an epoch)")
    ax.set_ylabel(f"train loss{_unit(curves)}")
    _finish_y(ax, scale)
    _draw_margin(sheet, margin, scale)
    if lost:
        steps = [min(max(line.mark_step, 0.0), right) for line in lost]
        _draw_rail(sheet, steps, lost, colour)
    if bar and norm is not None:
        _draw_bar(sheet, norm, sorted({line.lr for line in lines if line.lr > 0}))
    return sheet.figure


def lr_against_loss(runs: pd.DataFrame, title: str | None = None) -> Figure:
    """Train and test loss at the end of training against lr, both axes logarithmic.

    runs: as from `analysis.runs`: columns run, lr, state, train_loss, test_loss; and where there,
    seed, the settings, val_loss (of pruned runs), initial_loss and chance_loss.

    One colour a setting (schedule, optimizer, ...). Filled and solid: train loss; open and dashed:
    test loss. The lines join the medians over the seeds of an lr, in which a diverged run counts
    as infinitely bad: where half of the seeds diverged, the line breaks instead of leaving them
    out. Where a search moves more than the lr and each run has a setting of its own, no line joins
    them. Diverged and failed runs are marked on a rail above the frame at their lr. A pruned run
    is a cross at its last val_loss, and no line joins it: it had fewer epochs than the others.
    """
    table = runs.reset_index(drop=True)
    setting, blended = _settings(table)
    table = table.assign(setting=setting)
    references = _references(table)
    measures = [("train_loss", "train loss"), ("test_loss", "test loss")]
    finals = [_finite(table[name]) for name, _ in measures]
    pruned = _pruned(table)
    finals.append(_finite(pruned["val_loss"]))
    scale = _scale(finals, references)
    on_axis: Any = table[table["lr"] > 0]
    hues, shapes = _looks(table["setting"], _HUES), _looks(table["setting"], _SHAPES)
    lost = [
        _Run(run=row["run"], lr=float(row["lr"]), setting=row["setting"], mark=_mark(row["state"]))
        for row in on_axis.to_dict("records")
        if _mark(row["state"])
    ]

    solid, dashed = ("", "") if blended else ("-", "--")
    size = 6.0 if on_axis["lr"].nunique() <= 40 else 4.0
    handles: list[tuple[Line2D, str]] = [
        (Line2D([], [], color=_GREY, marker="o", linewidth=1.6, linestyle=solid), "train loss"),
        (
            Line2D([], [], color=_GREY, marker="o", mfc="white", linewidth=1.3, linestyle=dashed),
            "test loss",
        ),
    ]
    if len(hues) > 1:
        handles += [
            (Line2D([], [], color=hue, marker=shapes[key], linewidth=1.6, linestyle=solid), key)
            for key, hue in hues.items()
        ]
    if len(pruned):
        handles.append((_cross(_GREY), "pruned: val loss at its end"))
    handles += _edge_handles(finals, scale)
    if _distinct(table, "seed") > 1:
        handles[:2] = [(handle, f"{text}, median of seeds") for handle, text in handles[:2]]
        handles.append((Line2D([], [], color=_GREY, marker=".", linestyle=""), "one seed"))
    margin = _reference_labels(references)
    not_drawn = len(table) - len(on_axis)
    subtitle = _subtitle(table, blended)
    subtitle += f" · {not_drawn} with lr 0 not drawn" if not_drawn else ""
    sheet = _sheet(
        title or "Loss at the end of training against learning rate",
        subtitle,
        _rail_header([run.mark for run in lost], len(table)),
        margin,
        handles,
    )
    ax = sheet.axes
    for setting, group in on_axis.groupby("setting", sort=True):
        hue, shape = hues[str(setting)], shapes[str(setting)]
        for (name, _), is_train in zip(measures, (True, False), strict=True):
            lrs, medians, several = _medians(group, name)
            if several:
                points = group[np.isfinite(group[name].astype(float))]
                ax.plot(
                    points["lr"],
                    scale.shown(points[name].to_numpy(float)),
                    linestyle="",
                    marker=".",
                    color=hue,
                    alpha=0.55,
                    mfc=hue if is_train else "white",
                    gid=f"seeds:{name}",
                )
            ax.plot(
                lrs,
                scale.shown(medians),
                color=hue,
                marker=shape,
                markersize=size,
                mfc=hue if is_train else "white",
                linestyle=solid if is_train else dashed,
                linewidth=1.6 if is_train else 1.3,
                zorder=4 if is_train else 3,
                gid=f"median:{name}",
            )
            finite = group[np.isfinite(group[name].astype(float))]
            for lr, loss in zip(finite["lr"], finite[name], strict=True):
                _edges(ax, np.array([lr]), np.array([loss], dtype=float), scale, hue)
    for row in pruned.to_dict("records"):
        hue, loss = hues[row["setting"]], np.array([row["val_loss"]], dtype=float)
        cross = _cross(hue)
        cross.set_data([row["lr"]], scale.shown(loss))
        ax.add_line(cross)
        _edges(ax, np.array([row["lr"]]), loss, scale, hue)
    _draw_references(ax, references)

    ax.set_xscale("log")
    low, high = _lr_limits(on_axis["lr"])
    ax.set_xlim(low, high)
    _log_ticks(ax.xaxis, low, high)
    ax.set_xlabel("learning rate (init_lr)")
    ax.set_ylabel(f"loss at the end{_unit(table)}")
    _finish_y(ax, scale)
    _draw_margin(sheet, margin, scale)
    if lost:
        _draw_rail(sheet, [run.lr for run in lost], lost, lambda _lr: "#333333")
    return sheet.figure


def save(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write each figure as folder/NAME.png at 150 dpi, whole and then renamed; returns the paths.

    A reader, or a crash half way, never sees half a picture. Raises OSError as the system does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        # The process id keeps two writers apart; the dot keeps listings from seeing the part.
        part = folder / f".{name}.{os.getpid()}.part"
        try:
            figure.savefig(part, dpi=DPI, format="png")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        paths.append(path)
    return paths


# ---------------------------------------------------------------------- what is drawn of a run


def _none() -> np.ndarray:
    return np.empty(0)


@dataclass(frozen=True)
class _Run:
    run: Any
    lr: float
    setting: str
    mark: str  # "" or what the rail shows: "nonfinite", "failed"
    mark_step: float = 0.0
    last_step: float = 0.0
    pruned: bool = False
    step: np.ndarray = field(default_factory=_none)  # (n,) steps with a finite mini-batch loss
    loss: np.ndarray = field(default_factory=_none)  # (n,) the losses there


def _curve(run: Any, part: pd.DataFrame, setting: str) -> _Run:
    part = part.sort_values(by="step", kind="stable")
    loss = part["train_loss"].to_numpy(float)
    step = part["step"].to_numpy(float)
    finite = np.isfinite(loss) & np.isfinite(step)
    # A finished run ends with a row of the final evaluation that has neither lr nor mini-batch
    # loss, so a blank loss alone is no sign of divergence: an lr without a finite loss is.
    bad = step[np.isfinite(part["lr_at_step"].to_numpy(float)) & ~np.isfinite(loss)]
    bad = bad[np.isfinite(bad)]
    known = step[np.isfinite(step)]
    last_step = float(known[-1]) if len(known) else 0.0
    mark = _mark(part["state"].iloc[0]) if "state" in part else ""
    if len(bad) and mark != "failed":
        mark = "nonfinite"
    return _Run(
        run=run,
        lr=float(part["lr"].iloc[0]),
        setting=setting,
        mark=mark,
        mark_step=float(bad[0]) if len(bad) else last_step,
        last_step=last_step,
        pruned="state" in part and part["state"].iloc[0] == "pruned" and bool(finite.any()),
        step=step[finite],
        loss=loss[finite],
    )


def _mark(state: object) -> str:
    return {"diverged": "nonfinite", "failed": "failed"}.get(str(state), "")


def _settings(runs: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """Per run, what sets it apart besides lr and seed, as text; "" where nothing differs.

    Returns:
        The texts, and the names of the numbers that are not in them because they have more than
        TOLD_APART values: a search gives each run one of its own.
    """
    names = [name for name in _SETTINGS if name in runs]
    names += sorted(str(name) for name in runs.columns if "." in str(name))
    blended = [
        name
        for name in names
        if _distinct(runs, name) > TOLD_APART and pd.api.types.is_numeric_dtype(runs[name])
    ]
    key = pd.Series("", index=runs.index)
    for name in names:
        if _distinct(runs, name) > 1 and name not in blended:
            text = runs[name].map(lambda value, name=name: _setting(name, value))
            key = key.where(key == "", key + ", ") + text
    return key, blended


def _setting(name: str, value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if name in ("schedule", "optimizer", "network", "data") else f"{name}={text}"


def _finite(values: Any) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    return array[np.isfinite(array)]


def _smoothed(loss: np.ndarray, span: float, cap: float) -> np.ndarray:
    if len(loss) < 2:
        return loss
    # adjust=True is the bias correction: the weights of a start without history still sum to 1.
    capped = pd.Series(np.minimum(loss, cap))
    return capped.ewm(span=max(1.0, span), adjust=True).mean().to_numpy()


def _pruned(table: pd.DataFrame) -> pd.DataFrame:
    """The pruned runs that have an lr and a val_loss to stand at."""
    if "val_loss" not in table:
        return table.iloc[:0].assign(val_loss=np.nan)
    there = (table["state"] == "pruned") & (table["lr"] > 0) & np.isfinite(table["val_loss"])
    return table.loc[there]


def _pruned_mark(colour: str, many: bool = False) -> Line2D:
    """The bar across the end of a pruned curve."""
    size, width = (6, 1.0) if many else (10, 2.0)
    mark = Line2D([], [], color=colour, linestyle="", marker="|", markersize=size, zorder=4)
    mark.set(markeredgewidth=width, gid="pruned")
    return mark


def _cross(colour: str) -> Line2D:
    """A pruned run among the losses at the end."""
    cross = Line2D([], [], color=colour, linestyle="", marker="+", markersize=6, alpha=0.75)
    cross.set(markeredgewidth=1.1, zorder=2.5, gid="pruned")
    return cross


def _medians(group: Any, name: str) -> tuple[np.ndarray, np.ndarray, bool]:
    """lrs, the median loss of each (NaN: no number, or half of its seeds diverged), and whether
    any lr has several runs."""
    losses = group[name].astype(float).where(group["state"] != "diverged", np.inf)
    # Beside seeds that finished, a pruned one was worse; where all were pruned there is no point.
    reached = set(group["lr"][losses.notna()])
    beside = (group["state"] == "pruned") & group["lr"].isin(reached)
    losses = losses.where(~beside, np.inf)
    known = losses[losses.notna()]
    by_lr = known.groupby(group["lr"].loc[known.index])
    medians = by_lr.median().replace(np.inf, np.nan)
    return medians.index.to_numpy(float), medians.to_numpy(float), bool((by_lr.size() > 1).any())


# ------------------------------------------------------------------------------ colours, texts


def _lr_colours(lrs: Sequence[float]) -> tuple[Callable[[float], str], LogNorm | None]:
    positive = sorted({lr for lr in lrs if lr > 0 and math.isfinite(lr)})
    if len(positive) < 2:
        return (lambda _lr: to_hex(_MAP(0.3))), None
    norm = LogNorm(positive[0], positive[-1])
    cmap: Colormap = _MAP
    return (lambda lr: to_hex(cmap(float(norm(lr)) if lr > positive[0] else 0.0))), norm


def _looks(settings: Any, looks: Sequence[Any]) -> dict[str, Any]:
    """A look for each setting there is, cycling when there are more settings than looks."""
    return {key: looks[i % len(looks)] for i, key in enumerate(sorted(set(settings)))}


def _distinct(frame: pd.DataFrame, name: str) -> int:
    return len(frame[name].dropna().unique()) if name in frame else 0


def _constant(frame: pd.DataFrame, name: str) -> Any:
    """The value of a column when all its rows agree; None otherwise."""
    values = frame[name].dropna().unique() if name in frame else []
    return values[0] if len(values) == 1 else None


def _unit(frame: pd.DataFrame) -> str:
    unit = _UNITS.get(str(_constant(frame, "loss")))
    return f" ({unit})" if unit else ""


def _subtitle(frame: pd.DataFrame, blended: Sequence[str] = ()) -> str:
    runs = frame.drop_duplicates("run")
    words = {"batch_size": "batch {:g}", "epochs": "{:g} epochs", "schedule": "{} schedule"}
    parts = [
        words.get(name, "{}").format(value)
        for name in _NAMED
        if (value := _constant(runs, name)) is not None
    ]
    parts = ["1 epoch" if part == "1 epochs" else part for part in parts]
    count = f"{len(runs)} run{'s' if len(runs) != 1 else ''}"
    if "state" in runs:
        states = runs["state"].value_counts()
        told = [f"{states[name]} {name}" for name in _STATES if name in states]
        count += f": {', '.join(told)}"
    differ = [f"{' and '.join(blended)} not told apart"] if blended else []
    return " · ".join([*parts, count, *differ])


def _rail_header(marks: Sequence[str], total: int) -> str:
    lost = [("✕ non-finite", marks.count("nonfinite")), ("■ failed", marks.count("failed"))]
    told = [f"{name}: {count} of {total} runs" for name, count in lost if count]
    return "     ".join(told)


# -------------------------------------------------------------------- references, frame, scale


@dataclass(frozen=True)
class _Reference:
    kind: str  # "chance" or "initial"
    low: float
    high: float
    label: str


@dataclass(frozen=True)
class _Label:
    y: float  # in data coordinates
    text: str
    colour: str = _GREY


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    log: bool

    def shown(self, loss: np.ndarray) -> np.ndarray:
        """What is drawn: a loss of 0 lies at minus infinity on a log axis, so it is drawn just
        below the frame; numbers that would overflow the renderer, just above it."""
        if self.log:
            return np.clip(loss, self.low / 100, self.high * 100)
        reach = 10 * (self.high - self.low)
        return np.clip(loss, self.low - reach, self.high + reach)

    def fraction(self, y: float) -> float:
        """Height in the frame, 0 at its lower end and 1 at its upper."""
        if not self.log:
            return (y - self.low) / (self.high - self.low)
        y = max(y, self.low / 100)
        return math.log(y / self.low) / math.log(self.high / self.low)


def _references(frame: pd.DataFrame) -> list[_Reference]:
    found = []
    if "chance_loss" in frame:
        for chance in sorted(set(_finite(frame["chance_loss"]))):
            classes = round(math.exp(min(chance, 50.0)))
            is_log = classes > 1 and math.isclose(chance, math.log(classes), rel_tol=1e-5)
            text = f"ln {classes}" if is_log else f"{chance:.3g}"
            found.append(_Reference("chance", chance, chance, f"{text} (guessing)"))
    if "initial_loss" in frame and len(initial := _finite(frame["initial_loss"])):
        low, high = float(initial.min()), float(initial.max())
        text = f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
        found.append(_Reference("initial", low, high, f"at the start {text}"))
    return found


def _reference_labels(references: Sequence[_Reference]) -> list[_Label]:
    return [_Label((one.low + one.high) / 2, one.label) for one in references]


def _draw_references(ax: Axes, references: Sequence[_Reference]) -> None:
    for one in references:
        style: Any = (0, (4, 3)) if one.kind == "chance" else (0, (1, 2))
        if one.high > one.low * 1.02:
            ax.axhspan(one.low, one.high, color=_GREY, alpha=0.15, linewidth=0, gid=one.kind)
        else:
            middle = (one.low + one.high) / 2
            ax.axhline(middle, color=_GREY, linewidth=1, linestyle=style, zorder=5, gid=one.kind)


def _scale(
    losses: Sequence[np.ndarray], references: Sequence[_Reference], smooth: float | None = None
) -> _Scale:
    """The frame's ends: all finite losses, but no explosion above HEADROOM x the reference, and no
    lone lucky mini-batch far below the curves."""
    tops = [one.high for one in references if one.high > 0]
    filled = [loss for loss in losses if len(loss)]
    starts = [float(loss[0]) for loss in filled if loss[0] > 0]
    reference = max(tops) if tops else (float(np.median(starts)) if starts else 1.0)
    limit = HEADROOM * reference
    highest = max([float(loss.max()) for loss in filled], default=reference)
    if any(float(loss.min()) < 0 for loss in filled):
        floors = [float(np.quantile(loss, 0.01)) for loss in filled]
        # With a sign change there is no natural lower end: the runs' middle one decides.
        low = max(min(floors), 10 * float(np.median(floors)) - limit)
        high = min(max(highest, reference), limit)
        pad = 0.05 * (high - low) or 1.0
        return _Scale(low - pad, high + pad, log=False)
    curves = filled if smooth is None else [_smoothed(loss, smooth, limit) for loss in filled]
    positive = [float(curve[curve > 0].min()) for curve in curves if (curve > 0).any()]
    low = max(min([*positive, reference]), FLOOR * reference)
    high = min(max(highest, reference), limit)
    return _Scale(low / (1.6 if smooth else 1.2), max(high, reference) * 1.15, log=True)


def _edges(ax: Axes, x: np.ndarray, loss: np.ndarray, scale: _Scale, colour: str) -> None:
    """Triangles at the edge of the frame where a curve first leaves it: up, or down to 0."""
    at_edge = blended_transform_factory(ax.transData, ax.transAxes)
    for out, edge, y, marker, gid in (
        (loss > scale.high, 1.0, 0.982, "^", "above"),
        (_sunk(loss, scale), 0.0, 0.018, "v", "below"),
    ):
        if out.any():
            ax.plot(
                [_crossing(x, scale.shown(loss), int(np.argmax(out)), scale, edge)],
                [y],
                transform=at_edge,
                color=colour,
                marker=marker,
                markersize=6,
                markeredgecolor="white",
                markeredgewidth=0.5,
                linestyle="",
                zorder=6,
                clip_on=False,
                gid=gid,
            )


def _crossing(x: np.ndarray, shown: np.ndarray, first: int, scale: _Scale, edge: float) -> float:
    """Where the drawn line to the point `first` crosses the frame's edge (a fraction of it)."""
    if first == 0:
        return float(x[0])
    before, after = scale.fraction(float(shown[first - 1])), scale.fraction(float(shown[first]))
    if not min(before, after) <= edge <= max(before, after) or before == after:
        return float(x[first])
    share = (edge - before) / (after - before)
    return float(x[first - 1] + share * (x[first] - x[first - 1]))


def _sunk(loss: np.ndarray, scale: _Scale) -> np.ndarray:
    # A single mini-batch below the frame is noise; a loss at 0 has no place on a log axis at all.
    return (loss <= scale.low * 1e-3) if scale.log else (loss < scale.low - 1e3 * abs(scale.low))


def _edge_handles(losses: Sequence[np.ndarray], scale: _Scale) -> list[tuple[Line2D, str]]:
    kinds = [
        (any((loss > scale.high).any() for loss in losses), "^", "leaves the frame"),
        (any(_sunk(loss, scale).any() for loss in losses), "v", "reaches 0"),
    ]
    return [
        (Line2D([], [], color=_GREY, marker=marker, linestyle=""), text)
        for there, marker, text in kinds
        if there
    ]


def _lr_limits(lrs: pd.Series) -> tuple[float, float]:
    low, high = (float(lrs.min()), float(lrs.max())) if len(lrs) else (0.1, 0.1)
    pad = max(1.25, (high / low) ** 0.04, 2.0 if high / low < 2 else 1.0)
    return low / pad, high * pad


def _log_ticks(axis: Any, low: float, high: float) -> None:
    decades = math.log10(high / low)
    subs = (1.0, 2.0, 5.0) if decades < 2.6 else (1.0,)
    if decades < 0.5:
        axis.set_major_locator(MaxNLocator(5))
    else:
        axis.set_major_locator(LogLocator(subs=subs, numticks=10))
        axis.set_minor_locator(LogLocator(subs=range(2, 10), numticks=100))  # type: ignore[arg-type]
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _finish_y(ax: Axes, scale: _Scale) -> None:
    if scale.log:
        ax.set_yscale("log")
        _log_ticks(ax.yaxis, scale.low, scale.high)
    ax.set_ylim(scale.low, scale.high)
    ax.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    ax.set_axisbelow(True)


# ------------------------------------------------------------------------------------- layout


@dataclass(frozen=True)
class _Sheet:
    """A figure laid out in inches, so that what fits is known before it is drawn."""

    figure: Figure
    axes: Axes
    rail: Axes | None
    width: float  # of the axes, inches
    right: float  # left end of the colour bar's place, inches from the figure's left
    height: float  # of the figure, inches


def _sheet(
    title: str,
    subtitle: str,
    rail_header: str,
    margin: Sequence[_Label],
    handles: Sequence[tuple[Line2D, str]],
    bar: float = 0.0,
) -> _Sheet:
    figure = Figure(figsize=(_WIDTH, 1.0), dpi=DPI)
    FigureCanvasAgg(figure)
    room = _WIDTH - 2 * _PAD
    titles = _wrapped(figure, title, _SIZE + 3, room, bold=True)[:3]
    subtitles = _wrapped(figure, subtitle, _SIZE, room)[:3]
    rows = _legend_rows(figure, handles, room)
    texts = [_text_width(figure, label.text, _SIZE) for label in margin]
    width = _WIDTH - _LEFT - _PAD - bar - (0.3 + max(texts) if texts else 0.0)
    top = _PAD + 0.26 * len(titles) + _LINE * 1.1 * len(subtitles) + 0.12
    rail = (2 * _LINE + 0.06 + _RAIL_HEIGHT + 0.04) if rail_header else 0.0
    bottom = 0.62 + (_LINE + 0.05) * len(rows) + _PAD
    height = top + rail + _AXES_HEIGHT + bottom
    figure.set_size_inches(_WIDTH, height)

    y = height - _PAD
    for lines, size, step, weight in (
        (titles, _SIZE + 3, 0.26, "bold"),
        (subtitles, _SIZE, _LINE * 1.1, "normal"),
    ):
        for text in lines:
            _write(figure, _PAD / _WIDTH, y / height, text, size, va="top", weight=weight)
            y -= step
    with matplotlib.rc_context(_RC):
        axes = figure.add_axes(
            (_LEFT / _WIDTH, bottom / height, width / _WIDTH, _AXES_HEIGHT / height)
        )
        rail_axes = None
        if rail_header:
            low = bottom + _AXES_HEIGHT + 0.04
            rail_axes = figure.add_axes(
                (_LEFT / _WIDTH, low / height, width / _WIDTH, _RAIL_HEIGHT / height)
            )
            above = (low + _RAIL_HEIGHT + _LINE + 0.05) / height
            _write(figure, _LEFT / _WIDTH, above, rail_header, _SIZE, va="bottom")
    _draw_legend(figure, rows, height)
    return _Sheet(figure, axes, rail_axes, width, _WIDTH - _PAD - bar, height)


def _write(
    figure: Figure, x: float, y: float, text: str, size: float, va: str, **look: Any
) -> None:
    # Names are the user's: a "$" in them is a dollar and no formula.
    figure.text(x, y, text, size=size, va=va, ha="left", parse_math=False, **look)


def _text_width(figure: Figure, text: str, size: float, **look: Any) -> float:
    """Inches that a text takes."""
    one = figure.text(0, 0, text, size=size, parse_math=False, **look)
    width = one.get_window_extent().width / figure.dpi
    one.remove()
    return width


def _wrapped(figure: Figure, text: str, size: float, room: float, bold: bool = False) -> list[str]:
    weight = "bold" if bold else "normal"
    width = _text_width(figure, text, size, weight=weight) if text else 0.0
    if width <= room:
        return [text]
    per_line = max(10, int(len(text) * room / width * 0.95))
    return textwrap.wrap(text, per_line) or [text]


def _legend_rows(
    figure: Figure, handles: Sequence[tuple[Line2D, str]], room: float
) -> list[list[tuple[Line2D, str, float]]]:
    """The legend's entries in rows that fit, with the width in inches that each takes."""
    rows: list[list[tuple[Line2D, str, float]]] = []
    used = room
    for handle, text in handles:
        text = text if len(text) <= 80 else text[:79] + "…"
        width = (0.25 if _is_marker(handle) else 0.5) + _text_width(figure, text, _SIZE) + 0.3
        if used + width > room:
            rows.append([])
            used = 0.0
        rows[-1].append((handle, text, width))
        used += width
    return rows


def _is_marker(handle: Line2D) -> bool:
    return handle.get_linestyle() in ("None", "", " ")


def _draw_legend(
    figure: Figure, rows: Sequence[Sequence[tuple[Line2D, str, float]]], height: float
) -> None:
    y = _PAD + (_LINE + 0.05) * (len(rows) - 0.5)
    widest = max((sum(width for *_, width in row) for row in rows), default=0.0)
    start = _LEFT if _LEFT + widest < _WIDTH - _PAD else _PAD
    for row in rows:
        x = start
        for handle, text, width in row:
            handle.set_transform(figure.transFigure)
            key = 0.25 if _is_marker(handle) else 0.5
            xs = [x + 0.1] if _is_marker(handle) else [x, x + 0.4]
            handle.set_data([at / _WIDTH for at in xs], [y / height] * len(xs))
            figure.add_artist(handle)
            _write(figure, (x + key) / _WIDTH, y / height, text, _SIZE, va="center_baseline")
            x += width
        y -= _LINE + 0.05


def _draw_margin(sheet: _Sheet, margin: Sequence[_Label], scale: _Scale) -> None:
    """The labels right of the frame, moved apart where they would overlap, with leaders."""
    if not margin:
        return
    order = sorted(margin, key=lambda label: scale.fraction(label.y))
    true = [min(max(scale.fraction(label.y), 0.0), 1.0) for label in order]
    at = _apart(true, (_LINE * 0.95) / _AXES_HEIGHT)
    ax = sheet.axes
    for label, y_true, y in zip(order, true, at, strict=True):
        ax.plot(
            [1.0, 1 + 0.06 / sheet.width, 1 + 0.19 / sheet.width],
            [y_true, y_true, y],
            transform=ax.transAxes,
            clip_on=False,
            color=label.colour,
            linewidth=0.8,
            gid="leader",
        )
        ax.text(
            1 + 0.23 / sheet.width,
            y,
            label.text,
            transform=ax.transAxes,
            va="center_baseline",
            color=label.colour,
            size=_SIZE,
            parse_math=False,
            gid="label",
        )


def _apart(wanted: Sequence[float], gap: float) -> list[float]:
    """The positions nearest to the (ascending) wanted ones that are at least gap apart.

    Least squares under an order: pool adjacent violators on wanted[i] - i*gap, then move the
    whole back into 0..1 where it fits."""
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


def _draw_rail(
    sheet: _Sheet, xs: Sequence[float], lost: Sequence[_Run], colour: Callable[[float], str]
) -> None:
    """Marks of the runs that became non-finite or failed, at their step or lr, with their lrs."""
    rail = sheet.rail
    assert rail is not None
    if sheet.axes.get_xscale() == "log":
        rail.set_xscale("log")
    rail.set_xlim(sheet.axes.get_xlim())
    rail.set_ylim(-0.6, _RAIL_ROWS - 0.4)
    rail.xaxis.set_major_locator(NullLocator())
    rail.xaxis.set_minor_locator(NullLocator())
    rail.set_yticks([])
    for side in ("left", "right", "top", "bottom"):
        rail.spines[side].set_visible(False)
    rail.set_facecolor("#f3f3f3")

    to_inches = rail.transData
    inches = [float(to_inches.transform((x, 0))[0]) / sheet.figure.dpi - _LEFT for x in xs]
    order = sorted(range(len(xs)), key=lambda i: (inches[i], lost[i].lr))
    taken = [-math.inf] * _RAIL_ROWS
    rows = {}
    for count, i in enumerate(order):
        free = [row for row in range(_RAIL_ROWS) if inches[i] - taken[row] >= 0.1]
        rows[i] = free[0] if free else count % _RAIL_ROWS
        taken[rows[i]] = inches[i]
    for kind, marker in (("nonfinite", "x"), ("failed", "s")):
        mine = [i for i in order if lost[i].mark == kind]
        if mine:
            rail.scatter(
                [xs[i] for i in mine],
                [_RAIL_ROWS - 1 - rows[i] for i in mine],
                c=[colour(lost[i].lr) for i in mine],
                marker=marker,
                s=26,
                linewidths=1.5,
                clip_on=False,
                zorder=5,
                gid=kind,
            )
    for centre, text in _rail_labels(
        sheet, [inches[i] for i in order], [lost[i].lr for i in order]
    ):
        rail.text(
            centre / sheet.width,
            1.04,
            text,
            transform=rail.transAxes,
            ha="center",
            va="bottom",
            size=_SIZE - 0.5,
            gid="label",
        )


def _rail_labels(
    sheet: _Sheet, inches: Sequence[float], lrs: Sequence[float]
) -> list[tuple[float, str]]:
    """Labels for the marks (ascending in inches), one for several where they would overlap."""
    groups = [[i] for i in range(len(inches))]
    while True:
        placed = []
        for group in groups:
            text = _lr_text([lrs[i] for i in group])
            half = _text_width(sheet.figure, text, _SIZE - 0.5) / 2
            centre = (inches[group[0]] + inches[group[-1]]) / 2
            # Labels may reach a little into the left margin, where the rail has no axis.
            centre = min(max(centre, half - 0.5), sheet.width - half)
            placed.append((centre, half, text))
        for i in range(len(groups) - 1):
            (left, left_half, _), (right, right_half, _) = placed[i], placed[i + 1]
            if left + left_half + 0.09 > right - right_half:
                groups[i : i + 2] = [groups[i] + groups[i + 1]]
                break
        else:
            return [(centre, text) for centre, _, text in placed]


def _lr_text(lrs: Sequence[float]) -> str:
    distinct = sorted(set(lrs))
    count = f" ({len(lrs)} runs)" if len(lrs) > 1 else ""
    if len(distinct) <= 3:
        return f"lr {', '.join(f'{lr:.3g}' for lr in distinct)}{count}"
    return f"lr {distinct[0]:.3g} to {distinct[-1]:.3g}{count}"


def _draw_bar(sheet: _Sheet, norm: LogNorm, lrs: Sequence[float]) -> None:
    figure = sheet.figure
    box = sheet.axes.get_position()
    with matplotlib.rc_context(_RC):
        place = figure.add_axes(((sheet.right + 0.15) / _WIDTH, box.y0, 0.14 / _WIDTH, box.height))
        bar = figure.colorbar(ScalarMappable(norm, _MAP), cax=place)
    bar.outline.set_visible(False)  # type: ignore[operator]
    low, high = lrs[0], lrs[-1]
    heights = np.log(lrs) / math.log(high / low)
    if float(np.diff(heights).min()) * _AXES_HEIGHT >= _LINE:
        place.yaxis.set_major_locator(FixedLocator(lrs))
        place.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    else:
        _log_ticks(place.yaxis, low, high)
    place.yaxis.set_minor_locator(NullLocator())
    place.set_title("lr", size=_SIZE, loc="left")
