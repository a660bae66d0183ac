"""Tables of a sweep that nobody trained: gradient descent on a bowl, where all is known.

The loss is 2.3·mean(r²) + FLOOR in coordinates r of a bowl with the curvatures LAMBDA, times noise
of 8%; a coordinate shrinks by 1 − lr·λ a step. So lr above 2/λ_max diverges, the stability ratio is
lr·λ_max/2, and alpha follows from t* = gᵀg/(lr·gᵀHg).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lrlab.plots import Tables
from lrlab.verdicts.judging import verdicts
from lrlab.verdicts.recommend import recommend

LAMBDA = np.geomspace(0.02, 1.25, 8)
FLOOR = 0.03
INITIAL, CHANCE = 2.3 + FLOOR, math.log(10)
MULTIPLIERS = (0.1, 1.0, 3.0)
BRANCH_STEPS = 0.25  # of the run

SCHEDULES = {
    "fixed": lambda share: np.ones_like(share),
    "step": lambda share: 0.3 ** np.floor(3 * share),
    "cosine": lambda share: (1 + np.cos(np.pi * share)) / 2,
    "linear": lambda share: 1 - share,
}


def tables(
    lrs: Sequence[float] | int,
    seeds: int = 1,
    schedules: Sequence[str] = ("fixed",),
    steps: int = 90,
    measured: bool = True,
    pruned: Sequence[int] = (),
    failed: Sequence[int] = (),
) -> Tables:
    """A sweep's tables.

    lrs: or how many, from 1e-3 to 10. pruned, failed: numbers of runs that were.
    """
    if isinstance(lrs, int):
        lrs = [float(lr) for lr in np.geomspace(1e-3, 10, lrs)]
    curves, branches, runs = [], [], []
    for run, (schedule, lr, seed) in enumerate(itertools.product(schedules, lrs, range(seeds))):
        state = "pruned" if run in pruned else "failed" if run in failed else "finished"
        part, ends = _run(run, lr, seed, schedule, steps, state, measured)
        curves.append(part)
        if measured and not ends.empty:
            branches.append(ends)
        runs.append(_end(part))
    table = pd.concat(curves, ignore_index=True)
    judged = verdicts(table)
    return Tables(
        runs=pd.DataFrame(runs),
        curves=table,
        verdicts=judged,
        branches=pd.concat(branches, ignore_index=True) if branches else None,
        lines=lines() if measured else None,
        surface=surface() if measured else None,
        paths=paths() if measured else None,
        answers=recommend(judged),
    )


def losses(lr: np.ndarray, seed: int, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n + 1,) loss before each step and after the last, and (n + 1, 8) the coordinates."""
    noise = np.random.default_rng([seed, round(float(lr[0]) * 1e6)])
    with np.errstate(over="ignore", invalid="ignore"):
        factors = 1 - lr[:, None] * LAMBDA
        at = start * np.cumprod(np.vstack([np.ones_like(LAMBDA), factors]), axis=0)
        clean = 2.3 * (at**2).mean(axis=1) + FLOOR
        loss = clean * np.exp(noise.normal(0, 0.08, len(clean)))
    loss[~(clean < 1e6)] = math.nan
    return loss, at


