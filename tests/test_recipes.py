"""Clipping and smoothed labels, and all recipes together. Truth: an ordinary loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.commands import command
from helpers.pools import stopped, went_on
from helpers.recipes import DATA, FEW, LONG, NET, grouped, write_points
from helpers.training import (
    Silent,
    Trainer,
    assert_same_bits,
    assert_trained_like,
    mlp,
    ordinary,
    read,
    tiny_images,
)
from torch import nn, optim
from torch.nn.utils import clip_grad_norm_

from lrlab import find, records, reproduce, resume, sweep
from lrlab.engine.optimizers import lane_optimizers
from lrlab.engine.optimizers.around import averages, folded, norms
from lrlab.errors import UserError
from lrlab.plan import checks
from lrlab.plan import spec as plan_spec
from lrlab.probes import branches
from lrlab.training import pool


@pytest.fixture
def here(tmp_path: Path) -> Path:
    write_points(tmp_path)
    return tmp_path


def clipped(kind: type[optim.Optimizer], limit: float, **settings: Any) -> Callable[..., Any]:
    """An optimizer that clips as an ordinary loop does, just before its step."""

    def made(params: Any) -> optim.Optimizer:
        params = list(params)
        built = kind(params, **settings)
        built.register_step_pre_hook(lambda *_: clip_grad_norm_(params, limit) and None)
        return built

    return made


# --- clip_grad_norm -------------------------------------------------------------------------------

KINDS: dict[str, tuple[type[optim.Optimizer], dict[str, Any]]] = {
    "optimizer=sgd": (optim.SGD, {}),
    "optimizer=momentum optimizer.weight_decay=0.01": (
        optim.SGD,
        {"momentum": 0.9, "weight_decay": 0.01},
    ),
    "optimizer=adamw": (optim.AdamW, {}),
    "optimizer=only_target optimizer._target_=torch.optim.NAdam": (optim.NAdam, {}),
}


@pytest.mark.full(after=2)
@pytest.mark.parametrize("typed", KINDS)
def test_a_clipped_run_trains_as_in_torch(trainer: Trainer, typed: str) -> None:
    kind, settings = KINDS[typed]
    lr, limit = (0.3, 0.4) if kind is optim.SGD else (0.003, 0.4)
    run, loose = trainer.together(
        [f"lr={lr} clip_grad_norm={limit}", f"lr={lr} clip_grad_norm=1e6"], f"{LONG} {typed}"
    )
    data = tiny_images()
    truth = ordinary(mlp, data, clipped(kind, limit, lr=lr, foreach=False, **settings), epochs=8)
    assert_trained_like(run, truth, data, rtol=1e-4)
    assert not np.allclose(run.metrics["train_loss"], loose.metrics["train_loss"], equal_nan=True)


def test_a_clipped_lane_has_its_own_bits_and_a_high_limit_changes_none(trainer: Trainer) -> None:
    runs = ["lr=0.3 clip_grad_norm=0.3", "lr=0.1 clip_grad_norm=1e9 seed=3", "lr=1e30 seed=1"]
    runs[2] += " clip_grad_norm=1"  # it diverges next to them
    common = f"{LONG} diagnostics=default"
    together = trainer.together(runs, common)
    for run, text in zip(together, runs, strict=True):
        alone = trainer.reference(text, common)
        assert_same_bits(run, alone)
        files = [each.folder / "diagnostics.csv" for each in (run, alone)]
        measured = [file.read_bytes() if file.exists() else b"" for file in files]
        assert measured[0] == measured[1]
    assert_same_bits(together[1], trainer.reference("lr=0.1 seed=3", common))
    plain = trainer.alone(runs[0], f"{common} capture=false")
    assert_same_bits(together[0], plain)


def test_the_norm_is_the_gradients_own_and_alpha_that_of_the_clipped_update(
    trainer: Trainer,
) -> None:
    """Along lr·limit/norm of the gradient: a step of plain descent at that rate."""
    limit = 0.2
    run = trainer.alone(f"lr=1 clip_grad_norm={limit}", f"{NET} epochs=1 diagnostics=full")
    first = records.read_diagnostics(run.folder).iloc[0]
    assert first["grad_norm"] > limit
    again = trainer.alone(
        f"lr={limit / first['grad_norm']}", f"{NET} epochs=1 diagnostics=full"
    )
    same = records.read_diagnostics(again.folder).iloc[0]
    assert first["grad_norm"] == same["grad_norm"]
    for name in ("alpha", "update_ratio", "sharpness"):
        assert first[name] == pytest.approx(same[name], rel=1e-3), name


@pytest.mark.unit
@pytest.mark.parametrize("threads", [1, 2])
def test_norms_have_the_bits_that_a_lane_has_alone(threads: int) -> None:
    draw = torch.Generator().manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for shapes in ([(3, 5), (3,)], [(784, 64), (64,), (10, 64)], [(1,)], [(512, 256), (7,)]):
            tensors = [torch.randn(9, *shape, generator=draw) for shape in shapes]
            found = norms(tensors)
            for lane in range(9):
                whole = torch.cat([t[lane].flatten().double() for t in tensors])
                assert float(found[lane]) == pytest.approx(float(whole.norm()), rel=1e-6)
                for part in (slice(lane, lane + 1), slice(lane, lane + 3)):
                    assert torch.equal(norms([t[part] for t in tensors]), found[part])
    finally:
        torch.set_num_threads(before)


@pytest.mark.unit
def test_a_gpus_sums_do_not_depend_on_the_number_of_rows_either() -> None:
    rows = torch.randn(5, 999, generator=torch.Generator().manual_seed(0)) ** 2
    torch.testing.assert_close(folded(rows), rows.sum(1))
    assert all(torch.equal(folded(rows[i : i + 1]), folded(rows)[i : i + 1]) for i in range(5))


@pytest.mark.unit
@pytest.mark.parametrize("kind", ["SGD", "AdamW", "NAdam"])
def test_lanes_that_join_and_leave_keep_their_limit_and_their_average(kind: str) -> None:
    node = {"_target_": f"torch.optim.{kind}", "lr": 0.1}
    configs = [{**node, "clip_grad_norm": c, "ema": e} for c, e in ((1, 0.5), (2, 0.9), (3, 0.8))]
    draw = torch.Generator().manual_seed(0)
    start = [torch.randn(3, *shape, generator=draw) for shape in ((2, 3), (3,))]
    grads = [[torch.randn(3, *t.shape[1:], generator=draw) for t in start] for _ in range(6)]

    def step(optimizer: Any, step: int, of: list[int]) -> None:
        lr = {"lr": np.full((1, len(of)), 0.1)}
        numbers = optimizer.coefficients(lr, np.full(len(of), step))
        optimizer.update([g[of] for g in grads[step]], numbers, 0)

    whole = [t.clone() for t in start]
    one = lane_optimizers.build(configs, whole)
    left, right = [t[:2].clone() for t in start], [t[2:].clone() for t in start]
    a, b = (lane_optimizers.build(c, p) for c, p in ((configs[:2], left), (configs[2:], right)))
    for i in range(2):
        step(one, i, [0, 1, 2])
        step(a, i, [0, 1])
        step(b, i, [2])
    joined = [torch.cat(pair) for pair in zip(left, right, strict=True)]
    a.join(b, joined)
    for i in range(2, 4):
        step(one, i, [0, 1, 2])
        step(a, i, [0, 1, 2])
    kept = [t[[2, 0]] for t in joined]
    a.keep(torch.tensor([2, 0]), kept)
    for i in range(4, 6):
        step(one, i, [0, 1, 2])
        step(a, i, [2, 0])
    assert all(torch.equal(t, w[[2, 0]]) for t, w in zip(kept, whole, strict=True))
    pairs = zip(averages(a), averages(one), strict=True)
    assert all(torch.equal(t, w[[2, 0]]) for t, w in pairs)
    assert one.state(2)["averages"][0].equal(averages(one)[0][2])


@pytest.mark.unit
@pytest.mark.parametrize("value", ["0", "-1", ".inf", ".nan"])
def test_a_limit_that_cannot_work_is_one_line(trainer: Trainer, value: str) -> None:
    with pytest.raises(UserError, match=r"^clip_grad_norm=.*: must be null or a finite number abo"):
        trainer.specs(["lr=0.1"], f"clip_grad_norm={value}")


# --- label smoothing ------------------------------------------------------------------------------


def smoothed(share: float) -> Callable[..., torch.Tensor]:
    loss = nn.CrossEntropyLoss(label_smoothing=share)
    return lambda s, y: loss(s, y) if torch.is_grad_enabled() else F.cross_entropy(s, y)


@pytest.mark.parametrize("loss", ["nll", "cross_entropy"])
def test_labels_are_smoothed_in_training_alone(trainer: Trainer, loss: str) -> None:
    common = f"{LONG} loss={loss} loss.label_smoothing=0.2"
    run, other = trainer.together(["lr=0.3", "lr=0.1"], common)
    assert_same_bits(other, trainer.alone("lr=0.1", common))
    data = tiny_images()
    made = partial(optim.SGD, lr=0.3, foreach=False)
    assert_trained_like(run, ordinary(mlp, data, made, epochs=8, loss=smoothed(0.2)), data)
    plain = trainer.reference("lr=0.3", f"{LONG} loss={loss}")
    assert run.summary["chance_loss"] == plain.summary["chance_loss"]
    assert run.summary["initial_loss"] == plain.summary["initial_loss"]
    assert run.metrics["train_loss"].iloc[0] != plain.metrics["train_loss"].iloc[0]


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("loss.label_smoothing=1", "loss.label_smoothing=1: must be a number from 0, below 1"),
        ("loss.label_smoothing=-0.1", "loss.label_smoothing=-0.1: must be a number from 0"),
        ("loss.label_smoothing=x", "loss.label_smoothing=x: must be a number from 0"),
        ("loss=mse_one_hot loss.label_smoothing=0.1", "loss.label_smoothing=0.1: mse_one_hot has"),
    ],
)
def test_a_smoothing_that_cannot_work_is_one_line(trainer: Trainer, typed: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        checks.check_runs(trainer.specs(["lr=0.1"], typed))
    assert str(caught.value).startswith(line)


# --- together, and as commands --------------------------------------------------------------------

RECIPE = f"clip_grad_norm=0.5 batch_size=32 accumulate=2 loss.label_smoothing=0.1 {grouped()}"
RECIPE += " schedule=wsd optimizer=adamw ema=0.9"


@pytest.mark.full(after=1)
@pytest.mark.parametrize("steps", [3, 17])
def test_a_run_goes_on_from_its_checkpoint(trainer: Trainer, steps: int) -> None:
    common = f"{LONG} {RECIPE} checkpoint_every=auto"
    specs = trainer.specs(["lr=0.01", "lr=0.003"], f"{common} capture=false")
    before = stopped(specs, steps)
    went_on(specs, before)
    for spec, text in zip(specs, ["lr=0.01", "lr=0.003"], strict=True):
        run = read(spec.folder)
        assert f"goes on from its checkpoint at step {steps}" in run.log
        assert_same_bits(run, trainer.reference(text, common))


def test_a_branch_goes_on_by_the_same_recipe(trainer: Trainer) -> None:
    recipe = f"clip_grad_norm=0.4 {grouped()} optimizer=momentum optimizer.weight_decay=0.1"
    specs = trainer.specs(["lr=0.01"], f"{NET} {recipe} diagnostics=full")
    pool.run(pool.Batch(specs), None, "cpu", Silent(), {0: 0})
    assert branches.test(specs, None, lambda: False) == []
    found = records.read_branches(specs[0].folder)
    longer = trainer.alone("lr=0.01 epochs=6", f"{NET} {recipe}")
    np.testing.assert_allclose(found["same"], longer.metrics["train_loss"].iloc[20:60], rtol=1e-4)


TYPED = (
    "clip_grad_norm=0.5",
    "accumulate=3",
    "ema=0.9",
    "loss.label_smoothing=0.1",
    """optimizer.groups={"layers.1": {lr: 3}, '*.bias':{weight_decay:0}}""",
    "optimizer=adamw",
    "schedule=wsd",
    "schedule.shape=1-sqrt",
)


def test_a_sweep_is_resumed_reproduced_and_read(here: Path) -> None:
    ended = command(sweep.main, [*FEW, *TYPED, "lr=0.01,0.1", "name=s"], here)
    assert (ended.code, ended.err) == (0, ""), ended.err
    ended = command(reproduce.main, ["outputs/s/1"], here)
    assert ended.code == 0 and "bitwise" in ended.out, ended.out + ended.err
    ended = command(resume.main, ["outputs/s", "lr=0.01,0.1,0.3"], here)
    assert (ended.code, ended.err) == (0, ""), ended.err
    assert records.read_summary(here / "outputs/s/2")["state"] == "finished"


@pytest.mark.full(after=2)
@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("clip_grad_norm=0.1,10", [0.1, 10]),
        ("optimizer.groups.layers.1.lr=1,10", [1, 10]),
        ("clip_grad_norm=null,0.1", [None, 0.1]),
        ("loss.label_smoothing=0,0.3", [0, 0.3]),
        ("accumulate=1,2", [1, 2]),
        ("optimizer.groups={layers.1:{lr:1}},{layers.1:{lr:5}}", None),
    ],
)
def test_what_is_swept_is_a_setting_of_the_answer(
    typed: str, values: list[Any] | None, here: Path
) -> None:
    ended = command(sweep.main, [*FEW, typed, "lr=0.01,0.3", "name=s"], here)
    assert (ended.code, ended.err) == (0, ""), ended.err
    name = typed.partition("=")[0]
    assert f"{name}=" in ended.out.partition("answer")[2], ended.out
    found = [records.read_summary(here / f"outputs/s/{n}")[name] for n in range(4)]
    if values is None:
        values = ["{layers.1:{lr:1}}", "{layers.1:{lr:5}}"]
    assert found == [values[0]] * 2 + [values[1]] * 2 or found == values * 2
    runs = [(here / f"outputs/s/{n}/metrics.csv").read_bytes() for n in range(4)]
    assert len(set(runs)) == 4


def test_find_clips_and_groups_too(here: Path) -> None:
    """With gradients of a norm of 1e-6 no lr is large enough; at rates of 0 nothing moves."""
    words = [*DATA, "threads=1", "plots=false", "steps=60", "points=8"]
    ended = command(find.main, [*words, "clip_grad_norm=1e-6", "name=a"], here)
    assert ended.code == 1 and "no learning rate to suggest" in ended.out, ended.out + ended.err
    frozen = "optimizer.groups={*:{lr:0}}"
    ended = command(find.main, [*words, frozen, "name=b"], here)
    assert ended.code == 1, ended.out


@pytest.mark.unit
def test_lanes_share_a_stack_whatever_the_values(trainer: Trainer) -> None:
    def keys(*runs: str) -> int:
        return len({plan_spec.group_key(spec) for spec in trainer.specs(runs)})

    assert keys("clip_grad_norm=1", "clip_grad_norm=2") == 1
    assert keys("clip_grad_norm=1", "lr=0.2") == 2
    assert keys(grouped(), grouped(3, 0.5)) == 1
    assert keys(grouped(), "lr=0.2") == 2
