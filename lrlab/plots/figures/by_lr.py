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
from lrlab.plots.figures import pooled
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
from lrlab.plots.style import BEST, DARK, GREY, HUES, OUTCOMES, RECOMMENDED, SHAPES
from lrlab.plots.tables import NothingToDraw
from lrlab.verdicts.judging import UNFINISHED, most_judged_by

if TYPE_CHECKING:
    from lrlab.verdicts.pooled import Search
    from lrlab.verdicts.recommend import Answer

RIBBONS = 6  # up to so many settings have a ribbon of outcomes each
_BEST_LINE: Any = {"color": BEST, "linewidth": 1.3}
_FAR = 0.4  # end losses all below this share of the reference losses are drawn without these
_TIED = 2  # where more lrs than this were equally fast, none is marked
_BESIDE = 0.008  # of the axis, between settings that may need as many steps
_DENSE = 40  # more lrs than this have smaller marks
_WHOLE = 3  # up to so many settings have all their series drawn; of more, what decides
_BESIDES = 0.6  # size of the marks of what does not decide, against those of what does
# How a series is drawn that does not decide: its dashes, and whether its marks are filled.
_DASHES: Mapping[str, Any] = {
    "val": (0, (7, 1.5, 1.2, 1.5)),
    "train": (0, (5, 1.8)),
    "test": (0, (1.2, 1.7)),
}


@dataclass(frozen=True)
class _Measure:
    """What stands on the y axis, of the validation, training and test data."""

    kind: str  # the end of its columns' names
    word: str
    worst: float  # what a run counts as that has none, because it became non-finite

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{part}_{self.kind}" for part in ("val", "train", "test"))

    def word_of(self, name: str) -> str:
        return f"{name.partition('_')[0]} {self.word}"


_LOSS = _Measure("loss", "loss", math.inf)
_ACCURACY = _Measure("acc", "accuracy", -math.inf)
_AT_PRUNING = "at pruning"  # the column with the last value of a pruned run


@dataclass(frozen=True)
class _Table:
    """The runs as they are drawn.

    series: the columns with something to draw, first the one by which lrs are to be compared.
    left_out: of so many settings, the parts of the data that are not drawn.
    decides: whether that is what the sweep's best run is chosen by.
    judged_by: the loss that the recommendation rests on; "" where nothing was judged.
    """

    all: pd.DataFrame  # with a column setting, a text
    on_axis: Any  # those with an lr above 0
    blended: list[str]
    hues: Mapping[str, str]
    shapes: Mapping[str, str]
    outcomes: Mapping[Any, str]  # by run
    lost: list[Run]
    series: list[str]
    left_out: list[str]
    decides: bool
    judged_by: str
    best_by_objective: tuple[str, float] | None
    search: "Search | None"  # of a search over several settings: these have no looks of their own
    best_run: Any
    names: Sequence[str]  # of what the search moved besides the lr

    @property
    def coloured_by_outcome(self) -> bool:
        return bool(self.outcomes) and len(self.hues) == 1 and self.search is None

    @property
    def size(self) -> float:
        return 6.5 if self.on_axis["lr"].nunique() <= _DENSE else 4.0


