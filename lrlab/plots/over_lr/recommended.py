"""Draw the recommended lr and the range that is as good into a figure over the lr."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lrlab.plots import frame, style
from lrlab.plots.over_lr import pooled
from lrlab.plots.over_lr.by_lr_table import EndTable
from lrlab.plots.sheet import Handles
from lrlab.plots.style import BEST, RECOMMENDED

if TYPE_CHECKING:
    from lrlab.verdicts.answer import Answer


_BEST_LINE: Any = {"color": BEST, "linewidth": 1.3}


def _recommended(answers: "Sequence[Answer]") -> tuple[float, float, float] | None:
    """Return the best lr of all that is drawn, and the ends of the range that is as good."""
    from lrlab.verdicts.recommend import comparable

    if not answers or answers[0].best_lr is None or not comparable(answers):
        return None
    best = answers[0].best_lr
    return (best, *(answers[0].as_good or (best, best)))


def draw_recommended(
    ax: Axes, answers: "Sequence[Answer]", best_by_objective: tuple[str, float] | None = None
) -> None:
    """Shade the range that does as well as the best, and draw the best as a line."""
    found = _recommended(answers)
    if best_by_objective is not None:
        ax.axvline(best_by_objective[1], **_BEST_LINE, zorder=1.5, gid="best")
    if found is None:
        return
    best, low, high = found
    left, right = ax.get_xlim()
    if high <= low:  # a single lr has no width of its own
        low, high = (best * frame.ratio(left, right, share) for share in (-0.008, 0.008))
    ax.axvspan(low, high, color=RECOMMENDED, alpha=0.55, linewidth=0, zorder=0.5, gid="recommended")
    if best_by_objective is None:
        ax.axvline(best, **_BEST_LINE, zorder=1.5, gid="best")


def best_handles(table: EndTable, answers: "Sequence[Answer]") -> Handles:
    """Return legend entries of the recommendation, with its loss if another series decides."""
    by = "" if table.decides and table.series[0] == table.judged_by else table.judged_by
    found = [*recommended_handle(answers, by.replace("_", " "))]
    if table.best_by_objective is not None:
        found.append((Line2D([], [], **_BEST_LINE), table.best_by_objective[0]))
    return found


def recommended_handle(answers: "Sequence[Answer]", by: str = "") -> Handles:
    found = _recommended(answers)
    if found is None:
        return []
    best, low, high = found
    where = "".join(f"{value}, " for value in answers[0].settings.values())
    where = "" if pooled.search_of(answers) else where  # a search has too many for a line
    text = f"recommended{f' by {by}' if by else ''}: {where}lr {style.lr_word(best)}"
    if low < high:
        text += f"; as good from {style.lr_word(low)} to {style.lr_word(high)}"
    return [(Line2D([], [], color=RECOMMENDED, linewidth=9, solid_capstyle="butt"), text)]
