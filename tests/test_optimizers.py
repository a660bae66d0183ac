"""Oracle: torch.optim run by itself on each lane's own parameters and gradients."""

from __future__ import annotations

import pydoc
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from helpers.optimizers import LRS, configs, path_of
from omegaconf import OmegaConf

from lrlab.engine.optimizers import lane_optimizers

pytestmark = pytest.mark.unit

STEPS = 200
SHAPES = [(5, 7), (7,), (3, 2, 3, 3), ()]  # of one lane
# class, of torch.optim or by its import path, then the hyperparameters of five lanes
CASES = {
    "sgd": ("SGD", [{}] * 5),
    "sgd_decay": ("SGD", [{"weight_decay": w} for w in (0.1, 0, 1e-4, 0.01, 0)]),
    "momentum": ("SGD", [{"momentum": m} for m in (0.9, 0, 0.5, 0.99, 0.1)]),
    "all_momentum": ("SGD", [{"momentum": m} for m in (0.9, 0.3, 0.5, 0.99, 0.1)]),
    "dampening": (
        "SGD",
        [
            {"momentum": m, "dampening": d, "weight_decay": w}
            for m, d, w in [(0.9, 0, 0), (0, 0.5, 0.1), (0.5, 0.5, 0), (0.9, 0.9, 0.1), (0.1, 0, 0)]
        ],
    ),
    "nesterov": (
        "SGD",
        [
            {"momentum": m, "weight_decay": w, "nesterov": True}
            for m, w in [(0.9, 0), (0.5, 0.1), (0.99, 0), (0.1, 0.01), (0.8, 0)]
        ],
    ),
    "adam": (
        "Adam",
        [
            {"betas": b, "eps": e, "weight_decay": w}
            for b, e, w in [
                ([0.9, 0.999], 1e-8, 0),
                ([0.0, 0.9], 1e-3, 0.1),
                ([0.3, 0.99], 1e-8, 0),
                ([0.95, 0.95], 1e-6, 0.01),
                ([0.9, 0.0], 1e-8, 0),
            ]
        ],
    ),
    "adamw": (
        "AdamW",
        [
            {"betas": b, "eps": e, "weight_decay": w}
            for b, e, w in [
                ([0.9, 0.999], 1e-8, 0.01),
                ([0.0, 0.9], 1e-3, 0),
                ([0.4, 0.99], 1e-8, 0.1),
                ([0.95, 0.95], 1e-6, 0.5),
                ([0.9, 0.999], 1e-8, 0),
            ]
        ],
    ),
    "rmsprop": (
        "RMSprop",
        [
            {"alpha": a, "momentum": m, "weight_decay": w, "eps": e}
            for a, m, w, e in [
                (0.99, 0, 0, 1e-8),
                (0.9, 0.9, 0.1, 1e-3),
                (0.5, 0, 0.01, 1e-8),
                (0.99, 0.5, 0, 1e-6),
                (0.0, 0.0, 0, 1e-8),
            ]
        ],
    ),
    "adagrad": (
        "Adagrad",
        [
            {"lr_decay": d, "initial_accumulator_value": i, "weight_decay": w, "eps": e}
            for d, i, w, e in [
                (0, 0, 0, 1e-10),
                (0.1, 1.0, 0.1, 1e-3),
                (0.01, 0.1, 0, 1e-10),
                (0, 2.0, 0.01, 1e-6),
                (0.5, 0, 0, 1e-10),
            ]
        ],
    ),
}
GENERAL = {
    "nadam": ("NAdam", [{"betas": [b, 0.99]} for b in (0.9, 0.5, 0.0, 0.3, 0.8)]),
    "adadelta": ("Adadelta", [{"rho": r} for r in (0.9, 0.5, 0.1, 0.99, 0.7)]),
    "rprop": ("Rprop", [{"etas": [e, 1.2]} for e in (0.5, 0.3, 0.9, 0.1, 0.7)]),
    "amsgrad": ("Adam", [{"amsgrad": True, "weight_decay": w} for w in (0, 0.1, 0, 0.01, 0)]),
    "centered": ("RMSprop", [{"centered": True, "alpha": a} for a in (0.9, 0.5, 0.99, 0.7, 0.8)]),
    "maximize": ("SGD", [{"maximize": True, "momentum": m} for m in (0, 0.9, 0.5, 0, 0.1)]),
}
BY_SIGN = ("Rprop",)  # classes that look at signs only, so they stay finite by themselves