@reach.within
def lr_against_loss(
    runs: pd.DataFrame,
    verdicts: pd.DataFrame | None = None,
    answers: "Sequence[Answer]" = (),
    *,
    objective: str = "val_loss",
    title: str | None = None,
) -> Figure:
    """Validation, train and test loss at the end of training against lr, both axes logarithmic.

    runs: as from `analysis.runs`: columns run, lr, state, and of val_loss, train_loss, test_loss
    those there are; and where there, seed, the settings, initial_loss and chance_loss. Where state
    is missing, runs have finished unless their verdict is diverged; where all losses are, the
    verdicts' end_loss and train_end_loss are drawn.
    verdicts: as from `lrlab.verdicts.judging.verdicts`: then a ribbon names the outcomes along the
    lr, and where all other settings are equal the marks have the outcome's colour and shape. The
    end_loss of a finished run is its val loss here, for it is what the recommendation rests on.
    answers: as from `lrlab.verdicts.recommend.recommend`: the first one's range is shaded.
    objective: what the sweep's best run is chosen by, see `lrlab.config.schema.OBJECTIVES`. If
    that is not what the verdicts judge by, the line marks the best lr by it, and the legend says
    so.

    One colour a setting (schedule, optimizer, ...). Solid, with large marks: what decides, which is
    the objective, else val loss, else train loss. Thin and dashed, with small marks: train loss;
    dotted and open: test loss; of more than three settings only what decides. The lines join the
    medians over the seeds of an lr, in which a diverged run counts as infinitely bad: where half of
    the seeds diverged, the line breaks instead of leaving them out; dots and band show the seeds of
    what decides. Diverged and failed runs are marked on a rail above the frame at their lr. A
    pruned run is a cross at its last val_loss, and no line joins it: it had fewer epochs than the
    others.

    Of a search over several settings, as its answer says, one hue is for all configurations that
    ended: dots without lines, the best with a star, and the lowest in each range of lrs as a step
    line. There the range is shaded that is as good as the best, and there is no ribbon.

    Raises:
        NothingToDraw: there are no runs, or a column is missing.
    """
    table = _table(runs, verdicts, _LOSS, objective, answers)
    finals = _finals(table, _LOSS)
    references = _near(frame.references(table.all), finals)
    scale = frame.loss_scale(finals, references)
    margin = frame.reference_labels(references)
    entries = _handles(table, _LOSS) + frame.edge_handles(finals, scale)
    page = _page(
        title or "Loss at the end of training against learning rate",
        table,
        _LOSS.word,
        margin,
        entries,
        answers,
    )
    ax = page.axes
    _draw(ax, table, _LOSS, scale)
    frame.draw_references(ax, references)
    _finish(page, table, margin, scale, answers, f"loss at the end{style.unit(table.all)}")
    return page.figure


@reach.within
def lr_against_accuracy(
    runs: pd.DataFrame,
    verdicts: pd.DataFrame | None = None,
    answers: "Sequence[Answer]" = (),
    *,
    objective: str = "val_loss",
    title: str | None = None,
) -> Figure:
    """Validation, train and test accuracy at the end of training against lr.

    It is drawn as `lr_against_loss` is. What is recommended is so by the loss, and the legend says
    so.

    runs: columns run, lr, state, and of val_acc, train_acc, test_acc, as shares, those there are;
    and where there, num_classes, chance_loss, seed, the settings.

    The y axis is in percent. Where some run comes near 100 it is stretched towards 100, so that
    equal lengths are equal ratios of errors; a perfect run stands at the upper edge.

    Raises:
        NothingToDraw: there are no runs, none has an accuracy, or a column is missing.
    """
    percent = runs.copy()
    for name in _ACCURACY.names:
        if name in percent:
            percent[name] = 100 * percent[name].astype(float)
    table = _table(percent, verdicts, _ACCURACY, objective, answers)
    finals = _finals(table, _ACCURACY)
    if not any(map(len, finals)):
        raise NothingToDraw("no run has an accuracy")
    chances = _chance_accuracies(table.all)
    scale = frame.accuracy_scale(finals, chances)
    margin = [Label(chance, f"{chance:.3g} % (guessing)") for chance in chances]
    page = _page(
        title or "Accuracy at the end of training against learning rate",
        table,
        _ACCURACY.word,
        margin,
        _handles(table, _ACCURACY),
        answers,
    )
    ax = page.axes
    _draw(ax, table, _ACCURACY, scale)
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

    verdicts: as from `lrlab.verdicts.judging.verdicts`: columns run, lr, steps_to_target (inf:
    never); and where there, seconds_to_target, target_loss, unit, judged_by, seed, the settings.

    Points are runs, lines join the medians over the seeds of an lr, in which a run that never came
    there counts as infinitely slow. Runs that never came there are marked on the rail. Several
    settings stand a little beside each other at their lr, for evaluations are seldom and many need
    the same number of steps. Without seconds that panel is left out.

    Raises:
        NothingToDraw: there is no target, or no run to judge by it.
    """
    runs.need(verdicts, "run", "lr", "steps_to_target")
    table = verdicts.reset_index(drop=True)
    setting, blended = _settings(table, answers)
    joined = pooled.search_of(answers) is None
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
        _draw_to_target(ax, judged, name, hues, shapes, several, joined)
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

    A run without a state has finished, unless it diverged. The value at which a run was pruned
    stands in a column of its own, for it had fewer epochs than the others.
    """
    outcomes = style.outcome_of_runs(verdicts)
    if "state" not in table:
        diverged = [outcomes.get(run) == "diverged" for run in table["run"]]
        table = table.assign(state=np.where(diverged, "diverged", "finished"))
    val = measure.names[0]
    untold = not any(name in table for name in measure.names)
    if verdicts is not None and measure is _LOSS:
        if untold:
            runs.need(verdicts, "train_end_loss")
            table = table.assign(train_loss=_of_runs(table, verdicts, "train_end_loss"))
        table = _with_end_loss(table, verdicts, untold)
    if val in table:
        values, state = table[val].astype(float), table["state"]
        table = table.assign(
            **{
                val: values.where(~state.isin(list(UNFINISHED))),
                _AT_PRUNING: values.where(state == "pruned"),
            }
        )
    return table


