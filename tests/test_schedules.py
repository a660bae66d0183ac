"""Oracles: closed forms of the whole curve, and torch's scheduler in an ordinary training loop."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from helpers.schedules import LR, STEPS, STEPS_PER_EPOCH, TORCH, config, curve
from omegaconf import OmegaConf

from lrlab.engine.optimizers import lane_optimizers
from lrlab.errors import UserError
from lrlab.plan.schedules import lane_schedules

pytestmark = pytest.mark.unit
EPOCHS = math.ceil(STEPS / STEPS_PER_EPOCH)
CONF = Path(__file__).parents[1] / "conf" / "schedule"


def one_cycle(t, total, top, up=0.3, div=25.0, final=1e4):
    start, end, peak = top / div, top / div / final, up * total - 1

    def cosine(a, b, share):
        return b + (a - b) * (1 + math.cos(math.pi * share)) / 2

    if t <= peak:
        return cosine(start, top, t / peak)
    return cosine(top, end, (t - peak) / (total - 1 - peak))


def restarted(tick, cycle, times):
    """The share of a cycle that has passed."""
    while tick >= cycle:
        tick, cycle = tick - cycle, cycle * times
    return tick / cycle


def wsd(t, total, warmup, decay, shape=lambda s: 1 - math.sqrt(s)):
    if t < warmup:
        return 0.01 + 0.99 * t / warmup
    return shape(max(t - (total - decay), 0) / decay)


# scheduler and arguments, and lr / init_lr as a function of (tick, ticks in the run)
CLOSED_FORMS = {
    "fixed": ("ConstantLR", {"factor": 1.0, "total_iters": 0}, lambda k, n: 1.0),
    "step": ("StepLR", {"step_size": 2, "gamma": 0.3}, lambda k, n: 0.3 ** (k // 2)),
    "step_1": ("StepLR", {"step_size": 1, "gamma": 0.3}, lambda k, n: 0.3**k),
    "exponential": ("ExponentialLR", {"gamma": 0.9}, lambda k, n: 0.9**k),
    "growing": ("ExponentialLR", {"gamma": 1.1}, lambda k, n: 1.1**k),
    "cosine": (
        "CosineAnnealingLR",
        {"T_max": "auto", "eta_min": 0.03},
        lambda k, n: 0.1 + 0.9 * (1 + math.cos(math.pi * k / n)) / 2,
    ),
    "linear": (
        "LinearLR",
        {"start_factor": 1.0, "end_factor": 0.0, "total_iters": "auto"},
        lambda k, n: 1 - k / n,
    ),
    "linear_short": (
        "LinearLR",
        {"start_factor": 0.5, "end_factor": 0.1, "total_iters": 4},
        lambda k, n: 0.5 - 0.4 * min(k, 4) / 4,
    ),
    "one_cycle": (
        "OneCycleLR",
        {"max_lr": LR, "total_steps": "auto", "cycle_momentum": False},
        lambda k, n: one_cycle(k, n, 1.0),
    ),
    "restarts": (
        "CosineAnnealingWarmRestarts",
        {"T_0": 3, "T_mult": 2, "eta_min": 0.03},
        lambda k, n: 0.1 + 0.9 * (1 + math.cos(math.pi * restarted(k, 3, 2))) / 2,
    ),
    "polynomial": (
        "PolynomialLR",
        {"total_iters": "auto", "power": 2.0},
        lambda k, n: (1 - k / n) ** 2,
    ),
    "multi_step": (
        "MultiStepLR",
        {"milestones": [1, 3, 6], "gamma": 0.1},
        lambda k, n: 0.1 ** sum(k >= m for m in (1, 3, 6)),
    ),
}


@pytest.mark.parametrize("warmup", [0, 1, 5, 7, 10, 14])
@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_the_whole_curve_is_the_closed_form(name, interval, warmup):
    kind, arguments, form = CLOSED_FORMS[name]
    unit = 1 if interval == "step" else STEPS_PER_EPOCH
    begin = warmup // unit
    ticks = (STEPS if interval == "step" else EPOCHS) - begin
    first = LR * form(0, ticks)
    expected = [
        first * (0.01 + 0.99 * t / warmup) if t < warmup else LR * form(t // unit - begin, ticks)
        for t in range(STEPS)
    ]
    lr = curve(config(kind, interval, warmup, **arguments))
    assert lr.dtype == np.float64
    np.testing.assert_allclose(lr, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize(
    ("kind", "arguments"),
    [(kind, arguments) for kind, arguments, _ in CLOSED_FORMS.values()]
    + [
        ("CosineAnnealingWarmRestarts", {"T_0": 3, "T_mult": 2}),
        ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.5, "step_size_up": 3, "cycle_momentum": False}),
    ],
)
def test_every_lr_is_the_one_an_ordinary_loop_would_use(kind, arguments, interval):
    """Bit for bit: optimizer.step() reads lr, then scheduler.step() moves it."""
    ticks = STEPS if interval == "step" else EPOCHS
    given = {k: ticks if v == "auto" else v for k, v in arguments.items()}
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=LR)
    scheduler = getattr(torch.optim.lr_scheduler, kind)(optimizer, **given)
    used = []
    for step in range(STEPS):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < STEPS - 1 and (interval == "step" or (step + 1) % STEPS_PER_EPOCH == 0):
            scheduler.step()
    assert curve(config(kind, interval, **arguments)).tolist() == used


def test_values_are_slices_of_the_same_curve():
    node = config("ExponentialLR", gamma=0.9)
    built = lane_schedules.build(node, {"lr": LR}, STEPS, STEPS_PER_EPOCH)
    whole = built.values(0, STEPS)["lr"]
    parts = [built.values(first, min(10, STEPS - first))["lr"] for first in range(0, STEPS, 10)]
    assert np.concatenate(parts).tolist() == whole.tolist()
    assert built.values(STEPS, 0)["lr"].shape == (0,)
    assert not built.closed_loop
    built.observe(1.0)
    assert built.values(0, STEPS)["lr"].tolist() == whole.tolist()
    for first, count in ((0, STEPS + 1), (-1, 2), (STEPS, 1)):
        with pytest.raises(ValueError, match="asked for"):
            built.values(first, count)
    with pytest.raises(ValueError, match="read-only"):
        whole[0] = 1.0  # lanes share a table


def test_lanes_get_their_own_table_unless_they_are_equal():
    schedule = config("ExponentialLR", gamma=0.9)
    a, b = (curve(schedule, lr=lr) for lr in (0.1, 1))
    np.testing.assert_allclose(b, 10 * a, rtol=1e-12)
    assert np.shares_memory(curve(schedule, lr=0.1), a)
    assert not np.array_equal(curve({**schedule, "gamma": 0.8}, lr=0.1), a)


def test_momentum_is_given_only_where_the_scheduler_moves_it():
    still = lane_schedules.build(
        config("OneCycleLR", max_lr=LR, total_steps="auto", cycle_momentum=False),
        {"lr": LR, "momentum": 0.9},
        STEPS,
        STEPS_PER_EPOCH,
    )
    assert set(still.values(0, 3)) == {"lr"}
    moving = config(
        "OneCycleLR",
        max_lr=LR,
        total_steps="auto",
        cycle_momentum=True,
        anneal_strategy="linear",
        warmup=5,
    )
    n, peak = STEPS - 5, 0.3 * (STEPS - 5) - 1
    expected = [0.95] * 5 + [
        0.95 - 0.1 * t / peak if t <= peak else 0.85 + 0.1 * (t - peak) / (n - 1 - peak)
        for t in range(n)
    ]
    np.testing.assert_allclose(curve(moving, name="momentum", momentum=0.0), expected, rtol=1e-12)
    betas = curve(moving, name="beta1", betas=[0.9, 0.999])
    np.testing.assert_allclose(betas, expected, rtol=1e-12)
    same = curve(moving, name="beta1", beta1=0.9, beta2=0.999)
    assert same.tolist() == betas.tolist()
    with pytest.raises(UserError, match="must support momentum or beta1"):
        curve(moving)


def test_one_cycle_moves_the_optimizers_momentum_as_torch_does():
    steps, lr = 40, 0.05
    cycle = config("OneCycleLR", max_lr=lr, total_steps="auto", cycle_momentum=True)
    for kind in ("SGD", "Adam"):
        lane = {"_target_": f"torch.optim.{kind}", "lr": lr}
        grads = torch.randn(steps, 1, 6, generator=torch.Generator().manual_seed(0))
        params = [torch.ones(1, 6)]
        ours = lane_optimizers.build([lane], params)
        built = lane_schedules.build(cycle, {"lr": lr, **ours.hyperparameters(0)}, steps, steps)
        values = {name: v[:, None] for name, v in built.values(0, steps).items()}
        c = ours.coefficients(values, np.zeros(1, int))
        leaf = torch.nn.Parameter(torch.ones(6))
        alone = getattr(torch.optim, kind)([leaf], lr=lr, foreach=False)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(alone, max_lr=lr, total_steps=steps)
        for i in range(steps):
            ours.update([grads[i]], c, i)
            leaf.grad = grads[i, 0].clone()
            alone.step()
            scheduler.step()
        assert torch.equal(params[0][0], leaf.detach())


@pytest.mark.parametrize("warmup", [0, 10])
@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_the_range_test_rises_exponentially_and_its_ends_are_exact(interval, warmup):
    schedule = {
        **config("", interval, warmup, min_lr=1e-4, max_lr=3.0, total_steps="auto"),
        "_target_": "lrlab.schedules.RangeTestLR",
    }
    unit = 1 if interval == "step" else STEPS_PER_EPOCH
    ticks = (STEPS if interval == "step" else EPOCHS) - warmup // unit
    lr = curve(schedule)
    tick = np.maximum(np.arange(STEPS) // unit - warmup // unit, 0)
    expected = 1e-4 * 3e4 ** (tick / (ticks - 1))
    np.testing.assert_allclose(lr[warmup:], expected[warmup:], rtol=1e-12)
    assert lr[warmup] == 1e-4 and lr[-1] == 3.0
    assert curve(schedule, lr=77.0).tolist() == lr.tolist()  # the optimizer's own has no part in it
    longer = curve({**schedule, "total_steps": 2 * ticks})
    np.testing.assert_allclose(longer[-1], 1e-4 * 3e4 ** ((ticks - 1) / (2 * ticks - 1)))
    assert set(curve({**schedule, "warmup_steps": 0, "total_steps": "auto"}, steps=1)) == {1e-4}


LOSSES = [2.0, 1.0, 1.0, 1.1, 0.99999, 0.5, 0.6, 0.7]


@pytest.mark.parametrize("patience", [0, 1, 2])
def test_plateau_is_torchs_own_given_each_epochs_val_loss(patience):
    schedule = config("ReduceLROnPlateau", "epoch", factor=0.1, patience=patience)
    built = lane_schedules.build(schedule, {"lr": LR}, 56, 7)
    assert built.closed_loop
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=patience)
    seen = []
    for epoch, loss in enumerate(LOSSES):
        lr = built.values(epoch * 7, 7)["lr"]
        assert lr.tolist() == [optimizer.param_groups[0]["lr"]] * 7
        seen.append(lr[0])
        if epoch < len(LOSSES) - 1:
            with pytest.raises(ValueError, match="known are 0 to"):
                built.values(epoch * 7, 8)
        built.observe(loss)
        plateau.step(loss)
    drops = {
        0: [3, 4, 5, 7],
        1: [
            4,
        ],
        2: [5],
    }[patience]  # counted by hand
    changed = (np.flatnonzero(np.diff(seen)) + 1).tolist()
    assert changed == drops
    assert built.values(0, 56)["lr"].tolist() == np.repeat(seen, 7).tolist()


def test_plateau_does_not_count_the_epochs_of_its_warm_up():
    schedule = config("ReduceLROnPlateau", "epoch", warmup=10, factor=0.1, patience=0)
    built = lane_schedules.build(schedule, {"lr": 1.0}, 28, 7)
    expected = [0.01 + 0.99 * t / 10 for t in range(10)]
    np.testing.assert_allclose(built.values(0, 7)["lr"], expected[:7], rtol=1e-12)
    built.observe(0.1)  # epoch 0 ends in warm-up: no best value to compare with
    np.testing.assert_allclose(built.values(7, 7)["lr"], expected[7:] + [1.0] * 4, rtol=1e-12)
    built.observe(3.0)
    assert set(built.values(14, 7)["lr"]) == {1.0}
    built.observe(3.0)
    np.testing.assert_allclose(built.values(21, 7)["lr"], 0.1)
    built.observe(float("nan"))  # the end of the run may be observed as well
    assert len(built.values(0, 28)["lr"]) == 28


def chained(optimizer, drop):
    """A schedule that a user made of torch's own."""
    parts = [
        torch.optim.lr_scheduler.ConstantLR(optimizer, drop, total_iters=3),
        torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
    ]
    return torch.optim.lr_scheduler.ChainedScheduler(parts, optimizer)


