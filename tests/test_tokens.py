"""Whole numbers as inputs, and targets with positions: a small transformer, as in torch.

Each run is held against an ordinary torch loop.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers.commands import command, summaries
from helpers.training import Ordinary, Trained, Trainer, assert_same_bits, make_specs
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from lrlab import losses, own_data
from lrlab.data import inputs
from lrlab.engine.lanes import chunks
from lrlab.errors import UserError
from lrlab.find import find
from lrlab.plan import build, checks
from lrlab.reproduce import main as reproduce
from lrlab.resume import main as resume
from lrlab.sweep import main as sweep
from lrlab.tables import frames

# torch's word for attention that vmap makes lane by lane
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")

HERE = "test_tokens"
VOCABULARY, CONTEXT = 7, 6


# --- data and networks ----------------------------------------------------------------------------


def text(samples: int = 200, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Windows of a sequence in which each token mostly follows from the one before."""
    draw = torch.Generator().manual_seed(seed)
    found = torch.zeros(samples, CONTEXT + 1, dtype=torch.int64)
    found[:, 0] = torch.randint(VOCABULARY, (samples,), generator=draw)
    for place in range(CONTEXT):
        noise = torch.rand(samples, generator=draw) < 0.2
        other = torch.randint(VOCABULARY, (samples,), generator=draw)
        found[:, place + 1] = torch.where(noise, other, (3 * found[:, place] + 1) % VOCABULARY)
    return found[:, :-1], found[:, 1:]


def tokens(samples: int = 200) -> dict[str, Tensor]:
    x, y = text(samples)
    val_x, val_y = text(40, seed=1)
    return {"x": x, "y": y, "val_x": val_x, "val_y": val_y}


def gaps() -> dict[str, Tensor]:
    """As ``tokens``; many targets do not count, and none of some samples does."""
    found = tokens()
    for key, seed in (("y", 2), ("val_y", 3)):
        draw = torch.Generator().manual_seed(seed)
        hidden = torch.rand(found[key].shape, generator=draw) < 0.4
        hidden[:3] = True
        found[key] = found[key].masked_fill(hidden, -100)
    return found


class GPT(nn.Module):
    """Embedding, causal attention, LayerNorm, and the embedding's weight at the end again."""

    def __init__(self, width: int = 16, heads: int = 2, vocabulary: int = VOCABULARY) -> None:
        super().__init__()
        self.heads = heads
        self.embedding = nn.Embedding(vocabulary, width)
        self.place = nn.Parameter(0.02 * torch.randn(CONTEXT, width))
        self.norm, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        # a bias of the keys has no gradient but rounding, of which Adam makes large steps
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x) + self.place[: x.shape[1]]
        parts = self.qkv(self.norm(h)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts.unbind(0), is_causal=True)
        h = h + self.out(mixed.transpose(1, 2).flatten(2))
        h = h + self.down(F.gelu(self.up(self.last(h))))
        return self.head(h)


class Plain(GPT):
    """With attention that has second derivatives, which torch's own lacks on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x) + self.place
        q, k, v = self.qkv(self.norm(h)).chunk(3, dim=-1)
        hidden = torch.ones(CONTEXT, CONTEXT).triu(1).bool()
        weights = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(hidden, -math.inf).softmax(-1)
        h = h + self.out(weights @ v)
        return self.head(h + self.down(F.gelu(self.up(self.last(h)))))


class ClassesFirst(GPT):
    """Outputs as torch's own losses take them."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).movedim(-1, 1)


# --- the independent truth ------------------------------------------------------------------------


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1))


def ordinary(
    data: dict[str, Tensor],
    optimizer: Callable[..., Optimizer],
    network: Callable[[], nn.Module] = GPT,
    batch_size: int = 16,
    epochs: int = 2,
    dtype: torch.dtype = torch.float32,
) -> Ordinary:
    """An everyday program; targets of -100 do not count."""
    torch.manual_seed(0)
    net = network().to(dtype).train()
    opt: Any = optimizer(net.parameters())
    found = Ordinary([], [], [scores(net, data)], net)
    for epoch in range(epochs):
        order = torch.from_numpy(build.batch_order(0, epoch, len(data["y"])))
        for index in order.split(batch_size):
            if len(index) < batch_size:
                continue
            loss = cross_entropy(net(data["x"][index]), data["y"][index])
            opt.zero_grad()
            loss.backward()
            found.lr.append(opt.param_groups[0]["lr"])
            found.train_loss.append(float(loss.detach()))
            opt.step()
        found.evaluations.append(scores(net, data))
    return found


