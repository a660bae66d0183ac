"""``python -m lrlab.sweep lr=0.001,0.1,1.0``: train a sweep. This module imports nothing heavy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from lrlab import completion
from lrlab._version import __version__
from lrlab.process import gc_pause, verbs
from lrlab.study import heartbeat
from lrlab.sweeping import as_json
from lrlab.sweeping.sweep import guarded, run


def _run(words: list[str], opened: Callable[[Path], object]) -> None:
    run(words, opened=opened)


def main() -> None:
    """Run a sweep; bad input ends with one line and exit code 2."""
    verbs.begin()
    heartbeat.end_with_parent()
    bash = completion.answer(sys.argv[1:])
    if bash is not None:
        print(bash, end="")
        return
    if "--version" in sys.argv[1:]:  # Hydra would print its own
        print(f"lrlab {__version__}")
        return
    with gc_pause.put_off():
        guarded(lambda: as_json.run(sys.argv[1:], "sweep", _run))


if __name__ == "__main__":
    main()
