"""Show a sweep in a notebook as HTML, without scripts or outside resources."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from lrlab.process import paths
from lrlab.report.markup import render
from lrlab.verdicts.printed import sweep_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd  # pyright: ignore[reportMissingTypeStubs]

ROWS = 60  # rows of the table; with more runs the first and last
_GAP = "…"


def html(
    folder: Path,
    runs: pd.DataFrame,
    verdicts: pd.DataFrame,
    answer: str,
    notes: Sequence[str] = (),
    best: sweep_table.Best | None = None,
    picture: bytes | None = None,
) -> str:
    """Return the runs with their outcomes, the answer, and the picture.

    Args:
        folder: the sweep's.
        answer: as from `lrlab.verdicts.printed.answer_words.text`.
        notes: lines below it.
        best: its best setting.
        picture: a PNG; None: there is nothing to draw.
    """
    best = best if len(runs) > 1 else None  # one run is no choice
    cells, words = sweep_table.columns(runs.sort_values(by="run"), best, verdicts)
    lines = [*sweep_table.failures(runs), *notes]
    if best:
        best = sweep_table.with_end_loss(best, runs, verdicts)
        lines.append(sweep_table.best_line(best))
    lines.append(f"sweep  {paths.display_path(folder)}")
    rows = list(zip(*cells.values(), strict=True))
    if len(rows) > ROWS:
        rows = [*rows[: ROWS // 2], [_GAP] * len(cells), *rows[-ROWS // 2 :]]
    return render(
        "notebook.html",
        columns=[(name, "left" if name in words else "right") for name in cells],
        rows=rows,
        answer=answer,
        lines=lines,
        picture=picture and base64.b64encode(picture).decode(),
    )
