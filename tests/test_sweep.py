"""`python -m lrlab.sweep`: one command, one folder, one run for each point of the grid."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.commands import (
    QUICK,
    Ended,
    command,
    files,
    one_folder,
    process,
    summaries,
    sweep,
    trials,
)
from helpers.searches import NETWORKS
from omegaconf import OmegaConf

from lrlab.sweep import main

# --- one real sweep, looked at from all sides -----------------------------------------------------

LRS = [0.01, 0.1, 1e9]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def first(home: Path) -> Ended:
    """Two runs that finish and one that diverges, with plots, in home/outputs/first."""
    return sweep("lr=0.01,0.1,1e9", "name=first", "plots=true", "save_model=true", cwd=home)


@pytest.fixture(scope="module")
def folder(home: Path, first: Ended) -> Path:
    return home / "outputs" / "first"


@pytest.mark.full
def test_a_comma_list_needs_no_flag(first: Ended, folder: Path) -> None:
    assert (first.code, first.err) == (0, "")
    assert [s["lr"] for s in summaries(folder)] == LRS
    assert [s["state"] for s in summaries(folder)] == ["finished", "finished", "diverged"]


def test_every_file_is_where_it_is_documented(home: Path, folder: Path) -> None:
    run = [".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml"]
    run += ["metrics.csv", "summary.json", "run.log"]
    expected = ["multirun.yaml", "study.journal", "study.journal.lock", "runs.csv"]
    expected += ["verdicts.csv", "answer.json", "report.html"]
    # All that there is to draw of a grid of lrs, where nothing was measured.
    figures = ("loss_curves", "lr_against_loss", "lr_against_accuracy", "to_target", "heat_map")
    expected += [f"plots/{name}.png" for name in figures]
    expected += [f"{number}/{file}" for number in range(3) for file in run]
    expected += ["0/model.pt", "1/model.pt"]  # a diverged run has no weights to keep
    assert files(folder) == sorted(expected)
    assert [p.name for p in home.iterdir()] == ["outputs"]
    for plot in (folder / "plots").iterdir():
        assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_end_is_a_table_and_where_the_files_are(first: Ended) -> None:
    lines = first.out.splitlines()
    (header,) = (i for i, line in enumerate(lines) if line.startswith("run ") and "train" in line)
    rows = [line.split() for line in lines[header + 2 : header + 5]]
    assert [row[:3] for row in rows] == [
        ["0", "0.01", "fixed"],
        ["1", "0.1", "fixed"],
        ["2", "1e+09", "fixed"],
    ]
    assert "finished" in rows[0] and "finished" in rows[1]
    assert re.search(r"diverged at step \d +diverged( +-)?$", lines[header + 4])
    assert "1 diverged of 3 runs" in lines
    assert f"sweep  {Path('outputs/first')}" in lines
    assert any(line.startswith(f"plots  {Path('outputs/first/plots')}: ") for line in lines)


def test_each_run_has_its_own_config(folder: Path) -> None:
    for number, lr in enumerate(LRS):
        run = folder / str(number)
        config = OmegaConf.load(run / ".hydra" / "config.yaml")
        assert (config.lr, config.data.train_size, config.name) == (lr, 640, "first")
        assert "hydra" not in config
        overrides = OmegaConf.load(run / ".hydra" / "overrides.yaml")
        swept = [str(o) for o in overrides if str(o).startswith("lr=")]
        assert [float(o.removeprefix("lr=")) for o in swept] == [lr]
        hydra = OmegaConf.load(run / ".hydra" / "hydra.yaml").hydra
        assert (hydra.job.num, hydra.runtime.output_dir) == (number, str(run))


def test_runs_csv_says_what_the_summaries_say(folder: Path) -> None:
    runs = pd.read_csv(folder / "runs.csv")
    assert len(runs) == 3
    for key in ("run", "lr", "state", "seed", "network", "val_loss", "test_acc"):
        told = [None if pd.isna(value) else value for value in runs[key]]
        assert told == [summary[key] for summary in summaries(folder)], key


def test_the_study_has_one_trial_a_run_with_its_value(folder: Path) -> None:
    found = trials(folder)
    assert [t.number for t in found] == [0, 1, 2]
    assert [t.params for t in found] == [{"lr": lr} for lr in LRS]
    assert [t.state.name for t in found] == ["COMPLETE", "COMPLETE", "FAIL"]
    assert [t.value for t in found] == [s["val_loss"] for s in summaries(folder)]
    assert found[0].value is not None and found[2].value is None


def test_the_log_tells_the_run(folder: Path) -> None:
    log = (folder / "2" / "run.log").read_text("utf-8")
    assert "59,210 parameters" in log and "640 training samples" in log
    assert f"diverged at step {summaries(folder)[2]['first_nonfinite_step']}" in log
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  \S", line) for line in log.splitlines())


def test_a_sweep_of_one_has_the_same_bits(folder: Path, tmp_path: Path) -> None:
    ended = sweep("lr=0.1", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    alone = one_folder(tmp_path / "outputs")
    # the default name is the date and time
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", alone.name)
    assert (alone / "0" / "metrics.csv").read_bytes() == (folder / "1/metrics.csv").read_bytes()
    assert files(alone) == sorted(
        ["multirun.yaml", "best.yaml", "study.journal", "study.journal.lock", "runs.csv"]
        + ["verdicts.csv", "answer.json"]
        + [f"0/{file}" for file in ("metrics.csv", "summary.json", "run.log")]
        + [f"0/.hydra/{file}.yaml" for file in ("config", "hydra", "overrides")]
    )
    assert [(t.params, t.state.name) for t in trials(alone)] == [({}, "COMPLETE")]


def test_whole_process(folder: Path, tmp_path: Path) -> None:
    """As a user types it; the module's other tests run main() in this process."""
    done = process("-m", "lrlab.sweep", *QUICK, "lr=0.01,0.1,1e9", "name=first", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for number in range(3):
        csv = Path(str(number)) / "metrics.csv"
        assert (tmp_path / "outputs/first" / csv).read_bytes() == (folder / csv).read_bytes()


# --- the grid -------------------------------------------------------------------------------------


def test_several_keys_make_one_grid(tmp_path: Path) -> None:
    grid = ["seed=0,1", "schedule=fixed,step", "optimizer=sgd,adam", "lr=1,0.1"]
    ended = sweep(*grid, "epochs=2", "data.train_size=128", "name=grid", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    keys = ("seed", "schedule", "optimizer", "lr")
    points = [
        (seed, schedule, optimizer, lr)
        for seed in (0, 1)
        for schedule in ("fixed", "step")
        for optimizer in ("sgd", "adam")
        for lr in (1.0, 0.1)
    ]
    folder = tmp_path / "outputs" / "grid"
    found = summaries(folder)
    assert [tuple(s[key] for key in keys) for s in found] == points
    typed = [t.user_attrs["overrides"] for t in trials(folder)]
    kinds = (int, str, str, float)
    told = [tuple(k(t[key]) for k, key in zip(kinds, keys, strict=True)) for t in typed]
    assert told == points
    # words are no parameters, for Optuna's choices cannot grow
    params = [{"seed": seed, "lr": lr} for seed, _, _, lr in points]
    assert [t.params for t in trials(folder)] == params
    assert [t.value for t in trials(folder)] == [s["val_loss"] for s in found]
    # lr=1 is typed as an int, and the study can take other numbers later
    assert all(isinstance(t.params["lr"], float) for t in trials(folder))
    for number, (_, schedule, _, lr) in enumerate(points):
        metrics = pd.read_csv(folder / str(number) / "metrics.csv")
        second = lr * 0.3 if schedule == "step" else lr
        assert list(metrics["lr"][:4]) == pytest.approx([lr, lr, second, second], rel=1e-12)
        config = OmegaConf.load(folder / str(number) / ".hydra" / "config.yaml")
        assert config.seed == points[number][0]
        assert config.optimizer._target_.lower().endswith(points[number][2])
    # each point trains something of its own, but for the schedules, equal in the first epoch
    losses = {s["initial_loss"] for s in found}
    assert len(losses) == 2  # a seed each
    table = [line.split() for line in ended.out.splitlines() if " finished  " in line][-16:]
    assert [row[0] for row in table] == [str(n) for n in range(16)]
    assert [row[3:5] for row in table] == [[p[2], str(p[0])] for p in points]


# --- the folder -----------------------------------------------------------------------------------


@pytest.mark.full(after=3)
@pytest.mark.parametrize("name", ["a b", "größe 学习", "it's", "50%", "a=b", "a,b"])
def test_any_name_of_a_folder_works(name: str, tmp_path: Path) -> None:
    ended = sweep("lr=0.1", f'name="{name}"', cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert [p.name for p in (tmp_path / "outputs").iterdir()] == [name]
    assert summaries(tmp_path / "outputs" / name)[0]["state"] == "finished"


def test_output_may_be_any_folder(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there" / "deep"
    here.mkdir()
    assert sweep("lr=0.1", f"output={there}", "name=x", cwd=here).code == 0
    assert len(summaries(there / "x")) == 1 and files(here) == []


# --- one's own classes ----------------------------------------------------------------------------

PICKY = """


class Picky(torch.optim.SGD):
    def step(self, closure=None):
        if self.param_groups[0]["lr"] > 1:
            raise RuntimeError("this lr is too large for me")
        super().step(closure)
"""


@pytest.fixture
def package(tmp_path: Path) -> Any:
    """A package mypkg in the current folder."""
    (tmp_path / "mypkg").mkdir()
    (tmp_path / "mypkg" / "__init__.py").write_text(NETWORKS + PICKY)
    yield tmp_path
    sys.modules.pop("mypkg", None)


def parameters(width: int) -> int:
    return (784 + 1) * width + (width + 1) * 10


@pytest.mark.full
def test_own_class_by_its_path_as_a_process(package: Path) -> None:
    """`python -m` finds what lies in the current folder."""
    own = ["network._target_=mypkg.Net", "+network.width=3", "lr=0.1,0.2", "name=x"]
    done = process("-m", "lrlab.sweep", *QUICK, *own, cwd=package)
    assert (done.returncode, done.stderr) == (0, "")
    found = summaries(package / "outputs" / "x")
    assert [(s["state"], s["parameters"]) for s in found] == [("finished", parameters(3))] * 2


@pytest.mark.parametrize(
    ("typed", "widths"),
    [
        (["network._target_=mypkg.Net"], [5]),
        (["network=custom", "network._target_=mypkg.Net"], [5]),
        (["network=custom", "network._target_=mypkg.Net", "+network.width=2,4"], [2, 4]),
    ],
)
def test_own_class_with_and_without_arguments(
    package: Path, typed: list[str], widths: list[int]
) -> None:
    ended = sweep(*typed, "name=x", cwd=package)
    assert (ended.code, ended.err) == (0, "")
    found = summaries(package / "outputs" / "x")
    assert [s["parameters"] for s in found] == [parameters(width) for width in widths]
    assert {s["state"] for s in found} == {"finished"}


# --- runs that fail -------------------------------------------------------------------------------


def test_a_run_that_raises_fails_alone(package: Path) -> None:
    typed = ["network=custom", "network._target_=mypkg.Broken,mypkg.Net", "lr=0.1", "name=x"]
    ended = sweep(*typed, cwd=package)
    assert ended.code == 1
    assert "Traceback" not in ended.err
    folder = package / "outputs" / "x"
    failed, finished = summaries(folder)
    assert (failed["state"], finished["state"]) == ("failed", "finished")
    assert failed["error"] == "RuntimeError: the cat is on the keyboard"
    assert [t.state.name for t in trials(folder)] == ["FAIL", "COMPLETE"]
    log = (folder / "0" / "run.log").read_text("utf-8")
    assert "Traceback" in log and "mypkg" in log
    last = ended.out.splitlines()[-6:]
    assert "failed: RuntimeError: the cat is on the keyboard" in ended.out
    assert "1 failed of 2 runs" in last
    assert list(pd.read_csv(folder / "runs.csv")["state"]) == ["failed", "finished"]


def test_a_run_that_raises_in_a_group_spares_its_neighbours(package: Path) -> None:
    own = "optimizer._target_=mypkg.Picky"
    ended = sweep("lr=0.01,10,0.1", own, "name=x", cwd=package)
    assert ended.code == 1
    folder = package / "outputs" / "x"
    assert [s["state"] for s in summaries(folder)] == ["finished", "failed", "finished"]
    assert "this lr is too large for me" in summaries(folder)[1]["error"]
    assert "1 failed of 3 runs" in ended.out.splitlines()
    assert sweep("lr=0.1", own, "name=alone", cwd=package).code == 0
    alone = package / "outputs" / "alone" / "0" / "metrics.csv"
    assert (folder / "2" / "metrics.csv").read_bytes() == alone.read_bytes()


# --- Hydra's other ways to run --------------------------------------------------------------------


def test_the_basic_launcher_gives_the_same_bits(folder: Path, tmp_path: Path) -> None:
    ended = sweep("lr=0.01,0.1,1e9", "hydra/launcher=basic", "name=x", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    basic = tmp_path / "outputs" / "x"
    for number in range(3):
        csv = Path(str(number)) / "metrics.csv"
        assert (basic / csv).read_bytes() == (folder / csv).read_bytes()
    assert [t.value for t in trials(basic)] == [t.value for t in trials(folder)]
    assert [t.params for t in trials(basic)] == [{"lr": lr} for lr in LRS]


def test_a_failed_run_of_the_basic_launcher_says_why(package: Path) -> None:
    own = ["network=custom", "network._target_=mypkg.Broken,mypkg.Net", "hydra/launcher=basic"]
    ended = sweep(*own, "lr=0.1", "name=x", cwd=package)
    assert ended.code == 1
    failed, finished = summaries(package / "outputs" / "x")
    assert (failed["state"], finished["state"]) == ("failed", "finished")
    assert "the cat is on the keyboard" in ended.out + ended.err


def test_the_basic_sweeper_gives_the_same_bits(folder: Path, tmp_path: Path) -> None:
    ended = sweep("lr=0.01,0.1,1e9", "hydra/sweeper=basic", "name=x", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    for number in range(3):
        csv = Path(str(number)) / "metrics.csv"
        assert (tmp_path / "outputs/x" / csv).read_bytes() == (folder / csv).read_bytes()


def test_the_flag_multirun_changes_nothing(folder: Path, tmp_path: Path) -> None:
    typed = ["--multirun", *QUICK, "lr=0.01,0.1,1e9", "name=first"]
    ended = command(main, typed, tmp_path)
    assert (ended.code, ended.err) == (0, "")
    again = tmp_path / "outputs" / "first"
    drawn = ("plots", "report", "model")
    without = [f for f in files(folder) if not any(word in f for word in drawn)]
    assert files(again) == without
    for number in range(3):
        csv = Path(str(number)) / "metrics.csv"
        assert (again / csv).read_bytes() == (folder / csv).read_bytes()


@pytest.mark.parametrize("flag", ["hydra.mode=RUN", "--run"])
def test_a_single_run_has_the_same_bits(flag: str, folder: Path, tmp_path: Path) -> None:
    flags = [flag] if flag.startswith("-") else []
    rest = [] if flags else [flag]
    ended = command(main, [*flags, *QUICK, *rest, "lr=0.1", "name=x"], tmp_path)
    assert (ended.code, ended.err) == (0, "")
    run = tmp_path / "outputs" / "x" / "0"
    assert (run / "metrics.csv").read_bytes() == (folder / "1" / "metrics.csv").read_bytes()
    assert summaries(run.parent)[0]["state"] == "finished"
