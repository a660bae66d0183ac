"""The analysis of 1,000 runs of 2,800 steps from their records: reading, verdicts, answer.

    python tests/benchmarks/analysis_speed.py

Run folders as lrlab writes them are made up first, in a temporary folder, by the functions that
write them in a sweep: mini-batch losses with noise, evaluations twice an epoch, diagnostics dense
early and sparse later, a branch test of a quarter of the steps; 40 learning rates, 25 seeds, of
which the largest diverge or collapse. Then `python -m lrlab.analysis` judges them, a whole process
from its start to the printed answer. Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import machine, peak_gigabytes, seconds, verdict

from lrlab import records

SECONDS, GIGABYTES = 30.0, 2.0  # the targets

LRS, SEEDS, STEPS = 40, 25, 2800
STEPS_PER_EPOCH, EVALUATE_EVERY = 700, 350
MEASURED = sorted({*range(20), *range(20, 200, 10), *range(200, STEPS, 50)})
CHANCE = math.log(10)

PARTS = """
import sys, time
from pathlib import Path
start = time.perf_counter()
from lrlab.tables import frames
from lrlab.verdicts import recommend
from lrlab.verdicts.judging import verdicts
def told(what):
    global start
    now = time.perf_counter()
    print(f"  {what}: {now - start:.2f} s")
    start = time.perf_counter()
told("imports")
curves = frames.curves(Path(sys.argv[1]))
told(f"curves, {len(curves):,} rows")
print(f"  their memory: {curves.memory_usage().sum() / 1e9:.2f} GB")
start = time.perf_counter()
found = verdicts(curves)
told("verdicts")
recommend.recommend(found)
told("answer")
"""


def write_sweep(sweep: Path, count: int) -> None:
    """Run folders 0 ... count-1."""
    lrs = np.geomspace(1e-4, 3, LRS)
    records.create_sweep(sweep)
    records.write_sweep_config(sweep, "hydra: {}\n")
    for number in range(count):
        write_run(sweep / str(number), number, float(lrs[number % LRS]), number // LRS % SEEDS)


def columns(rows: list[tuple[int, int, float, float]]) -> dict[str, list[float]]:
    names = ("step", "epoch", "lr", "train_loss")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def write_run(folder: Path, number: int, lr: float, seed: int) -> None:
    rng = np.random.default_rng(number)
    steps = np.arange(STEPS)
    clean = losses(lr, steps)
    noisy = clean * np.exp(0.25 * rng.standard_normal(STEPS))
    ends = lr > 2 and seed % 2 == 0  # every other one of the largest becomes non-finite
    if ends:
        noisy[300:] = math.nan
        noisy[250:300] = 2.3 * np.exp(np.arange(50.0))
    elif lr > 1:
        noisy = np.where(steps < 200, noisy * 4, CHANCE + 0.002 * rng.standard_normal(STEPS))
    last = 301 if ends else STEPS
    records.create_run(folder, f"lr: {lr}\n", "{}\n", "[]\n")
    rows = [(s, s // STEPS_PER_EPOCH, lr, float(np.float32(noisy[s]))) for s in range(last)]
    for begin in range(0, last, EVALUATE_EVERY):
        clean_loss = float(np.median(noisy[begin : begin + 50]))
        val = {"val_loss": [clean_loss], "val_acc": [0.9]}
        records.append_metrics(folder, columns([rows[begin]]) | val)
        records.append_metrics(folder, columns(rows[begin + 1 : begin + EVALUATE_EVERY]))
    end_loss = float(np.median(noisy[-100:]))
    if not ends:
        end = {"step": [STEPS], "epoch": [STEPS // STEPS_PER_EPOCH], "val_acc": [0.9]}
        records.append_metrics(folder, end | {"val_loss": [end_loss]})
    draws = rng.standard_normal((len(MEASURED), 7))
    measured = [(s, *map(float, row)) for s, row in zip(MEASURED, draws, strict=True) if s < last]
    records.append_diagnostics(folder, measured)
    if not ends:
        tail = noisy[-STEPS // 4 :]
        branches = [
            (STEPS + i, lr, 0.8 * float(x), float(x), 1.3 * float(x)) for i, x in enumerate(tail)
        ]
        records.write_branches(folder, branches)
    results = {} if ends else {"train_loss": end_loss, "val_loss": end_loss, "test_loss": end_loss}
    records.write_summary(
        folder,
        {
            "run": number,
            "state": "diverged" if ends else "finished",
            "error": None,
            "lr": lr,
            "seed": seed,
            "epochs": STEPS // STEPS_PER_EPOCH,
            "batch_size": 64,
            "data": "mnist",
            "network": "mlp",
            "loss": "nll",
            "optimizer": "sgd",
            "schedule": "fixed",
            "first_nonfinite_step": 300 if ends else None,
            "initial_loss": 2.31,
            "chance_loss": CHANCE,
            "num_classes": 10,
            **results,
            "test_acc": None if ends else 0.9,
            "parameters": 59210,
            "steps": STEPS,
            "steps_per_epoch": STEPS_PER_EPOCH,
            "data_sha256": "0" * 64,
            "environment": {"torch": "2", "device": "cpu", "threads": 1},
            "timing": {"train_seconds": 30.0},
        },
    )


def losses(lr: float, steps: np.ndarray) -> np.ndarray:
    """(n,) a loss that falls the faster the larger the lr, to a floor that rises with it."""
    floor = 0.05 + 0.3 * lr
    return floor + (2.31 - floor) / (1 + 0.3 * lr * steps)


def main() -> None:
    parser = argparse.ArgumentParser(description="how long the analysis of many runs takes")
    parser.add_argument("--runs", type=int, default=LRS * SEEDS)
    parser.add_argument("--folder", type=Path, help="keep the run folders there, or use them again")
    parser.add_argument("--parts", action="store_true", help="also time the parts, in one process")
    arguments = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="lrlab-benchmark-") as name:
        sweep = arguments.folder or Path(name) / "many"
        if not sweep.is_dir():
            start = time.perf_counter()
            write_sweep(sweep, arguments.runs)
            took = time.perf_counter() - start
            print(f"{arguments.runs} runs of {STEPS} steps written in {took:.0f} s")
        if arguments.parts:
            subprocess.run([sys.executable, "-c", PARTS, str(sweep)], check=True)
        command = [sys.executable, "-m", "lrlab.analysis", str(sweep)]
        took = seconds(command, Path(name), {})
        memory = peak_gigabytes(command, Path(name), {})
    met = verdict("analysis", took, SECONDS, at_least=False, unit=" s")
    met &= verdict("peak memory", memory, GIGABYTES, at_least=False, unit=" GB")
    sys.exit(not met)


if __name__ == "__main__":
    main()
