"""What came of each learning rate: end loss, accuracy, and the way to a target, against the lr."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lrlab.plots import frame, reach, runs, style
from lrlab.plots.frame import Label, Reference, Scale
from lrlab.plots.runs import Run
from lrlab.plots.sheet import (
    Handles,
    Sheet,
    draw_margin,
    draw_rail,
    draw_ribbon,
    rail_heading,
    sheet,
)
from lrlab.plots.style import DARK, GREY, HUES, OUTCOMES, RECOMMENDED, SHAPES
from lrlab.plots.tables import NothingToDraw

if TYPE_CHECKING:
    from lrlab.answer import Answer

RIBBONS = 6  # up to so many settings have a ribbon of outcomes each
BEST = "#00664B"
_FAR = 0.4  # end losses all below this share of the reference losses are drawn without these
_TIED = 2  # where more lrs than this were equally fast, none is marked
_BESIDE = 0.008  # of the axis, between settings that may need as many steps
_DENSE = 40  # more lrs than this have smaller marks


@dataclass(frozen=True)
class _Measure:
    """What stands on the y axis, once of the training and once of the test data."""

    names: tuple[str, str]  # columns
    words: tuple[str, str]  # what they are called in the legend
    of_pruned: str  # the column that a pruned run has
    worst: float  # what a run counts as that has none, because it became non-finite


@dataclass(frozen=True)
class _Table:
    """The runs as they are drawn."""

    all: pd.DataFrame  # with a column setting, a text
    on_axis: Any  # those with an lr above 0
    blended: list[str]
    hues: Mapping[str, str]
    shapes: Mapping[str, str]
    outcomes: Mapping[Any, str]  # by run
    lost: list[Run]

    @property
    def coloured_by_outcome(self) -> bool:
        return bool(self.outcomes) and len(self.hues) == 1

    @property
    def size(self) -> float:
        return 6.5 if self.on_axis["lr"].nunique() <= _DENSE else 4.0


@reach.within
def lr_against_loss(
    runs: pd.DataFrame,
    verdicts: pd.DataFrame | None = None,
    answers: "Sequence[Answer]" = (),
    *,
    title: str | None = None,
) -> Figure:
    """Train and test loss at the end of training against lr, both axes logarithmic.

    runs: as from `analysis.runs`: columns run, lr, state, train_loss, test_loss; and where there,
    seed, the settings, val_loss (of pruned runs), initial_loss and chance_loss. Where state is
    missing, runs have finished unless their verdict is diverged; where both losses are, the
    verdicts' train_end_loss is drawn.
    verdicts: as from `lrlab.verdicts.verdicts`: then a ribbon names the outcomes along the lr, and
    where all other settings are equal the marks have the outcome's colour and shape.
    answers: as from `lrlab.answer.recommend`: the first one's range is shaded.

    One colour a setting (schedule, optimizer, ...). Filled and solid: train loss; open and dashed:
    test loss. The lines join the medians over the seeds of an lr, in which a diverged run counts
    as infinitely bad: where half of the seeds diverged, the line breaks instead of leaving them
    out; the band spans the seeds. Where a search moves more than the lr and each run has a setting
    of its own, no line joins them. Diverged and failed runs are marked on a rail above the frame at
    their lr. A pruned run is a cross at its last val_loss, and no line joins it: it had fewer
    epochs than the others.

    Raises:
        NothingToDraw: there are no runs, or a column is missing.
    """
    measure = _Measure(
        ("train_loss", "test_loss"), ("train loss", "test loss"), "val_loss", math.inf
    )
    table = _table(runs, verdicts, measure)
    finals = [style.finite(table.all[name]) for name in measure.names if name in table.all]
    finals.append(style.finite(_pruned(table.all, measure)[measure.of_pruned]))
    references = _near(frame.references(table.all), finals)
    scale = frame.loss_scale(finals, references)
    margin = frame.reference_labels(references)
    entries = _handles(table, measure) + frame.edge_handles(finals, scale)
    page = _page(
        title or "Loss at the end of training against learning rate",
        table,
        margin,
        entries,
        answers,
    )
    ax = page.axes
    _draw(ax, table, measure, scale)
    frame.draw_references(ax, references)
    _finish(page, table, margin, scale, answers, f"loss at the end{style.unit(table.all)}")
    return page.figure


@reach.within
def lr_against_accuracy(
    runs: pd.DataFrame,
    verdicts: pd.DataFrame | None = None,
    answers: "Sequence[Answer]" = (),
    *,
    title: str | None = None,
) -> Figure:
    """Train and test accuracy at the end of training against lr, drawn as `lr_against_loss` is.

    runs: columns run, lr, state, train_acc, test_acc as shares; and where there, val_acc (of
    pruned runs), num_classes, chance_loss, seed, the settings.

    The y axis is in percent. Where some run comes near 100 it is stretched towards 100, so that
    equal lengths are equal ratios of errors; a perfect run stands at the upper edge.

    Raises:
        NothingToDraw: there are no runs, none has an accuracy, or a column is missing.
    """
    measure = _Measure(
        ("train_acc", "test_acc"), ("train accuracy", "test accuracy"), "val_acc", -math.inf
    )
    percent = runs.copy()
    for name in (*measure.names, measure.of_pruned):
        if name in percent:
            percent[name] = 100 * percent[name].astype(float)
    table = _table(percent, verdicts, measure)
    finals = [style.finite(table.all[name]) for name in measure.names if name in table.all]
    finals.append(style.finite(_pruned(table.all, measure)[measure.of_pruned]))
    if not any(map(len, finals)):
        raise NothingToDraw("no run has an accuracy")
    chances = _chance_accuracies(table.all)
    scale = frame.accuracy_scale(finals, chances)
    margin = [Label(chance, f"{chance:.3g} % (guessing)") for chance in chances]
    page = _page(
        title or "Accuracy at the end of training against learning rate",
        table,
        margin,
        _handles(table, measure),
        answers,
    )
    ax = page.axes
    _draw(ax, table, measure, scale)
    for chance in chances:
        ax.axhline(chance, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=5, gid="chance")
    stretched = ", stretched towards 100" if scale.kind == "accuracy" else ""
    _finish(page, table, margin, scale, answers, f"accuracy at the end (%{stretched})")
    return page.figure


@reach.within
def to_target(
    verdicts: pd.DataFrame, answers: "Sequence[Answer]" = (), *, title: str | None = None
) -> Figure:
    """Steps and seconds of training until the loss reached its target, against lr, logarithmic.

    verdicts: as from `lrlab.verdicts.verdicts`: columns run, lr, steps_to_target (inf: never); and
    where there, seconds_to_target, target_loss, unit, judged_by, seed, the settings.

    Points are runs, lines join the medians over the seeds of an lr, in which a run that never came
    there counts as infinitely slow. Runs that never came there are marked on the rail. Several
    settings stand a little beside each other at their lr, for evaluations are seldom and many need
    the same number of steps. Without seconds that panel is left out.

    Raises:
        NothingToDraw: there is no target, or no run to judge by it.
    """
    runs.need(verdicts, "run", "lr", "steps_to_target")
    table = verdicts.reset_index(drop=True)
    setting, blended = style.settings(table)
    table = table.assign(setting=setting)
    steps = table["steps_to_target"].astype(float)
    judged: Any = table[steps.notna() & (table["lr"] > 0)]
    if judged.empty:
        raise NothingToDraw("no run has a target loss to reach")
    measures = [("steps_to_target", f"{style.constant(table, 'unit') or 'step'}s to target")]
    seconds = judged["seconds_to_target"] if "seconds_to_target" in judged else pd.Series()
    if len(style.finite(seconds.astype(float))):
        measures.append(("seconds_to_target", "seconds of training to target"))
    never = judged[np.isinf(judged["steps_to_target"].astype(float))]
    lost = [
        Run(run=row["run"], lr=float(row["lr"]), setting=row["setting"], mark="never")
        for row in never.to_dict("records")
    ]
    hues, shapes = (
        style.looks(table["setting"], HUES),
        style.looks(table["setting"], SHAPES, shift=1),
    )
    several = bool((judged.groupby(["lr", "setting"]).size() > 1).any())
    entries: list[tuple[Line2D, str]] = []
    if len(hues) > 1:
        entries += [
            (Line2D([], [], color=hue, marker=shapes[key], linewidth=1.6), key)
            for key, hue in hues.items()
        ]
    if several:
        entries.append((Line2D([], [], color=GREY, marker="o", linewidth=1.6), "median of seeds"))
        entries.append((Line2D([], [], color=GREY, marker=".", linestyle=""), "one seed"))
    groups = [group for _, group in judged.groupby("setting")]
    if any(_fastest(_medians_to(group, name)) for group in groups for name, _ in measures):
        star = Line2D([], [], color=DARK, marker="*", markersize=11, linestyle="")
        entries.append((star, "fastest"))
    entries += _recommended_handle(answers)
    page = sheet(
        title or f"How long it took to reach {_target_words(judged)}",
        style.subtitle(table, blended),
        rail=rail_heading([run.mark for run in lost], len(judged)),
        handles=entries,
        rows=(2.5,) * len(measures),
        between=0.2,
    )
    for row, (name, label) in enumerate(measures):
        ax = page.panels[row][0]
        _draw_to_target(ax, judged, name, hues, shapes, several)
        frame.lr_axis(ax, judged["lr"], label=row == len(measures) - 1)
        if row < len(measures) - 1:
            ax.tick_params(labelbottom=False)
        ax.set_ylabel(label)
        _draw_recommended(ax, answers)
    draw_rail(page, [run.lr for run in lost], lost, lambda _lr: "#333333")
    return page.figure


# --- lr against what it came to -------------------------------------------------------------------


def _ended(table: pd.DataFrame, verdicts: pd.DataFrame | None, measure: _Measure) -> pd.DataFrame:
    """The table with what a CSV of curves does not tell of its runs, but their verdicts do.

    A run without a state has finished, unless it diverged.
    """
    outcomes = style.outcomes(verdicts)
    if "state" not in table:
        diverged = [outcomes.get(run) == "diverged" for run in table["run"]]
        table = table.assign(state=np.where(diverged, "diverged", "finished"))
    train, _ = measure.names
    if (
        verdicts is not None
        and train == "train_loss"
        and not any(n in table for n in measure.names)
    ):
        runs.need(verdicts, "train_end_loss")
        ends = dict(zip(verdicts["run"], verdicts["train_end_loss"].astype(float), strict=True))
        table = table.assign(train_loss=[ends.get(run, math.nan) for run in table["run"]])
    return table


def _table(table: pd.DataFrame, verdicts: pd.DataFrame | None, measure: _Measure) -> _Table:
    runs.need(table, "run", "lr")
    table = _ended(table, verdicts, measure)
    if not any(name in table for name in measure.names):
        raise NothingToDraw(f"the table has no column {' nor '.join(measure.names)}")
    if table.empty:
        raise NothingToDraw("there are no runs")
    table = table.reset_index(drop=True)
    setting, blended = style.settings(table)
    table = table.assign(setting=setting)
    on_axis: Any = table[table["lr"] > 0]
    outcomes = style.outcomes(verdicts)
    lost = [
        Run(run=row["run"], lr=float(row["lr"]), setting=row["setting"], mark=mark)
        for row in on_axis.to_dict("records")
        if (mark := runs.mark(row["state"]))
    ]
    hues, shapes = style.looks(setting, HUES), style.looks(setting, SHAPES, shift=1)
    return _Table(table, on_axis, blended, hues, shapes, outcomes, lost)


def _page(
    title: str,
    table: _Table,
    margin: Sequence[Label],
    handles: list[tuple[Line2D, str]],
    answers: "Sequence[Answer]",
) -> Sheet:
    not_drawn = len(table.all) - len(table.on_axis)
    subtitle = style.subtitle(table.all, table.blended)
    subtitle += f" · {not_drawn} with lr 0 not drawn" if not_drawn else ""
    return sheet(
        title,
        subtitle,
        rail=rail_heading([run.mark for run in table.lost], len(table.all)),
        ribbons=[name if len(table.hues) > 1 else "" for name in _ribbons(table)],
        margin=margin,
        handles=[*handles, *_recommended_handle(answers)],
    )


def _finish(
    page: Sheet,
    table: _Table,
    margin: Sequence[Label],
    scale: Scale,
    answers: "Sequence[Answer]",
    label: str,
) -> None:
    ax = page.axes
    frame.lr_axis(ax, table.on_axis["lr"])
    ax.set_ylabel(label)
    frame.finish_y(ax, scale)
    _draw_recommended(ax, answers)
    draw_margin(ax, margin)
    draw_rail(page, [run.lr for run in table.lost], table.lost, lambda _lr: "#333333")
    low, high = ax.get_xlim()
    for ribbon, outcomes in zip(page.ribbons, _ribbons(table).values(), strict=True):
        draw_ribbon(ribbon, outcomes, low, high)


def _ribbons(table: _Table) -> dict[str, dict[float, str]]:
    """By setting, the outcome that most runs at each lr have."""
    if not table.outcomes or len(table.hues) > RIBBONS or table.on_axis.empty:
        return {}
    found = {}
    for setting, group in table.on_axis.groupby("setting", sort=True):
        of_lr = group.groupby("lr")["run"]
        found[str(setting)] = {
            float(lr): style.majority(table.outcomes.get(run, "") for run in members)
            for lr, members in of_lr
        }
    return found


def _handles(table: _Table, measure: _Measure) -> list[tuple[Line2D, str]]:
    solid, dashed = ("", "") if table.blended else ("-", "--")
    look: Any = {"color": GREY, "marker": "o"}
    found: list[tuple[Line2D, str]] = [
        (Line2D([], [], linewidth=1.6, linestyle=solid, **look), measure.words[0]),
        (Line2D([], [], linewidth=1.3, linestyle=dashed, mfc="white", **look), measure.words[1]),
    ]
    has = [name in table.all for name in measure.names]
    if all(has):  # data without a test part
        known = [len(style.finite(table.all[name])) > 0 for name in measure.names]
        has = [True, known[1] or not known[0]]
    found = [entry for entry, is_there in zip(found, has, strict=True) if is_there]
    if _several(table):
        found = [(handle, f"{text}, median of seeds") for handle, text in found]
        found.append((Line2D([], [], color=GREY, marker=".", linestyle=""), "one seed"))
    if len(table.hues) > 1:
        found += [
            (
                Line2D([], [], color=hue, marker=table.shapes[key], linewidth=1.6, linestyle=solid),
                key,
            )
            for key, hue in table.hues.items()
        ]
    if len(_pruned(table.all, measure)):
        loss = measure.of_pruned.replace("_loss", " loss").replace("_acc", " accuracy")
        found.append((_cross(GREY), f"pruned: {loss} at its end"))
    if table.outcomes and _ribbons(table):
        judged = [table.outcomes.get(run, "") for run in table.on_axis["run"]]
        # Those on the rail have its own marks, and stand in the ribbon with their name.
        found += style.outcome_handles(judged)
    return found


def _several(table: _Table) -> bool:
    return style.distinct(table.all, "seed") > 1


def _draw(ax: Axes, table: _Table, measure: _Measure, scale: Scale) -> None:
    solid, dashed = ("", "") if table.blended else ("-", "--")
    for setting, group in table.on_axis.groupby("setting", sort=True):
        hue, shape = table.hues[str(setting)], table.shapes[str(setting)]
        if table.coloured_by_outcome:
            hue, shape = DARK, "o"
        for name, is_train in zip(measure.names, (True, False), strict=True):
            if name not in group:
                continue
            lrs, medians, several = _medians(group, name, measure.worst)
            finite = group[np.isfinite(group[name].astype(float))]
            if several:
                _draw_seeds(ax, finite, name, scale, hue, is_train)
            ax.plot(
                lrs,
                scale.shown(medians),
                color=hue,
                marker="" if table.coloured_by_outcome else shape,
                markersize=table.size,
                mfc=hue if is_train else "white",
                linestyle=solid if is_train else dashed,
                linewidth=1.6 if is_train else 1.3,
                zorder=4 if is_train else 3,
                gid=f"median:{name}",
            )
            if table.coloured_by_outcome:
                _draw_outcomes(ax, table, lrs, scale.shown(medians), is_train)
            for lr, value in zip(finite["lr"], finite[name], strict=True):
                frame.draw_edges(ax, np.array([lr]), np.array([value], dtype=float), scale, hue)
    for row in _pruned(table.all, measure).to_dict("records"):
        hue = table.hues[row["setting"]]
        value = np.array([row[measure.of_pruned]], dtype=float)
        cross = _cross(hue)
        cross.set_data([row["lr"]], scale.shown(value))
        ax.add_line(cross)
        frame.draw_edges(ax, np.array([row["lr"]]), value, scale, hue)


def _draw_seeds(ax: Axes, finite: Any, name: str, scale: Scale, hue: str, is_train: bool) -> None:
    """Each seed, and the band that they span."""
    ax.plot(
        finite["lr"],
        scale.shown(finite[name].to_numpy(float)),
        linestyle="",
        marker=".",
        color=hue,
        alpha=0.55,
        mfc=hue if is_train else "white",
        gid=f"seeds:{name}",
    )
    by_lr = finite.groupby("lr")[name]
    lrs = np.array([float(lr) for lr in by_lr.groups])
    ax.fill_between(
        lrs,
        scale.shown(by_lr.min().to_numpy(float)),
        scale.shown(by_lr.max().to_numpy(float)),
        color=hue,
        alpha=0.15 if is_train else 0.08,
        linewidth=0,
        gid=f"band:{name}",
    )


def _draw_outcomes(
    ax: Axes, table: _Table, lrs: np.ndarray, shown: np.ndarray, is_train: bool
) -> None:
    """Marks in the outcome's colour and shape over the medians."""
    outcomes = next(iter(_ribbons(table).values()), {})
    for outcome, look in OUTCOMES.items():
        mine = [i for i, lr in enumerate(lrs) if (outcomes.get(float(lr)) or "unknown") == outcome]
        if not mine:
            continue
        is_line = look.shape == "x"
        ax.plot(
            lrs[mine],
            shown[mine],
            linestyle="",
            marker=look.shape,
            markersize=table.size + 2,
            color=look.colour,
            mfc=look.colour if is_train else "white",
            mec=look.colour if is_line or not is_train else "white",
            mew=1.4 if is_line or not is_train else 0.8,
            zorder=5 if is_train else 4.5,
            gid=f"outcome:{outcome}",
        )


