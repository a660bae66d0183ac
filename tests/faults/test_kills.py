"""SIGKILL at random moments of a sweep, also in the middle of a write: resumed, the same bits."""

from __future__ import annotations

import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.interrupted import MEASURED, QUICK, assert_readable, found, go_on
from helpers.warm import KILL, PLOTTING, TEAR, TELLING, TRAINING, WRITING, Done, Moment, Server

pytestmark = [pytest.mark.full, pytest.mark.skipif(not Path("/proc/self").exists(), reason="Linux")]

SEARCH = ("lr=1e-3..1", "lanes=3", "epochs=3", "lease=3600")


@dataclass(frozen=True)
class Plan:
    """A sweep, and how often it is killed in each phase."""

    typed: tuple[str, ...]
    kills: dict[str, int]


PLANS = {
    "a grid that is refilled": Plan(
        (*QUICK, "lr=0.1,1e9", "epochs=3,1,2", "lanes=2", "save_model=true", "lease=3600"),
        {TRAINING: 1, TELLING: 1, WRITING: 1},
    ),
    "median over seeds": Plan(
        (
            *(*QUICK, *SEARCH, "n_trials=4", "seed=0,1,2", "checkpoint_every=null"),
            *("pruner=median", "pruner.n_startup_trials=2"),
        ),
        {TRAINING: 1, TELLING: 1},
    ),
    "measured, tested and drawn": Plan(
        MEASURED,
        {TRAINING: 1, TELLING: 1, WRITING: 1, PLOTTING: 1},
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_killed_in_each_phase_it_comes_to_the_same_bits(
    server: Server, name: str, tmp_path: Path
) -> None:
    plan = PLANS[name]
    (tmp_path / "whole").mkdir()
    whole = go_on(server, tmp_path / "whole", plan.typed)
    assert (whole.code, whole.err) == (0, "")
    draw = random.Random(name)
    sweep = tmp_path / "outputs" / "x"
    for phase in _order(plan, draw):
        done = killed(server, tmp_path, plan.typed, phase, whole, draw)
        assert done.code == -signal.SIGKILL, (phase, done)
        assert_readable(sweep)
    done = go_on(server, tmp_path, plan.typed)
    assert (done.code, done.err) == (0, "")
    assert found(sweep) == found(tmp_path / "whole" / "outputs" / "x")
    assert_readable(sweep)


def _order(plan: Plan, draw: random.Random) -> list[str]:
    """Phases in which to kill; those behind training come last, for nothing trains behind them."""
    first = [phase for phase in (TRAINING, TELLING) for _ in range(plan.kills.get(phase, 0))]
    draw.shuffle(first)
    return first + [p for p in (WRITING, PLOTTING) for _ in range(plan.kills.get(p, 0))]


def killed(
    server: Server, folder: Path, typed: Sequence[str], phase: str, whole: Done, draw: random.Random
) -> Done:
    """Go on with a sweep until it is killed at a random change of the disk in a phase."""
    most = whole.changes[phase] // (8 if phase in (TRAINING, TELLING) else 1)
    moment = Moment(phase, draw.randint(1, most), draw.choice([KILL, TEAR]))
    print("killed at", moment)
    return go_on(server, folder, typed, at=moment)
