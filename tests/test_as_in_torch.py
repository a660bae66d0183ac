"""What networks and optimizers of the user's own do in torch, they do in lanes.

Each run is held against an ordinary torch loop. What lanes would lose is refused in one line.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.training import CLASSES, Trained, Trainer, tiny_images
from helpers.training import ordinary as loop
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lrlab import losses
from lrlab.errors import UserError
from lrlab.find import find
from lrlab.networks import MLP
from lrlab.plan import checks

PIXELS = 144
HERE = "test_as_in_torch"


# --- the independent truth ------------------------------------------------------------------------


def ordinary(
    network: Callable[[], nn.Module],
    optimizer: Callable[..., Optimizer],
    lr: float,
    scheduler: Callable[[Optimizer], LRScheduler] | None = None,
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and final state of an everyday torch program."""
    found = loop(network, tiny_images(), partial(optimizer, lr=lr), scheduler, by_step=True)
    return found.train_loss, found.network.state_dict()


def assert_like(run: Trained, truth: tuple[list[float], dict[str, Tensor]]) -> None:
    found, state = truth
    assert run.summary["state"] == "finished", run.log
    np.testing.assert_allclose(run.metrics["train_loss"].iloc[:-1], found, rtol=3e-5, atol=1e-6)
    for name, tensor in state.items():
        torch.testing.assert_close(run.weights[name], tensor, rtol=3e-4, atol=3e-6)


# --- networks -------------------------------------------------------------------------------------


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(PIXELS, 13)
        self.head = nn.Linear(13, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.flatten(1)).relu())


class Assigned(Body):
    """Running statistics that are assigned anew, and a count; the old value is in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(13))
        self.register_buffer("scale", torch.ones(13), persistent=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x.flatten(1))
        h = (h - self.mean) * self.scale
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
            self.scale = 0.9 * self.scale + 0.1 / (h.detach().std(0) + 1)
            self.steps = self.steps + 1
        return self.head(h.relu()) * (1 + self.steps / 50)


class KeptTensor(Body):
    """A tensor that is neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(13)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x.flatten(1))
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        return self.head((h - self.mean).relu())


class HookInForward(Body):
    """Clips what flows back, if anything does."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x.flatten(1))
        if h.requires_grad:
            h.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))
        return self.head(h.relu())


class Unused(Body):
    """Trains one at a time, for it draws, and leaves two layers out: one always, one at times."""

    def __init__(self) -> None:
        super().__init__()
        self.never = nn.Linear(13, 13)
        self.first = nn.Linear(13, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        torch.rand(1)
        h = self.body(x.flatten(1)).relu()
        return (self.first if float(x.mean()) > 0.002 else self.head)(h)


@pytest.mark.full(after=2)
@pytest.mark.parametrize("kind", [Assigned, KeptTensor, HookInForward, Unused])
def test_a_network_trains_as_in_torch(trainer: Trainer, kind: Any) -> None:
    lrs = [0.1, 0.03]
    common = f"network=custom network._target_={HERE}.{kind.__name__} optimizer=momentum"
    group = trainer.together([f"lr={lr}" for lr in lrs], f"{common} optimizer.weight_decay=0.1")
    for lr, run in zip(lrs, group, strict=True):
        decayed = lambda p, lr: SGD(p, lr=lr, momentum=0.9, weight_decay=0.1)  # noqa: E731
        assert_like(run, ordinary(kind, decayed, lr))


class DropsLayers(Body):
    """A layer dropped at random, by which lanes lack gradients at different steps."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.Linear(13, 13)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x.flatten(1)).relu()
        if not self.training or torch.rand(1) < 0.5:
            h = h + self.middle(h)
        return self.head(h)


@pytest.mark.full
@pytest.mark.parametrize("optimizer", ["momentum optimizer.weight_decay=0.1", "adam"])
def test_lanes_that_lack_gradients_at_other_steps_are_as_alone(
    trainer: Trainer, optimizer: str
) -> None:
    common = f"network=custom network._target_={HERE}.DropsLayers optimizer={optimizer}"
    runs = ["lr=0.01", "lr=0.03 seed=1", "lr=0.02 seed=2"]
    for together, run in zip(trainer.together(runs, common), runs, strict=True):
        alone = trainer.alone(run, common)
        assert together.csv == alone.csv
        assert all(torch.equal(t, alone.weights[n]) for n, t in together.weights.items())


# --- networks and losses that are refused ---------------------------------------------------------


class ParameterHook(Body):
    def __init__(self) -> None:
        super().__init__()
        self.body.weight.register_hook(lambda gradient: 0.1 * gradient)


class AssignsData(Body):
    def forward(self, x: Tensor) -> Tensor:
        self.body.weight.data = self.body.weight.data.clamp(-0.05, 0.05)
        return super().forward(x)


