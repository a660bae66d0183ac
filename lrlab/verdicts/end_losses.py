"""Judge tables of end losses without curves: which lr ended lowest, and nothing about the way."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from lrlab.records.thresholds import THRESHOLDS, Thresholds
from lrlab.tables.tidy import tied
from lrlab.verdicts import recommend, sentences
from lrlab.verdicts.answer import Answer
from lrlab.verdicts.sides import Sides, compare, gathered

_OURS = ("run", "lr", "seed", "state", "end_loss", "judged_by", "sweep")
LOWEST, AS_GOOD, HIGHER = "lowest", "as good", "ends higher"
NOT_FINITE, ALONE = "not finite", "not compared"
# What `recommend` calls them. These words claim more than end losses show, and are not printed.
_AS_OUTCOME = {
    LOWEST: "converged",
    AS_GOOD: "converged",
    NOT_FINITE: "diverged",
    ALONE: "converged",
}


def settings_of(ends: pd.DataFrame) -> list[str]:
    """Return the columns that are settings of the runs."""
    return [str(name) for name in ends.columns if name not in _OURS]


def varying(ends: pd.DataFrame) -> list[str]:
    """Return the settings that differ, without one that is the lr times a number."""
    lrs = ends["lr"].tolist()
    return [
        name
        for name in settings_of(ends)
        if len(set(map(str, ends[name]))) > 1 and not tied(lrs, ends[name].tolist())
    ]


def verdicts(ends: pd.DataFrame, thresholds: Thresholds = THRESHOLDS) -> pd.DataFrame:
    """Return one row a run: how its end loss compares with the lowest of its setting.

    Args:
        ends: run, lr, end_loss (inf: not finite), judged_by, and where there seed; all other
            columns are settings.

    Returns:
        run, lr, seed, the settings; outcome: lowest, as good, ends higher, not finite, or not
        compared, of one lr alone; side: of the lowest, smaller or larger; evidence: a sentence;
        end_loss, best_loss, judged_by, state.
    """
    names = varying(ends)
    rows = ends.to_dict("records")
    groups: dict[tuple[Any, ...], list[Mapping[Any, Any]]] = {}
    for row in rows:
        groups.setdefault(key_of(row, names), []).append(row)
    sides = {key: _sides(group, thresholds) for key, group in groups.items()}
    found = [_verdict(row, sides[key_of(row, names)]) for row in rows]
    told = pd.DataFrame(found, columns=["outcome", "side", "evidence", "best_loss"])
    first = ["run", "lr", *(["seed"] if "seed" in ends else []), *settings_of(ends)]
    table = ends.loc[:, first].reset_index(drop=True)
    if "seed" not in table:
        table.insert(2, "seed", None)
    table = table.assign(**{name: told[name] for name in ("outcome", "side", "evidence")})
    return table.assign(
        end_loss=ends["end_loss"].to_numpy(dtype=float),
        best_loss=told["best_loss"],
        judged_by=ends["judged_by"].to_numpy(),
        state="",
    )


def key_of(row: Mapping[Any, Any], names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(None if pd.isna(row[name]) else row[name] for name in names)


def _sides(rows: Sequence[Mapping[Any, Any]], t: Thresholds) -> Sides:
    return compare(
        gathered((row["lr"], row.get("seed"), row["run"], row["end_loss"]) for row in rows),
        thresholds=t,
    )


def _verdict(row: Mapping[Any, Any], sides: Sides) -> tuple[str, str, str, float]:
    lr, end = float(row["lr"]), float(row["end_loss"])
    if not math.isfinite(end):
        return NOT_FINITE, "", "its end loss is not finite", sides.best_end
    if len(sides.lrs) < 2:
        return ALONE, "", f"it ended at {end:.4g}; no other lr has these settings", sides.best_end
    ended = f"it ended at {end:.4g}"
    if lr == sides.best:
        return LOWEST, "", f"{ended}, the lowest of {len(sides.lrs)} lrs", sides.best_end
    side = "smaller" if lr < sides.best else "larger"
    other = "larger" if side == "smaller" else "smaller"
    best = f"{sides.best_end:.4g} at the {other} lr {sides.best:g}"
    above = sentences.above(sides.ends[lr], sides.best_end, best)
    word = AS_GOOD if sides.side(lr) == 0 else HIGHER
    return word, side, f"{ended}, {above}", sides.best_end


def answers(found: pd.DataFrame, thresholds: Thresholds = THRESHOLDS) -> list[Answer]:
    """Return one answer for each combination of the settings, the best first.

    Args:
        found: as from `verdicts`.
    """
    names = varying(found.drop(columns=["outcome", "side", "evidence", "best_loss"]))
    outcomes = [
        _AS_OUTCOME.get(word) or ("undershooting" if side == "smaller" else "overshooting")
        for word, side in zip(found["outcome"], found["side"], strict=True)
    ]
    told = recommend.recommend(found.assign(outcome=outcomes), names, thresholds)
    counts = found["outcome"].value_counts().to_dict()
    return [_without_outcomes(answer, counts) for answer in told]


def _without_outcomes(a: Answer, counts: Mapping[Hashable, int]) -> Answer:
    """Return the answer without words about runs that need a curve."""
    refusal = a.refusal
    if refusal.startswith("every run diverged"):
        refusal = "no end loss is finite"
    whole = {str(word): int(count) for word, count in counts.items()}
    return replace(a, refusal=refusal, counts=whole if len(a.settings) == 0 else None)
