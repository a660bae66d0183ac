"""Read the tables of a saved sweep, for the command line, with `lrlab.verdicts.loading`."""

from pathlib import Path

from lrlab.errors import UserError
from lrlab.plots.tables import Tables
from lrlab.tables import frames, sweep_settings
from lrlab.verdicts import loading, recommend


def load(path: Path) -> tuple[Tables, tuple[str, ...]]:
    """Return the tables of a sweep's folder or a CSV of curves, and lines about missing parts.

    Raises:
        UserError: it is neither, or its content is damaged beyond use.
    """
    found = loading.load([path])
    notes = list(found.notes)
    judged, answers = None, []
    try:
        judged = found.verdicts()
        answers = recommend.recommend(judged)
    except UserError as error:
        notes.append(f"drawn without verdicts: {error}")
    landscape = frames.landscape(path) if path.is_dir() else (None, None, None)
    tables = Tables(
        *(found.runs, found.curves, judged, found.branches, *landscape),
        answers=answers,
        objective=sweep_settings.objective(path),
    )
    return tables, tuple(notes)
