"""`lrlab.find` with what an own loop has: a loss of (model, batch), a loader, an optimizer."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.commands import command
from helpers.networks import net
from helpers.own_loops import (
    LABELS,
    ROWS,
    SHORT,
    TEXTS,
    Encoding,
    Small,
    X,
    encoded,
    normed,
    of_dict,
    own_loss,
    shuffled,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lrlab
from lrlab.engine.lanes.lane_stack import Lanes
from lrlab.errors import UserError
from lrlab.find import Found, main
from lrlab.range_test import held_out
from lrlab.range_test.loops import instance, model_batch

pytestmark = pytest.mark.usefixtures("one_thread")

def of_three(model: nn.Module, batch: Any) -> Tensor:
    x, y, weight = batch
    return (F.cross_entropy(model(x), y, reduction="none") * weight).mean()


def loop(
    network: nn.Module, loader: Any, loss: Any, optimizer: Any, steps: int, val: Any = ()
) -> tuple[list[float], list[float]]:
    """An ordinary loop's losses before each step: of its batch, and the mean of the held-out."""
    network.train()
    losses, held = [], []
    while len(losses) < steps:
        for batch in loader:
            if len(losses) == steps:
                break
            held.append(evaluated(network, loss, val))
            optimizer.zero_grad()
            value = loss(network, batch)
            value.backward()
            optimizer.step()
            losses.append(value.item())
    return losses, held


@torch.no_grad()
def evaluated(network: nn.Module, loss: Any, val: Any) -> float:
    network.eval()
    found = [float(loss(network, copy.deepcopy(batch))) for batch in val]
    network.train()
    return float(np.mean(found)) if found else 0.0


def weighted() -> Any:
    return TensorDataset(X, LABELS, torch.linspace(0.5, 1.5, len(X)))


# --- against an ordinary loop ---------------------------------------------------------------------

CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], Any, Any]] = {
    "encodings": (Small, lambda: shuffled(TEXTS, collate_fn=encoded), own_loss, torch.optim.Adam),
    "dicts": (net, lambda: shuffled(ROWS), of_dict, torch.optim.SGD),
    "three": (
        normed,
        lambda: shuffled(weighted(), drop_last=True),
        of_three,
        functools.partial(torch.optim.SGD, momentum=0.9),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_an_ordinary_loop_of_the_same_steps(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, loader, loss, optimizer = CASES[name]
    ways = noted_ways(monkeypatch)
    network = make()
    val = list(loader())[:5]
    state = torch.get_rng_state()
    mild = {**SHORT, "lr": (1e-3, 0.1)}
    found = lrlab.find(network, loader(), loss, optimizer, val=val, **mild)
    assert "unmapped" not in ways
    for i, lr in enumerate(found.constants.lr):
        torch.set_rng_state(state)
        own = copy.deepcopy(network)
        made = optimizer(own.parameters(), lr=float(lr))
        losses, held = loop(own, loader(), loss, made, 12, val)
        np.testing.assert_allclose(found.constant_losses[:, i], losses, rtol=2e-5)
        at = found.val_steps
        np.testing.assert_allclose(found.constant_val[:, i], np.array(held)[at], rtol=2e-5)
    assert found.val_samples == (22 if name == "encodings" else 5 * 8)


def noted_ways(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    ways: set[str] = set()
    gradients = Lanes.gradients

    def noting(self: Lanes, *given: Any) -> Any:
        ways.add(self.way)
        return gradients(self, *given)

    monkeypatch.setattr(Lanes, "gradients", noting)
    return ways


class Branching(nn.Module):
    """Looks at its numbers, which vmap refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.net(x)
        return outputs if outputs.mean().item() > 0 else outputs * 0.9


def test_what_vmap_cannot_take_trains_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = noted_ways(monkeypatch)
    network, loader = Branching(), DataLoader(ROWS, 8)
    found = lrlab.find(network, loader, of_dict, **SHORT)
    assert "unmapped" in ways
    for i, lr in enumerate(found.constants.lr):
        own = copy.deepcopy(network)
        losses, _ = loop(own, loader, of_dict, torch.optim.SGD(own.parameters(), float(lr)), 12)
        np.testing.assert_allclose(found.constant_losses[:, i], losses, rtol=2e-5)


@pytest.mark.parametrize("kind", ["dicts", "pairs"])
def test_layers_that_the_user_keeps_in_eval_mode_stay_so(kind: str) -> None:
    """As in a loop that froze its batch norms, whose running statistics are then used."""
    network = normed()
    network(X)
    network[1].eval()
    pairs = list(zip(X.split(11), LABELS.split(11), strict=True))
    dicts = [{"x": x, "y": y} for x, y in pairs]

    def of_pair(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    data: Any = dicts if kind == "dicts" else pairs
    loss: Any = of_dict if kind == "dicts" else F.cross_entropy
    found = lrlab.find(network, data, loss, val=data, **SHORT)
    for i, lr in enumerate(found.constants.lr):
        own = copy.deepcopy(network)
        sgd, losses = torch.optim.SGD(own.parameters(), float(lr)), []
        for step in range(12):
            value = of_dict(own, copy.deepcopy(dicts[step % 4])) if kind == "dicts" else of_pair(
                own, pairs[step % 4]
            )
            sgd.zero_grad()
            value.backward()
            sgd.step()
            losses.append(value.item())
        np.testing.assert_allclose(found.constant_losses[:, i], losses, rtol=2e-5)
    assert network.training and not network[1].training and "train" not in vars(network[1])


def test_the_network_draws_none_of_the_loaders_numbers() -> None:
    """The batches are those of a network without dropout, in the second pass, too."""
    seen = []
    for dropout in (0.0, 0.5):
        torch.manual_seed(3)
        batches: list[Any] = []

        def collated(texts: list[Tensor], to: list[Any] = batches) -> Encoding:
            to.append(torch.stack(texts).tolist())
            return encoded(texts)

        lrlab.find(Small(dropout), shuffled(TEXTS, collate_fn=collated), own_loss, **SHORT)
        seen.append(batches)
    assert seen[0] == seen[1] and len(seen[0]) >= 12


def test_pairs_with_a_loss_of_model_and_batch_are_those_of_outputs_and_targets() -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    val = X[:20], LABELS[:20]
    one = lrlab.find(net(), (X, LABELS), loss, val=val, batch_size=8, **SHORT)
    other = lrlab.find(net(), (X, LABELS), F.cross_entropy, val=val, batch_size=8, **SHORT)
    np.testing.assert_allclose(one.constant_losses, other.constant_losses, rtol=1e-6)
    np.testing.assert_allclose(one.constant_val, other.constant_val, rtol=1e-6)
    assert one.val_samples == other.val_samples == 20


def test_a_lazy_network_takes_its_shapes_from_the_batch() -> None:
    lazy = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(3))
    one = lrlab.find(lazy, DataLoader(ROWS, 8), of_dict, **SHORT)
    assert isinstance(lazy[0].weight, nn.UninitializedParameter)
    assert np.isfinite(one.ramp_loss).all()


@pytest.mark.unit
def test_held_out_batches_are_spread_and_weighted_by_their_samples() -> None:
    batches = [torch.full((size, 1), float(i)) for i, size in enumerate([4] * 400 + [2])]
    own = model_batch.OfBatches(net(), lambda model, batch: batch.mean(), lambda i, _: batches[i])
    with torch.no_grad():
        mean = own(torch.tensor([0, 400], dtype=torch.int32))
    assert float(mean) == pytest.approx(400 * 2 / 6)
    kept = model_batch._thinned(model_batch.Source(batches, "val"), 40)
    places = [int(batch[0]) for batch in kept]
    apart = np.diff(places)
    assert len(set(apart)) == 1 and places[0] == 0 and places[-1] > 300
    assert sum(map(len, kept)) <= 80 and len(kept) >= held_out.PARTS


# --- which kind of loss ---------------------------------------------------------------------------

PAIR, DICT = (X, LABELS), {"x": X, "y": LABELS}


class Criterion(nn.Module):
    def forward(self, model: nn.Module, batch: Any) -> Tensor:
        return of_dict(model, batch)


@pytest.mark.parametrize(
    ("loss", "batch", "is_of_model"),
    [
        (F.cross_entropy, PAIR, False),
        (nn.CrossEntropyLoss(), PAIR, False),
        (lambda m, b: 0, PAIR, False),
        (lambda model, b: 0, PAIR, True),
        (lambda network, b: 0, PAIR, True),
        (lambda net, b: 0, PAIR, True),
        (lambda module, b: 0, PAIR, True),
        (functools.partial(lambda scale, model, b: 0, 2), PAIR, True),
        (Criterion(), PAIR, True),
        (F.cross_entropy, DICT, True),
        (lambda m, b: 0, DICT, True),
        (lambda m, b: 0, (X, LABELS, X), True),
        (lambda m, b: 0, X, True),
        (lambda m, b: 0, (X, DICT), True),
    ],
)  # fmt: skip
@pytest.mark.unit
def test_the_kind_of_a_loss_is_seen_by_the_batch_or_by_a_name(
    loss: Any, batch: Any, is_of_model: bool
) -> None:
    assert model_batch.is_meant(loss, batch) == is_of_model


def pair_loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, LABELS), 8)


MINE = net()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": F.cross_entropy}, "data: each mini-batch must be a pair of tensors, not a dict, "
         "or else loss a function of (model, batch); called so, it fails: TypeError"),
        ({"loss": lambda m, b: m(b[0]).sum(), "data": pair_loader()},
         "name the first parameter model if it takes (model, batch)"),
        ({"loss": lambda model, y: F.cross_entropy(model, y), "data": pair_loader()},
         "loss: fails on (model, batch), with which it is called because of the name of its first"),
        ({"loss": None}, "loss: must be a function of (model, batch), such as"),
        ({"loss": lambda model, batch: MINE(batch["x"]).sum()},
         "loss: depends on no parameter of the model that it is given"),
        ({"loss": lambda model, batch: model(batch["x"])}, "loss: returns a tensor of shape (8, "),
        ({"loss": lambda model, batch: 1.0}, "loss: returns a float; return a tensor"),
        ({"loss": lambda m, b: of_dict(m, b) * float("nan")}, "loss: is nan before training"),
        ({"val": [{"x": X}]}, "val: the loss fails on a mini-batch, a dict, in eval mode: Key"),
        ({"val": []}, "val: gives no mini-batch"),
        ({"data": []}, "data: gives no mini-batch"),
        ({"network": net().to("meta")}, "network: has parameters on the meta device"),
        ({"network": nn.Sequential(nn.Embedding(3, 3, sparse=True)), "data": [{"y": LABELS}],
          "loss": lambda m, b: m(b["y"]).sum()}, "network: gives sparse gradients"),
    ],
)  # fmt: skip
@pytest.mark.unit
def test_a_wrong_combination_is_one_line(change: dict[str, Any], message: str) -> None:
    given = {"network": net(), "data": DataLoader(ROWS, 8), "loss": of_dict, **SHORT}
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        lrlab.find(**{**given, **change})
    assert "\n" not in str(caught.value)


# --- an optimizer that the user has ---------------------------------------------------------------


def same(one: Found, other: Found) -> None:
    np.testing.assert_array_equal(one.constant_losses, other.constant_losses)
    np.testing.assert_array_equal(one.ramp_loss, other.ramp_loss)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (torch.optim.Adam, {"betas": (0.8, 0.99), "foreach": True}),
        (torch.optim.AdamW, {"weight_decay": 0.3, "eps": 1e-6}),
        (torch.optim.RMSprop, {"alpha": 0.5, "centered": True}),
        (torch.optim.NAdam, {}),
    ],
)
def test_an_optimizer_is_its_class_with_its_settings(kind: Any, settings: dict[str, Any]) -> None:
    network = net()
    made = kind(network.parameters(), lr=0.3, **settings)
    torch.optim.lr_scheduler.LambdaLR(made, lambda step: 0.0)  # a warm-up begins at 0
    read = instance.config_of(made, network)
    assert read == {"_target_": f"{kind.__module__}.{kind.__qualname__}"} | {
        k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()
    }
    one = lrlab.find(network, (X, LABELS), F.cross_entropy, made, batch_size=8, **SHORT)
    partial = functools.partial(kind, **settings)
    same(one, lrlab.find(network, (X, LABELS), F.cross_entropy, partial, batch_size=8, **SHORT))


def test_parameter_groups_keep_their_settings_and_their_ratio() -> None:
    """And a parameter in none of them stays as it is."""
    network = net()

    def groups(of: Any, lr: float) -> torch.optim.Optimizer:
        decayed = {"params": [of[0].weight], "weight_decay": 0.5}
        slower = {"params": [of[2].bias, of[2].weight], "lr": lr / 4}
        return torch.optim.AdamW([decayed, slower], lr)

    loader = DataLoader(ROWS, 8)
    found = lrlab.find(network, loader, of_dict, groups(network, 0.2), **SHORT)
    for i, lr in enumerate(found.constants.lr):
        own = copy.deepcopy(network)
        losses, _ = loop(own, loader, of_dict, groups(own, float(lr)), 12)
        assert torch.equal(own[0].bias, network[0].bias)
        np.testing.assert_allclose(found.constant_losses[:, i], losses, rtol=2e-5)


class Forgetful(torch.optim.SGD):
    def __init__(self, params: Any, lr: float = 0.1, sharpness: float = 0.05) -> None:
        super().__init__(params, lr)


def test_an_optimizer_that_cannot_be_read_is_one_line() -> None:
    network = net()
    for made, message in [
        (torch.optim.Adam(net().parameters()), "holds parameters that the network does not have; "
         "give its class, torch.optim.Adam, or functools.partial"),
        (Forgetful(network.parameters()), "a Forgetful does not keep its sharpness; give its"),
        (torch.optim.SGD(network.parameters(), lr=0.0), "the lr of its first parameter group is 0"),
        (torch.optim.LBFGS(network.parameters()), "evaluates the loss several times a step"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=re.escape(message)):
            lrlab.find(network, (X, LABELS), F.cross_entropy, made, batch_size=8, **SHORT)


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word",
    ["n_trials=5", "pruner=median", "++pruner.n_startup_trials=3", "sampler=random",
     "objective=val_acc", "epochs=2", "workers=2", "precision=bf16"],
)  # fmt: skip
def test_the_command_refuses_what_only_a_sweep_uses(word: str, tmp_path: Path) -> None:
    words = ["pruner=median"] if word.startswith("++pruner") else []
    ended = command(main, [*words, word], tmp_path)
    assert ended.code == 2 and ended.out == ""
    word = (words or [word])[0]
    assert ended.err.startswith(f"lrlab: {word}: only a sweep uses it, find does not; leave it out")
    assert ended.err.count("\n") == 1 and not list(tmp_path.iterdir())


# --- the document ---------------------------------------------------------------------------------


@pytest.mark.full
def test_the_program_of_the_document_prints_what_it_shows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "python.md").read_text("utf-8")
    section = page.partition("## Find, in your loop\n")[2].partition("\n## ")[0]
    (program,) = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    exec(compile(program, "find_tokens.py", "exec"), {"__name__": "found"})
    shown = re.findall(r"^    (find: .*|      .*)$", section, re.MULTILINE)
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == shown[:2] and len(printed) > 5
