"""What a flag names to be written to: nothing is replaced that lrlab did not write."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from lrlab import analysis, bench, records
from lrlab.errors import NotWritten, UserError
from lrlab.process import verbs
from lrlab.verdicts import loading

pytestmark = pytest.mark.unit

CURVES = "run,lr,step,train_loss\n" + "".join(
    f"{run},{lr},{step},{1 / (1 + lr * step)}\n"
    for run, lr in enumerate((0.1, 0.3))
    for step in range(20)
)


def analysed(folder: Path, output: Path) -> None:
    curves = folder / "curves.csv"
    curves.write_text(CURVES, "utf-8")
    analysis.main([str(curves), "--output", str(output)])


def measured(folder: Path, output: Path) -> None:
    try:
        bench.check_writable(output)
    except UserError as error:
        verbs.fail(str(error))


@pytest.mark.parametrize("write", [analysed, measured])
def test_a_pipe_or_a_device_is_not_replaced(
    write: Callable[[Path, Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for output in (pipe, link):
        with pytest.raises(SystemExit) as ended:
            write(tmp_path, output)
        assert ended.value.code == 2
        assert "is a device or a pipe; name a file" in capsys.readouterr().err
    assert stat.S_ISFIFO(pipe.stat().st_mode) and link.is_symlink()


def test_no_record_replaces_what_is_no_file(tmp_path: Path) -> None:
    pipe = tmp_path / "summary.json"
    os.mkfifo(pipe)
    with pytest.raises(NotWritten, match="a device, a pipe or a socket"):
        records.write_whole(pipe, "{}")
    assert stat.S_ISFIFO(pipe.stat().st_mode) and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("write", [analysed, measured])
@pytest.mark.parametrize("theirs", ["a,b,y\n1,2,u\n", '{"weights": 1}', "\x00\xff"])
def test_a_file_of_another_program_stays(
    write: Callable[[Path, Path], None],
    theirs: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(theirs, "utf-8")
    with pytest.raises(SystemExit) as ended:
        write(tmp_path, file)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "exists, and lrlab did not write it" in told and len(told.splitlines()) == 1
    assert file.read_text("utf-8") == theirs


def test_what_lrlab_wrote_is_written_anew_also_through_a_link(tmp_path: Path) -> None:
    file, link = tmp_path / "verdicts.csv", tmp_path / "latest.csv"
    file.write_text("", "utf-8")  # as mktemp leaves it
    link.symlink_to(file)
    for output in (file, link, file):
        analysed(tmp_path, output)
        assert file.read_text("utf-8").startswith("run,lr,") and link.is_symlink()


def test_figures_of_a_bench_are_measured_anew_into_the_same_file(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    file.write_text('{\n  "step_ms": {"8": 1.0}\n}\n', "utf-8")
    assert bench.check_writable(file) == file


def test_a_device_is_no_table_and_nothing_is_no_path() -> None:
    with pytest.raises(UserError, match="/dev/zero: is a device; a CSV of curves is needed"):
        loading.load([Path("/dev/zero")])
    with pytest.raises(UserError, match="'': is no path"):
        verbs.path("")
