"""YAML as OmegaConf reads and writes it, where no config is wanted but only what it holds.

OmegaConf reads with PyYAML's parser in Python, and makes a node of each value.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_omega_conf_dumper, get_yaml_loader


def read(text: str) -> Any:
    """What ``OmegaConf.to_container(OmegaConf.create(text))`` holds; None of an empty text.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    loader = _loader()
    return yaml.load(text, Loader=loader)


def load(file: Path) -> Any:
    """``read`` of a file."""
    return read(file.read_text(encoding="utf-8"))


def write(value: Any) -> str:
    """The text of plain containers, as ``OmegaConf.to_yaml`` writes them."""
    return yaml.dump(
        value,
        default_flow_style=False,
        allow_unicode=True,
        sort_keys=False,
        Dumper=get_omega_conf_dumper(),
    )


@functools.cache
def _loader() -> Any:
    """OmegaConf's loader on the parser in C, ten times as fast; its own where that is not there."""
    theirs = get_yaml_loader()
    if not hasattr(yaml, "CSafeLoader"):
        return theirs
    names = ("yaml_implicit_resolvers", "yaml_constructors")
    members = {name: vars(theirs)[name] for name in names}
    return type("Loader", (yaml.CSafeLoader,), members)
