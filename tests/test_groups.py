"""Parameter groups with learning rates of their own, against an ordinary torch loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.pools import stopped, went_on
from helpers.training import (
    CLASSES,
    IN_SHAPE,
    Silent,
    Trained,
    Trainer,
    assert_same_bits,
    read,
    tiny_images,
)
from helpers.training import ordinary as loop
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR, StepLR

from lrlab import records
from lrlab.engine.lanes import stacking
from lrlab.engine.optimizers import lane_optimizers
from lrlab.engine.optimizers.protocol import LaneOptimizer
from lrlab.errors import UserError
from lrlab.networks import MLP
from lrlab.probes import branches
from lrlab.range_test import training
from lrlab.training import on_batches, pool

HIDDEN = "network.hidden=[13]"


class HeadTen(SGD):
    """The last two parameters at ten times the rate of the others."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        params = list(params)
        super().__init__([{"params": params[:-2]}, {"params": params[-2:], "lr": 10 * lr}], lr=lr)


class FrozenByRate(SGD):
    """All but the last two at rate 0; it needs four parameters to tell them apart."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        *body, weight, bias = params
        head = {"params": [weight, bias]}
        super().__init__([{"params": body, "lr": 0.0, "weight_decay": 0.1}, head], lr=lr)


class ConstantHead(SGD):
    """The last two at 0.02, whatever lr is."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        params = list(params)
        super().__init__([{"params": params[:-2]}, {"params": params[-2:], "lr": 0.02}], lr=lr)


class Mixed(Adam):
    """Settings of their own, the head first, a tensor for an lr, and one parameter in no group."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        first, second, third, _ = params
        groups = [
            {"params": [third], "lr": 3 * lr, "weight_decay": 0.1, "betas": (0.5, 0.9)},
            {"params": [first], "lr": torch.tensor(lr / 4), "capturable": False, "foreach": False},
            {"params": [second], "amsgrad": True, "maximize": True},
        ]
        super().__init__(groups, lr=lr)


class Momenta(SGD):
    """Another momentum in each group, which a schedule may take over."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        params = list(params)
        groups = [{"params": params[:1]}, {"params": params[1:], "lr": lr / 2, "momentum": 0.5}]
        super().__init__(groups, lr=lr, momentum=0.9)


class Thawing(SGD):
    """Trains the head, and adds the body, at a tenth, at the 7th step; its state tells which."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        params = list(params)
        self.body, self.lr = params[:-2], lr
        super().__init__(params[-2:], lr=lr, momentum=0.9)

    def step(self, closure: Any = None) -> Any:
        count = self.state[self.param_groups[0]["params"][0]]
        count["steps"] = count.get("steps", 0) + 1
        if count["steps"] == 7:
            self.add_param_group({"params": self.body, "lr": self.lr / 10})
        return super().step(closure)


class Halved(SGD):
    """One group, at half of the rate that it is given."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr / 2)


def named(kind: type[Optimizer]) -> str:
    return f"optimizer=only_target optimizer._target_={__name__}.{kind.__name__}"


def network() -> nn.Module:
    return MLP(IN_SHAPE, CLASSES, hidden=(13,))


Scheduler = Callable[[Optimizer], LRScheduler]


def ordinary(
    kind: Callable[..., Optimizer],
    lr: float,
    scheduler: Scheduler | None = None,
    epochs: int = 2,
    seed: int = 0,
) -> tuple[list[float], dict[str, Tensor], dict[str, Tensor]]:
    """Losses of an everyday torch program, with its weights before and after."""
    torch.manual_seed(seed)
    before = network().state_dict()
    made = partial(kind, lr=lr)
    found = loop(lambda: network(), tiny_images(), made, scheduler, True, epochs, seed)
    return found.train_loss, before, found.network.state_dict()


def assert_trained_like(
    run: Trained, truth: tuple[list[float], dict[str, Tensor], dict[str, Tensor]]
) -> None:
    losses, before, after = truth
    found = run.metrics["train_loss"].iloc[:-1]
    np.testing.assert_allclose(found, losses, rtol=2e-5, atol=1e-6)
    for name, tensor in after.items():
        torch.testing.assert_close(run.weights[name], tensor, rtol=2e-4, atol=2e-6)
        # what torch has left untouched is untouched
        assert torch.equal(run.weights[name], before[name]) == torch.equal(tensor, before[name])