def halving(tick):
    return 0.5**tick


def test_any_other_scheduler_works_by_its_target():
    lr = curve({"_target_": f"{__name__}.chained", "drop": 0.5, "interval": "step"}, lr=1.0)
    expected = [(0.5 if t < 3 else 1.0) * 0.9**t for t in range(STEPS)]
    np.testing.assert_allclose(lr, expected, rtol=1e-12)
    nested = {"_target_": f"{__name__}.halving", "_partial_": True}
    lr = curve(config("LambdaLR", "epoch", lr_lambda=nested), lr=1.0)
    assert lr.tolist() == [0.5 ** (t // STEPS_PER_EPOCH) for t in range(STEPS)]


SHIPPED = {
    "fixed": lambda t: 1.0,
    "step": lambda t: 0.3 ** (t // 100),
    "exponential": lambda t: 0.999**t,
    "cosine": lambda t: (1 + math.cos(math.pi * t / 300)) / 2,
    "linear": lambda t: 1 - t / 300,
    "one_cycle": lambda t: one_cycle(t, 300, 1.0),
    "warmup": lambda t: min(0.01 + 0.99 * t / 200, 1.0),
    "plateau": lambda t: 1.0,
    "wsd": lambda t: wsd(t, 300, warmup=15, decay=57),  # 0.05 of 300, 0.2 of the other 285
    "cosine_restarts": lambda t: (1 + math.cos(math.pi * (t % 75) / 75)) / 2,
    "range_test": lambda t: 1e-5 * 1e6 ** (t / 299) / 0.2,  # from 1e-5 to 10, whatever lr is
}


@pytest.mark.parametrize("name", [path.stem for path in sorted(CONF.glob("*.yaml"))])
def test_the_configs_that_ship_give_the_curve_that_their_comment_says(name):
    node = OmegaConf.create({"lr": 0.2, "schedule": OmegaConf.load(CONF / f"{name}.yaml")})
    schedule = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))["schedule"]
    built = lane_schedules.build(schedule, {"lr": 0.2, "momentum": 0.0}, 300, 100)
    if built.closed_loop:
        built.observe(1.0)
        built.observe(0.5)
    values = built.values(0, 300)
    assert set(values) == {"lr"}
    expected = [0.2 * SHIPPED[name](t) for t in range(300)]
    np.testing.assert_allclose(values["lr"], expected, rtol=1e-10, atol=1e-15)


def test_all_schedules_of_the_readme_ship():
    assert {path.stem for path in CONF.glob("*.yaml")} == set(SHIPPED)


SHAPES = {
    "linear": lambda s: 1 - s,
    "1-sqrt": lambda s: 1 - math.sqrt(s),
    "cosine": lambda s: (1 + math.cos(math.pi * s)) / 2,
}


def stable(**arguments):
    given = {"total_steps": "auto", "decay_steps": 0.2, **arguments}
    return {**config("", **given), "_target_": "lrlab.schedules.StableDecayLR"}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("decay", "ticks"), [(0.5, 25), (0.33, 17), (7, 7), (50, 50)])
