"""Draw which settings of a search mattered."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from lrlab.plots import frame
from lrlab.plots.over_lr import pooled
from lrlab.plots.sheet import PAD, Panels, cut_to, sheet, text_width
from lrlab.plots.style import SIZE
from lrlab.plots.tables import NothingToDraw

if TYPE_CHECKING:
    from lrlab.verdicts.answer import Answer

_ROW = 0.42  # inches of a bar
_LONGEST = 3.2  # inches that the name of a setting may take


def importances(answers: "Sequence[Answer]", *, title: str | None = None) -> Figure:
    """Draw how much lr and each other setting of a search mattered, as bars in percent.

    answers: as from `lrlab.verdicts.recommend.recommend`. The shares are those of
    `lrlab.verdicts.pooled.importances`.

    Raises:
        NothingToDraw: it is no search over several settings, or has too few runs.
    """
    from lrlab.verdicts.pooled import FEWEST

    found = pooled.search_of(answers)
    if found is None:
        raise NothingToDraw("no search over several settings")
    if not found.importances:
        raise NothingToDraw(f"fewer than {FEWEST} runs cannot tell which settings mattered")
    shares = sorted(found.importances.items(), key=lambda each: each[1])
    names = [cut_to(name, _LONGEST) for name, _ in shares]
    of = "1 configuration" if found.tried == 1 else f"{found.tried} configurations"
    page = sheet(
        title or "Which settings mattered for being among the best quarter",
        f"{of}, {found.ended} of them trained to their end · PED-ANOVA",
        Panels(
            rows=(_ROW * (len(shares) + 0.4),),
            left=PAD + max(text_width(name, SIZE) for name in names) + 0.15,
        ),
    )
    ax = page.axes
    percent = [100 * share for _, share in shares]
    ax.barh(range(len(shares)), percent, height=0.6, color=pooled.HUE, gid="importance")
    most = max(percent)
    for y, value in enumerate(percent):
        text = f"{value:.0f} %" if value >= 0.5 or value == 0 else "<1 %"
        ax.text(value + 0.012 * most, y, text, va="center_baseline", size=SIZE, gid="share")
    ax.set_xlim(0, 1.12 * most or 1.0)
    ax.set_ylim(-0.7, len(shares) - 0.3)
    ax.set_yticks(range(len(shares)), names, parse_math=False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("share of the importance (%)")
    frame.grid(ax, "x")
    return page.figure
