"""Curves made by hand, an epoch a row, and what they are judged to be."""

import math
from typing import Any

import numpy as np
import pandas as pd

from lrlab.verdicts.judging import verdicts

LN10 = math.log(10)
OUTCOMES = {
    *("diverged", "collapsed", "overshooting", "converged", "undershooting"),
    *("nothing learned", "not compared", "pruned"),
}
AT_END = {"overfitting", "would anneal", "still falling", "settled", "too noisy to tell", ""}
MODES = {"monotone", "oscillating", "edge", "unstable", "unknown"}


def by_epoch(losses: Any, run: Any = 0, lr: float = 0.1, **columns: Any) -> pd.DataFrame:
    return pd.DataFrame(
        {"run": run, "lr": lr, "epoch": np.arange(len(losses)), "train_loss": losses, **columns}
    )


def one(*frames: pd.DataFrame) -> Any:
    return verdicts(pd.concat(frames, ignore_index=True)).iloc[-1]


def flat_from(end: float, run: Any = 0, lr: float = 0.1, **columns: Any) -> pd.DataFrame:
    """A run that is at its end loss from the first epoch on, from 2.3 before training."""
    return by_epoch(np.r_[2.3, np.full(39, end)], run, lr, **columns)


def outcomes(*frames: pd.DataFrame) -> list[str]:
    return verdicts(pd.concat(frames, ignore_index=True))["outcome"].tolist()
