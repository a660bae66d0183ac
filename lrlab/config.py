"""The config's schema, and one clear line for every value that cannot work.

Imports neither torch nor Hydra, so that ``--help`` and tab completion answer at once.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from lrlab.errors import UserError

GROUPS = ("data", "network", "loss", "optimizer", "schedule")
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass
class Config:
    """Every option of a run; ``conf/config.yaml`` holds the defaults and explains each one."""

    lr: float = MISSING
    epochs: int = MISSING
    batch_size: int = MISSING
    seed: int = MISSING
    device: str = MISSING
    threads: int | None = MISSING
    lanes: Any = MISSING
    save_model: bool = MISSING
    plots: bool = MISSING
    output: str = MISSING
    name: str = MISSING
    data: Any = MISSING
    network: Any = MISSING
    loss: Any = MISSING
    optimizer: Any = MISSING
    schedule: Any = MISSING


def folder(name: str) -> Path:
    """Where ``conf`` or ``experiments`` lies: in an installed lrlab, or beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def check(config: DictConfig) -> None:
    """Judge the values that need no data, network or device.

    Raises:
        UserError: naming the option, its value and what would work.
    """
    if not (math.isfinite(config.lr) and config.lr > 0):
        raise UserError(f"lr={config.lr:g}: must be a finite number above 0, for example lr=0.1")
    for key, example in (("epochs", 3), ("batch_size", 64)):
        if config[key] < 1:
            raise UserError(f"{key}={config[key]}: must be at least 1, for example {key}={example}")
    if not 0 <= config.seed < 2**53:  # what JSON and CSV readers keep whole
        raise UserError(f"seed={config.seed}: must be from 0 to 2**53 − 1, for example seed=0")
    if config.threads is not None and config.threads < 1:
        raise UserError(f"threads={config.threads}: must be at least 1, or null for all cores")
    lanes = config.lanes
    if lanes != "auto" and (isinstance(lanes, bool) or not isinstance(lanes, int) or lanes < 1):
        raise UserError(f"lanes={lanes}: must be auto or a whole number from 1, like lanes=8")
    if config.device.split(":")[0] not in DEVICES:
        raise UserError(
            f"device={config.device}: no such device{nearest(config.device, DEVICES)}; "
            f"choose from {', '.join(DEVICES)}"
        )
    for group in GROUPS:
        if not isinstance(config[group], DictConfig):
            raise UserError(f"{group}={config[group]}: must name a choice of the group {group}")


def check_folder(config: DictConfig) -> None:
    """Judge the options that say where the sweep's folder lies.

    Raises:
        UserError: naming the option, its value and what would work.
    """
    for key in ("output", "name"):
        if not config[key].strip():
            raise UserError(f"{key}={config[key]}: is empty; leave {key} out for the default")
    if Path(config.name).name != config.name or config.name == "..":
        raise UserError(
            f"name={config.name}: must be one folder's name, without / and ..; "
            "the folder above it is output, for example output=studies name=first"
        )


def nearest(word: str, words: Iterable[str]) -> str:
    """`` (did you mean X?)``, or nothing where no word is near."""
    found = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f" (did you mean {found[0]}?)" if found else ""


def keys(config: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """All dotted keys of a config, without Hydra's own."""
    for key, value in config.items():
        if not prefix and key == "hydra":
            continue
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from keys(value, f"{prefix}{key}.")


def known_keys() -> list[str]:
    """All dotted keys of the default config and of every choice of every group."""
    conf = folder("conf")
    found = {field.name for field in fields(Config)}
    for group in GROUPS:
        for file in (conf / group).glob("*.yaml"):
            found.update(keys(OmegaConf.to_container(OmegaConf.load(file)), f"{group}."))  # type: ignore[arg-type]
    return sorted(key for key in found if not key.endswith(("_target_", "_partial_")))


def _choices_with(group: str, setting: str) -> list[str]:
    files = sorted((folder("conf") / group).glob("*.yaml"))
    return [file.stem for file in files if setting in (OmegaConf.load(file) or {})]


FULL_KEY = r"full_key: (\S+)"
# What people call our options elsewhere.
OTHER_NAMES = {"learning_rate": "lr", "init_lr": "lr", "gpu": "device", "n_epochs": "epochs"}
WANTED = {
    "Float": "a number, for example 0.1",
    "Integer": "a whole number, for example 3",
    "Boolean": "true or false",
}


def one_line(error: Exception) -> str:
    """What a Hydra or OmegaConf error means to the user, in one line.

    Args:
        error: a ``HydraException`` or ``OmegaConfBaseException``.
    """
    parts = [str(error)]
    cause = error.__cause__
    while cause is not None:
        parts.append(str(cause))
        cause = cause.__cause__
    text = "\n".join(parts)

    if (override := getattr(error, "override", None)) is not None:
        return (
            f"{override}: not understood; write option=value, "
            "and quote what has spaces or brackets: 'name=\"my sweep\"'"
        )
    if match := re.search(r"Value '(.*)' of type '.*' could not be converted to (\w+)", text):
        value, kind = match.groups()
        key = _search(FULL_KEY, text)
        return f"{key}={value}: must be {WANTED.get(kind, kind.lower())}"
    if match := re.search(r"Error merging override (\S+)\s+field '(\w+)' is not Optional", text):
        return f"{match[1]}: {match[2]} needs a value"
    if "Config group override must be a string" in text:
        return "a group takes the name of a choice, like data=mnist or network=cnn"
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1]
        known = known_keys()
        if key in known:
            group, _, setting = key.partition(".")
            having = ", ".join(_choices_with(group, setting))
            return f"{key}: not a setting of this {group}; {group}={having} has it"
        alike = [word for word in known if ("." in word) == ("." in key)]
        hint = nearest(OTHER_NAMES.get(key, key), alike) if not key.startswith("hydra.") else ""
        return (
            f"{key}: no such option{hint}; "
            f"`python -m lrlab.sweep --help` lists them, +{key}=… adds a new one"
        )
    if match := re.search(r"(?:Could not find|Could not load) '([^']+)/([^'/]*)'", text):
        group, choice = match.groups()
        listing = text.partition("Available options in")[2].partition("Config search path")[0]
        choices = [line.strip() for line in listing.splitlines() if line.startswith("\t")]
        listed = f"; choose from {', '.join(choices)}" if choices else ""
        return f"{group}={choice}: no such choice{nearest(choice, choices)}{listed}"
    if match := re.search(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"+{match[1]}: is there already; write {match[1]}=… without the +"
    if "Missing mandatory value" in text:
        key = _search(r"(?:Missing mandatory value: |full_key: )(\S+)", text)
        return f"{key}: needs a value, give it as {key}=…"
    if match := re.search(r"Value '(.*)' is not a valid bool", text):
        return f"{_search(FULL_KEY, text)}={match[1]}: must be true or false"
    if match := re.search(r"Missing key (\S+)", text):
        return f"~{match[1]}: cannot be left out"
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _search(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else "?"
