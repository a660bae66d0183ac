"""Each lane against an ordinary torch loop, and the launcher of runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.training import (
    CLASSES,
    IN_SHAPE,
    RESULTS,
    Trained,
    Trainer,
    assert_same_bits,
    assert_trained_like,
    mlp,
    ordinary,
    read,
    sgd,
)
from torch import Tensor, nn, optim
from torch.optim import lr_scheduler

from lrlab.data import Dataset
from lrlab.networks import CNN, MLP
from lrlab.sweeping import launch
from lrlab.training import pool

STEPS_PER_EPOCH = 10  # 640 samples, batches of 64


# --- optimizers and schedules ---------------------------------------------------------------------

OPTIMIZERS: dict[str, tuple[Callable[..., optim.Optimizer], float]] = {
    "optimizer=sgd": (sgd(), 0.1),
    "optimizer=sgd optimizer.weight_decay=0.01": (sgd(weight_decay=0.01), 0.1),
    "optimizer=momentum optimizer.dampening=0.2": (sgd(momentum=0.9, dampening=0.2), 0.05),
    "optimizer=nesterov": (sgd(momentum=0.9, nesterov=True), 0.02),
    "optimizer=adam optimizer.betas=[0.8,0.99]": (partial(optim.Adam, betas=(0.8, 0.99)), 3e-3),
    "optimizer=adamw optimizer.weight_decay=0.1": (partial(optim.AdamW, weight_decay=0.1), 3e-3),
    "optimizer=rmsprop optimizer.momentum=0.5": (partial(optim.RMSprop, momentum=0.5), 1e-3),
    "optimizer=adagrad": (optim.Adagrad, 0.01),
    "optimizer=only_target optimizer._target_=torch.optim.NAdam": (optim.NAdam, 3e-3),
}


def _warmup(optimizer: optim.Optimizer) -> Any:
    """By hand: from a tenth up to the whole lr in 6 steps."""
    return lr_scheduler.LambdaLR(optimizer, lambda t: min(1.0, 0.1 + 0.9 * t / 6))


def _step_after_warmup(optimizer: optim.Optimizer) -> Any:
    """By hand: 4 steps of warm-up from 0.01, then 0.3 to the power of the epoch."""
    return lr_scheduler.LambdaLR(
        optimizer, lambda t: 0.01 + 0.99 * t / 4 if t < 4 else 0.3 ** (t // STEPS_PER_EPOCH)
    )


# overrides: torch's own scheduler, whether it steps at each step
SCHEDULES: dict[str, tuple[Callable[[optim.Optimizer], Any] | None, bool]] = {
    "schedule=fixed": (None, False),
    "schedule=step": (lambda o: lr_scheduler.StepLR(o, 1, 0.3), False),
    "schedule=step schedule.interval=step schedule.step_size=7": (
        lambda o: lr_scheduler.StepLR(o, 7, 0.3),
        True,
    ),
    "schedule=exponential schedule.gamma=0.9": (
        lambda o: lr_scheduler.ExponentialLR(o, 0.9),
        True,
    ),
    "schedule=cosine": (lambda o: lr_scheduler.CosineAnnealingLR(o, 30), True),
    "schedule=cosine schedule.interval=epoch": (
        lambda o: lr_scheduler.CosineAnnealingLR(o, 3),
        False,
    ),
    "schedule=linear": (lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, 30), True),
    "schedule=warmup schedule.warmup_steps=6 schedule.warmup_start_factor=0.1": (_warmup, True),
    "schedule=step schedule.warmup_steps=4": (_step_after_warmup, True),
    "schedule=plateau schedule.patience=0 schedule.threshold=0.9 schedule.factor=0.5": (
        lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=0, threshold=0.9),
        False,
    ),
    "schedule=plateau schedule.patience=0 schedule.threshold=0.001": (
        lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.3, patience=0, threshold=0.001),
        False,
    ),
    "schedule=one_cycle schedule.cycle_momentum=false": (
        lambda o: lr_scheduler.OneCycleLR(
            o, o.param_groups[0]["lr"], total_steps=30, cycle_momentum=False
        ),
        True,
    ),
}


# a first one, one with state of its own and one that lanes have by the general way
WAYS = [name for name in OPTIMIZERS if name.endswith(("=sgd", "=[0.8,0.99]", "NAdam"))]


@pytest.mark.full(after=1)
@pytest.mark.parametrize("optimizer", WAYS)
def test_each_optimizer_and_schedule_trains_as_in_torch(
    trainer: Trainer, data: Dataset, optimizer: str
) -> None:
    """All optimizers are in the test of float64 below."""
    make, lr = OPTIMIZERS[optimizer]
    common = f"{optimizer} network.hidden=[37,11] epochs=3 lr={lr}"
    # by epoch, by step, warmed up, and one that follows val_loss: what a table and a loop may be
    few = [name for name in SCHEDULES if "warmup" in name or "plateau" in name]
    schedules = {name: SCHEDULES[name] for name in (SCHEDULES if optimizer[-3:] == "sgd" else few)}
    runs = [f"{name} seed={seed % 2}" for seed, name in enumerate(schedules)]
    group = trainer.together(runs, common)
    for seed, (run, (scheduler, by_step)) in enumerate(zip(group, schedules.values(), strict=True)):
        truth = ordinary(
            mlp, data, partial(make, lr=lr), scheduler, by_step, epochs=3, seed=seed % 2
        )
        assert_trained_like(run, truth, data, rtol=2e-4)
    drops = [
        run.metrics["lr"].nunique() > 1
        for run, name in zip(group, schedules, strict=True)
        if "plateau" in name
    ]
    assert drops == [True, False]  # which only val_loss tells apart


@pytest.mark.full(after=1)
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_one_cycle_moves_the_momentum_too(trainer: Trainer, data: Dataset, optimizer: str) -> None:
    settings = "schedule=one_cycle schedule.cycle_momentum=true schedule.base_momentum=0.5"
    runs = [f"lr=0.02 {settings}", "lr=0.02", f"lr=0.01 {settings} seed=1"]
    group = trainer.together(runs, f"optimizer={optimizer} network.hidden=[37,11]")
    make: Any = sgd(momentum=0.9) if optimizer == "momentum" else optim.Adam

    def one_cycle(opt: optim.Optimizer) -> Any:
        top = opt.param_groups[0]["lr"]
        return lr_scheduler.OneCycleLR(opt, top, total_steps=20, base_momentum=0.5)

    for run, lr, seed, scheduler in zip(
        group, (0.02, 0.02, 0.01), (0, 0, 1), (one_cycle, None, one_cycle), strict=True
    ):
        truth = ordinary(mlp, data, partial(make, lr=lr), scheduler, True, seed=seed)
        assert_trained_like(run, truth, data, rtol=2e-4)


class DoubleMLP(MLP):
    """Trains in float64, where an ordinary loop and a stack agree to the last digits."""

    def __init__(self, in_shape: Sequence[int], num_classes: int) -> None:
        super().__init__(in_shape, num_classes, hidden=(37, 11))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double())


@pytest.mark.full(after=2)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_in_float64_the_weights_agree_to_twelve_digits(
    trainer: Trainer, data: Dataset, optimizer: str
) -> None:
    make, lr = OPTIMIZERS[optimizer]
    network = "network=custom network._target_=test_train.DoubleMLP"
    run, other = trainer.together(
        [f"lr={lr} schedule=exponential schedule.gamma=0.97", f"lr={lr / 3}"],
        f"{network} {optimizer}",
    )
    double = partial(DoubleMLP, IN_SHAPE, CLASSES)
    for found, rate, gamma in ((run, lr, 0.97), (other, lr / 3, 1.0)):
        truth = ordinary(
            double,
            data,
            partial(make, lr=rate),
            partial(lr_scheduler.ExponentialLR, gamma=gamma),
            by_step=True,
        )
        losses = np.array(truth.train_loss, np.float32)  # which is what is recorded
        np.testing.assert_allclose(found.metrics["train_loss"][:-1], losses, rtol=2e-7)
        for name, tensor in truth.network.state_dict().items():
            assert tensor.dtype == torch.float64
            torch.testing.assert_close(found.weights[name], tensor, rtol=1e-11, atol=1e-12)


# --- networks and losses --------------------------------------------------------------------------


def huber(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.huber_loss(outputs, F.one_hot(targets, CLASSES).to(outputs.dtype))


def _cnn() -> nn.Module:
    return CNN(IN_SHAPE, CLASSES, channels=(3, 5), hidden=(16,))


@pytest.mark.full(after=2)
@pytest.mark.parametrize(
    ("common", "network", "loss"),
    [
        ("network=perceptron", lambda: MLP(IN_SHAPE, CLASSES, hidden=()), F.cross_entropy),
        ("network=cnn network.channels=[3,5] network.hidden=[16]", _cnn, F.cross_entropy),
        ("network.hidden=[37,11] loss=cross_entropy", mlp, F.cross_entropy),
        (
            "network.hidden=[37,11] loss=mse_one_hot",
            mlp,
            lambda o, t: F.mse_loss(o, F.one_hot(t, CLASSES).float()),
        ),
        ("network.hidden=[37,11] loss._target_=test_train.huber", mlp, huber),
    ],
)
def test_each_network_and_loss_trains_as_in_torch(
    trainer: Trainer, data: Dataset, common: str, network: Any, loss: Any
) -> None:
    group = trainer.together(["lr=0.1", "lr=0.05 seed=3"], common)
    for run, lr, seed in zip(group, (0.1, 0.05), (0, 3), strict=True):
        truth = ordinary(network, data, sgd(lr=lr), seed=seed, loss=loss)
        assert_trained_like(run, truth, data)
    assert group[0].summary["chance_loss"] == pytest.approx(_chance(loss, data.train_y), rel=1e-6)


def _chance(loss: Any, targets: Tensor) -> float:
    """What the best of all constant scores costs, by torch's own search."""
    scores = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)
    search = optim.LBFGS([scores], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        value = loss(scores.expand(len(targets), -1), targets)
        value.backward()
        return value

    search.step(closure)  # type: ignore[arg-type]
    return float(closure().detach())


def test_batch_norm_trains_as_in_torch(trainer: Trainer, data: Dataset) -> None:
    from helpers.networks import BatchNorm

    group = trainer.together(
        ["lr=0.1", "lr=0.03 seed=1", "lr=1e38"],
        "network=custom network._target_=helpers.networks.BatchNorm",
    )
    for run, lr, seed in zip(group[:2], (0.1, 0.03), (0, 1), strict=True):
        truth = ordinary(partial(BatchNorm, CLASSES), data, sgd(lr=lr), seed=seed)
        assert_trained_like(run, truth, data, rtol=1e-4)
        assert run.weights["norm.num_batches_tracked"] == 20


@pytest.mark.parametrize("optimizer", ["sgd optimizer.weight_decay=0.1", "adamw", "only_target"])
def test_frozen_tied_and_unused_parameters_are_as_in_torch(
    trainer: Trainer, data: Dataset, optimizer: str
) -> None:
    """Weight decay too leaves alone what gets no gradient."""
    from helpers.networks import Odd

    make: Any = {"adamw": optim.AdamW, "only_target": optim.NAdam}.get(
        optimizer, sgd(weight_decay=0.1)
    )
    common = f"network=custom network._target_=helpers.networks.Odd optimizer={optimizer}"
    if optimizer == "only_target":
        common += " optimizer._target_=torch.optim.NAdam"
    group = trainer.together(["lr=0.01", "lr=0.005 seed=1"], common)
    for run, lr, seed in zip(group, (0.01, 0.005), (0, 1), strict=True):
        truth = ordinary(partial(Odd, CLASSES), data, partial(make, lr=lr), seed=seed)
        assert_trained_like(run, truth, data, rtol=1e-4)
        assert torch.equal(run.weights["unused"], torch.ones(3))
        counted = sum(p.numel() for p in truth.network.parameters() if p.requires_grad)
        assert run.summary["parameters"] == counted


# --- runs that fail, and the launcher -------------------------------------------------------------


def launched(trainer: Trainer, runs: Sequence[str], common: str) -> list[Trained]:
    specs = trainer.specs(runs, common)
    launch.train(specs)
    return [read(spec.folder) for spec in specs]


@pytest.mark.full
def test_a_run_that_fails_does_so_alone(
    trainer: Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    common = "network=custom network._target_=helpers.networks.FailsLate"
    runs = [
        "lr=0.01",
        "lr=0.01 schedule=step schedule.gamma=1e5",  # fails in the second epoch
        "lr=0.02 seed=1",
        "lr=0.02 epochs=1",  # is over before
    ]
    group = launched(trainer, runs, common)
    states = [run.summary["state"] for run in group]
    assert states == ["finished", "failed", "finished", "finished"]
    failed = group[1]
    assert failed.metrics["step"].tolist() == list(range(10))
    assert failed.summary["error"] == "ArithmeticError: a weight is too large"
    assert "Traceback" in failed.log and "networks.py" in failed.log
    assert all(failed.summary[key] is None for key in RESULTS)
    assert "failed" in capsys.readouterr().out
    for text, run in zip(runs[::2], group[::2], strict=True):
        assert_same_bits(run, trainer.reference(text, common))
        assert len(run.metrics) == 21  # no row of the first attempt is left
    assert_same_bits(group[3], trainer.reference(runs[3], common))


@pytest.mark.full
def test_lanes_limits_how_many_train_at_once(trainer: Trainer) -> None:
    runs = ["lr=0.1", "lr=0.2", "lr=1e38", "lr=0.1 seed=1", "lr=0.05 epochs=1"]
    common = "network.hidden=[37]"
    whole = launched(trainer, runs, f"{common} lanes=auto")
    assert {run.summary["lanes"]["width"] for run in whole} == {5}
    for width in (1, 3):
        chunks = launched(trainer, runs, f"{common} lanes={width}")
        assert max(run.summary["lanes"]["width"] for run in chunks) == width
        for run, other in zip(whole, chunks, strict=True):
            assert_same_bits(run, other)


@pytest.mark.full
def test_runs_that_cannot_share_a_stack_train_in_groups(trainer: Trainer) -> None:
    runs = [
        "lr=0.1 network.hidden=[37]",
        "lr=0.1 network.hidden=[5]",
        "lr=0.2 network.hidden=[37]",
        "lr=0.01 network.hidden=[37] optimizer=adam",
        "lr=0.1 network.hidden=[37] batch_size=32",
    ]
    group = launched(trainer, runs, "")
    assert [run.summary["lanes"]["width"] for run in group] == [2, 1, 2, 1, 1]
    for text, run in zip(runs, group, strict=True):
        assert_same_bits(run, trainer.reference(text))


def test_the_display_is_told_how_each_run_ended(trainer: Trainer, data: Dataset) -> None:
    from helpers.training import Silent

    specs = trainer.specs(["lr=0.1", "lr=1e38", "lr=0.1 epochs=1"], "network.hidden=[37]")
    display = Silent()
    pool.run(pool.Batch(specs), None, "cpu", display, {0: 4, 1: 5, 2: 6})
    assert display.states == {4: "finished", 5: "diverged", 6: "finished"}


class Counting(nn.Module):
    """Scales its scores by how often it was called: state in Python that no tensor holds."""

    def __init__(self, in_shape: Sequence[int], num_classes: int, convolve: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3) if convolve else nn.Flatten()
        features = self.first(torch.zeros(1, *in_shape)).numel()
        self.last = nn.Linear(features, num_classes)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        return self.last(self.first(x).flatten(1)) * (1 + self.calls / 50)


@pytest.mark.full
@pytest.mark.parametrize("convolve", ["true"])
def test_a_network_that_counts_its_calls_counts_its_own(trainer: Trainer, convolve: str) -> None:
    network = f"network=custom network._target_={__name__}.Counting network.convolve={convolve}"
    lrs = ["lr=0.1", "lr=1e30", "lr=0.02"]
    for run, lr in zip(trainer.together(lrs, network), lrs, strict=True):
        assert_same_bits(run, trainer.reference(lr, network))
