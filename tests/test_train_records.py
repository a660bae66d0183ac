"""What a run writes down, also one that diverges, against an ordinary torch loop."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.training import (
    CLASSES,
    IN_SHAPE,
    RESULTS,
    Trainer,
    assert_same_bits,
    assert_trained_like,
    evaluate,
    make_specs,
    mlp,
    ordinary,
    sgd,
    tiny_images,
)
from torch import Tensor, nn
from torch.optim import lr_scheduler

from lrlab import records
from lrlab.data import Dataset
from lrlab.errors import UserError
from lrlab.networks import MLP
from lrlab.plan import build, checks
from lrlab.training import stack

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
        mlp, data, sgd(lr=0.1), lambda o: lr_scheduler.StepLR(o, 1, 0.3), epochs=3, batch_size=100
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
    mine = "_target_=test_train_records."
    common = f"network=custom network.{mine}OneOutput loss.{mine}"
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
