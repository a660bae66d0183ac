"""What `lrlab.find` takes from Python, and the one line for what it does not."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.networks import net
from torch import Tensor, nn
from torch.nn.utils import weight_norm
from torch.utils.data import TensorDataset

import lrlab
from lrlab.errors import UserError
from lrlab.find import Found, find

SHORT: Any = {"lr": (1e-3, 1.0), "points": 3, "steps": 12, "batch_size": 16}
DRAW = torch.Generator().manual_seed(0)
X = torch.randn(64, 5, generator=DRAW)
LABELS = torch.randint(0, 3, (64,), generator=DRAW)
Y = X.sum(1) + 0.1 * torch.randn(64, generator=DRAW)


pytestmark = pytest.mark.usefixtures("one_thread")


def same(one: Found, other: Found) -> None:
    np.testing.assert_array_equal(one.constant_losses, other.constant_losses)
    np.testing.assert_array_equal(one.ramp_loss, other.ramp_loss)


# --- what is taken --------------------------------------------------------------------------------


def test_find_is_a_module_and_can_be_called() -> None:
    same(lrlab.find(net(), (X, LABELS), F.cross_entropy, **SHORT),
         lrlab.find.find(net(), (X, LABELS), F.cross_entropy, **SHORT))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("sgd", torch.optim.SGD),
        ("adam", torch.optim.Adam),
        ("momentum", functools.partial(torch.optim.SGD, momentum=0.9)),
    ],
)
def test_a_name_is_the_optimizer_that_a_sweep_takes_by_it(name: str, made: Any) -> None:
    data = (X, LABELS)
    same(find(net(), data, F.cross_entropy, name, **SHORT),
         find(net(), data, F.cross_entropy, made, **SHORT))  # fmt: skip


class Pairs(torch.utils.data.Dataset[Any]):
    """Read one by one."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> Any:
        return X[i], int(LABELS[i])


@pytest.mark.parametrize(
    "data", [TensorDataset(X, LABELS), Pairs(), (X.double().numpy(), LABELS.numpy())]
)
def test_data_sets_and_arrays_are_the_tensors_that_they_hold(data: Any) -> None:
    truth = find(net(), (X, LABELS), F.cross_entropy, **SHORT)
    same(find(net(), data, F.cross_entropy, **SHORT), truth)


def test_a_text_is_a_range_as_on_the_command_line() -> None:
    given = {**SHORT, "lr": "1e-3..1"}
    truth = find(net(), (X, LABELS), F.cross_entropy, **SHORT)
    same(find(net(), (X, LABELS), F.cross_entropy, **given), truth)


def test_lazy_layers_get_their_shapes_from_the_data_and_stay_lazy() -> None:
    lazy = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(3))
    one = find(lazy, (X, LABELS), F.cross_entropy, **SHORT)
    same(one, find(lazy, (X, LABELS), F.cross_entropy, **SHORT))
    assert isinstance(lazy[0].weight, nn.UninitializedParameter)
    torch.manual_seed(0)
    lazy(X)
    same(one, find(lazy, (X, LABELS), F.cross_entropy, **SHORT))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_a_network_that_holds_results_of_a_forward_pass_is_copied() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(weight_norm(nn.Linear(5, 8)), nn.Tanh(), nn.Linear(8, 3))
    truth = find(network, (X, LABELS), F.cross_entropy, **SHORT)
    network(X)
    same(find(network, (X, LABELS), F.cross_entropy, **SHORT), truth)


