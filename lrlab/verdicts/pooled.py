# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""Judge a search over several settings as a whole: each setting alone has too few runs."""

import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd

from lrlab.records.thresholds import Thresholds
from lrlab.verdicts import loss_kinds
from lrlab.verdicts.outcomes import FAILED, UNFINISHED

Row = Mapping[Any, Any]

NEAR = 2.0  # lrs within this factor are taken as one
FEW_LRS = 3  # trained to their end in one combination of settings
_SHARED = 1.2  # a search has at most this many times as many combinations with an lr as lrs
FEWEST = 8  # runs needed to say which settings mattered
_ENOUGH = 6  # configurations near the best lr; with fewer, that range is what to try next
_RANKED = ("finished", "diverged", "pruned", "")
_ENDS = 0.05  # of the logarithmic range tried: a best lr so near its end is at the edge


@dataclass(frozen=True)
class Configuration:
    """Runs that differ only in their seed."""

    settings: Mapping[str, Any]
    lr: float
    runs: Sequence[Hashable]
    end: float  # median end loss; inf if half of the runs or more failed
    failed: float  # the share of the runs that failed


@dataclass(frozen=True)
class Bin:
    """The configurations with lrs from low to high."""

    low: float
    high: float
    end: float  # the lowest end loss
    count: int  # how many configurations were trained to their end


@dataclass(frozen=True)
class Search:
    """The joint result of the runs of a search over several settings."""

    ended: int  # how many configurations were trained to their end
    tried: int  # how many configurations there are
    bins: Sequence[Bin]  # ranges of lrs, whatever the other settings, in ascending order
    # Lowest and highest lr of the configurations that ended as low as the best, in adjacent ranges.
    good: tuple[float, float]
    near: int  # how many configurations that ended have an lr within a factor NEAR of the best
    importances: Mapping[str, float]  # how much each setting mattered, descending; {}: too few runs
    edge: str  # "low" or "high" if the best lr is at that end of all that were tried
    try_next: tuple[float, float] | None  # lrs, with the other settings of the best configuration


def is_search(groups: Sequence[Sequence[Row]]) -> bool:
    """Return whether each combination has too few runs, though there are many together.

    A search draws an lr for each configuration, so combinations share hardly any. If half of them
    or more ended at fewer than FEW_LRS lrs, they are judged together.

    Args:
        groups: the runs of each combination of the settings besides lr and seed.
    """
    lrs = [{row["lr"] for row in group} for group in groups]
    distinct = set[Any]().union(*lrs)
    ended = [{r["lr"] for r in group if r.get("state") not in UNFINISHED} for group in groups]
    kinds = {loss_kinds.kind(row) for group in groups for row in group}
    shares_few = sum(map(len, lrs)) <= _SHARED * len(distinct)
    few = 2 * sum(len(each) < FEW_LRS for each in ended) >= len(groups) > 1
    return len(distinct) > 2 and shares_few and few and len(kinds) < 2


