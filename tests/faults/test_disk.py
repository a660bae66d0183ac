"""A disk that is full, a folder that is read-only or gone: told in two lines, nothing harmed."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.interrupted import FEW_FIGURES, MEASURED, QUICK, assert_readable, found, go_on
from helpers.warm import PLOTTING, TELLING, TRAINING, WRITING, Done, Moment, Server

from lrlab import records

pytestmark = [pytest.mark.full, pytest.mark.skipif(not Path("/proc/self").exists(), reason="Linux")]
RESUME = "go on with python -m lrlab.resume outputs/x"


def assert_told(done: Done, reason: str, remedy: str) -> None:
    """That a sweep ended with a line that names the file and one that says what to do."""
    assert done.code == 1, done
    assert done.err.count("\n") == 2, done.err
    first, second = done.err.splitlines()
    assert first.startswith("lrlab: ") and first.endswith(f"({reason})"), done.err
    assert second.startswith(f"lrlab: {remedy}"), done.err


# --- a full disk ----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of eight megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = mount("-t", "tmpfs", "-o", "size=8M", "tmpfs", folder)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here ({done.stderr.strip()})")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def mount(*arguments: Any) -> subprocess.CompletedProcess[str]:
    if shutil.which("mount") is None:
        return subprocess.CompletedProcess(arguments, 1, "", "there is no mount")
    return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)


def test_a_full_disk_is_told_each_time_and_after_room_is_made_it_goes_on(
    server: Server, whole: tuple[Done, dict[str, Any]], small_disk: Path
) -> None:
    sweep, filler = small_disk / "outputs" / "x", small_disk / "filler"
    draw = random.Random(3)
    go_on(server, small_disk, MEASURED, at=Moment(TRAINING, 1, "raise SystemExit"))
    left = draw.randint(0, 40) * 1024
    print(left, "bytes are left")
    with filler.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, shutil.disk_usage(small_disk).free - left)
    done = go_on(server, small_disk, MEASURED)
    assert_told(done, "No space left on device", f"make room for it, then {RESUME}")
    assert_readable(sweep)
    filler.unlink()
    assert mount("-o", "remount,ro", small_disk).returncode == 0
    done = go_on(server, small_disk, MEASURED)
    assert_told(done, "Read-only file system", f"make the folder writable, then {RESUME}")
    assert mount("-o", "remount,rw", small_disk).returncode == 0
    done = go_on(server, small_disk, MEASURED)
    assert (done.code, done.err) == (0, "")
    assert found(sweep) == whole[1]


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


# checkpoints, the journal, model.pt
@pytest.mark.parametrize(("size", "every"), [(10_300, "1"), (11_000, "auto"), (25_000, "1")])
def test_a_file_that_may_not_grow_is_told_and_after_room_is_made_it_goes_on(
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


# --- a read-only folder ---------------------------------------------------------------------------

# Root may write whatever a folder's mode says, unless it gives that right up.
BOUND = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
rights = (ctypes.c_uint32 * 6)()
assert libc.capget(header, rights) == 0
for i in (0, 1):  # effective and permitted, CAP_DAC_OVERRIDE
    rights[i] &= ~(1 << 1)
assert libc.capset(header, rights) == 0
"""


def set_writable(folder: Path, writable: bool) -> None:
    for path in (folder, *folder.rglob("*")):
        usual = 0o755 if path.is_dir() else 0o644
        path.chmod(usual if writable else usual & 0o555)


READ_ONLY = """
from pathlib import Path
sweep = Path("outputs/x")
for path in (sweep, *sweep.rglob("*")):
    path.chmod(0o555 if path.is_dir() else 0o444)
"""


def test_a_folder_that_becomes_read_only_in_each_phase_is_told(
    server: Server, whole: tuple[Done, dict[str, Any]], tmp_path: Path
) -> None:
    draw = random.Random(2)
    sweep = tmp_path / "outputs" / "x"
    how: dict[str, Any] = {"prepare": FEW_FIGURES + BOUND}
    for phase in (TRAINING, TELLING, WRITING, PLOTTING):
        before = phase in (TRAINING, TELLING)
        most = whole[0].changes[phase] // (4 if before else 2)
        moment = Moment(phase, draw.randint(1 + most // 2, most), READ_ONLY)
        print(moment)
        done = go_on(server, tmp_path, MEASURED, at=moment, **how)
        assert_told(done, "Permission denied", f"make the folder writable, then {RESUME}")
        assert_readable(sweep)
        if phase == TELLING:  # and it is told from the start
            done = go_on(server, tmp_path, MEASURED, **how)
            assert_told(done, "Permission denied", f"make the folder writable, then {RESUME}")
        set_writable(sweep, True)
    done = go_on(server, tmp_path, MEASURED, **how)
    assert (done.code, done.err) == (0, "")
    assert found(sweep) == whole[1]


# --- a folder that is gone ------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [TELLING, PLOTTING])
def test_a_sweep_whose_folder_goes_says_so_and_does_not_make_it_again(
    server: Server, whole: tuple[Done, dict[str, Any]], phase: str, tmp_path: Path
) -> None:
    (tmp_path / "outputs" / "y" / "0").mkdir(parents=True)
    (tmp_path / "outputs" / "y" / "0" / "run.log").write_text("a neighbour's")
    count = whole[0].changes[phase]
    at = random.Random(phase).randint(count // 3, count - 1)  # not before its study is made
    remove = "import os, shutil; shutil.rmtree('outputs/x')"
    if phase == TELLING:
        remove = "import os; os.rename('outputs/x', 'moved')"
    done = server.run(
        *("lrlab.sweep", *MEASURED, "name=x"),
        cwd=tmp_path,
        prepare=FEW_FIGURES,
        at=Moment(phase, at, remove),
    )
    gone = f"the folder {tmp_path}/outputs/x is gone, and with it what it had recorded; begin"
    assert_told(done, "No such file or directory", gone)
    files = [f.relative_to(tmp_path / "outputs") for f in (tmp_path / "outputs").rglob("*")]
    assert sorted(map(str, files)) == ["y", "y/0", "y/0/run.log"]
    if phase == TELLING:
        done = server.run("lrlab.resume", "moved", cwd=tmp_path, prepare=FEW_FIGURES)
        assert (done.code, done.err) == (0, "")
        moved = found(tmp_path / "moved")
        assert {**moved, "best.yaml": 0} == {**whole[1], "best.yaml": 0}


def test_a_run_whose_folder_goes_is_told_and_harms_no_other(
    server: Server, whole: tuple[Done, dict[str, Any]], tmp_path: Path
) -> None:
    sweep = tmp_path / "outputs" / "x"
    remove = "import shutil; shutil.rmtree('outputs/x/0')"
    # while it trains it begins anew ...
    done = go_on(server, tmp_path, MEASURED, at=Moment(TRAINING, 20, remove))
    again = f"it was removed; {RESUME}, which trains anew a run that had not ended"
    assert_told(done, "No such file or directory", again)
    done = go_on(server, tmp_path, MEASURED)
    assert (done.code, done.err) == (0, "")
    assert found(sweep) == whole[1]
    # ... and once it has ended its results are lost, the others' are not
    for moment in (Moment(WRITING, 15, remove), None):
        done = go_on(server, tmp_path, MEASURED, at=moment)
        assert done.code == 1 and "Traceback" not in done.err, done
    assert done.out.endswith("lrlab: the folder of run 0 is gone, and its results with it\n")
    now, was = found(sweep), whole[1]
    assert now["curves"] == was["curves"][1:] and now["results"] == was["results"][1:]
    assert now["trials"] == was["trials"]
