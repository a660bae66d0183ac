"""``python -m lrlab.bench``: how fast lrlab trains on this machine, and how fast it could.

The yardsticks are measured beside it, in turns, so that a busy moment hits all alike: the matrix
products of a step alone, an ordinary loop on data in memory, a DataLoader script, and JAX.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrlab._version import __version__
from lrlab.errors import UserError
from lrlab.process import broken_pipe, fitting, verbs
from lrlab.process.verbs import Parser, path

if TYPE_CHECKING:
    from lrlab.bench_jax import Jax
    from lrlab.bench_torch import Piece
    from lrlab.data import Dataset

LANES = (1, 3, 8, 32, 128)
REPEATS, QUICK_REPEATS = 15, 5  # many short ones: others' work comes in bursts
SECONDS = 0.15  # of a repeat
FEWEST, MOST = 10, 1000  # steps of a repeat
WARM_UPS = 6
VARIANT_LANES, CNN_LANES = 8, 3
SWEEP_RUNS, MEMORY_LANES = 151, 64  # each against one; so many lanes are padded to no more
GPU_LANES, GPU_EPOCHS = 64, 3

EPILOG = """\
All of it is the default network (MLP 784-64-64-64-10) on MNIST in batches of 64, with nll and SGD
unless a line says otherwise. Each time is in ms a step: the median of the repeats, before which all
is warmed up. The columns:

  floor      just the matrix products of the step, forward and backward, into memory that is there
  step       lrlab's step with diagnostics=off: gather, forward, backward, update, loss record
  a lane     step / lanes
  resident   an ordinary torch loop, one run at a time, on data in memory as one tensor
  jax        the same work as step with jit, vmap and lax.scan: pip install 'lrlab[bench]'

