"""The pool: places that fall free are taken, and no run's bits show who trained beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.pools import Scripted, starts, stopped, train, went_on
from helpers.training import CLASSES, Trainer, assert_same_bits, read
from torch import Tensor, nn

from lrlab import records
from lrlab.errors import NotWritten
from lrlab.plan.spec import group_key
from lrlab.training import checkpoints, pool
from lrlab.training.pool import Report

STEPS_PER_EPOCH = 10  # 640 samples, batches of 64


# --- refilling ------------------------------------------------------------------------------------

RUNS = [
    "lr=0.1 epochs=1",
    "lr=0.2 epochs=3",
    "lr=0.05 epochs=2 schedule=step schedule.gamma=0.5",
    "lr=1e38 epochs=2",
    "lr=0.3 epochs=1 seed=3",
    "lr=0.02 epochs=3 seed=3 schedule=plateau",
    "lr=0.1 epochs=2 optimizer.momentum=0.9",
]


@pytest.mark.full
@pytest.mark.parametrize(
    ("common", "way"),
    [
        ("network.hidden=[37,16]", "together"),
        ("optimizer=adam network.hidden=[16]", "together"),
        ("optimizer._target_=torch.optim.NAdam network.hidden=[16]", "together"),
        # whether a convolution of many lanes has the bits of one depends on the processor
        (
            "network=cnn network.channels=[3,4] network.hidden=[8]",
            "together or one at a time",
        ),
        ("network=custom network._target_=test_pool.Noisy", "unmapped"),
    ],
)
def test_a_run_in_a_refilled_place_has_the_bits_that_it_has_alone(
    trainer: Trainer, common: str, way: str
) -> None:
    runs = [run.replace("optimizer.momentum=0.9", "") for run in RUNS] if "adam" in common else RUNS
    runs = [r.replace("optimizer.momentum=0.9", "") for r in runs] if "NAdam" in common else runs
    specs = trainer.specs(runs, common)
    source = Scripted(starts(specs))
    train(source, width=3)
    assert sorted(source.over) == list(range(len(runs)))
    # run 0 ends at tick 1 and run 3, which takes its place, at once
    assert source.taken == {0: 0, 1: 0, 2: 0, 3: 1, 4: 2, 5: 2, 6: 3}
    group = [read(spec.folder) for spec in specs]
    assert group[1].summary["lanes"]["way"] in way.split(" or ")
    every = 1 if common == "network.hidden=[37,16]" else 3  # the others are spared the time
    for run, text in list(zip(group, runs, strict=True))[::every]:
        assert_same_bits(run, trainer.reference(text, common))


class Noisy(nn.Module):
    """Draws at each step, in training and in evaluations."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(144, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.linear(x + 0.1 * torch.randn_like(x))


@pytest.mark.full
def test_stacks_of_several_groups_share_the_places(trainer: Trainer) -> None:
    runs = [
        "lr=0.1 network.hidden=[5] epochs=2",
        "lr=0.1 network.hidden=[7] epochs=1",
        "lr=0.2 network.hidden=[5] epochs=1",
        "lr=0.2 network.hidden=[7] epochs=2 threads=1",
        "lr=0.3 network.hidden=[5] epochs=1",
    ]
    specs = trainer.specs(runs)
    source = Scripted(starts(specs))
    train(source, width=2)
    assert source.taken == {0: 0, 1: 0, 2: 1, 3: 2, 4: 2}
    for spec, text in zip(specs, runs, strict=True):
        assert_same_bits(read(spec.folder), trainer.reference(text))


