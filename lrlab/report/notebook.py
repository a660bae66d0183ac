"""A sweep as a piece of HTML for a notebook: no script, and nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lrlab.report.markup import Markup, tag
from lrlab.tables import table
from lrlab.verdicts import sweep_table

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd  # pyright: ignore[reportMissingTypeStubs]

ROWS = 60  # of the table; of more runs the first and last
_GAP = "…"
# Greys that are seen on white as on black, since a notebook may be either.
_LINE = "border-bottom:1px solid rgba(128,128,128,.35)"
_CELL = "padding:.2em .7em;white-space:nowrap;font-variant-numeric:tabular-nums"


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
        answer: as from `lrlab.verdicts.answer_words.text`.
        notes: lines that stand below.
        best: its best setting.
        picture: a PNG; None: there is nothing to draw.
    """
    best = best if len(runs) > 1 else None  # one run is no choice
    cells, words = sweep_table.columns(runs.sort_values(by="run"), best, verdicts)
    lines = [*sweep_table.failures(runs), *notes]
    if best:
        best = sweep_table.with_end_loss(best, runs, verdicts)
        lines.append(sweep_table.best_line(best))
    lines.append(f"sweep  {table.display_path(folder)}")
    return tag(
        "div",
        tag("div", _table(cells, words), style="overflow-x:auto"),
        tag("pre", answer, style="margin:.8em 0;white-space:pre-wrap"),
        [tag("div", line) for line in lines],
        _image(picture),
        class_="lrlab-sweep",
        style="max-width:75em",
    )


def _table(cells: dict[str, list[str]], words: set[str]) -> Markup:
    def side(name: str) -> str:
        return f"{_CELL};text-align:{'left' if name in words else 'right'}"

    count = len(cells["run"])
    shown: Sequence[int | None] = range(count)
    if count > ROWS:
        shown = [*range(ROWS // 2), None, *range(count - ROWS // 2, count)]
    head = tag("tr", [tag("th", name, style=f"{side(name)};{_LINE}") for name in cells])
    rows = [
        tag(
            "tr",
            [
                tag("td", _GAP if i is None else column[i], style=side(name))
                for name, column in cells.items()
            ],
        )
        for i in shown
    ]
    return tag(
        "table", tag("thead", head), tag("tbody", rows), style="border-collapse:collapse;margin:0"
    )


def _image(picture: bytes | None) -> Markup | None:
    if picture is None:
        return None
    source = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    told = "the sweep's main picture: loss against learning rate, or against step"
    return tag("img", src=source, alt=told, style="max-width:100%;width:60em;margin-top:.8em")