def _of_runs(table: pd.DataFrame, verdicts: pd.DataFrame, name: str) -> list[float]:
    """A column of the verdicts, in the table's order; NaN for a run without one."""
    found = dict(zip(verdicts["run"], verdicts[name].astype(float), strict=True))
    return [found.get(run, math.nan) for run in table["run"]]


def _with_end_loss(table: pd.DataFrame, verdicts: pd.DataFrame, untold: bool) -> pd.DataFrame:
    """The table with the end loss of its verdict as the loss that decides, of each run that ended.

    That is the median of the last evaluations, or of the last mini-batch losses where there are
    none, and the lowest is what is recommended. Whatever shows an end loss shows this number.
    """
    if not {"end_loss", "judged_by"} <= set(verdicts):
        return table
    name = most_judged_by(verdicts["judged_by"])
    if not name or not (name in table or untold):
        return table
    mine = verdicts.loc[verdicts["judged_by"] == name]
    ends = pd.Series(_of_runs(table, mine, "end_loss"), table.index, dtype=float)
    own = table[name].astype(float) if name in table else pd.Series(np.nan, table.index)
    takes = np.isfinite(ends) & ~table["state"].isin([*UNFINISHED, "diverged"])
    return table.assign(**{name: own.where(~takes, ends)})


def _table(
    table: pd.DataFrame,
    verdicts: pd.DataFrame | None,
    measure: _Measure,
    objective: str,
    answers: "Sequence[Answer]" = (),
) -> _Table:
    runs.need(table, "run", "lr")
    table = _ended(table, verdicts, measure)
    there = [name for name in measure.names if name in table]
    if not there:
        raise NothingToDraw(f"the table has no column {' nor '.join(measure.names)}")
    if table.empty:
        raise NothingToDraw("there are no runs")
    table = table.reset_index(drop=True)
    search = pooled.search_of(answers)
    setting, blended = _settings(table, answers)
    table = table.assign(setting=setting)
    on_axis: Any = table[table["lr"] > 0]
    outcomes = style.outcome_of_runs(verdicts)
    lost = [
        Run(run=row["run"], lr=float(row["lr"]), setting=row["setting"], mark=mark)
        for row in on_axis.to_dict("records")
        if (mark := runs.mark(row["state"]))
    ]
    hues, shapes = style.looks(setting, HUES), style.looks(setting, SHAPES, shift=1)
    judged = [] if verdicts is None or "judged_by" not in verdicts else verdicts["judged_by"]
    judged_by = most_judged_by(judged)
    decider = judged_by or objective if objective == "val_loss" else objective
    known = [name for name in there if len(style.finite(table[name].astype(float)))] or there[:1]
    known = sorted(known, key=lambda name: name != decider)
    finite = np.isfinite(table[known].to_numpy(dtype=float, na_value=math.nan))
    has_some, has_first = set(setting[finite.any(axis=1)]), set(setting[finite[:, 0]])
    # What decides must not hide a setting that lacks it, as a CSV without val loss does.
    is_much = len(hues) > _WHOLE or search is not None
    drawn = known[:1] if is_much and has_some == has_first else known
    return _Table(
        table,
        on_axis,
        blended,
        hues,
        shapes,
        outcomes,
        lost,
        series=drawn,
        left_out=[name.partition("_")[0] for name in known if name not in drawn],
        decides=known[0] == decider and len(table) > 1,
        judged_by=judged_by,
        best_by_objective=_best_by_objective(table, objective, judged_by),
        search=search,
        best_run=answers[0].best_run if search is not None else None,
        names=list(answers[0].settings) if search is not None else [],
    )