It takes about three minutes. The first line tells the load before: other work on the machine is in
all figures, most of all where torch has a thread a core. Exit code: 0, 2 for bad
input, 130 interrupted.
"""


@dataclass(frozen=True)
class Options:
    """What is measured, and how long.

    Attributes:
        lanes: how many lanes, one row of the table each.
        repeats: of each measurement.
        steps: of each repeat; None: as many as take ``SECONDS``.
        threads: on the CPU; None: as many as torch takes by itself.
        device: as on the command line.
        json: the file to write.
        whole: also what takes processes of its own: a sweep's overhead, the memory of a lane.
    """

    lanes: tuple[int, ...]
    repeats: int
    steps: int | None
    threads: int | None
    device: str
    json: Path | None
    whole: bool

    @property
    def overrides(self) -> list[str]:
        """Device and threads as options of a sweep."""
        return [f"device={self.device}", f"threads={self.threads or 'null'}"]


@dataclass(frozen=True)
class Times:
    """The repeats of one measurement, ms a step."""

    all: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.all)


@dataclass
class Figures:
    """What was measured so far: the median of each by its key, and the shortest beside it."""

    found: dict[str, Any] = field(default_factory=dict)
    shortest: dict[str, Any] = field(default_factory=dict)

    def note(self, key: str, times: Times, lanes: int | None = None) -> None:
        for place, value in ((self.found, times.median), (self.shortest, min(times.all))):
            if lanes is None:
                place[key] = value
            else:
                place[key] = {**(place.get(key) or {}), str(lanes): value}


# --- timing ---------------------------------------------------------------------------------------


def enough(piece: Piece, steps: int | None) -> int:
    """Warm a piece up, and say how many of its steps make a repeat."""
    if steps is not None:
        piece(steps)
        return steps
    for _ in range(WARM_UPS):  # a step tries in its first segments how it is fastest
        piece(FEWEST)
    started = time.perf_counter()
    piece(FEWEST)
    each = (time.perf_counter() - started) / FEWEST
    return min(max(round(SECONDS / each), FEWEST), MOST)


def in_turns(pieces: Mapping[str, tuple[Piece, int]], repeats: int) -> dict[str, Times]:
    """Time warm pieces in turns, each with its number of steps.

    Who begins moves on with each repeat, so that nobody always follows the same one.
    """
    names = list(pieces)
    found: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            piece, steps = pieces[name]
            piece(max(1, steps // 4))  # caches hold what the one before has left
            started = time.perf_counter()
            piece(steps)
            found[name].append(1000 * (time.perf_counter() - started) / steps)
    return {name: Times(tuple(times)) for name, times in found.items()}


def _timed(pieces: Mapping[str, Piece], options: Options) -> dict[str, Times]:
    counted = {name: (piece, enough(piece, options.steps)) for name, piece in pieces.items()}
    return in_turns(counted, options.repeats)


# --- what is measured -----------------------------------------------------------------------------


def measure(options: Options) -> dict[str, Any]:
    """Measure all, print it as it is found, and return the figures for ``--json``."""
    from lrlab import bench_torch
    from lrlab.engine import devices
    from lrlab.plan import build, memory

    devices.make_deterministic()
    devices.prepare(options.device, options.threads)
    (run,) = bench_torch.specs(options.overrides, [0.01])
    need = max(options.lanes) * memory.needs(run).lane
    free = devices.free_memory(options.device)
    if need > free:
        raise UserError(
            f"--lanes={max(options.lanes)}: needs {need / 1e9:.1f} GB of memory, and "
            f"{free / 1e9:.1f} GB are free; use fewer"
        )
    machine = _machine(options.device)
    _say(_machine_line(machine))
    print(f"ms a step, median of {options.repeats}; MLP on MNIST, batch 64, nll, SGD\n", flush=True)
    data = build.load_data(run).to(options.device)

    # in the order in which they are written
    keys = ("step_ms", "floor_ms", "resident_ms", "loader_ms", "jax_ms")
    figures = Figures(dict.fromkeys(keys))
    _lanes(options, data, figures)
    print()
    _beside(options, data, figures)
    print()
    if options.device.startswith("cuda"):
        _gpu(options, data, figures, GPU_LANES, GPU_EPOCHS)
    if options.whole:
        _processes(options, figures)
    how = {"repeats": options.repeats, "steps": options.steps, "machine": machine}
    return figures.found | {"min": figures.shortest, **how}


_COLUMNS = {
    "lanes": 5,
    "floor": 7,
    "step": 7,
    "step/floor": 10,
    "a lane": 7,
    "resident": 8,
    "a lane/resident": 15,
    "jax": 7,
    "step/jax": 8,
}
_LEAST = ("floor", "resident", "jax")  # of each of them a ratio is shown as well


def _columns(width: int | None) -> tuple[list[str], int]:
    """The columns of the main table that a terminal holds, and the spaces between two of them."""
    names = list(_COLUMNS)
    for out in ("", *_LEAST):
        names = [name for name in names if name != out]
        for gap in (2, 1):
            if width is None or sum(_COLUMNS[n] + gap for n in names) - gap <= width:
                return names, gap
    return names, 1


def _lanes(options: Options, data: Dataset, figures: Figures) -> None:
    """The main table, a row for each number of lanes, printed as it is found."""
    from lrlab.bench_process import NotMeasured

    def line(cells: Sequence[str]) -> None:
        of = dict(zip(_COLUMNS, cells, strict=True))
        print((" " * gap).join(of[name].rjust(_COLUMNS[name]) for name in shown), flush=True)

    width = fitting.terminal_width()
    shown, gap = _columns(width)
    resident: list[float] = []
    with _jax(options, data) as (jax, why_not):
        line(list(_COLUMNS))
        for lanes in options.lanes:
            with _telling(f"{lanes} lanes"):
                try:
                    times = _row(options, data, lanes, jax)
                except NotMeasured as error:
                    jax, why_not = None, f"{lanes} lanes: {error}"
                    times = _row(options, data, lanes, None)
            line(_cells(lanes, {key: found.median for key, found in times.items()}))
            resident += times.pop("resident").all
            for key, found in times.items():
                figures.note(f"{key}_ms", found, lanes)
    figures.note("resident_ms", Times(tuple(resident)))
    if out := [name for name in _COLUMNS if name not in shown]:
        _say(f"left out: {', '.join(out)} (--json FILE writes all)")
    if jax is None:
        _say(f"jax: not measured: {why_not}")


def _say(sentence: str) -> None:
    """Print a sentence in lines of the terminal."""
    print(fitting.wrapped("", sentence, fitting.terminal_width()), flush=True)


def _row(options: Options, data: Dataset, lanes: int, jax: Jax | None) -> dict[str, Times]:
    """floor, step, resident and jax for a number of lanes, in turns."""
    import numpy as np

    from lrlab import bench_torch
    from lrlab.plan import build

    lrs = np.geomspace(0.01, 0.1, lanes)
    runs = bench_torch.specs(options.overrides, lrs.tolist())
    stack = bench_torch.stack(runs, data)
    initial = [tensor.detach().cpu().numpy().copy() for tensor in stack.lanes.params.values()]
    network = build.build_network(runs[0], data)
    pieces: dict[str, Piece] = {
        "joined": bench_torch.products(lanes, options.device, joined=True),
        "apart": bench_torch.products(lanes, options.device, joined=False),
        "step": bench_torch.lane_steps(stack),
        "resident": bench_torch.ordinary(
            network, bench_torch.resident_batches(data), lrs[0], options.device
        ),
    }
    counted = {name: (piece, enough(piece, options.steps)) for name, piece in pieces.items()}
    if jax is not None:
        steps = counted["step"][1]
        order = bench_torch.order(data)
        jax.prepare(initial, lrs.tolist(), np.resize(order, (steps, order.shape[1])))
        counted["jax"] = (jax.run, steps)
    found = in_turns(counted, options.repeats)
    floors = found.pop("joined"), found.pop("apart")
    return {"floor": min(floors, key=lambda times: times.median), **found}


def _cells(lanes: int, ms: Mapping[str, float]) -> list[str]:
    each = ms["step"] / lanes
    cells = [str(lanes), _ms(ms["floor"]), _ms(ms["step"]), f"{ms['step'] / ms['floor']:.2f}"]
    cells += [_ms(each), _ms(ms["resident"]), f"{each / ms['resident']:.2f}"]
    jax = ms.get("jax")
    return [*cells, *(("-", "-") if jax is None else (_ms(jax), f"{ms['step'] / jax:.2f}"))]


def _beside(options: Options, data: Dataset, figures: Figures) -> None:
    """Other loops, optimizers, batches and networks, each beside what it is to be compared with."""
    rows = [
        *_loops(options, data, figures),
        *_variants(options, data, figures),
        *_cnn(options, data, figures),
    ]
    print(f"{'':24}  {'ms':>7}  {'beside':24}  {'ms':>7}  ratio")
    for what, ms, other, other_ms in rows:
        ratio = ms / other_ms
        print(f"{what:24}  {_ms(ms):>7}  {other:24}  {_ms(other_ms):>7}  {ratio:5.2f}", flush=True)


_Rows = list[tuple[str, float, str, float]]


def _loops(options: Options, data: Dataset, figures: Figures) -> _Rows:
    from lrlab import bench_torch
    from lrlab.plan import build

    (run,) = bench_torch.specs(options.overrides, [0.01])

    def loop(batches: Iterator[Any]) -> Piece:
        return bench_torch.ordinary(build.build_network(run, data), batches, 0.01, options.device)

    try:
        with _telling("the DataLoader script"), bench_torch.loader_batches() as batches:
            pieces = {
                "loader": loop(batches),
                "resident": loop(bench_torch.resident_batches(data)),
            }
            times = _timed(pieces, options)
    except (OSError, UserError) as error:
        figures.found["loader_ms"] = None
        _say(f"DataLoader script: not measured: {error}")
        return []
    figures.note("loader_ms", times["loader"])
    ms = {name: found.median for name, found in times.items()}
    return [("DataLoader script", ms["loader"], "resident loop", ms["resident"])]


def _variants(options: Options, data: Dataset, figures: Figures) -> _Rows:
    import numpy as np

    from lrlab import bench_torch

    lrs = np.geomspace(0.01, 0.1, VARIANT_LANES)

    def steps(*given: str, scale: float = 1.0, seeds: Sequence[int] | None = None) -> Piece:
        runs = bench_torch.specs([*options.overrides, *given], (scale * lrs).tolist(), seeds)
        return bench_torch.lane_steps(bench_torch.stack(runs, data))

    with _telling("variants"):
        pieces = {
            "sgd": steps(),
            "adam": steps("optimizer=adam", scale=0.01),
            "own_batches": steps(seeds=range(VARIANT_LANES)),
        }
        times = _timed(pieces, options)
    for key, found in times.items():
        figures.note(f"{key}_ms", found, VARIANT_LANES)
    ms = {name: found.median for name, found in times.items()}
    sgd = f"sgd, {VARIANT_LANES} lanes"
    return [
        (f"adam, {VARIANT_LANES} lanes", ms["adam"], sgd, ms["sgd"]),
        (f"{VARIANT_LANES} seeds, own batches", ms["own_batches"], sgd, ms["sgd"]),
    ]


def _cnn(options: Options, data: Dataset, figures: Figures) -> _Rows:
    from lrlab import bench_torch
    from lrlab.plan import build

    runs = bench_torch.specs([*options.overrides, "network=cnn"], [0.01, 0.03, 0.1][:CNN_LANES])
    network, batches = build.build_network(runs[0], data), bench_torch.resident_batches(data)
    with _telling("the cnn"):
        pieces = {
            "together": bench_torch.lane_steps(bench_torch.stack(runs, data)),
            "alone": bench_torch.lane_steps(bench_torch.stack(runs[:1], data)),
            "resident": bench_torch.ordinary(network, batches, 0.01, options.device),
        }
        times = _timed(pieces, options)
    figures.note("cnn_step_ms", times["alone"], 1)
    figures.note("cnn_step_ms", times["together"], CNN_LANES)
    figures.note("cnn_resident_ms", times["resident"])
    ms = {name: found.median for name, found in times.items()}
    what = f"cnn, {CNN_LANES} lanes"
    return [
        (what, ms["together"], f"{CNN_LANES} times 1 lane", CNN_LANES * ms["alone"]),
        (what, ms["together"], f"{CNN_LANES} resident loops", CNN_LANES * ms["resident"]),
    ]


def _gpu(options: Options, data: Dataset, figures: Figures, lanes: int, epochs: int) -> None:
    """Whole trainings of many lanes, against the same one after the other in an ordinary loop."""
    import numpy as np

    from lrlab import bench_torch

    runs = bench_torch.specs(options.overrides, np.geomspace(1e-3, 0.3, lanes).tolist())
    seconds = []
    steps = epochs * (len(data.train_y) // bench_torch.BATCH_SIZE)
    with _telling("whole trainings"):
        for _ in range(options.repeats):
            stack = bench_torch.stack(runs, data)
            bench_torch.wait(options.device)
            started = time.perf_counter()
            bench_torch.whole_training(stack, epochs)
            seconds.append(time.perf_counter() - started)
    found = statistics.median(seconds)
    loop = lanes * steps * figures.found["resident_ms"] / 1000
    figures.found["whole"] = {
        "lanes": lanes,
        "epochs": epochs,
        "seconds": found,
        "resident_seconds": loop,
    }
    _say(
        f"{lanes} learning rates, {epochs} epochs: {found:.2f} s of training; one after the other "
        f"in a resident loop {loop:.0f} s (by its ms a step), {loop / found:.0f} times as long"
    )


def _processes(options: Options, figures: Figures) -> None:
    """A sweep's overhead and the memory of a lane."""
    from lrlab import bench_process
    from lrlab.bench_process import NotMeasured

    try:
        with _telling("a sweep's overhead"):
            one, all_ = (
                bench_process.sweep_overhead(n, options.overrides) for n in (1, SWEEP_RUNS)
            )
    except NotMeasured as error:
        _say(f"sweep: not measured: {error}")
    else:
        each = 1000 * (all_ - one) / (SWEEP_RUNS - 1)
        figures.found |= {"sweep_seconds": one, "sweep_ms_a_run": each}
        _say(
            f"sweep: {one:.1f} s of its process beside training; each further run adds "
            f"{each:.1f} ms ({SWEEP_RUNS} runs against 1)"
        )
    try:
        with _telling("memory"):
            measured, predicted = bench_process.bytes_a_lane(MEMORY_LANES, options.overrides)
    except NotMeasured as error:
        _say(f"memory: not measured: {error}")
    else:
        figures.found |= {"lane_bytes": measured, "lane_bytes_predicted": predicted}
        _say(
            f"memory: {measured / 1e6:.1f} MB a lane at the peak ({MEMORY_LANES} lanes against 1); "
            f"lrlab reckons with {predicted / 1e6:.1f} MB"
        )


