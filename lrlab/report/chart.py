"""Prepare the interactive loss curves: a few hundred smoothed points a run, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lrlab.verdicts.outcomes import OUTCOMES

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

POINTS = 240  # a curve; fewer where there are many runs
ALL_POINTS = 20_000  # points of all curves; with more a browser answers a click too slowly
RUNS = 200  # drawn at most; the table has all
SMOOTHING = 0.02  # span of the moving average as a share of the longest run's steps
HEADROOM = 3.0  # y ends at most at this multiple of max(initial loss, chance loss)
FLOOR = 1e-6  # y begins at least at this multiple of it, or of the runs' results
_LR_SWITCHES = 24  # up to so many lrs have a switch each


def data(curves: pd.DataFrame, verdicts: pd.DataFrame, settings: Sequence[str]) -> dict[str, Any]:
    """Return the data of the page's chart as plain values; all numbers are finite.

    Args:
        curves: as from `frames.curves`: run, lr, step, train_loss, val_loss, state ...
        verdicts: as from `judging.verdicts`: run, lr, outcome, first_nonfinite ...
        settings: the names of the settings that differ between the runs, except lr.

    Returns:
        runs: of each drawn run, `run` (as text), `lr` (None: unknown), `outcome`, `settings` (as
        text), `x`, `y` (smoothed mini-batch loss), `vx`, `vy` (evaluations), and `stop`: None, or
        {"step", "kind"} of a run that ended early;
        settings: their names; outcomes: in order; unit: of x; loss: the name of y, with its unit;
        span: of the moving average, in steps; few_lrs: whether each lr has a switch;
        low, high: the limits of y; negative: whether a loss is not above 0, which no log axis can
        show; chance: the loss of guessing, or None; of: how many runs there are.
    """
    import numpy as np

    from lrlab.tables import thinning

    parts = {run: part for run, part in curves.groupby("run", sort=False)}
    rows = _drawn(verdicts.to_dict("records"))
    points = max(24, min(POINTS, ALL_POINTS // max(1, len(rows))))
    span = max(1.0, SMOOTHING * _largest(curves, "step", 1.0))
    chance, initial = (_largest(curves, f"{name}_loss", math.nan) for name in ("chance", "initial"))
    start = max((x for x in (chance, initial) if x == x), default=1.0)
    most = 10 * HEADROOM * max(start, FLOOR)  # one explosion would hide all later losses
    runs = []
    for row in rows:
        part = parts.get(row["run"])
        x, loss, mean_of = _finite(part, "train_loss")
        smooth = thinning.average(np.minimum(loss, most), span, mean_of)
        keep = _thinned(x, points)
        vx, val, _ = _finite(part, "val_loss")
        few = _thinned(vx, points)
        runs.append(
            {
                "run": str(row["run"]),
                "lr": _or_none(row["lr"]),
                "outcome": str(row["outcome"]),
                "settings": [setting_text(row.get(name)) for name in settings],
                "x": [round(float(each), 3) for each in x[keep]],
                "y": _rounded(smooth[keep]),
                "vx": [round(float(each), 3) for each in vx[few]],
                "vy": _rounded(np.minimum(val[few], most)),
                "stop": _stop(row, x),
            }
        )
    shown = [y for run in runs for y in (*run["y"], *run["vy"])]
    highest = max(shown, default=start)
    positive = [[y for y in (*run["y"], *run["vy"]) if y > 0] for run in runs]
    ends = [min(each) for each in positive if each]
    lowest = min(ends, default=start / 100)
    usual = float(np.quantile(ends, 0.25)) if ends else start
    return {
        "runs": runs,
        "settings": list(settings),
        "outcomes": OUTCOMES,
        "unit": "step" if "step" in curves else "epoch",
        "loss": _loss_name(curves),
        "span": round(span),
        "low": max(lowest, FLOOR * min(start, usual)) / 1.15,
        "high": min(highest, HEADROOM * start) * 1.08 if highest > 0 else start,
        "negative": any(y <= 0 for y in shown),
        "chance": _or_none(chance),
        "of": len(verdicts),
        "few_lrs": len({run["lr"] for run in runs}) <= _LR_SWITCHES,
    }


def setting_text(value: Any) -> str:
    """Return a setting's value as one would type it; "–" where there is none."""
    if value is None or value != value:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def _loss_name(curves: pd.DataFrame) -> str:
    losses = set(curves["loss"].dropna().map(str)) if "loss" in curves else set()
    return "loss (nats)" if losses and losses <= {"nll", "cross_entropy"} else "loss"


def _drawn(rows: Sequence[Mapping[Any, Any]]) -> Sequence[Mapping[Any, Any]]:
    """Return at most RUNS of them, spread over the lrs, in the table's order."""
    if len(rows) <= RUNS:
        return rows
    by_lr = sorted(range(len(rows)), key=lambda i: (math.isnan(rows[i]["lr"]), rows[i]["lr"], i))
    chosen = {by_lr[round(i * (len(rows) - 1) / (RUNS - 1))] for i in range(RUNS)}
    return [row for i, row in enumerate(rows) if i in chosen]


def _largest(frame: pd.DataFrame, name: str, default: float) -> float:
    if name not in frame:
        return default
    import numpy as np

    values = frame[name].to_numpy(dtype=float)
    values = values[np.isfinite(values)]
    return float(values.max()) if len(values) else default


def _finite(
    part: pd.DataFrame | None, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return (n,) steps, finite losses, and the number of losses in each mean, by step."""
    import numpy as np

    from lrlab.tables import thinning

    if part is None or name not in part:
        return np.empty(0), np.empty(0), None
    at = part["step" if "step" in part else "epoch"].to_numpy(dtype=float)
    loss = part[name].to_numpy(dtype=float)
    there = np.flatnonzero(np.isfinite(loss) & np.isfinite(at))
    there = there[np.argsort(at[there], kind="stable")]
    mean_of = thinning.of_table(part)
    return at[there], loss[there], None if mean_of is None else mean_of[there]


def _thinned(x: np.ndarray, points: int) -> np.ndarray:
    """Return the indices of at most so many of x, with the first and the last.

    A fifth of them is spread over log x, because most effects of an lr happen in the first steps.
    """
    import numpy as np

    if len(x) <= points:
        return np.arange(len(x))
    early = np.geomspace(1, len(x), points // 5).round() - 1
    even = np.linspace(0, len(x) - 1, points - points // 5)
    return np.unique(np.concatenate((early, even.round())).astype(int))


def _stop(row: Mapping[Any, Any], x: np.ndarray) -> dict[str, Any] | None:
    """Return where and how a run ended early; None if it did not."""
    end = float(x[-1]) if len(x) else 0.0
    if row["outcome"] == "diverged":
        at = float(row.get("first_nonfinite", math.nan))
        return {"step": at if math.isfinite(at) else end, "kind": "diverged"}
    state = row.get("state")
    if state in ("failed", "pruned", "interrupted"):
        return {"step": end, "kind": str(state)}
    return None


def _rounded(values: Sequence[float] | np.ndarray) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def _or_none(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
