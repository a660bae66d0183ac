"""Replace values of damaged records: of runs that lost their summary, or their curve's end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lrlab.tables import sweep_settings, tidy


def mends(runs: pd.DataFrame, curves: pd.DataFrame) -> dict[str, dict[Any, Any]]:
    """Return the values to replace, by column and run, for runs with damaged records."""
    short = cut_short(runs, curves)
    begun = set(curves.loc[curves["step"].notna(), "run"].unique())
    lost = sorted(begun.intersection(runs.loc[runs["state"] == "waiting", "run"]))
    told: dict[str, dict[Any, Any]] = {"state": dict.fromkeys([*short, *lost], "interrupted")}
    if lost:
        of_run = runs.set_index("run")["folder"]
        first = curves.dropna(subset=["lr_at_step"]).groupby("run")["lr_at_step"].first()
        lrs = {run: sweep_settings.lr_of(Path(str(of_run[run]))) for run in lost}
        told["lr"] = {r: first.get(r, math.nan) if math.isnan(x) else x for r, x in lrs.items()}
        others = runs.loc[runs["state"] != "waiting"]
        for name in (*tidy.settings_of(runs), "seed", "chance_loss", "num_classes"):
            values = others[name].dropna().unique()
            if len(values) == 1:
                told[name] = dict.fromkeys(lost, values[0])
    return told


def mend(table_: pd.DataFrame, told: Mapping[str, Mapping[Any, Any]]) -> None:
    """Replace the values that `mends` found, in place."""
    for name, of_runs in told.items():
        if of_runs and name in table_:
            values = zip(table_["run"].tolist(), table_[name].tolist(), strict=True)
            table_[name] = [of_runs.get(run, value) for run, value in values]


def cut_short(runs: pd.DataFrame, curves: pd.DataFrame) -> list[int]:
    """Return the finished runs whose curves end before the last step of their summary."""
    finished = runs.loc[runs["state"] == "finished"]
    if "measured_by" in finished:  # a probe writes the steps that it measures, not each one
        finished = finished.loc[finished["measured_by"].isna()]
    last = finished["run"].map(curves.groupby("run")["step"].max())
    return finished.loc[last < finished["steps"], "run"].tolist()
