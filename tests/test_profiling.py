"""`profile=true`: traces that a viewer opens, of a bounded size, and runs of the same bits."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from helpers.commands import Ended, sweep

from lrlab import records
from lrlab.process import profiling
from lrlab.process.profiling import BEHIND, PREFIX, STEPS, SUFFIX

SWEEP = ("lr=0.05,0.2,1e9", "epochs=5", "diagnostics=full", "name=x")  # 50 steps a run
# What TensorBoard's plugin looks for in a folder, as its source has it.
TENSORBOARD = re.compile(r"^(.*?)(\.\d+)?\.pt\.trace\.json(?:\.gz)?$")


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Ended]]:
    """The same sweep with and without."""
    found = {}
    for profile in ("true", "false"):
        home = tmp_path_factory.mktemp(profile)
        with mock.patch.object(profiling, "SECONDS", 600.0):  # however busy the machine is
            ended = sweep(*SWEEP, f"profile={profile}", cwd=home)
        found[profile] = home / "outputs/x", ended
    return found


def events(file: Path) -> list[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as text:
        found = json.load(text)["traceEvents"]
    assert all(isinstance(event["ph"], str) for event in found)
    return found


def phases(file: Path) -> Counter[str]:
    """How often each phase of lrlab's was recorded."""
    names = [str(event.get("name")) for event in events(file) if event["ph"] == "X"]
    return Counter(name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX))


@pytest.mark.full
def test_each_window_is_a_trace_with_lrlabs_phases(homes: dict[str, tuple[Path, Ended]]) -> None:
    folder, ended = homes["true"]
    assert (ended.code, ended.err) == (0, "")
    files = sorted((folder / "profile").iterdir())
    windows = ["epoch_end", "segment_end", "steps"]
    assert [file.name for file in files] == [f"{window}{SUFFIX}" for window in windows]
    assert all(TENSORBOARD.match(file.name) for file in files)
    told = f"trace  {Path('outputs/x/profile')}: 3 traces, for ui.perfetto.dev or TensorBoard"
    assert told in ended.out.splitlines()
    epoch_end, segment_end, steps = map(phases, files)
    assert steps["gradients"] == steps["update"] == STEPS
    assert steps["measure"] > 0
    assert segment_end["record"] == 1 and segment_end["gradients"] <= BEHIND
    assert epoch_end["evaluate"] == 1 and epoch_end["order"] == 1
    assert epoch_end["gradients"] <= BEHIND


@pytest.mark.full
def test_a_phase_spans_the_operations_that_it_calls(homes: dict[str, tuple[Path, Ended]]) -> None:
    found = events(homes["true"][0] / "profile" / f"steps{SUFFIX}")
    spans = [event for event in found if event.get("name") == f"{PREFIX}gradients"]
    products = [
        event
        for event in found
        if event["ph"] == "X" and re.fullmatch(r"aten::(bmm|baddbmm|mm|addmm)", event["name"])
    ]
    for span in spans:
        begin, end = span["ts"], span["ts"] + span["dur"]
        inside = [e for e in products if begin <= e["ts"] and e["ts"] + e["dur"] <= end]
        assert len(inside) >= 4, "a product a layer at least"


@pytest.mark.full
def test_it_changes_no_bit(homes: dict[str, tuple[Path, Ended]]) -> None:
    (with_it, _), (without, ended) = homes["true"], homes["false"]
    assert not (without / "profile").exists() and "trace " not in ended.out
    for run in records.run_folders(without):
        for name in ("metrics.csv", "diagnostics.csv", "branches.csv"):
            if (run / name).exists():
                assert (with_it / run.name / name).read_bytes() == (run / name).read_bytes()


def test_a_profiler_that_fails_harms_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: Any) -> None:
        raise RuntimeError("no\nprofiler")

    monkeypatch.setattr(torch.profiler.profile, "start", start)
    ended = sweep("lr=0.1", "profile=true", "name=x", cwd=tmp_path)
    assert ended.code == 0
    assert ended.err == "lrlab: profile=true: no trace: RuntimeError: no profiler\n"
    assert records.read_summary(tmp_path / "outputs/x/0")["state"] == "finished"


def test_what_cannot_be_written_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(self: Any, path: str) -> None:
        Path(path).write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", full)
    step = profiling.phase("gradients")(lambda: torch.ones(3) + 1)
    with profiling.traces(tmp_path / "profile"):
        for _ in range(10):
            step()
    assert not list((tmp_path / "profile").iterdir())
    assert "No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize(("worker", "name"), [("", "_run3"), ("2/4", "_worker2")])
def test_processes_and_runs_have_traces_of_their_own(
    worker: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if worker:
        monkeypatch.setenv("LRLAB_WORKER", worker)
    step = profiling.phase("gradients")(lambda: torch.ones(3) + 1)
    with profiling.traces(tmp_path, "run3"):
        for _ in range(1000):
            step()
    (file,) = tmp_path.iterdir()
    assert file.name == f"steps{name}{SUFFIX}"
    assert phases(file)["gradients"] == STEPS, "however long the sweep"


def test_a_long_step_ends_a_window_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "SECONDS", 0.0)
    step = profiling.phase("gradients")(lambda: None)
    with profiling.traces(tmp_path):
        for _ in range(10):
            step()
    (file,) = tmp_path.iterdir()
    assert phases(file)["gradients"] == 1


def test_without_it_a_phase_is_the_function_alone() -> None:
    calls = []

    @profiling.phase("gradients")
    def function(*arguments: int, **keywords: int) -> int:
        """Told."""
        calls.append((arguments, keywords))
        return 7

    assert function(1, two=2) == 7 and calls == [((1,), {"two": 2})]
    assert function.__doc__ == "Told." and function.__name__ == "function"