SCHEDULES: dict[str, Scheduler | None] = {
    "schedule=fixed": None,
    "schedule=cosine": lambda o: CosineAnnealingLR(o, 20),
    "schedule=step schedule.interval=step schedule.step_size=4 schedule.gamma=0.5": lambda o: (
        StepLR(o, 4, 0.5)
    ),
    "schedule=exponential schedule.interval=step schedule.gamma=0.9 schedule.warmup_steps=5": (
        lambda o: LambdaLR(o, lambda t: 0.01 + 0.99 * t / 5 if t < 5 else 0.9 ** (t - 5))
    ),
}


KINDS = [HeadTen, FrozenByRate, ConstantHead, Mixed, Momenta, Halved]
WARM = list(SCHEDULES)[-1]


@pytest.mark.full(after=4)
@pytest.mark.parametrize(
    ("kind", "schedule"),
    [(k, WARM) for k in KINDS] + [(HeadTen, s) for s in SCHEDULES if s != WARM],
)
def test_groups_train_as_in_torch(trainer: Trainer, kind: Any, schedule: str) -> None:
    """Lanes of several rates; the lr that is recorded is the run's."""
    lrs = [0.03, 0.1]
    group = trainer.together([f"lr={lr}" for lr in lrs], f"{HIDDEN} {schedule} {named(kind)}")
    for lr, run in zip(lrs, group, strict=True):
        assert_trained_like(run, ordinary(kind, lr, SCHEDULES[schedule]))
        if "warmup" not in schedule:
            assert float(run.metrics["lr"].iloc[0]) == lr
    assert "slower: one torch optimizer a lane" in group[0].log


def test_a_rate_of_0_trains_nothing_to_the_bit(trainer: Trainer) -> None:
    run = trainer.alone("lr=0.3", f"{HIDDEN} {named(FrozenByRate)} schedule=cosine")
    _, before, _ = ordinary(FrozenByRate, 0.3, epochs=0)
    moved = {name for name, t in before.items() if not torch.equal(t, run.weights[name])}
    assert len(before) == 4 and moved == set(list(before)[-2:])
    assert "parameter groups at 0, 1 times lr" in run.log
    plain = trainer.alone("lr=0.3", HIDDEN)
    assert "parameter groups" not in plain.log


def test_a_momentum_that_is_scheduled_moves_in_every_group(trainer: Trainer) -> None:
    """As torch's OneCycleLR does; that there is a momentum, only the class below tells."""
    settings: dict[str, Any] = {"div_factor": 5.0, "final_div_factor": 10.0, "base_momentum": 0.6}
    typed = " ".join(f"schedule.{name}={value}" for name, value in settings.items())
    run = trainer.alone(
        "lr=0.1",
        f"{HIDDEN} {named(Momenta)} schedule=one_cycle schedule.cycle_momentum=true {typed}",
    )
    # a list keeps the ratio; one number would be the highest rate of both
    truth = ordinary(Momenta, 0.1, lambda o: OneCycleLR(o, [0.1, 0.05], total_steps=20, **settings))
    assert_trained_like(run, truth)


@pytest.mark.full(after=1)
@pytest.mark.parametrize("kind", [HeadTen, Mixed])
def test_a_lane_has_the_bits_that_it_has_alone(trainer: Trainer, kind: Any) -> None:
    runs = ["lr=0.1", "lr=1e30", "lr=0.02 seed=3", "lr=0.05 epochs=1"]
    common = f"{HIDDEN} {named(kind)} schedule=cosine"
    together = trainer.together(runs, common)
    for run, text in zip(together, runs, strict=True):
        assert_same_bits(run, trainer.reference(text, common))


def test_groups_that_are_added_while_training(trainer: Trainer) -> None:
    """torch's own schedulers take no group in, so the rate is fixed; ours keep its ratio."""
    run = trainer.alone("lr=0.1", f"{HIDDEN} {named(Thawing)}")
    assert_trained_like(run, ordinary(Thawing, 0.1))


