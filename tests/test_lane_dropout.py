"""Dropout in lanes: torch's own masks, drawn for each lane by its seed and step."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.training import CLASSES, Trainer, assert_same_bits, tiny_images
from torch import Tensor, nn

from lrlab.engine.lanes import stacking
from lrlab.engine.lanes.lane_stack import Lanes

DATA = tiny_images(64, 40, 8)
STEPS = [4, 9, 2]  # lanes need not be at one step
SEEDS = [5, 6, 5]


class Images(nn.Module):
    """Drops out in all forms that lanes take together."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.whole = nn.Dropout2d(0.4)
        self.place = nn.Dropout(0.2, inplace=True)
        self.last = nn.Linear(4 * 100, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.whole(self.first(torch.dropout(x, 0.1, self.training)).relu())
        hidden = F.dropout1d(self.place(hidden * 1).flatten(2), 0.3, training=self.training)
        return self.last(F.dropout(F.dropout(hidden.flatten(1), 0.0), 0.5, self.training))


def small() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, CLASSES))


def lanes_of(make: Callable[[], nn.Module]) -> tuple[Lanes, list[nn.Module]]:
    torch.manual_seed(0)
    networks = [make() for _ in SEEDS]
    lanes = stacking.stack(copy.deepcopy(networks), SEEDS, F.cross_entropy, "cpu")
    lanes.settle(DATA.train_x, DATA.train_y, (DATA.val_x, DATA.val_y))
    return lanes, networks


@pytest.mark.unit
@pytest.mark.parametrize("make", [small, Images])
@pytest.mark.parametrize("way", ["together", "one at a time"])
def test_a_lane_drops_out_as_its_network_alone(make: Callable[[], nn.Module], way: str) -> None:
    """torch itself, seeded for a lane's step, is the oracle for its losses and gradients."""
    lanes, networks = lanes_of(make)
    assert lanes.draws
    lanes.way = way
    lanes.cut()
    state = torch.get_rng_state()
    found, gradients = lanes.gradients(DATA.train_x, DATA.train_y, STEPS, 1)
    assert torch.equal(state, torch.get_rng_state())
    for lane, network in enumerate(networks):
        key = (SEEDS[lane], STEPS[lane] + 1)
        seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1)
        torch.manual_seed(int(seed))
        loss = F.cross_entropy(network(DATA.train_x), DATA.train_y)
        loss.backward()
        assert float(found[lane]) == pytest.approx(float(loss.detach()), rel=1e-6)
        for mine, parameter in zip(gradients, network.parameters(), strict=True):
            assert mine is not None and parameter.grad is not None
            torch.testing.assert_close(mine[lane], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.unit
def test_an_evaluation_drops_nothing() -> None:
    lanes, networks = lanes_of(Images)
    loss, _ = lanes.evaluate(DATA.val_x, DATA.val_y, CLASSES)
    for lane, network in enumerate(networks):
        own = F.cross_entropy(network.eval()(DATA.val_x), DATA.val_y)
        assert float(loss[lane]) == pytest.approx(float(own.detach()), rel=1e-6)


@pytest.mark.unit
def test_all_is_dropped_at_one() -> None:
    lanes, _ = lanes_of(lambda: nn.Sequential(nn.Flatten(), nn.Dropout(1.0), nn.Linear(144, 5)))
    _, gradients = lanes.gradients(DATA.train_x, DATA.train_y, STEPS, 0)
    assert gradients[0] is not None and not gradients[0].any()


@pytest.mark.unit
@pytest.mark.parametrize(
    "layer", [nn.AlphaDropout(0.5), nn.RReLU(), nn.MultiheadAttention(4, 2, dropout=0.3)]
)
def test_other_random_layers_run_alone(layer: nn.Module) -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.layer = nn.Linear(144, 4), copy.deepcopy(layer)
            self.last = nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x.flatten(1))
            attends = isinstance(self.layer, nn.MultiheadAttention)
            hidden = self.layer(hidden, hidden, hidden)[0] if attends else self.layer(hidden)
            return self.last(hidden)

    lanes, _ = lanes_of(Other)
    assert lanes.way == "unmapped" and not lanes.draws


RUNS = ["lr=0.1", "lr=0.3 seed=1", "lr=0.01"]


def custom(name: str) -> str:
    return f"network=custom network._target_=helpers.networks.{name} diagnostics=default"


@pytest.mark.parametrize("name", ["AlwaysNoisy", "Dropout"])
def test_a_run_has_the_bits_that_it_has_alone(trainer: Trainer, name: str) -> None:
    group = trainer.together(RUNS, custom(name))
    assert "unmapped" not in {run.summary["lanes"]["way"] for run in group}
    for text, run in zip(RUNS, group, strict=True):
        assert_same_bits(run, trainer.alone(text, custom(name)))
    plain = trainer.together(RUNS, f"{custom(name)} capture=false")
    for run, other in zip(group, plain, strict=True):
        assert_same_bits(run, other)


def test_a_record_of_before_trains_its_runs_alone(trainer: Trainer) -> None:
    group = trainer.together(RUNS, f"{custom('Dropout')} lane_dropout=false")
    assert {run.summary["lanes"]["way"] for run in group} == {"unmapped"}
    together = trainer.together(RUNS, custom("Dropout"))
    for run, other in zip(group, together, strict=True):  # the same masks; products round otherwise
        assert run.summary["val_loss"] == pytest.approx(other.summary["val_loss"], rel=1e-3)
