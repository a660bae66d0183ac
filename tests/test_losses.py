"""Losses and their gradients against formulas written out in numpy, float64."""

import functools
import math
import random
from pathlib import Path

import hydra
import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch.func import vmap

from lrlab.losses import (
    chance_loss,
    cross_entropy,
    is_logit,
    l1,
    mse,
    mse_one_hot,
    nll,
    right_answers,
    task,
)

pytestmark = pytest.mark.unit

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


def best_constant(loss, targets, shape):
    """The least loss of a constant, by torch's LBFGS in float64: an independent way."""
    constant = torch.linspace(-1, 1, math.prod(shape), dtype=torch.float64).view(shape)
    constant.requires_grad_()
    search = torch.optim.LBFGS(
        [constant], max_iter=2000, tolerance_grad=1e-11, line_search_fn="strong_wolfe"
    )

    def closure():
        search.zero_grad()
        value = loss(constant.expand(len(targets), *shape), targets)
        value.backward()
        return value

    search.step(closure)
    return closure().item()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [2, 10])
def test_guessing_is_the_best_constant(name, classes):
    targets = torch.arange(3 * classes) % classes
    targets[:classes] = 0  # uneven
    chance = chance_loss(LOSSES[name], targets, (classes,))
    assert chance == pytest.approx(best_constant(LOSSES[name], targets, (classes,)), rel=1e-9)
    # found by search, it is the same
    searched = chance_loss(lambda o, t: LOSSES[name](o, t), targets, (classes,))
    assert searched == pytest.approx(chance, rel=1e-6)


def test_guessing_among_uneven_classes_costs_their_entropy():
    targets = (torch.arange(2000) % 20 == 0).long()  # 5%
    expected = scipy.stats.entropy([0.95, 0.05])
    logit = lambda o, t: F.binary_cross_entropy_with_logits(o.squeeze(1), t.float())  # noqa: E731
    assert chance_loss(nll, targets, (2,)) == pytest.approx(expected, rel=1e-12)
    assert chance_loss(torch.nn.CrossEntropyLoss(), targets, (2,)) == pytest.approx(expected)
    assert chance_loss(logit, targets, (1,)) == pytest.approx(expected, rel=1e-5)
    # a class that does not occur costs nothing; of tokens all positions count, padding does not
    assert chance_loss(nll, targets, (7,)) == pytest.approx(expected, rel=1e-12)
    tokens = torch.cat([targets.view(500, 4), torch.full((500, 1), -100)], dim=1)
    assert chance_loss(nll, tokens, (2, 5)) == pytest.approx(expected, rel=1e-12)


REGRESSIONS = {
    "mse": (mse, lambda y: y.var(0).mean()),
    "l1": (l1, lambda y: np.abs(y - np.median(y, axis=0)).mean()),
    "MSELoss": (torch.nn.MSELoss(), lambda y: y.var(0).mean()),
    "L1Loss": (torch.nn.L1Loss(), lambda y: np.abs(y - np.median(y, axis=0)).mean()),
    "absolute": (
        lambda o, t: (o - t).abs().mean(),
        lambda y: np.abs(y - np.median(y, axis=0)).mean(),
    ),
}


@pytest.mark.parametrize("name", REGRESSIONS)
def test_guessing_of_a_regression(name):
    loss, formula = REGRESSIONS[name]
    draw = np.random.default_rng(0)
    y = (1000 + draw.exponential(size=(501, 3)) * [1, 30, 0.1]).astype(np.float32)
    found = chance_loss(loss, torch.from_numpy(y), (3,))
    assert found == pytest.approx(formula(y.astype(np.float64)), rel=1e-4)


@pytest.mark.parametrize(
    "loss",
    [torch.nn.HuberLoss(delta=0.3), torch.nn.SmoothL1Loss(), torch.nn.MSELoss(reduction="sum")],
)
def test_guessing_with_a_loss_of_torch(loss):
    y = torch.from_numpy(np.random.default_rng(0).gumbel(size=(400, 2)))
    assert chance_loss(loss, y, (2,)) == pytest.approx(best_constant(loss, y, (2,)), rel=1e-6)


def test_guessing_with_classes_and_any_loss_of_torch():
    targets = torch.arange(900).sqrt().long() % 5
    weighted = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 3, 4, 5]))
    exact = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 3, 4, 5], dtype=torch.float64))
    smooth = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    for loss, truth in ((weighted, exact), (smooth, smooth)):
        expected = best_constant(truth, targets, (5,))
        assert chance_loss(loss, targets, (5,)) == pytest.approx(expected, rel=1e-6)
    assert weighted.weight.dtype == torch.float32  # a copy was called


