"""`memory_limit=`: what it holds trains, to the same bits; and workers on devices of their own."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import Ended, command, files, one_folder, summaries, sweep
from helpers.training import Silent, Trainer, assert_same_bits, make_specs, read

from lrlab import records, resume
from lrlab.config import checks
from lrlab.errors import UserError
from lrlab.plan import memory
from lrlab.plan.spec import RunSpec
from lrlab.probes import branches
from lrlab.sweeping import workers
from lrlab.training import pool, train
from lrlab.training.stack import Stack

GRID = ("lr=0.01,0.03,0.1,0.3,1.0", "network.hidden=[8]", "name=x")


# --- amounts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("auto", None),
        ("2GB", 2_000_000_000),
        ("500MB", 500_000_000),
        ("1.5GiB", 1_610_612_736),
        ("0.5 kb", 500),
        ("3KiB", 3072),
        ("1TiB", 2**40),
        ("77B", 77),
        ("123456", 123456),
        (123456, 123456),
        (2e9, 2_000_000_000),
        ("100M", 100_000_000),
        ("1.5Gi", 3 * 2**29),
        ("7k", 7_000),
        ("12 b", 12),
    ],
)
def test_amounts_of_memory(typed: Any, expected: int | None) -> None:
    assert checks.memory_limit({"memory_limit": typed}) == expected


def test_configs_of_older_runs_have_no_limit() -> None:
    assert checks.memory_limit({}) is None


@pytest.mark.parametrize(
    "told", ["0", -1, 0, 0.5, "0GB", "2XB", "GB", "1e999", math.nan, math.inf, True, None, [1], ""]
)
def test_what_is_no_amount(told: Any) -> None:
    with pytest.raises(UserError, match="memory_limit="):
        checks.memory_limit({"memory_limit": told})


@pytest.mark.parametrize("typed", ["much", "2X", "null"])
def test_what_is_no_amount_is_refused(typed: str, tmp_path: Path) -> None:
    refused = sweep("lr=0.1", f"memory_limit={typed}", cwd=tmp_path)
    assert (refused.code, refused.out) == (2, "")
    (line,) = refused.err.splitlines()
    assert line.startswith("lrlab: memory_limit=")
    assert "must be auto or an amount" in line and "2GB" in line and "1.5GiB" in line
    assert files(tmp_path) == []


@pytest.mark.parametrize("size", [1, 999, 10_000, 12_345_678, 9_999_999_999, 10_000_000_001])
def test_a_spelt_amount_is_enough_and_hardly_more(size: int) -> None:
    spelt = checks.memory_limit({"memory_limit": memory.spelt(size)})
    assert spelt is not None and size <= spelt <= 1.1 * size


# --- a limit that is too small --------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("measured", ["diagnostics=off", "diagnostics=default"])
def test_a_limit_that_holds_no_run_says_how_much_would_do(measured: str, tmp_path: Path) -> None:
    refused = sweep(*GRID, measured, "memory_limit=1MB", cwd=tmp_path)
    assert (refused.code, refused.out) == (2, "")
    (line,) = refused.err.splitlines()
    assert line.startswith("lrlab: memory_limit=1MB: too little: the data take ")
    assert files(tmp_path) == []
    enough = re.findall(r"memory_limit=(\d+)([kMG]B)", line)[-1]
    ended = sweep(*GRID, measured, f"memory_limit={''.join(enough)}", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    widths = {s["lanes"]["width"] for s in summaries(tmp_path / "outputs" / "x")}
    assert max(widths) <= 3  # as many as the branch test of one run has
    less = f"memory_limit={int(enough[0]) - 1}{enough[1]}"
    tight = sweep("lr=0.1", "network.hidden=[8]", measured, less, "name=y", cwd=tmp_path)
    assert tight.code == 2 and not (tmp_path / "outputs" / "y").exists()


def test_workers_share_a_limit(tmp_path: Path) -> None:
    needed = need_of(["lr=0.1"], "memory_limit=10GB")
    whole = needed.data_bytes + needed.lane
    spec = make_specs(tmp_path, ["lr=0.1"], f"memory_limit={2 * whole}")
    memory.check(spec, sharing=2)
    with pytest.raises(UserError, match=r"in each of 3 workers; use at least memory_limit="):
        memory.check(spec, sharing=3)


def test_a_run_that_a_search_draws_and_that_does_not_fit_fails_alone(tmp_path: Path) -> None:
    """Only the corners of what is searched are judged before the sweep begins."""
    specs = make_specs(tmp_path, ["network.hidden=[8]", "network.hidden=[2000]"])
    small, large = (memory.needs(spec) for spec in specs)
    limit = small.data_bytes + (small.lane + large.lane) // 2
    limited = make_specs(
        tmp_path, ["network.hidden=[8]", "network.hidden=[2000]"], f"memory_limit={limit}"
    )
    memory.check(limited[:1])
    with pytest.raises(UserError, match="memory_limit="):
        memory.check(limited)


# --- chunks ---------------------------------------------------------------------------------------


def need_of(runs: Sequence[str], common: str = "") -> memory.Needs:
    return memory.needs(make_specs(Path("nowhere"), runs, common)[0])


def limit_for(needs: memory.Needs, lanes: float) -> int:
    return int(needs.data_bytes + lanes * needs.lane)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep without a limit."""
    home = tmp_path_factory.mktemp("whole")
    assert sweep(*GRID, cwd=home).code == 0
    return home / "outputs" / "x"


