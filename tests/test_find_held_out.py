"""Learning rates judged by held-out samples: against torch, and without a trace in the training."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.networks import AlwaysNoisy, BatchNorm, Dropout, net
from helpers.training import CLASSES, tiny_images
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lrlab.engine.lanes.lane_stack import Lanes
from lrlab.errors import UserError
from lrlab.find import find, told
from lrlab.plan import build
from lrlab.range_test import figure, held_out, misleading, training
from lrlab.range_test.constants import read_constants
from lrlab.range_test.rates import plain
from lrlab.training import on_batches

SHORT: Any = {"lr": (1e-3, 1.0), "points": 3, "steps": 20, "batch_size": 16}
DRAW = torch.Generator().manual_seed(0)
X, VAL_X = torch.randn(64, 5, generator=DRAW), torch.randn(60, 5, generator=DRAW)
Y, VAL_Y = X[:, :3].argmax(1), VAL_X[:, :3].argmax(1)
VAL = (VAL_X, VAL_Y)


pytestmark = pytest.mark.usefixtures("one_thread")


def found_with(val: Any, **settings: Any) -> Any:
    return find(net(), (X, Y), F.cross_entropy, val=val, **{**SHORT, **settings})


# --- what is judged -------------------------------------------------------------------------------


def test_held_out_losses_are_those_of_an_everyday_loop() -> None:
    """Before the update of each step that is named, in eval mode; batch norm has two modes."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    found = find(network, (X, Y), F.cross_entropy, val=VAL, ramp_steps=30, **SHORT)
    assert found.val_samples == 60
    order = [torch.from_numpy(build.batch_order(0, epoch, 64)) for epoch in range(8)]
    batches = [part for epoch in order for part in epoch.split(16)]

    def truth(rates: Any) -> list[float]:
        own = copy.deepcopy(network).train()
        optimizer = torch.optim.SGD(own.parameters(), lr=1.0)
        losses = []
        for rate, index in zip(rates, batches, strict=False):
            with torch.no_grad():
                losses.append(float(F.cross_entropy(own.eval()(VAL_X), VAL_Y)))
            own.train()
            optimizer.param_groups[0]["lr"] = float(rate)
            optimizer.zero_grad()
            F.cross_entropy(own(X[index]), Y[index]).backward()
            optimizer.step()
        return losses

    assert found.val_steps.tolist() == [0, 8, 16, 17, 18, 19]
    for lr, losses in zip(found.constant_lr, found.constant_val.T, strict=True):
        expected = np.array(truth([lr] * 20))[found.val_steps]
        np.testing.assert_allclose(losses, expected, rtol=2e-4)
    assert found.ramp_val_steps[[0, -1]].tolist() == [0, 29] and len(found.ramp_val_steps) == 16
    expected = np.array(truth(found.ramp_lr))[found.ramp_val_steps]
    np.testing.assert_allclose(found.ramp_val, expected, rtol=2e-4)
    assert found.constants.start == pytest.approx(expected[0], rel=1e-5)
    ends = found.constant_val[-4:].mean(axis=0)  # the last fifth of 20 steps
    np.testing.assert_allclose(found.constants.end, ends, rtol=1e-12)


def test_a_rate_that_memorises_random_labels_is_not_recommended() -> None:
    draw = torch.Generator().manual_seed(1)
    y, val_y = (torch.randint(0, 3, (n,), generator=draw) for n in (64, 200))
    val_x = torch.randn(200, 5, generator=draw)
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 3))
    settings: Any = {"lr": (1e-4, 1.0), "points": 6, "steps": 200, "batch_size": 16}
    found = find(wide, (X, y), F.cross_entropy, val=(val_x, val_y), **settings)
    train = found.train_constants
    assert train is not None and train.best is not None and train.best > 0.1
    assert min(train.end) < 0.8 * train.start
    assert found.best is None or found.best < 0.05
    text = told(found, None)
    assert text.startswith("find: the loss of ")
    assert f"find: the training loss would choose lr {plain(train.best)}" in text
    by_training = find(wide, (X, y), F.cross_entropy, **settings)
    assert by_training.best == train.best  # as it always was


