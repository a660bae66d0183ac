"""Compute how many lanes the memory holds, and how many are fastest together."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from lrlab import records
from lrlab.config import checks, schema
from lrlab.data import inputs
from lrlab.engine.diagnostics import meter
from lrlab.engine.lanes import memory
from lrlab.errors import UserError
from lrlab.plan import build
from lrlab.plan import spec as plan_spec
from lrlab.plan.spec import RunSpec

SHARE = 0.6  # memory_limit=auto: of the free memory; the rest is for others
SHARING = "LRLAB_SHARING"  # of a worker: how many share its device, itself included

# On a CPU a stack is fastest if its parameters stay in the cache. But it always needs so many lanes
# that the fixed cost of each operation no longer matters. Measured with networks of 8,000 to
# 270,000 parameters: from 32 lanes on the time a lane changes little, until it rises by a quarter.
CACHE_BYTES = 16 * 2**20
LEAST_LANES = 32


@dataclass(frozen=True)
class Needs:
    """The memory that the runs of one lane group need.

    Attributes:
        lane: bytes that one more lane takes; 0 if its network does not work.
        branch: bytes of a lane of the branch test, which is not measured.
        data: the data's name, the same for groups that train on the same tensors.
        data_bytes: of the data.
        fastest: how many lanes are fastest together; inf: as many as there are.
    """

    lane: int
    branch: int
    data: str
    data_bytes: int
    fastest: float


def needs(spec: RunSpec) -> Needs:
    """Return the needs of runs like this one. Errors are left to training, which reports them."""
    data_name = json.dumps([spec["data"], spec.device], sort_keys=True)
    try:
        data = build.load_data(spec)
        data_name += f" {inputs.shapes(data.train_x)}"  # networks may take them in other types
        network, loss = build.build_network(spec, data), build.loss_function(spec)
        size = spec["batch_size"]
        batch = inputs.mapped(lambda tensor: tensor[:size], data.train_x), data.train_y[:size]
        branch = lane = memory.bytes_a_lane(network, loss, *batch)
        if schema.diagnostics(spec.config) != "off":
            lane = memory.bytes_a_lane(network, loss, *batch, meter.PROBE)
    except Exception:
        return Needs(0, 0, data_name, 0, math.inf)
    own = sum(p.nbytes for p in network.parameters())
    extra = (plan_spec.samples_a_step(spec) // spec["batch_size"] - 1) * inputs.nbytes(batch[0])
    extra += own if spec.config.get("ema") is not None else 0  # the average
    lane, branch = lane + extra, branch + extra
    fastest = max(LEAST_LANES, CACHE_BYTES // max(own, 1)) if spec.device == "cpu" else math.inf
    return Needs(lane, branch, data_name, data.nbytes, fastest)


def budget(spec: RunSpec, free: float) -> float:
    """Return the bytes that this process may train with, for data and lanes.

    Args:
        free: free bytes on the device.
    """
    limit, sharing = checks.memory_limit(spec.config), _sharing()
    return SHARE * free / sharing if limit is None else min(limit / sharing, free)


def _sharing() -> int:
    return int(os.environ.get(SHARING, 1))


def check(specs: Sequence[RunSpec], sharing: int | None = None) -> None:
    """Raise ``UserError`` unless ``memory_limit`` holds the data and one run of each lane group.

    Args:
        sharing: how many workers share it; None: this process's own setting.
    """
    sharing = sharing or _sharing()
    for spec in {
        plan_spec.group_key(s): s for s in specs if checks.memory_limit(s.config)
    }.values():
        need = needs(spec)
        least = need.lane
        if schema.diagnostics(spec.config) != "off":
            least = max(least, len(records.MULTIPLIERS) * need.branch)  # one run's branch test
        whole = (need.data_bytes + least) * sharing
        if whole > (checks.memory_limit(spec.config) or math.inf):
            each = f" in each of {sharing} workers" if sharing > 1 else ""
            raise UserError(
                f"memory_limit={spec['memory_limit']}: too little: the data take "
                f"{spelt(need.data_bytes)} and one run {spelt(least)}{each}; "
                f"use at least memory_limit={spelt(whole)}"
            )


def spelt(size: float) -> str:
    """Return an amount of memory as one would type it, rounded up: 512MB."""
    unit = next((u for u in ("GB", "MB", "kB") if size >= 10 * checks.BYTES[u.lower()]), "B")
    return f"{math.ceil(size / checks.BYTES[unit.lower()])}{unit}"