def test_a_decay_has_its_shape_and_its_length_as_ticks_or_as_a_share(shape, decay, ticks):
    schedule = stable(decay_steps=decay, shape=shape, end_factor=0.1, warmup_steps=3)
    warm, form = 3, SHAPES[shape]
    expected = [wsd(t, STEPS, warm, ticks, lambda s: 0.1 + 0.9 * form(s)) for t in range(STEPS)]
    np.testing.assert_allclose(curve(schedule), LR * np.array(expected), rtol=1e-12)


@pytest.mark.parametrize(("share", "times", "ticks"), [(0.25, 1, 14), (0.1, 2, 6), (0.5, 1, 27)])
def test_restarts_by_a_share_are_torchs_by_ticks(share, times, ticks):
    """Rounded up, so that the last cycle is cut rather than begun again."""
    kind = "CosineAnnealingWarmRestarts"
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, ticks, times)
    expected = []
    for _ in range(STEPS):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(curve(config(kind, T_0=share, T_mult=times)), expected, rtol=1e-12)


@pytest.mark.parametrize(("typed", "steps"), [(0.1, 6), (0.5, 27), (0.999, 53)])
def test_a_warm_up_below_1_is_a_share_of_the_run(typed, steps):
    node = config("ConstantLR", warmup=typed, factor=1.0, total_iters=0)
    if steps == STEPS:
        with pytest.raises(UserError, match=r"warmup_steps=53: must be below the run's 53 steps"):
            curve(node)
        return
    assert curve(node).tolist() == curve({**node, "warmup_steps": steps}).tolist()


