"""Parameter groups by name, against torch's own in an ordinary loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.commands import command
from helpers.recipes import FEW, LONG, NET, grouped, write_points
from helpers.training import (
    Trainer,
    assert_same_bits,
    assert_trained_like,
    mlp,
    ordinary,
    tiny_images,
)
from torch import optim
from torch.optim.lr_scheduler import CosineAnnealingLR

from lrlab import records, sweep


@pytest.fixture
def here(tmp_path: Path) -> Path:
    write_points(tmp_path)
    return tmp_path


# --- parameter groups -----------------------------------------------------------------------------

def in_groups(kind: type[optim.Optimizer], lr: float, **settings: Any) -> Callable[..., Any]:
    """torch's own groups: the last layer at 10 times lr, and no decay of biases."""

    def made(params: Any) -> optim.Optimizer:
        *body, weight, bias = params
        groups = [
            {"params": [p for p in body if p.ndim > 1]},
            {"params": [p for p in body if p.ndim == 1], "weight_decay": 0.0},
            {"params": [weight], "lr": 10 * lr},
            {"params": [bias], "lr": 10 * lr, "weight_decay": 0.0},
        ]
        return kind(groups, lr=lr, weight_decay=0.1, foreach=False, **settings)

    return made


OF_KIND: dict[str, Any] = {
    "optimizer=momentum": (optim.SGD, {"momentum": 0.9}),
    "optimizer=adamw": (optim.AdamW, {}),
    "optimizer=rmsprop": (optim.RMSprop, {}),
    "optimizer=adam optimizer.amsgrad=true": (optim.Adam, {"amsgrad": True}),  # the general way
    "optimizer=only_target optimizer._target_=torch.optim.NAdam": (optim.NAdam, {}),
}


@pytest.mark.full(after=2)
@pytest.mark.parametrize("typed", OF_KIND)
def test_groups_train_as_torchs_own(trainer: Trainer, typed: str) -> None:
    kind, settings = OF_KIND[typed]
    lr = 0.01 if kind is optim.SGD else 0.001
    common = f"{LONG} {typed} optimizer.weight_decay=0.1 schedule=cosine"
    runs = [f"lr={lr} {grouped()}", f"lr={lr} {grouped(0.5, 0.3)}", f"lr={lr} {grouped(1, 0.1)}"]
    together = trainer.together(runs, common)
    data = tiny_images()
    made = in_groups(kind, lr, **settings)
    truth = ordinary(mlp, data, made, lambda o: CosineAnnealingLR(o, 80), True, epochs=8)
    truth.lr = [rate if place else lr for place, rate in enumerate(truth.lr)]
    assert_trained_like(together[0], truth, data, rtol=3e-4)
    assert_same_bits(together[0], trainer.alone(runs[0], common))
    # groups of the optimizer's own settings are none
    assert_same_bits(together[2], trainer.alone(f"lr={lr}", common))
    assert "parameter groups at 1, 10 times lr" in together[0].log
    assert ("slower" in together[0].log) == ("NAdam" in typed or "amsgrad" in typed)


def test_a_group_at_rate_0_stays_at_its_start(trainer: Trainer) -> None:
    frozen = 'optimizer.groups={"layers.0.*":{"lr":0}}'
    run = trainer.alone(f"lr=0.1 {frozen}", f"{LONG} diagnostics=full")
    torch.manual_seed(0)
    before = mlp().state_dict()
    same = {name for name, tensor in before.items() if torch.equal(tensor, run.weights[name])}
    assert same == {"layers.0.weight", "layers.0.bias"}
    measured = records.read_diagnostics(run.folder)
    assert bool(np.isfinite(measured["stability_ratio"]).all())


def test_the_stability_ratio_counts_with_each_groups_rate(trainer: Trainer) -> None:
    """All parameters at 4 times lr are a run at 4 times lr."""
    every = 'optimizer.groups={"*":{"lr":4}}'
    for optimizer in ("momentum", "adam"):
        common = f"{NET} epochs=2 diagnostics=full optimizer={optimizer}"
        one = records.read_diagnostics(trainer.alone(f"lr=0.005 {every}", common).folder)
        other = records.read_diagnostics(trainer.alone("lr=0.02", common).folder)
        # Adam's square root of the divisor rounds otherwise
        np.testing.assert_allclose(one["stability_ratio"], other["stability_ratio"], rtol=2e-2)
        np.testing.assert_allclose(one["alpha"].iloc[:5], other["alpha"].iloc[:5], atol=1e-3)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("{head:{lr:10}}", "optimizer.groups.head: matches no parameter that is trained; these ar"),
        ("{layers.1:{lr:2},*.1.*:{lr:3}}", "optimizer.groups: layers.1 and *.1.* both set lr of "),
        ("{layers.1:{lr:-1}}", "optimizer.groups.layers.1.lr=-1: must be a number of at least 0"),
        ("{layers.1:{lr:x}}", "optimizer.groups.layers.1.lr=x: must be a number of at least 0"),
        ("{layers.1:{wd:0}}", "optimizer.groups.layers.1.wd=0: a group has no such setting; it t"),
        ("{layers.1:{}}", "optimizer.groups={'layers.1': {}}: must give settings to patterns"),
        ("3", "optimizer.groups=3: must give settings to patterns of parameters' names, for"),
        ("[head]", "optimizer.groups=['head']: must give settings to patterns"),
    ],
)
def test_groups_that_cannot_work_are_one_line(typed: str, line: str, here: Path) -> None:
    ended = command(sweep.main, [*FEW, f"optimizer.groups={typed}"], here)
    assert ended.code == 2 and ended.err.startswith(f"lrlab: {line}"), ended.err
    assert len(ended.err.splitlines()) == 1 and not (here / "outputs").exists()


def test_an_optimizer_without_decay_has_none_in_a_group(here: Path) -> None:
    words = ["optimizer._target_=torch.optim.Rprop", "optimizer.groups={layers.1:{weight_decay:1}}"]
    ended = command(sweep.main, [*FEW, *words], here)
    told = "optimizer.groups.layers.1.weight_decay=1: Rprop has no weight decay"
    assert ended.code == 2 and told in ended.err, ended.err




def test_a_groups_factor_is_searched_like_an_lr(here: Path) -> None:
    """In its logarithm, and not in whole numbers, whatever its ends."""
    words = ["optimizer.groups.layers.1.lr=1..100", "clip_grad_norm=1..100", "points=3", "lr=0.01"]
    ended = command(sweep.main, [*FEW, *words, "epochs=1", "name=s"], here)
    assert ended.code == 0, ended.err
    found = [records.read_summary(here / f"outputs/s/{n}") for n in range(9)]
    for name in ("optimizer.groups.layers.1.lr", "clip_grad_norm"):
        assert sorted({each[name] for each in found}) == [1, 10, 100]