def test_the_training_data_held_out_give_the_same_answer() -> None:
    """Not to the bit: one loss is of a mini-batch, the other of all samples."""
    settings: Any = {"lr": (1e-3, 100.0), "points": 6, "steps": 60}
    own, none = found_with((X, Y), **settings), found_with(None, **settings)
    places = np.searchsorted(own.constant_lr, [own.best, none.best])
    assert abs(int(places[0]) - int(places[1])) <= 1
    assert "the training loss would say" not in told(own, None)
    assert own.train_constants.best == none.best
    assert (own.judged_by, none.judged_by) == ("held-out loss", "training loss")
    assert told(none, None).splitlines()[0] == (
        "find: the training loss judges the learning rates: no held-out samples were given (val), "
        "which also favours an lr that memorises"
    )


def test_a_dataset_is_judged_by_the_part_that_it_holds_out() -> None:
    data = tiny_images()
    network = Dropout(CLASSES)
    settings: Any = {"lr": (1e-3, 1.0), "points": 2, "steps": 10}
    one = find(network, data, F.cross_entropy, **settings)
    other = find(
        network,
        (data.train_x, data.train_y),
        F.cross_entropy,
        val=(data.val_x, data.val_y),
        **settings,
    )
    np.testing.assert_array_equal(one.constant_val, other.constant_val)
    np.testing.assert_array_equal(one.ramp_val, other.ramp_val)


def test_sorted_samples_are_taken_from_all_classes_alike() -> None:
    labels = torch.arange(10).repeat_interleave(300)
    parts = held_out.in_parts(torch.arange(3000.0)[:, None], labels, 500)
    assert [len(y) for _, y in parts] == [100] * 5
    for x, y in parts:
        assert torch.bincount(y, minlength=10).tolist() == [10] * 10
        assert torch.equal(labels[x[:, 0].long()], y)
    taken = torch.cat([x for x, _ in parts]).flatten().sort().values
    assert len(taken.unique()) == 500 and taken[0] == 0 and taken[-1] == 2999
    assert taken.diff().min() >= 5 and taken.diff().max() <= 7
    assert [len(y) for _, y in held_out.in_parts(torch.zeros(3, 1), torch.zeros(3), 500)] == [1] * 3


def test_what_mini_batches_hold_is_thinned_to_evenly_spaced_samples() -> None:
    x = torch.arange(1000.0)[:, None]
    x, y = held_out._thinned(DataLoader(TensorDataset(x, x[:, 0].long()), 7), 60)
    assert 60 <= len(y) <= 120 and torch.equal(x[:, 0].long(), y)
    assert len(y.diff().unique()) == 1 and y[0] == 0 and y[-1] > 980


# --- what it leaves alone -------------------------------------------------------------------------


class Counting(nn.Module):
    """What it computes depends on how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(5, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x) * (1 + 0.01 * self.calls)


class OfBuffers(nn.Module):
    """A buffer that an evaluation changes too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(0.01)
        return self.layer(x) * (1 + self.seen)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


@pytest.mark.parametrize(
    "make",
    [
        Counting,
        OfBuffers,
        lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)),
    ],
)
def test_training_has_the_same_bits_with_and_without(make: Callable[[], nn.Module]) -> None:
    network = seeded(make)
    none = find(network, (X, Y), F.cross_entropy, **SHORT)
    found = find(network, (X, Y), F.cross_entropy, val=VAL, **SHORT)
    np.testing.assert_array_equal(found.constant_losses, none.constant_losses)
    np.testing.assert_array_equal(found.ramp_loss, none.ramp_loss)


