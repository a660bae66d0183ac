"""Give signs of life and a place, and tell which of a sweep's workers are still alive.

A worker renews its sign of life, a counter, four times a lease. Another one takes it for dead in
two cases. Its process is gone from the machine that both are on, or the counter has stood still for
a whole lease of the other's own clock. Clocks of two machines are never compared.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

BEATS = 4  # in a lease


@dataclass(frozen=True)
class Sign:
    """A worker's sign of life, as stored.

    Attributes:
        host: the machine, in the sense that a process number means the same to all on it.
        pid: the process.
        born: when the process started, in the kernel's units; empty if unknown.
        beat: counts up.
    """

    host: str
    pid: int
    born: str
    beat: int


def me() -> Sign:
    """Return this process's first sign of life."""
    pid = os.getpid()
    return Sign(_host(), pid, _born(pid) or "", 0)


def new_id() -> str:
    """Return a worker's name: readable and unique."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def host_of(worker: str) -> str:
    """Return the machine's name in a worker's."""
    return worker.rsplit("-", 2)[0]


def clock() -> float:
    """Return seconds that also pass while the machine sleeps, if the system has such a clock."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def _host() -> str:
    boot = _text("/proc/sys/kernel/random/boot_id")
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{socket.gethostname()} {boot} {space}"


def _born(pid: int) -> str | None:
    """Return when a process started, None if it is gone, "" if the system does not say."""
    if Path("/proc/self/stat").exists():
        # the name, in brackets, may hold spaces and brackets
        fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
        return None if not fields or fields[0] in "ZX" else fields[19]
    if sys.platform == "win32":  # on Windows signal 0 is a Ctrl-C
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return ""


def _text(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def gone(sign: Sign) -> bool:
    """Return whether the process is known to be gone, which only this machine's own can be."""
    return sign.host == _host() and _born(sign.pid) not in (sign.born, "")


@dataclass
class Watch:
    """One worker's observations of the others.

    Attributes:
        lease: seconds without a change after which a worker counts as dead.
    """

    lease: float
    _seen: dict[str, tuple[int, float]] = field(default_factory=dict)

    def living(self, signs: Mapping[str, Sign | None]) -> set[str]:
        """Return the living workers among those with a sign (None: they have left)."""
        now = clock()
        found = set()
        for worker, sign in signs.items():
            if sign is None:
                continue
            beat, since = self._seen.get(worker, (None, now))
            if beat != sign.beat:
                since = now
            self._seen[worker] = (sign.beat, since)
            if now - since <= self.lease and not gone(sign):
                found.add(worker)
        return found


class Heart:
    """Renew this worker's sign of life in a thread until it is stopped."""

    def __init__(self, lease: float, renew: Callable[[], Any]) -> None:
        self._pause = lease / BEATS
        self._renew = renew
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lrlab-heart", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._pause):
            try:
                self._renew()
            except Exception:  # the storage fails: its next user reports it
                continue

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(timeout=5)


@dataclass(frozen=True)
class Place:
    """Where a worker writes.

    Attributes:
        host: the machine's name.
        folder: the sweep's, on that machine; empty if not noted.
    """

    host: str
    folder: str


def here(folder: Path) -> Place:
    """Return the place of a worker of this machine that writes to a sweep's folder."""
    return Place(socket.gethostname(), str(folder.absolute()))


# --- the process that started this one ------------------------------------------------------------

PARENT = "LRLAB_PARENT"  # the variable with its sign of life
PARENT_SECONDS = 0.5  # between two looks whether it is there
LAST_SECONDS = 10.0  # seconds for a step and the records, if it is gone


@contextmanager
def as_parent() -> Iterator[None]:
    """While the block runs, let started processes know this one as their parent."""
    before = os.environ.get(PARENT)
    os.environ[PARENT] = json.dumps(asdict(me()))
    try:
        yield
    finally:
        os.environ.pop(PARENT)
        if before is not None:
            os.environ[PARENT] = before


def end_with_parent() -> None:
    """End this process soon after the lrlab that started it, however that has ended.

    It gets SIGTERM, so that its records say where it stopped, and is then ended. A job on another
    machine does not see its parent, and goes on. So does any on Windows.
    """
    text = os.environ.get(PARENT)
    if text is None or any(thread.name == PARENT for thread in threading.enumerate()):
        return
    try:
        parent = Sign(**json.loads(text))
    except (ValueError, TypeError):  # not set by lrlab
        return
    if parent.host != _host() or parent.pid == os.getpid():
        return

    def watch() -> None:
        while not gone(parent):
            time.sleep(PARENT_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(LAST_SECONDS)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name=PARENT, daemon=True).start()
