"""Find which runs' losses are comparable: an nll in nats and a squared error are not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

ACROSS = "val_acc"  # the objective that compares runs of any losses
_SAME = {"cross_entropy": "nll"}  # two names of one number


def kind(settings: Mapping[Any, Any]) -> str:
    """Return what a loss measures: equal for runs with comparable losses, "" if unknown.

    A class is identified by its package and its name, so ``torch.nn.HuberLoss`` and
    ``torch.nn.modules.loss.HuberLoss`` are one.

    Args:
        settings: of a run: ``loss``, and its own settings that differ in the sweep, ``loss.delta``.
    """
    own: dict[str, str] = {}
    for key, value in settings.items():
        group, _, name = str(key).lstrip("+").partition(".")
        if group == "loss" and value is not None and value == value:  # NaN is missing, too
            own[name] = str(value)
    loss = own.pop("", "")
    package, _, path = own.pop("_target_", "").partition(".")
    loss = loss if package in ("", "lrlab") else f"{package}.{path.rpartition('.')[2]}"
    if _SAME.get(loss, loss) == "nll":
        own.pop("label_smoothing", None)  # no part of an evaluation
    words = [_SAME.get(loss, loss), *(f"loss.{name}={own[name]}" for name in sorted(own))]
    return " ".join(filter(None, words))


def incomparable(rows: Iterable[Mapping[Any, Any]], objective: str) -> str:
    """Return the kinds of loss that keep these runs from being compared by the objective, or ""."""
    kinds = list(dict.fromkeys(filter(None, map(kind, rows))))
    if objective == ACROSS or len(kinds) < 2:
        return ""
    return f"{', '.join(kinds[:-1])} and {kinds[-1]} do not compare by {objective}"


def of_best(runs: pd.DataFrame, objective: str) -> str:
    """Return why none of these runs is the best by the objective, and what would work, or "".

    runs: as from `frames.runs`.
    """
    ended = runs.loc[runs["state"] == "finished"]
    rows: list[dict[Any, Any]] = ended.to_dict("records")
    why = incomparable(rows, objective)
    return f"{why}; {remedy(bool(ended[ACROSS].notna().any()))}" if why else ""


def remedy(has_classes: bool) -> str:
    """Return what to do when a sweep's losses do not compare."""
    if has_classes:
        return f"use objective={ACROSS}, or a sweep for each loss"
    return "use a sweep for each loss"
