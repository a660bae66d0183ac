"""Whoever no longer owns a run writes nothing more of it, at whichever write it finds that out."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import command
from helpers.processes import children, lives
from helpers.training import Trainer, assert_same_bits, read
from helpers.warm import DATA, Server
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf
from optuna.trial import TrialState

from lrlab import records
from lrlab.errors import NotOurs, NotWritten
from lrlab.study import heartbeat
from lrlab.study.storage import open_store
from lrlab.sweep import main
from lrlab.sweeping import launch

TYPED = (*DATA, "lr=0.1,0.2", "network.hidden=[8]", "threads=1", "plots=false")
TYPED += ("checkpoint_every=1", "save_model=true", "name=x")
MEASURED = "diagnostics=full"

# Where what writes a part of a file is looked up.
WRITERS = ((records.files, "append"), (records.files, "write_bytes"), (records, "write_bytes"))


def contents(folder: Path) -> dict[str, bytes]:
    files = [f for f in folder.rglob("*") if f.is_file()]
    return {
        f.relative_to(folder).as_posix(): f.read_bytes()
        for f in files
        if "study" not in f.name and f.suffix != ".alive"  # these say who is there
    }


def hand_over(sweep: Path, end: bool) -> None:
    """Say in the study that another worker has run 1, and has finished it."""
    store = open_store("journal", "", sweep / "study.journal")

    def change() -> None:
        storage = store.storage
        (study,) = storage.get_all_studies()
        trial = next(t for t in storage.get_all_trials(study._study_id) if t.number == 1)
        claim = {**trial.user_attrs["claim"], "worker": "another"}
        storage.set_trial_user_attr(trial._trial_id, "claim", claim)
        if end:
            storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [0.1])

    store.locked(change)


@pytest.mark.full(after=3)
@pytest.mark.parametrize(
    ("name", "nth"),
    [
        *(("metrics.csv", 1), ("metrics.csv", 2), ("diagnostics.csv", 1), ("checkpoint.pt", 1)),
        *(("summary.json", 2), ("run.log", 1), ("end.pt", 1), ("model.pt", 1)),
    ],
)
def test_what_comes_too_late_is_not_written(
    name: str, nth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, away, seen, then = tmp_path / "outputs" / "x" / "1", [0.0], [0], {}
    now = heartbeat.clock
    monkeypatch.setattr(heartbeat, "clock", lambda: now() + away[0])

    def watched(write: Callable[..., Any]) -> Callable[..., Any]:
        def first(file: Path, *given: Any) -> Any:
            if file == run / name:
                seen[0] += 1
                if seen[0] == nth:  # the process stands still here, for two leases
                    away[0] = 120.0
                    hand_over(run.parent, end=name != "run.log")
                    then.update(contents(run))
            return write(file, *given)

        return first

    for module, function in WRITERS:
        monkeypatch.setattr(module, function, watched(getattr(module, function)))
    ended = command(main, [*TYPED, "epochs=2", MEASURED], tmp_path)
    assert then and contents(run) == then
    assert ended.code == 1
    line, remedy = ended.err.splitlines()
    assert "stood still for longer than lease=60 seconds, and others took over run 1" in line
    assert remedy.startswith("lrlab: the others finish the sweep") and "Traceback" not in line


def test_who_was_away_and_lost_nothing_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, calls = heartbeat.clock, [0]

    def jumping() -> float:  # a lease passes with each look
        calls[0] += 1
        return now() + 61.0 * calls[0]

    monkeypatch.setattr(heartbeat, "clock", jumping)
    ended = command(main, [*TYPED, "epochs=2", "diagnostics=off"], tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert "2 finished" in ended.out or (tmp_path / "outputs" / "x" / "best.yaml").is_file()


def test_who_stands_still_between_the_question_and_the_write_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it asked too early; but the files are no longer those that it has opened."""
    records.create_run(tmp_path, "", "", "")
    records.log(tmp_path, "begun")
    asked, at = 0, 0

    def take(file: Path) -> None:
        nonlocal asked
        asked += 1
        if asked != at:
            if asked > at:
                raise NotOurs(file, "taken")
            return
        with monkeypatch.context() as other:
            other.setattr(records.files, "_owned", None)
            other.setattr(os, "getpid", lambda: 1)
            records.take_over(tmp_path)
            records.start_metrics(tmp_path)
            records.write_summary(tmp_path, {"state": "running"})
            records.append_metrics(tmp_path, {"step": [0], "train_loss": [7.0]})
        then.clear()
        then.update(contents(tmp_path))

    then: dict[str, bytes] = {}
    for write in (
        lambda: records.append_metrics(tmp_path, {"step": [9], "train_loss": [9.0]}),
        lambda: records.log(tmp_path, "late"),
    ):
        asked, at = 0, 2  # an append asks before it opens the file too
        with records.written_by_owner(take):
            write()
        assert asked == 2
        assert contents(tmp_path) == then
    asked, at = 0, 1
    with records.written_by_owner(take), pytest.raises(NotOurs):
        records.write_summary(tmp_path, {"state": "finished"})
    assert contents(tmp_path) == then and b"running" in then["summary.json"]


