"""Find the best runs of each compared sweep."""

from collections.abc import Hashable, Mapping

import pandas as pd

from lrlab.comparison.by_lr import by_seed, end_of
from lrlab.comparison.reading import Side
from lrlab.verdicts.outcomes import UNFINISHED


def best_ends(side: Side) -> Mapping[Hashable, float]:
    """Return the end losses of a sweep's best runs by seed; inf for those that failed."""
    found = [row for row in best_runs(side).to_dict("records") if not pd.isna(row["end_loss"])]
    return by_seed(found, [end_of(row) for row in found])


def best_runs(side: Side) -> pd.DataFrame:
    """Return the verdicts of the finished runs at the best lr, with the best settings."""
    found = with_best_settings(side)
    return found.loc[(found["lr"] == side.answer.best_lr) & ~found["state"].isin(UNFINISHED)]


def with_best_settings(side: Side) -> pd.DataFrame:
    """Return the verdicts of a sweep's runs with the best combination of settings, at every lr."""
    found = side.verdicts
    for name, value in side.answer.settings.items():
        same = found[name].isna() if value is None else found[name] == value
        found = found.loc[same]
    return found
