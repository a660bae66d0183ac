"""Gradients over several mini-batches, and averaged weights. Truth: an ordinary loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.pools import stopped, went_on
from helpers.recipes import LONG, NET
from helpers.training import (
    Ordinary,
    Trainer,
    assert_equal_weights,
    assert_same_bits,
    assert_trained_like,
    evaluate,
    mlp,
    ordinary,
    read,
    tiny_images,
)
from torch import nn, optim
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lrlab import records
from lrlab.errors import UserError
from lrlab.plan import build, checks

# --- accumulate -----------------------------------------------------------------------------------


def in_parts(count: int, size: int = 32) -> Callable[..., torch.Tensor]:
    """The mean loss of so many mini-batches, with the sum of their gradients, as loss/count has."""

    def loss(scores: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return F.cross_entropy(scores, y)
        pairs = zip(scores.split(size), y.split(size), strict=True)
        return sum((F.cross_entropy(*pair) / count for pair in pairs), torch.zeros(()))

    return loss


def test_gradients_are_accumulated_over_mini_batches(trainer: Trainer) -> None:
    common = f"{LONG} batch_size=32 accumulate=4 optimizer=momentum diagnostics=default"
    run, other = trainer.together(["lr=0.1", "lr=0.03 seed=2"], common)
    data = tiny_images()
    made = partial(optim.SGD, lr=0.1, momentum=0.9, foreach=False)
    truth = ordinary(mlp, data, made, epochs=8, loss=in_parts(4), batch_size=128)
    assert_trained_like(run, truth, data)
    assert run.summary["steps_per_epoch"] == 640 // 128
    assert "40 steps of 128 samples" in run.log
    assert_same_bits(other, trainer.alone("lr=0.03 seed=2", f"{common} capture=false"))


class Norm(nn.Module):
    """Batch norm and dropout: each mini-batch has statistics and drawn numbers of its own."""

    def __init__(self, in_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.into = nn.Linear(int(np.prod(in_shape)), 13)
        self.norm = nn.BatchNorm1d(13)
        self.out = nn.Linear(13, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.norm(self.into(x.flatten(1))).relu())


class Dropping(Norm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.dropout(x, 0.5, self.training))


def test_each_mini_batch_has_statistics_of_its_own(trainer: Trainer) -> None:
    common = f"network=custom network._target_={__name__}.Norm batch_size=32 accumulate=2"
    run = trainer.alone("lr=0.1", common)
    data = tiny_images()
    torch.manual_seed(0)
    net = Norm((1, 12, 12), 5)
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    losses = []
    for epoch in range(2):
        order = torch.from_numpy(build.batch_order(0, epoch, 640))
        for step in order.split(64):
            found = [F.cross_entropy(net(data.train_x[i]), data.train_y[i]) for i in step.split(32)]
            optimizer.zero_grad()
            for loss in found:
                (loss / 2).backward()
            optimizer.step()
            losses.append(float(sum(found).detach()) / 2)
    np.testing.assert_allclose(run.metrics["train_loss"].iloc[:-1], losses, rtol=2e-5)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(run.weights[name], tensor, rtol=1e-3, atol=1e-5)


def test_each_mini_batch_draws_its_own_numbers(trainer: Trainer) -> None:
    """Of equal halves of a batch the losses differ, by dropout alone; a lane has its own bits."""
    common = f"network=custom network._target_={__name__}.Dropping batch_size=32 accumulate=2"
    together = trainer.together(["lr=0.1", "lr=0.2"], common)
    assert_same_bits(together[1], trainer.alone("lr=0.2", common))
    one = trainer.alone("lr=0.1 accumulate=1 batch_size=64", f"{common}")
    assert one.metrics["train_loss"].iloc[0] != together[0].metrics["train_loss"].iloc[0]


def test_more_mini_batches_than_there_are_are_one_line(trainer: Trainer) -> None:
    with pytest.raises(UserError, match=r"^accumulate=11: with batch_size=64 more than the 640"):
        checks.check_runs(trainer.specs(["lr=0.1"], "accumulate=11"))
    with pytest.raises(UserError, match=r"^accumulate=0: must be at least 1"):
        trainer.specs(["lr=0.1"], "accumulate=0")


# --- ema ------------------------------------------------------------------------------------------


def averaging(share: float, epochs: int) -> tuple[Ordinary, nn.Module, list[tuple[float, float]]]:
    """An ordinary loop with torch's own average of the weights, evaluated at each epoch."""
    data, found = tiny_images(), []
    average: AveragedModel | None = None

    def made(params: Any) -> optim.Optimizer:
        return optim.SGD(params, lr=0.1, momentum=0.9, foreach=False)

    torch.manual_seed(0)
    net = Norm((1, 12, 12), 5).train()
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(share))
    optimizer = made(net.parameters())
    found.append(evaluate(net, data.val_x, data.val_y, F.cross_entropy))
    losses = []
    for epoch in range(epochs):
        order = torch.from_numpy(build.batch_order(0, epoch, 640))
        for index in order.split(64):
            loss = F.cross_entropy(net(data.train_x[index]), data.train_y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update_parameters(net)
            losses.append(float(loss.detach()))
        found.append(evaluate(average.module, data.val_x, data.val_y, F.cross_entropy))
    return Ordinary([], losses, [], net), average.module, found


OWN_NORM = f"network=custom network._target_={__name__}.Norm optimizer=momentum"


def test_the_average_of_the_weights_is_torchs(trainer: Trainer) -> None:
    common = f"{OWN_NORM} epochs=8 ema=0.9"
    run, other = trainer.together(["lr=0.1", "lr=0.02 seed=1"], common)
    truth, average, found = averaging(0.9, 8)
    np.testing.assert_allclose(run.metrics["train_loss"].iloc[:-1], truth.train_loss, rtol=1e-4)
    table = records.read_metrics(run.folder, averaged=True)
    table = table[table["val_loss"].notna()]
    losses, accuracies = zip(*found, strict=True)
    np.testing.assert_allclose(table["val_loss_ema"], losses, rtol=1e-4)
    np.testing.assert_allclose(table["val_acc_ema"], accuracies, atol=0.011)
    saved = torch.load(records.average_file(run.folder))
    for name, tensor in average.state_dict().items():
        torch.testing.assert_close(saved[name], tensor, rtol=1e-3, atol=1e-5)
    data = tiny_images()
    tested = evaluate(average, data.test_x, data.test_y, F.cross_entropy)
    assert run.summary["test_loss_ema"] == pytest.approx(tested[0], rel=1e-4)
    assert run.summary["val_loss_ema"] == pytest.approx(losses[-1], rel=1e-4)
    # it changes nothing else, and a lane's average is its own
    plain = trainer.alone("lr=0.1", common.replace("ema=0.9", ""))
    assert plain.results == run.results and "ema" not in plain.csv
    alone = trainer.alone("lr=0.02 seed=1", f"{common} capture=false")
    assert_same_bits(other, alone)
    assert other.summary["test_loss_ema"] == alone.summary["test_loss_ema"]
    averages = [torch.load(records.average_file(each.folder)) for each in (other, alone)]
    assert_equal_weights(*averages)


@pytest.mark.parametrize("optimizer", ["optimizer._target_=torch.optim.NAdam"])
def test_the_average_goes_on_from_a_checkpoint(trainer: Trainer, optimizer: str) -> None:
    """Of a torch optimizer a lane, too, and where one lane leaves early."""
    common = f"{NET} optimizer=only_target {optimizer} ema=0.8 clip_grad_norm=1"
    runs = ["lr=0.01", "lr=0.001 epochs=1", "lr=0.003"]
    specs = trainer.specs(runs, f"{common} checkpoint_every=auto")
    before = stopped(specs, 13)
    went_on(specs, before)
    for spec, text in zip(specs, runs, strict=True):
        again = trainer.alone(text, common)
        assert_same_bits(read(spec.folder), again)
        averages = [torch.load(records.average_file(f)) for f in (spec.folder, again.folder)]
        assert_equal_weights(*averages)


def test_a_share_that_cannot_work_is_one_line(trainer: Trainer) -> None:
    for value in ("0", "1", "-0.5", ".nan"):
        with pytest.raises(UserError, match=r"^ema=.*: must be null or between 0 and 1, for exam"):
            trainer.specs(["lr=0.1"], f"ema={value}")