def scores(network: nn.Module, data: dict[str, Tensor]) -> tuple[float, float]:
    with torch.no_grad():
        outputs = network(data["val_x"])
    counts = data["val_y"] != -100
    right = (outputs.argmax(-1) == data["val_y"])[counts].double().mean()
    return float(cross_entropy(outputs, data["val_y"])), float(right)


def assert_like(run: Trained, truth: Ordinary, rtol: float = 3e-5) -> None:
    assert run.summary["state"] == "finished", run.log
    rows, evaluated = run.metrics.iloc[:-1], run.metrics[run.metrics["val_loss"].notna()]
    np.testing.assert_allclose(rows["train_loss"], truth.train_loss, rtol=rtol, atol=rtol / 30)
    loss, accuracy = zip(*truth.evaluations, strict=True)
    np.testing.assert_allclose(evaluated["val_loss"], loss, rtol=rtol)
    np.testing.assert_allclose(evaluated["val_acc"], accuracy, atol=0.005)
    for name, tensor in truth.network.state_dict().items():
        torch.testing.assert_close(run.weights[name], tensor, rtol=10 * rtol, atol=rtol / 10)


OURS = f"data=custom data._target_={HERE}.tokens batch_size=16 loss=cross_entropy"


@pytest.mark.parametrize(
    ("data", "loss", "rule", "optimizer"),
    [
        (tokens, "cross_entropy", "adam", Adam),
        (gaps, "nll loss.ignore_index=-100", "momentum", partial(SGD, momentum=0.9)),
    ],
)
def test_a_transformer_trains_as_in_torch(
    trainer: Trainer, data: Callable[[], Any], loss: str, rule: str, optimizer: Any
) -> None:
    common = f"{OURS} data._target_={HERE}.{data.__name__} loss={loss} optimizer={rule}"
    common += f" network=custom network._target_={HERE}.GPT"
    lrs = (0.03, 0.01, 0.003)
    group = trainer.together([f"lr={lr}" for lr in lrs], common)
    assert group[0].summary["lanes"]["way"] != "unmapped"
    assert "inputs: int64" in group[0].log
    for lr, run in zip(lrs, group, strict=True):
        assert_like(run, ordinary(data(), partial(optimizer, lr=lr)))
        assert_same_bits(run, trainer.alone(f"lr={lr}", common))


# --- what becomes of whole numbers ----------------------------------------------------------------


def columns() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(0, 9, (160, 3), generator=draw)
    return x, (x[:, 0] > 4).long()