def _run(
    run: int, lr: float, seed: int, schedule: str, steps: int, state: str, measured: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    start = np.ones_like(LAMBDA)
    used = lr * SCHEDULES[schedule](np.arange(steps) / steps)
    loss, at = losses(used, seed, start)
    bad = np.isnan(loss)
    if bad.any() and state == "finished":
        state = "diverged"
    length = steps
    if state == "diverged":
        length = int(np.argmax(bad)) + 1
    elif state in ("pruned", "failed"):
        length = steps // 3
    step = np.arange(length + (state in ("finished", "pruned")), dtype=float)
    rows = len(step)
    frame = pd.DataFrame({"step": step})
    frame["epoch"] = np.floor(step / max(1, steps // 3))
    frame["lr_at_step"] = np.append(used[:length], [math.nan] * (rows - length))
    frame["train_loss"] = np.append(loss[:length], [math.nan] * (rows - length))
    each = max(1, steps // 3)
    evaluated = (step > 0) & (step % each == 0) & ~np.isnan(loss[:rows])
    frame["val_loss"] = np.where(evaluated, 1.1 * loss[:rows], math.nan)
    frame["val_acc"] = np.where(evaluated, _accuracy(1.1 * loss[:rows]), math.nan)
    frame["seconds"] = 0.01 * step
    frame["alpha"], frame["stability_ratio"] = math.nan, math.nan
    if measured:
        some = [s for s in range(length) if s < 4 or s % 5 == 0]
        frame.loc[some, "alpha"] = [alpha(used[s], at[s]) for s in some]
        frame.loc[some, "stability_ratio"] = used[some] * LAMBDA.max() / 2
        frame.loc[frame["train_loss"].isna(), ["alpha", "stability_ratio"]] = math.nan
    low = high = math.nan
    ends = pd.DataFrame()
    if measured and state == "finished" and used[-1] > 0:
        ends, low, high = _branches(used[-1], seed, at[-1], steps)
    fixed = _fixed(run, lr, seed, schedule, state, steps)
    return frame.assign(**fixed, gain_low=low, gain_high=high), ends.assign(**fixed)


def alpha(lr: float, at: np.ndarray) -> float:
    """1/t* − 1 of a step on the bowl; −1 where nothing is left to go."""
    gradient = LAMBDA * at
    below = float(lr * gradient @ (LAMBDA * gradient))
    return float(below / (gradient @ gradient) - 1) if gradient.any() else -1.0


def _branches(
    lr: float, seed: int, start: np.ndarray, steps: int
) -> tuple[pd.DataFrame, float, float]:
    length = max(2, round(BRANCH_STEPS * steps))
    parts, ends = [], []
    for multiplier in MULTIPLIERS:
        loss, _ = losses(np.full(length, multiplier * lr), seed + 1000, start)
        part = pd.DataFrame({"step": steps + np.arange(length, dtype=float)})
        parts.append(part.assign(train_loss=loss[:-1], multiplier=multiplier))
        ends.append(math.inf if np.isnan(loss).any() else float(loss[-length // 4 :].mean()))
    small, same, large = ends
    low, high = (-math.inf if math.isinf(end) else math.log(same / end) for end in (small, large))
    return pd.concat(parts, ignore_index=True), low, high


def _fixed(run: int, lr: float, seed: int, schedule: str, state: str, steps: int) -> dict[str, Any]:
    return {
        "run": run,
        "lr": lr,
        "seed": seed,
        "schedule": schedule,
        "optimizer": "sgd",
        "network": "mlp",
        "loss": "nll",
        "data": "mnist",
        "batch_size": 64.0,
        "epochs": 3.0,
        "state": state,
        "steps_per_epoch": float(max(1, steps // 3)),
        "initial_loss": INITIAL,
        "chance_loss": CHANCE,
        "num_classes": 10.0,
    }


def _end(part: pd.DataFrame) -> dict[str, Any]:
    last = part.iloc[-1]
    names = ("run", "lr", "seed", "schedule", "optimizer", "network", "loss", "data")
    names += ("batch_size", "epochs", "state", "initial_loss", "chance_loss", "num_classes")
    row = {name: last[name] for name in names}
    finished = last["state"] == "finished"
    loss = part["train_loss"].dropna().tail(5).mean() if finished else math.nan
    row |= {"train_loss": loss, "test_loss": 1.2 * loss}
    row |= {"train_acc": _accuracy(loss), "test_acc": _accuracy(1.2 * loss)}
    return row | {"val_loss": last["val_loss"], "val_acc": last["val_acc"]}


def _accuracy(loss: Any) -> Any:
    return np.maximum(0.1, np.exp(-np.minimum(loss, 700)))


def lines(step: int = 30) -> pd.DataFrame:
    """Along the update of three lrs from r = 1: exact parabolas."""
    parts = []
    gradient = 2 * 2.3 / len(LAMBDA) * np.ones_like(LAMBDA) * LAMBDA
    for run, (role, lr) in enumerate((("small", 0.01), ("good", 0.9), ("large", 1.9))):
        t = np.linspace(-0.25, 1.5, 60)
        moved = lr * LAMBDA
        loss = 2.3 * ((1 - t[:, None] * moved) ** 2).mean(axis=1) + FLOOR
        w = [INITIAL, -2 * 2.3 * float(moved.mean()), 2.3 * float((moved**2).mean())]
        part = pd.DataFrame({"t": t, "loss": loss, "distance": t * lr * np.linalg.norm(gradient)})
        lowest = -w[1] / (2 * w[2])
        fixed = {"run": run, "lr": lr, "role": role, "step": step, "alpha": 1 / lowest - 1}
        parts.append(part.assign(**fixed, w0=w[0], w1=w[1], w2=w[2]))
    return pd.concat(parts, ignore_index=True)


def surface(size: int = 21) -> pd.DataFrame:
    x, y = np.meshgrid(np.linspace(-1.5, 4.5, size), np.linspace(-2.0, 2.0, size))
    loss = 0.02 + 0.5 * 0.1 * (x - 3) ** 2 + 0.5 * 1.0 * y**2
    return pd.DataFrame({"x": x.ravel(), "y": y.ravel(), "loss": loss.ravel()})


def paths(lrs: Sequence[float] = (0.05, 0.9, 1.95, 2.3), steps: int = 20) -> pd.DataFrame:
    """Gradient descent on `surface` from (−1, 1.5); 2.3 leaves it."""
    parts = []
    for run, lr in enumerate(lrs):
        step = np.arange(steps + 1)
        x = 3 - 4 * (1 - 0.1 * lr) ** step
        y = 1.5 * (1 - 1.0 * lr) ** step
        part = pd.DataFrame({"step": step, "x": x, "y": y})
        parts.append(part.assign(run=run, lr=lr, role="good", loss=0.1, share=0.8 + 0.02 * run))
    return pd.concat(parts, ignore_index=True)
