"""Draw the figures of several sweeps on shared axes."""

from collections.abc import Callable, Mapping

import pandas as pd
from matplotlib.figure import Figure

from lrlab import plots
from lrlab.plots.drawing import described
from lrlab.plots.figures.compare import side_by_side
from lrlab.plots.tables import NothingToDraw, Tables


def figures(
    tables: Tables, timed: pd.DataFrame, only_best: bool, failed: dict[str, str] | None = None
) -> dict[str, Figure]:
    """Return the figures by name, except those without data.

    Args:
        tables: of all sweeps, each with a column sweep.
        timed: verdicts with one target for all sweeps.
        only_best: whether the tables hold only the best settings of each sweep.
        failed: receives the errors by the figures' names; None: raise them.
    """
    runs, curves, judged, objective = tables.runs, tables.curves, tables.verdicts, tables.objective
    of = ", best settings of each sweep" if only_best else ""
    loss, accuracy = (
        f"{what} at the end against learning rate{of}" for what in ("Loss", "Accuracy")
    )
    makers: Mapping[str, Callable[[], Figure]] = {
        "loss_curves": lambda: side_by_side(curves, judged),
        "lr_against_loss": lambda: plots.lr_against_loss(
            runs, judged, objective=objective, title=loss
        ),
        "lr_against_accuracy": lambda: plots.lr_against_accuracy(
            runs, judged, objective=objective, title=accuracy
        ),
        "to_target": lambda: plots.to_target(timed),
        "mechanics": lambda: plots.mechanics(curves, judged),
    }
    drawn = {}
    for name, make in makers.items():
        try:
            drawn[name] = make()
        except NothingToDraw:
            pass
        except Exception as error:  # an error in one figure spoils no other
            if failed is None:
                raise
            failed[name] = described(error)
    return drawn