class NoisySGD(torch.optim.SGD):
    """Draws as it steps, from torch's own generator."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(group["lr"] * (p.grad + 0.1 * torch.randn_like(p)))


def test_an_optimizer_that_draws_draws_by_seed_and_step() -> None:
    """Whatever was drawn before, and whichever other lrs are trained."""
    found = []
    for before, points in ((1, 3), (2, 3), (1, 2)):
        network, settings = net(), {**SHORT, "points": points}
        torch.manual_seed(before)  # which net() seeds too
        found.append(find(network, (X, LABELS), F.cross_entropy, NoisySGD, **settings))
    one, other, fewer = found
    same(one, other)
    np.testing.assert_array_equal(one.constant_losses[:, [0, -1]], fewer.constant_losses)
    plain = find(net(), (X, LABELS), F.cross_entropy, **SHORT)
    assert (plain.constant_losses[1:] != one.constant_losses[1:]).any()  # it did draw
    moved = find(net(), (X, LABELS), F.cross_entropy, NoisySGD, **{**SHORT, "seed": 1})
    assert (moved.constant_losses != one.constant_losses).any()


# --- what is refused ------------------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Any:
        return self.net(x), x


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs - targets) ** 2).mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": None}, "network: must be a torch.nn.Module, not None"),
        ({"network": nn.Linear}, "make one, like Linear()"),
        ({"network": Two()}, "network: its forward pass returns a tuple; return one tensor"),
        ({"network": nn.Linear(4, 3)}, "network: its forward pass fails on a batch of shape"),
        ({"network": nn.Linear(5, 3).double()}, "torch.float32: RuntimeError"),
        ({"data": None}, "data: must be two tensors, a TensorDataset, or a DataLoader"),
        ({"data": X}, "not a Tensor"),
        ({"data": (X[:0], LABELS[:0])}, "data: has no samples"),
        ({"data": TensorDataset(X)}, "data: a TensorDataset of 1 tensors; must be of two"),
        ({"data": iter([])}, "data: gives no mini-batch"),
        ({"data": [{"x": X, "y": LABELS}]}, "must be a pair of tensors, not a dict"),
        ({"data": [(X, LABELS, X)]}, "not tuple of 3: Tensor, Tensor, Tensor"),
        ({"batch_size": 2.5}, "batch_size=2.5: must be from 1 to the 64 samples"),
        ({"loss": None}, "loss: must be a function of outputs and targets"),
        ({"loss": functools.partial(F.cross_entropy, reduction="none")}, "returns a tensor of"),
        ({"loss": lambda o, y: F.cross_entropy(o.detach(), y)}, "loss: has no gradient"),
        ({"loss": lambda o, y: F.cross_entropy(o, y).item()}, "loss: returns a float"),
        ({"loss": lambda o, y: o.mean() * float("nan")}, "loss: is nan before training"),
        ({"loss": F.mse_loss}, "loss: fails on outputs (16, 3) and targets (16,)"),
        ({"network": net(1), "data": (X, Y), "loss": squared}, "outputs (16, 1) and targets (16,)"),
        ({"network": net(1), "data": (X, Y), "loss": F.mse_loss}, "give both the same shape"),
        ({"optimizer": "adm"}, "optimizer=adm: no such optimizer (did you mean adam?)"),
        ({"optimizer": torch.optim.Adam(net().parameters())}, "give its class, torch.optim.Adam"),
        ({"optimizer": {"momentum": 0.9}}, "optimizer: a mapping needs _target_"),
        ({"lr": 0.1}, "lr=0.1: must be two numbers"),
        ({"lr": "fast"}, "lr=fast: must be two numbers"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")
def test_what_find_cannot_take_is_one_line(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"network": net(), "data": (X, LABELS), "loss": F.cross_entropy}
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        find(**{**given, **SHORT, **change})
    assert "\n" not in str(caught.value)


def test_a_loss_that_makes_the_shapes_equal_itself_is_taken() -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs.squeeze(1), targets)

    flat = find(net(1), (X, Y[:, None]), F.mse_loss, **SHORT)
    same(find(net(1), (X, Y), loss, **SHORT), flat)


# --- what is said ---------------------------------------------------------------------------------


def test_the_answer_fits_a_screen_and_has_three_digits() -> None:
    found = find(net(), (X, LABELS), F.cross_entropy, **SHORT)
    lines = repr(found).splitlines()
    assert len(lines) <= 22 and max(map(len, lines)) <= 79
    assert "tensor" not in repr(found) and "array" not in repr(found)
    numbers = re.findall(r"\d+\.\d+", repr(found))
    assert numbers and all(len(n.replace(".", "").lstrip("0")) <= 3 for n in numbers)


def test_a_ramp_that_found_nothing_does_not_claim_to_be_right() -> None:
    noise = torch.randint(0, 3, (64,), generator=torch.Generator().manual_seed(3))
    found = find(net(), (X, noise), F.cross_entropy, lr=(1e-9, 1e-8), points=3, steps=12)
    assert not any(each.lr for each in found.ramp.suggestions)
    assert "the ramp suggests no learning rate" in repr(found)
    assert "does not mislead" not in repr(found)