@pytest.mark.full(after=1)
@pytest.mark.parametrize(("kind", "steps"), [(Mixed, 3), (Thawing, 5), (Thawing, 8)])
def test_a_run_goes_on_from_its_checkpoint(trainer: Trainer, kind: Any, steps: int) -> None:
    common = f"{HIDDEN} {named(kind)} schedule=cosine checkpoint_every=auto"
    specs = trainer.specs(["lr=0.1", "lr=0.02"], common)
    before = stopped(specs, steps)
    went_on(specs, before)
    for spec, text in zip(specs, ["lr=0.1", "lr=0.02"], strict=True):
        run = read(spec.folder)
        assert f"goes on from its checkpoint at step {steps}" in run.log
        assert_same_bits(run, trainer.reference(text, common))


def test_the_branches_keep_the_ratio_and_no_stability_ratio_is_told(trainer: Trainer) -> None:
    """Each branch is that of the class at its multiple of lr."""
    common = f"{HIDDEN} {named(HeadTen)} diagnostics=full"
    specs = trainer.specs(["lr=0.03"], common)
    pool.run(pool.Batch(specs), None, "cpu", Silent(), {0: 0})
    assert branches.test(specs, None, lambda: False) == []
    run = read(specs[0].folder)
    assert run.summary["swings_from"] is None
    measured = records.read_diagnostics(specs[0].folder)
    assert bool(measured["stability_ratio"].isna().all())
    assert bool(measured["alpha"].notna().all())
    found = records.read_branches(specs[0].folder)
    for name, multiplier in records.MULTIPLIERS.items():
        # the lr is that of 20 steps, then another: torch's LambdaLR moves all groups by it
        at = lambda o, m=multiplier: LambdaLR(o, lambda t: 1.0 if t < 20 else m)  # noqa: E731
        losses, _, _ = ordinary(HeadTen, 0.03, at, epochs=6)
        np.testing.assert_allclose(found[name], losses[20:60], rtol=1e-4, atol=1e-6)


# --- the optimizer by itself ----------------------------------------------------------------------


def node(kind: type[Optimizer], lr: float) -> dict[str, Any]:
    return {"_target_": f"{__name__}.{kind.__name__}", "lr": lr}


def params(lanes: int) -> list[Tensor]:
    shapes = [(lanes, 3, 2), (lanes, 3), (lanes, 2, 3), (lanes, 2)]
    return [torch.ones(shape) for shape in shapes]


def step(optimizer: LaneOptimizer, of: list[Tensor], lr: list[float]) -> None:
    row = optimizer.coefficients({"lr": np.array([lr])}, np.zeros(len(lr), int))
    optimizer.update([torch.ones_like(p) for p in of], row, 0)


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        (HeadTen, [1.0, 10.0]),
        (FrozenByRate, [0.0, 1.0]),
        (ConstantHead, [1.0, 0.2]),
        (Halved, [0.5]),
    ],
)
def test_rates_are_those_that_the_class_has_given(kind: Any, rates: list[float]) -> None:
    found = lane_optimizers.build([node(kind, 0.1)], params(1)).rates(0)
    assert found == pytest.approx(rates, rel=1e-15)


def test_the_update_is_of_each_groups_own_lr_to_the_bit() -> None:
    of = params(2)
    step(lane_optimizers.build([node(HeadTen, 0.1), node(HeadTen, 0.3)], of), of, [0.1, 0.15])
    for lane, (lr, head) in enumerate([(0.1, 10 * 0.1), (0.15, 10 * 0.3 * (0.15 / 0.3))]):
        for param, rate in zip(of, [lr, lr, head, head], strict=True):
            expected = torch.ones(param.shape[1:]).add_(torch.ones(param.shape[1:]), alpha=-rate)
            assert torch.equal(param[lane], expected)


def test_an_lr_of_0_moves_nothing_unless_a_group_has_a_rate_of_its_own() -> None:
    for kind in (HeadTen, FrozenByRate, Halved):
        of = params(1)
        optimizer = lane_optimizers.build([node(kind, 0.0)], of)
        assert optimizer.rates(0) == lane_optimizers.build([node(kind, 1.0)], params(1)).rates(0)
        step(optimizer, of, [0.0])
        assert all((p == 1).all() for p in of)
    with pytest.raises(UserError, match=r"^lr=0: ConstantHead has parameters with lr 0\.02, .*"):
        lane_optimizers.build([node(ConstantHead, 0.0)], params(1))


