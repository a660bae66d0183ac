"""Sweep after sweep in one process, as a notebook does for hours: nothing grows, nothing stays.

A round sweeps, searches with a pruner, extends both, and judges, draws, reports and reproduces what
came of it. The first rounds import and fill caches; all that is counted behind them must be the
same behind the last one. How long it takes is said by rounds, never by a clock:

    LRLAB_SOAK_ROUNDS=400 python -m pytest -n0 tests/test_soak.py   # about 20 minutes
"""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_sweep import QUICK, command

import lrlab
from lrlab import judge, reproduce, resume
from lrlab.plots import __main__ as plots
from lrlab.report import __main__ as report

WARM = 3  # rounds that may import, and fill caches
ROUNDS = int(os.environ.get("LRLAB_SOAK_ROUNDS", "6"))  # behind them

OPTIONS: dict[str, Any] = {
    "data": {"train_size": 128, "val_size": 100},
    "network__hidden": [(8,)],
    "threads": 1,
    "plots": False,
}


def one_round(number: int, folder: Path) -> None:
    """All of it once, with other lrs each time, in a folder that is new."""
    lrs = [0.01 * 1.01**number, 0.1 * 1.01**number, 1e30]
    grid = lrlab.run_sweep(lr=lrs, epochs=2, name="grid", **OPTIONS)
    assert list(grid.verdicts["outcome"])[2] == "diverged"
    search = lrlab.run_sweep(
        lr="1e-3..1", n_trials=4, pruner="median", epochs=2, seed=number, name="search", **OPTIONS
    )
    assert len(search.runs) == 4 and search.answer.text
    for name, more in (("grid", f"lr={','.join(map(str, [*lrs, 0.3]))}"), ("search", "n_trials=5")):
        done(resume.main, "outputs/" + name, more)
        done(judge.main, "outputs/" + name, "--json")
    grid.plot("loss_curves")
    assert "<svg" in grid._repr_html_() or "<img" in grid._repr_html_()
    done(plots.main, "outputs/grid", "--only", "lr_against_loss")
    done(report.main, "outputs/grid")
    done(reproduce.main, "outputs/grid/1")


def done(entry: Callable[[], None], *words: str) -> None:
    ended = command(entry, words, Path.cwd())
    assert ended.code in (0, None), (entry, words, ended)


def held() -> dict[str, Any]:
    """What this process has, that a round could leave more of, or otherwise than it was."""
    gc.collect()
    caches = Counter()
    for each in gc.get_objects():
        if hasattr(type(each), "cache_info"):
            caches[f"{each.__module__}.{each.__qualname__}"] += each.cache_info().currsize
    return {
        "files": sorted(os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")[:-1]),
    }


def main() -> None:
    pass