def _pruned(table: pd.DataFrame, measure: _Measure) -> pd.DataFrame:
    """The pruned runs that have an lr and a value to stand at."""
    name = measure.of_pruned
    if name not in table:
        return table.iloc[:0].assign(**{name: np.nan})
    there = (table["state"] == "pruned") & (table["lr"] > 0)
    return table.loc[there & np.isfinite(table[name].astype(float))]


def _cross(colour: str) -> Line2D:
    """A pruned run among the values at the end."""
    cross = Line2D([], [], color=colour, linestyle="", marker="+", markersize=6, alpha=0.75)
    cross.set(markeredgewidth=1.1, zorder=2.5, gid="pruned")
    return cross


def _medians(group: Any, name: str, worst: float) -> tuple[np.ndarray, np.ndarray, bool]:
    """lrs, the median value of each (NaN: no number, or half of its seeds diverged), and whether
    any lr has several runs."""
    values = group[name].astype(float).where(group["state"] != "diverged", worst)
    # Beside seeds that finished, a pruned one was worse; where all were pruned there is no point.
    reached = set(group["lr"][values.notna()])
    beside = (group["state"] == "pruned") & group["lr"].isin(reached)
    values = values.where(~beside, worst)
    known = values[values.notna()]
    by_lr = known.groupby(group["lr"].loc[known.index])
    medians = by_lr.median().replace(worst, np.nan)
    return medians.index.to_numpy(float), medians.to_numpy(float), bool((by_lr.size() > 1).any())


