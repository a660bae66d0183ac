"""On a CUDA GPU: a lane has the bits of its run alone, and nothing waits within an epoch.

The captured step, padding and precision are tested on the CPU elsewhere; this is what only a GPU
can tell.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.commands import command
from helpers.training import Silent, Trainer, assert_same_bits, make_specs, read, tiny_images

from lrlab import records, reproduce, sweep
from lrlab.data import Dataset
from lrlab.engine import devices
from lrlab.errors import Stopped
from lrlab.plan import build
from lrlab.plan.spec import group_key
from lrlab.training import building, pool, train
from lrlab.training.stack import Stack

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

GPU = "device=cuda"
LRS = ["lr=0.01", "lr=0.1", "lr=0.03", "lr=1e12", "lr=0.3"]  # one diverges on the way
MNIST = ["data.train_size=6400", "epochs=2", "plots=off", GPU]


@pytest.fixture(scope="module")
def images() -> Dataset:
    return tiny_images().to("cuda:0")


@pytest.mark.parametrize(
    "common",
    [
        "network.hidden=[64,64]",
        "network.hidden=[100] optimizer=adam schedule=exponential",
        "network.hidden=[33] optimizer=momentum loss=mse_one_hot batch_size=17",
        "network.hidden=[33] batch_size=130",
        "network.hidden=[64] loss=mse_one_hot batch_size=20",
        "network.hidden=[64] diagnostics=full",
        "network=cnn",
        "network.hidden=[64] precision=tf32",
        "network.hidden=[64] precision=bf16",
        "network.hidden=[64] capture=false",
    ],
)
@pytest.mark.parametrize("seeds", ["one", "own"])
def test_a_lane_has_the_bits_of_its_run_alone(
    common: str, seeds: str, images: Dataset, trainer: Trainer
) -> None:
    runs = [f"{lr} seed={i if seeds == 'own' else 0}" for i, lr in enumerate(LRS)]
    if "adam" in common:
        runs = [run.replace("lr=0.", "lr=0.0") for run in runs]
    common = f"{common} {GPU} epochs=6"
    together = trainer.together(runs, common, images)
    for run, lane in zip(runs, together, strict=True):
        pad = lane.summary["lanes"]["pad"]
        assert pad == 8
        assert_same_bits(lane, trainer.alone(run, f"{common} pad={pad}", images))


@pytest.mark.parametrize("network", ["network.hidden=[64]", "network=cnn"])
def test_its_default_way_is_captured_and_together(
    network: str, images: Dataset, trainer: Trainer
) -> None:
    """Else the tests above would show only that one at a time is alone."""
    stack = _stack(trainer, images, network)
    train.train_epoch(stack, Silent(), lambda: False)
    assert stack.step is not None and stack.step.way == "captured"
    if "cnn" not in network:
        assert stack.lanes.way == "together"


def test_captured_steps_have_the_bits_of_plain_ones(images: Dataset, trainer: Trainer) -> None:
    common = f"network.hidden=[64,64] {GPU} epochs=6"
    runs = [f"lr={lr}" for lr in (0.01, 0.1, 0.3)]
    captured = trainer.together(runs, common, images)
    plain = trainer.together(runs, f"{common} capture=false", images)
    for one, other in zip(captured, plain, strict=True):
        assert_same_bits(one, other)


def test_nothing_waits_for_the_device_within_an_epoch(images: Dataset, trainer: Trainer) -> None:
    stack = _stack(trainer, images, "network.hidden=[64]")
    train.train_epoch(stack, Silent(), lambda: False)
    step, count = stack.step, stack.steps_per_epoch
    assert step is not None
    stack.take_order()
    first = [run.step for run in stack.runs]
    lrs = np.tile([run.spec["lr"] for run in stack.runs], (count, 1))
    step.begin(stack.order, first, stack.optimizer.coefficients({"lr": lrs}, np.array(first)))
    with warnings.catch_warnings(action="ignore"):  # it is new, and says so
        torch.cuda.set_sync_debug_mode("error")
    try:
        for i in range(count):
            step.gradients(i)
            step.update(i)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_curves_are_those_of_the_cpu_within_rounding(images: Dataset, trainer: Trainer) -> None:
    (gpu,) = trainer.together(["lr=0.1"], f"network.hidden=[64] {GPU} epochs=3", images)
    cpu = trainer.alone("lr=0.1", "network.hidden=[64] epochs=3", tiny_images())
    assert gpu.metrics["train_loss"].to_numpy() == pytest.approx(
        cpu.metrics["train_loss"].to_numpy(), rel=1e-4, abs=1e-5, nan_ok=True
    )


def test_products_round_as_asked(images: Dataset, trainer: Trainer) -> None:
    found: dict[str, Any] = {}
    for precision in ("float32", "tf32", "bf16"):
        common = f"network.hidden=[64] precision={precision} {GPU} epochs=2"
        found[precision] = trainer.alone("lr=0.1", common, images).results["val_loss"]
    assert len(set(found.values())) == 3
    assert found["tf32"] == pytest.approx(found["float32"], rel=0.01)
    assert found["bf16"] == pytest.approx(found["float32"], rel=0.05)


def test_a_run_is_reproduced_from_its_folder(tmp_path: Path) -> None:
    ended = command(sweep.main, ["lr=0.01,0.1,0.3", "name=s", *MNIST], tmp_path)
    assert (ended.code, ended.err) == (0, "")
    summary = json.loads((tmp_path / "outputs/s/1/summary.json").read_text("utf-8"))
    assert summary["environment"]["device"] == "cuda:0" and summary["lanes"]["pad"] == 4
    ended = command(reproduce.main, ["outputs/s/1"], tmp_path)
    assert ended.code == 0 and "identical: 200 of 200 steps, bitwise" in ended.out


def test_a_sweep_that_was_stopped_is_resumed_to_the_same_bits(
    images: Dataset, trainer: Trainer, tmp_path: Path
) -> None:
    common = f"network.hidden=[64] {GPU} epochs=4 checkpoint_every=1"
    whole = trainer.together(LRS, common, images)
    specs = trainer.specs(LRS, common)
    rows = {spec.number: row for row, spec in enumerate(specs)}
    asked = iter(range(10**6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "load_data", lambda spec: images)
        with pytest.raises(Stopped):
            pool.run(pool.Batch(specs), None, "cuda:0", Silent(), rows, lambda: next(asked) > 23)
        pool.run(pool.Batch(specs), None, "cuda:0", Silent(), rows)
    for one, spec in zip(whole, specs, strict=True):
        assert_same_bits(one, read(spec.folder))


def test_memory_that_runs_out_is_known_as_such() -> None:
    free, _ = torch.cuda.mem_get_info()
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2 * free, dtype=torch.uint8, device="cuda")
    assert devices.out_of_memory(raised.value)


def _stack(trainer: Trainer, images: Dataset, common: str) -> Stack:
    specs = make_specs(trainer.folder / "stack", ["lr=0.1", "lr=0.2"], f"{common} {GPU} epochs=60")
    for spec in specs:
        spec.folder.mkdir(parents=True)
        records.start_metrics(spec.folder)
    return building.build(group_key(specs[0]), specs, range(2), images, {}, pad=2)[0]
