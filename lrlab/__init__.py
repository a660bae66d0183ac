"""lrlab: what does the learning rate do to this training run, and which one should I use?

Directly in this folder stand the verbs (``sweep``, ``find``, ``resume``, ``reproduce``,
``analysis``, ``compare``, ``bench``), ``api`` for Python, and the modules that configs and saved
records name by path. Everything else is in packages.
"""

import os
import sys

_READS_WHAT_WAS_SENT = ("resume", "reproduce", "analysis", "plots", "report", "compare")


def import_nothing_from_here() -> None:
    """Take the current folder off the path, unless lrlab itself lies in it."""
    here = os.path.realpath(os.getcwd())
    if os.path.dirname(os.path.dirname(os.path.realpath(__file__))) != here:
        sys.path[:] = [each for each in sys.path if os.path.realpath(each) != here]


def _leave_current_folder() -> None:
    """Import nothing from the current folder where ``python -m`` reads records.

    It may be a folder that was sent, with a json.py in it. This comes before any other import: only
    sys and os are there already.
    """
    if sys.argv[:1] != ["-m"] or "trust=true" in map(str.lower, sys.argv):
        return
    module = next((word for word in sys.orig_argv if "lrlab." in word), "").rpartition("lrlab.")[2]
    if module.split(".")[0] not in _READS_WHAT_WAS_SENT:
        return
    try:
        import_nothing_from_here()
    except OSError:  # the folder is gone; the verb says so
        return


_leave_current_folder()

from importlib import import_module  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

from lrlab._version import __version__  # noqa: E402

if TYPE_CHECKING:
    from lrlab import find
    from lrlab.api import Result, judge, load, run_sweep
    from lrlab.own_loop.probe import Probe

__all__ = ["Probe", "Result", "__version__", "find", "judge", "load", "run_sweep"]

_HOMES: dict[str, str] = {
    **dict.fromkeys(("Result", "judge", "load", "run_sweep"), "lrlab.api"),
    "Probe": "lrlab.own_loop.probe",
}


def __getattr__(name: str) -> Any:
    """Import a name for Python and notebooks at its first use.

    Each command imports this package, and most need none of them.
    """
    if name == "find":  # a module that can also be called
        return import_module("lrlab.find")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "find"})
