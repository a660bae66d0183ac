"""Machines that share the database and no disk: each says where the other runs lie."""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path

import pytest
from helpers.commands import Ended, command
from helpers.warm import DATA

from lrlab import records, resume
from lrlab.study import heartbeat
from lrlab.study.heartbeat import Place
from lrlab.study.points import Run
from lrlab.sweep import main
from lrlab.sweeping import leftout

pytestmark = pytest.mark.unit

TINY = (*DATA, "epochs=1", "threads=1", "network.hidden=[8]", "plots=false", "diagnostics=off")


@pytest.mark.full
def test_who_has_its_own_disk_names_the_others(tmp_path: Path) -> None:
    def work(name: str, lrs: str) -> Ended:
        home = tmp_path / name
        home.mkdir(exist_ok=True)
        database = f"storage=sqlite:///{tmp_path}/sweeps.db"
        return command(main, [*TINY, database, f"lr={lrs}", "name=x"], home)

    first = work("a", "0.1,0.2")
    assert (first.code, first.err) == (0, "") and "lie on" not in first.out
    losses = {
        number: records.read_summary(tmp_path / "a/outputs/x" / str(number))["val_loss"]
        for number in (0, 1)
    }
    lowest = min(losses, key=lambda number: losses[number])
    here = f"{socket.gethostname()}:{tmp_path}"
    says = (
        f"{here}/a/outputs/x: 0, 1; lowest val_loss {losses[lowest]:.4g}, "
        f"run {lowest} (lr={('0.1', '0.2')[lowest]})"
    )
    second = work("b", "0.1,0.2,0.3")
    assert (second.code, second.err) == (0, "")
    assert f"lrlab: 2 of 3 runs lie on {says}" in second.out.splitlines()
    assert [run.name for run in records.run_folders(tmp_path / "b/outputs/x")] == ["2"]

    late = work("c", "0.1,0.2,0.3")
    assert (late.code, late.err) == (0, "")
    told, *places = late.out.splitlines()[-3:]
    assert told == "lrlab: no run was trained here; others had begun all 3 of them"
    assert places[0] == f"lrlab: 2 of 3 runs lie on {says}"
    assert places[1].startswith(f"lrlab: 1 of 3 runs lie on {here}/b/outputs/x: 2; lowest val_loss")

    again = command(resume.main, ["outputs/x", "trust=true"], tmp_path / "a")
    assert again.code == 0 and f"1 of 3 runs lie on {here}/b/outputs/x: 2;" in again.out
    shutil.rmtree(tmp_path / "a/outputs/x/0")
    gone = command(resume.main, ["outputs/x", "trust=true"], tmp_path / "a")
    assert gone.code == 1
    assert "the folder of run 0 is gone, and its results with it" in gone.out


def ended(number: int) -> Run:
    return Run(number, number, "finished", 0.5, {"lr": "0.1"})


@pytest.mark.parametrize(
    ("noted", "lies"),
    [
        (Place("other", "/data/x"), "elsewhere"),
        (Place("other", ""), "elsewhere"),  # of a worker of an older lrlab
        (Place(socket.gethostname(), ""), "gone"),
        (Place(socket.gethostname(), "/data/x"), "elsewhere"),
        (Place("sharing", "/mnt/x"), "gone"),  # another of its runs is here
        (None, "gone"),
    ],
)
def test_a_run_is_gone_only_where_its_disk_is_here(
    noted: Place | None, lies: str, tmp_path: Path
) -> None:
    (tmp_path / "0").mkdir()
    records.write_summary(tmp_path / "0", {"run": 0, "state": "finished"})
    places = {0: Place("sharing", "/mnt/x")} | ({} if noted is None else {1: noted})
    elsewhere, gone = leftout.missing(tmp_path, [ended(0), ended(1)], places)
    assert (list(elsewhere), gone) == (([noted], []) if lies == "elsewhere" else ([], [1]))


def test_what_another_machine_finished_is_not_taken_from_what_was_begun_here(
    tmp_path: Path,
) -> None:
    (tmp_path / "0").mkdir()
    records.write_summary(tmp_path / "0", {"run": 0, "state": "running"})
    elsewhere, gone = leftout.missing(tmp_path, [ended(0)], {0: Place("other", "/x")})
    assert (list(elsewhere), gone) == ([Place("other", "/x")], [])


def test_a_host_is_in_the_name_of_its_worker() -> None:
    assert heartbeat.host_of(heartbeat.new_id()) == socket.gethostname()
    assert heartbeat.host_of("my-node-7-123-abcdef01") == "my-node-7"


def test_a_line_for_many_runs_is_short() -> None:
    (line,) = leftout.elsewhere_lines(
        {Place("h", "/x"): list(map(ended, range(64)))}, 90, "val_acc", True
    )
    assert re.fullmatch(
        r"64 of 90 runs lie on h:/x: 0, .*, 9 and 54 more; highest val_acc 0.5, run 0 \(lr=0.1\)",
        line,
    )
