"""Sweep after sweep in one process, as in a notebook for hours: nothing grows, nothing stays.

A round sweeps, searches with a pruner, extends both, and judges, draws, reports and reproduces what
came of it. The first rounds import, and fill caches; what is counted behind them must be there
behind the last one, and no more. How long it takes is said in rounds, not by a clock; 150 are about
20 minutes of a core:

    LRLAB_SOAK_ROUNDS=150 python -m pytest -n0 tests/test_soak.py
"""

from __future__ import annotations

import ctypes
import gc
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from helpers.commands import command

import lrlab
from lrlab import analysis, reproduce, resume
from lrlab.config import data_paths
from lrlab.engine.lanes import memory
from lrlab.plan import compose
from lrlab.plots import __main__ as plots
from lrlab.report import __main__ as report

pytestmark = pytest.mark.full

WARM = 2  # rounds that may import, and fill caches
ROUNDS = int(os.environ.get("LRLAB_SOAK_ROUNDS", "1"))  # behind them

# What a round may add, for caches of a bounded size fill: a parsed override is some objects.
OBJECTS = 300
MEGABYTES = 1.0  # and what an allocator does not give back

OPTIONS: dict[str, Any] = {
    "data": {"train_size": 128, "val_size": 100},
    "network__hidden": [(8,)],
    "threads": 1,
    "plots": False,
}


def one_round(number: int) -> None:
    """All of it once in the current folder, each time with lrs of its own."""
    lrs = [0.01 * 1.001**number, 0.1 * 1.001**number, 1e30]
    grid = lrlab.run_sweep(lr=lrs, epochs=2, name="grid", **OPTIONS)
    assert grid.verdicts["outcome"].tolist()[2] == "diverged"
    search = lrlab.run_sweep(
        lr="1e-3..1", n_trials=3, pruner="median", epochs=2, seed=number, name="search", **OPTIONS
    )
    assert len(search.runs) == 3 and search.answer.text
    done(resume.main, "outputs/grid", f"lr={','.join(map(str, [*lrs, 0.3]))}")
    done(resume.main, "outputs/search", "n_trials=4")
    done(analysis.main, "outputs/grid", "--json")
    assert "<img" in grid._repr_html_()
    done(plots.main, "outputs/grid", "--only", "loss_curves", "--format", "png")
    done(report.main, "outputs/grid")
    done(reproduce.main, "outputs/grid/1")


def done(entry: Callable[[], None], *words: str) -> None:
    ended = command(entry, words, Path.cwd())
    assert ended.code in (0, None), (entry, words, ended)


def setting() -> dict[str, Any]:
    """What a round may not leave otherwise than it was."""
    loggers = [each for each in logging.root.manager.loggerDict.values() if hasattr(each, "level")]
    main = threading.main_thread()
    return {
        "files": sorted(os.readlink(f"/proc/self/fd/{n}") for n in open_files()),
        "threads": [each.name for each in threading.enumerate() if each is not main],
        "children": Path(f"/proc/self/task/{main.native_id}/children").read_text(),
        "folder": os.getcwd(),
        # where the latest resume looks for files is its process's, and one it has
        "environment": {k: v for k, v in os.environ.items() if k != data_paths.VARIABLE},
        "path": list(sys.path),
        "filters": list(warnings.filters),
        "handlers": [h for each in [logging.root, *loggers] for h in each.handlers],  # type: ignore[union-attr]
        "levels": {e.name: e.level for e in [logging.root, *loggers] if e.level},  # type: ignore[union-attr]
        "signals": [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        "torch": (
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.mkldnn.enabled,
        ),
        "random": (random.getstate(), torch.get_rng_state().tolist()),
        "numpy": (np.random.get_state()[1].tolist(), np.geterr()),  # type: ignore[union-attr]
        "locale": locale.setlocale(locale.LC_ALL),
        "matplotlib": dict(matplotlib.rcParams),
        "figures": len(getattr(sys.modules.get("matplotlib.pyplot"), "get_fignums", list)()),
    }


def open_files() -> list[str]:
    found = os.listdir("/proc/self/fd")
    return [n for n in found if os.path.exists(f"/proc/self/fd/{n}")]  # not that of the listing


def held() -> dict[str, float]:
    """What a round may hardly leave more of."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free does not count
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    objects = gc.get_objects()
    tensors = sum(type(each) in (torch.Tensor, torch.nn.Parameter) for each in objects)
    return {
        "tensors": tensors,
        "compositions": len(compose._kept),
        "objects": len(objects),
        "megabytes": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
    }


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_rounds_of_all_of_it_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    def rounds(first: int, count: int) -> None:
        for number in range(first, first + count):
            folder = tmp_path / str(number)
            folder.mkdir()
            monkeypatch.chdir(folder)
            one_round(number)
            monkeypatch.chdir(tmp_path)

    rounds(0, WARM)
    before, settings = held(), setting()
    rounds(WARM, ROUNDS)
    after, now = held(), setting()
    print({key: (before[key], after[key]) for key in before})
    for key, value in settings.items():
        assert now[key] == value, key
    assert list(temporary.iterdir()) == []
    assert after["tensors"] == before["tensors"]
    assert after["compositions"] == 0
    assert after["objects"] - before["objects"] < 2000 + OBJECTS * ROUNDS  # a late import, and ...
    assert after["megabytes"] - before["megabytes"] < 5 + MEGABYTES * ROUNDS


def test_to_ask_what_a_lane_takes_keeps_nothing_of_the_network() -> None:
    """A saved output that autograd's node is given back keeps the node, and so all behind it."""
    gc.collect()

    def living() -> int:
        gc.collect()
        return sum(type(each) is torch.nn.Parameter for each in gc.get_objects())

    before = living()
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Sigmoid())
    x, y = torch.zeros(2, 3), torch.zeros(2, 4)
    assert memory.bytes_a_lane(network, torch.nn.functional.mse_loss, x, y) > 0
    del network
    assert living() == before