def _settings(table: pd.DataFrame, answers: "Sequence[Answer]") -> tuple[pd.Series, list[str]]:
    """As `style.settings`; of a search over several settings, none of which is told apart."""
    if pooled.search_of(answers) is None:
        return style.settings(table)
    return pd.Series("", index=table.index, dtype=object), list(answers[0].settings)


def _best_by_objective(table: Any, objective: str, judged_by: str) -> tuple[str, float] | None:
    """The best lr by the objective where verdicts judge by another: in words, and as a number.

    The way to a target has a figure of its own.
    """
    measure = next((m for m in (_LOSS, _ACCURACY) if objective in m.names), None)
    if measure is None or objective == judged_by or not judged_by or objective not in table:
        return None
    sign = 1.0 if measure is _LOSS else -1.0
    ranked = [
        (sign * float(median), float(lr), str(setting))
        for setting, group in table[table["lr"] > 0].groupby("setting", sort=True)
        for lr, median in zip(*_medians(group, objective, measure.worst)[:2], strict=True)
        if math.isfinite(median)
    ]
    if not ranked:
        return None
    _, best, setting = min(ranked)
    where = f"{setting}, " if setting else ""
    return f"best by {measure.word_of(objective)}: {where}lr {style.lr_word(best)}", best


def _finals(table: _Table, measure: _Measure) -> list[np.ndarray]:
    """All values that are drawn: each run's of what decides, medians of the others, the pruned."""
    first, *others = table.series
    medians = [
        style.finite(_medians(group, name, measure.worst)[1])
        for _, group in table.on_axis.groupby("setting", sort=True)
        for name in others
    ]
    own = style.finite(table.all[first].astype(float))
    return [own, *medians, style.finite(_pruned(table.all)[_AT_PRUNING])]


