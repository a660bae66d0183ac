"""Ctrl-C and SIGTERM: the first asks training to stop after its step, the second stops at once.

And whether a process is there, which a signal asks.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether a signal asked to stop: ``stop()`` says so.

    Attributes:
        number: of the signal, 0 where there was none.
    """

    number = 0

    def __call__(self) -> bool:
        return bool(self.number)

    @property
    def exit_code(self) -> int:
        """What a shell expects: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.number


class Interrupt(KeyboardInterrupt):
    """A signal that ends what runs, at once.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def exit_code(error: KeyboardInterrupt) -> int:
    """What a shell expects after it; one that no signal raised is taken for a Ctrl-C."""
    return 128 + (error.number if isinstance(error, Interrupt) else signal.SIGINT)


@contextmanager
def interruptible() -> Iterator[None]:
    """While the block runs, Ctrl-C and SIGTERM both raise `Interrupt`, at once."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupt(number)

    with _handled(interrupt):
        yield


@contextmanager
def stoppable() -> Iterator[Stop]:
    """While the block runs, a first signal is noted, and a second raises `Interrupt`.

    Signals come to the main thread only; in another one nothing is ever noted.
    """
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        if stop():
            raise Interrupt(number)
        stop.number = number
        if "LRLAB_WORKER" not in os.environ:  # its parent says it for all
            print("lrlab: stopping after this step; once more to stop at once", file=sys.stderr)

    with _handled(note):
        yield stop


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """While the block runs in the main thread, the handler is called for both signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, old)


PARENT = "LRLAB_PARENT"  # the variable with the process that started this one
PARENT_SECONDS = 0.5  # between two looks whether it is there
LAST_SECONDS = 10.0  # for a step and the records, where it is not


def end_with_parent() -> None:
    """End this process soon after the lrlab that started it, however that has ended.

    It is asked to stop as by SIGTERM, so that its records say where, and then ended. A job that a
    cluster starts has another parent, and is left alone; so is one on Windows, which does not tell.
    """
    parent = os.environ.get(PARENT)
    if parent is None or os.name == "nt" or any(t.name == PARENT for t in threading.enumerate()):
        return
    started = str(os.getppid()) == parent
    if not started and "LRLAB_WORKER" not in os.environ:
        return

    def watch() -> None:
        while str(os.getppid()) == parent:
            time.sleep(PARENT_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(LAST_SECONDS)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name=PARENT, daemon=True).start()


@contextmanager
def as_parent() -> Iterator[None]:
    """While the block runs, processes that are started know this one as their parent."""
    before = os.environ.get(PARENT)
    os.environ[PARENT] = str(os.getpid())
    try:
        yield
    finally:
        os.environ.pop(PARENT)
        if before is not None:
            os.environ[PARENT] = before


def is_running(process: int) -> bool:
    """Whether this machine has a process of that number; True where that cannot be asked."""
    if os.name == "nt":  # there os.kill would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        pass
    return True
