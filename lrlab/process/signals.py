"""Ctrl-C and SIGTERM: the first asks training to stop after its step, the second stops at once.

So does SIGHUP, of a terminal that was closed; it often comes twice, and is never a second one.

And whether a process is there, which a signal asks.
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
    """Whether a signal asked to stop: ``stop()`` says so.

    Attributes:
        number: of the signal, 0 where there was none.
    """

    number = 0

    def __call__(self) -> bool:
        return bool(self.number)

    @property
    def exit_code(self) -> int:
        """What a shell expects: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
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
    """While the block runs, Ctrl-C, SIGTERM and SIGHUP raise `Interrupt`, at once."""

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
            if number == _HANGUP:
                return
            raise Interrupt(number)
        stop.number = number
        if "LRLAB_WORKER" not in os.environ:  # its parent says it for all
            print("lrlab: stopping after this step; once more to stop at once", file=sys.stderr)

    with _handled(note):
        yield stop


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """While the block runs in the main thread, the handler is called for the signals.

    One that the process was started to ignore, as by nohup, stays ignored.
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
    """Return whether this machine has a process of that number; True where that cannot be asked."""
    if os.name == "nt":  # there os.kill would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        pass
    return True
