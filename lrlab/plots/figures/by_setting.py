"""Draw which lrs work under each setting: one row a setting, its outcomes along the lr."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lrlab.errors import printable
from lrlab.plots import frame, reach, style
from lrlab.plots.frame import Label
from lrlab.plots.parts import draw_margin
from lrlab.plots.sheet import PAD, Handles, Panels, sheet, text_width
from lrlab.plots.style import DARK, OUTCOMES, RECOMMENDED, SIZE
from lrlab.plots.tables import NothingToDraw

if TYPE_CHECKING:
    from lrlab.verdicts.answer import Answer

MOST = 24  # settings; a page has no room for more rows
_TRIED = "tried"  # where only end losses are known, and no outcome
_ROW = 0.36  # inches
_RING: Any = {
    **{"color": DARK, "marker": "o", "markersize": 13},
    **{"mfc": "none", "mew": 1.5, "linestyle": ""},
}
_LONGEST = 3.0  # inches that the name of a setting may take


@reach.within
def lr_by_setting(
    verdicts: pd.DataFrame, answers: "Sequence[Answer]", *, title: str | None = None
) -> Figure:
    """Draw the outcome of every lr, the best lr and the range that is as good, one row a setting.

    verdicts: as from `lrlab.verdicts.judging.verdicts`: columns run, lr, outcome and the settings.
    answers: as from `lrlab.verdicts.recommend.recommend` of these verdicts, one a setting.

    A mark is the outcome of most seeds at this lr. The best lr has a ring, and a bar covers those
    that do as well. The right side shows the best lr and its end loss, or "none". Rows are sorted
    by the settings, numbers by their size, so that a best lr that depends on them forms a slanted
    line.

    Raises:
        NothingToDraw: the runs have one setting, or more than MOST, or none has an lr above 0.
    """
    if answers and answers[0].search is not None:
        raise NothingToDraw("a search tries too few learning rates for each setting")
    if len(answers) < 2:
        raise NothingToDraw("the runs differ only in lr and seed")
    if len(answers) > MOST:
        raise NothingToDraw(f"more than {MOST} settings")
    on_axis = verdicts.loc[(verdicts["lr"] > 0) & verdicts["lr"].map(math.isfinite)]
    if on_axis.empty:
        raise NothingToDraw("no run has an lr above 0")
    # Settings with few values first: so similar rows are next to each other.
    order = sorted(
        answers[0].settings, key=lambda name: len({str(a.settings[name]) for a in answers})
    )
    rows = sorted(answers, key=lambda answer: [_natural(answer.settings[n]) for n in order])
    names = _names([{name: answer.settings[name] for name in order} for answer in rows])
    places = [float(len(rows) - 1 - i) for i in range(len(rows))]
    margin = [Label(y, _best(answer)) for y, answer in zip(places, rows, strict=True)]
    found = [_outcomes(on_axis, answer.settings) for answer in rows]
    page = sheet(
        title or "Which learning rates work, by setting",
        style.subtitle(verdicts),
        Panels(
            rows=(_ROW * (len(rows) + 0.4),),
            left=PAD + max(text_width(name, SIZE) for name in names) + 0.15,
        ),
        handles=_handles(found),
        margin=margin,
    )
    ax = page.axes
    frame.lr_axis(ax, on_axis["lr"])
    ax.set_ylim(-0.7, len(rows) - 0.3)
    ax.set_yticks(places, names, parse_math=False)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    for y, answer, outcomes in zip(places, rows, found, strict=True):
        _draw_row(ax, y, answer, outcomes)
    draw_margin(ax, margin)
    return page.figure


def _natural(value: Any) -> tuple[list[float], str]:
    """Return a key that sorts numbers, and texts that hold some, such as [64,64], by their size."""
    text = str(value)
    return [float(number) for number in re.findall(r"\d+\.?\d*(?:e[+-]?\d+)?", text)], text


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a short name for each row: hidden=[64] for network.hidden=[64], or only [64].

    If that is too long, each setting gets an equal share of the room.
    """
    for with_keys in (True, False):
        parts = [[_word(name, value, with_keys) for name, value in row.items()] for row in rows]
        names = [", ".join(words) for words in parts]
        if all(text_width(name, SIZE) <= _LONGEST for name in names):
            return names
    share = _LONGEST / len(rows[0]) - 0.1
    return [", ".join(_cut_in_the_middle(word, share) for word in words) for words in parts]


def _word(name: str, value: Any, with_key: bool) -> str:
    text = style.setting_word(name.rpartition(".")[2], value)
    word = text if with_key else text.partition("=")[2] or text
    return printable(word.replace("\n", " ").replace("\t", " "))


def _cut_in_the_middle(text: str, room: float) -> str:
    kept = len(text)
    shown = text
    while kept > 2 and text_width(shown, SIZE) > room:
        kept -= 1
        shown = text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]
    return shown


def _best(answer: "Answer") -> str:
    if answer.best_lr is None:
        return "none"
    return f"{style.lr_word(answer.best_lr)} (loss {answer.best_loss:.3g})"


def _outcomes(verdicts: Any, settings: Mapping[str, Any]) -> dict[float, str]:
    """Return the outcome of most seeds at each lr of a setting."""
    mine = verdicts
    for name, value in settings.items():
        mine = mine[mine[name].isna() if value is None else mine[name] == value]
    groups = mine.groupby("lr")["outcome"]
    other = "not compared" if set(OUTCOMES) & set(verdicts["outcome"]) else _TRIED
    return {float(lr): style.majority(map(str, group)) or other for lr, group in groups}


def _draw_row(ax: Axes, y: float, answer: "Answer", outcomes: Mapping[float, str]) -> None:
    ax.axhline(y, color=style.PALE, linewidth=0.8, zorder=0.5, gid="row")
    if answer.best_lr is not None:
        low, high = answer.as_good or (answer.best_lr, answer.best_lr)
        look: Any = {"linewidth": 13, "solid_capstyle": "round", "color": RECOMMENDED, "zorder": 1}
        ax.plot([low, high], [y, y], gid="recommended", **look)
    for lr, outcome in outcomes.items():
        mark = _dot() if outcome == _TRIED else style.outcome_mark(outcome)
        mark.set_data([lr], [y])
        mark.set(zorder=3, gid=f"outcome:{outcome}")
        ax.add_line(mark)
    if answer.best_lr is not None:
        ax.plot([answer.best_lr], [y], zorder=4, gid="best", **_RING)


def _dot() -> Line2D:
    return Line2D([], [], linestyle="", color=style.GREY, marker="o", markersize=4)


def _handles(found: Sequence[Mapping[float, str]]) -> Handles:
    there = {outcome for outcomes in found for outcome in outcomes.values()}
    ring, bar = Line2D([], [], **_RING), style.patch(RECOMMENDED)
    marks = [
        entry for entry in style.outcome_handles(there, with_pruned=True) if entry[1] in OUTCOMES
    ]
    marks += [(_dot(), "lr tried")] if _TRIED in there else []
    return [*marks, (ring, "best"), (bar, "as good as the best")]