def configurations(rows: Sequence[Row], names: Sequence[str]) -> list[Configuration]:
    """Return the runs by lr and settings, in the order in which they came."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = tuple(None if pd.isna(row[name]) else row[name] for name in names)
        groups.setdefault((float(row["lr"]), *key), []).append(row)
    found = []
    for (lr, *key), group in groups.items():
        ends = [math.inf if r["outcome"] in FAILED else float(r["end_loss"]) for r in group]
        failed = sum(map(math.isinf, ends)) / len(ends)
        settings = dict(zip(names, key, strict=True))
        runs = [row["run"] for row in group]
        found.append(Configuration(settings, lr, runs, median(ends), failed))
    return found


def search(
    ended: Sequence[Configuration], rows: Sequence[Row], names: Sequence[str], t: Thresholds
) -> Search:
    """Judge the runs of a search together.

    Args:
        ended: the configurations that were trained to their end, one of them with a finite loss.
        rows: of the verdicts, of all runs.
    """
    best = min(ended, key=lambda each: (each.failed, each.end))
    low, high = best.lr / NEAR, best.lr * NEAR
    near = sum(low <= each.lr <= high for each in ended)
    edge = _edge(best.lr, sorted({float(row["lr"]) for row in rows if float(row["lr"]) > 0}))
    following = None
    if edge:
        following = (best.lr / 10, high) if edge == "low" else (low, best.lr * 10)
    elif near < _ENOUGH:
        following = (low, high)
    bins = _bins(ended, best.lr)
    return Search(
        ended=len(ended),
        tried=len(configurations(rows, names)),
        bins=bins,
        good=_good(ended, bins, best, t),
        near=near,
        importances=importances(rows, names),
        edge=edge,
        try_next=following,
    )


def _bins(ended: Sequence[Configuration], best: float) -> list[Bin]:
    """Return ranges of a factor NEAR; the best lr is in the middle of one."""
    groups: dict[int, list[Configuration]] = {}
    for each in ended if best > 0 else ():
        if each.lr > 0:
            place = math.floor(math.log(each.lr / best) / math.log(NEAR) + 0.5)
            groups.setdefault(place, []).append(each)
    return [
        Bin(
            best * NEAR ** (place - 0.5),
            best * NEAR ** (place + 0.5),
            min(each.end for each in group),
            len(group),
        )
        for place, group in sorted(groups.items())
    ]


def _good(
    ended: Sequence[Configuration], bins: Sequence[Bin], best: Configuration, t: Thresholds
) -> tuple[float, float]:
    goal = best.end + t.converged * abs(best.end)
    place = next((i for i, each in enumerate(bins) if each.low <= best.lr < each.high), None)
    if place is None:
        return best.lr, best.lr
    first = last = place
    while first > 0 and bins[first - 1].end <= goal:
        first -= 1
    while last + 1 < len(bins) and bins[last + 1].end <= goal:
        last += 1
    low, high = bins[first].low, bins[last].high
    lrs = [each.lr for each in ended if low <= each.lr <= high and each.end <= goal]
    return min(lrs), max(lrs)


def _edge(best: float, tried: Sequence[float]) -> str:
    if len(tried) < 2 or best <= 0:
        return ""
    width = math.log(tried[-1] / tried[0])
    if math.log(tried[-1] / best) <= _ENDS * width:
        return "high"
    return "low" if math.log(best / tried[0]) <= _ENDS * width else ""


def importances(rows: Sequence[Row], names: Sequence[str]) -> dict[str, float]:
    """Return how much lr and the settings mattered for reaching the best quarter, as shares.

    Optuna computes them by PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255). A pruned run counts
    as worse than all that ended, a failed one as worse still. Too few runs give {}.
    """
    ended = [row for row in rows if row.get("state") in (*_RANKED, None)]
    ranked = [
        row for row in ended if row["outcome"] in FAILED or row["end_loss"] == row["end_loss"]
    ]
    if len(ranked) < FEWEST:
        return {}
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    def rank(row: Row) -> tuple[int, float]:
        if row["outcome"] in FAILED:
            return 2, 0.0
        return int(row.get("state") == "pruned"), float(row["end_loss"])

    columns = {name: [row[name] for row in ranked] for name in ("lr", *names)}
    spaces: dict[str, Any] = {}
    for name, values in columns.items():
        numbers = all(isinstance(v, int | float) and math.isfinite(v) for v in values)
        if numbers and len(set(values)) > 7 and min(values) < max(values):
            spaces[name] = FloatDistribution(min(values), max(values), log=min(values) > 0)
        elif len(set(map(str, values))) > 1:
            columns[name] = [str(value) for value in values]
            spaces[name] = CategoricalDistribution(sorted(set(columns[name])))
    verbosity = optuna.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study()
        order = sorted(range(len(ranked)), key=lambda i: rank(ranked[i]))
        for place, i in enumerate(order):
            params = {
                n: float(columns[n][i]) if isinstance(space, FloatDistribution) else columns[n][i]
                for n, space in spaces.items()
            }
            study.add_trial(
                optuna.trial.create_trial(params=params, distributions=spaces, value=float(place))
            )
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
        optuna.logging.set_verbosity(verbosity)
    shares = {name: float(share) for name, share in found.items() if math.isfinite(share)}
    return dict(sorted(shares.items(), key=lambda each: -each[1]))
