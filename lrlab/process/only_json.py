# pyright: strict
"""Print one JSON object on stdout and nothing else: what a command says besides goes to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from lrlab._version import __version__
from lrlab.errors import UserError
from lrlab.process.plain import to_json

FLAG = "--json"
HELP = "print the result as one JSON object on stdout, and nothing else there"
SCHEMA = 1  # higher once a key goes, or changes its meaning; a new key does not change it


def asked(typed: Sequence[str]) -> tuple[list[str], bool]:
    """Return the words of a command without ``--json``, and whether it was among them.

    Raises:
        UserError: it has a value.
    """
    words = list(typed)
    end = words.index("--") if "--" in words else len(words)
    for word in words[:end]:
        if word.startswith(f"{FLAG}="):
            raise UserError(f"{word}: takes no value; write {FLAG}")
    kept = [word for word in words[:end] if word != FLAG]
    return kept + words[end:], len(kept) < end


def head(verb: str) -> dict[str, Any]:
    """Return the keys with which the object of a verb begins."""
    return {"schema": SCHEMA, "lrlab": __version__, "verb": verb}


@contextmanager
def stdout_free() -> Generator[None, None, None]:
    """Send what is printed to stderr until the block ends, also what other processes print."""
    out, kept = sys.stdout, None
    out.flush()
    try:
        kept = os.dup(1)
        os.dup2(2, 1)  # for processes that inherit it
    except OSError:  # one of the two is closed, so that nothing could come out
        pass
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = out
        if kept is not None:
            _flush_libraries()
            os.dup2(kept, 1)
            os.close(kept)


def show(found: object) -> None:
    """Print the object, in ASCII: no encoding refuses it, and no gate for a terminal changes it."""
    print(to_json(found, default=str, ensure_ascii=True), flush=True)


def _flush_libraries() -> None:
    """Write out what libraries in C have printed, which waits in a buffer if stdout is a pipe."""
    import ctypes

    with suppress(OSError, AttributeError, TypeError):  # TypeError: on Windows
        ctypes.CDLL(None).fflush(None)
