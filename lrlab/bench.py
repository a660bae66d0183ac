"""``python -m lrlab.bench``: time lrlab's training and an ordinary torch loop on this machine.

Both are timed in turns, so that a busy moment slows both. ``tests/benchmarks/yardsticks.py`` times
other programs with the same functions.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrlab._version import __version__
from lrlab.errors import UserError
from lrlab.process import fitting, only_json, verbs
from lrlab.process.verbs import Parser, path

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from lrlab.data import Dataset
    from lrlab.plan.spec import RunSpec
    from lrlab.training.stack import Stack

Piece = Callable[[int], Any]  # makes so many steps, waits for the device, returns the losses

BATCH_SIZE = 64
LANES = (1, 3, 8, 32, 128)
REPEATS, QUICK_REPEATS = 15, 5  # many short ones: the load of other programs comes in bursts
SECONDS = 0.15  # seconds of a repeat
FEWEST, MOST = 10, 1000  # steps of a repeat
WARM_UPS = 6

EPILOG = """\
Every row trains the default network (MLP 784-64-64-64-10) on MNIST in batches of 64, with nll and
SGD. A lane is one of the runs that lrlab trains together. Times are in ms, the median of the
repeats after a warm-up. The columns:

  lanes      how many runs train together
  step       one training step of all of them in lrlab, with diagnostics=off
  a lane     step / lanes: the time for one step of one run
  resident   one step of an ordinary torch loop that trains one run, with its data as one tensor in
             memory
  ratio      a lane / resident: below 1, lrlab is faster

The command takes about a minute. The load in the first line is that of other programs before the
measurement. They slow down all times, most of all if torch uses every core. Exit code: 0, 2 for
bad input, 130 interrupted.
"""


@dataclass(frozen=True)
class Options:
    """What to measure, and for how long."""

    lanes: tuple[int, ...]  # numbers of lanes, one row of the table each
    repeats: int  # of each measurement
    steps: int | None  # of each repeat; None: as many as take ``SECONDS``
    threads: int | None  # on the CPU; None: torch's own number
    device: str
    json: Path | None  # the file to write
    printed: bool = False  # whether stdout gets the figures as JSON, and nothing else

    @property
    def overrides(self) -> list[str]:
        """Return device and threads as options of a sweep."""
        return [f"device={self.device}", f"threads={self.threads or 'null'}"]


# --- the two training loops -----------------------------------------------------------------------


def specs(
    options: Sequence[str], lrs: Sequence[float], seeds: Sequence[int] | None = None
) -> list[RunSpec]:
    """Compose a run of each lr as a sweep composes it, with ``diagnostics=off``.

    Args:
        options: overrides of all runs.
        seeds: one a run; None: 0 for all, so that they share their batches.
    """
    from lrlab.config import hydra_store
    from lrlab.plan import spec

    config = hydra_store.composed(["diagnostics=off", "name=bench", *options])
    found = []
    for number, lr in enumerate(lrs):
        config.lr = float(lr)
        config.seed = 0 if seeds is None else seeds[number]
        found.append(spec.run_spec(number, Path("bench", str(number)), config, {}, {}))
    return found


def stack(runs: Sequence[RunSpec], data: Dataset) -> Stack:
    """Stack the runs as lanes before their first step, padded as in a sweep."""
    from lrlab.plan import spec
    from lrlab.training import building, pool

    pad = pool.power_of_two(len(runs)) if pool.is_padded(runs[0]) else 0
    return building.build_stack(spec.group_key(runs[0]), runs, range(len(runs)), data, {}, pad)


def lane_steps(lanes: Stack) -> Piece:
    """Return a piece that trains the lanes as a sweep does, on their first epoch over and over."""
    import numpy as np

    def run(count: int) -> np.ndarray:
        found = []
        while count:
            part = min(count, lanes.longest_segment(), lanes.steps_per_epoch - lanes.place)
            found.append(segment(lanes, part))
            count -= part
            if lanes.place == 0:
                for lane in range(len(lanes.runs)):
                    lanes.put(lane, 0)
        return np.concatenate(found)

    return run


def segment(lanes: Stack, count: int) -> np.ndarray:
    """Train so many steps of the lanes' epoch, each lane at its own lr; return (steps, lanes)."""
    import numpy as np

    from lrlab.training import loop

    lrs = [run.spec["lr"] for run in lanes.runs]
    values = {"lr": np.tile(np.array(lrs), (count, 1))}
    return loop.advance(lanes, values).losses


def ordinary(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], lr: float, device: str
) -> Piece:
    """Return a piece that trains a network in the usual loop, by autograd and ``torch.optim.SGD``.

    Args:
        batches: (samples, labels), without end.
    """
    from itertools import islice

    import torch
    import torch.nn.functional as F

    network = network.to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    source = iter(batches)

    def run(count: int) -> np.ndarray:
        losses = []
        for x, y in islice(source, count):
            outputs = network(x.to(device))
            loss = F.nll_loss(F.log_softmax(outputs, dim=1), y.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses).cpu().numpy()

    return run


