"""Draw the lr axis as HTML: a dot a run in its outcome's colour, over the answer's ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lrlab.report.markup import Markup, render

if TYPE_CHECKING:
    from lrlab.verdicts.answer import Answer

_STACK = 6  # dots over each other at one lr; more are counted
_MARK = 0.6  # percent of the axis: half the width of the mark at a single lr
_MARGIN = 0.04  # percent of the axis, free at each end


def ruler(answer: Answer, rows: Sequence[Mapping[Any, Any]], label: str) -> Markup:
    """Draw the axis from the smallest to the largest lr, logarithmic; nothing without an lr.

    Args:
        rows: the verdicts of the runs that the answer is about: run, lr, outcome.
        label: the axis in words, for screen readers.
    """
    by_lr: dict[float, list[str]] = {}
    for row in rows:
        if row["lr"] > 0 and math.isfinite(row["lr"]):
            by_lr.setdefault(float(row["lr"]), []).append(str(row["outcome"]))
    if not by_lr:
        return Markup("")
    lrs = sorted(by_lr)
    low, high = (lrs[0], lrs[-1]) if len(lrs) > 1 else (lrs[0] / 3, lrs[0] * 3)

    def place(lr: float) -> float:
        """Return the position in percent from the left."""
        share = (math.log(lr) - math.log(low)) / (math.log(high) - math.log(low))
        return 100 * (_MARGIN + (1 - 2 * _MARGIN) * share)

    def border(lr: float, to: int) -> float:
        """Return the middle between this and the next lr tried, in percent."""
        neighbour = lrs.index(lr) + to if lr in lrs else -1
        if not 0 <= neighbour < len(lrs):
            return 0.0 if to < 0 else 100.0
        return (place(lr) + place(lrs[neighbour])) / 2

    bands = []
    if answer.best_lr is not None:
        good = answer.as_good or (answer.best_lr, answer.best_lr)
        # They end with the lrs tried: nothing is known beyond.
        left, right = place(good[0]) - _MARK, place(good[1]) + _MARK
        if answer.too_small is not None and answer.too_small < good[0]:
            bands.append(("small", 0.0, min(left, border(answer.too_small, +1)), "too small"))
        for lr, text in ((answer.too_large, "too large"), (answer.fails_from, "runs fail")):
            if lr is not None and lr > good[1]:
                bands.append(("large", max(right, border(lr, -1)), 100.0, text))
                break
        if good[0] < good[1]:
            bands.append(("good", left, right, "as good as the best"))
        else:
            bands.append(("good mark", left, right, ""))
    highest = min(_STACK + 1, max(map(len, by_lr.values())))
    return render(
        "ruler.html",
        lrs=len(by_lr),
        height=f"{2.6 + 0.9 * highest:.1f}",
        label=label,
        bands=bands,
        stacks=[(place(lr), f"lr {lr:g}: {', '.join(by_lr[lr])}", by_lr[lr]) for lr in lrs],
        most=_STACK,
        best=place(answer.best_lr) if answer.best_lr else None,
        ticks=[(place(lr), text, kind) for lr, text, kind in _ticks(low, high)],
    )


def _ticks(low: float, high: float) -> list[tuple[float, str, str]]:
    """Return (lr, text, kind) at the decades, or at 1, 2 and 5 of each if those are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [10.0**d for d in decades if low / 1.0001 <= 10.0**d <= high * 1.0001]
    if len(found) < 3:
        found = [m * 10.0**d for d in decades for m in (1, 2, 5)]
        found = [lr for lr in found if low / 1.0001 <= lr <= high * 1.0001]
    if len(found) < 2:
        found = sorted({low, high})
    step = math.ceil(len(found) / 9)
    return [(lr, f"{lr:g}", "" if i % step == 0 else "bare") for i, lr in enumerate(found)]
