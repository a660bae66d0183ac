"""Write a config as OmegaConf does, in pieces, so that only the parts that differ are rewritten."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

from omegaconf import DictConfig, ListConfig, Node, OmegaConf

from lrlab.config import yaml_text

# The keys of hydra.yaml that differ from run to run.
TASK = ("hydra", "overrides", "task")
JOB_ID = ("hydra", "job", "id")
JOB_NUM = ("hydra", "job", "num")
DIRNAME = ("hydra", "job", "override_dirname")
OUTPUT_DIR = ("hydra", "runtime", "output_dir")

_WORD = re.compile(r"[A-Za-z/][\w.,=+/\"\[\]-]*", re.ASCII)
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_NOT_TEXT = ("y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf", "infinity")


def parts(
    node: DictConfig, changing: set[tuple[str, ...]], path: tuple[str, ...] = ()
) -> Iterator[str | tuple[str, ...]]:
    """Return a config's YAML in pieces: text, and the paths of the values that change."""
    for key in node:
        here = (*path, str(key))
        if here in changing:
            yield here
        elif any(other[: len(here)] == here for other in changing):
            yield "  " * len(path) + f"{key}:\n"
            yield from parts(node[key], changing, here)
        else:
            child = node._get_node(key)
            assert isinstance(child, Node)
            yield lines((*path, key), contents(child))


def contents(node: Node) -> Any:
    """Return a node in plain containers, interpolations as they are written."""
    if isinstance(node, DictConfig | ListConfig):
        return OmegaConf.to_container(node, enum_to_str=True)
    value = node._value()
    return value.name if isinstance(value, Enum) else value


def lines(path: tuple[Any, ...], value: Any) -> str:
    """Return a value's lines in a YAML text, as OmegaConf writes it at this position.

    The position matters: long lines are folded.
    """
    text, key = _plain(value), _plain(path[-1])
    if text is not None and key is not None and len(key) < 100:
        return "  " * (len(path) - 1) + f"{key}: {text}\n"  # the dumper is slow
    for key in reversed(path):
        value = {key: value}
    lines = yaml_text.write(value).splitlines(keepends=True)
    return "".join(lines[len(path) - 1 :])


def _plain(value: Any) -> str | None:
    """Return a value's text if it needs no quotes for certain; None: it may need them."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    if type(value) is int:
        return str(value)
    if type(value) is not str or value.lower() in _NOT_TEXT:
        return None
    is_plain = _NAME.fullmatch(value) or ("=" in value and _WORD.fullmatch(value))
    return value if is_plain else None


@functools.lru_cache(maxsize=4096)
def item(path: tuple[str, ...], text: str) -> str:
    """Return one text of a list at the path."""
    if "=" in text and _WORD.fullmatch(text):
        return "  " * max(0, len(path) - 1) + f"- {text}\n"
    value: Any = [text]
    for key in reversed(path):
        value = {key: value}
    lines = yaml_text.write(value).splitlines(keepends=True)
    return "".join(lines[len(path) :])
