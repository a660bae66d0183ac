"""Define the looks that all figures share: colours, shapes, sizes, and the words for settings."""

import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import Colormap, ListedColormap, LogNorm, to_hex
from matplotlib.font_manager import fontManager
from matplotlib.lines import Line2D

from lrlab.tables.tidy import SETTINGS, is_option
from lrlab.verdicts import outcomes

SIZE = 10.5  # points: still legible at half size
DPI = 150
GREY = "#595959"
DARK = "#262626"
PALE = "#e6e6e6"
TOLD_APART = 7  # a numeric setting with more values gets no looks: a search has one value a run

# matplotlib's own font lacks many scripts: the first of these that is installed draws them.
_MORE_FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Noto Sans CJK TC"),
    *("Noto Sans JP", "Noto Sans SC", "Noto Sans KR", "Source Han Sans", "IPAexGothic"),
    *("IPAGothic", "TakaoGothic", "VL Gothic", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei"),
    *("Droid Sans Fallback", "Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo", "Yu Gothic"),
    *("Meiryo", "MS Gothic", "Microsoft YaHei", "SimHei", "Malgun Gothic", "Arial Unicode MS"),
    *("Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai"),
    *("Noto Emoji", "Symbola", "Unifont"),
)


_INSTALLED = {font.name for font in fontManager.ttflist}
_FONTS = ["sans-serif", *(name for name in _MORE_FONTS if name in _INSTALLED)]
# Names are the user's: a "$" in them is a dollar and no formula.
WORDS: Any = {"font.family": _FONTS, "text.parse_math": False, "text.usetex": False}
RC: Any = {
    **WORDS,
    "font.size": SIZE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelsize": SIZE + 0.5,
    "axes.titlesize": SIZE + 0.5,
}
DASHES = (
    *("-", (0, (5, 1.6)), (0, (1.2, 1.2))),
    *((0, (7, 1.5, 1.2, 1.5)), (0, (9, 3)), (0, (2.5, 2.5))),
)
# Okabe and Ito's colour-blind-safe palette, without the yellow that vanishes on white.
HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
SHAPES = ("o", "s", "D", "P", "v", "h", "*")
# A perceptually uniform map that colour-blind people can read, cut where it is too light for white.
MAP = ListedColormap(matplotlib.colormaps["plasma"](np.linspace(0.0, 0.7, 256)))
RECOMMENDED = "#bfe3d6"
BEST = "#00664B"


@dataclass(frozen=True)
class Look:
    """How an outcome is drawn: both its colour and its shape identify it."""

    colour: str
    shape: str


_LOOKS: Mapping[str, Look] = {
    # greys: these are on no side of the best lr
    "not compared": Look("#4A545E", "d"),
    "pruned": Look("#8A9096", "P"),
    "nothing learned": Look("#34302C", "s"),
    "undershooting": Look("#0064B0", "v"),
    "converged": Look("#00805E", "o"),
    "overshooting": Look("#D55E00", "^"),
    "collapsed": Look("#5B2A86", "X"),
    "diverged": Look("#000000", "x"),
}
# In their one order; for a tie the later one counts.
OUTCOMES: Mapping[str, Look] = {name: _LOOKS[name] for name in outcomes.OUTCOMES}

_UNITS = {"nll": "nats", "cross_entropy": "nats", "mse_one_hot": "squared error"}
_NAMED = ("network", "data", "optimizer", "schedule", "batch_size", "epochs")
_STATES = (
    *("finished", "not finite", "training", "running", "waiting"),
    *("pruned", "diverged", "failed", "interrupted"),
)


def lr_colours(lrs: Iterable[float]) -> tuple[Callable[[float], str], LogNorm | None]:
    """Return the colour of each lr by its logarithm, and a colour bar's norm, None for one lr."""
    positive = sorted({lr for lr in lrs if lr > 0 and math.isfinite(lr)})
    if len(positive) < 2:
        return (lambda _lr: to_hex(MAP(0.3))), None
    norm = LogNorm(positive[0], positive[-1])
    cmap: Colormap = MAP
    return (lambda lr: to_hex(cmap(float(norm(lr)) if lr > positive[0] else 0.0))), norm


