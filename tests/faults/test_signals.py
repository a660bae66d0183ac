"""Ctrl-C and SIGTERM at any moment: a line says how to go on, and what comes of it is the same."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.commands import summaries
from helpers.interrupted import AT_STEP, MEASURED, QUICK, assert_readable, found, go_on
from helpers.warm import PLOTTING, TELLING, TRAINING, WRITING, Done, Moment, Server

from lrlab import records

pytestmark = [pytest.mark.full, pytest.mark.skipif(not Path("/proc/self").exists(), reason="Linux")]


def test_a_signal_in_each_phase_leaves_what_can_be_resumed_to_the_same_bits(
    server: Server, whole: tuple[Done, dict[str, Any]], tmp_path: Path
) -> None:
    draw = random.Random("SIGINT")
    sweep = tmp_path / "outputs" / "x"
    codes = {"SIGINT": 130, "SIGTERM": 143}
    for phase, share, name in (
        *((TELLING, 8, "SIGINT"), (TRAINING, 8, "SIGTERM")),
        *((WRITING, 1, "SIGTERM"), (PLOTTING, 1, "SIGINT")),
    ):
        raised, code = f"import signal; signal.raise_signal(signal.{name})", codes[name]
        moment = Moment(phase, draw.randint(1, whole[0].changes[phase] // share), raised)
        print(moment)
        done = go_on(server, tmp_path, MEASURED, at=moment)
        assert done.code == code, done
        assert "Traceback" not in done.err and 1 <= done.err.count("\n") <= 3, done
        if sweep.exists():
            assert done.err.endswith("python -m lrlab.resume outputs/x\n"), done
            assert_readable(sweep)
        else:
            assert done.err == "lrlab: interrupted\n"
    done = go_on(server, tmp_path, MEASURED)
    assert (done.code, done.err) == (0, "")
    assert found(sweep) == whole[1]


LONG = ("lr=0.1,0.03,0.3", "epochs=3", "lanes=2", "save_model=true", "name=x")


@pytest.fixture(scope="module")
def long(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("long")
    assert server.run("lrlab.sweep", *QUICK, *LONG, cwd=folder).code == 0
    return found(folder / "outputs" / "x")


@pytest.mark.parametrize(
    ("name", "code", "times"), [("SIGINT", 130, 1), ("SIGHUP", 129, 2)]
)
def test_once_asked_it_stops_after_the_step_and_says_how_to_go_on(
    server: Server, long: dict[str, Any], name: str, code: int, times: int, tmp_path: Path
) -> None:
    if signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
        pytest.skip(f"this process was started to ignore {name}, and so are its children")
    signal_ = AT_STEP.format(step=4, times=times, name=name)
    done = server.run("lrlab.sweep", *QUICK, *LONG, cwd=tmp_path, prepare=signal_)
    assert done.code == code
    assert done.err.splitlines() == [
        "lrlab: stopping after this step; interrupt again to stop at once",
        "lrlab: interrupted, 3 of 3 runs have not ended; what was trained is recorded",
        "lrlab: go on with python -m lrlab.resume outputs/x",
    ]
    folder = tmp_path / "outputs" / "x"
    assert [s["state"] for s in summaries(folder)] == ["interrupted"] * 2
    assert list(pd.read_csv(folder / "runs.csv")["state"]) == ["interrupted"] * 2
    steps = [pd.read_csv(folder / n / "metrics.csv")["train_loss"].count() for n in "01"]
    assert steps[0] == steps[1] > 0
    for run in "01":
        assert f"interrupted at step {steps[0]}" in (folder / run / "run.log").read_text("utf-8")
        assert records.checkpoint_file(folder / run).exists()
    more = done.err.split("python -m ")[1].split()
    again = server.run(*more, cwd=tmp_path)
    assert (again.code, again.err) == (0, "")
    assert "3 runs, 3 to train" in again.out or "3 runs on" in again.out
    assert f"goes on from its checkpoint at step {steps[0]}" in (folder / "0/run.log").read_text()
    assert found(folder) == long


AT_THE_END = """
import os, signal
from lrlab.training import train
finish = train.finish

def interrupted(*arguments):
    os.kill(os.getpid(), signal.{name})
    return finish(*arguments)

train.finish = interrupted
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143)])
def test_asked_when_all_has_trained_it_stops_before_the_rest(
    server: Server, name: str, code: int, tmp_path: Path
) -> None:
    typed = [*QUICK, "lr=0.1,0.2", "epochs=1", "name=x"]
    done = server.run("lrlab.sweep", *typed, cwd=tmp_path, prepare=AT_THE_END.format(name=name))
    assert done.code == code
    assert done.err.splitlines() == [
        "lrlab: stopping after this step; interrupt again to stop at once",
        "lrlab: interrupted, all runs have ended, none is judged; what was trained is recorded",
        "lrlab: go on with python -m lrlab.resume outputs/x",
    ]
    folder = tmp_path / "outputs" / "x"
    assert not (folder / "verdicts.csv").exists()
    again = server.run("lrlab.resume", "outputs/x", cwd=tmp_path)
    assert (again.code, again.err) == (0, "") and (folder / "verdicts.csv").exists()


def test_twice_asked_it_stops_at_once(server: Server, long: dict[str, Any], tmp_path: Path) -> None:
    signal_ = AT_STEP.format(step=4, times=2, name="SIGINT")
    done = server.run("lrlab.sweep", *QUICK, *LONG, cwd=tmp_path, prepare=signal_)
    assert done.code == 130
    assert "Traceback" not in done.err
    assert "python -m lrlab.resume outputs/x" in done.err
    again = server.run("lrlab.resume", "outputs/x", cwd=tmp_path)
    assert (again.code, again.err) == (0, "")
    assert found(tmp_path / "outputs" / "x") == long


@pytest.mark.parametrize(
    "function", ["lrlab.sweeping.ending.cores", "lrlab.plan.checks.check_runs"]
)
def test_an_interrupt_before_training_or_while_it_is_drawn(
    server: Server, long: dict[str, Any], function: str, tmp_path: Path
) -> None:
    module, name = function.rsplit(".", 1)
    interrupt = f"""
import signal, {module} as module
def interrupted(*arguments, before=module.{name}, **named):
    signal.raise_signal(signal.SIGINT)  # here, not when another thread of the process has taken it
    return before(*arguments, **named)
module.{name} = interrupted
"""
    typed = (*QUICK, *LONG, "plots=true")
    done = server.run("lrlab.sweep", *typed, cwd=tmp_path, prepare=interrupt)
    assert done.code == 130
    assert done.err.startswith("lrlab: interrupted") and done.err.count("\n") == 1
    folder = tmp_path / "outputs" / "x"
    if "cores" not in function:
        assert not folder.exists()
        return
    assert done.err.startswith("lrlab: interrupted while drawing")
    assert "python -m lrlab.plots outputs/x" in done.err
    assert "python -m lrlab.resume outputs/x" in done.err
    lines = done.out.splitlines()
    assert lines[-1] == "sweep  outputs/x" and any(line.startswith("answer") for line in lines)
    again = server.run("lrlab.resume", "outputs/x", "plots=false", cwd=tmp_path)
    assert (again.code, again.err) == (0, "")
    assert {**found(folder), "best.yaml": 0} == {**long, "best.yaml": 0}
