"""Read the tables of a saved sweep, for the command line, with `lrlab.verdicts.loading`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lrlab.errors import UserError
from lrlab.logs.columns import Wanted
from lrlab.plots.tables import Tables
from lrlab.tables import frames, sweep_settings
from lrlab.tables.tidy import SETTINGS, is_option
from lrlab.verdicts import end_losses, loading
from lrlab.verdicts.answer import Answer


def load(path: Path, wanted: Wanted | None = None) -> tuple[Tables, tuple[str, ...]]:
    """Return the tables of a sweep's folder or of a log, and lines about missing parts.

    wanted: where the lr of a log stands, and what its columns are.

    Raises:
        UserError: it is neither, or its content is damaged beyond use.
    """
    found = loading.load([path], wanted=wanted)
    notes = list(found.notes)
    judged, answers = None, []
    try:
        judged = found.verdicts()
        answers = found.answers(judged)
        if found.ends:
            return _of_end_losses(found, judged, answers)
    except UserError as error:
        notes.append(f"drawn without verdicts: {error}")
    landscape = frames.landscape(path) if path.is_dir() else (None, None, None)
    tables = Tables(
        *(found.runs, found.curves, judged, found.branches, *landscape),
        answers=answers,
        objective=sweep_settings.objective(path),
    )
    return tables, tuple(notes)


def _of_end_losses(
    found: loading.Loaded, judged: pd.DataFrame, answers: Sequence[Answer]
) -> tuple[Tables, tuple[str, ...]]:
    """Return the tables of end losses alone; figures know settings by a dot in their names."""
    dotted = {
        name: name if name in SETTINGS or is_option(name) else f"runs.{name}"
        for name in end_losses.settings_of(found.curves)
    }
    notes, told = list(found.notes), judged
    if "loss" in set(judged["judged_by"]):
        notes.append("the loss is drawn as val loss: the table does not say of which data it is")
        told = judged.assign(judged_by=judged["judged_by"].replace("loss", "val_loss"))
    lost = ~np.isfinite(judged["end_loss"].to_numpy(dtype=float))
    runs = found.runs.assign(state=np.where(lost, "not finite", "finished"))
    tables = Tables(
        runs.rename(columns=dotted),
        pd.DataFrame(columns=["run", "lr", "step", "train_loss", "lr_at_step"]),
        told.drop(columns="state").rename(columns=dotted),
        answers=[
            replace(each, settings={dotted[name]: value for name, value in each.settings.items()})
            for each in answers
        ],
    )
    return tables, tuple(notes)