def _near(references: list[Reference], finals: Sequence[np.ndarray]) -> list[Reference]:
    """None of the references where all runs ended far below: they would squash what differs."""
    highest = max([float(values.max()) for values in finals if len(values)], default=math.inf)
    return [] if highest < _FAR * min([one.low for one in references], default=0.0) else references


def _chance_accuracies(table: pd.DataFrame) -> list[float]:
    """Percent right that guessing gets, of each number of classes there is."""
    if "num_classes" in table and len(classes := style.finite(table["num_classes"])):
        return sorted({100 / float(count) for count in classes if count >= 2})
    return []


# --- the recommended range ------------------------------------------------------------------------


def _recommended(answers: "Sequence[Answer]") -> tuple[float, float, float] | None:
    """The best lr of all that is drawn, and the ends of the range that is as good."""
    from lrlab.answer import comparable

    if not answers or answers[0].best_lr is None or not comparable(answers):
        return None
    best = answers[0].best_lr
    return (best, *(answers[0].as_good or (best, best)))


def _draw_recommended(ax: Axes, answers: "Sequence[Answer]") -> None:
    """The range that does as well as the best shaded, the best a line."""
    found = _recommended(answers)
    if found is None:
        return
    best, low, high = found
    left, right = ax.get_xlim()
    if high <= low:  # a single lr has no width of its own
        low, high = (best * frame.ratio(left, right, share) for share in (-0.008, 0.008))
    ax.axvspan(low, high, color=RECOMMENDED, alpha=0.55, linewidth=0, zorder=0.5, gid="recommended")
    ax.axvline(best, color=BEST, linewidth=1.3, zorder=1.5, gid="best")


