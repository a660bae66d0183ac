"""Hold classes, functions and objects that no other process can import, under names for a config.

What is defined in a notebook's cell, in the script that calls ``lrlab.run_sweep`` or inside a
function is registered here under a name such as ``Net_3fa2b1c0``, with a hash of its source. A
config names it as ``lrlab.not_importable.Net_3fa2b1c0``. So a record says at once that another
process cannot train the run again.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import inspect
import linecache
import secrets
import textwrap
from dataclasses import dataclass
from typing import Any

from lrlab.errors import UserError

PREFIX = "lrlab.not_importable."


@dataclass(frozen=True)
class Entry:
    """Something that only this process has.

    Attributes:
        call: the class or function that a config's ``_target_`` stands for.
        shown: its name, as the user knows it.
        source: its text; "" where Python has none.
        is_object: whether it stands for copies of one object.
        has_weights: whether that object has parameters.
    """

    call: Any
    shown: str
    source: str
    is_object: bool = False
    has_weights: bool = False


_entries: dict[str, Entry] = {}


def __getattr__(name: str) -> Any:
    """Return a registered class or function; Python calls this for a name of this module."""
    if name in _entries:
        return _entries[name].call
    raise AttributeError(name)


def register_code(code: Any) -> str:
    """Return the path under which a config can name a class or function in this process."""
    name = code.__qualname__.rpartition(".")[2]
    return _registered(Entry(code, "a lambda" if name == "<lambda>" else name, source_of(code)))


def register_object(option: str, made: Any, base: type) -> str:
    """Return the path of a class whose objects are copies of the given object, as it is now.

    Args:
        option: the start of an error line.
        base: the class that the path's class derives from.

    Raises:
        UserError: the object cannot be copied.
    """
    try:
        kept = copy.deepcopy(made)
    except Exception as error:
        text = " ".join(str(error).split())
        raise UserError(
            f"{option}={type(made).__name__}: the object cannot be copied ({text}), and each run "
            "trains a copy; give its class"
        ) from error

    def copied(cls: type) -> Any:
        return copy.deepcopy(kept)

    name = type(made).__name__
    call = type(name, (base,), {"__new__": copied, "__init__": lambda self: None})
    weights = any(True for _ in made.parameters()) if hasattr(made, "parameters") else False
    return _registered(Entry(call, name, source_of(type(made)), True, weights))


def _registered(entry: Entry) -> str:
    text = entry.source.encode() if entry.source and not entry.is_object else secrets.token_bytes()
    stem = entry.shown if entry.shown.isidentifier() else "lambda"
    name = f"{stem}_{hashlib.sha256(text).hexdigest()[:8]}"
    _entries[name] = entry
    return f"{PREFIX}{name}"


def named_in(words: list[str]) -> dict[str, Entry]:
    """Return the entries that words of a command line name, by name."""
    text = " ".join(words)
    return {name: entry for name, entry in _entries.items() if f"{PREFIX}{name}" in text}


def check(option: str, path: Any) -> None:
    """Raise UserError if a path names something that only another process has or had."""
    if not isinstance(path, str) or not path.startswith(PREFIX):
        return
    name = path.removeprefix(PREFIX)
    if name not in _entries:
        raise UserError(
            f"{option}={path}: was defined in a notebook, a script or a function, so only that "
            f"process could train it; put its source (code-{name}.py in the sweep's folder) into "
            "a file such as mine.py, and begin a new sweep with the class or function from there"
        )


def source_of(code: Any) -> str:
    """Return the source of a class or function, without its indentation; "" if there is none."""
    try:
        return textwrap.dedent(inspect.getsource(code))
    except (OSError, TypeError):
        return _class_source(code) if isinstance(code, type) else ""


def _class_source(kind: type) -> str:
    """Return the source of a class by one of its methods: a notebook's ``__main__`` has no file."""
    for method in vars(kind).values():
        place = getattr(method, "__code__", None)
        lines = linecache.getlines(place.co_filename) if place is not None else []
        if not lines:
            continue
        assert place is not None
        for node in ast.walk(ast.parse("".join(lines))):
            if not isinstance(node, ast.ClassDef) or node.name != kind.__name__:
                continue
            if node.lineno <= place.co_firstlineno <= (node.end_lineno or 0):
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                return textwrap.dedent("".join(lines[first - 1 : node.end_lineno]))
    return ""
