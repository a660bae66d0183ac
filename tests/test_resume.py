"""`python -m lrlab.resume`: a sweep that was killed, stopped or done goes on to the same bits."""

from __future__ import annotations

import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_sweep import Ended, command, summaries, trials
from warm import DATA, Done, Server

from lrlab import records, resume
from lrlab.sweep import main

QUICK = (*DATA, "network.hidden=[8]", "plots=false", "threads=1", "diagnostics=off")
RESULTS = ("state", "error", "first_nonfinite_step", "pruned_at_epoch", "initial_loss")
RESULTS += ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("warm"))
    yield server
    server.close()


def found(sweep: Path) -> dict[str, Any]:
    """All that a sweep has come to, comparable; not when, how fast and beside whom."""
    runs, found_trials = records.run_folders(sweep), trials(sweep)
    for trial in found_trials:
        del trial.user_attrs["claim"]
    return {
        "curves": [(run / "metrics.csv").read_text("utf-8") for run in runs],
        "results": [{key: s[key] for key in RESULTS} for s in summaries(sweep)],
        "weights": [run.name for run in runs if records.model_file(run).exists()],
        "checkpoints": [run.name for run in runs if records.checkpoint_file(run).exists()],
        "runs.csv": (sweep / "runs.csv").read_text("utf-8"),
        "best.yaml": (sweep / "best.yaml").read_text("utf-8"),
        "trials": [
            (t.number, t.state.name, t.params, t.values, t.intermediate_values, t.user_attrs)
            for t in found_trials
        ],
        "files": sorted(f.name for f in sweep.iterdir() if not f.name.startswith(".")),
    }


# --- killed ---------------------------------------------------------------------------------------

SEARCH = ("lr=1e-3..1", "lanes=3", "epochs=3")
SWEEPS = {
    "a grid that is refilled": ("lr=0.1,1e9", "epochs=3,1,2", "lanes=2", "save_model=true"),
    "asha with checkpoints": (*SEARCH, "n_trials=8", "pruner=asha", "checkpoint_every=1"),
    "median": (
        *(*SEARCH, "n_trials=8", "pruner=median", "pruner.n_startup_trials=2"),
        "checkpoint_every=null",
    ),
    "pruned seeds": (*SEARCH, "n_trials=4", "seed=0,1,2", "pruner=asha", "checkpoint_every=2"),
}


@dataclass(frozen=True)
class Whole:
    """A sweep that nothing interrupted."""

    typed: tuple[str, ...]
    done: Done
    found: dict[str, Any]