def _page(
    title: str,
    table: _Table,
    word: str,
    margin: Sequence[Label],
    handles: list[tuple[Line2D, str]],
    answers: "Sequence[Answer]",
) -> Sheet:
    not_drawn = len(table.all) - len(table.on_axis)
    subtitle = style.subtitle(table.all, table.blended)
    subtitle += f" · {not_drawn} with lr 0 not drawn" if not_drawn else ""
    subtitle += f" · {' and '.join(table.left_out)} {word} not drawn" if table.left_out else ""
    return sheet(
        title,
        subtitle,
        rail=rail_heading([run.mark for run in table.lost], len(table.all)),
        ribbons=[name if len(table.hues) > 1 else "" for name in _ribbons(table)],
        margin=margin,
        handles=[*handles, *_best_handles(table, answers)],
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
    _draw_recommended(ax, answers, table.best_by_objective)
    draw_margin(ax, margin)
    draw_rail(page, [run.lr for run in table.lost], table.lost, lambda _lr: "#333333")
    low, high = ax.get_xlim()
    for ribbon, outcomes in zip(page.ribbons, _ribbons(table).values(), strict=True):
        draw_ribbon(ribbon, outcomes, low, high)


def _ribbons(table: _Table) -> dict[str, dict[float, str]]:
    """By setting, the outcome that most runs at each lr have."""
    if not table.outcomes or table.search or len(table.hues) > RIBBONS or table.on_axis.empty:
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
    if table.search is not None:
        return pooled.point_handles(
            *_points(table), table.best_run, measure.word_of(table.series[0]), measure is _LOSS
        )
    solid = "" if table.blended else "-"
    found: list[tuple[Line2D, str]] = []
    for name in table.series:
        look = _look(table, name, GREY, "o", markersize=6.0)
        decides = " (decides)" if table.decides and name == table.series[0] else ""
        found.append((Line2D([], [], **look), f"{measure.word_of(name)}{decides}"))
    if _several(table):
        dot = Line2D([], [], color=GREY, marker=".", linestyle="")
        found.append((dot, "one seed (lines: medians)"))
    if len(table.hues) > 1:
        found += [
            (
                Line2D([], [], color=hue, marker=table.shapes[key], linewidth=1.6, linestyle=solid),
                key,
            )
            for key, hue in table.hues.items()
        ]
    if len(_pruned(table.all)):
        found.append((_cross(GREY), f"pruned: {measure.word_of('val')} at its end"))
    if table.outcomes and _ribbons(table):
        judged = [table.outcomes.get(run, "") for run in table.on_axis["run"]]
        # Those on the rail have its own marks, and stand in the ribbon with their name.
        found += style.outcome_handles(judged)
    return found


def _several(table: _Table) -> bool:
    return style.distinct(table.all, "seed") > 1


def _look(table: _Table, name: str, hue: str, shape: str, markersize: float) -> dict[str, Any]:
    """How the line and the marks of a series look: strong where it is the first one."""
    part = name.partition("_")[0]
    look: dict[str, Any] = {"color": hue, "marker": shape}
    if name == table.series[0]:
        look |= {"linestyle": "-", "linewidth": 1.9, "markersize": markersize, "mfc": hue}
    else:
        if part == "train" and len(table.hues) == 1:
            look["marker"] = "D"  # not to be taken for a seed's dot
        look |= {"linestyle": _DASHES[part], "linewidth": 1.1, "mew": 0.9}
        look |= {"markersize": _BESIDES * markersize, "mfc": "white" if part == "test" else hue}
    return look | ({"linestyle": ""} if table.blended else {})


def _points(table: _Table) -> tuple[Any, Any]:
    """Of a search, the configurations that ended, and the pruned runs: lr and value of each."""
    found = pooled.points(table.on_axis, table.series[0], table.outcomes, table.names)
    return found, _pruned(table.all).rename(columns={_AT_PRUNING: "value"})


def _draw(ax: Axes, table: _Table, measure: _Measure, scale: Scale) -> None:
    if table.search is not None:
        bins = table.search.bins if measure is _LOSS else ()
        frame.lr_axis(ax, table.on_axis["lr"])
        pooled.draw_points(ax, *_points(table), table.best_run, scale, bins)
        return
    for setting, group in table.on_axis.groupby("setting", sort=True):
        hue, shape = table.hues[str(setting)], table.shapes[str(setting)]
        if table.coloured_by_outcome:
            hue, shape = DARK, "o"
        for name in table.series:
            first = name == table.series[0]
            lrs, medians, several = _medians(group, name, measure.worst)
            finite = group[np.isfinite(group[name].astype(float))]
            if several and first:
                _draw_seeds(ax, finite, name, scale, hue)
            look = _look(table, name, hue, shape, table.size)
            if table.coloured_by_outcome and first:
                look["marker"] = ""
            ax.plot(
                lrs,
                scale.shown(medians),
                zorder=4 if first else 3,
                gid=f"median:{name}",
                **look,
            )
            if table.coloured_by_outcome and first:
                _draw_outcomes(ax, table, lrs, scale.shown(medians))
            at, values = lrs[np.isfinite(medians)], medians[np.isfinite(medians)]
            if first:
                at, values = finite["lr"].to_numpy(float), finite[name].to_numpy(float)
            for one in range(len(values)):
                frame.draw_edges(ax, at[one : one + 1], values[one : one + 1], scale, hue)
    for row in _pruned(table.all).to_dict("records"):
        hue = table.hues[row["setting"]]
        value = np.array([row[_AT_PRUNING]], dtype=float)
        cross = _cross(hue)
        cross.set_data([row["lr"]], scale.shown(value))
        ax.add_line(cross)
        frame.draw_edges(ax, np.array([row["lr"]]), value, scale, hue)


def _draw_seeds(ax: Axes, finite: Any, name: str, scale: Scale, hue: str) -> None:
    """Each seed, and the band that they span."""
    ax.plot(
        finite["lr"],
        scale.shown(finite[name].to_numpy(float)),
        linestyle="",
        marker=".",
        color=hue,
        alpha=0.55,
        gid=f"seeds:{name}",
    )
    by_lr = finite.groupby("lr")[name]
    lrs = np.array([float(lr) for lr in by_lr.groups])
    ax.fill_between(
        lrs,
        scale.shown(by_lr.min().to_numpy(float)),
        scale.shown(by_lr.max().to_numpy(float)),
        color=hue,
        alpha=0.15,
        linewidth=0,
        gid=f"band:{name}",
    )


def _draw_outcomes(ax: Axes, table: _Table, lrs: np.ndarray, shown: np.ndarray) -> None:
    """Marks in the outcome's colour and shape over the medians."""
    outcomes = next(iter(_ribbons(table).values()), {})
    for outcome, look in OUTCOMES.items():
        mine = [
            i for i, lr in enumerate(lrs) if (outcomes.get(float(lr)) or "not compared") == outcome
        ]
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
            mec=look.colour if is_line else "white",
            mew=1.4 if is_line else 0.8,
            zorder=5,
            gid=f"outcome:{outcome}",
        )


