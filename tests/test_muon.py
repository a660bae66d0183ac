"""Muon with AdamW, against torch's own two optimizers in an ordinary loop."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.pools import stopped, went_on
from helpers.training import (
    Trainer,
    assert_same_bits,
    assert_trained_like,
    mlp,
    ordinary,
    read,
    tiny_images,
)
from torch import Tensor, nn, optim
from torch.optim.lr_scheduler import CosineAnnealingLR

from lrlab import records
from lrlab.engine.optimizers import known, muon
from lrlab.errors import UserError
from lrlab.networks import MLP
from lrlab.plan import checks
from lrlab.range_test import training
from lrlab.training import on_batches

LONG = "network.hidden=[37,11] epochs=8 optimizer=muon"
WORDS = {"original": "", "match_rms_adamw": " optimizer.match_rms=true"}


class Both(optim.Optimizer):
    """torch.optim.Muon for matrices, torch.optim.AdamW for the rest; its lr moves both.

    Muon's iteration is torch's own code, but in float32.
    """

    def __init__(self, params: Any, lr: float, adamw_lr: float, adjust_lr_fn: str) -> None:
        params = list(params)
        super().__init__(params, {"lr": lr})
        matrices = [p for p in params if p.ndim == 2]
        self.muon = optim.Muon(matrices, lr=lr, adjust_lr_fn=adjust_lr_fn)
        self.adamw = optim.AdamW([p for p in params if p.ndim != 2], lr=adamw_lr, foreach=False)
        self.both = [(self.muon, lr), (self.adamw, adamw_lr)]
        self.lr = lr

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        with mock.patch.object(Tensor, "bfloat16", Tensor.clone):
            for optimizer, lr in self.both:
                optimizer.param_groups[0]["lr"] = lr * self.param_groups[0]["lr"] / self.lr
                optimizer.step()


@pytest.mark.parametrize("scale", WORDS)
def test_it_trains_as_torchs_two_under_a_schedule(trainer: Trainer, scale: str) -> None:
    lr, adamw_lr = (0.02, 0.003) if scale == "original" else (0.005, 0.01)
    common = f"{LONG} schedule=cosine optimizer.adamw_lr={adamw_lr}{WORDS[scale]}"
    run = trainer.alone(f"lr={lr}", common)
    data = tiny_images()
    made = partial(Both, lr=lr, adamw_lr=adamw_lr, adjust_lr_fn=scale)
    truth = ordinary(mlp, data, made, lambda o: CosineAnnealingLR(o, 80), True, epochs=8)
    truth.lr = run.metrics["lr"].iloc[:-1].tolist()
    assert_trained_like(run, truth, data, rtol=2e-4)
    assert f"parameter groups at 1, {adamw_lr / lr:g} times lr" in run.log and "slow" not in run.log
    assert run.summary["swings_from"] is None


def test_lanes_have_their_own_bits_also_in_the_general_way(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = ["lr=0.02", "lr=0.005 optimizer.adamw_lr=0.01 seed=2", "lr=1e30", "lr=0.1 epochs=7"]
    together = trainer.together(runs, LONG)
    for run, text in zip(together, runs, strict=True):
        assert_same_bits(run, trainer.alone(text, LONG))
    assert_same_bits(together[1], trainer.alone(runs[1], f"{LONG} capture=false"))
    monkeypatch.delitem(known.RULES, muon.Muon)
    general = trainer.alone(runs[1], LONG)
    assert "slower: one torch optimizer a lane" in general.log
    assert_same_bits(together[1], general)


def test_a_run_goes_on_from_its_checkpoint_in_groups(trainer: Trainer) -> None:
    groups = 'optimizer.groups={"layers.2":{"lr":3},"*.bias":{"weight_decay":0}}'
    common = f"{LONG} {groups} checkpoint_every=auto"
    specs = trainer.specs(["lr=0.02", "lr=0.1"], f"{common} capture=false")
    went_on(specs, stopped(specs, 13))
    for spec, text in zip(specs, ["lr=0.02", "lr=0.1"], strict=True):
        run = read(spec.folder)
        assert "goes on from its checkpoint at step 13" in run.log
        assert_same_bits(run, trainer.alone(text, common))
    assert "parameter groups at 1, 0.015, 3, 0.045 times lr" in read(specs[0].folder).log


def test_matrices_named_so_are_adamws(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As embeddings and heads usually are; here the first layer, which AdamW leaves as it is."""
    groups = 'optimizer.groups={"layers.0":{"adamw":true},"layers.2":{"adamw":false}}'
    still = "optimizer.adamw_lr=0 optimizer.adamw_weight_decay=0"
    run = trainer.alone("lr=0.02", f"{LONG} {groups} {still}")
    torch.manual_seed(0)
    before = mlp().state_dict()
    moved = {name for name, t in before.items() if not torch.equal(t, run.weights[name])}
    assert moved == {"layers.1.weight", "layers.2.weight"}
    # in whichever order, also if no parameter is in no group
    every = groups.replace('"layers.2"', '"layers.1":{"lr":1},"layers.2"')
    again = trainer.alone("lr=0.02", f"{LONG} {every} {still} diagnostics=full")
    assert_same_bits(run, again)
    assert again.summary["swings_from"] is None
    assert bool(records.read_diagnostics(again.folder)["stability_ratio"].isna().all())
    monkeypatch.delitem(known.RULES, muon.Muon)
    assert_same_bits(run, trainer.alone("lr=0.02", f"{LONG} {groups} {still}"))