@pytest.fixture(scope="module", params=list(SWEEPS))
def whole(
    request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    typed = (*QUICK, *SWEEPS[request.param], "name=x")
    done = server.run("lrlab.sweep", *typed, cwd=folder)
    assert (done.code, done.err) == (0, "")
    return Whole(typed, done, found(folder / "outputs" / "x"))


def killed_at_writes(
    server: Server, folder: Path, typed: Any, writes: list[tuple[int, bool]]
) -> Done:
    """Begin a sweep, kill it at the first of the writes, go on with it, and so on, to its end."""
    module, arguments = "lrlab.sweep", typed
    for write in writes:
        done = server.run(module, *arguments, cwd=folder, crash=write)
        if done.code == 0:
            return done
        assert done.code == -signal.SIGKILL, done
        if (folder / "outputs" / "x" / "multirun.yaml").exists():
            module, arguments = "lrlab.resume", ("outputs/x",)
        elif (folder / "outputs").exists():  # it had no time to begin
            shutil.rmtree(folder / "outputs")
    return server.run(module, *arguments, cwd=folder)


@pytest.mark.slow
def test_killed_ten_times_it_comes_to_the_same_bits(
    server: Server, whole: Whole, tmp_path: Path
) -> None:
    draw = random.Random(" ".join(whole.typed))
    step = whole.done.writes // 5
    writes = [(draw.randint(1, step), draw.random() < 0.5) for _ in range(10)]
    print("killed at writes", writes)
    done = killed_at_writes(server, tmp_path, whole.typed, writes)
    assert (done.code, done.err) == (0, "")
    assert found(tmp_path / "outputs" / "x") == whole.found


@pytest.mark.slow
def test_killed_while_it_measures_and_tests_branches(server: Server, tmp_path: Path) -> None:
    quick = [option for option in QUICK if option != "diagnostics=off"]
    sweep = ("lr=0.1,0.3,1e9", "epochs=3", "lanes=2", "checkpoint_every=1", "diagnostics=full")
    typed = (*quick, *sweep, "name=x")
    (tmp_path / "whole").mkdir()
    done = server.run("lrlab.sweep", *typed, cwd=tmp_path / "whole")
    assert (done.code, done.err) == (0, "")
    draw = random.Random(5)
    writes = [(draw.randint(1, done.writes // 4), draw.random() < 0.5) for _ in range(8)]
    assert killed_at_writes(server, tmp_path, typed, writes).code == 0
    one, other = tmp_path / "whole" / "outputs" / "x", tmp_path / "outputs" / "x"
    assert found(other) == found(one)
    for run in "012":
        measured = [records.read_diagnostics(sweep / run) for sweep in (one, other)]
        pd.testing.assert_frame_equal(*measured, rtol=1e-3)
    for run in "01":
        texts = [(sweep / run / "branches.csv").read_text() for sweep in (one, other)]
        assert texts[0] == texts[1]
    judged = [pd.read_csv(sweep / "verdicts.csv") for sweep in (one, other)]
    assert judged[0]["evidence"].tolist() == judged[1]["evidence"].tolist()


@pytest.mark.slow
def test_killed_at_any_time_it_comes_to_the_same_bits(server: Server, tmp_path: Path) -> None:
    """SIGKILL from outside, whatever the process does just then."""
    typed = (*QUICK, *SWEEPS["asha with checkpoints"], "name=x")
    (tmp_path / "whole").mkdir()
    assert server.run("lrlab.sweep", *typed, cwd=tmp_path / "whole").code == 0
    draw = random.Random(4)
    module, arguments, folder = "lrlab.sweep", typed, tmp_path / "outputs" / "x"
    for _ in range(5):
        process = server.start(module, *arguments, cwd=tmp_path)
        process.until_lines(draw.randint(2, 5))
        time.sleep(draw.random() / 20)
        process.kill()
        if process.wait().code == 0:
            break
        module, arguments = "lrlab.resume", ("outputs/x",)
    assert server.run("lrlab.resume", "outputs/x", cwd=tmp_path).code == 0
    assert found(folder) == found(tmp_path / "whole" / "outputs" / "x")


# --- stopped --------------------------------------------------------------------------------------

LONG = ("lr=0.1,0.03,0.3", "epochs=3", "lanes=2", "save_model=true", "name=x")

# The signal comes in the middle of a step, counted over all of a process.
AT_STEP = """
import os, signal
from lrlab import step
taken = 0

def counted(gradients):
    def take(self, i):
        global taken
        taken += 1
        if taken == {step}:
            for _ in range({times}):
                os.kill(os.getpid(), signal.{name})
        return gradients(self, i)
    return take

for kind in (step.PlainStep, step.CapturedStep):
    kind.gradients = counted(kind.gradients)
"""


@pytest.fixture(scope="module")
def long(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("long")
    assert server.run("lrlab.sweep", *QUICK, *LONG, cwd=folder).code == 0
    return found(folder / "outputs" / "x")


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_once_asked_it_stops_after_the_step_and_says_how_to_go_on(
    server: Server, long: dict[str, Any], name: str, code: int, tmp_path: Path
) -> None:
    signal_ = AT_STEP.format(step=4, times=1, name=name)
    done = server.run("lrlab.sweep", *QUICK, *LONG, cwd=tmp_path, prepare=signal_)
    assert done.code == code
    assert done.err.splitlines() == [
        "lrlab: stopping after this step; once more to stop at once",
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


def test_twice_asked_it_stops_at_once(server: Server, long: dict[str, Any], tmp_path: Path) -> None:
    signal_ = AT_STEP.format(step=4, times=2, name="SIGINT")
    done = server.run("lrlab.sweep", *QUICK, *LONG, cwd=tmp_path, prepare=signal_)
    assert done.code == 130
    assert "Traceback" not in done.err
    assert "python -m lrlab.resume outputs/x" in done.err
    again = server.run("lrlab.resume", "outputs/x", cwd=tmp_path)
    assert (again.code, again.err) == (0, "")
    assert found(tmp_path / "outputs" / "x") == long


@pytest.mark.parametrize("function", ["lrlab.plots.drawing.cores", "lrlab.plan.check_runs"])
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
    if "plots" not in function:
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


# --- done, and extended ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished grid of three and a finished search of two, in outputs/."""
    home = tmp_path_factory.mktemp("finished")
    for swept, name in (("lr=0.1,0.2,0.3", "grid"), ("lr=1e-3..1 n_trials=2", "search")):
        ended = command(main, [*QUICK, *swept.split(), "epochs=1", f"name={name}"], home)
        assert (ended.code, ended.err) == (0, "")
    return home


@pytest.fixture
def home(finished: Path, tmp_path: Path) -> Path:
    """A copy of them."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


def go_on(*arguments: str, cwd: Path) -> Ended:
    return command(resume.main, arguments, cwd)


def lrs(folder: Path) -> list[float]:
    assert {s["state"] for s in summaries(folder)} == {"finished"}
    return [s["lr"] for s in summaries(folder)]


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in files}


def of_runs(folder: Path, count: int) -> dict[str, bytes]:
    return {
        k: v for k, v in contents(folder).items() if k.partition("/")[0] in map(str, range(count))
    }


def test_a_finished_sweep_trains_nothing_and_prints_its_table(home: Path) -> None:
    folder = home / "outputs" / "grid"
    before, was = contents(folder), found(folder)
    ended = go_on("outputs/grid", cwd=home)
    assert (ended.code, ended.err) == (0, "")
    assert "3 runs, 0 to train" in ended.out
    assert ended.out.count("finished") == 3 and "epoch" not in ended.out
    changed = {k for k, v in contents(folder).items() if before.get(k) != v}
    assert changed <= {"study.journal", "multirun.yaml"}
    assert found(folder) == was


def test_a_grid_of_three_extended_to_five_trains_two(home: Path) -> None:
    folder = home / "outputs" / "grid"
    before = of_runs(folder, 3)
    ended = go_on("outputs/grid", "lr=0.05,0.1,0.2,3e-1,0.4", cwd=home)
    assert (ended.code, ended.err) == (0, "")
    assert "5 runs, 2 to train" in ended.out
    assert lrs(folder) == [0.1, 0.2, 0.3, 0.05, 0.4]
    assert of_runs(folder, 3) == before
    # and it is a grid of five from now on
    again = go_on("outputs/grid", cwd=home)
    assert again.code == 0 and "5 runs, 0 to train" in again.out


def test_a_grid_is_extended_by_seeds(home: Path) -> None:
    folder = home / "outputs" / "grid"
    before = of_runs(folder, 3)
    ended = go_on("outputs/grid", "seed=0,1", cwd=home)
    assert (ended.code, ended.err) == (0, "")
    found_ = [(s["lr"], s["seed"]) for s in summaries(folder)]
    assert sorted(found_) == [(lr, seed) for lr in (0.1, 0.2, 0.3) for seed in (0, 1)]
    assert of_runs(folder, 3) == before
    assert "the median of 2 seeds" in ended.out


def test_a_search_is_extended_by_settings(home: Path) -> None:
    folder = home / "outputs" / "search"
    before = of_runs(folder, 2)
    ended = go_on("outputs/search", "n_trials=4", "seed=0,1", cwd=home)
    assert (ended.code, ended.err) == (0, "")
    assert of_runs(folder, 2) == before
    assert len(set(lrs(folder))) == 4 and len(lrs(folder)) == 8


def test_points_become_a_longer_grid(tmp_path: Path) -> None:
    typed = ["lr=0.01..1", "points=3", "epochs=1", "name=x"]
    assert command(main, [*QUICK, *typed], tmp_path).code == 0
    ended = go_on("outputs/x", "points=5", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert lrs(tmp_path / "outputs" / "x") == [0.01, 0.1, 1.0, 0.0316228, 0.316228]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("batch_size=32", "batch_size=64 (now 32)"),
        ("optimizer.momentum=0.9", "optimizer.momentum=0.0 (now 0.9)"),
        ("epochs=5", "epochs=1 (now 5)"),
        ("network=cnn", "network."),
        ("momentum=3", "momentum: no such option"),
        ("name=y", "name=y: the sweep goes on in its own folder"),
        ("--multirun", "--multirun: after the sweep's folder come options"),
        ("optimizer=sgd,adam", "optimizer: is a list now, but in the sweep grid it is not swept"),
        ("lr=1e-3..1", "lr: is searched from 0.001 to 1"),
        ("lr=0.1,0", "lr=0"),
    ],
)
def test_other_settings_are_told_and_nothing_is_changed(home: Path, given: str, told: str) -> None:
    before = contents(home)
    ended = go_on("outputs/grid", given, cwd=home)
    assert (ended.code, ended.out) == (2, "")
    assert told in ended.err and ended.err.count("\n") == 1
    assert contents(home) == before


@pytest.mark.parametrize(
    ("word", "told"),
    [
        (
            "outputs/grid/0",
            "lrlab: outputs/grid/0: is a run's folder; name its sweep's, outputs/grid",
        ),
        ("outputs", "lrlab: outputs: is no folder of a sweep; it has no multirun.yaml"),
        ("nowhere", "lrlab: nowhere: is no folder of a sweep; it has no multirun.yaml"),
        ("lr=0.1", "lrlab: lr=0.1: the sweep's folder comes first; see --help"),
    ],
)
def test_what_is_no_sweep_is_refused(home: Path, word: str, told: str) -> None:
    before = contents(home)
    assert go_on(word, cwd=home) == Ended(2, "", f"{told}\n")
    assert contents(home) == before


@pytest.mark.parametrize(
    "text", [b"", b"hydra: [1", b"a: 1", b"\xff\xfe\x00", b"hydra: {overrides: 3}"]
)
def test_a_damaged_multirun_yaml_is_told(home: Path, text: bytes) -> None:
    (home / "outputs" / "grid" / "multirun.yaml").write_bytes(text)
    ended = go_on("outputs/grid", cwd=home)
    assert (ended.code, ended.out) == (2, "")
    where = "outputs/grid: its multirun.yaml is damaged|outputs/grid/multirun.yaml: is damaged, .*"
    assert re.fullmatch(f"lrlab: ({where})\n", ended.err)


def test_a_damaged_or_missing_journal_is_told(home: Path) -> None:
    journal = home / "outputs" / "grid" / "study.journal"
    journal.write_text("no journal\n" + journal.read_text("utf-8"), "utf-8")
    ended = go_on("outputs/grid", cwd=home)
    assert ended.code == 2 and ended.err.count("\n") == 1
    assert "study.journal: is damaged" in ended.err
    journal.unlink()
    ended = go_on("outputs/grid", cwd=home)
    assert ended.code == 2 and ended.err.count("\n") == 1
    assert "study.journal: is not there" in ended.err


# --- elsewhere ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grid", "it's a größe 学习", "a=b,c", "50% $x \\"])
def test_a_moved_sweep_goes_on_from_any_folder(home: Path, name: str, tmp_path: Path) -> None:
    there = tmp_path / "else where" / name
    there.parent.mkdir()
    (home / "outputs" / "grid").rename(there)
    before = of_runs(there, 3)
    for cwd, word in ((there, "."), (there.parent, name), (tmp_path, str(there))):
        ended = go_on(word, "lr=0.1,0.2,0.3,0.4", cwd=cwd)
        assert (ended.code, ended.err) == (0, ""), word
        assert lrs(there) == [0.1, 0.2, 0.3, 0.4]
        assert of_runs(there, 3) == before
    assert sorted(f.name for f in home.iterdir()) == ["else where", "outputs"]
    assert [f.name for f in (home / "outputs").iterdir()] == ["search"]


def test_a_copy_goes_on_by_itself(home: Path) -> None:
    shutil.copytree(home / "outputs" / "grid", home / "outputs" / "copy")
    before = contents(home / "outputs" / "grid")
    assert go_on("outputs/copy", "lr=0.1,0.2,0.3,0.4", cwd=home).code == 0
    assert len(lrs(home / "outputs" / "copy")) == 4
    assert contents(home / "outputs" / "grid") == before


OWN = """
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes, width=5):
        super().__init__()
        layers = nn.Flatten(), nn.Linear(784, width), nn.Linear(width, num_classes)
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)
"""

MINE = """
# @package _global_
hydra: {sweeper: {params: {lr: "0.1,0.2"}}}
epochs: 1
"""


@pytest.mark.parametrize(
    "typed",
    [
        ["lr=0.1,0.2", "network=custom", "network._target_=ownnet.Net", "+network.width=3"],
        ["--config-dir", "conf", "+experiments=mine", "network.hidden=[8]"],
        ["lr=0.1,0.2", "hydra/launcher=basic", "network.hidden=[8]"],
        ["lr=0.1,0.2", "name='it\\'s \"so\" größe'", "network.hidden=[8]"],
        ["lr=0.1,0.2", "schedule.gamma=0.5", "schedule=step", "optimizer.momentum=0.5"],
    ],
)
def test_however_it_was_begun_it_goes_on(typed: list[str], tmp_path: Path) -> None:
    (tmp_path / "ownnet.py").write_text(OWN)
    (tmp_path / "conf" / "experiments").mkdir(parents=True)
    (tmp_path / "conf" / "experiments" / "mine.yaml").write_text(MINE)
    ended = command(main, [*typed, *DATA, "plots=false", "threads=1", "epochs=1"], tmp_path)
    assert (ended.code, ended.err) == (0, "")
    (folder,) = (tmp_path / "outputs").iterdir()
    assert lrs(folder) == [0.1, 0.2]
    if own := {"ownnet.Net", "--config-dir"} & {word.partition("=")[2] or word for word in typed}:
        ended = go_on(str(folder), "lr=0.1,0.2,0.3", cwd=tmp_path)
        named = "ownnet.Net (network)" if "ownnet.Net" in own else f"the configs in {tmp_path}/conf"
        assert ended.code == 2 and named in ended.err and ended.err.count("\n") == 1
        assert resume.command(folder).endswith(" trust=true")
        typed = ["trust=true"]
    ended = go_on(str(folder), "lr=0.1,0.2,0.3", *typed[:1][: len(own)], cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert lrs(folder) == [0.1, 0.2, 0.3]
    parameters = {s["parameters"] for s in summaries(folder)}
    assert len(parameters) == 1
    sys.modules.pop("ownnet", None)


def test_seeds_are_added_to_runs_of_one_seed_that_have_not_ended(
    server: Server, tmp_path: Path
) -> None:
    """Those go on with the seed that they had."""
    typed = ("lr=0.1,0.2", "seed=5", "epochs=2", "lanes=1", "name=x")
    stop = AT_STEP.format(step=3, times=1, name="SIGINT")
    assert server.run("lrlab.sweep", *QUICK, *typed, cwd=tmp_path, prepare=stop).code == 130
    ended = go_on("outputs/x", "seed=5,6", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    folder = tmp_path / "outputs" / "x"
    pairs = [(s["lr"], s["seed"]) for s in summaries(folder)]
    assert sorted(pairs) == [(lr, seed) for lr in (0.1, 0.2) for seed in (5, 6)]
    (tmp_path / "whole").mkdir()
    whole = ("lr=0.1,0.2", "seed=5,6", "epochs=2", "name=x")
    assert command(main, [*QUICK, *whole], tmp_path / "whole").code == 0
    curves = {}
    for home in (tmp_path, tmp_path / "whole"):
        runs = records.run_folders(home / "outputs" / "x")
        curves[home] = {(run / "metrics.csv").read_text("utf-8") for run in runs}
    assert curves[tmp_path] == curves[tmp_path / "whole"]


# --- the disk -------------------------------------------------------------------------------------

DISK = ("lr=0.1,0.03,0.3", "epochs=3,1", "lanes=2", "save_model=true", "name=x")

# No file may grow beyond it; as on a full disk, writes take what still fits.
FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"


@pytest.fixture(scope="module")
def on_disk(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("disk")
    assert server.run("lrlab.sweep", *QUICK, *DISK, cwd=folder).code == 0
    return found(folder / "outputs" / "x")


def test_a_disk_that_is_full_from_the_start_is_left_as_it_was(
    server: Server, tmp_path: Path
) -> None:
    for size in (1_000, 7_000):  # multirun.yaml, study.journal
        full = FULL.format(size)
        done = server.run("lrlab.sweep", *QUICK, *DISK, cwd=tmp_path, prepare=full)
        assert done.code == 1
        assert done.err.endswith("cannot be written (File too large)\n"), size
        assert done.err.count("\n") == 1
        assert list((tmp_path / "outputs").iterdir()) == []


@pytest.mark.parametrize("size", [9_800, 11_000, 25_000])  # checkpoints, the journal, model.pt
@pytest.mark.parametrize("every", ["auto", "1"])
def test_a_full_disk_is_told_and_after_room_is_made_it_goes_on(
    server: Server, on_disk: dict[str, Any], size: int, every: str, tmp_path: Path
) -> None:
    typed = (*QUICK, *DISK, f"checkpoint_every={every}")
    done = server.run("lrlab.sweep", *typed, cwd=tmp_path, prepare=FULL.format(size))
    assert done.code == 1
    told = done.err.splitlines()
    assert len(told) == 2, done.err
    assert told[0].startswith(f"lrlab: {tmp_path}/outputs/x/")
    assert told[0].endswith("cannot be written (File too large)")
    assert told[1].endswith("go on with python -m lrlab.resume outputs/x")
    folder = tmp_path / "outputs" / "x"
    for run in records.run_folders(folder):
        records.read_summary(run)
        records.read_metrics(run)
    again = server.run("lrlab.resume", "outputs/x", cwd=tmp_path)
    assert (again.code, again.err) == (0, "")
    now = found(folder)
    if every == "1":  # best.yaml says so
        now["best.yaml"] = on_disk["best.yaml"]
        now["runs.csv"] = on_disk["runs.csv"]
    assert now == on_disk


@pytest.mark.parametrize("what", ["shutil.rmtree('outputs/x')", "os.rename('outputs/x', 'moved')"])
def test_a_folder_that_vanishes_in_the_middle_is_told(
    server: Server, what: str, tmp_path: Path
) -> None:
    vanish = f"""
import os, shutil
from lrlab import train
before = train._evaluate
def evaluate(stack):
    if stack.runs[0].step and os.path.exists("outputs/x"):
        {what}
    before(stack)
train._evaluate = evaluate
"""
    done = server.run("lrlab.sweep", *QUICK, *DISK, cwd=tmp_path, prepare=vanish)
    assert done.code == 1
    told = done.err.splitlines()
    assert "cannot be written (No such file or directory)" in told[0], done.err
    assert len(told) <= 2 and "Traceback" not in done.err


# --- two at once ----------------------------------------------------------------------------------


def test_two_that_go_on_at_once_share_the_work(server: Server, tmp_path: Path) -> None:
    typed = (*QUICK, "lr=0.1,0.2,0.3,0.4,0.5,0.6", "epochs=3", "lanes=1", "name=x")
    (tmp_path / "whole").mkdir()
    assert server.run("lrlab.sweep", *typed, cwd=tmp_path / "whole").code == 0
    stop = AT_STEP.format(step=3, times=1, name="SIGINT")
    assert server.run("lrlab.sweep", *typed, cwd=tmp_path, prepare=stop).code == 130
    both = [server.start("lrlab.resume", "outputs/x", cwd=tmp_path) for _ in range(2)]
    for process in both:
        done = process.wait()
        assert (done.code, done.err) == (0, "")
        assert done.out.count("finished") >= 6  # each ends with the whole table
    assert found(tmp_path / "outputs" / "x") == found(tmp_path / "whole" / "outputs" / "x")
    logs = [(run / "run.log").read_text() for run in records.run_folders(tmp_path / "outputs/x")]
    assert [log.count("  finished") for log in logs] == [1] * 6
