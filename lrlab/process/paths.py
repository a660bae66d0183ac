"""Write paths as one would type them in the current folder."""

import shlex
from pathlib import Path


def display_path(path: Path) -> str:
    """Return the path as one would type it: relative if it lies below the current folder."""
    absolute = path.absolute()
    here = Path.cwd()
    shown = str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)
    return f"./{shown}" if shown.startswith("-") else shown  # "-" would make it a flag


def typed_path(path: Path) -> str:
    """Return ``display_path`` for a printed command, with the quotes that a shell needs."""
    return shlex.quote(display_path(path))
