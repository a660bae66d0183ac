"""Sixteen learning rates as lanes against the same runs one after the other (sequential.py).

Both train one epoch of MNIST from memory with SGD and batches of 64; neither start-up nor
evaluations count. lrlab's time holds all the rest: it builds the networks, checks that the stack
keeps their bits, and writes down every step.

    python tests/benchmarks/lanes_against_sequential.py

Exits with 1 if the target is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from hydra import compose, initialize_config_dir
from measure import machine, verdict
from sequential import learning_rates, seconds

from lrlab import records
from lrlab.config import hydra_store, schema
from lrlab.data import Dataset, torchvision_images
from lrlab.engine import devices
from lrlab.plan import build
from lrlab.plan.spec import run_spec
from lrlab.training import pool

SPEED_TARGET = 3.0  # times the sequential speed


class Silent:
    """A display that shows nothing."""

    def due(self) -> bool:
        return False

    def __call__(self, lane: int, **news: Any) -> None:
        pass


def load(train_size: int) -> Dataset:
    """MNIST with little to evaluate on, for evaluations are not what is timed."""
    data = torchvision_images(train_size=train_size)
    few = slice(0, 64)
    held_out = {name: getattr(data, name)[few] for name in ("val_x", "val_y", "test_x", "test_y")}
    return replace(data, **held_out)


def lane_seconds(data: Dataset, lrs: Sequence[float]) -> float:
    """Wall-clock time of the runs as one lane group, without the evaluations."""
    conf = str(schema.folder("conf"))
    with hydra_store.ready(), initialize_config_dir(conf, version_base="1.3"):
        config = compose("config", ["epochs=1", "device=cpu", "name=benchmark", "diagnostics=off"])
    with tempfile.TemporaryDirectory(prefix="lrlab-benchmark-") as name:
        specs = []
        for number, lr in enumerate(lrs):
            folder = Path(name) / str(number)
            folder.mkdir()
            records.start_metrics(folder)
            config.lr = lr
            specs.append(run_spec(number, folder, config, {}, {}))
        rows = {spec.number: spec.number for spec in specs}
        start = time.perf_counter()
        with mock.patch.object(build, "load_data", lambda spec: data):
            pool.run(pool.Batch(specs), None, "cpu", Silent(), rows)
        whole = time.perf_counter() - start
        # the last run to end knows of all evaluations
        timings = [records.read_summary(spec.folder)["timing"] for spec in specs]
    return whole - max(timing["evaluate_seconds"] for timing in timings)


def main() -> None:
    parser = argparse.ArgumentParser(description="lanes against one run after the other")
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--train-size", type=int, default=55_000)
    parser.add_argument("--repeats", type=int, default=2, help="the fastest of so many counts")
    arguments = parser.parse_args()

    devices.make_deterministic()
    data = load(arguments.train_size)
    lrs = learning_rates(arguments.runs)
    print(machine())
    print(f"{arguments.runs} runs, one epoch of {arguments.train_size} images, batch 64, SGD")
    one_by_one, lanes = [], []
    for _ in range(arguments.repeats):  # in turns, so that a busy moment hits both
        one_by_one.append(seconds(data, lrs))
        lanes.append(lane_seconds(data, lrs))
    print("one by one:", " ".join(f"{time:.2f} s" for time in one_by_one))
    print("lanes:     ", " ".join(f"{time:.2f} s" for time in lanes))
    ratio = min(one_by_one) / min(lanes)
    sys.exit(not verdict("one by one / lanes", ratio, SPEED_TARGET, at_least=True))


if __name__ == "__main__":
    main()
