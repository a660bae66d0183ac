"""``lrlab VERB ...``: the one console command; ``lrlab sweep`` is ``python -m lrlab.sweep``.

Import a verb's module only when the verb is called, so that the others start at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import NoReturn, cast

from lrlab._version import __version__
from lrlab.errors import in_a_line
from lrlab.process import verbs

# Verb: the module that has its main(), and a line that says what it does.
VERBS: dict[str, tuple[str, str]] = {
    "sweep": ("lrlab.sweep", "train at many learning rates and under many schedules"),
    "find": ("lrlab.find", "find a learning rate in less than an epoch"),
    "resume": ("lrlab.resume", "finish a sweep that was interrupted, or extend it"),
    "reproduce": ("lrlab.reproduce", "train a run again and compare it with its record"),
    "analysis": ("lrlab.analysis", "judge each run of a sweep, and recommend a learning rate"),
    "compare": ("lrlab.compare", "compare two to six sweeps"),
    "plots": ("lrlab.plots.__main__", "draw a sweep's figures again, or some of them"),
    "report": ("lrlab.report.__main__", "write a sweep's report.html again"),
    "bench": ("lrlab.bench", "measure how fast lrlab trains on this machine"),
    "completion": ("lrlab.completion", "print the tab completion of bash, zsh or fish"),
}


def usage() -> str:
    """Return the text of ``lrlab --help``."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:{width}}  {what}" for verb, (_, what) in VERBS.items())
    return f"""\
usage: lrlab VERB ...

What does the learning rate do to this training run, and which one should I use?

{verbs}

Examples:  lrlab sweep lr=0.001,0.1,1.0
           lrlab analysis outputs/my_sweep

`lrlab VERB --help` explains each, `lrlab --version` says which lrlab this is.
"""


def main() -> None:
    """Run the verb that the first word names, with the other words; return 2 if it is no verb."""
    verbs.begin()
    first, *words = sys.argv[1:] or ["--help"]
    if first in ("--help", "-h", "help"):
        print(usage(), end="")
    elif first in ("--version", "-V"):
        print(f"lrlab {__version__}")
    elif first not in VERBS:
        _no_such(first)
    else:
        sys.argv = [f"lrlab {first}", *words]
        if first in ("sweep", "find"):  # their words may name the user's code, as with python -m
            sys.path.insert(0, os.getcwd())
        module, _ = VERBS[first]
        cast("Callable[[], None]", import_module(module).main)()


def _no_such(word: str) -> NoReturn:
    if "=" in word or word.startswith("-"):
        line = f"{word}: the verb comes first, for example lrlab sweep lr=0.1"
    else:
        from lrlab.config.schema import no_such

        line = no_such(word, "verb", word, VERBS)
    print(in_a_line(f"lrlab: {line}"), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