# --- jobs of a launcher, which have no study to ask -----------------------------------------------

WRITES = (
    *(("metrics.csv", 1), ("metrics.csv", 3), ("diagnostics.csv", 1), ("checkpoint.pt", 1)),
    *(("summary.json", 2), ("run.log", 1), ("end.pt", 1), ("model.pt", 1)),
)


@pytest.mark.full(after=7)
@pytest.mark.parametrize(("name", "nth"), WRITES)
@pytest.mark.parametrize("by_jobs", [False, True])
def test_a_job_whose_run_was_taken_over_writes_nothing_of_it(
    by_jobs: bool, name: str, nth: int, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = "network.hidden=[4] checkpoint_every=1 save_model=true epochs=2 diagnostics=full"
    (spec,) = trainer.specs(["lr=0.1"], common)
    run, seen, then = spec.folder, 0, dict[str, bytes]()
    records.take_over(run, "one")

    def watched(write: Callable[..., Any]) -> Callable[..., Any]:
        def first(file: Path, *given: Any) -> Any:
            nonlocal seen
            if file == run / name and records.is_asked_for():
                seen += 1
                if seen == nth:  # the job stands still here
                    with monkeypatch.context() as other:
                        other.setattr(records.files, "_owned", None)
                        records.take_over(run, "two" if by_jobs else "")
                    then.update(contents(run))
            return write(file, *given)

        return first

    for module, function in WRITERS:
        monkeypatch.setattr(module, function, watched(getattr(module, function)))
    monkeypatch.setattr(HydraConfig, "get", lambda: OmegaConf.create(IN_JOB.format(run)))
    task = launch.OwnersTask(lambda _: launch.run_one(spec), "one")
    with pytest.raises(NotOurs, match="another process has taken over run 0"):
        task(OmegaConf.create())
    assert then and contents(run) == then
    assert (run / ".two.owner").exists() == by_jobs and not (run / ".one.owner").exists()


IN_JOB = "runtime: {{output_dir: '{}'}}"


def test_a_job_that_owns_its_run_trains_it_as_without_a_launcher(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (spec,) = trainer.specs(["lr=0.1"], "network.hidden=[4]")
    records.take_over(spec.folder, "one")
    monkeypatch.setattr(HydraConfig, "get", lambda: OmegaConf.create(IN_JOB.format(spec.folder)))
    task = pickle.loads(pickle.dumps(launch.OwnersTask(dict, "one")))
    assert (task.task, task.owner) == (dict, "one")
    launch.OwnersTask(lambda _: launch.run_one(spec), "one")(OmegaConf.create())
    assert_same_bits(read(spec.folder), trainer.alone("lr=0.1", "network.hidden=[4]"))
    records.disown(spec.folder, "another")
    assert (spec.folder / ".one.owner").exists()


def test_what_ended_a_job_comes_to_its_parent_as_it_was() -> None:
    for error in (
        NotWritten("f", OSError(28, "No space left on device")),
        NotOurs("f", "another process has taken over run 1"),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and str(again) == str(error)
        assert (again.file, again.number, again.remedy) == ("f", error.number, error.remedy)


@pytest.mark.parametrize("told_by", ["the parent's look", "the parent's heart"])
def test_a_parent_that_lost_a_run_says_so_and_stops_its_job(
    told_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of machines that share only the database, the others cannot reach the job's folder."""
    now, away = heartbeat.clock, [0.0]
    monkeypatch.setattr(heartbeat, "clock", lambda: now() + away[0])
    seen = []

    def run_job(self: Any, overrides: Any, initial_job_idx: int) -> list[JobReturn]:
        run = tmp_path / "outputs" / "x" / "1"
        marks = [file.name for file in run.glob(".*.owner")]
        task = self.task_function
        assert isinstance(task, launch.OwnersTask) and marks == [f".{task.owner}.owner"]
        hand_over(run.parent, end=True)
        away[0] = 120.0
        end = time.monotonic() + 20
        while told_by.endswith("heart") and list(run.glob(".*.owner")):
            assert time.monotonic() < end
            time.sleep(0.01)
        seen.append(contents(run))
        return [JobReturn() for _ in overrides]

    launchers = Plugins.instance().class_name_to_class  # Hydra's own copies of its classes
    basic = launchers["hydra._internal.core_plugins.basic_launcher.BasicLauncher"]
    monkeypatch.setattr(basic, "launch", run_job)
    if told_by.endswith("look"):
        monkeypatch.setattr(heartbeat.Heart, "_run", lambda self: None)
    typed = [*TYPED, "epochs=1", "hydra/launcher=basic", "lease=1"]
    ended = command(main, typed, tmp_path)
    assert ended.code == 1 and "others took over run 1" in ended.err.splitlines()[0]
    assert "Traceback" not in ended.err
    assert [contents(tmp_path / "outputs" / "x" / "1")] == seen


@pytest.mark.full
def test_a_job_that_is_stopped_for_longer_than_its_lease_and_goes_on(
    server: Server, tmp_path: Path
) -> None:
    typed = (*TYPED, "lr=0.1", "epochs=400", "lease=1", "diagnostics=off", "hydra/launcher=joblib")
    parent = server.start("lrlab.sweep", *typed, cwd=tmp_path)
    run = tmp_path / "outputs" / "x" / "0"
    end = time.monotonic() + 100
    while not (run / "checkpoint.pt").exists():
        assert time.monotonic() < end and not parent.ended()
        time.sleep(0.02)
    jobs = children(parent.pid)
    try:
        for pid in (parent.pid, *jobs):
            os.kill(pid, signal.SIGSTOP)
        again = ("trust=true", "hydra/launcher=lanes")
        done = server.run("lrlab.resume", "outputs/x", *again, cwd=tmp_path)
        assert (done.code, done.err) == (0, "")
        then = contents(tmp_path / "outputs")
    finally:
        for pid in (parent.pid, *jobs):
            os.kill(pid, signal.SIGCONT)
    ended = parent.wait()
    for pid in filter(lives, jobs):  # joblib's that never had a run wait five minutes for one
        os.kill(pid, signal.SIGKILL)
    assert ended.code == 1 and "others took over run 0" in ended.err
    assert "Traceback" not in ended.err
    assert contents(tmp_path / "outputs") == then


@pytest.mark.full
def test_a_process_that_is_stopped_for_longer_than_its_lease_and_goes_on(
    server: Server, tmp_path: Path
) -> None:
    typed = (*TYPED, "epochs=60", "lease=1", "diagnostics=off")
    sleeper = server.start("lrlab.sweep", *typed, cwd=tmp_path)
    run = tmp_path / "outputs" / "x" / "1"
    end = time.monotonic() + 60
    while not (run / "checkpoint.pt").exists():
        assert time.monotonic() < end and not sleeper.ended()
        time.sleep(0.01)
    sleeper.kill(signal.SIGSTOP)
    done = server.run("lrlab.resume", "outputs/x", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    then = contents(tmp_path / "outputs")
    sleeper.kill(signal.SIGCONT)
    ended = sleeper.wait()
    assert ended.code == 1 and "others took over runs 0, 1" in ended.err
    assert contents(tmp_path / "outputs") == then
    steps = records.read_metrics(run)["step"].tolist()
    assert steps == list(range(len(steps)))