def test_of_many_targets_the_shares_stay():
    targets = (torch.randperm(300_000, generator=torch.Generator().manual_seed(0)) < 15_000).long()
    found = chance_loss(lambda o, t: F.cross_entropy(o, t), targets, (2,))
    assert found == pytest.approx(scipy.stats.entropy([0.95, 0.05]), rel=1e-3)


def unbounded(outputs, targets):
    return outputs.mean()


@pytest.mark.parametrize(
    "loss",
    [
        unbounded,
        lambda outputs, targets: 1 / 0,
        lambda outputs, targets: outputs.detach().mean(),
        lambda outputs, targets: outputs.mean() * math.nan,
        lambda outputs, targets: float(outputs.mean()),
        functools.partial(nll, targets=torch.tensor([0])),
    ],
)
def test_where_no_constant_is_best_nothing_is_told(loss):
    assert chance_loss(loss, torch.tensor([0, 1, 1]), (2,)) is None
    assert chance_loss(loss, torch.zeros(3, 2), (2,)) is None


def test_guessing_draws_no_random_number():
    def noisy(outputs, targets):
        random.random(), np.random.random(), torch.rand(1)
        return F.cross_entropy(outputs, targets)

    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert chance_loss(noisy, torch.tensor([0, 1, 1]), (2,)) == pytest.approx(0.636514, abs=1e-6)
    assert before[:2] == (random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(before[2], torch.get_rng_state())


# --- right answers --------------------------------------------------------------------------------


def one_output(loss):
    return lambda outputs, targets: loss(outputs.squeeze(1), targets.float())


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (one_output(F.binary_cross_entropy_with_logits), True),
        (one_output(lambda o, t: F.soft_margin_loss(o, 2 * t - 1)), True),
        (
            one_output(torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(9.0))),
            True,
        ),
        (one_output(F.binary_cross_entropy), False),  # of a probability the border is 0.5
        (one_output(F.mse_loss), False),
        (one_output(lambda o, t: 1 / 0), False),
    ],
)
def test_which_losses_take_a_logit(loss, expected):
    assert is_logit(loss, (1,)) is expected
    assert is_logit(loss, (2,)) is False


def test_right_answers():
    draw = torch.Generator().manual_seed(0)
    scores, classes = torch.randn(50, 4, generator=draw), torch.arange(50) % 4
    expected = sum(int(np.argmax(s) == c) for s, c in zip(scores.tolist(), classes, strict=True))
    assert right_answers(scores, classes) == expected
    assert right_answers(scores, classes, classes=5) is None  # outputs that are no scores of these

    logits, pair = torch.randn(50, generator=draw), torch.arange(50) % 2
    expected = sum((z > 0) == bool(c) for z, c in zip(logits.tolist(), pair, strict=True))
    for outputs in (logits, logits[:, None]):
        assert right_answers(outputs, pair, classes=2, logit=True) == expected
        assert right_answers(outputs, pair, classes=2) is None

    scores, tokens = torch.randn(6, 4, 9, generator=draw), torch.arange(54).view(6, 9) % 4
    tokens[:, -1] = -100
    expected = sum(
        int(scores[i, :, j].argmax()) == int(tokens[i, j]) for i in range(6) for j in range(8)
    )
    assert right_answers(scores, tokens) == expected

    assert right_answers(scores, torch.zeros(6, 4, 9)) is None  # a regression
    assert right_answers(scores, tokens[:, :5]) is None  # other positions
    assert right_answers(scores.mean(2), tokens) is None
    assert right_answers(scores, classes[:6]) is None
    assert right_answers((scores, scores), tokens) is None


@pytest.mark.parametrize("name", LOSSES)
def test_config_gives_the_loss(name):
    loss = hydra.utils.instantiate(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    outputs, targets = sample()
    value = loss(torch.tensor(outputs), torch.tensor(targets)).item()
    assert value == pytest.approx(oracle(name, outputs, targets), rel=1e-12)
    given = torch.tensor(targets), outputs.shape[1:]
    assert chance_loss(loss, *given) == chance_loss(LOSSES[name], *given) > 0


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
    assert task(loss) == "regression"


def test_the_task_of_a_loss():
    assert {task(loss) for loss in LOSSES.values()} == {"classification"}
    assert task(lambda outputs, targets: outputs.sum()) is None