@pytest.fixture(scope="module")
def needs(tmp_path_factory: pytest.TempPathFactory) -> memory.Needs:
    """What a run of these sweeps needs, on MNIST; other tests have a data set of their own."""
    found: list[memory.Needs] = []
    real = memory.needs

    def noted(spec: RunSpec) -> memory.Needs:
        found.append(real(spec))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "needs", noted)
        home = tmp_path_factory.mktemp("needs")
        assert sweep("lr=0.1", "network.hidden=[8]", cwd=home).code == 0
    return found[0]


def curves(folder: Path) -> list[bytes]:
    return [(run / "metrics.csv").read_bytes() for run in records.run_folders(folder)]


def widths(folder: Path) -> list[int]:
    return [summary["lanes"]["width"] for summary in summaries(folder)]


@pytest.mark.full
def test_a_small_limit_trains_in_chunks_to_the_same_bits(
    whole: Path, needs: memory.Needs, tmp_path: Path
) -> None:
    assert widths(whole) == [5] * 5
    limit = limit_for(needs, 2.5)
    ended = sweep(*GRID[:2], "name=chunks", f"memory_limit={limit}", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    chunks = tmp_path / "outputs" / "chunks"
    assert curves(chunks) == curves(whole)
    assert widths(chunks) == [2, 2, 2, 2, 1]
    assert "lane 2 of 2, trained together" in (chunks / "1" / "run.log").read_text("utf-8")
    assert (chunks / "runs.csv").read_text("utf-8") == (whole / "runs.csv").read_text("utf-8")


@pytest.mark.full
def test_a_resumed_sweep_keeps_its_limit_and_may_be_given_another(
    needs: memory.Needs, tmp_path: Path
) -> None:
    limit = f"memory_limit={limit_for(needs, 2.5)}"
    arguments = ("lr=0.1,0.2", "network.hidden=[8]", "name=x", limit)
    assert sweep(*arguments, cwd=tmp_path).code == 0
    folder = tmp_path / "outputs" / "x"

    def resumed(*more: str) -> Ended:
        return command(resume.main, ["outputs/x", *more], tmp_path)

    assert resumed("lr=0.1,0.2,0.3,0.4,0.5").code == 0
    assert widths(folder) == [2, 2, 2, 2, 1]
    refused = resumed("lr=0.1,0.2,0.3,0.4,0.5,0.6", "memory_limit=1MB")
    assert refused.code == 2 and "use at least" in refused.err
    assert resumed("lr=0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8", "memory_limit=auto").code == 0
    assert widths(folder)[5:] == [3] * 3


@pytest.mark.full
def test_a_search_under_a_limit_is_one_of_so_many_lanes(
    needs: memory.Needs, tmp_path: Path
) -> None:
    search = ("lr=1e-3..1", "n_trials=5", "network.hidden=[8]", "sampler.n_startup_trials=2")
    assert sweep(*search, "name=two_lanes", "lanes=2", cwd=tmp_path).code == 0
    limit = f"memory_limit={limit_for(needs, 2.9)}"
    assert sweep(*search, "name=limited", limit, cwd=tmp_path).code == 0
    limited, two = (tmp_path / "outputs" / name for name in ("limited", "two_lanes"))
    assert widths(limited) == widths(two)
    assert curves(limited) == curves(two)


@pytest.mark.full
@pytest.mark.parametrize(("lanes", "expected"), [(2, [2, 2, 1]), (4, [3, 3, 3])])
def test_the_fewer_of_lanes_and_limit_counts(
    lanes: int, expected: list[int], trainer: Trainer
) -> None:
    runs = [f"lr={lr}" for lr in (0.1, 0.2, 0.3)]
    limit = limit_for(need_of(["lr=0.1"]), 3.5)
    specs = trainer.specs(runs, f"memory_limit={limit} epochs=1")
    assert trained_widths(specs, lanes) == expected


@pytest.mark.full
def test_data_that_two_groups_share_count_once(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = ["network.hidden=[8] lr=0.1", "network.hidden=[9] lr=0.1"]
    first, second = (memory.needs(spec) for spec in make_specs(trainer.folder, runs))
    both = first.data_bytes + first.lane + second.lane
    asked: list[RunSpec] = []
    real = memory.needs
    monkeypatch.setattr(memory, "needs", lambda spec: asked.append(spec) or real(spec))
    for limit, order in ((both, [0, 1, 0, 1]), (both - 1, [0, 0, 1, 1])):
        specs = trainer.specs(runs, f"memory_limit={limit} epochs=2")
        assert epochs_in_order(specs) == order
    specs = trainer.specs(runs * 3, "epochs=1")
    del asked[:]
    epochs_in_order(specs)
    assert len(asked) == 2  # once a group, however many runs it has


def epochs_in_order(specs: Sequence[RunSpec]) -> list[int]:
    """The first run of each stack whose epoch was trained."""
    order: list[int] = []
    real = train.train_epoch

    def noted(stack: Stack, *arguments: Any) -> None:
        order.append(stack.runs[0].spec.number)
        real(stack, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train_epoch", noted)
        pool.run(pool.Batch(specs), None, "cpu", Silent(), {spec.number: 0 for spec in specs})
    return order


@pytest.mark.full
def test_a_branch_test_stays_within_the_limit(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = "network.hidden=[8] diagnostics=full"
    needs = need_of(["lr=0.1"], common)
    room = 7 * needs.branch  # two runs' branches, and one lane that is of no use
    assert room >= needs.lane
    limit = needs.data_bytes + room
    runs = [f"lr={lr}" for lr in (0.1, 0.2, 0.3, 0.05, 0.02)]
    specs = trainer.specs(runs, f"{common} memory_limit={limit}")
    pool.run(pool.Batch(specs), None, "cpu", Silent(), {spec.number: 0 for spec in specs})
    sizes: list[int] = []
    real = branches._train_on
    monkeypatch.setattr(
        branches, "_train_on", lambda group, *rest: sizes.append(len(group)) or real(group, *rest)
    )
    assert branches.test(specs, None, lambda: False) == []
    assert sizes == [2, 2, 1]
    free = trainer.specs(runs, common)
    pool.run(pool.Batch(free), None, "cpu", Silent(), {spec.number: 0 for spec in free})
    assert branches.test(free, None, lambda: False) == []
    for spec, other in zip(specs, free, strict=True):
        ours, theirs = (s.folder / "branches.csv" for s in (spec, other))
        assert ours.read_bytes() == theirs.read_bytes()


# --- padded stacks --------------------------------------------------------------------------------


@pytest.mark.full
def test_the_rows_that_pad_a_stack_count(trainer: Trainer) -> None:
    """A stack of one lane that is padded to four takes as much as one of four."""
    runs = [f"lr={lr}" for lr in (0.1, 0.2, 0.3, 0.4, 0.5)]
    for lanes, expected in ((7.5, [4, 4, 4, 4, 1]), (8, [4, 4, 4, 4, 1])):
        limit = limit_for(need_of(["lr=0.1"]), lanes)
        specs = trainer.specs(runs, f"memory_limit={limit} epochs=2 pad=4")
        assert trained_widths(specs) == expected
        first = [0, 0, 4, 4] if lanes < 8 else [0, 4, 0, 4]
        again = trainer.specs(runs, f"memory_limit={limit} epochs=2 pad=4")
        assert epochs_in_order(again) == first


@pytest.mark.parametrize(
    ("lanes", "known", "rows"),
    [(0, None, 0), (1, None, 1), (5, None, 8), (8, None, 8), (5, 4, 8), (9, 4, 12), (3, 64, 64)],
)
def test_on_a_gpu_stacks_are_padded_to_a_power_of_two(
    lanes: int, known: int | None, rows: int, tmp_path: Path
) -> None:
    (spec,) = make_specs(tmp_path, ["lr=0.1"])
    on_gpu = RunSpec(**{**vars(spec), "device": "cuda:0"})
    one = pool._Pool(pool.Batch([]), Silent(), lambda: False, None, 0, {})
    if known is not None:
        one.pads[pool._group(one, on_gpu)] = known
    assert pool._rows(one, on_gpu, lanes) == rows
    assert pool._rows(one, spec, lanes) == lanes


# --- the width that is fastest --------------------------------------------------------------------


def test_as_many_lanes_as_fill_the_cache_and_no_less_than_the_least() -> None:
    """By hand: an MLP of 144 inputs, 64 hidden units and 5 classes has 9,605 parameters."""
    own = 4 * (144 * 64 + 64 + 64 * 5 + 5)
    assert need_of(["network.hidden=[64]"]).fastest == memory.CACHE_BYTES // own
    wide = need_of(["network.hidden=[2000]"])
    assert wide.fastest == memory.LEAST_LANES
    spec = make_specs(Path("nowhere"), ["network.hidden=[64]"])[0]
    on_gpu = RunSpec(**{**vars(spec), "device": "cuda:0"})
    assert memory.needs(on_gpu).fastest == math.inf


@pytest.mark.full
def test_more_runs_than_are_fast_train_in_chunks(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CACHE_BYTES", 1)
    monkeypatch.setattr(memory, "LEAST_LANES", 2)
    runs = ["lr=0.1", "lr=0.2", "lr=0.3 epochs=1", "lr=0.1 network.hidden=[9]", "lr=1e38"]
    common = "network.hidden=[8] epochs=2"
    specs = trainer.specs(runs, common)
    assert trained_widths(specs) == [2, 2, 2, 1, 2]
    for spec, text in zip(specs, runs, strict=True):
        assert_same_bits(read(spec.folder), trainer.reference(text, common))


def trained_widths(specs: Sequence[RunSpec], width: int | None = None) -> list[int]:
    """How many lanes trained with each run when it began."""
    pool.run(pool.Batch(specs), width, "cpu", Silent(), {spec.number: 0 for spec in specs})
    return [read(spec.folder).summary["lanes"]["width"] for spec in specs]


def test_lanes_that_the_user_asks_for_are_as_many(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CACHE_BYTES", 1)
    monkeypatch.setattr(memory, "LEAST_LANES", 2)
    specs = trainer.specs(["lr=0.1", "lr=0.2", "lr=0.3"], "network.hidden=[8] epochs=1")
    assert trained_widths(specs, 3) == [3, 3, 3]


# --- workers and their devices --------------------------------------------------------------------


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)


@pytest.mark.parametrize(
    ("device", "count", "on", "share"),
    [
        ("auto", "auto", ["cuda:0", "cuda:1", "cuda:2"], 1),
        ("cuda", "auto", ["cuda:0", "cuda:1", "cuda:2"], 1),
        ("auto", 2, ["cuda:0", "cuda:1"], 1),
        ("auto", 5, ["cuda:0", "cuda:1", "cuda:2", "cuda:0", "cuda:1"], 2),
        ("cuda:1", "auto", ["cuda:1"], 1),
        ("cuda:1", 2, ["cuda:1", "cuda:1"], 2),
        ("cpu", "auto", ["cpu"], 1),
        ("cpu", 2, ["cpu", "cpu"], 2),
    ],
)
def test_each_worker_has_its_device(
    device: str,
    count: int | str,
    on: list[str],
    share: int,
    three_gpus: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []

    class Process:
        returncode = 0

        def __init__(self, command: list[str], env: dict[str, str], **_: Any) -> None:
            started.append((command, env))

        def poll(self) -> int:
            return 0

    monkeypatch.setattr(workers.subprocess, "Popen", Process)
    assert workers.count(count, device) == len(on)
    assert (
        workers.run(tmp_path, workers.count(count, device), 4, device, None, "journal", False) == 0
    )
    told = [word for command, _ in started for word in command if word.startswith("device=")]
    assert told == [f"device={name}" for name in on]
    names = [env["LRLAB_WORKER"] for _, env in started]
    assert names == [f"{number}/{len(on)}" for number in range(1, len(on) + 1)]
    assert {env[memory.SHARING] for _, env in started} == {str(share)}
    assert workers.sharing(count, device) == share


def test_without_a_gpu_auto_is_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert workers.devices("auto") == ["cpu"]
    assert workers.count("auto", "auto") == 1


def test_workers_of_one_device_share_what_is_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (free,) = make_specs(tmp_path, ["lr=0.1"])
    (limited,) = make_specs(tmp_path, ["lr=0.1"], "memory_limit=500MB")
    assert memory.budget(free, 10e9) == pytest.approx(6e9)
    assert memory.budget(limited, 10e9) == 500e6
    assert memory.budget(limited, 1e8) == 1e8  # never more than there is
    monkeypatch.setenv(memory.SHARING, "2")
    assert memory.budget(free, 10e9) == pytest.approx(3e9)
    assert memory.budget(limited, 10e9) == 250e6


@pytest.mark.full
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_worker_leaves_the_sweeps_own_config_alone(tmp_path: Path) -> None:
    """It is given a device and threads; who resumes later is not."""
    assert sweep("lr=0.1,0.2", "network.hidden=[8]", cwd=tmp_path).code == 0
    folder = one_folder(tmp_path / "outputs")
    before = (folder / "multirun.yaml").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LRLAB_WORKER", "1/2")
        given = [str(folder), "device=cpu", "threads=1"]
        assert command(resume.main, given, tmp_path).code == 0
    assert (folder / "multirun.yaml").read_bytes() == before
