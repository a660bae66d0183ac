"""What measuring costs: of a sweep's training time, without and with the branch test at its end.

    python tests/benchmarks/diagnostics_cost.py
    python tests/benchmarks/diagnostics_cost.py --runs 1 3 -- data.train_size=2400 epochs=1
    python tests/benchmarks/diagnostics_cost.py --runs 1 -- network=cnn data.train_size=4800

The default network on MNIST, three epochs, at 3 and at 13 learning rates; the second and the third
line are runs of 37 and 75 steps, which have no branch test. All is timed within one
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

from lrlab import records
from lrlab.config import hydra_store, schema
from lrlab.engine import devices
from lrlab.plan import spec as plan_spec
from lrlab.plan.spec import run_spec
from lrlab.probes import branches
from lrlab.training import pool

TARGET = 0.25  # of the training time, for measuring and for the branch test each


class Silent:
    """A display that shows nothing."""

    def due(self) -> bool:
        return False

    def __call__(self, lane: int, **news: object) -> None:
        pass


def specs(lrs: np.ndarray, folder: Path, given: list[str]) -> list[plan_spec.RunSpec]:
    conf = str(schema.folder("conf"))
    with hydra_store.ready(), initialize_config_dir(conf, version_base="1.3"):
        config = compose("config", ["device=cpu", "name=benchmark", *given])
    choices = {"network": "mlp", "data": "mnist", "loss": "nll", "optimizer": "sgd"}
    found = []
    for number, lr in enumerate(lrs):
        config.lr = float(lr)
        run = folder / str(number)
        run.mkdir()
        records.start_metrics(run)
        spec = run_spec(number, run, config.copy(), {**choices, "schedule": "fixed"}, {})
        found.append(spec)
    return found


def costs(count: int, given: list[str]) -> tuple[float, float, float]:
    """Seconds of training, of measuring, and of the branch test."""
    with tempfile.TemporaryDirectory(prefix="lrlab-benchmark-") as name:
        runs = specs(np.geomspace(0.003, 0.3, count), Path(name), given)
        pool.run(pool.Batch(runs), None, "cpu", Silent(), {i: i for i in range(count)})
        timing = records.read_summary(runs[0].folder)["timing"]
        training = timing["train_seconds"]
        waiting = [run for run in runs if records.end_file(run.folder).is_file()]
        started = time.perf_counter()
        if waiting:
            branches.test(waiting, None, lambda: False)
        return training, timing["diagnose_seconds"], time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description="what diagnostics and the branch test cost")
    parser.add_argument("--runs", type=int, nargs="+", default=[3, 13])
    parser.add_argument("given", nargs="*", help="overrides, such as optimizer=adam")
    arguments = parser.parse_args()
    devices.make_deterministic()
    print(machine())
    met = []
    for count in arguments.runs:
        training, measuring, test = costs(count, arguments.given)
        print(
            f"{count} runs: {training:.1f} s training, {measuring:.2f} s measuring, "
            f"{test:.2f} s branch test"
        )
        share, tested = measuring / training, test / training
        met += [
            verdict("measuring / training", share, TARGET, at_least=False),
            verdict("branch test / training", tested, TARGET, at_least=False),
        ]
    sys.exit(not all(met))


if __name__ == "__main__":
    main()