def _pruned(table: pd.DataFrame) -> pd.DataFrame:
    """The pruned runs that have an lr and a value to stand at."""
    if _AT_PRUNING not in table:
        return table.iloc[:0].assign(**{_AT_PRUNING: np.nan})
    return table.loc[(table["lr"] > 0) & np.isfinite(table[_AT_PRUNING].astype(float))]


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
    """Those of the references that some run ended near or above: others squash what differs.

    Of two that lie far apart, as of targets with an offset, the lower one tells where learning
    begins; the other is left out.
    """
    highest = max([float(values.max()) for values in finals if len(values)], default=math.inf)
    lowest = min([one.high for one in references if one.high > 0], default=math.inf)
    near = [one for one in references if highest >= _FAR * one.low]
    return [one for one in near if not one.low > frame.APART * lowest]


def _chance_accuracies(table: pd.DataFrame) -> list[float]:
    """Percent right that guessing gets: the share of the largest class, or of one of equal ones."""
    if "majority_share" in table and len(shares := style.finite(table["majority_share"])):
        return sorted({100 * float(share) for share in shares})
    if "num_classes" in table and len(classes := style.finite(table["num_classes"])):
        return sorted({100 / float(count) for count in classes if count >= 2})
    return []


# --- the recommended range ------------------------------------------------------------------------


def _recommended(answers: "Sequence[Answer]") -> tuple[float, float, float] | None:
    """The best lr of all that is drawn, and the ends of the range that is as good."""
    from lrlab.verdicts.recommend import comparable

    if not answers or answers[0].best_lr is None or not comparable(answers):
        return None
    best = answers[0].best_lr
    return (best, *(answers[0].as_good or (best, best)))


def _draw_recommended(
    ax: Axes, answers: "Sequence[Answer]", best_by_objective: tuple[str, float] | None = None
) -> None:
    """The range that does as well as the best shaded, the best a line."""
    found = _recommended(answers)
    if best_by_objective is not None:
        ax.axvline(best_by_objective[1], **_BEST_LINE, zorder=1.5, gid="best")
    if found is None:
        return
    best, low, high = found
    left, right = ax.get_xlim()
    if high <= low:  # a single lr has no width of its own
        low, high = (best * frame.ratio(left, right, share) for share in (-0.008, 0.008))
    ax.axvspan(low, high, color=RECOMMENDED, alpha=0.55, linewidth=0, zorder=0.5, gid="recommended")
    if best_by_objective is None:
        ax.axvline(best, **_BEST_LINE, zorder=1.5, gid="best")


def _best_handles(table: _Table, answers: "Sequence[Answer]") -> Handles:
    """What is recommended, and by which loss where the series that decides is another."""
    by = "" if table.decides and table.series[0] == table.judged_by else table.judged_by
    found = [*_recommended_handle(answers, by.replace("_", " "))]
    if table.best_by_objective is not None:
        found.append((Line2D([], [], **_BEST_LINE), table.best_by_objective[0]))
    return found


def _recommended_handle(answers: "Sequence[Answer]", by: str = "") -> Handles:
    found = _recommended(answers)
    if found is None:
        return []
    best, low, high = found
    where = "".join(f"{value}, " for value in answers[0].settings.values())
    where = "" if pooled.search_of(answers) else where  # a search has too many for a line
    text = f"recommended{f' by {by}' if by else ''}: {where}lr {style.lr_word(best)}"
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
    joined: bool,
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
            linewidth=1.6 if joined else 0,
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
        frame.log_axis(ax.yaxis, low, high, most=6)
    ax.grid(axis="y", color=style.PALE, linewidth=0.7)
    ax.set_axisbelow(True)
