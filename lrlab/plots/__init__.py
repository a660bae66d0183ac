"""Draw the figures of a sweep: DataFrames in, matplotlib Figures out. Never reads a file.

The frames are those of `lrlab.tables.frames`. Each figure, see `NAMES`, is a function of its own;
it raises `NothingToDraw` with the reason if its table lacks the data. `draw` draws every figure
that has data, from a sweep's `Tables` into a folder. Each drawn element carries a gid ("raw",
"smooth", "nonfinite", "chance", ...), by which tests and editors of SVGs find it.

matplotlib is imported with the first figure, not with this package, and pyplot never.

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
    from lrlab.plots.writing import (
        branch_fan,
        draw,
        figure,
        heat_map,
        importances,
        loss_curves,
        lr_against_accuracy,
        lr_against_loss,
        lr_and_loss,
        lr_by_setting,
        mechanics,
        save,
        schedules,
        surface,
        textbook,
        to_target,
    )

__all__ = ["CAPTIONS", "FORMATS", "NAMES", "OF_LANDSCAPE", "SUMMARIES"]
__all__ += ["Drawn", "NothingToDraw", "Tables", "draw", "figure", "save"]
__all__ += ["branch_fan", "heat_map", "importances", "loss_curves", "lr_against_accuracy"]
__all__ += ["lr_against_loss", "lr_and_loss", "lr_by_setting", "mechanics", "schedules"]
__all__ += ["surface", "textbook", "to_target"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.writing"), name)
