"""Draw each figure from its tables, and write it to files."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from lrlab.errors import NotWritten
from lrlab.plots import leftovers
from lrlab.plots.figures.branches import branch_fan
from lrlab.plots.figures.budget import schedules
from lrlab.plots.figures.by_lr import lr_against_accuracy, lr_against_loss
from lrlab.plots.figures.by_setting import lr_by_setting
from lrlab.plots.figures.curves import loss_curves, lr_and_loss
from lrlab.plots.figures.heat import heat_map
from lrlab.plots.figures.importances import importances
from lrlab.plots.figures.landscape import surface, textbook
from lrlab.plots.figures.steps import mechanics
from lrlab.plots.figures.to_target import to_target
from lrlab.plots.style import DPI, quiet, unit_name
from lrlab.plots.tables import NAMES, Drawn, NothingToDraw, Tables

# Equal figures become equal bytes: no date, and no random names inside an SVG.
_METADATA = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
_RC: Any = {"svg.hashsalt": "lrlab"}

_UNJUDGED = "the runs were not judged"
_NO_BRANCHES = "there was no branch test"
_NO_LINES = "the loss along a step was not measured"
_NO_SURFACE = "the loss around the runs' paths was not measured"


def _given(table: pd.DataFrame | None, or_else: str) -> pd.DataFrame:
    if table is None or table.empty:
        raise NothingToDraw(or_else)
    return table


_FIGURES: Mapping[str, Callable[[Tables], Figure]] = {
    "loss_curves": lambda t: loss_curves(t.curves, t.verdicts),
    "lr_and_loss": lambda t: lr_and_loss(t.curves, t.verdicts),
    "lr_against_loss": lambda t: lr_against_loss(
        t.runs, t.verdicts, t.answers, objective=t.objective
    ),
    "lr_against_accuracy": lambda t: lr_against_accuracy(
        t.runs, t.verdicts, t.answers, objective=t.objective
    ),
    "lr_by_setting": lambda t: lr_by_setting(_given(t.verdicts, _UNJUDGED), t.answers),
    "importances": lambda t: importances(t.answers),
    "to_target": lambda t: to_target(_given(t.verdicts, _UNJUDGED), t.answers),
    "mechanics": lambda t: mechanics(t.curves, t.verdicts),
    "heat_map": lambda t: heat_map(t.curves, t.verdicts),
    "branch_fan": lambda t: branch_fan(_given(t.branches, _NO_BRANCHES), t.verdicts, t.curves),
    "schedules": lambda t: schedules(t.curves, t.verdicts),
    "textbook": lambda t: textbook(_given(t.lines, _NO_LINES), unit=unit_name(t.curves)),
    "surface": lambda t: surface(
        _given(t.surface, _NO_SURFACE),
        _given(t.paths, _NO_SURFACE),
        t.verdicts,
        unit=unit_name(t.curves),
    ),
}
assert tuple(_FIGURES) == NAMES, "name the figures of plots/tables.py, in their order"


def figure(name: str, tables: Tables) -> Figure:
    """Draw one figure of a sweep by its name, one of `NAMES`.

    Raises:
        NothingToDraw: the tables lack its data.
    """
    return _FIGURES[name](tables)


def draw(
    tables: Tables, folder: Path, only: Sequence[str] = (), formats: Sequence[str] = ("png", "svg")
) -> Drawn:
    """Draw every figure that has data, and write it as folder/NAME.FORMAT.

    Figures are drawn one after another, so that only one is in memory. If all are requested, also
    remove older pictures, in these formats, of those without data, and the parts of pictures from
    killed writers.

    Args:
        only: names of figures; none: all.
        formats: "png", "svg" or "pdf".

    Raises:
        NotWritten: the disk is full, or the folder cannot be written.
    """
    paths: list[Path] = []
    left_out: dict[str, str] = {}
    for name in only or NAMES:
        try:
            one = figure(name, tables)
        except NothingToDraw as reason:
            left_out[name] = str(reason)
            continue
        paths += written(name, one, folder, formats)
    if not only:
        leftovers.remove(folder, left_out, formats)
    return Drawn(paths, left_out)


def written(name: str, one: Figure, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write a figure as folder/NAME.FORMAT in each of the formats; return the paths.

    Raises:
        NotWritten: the disk is full, or the folder cannot be written.
    """
    paths = []
    for kind in formats:
        try:
            paths += save({name: one}, folder, [kind])
        except OSError as error:
            # Name the file, not its temporary part.
            raise NotWritten(folder / f"{name}.{kind}", error) from error
    return paths


def save(
    figures: Mapping[str, Figure], folder: Path, formats: Sequence[str] = ("png",)
) -> list[Path]:
    """Write each figure as folder/NAME.FORMAT, whole and then renamed; return the paths.

    PNGs have 150 dpi.

    Raises:
        OSError: as the system does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, one in figures.items():
        for kind in formats:
            path = folder / f"{name}.{kind}"
            # The process id keeps two writers apart; the dot hides the part from listings.
            part = folder / f".{path.name}.{os.getpid()}.part"
            try:
                with warnings.catch_warnings(), matplotlib.rc_context(_RC):
                    quiet()
                    one.savefig(part, dpi=DPI, format=kind, metadata=_METADATA[kind])
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
            paths.append(path)
    return paths
