"""Twenty families of training runs with a known truth: losses, measurements, branches, labels.

Plain numpy and no line of lrlab: what is right comes from the recurrences themselves and from many
seeds of the noise, so that verdicts can be held against it. A family is a problem, an optimizer and
25 log-spaced rates, from far too small to far too large.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from helpers.problems import (
    Problem,
    factorisation,
    logistic,
    quadratic,
    quartic,
    rosenbrock,
)

Array = np.ndarray[Any, Any]
State = dict[str, Array]

RATES = 25
SEEDS = 21  # of the noise: the first is what a verdict sees, the others tell the truth
LARGEST = 3.4e38  # of a float32: a larger loss is inf
BRANCH = 40  # steps of a branch at least; else an eighth of the run
BRANCH_END = 10  # of these, the last ones, whose mean loss is the branch's
EVERY = 5  # steps between two measurements of the stability ratio
CLOSE, ARRIVED = 1.05, 1e-5  # as good as the best; and below this share of the start all are
UNSURE = 2.0  # standard deviations of one seed within which a border lies on neither side
RANKS = {"undershooting": 0, "converged": 1, "overshooting": 2, "collapsed": 3, "diverged": 3}


# --- optimizers: torch's forms --------------------------------------------------------------------


@dataclass(frozen=True)
class Optimizer:
    """One step, and what theory says of it on a quadratic.

    Attributes:
        step: (x, gradient, state, lr) -> x after the step; changes the state.
        per_curvature: stability ratio over lr·λ, by the formula of the design; NaN: no rule known.
        swings_from: the ratio from which the recurrence has complex or negative roots.
        recurrence: lr·λ -> coefficients of its polynomial.
    """

    step: Callable[[Array, Array, State, Array], Array]
    per_curvature: float
    swings_from: float
    recurrence: Callable[[float], list[float]] | None = None


def gd() -> Optimizer:
    return Optimizer(lambda x, g, state, lr: x - lr * g, 0.5, 0.5, lambda a: [1, a - 1])


def heavy_ball(beta: float) -> Optimizer:
    def step(x: Array, g: Array, state: State, lr: Array) -> Array:
        state["v"] = beta * state.get("v", 0.0 * g) + g
        return x - lr * state["v"]

    return Optimizer(
        step,
        1 / (2 * (1 + beta)),
        (1 - math.sqrt(beta)) ** 2 / (2 * (1 + beta)),
        lambda a: [1, a - 1 - beta, beta],
    )


def nesterov(beta: float) -> Optimizer:
    def step(x: Array, g: Array, state: State, lr: Array) -> Array:
        state["v"] = beta * state.get("v", 0.0 * g) + g
        return x - lr * (g + beta * state["v"])

    per_curvature = (1 + 2 * beta) / (2 * (1 + beta))
    return Optimizer(
        step,
        per_curvature,
        ((1 - beta) / (1 + beta)) ** 2 * per_curvature,
        lambda a: [1, -(1 + beta) * (1 - a), beta * (1 - a)],
    )


def sign() -> Optimizer:
    return Optimizer(lambda x, g, state, lr: x - lr * np.sign(g), math.nan, math.nan)


def adam(first: float = 0.9, second: float = 0.999) -> Optimizer:
    def step(x: Array, g: Array, state: State, lr: Array) -> Array:
        state["t"] = state.get("t", np.zeros(())) + 1
        state["m"] = first * state.get("m", 0.0 * g) + (1 - first) * g
        state["s"] = second * state.get("s", 0.0 * g) + (1 - second) * g**2
        state["scale"] = np.sqrt(state["s"] / (1 - second ** state["t"])) + 1e-8
        return x - lr * state["m"] / (1 - first ** state["t"]) / state["scale"]

    per_curvature = (1 - first) / (2 * (1 + first))
    return Optimizer(step, per_curvature, (1 - math.sqrt(first)) ** 2 / (2 * (1 + first)))


def rmsprop(decay: float = 0.9) -> Optimizer:
    def step(x: Array, g: Array, state: State, lr: Array) -> Array:
        state["s"] = decay * state.get("s", 0.0 * g) + (1 - decay) * g**2
        state["scale"] = np.sqrt(state["s"]) + 1e-8
        return x - lr * g / state["scale"]

    return Optimizer(step, 0.5, 0.5)


# --- families -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """A sweep over lr.

    Attributes:
        between: its smallest and largest lr.
        noise: size of the gradient's noise.
        steps: a multiple of 100, so that the 100 means are of equal many losses.
        guess: loss of the best constant prediction, NaN where there is none.
    """

    problem: Problem
    optimizer: Optimizer
    between: tuple[float, float]
    noise: float = 0.0
    steps: int = 300
    guess: float = math.nan


def _plain(
    problem: Problem, optimizer: Optimizer, noise: float = 0.0, steps: int = 300, up_to: float = 3.5
) -> Family:
    """From 1/2500 to 3.5 of the largest stable lr; λ_max is 1.

    up_to: 3.5 has no rate at the edge of stability, 2.9 one below it and 3.1 one just above.
    """
    limit = border(optimizer)
    return Family(problem, optimizer, (limit / 2500, up_to * limit), noise, steps)


def border(optimizer: Optimizer) -> float:
    """The lr·λ at which a root of the recurrence leaves the unit circle, by bisection."""
    assert optimizer.recurrence is not None
    low, high = 0.0, 8.0
    for _ in range(60):
        middle = (low + high) / 2
        if np.abs(np.roots(optimizer.recurrence(middle))).max() < 1 + 1e-13:
            low = middle
        else:
            high = middle
    return low


@cache
def families() -> Mapping[str, Family]:
    many = 80  # directions: of one seed's end loss the noise is then some 10 to 15%
    return {
        "gd, condition 1": _plain(quadratic(1), gd(), up_to=2.9),
        "gd, condition 10": _plain(quadratic(10), gd(), up_to=3.1),
        "gd, condition 1000": _plain(quadratic(1000), gd()),
        "sgd, condition 1, little noise": _plain(quadratic(1, many), gd(), 0.1, 200, 2.9),
        "sgd, condition 10, much noise": _plain(quadratic(10, many), gd(), 1.0),
        "sgd, condition 1000, little noise": _plain(quadratic(1000, many), gd(), 0.1, up_to=3.1),
        "heavy ball 0.5, condition 1": _plain(quadratic(1), heavy_ball(0.5), steps=200, up_to=3.1),
        "heavy ball 0.9, condition 1000": _plain(quadratic(1000), heavy_ball(0.9), up_to=2.9),
        "heavy ball 0.9, condition 1, much noise": Family(
            quadratic(1, many), heavy_ball(0.9), (1e-4, 10), 1.0
        ),
        "heavy ball 0.5, condition 1000, little noise": _plain(
            quadratic(1000, many), heavy_ball(0.5), 0.1
        ),
        "nesterov 0.5, condition 1": _plain(quadratic(1), nesterov(0.5), steps=200, up_to=2.9),
        "nesterov 0.9, condition 1000": _plain(quadratic(1000), nesterov(0.9), up_to=2.8),
        "sign, condition 10": Family(quadratic(10), sign(), (1e-4, 10)),
        # Not of a quadratic: with no noise Adam's first giant steps there only move the start.
        "adam, quartic": Family(quartic(), adam(), (1e-4, 100), steps=400),
        "adam, condition 10, noise": Family(quadratic(10, many), adam(), (1e-4, 30), 0.3),
        "rmsprop, condition 10": Family(quadratic(10), rmsprop(), (1e-5, 10)),
        "rosenbrock": Family(rosenbrock(), gd(), (1e-5, 1.0), steps=400),
        "factorisation": Family(factorisation(), gd(), (1e-3, 10), steps=400),
        "quartic": Family(quartic(), gd(), (1e-3, 10)),
        "logistic": Family(logistic(), gd(), (1e-3, 3e3), guess=math.log(2)),
    }


# --- training -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """What training all rates of a family with all seeds gave.

    Attributes:
        x: (seeds, rates, d) after the last step. state: of the optimizer, then.
        losses: (steps, seeds, rates) before each step; inf from the first that is not finite.
        path: (steps + 1, rates, d) of the first seed. scales: (steps, rates, d), of it.
    """

    x: Array
    state: State
    losses: Array
    path: Array
    scales: Array


def _train(family: Family, x: Array, state: State, lr: Array, noise: Array) -> Trained:
    """noise: (steps, seeds, 1, d), the same at each rate. lr: (rates, 1)."""
    problem, state = family.problem, dict(state)
    losses, path, scales = [], [x[0]], []
    for each in noise:
        losses.append(problem.loss(x))
        gradient = problem.grad(x) + family.noise * problem.spread * each
        x = family.optimizer.step(x, gradient, state, lr)
        path.append(x[0])
        scales.append(state["scale"][0] if "scale" in state else np.ones_like(x[0]))
    found = np.array(losses)
    ok = np.logical_and.accumulate(np.isfinite(found) & (found < LARGEST), 0)
    return Trained(x, state, np.where(ok, found, np.inf), np.array(path), np.array(scales))


def step_length(before: Array, after: Array, slope: Array, slope_after: Array) -> Array:
    """alpha from losses and directional derivatives at both ends of an update, in its units.

    The parabola w0 + w1·t + w2·t² nearest to all four; its minimum is at t* = −w1/(2·w2).
    """
    design = np.array([[1, 0, 0], [1, 1, 1], [0, 1, 0], [0, 1, 2]], dtype=float)
    values = np.stack([before, after, slope, slope_after], -1)
    _, w1, w2 = np.moveaxis(values @ np.linalg.pinv(design).T, -1, 0)
    alpha = np.where(w1 < 0, -2 * w2 / w1 - 1, np.inf)
    alpha = np.where(w2 <= 0, -1.0, alpha)
    return np.where(np.isfinite(values).all(-1), alpha, np.inf)


@dataclass(frozen=True)
class Sweep:
    """A family's 25 runs and what is right about them.

    Attributes:
        lrs: (25,) ascending.
        losses: (steps, seeds, 25); inf from the first that is not finite.
        curves: one row a step of each run, with all that can be measured; run is the number.
        allowed: for each run the outcomes that are right: more than one where noise leaves it open.
        modes: for each run its step mode by the recurrence's roots; None where there is no theory.
    """

    lrs: Array
    losses: Array
    curves: pd.DataFrame
    allowed: list[frozenset[str]]
    modes: list[str | None]


@cache
def sweep(name: str) -> Sweep:
    family = families()[name]
    with np.errstate(all="ignore"):  # most large rates end in inf
        return _sweep(family)


def _sweep(family: Family) -> Sweep:
    problem, steps = family.problem, family.steps
    seeds = SEEDS if family.noise else 1
    lrs = np.geomspace(*family.between, RATES)
    lr = lrs[:, None]
    after = max(BRANCH, steps // 8)
    shape = (steps + after, seeds, 1, len(problem.start))
    noise = np.random.default_rng(7).normal(size=shape) if family.noise else np.zeros(shape)
    x = np.broadcast_to(problem.start, (seeds, RATES, len(problem.start)))
    run = _train(family, x, {}, lr, noise[:steps])

    losses, path = problem.loss(run.path), run.path
    moved, gradients = np.diff(path, axis=0), problem.grad(path)
    # On the step's own mini-batch, whose loss is the mean one and noise·x, at both ends.
    push = (family.noise * problem.spread * noise[:steps, 0] * moved).sum(-1)
    slopes = [(gradients[end:][:steps] * moved).sum(-1) + push for end in (0, 1)]
    alpha = step_length(losses[:-1], losses[1:] + push, *slopes)
    ratio = np.full((steps, RATES), np.nan)
    top = problem.top(path[:steps:EVERY], run.scales[::EVERY])
    ratio[::EVERY] = family.optimizer.per_curvature * lrs * top

    branches = []  # of the first seed
    at_end = {key: part[:1] if part.ndim else part for key, part in run.state.items()}
    for multiple in (0.1, 1.0, 3.0):
        trained = _train(family, run.x[:1], at_end, multiple * lr, noise[steps:, :1])
        branches.append(trained.losses[-BRANCH_END:, 0].mean(0))
    low, base, high = branches
    epsilon = 1e-3 * problem.loss(problem.start)
    base = np.minimum(base, LARGEST) + epsilon  # a run that fails only now loses to any that lives
    gains = [np.where(np.isfinite(m), np.log(base / (m + epsilon)), -np.inf) for m in (low, high)]

    runs = []
    for i in range(RATES):
        curve = run.losses[:, 0, i]
        finite = int(np.isfinite(curve).sum())
        rows = min(steps, finite + 1)  # a run that fails ends with its first loss of inf
        failed = finite < steps
        frame = pd.DataFrame(
            {
                "run": i,
                "lr": lrs[i],
                "step": np.arange(rows),
                "train_loss": curve[:rows],
                "initial_loss": float(problem.loss(problem.start)),
                "alpha": np.where(np.isfinite(curve[:rows]), alpha[:rows, i], np.nan),
                "stability_ratio": np.where(np.isfinite(curve[:rows]), ratio[:rows, i], np.nan),
                "swings_from": family.optimizer.swings_from,
                "gain_low": math.nan if failed else gains[0][i],
                "gain_high": math.nan if failed else gains[1][i],
            }
        )
        runs.append(frame if math.isnan(family.guess) else frame.assign(chance_loss=family.guess))
    allowed = _allowed(family, run.losses)
    modes = _modes(family, lrs, allowed)
    return Sweep(lrs, run.losses, pd.concat(runs, ignore_index=True), allowed, modes)


# --- the truth ------------------------------------------------------------------------------------


def _allowed(family: Family, losses: Array) -> list[frozenset[str]]:
    """losses: (steps, seeds, rates). The outcomes that are right of each rate."""
    start = float(family.problem.loss(family.problem.start))
    means = losses.reshape(100, -1, *losses.shape[1:]).mean(1)  # (100, seeds, rates)
    ends = np.median(means[-5:], 0)  # (seeds, rates)
    finite = np.isfinite(losses[-1])
    # Means: steps thrown to and fro do not grow. Where growth is not plain, either answer is right.
    third = means[50:75].mean(0)
    grown = means[75:].mean(0) / third
    above = (means[75:] > third).all(0)
    surely = ~finite | ((ends > 1.06 * start) & (grown > 1.1) & above)
    perhaps = ~finite | ((ends > 1.04 * start) & (grown > 1.04))
    lives = finite.all(0) & ~surely.any(0)

    guess = family.guess
    good = np.flatnonzero(lives & (ends[0] < 0.9 * guess))
    compared = np.maximum(ends, ARRIVED * start)
    found = []
    for i in range(RATES):
        right: set[str] = set()
        if perhaps[:, i].any():
            right.add("diverged")
        if surely[:, i].all():
            found.append(frozenset(right))
            continue
        if ends[0, i] >= 0.98 * guess:
            spike = losses[:, 0, i].max() > 1.5 * start
            if spike or (len(good) and good[0] < i):
                found.append(frozenset(right | {"collapsed"}))
                continue
        beaten = False
        for j in np.flatnonzero(lives):
            gap = compared[:, i] - CLOSE * compared[:, j]
            # Half a percent: an end loss may be read off a little differently.
            wide = 0.005 * compared[0, j] if len(gap) == 1 else UNSURE * gap.std(ddof=1)
            # Or a difference that small is none: where the two readings differ, both are right.
            by_gap = ends[:, i] - CLOSE * ends[:, j] - ARRIVED * start
            if np.isfinite(gap).all() and gap.mean() < -wide:
                continue
            side = "undershooting" if i < j else "overshooting"
            if i != j:
                right.add(side)
            sure = min(gap.mean(), by_gap.mean()) > wide
            beaten |= not np.isfinite(gap).all() or sure
        if not beaten:
            right.add("converged")
        if (ends[:, i] > start).all():
            right.discard("undershooting")  # an lr that is too small never makes it worse
        found.append(frozenset(right))
    return found


def _modes(family: Family, lrs: Array, allowed: list[frozenset[str]]) -> list[str | None]:
    """By the roots of the recurrence in the direction of the largest curvature."""
    curvatures, recurrence = family.problem.curvatures, family.optimizer.recurrence
    if curvatures is None or recurrence is None:
        return [None] * RATES
    limit = border(family.optimizer)
    modes: list[str | None] = []
    for lr, right in zip(lrs, allowed, strict=True):
        product = float(lr * curvatures.max())
        roots = np.roots(recurrence(product))
        if right <= {"diverged", "collapsed"} or product / limit > 1.1:
            modes.append("unstable")
        elif product / limit > 0.9:
            modes.append("edge")
        elif np.all(np.abs(roots.imag) < 1e-9) and np.all(roots.real > 0):
            modes.append("monotone")
        else:
            modes.append("oscillating")
    return modes
