"""What measuring costs: of a sweep's training time, without and with the branch test at its end.

    python tests/benchmarks/diagnostics_cost.py

The default network on MNIST, three epochs, at 3 and at 13 learning rates. All is timed within one
sweep, training and measuring step by step in turn, so that a busy machine slows both alike. Exits
with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from measure import machine, verdict

from lrlab import branches, environment, plan, pool, records
from lrlab import config as configs
from lrlab.sweep import task as _schema_is_registered  # noqa: F401

MEASURING_TARGET = 0.2  # of the training time
WHOLE_TARGET = 0.6  # with the branch test


class Silent:
    """A display that shows nothing."""

    def due(self) -> bool:
        return False

    def __call__(self, lane: int, **news: object) -> None:
        pass


def specs(lrs: np.ndarray, folder: Path, given: list[str]) -> list[plan.RunSpec]:
    with initialize_config_dir(str(configs.folder("conf")), version_base="1.3"):
        config = compose("config", ["device=cpu", "name=benchmark", *given])
    choices = {"network": "mlp", "data": "mnist", "loss": "nll", "optimizer": "sgd"}
    found = []
    for number, lr in enumerate(lrs):
        config.lr = float(lr)
        run = folder / str(number)
        run.mkdir()
        records.start_metrics(run)
        spec = plan.run_spec(number, run, config.copy(), {**choices, "schedule": "fixed"}, {})
        found.append(spec)
    return found


def costs(count: int, given: list[str]) -> tuple[float, float, float]:
    """Seconds of training, of measuring, and of the branch test."""
    with tempfile.TemporaryDirectory(prefix="lrlab-benchmark-") as name:
        runs = specs(np.geomspace(0.003, 0.3, count), Path(name), given)
        pool.run(pool.Batch(runs), None, "cpu", Silent(), {i: i for i in range(count)})
        timing = records.read_summary(runs[0].folder)["timing"]
        training = timing["train_seconds"] + timing["evaluate_seconds"]
        started = time.perf_counter()
        branches.test(runs, None, lambda: False)
        return training, timing["diagnose_seconds"], time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description="what diagnostics and the branch test cost")
    parser.add_argument("--runs", type=int, nargs="+", default=[3, 13])
    parser.add_argument("given", nargs="*", help="overrides, such as optimizer=adam")
    arguments = parser.parse_args()
    environment.make_deterministic()
    print(machine())
    met = []
    for count in arguments.runs:
        training, measuring, test = costs(count, arguments.given)
        print(
            f"{count} runs: {training:.1f} s training, {measuring:.2f} s measuring, "
            f"{test:.2f} s branch test"
        )
        share, whole = measuring / training, (measuring + test) / training
        met += [
            verdict("measuring / training", share, MEASURING_TARGET, at_least=False),
            verdict("with branch test / training", whole, WHOLE_TARGET, at_least=False),
        ]
    sys.exit(not all(met))


if __name__ == "__main__":
    main()
