"""Each lane against an ordinary torch loop, and what a run writes down."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
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
    evaluate,
    make_specs,
    ordinary,
    read,
    sgd,
    tiny_images,
)
from torch import Tensor, nn, optim
from torch.optim import lr_scheduler

from lrlab import records
from lrlab.data import Dataset
from lrlab.engine.optimizers.lane_optimizers import build as build_optimizer
from lrlab.errors import UserError
from lrlab.networks import CNN, MLP
from lrlab.plan import build, checks
from lrlab.records import METRICS
from lrlab.sweeping import launch
from lrlab.training import pool, stack

STEPS_PER_EPOCH = 10  # 640 samples, batches of 64


# --- the independent truth ------------------------------------------------------------------------


def mlp() -> nn.Module:
    return MLP(IN_SHAPE, CLASSES, hidden=(37, 11))


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


# --- what a run writes ----------------------------------------------------------------------------


def test_the_rows_of_metrics(trainer: Trainer, data: Dataset) -> None:
    run = trainer.alone("lr=0.1 schedule=step", "batch_size=100 epochs=3 network.hidden=[37,11]")
    lines = run.csv.splitlines()
    assert lines[0] == "step,epoch,lr,train_loss,val_loss,val_acc"
    table = [line.split(",") for line in lines[1:]]
    assert [int(row[0]) for row in table] == list(range(3 * 6 + 1))  # 640 // 100 steps an epoch
    assert [int(row[1]) for row in table] == [0] * 6 + [1] * 6 + [2] * 6 + [3]
    for step, row in enumerate(table[:-1]):
        assert row[2] and row[3]
        assert bool(row[4]) == bool(row[5]) == (step % 6 == 0)
    assert table[-1][2:4] == ["", ""] and table[-1][4] and table[-1][5]
    for epoch in range(3):  # the lr used at the step, to the last digit
        for row in table[6 * epoch : 6 * epoch + 6]:
            assert float(row[2]) == pytest.approx(0.1 * 0.3**epoch, rel=1e-15)
    for row in table[:-1]:  # a float32 with all its digits
        assert f"{float(np.float32(row[3])):.9g}" == row[3]

    truth = ordinary(
        mlp, data, sgd(lr=0.1), SCHEDULES["schedule=step"][0], epochs=3, batch_size=100
    )
    assert_trained_like(run, truth, data)


def test_the_summary_holds_full_evaluations(trainer: Trainer, data: Dataset) -> None:
    runs = ["lr=0.1", "lr=0.2 epochs=1", "lr=0.05 epochs=3"]
    for run, epochs in zip(
        trainer.together(runs, "network.hidden=[37,11]"), (2, 1, 3), strict=True
    ):
        summary = run.summary
        network = MLP(IN_SHAPE, CLASSES, hidden=(37, 11))
        start = torch.load(run.folder / "model.pt")
        network.load_state_dict(start)
        for part, x, y in (
            ("train", data.train_x, data.train_y),
            ("val", data.val_x, data.val_y),
            ("test", data.test_x, data.test_y),
        ):
            loss, accuracy = evaluate(network, x, y, F.cross_entropy)
            assert summary[f"{part}_loss"] == pytest.approx(loss, rel=1e-5)
            assert summary[f"{part}_acc"] == pytest.approx(accuracy, abs=1e-6)
        torch.manual_seed(0)
        first = evaluate(mlp(), data.val_x, data.val_y, F.cross_entropy)
        assert summary["initial_loss"] == pytest.approx(first[0], rel=1e-6)
        last = run.metrics.iloc[-1]
        assert (summary["val_loss"], summary["val_acc"]) == (
            np.float32(last["val_loss"]),
            np.float32(last["val_acc"]),
        )
        assert summary["state"] == "finished" and summary["error"] is None
        assert summary["first_nonfinite_step"] is None
        assert (summary["steps"], summary["steps_per_epoch"]) == (10 * epochs, 10)
        assert summary["epochs"] == epochs and summary["batch_size"] == 64
        assert (summary["num_classes"], summary["data_sha256"]) == (CLASSES, data.sha256)
        guess = torch.bincount(data.train_y).argmax()
        assert summary["majority_share"] == (data.val_y == guess).double().mean()
        network.eval()
        with torch.no_grad():
            parts = [
                float(F.cross_entropy(network(data.val_x[k::20]), data.val_y[k::20]))
                for k in range(20)
            ]
        assert summary["val_parts"] == pytest.approx(parts, rel=1e-5)
        assert summary["environment"]["device"] == "cpu"
        assert summary["timing"]["train_seconds"] > 0
        assert [summary[k] for k in ("network", "loss", "optimizer", "schedule", "data")] == [
            *("mlp", "nll", "sgd", "fixed", "tiny")
        ]


@pytest.mark.full(after=2)
@pytest.mark.parametrize(("held_out", "parts"), [(3, 0), (4, 2), (41, 20)])
def test_a_small_held_out_part_has_fewer_parts(
    held_out: int, parts: int, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tiny_images(val_size=held_out)
    monkeypatch.setattr(build, "load_data", lambda spec: few)
    summary = trainer.alone("lr=0.1", "network=perceptron epochs=1").summary
    assert len(summary["val_parts"]) == parts
    if held_out % (parts or 1) == 0 and parts:  # parts of one size
        assert np.mean(summary["val_parts"]) == pytest.approx(summary["val_loss"], rel=1e-5)


def one_logit(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs.squeeze(1), targets.float())


def one_probability(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs.squeeze(1), targets.float())


class OneOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(math.prod(IN_SHAPE), 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


def test_one_logit_is_judged_against_zero(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    five = tiny_images()
    parts = {key: (getattr(five, key) == 0).long() for key in ("train_y", "val_y", "test_y")}
    two = replace(five, num_classes=2, sha256="two", **parts)
    monkeypatch.setattr(build, "load_data", lambda spec: two)
    common = "network=custom network._target_=test_train.OneOutput loss._target_=test_train."
    runs = ["lr=0.1", "lr=0.01 seed=1"]
    for run in trainer.together(runs, f"{common}one_logit"):
        network = OneOutput()
        network.load_state_dict(run.weights)
        for part in ("train", "val", "test"):
            with torch.no_grad():
                said = network(getattr(two, f"{part}_x")).squeeze(1) > 0
            right = (said == (getattr(two, f"{part}_y") == 1)).double().mean()
            assert run.summary[f"{part}_acc"] == pytest.approx(float(right), abs=1e-6)
        share = two.train_y.double().mean()
        entropy = -share * share.log() - (1 - share) * (1 - share).log()
        assert run.summary["chance_loss"] == pytest.approx(float(entropy), rel=1e-5)
        assert run.summary["majority_share"] == (two.val_y == 0).double().mean()
    by_accuracy = "objective=val_acc"
    other = trainer.alone(runs[0], f"{common}one_probability")
    assert other.summary["val_acc"] is None and other.metrics["val_acc"].isna().all()
    with pytest.raises(UserError, match=r"objective=val_acc: .* no accuracy"):
        checks.check_runs(make_specs(tmp_path, runs[:1], f"{common}one_probability {by_accuracy}"))
    checks.check_runs(make_specs(tmp_path, runs[:1], f"{common}one_logit {by_accuracy}"))


def test_the_summary_says_from_which_stability_ratio_on_the_steps_swing(trainer: Trainer) -> None:
    one_cycle = "schedule=one_cycle schedule.cycle_momentum=true schedule.base_momentum=0.5"
    runs = [
        *("optimizer.momentum=0.9", "optimizer.momentum=0.25", "schedule=plateau"),
        f"{one_cycle} schedule.max_momentum=0.5",  # so 0.5 all along
    ]
    group = trainer.together(runs, "optimizer=momentum network.hidden=[8]")
    found = [run.summary["swings_from"] for run in group]
    expected = [(1 - m**0.5) ** 2 / (2 + 2 * m) for m in (0.9, 0.25, 0.9, 0.5)]
    assert found == pytest.approx(expected, rel=1e-12)
    assert [records.read_summary(run.folder)["swings_from"] for run in group] == found
    (nadam,) = trainer.together([""], "optimizer._target_=torch.optim.NAdam network.hidden=[8]")
    assert nadam.summary["swings_from"] is None


def test_the_weights_are_saved_only_on_request(trainer: Trainer) -> None:
    run, other = trainer.together(["save_model=false", "lr=0.2"], "epochs=1 network.hidden=[5]")
    assert not (run.folder / "model.pt").exists()
    assert (other.folder / "model.pt").exists()


@pytest.mark.full
def test_segments_do_not_show(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """How often the loop looks at the losses is its own affair."""
    runs = ["lr=0.1", "lr=0.1 schedule=exponential schedule.gamma=1.8", "lr=0.1 seed=1"]
    common = "network.hidden=[37]"
    group = trainer.together(runs, common)
    assert group[1].summary["state"] == "diverged"
    monkeypatch.setattr(stack, "SEGMENT", 3)
    for run, other in zip(group, trainer.together(runs, common), strict=True):
        assert_same_bits(run, other)


# --- runs that diverge ----------------------------------------------------------------------------


def test_a_lane_that_diverges_is_kept_as_it_was(trainer: Trainer, data: Dataset) -> None:
    """Squared error of a linear network: beyond its largest stable lr it surely blows up."""
    growing = "schedule=exponential schedule.gamma=1.5"
    runs = ["lr=0.1", f"lr=0.01 {growing}", "lr=0.05 seed=1"]
    group = trainer.together(runs, "network=perceptron loss=mse_one_hot epochs=3")
    run = group[1]
    truth = ordinary(
        lambda: MLP(IN_SHAPE, CLASSES, hidden=()),
        data,
        sgd(lr=0.01),
        lambda o: lr_scheduler.ExponentialLR(o, 1.5),
        by_step=True,
        epochs=3,
        loss=lambda o, t: F.mse_loss(o, F.one_hot(t, CLASSES).float()),
    )
    first = int(np.argmin(np.isfinite(truth.train_loss)))
    assert 10 < first < 30
    assert run.summary["state"] == "diverged"
    assert run.summary["first_nonfinite_step"] == first
    assert run.summary["error"] is None
    assert all(run.summary[key] is None for key in RESULTS)
    assert run.summary["initial_loss"] == pytest.approx(truth.evaluations[0][0], rel=1e-6)
    assert run.metrics["step"].tolist() == list(range(first + 1))
    losses = run.metrics["train_loss"].to_numpy()
    assert np.isfinite(losses[:-1]).all() and not np.isfinite(losses[-1])
    np.testing.assert_allclose(losses[:-1], truth.train_loss[:first], rtol=1e-3)
    assert run.csv.splitlines()[-1].split(",")[3] in ("nan", "inf")
    assert f"diverged at step {first}" in run.log
    assert not run.weights
    assert [group[0].summary["state"], group[2].summary["state"]] == ["finished", "finished"]
    assert len(group[0].metrics) == len(group[2].metrics) == 31


@pytest.mark.full
def test_all_lanes_may_diverge(trainer: Trainer) -> None:
    runs = ["lr=1e38", "lr=1e38 seed=1", "lr=1e37 epochs=5"]
    for text, run in zip(runs, trainer.together(runs, "network.hidden=[37]"), strict=True):
        assert run.summary["state"] == "diverged"
        assert 1 <= run.summary["first_nonfinite_step"] < 10
        assert_same_bits(run, trainer.reference(text, "network.hidden=[37]"))


def test_non_finite_only_after_the_last_update(trainer: Trainer) -> None:
    """The only step's loss is finite; the evaluation after it is not."""
    group = trainer.together(["lr=1e38", "lr=0.1"], "batch_size=640 epochs=1 network.hidden=[37]")
    run = group[0]
    assert run.summary["state"] == "diverged"
    assert run.summary["first_nonfinite_step"] == 1
    assert all(run.summary[key] is None for key in RESULTS)
    assert math.isfinite(float(run.csv.splitlines()[1].split(",")[3]))
    last = run.csv.splitlines()[-1].split(",")
    assert last[:4] == ["1", "1", "", ""] and last[4] in ("nan", "inf")
    assert not run.weights
    assert group[1].summary["state"] == "finished"