@pytest.mark.full(after=1)
@pytest.mark.parametrize("kind", [Dropout, AlwaysNoisy, BatchNorm])
def test_what_a_loader_draws_is_the_same_with_and_without(kind: Any) -> None:
    """Its order comes from the global generator, in which a network and an evaluation draw too."""
    data = tiny_images()
    network = seeded(lambda: kind(CLASSES))
    settings: Any = {"lr": (1e-3, 1.0), "points": 2, "steps": 24}
    x, y = data.train_x[:320], data.train_y[:320]
    losses = []
    for val in (None, DataLoader(TensorDataset(x[:40], y[:40]), 16, shuffle=True)):
        torch.manual_seed(5)
        loader = DataLoader(TensorDataset(x, y), 32, shuffle=True)
        found = find(network, loader, F.cross_entropy, val=val, **settings)
        losses.append([found.constant_losses, found.ramp_loss])
    for one, other in zip(*losses, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_lane_that_fails_has_no_held_out_losses_from_there_on() -> None:
    x, y = X, X.sum(1, keepdim=True)
    val = (VAL_X, VAL_X.sum(1, keepdim=True))
    settings: Any = {**SHORT, "lr": (1e-3, 1e4), "steps": 120}
    found = find(nn.Linear(5, 1), (x, y), F.mse_loss, val=val, **settings)
    losses, seen = found.constant_losses[:, -1], found.constant_val[:, -1]
    fails = int(np.argmin(np.isfinite(losses)))
    assert 0 < fails < 48 and np.isfinite(seen[0])
    assert np.isnan(seen[found.val_steps >= fails]).all()
    assert np.isfinite(found.constant_val[:, 0]).all()
    assert found.constants.fails_from == found.constant_lr[1]  # 3.16, above 2/λ too


def test_how_often_it_evaluates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each constant lr at a few steps, in five parts; the ramp alone, at no more than 61."""
    evaluate, made = Lanes.evaluate, []

    def counted(self: Lanes, x: Tensor, y: Tensor, *rest: Any) -> Any:
        made.append(len(self) * len(y))
        return evaluate(self, x, y, *rest)

    monkeypatch.setattr(Lanes, "evaluate", counted)
    found = found_with(VAL, steps=300, lr=(1e-4, 1e-2))
    assert (len(found.val_steps), len(found.ramp_val_steps)) == (7, 61)
    lanes_of_constants = 4  # the ramp trains in their stack
    assert len(made) == 7 * 5 + 61
    assert sum(made) == 60 * (7 * lanes_of_constants + 61)
    assert held_out.most_samples(64, 300) == 500
    assert held_out.most_samples(16, 300) == 266
    assert held_out.most_samples(8, 30) == 100


# --- what is taken, and what is not ---------------------------------------------------------------


class Pairs(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return len(VAL_X)

    def __getitem__(self, i: int) -> Any:
        return VAL_X[i], int(VAL_Y[i])


def test_val_has_any_form_that_data_has() -> None:
    truth = found_with(VAL)
    for val in (
        TensorDataset(*VAL),
        Pairs(),
        (VAL_X.numpy(), VAL_Y.numpy()),
        DataLoader(TensorDataset(*VAL), 7),
        ((VAL_X[i : i + 9], VAL_Y[i : i + 9]) for i in range(0, 60, 9)),
    ):
        np.testing.assert_array_equal(found_with(val).constant_val, truth.constant_val)


def test_targets_of_any_shape_are_taken() -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs.view(-1, 2, 2), targets)

    x, y = X, X[:, :4].reshape(-1, 2, 2)
    val = (VAL_X, VAL_X[:, :4].reshape(-1, 2, 2))
    network = net(4)
    found = find(network, (x, y), loss, val=val, **SHORT)
    assert found.constants.start == pytest.approx(float(loss(network(VAL_X), val[1]).detach()))


@pytest.mark.parametrize(
    ("val", "message"),
    [
        (VAL_X, "val: must be two tensors, a TensorDataset, or a DataLoader"),
        (3, "val: must be two tensors"),
        ((VAL_X, VAL_Y[:5]), "val: 60 samples and 5 targets; need as many of each"),
        ((VAL_X[:0], VAL_Y[:0]), "val: has no samples"),
        (TensorDataset(VAL_X), "val: a TensorDataset of 1 tensors; must be of two"),
        ([], "val: gives no mini-batch"),
        ([(VAL_X, VAL_Y, 1)], "val: each mini-batch must be a pair of tensors"),
        ((VAL_X[:, :4], VAL_Y), "val: the network's forward pass fails on samples"),
        ((VAL_X.double(), VAL_Y), "val: the network's forward pass fails on samples"),
        ((VAL_X, VAL_Y + 1), "val: the loss fails on samples"),
        ((VAL_X, VAL_Y[:, None]), "val: the loss fails on samples"),
        ((VAL_X * float("nan"), VAL_Y), "val: the loss is nan before training"),
    ],
)
def test_val_that_cannot_work_is_one_line(val: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        found_with(val)
    assert str(caught.value).startswith("val: ") and "\n" not in str(caught.value)


def test_the_iterator_that_is_trained_on_is_not_held_out() -> None:
    both = iter([(X, Y)])
    with pytest.raises(UserError, match=r"^val: is the same iterator as data"):
        find(net(), both, F.cross_entropy, val=both, **SHORT)


# --- how it reads ---------------------------------------------------------------------------------


def test_what_few_samples_leave_to_chance_is_no_gain() -> None:
    """Held-out losses have no noise from step to step, so only their parts can tell."""
    lr, steps = np.array([0.01, 0.1, 1.0]), np.linspace(0, 1, 7)[:, None, None]
    gains = np.array([0.0, 0.02, 0.05])
    spread = np.array([-1.0, 1.0, -0.5, 0.5, 0.0])[:, None]
    alike = 2 - steps * np.repeat(gains[None], 5, axis=0)
    apart = 2 - steps * (gains + spread * np.array([0.0, 0.1, 0.1]))
    read = read_constants(lr, alike.mean(axis=1), 3, alike)
    assert read.best == 1.0 and read.as_good == (1.0, 1.0)
    np.testing.assert_allclose(alike.mean(axis=1), apart.mean(axis=1))
    read = read_constants(lr, apart.mean(axis=1), 3, apart)
    assert read.best is None and "by more than its noise" in read.why_none
    # squared errors of few samples begin far apart, and all fall by nine tenths
    far = np.array([1.0, 9.0, 2.0, 6.0, 0.5])[:, None] * (1 - 0.9 * steps * np.array([0, 0.5, 1]))
    read = read_constants(lr, far.mean(axis=1), 1, far)
    assert read.best == 1.0
    # a sure gain, whose difference to the next rate is not: that of the parts is as large
    gains = np.array([0.0, 1.0, 1.05])
    chance = 2 - steps * (gains + spread * np.array([0.0, 0.1, -0.1]))
    read = read_constants(lr, chance.mean(axis=1), 3, chance)
    assert read.best == 1.0 and read.as_good == (0.1, 1.0)


def test_overfitting_is_told_from_failing_and_drawn() -> None:
    train = np.linspace(np.full(6, 2.0), [1.9, 1.5, 1.0, 0.5, 0.1, 0.05], 50)
    judged = np.linspace(np.full(6, 2.0), [1.95, 1.8, 1.5, 1.9, 2.5, 4.0], 7)
    found = found_with(VAL, points=6, lr=(1e-4, 10.0))
    constants = read_constants(found.constant_lr, judged, 3)
    own = read_constants(found.constant_lr, train)
    assert misleading.overfits(constants, own) and not misleading.overfits(constants, None)
    assert not misleading.overfits(own, own)
    values = {**vars(found), "constants": constants, "train_constants": own, "misleads": ()}
    found = type(found)(**values)
    text = told(found, None)
    assert "find: constant lrs overfit from 1 on: only their training loss falls" in text
    assert "find: the training loss would choose lr 10, 1000 times larger than the best" in text
    axes, strip = figure.range_test(found).axes
    assert axes.get_ylabel() == "held-out loss"
    names = [label.get_text() for label in strip.get_yticklabels()]
    assert {"constant overfits", "ramp rises again"} <= set(names)
    lines = {line.get_gid(): line for line in axes.lines if line.get_gid()}
    np.testing.assert_array_equal(lines["raw"].get_ydata(), found.ramp_val)
    np.testing.assert_array_equal(lines["train ramp"].get_ydata(), found.ramp_loss)
    np.testing.assert_array_equal(lines["train constant"].get_ydata(), own.end)
    assert (lines["train ramp"].get_alpha() or 1) < (lines["raw"].get_alpha() or 1)


def test_looks_ask_for_lanes_one_by_one() -> None:
    """Lanes that do not fit in at once are trained in parts, each with the looks that are its."""
    at = np.zeros((4, 3), bool)
    at[[0, 2, 3], [0, 1, 2]] = True
    batch = on_batches.batches_of(X, Y, 0, 16)
    sgd = {"_target_": "torch.optim.SGD"}
    lrs, looks = np.full((4, 3), [0.01, 0.1, 1.0]), [training.Looks([VAL], at)]
    tables = []
    for width in (3, 2, 1):
        subject = training.Subject(net(), F.cross_entropy, sgd, batch, 0, "cpu")
        _, (seen,) = training.train(subject, lrs, width, looks)
        assert seen.shape == (4, 1, 3)
        np.testing.assert_array_equal(np.isfinite(seen[:, 0]), at)
        tables.append(seen)
    np.testing.assert_array_equal(tables[0], tables[1])
    np.testing.assert_array_equal(tables[0], tables[2])