def looks(settings: Any, choices: Sequence[Any], shift: int = 0) -> dict[str, Any]:
    """Return a look for each setting, repeating when there are more settings than looks.

    shift: by how much each repetition is rotated. Hues together with shifted shapes distinguish
    as many settings as the square of their number.
    """
    count = len(choices)
    order = enumerate(sorted(set(settings)))
    return {key: choices[(i + shift * (i // count)) % count] for i, key in order}


def dashes(settings: Any) -> dict[str, Any]:
    """Return a dash style for each setting, different for up to 54 of them."""
    made = [
        (0, (first, gap, second, gap))
        for gap in (1.2, 2.4, 3.6)
        for first in (4, 8, 12, 16)
        for second in (1.2, 2.6, 6.5, 10)
    ]
    return looks(settings, [*DASHES, *made])


@contextmanager
def words() -> Iterator[None]:
    """Draw names as they are, without formulas; letters that no font has cause no warning."""
    with warnings.catch_warnings(), matplotlib.rc_context(WORDS):
        quiet()
        yield


def quiet() -> None:
    """Ignore letters that no font has; call it within ``warnings.catch_warnings``."""
    warnings.filterwarnings("ignore", r"(?s)Glyph .* missing from", UserWarning)


def key(colour: str = GREY, **look: Any) -> Line2D:
    """Return a line or a mark for the legend."""
    return Line2D([], [], color=colour, **look)


def patch(colour: str) -> Line2D:
    """Return a legend's sample of a filled area."""
    return key(colour, linewidth=9, solid_capstyle="butt")


def dash_handles(dashes_of: Mapping[str, Any]) -> list[tuple[Line2D, str]]:
    """Return legend entries of the settings' dashes; none for a single setting."""
    if len(dashes_of) < 2:
        return []
    return [(key(linewidth=1.6, linestyle=dash), name) for name, dash in dashes_of.items()]


# --- outcomes -------------------------------------------------------------------------------------


def outcome_of_runs(verdicts: pd.DataFrame | None) -> dict[Hashable, str]:
    """Return the outcome of each run that was judged."""
    found = words_of_runs(verdicts, "outcome")
    return {run: outcome for run, outcome in found.items() if outcome in OUTCOMES}


def words_of_runs(verdicts: pd.DataFrame | None, name: str) -> dict[Hashable, str]:
    """Return a column of the verdicts by run, without empty cells; {} where it is not there."""
    if verdicts is None or name not in verdicts:
        return {}
    pairs = zip(verdicts["run"].tolist(), verdicts[name].tolist(), strict=True)
    return {run: word for run, word in pairs if isinstance(word, str) and word}


def majority(of_runs: Iterable[str]) -> str:
    """Return the outcome of most of these runs; "" for none. For a tie, the larger step's counts.

    A pruned run has no outcome: next to others it does not count.
    """
    found = [outcome for outcome in of_runs if outcome in OUTCOMES]
    found = [outcome for outcome in found if outcome != "pruned"] or found
    order = list(OUTCOMES)
    return max(set(found), key=lambda o: (found.count(o), order.index(o)), default="")


def outcome_handles(found: Iterable[str], with_pruned: bool = False) -> list[tuple[Line2D, str]]:
    """Return legend entries of the given outcomes, from short steps to long ones.

    with_pruned: include pruned runs, which most figures mark in another way.
    """
    there = set(found) - (set() if with_pruned else {"pruned"})
    return [(outcome_mark(name), name) for name in OUTCOMES if name in there]


def outcome_mark(outcome: str, size: float = 7.0) -> Line2D:
    look = OUTCOMES[outcome]
    edge, width = (look.colour, 1.6) if look.shape == "x" else ("white", 0.7)
    return key(look.colour, marker=look.shape, markersize=size, linestyle="", mec=edge, mew=width)


# --- settings and words ---------------------------------------------------------------------------


def settings(runs: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """Return for each run, as text, the settings that distinguish it besides lr and seed.

    Returns:
        The texts, "" where nothing distinguishes; and the names of the numeric settings that are
        left out because they have more than TOLD_APART values.
    """
    names = [name for name in SETTINGS if name in runs]
    names += sorted(filter(is_option, map(str, runs.columns)))
    names = ["sweep", *names] if "sweep" in runs else names
    blended = [
        name
        for name in names
        if distinct(runs, name) > TOLD_APART and pd.api.types.is_numeric_dtype(runs[name])
    ]
    key = pd.Series("", index=runs.index, dtype=object)
    for name in names:
        if distinct(runs, name) > 1 and name not in blended:
            text = runs[name].map(lambda value, name=name: setting_word(name, value))
            key = key.where(key == "", key + ", ") + text
    return key, blended


def setting_word(name: str, value: Any) -> str:
    """Return a setting as a figure names it: adam, batch_size=64."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    bare = ("sweep", "schedule", "optimizer", "network", "data")
    return text if name in bare else f"{name}={text}"


def distinct(frame: pd.DataFrame, name: str) -> int:
    return len(frame[name].dropna().unique()) if name in frame else 0


def constant(frame: pd.DataFrame, name: str) -> Any:
    """Return the value of a column if all its rows agree; None otherwise."""
    values = frame[name].dropna().unique() if name in frame else []
    return values[0] if len(values) == 1 else None


def unit(frame: pd.DataFrame) -> str:
    """Return the unit of the loss in brackets for an axis label; "" if several are mixed."""
    name = unit_name(frame)
    return f" ({name})" if name else ""


def unit_name(frame: pd.DataFrame) -> str:
    return _UNITS.get(str(constant(frame, "loss")), "")


def subtitle(frame: pd.DataFrame, blended: Sequence[str] = ()) -> str:
    """Return the settings that all runs share, and how many runs are in each state."""
    runs = frame.drop_duplicates("run")
    words = {"batch_size": "batch {:g}", "epochs": "{:g} epochs", "schedule": "{} schedule"}
    parts = [
        words.get(name, "{}").format(value)
        for name in _NAMED
        if (value := constant(runs, name)) is not None
    ]
    parts = ["1 epoch" if part == "1 epochs" else part for part in parts]
    count = f"{len(runs)} run{'s' if len(runs) != 1 else ''}"
    if "state" in runs:
        states = runs["state"].value_counts()
        told = [f"{states[name]} {name}" for name in _STATES if name in states]
        count += f": {', '.join(told)}" if told else ""
    differ = [f"{' and '.join(blended)} not shown"] if blended else []
    return " · ".join([*parts, count, *differ])


def finite(values: Any) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    return array[np.isfinite(array)]


def lr_word(lr: float) -> str:
    return f"{lr:.3g}"
