"""Start ``workers=N`` processes on one sweep on this machine: one a GPU, or N on the CPU."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lrlab.config import passwords
from lrlab.engine.devices import choose_device, device_count
from lrlab.plan import memory
from lrlab.process import signals
from lrlab.study import heartbeat

POLL_SECONDS = 0.1

# Import from the same places as this process, and from nowhere else.
_START = (
    "import sys; count = int(sys.argv[1]); sys.path[:] = sys.argv[2 : 2 + count]; "
    "sys.argv[:] = ['lrlab.resume', *sys.argv[2 + count :]]; "
    "from lrlab.resume import main; main()"
)


def devices(device: str) -> list[str]:
    """Return the devices that workers take in turn: all GPUs, unless the user named one.

    Raises:
        UserError: the device does not exist.
    """
    chosen = choose_device(device)
    if device in ("auto", "cuda") and chosen.startswith("cuda"):
        return [f"cuda:{number}" for number in range(device_count())]
    return [chosen]


def count(workers: int | str, device: str) -> int:
    """Return how many workers there are: with auto one a GPU, or one on the CPU."""
    return len(devices(device)) if workers == "auto" else int(workers)


def sharing(workers: int | str, device: str) -> int:
    """Return how many of them share a device at most."""
    return math.ceil(count(workers, device) / len(devices(device)))


def run(
    folder: Path,
    count: int,
    places: int,
    device: str,
    threads: int | None,
    storage: str,
    trusted: bool,
) -> int:
    """Start the workers of a sweep with an existing folder and study, and wait for their ends.

    Another worker takes over the runs of a worker that is killed.

    Args:
        count: of the workers.
        places: the most runs that one of them trains at once.
        device: as the user typed it.
        threads: of each on the CPU; None: torch's own number.
        storage: with its password, passed in the environment: all can see a command line.
        trusted: whether they may call everything that the sweep's records name.

    Returns:
        0, or the exit code for a stop by the user.
    """
    own = {"LRLAB_PLACES": str(places), passwords.VARIABLE: storage}
    own[memory.SHARING] = str(sharing(count, device))
    own["TERM"] = "dumb"  # plain lines: two tables that redraw themselves would mix
    on = devices(device)
    words = [f"trust={str(trusted).lower()}"] + ([] if threads is None else [f"threads={threads}"])
    with heartbeat.as_parent(), signals.stoppable() as stop:
        processes = [
            _start(
                folder,
                [f"device={on[number % len(on)]}", *words],
                {**own, "LRLAB_WORKER": f"{number + 1}/{count}"},
            )
            for number in range(count)
        ]
        _wait(processes, stop)
    for number, process in enumerate(processes, start=1):
        if process.returncode < 0:
            name = signal.Signals(-process.returncode).name
            print(f"lrlab: worker {number} was ended by {name}", file=sys.stderr)
    return stop.exit_code if stop() else 0


def _start(
    folder: Path, overrides: Sequence[str], own: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    # With -m it would import from the current folder, which may be a sweep from elsewhere.
    path = [str(len(sys.path)), *sys.path]
    command = [sys.executable, "-P", "-c", _START, *path, str(folder), *overrides]
    # It has its own session, so that a Ctrl-C comes once, from here.
    return subprocess.Popen(command, env={**os.environ, **own}, start_new_session=True)


def _wait(processes: Sequence[subprocess.Popen[bytes]], stop: Callable[[], bool]) -> None:
    """Wait for all of them; pass a request to stop on to each, and a second one as well."""
    told = False
    while any(process.poll() is None for process in processes):
        try:
            if stop() and not told:
                told = True
                _tell(processes)
            time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            _tell(processes)


def _tell(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
