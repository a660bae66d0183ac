# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""Turn Python's keyword arguments into a command line's words: ``lr=[0.1, 1]`` is ``lr=0.1,1``."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from lrlab import not_importable
from lrlab.config import schema, yaml_text
from lrlab.config.words.spelling import OR_NULL, TEXTS, parsed, quoted
from lrlab.errors import UserError

_ALL_GROUPS = (*schema.GROUPS, *schema.SWEEP_GROUPS)
_FLAGS = {"config_dir": "--config-dir", "config_name": "--config-name"}


def words(options: Mapping[str, Any]) -> list[str]:
    """Return the equivalent command line.

    Args:
        options: value by name. A name is one of the command's options; a setting's dot may be
            written as two underscores, ``optimizer__momentum``. A value is a number, a string (as
            typed after the =), a path, None (null), or a list of these: one run for each. A tuple
            is one value of a setting with several parts: ``optimizer__betas=(0.9, 0.99)``.
            Numpy's and torch's numbers and arrays are taken for Python's. The value of a group
            may also be a class or function, a partial of one, or a mapping of the settings of a
            choice. A network or a loss may also be an object, of which each run trains a copy.

    Raises:
        UserError: a value that a command line cannot express.
    """
    flags, chosen, settings = [], [], []
    known: dict[str, Collection[str] | None] = {}
    for name, value in options.items():
        key = name.replace("__", ".")
        if not key.lstrip("+~") or "=" in key or key.startswith(("-", "hydra.mode")):
            raise UserError(f"{name}: no such option; docs/options.md lists them")
        value = _plain(value)
        if value is None and key in TEXTS and key not in OR_NULL:
            continue  # the default; as a text of four letters it could be a name
        if key in _FLAGS:
            flags += [_FLAGS[key], str(value)]
        elif key == "experiments":
            chosen.append(f"+{key}={_text(key, value)}")
        elif key in _ALL_GROUPS:
            known[key], new = _group(key, value)
            chosen += new
        else:
            settings.append((key, value))
    for key, value in settings:
        prefix = _prefix(key, known.get(key.partition(".")[0])) if "." in key else ""
        chosen.append(f"{prefix}{key}={_text(key, value)}")
    return [*flags, *chosen]


def _prefix(key: str, known: Collection[str] | None) -> str:
    """Return the prefix of a group's setting: + if its choice has no such setting.

    Args:
        known: the settings that the choice has; None: unknown, or not one choice.
    """
    inside = key.partition(".")[2].partition(".")[0]
    return "" if known is None or inside in known else "+"


def _group(group: str, value: Any) -> tuple[Collection[str] | None, list[str]]:
    """Return the settings that a group's choice has, if known, and the words for its value."""
    if isinstance(value, functools.partial):
        if value.args:
            raise UserError(
                f"{group}={_short(value.func)}: a partial must have keyword arguments only, such "
                "as functools.partial(Net, width=64)"
            )
        value = {"_target_": value.func, **value.keywords}
    several = value if isinstance(value, list) else [value]
    for each in several:
        if isinstance(each, tuple) or (_is_object(each) and group not in _MADE):
            hint = "give a function" if isinstance(each, tuple) else "give its class"
            raise UserError(
                f"{group}={_short(each)}: is an object, from which each run would need one of its "
                f"own; {hint}"
            )
    if any(map(_is_own, several)):
        if not all(map(_is_own, several)):
            raise UserError(f"{group}={_short(value)}: give only names, or only classes")
        value = {"_target_": value}
    if not isinstance(value, Mapping):
        return None, [f"{group}={_text(group, value)}"]
    settings = {str(key): _plain(inner) for key, inner in value.items()}
    known: Collection[str] | None = None
    chosen: list[str] = []
    if "_target_" in settings:
        custom = _file(group, "custom").is_file()
        choice = "custom" if custom else schema.default_choices()[group]
        known = yaml_text.load(_file(group, choice)).keys()
        chosen.append(f"{group}={choice}")
        target = settings.pop("_target_")
        chosen.append(f"{group}._target_={_text(f'{group}._target_', target)}")
    for key, inner in schema.flat(settings, f"{group}.").items():
        one = tuple(inner) if isinstance(inner, list) else inner  # as in YAML, a list is one value
        chosen.append(f"{_prefix(key, known)}{key}={_text(key, one)}")
    return known, chosen


def _file(group: str, choice: str) -> Path:
    return schema.folder("conf") / group / f"{choice}.yaml"


# --- values ---------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """Return numbers and arrays of numpy, pandas and torch as Python's own, a range as a list."""
    if isinstance(value, range):
        return list(value)
    if hasattr(value, "tolist") and not isinstance(value, type):
        return value.tolist()
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value
    return value


def _text(key: str, value: Any) -> str:
    """Return the text after the =."""
    if isinstance(value, list):
        if not value:
            raise UserError(f"{key}=[]: has no value; leave {key} out for the default")
        return ",".join(_one(key, each) for each in value)
    if isinstance(value, str) and parsed(value):
        return value  # as typed: it may be an interval, or a list
    return _one(key, value)


def _one(key: str, value: Any) -> str:
    """Return one value as text."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Path):
        return quoted(str(value))
    if isinstance(value, str):
        is_plain = value == value.strip() != "" and "\\" not in value
        override = parsed(value) if is_plain else None
        return quoted(value) if override is None or override.is_sweep_override() else value
    if isinstance(value, list | tuple):
        return f"[{','.join(_one(key, each) for each in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{name}:{_one(key, each)}' for name, each in value.items())}}}"
    if _is_code(value):
        return import_path(key, value)
    if _is_object(value):
        group = key.removesuffix("._target_")
        return not_importable.register_object(group, value, _MADE[group]())
    raise UserError(f"{key}={_short(value)}: is no number, text, list, class or function")


def _short(value: Any) -> str:
    line = getattr(value, "__qualname__", None) or " ".join(repr(value).split())
    return line if len(line) <= 60 else f"{line[:57]}..."


# --- code -----------------------------------------------------------------------------------------


def _module() -> type:
    from torch.nn import Module

    return Module


_MADE = {"network": _module, "loss": lambda: object}  # groups that take an object, and its kind


def _is_own(value: Any) -> bool:
    return _is_code(value) or _is_object(value)


def _is_code(value: Any) -> bool:
    return inspect.isclass(value) or inspect.isroutine(value)


def _is_object(value: Any) -> bool:
    """Return whether it is a network, a loss, an optimizer or a schedule that was made already."""
    return hasattr(value, "state_dict") and not isinstance(value, type)


def import_path(option: str, code: Any) -> str:
    """Return the shortest path from which a class or function can be imported.

    If it was defined in a notebook, in the script that runs, or inside a function, or is a lambda,
    that is a path into ``lrlab.not_importable``, which only this process knows.

    Args:
        option: the start of an error line.
        code: the class or function.

    Raises:
        UserError: the module now has another object of that name.
    """
    name, module = code.__qualname__, code.__module__ or ""
    option = option.removesuffix("._target_")
    if module == "__main__" or "<" in name:
        return not_importable.register_code(code)
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        path = ".".join(parts[:length])
        if _found(path, name) is code:
            return f"{path}.{name}"
    raise UserError(f"{option}={name}: {module}.{name} is another object now; import it again")


def _found(module: str, name: str) -> Any:
    """Return the module's object of that name; None if there is none."""
    try:
        found: Any = sys.modules.get(module) or import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return found
