"""`python -m lrlab.resume`: a sweep that is done is extended, wherever it lies by now.

What interrupts one is in tests/faults.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
from helpers.commands import Ended, command, contents, summaries
from helpers.interrupted import AT_STEP, QUICK, found
from helpers.warm import DATA, Server

from lrlab import records, resume
from lrlab.sweep import main
from lrlab.sweeping import resuming

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
    assert ended.out.count("finished") == 3
    assert not re.search(r"epoch \d", ended.out), "no line of progress"
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


@pytest.mark.full
def test_points_become_a_longer_grid(tmp_path: Path) -> None:
    typed = ["lr=0.01..1", "points=3", "epochs=1", "name=x"]
    assert command(main, [*QUICK, *typed], tmp_path).code == 0
    ended = go_on("outputs/x", "points=5", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert lrs(tmp_path / "outputs" / "x") == [0.01, 0.1, 1.0, 0.0316228, 0.316228]


@pytest.mark.full(after=2)
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


def test_a_name_that_is_taken_says_how_to_go_on(home: Path) -> None:
    before = contents(home)
    ended = command(main, [*QUICK, "lr=0.1", "epochs=1", "name=grid"], home)
    assert (ended.code, ended.out) == (2, "")
    assert f"python -m lrlab.resume {home / 'outputs' / 'grid'}\n" in ended.err
    assert ended.err.count("\n") == 1
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


# --- elsewhere ------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("name", ["it's a größe 学习, a=b, 50% $x \\"])
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


@pytest.mark.full(after=1)
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
        assert resuming.resume_command(folder).endswith(" trust=true")
        typed = ["trust=true"]
    ended = go_on(str(folder), "lr=0.1,0.2,0.3", *typed[:1][: len(own)], cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert lrs(folder) == [0.1, 0.2, 0.3]
    parameters = {s["parameters"] for s in summaries(folder)}
    assert len(parameters) == 1
    sys.modules.pop("ownnet", None)


@pytest.mark.full
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