@contextmanager
def _jax(options: Options, data: Dataset) -> Iterator[tuple[Jax | None, str]]:
    """The process that runs JAX; or None, and why there is none."""
    import torch

    from lrlab.bench_jax import Jax
    from lrlab.bench_process import NotMeasured

    x, y = data.train_x.flatten(1).cpu().numpy(), data.train_y.cpu().numpy()
    try:
        with _telling("jax: it starts"):
            jax = Jax(x, y, options.device, torch.get_num_threads())
    except NotMeasured as error:
        yield None, str(error)
        return
    with jax:
        yield jax, ""


# --- words ----------------------------------------------------------------------------------------


def _machine(device: str) -> dict[str, Any]:
    from importlib import metadata

    from lrlab.engine import devices

    try:
        jax = metadata.version("jax")
    except metadata.PackageNotFoundError:
        jax = None
    own = {"processor": devices.processor_name(), "cores": devices.cores(), "jax": jax}
    if hasattr(os, "getloadavg"):
        own["load"] = os.getloadavg()[0]
    return {**devices.describe(device), **own}


def _machine_line(machine: Mapping[str, Any]) -> str:
    """The machine, its load by others, and all versions, on one line."""
    where = machine["processor"]
    if machine["device"] != "cpu":
        where = f"{machine['device']} ({machine['device_name']}), {where}"
    versions = f"lrlab {machine['lrlab']}, Python {machine['python']}, torch {machine['torch']}"
    versions += "" if machine["jax"] is None else f", jax {machine['jax']}"
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    system = f"{machine['cores']} cores, {threads}, {machine['platform']}"
    system += f", load {machine['load']:.1f}" if "load" in machine else ""
    return f"{where}, {system}; {versions}"