def _recommended_handle(answers: "Sequence[Answer]") -> Handles:
    found = _recommended(answers)
    if found is None:
        return []
    best, low, high = found
    where = "".join(f"{value}, " for value in answers[0].settings.values())
    text = f"recommended: {where}lr {style.lr_word(best)}"
    if low < high:
        text += f"; as good from {style.lr_word(low)} to {style.lr_word(high)}"
    return [(Line2D([], [], color=RECOMMENDED, linewidth=9, solid_capstyle="butt"), text)]


# --- the way to a target --------------------------------------------------------------------------


def _target_words(judged: pd.DataFrame) -> str:
    loss = str(style.constant(judged, "judged_by") or "loss").replace("_loss", " loss")
    if "judged_by" in judged and style.distinct(judged, "judged_by") > 1:
        # Runs that ended before their first evaluation are judged by what they have.
        loss = str(judged["judged_by"].mode().iloc[0]).replace("_loss", " loss")
    targets = style.finite(judged["target_loss"].astype(float)) if "target_loss" in judged else []
    if not len(targets):
        return "the target loss"
    low, high = f"{min(targets):.3g}", f"{max(targets):.3g}"
    return f"a {loss} of {low}" if low == high else f"a {loss} of {low} to {high}"


def _medians_to(group: Any, name: str) -> Any:
    """By lr, the median over its seeds; NaN where half of them never came there."""
    known = group[group[name].astype(float).notna()]
    return known.groupby("lr")[name].median().replace(math.inf, math.nan)


