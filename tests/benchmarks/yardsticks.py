"""lrlab's training step against its bare matrix products, an ordinary loop, a DataLoader, and JAX.

    python tests/benchmarks/yardsticks.py
    python tests/benchmarks/yardsticks.py --device cuda --json found.json

All of it is the default network (MLP 784-64-64-64-10) on MNIST in batches of 64, with nll and SGD
unless a line says otherwise. Each time is in ms a step: the median of the repeats, all of which are
made in turns, before which all is warmed up. The columns:

  floor      just the matrix products of the step, forward and backward, into memory that is there
  step       lrlab's step with diagnostics=off, as `python -m lrlab.bench` measures it
  a lane     step / lanes
  resident   an ordinary torch loop, one run at a time, on data in memory as one tensor
  jax        the same work as step with jit, vmap and lax.scan: pip install 'lrlab[bench]'

Then other loops, optimizers, batches and networks, each beside what it is to be compared with; on a
GPU whole trainings; and a sweep's overhead and the memory of a lane. It takes about three minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yardstick_process
import yardstick_torch
from yardstick_jax import Jax

from lrlab import bench, plan
from lrlab.bench import Options, Piece, ms
from lrlab.data import Dataset
from lrlab.engine import devices

VARIANT_LANES, CNN_LANES = 8, 3
SWEEP_RUNS, MEMORY_LANES = 151, 64  # each against one; so many lanes are padded to no more
GPU_LANES, GPU_EPOCHS = 64, 3

Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lanes", type=int, nargs="+", default=bench.LANES)
    parser.add_argument("--repeats", type=int, default=bench.REPEATS)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    device = devices.choose_device(given.device)
    options = Options(
        tuple(given.lanes), given.repeats, given.steps, given.threads, device, given.json
    )
    figures = measure(options)
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


def measure(options: Options) -> Figures:
    """Measure all, and print it as it is found."""
    data, machine = bench.prepare(options)
    figures: Figures = {"machine": machine}
    figures |= lanes_table(options, data)
    print()
    figures |= beside(options, data)
    print()
    if options.device.startswith("cuda"):
        figures |= whole_trainings(options, data, figures["resident_ms"], GPU_LANES, GPU_EPOCHS)
    return figures | processes(options)


def timed(pieces: Mapping[str, Piece], options: Options) -> dict[str, float]:
    """The median of each piece, ms a step."""
    counted = {name: (piece, bench.enough(piece, options.steps)) for name, piece in pieces.items()}
    return medians(bench.in_turns(counted, options.repeats))


def medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: statistics.median(each) for name, each in times.items()}


# --- the main table -------------------------------------------------------------------------------


def lanes_table(options: Options, data: Dataset) -> Figures:
    """A row for each number of lanes."""
    rows: dict[str, dict[str, float]] = {}
    x, y = data.train_x.flatten(1).cpu().numpy(), data.train_y.cpu().numpy()
    print(
        "lanes    floor     step  step/floor   a lane  resident  a lane/resident      jax  step/jax"
    )
    with contextlib.ExitStack() as stack:
        jax = None
        if importlib.util.find_spec("jax") is not None:
            jax = stack.enter_context(Jax(x, y, options.device, torch.get_num_threads()))
        for lanes in options.lanes:
            rows[str(lanes)] = row(options, data, lanes, jax)
            print(cells(lanes, rows[str(lanes)]), flush=True)
    found: Figures = {f"{key}_ms": {n: of.get(key) for n, of in rows.items()} for key in KEYS}
    resident = statistics.median(of["resident"] for of in rows.values())
    return {**found, "resident_ms": resident, "jax_ms": found["jax_ms"] if jax else None}


KEYS = ("step", "floor", "jax")


def row(options: Options, data: Dataset, lanes: int, jax: Jax | None) -> dict[str, float]:
    """floor, step, resident and jax for a number of lanes, in turns."""
    lrs = np.geomspace(0.01, 0.1, lanes)
    runs = bench.specs(options.overrides, lrs.tolist())
    stack = bench.stack(runs, data)
    initial = [tensor.detach().cpu().numpy().copy() for tensor in stack.lanes.params.values()]
    network, batches = plan.build_network(runs[0], data), bench.resident_batches(data)
    pieces: dict[str, Piece] = {
        "joined": yardstick_torch.products(lanes, options.device, joined=True),
        "apart": yardstick_torch.products(lanes, options.device, joined=False),
        "step": bench.lane_steps(stack),
        "resident": bench.ordinary(network, batches, lrs[0], options.device),
    }
    counted = {name: (piece, bench.enough(piece, options.steps)) for name, piece in pieces.items()}
    if jax is not None:
        steps = counted["step"][1]
        order = bench.order(data)
        jax.prepare(initial, lrs.tolist(), np.resize(order, (steps, order.shape[1])))
        counted["jax"] = (jax.run, steps)
    found = medians(bench.in_turns(counted, options.repeats))
    return {"floor": min(found.pop("joined"), found.pop("apart")), **found}


def cells(lanes: int, found: Mapping[str, float]) -> str:
    floor, step, resident = found["floor"], found["step"], found["resident"]
    each, jax = step / lanes, found.get("jax")
    words = f"{lanes:>5}  {ms(floor):>7}  {ms(step):>7}  {step / floor:10.2f}  {ms(each):>7}"
    words += f"  {ms(resident):>8}  {each / resident:15.2f}"
    return words + (f"  {ms(jax):>7}  {step / jax:8.2f}" if jax else "        -         -")


# --- other loops, optimizers, batches and networks ------------------------------------------------


def beside(options: Options, data: Dataset) -> Figures:
    """Each beside what it is to be compared with, in turns."""
    lrs = np.geomspace(0.01, 0.1, VARIANT_LANES)

    def lanes(*given: str, lrs: Sequence[float], seeds: Sequence[int] | None = None) -> Piece:
        runs = bench.specs([*options.overrides, *given], lrs, seeds)
        return bench.lane_steps(bench.stack(runs, data))

    def loop(batches: Any, *given: str) -> Piece:
        (run,) = bench.specs([*options.overrides, *given], [0.01])
        return bench.ordinary(plan.build_network(run, data), batches, 0.01, options.device)

    resident = bench.resident_batches
    with yardstick_torch.loader_batches() as batches:
        found = timed({"loader": loop(batches), "resident": loop(resident(data))}, options)
    found |= timed(
        {
            "sgd": lanes(lrs=lrs.tolist()),
            "adam": lanes("optimizer=adam", lrs=(0.01 * lrs).tolist()),
            "own_batches": lanes(lrs=lrs.tolist(), seeds=range(VARIANT_LANES)),
        },
        options,
    )
    some = [0.01, 0.03, 0.1][:CNN_LANES]
    found |= timed(
        {
            "cnn_step": lanes("network=cnn", lrs=some),
            "cnn_alone": lanes("network=cnn", lrs=some[:1]),
            "cnn_resident": loop(resident(data), "network=cnn"),
        },
        options,
    )
    sgd, cnn = f"sgd, {VARIANT_LANES} lanes", f"cnn, {CNN_LANES} lanes"
    rows = [
        ("DataLoader script", "loader", "resident loop", "resident", 1),
        (f"adam, {VARIANT_LANES} lanes", "adam", sgd, "sgd", 1),
        (f"{VARIANT_LANES} seeds, own batches", "own_batches", sgd, "sgd", 1),
        (cnn, "cnn_step", f"{CNN_LANES} times 1 lane", "cnn_alone", CNN_LANES),
        (cnn, "cnn_step", f"{CNN_LANES} resident loops", "cnn_resident", CNN_LANES),
    ]
    print(f"{'':24}  {'ms':>7}  {'beside':24}  {'ms':>7}  ratio")
    for what, key, other, peer, times in rows:
        mine, theirs = found[key], times * found[peer]
        print(f"{what:24}  {ms(mine):>7}  {other:24}  {ms(theirs):>7}  {mine / theirs:5.2f}")
    del found["resident"]  # the main table's, of all its rows, is written
    return {f"{key}_ms": value for key, value in found.items()}


def whole_trainings(
    options: Options, data: Dataset, resident_ms: float, lanes: int, epochs: int
) -> Figures:
    """Whole trainings of many lanes, against the same one after the other in an ordinary loop."""
    runs = bench.specs(options.overrides, np.geomspace(1e-3, 0.3, lanes).tolist())
    seconds = []
    steps = epochs * (len(data.train_y) // bench.BATCH_SIZE)
    for _ in range(options.repeats):
        stack = bench.stack(runs, data)
        yardstick_torch.wait(options.device)
        started = time.perf_counter()
        yardstick_torch.whole_training(stack, epochs)
        seconds.append(time.perf_counter() - started)
    found = statistics.median(seconds)
    loop = lanes * steps * resident_ms / 1000
    print(
        f"{lanes} learning rates, {epochs} epochs: {found:.2f} s of training; one after the other "
        f"in a resident loop {loop:.0f} s (by its ms a step), {loop / found:.0f} times as long"
    )
    own = {"lanes": lanes, "epochs": epochs, "seconds": found, "resident_seconds": loop}
    return {"whole": own}


def processes(options: Options) -> Figures:
    """A sweep's overhead and the memory of a lane."""
    one, all_ = (yardstick_process.sweep_overhead(n, options.overrides) for n in (1, SWEEP_RUNS))
    each = 1000 * (all_ - one) / (SWEEP_RUNS - 1)
    print(
        f"sweep: {one:.1f} s of its process beside training; each further run adds "
        f"{each:.1f} ms ({SWEEP_RUNS} runs against 1)"
    )
    measured, predicted = yardstick_process.bytes_a_lane(MEMORY_LANES, options.overrides)
    print(
        f"memory: {measured / 1e6:.1f} MB a lane at the peak ({MEMORY_LANES} lanes against 1); "
        f"lrlab reckons with {predicted / 1e6:.1f} MB"
    )
    own = {"sweep_seconds": one, "sweep_ms_a_run": each}
    return own | {"lane_bytes": measured, "lane_bytes_predicted": predicted}


if __name__ == "__main__":
    main()
