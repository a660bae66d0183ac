"""Learning rates and losses at the ends of what a number holds: every figure is drawn."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import made_tables

from lrlab import plots
from lrlab.plots import frame, reach
from lrlab.report.advice import ruler
from lrlab.verdicts.judging import verdicts
from lrlab.verdicts.recommend import recommend

LOSSES = ("train_loss", "val_loss", "test_loss", "initial_loss", "chance_loss", "loss")
BASE = made_tables.tables([0.001, 0.03, 0.1, 10.0], schedules=("fixed", "step"), steps=30)


def moved(table: Any, lr_stretch: float, lr_shift: float, loss_shift: float) -> Any:
    """log10 of an lr is stretched and shifted, that of a loss shifted."""
    if table is None:
        return None
    table = table.copy()
    for name in ("lr", "lr_at_step"):
        if name in table:
            table[name] = 10 ** (np.log10(table[name].astype(float)) * lr_stretch + lr_shift)
    for name in LOSSES:
        if name in table and pd.api.types.is_numeric_dtype(table[name]):
            half = 10 ** (loss_shift / 2)
            table[name] = table[name].astype(float) * half * half
    return table


def tables(lr_stretch: float, lr_shift: float, loss_shift: float) -> plots.Tables:
    names = ("runs", "curves", "branches", "lines", "surface", "paths")
    made = {name: moved(getattr(BASE, name), lr_stretch, lr_shift, loss_shift) for name in names}
    judged = verdicts(made["curves"])
    return replace(BASE, **made, verdicts=judged, answers=recommend(judged))


@pytest.mark.full
@pytest.mark.parametrize(
    "case",
    [(100, 0, -318), (1, -305, 307.5)],
    ids=["lrs far apart, tiny losses", "tiny lrs, huge losses"],
)
def test_every_figure_is_drawn(case: tuple[float, float, float], tmp_path: Path) -> None:
    given = tables(*case)
    left_out = {}
    for name in plots.NAMES:
        try:
            figure = plots.figure(name, given)
        except plots.NothingToDraw as reason:
            left_out[name] = str(reason)
            continue
        figure.savefig(tmp_path / "figure.svg", format="svg")  # all but the pixels
        told = any(text.get_gid() == "beyond reach" for text in figure.texts)
        assert told or name not in ("loss_curves", "schedules")
    merged = case[0] == 1
    assert set(left_out) == {"importances", *(("lr_and_loss", "heat_map") if merged else ())}
    assert all("1e-280" in reason for name, reason in left_out.items() if name != "importances")
    page = str(ruler(given.answers[0], given.verdicts.to_dict("records"), ""))  # type: ignore[union-attr]
    assert page.count("dot o-") == len(given.runs)


def test_what_is_within_reach_is_left_as_it_is() -> None:
    table = pd.DataFrame({"lr": [0.0, 1e-280, -1e280, math.inf, math.nan], "step": [1e300] * 5})
    assert reach._near(table) is table
    given = [table, table]
    assert reach._near(given) is given
    far = table.assign(lr=[5e-324, -1e-300, 1.7e308, -1e300, math.nan])
    near = reach._near(far)
    assert near["lr"].tolist()[:4] == [1e-280, -1e-280, 1e280, -1e280]
    assert math.isnan(near["lr"][4]) and near["step"].equals(far["step"])


def test_a_ratio_that_no_number_holds() -> None:
    assert frame.ratio(0.01, 100.0, 0.5) == pytest.approx(100.0)
    assert frame.ratio(1e-280, 1e280, 0.5) == pytest.approx(1e280)
    low, high = frame.lr_limits([1e-280, 1e280])
    assert 0 < low < 1e-280 and 1e280 < high < math.inf
