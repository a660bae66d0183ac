"""``workers=N``: several processes of this machine work on one sweep, one a GPU or N on the CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lrlab import environment, signals

POLL_SECONDS = 0.1


def run(folder: Path, count: int, places: int, threads: int | None, storage: str) -> int:
    """Start the workers of a sweep whose folder and study exist, and wait for them to end.

    What a worker that is killed leaves undone another one takes over.

    Args:
        count: of the workers.
        places: the most runs that one of them trains at once.
        threads: of each on the CPU; None: as many as torch takes.
        storage: with its password, which goes by the environment: all can see a command line.

    Returns:
        0, or the exit code that says that the user stopped them.
    """
    with signals.stoppable() as stop:
        processes = [
            _start(folder, f"{number + 1}/{count}", number, places, threads, storage)
            for number in range(count)
        ]
        _wait(processes, stop)
    for number, process in enumerate(processes, start=1):
        if process.returncode < 0:
            name = signal.Signals(-process.returncode).name
            print(f"lrlab: worker {number} was ended by {name}", file=sys.stderr)
    return stop.exit_code if stop() else 0


def _start(
    folder: Path, name: str, number: int, places: int, threads: int | None, storage: str
) -> subprocess.Popen[bytes]:
    overrides = [] if threads is None else [f"threads={threads}"]
    if environment.choose_device("auto").startswith("cuda"):
        overrides.append(f"device=cuda:{number % environment.device_count()}")
    own = {"LRLAB_WORKER": name, "LRLAB_PLACES": str(places), "LRLAB_STORAGE": storage}
    own["TERM"] = "dumb"  # plain lines: two tables that redraw themselves would mix
    command = [sys.executable, "-m", "lrlab.resume", str(folder), *overrides]
    # In a session of its own, so that a Ctrl-C comes once, from here.
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