def rise(**arguments):
    given = {"min_lr": 1e-4, "max_lr": 1.0, "total_steps": "auto", **arguments}
    return {**config("", **given), "_target_": "lrlab.schedules.RangeTestLR"}


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (stable(shape="sqrt"), "schedule.shape=sqrt: must be linear, 1-sqrt or cosine, for"),
        (stable(decay_steps=0), "schedule.decay_steps=0: must be a whole number of at least 1"),
        (stable(decay_steps=1.5), "schedule.decay_steps=1.5: must be a whole number of at least 1"),
        (stable(decay_steps=54), "schedule.decay_steps=54: is more than the schedule's 53 steps;"),
        (stable(total_steps=9), "schedule.total_steps=9: the run has 53 steps after warm-up; use"),
        (rise(min_lr=0), "schedule.min_lr=0: must be a number above 0, for example schedule.min"),
        (rise(max_lr="x"), "schedule.max_lr=x: must be a number above 0"),
        (
            rise(max_lr=1e-5),
            "schedule._target_=lrlab.schedules.RangeTestLR: max_lr=1e-05 must not be below min_lr",
        ),
        (rise(total_steps=10), "schedule.total_steps=10: the run has 53 steps after warm-up; use"),
        (rise(min_ls=1), "schedule.min_ls=1: RangeTestLR has no such option (did you mean min_lr"),
        (config("StepLR", step_size=1, gamma=-1), "schedule.gamma=-1: must be a number above 0"),
        (config("StepLR", step_size=0), "schedule.step_size=0: must be a whole number of at"),
        (config("StepLR", step_size=1.5), "schedule.step_size=1.5: must be a whole number"),
        (config("StepLR"), "schedule.step_size: missing, StepLR needs it"),
        (config("StepLR", "epok", step_size=1), "schedule.interval=epok: must be step or epoch (d"),
        (
            config("StepLR", step_size=1, gama=1),
            "schedule.gama=1: StepLR has no such option (did you mean gamma?); it takes step_size",
        ),
        (
            {**config("StepLR", step_size=1), "warmup_step": 5},
            "schedule.warmup_step=5: StepLR has no such option (did you mean warmup_steps?)",
        ),
        (config("StepLR", step_size=1, last_epoch=3), "schedule.last_epoch=3: StepLR has no such"),
        (config("ExponentialLR", gamma=1e9), f"schedule._target_={TORCH}ExponentialLR: lr is inf"),
        (config("StepLR", warmup=-1, step_size=1), "schedule.warmup_steps=-1: must be a whole"),
        (config("StepLR", warmup=53, step_size=1), "schedule.warmup_steps=53: must be below the"),
        (config("StepLR", warmup=2.5, step_size=1), "schedule.warmup_steps=2.5: must be a whole"),
        (config("StepLR", start=0, step_size=1), "schedule.warmup_start_factor=0: must be above 0"),
        (config("LinearLR", start_factor=0), "schedule.start_factor=0: must be above 0"),
        (config("CosineAnnealingLR", T_max=0), "schedule.T_max=0: must be a whole number"),
        (config("OneCycleLR", max_lr=0.1), f"schedule._target_={TORCH}OneCycleLR: You must define"),
        (
            config("OneCycleLR", max_lr=0.1, total_steps=20),
            "schedule.total_steps=20: the run has 53 steps after warm-up; use schedule.total_steps",
        ),
        (
            config("OneCycleLR", max_lr=0.1, total_steps="auto", pct_start=1),
            "schedule.pct_start=1: must be between 0 and 1",
        ),
        (config("ReduceLROnPlateau"), "schedule.interval=step: ReduceLROnPlateau follows val_loss"),
        (config("ReduceLROnPlateau", "epoch", mode="max"), "schedule.mode=max: ReduceLROnPlateau"),
        (config("ReduceLROnPlateau", "epoch", factor=1.0), "schedule.factor=1.0: must be between"),
        (
            config("StepLRR", step_size=1),
            f"schedule._target_={TORCH}StepLRR: cannot be loaded (did you mean {TORCH}StepLR?)",
        ),
        ({"_target_": "torch.optim.SGD"}, "schedule._target_=torch.optim.SGD: is no LRScheduler"),
        ({"_target_": "builtins.sorted"}, "schedule._target_=builtins.sorted: "),
        ({}, "schedule._target_=None: must name a class"),
    ],
)
def test_bad_input_is_one_line_that_names_the_option(schedule, message):
    with pytest.raises(UserError) as caught:
        curve(schedule)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize(
    ("kind", "arguments", "share"),
    [
        ("ConstantLR", {"factor": 1.0}, 1.0),
        ("ConstantLR", {"factor": 0.3}, 1.0),
        ("ConstantLR", {}, 1.0),
        ("LinearLR", {"start_factor": 0.7, "end_factor": 0.1}, 0.1),
        ("LinearLR", {"start_factor": 0.7, "end_factor": 0.0}, 0.0),
        ("LinearLR", {}, 1.0),
    ],
)
def test_no_ticks_to_the_end_are_the_end_from_the_first_tick(kind, arguments, share, interval):
    """The limit of shorter and shorter ones: with total_iters=1 all ticks but the first are so."""
    at_once = curve(config(kind, interval, total_iters=0, **arguments))
    assert at_once.tolist() == [LR * share] * STEPS
    soon = curve(config(kind, interval, total_iters=1, **arguments))
    np.testing.assert_allclose(soon[STEPS_PER_EPOCH:], LR * share, rtol=1e-12, atol=1e-16)
    assert (kind == "ConstantLR" and arguments.get("factor") == 1.0) or soon[0] != LR * share
    warm = curve(config(kind, interval, warmup=4, start=0.5, total_iters=0, **arguments))
    expected = [LR * share * min(0.5 + 0.125 * t, 1.0) for t in range(STEPS)]
    np.testing.assert_allclose(warm, expected, rtol=1e-12)


def test_no_torch_warning_leaks():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        curve(config("StepLR", warmup=3, step_size=5, gamma=0.123))
        built = lane_schedules.build(config("ReduceLROnPlateau", "epoch"), {"lr": 1.0}, 14, 7)
        built.observe(1.0)
        built.values(0, 14)
    assert not caught


@pytest.mark.parametrize("total", [1, 4, STEPS - 2, STEPS - 1, STEPS, 100])
@pytest.mark.parametrize(
    ("kind", "arguments"),
    [("ConstantLR", {"factor": 0.3}), ("LinearLR", {"start_factor": 0.7, "end_factor": 0.1})],
)
def test_where_a_scheduler_rests_its_bits_are_those_of_torch(kind, arguments, total):
    arguments = {**arguments, "total_iters": total}
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=LR)
    scheduler = getattr(torch.optim.lr_scheduler, kind)(optimizer, **arguments)
    expected = []
    for _ in range(STEPS):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert curve(config(kind, **arguments)).tolist() == expected