class Either(nn.Module):
    """Takes floats and whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.to(self.layer.weight.dtype) / 9)


def test_a_network_that_takes_floats_gets_them_as_before(trainer: Trainer) -> None:
    of_floats = own_data.make((columns()[0].float(), columns()[1]), "columns", "data")
    for network in ("mlp", f"custom network._target_={HERE}.Either"):
        common = f"data=custom data._target_={HERE}.columns data.stratify=false network={network}"
        (spec,) = make_specs(Path(), ["lr=0.1"], f"{common} batch_size=16")
        data = build.load_data(spec)
        assert inputs.tensors(data.train_x)[0].dtype == torch.float32
        assert data.sha256 == of_floats.sha256
        assert data.types == "inputs: float32, made of the data's whole numbers"
    for integers, kind in (("keep", torch.int64), ("float", torch.float32)):
        (spec,) = make_specs(Path(), ["lr=0.1"], f"{common} data.integers={integers}")
        assert inputs.tensors(build.load_data(spec).train_x)[0].dtype == kind
    both = trainer.together(["lr=0.1", "lr=0.3"], f"{common} batch_size=16 data.integers=keep")
    assert all("inputs: int64" in run.log for run in both)


def test_records_without_the_setting_mean_floats() -> None:
    (spec,) = make_specs(Path(), ["lr=0.1"], f"{OURS} network=custom network._target_={HERE}.GPT")
    assert inputs.tensors(build.load_data(spec).train_x)[0].dtype == torch.int64
    old = {key: value for key, value in spec["data"].items() if key != "integers"}
    spec = type(spec)(0, Path(), {**spec.config, "data": old}, spec.choices, {}, "cpu")
    assert inputs.tensors(build.load_data(spec).train_x)[0].dtype == torch.float32


def test_standardised_whole_numbers_are_floats() -> None:
    x, y = columns()
    made = own_data.make((x, y), "columns", "data", integers="auto", standardise=True)
    again = own_data.make((x, y), "columns", "data", standardise=True)
    assert made.sha256 == again.sha256 and made.other_x is None
    with pytest.raises(UserError, match="keep: does not work with"):
        own_data.make((x, y), "columns", "data", integers="keep", standardise=True)
    with pytest.raises(UserError, match="int: must be auto, keep or"):
        own_data.make((x, y), "columns", "data", integers="int")


def test_masks_stay_masks_and_bytes_are_pixels() -> None:
    x, y = columns()
    made = own_data.make((x > 4, y), "columns", "data", integers="keep")
    assert inputs.tensors(made.val_x)[0].dtype == torch.bool
    made = own_data.make((x.to(torch.uint8), y), "columns", "data", integers="keep")
    assert made.other_x is None and inputs.tensors(made.val_x)[0].dtype == torch.float32


# --- what does not fit ----------------------------------------------------------------------------


def beyond() -> dict[str, Tensor]:
    found = tokens()
    found["val_x"] = found["val_x"].clone()
    found["val_x"][7, 2] = VOCABULARY
    return found


def few_targets() -> dict[str, Tensor]:
    found = tokens()
    return {**found, "y": found["y"] + 3}


def one_target() -> dict[str, Tensor]:
    found = tokens()
    found["y"] = found["y"].clone()
    found["y"][50, 1] = 9
    return found


def minus_one() -> dict[str, Tensor]:
    found = tokens()
    return {**found, "y": found["y"].masked_fill(found["y"] == 2, -1)}


def none_count() -> dict[str, Tensor]:
    found = gaps()
    return {**found, "val_y": torch.full_like(found["val_y"], -100)}


class Square(GPT):
    """As many classes as positions."""

    def __init__(self) -> None:
        super().__init__(vocabulary=CONTEXT)


def square() -> dict[str, Tensor]:
    return {key: value.clamp_max(CONTEXT - 1) for key, value in tokens().items()}


def own_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets)


OWN = f"loss=nll loss._target_={HERE}.own_loss"
TORCH = "loss=cross_entropy loss._target_=torch.nn.CrossEntropyLoss"


@pytest.mark.parametrize(
    ("data", "network", "loss", "says"),
    [
        (beyond, "GPT", "loss=nll", "does not take the maximum of the inputs, 7, in sample 7 of"),
        (few_targets, "GPT", "loss=nll", "outputs for 7 classes, and the targets go up to 9"),
        (few_targets, "ClassesFirst", TORCH, "outputs for 7 classes, and the targets go up to 9"),
        (one_target, "ClassesFirst", OWN, "does not take the target 9, in sample 50 of the train"),
        (tokens, "GPT", TORCH, r"takes the classes as axis 1, so return outputs.movedim\(-1, 1\)"),
        (minus_one, "GPT", "loss=nll", "the train targets hold -1, which is no class; use loss.ig"),
        (gaps, "GPT", "loss=nll", "the train targets hold -100, which is no class; use loss.ign"),
        (none_count, "GPT", "loss=nll loss.ignore_index=-100", "all val targets are -100, so none"),
        (square, "Square", "loss=nll", "may be the axis 1 or the last one; say which by loss.cla"),
        (tokens, "GPT", "loss=nll loss.class_axis=2", "loss.class_axis=2: must be 1, -1 or null"),
        (tokens, "GPT", "loss=nll loss.ignore_index=0.5", "loss.ignore_index=0.5: must be a whole"),
        (tokens, "GPT", "loss=nll loss.class_axis=1", r"the loss needs \(2, 7, 6\)$"),
        (tokens, "GPT", "loss=mse", "loss=mse: compares with floating-point targets"),
    ],
)
def test_what_cannot_work_is_one_line(
    data: Callable[[], Any], network: str, loss: str, says: str
) -> None:
    common = f"{OURS} data._target_={HERE}.{data.__name__} {loss}"
    common += f" network=custom network._target_={HERE}.{network}"
    with pytest.raises(UserError, match=says) as caught:
        checks.check_runs(make_specs(Path(), ["lr=0.1"], common))
    assert "\n" not in str(caught.value)


# --- 64 bits --------------------------------------------------------------------------------------


FAR = 1e8  # float32 has steps of 8 there


def plane() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(4)
    x = torch.randn(160, 3, generator=draw, dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64) + FAR
    return {"x": x, "y": y, "val_x": x[:50] + 1e-9, "val_y": y[:50]}


class Plane(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.register_buffer("offset", torch.tensor(FAR))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.offset


@pytest.mark.parametrize(
    ("rule", "optimizer"), [("momentum", partial(SGD, momentum=0.9)), ("adam", Adam)]
)
def test_all_of_a_run_is_of_64_bits(trainer: Trainer, rule: str, optimizer: Any) -> None:
    lrs, data = (0.1, 0.01), plane()
    common = f"data=custom data._target_={HERE}.plane network=custom network._target_={HERE}.Plane"
    common += f" loss=mse optimizer={rule} batch_size=16 precision=float64 diagnostics=full"
    group = trainer.together([f"lr={lr}" for lr in lrs], common)
    for lr, run in zip(lrs, group, strict=True):
        assert run.summary["state"] == "finished", run.log
        assert "inputs: float64" in run.log
        torch.manual_seed(0)
        net = Plane().double()
        opt: Any = optimizer(net.parameters(), lr=lr)
        losses = []
        for epoch in range(2):
            for index in torch.from_numpy(build.batch_order(0, epoch, 160)).split(16):
                loss = F.mse_loss(net(data["x"][index]), data["y"][index])
                opt.zero_grad()
                loss.backward()
                losses.append(float(loss.detach()))
                opt.step()
        np.testing.assert_allclose(run.metrics["train_loss"].iloc[:-1], losses, rtol=1e-7)
        for name, tensor in net.state_dict().items():
            assert run.weights[name].dtype == torch.float64
            torch.testing.assert_close(run.weights[name], tensor, rtol=1e-9, atol=1e-12)
        assert_same_bits(run, trainer.alone(f"lr={lr}", common))


def test_float32_refuses_what_it_would_lose() -> None:
    common = f"data=custom data._target_={HERE}.plane network=custom network._target_={HERE}.Plane"
    (spec,) = make_specs(Path(), ["lr=0.1"], f"{common} loss=mse")
    with pytest.raises(UserError, match="standardise_targets=true"):
        build.load_data(spec)
    (spec,) = make_specs(Path(), ["lr=0.1"], "precision=float64")  # of a set that is float32
    assert inputs.tensors(build.load_data(spec).train_x)[0].dtype == torch.float64
    assert build.load_data(spec).train_y.dtype == torch.int64


# --- as a command ---------------------------------------------------------------------------------


def test_an_evaluation_weighs_its_parts_by_the_targets_that_count(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "EVALUATION_CHUNK", 2)  # of the first two samples, nothing counts
    common = f"{OURS} data._target_={HERE}.gaps network=custom optimizer=momentum"
    for network, loss in (("GPT", "loss=nll loss.ignore_index=-100"), ("ClassesFirst", TORCH)):
        run = trainer.alone("lr=0.01", f"{common} network._target_={HERE}.{network} {loss}")
        assert_like(run, ordinary(gaps(), partial(SGD, lr=0.01, momentum=0.9)))
        assert run.summary["chance_loss"] == pytest.approx(1.9441, abs=0.01)


@pytest.mark.full
def test_a_sweep_measures_branches_draws_resumes_and_reproduces(tmp_path: Path) -> None:
    words = ["data=custom", f"data._target_={HERE}.tokens", "network=custom", "threads=1"]
    words += [f"network._target_={HERE}.Plain", "optimizer=adam", "lr=0.001,0.01,0.1", "epochs=4"]
    words += ["batch_size=16", "diagnostics=full", "device=cpu", "name=text"]
    done = command(sweep, words, tmp_path)
    assert done.code == 0, done.err
    folder = tmp_path / "outputs/text"
    for name in ("plots/lr_against_loss.png", "1/branches.csv", "surface.csv", "lines.csv"):
        assert (folder / name).is_file(), name
    rows = pd.read_csv(folder / "1/diagnostics.csv")
    assert rows["alpha"].notna().all() and rows["stability_ratio"].notna().all()
    done = command(reproduce, ["outputs/text/1", "trust=true"], tmp_path)
    assert done.code == 0 and "bitwise" in done.out, done.out + done.err
    words = ["outputs/text", "lr=0.001,0.01,0.1,1", "trust=true", "plots=false"]
    assert command(resume, words, tmp_path).code == 0
    assert len(summaries(folder)) == 4


def test_find_takes_tokens(one_thread: None) -> None:
    torch.manual_seed(0)
    net, data = GPT(), gaps()
    options: dict[str, Any] = {"steps": 30, "points": 4, "batch_size": 16, "lr": (1e-3, 1.0)}
    val = (data["val_x"], data["val_y"])
    lrs = [0.001, 0.01, 0.1, 1.0]
    loss = partial(losses.nll, ignore_index=-100)
    found = find(net, (data["x"], data["y"]), loss, val=val, **options)
    for place, lr in enumerate(lrs):
        own = copy.deepcopy(net)
        optimizer, order = SGD(own.parameters(), lr=lr), iter(())
        for step in range(30):
            if step % 12 == 0:
                order = iter(torch.from_numpy(build.batch_order(0, step // 12, 200)).split(16))
            index = next(order)
            value = cross_entropy(own(data["x"][index]), data["y"][index])
            expected = pytest.approx(float(value.detach()), rel=1e-3, nan_ok=True)
            assert found.constant_losses[step, place] == expected
            optimizer.zero_grad()
            value.backward()
            optimizer.step()


# --- guessing on other shares ---------------------------------------------------------------------


def uneven() -> dict[str, Tensor]:
    """In training nine of ten are of class 0, among the held-out half."""
    draw = torch.Generator().manual_seed(0)
    y = (torch.arange(400) % 10 == 0).long()
    val_y = torch.arange(100) % 2
    x, val_x = (torch.randn(len(t), 3, generator=draw) + 2 * t[:, None] for t in (y, val_y))
    return {"x": x, "y": y, "val_x": val_x, "val_y": val_y}


def test_guessing_is_scored_on_the_held_out_classes(trainer: Trainer) -> None:
    common = f"data=custom data._target_={HERE}.uneven network=perceptron batch_size=20"
    run = trainer.alone("lr=0.1", common)
    data = uneven()
    constant = torch.tensor([0.9, 0.1]).log().expand(100, 2)
    assert run.summary["chance_loss"] == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))
    expected = float(F.cross_entropy(constant, data["val_y"]))
    assert run.summary["chance_val_loss"] == pytest.approx(expected)
    curves = frames.curves(run.folder.parent)
    assert set(curves["chance_loss"]) == {run.summary["chance_val_loss"]}
    one_hot = losses.held_out_chance(losses.mse_one_hot, data["y"], data["val_y"], (2,))
    share = torch.tensor([0.9, 0.1]).expand(100, 2)
    assert one_hot == pytest.approx(float(losses.mse_one_hot(share, data["val_y"])))
    even = trainer.alone("lr=0.1", "network=perceptron")
    assert "chance_val_loss" not in even.summary
    assert losses.held_out_chance(losses.nll, data["val_y"], data["val_y"] + 1, (3,)) is None
