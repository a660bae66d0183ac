"""Tables of verdicts, and the answer that is made of them."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from lrlab.verdicts.answer import Answer
from lrlab.verdicts.judging import verdicts
from lrlab.verdicts.printed.answer_words import text
from lrlab.verdicts.recommend import recommend


def table(*runs: tuple[Any, ...], **columns: Any) -> pd.DataFrame:
    """Rows of (lr, outcome, end loss) and, where given, (at the end, gain_low)."""
    names = ["lr", "outcome", "end_loss", "at_end", "gain_low"]
    rows = [dict(zip(names, run, strict=False)) for run in runs]
    frame = pd.DataFrame(rows).assign(
        run=range(len(rows)), initial_loss=2.31, chance_loss=2.3026, unit="step", last=900.0
    )
    return frame.assign(**columns)


def only(frame: pd.DataFrame, **kwargs: Any) -> Answer:
    answers = recommend(frame, **kwargs)
    assert len(answers) == 1
    return answers[0]


def lines(frame: pd.DataFrame) -> list[str]:
    return [line.strip() for line in text(recommend(frame)).splitlines()]


WHOLE = [
    (1e-3, "undershooting", 1.9, "still falling", -0.2),
    (1e-2, "undershooting", 0.3, "still falling", -0.1),
    (0.1, "converged", 0.0700, "would anneal", 0.4),
    (0.3, "converged", 0.0720, "would anneal", 0.5),
    (0.5, "overshooting", 0.15, "would anneal", 0.8),
    (1.0, "collapsed", 2.306),
    (3.0, "diverged", math.inf),
]


def seeds(lr: float, outcome: str, ends: list[float]) -> list[tuple[Any, ...]]:
    return [(lr, outcome, end) for end in ends]


def curves(frame: pd.DataFrame) -> pd.DataFrame:
    return verdicts(frame)
