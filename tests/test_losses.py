"""Losses and their gradients against formulas written out in numpy, float64."""

import functools
import math
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch.func import vmap

from lrlab.losses import chance_loss, cross_entropy, mse_one_hot, nll, task

CONFIGS = Path(__file__).parents[1] / "conf" / "loss"
LOSSES = {"nll": nll, "cross_entropy": cross_entropy, "mse_one_hot": mse_one_hot}


def sample(classes=7, batch=11, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(scale=4, size=(batch, classes)), rng.integers(classes, size=batch)


def softmax(outputs):
    exponentials = np.exp(outputs - outputs.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def oracle(name, outputs, targets):
    if name == "mse_one_hot":
        return np.mean((outputs - np.eye(outputs.shape[1])[targets]) ** 2)
    return -np.mean(np.log(softmax(outputs)[np.arange(len(targets)), targets]))


def oracle_gradient(name, outputs, targets):
    one_hot = np.eye(outputs.shape[1])[targets]
    if name == "mse_one_hot":
        return 2 * (outputs - one_hot) / outputs.size
    return (softmax(outputs) - one_hot) / len(targets)


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_the_formulas(name):
    outputs, targets = sample()
    scores = torch.tensor(outputs, requires_grad=True)
    loss = LOSSES[name](scores, torch.tensor(targets))
    loss.backward()
    assert loss.shape == ()
    assert loss.item() == pytest.approx(oracle(name, outputs, targets), rel=1e-12)
    np.testing.assert_allclose(
        scores.grad, oracle_gradient(name, outputs, targets), rtol=1e-11, atol=1e-16
    )


@pytest.mark.parametrize("name", LOSSES)
def test_under_vmap_each_lane_is_its_own_loss(name):
    outputs, targets = zip(*(sample(seed=seed) for seed in range(3)), strict=True)
    lanes = vmap(LOSSES[name])(torch.tensor(np.array(outputs)), torch.tensor(np.array(targets)))
    expected = [oracle(name, o, t) for o, t in zip(outputs, targets, strict=True)]
    np.testing.assert_allclose(lanes, expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["nll", "cross_entropy"])
def test_large_scores_do_not_overflow(name):
    outputs = torch.tensor([[1e4, 0.0, -1e4]])
    assert LOSSES[name](outputs, torch.tensor([0])).item() == 0.0
    assert LOSSES[name](outputs, torch.tensor([2])).item() == 2e4


@pytest.mark.parametrize("name", LOSSES)
def test_a_non_finite_score_is_a_non_finite_loss_not_an_exception(name):
    outputs = torch.tensor([[float("nan"), 0.0], [0.0, 1.0]])
    assert not torch.isfinite(LOSSES[name](outputs, torch.tensor([0, 1])))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [2, 10])
def test_chance_loss_is_the_least_loss_of_a_constant_prediction(name, classes):
    """Found by search over constant predictions on a balanced set, not by the formula."""
    constant = torch.linspace(-1, 1, classes, dtype=torch.float64).requires_grad_()
    targets = torch.arange(classes)
    search = torch.optim.LBFGS([constant], max_iter=200, tolerance_grad=1e-12)

    def closure():
        search.zero_grad()
        loss = LOSSES[name](constant.expand(classes, -1), targets)
        loss.backward()
        return loss

    search.step(closure)
    chance = chance_loss(name, classes)
    assert chance == pytest.approx(closure().item(), rel=1e-9)
    assert chance_loss(LOSSES[name], classes) == chance


def test_chance_loss_of_ten_classes():
    assert chance_loss("nll", 10) == pytest.approx(2.302585093, abs=1e-9)
    assert chance_loss("mse_one_hot", 10) == pytest.approx(0.09, abs=1e-12)


def test_chance_loss_of_an_unknown_loss_is_none():
    assert chance_loss("focal", 10) is None
    assert chance_loss(lambda outputs, targets: outputs.sum(), 10) is None
    assert chance_loss(functools.partial(nll, targets=torch.tensor([0])), 10) is None


@pytest.mark.parametrize("name", LOSSES)
def test_config_gives_the_loss(name):
    loss = hydra.utils.instantiate(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    outputs, targets = sample()
    value = loss(torch.tensor(outputs), torch.tensor(targets)).item()
    assert value == pytest.approx(oracle(name, outputs, targets), rel=1e-12)
    assert chance_loss(loss, 10) == chance_loss(name, 10)
    assert math.isfinite(chance_loss(loss, 10))


def test_every_loss_has_a_config_and_the_reverse():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(LOSSES) | {"mse", "l1"}


@pytest.mark.parametrize("name", ["mse", "l1"])
def test_losses_of_a_regression(name):
    loss = hydra.utils.instantiate(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    draw = np.random.default_rng(0)
    outputs, targets = draw.normal(size=(2, 9, 3))
    expected = np.mean((outputs - targets) ** 2 if name == "mse" else np.abs(outputs - targets))
    value = loss(torch.tensor(outputs), torch.tensor(targets)).item()
    assert value == pytest.approx(expected, rel=1e-12)
    assert task(loss) == "regression" and chance_loss(loss, 10) is None


def test_the_task_of_a_loss():
    assert {task(loss) for loss in LOSSES.values()} == {"classification"}
    assert task(lambda outputs, targets: outputs.sum()) is None
    assert chance_loss("nll", None) is None
