"""Ctrl-C and SIGTERM: the first asks training to stop after its step, the second stops at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
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


@contextmanager
def stoppable() -> Iterator[Stop]:
    """While the block runs, a first signal is noted, and a second raises KeyboardInterrupt.

    Signals come to the main thread only; in another one nothing is ever noted.
    """
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        if stop():
            raise KeyboardInterrupt
        stop.number = number
        if "LRLAB_WORKER" not in os.environ:  # its parent says it for all
            print("lrlab: stopping after this step; once more to stop at once", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
