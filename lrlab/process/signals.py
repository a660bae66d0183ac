"""Handle Ctrl-C and SIGTERM: the first stops training after its step, the second at once.

SIGHUP, from a closed terminal, often comes twice, so it only counts as a first one. A signal also
tells whether a process exists.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none


class Stop:
    """Whether a signal asked to stop: ``stop()`` returns that.

    Attributes:
        number: of the signal; 0 if there was none.
    """

    number = 0

    def __call__(self) -> bool:
        return bool(self.number)

    @property
    def exit_code(self) -> int:
        """Return the exit code that a shell expects: 130 after Ctrl-C, 143 SIGTERM, 129 SIGHUP."""
        return 128 + self.number


class Interrupt(KeyboardInterrupt):
    """A signal that ends the running work at once.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def exit_code(error: KeyboardInterrupt) -> int:
    """Return the exit code that a shell expects; without a signal, that of Ctrl-C."""
    return 128 + (error.number if isinstance(error, Interrupt) else signal.SIGINT)


@contextmanager
def interruptible() -> Iterator[None]:
    """While the block runs, let Ctrl-C, SIGTERM and SIGHUP raise `Interrupt` at once."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupt(number)

    with _handled(interrupt):
        yield


@contextmanager
def stoppable() -> Iterator[Stop]:
    """While the block runs, note a first signal, and raise `Interrupt` at a second.

    Signals come only to the main thread; in others none is noted.
    """
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        if stop():
            if number == _HANGUP:
                return
            raise Interrupt(number)
        stop.number = number
        if "LRLAB_WORKER" not in os.environ:  # its parent reports it for all
            told = "lrlab: stopping after this step; interrupt again to stop at once"
            print(told, file=sys.stderr)

    with _handled(note):
        yield stop


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """While the block runs in the main thread, call the handler for the signals.

    A signal that the process was started to ignore, as by nohup, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if _HANGUP is not None and signal.getsignal(_HANGUP) is not signal.SIG_IGN:
        numbers.append(_HANGUP)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, old)


def is_running(process: int) -> bool:
    """Return whether this machine has a process of that number; True if that is not known."""
    if os.name == "nt":  # on Windows os.kill would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        pass
    return True
