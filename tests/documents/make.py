"""Write two_sweeps.csv from the folders of the two sweeps, see README.md."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrlab.records.thresholds import THRESHOLDS
from lrlab.tables import frames
from lrlab.verdicts.judging import verdicts
from lrlab.verdicts.outcomes import FAILED

MEANS = 40  # of a run's mini-batch losses: twice as many as the trend is made of
OF_A_RUN = (
    *("lr", "seed", "state", "initial_loss", "chance_loss", "first_nonfinite_step", "swings_from"),
    *("gain_low", "gain_high", "gain_noise"),
)
COLUMNS = (
    *("sweep", "run", "step", "train_loss", "val_loss", "seconds", "alpha", "stability_ratio"),
    *OF_A_RUN,
    frames.PARTS,
)


def reduced(curve: pd.DataFrame, verdict: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of one run."""
    train = curve.loc[np.isfinite(curve["train_loss"])]
    bounds = (
        np.arange(1, MEANS) * len(train) // MEANS
    )  # as `lrlab.verdicts.evidence` gathers losses
    pieces = [piece for piece in np.split(np.arange(len(train)), bounds) if len(piece)]
    loss = train["train_loss"].to_numpy()
    rows: list[dict[str, Any]] = [
        {"step": int(train["step"].iloc[piece[-1]]), "train_loss": loss[piece].mean()}
        for piece in pieces
    ]
    if verdict["peak_loss"] > 1.5 * verdict["initial_loss"]:
        # In the place of a mean, so that the trend is gathered from the same parts.
        (held,) = [i for i, piece in enumerate(pieces) if int(loss.argmax()) in piece]
        rows[held]["train_loss"] = verdict["peak_loss"]
    evaluated = curve.loc[np.isfinite(curve["val_loss"]), ["step", "val_loss", "seconds"]]
    rows += evaluated.astype({"step": int}).to_dict("records")
    ratio = "stability_ratio_max" if verdict["outcome"] in FAILED else "stability_ratio"
    for name, value in (("alpha", verdict["alpha"]), ("stability_ratio", verdict[ratio])):
        # at as many steps as it was measured at, as far as a sentence tells these apart
        for row in rows[: min(THRESHOLDS.measured, int(curve[name].notna().sum()))]:
            row[name] = value
    table = pd.DataFrame(rows).groupby("step", as_index=False).first()
    return table.assign(run=verdict["run"], **curve.iloc[0][list(OF_A_RUN)].to_dict())


def _rounded(parts: Any) -> str:
    """The val losses of equal parts of the held-out samples; "" where there are none."""
    return (
        " ".join(f"{float(each):.6g}" for each in parts.split()) if isinstance(parts, str) else ""
    )


def main() -> None:
    tables = []
    for folder in map(Path, sys.argv[1:]):
        curves = frames.curves(folder)
        found = verdicts(curves)
        parts = frames.runs(folder).set_index("run")[frames.PARTS]
        for (_, curve), verdict in zip(
            curves.groupby("run"), found.to_dict("records"), strict=True
        ):
            told = {str(name): value for name, value in verdict.items()}
            rows = reduced(curve, told).assign(sweep=folder.name)
            rows.loc[0, frames.PARTS] = _rounded(parts[verdict["run"]])
            tables.append(rows)
    whole = pd.concat(tables)[list(COLUMNS)]
    whole.to_csv(Path(__file__).parent / "two_sweeps.csv", index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