def resident_batches(data: Dataset) -> Iterator[tuple[Tensor, Tensor]]:
    """Repeat the first epoch of a run with seed 0, on data that are one tensor on the device."""
    from itertools import cycle

    import torch

    from lrlab.data import inputs

    rows = torch.from_numpy(order(data)).to(data.train_y.device)
    (x,) = inputs.tensors(data.train_x)
    return ((x[index], data.train_y[index]) for index in cycle(rows))


def order(data: Dataset) -> np.ndarray:
    """Return (steps, batch) sample numbers, the first epoch of a run with seed 0."""
    from lrlab.plan import build

    samples = len(data.train_y)
    steps = samples // BATCH_SIZE
    return build.batch_order(0, 0, samples)[: steps * BATCH_SIZE].reshape(steps, BATCH_SIZE)


# --- timing ---------------------------------------------------------------------------------------


def enough(piece: Piece, steps: int | None) -> int:
    """Warm a piece up, and return the number of its steps in a repeat."""
    if steps is not None:
        piece(steps)
        return steps
    for _ in range(WARM_UPS):  # lrlab tries in its first segments which way is fastest
        piece(FEWEST)
    started = time.perf_counter()
    piece(FEWEST)
    each = (time.perf_counter() - started) / FEWEST
    return min(max(round(SECONDS / each), FEWEST), MOST)


