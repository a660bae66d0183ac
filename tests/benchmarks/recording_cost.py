"""What it costs to record the loss of every step: the training loop with and without.

The loop without writes no row; all else is equal. The two take turns, and the
median of their ratios counts.

    python tests/benchmarks/recording_cost.py

Exits with 1 if the target is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from typing import Any
from unittest import mock

from lanes_against_sequential import lane_seconds, load
from measure import machine, verdict
from sequential import learning_rates

from lrlab.data import Dataset
from lrlab.engine import devices
from lrlab.training import train
from lrlab.training.stack import Stack

COST_TARGET = 1.05  # times the loop that records nothing


def seconds_without(data: Dataset, lrs: Sequence[float]) -> float:
    """As ``lane_seconds``, but nothing of a step is recorded."""

    def record(stack: Stack, *_: Any) -> list[int]:
        return list(range(len(stack.runs)))

    with mock.patch.object(train, "record", record):
        return lane_seconds(data, lrs)


def main() -> None:
    parser = argparse.ArgumentParser(description="the cost of recording every step")
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--train-size", type=int, default=12_800)
    parser.add_argument("--repeats", type=int, default=11)
    arguments = parser.parse_args()

    devices.make_deterministic()
    data = load(arguments.train_size)
    lrs = learning_rates(arguments.runs)
    print(machine())
    print(f"{arguments.runs} lanes, {arguments.train_size // 64} steps of 64 images, SGD")
    lane_seconds(data, lrs)  # warm-up
    pairs = []
    for repeat in range(arguments.repeats):
        if repeat % 2:  # neither always has the other's warm caches
            without, recorded = seconds_without(data, lrs), lane_seconds(data, lrs)
        else:
            recorded, without = lane_seconds(data, lrs), seconds_without(data, lrs)
        pairs.append((recorded, without))
    print("recorded:", " ".join(f"{recorded:.2f} s" for recorded, _ in pairs))
    print("without: ", " ".join(f"{without:.2f} s" for _, without in pairs))
    ratios = sorted(recorded / without for recorded, without in pairs)
    print(f"ratios from {ratios[0]:.3f} to {ratios[-1]:.3f}")
    cost = statistics.median(ratios)
    sys.exit(not verdict("recorded / without, median", cost, COST_TARGET, at_least=False))


if __name__ == "__main__":
    main()