def test_a_non_finite_loss_at_the_first_step(trainer: Trainer, data: Dataset) -> None:
    broken = replace(data, train_x=torch.full_like(data.train_x, math.inf))
    run = trainer.alone("lr=0.1", "network.hidden=[37]", data=broken)
    assert (run.summary["state"], run.summary["first_nonfinite_step"]) == ("diverged", 0)
    assert len(run.metrics) == 1


def test_an_lr_that_grows_past_float32_makes_its_lane_diverge(trainer: Trainer) -> None:
    growing = "schedule=exponential schedule.gamma=1e5"
    for optimizer in ("sgd", "adam"):
        run, other = trainer.together([f"lr=0.1 {growing}", "lr=0.01"], f"optimizer={optimizer}")
        assert run.summary["state"] == "diverged"
        assert other.summary["state"] == "finished"


# --- runs that fail, and the launcher -------------------------------------------------------------


class FailsWhenLarge(nn.Module):
    """Raises once its weights have grown: in some lane, at some step."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(144, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if self.linear.weight.abs().max() > 1.5:
            raise ArithmeticError("a weight is too large")
        return self.linear(x.flatten(1))


def launched(trainer: Trainer, runs: Sequence[str], common: str) -> list[Trained]:
    specs = trainer.specs(runs, common)
    launch.train(specs)
    return [read(spec.folder) for spec in specs]


@pytest.mark.full
def test_a_run_that_fails_does_so_alone(
    trainer: Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    common = "network=custom network._target_=test_train.FailsWhenLarge"
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
    assert "Traceback" in failed.log and "test_train.py" in failed.log
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


def test_what_the_records_are_read_by(trainer: Trainer) -> None:
    """Each file that the loop writes reads back, and nothing else lies there."""
    run = trainer.alone("lr=0.1", "epochs=1 network.hidden=[5]")
    assert tuple(run.metrics.columns) == METRICS
    names = {file.name for file in run.folder.iterdir()}
    assert names == {"metrics.csv", "summary.json", "run.log", "model.pt"}
    assert records.run_folders(run.folder.parent) == [run.folder]


def test_coefficients_have_the_precision_of_the_parameters() -> None:
    node = {"_target_": "torch.optim.SGD", "lr": 0.1}
    for dtype in (torch.float32, torch.float64):
        optimizer = build_optimizer([node], [torch.zeros(1, 3, dtype=dtype)])
        found = optimizer.coefficients({"lr": np.array([[0.1]])}, np.array([0]))["lr"]
        assert found.dtype == dtype
        assert found.item() == torch.tensor(0.1, dtype=dtype).item()


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