class Grows(Body):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = torch.cat([self.seen, x.detach().mean()[None]])
        return super().forward(x)


class MadeInForward(Body):
    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "late"):
            self.late = nn.Linear(CLASSES, CLASSES)
        return self.late(super().forward(x))


class Detached(Body):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


def parallel() -> nn.Module:
    return nn.DataParallel(Body())


def summed(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="sum")


class Temperature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(1.0))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs / self.temperature, targets)


LOST = [
    ("network ParameterHook", "the parameter body.weight has a hook of its gradient"),
    ("network AssignsData", "assigns body.weight.data"),
    ("network Grows", "the buffer seen"),
    ("network MadeInForward", "late.weight is made in forward"),
    ("network Detached", "the loss depends on none of its parameters"),
    ("network parallel", "give the Body inside of the DataParallel"),
    ("loss summed", "reduction=mean"),
    ("loss Temperature", "has parameters of its own (temperature)"),
]


@pytest.mark.parametrize(("option", "told"), LOST)
def test_what_lanes_would_lose_is_refused(trainer: Trainer, option: str, told: str) -> None:
    group, name = option.split()
    choice = "network=custom" if group == "network" else "loss=nll"
    specs = trainer.specs(["lr=0.1"], f"{choice} {group}._target_={HERE}.{name}")
    with pytest.raises(UserError, match=f"^{group}._target_={HERE}.{name}: ") as error:
        checks.check_runs(specs)
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("option", "told"), LOST)
def test_what_lanes_would_lose_is_refused_by_find_too(option: str, told: str) -> None:
    group, name = option.split()
    given: dict[str, Any] = {"network": Body, "loss": F.cross_entropy, group: globals()[name]}
    if given["loss"] is Temperature:
        given["loss"] = Temperature()
    data = tiny_images()
    with pytest.raises(UserError, match=f"^{group}: |^loss: has no gradient") as error:
        find(given["network"](), (data.train_x, data.train_y), given["loss"], points=2, steps=10)
    assert "\n" not in str(error.value)
    assert told in str(error.value) or "without detach" in str(error.value)


def test_a_mean_is_no_sum_whatever_it_is_of() -> None:
    torch.manual_seed(0)
    outputs, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    for loss in (
        losses.nll,
        losses.mse_one_hot,
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1),
        lambda o, y: F.cross_entropy(o, y, reduction="none").max(),
        lambda o, y: 0 * o.sum(),
    ):
        assert not losses.is_sum(loss, outputs, targets)
    assert losses.is_sum(nn.CrossEntropyLoss(reduction="sum"), outputs, targets)


def one_in_a_tensor(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets)[None]


def test_a_loss_of_shape_1_is_one_number(trainer: Trainer) -> None:
    run = trainer.alone("lr=0.1", f"loss=nll loss._target_={HERE}.one_in_a_tensor")
    assert_like(run, ordinary(lambda: MLP((1, 12, 12), CLASSES), SGD, 0.1))


# --- optimizers -----------------------------------------------------------------------------------


class Replaces(SGD):
    """As one writes it by hand: the parameter's numbers are new ones after each step."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                p.data = p.data - group["lr"] * p.grad


class MovesItsLr(SGD):
    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        for group in self.param_groups:
            group["lr"] *= 0.9


class FusedAdam(Adam):
    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr, fused=True)


@pytest.mark.full(after=3)
@pytest.mark.parametrize("kind", [Replaces, MovesItsLr, FusedAdam])
@pytest.mark.parametrize("halves", [False, True])
def test_an_optimizer_trains_as_in_torch(trainer: Trainer, kind: Any, halves: bool) -> None:
    """The schedule multiplies the lr, as the optimizer may."""
    lrs = [0.01, 0.003]
    schedule = "schedule=exponential schedule.interval=step schedule.gamma=0.95" if halves else ""
    common = f"network.hidden=[13] optimizer=only_target optimizer._target_={HERE}.{kind.__name__}"
    group = trainer.together([f"lr={lr}" for lr in lrs], f"{common} {schedule}")
    chained = (lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.95)) if halves else None
    for lr, run in zip(lrs, group, strict=True):
        truth = ordinary(lambda: MLP((1, 12, 12), CLASSES, hidden=(13,)), kind, lr, chained)
        assert_like(run, truth)
        assert ("moved its lr itself, to 0.121577 times" in run.log) == (kind is MovesItsLr)


def test_fused_by_its_flag_too(trainer: Trainer) -> None:
    run = trainer.alone("lr=0.01", "network.hidden=[13] optimizer=adam optimizer.fused=true")
    truth = ordinary(lambda: MLP((1, 12, 12), CLASSES, hidden=(13,)), FusedAdam, 0.01)
    assert_like(run, truth)
