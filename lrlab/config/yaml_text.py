"""Read and write YAML as OmegaConf does, as plain values and without making a config.

OmegaConf reads with PyYAML's parser in Python, and makes a node of each value.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_omega_conf_dumper, get_yaml_loader


def read(text: str) -> Any:
    """Return ``OmegaConf.to_container(OmegaConf.create(text))``; None for an empty text."""
    loader = _loader()
    return yaml.load(text, Loader=loader)


def load(file: Path) -> Any:
    """Call ``read`` on a file."""
    return read(file.read_text(encoding="utf-8"))


def record(text: str, plain: bool = False) -> Any:
    """Read a YAML record, which may be damaged or come from elsewhere; dates are texts.

    lrlab writes no aliases, from which a short text can make more than memory holds. It writes no
    key twice, and no whole number that is too large for a float.

    Args:
        plain: read numbers as YAML does (``1e-3`` is a text), and no paths.

    Raises:
        yaml.YAMLError: it is no YAML, or has one of these.
    """
    check_aliases(text)
    try:
        loader = _strict(plain)
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # from a value that does not fit its tag, !!timestamp 2024-02-31; or from thousands of
        # brackets
        raise yaml.YAMLError(f"has a value that cannot be read ({error})") from None


def check_aliases(text: str) -> None:
    """Raise ``yaml.YAMLError`` if a YAML text has aliases."""
    if not re.search(r"(^|[\s\[{,:?-])\*\S", text):  # quick, and rarely true
        return
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=loader)):
        raise yaml.YAMLError("has aliases, which no record of lrlab has")


def write(value: Any) -> str:
    """Return the text of plain containers, as ``OmegaConf.to_yaml`` writes them."""
    how: dict[str, Any] = {"default_flow_style": False, "allow_unicode": True, "sort_keys": False}
    return yaml.dump(value, Dumper=_dumper(), **how)


@functools.cache
def _dumper() -> Any:
    """Return OmegaConf's dumper; it escapes the rarer line ends, which single quotes would fold."""

    class Dumper(get_omega_conf_dumper()):  # type: ignore[misc]
        def analyze_scalar(self, scalar: str) -> Any:
            found = super().analyze_scalar(scalar)
            if any(c in scalar for c in "\x85\u2028\u2029"):
                found.allow_single_quoted = found.allow_block = False
                found.allow_flow_plain = found.allow_block_plain = False
            return found

    return Dumper


@functools.cache
def _loader() -> Any:
    """Return OmegaConf's loader on the parser in C, ten times as fast; its own without that."""
    theirs = get_yaml_loader()
    if not hasattr(yaml, "CSafeLoader"):
        return theirs
    names = ("yaml_implicit_resolvers", "yaml_constructors")
    members = {name: vars(theirs)[name] for name in names}
    return type("Loader", (yaml.CSafeLoader,), members)


_INT, _DATE = "tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp"


@functools.cache
def _strict(plain: bool) -> Any:
    """Return a loader, in C if possible, that refuses anything no record has."""
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader) if plain else _loader()

    def mapping(self: Any, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                raise yaml.YAMLError(f"has the key {key.value} twice, line {_line(key)}")
            seen.add((key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key))
        return base.construct_mapping(self, node, deep=deep)

    def whole(self: Any, node: Any) -> int:
        if len(node.value) > 1000 or abs(found := self.construct_yaml_int(node)) >= 2**1023:
            raise yaml.YAMLError(f"has a number of {len(node.value)} digits, line {_line(node)}")
        return found

    resolvers = {
        first: [each for each in each_of if each[0] != _DATE]
        for first, each_of in base.yaml_implicit_resolvers.items()
    }
    members = {
        "construct_mapping": mapping,
        "yaml_constructors": {**base.yaml_constructors, _INT: whole},
        "yaml_implicit_resolvers": resolvers,
    }
    return type("Loader", (base,), members)


def _line(node: Any) -> int:
    return node.start_mark.line + 1
