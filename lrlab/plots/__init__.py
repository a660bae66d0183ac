"""Draw the figures of a sweep: DataFrames in, matplotlib Figures out. Never reads a file.

The frames are those of `lrlab.tables.frames`. Each figure, see `NAMES`, is a function that works
alone. It raises `NothingToDraw` with the reason if its table lacks the figure's data. `draw` draws
every figure that has data, from a sweep's `Tables` into a folder. Every drawn thing carries a gid
("raw", "smooth", "nonfinite", "chance", ...), so that a figure can be taken apart again.

matplotlib is imported at the first figure, not with this package, and pyplot never.

May be imported by ``report`` and, lazily, by ``sweeping``, ``api`` and the verbs. It imports
``verdicts``, ``tables`` and those below them, and never torch.

`lrlab.plots.figures` says how to add a figure.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lrlab.plots.tables import (
    CAPTIONS,
    FORMATS,
    NAMES,
    OF_LANDSCAPE,
    SUMMARIES,
    Drawn,
    NothingToDraw,
    Tables,
)

if TYPE_CHECKING:
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
    from lrlab.plots.writing import draw, figure, save

__all__ = [
    "CAPTIONS",
    "FORMATS",
    "NAMES",
    "OF_LANDSCAPE",
    "SUMMARIES",
    "Drawn",
    "NothingToDraw",
    "Tables",
    "branch_fan",
    "draw",
    "figure",
    "heat_map",
    "importances",
    "loss_curves",
    "lr_against_accuracy",
    "lr_against_loss",
    "lr_and_loss",
    "lr_by_setting",
    "mechanics",
    "save",
    "schedules",
    "surface",
    "textbook",
    "to_target",
]

_HOMES = {
    "loss_curves": "figures.curves",
    "lr_and_loss": "figures.curves",
    "lr_against_loss": "figures.by_lr",
    "lr_against_accuracy": "figures.by_lr",
    "to_target": "figures.to_target",
    "lr_by_setting": "figures.by_setting",
    "importances": "figures.importances",
    "mechanics": "figures.steps",
    "heat_map": "figures.heat",
    "branch_fan": "figures.branches",
    "schedules": "figures.budget",
    "textbook": "figures.landscape",
    "surface": "figures.landscape",
    "draw": "writing",
    "figure": "writing",
    "save": "writing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