def _ms(ms: float) -> str:
    return f"{ms:.3f}" if ms < 10 else f"{ms:.2f}"


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """Say on a terminal what is measured in the block."""
    if not sys.stderr.isatty():
        yield
        return
    print(f"lrlab: measuring {what}", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print("\r\033[K", end="", file=broken_pipe.ungated(sys.stderr), flush=True)


# --- the command ----------------------------------------------------------------------------------


def read_options(words: Sequence[str]) -> Options:
    """The options, judged, without the device, which takes torch to judge.

    Raises:
        UserError: one that cannot work.
    """
    parser = Parser(
        prog="python -m lrlab.bench",
        description="Measure how fast lrlab trains on this machine, and how fast it could.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    few = ",".join(map(str, LANES))
    parser.add_argument("--lanes", default=few, metavar="N,N", help=f"lanes of each row ({few})")
    parser.add_argument("--repeats", metavar="N", help=f"of each measurement ({REPEATS})")
    parser.add_argument("--steps", metavar="N", help=f"of each repeat (what takes {SECONDS} s)")
    parser.add_argument("--threads", metavar="N", help="on the CPU (as many as torch takes)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (auto)")
    parser.add_argument("--json", type=path, metavar="FILE", help="also write the figures there")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_REPEATS} repeats, and neither a sweep's overhead nor the memory of a lane",
    )
    parser.add_argument("--version", action="version", version=f"lrlab {__version__}")
    given = parser.parse_args(list(words))
    lanes = tuple(_whole("lanes", text, few) for text in given.lanes.split(","))
    counts = {
        name: None if text is None else _whole(name, text, example)
        for name, text, example in (
            ("repeats", given.repeats, str(REPEATS)),
            ("steps", given.steps, "100"),
            ("threads", given.threads, "1"),
        )
    }
    from lrlab.engine import devices

    cores = devices.cores()
    if (counts["threads"] or 1) > cores:
        raise UserError(
            f"--threads={given.threads}: more than this machine's cores, of which there are "
            f"{cores}; threads that wait for one another measure nothing, use --threads={cores}"
        )
    return Options(
        lanes=tuple(dict.fromkeys(lanes)),
        repeats=counts["repeats"] or (QUICK_REPEATS if given.quick else REPEATS),
        steps=counts["steps"],
        threads=counts["threads"],
        device=given.device,
        json=given.json,
        whole=not given.quick,
    )


