"""Processes of a sweep: what they import, whom they outlive, how many there are."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from helpers.commands import command, process
from helpers.processes import children, lives
from helpers.warm import DATA, Server

from lrlab.config import trust
from lrlab.sweep import main
from lrlab.sweeping import resuming, workers

pytestmark = pytest.mark.full

TINY = (*DATA, "epochs=1", "threads=1", "network.hidden=[8]", "plots=false", "diagnostics=off")
MARK = "imported.txt"
RESUME = "import sys; sys.argv[0] = 'lrlab'; from lrlab.__main__ import main; main()"


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep's folder in which modules lie that are named as those that Python imports."""
    home = tmp_path_factory.mktemp("sent")
    assert command(main, [*TINY, "lr=0.1,0.2", "name=x"], home).code == 0
    for name in ("json", "random", "copy", "torch", "typing", "sitecustomize"):
        # in the folder itself: a process of ours may stand in another
        mark = f"open({str(home / MARK)!r}, 'a').write({name!r}); raise SystemExit"
        (home / "outputs" / "x" / f"{name}.py").write_text(mark)
    return home


@pytest.mark.parametrize("how", ["workers=2", "hydra/launcher=joblib"])
def test_no_process_imports_from_a_folder_that_was_sent(
    how: str, sent: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(sent / "outputs" / "x", tmp_path / "x")
    record = (folder / "multirun.yaml").read_text("utf-8")
    begins = "    task:\n"
    assert record.count(begins) == 1
    (folder / "multirun.yaml").write_text(record.replace(begins, f"{begins}    - {how}\n"))
    done = process("-P", "-c", RESUME, "resume", ".", "lr=0.1,0.2,0.3,0.4", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "3" / "summary.json").is_file()
    if how.startswith("workers"):
        assert "by 2 workers" in done.stdout
    assert not (sent / MARK).exists()


@pytest.mark.parametrize("verb", ["resume", "reproduce", "analysis"])
def test_python_m_does_not_import_from_there_either(verb: str, sent: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sent / "outputs" / "x", tmp_path / "x")
    words = {"resume": ".", "reproduce": "0", "analysis": "."}
    done = process("-m", f"lrlab.{verb}", words[verb], cwd=folder)
    assert done.returncode == 0, done.stderr
    assert not (sent / MARK).exists()


def test_what_a_resume_imports_from_there_ends_where_it_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", str(tmp_path), "/elsewhere", f"{tmp_path}/inside"])
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    trust.leave_current_folder()
    import sys

    assert sys.path == ["/elsewhere", f"{tmp_path}/inside"]
    assert os.environ.pop("PYTHONSAFEPATH") == "1"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("how", ["workers=2", "hydra/launcher=joblib"])
def test_no_process_outlives_the_one_that_started_it(
    how: str, server: Server, tmp_path: Path
) -> None:
    typed = [*TINY, "epochs=1000000", "lr=0.1,0.2", "name=x", how]
    parent = server.start("lrlab.sweep", *typed, cwd=tmp_path)
    end = time.monotonic() + 100
    curves = [tmp_path / "outputs" / "x" / run / "metrics.csv" for run in "01"]
    while not all(curve.exists() and curve.stat().st_size > 5000 for curve in curves):
        assert time.monotonic() < end and not parent.ended()
        time.sleep(0.05)
    started = children(parent.pid)
    assert len(started) >= 2
    parent.kill()
    end = time.monotonic() + 30
    while any(map(lives, started)):
        assert time.monotonic() < end, [p for p in started if lives(p)]
        time.sleep(0.1)


def test_there_are_no_more_workers_than_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def run(folder: Path, count: int, *given: object) -> int:
        asked.append(count)
        return 130

    monkeypatch.setattr(workers, "run", run)
    command(main, [*TINY, "lr=0.1,0.2,0.3", "workers=64", "name=x"], tmp_path)
    assert asked == [3]
    ended = command(main, [*TINY, "lr=0.1", "workers=64", "name=y"], tmp_path)
    assert asked == [3] and ended.code == 0


def test_a_record_asks_for_no_more_processes_than_cores(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert resuming.bounded(["lr=1,2", "workers=64"], []) == ["lr=1,2", "workers=2"]
    line = capsys.readouterr().err
    assert line.startswith("lrlab: workers=64: the record asks for more") and "workers=2" in line
    for words, typed in ((["workers=2"], []), (["workers=auto"], []), (["workers=9"],) * 2):
        assert resuming.bounded(list(words), list(typed)) == words
    assert capsys.readouterr().err == ""