def _fastest(medians: Any) -> dict[float, float]:
    """The fastest lr and its median; none where many are equally fast."""
    lowest = medians.min()
    found = {float(lr): float(value) for lr, value in medians.items() if value == lowest}
    return found if len(found) <= _TIED else {}


def _draw_to_target(
    ax: Axes,
    judged: Any,
    name: str,
    hues: Mapping[str, str],
    shapes: Mapping[str, str],
    several: bool,
) -> None:
    values = judged[name].astype(float)
    reached = judged[np.isfinite(values)]
    low, high = frame.lr_limits(judged["lr"])
    for place, (setting, group) in enumerate(judged.groupby("setting", sort=True)):
        hue, shape = hues[str(setting)], shapes[str(setting)]
        beside = frame.ratio(low, high, _BESIDE * (place - (len(hues) - 1) / 2))
        group = group.assign(lr=group["lr"] * beside)
        there = _medians_to(group, name)
        if several:
            points = group[np.isfinite(group[name].astype(float))]
            ax.plot(
                points["lr"],
                points[name],
                linestyle="",
                marker=".",
                color=hue,
                alpha=0.55,
                gid=f"seeds:{name}",
            )
        ax.plot(
            there.index.to_numpy(float),
            there.to_numpy(float),
            color=hue,
            marker=shape,
            markersize=6 if len(there) <= _DENSE else 4,
            linewidth=1.6,
            zorder=3,
            gid=f"median:{name}",
        )
        if fastest := _fastest(there):
            ax.plot(
                list(fastest),
                list(fastest.values()),
                linestyle="",
                marker="*",
                markersize=13,
                color=hue,
                markeredgecolor="white",
                zorder=4,
                gid=f"fastest:{name}",
            )
    positive = [float(value) for value in reached[name].astype(float) if value > 0]
    if positive:
        low, high = min(positive) / 1.35, max(positive) * 1.35
        ax.set_ylim(low, high)  # before its scale, which else is made for all that is drawn
        ax.set_yscale("log")
        frame.log_ticks(ax.yaxis, low, high, most=6)
    ax.grid(axis="y", color=style.PALE, linewidth=0.7)
    ax.set_axisbelow(True)