def _whole(name: str, text: str, example: str) -> int:
    if not (text.strip().isdecimal() and int(text) >= 1):
        what = "whole numbers" if name == "lanes" else "a whole number"
        raise UserError(f"--{name}={text}: must be {what} from 1, for example --{name}={example}")
    return int(text)


def _device(name: str) -> str:
    from lrlab import config as configs
    from lrlab.engine import devices

    if name.split(":")[0] not in configs.DEVICES:
        choices = ", ".join(configs.DEVICES)
        near = configs.nearest(name, configs.DEVICES)
        raise UserError(f"--device={name}: no such device{near}; choose from {choices}")
    try:
        return devices.choose_device(name)
    except UserError as error:
        raise UserError(str(error).replace("device=", "--device=")) from None


def check_writable(file: Path) -> Path:
    """See before anything is measured that the file can be written; a link is followed.

    Raises:
        UserError: it cannot, or it is there and no earlier ``--json`` wrote it.
    """
    file = verbs.output_file("--json", file, "bench.json", lambda text: '"step_ms"' in text)
    try:
        with tempfile.TemporaryFile(dir=file.absolute().parent):
            pass
    except OSError as error:
        raise UserError(
            f"--json={file}: nothing can be written into {file.parent} ({error.strerror}); "
            "name a file elsewhere"
        ) from error
    return file


def _run(words: Sequence[str]) -> None:
    import dataclasses

    options = read_options(words)
    if options.json is not None:
        options = dataclasses.replace(options, json=check_writable(options.json))
    options = dataclasses.replace(options, device=_device(options.device))
    found = measure(options)
    if options.json is not None:
        from lrlab import records
        from lrlab.process.paths import display_path

        records.write_whole(options.json, json.dumps(found, indent=2) + "\n")
        print(f"json   {display_path(options.json)}")


def main() -> None:
    """Command line entry."""
    verbs.begin()
    words = sys.argv[1:]
    for flag in ("--help", "-h", "--version"):
        if flag in words:
            read_options([flag])
    from lrlab.sweeping import sweep

    sweep.guarded(lambda: _run(words))


if __name__ == "__main__":
    main()
