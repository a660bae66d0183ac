"""A sweep as a piece of HTML for a notebook: no script, and nothing from elsewhere."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from lrlab.report.markup import render
from lrlab.tables import table

if TYPE_CHECKING:
    from lrlab.api import Result

ROWS = 60  # of the table; of more runs the first and last
_GAP = "…"


def html(result: Result, best: table.Best | None, picture: bytes | None) -> str:
    """The runs with their outcomes, the answer, and the picture.

    Args:
        result: the sweep.
        best: its best setting.
        picture: a PNG; None: there is nothing to draw.
    """
    best = best if len(result.runs) > 1 else None  # one run is no choice
    cells, words = table.columns(result.runs.sort_values(by="run"), best, result.verdicts)
    lines = [*table.failures(result.runs), *result.notes]
    if best:
        best = table.with_end_loss(best, result.runs, result.verdicts)
        lines.append(table.best_line(best))
    lines.append(f"sweep  {table.display_path(result.folder)}")
    rows = list(zip(*cells.values(), strict=True))
    if len(rows) > ROWS:
        rows = [*rows[: ROWS // 2], [_GAP] * len(cells), *rows[-ROWS // 2 :]]
    return render(
        "notebook.html",
        columns=[(name, "left" if name in words else "right") for name in cells],
        rows=rows,
        answer=result.answer.text,
        lines=lines,
        picture=picture and base64.b64encode(picture).decode(),
    )