def stacked(lanes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    params = [torch.randn(5, *shape, generator=generator)[lanes] for shape in SHAPES]
    return [p.clone().requires_grad_() for p in params]  # as stack_module_state gives them


def gradients(seed=1):
    """STEPS × parameters of (5, ...); scales over six orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    scale = 10 ** (torch.rand(STEPS, generator=generator) * 6 - 4)
    return [[s * torch.randn(5, *shape, generator=generator) for shape in SHAPES] for s in scale]


GRADIENTS = gradients()


def schedule(lrs, count=STEPS):
    """(count, lanes): another lr at every step, different in each lane."""
    return np.outer(0.99 ** np.arange(count), np.array(lrs, float))


def run(configs_, lanes, grads=GRADIENTS, scheduled=None, chunk=STEPS, transposed=False):
    params = stacked(lanes)
    optimizer = lane_optimizers.build(configs_, params)
    values = {"lr": schedule([c["lr"] for c in configs_]), **(scheduled or {})}
    for first in range(0, len(grads), chunk):
        rows = {name: v[first : first + chunk] for name, v in values.items()}
        c = optimizer.coefficients(rows, np.full(len(lanes), first))
        for i in range(min(chunk, len(grads) - first)):
            g = [x[lanes] for x in grads[first + i]]
            if transposed:  # vmapped gradients may come in another memory order
                g = [x.transpose(0, -1).contiguous().transpose(0, -1) for x in g]
            optimizer.update(g, c, i)
    return [p.detach() for p in params]


def torch_alone(config, lane, grads=GRADIENTS, scheduled=None):
    leaves = [torch.nn.Parameter(p.detach()[0]) for p in stacked([lane])]
    arguments = {k: v for k, v in config.items() if not k.startswith("_")}
    kind = pydoc.locate(config["_target_"])
    if kind.__module__.startswith("torch."):
        arguments["foreach"] = False
    optimizer = kind(leaves, **arguments)
    lrs = schedule([config["lr"]])[:, 0]
    for step, grad in enumerate(grads):
        for leaf, g in zip(leaves, grad, strict=True):
            leaf.grad = g[lane].clone()
        group = optimizer.param_groups[0]
        group["lr"] = float(lrs[step])
        if scheduled is not None and "momentum" in group:
            group["momentum"] = float(scheduled[step])
        elif scheduled is not None:
            group["betas"] = (float(scheduled[step]), group["betas"][1])
        optimizer.step()
    return [leaf.detach() for leaf in leaves]


def identical(a, b):
    return a.shape == b.shape and torch.equal(
        a.contiguous().view(torch.int32), b.contiguous().view(torch.int32)
    )


@pytest.mark.full(after=7)
@pytest.mark.parametrize(
    ("name", "transposed"),
    [(name, False) for name in [*CASES, *GENERAL]] + [(name, True) for name in CASES],
)
def test_each_lane_matches_torch_alone_to_the_last_bit(name, transposed):
    kind, arguments = (CASES | GENERAL)[name]
    lanes = configs(kind, arguments)
    ours = run(lanes, range(5), chunk=50, transposed=transposed)
    for lane, config in enumerate(lanes):
        for p, q in zip(ours, torch_alone(config, lane), strict=True):
            assert torch.isfinite(q).all()
            assert identical(p[lane], q), (p[lane] - q).abs().max()


@pytest.mark.full(after=10)
@pytest.mark.parametrize("name", [*CASES, *GENERAL])
def test_a_lanes_bits_do_not_depend_on_its_neighbours(name):
    kind, arguments = (CASES | GENERAL)[name]
    lanes = configs(kind, arguments)
    clean = GRADIENTS[:60]
    poisoned = [[g.clone() for g in grad] for grad in clean]
    for grad, value in zip(poisoned[3:], [float("nan"), float("inf")] * STEPS, strict=False):
        for g in grad:
            g[1] = value
    together = run(lanes, range(5), poisoned)
    assert kind in BY_SIGN or not any(torch.isfinite(p[1]).any() for p in together)
    for lane in (0, 2, 3, 4):
        alone = run([lanes[lane]], [lane], clean)
        for p, q in zip(together, alone, strict=True):
            assert identical(p[lane], q[0])
    backwards = run(lanes[::-1], range(4, -1, -1), clean)
    forwards = run(lanes, range(5), clean)
    assert all(identical(p.flip(0), q) for p, q in zip(backwards, forwards, strict=True))


@pytest.mark.full(after=2)
@pytest.mark.parametrize("kind", ["SGD", "Adam", "RMSprop", "NAdam"])
def test_scheduled_momentum_replaces_the_constant(kind):
    wave = 0.9 + 0.05 * np.cos(np.arange(STEPS) / 9)
    lanes = configs(kind, [{}] * 5)
    if kind == "RMSprop":
        lanes = [{**lane, "momentum": 0.5} for lane in lanes]
    beta = kind in ("Adam", "NAdam")
    constant = 0.9 if beta else lanes[0].get("momentum", 0.0)
    values = np.stack([wave, wave, np.full(STEPS, np.nan), wave, wave], 1)
    ours = run(lanes, range(5), scheduled={"beta1" if beta else "momentum": values})
    for lane, config in enumerate(lanes):
        own = np.full(STEPS, constant) if lane == 2 else wave
        for p, q in zip(ours, torch_alone(config, lane, scheduled=own), strict=True):
            assert identical(p[lane], q)


def test_momentum_that_is_scheduled_through_zero_keeps_its_buffer_as_torch_does():
    wave = np.where(np.arange(STEPS) // 20 % 2 == 1, 0.9, 0.0)
    lanes = configs("SGD", [{}] * 5)
    ours = run(lanes, range(5), scheduled={"momentum": np.tile(wave[:, None], 5)})
    for lane, config in enumerate(lanes):
        for p, q in zip(ours, torch_alone(config, lane, scheduled=wave), strict=True):
            assert identical(p[lane], q)


@pytest.mark.default
@pytest.mark.parametrize("name", [*CASES, "nadam", "amsgrad", "rprop"])
def test_keep_goes_on_as_if_the_others_had_never_been(name):
    kind, arguments = (CASES | GENERAL)[name]
    lanes = configs(kind, arguments)
    params = stacked(range(5))
    optimizer = lane_optimizers.build(lanes, params)
    values = {"lr": schedule(LRS)}
    c = optimizer.coefficients(values, np.zeros(5, int))
    for i in range(30):
        optimizer.update(GRADIENTS[i], c, i)
    kept = torch.tensor([4, 0, 3, 0])  # lane 0 goes on twice
    params = [p.detach()[kept].clone().requires_grad_() for p in params]
    constants = [optimizer.hyperparameters(lane) for lane in kept.tolist()]
    optimizer.keep(kept, params)
    assert [optimizer.hyperparameters(lane) for lane in range(4)] == constants
    # coefficients made before may be cut, and new ones may be made
    cut = {k: v[:, kept] for k, v in c.items()}
    for i in range(30, 45):
        optimizer.update([g[kept] for g in GRADIENTS[i]], cut, i)
    c = optimizer.coefficients({"lr": values["lr"][45:60, kept.numpy()]}, np.full(4, 45))
    for i in range(45, 60):
        optimizer.update([g[kept] for g in GRADIENTS[i]], c, i - 45)
    whole = run(lanes, range(5), GRADIENTS[:60])
    for p, q in zip(params, whole, strict=True):
        assert identical(p.detach(), q[kept])


@pytest.mark.parametrize("name", ["adam", "adamw", "adagrad", "all_momentum", "dampening"])
def test_lanes_may_be_at_different_steps(name):
    """One lane has 37 updates behind it when the other starts; both end at their own oracle."""
    kind, arguments = CASES[name]
    early, late, delay = 3, 2, 37
    lanes = [configs(kind, arguments)[lane] for lane in (early, late)]
    lead, params = stacked([early]), stacked([early, late])
    first, both = (
        lane_optimizers.build(lanes[:1], lead),
        lane_optimizers.build(lanes, params),
    )
    lr = schedule([LRS[early], LRS[late]])
    c = first.coefficients({"lr": lr[:, :1]}, np.zeros(1, int))
    for i in range(delay):
        first.update([g[[early]] for g in GRADIENTS[i]], c, i)
    with torch.no_grad():
        for p, q in zip(params, lead, strict=True):
            p[0] = q[0]
    ours, theirs = vars(both)["_state"], vars(first)["_state"]
    for key, buffers in theirs.items():
        new = ours.setdefault(key, [torch.full_like(p.detach(), -0.0) for p in params])
        for n, old in zip(new, buffers, strict=True):
            n[0] = old[0]
    count = STEPS - delay
    c = both.coefficients({"lr": np.stack([lr[delay:, 0], lr[:count, 1]], 1)}, np.array([delay, 0]))
    for i in range(count):
        pairs = zip(GRADIENTS[delay + i], GRADIENTS[i], strict=True)
        both.update([torch.stack([g[early], h[late]]) for g, h in pairs], c, i)
    for p, q, r in zip(
        params,
        torch_alone(lanes[0], early),
        torch_alone(lanes[1], late, GRADIENTS[:count]),
        strict=True,
    ):
        assert identical(p.detach()[0], q)
        assert identical(p.detach()[1], r)


def test_a_large_parameter_split_over_threads_matches_torch_to_the_last_bit():
    """Above 32768 numbers torch divides the work, at places that depend on the number of lanes."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 123, 457, generator=generator)
    grads = torch.randn(4, 3, 123, 457, generator=generator)
    for kind in ("SGD", "Adam", "RMSprop", "Adagrad"):
        lanes = configs(kind, [{}] * 3, [0.1, 0.01, 1.0])
        params = [start.clone()]
        ours = lane_optimizers.build(lanes, params)
        c = ours.coefficients({"lr": np.array([[0.1, 0.01, 1.0]] * 4)}, np.zeros(3, int))
        for i, g in enumerate(grads):
            ours.update([g], c, i)
        for lane, lr in enumerate([0.1, 0.01, 1.0]):
            leaf = torch.nn.Parameter(start[lane].clone())
            alone = getattr(torch.optim, kind)([leaf], lr=lr, foreach=False)
            for g in grads:
                leaf.grad = g[lane].clone()
                alone.step()
            assert identical(params[0][lane], leaf.detach())


def test_the_first_momentum_is_the_gradient_even_in_the_sign_of_zero():
    params, zero = [torch.full((1, 4), -0.0)], torch.full((1, 4), -0.0)
    ours = lane_optimizers.build(configs("SGD", [{"momentum": 0.9}], [0.1]), params)
    ours.update([zero], ours.coefficients({"lr": np.full((1, 1), 0.1)}, np.zeros(1, int)), 0)
    leaf = torch.nn.Parameter(torch.full((4,), -0.0))
    leaf.grad = zero[0].clone()
    torch.optim.SGD([leaf], lr=0.1, momentum=0.9, foreach=False).step()
    assert identical(params[0][0], leaf.detach())


def test_gradients_are_left_as_they_are():
    for kind, arguments in CASES.values():
        params = stacked(range(5))
        grads = [g.clone() for g in GRADIENTS[0]]
        optimizer = lane_optimizers.build(configs(kind, arguments), params)
        optimizer.update(
            grads, optimizer.coefficients({"lr": schedule(LRS, 1)}, np.zeros(5, int)), 0
        )
        assert all(identical(a, b) for a, b in zip(grads, GRADIENTS[0], strict=True))


def test_hyperparameters_fill_in_the_defaults():
    adam = lane_optimizers.hyperparameters({"_target_": "torch.optim.Adam", "weight_decay": 1})
    assert adam == {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 1.0}
    built = lane_optimizers.build(configs(*CASES["nesterov"]), stacked(range(5))).hyperparameters(1)
    assert built == {"momentum": 0.5, "dampening": 0.0, "weight_decay": 0.1}


CONF = Path(__file__).parents[1] / "conf" / "optimizer"


# class, and the hyperparameters that a config sets besides the defaults
SHIPPED = {
    "sgd": ("SGD", {}),
    "momentum": ("SGD", {"momentum": 0.9}),
    "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "adam": ("Adam", {}),
    "adamw": ("AdamW", {}),
    "rmsprop": ("RMSprop", {}),
    "adagrad": ("Adagrad", {}),
    "muon": ("lrlab.engine.optimizers.muon.Muon", {}),
}


@pytest.mark.default
@pytest.mark.parametrize("name", [path.stem for path in sorted(CONF.glob("*.yaml"))])
def test_the_configs_that_ship_are_torchs_defaults_and_stacked(name):
    kind, arguments = SHIPPED[name]
    node = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"), resolve=True)
    config = cast(dict[str, Any], node)
    params = stacked([0])
    built = lane_optimizers.build([{**config, "lr": 0.1}], params)
    assert not built.general
    assert lane_optimizers.hyperparameters({**config}) == lane_optimizers.hyperparameters(
        {"_target_": path_of(kind), **arguments}
    )
    if name == "muon":
        return  # it has two rates: tests/test_muon.py
    lane = {"_target_": path_of(kind), "lr": 0.1, **arguments}
    ours = run([{**config, "lr": 0.1}], [0])
    for p, q in zip(ours, torch_alone(lane, 0), strict=True):
        assert identical(p[0], q)


def test_every_config_that_is_told_of_ships():
    assert {path.stem for path in CONF.glob("*.yaml")} == set(SHIPPED)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", [*CASES, *GENERAL])
def test_cuda_matches_the_cpu(name):
    """Within rounding: CUDA multiplies by a reciprocal where the CPU divides."""
    kind, arguments = (CASES | GENERAL)[name]
    lanes = configs(kind, arguments)
    cpu = run(lanes, range(5))
    params = [p.detach().cuda() for p in stacked(range(5))]
    optimizer = lane_optimizers.build(lanes, params)
    c = optimizer.coefficients({"lr": schedule(LRS)}, np.zeros(5, int))
    for i in range(STEPS):
        optimizer.update([g.cuda() for g in GRADIENTS[i]], c, i)
    for p, q in zip(params, cpu, strict=True):
        torch.testing.assert_close(p.cpu(), q, rtol=1e-4, atol=1e-4)