def in_turns(pieces: Mapping[str, tuple[Piece, int]], repeats: int) -> dict[str, list[float]]:
    """Time warm pieces in turns, each with its number of steps; return ms a step of each repeat.

    Each repeat starts with another piece, so that none always follows the same one.
    """
    names = list(pieces)
    found: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            piece, steps = pieces[name]
            piece(max(1, steps // 4))  # caches hold the data of the piece before
            started = time.perf_counter()
            piece(steps)
            found[name].append(1000 * (time.perf_counter() - started) / steps)
    return found


def prepare(options: Options) -> tuple[Dataset, dict[str, Any]]:
    """Load the data on the device, and print a line about the machine; return both."""
    from lrlab.engine import devices
    from lrlab.plan import build, memory

    devices.make_deterministic()
    devices.prepare(options.device, options.threads)
    (run,) = specs(options.overrides, [0.01])
    need = max(options.lanes) * memory.needs(run).lane
    free = devices.free_memory(options.device)
    if need > free:
        raise UserError(
            f"--lanes={max(options.lanes)}: needs {need / 1e9:.1f} GB of memory, but only "
            f"{free / 1e9:.1f} GB are free; use fewer lanes"
        )
    machine = _machine(options.device)
    print(fitting.wrapped("", _machine_line(machine), fitting.terminal_width()))
    print(f"ms a step, median of {options.repeats}; MLP on MNIST, batch 64, nll, SGD\n", flush=True)
    return build.load_data(run).to(options.device), machine


def measure(options: Options) -> dict[str, Any]:
    """Measure each number of lanes, print its row, and return the figures for ``--json``."""
    import numpy as np

    from lrlab.plan import build

    data, machine = prepare(options)
    step: dict[str, list[float]] = {}
    resident: list[float] = []
    print("lanes     step   a lane  resident  ratio")
    for lanes in options.lanes:
        lrs = np.geomspace(0.01, 0.1, lanes)
        runs = specs(options.overrides, lrs.tolist())
        network, batches = build.build_network(runs[0], data), resident_batches(data)
        pieces = {
            "step": lane_steps(stack(runs, data)),
            "resident": ordinary(network, batches, lrs[0], options.device),
        }
        counted = {name: (piece, enough(piece, options.steps)) for name, piece in pieces.items()}
        times = in_turns(counted, options.repeats)
        step[str(lanes)] = times["step"]
        resident += times["resident"]
        each, loop = statistics.median(times["step"]) / lanes, statistics.median(times["resident"])
        cells = f"{ms(each * lanes):>7}  {ms(each):>7}  {ms(loop):>8}  {each / loop:5.2f}"
        print(f"{lanes:>5}  {cells}", flush=True)

    def of_all(take: Callable[[Sequence[float]], float]) -> dict[str, Any]:
        return {"step_ms": {k: take(v) for k, v in step.items()}, "resident_ms": take(resident)}

    how = {"repeats": options.repeats, "steps": options.steps, "machine": machine}
    return of_all(statistics.median) | {"min": of_all(min), **how}


# --- words ----------------------------------------------------------------------------------------


def _machine(device: str) -> dict[str, Any]:
    from lrlab.engine import devices
    from lrlab.process import cores as process_cores

    own = {"processor": devices.processor_name(), "cores": process_cores.cores()}
    if hasattr(os, "getloadavg"):
        own["load"] = os.getloadavg()[0]
    return {**devices.describe(device), **own}


def _machine_line(machine: Mapping[str, Any]) -> str:
    """Return the machine, its load, and all versions, in one line."""
    where = machine["processor"]
    if machine["device"] != "cpu":
        where = f"{machine['device']} ({machine['device_name']}), {where}"
    versions = f"lrlab {machine['lrlab']}, Python {machine['python']}, torch {machine['torch']}"
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    system = f"{machine['cores']} cores, {threads}, {machine['platform']}"
    system += f", load {machine['load']:.1f}" if "load" in machine else ""
    return f"{where}, {system}; {versions}"


def ms(time: float) -> str:
    """Format a time with four digits."""
    return f"{time:.3f}" if time < 10 else f"{time:.2f}"


# --- the command ----------------------------------------------------------------------------------


def read_options(words: Sequence[str]) -> Options:
    """Read and check the options, except the device, for which torch is needed."""
    parser = Parser(
        prog="python -m lrlab.bench",
        description="Measure how fast lrlab trains on this machine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    few = ",".join(map(str, LANES))

    def lanes(text: str) -> tuple[int, ...]:
        return tuple(dict.fromkeys(_whole("lanes", few, each) for each in text.split(",")))

    parser.add_argument(
        "--lanes", type=lanes, default=LANES, metavar="N,N", help=f"lanes of each row ({few})"
    )
    for name, example, meaning in (
        ("repeats", REPEATS, f"repeats of each timing ({REPEATS})"),
        ("steps", 100, f"steps of each repeat (as many as take {SECONDS} s)"),
        ("threads", 1, "threads on the CPU (as torch chooses)"),
    ):
        whole = functools.partial(_whole, name, example)
        parser.add_argument(f"--{name}", type=whole, metavar="N", help=meaning)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (auto)")
    parser.add_argument(
        "--json",
        type=path,
        nargs="?",
        const=True,
        metavar="FILE",
        help="also write the times there; without FILE: print them as one JSON object on stdout, "
        "and nothing else there",
    )
    parser.add_argument("--quick", action="store_true", help=f"only {QUICK_REPEATS} repeats")
    parser.add_argument("--version", action="version", version=f"lrlab {__version__}")
    given = parser.parse_args(list(words))
    from lrlab.process import cores as process_cores

    cores = process_cores.cores()
    if (given.threads or 1) > cores:
        raise UserError(
            f"--threads={given.threads}: this machine has only {cores} cores, and threads that "
            f"wait for one another measure nothing; use --threads={cores}"
        )
    return Options(
        lanes=given.lanes,
        repeats=given.repeats or (QUICK_REPEATS if given.quick else REPEATS),
        steps=given.steps,
        threads=given.threads,
        device=given.device,
        json=None if given.json is True else given.json,
        printed=given.json is True,
    )


def _whole(name: str, example: object, text: str) -> int:
    if not (text.strip().isdecimal() and int(text) >= 1):
        what = "whole numbers" if name == "lanes" else "a whole number"
        raise UserError(f"--{name}={text}: must be {what} from 1, for example --{name}={example}")
    return int(text)


def _device(name: str) -> str:
    from lrlab.config import schema
    from lrlab.engine import devices

    if name.split(":")[0] not in schema.DEVICES:
        choices = ", ".join(schema.DEVICES)
        near = schema.nearest(name, schema.DEVICES)
        raise UserError(f"--device={name}: no such device{near}; choose from {choices}")
    try:
        return devices.choose_device(name)
    except UserError as error:
        raise UserError(str(error).replace("device=", "--device=")) from None


def check_writable(file: Path) -> Path:
    """Check before measuring that the file can be written; follow a link.

    Raises:
        UserError: it cannot be written, or another program wrote it.
    """
    file = verbs.output_file("--json", file, "bench.json", lambda text: '"step_ms"' in text)
    try:
        with tempfile.TemporaryFile(dir=file.absolute().parent):
            pass
    except OSError as error:
        raise UserError(
            f"--json={file}: cannot write into {file.parent} ({error.strerror}); "
            "name a file elsewhere"
        ) from error
    return file


def _run(words: Sequence[str]) -> None:
    import dataclasses

    options = read_options(words)
    if options.json is not None:
        options = dataclasses.replace(options, json=check_writable(options.json))
    options = dataclasses.replace(options, device=_device(options.device))
    if options.printed:
        with only_json.stdout_free():
            found = measure(options)
        only_json.show({**only_json.head("bench"), **found})
        return
    found = measure(options)
    if options.json is not None:
        from lrlab import records
        from lrlab.process.paths import display_path

        records.write_whole(options.json, json.dumps(found, indent=2) + "\n")
        print(f"json   {display_path(options.json)}")


def main() -> None:
    """Run the command."""
    verbs.begin()
    words = sys.argv[1:]
    for flag in ("--help", "-h", "--version"):
        if flag in words:
            read_options([flag])
    from lrlab.sweeping import sweep

    sweep.guarded(lambda: _run(words))


if __name__ == "__main__":
    main()
