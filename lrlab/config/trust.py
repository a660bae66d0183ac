"""Limit what a record from elsewhere may name, unless the user allows more.

A saved config names classes and functions, and training it again calls them. From a config from
elsewhere lrlab calls only those that can do nothing but train, which `is_known` finds. All others
are listed, and need ``trust=true``. Words typed on a command line are the user's own, and trusted.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

import lrlab
from lrlab import not_importable
from lrlab.config import schema
from lrlab.config.known import SETS, is_known, located
from lrlab.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

TRUST = "trust=true"

RESOLVERS = ("now",)  # the others read the environment, or turn texts into configs

# Hydra's own options that cannot start, write or read anything elsewhere.
_HYDRAS = re.compile(
    r"hydra\.mode=MULTIRUN|hydra/sweeper=lrlab|hydra/launcher=(lanes|basic|joblib)"
    r"|hydra\.sweeper\.params[.=].*",
    re.DOTALL,
)
_KEY = re.compile(r"(?:\+\+|\+|~)?([^=\s]+)(?:=(.*))?", re.DOTALL)


def check(config: Any, groups: Sequence[str], of: str, remedy: str) -> None:
    """Refuse a saved config that would call or read something not known to be harmless.

    Args:
        config: a ``DictConfig`` with unresolved interpolations.
        groups: those that are instantiated.
        of: what it is the config of; the line begins with it.
        remedy: how to allow it, the command that the user would type.

    Raises:
        UserError: lists all that would be called.
    """
    refuse(_calls_of_texts(config), of, remedy)  # before any of them is resolved
    plain = _plain(config)
    refuse([each for group in groups for each in in_node(plain.get(group), group)], of, remedy)


def settled(
    config: Any, groups: Sequence[str], of: str, remedy: str, trusted: bool = False
) -> DictConfig:
    """Return a saved config with every interpolation replaced by its value, then checked.

    Only values that are read once are the checked ones. With another device, threads or diagnostics
    an interpolation could lead to another target, and ``${now:}`` changes each time.

    Args:
        config: a ``DictConfig`` with unresolved interpolations.
        groups: those that are instantiated.
        of: what it is the config of; the line begins with it.
        remedy: how to allow it, the command that the user would type.
        trusted: whether everything that it names may be called.

    Raises:
        UserError: lists all that would be called.
    """
    from omegaconf import DictConfig, OmegaConf

    if not trusted:
        refuse(_calls_of_texts(config), of, remedy)
    plain = _plain(config)
    if not trusted:
        refuse([each for group in groups for each in in_node(plain.get(group), group)], of, remedy)
    # its texts must stay the same when they are resolved again
    again = _literal(plain, lambda text: True)
    found = OmegaConf.merge(OmegaConf.structured(schema.Config), again)
    assert isinstance(found, DictConfig)
    return found


def _plain(config: Any) -> dict[Any, Any]:
    """Return a config as plain containers, with its interpolations resolved."""
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    assert isinstance(plain, dict)
    return plain


def _literal(node: Any, is_meant: Callable[[str], Any]) -> Any:
    """Return a node in which OmegaConf reads these texts literally, also those with ``${``."""
    from lrlab.config.words.spelling import literal

    if isinstance(node, dict):
        return {key: _literal(value, is_meant) for key, value in node.items()}
    if isinstance(node, list):
        return [_literal(value, is_meant) for value in node]
    return literal(node) if isinstance(node, str) and is_meant(node) else node


def leave_current_folder() -> None:
    """Import nothing more from the current folder, here or in a started process.

    It may have come from elsewhere. ``python -m`` looks there first. If lrlab itself is in it, it
    stays.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    lrlab.import_nothing_from_here()


def refuse(found: Sequence[str], of: str, remedy: str) -> None:
    """Raise ``UserError`` with a line that lists the findings; do nothing if there are none."""
    if found:
        listed = ", ".join(dict.fromkeys(found))
        raise UserError(
            f"{of}: names what lrlab does not know to be harmless: {listed}; nothing of it was "
            f"called. If it is yours, or you trust its sender: {remedy}"
        )


def _calls_of_texts(config: Any) -> list[str]:
    """Return what the resolvers in a config's texts would call, without calling any."""
    from omegaconf import OmegaConf

    raw = OmegaConf.to_container(config, resolve=False)
    return [
        f"{call} ({key})"
        for key, value in _leaves(raw, "")
        if isinstance(value, str)
        for call in _resolvers(value)
    ]


def uncalled(config: Any) -> dict[str, Any]:
    """Return a record's values with references resolved; texts that would call something stay."""
    from omegaconf import OmegaConf

    raw = _literal(OmegaConf.to_container(config, resolve=False), _resolvers)
    plain = OmegaConf.to_container(OmegaConf.create(raw), resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def in_node(node: Any, group: str) -> list[str]:
    """Return what a resolved node of a group would call that is not known to be harmless."""
    # an instantiated node becomes a config again, and its texts are resolved again
    again = [
        f"{value} ({key})"
        for key, value in _leaves(node, group)
        if isinstance(value, str) and "${" in value
    ]
    return again + _calls(node, group)


def _calls(node: Any, group: str) -> list[str]:
    found = []
    for key, each in _nodes(node, group):
        target = each["_target_"]
        if target in (None, "???", ""):
            continue
        not_importable.check(f"{key}._target_", target)
        if not isinstance(target, str) or not is_known(target, group if key == group else ""):
            found.append(f"{target} ({key})")
        elif target.startswith("torchvision.models."):
            found += [
                f"{target} with weights from the network ({key}.{name}; {name}=null needs none)"
                for name in _weights(target, each)
            ]
        elif target == "lrlab.own_data.torchvision_set":
            found += _set(each, key)
    return found


def _weights(target: str, node: Mapping[Any, Any]) -> list[str]:
    """Return the parameters of a torchvision builder that would make it download weights."""
    kinds = ("weights", "pretrained")
    call = located(target)
    values = {
        name: parameter.default
        for name, parameter in inspect.signature(call).parameters.items()
        if name.startswith(kinds) and parameter.default is not parameter.empty
    }
    values |= {str(name): value for name, value in node.items() if str(name).startswith(kinds)}
    found = [name for name, value in values.items() if value is not None and value is not False]
    # by position they could be given, too
    return found + (["_args_"] if inspect.isfunction(call) and node.get("_args_") else [])


def _set(node: Mapping[Any, Any], key: str) -> list[str]:
    arguments = node.get("arguments") or {}
    found = []
    if node.get("dataset") not in SETS:
        found.append(f"torchvision.datasets.{node.get('dataset')} ({key}.dataset)")
    if node.get("download") or (isinstance(arguments, Mapping) and arguments.get("download")):
        found.append(f"a download ({key}.download)")
    return found


def _nodes(node: Any, key: str) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Return all mappings with a ``_target_``, also those in lists."""
    return ((k, n) for k, n in _all(node, key) if isinstance(n, Mapping) and "_target_" in n)


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    return ((k, n) for k, n in _all(node, key) if not isinstance(n, Mapping | list | tuple))


def _all(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Return a node and everything in it, with dotted keys."""
    yield key, node
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _all(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list | tuple):
        for place, value in enumerate(node):
            yield from _all(value, f"{key}[{place}]")


def _resolvers(text: str) -> list[str]:
    """Return the interpolations in a text that call something, like ${oc.env:HOME}."""
    if "${" not in text:
        return []
    from omegaconf.errors import GrammarParseError
    from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser
    from omegaconf.grammar_parser import parse

    try:
        left: list[Any] = [parse(text)]
    except GrammarParseError:
        return [text]
    found = []
    while left:
        node = left.pop()
        if isinstance(node, OmegaConfGrammarParser.InterpolationResolverContext):
            name = node.resolverName()
            if name is None or name.getText() not in RESOLVERS:
                found.append(node.getText())
        left += node.getChildren() if hasattr(node, "getChildren") else ()
    return found


# --- command lines in a record --------------------------------------------------------------------


def in_words(words: Iterable[str]) -> list[str]:
    """Return what a record's overrides would do that is not known to be harmless, in words."""
    return [what for word in words for what in _in_word(word)]


def _in_word(word: str) -> list[str]:
    match = _KEY.fullmatch(word)
    if match is None or word.startswith("-"):  # --experimental-rerun would unpickle a file
        return [word]
    key, text = match[1], match[2] or ""
    package = key.rpartition("@")[2] if "@" in key else ""
    key = key.partition("@")[0]
    if "hydra" in package or key.startswith("hydra"):
        harmless = _HYDRAS.fullmatch(f"{key}={text}") and not package
        return [] if harmless and "_target_" not in word and "${" not in word else [word]
    if key == "storage" and text.strip("'\"") != "journal":
        return [f"a connection to {text}"]
    if key == "tracking.uri" and text not in ("null", ""):
        return [f"a connection to {text}"]
    is_choice = key in (*schema.GROUPS, *schema.SWEEP_GROUPS, "experiments")
    if "/" in key or (is_choice and ("/" in text or "\\" in text)):  # a file outside conf/
        return [word]
    if "_target_" in word or "${" in text:
        return _in_value(key, word)
    return []


def _in_value(key: str, word: str) -> list[str]:
    """Return the risk of an override that names a target, or holds an interpolation."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(word)
        swept = override.is_sweep_override() and not override.is_range_sweep()
        values = list(override.value().list) if swept else [override.value()]  # type: ignore[union-attr]
    except (HydraException, AttributeError, TypeError):
        return [word]

    def plain(value: Any) -> Any:
        if isinstance(value, QuotedString):
            return value.text
        if isinstance(value, Mapping):
            return {str(plain(name)): plain(each) for name, each in value.items()}
        return [plain(each) for each in value] if isinstance(value, list) else value

    group, _, rest = key.partition(".")
    found = []
    for value in map(plain, values):
        for part in reversed(rest.split(".") if rest else []):
            value = {part: value}
        found += [
            f"{call} ({name})"
            for name, each in _leaves(value, group)
            if isinstance(each, str)
            for call in _resolvers(each)
        ]
        found += _calls(value, group)
    return found


# --- a config file that lrlab wrote ---------------------------------------------------------------


def saved_config(words: Sequence[str]) -> Path | None:
    """Return the best.yaml that a command line trains again; None if it names none.

    Any other file that it names is the user's own config.

    Args:
        words: with the flags in full, as ``flags.first`` returns them.
    """
    named = dict(word.split("=", 1) for word in words if word.startswith("--config-"))
    name = named.get("--config-name", "").removesuffix(".yaml")
    folders = [named[flag] for flag in ("--config-path", "--config-dir") if flag in named]
    if Path(name).name != "best":
        return None
    files = [Path(folder) / f"{name}.yaml" for folder in folders]
    return next((file for file in files if file.exists()), None)


def in_best(text: str) -> list[str]:
    """Return what a best.yaml would call, or read elsewhere, that is not known to be harmless."""
    import yaml

    from lrlab.config import yaml_text

    try:
        saved = yaml_text.record(text, plain=True)
    except (yaml.YAMLError, RecursionError):
        saved = None
    if not isinstance(saved, dict):
        raise UserError("best.yaml: is damaged, no YAML of a config")
    saved = {key: value for key, value in saved.items() if key != "source"}
    hydra = saved.pop("hydra", None) or {}
    hydra = hydra if isinstance(hydra, dict) else {"": hydra}
    found = [f"{value} (hydra.{key})" for key, value in hydra.items()]
    defaults = saved.pop("defaults", None) or []
    for entry in defaults if isinstance(defaults, list) else [defaults]:
        found += [] if entry in ("config", "_self_") or _is_own_choice(entry) else [str(entry)]
    for key, value in saved.items():
        found += [
            f"{each} ({name})"
            for name, each in _leaves(value, str(key))
            if isinstance(each, str) and (_resolvers(each) or "\\${" in each)
        ]
        found += _calls(value, str(key))
    return found + list(_elsewhere(saved))


def _elsewhere(saved: Mapping[str, Any]) -> Iterator[str]:
    """Return the settings of a best.yaml with which a sweep would write or connect elsewhere."""
    for key, value in saved.items():
        if key == "storage" and value != "journal":
            yield f"a connection to {value} (storage)"
        elif key == "name":
            yield f"the folder's name {value} (name)"
        elif key == "output" and not _is_beneath(value):
            yield f"the folder {value} (output)"
        elif str(key).partition(".")[0] == "tracking":
            for name, each in _leaves(value, str(key)):
                is_uri = "uri" in name.lower() and each not in (None, "")
                if is_uri or (isinstance(each, str) and "${" in each):
                    yield f"a connection to {each} ({name})"


def _is_beneath(folder: Any) -> bool:
    """Return whether a folder is in the current one, by its text, on any system."""
    if not isinstance(folder, str) or "${" in folder or folder.startswith("~"):
        return False
    path = PureWindowsPath(folder)  # it knows both / and \
    return not path.anchor and ".." not in path.parts


def _is_own_choice(entry: Any) -> bool:
    """Return whether an entry of a defaults list is a choice that comes with lrlab."""
    if not isinstance(entry, dict) or len(entry) != 1:
        return False
    (group, choice), *_ = entry.items()
    group = str(group).removeprefix("override ")
    if not isinstance(choice, str) or not re.fullmatch(r"\w+", choice):
        return False
    if group not in (*schema.GROUPS, *schema.SWEEP_GROUPS):
        return False
    return (schema.folder("conf") / group / f"{choice}.yaml").is_file()


def without_trust(words: Sequence[str]) -> tuple[list[str], bool]:
    """Return a command line without ``trust=true``, and whether it was there."""
    kept, trusted = [], False
    for word in words:
        key, equals, value = word.partition("=")
        if key != "trust" or not equals:
            kept.append(word)
        elif value.lower() in ("true", "false"):
            if len([word for word in words if word.startswith("trust=")]) > 1:
                raise UserError("trust: is given twice; keep one")
            trusted = value.lower() == "true"
        else:
            raise UserError(f"trust={value}: must be true or false")
    return kept, trusted
