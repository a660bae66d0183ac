"""Optimizers with other weights for evaluations. Truth: a loop that calls train() and eval()."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.pools import stopped, went_on
from helpers.training import Trainer, assert_same_bits, evaluate, mlp, read, tiny_images
from torch import nn, optim

from lrlab import records
from lrlab.errors import UserError
from lrlab.plan import build, checks
from lrlab.probes import branches

NET = "network.hidden=[37,11]"


class Free(optim.SGD):
    """Defazio et al. 2024 (arXiv:2405.15682), algorithm 1: y is trained, x is the mean of all z."""

    def __init__(self, params: Any, lr: float = 1.0, beta: float = 0.9) -> None:
        super().__init__(params, lr=lr)
        self.param_groups[0] |= {"beta": beta, "k": 0, "trains": False}

    def _turn(self, trains: bool) -> None:
        (group,) = self.param_groups
        if group["trains"] != trains:
            for p in group["params"]:
                if "x" in self.state[p]:
                    x, z = self.state[p]["x"], self.state[p]["z"]
                    p.data.copy_(torch.lerp(z, x, group["beta"]) if trains else x)
            group["trains"] = trains

    def train(self) -> None:
        self._turn(True)

    def eval(self) -> None:
        self._turn(False)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        assert group["trains"], "not in training mode"
        group["k"] += 1
        for p in group["params"]:
            state = self.state[p]
            if not state:
                state |= {"x": p.detach().clone(), "z": p.detach().clone()}
            state["z"].sub_(p.grad, alpha=group["lr"])
            state["x"].lerp_(state["z"], 1 / group["k"])
            p.copy_(torch.lerp(state["z"], state["x"], group["beta"]))


def loop(made: Callable[..., Any], epochs: int = 2) -> tuple[list[float], list[float], nn.Module]:
    """Losses of each step and of each evaluation, and the network at the averaged weights."""
    data = tiny_images()
    torch.manual_seed(0)
    net = mlp().train()
    optimizer = made(net.parameters())
    losses, found = [], [evaluate(net, data.val_x, data.val_y, F.cross_entropy)[0]]
    for epoch in range(epochs):
        optimizer.train()
        order = torch.from_numpy(build.batch_order(0, epoch, 640))
        for index in order.split(64):
            loss = F.cross_entropy(net(data.train_x[index]), data.train_y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        optimizer.eval()
        found.append(evaluate(net, data.val_x, data.val_y, F.cross_entropy)[0])
    return losses, found, net


KINDS = {
    f"{__name__}.Free": ({}, 0.5),
    "schedulefree.SGDScheduleFree": ({"warmup_steps": 5}, 0.5),
    "schedulefree.AdamWScheduleFree": ({"warmup_steps": 5}, 0.01),
}


@pytest.mark.parametrize("path", KINDS)
def test_it_is_evaluated_and_saved_at_the_averaged_weights(trainer: Trainer, path: str) -> None:
    module, _, name = path.rpartition(".")
    if module != __name__:
        pytest.importorskip("schedulefree")
    settings, lr = KINDS[path]
    kind = getattr(importlib.import_module(module), name)
    typed = " ".join(f"optimizer.{key}={value}" for key, value in settings.items())
    common = f"{NET} optimizer=only_target optimizer._target_={path} {typed}"
    run, other = trainer.together([f"lr={lr}", f"lr={lr / 10}"], common)
    foreach = {} if kind is Free else {"foreach": False}
    losses, evaluations, net = loop(lambda params: kind(params, lr=lr, **settings, **foreach))
    np.testing.assert_allclose(run.metrics["train_loss"].iloc[:-1], losses, rtol=1e-4)
    found = run.metrics["val_loss"].dropna()
    np.testing.assert_allclose(found, evaluations, rtol=1e-4)
    for key, tensor in net.state_dict().items():
        torch.testing.assert_close(run.weights[key], tensor, rtol=1e-3, atol=1e-5)
    data = tiny_images()
    tested = evaluate(net, data.test_x, data.test_y, F.cross_entropy)
    assert run.summary["test_loss"] == pytest.approx(tested[0], rel=1e-4)
    assert_same_bits(other, trainer.alone(f"lr={lr / 10}", common))


def test_evaluations_change_no_bit_of_the_training(trainer: Trainer) -> None:
    """It goes on from a checkpoint, next to a run that ends before, and in branches."""
    common = f"{NET} optimizer=only_target optimizer._target_={__name__}.Free diagnostics=full"
    runs = ["lr=0.5", "lr=0.1 epochs=1"]
    specs = trainer.specs(runs, f"{common} checkpoint_every=auto")
    went_on(specs, stopped(specs, 13))
    for spec, text in zip(specs, runs, strict=True):
        assert_same_bits(read(spec.folder), trainer.alone(text, common))
    assert branches.test(specs[:1], None, lambda: False) == []
    found = records.read_branches(specs[0].folder)
    longer = trainer.alone("lr=0.5 epochs=6", common)
    np.testing.assert_allclose(found["same"], longer.metrics["train_loss"].iloc[20:60], rtol=1e-4)


def test_where_the_library_is_missing_a_line_says_what_to_install(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(UserError) as caught:
        specs = trainer.specs(["lr=0.1"], "optimizer._target_=schedulefree.Nobody")
        checks.check_runs(specs)
    told = "optimizer._target_=schedulefree.Nobody: cannot be loaded; it needs pip install"
    assert str(caught.value).startswith(told)