def test_memory_limits_the_lanes(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = trainer.specs(["lr=0.1", "lr=0.2", "lr=0.3"], "network.hidden=[37] epochs=1")
    monkeypatch.setattr(pool.devices, "free_memory", lambda device: 1)
    source = Scripted(starts(specs))
    train(source)
    assert source.taken == {0: 0, 1: 0, 2: 1} or source.taken == {0: 0, 1: 1, 2: 2}
    assert all(read(spec.folder).summary["lanes"]["width"] == 1 for spec in specs)


# --- pruning --------------------------------------------------------------------------------------


@pytest.mark.full
def test_a_pruned_run_leaves_and_the_next_takes_its_place(trainer: Trainer) -> None:
    runs = ["lr=0.1", "lr=0.001", "lr=0.2", "lr=0.05 seed=2", "lr=0.002"]
    common = "network.hidden=[8] epochs=3"
    specs = trainer.specs(runs, common)

    def slow(heard: dict[int, list[Report]]) -> set[int]:
        return {run for run in (1, 4) if len(heard.get(run, [])) == (1 if run == 1 else 2)}

    source = Scripted(starts(specs), slow)
    display = train(source, width=2)
    assert source.taken == {0: 0, 1: 0, 2: 1, 3: 3, 4: 4}
    assert display.states == {0: "finished", 1: "pruned", 2: "finished", 3: "finished", 4: "pruned"}
    for number, text in enumerate(runs):
        run, alone = read(specs[number].folder), trainer.alone(text, common)
        if number in (0, 2, 3):
            assert_same_bits(run, alone)
            assert len(source.heard[number]) == 2  # at its end a run is judged no more
            continue
        epochs = 1 if number == 1 else 2
        rows = epochs * STEPS_PER_EPOCH
        assert run.summary["state"] == "pruned"
        assert run.summary["pruned_at_epoch"] == epochs
        assert run.metrics[:rows].equals(alone.metrics[:rows])
        last = run.metrics.iloc[rows]
        assert len(run.metrics) == rows + 1
        assert last["val_loss"] == alone.metrics["val_loss"][rows]
        assert np.float32(last["val_loss"]) == np.float32(run.summary["val_loss"])
        assert run.summary["test_loss"] is None and run.summary["train_loss"] is None
        assert f"pruned after epoch {epochs}" in run.log


def test_a_report_has_what_the_records_have(trainer: Trainer) -> None:
    specs = trainer.specs(["lr=0.1", "lr=0.2 seed=1"], "network.hidden=[16] epochs=3")
    source = Scripted(starts(specs))
    train(source)
    for number, spec in enumerate(specs):
        metrics = read(spec.folder).metrics
        for report in source.heard[number]:
            row = metrics[metrics["step"] == report.epoch * STEPS_PER_EPOCH].iloc[0]
            assert np.float32(report.val_loss) == np.float32(row["val_loss"])
            assert np.float32(report.val_acc) == np.float32(row["val_acc"])
            epoch = metrics[metrics["epoch"] == report.epoch - 1]
            assert report.train_loss == pytest.approx(epoch["train_loss"].mean(), rel=1e-7)


# --- stopping and going on ------------------------------------------------------------------------

GOING_ON = [
    ("network.hidden=[37,16]", RUNS[:3]),
    ("optimizer=momentum network.hidden=[16]", ["lr=0.1", "lr=0.02 seed=1", "lr=0.05"]),
    ("optimizer=adam network.hidden=[16]", ["lr=0.01", "lr=0.002 seed=1", "lr=0.1 epochs=1"]),
    ("optimizer._target_=torch.optim.NAdam network.hidden=[16]", ["lr=0.01", "lr=0.002 seed=1"]),
    ("schedule=plateau schedule.patience=0 network.hidden=[16]", ["lr=0.5", "lr=0.1 seed=1"]),
    ("network=custom network._target_=test_pool.Normalised", ["lr=0.1", "lr=0.3 seed=1"]),
    ("network=custom network._target_=test_pool.Noisy", ["lr=0.1", "lr=0.3 seed=1"]),
]


class Normalised(nn.Module):
    """Batch norm: its buffers are part of a lane's state."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(144, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.full(after=1)
@pytest.mark.parametrize(
    ("steps", "every"),
    [(7, "auto"), (1, "auto"), (10, "auto"), (17, "auto"), (11, "1"), (7, "null")],
)
@pytest.mark.parametrize(("common", "runs"), GOING_ON[:1])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    trainer: Trainer, common: str, runs: list[str], steps: int, every: str
) -> None:
    specs = trainer.specs(runs, f"{common} checkpoint_every={every}")
    before = stopped(specs, steps)
    for spec in specs:
        if spec.number in before.over:
            continue
        run = read(spec.folder)
        assert run.summary["state"] == "interrupted"
        assert run.metrics["train_loss"].count() == steps
        assert "interrupted at step" in run.log
        assert records.checkpoint_file(spec.folder).exists() == (every != "null")
    assert sorted(before.given_back + before.over) == [spec.number for spec in specs]
    went_on(specs, before)
    for spec, text in zip(specs, runs, strict=True):
        assert_same_bits(read(spec.folder), trainer.reference(text, common))
        assert not records.checkpoint_file(spec.folder).exists()


@pytest.mark.full(after=1)
@pytest.mark.parametrize(("common", "runs"), [*GOING_ON[3:4], *GOING_ON[1:3], *GOING_ON[4:]])
def test_every_kind_of_state_survives_a_stop(
    trainer: Trainer, common: str, runs: list[str]
) -> None:
    specs = trainer.specs(runs, f"{common} epochs=3")
    went_on(specs, stopped(specs, 14))
    for spec, text in zip(specs, runs, strict=True):
        assert_same_bits(read(spec.folder), trainer.reference(text, f"{common} epochs=3"))


@pytest.mark.full(after=1)
@pytest.mark.parametrize(("optimizer", "steps"), [("sgd", 5), ("adam", 12)])
def test_a_regression_goes_on_to_the_same_bits(
    trainer: Trainer, optimizer: str, steps: int, tmp_path: Path
) -> None:
    draw = np.random.default_rng(7)
    x = draw.normal(size=(140, 3))
    np.savez(tmp_path / "plane.npz", x=x, y=x @ draw.normal(size=(3, 2)))
    common = f"data=arrays data.path={tmp_path / 'plane.npz'} loss=mse network.hidden=[8] "
    common += f"optimizer={optimizer} batch_size=16 epochs=3"  # 7 steps an epoch
    runs = ["lr=0.05", "lr=0.1 seed=1", "lr=0.02"]
    specs = trainer.specs(runs, common)
    before = stopped(specs, steps)
    for spec in specs:
        interrupted = read(spec.folder)
        assert interrupted.metrics["train_loss"].count() == steps
        assert interrupted.metrics["val_acc"].isna().all()
    went_on(specs, before)
    for spec, text in zip(specs, runs, strict=True):
        assert f"goes on from its checkpoint at step {steps}" in read(spec.folder).log
        assert_same_bits(read(spec.folder), trainer.reference(text, common))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Scripted:
    """The runs in three places, with no stop."""
    threads = torch.get_num_threads()
    specs = Trainer(tmp_path_factory.mktemp("whole")).specs(RUNS, "network.hidden=[37]")
    source = Scripted(starts(specs))
    train(source, width=3)
    torch.set_num_threads(threads)
    return source


@pytest.mark.full
@pytest.mark.parametrize(
    ("steps", "every"), [(22, "auto"), (15, "null"), (30, "2")]
)
def test_a_refilled_pool_goes_on_where_it_was(
    trainer: Trainer, uninterrupted: Scripted, steps: int, every: str
) -> None:
    """Runs that were at different epochs come to the same tick again."""
    common = f"network.hidden=[37] checkpoint_every={every}"
    specs = trainer.specs(RUNS, common)
    before = stopped(specs, steps, width=3)
    then = went_on(specs, before, width=3)
    for spec, text in zip(specs, RUNS, strict=True):
        assert_same_bits(read(spec.folder), trainer.reference(text, "network.hidden=[37]"))
    assert {**then.taken, **before.taken} == uninterrupted.taken
    for number, reports in uninterrupted.heard.items():
        assert before.heard.get(number, []) + then.heard.get(number, []) == reports


def test_a_damaged_or_lonely_checkpoint_is_left_alone(trainer: Trainer) -> None:
    common, runs = "network.hidden=[37]", ["lr=0.1", "lr=0.2", "lr=0.3"]
    specs = trainer.specs(runs, common)
    before = stopped(specs, 15)
    records.checkpoint_file(specs[0].folder).write_bytes(b"no checkpoint")
    records.start_metrics(specs[1].folder)  # as if the rows had not reached the disk
    went_on(specs, before)
    for spec, text in zip(specs, runs, strict=True):
        assert_same_bits(read(spec.folder), trainer.reference(text, common))
    assert "goes on from its checkpoint at step 15" in read(specs[2].folder).log
    assert "goes on" not in read(specs[0].folder).log + read(specs[1].folder).log


@pytest.mark.full
def test_a_checkpoint_is_written_every_so_many_epochs(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    write = checkpoints.write

    def noted(file: Path, state: Any) -> None:
        write(file, state)
        if file.name == "checkpoint.pt":
            steps.append(state["step"])

    monkeypatch.setattr(checkpoints, "write", noted)
    for every, expected in [("1", [10, 20]), ("2", [20]), ("auto", []), ("null", [])]:
        steps.clear()
        trainer.alone("lr=0.1", f"network.hidden=[5] epochs=3 checkpoint_every={every}")
        assert steps == expected


def test_a_full_disk_ends_the_whole_and_harms_nothing(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    common, runs = "network.hidden=[37] epochs=2", ["lr=0.1", "lr=0.2"]
    specs = trainer.specs(runs, common)
    append, written = records.files.append, 0

    def full(file: Path, text: str) -> None:
        nonlocal written
        written += file.name == "metrics.csv"
        if written > 5:
            append(file, text[: len(text) // 2])  # a disk takes what still fits
            raise NotWritten(file, OSError(28, "No space left on device"))
        append(file, text)

    source = Scripted(starts(specs))
    with monkeypatch.context() as patch:
        patch.setattr(records.files, "append", full)
        with pytest.raises(NotWritten, match=r"metrics\.csv.*No space left"):
            train(source)
    for spec in specs:
        assert records.read_summary(spec.folder)["state"] == "running"
        assert not records.read_metrics(spec.folder).empty  # a torn last line is left out
    went_on(specs, source)
    for spec, text in zip(specs, runs, strict=True):
        assert_same_bits(read(spec.folder), trainer.reference(text, common))


# --- failures -------------------------------------------------------------------------------------


class OutOfMemory(nn.Module):
    """Runs out of memory as soon as more than two lanes go through it together."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(144, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return _Limited.apply(self.linear(x.flatten(1)))


class _Limited(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: object, inputs: object, output: object) -> None:
        pass

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return grads[0]

    @staticmethod
    def vmap(info, in_dims, x):  # type: ignore[no-untyped-def]
        if info.batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x.clone(), in_dims[0]


@pytest.mark.full
def test_out_of_memory_halves_the_lanes(trainer: Trainer) -> None:
    common = "network=custom network._target_=test_pool.OutOfMemory"
    runs = ["lr=0.1", "lr=0.2", "lr=0.3", "lr=0.4 seed=1", "lr=0.5"]
    specs = trainer.specs(runs, common)
    source = Scripted(starts(specs))
    display = train(source)
    assert any("out of memory with 5 lanes; going on with 2" in note for note in display.notes)
    for spec, text in zip(specs, runs, strict=True):
        run = read(spec.folder)
        assert run.summary["lanes"]["width"] <= 2
        assert_same_bits(run, trainer.reference(text, common))


class NeverFits(OutOfMemory):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 TB")
        return self.linear(x.flatten(1))


def test_out_of_memory_gives_up_at_one_lane(trainer: Trainer) -> None:
    specs = trainer.specs(
        ["lr=0.1", "lr=0.2", "lr=0.3"], "network=custom network._target_=test_pool.NeverFits"
    )
    source = Scripted(starts(specs))
    train(source)
    assert sorted(source.over) == [0, 1, 2]
    for spec in specs:
        run = read(spec.folder)
        assert run.summary["state"] == "failed"
        assert "can't allocate memory" in run.summary["error"]
        assert "Traceback" in run.log


@pytest.mark.full
def test_a_failure_among_refilled_lanes_is_its_own(trainer: Trainer) -> None:
    common = "network=custom network._target_=helpers.networks.FailsLate epochs=3"
    growing = "schedule=step schedule.gamma=1e5"
    runs = ["lr=0.01 epochs=1", "lr=0.02", f"lr=0.01 {growing}", "lr=0.03 seed=1", "lr=0.04"]
    specs = trainer.specs(runs, common)
    source = Scripted(starts(specs))
    train(source, width=2)
    states = [read(spec.folder).summary["state"] for spec in specs]
    assert states == ["finished", "finished", "failed", "finished", "finished"]
    assert sorted(source.over) == list(range(5))
    for number in (0, 1, 3, 4):
        assert_same_bits(read(specs[number].folder), trainer.reference(runs[number], common))


def test_no_run_is_reported_after_it_ended(trainer: Trainer) -> None:
    specs = trainer.specs(["lr=0.1 epochs=1", "lr=1e38", "lr=0.1 epochs=2"], "network.hidden=[5]")
    source = Scripted(starts(specs))
    train(source)
    assert set(source.heard) == {2}
    assert [r.epoch for r in source.heard[2]] == [1]
    assert sorted(source.over) == [0, 1, 2]
    assert group_key(specs[0]) == group_key(specs[2])