@pytest.mark.unit
@pytest.mark.parametrize("shape", [(5, 13), (37, 11), (48, 96), (10, 64), (1, 7)])
def test_matrices_become_orthogonal_each_with_its_own_bits(shape: tuple[int, int]) -> None:
    """Jordan's coefficients bring singular values near 1, not to it."""
    matrices = torch.randn(6, *shape, generator=torch.Generator().manual_seed(0))
    found = muon.orthogonal(matrices)
    values = torch.linalg.svdvals(found)
    assert float(values.min()) > 0.3 and float(values.max()) < 1.3
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    along = torch.einsum("lij,lij->l", found, u @ v) / min(shape)
    assert bool((along > 0.6).all())  # in the directions of the matrix itself
    for lane in range(6):
        assert torch.equal(found[lane : lane + 1], muon.orthogonal(matrices[lane : lane + 1]))
        column_first = matrices[lane].t().contiguous().t()[None]
        assert torch.equal(found[lane : lane + 1], muon.orthogonal(column_first))


def test_in_a_range_test_the_other_rate_stays() -> None:
    """Each lr of a ramp is that of a run, whose adamw_lr is as typed."""
    data = tiny_images()
    torch.manual_seed(0)
    net = MLP((1, 12, 12), 5, hidden=(13,))
    lrs = np.array([[0.001], [0.03], [0.4]])
    batch = on_batches.batches(data, 0, 64)
    rule = {"_target_": "lrlab.engine.optimizers.muon.Muon", "adamw_lr": 0.05}
    subject = training.Subject(net, F.cross_entropy, rule, batch, 0, "cpu")
    start = {name: p.detach().clone() for name, p in net.named_parameters()}
    found, _ = training.train(subject, lrs, width=1)
    again = MLP((1, 12, 12), 5, hidden=(13,))
    again.load_state_dict(start)
    optimizer: optim.Optimizer | None = None
    losses = []
    for i, lr in enumerate(lrs[:, 0]):
        x, y = batch(i)
        loss = F.cross_entropy(again(x), y)
        losses.append(float(loss.detach()))
        again.zero_grad()
        loss.backward()
        if optimizer is None:
            optimizer = muon.Muon(list(again.parameters()), lr=float(lr), adamw_lr=0.05)
        optimizer.param_groups[0]["lr"] = float(lr)
        optimizer.step()
    np.testing.assert_allclose(found[:, 0], losses, rtol=1e-5)


class Convolution(nn.Module):
    """A kernel, which is AdamW's, and one matrix."""

    def __init__(self, in_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.kernel = nn.Conv2d(1, 2, 3)
        self.out = nn.Linear(200, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.kernel(x).relu().flatten(1))


def test_kernels_are_adamws(trainer: Trainer) -> None:
    common = f"network=custom network._target_={__name__}.Convolution optimizer=muon"
    still = "optimizer.adamw_lr=0 optimizer.adamw_weight_decay=0"
    run = trainer.alone("lr=0.02", f"{common} {still}")
    torch.manual_seed(0)
    before = Convolution((1, 12, 12), 5).state_dict()
    moved = {name for name, t in before.items() if not torch.equal(t, run.weights[name])}
    assert moved == {"out.weight"}
    assert np.isnan(records.read_metrics(run.folder)["train_loss"].iloc[-1])


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("optimizer.adamw_lr=-1", "optimizer.adamw_lr=-1: must be a number of at least 0"),
        ("optimizer.momentum=x", "optimizer.momentum=x: must be a number of at least 0"),
        (
            'optimizer.groups={"layers.0":{"adamw":2}}',
            "optimizer.groups.layers.0.adamw=2: must be true or false, for example",
        ),
        (
            'optimizer=sgd optimizer.groups={"layers.0":{"adamw":true}}',
            "optimizer.groups.layers.0.adamw=True: a group has no such setting; it takes lr, weig",
        ),
        ("optimizer.match_rms=2", "optimizer.match_rms=2: must be true or false"),
        ("optimizer.ns_steps=3", "optimizer.ns_steps=3: Muon has no such option"),
    ],
)
def test_a_value_that_cannot_work_is_one_line(trainer: Trainer, typed: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        checks.check_runs(trainer.specs(["lr=0.1"], f"optimizer=muon {typed}"))
    assert str(caught.value).startswith(line)
