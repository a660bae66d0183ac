"""Many at once in one folder: each has its own, and what it comes to is what it comes to alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.commands import QUICK, summaries
from helpers.warm import DATA, Server

from lrlab import records

pytestmark = pytest.mark.full

MANY = 4
TYPED = (*QUICK, *DATA, "network.hidden=[8]")

# All sweeps of this moment have one time stamp, and look for a free name before one makes a folder.
AT_ONCE = """
import datetime, time
from pathlib import Path
import hydra.core.utils
from lrlab import records

class Clock(datetime.datetime):
    @classmethod
    def now(cls):
        return cls(2001, 2, 3, 4, 5, 6)

def create_when_all_are_here(folder, create=records.create_sweep, met=[]):
    if not met:
        met.append(Path(f"here-{os.getpid()}").touch())
        while len(list(Path().glob("here-*"))) < %d:
            time.sleep(0.01)
    return create(folder)

import os
globals().update(os=os)
hydra.core.utils.datetime = Clock
records.create_sweep = create_when_all_are_here
"""


def test_sweeps_of_one_second_have_a_folder_each(server: Server, tmp_path: Path) -> None:
    lrs = [0.01 * (1 + number) for number in range(MANY)]
    started = [
        server.start("lrlab.sweep", *TYPED, f"lr={lr:g},0.5", cwd=tmp_path, prepare=AT_ONCE % MANY)
        for lr in lrs
    ]
    ended = [process.wait() for process in started]
    assert [(each.code, each.err) for each in ended] == [(0, "")] * MANY
    stamp = "2001-02-03_04-05-06"
    folders = {f"{stamp}-{number}" for number in range(2, MANY + 1)} | {stamp}
    outputs = tmp_path / "outputs"
    assert {each.name for each in outputs.iterdir()} == folders
    found = {}
    for name, own in ((name, summaries(outputs / name)) for name in folders):
        assert [each["state"] for each in own] == ["finished"] * 2
        config = records.plain_yaml(records.read_config(outputs / name / "0"))
        assert config["name"] == name
        found[own[0]["lr"]] = outputs / name
    assert sorted(found) == pytest.approx(lrs)
    # one of those that had to take another name
    name = max(folders, key=len)
    lr = summaries(outputs / name)[0]["lr"]
    alone = server.run("lrlab.sweep", *TYPED, f"lr={lr:g},0.5", "name=alone", cwd=tmp_path)
    assert alone.code == 0
    for run in ("0", "1"):
        ours, theirs = (outputs / each / run / "metrics.csv" for each in (name, "alone"))
        assert ours.read_bytes() == theirs.read_bytes()
    assert (outputs / name / "runs.csv").read_text().count("\n") == 3


def test_of_sweeps_with_one_name_one_has_it(server: Server, tmp_path: Path) -> None:
    few = 5
    typed = (*TYPED, "lr=0.1,0.2", "name=mine")
    started = [
        server.start("lrlab.sweep", *typed, cwd=tmp_path, prepare=AT_ONCE % few) for _ in range(few)
    ]
    ended = [process.wait() for process in started]
    assert sorted(each.code for each in ended) == [0] + [2] * (few - 1)
    for each in ended:
        if each.code:
            assert each.err.startswith("lrlab: name=mine: ") and each.err.count("\n") == 1
    (folder,) = (tmp_path / "outputs").iterdir()
    assert [each["state"] for each in summaries(folder)] == ["finished"] * 2


def test_readers_of_a_sweep_that_is_written_see_a_part_of_it(
    server: Server, tmp_path: Path
) -> None:
    typed = (*QUICK, *DATA, "network.hidden=[8]", "epochs=600", "lr=0.01,0.1", "name=x")
    written = server.start("lrlab.sweep", *typed, cwd=tmp_path)
    written.until_lines(2)
    readers = [
        server.start(*words, cwd=tmp_path)
        for number in range(MANY)
        for words in [
            ("lrlab.analysis", "outputs/x")
            if number % 2
            else ("lrlab.report.__main__", "outputs/x")
        ]
    ]
    told = [reader.wait() for reader in readers]
    assert [each.code for each in told] == [0] * MANY
    assert any("2 of 2 runs have not ended" in each.err for each in told)
    done = written.wait()
    assert (done.code, done.err) == (0, "")
    folder = tmp_path / "outputs" / "x"
    assert [each["state"] for each in summaries(folder)] == ["finished"] * 2
    assert (folder / "report.html").read_text("utf-8").endswith("</html>\n")
    left = [p.name for p in folder.iterdir() if p.name.endswith(".tmp")]
    assert left == []
    whole = server.run("lrlab.sweep", *typed[:-1], "name=alone", cwd=tmp_path)
    assert whole.code == 0
    for run in ("0", "1"):
        ours, theirs = (
            tmp_path / "outputs" / name / run / "metrics.csv" for name in ("x", "alone")
        )
        assert ours.read_bytes() == theirs.read_bytes()
