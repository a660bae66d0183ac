"""Sweeps that nobody trained: run folders as lrlab writes them, with curves from a formula."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrlab import records

CHANCE = math.log(10)
INITIAL = 2.3134


def curve(lr: float, steps: int, seed: int = 0) -> np.ndarray:
    """(steps,) mini-batch losses, such as MNIST shows them: NaN from where it diverges.

    A loss falls at a rate ~ lr to a floor of noise ~ lr; from lr 0.8 on it jumps up and stays at
    chance, and from 2 on it explodes within some steps.
    """
    random = np.random.default_rng([seed, int(lr * 1e7) % 2**31])
    step = np.arange(steps)
    if lr >= 2:
        with np.errstate(over="ignore"):
            loss = INITIAL * np.exp(np.minimum(step**1.5 * 0.9 * lr, 700))
        loss[step >= max(3, round(60 / lr))] = math.nan
        return loss
    if lr >= 0.8:
        spike = np.where(step < 30, INITIAL * (1 + step * (30 - step) / 60 * lr), CHANCE)
        return spike * np.exp(random.normal(0, 0.01, steps))
    time = lr * step
    floor = 0.03 + 0.55 * lr
    loss = floor + (INITIAL - floor) / (1 + (time / 1.7) ** 1.3)
    return loss * np.exp(random.normal(0, 0.12, steps))


def write_run(
    sweep: Path,
    number: int,
    lr: float,
    *,
    seed: int = 0,
    schedule: str = "fixed",
    steps: int = 210,
    epochs: int = 3,
    config: Mapping[str, Any] | None = None,
    measured: bool = True,
    **summary: Any,
) -> Path:
    """One run's folder: .hydra/config.yaml, metrics.csv, summary.json; measured: and diagnostics.

    config: entries that come on top; summary: as config, but of summary.json.
    """
    import yaml

    folder = sweep / str(number)
    settings = {"lr": lr, "epochs": epochs, "batch_size": 64, "seed": seed, "device": "auto"}
    saved = {
        **settings,
        "data": {"_target_": "lrlab.data.torchvision_images", "dataset": "MNIST"},
        "network": {"_target_": "lrlab.networks.MLP", "hidden": [64, 64, 64]},
        "optimizer": {"_target_": "torch.optim.SGD", "momentum": 0.0},
        "schedule": {"_target_": f"lrlab.schedules.{schedule}"},
        **(config or {}),
    }
    records.create_run(folder, yaml.safe_dump(saved, sort_keys=False), "", f"- lr={lr!r}\n")
    loss = curve(lr, steps, seed) * (0.9 if schedule != "fixed" else 1.0)
    finite = np.flatnonzero(~np.isfinite(loss))
    first = int(finite[0]) if len(finite) else None
    rows = [
        {"step": step, "epoch": step * epochs // steps, "lr": lr, "train_loss": loss[step]}
        for step in range(steps if first is None else first + 1)
    ]
    if first is None:
        for epoch in range(1, epochs + 1):
            end = epoch * steps // epochs
            val = float(np.median(loss[end - max(1, steps // 20) : end]))
            row = {"step": end, "epoch": epoch, "val_loss": val, "val_acc": math.exp(-val)}
            if end < steps:
                rows[end] |= {"val_loss": val, "val_acc": math.exp(-val)}
            else:
                rows.append(row)
    pd.DataFrame(rows).reindex(columns=list(records.METRICS)).to_csv(
        folder / "metrics.csv", index=False
    )
    end = None if first is not None else float(np.median(loss[-max(1, steps // 20) :]))
    whole = {
        "run": number,
        "state": "finished" if first is None else "diverged",
        "error": None,
        **{key: settings[key] for key in ("lr", "seed", "epochs", "batch_size")},
        **{"data": "mnist", "network": "mlp", "loss": "nll", "optimizer": "sgd"},
        "schedule": schedule,
        "first_nonfinite_step": first,
        "initial_loss": INITIAL,
        "train_loss": end,
        "test_loss": end,
        "val_loss": end,
        "test_acc": None if end is None else math.exp(-end),
        "steps": steps,
        "steps_per_epoch": steps // epochs,
        "num_classes": 10,
        "chance_loss": CHANCE,
        "environment": {"lrlab": "0.1.0", "python": "3.11.7", "torch": "2.9.0", "device": "cpu"},
        "timing": {"train_seconds": 1.25},
    }
    if measured:
        _measure(folder, lr, loss)
    (folder / "summary.json").write_text(json.dumps({**whole, **summary}), encoding="utf-8")
    return folder


def _measure(folder: Path, lr: float, loss: np.ndarray) -> None:
    """diagnostics.csv, and branches.csv of a run that is still finite; in the manner of MNIST."""
    random = np.random.default_rng(int(lr * 1e7) % 2**31)
    steps = len(loss)
    at = np.unique(np.geomspace(1, steps, 40).astype(int)) - 1
    alpha = np.clip(math.log10(lr) / 2 + 0.5, -1, 1.5)
    rows = []
    for step in at[np.isfinite(loss[at])]:
        noise = random.normal(0, 0.08, 2)
        ratio = max(0.0, min(2.2, 2.2 * lr**0.45) * (1 + noise[1]))
        rows.append([step, alpha + noise[0], alpha, ratio, 2 * ratio / lr, 1.0, lr, lr * step])
    records.append_diagnostics(folder, rows)
    if not np.isfinite(loss).all():
        return
    end = float(np.median(loss[-max(1, steps // 20) :]))
    count = max(40, steps // 4)  # fewer are not heard
    low, high = (0.04, -math.inf) if lr > 0.5 else (0.4, -1.0) if lr > 0.05 else (-0.13, 0.3)
    way = np.linspace(0, 1, count)
    branches = [end * np.exp(-gain * np.minimum(1, 3 * way)) for gain in (low, 0.0)]
    branches.append(
        np.where(way < 0.2, end, np.inf if high == -math.inf else end * math.exp(-high))
    )
    table = zip(range(steps, steps + count), [lr] * count, *branches, strict=True)
    records.write_branches(folder, table)


def write_sweep(
    sweep: Path, runs: int, steps: int = 210, command: str = "", measured: bool = True
) -> Path:
    """A sweep of so many runs: one seed of each lr up to 13 of them, three seeds of each beyond."""
    seeds = 1 if runs <= 13 else 3
    lrs = np.geomspace(1e-3, 3.2, math.ceil(runs / seeds))
    for number in range(runs):
        lr = float(f"{lrs[number // seeds]:.3g}")
        schedule = "fixed" if runs <= 13 or number % 2 else "cosine"
        options = {"seed": number % seeds, "schedule": schedule, "steps": steps}
        write_run(sweep, number, lr, **options, measured=measured)
    words = command.split() or ["lr=1e-3..3.2", f"points={runs}"]
    lines = "".join(f"    - {word}\n" for word in words)
    text = f"hydra:\n  overrides:\n    hydra: []\n    task:\n{lines}"
    (sweep / "multirun.yaml").write_text(text, encoding="utf-8")
    return sweep
