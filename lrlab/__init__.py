"""lrlab: what does the learning rate do to this training run, and which one should I use?"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrlab import find
    from lrlab.api import Result, load, run_sweep

__all__ = ["Result", "__version__", "find", "load", "run_sweep"]

__version__ = "0.1.0"

_OF_API = ("Result", "load", "run_sweep")


def __getattr__(name: str) -> Any:
    """What is for Python and notebooks, imported when it is asked for: each command imports this
    package, and most need none of it."""
    if name == "find":  # a module that can be called, too
        return import_module("lrlab.find")
    if name not in _OF_API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("lrlab.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_OF_API, "find"})
