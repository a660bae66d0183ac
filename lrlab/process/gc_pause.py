"""Python's search for garbage, put off while a command starts and left out when it ends.

What modules and configs are made of stays to the end, and there is no garbage among it. To look for
some again and again took a sixth of the time to the first training step, and half of that in which
a process ends.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

_put_off = False


@contextmanager
def put_off() -> Iterator[None]:
    """No search while the block runs, until ``resume`` is called in it; then all is as it was."""
    global _put_off
    if not gc.isenabled():
        yield
        return
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)  # the system takes it all back at once
    gc.disable()
    _put_off = True
    try:
        yield
    finally:
        resume()
        gc.unfreeze()


def resume() -> None:
    """The command has started: search from now on, but not among what is there already."""
    global _put_off
    if _put_off:
        _put_off = False
        gc.freeze()
        gc.enable()
