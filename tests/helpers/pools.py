"""Pools of runs that are stopped, pruned and gone on with."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from unittest import mock

import pytest

from helpers.training import Silent
from lrlab.engine.optimizers import general, stacked
from lrlab.errors import Stopped
from lrlab.plan.spec import RunSpec
from lrlab.training import pool
from lrlab.training.pool import Report, Start

Judge = Callable[[dict[int, list[Report]]], set[int]]


def nobody(reports: dict[int, list[Report]]) -> set[int]:
    return set()


@dataclass
class Scripted:
    """A source that hands out runs in order, remembers all it is told, and prunes by a rule."""

    starts: Sequence[Start]
    judge: Judge = nobody
    tick: int = 0
    heard: dict[int, list[Report]] = field(default_factory=dict)
    over: list[int] = field(default_factory=list)
    given_back: list[int] = field(default_factory=list)
    taken: dict[int, int] = field(default_factory=dict)  # run to tick

    def __post_init__(self) -> None:
        self.queue = deque(self.starts)

    def take(self, tick: int) -> Start | None:
        if not self.queue:
            return None
        start = self.queue.popleft()
        self.taken.setdefault(start.spec.number, tick)
        return start

    def report(self, reports: Mapping[int, Report]) -> set[int]:
        for run, report in sorted(reports.items()):
            self.heard.setdefault(run, []).append(report)
        return self.judge(self.heard) & set(reports)

    def ended(self, run: int) -> None:
        self.over.append(run)

    def interrupted(self, run: int) -> None:
        self.given_back.append(run)

    def wait(self) -> bool:
        return bool(self.queue)


def train(
    source: Scripted, width: int | None = None, stop: Callable[[], bool] = lambda: False
) -> Silent:
    display = Silent()
    rows = {start.spec.number: start.spec.number for start in source.starts}
    pool.run(source, width, "cpu", display, rows, stop)
    return display


def starts(specs: Sequence[RunSpec]) -> list[Start]:
    return [Start(spec) for spec in specs]


@contextlib.contextmanager
def after(steps: int) -> Iterator[Callable[[], bool]]:
    """A stop that is asked for at the given step, and stays."""
    taken = 0

    def counting(update: Callable[..., None]) -> Callable[..., None]:
        def counted(self: object, *arguments: object) -> None:
            nonlocal taken
            taken += 1
            update(self, *arguments)

        return counted

    kinds = (stacked.StackedOptimizer, general.GeneralOptimizer)
    with contextlib.ExitStack() as patches:
        for kind in kinds:
            patches.enter_context(mock.patch.object(kind, "update", counting(kind.update)))
        yield lambda: taken >= steps


def stopped(specs: Sequence[RunSpec], steps: int, width: int | None = None) -> Scripted:
    source = Scripted(starts(specs))
    with after(steps) as stop, pytest.raises(Stopped):
        train(source, width, stop)
    return source


def went_on(specs: Sequence[RunSpec], before: Scripted, width: int | None = None) -> Scripted:
    """Train what is left, as after a new start of the program."""
    left = [spec for spec in specs if spec.number not in before.over]
    first = sorted(left, key=lambda spec: spec.number not in before.taken)  # stable
    reached = {spec.number: len(before.heard.get(spec.number, [])) for spec in left}
    source = Scripted([Start(spec, reached[spec.number]) for spec in first])
    live = [n for n in before.taken if n in reached]
    source.tick = min((before.taken[n] + reached[n] for n in live), default=0)
    train(source, width)
    return source