class Counted(SGD):
    """Of one network alone, whose parameters it counts."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        first, second, third = params
        super().__init__([{"params": [first, second]}, {"params": [third], "lr": 2 * lr}], lr=lr)


def test_a_class_that_takes_one_network_only_is_refused_where_another_is_trained() -> None:
    config = node(Counted, 0.1)
    assert lane_optimizers.group_key(config) and not lane_optimizers.is_known(config)
    assert lane_optimizers.hyperparameters(config) == {}
    lane_optimizers.check_on(config, nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2, bias=False)))
    with pytest.raises(UserError, match="not enough values to unpack"):
        lane_optimizers.check_on(config, nn.Linear(2, 3))


@pytest.mark.parametrize("kind", [HeadTen, ConstantHead])
def test_each_lr_of_a_range_test_is_that_of_a_run(kind: Any) -> None:
    """On a ramp a group of a constant rate keeps it, as it would in a run at any lr."""
    data = tiny_images()
    torch.manual_seed(0)
    net = network()
    lrs = np.array([[0.001, 0.1], [0.03, 0.1], [0.4, 0.1]])
    batch = on_batches.batches(data, 0, 64)
    rule = {k: v for k, v in node(kind, 0.1).items() if k != "lr"}
    subject = training.Subject(copy.deepcopy(net), F.cross_entropy, rule, batch, 0, "cpu")
    found, _ = training.train(subject, lrs, width=2)
    for lane in range(2):
        own, losses = copy.deepcopy(net), []
        for i, lr in enumerate(lrs[:, lane]):
            x, y = batch(i)
            loss = F.cross_entropy(own(x), y)
            losses.append(float(loss.detach()))
            own.zero_grad()
            loss.backward()
            kind(own.parameters(), lr=lr).step()
        np.testing.assert_allclose(found[:, lane], losses, rtol=1e-5)


def test_the_copies_of_a_landscape_have_the_rates_of_their_roles() -> None:
    torch.manual_seed(0)
    stack = stacking.stack([network(), network()], [0, 0], F.cross_entropy, "cpu")
    configs = [node(ConstantHead, lr) for lr in (0.01, 0.1)]
    batch = on_batches.batches(tiny_images(), 0, 64)
    walked = on_batches.build(stack, configs, batch, [])
    rule = walked.optimizer
    copied = on_batches.copies(walked, 1, step=3)
    copies, optimizer = copied.lanes, copied.optimizer
    assert copied.steps() == [3, 3]
    assert [optimizer.rates(lane) for lane in range(2)] == [rule.rates(0), rule.rates(1)]
    assert rule.rates(0)[1] == pytest.approx(2) and rule.rates(1)[1] == pytest.approx(0.2)
    before = [t.clone() for t in copies.params.values()]
    step(optimizer, [*copies.params.values()], [0.01, 0.1])
    for lane in range(2):
        moved = [(b - t)[lane].max() for b, t in zip(before, copies.params.values(), strict=True)]
        assert moved == pytest.approx([[0.01, 0.1][lane]] * 2 + [0.02] * 2, rel=1e-4)


class Tied(nn.Module):
    """Two layers of one matrix."""

    def __init__(self, in_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.into = nn.Linear(int(np.prod(in_shape)), 8)
        self.one = nn.Linear(8, 8, bias=False)
        self.two = nn.Linear(8, 8, bias=False)
        self.two.weight = self.one.weight
        self.out = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.one(torch.tanh(self.into(x.flatten(1)))))
        return self.out(torch.tanh(self.two(hidden)))


def test_tied_weights_are_one_parameter_of_one_group(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer.alone(
        "lr=0.03", f"network=custom network._target_={__name__}.Tied {named(HeadTen)}"
    )
    monkeypatch.setitem(globals(), "network", lambda: Tied(IN_SHAPE, CLASSES))
    assert_trained_like(run, ordinary(HeadTen, 0.03))
