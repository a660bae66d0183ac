"""The three tiers: each test is in one of them.

A test's tier is its own marker, else its module's (``pytestmark``), else ``default``:

- ``unit``: no command, no sweep, no process. ``pytest -m unit`` takes less than a minute.
- ``default``: the whole behaviour. ``pytest`` runs it together with ``unit``.
- ``full``: whatever takes longer, faults and browsers. ``pytest -m full`` runs it alone.
  ``full(after=2)`` leaves a test's first two cases in the default tier.
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing.process
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from lrlab.range_test import training
from lrlab.sweeping import sweeper
from lrlab.training import pool

TIERS = ("unit", "default", "full")


def assign(items: Sequence[pytest.Item]) -> None:
    """Leave each test with the one marker of its tier, so that ``-m`` finds it."""
    cases: collections.Counter[str] = collections.Counter()
    found: list[tuple[pytest.Item, str]] = []
    for item in items:
        own = [mark for mark in item.own_markers if mark.name in TIERS]
        marks = own[::-1] or [mark for mark in item.iter_markers() if mark.name in TIERS]
        tier = marks[0].name if marks else "default"
        if marks and "after" in marks[0].kwargs:
            test = item.nodeid.partition("[")[0]
            cases[test] += 1
            tier = "default" if cases[test] <= marks[0].kwargs["after"] else "full"
        found.append((item, tier))
    for item, _ in found:
        for node in item.listchain():
            node.own_markers[:] = [mark for mark in node.own_markers if mark.name not in TIERS]
    for item, tier in found:
        item.add_marker(tier)


def tier(item: pytest.Item) -> str:
    (found,) = (mark.name for mark in item.iter_markers() if mark.name in TIERS)
    return found


def is_left_out(item: pytest.Item, arguments: Sequence[str]) -> bool:
    """Whether ``pytest arguments`` leaves a test to ``-m full``; not in a file that they name."""
    if tier(item) != "full":
        return False
    files = (Path(argument.partition("::")[0]) for argument in arguments)
    return not any(file.resolve() == item.path for file in files)


@contextlib.contextmanager
def kept_promise() -> Iterator[None]:
    """A test that starts a process or trains a pool of runs fails while the block runs."""
    refused = {
        (subprocess, "Popen"): "a process",
        (os, "fork"): "a process",
        (multiprocessing.process.BaseProcess, "start"): "a process",
        (sweeper, "sweep"): "a sweep",
        (pool, "run"): "a training of runs",
        (training, "train"): "a range test",
    }
    with contextlib.ExitStack() as patches:
        for (owner, name), what in refused.items():
            patches.enter_context(mock.patch.object(owner, name, _refusal(what)))
        yield


def _refusal(what: str) -> Any:
    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail(f"{what} in the unit tier: mark the test default or full")

    return refuse
