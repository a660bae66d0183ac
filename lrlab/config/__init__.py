"""The config's schema, and one clear line for every value that cannot work.

Imports neither torch nor Hydra, so that ``--help`` and tab completion answer at once.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import shlex
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from lrlab.config import yaml_text
from lrlab.errors import UserError

GROUPS = ("data", "network", "loss", "optimizer", "schedule")  # of a run
SWEEP_GROUPS = ("sampler", "pruner", "tracking")  # of the sweep as a whole
DEVICES = ("auto", "cpu", "cuda", "mps")
DIAGNOSTICS = ("default", "off", "full")
PRECISIONS = ("float32", "tf32", "bf16")

# What may be best, and which way.
OBJECTIVES = {
    "val_loss": "minimize",
    "val_acc": "maximize",
    "train_loss": "minimize",
    "seconds_to_target": "minimize",
    "steps_to_target": "minimize",
}

_NUMBER = r"([+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf|nan))"
INTERVAL = re.compile(rf"{_NUMBER}\.\.{_NUMBER}")  # 1e-4..1

# Units of memory: decimal as disks are sold, and binary.
BYTES = {"b": 1} | {
    f"{prefix}{binary}b": (1024 if binary else 1000) ** power
    for power, prefix in enumerate("kmgt", start=1)
    for binary in ("", "i")
}
_AMOUNT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*((?:[kmgt]i?)?)b?", re.IGNORECASE)

MOST_RUNS = 100_000  # of a sweep: each is judged, and has a folder
MOST_STEPS = 10**8  # of a run: the lr of each is kept in memory
MOST_THREADS = 1024
LEAST_MOST_WORKERS = 64  # so many may be asked for on any machine
MOST_SECONDS = 1e9  # what a system can be asked to wait is not much more
LONGEST_NAME = 200  # bytes; most file systems take 255, and other folders are named after it

# What belongs to the sweep as a whole: a list of values of these makes no runs.
NOT_SWEPT = (
    *("name", "output", "plots", "lanes", "objective", "target", "n_trials", "timeout", "points"),
    *("storage", "workers", "lease", "checkpoint_every", "diagnostics", "source", "profile"),
    *("pad", "capture", "memory_limit"),
    *SWEEP_GROUPS,
)


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
    # With defaults, since the saved configs of older runs lack them.
    memory_limit: Any = "auto"
    objective: str = "val_loss"
    target: float | None = None
    n_trials: int | None = None
    timeout: float | None = None
    points: int | None = None
    storage: str = "journal"
    workers: Any = 1
    lease: float = 60
    checkpoint_every: Any = "auto"
    diagnostics: Any = "off"
    profile: bool = False
    precision: str = "float32"
    pad: Any = None
    capture: bool = True
    source: str | None = None
    sampler: Any = None
    pruner: Any = None
    tracking: Any = None


def folder(name: str) -> Path:
    """Where ``conf`` or ``experiments`` lies: in an installed lrlab, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def check(config: DictConfig) -> None:
    """Judge the values that need no data, network or device.

    Raises:
        UserError: naming the option, its value and what would work.
    """
    from lrlab.config import learning_rate

    learning_rate.check(config.lr)
    for key, example in (("epochs", 3), ("batch_size", 64)):
        if config[key] < 1:
            raise UserError(f"{key}={config[key]}: must be at least 1, for example {key}={example}")
    if not 0 <= config.seed < 2**53:  # what JSON and CSV readers keep whole
        raise UserError(f"seed={config.seed}: must be from 0 to 2**53 − 1, for example seed=0")
    if config.threads is not None and config.threads < 1:
        raise UserError(f"threads={config.threads}: must be at least 1, or null for all cores")
    if (config.threads or 1) > MOST_THREADS:
        raise UserError(
            f"threads={config.threads}: more than {MOST_THREADS}, which no machine has cores for; "
            "use threads=null for all cores"
        )
    lanes = config.lanes
    if lanes != "auto" and not _is_count(lanes):
        raise UserError(f"lanes={lanes}: must be auto or a whole number from 1, like lanes=8")
    memory_limit(config)
    if config.device.split(":")[0] not in DEVICES:
        raise UserError(
            f"device={config.device}: no such device{nearest(config.device, DEVICES)}; "
            f"choose from {', '.join(DEVICES)}"
        )
    if diagnostics(config) not in DIAGNOSTICS:
        raise UserError(
            f"diagnostics={config.diagnostics}: no such choice"
            f"{nearest(str(config.diagnostics), DIAGNOSTICS)}; choose from {', '.join(DIAGNOSTICS)}"
        )
    precision, pad = config.precision, config.pad
    if precision not in PRECISIONS:
        raise UserError(
            f"precision={precision}: no such precision{nearest(precision, PRECISIONS)}; "
            f"choose from {', '.join(PRECISIONS)}"
        )
    if pad not in ("auto", None) and not _is_count(pad):
        raise UserError(f"pad={pad}: must be auto, null or a whole number of lanes, like pad=8")
    for group in GROUPS:
        if not isinstance(config[group], DictConfig):
            raise UserError(f"{group}={config[group]}: must name a choice of the group {group}")
    check_sweep(config)


def check_sweep(config: DictConfig) -> None:
    """Judge the options of the sweep as a whole.

    Raises:
        UserError: naming the option, its value and what would work.
    """
    objective, target = config.objective, config.target
    if objective not in OBJECTIVES:
        raise UserError(
            f"objective={objective}: no such objective{nearest(objective, OBJECTIVES)}; "
            f"choose from {', '.join(OBJECTIVES)}"
        )
    if target is None and objective.endswith("_to_target"):
        raise UserError(
            f"objective={objective}: needs the val_loss to be reached, for example target=0.1"
        )
    for key, value, example in (
        ("target", target, 0.1),
        ("timeout", config.timeout, 3600),
        ("lease", config.lease, 60),
    ):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UserError(
                f"{key}={value:g}: must be a finite number above 0, for example {key}={example}"
            )
        if key != "target" and (value or 0) > MOST_SECONDS:
            raise UserError(f"{key}={value:g}: more seconds than anybody waits, at most 1e9")
    for key, least, example in (("n_trials", 1, 20), ("points", 2, 13)):
        if config[key] is not None and config[key] < least:
            raise UserError(
                f"{key}={config[key]}: must be at least {least}, for example {key}={example}"
            )
        if (config[key] or 0) > MOST_RUNS:
            raise UserError(f"{key}={config[key]}: more than {MOST_RUNS:,} runs; use fewer")
    workers, every = config.workers, config.checkpoint_every
    if workers != "auto" and not _is_count(workers):
        raise UserError(f"workers={workers}: must be auto or a whole number from 1, like workers=4")
    if workers != "auto" and workers > (most := max(LEAST_MOST_WORKERS, os.cpu_count() or 1)):
        raise UserError(f"workers={workers}: more processes than are wise here; at most {most}")
    if every not in ("auto", None) and not _is_count(every):
        raise UserError(
            f"checkpoint_every={every}: must be auto, null or a whole number of epochs from 1, "
            "like checkpoint_every=5"
        )
    if config.storage != "journal" and not re.match(r"[a-z][a-z0-9+]*://.", config.storage):
        from lrlab.config.passwords import masked

        raise UserError(
            f"storage={masked(config.storage)}: must be journal or the URL of a database, "
            "like storage=postgresql://user@host/database"
        )
    for group in SWEEP_GROUPS:
        node = config[group]
        if not (node is None or isinstance(node, DictConfig)):
            raise UserError(f"{group}={node}: must name a choice of the group {group}")
    pruner = config.pruner
    if pruner is not None and str(pruner.get("_target_", "")).endswith(".ThresholdPruner"):
        bound = "lower" if direction(objective) == "maximize" else "upper"
        if pruner.get("lower") is None and pruner.get("upper") is None:
            raise UserError(
                f"pruner=threshold: needs a bound, for example pruner.{bound}="
                + ("0.5" if bound == "lower" else "2.3")
            )


def diagnostics(config: Mapping[str, Any]) -> str:
    """``default``, ``full`` or ``off``; a plain off in YAML is read as false."""
    value = config.get("diagnostics", "off")
    return "off" if value is False else value


def memory_limit(config: Mapping[str, Any]) -> int | None:
    """``memory_limit`` in bytes; None for auto.

    Raises:
        UserError: it is no amount of memory.
    """
    told = config.get("memory_limit", "auto")
    if told == "auto":
        return None
    number, unit = told, ""
    if isinstance(told, str) and (match := _AMOUNT.fullmatch(told.strip())):
        number, unit = float(match[1]), match[2].lower()  # 100M as 100MB
    if isinstance(number, int | float) and not isinstance(number, bool):
        found = number * BYTES[f"{unit}b"]
        if 1 <= found < math.inf:
            return int(found)
    raise UserError(
        f"memory_limit={told}: must be auto or an amount of memory, like memory_limit=2GB, 500MB "
        "or 1.5GiB"
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def direction(objective: str) -> str:
    """``minimize`` or ``maximize``, Optuna's words."""
    return OBJECTIVES[objective]


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
    size = len(config.name.encode("utf-8", errors="surrogateescape"))
    if size > LONGEST_NAME:
        raise UserError(f"name={config.name}: has {size} bytes; use at most {LONGEST_NAME}")
    for key in ("output", "name"):
        if "\0" in config[key]:
            raise UserError(f"{key}={config[key]}: is no path, it holds a null byte")
        if any(unicodedata.category(letter) == "Cc" for letter in config[key]):
            raise UserError(f"{key}={config[key]}: holds a line end or another control character")


def nearest(word: object, words: Iterable[str]) -> str:
    """`` (did you mean X?)``, or nothing where no word is near; a config may hold no word."""
    found = difflib.get_close_matches(str(word)[:200], list(words), n=1, cutoff=0.5)
    return f" (did you mean {found[0]}?)" if found else ""


def keys(config: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """All dotted keys of a config, without Hydra's own."""
    for key, value in config.items():
        if not prefix and key == "hydra":
            continue
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from keys(value, f"{prefix}{key}.")


def flat(config: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a nested config by dotted key; an empty mapping is a value."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def known_keys() -> list[str]:
    """All dotted keys of the default config and of every choice of every group."""
    conf = folder("conf")
    found = {field.name for field in fields(Config)}
    for group in (*GROUPS, *SWEEP_GROUPS):
        for file in (conf / group).glob("*.yaml"):
            found.update(keys(yaml_text.load(file), f"{group}."))
    return sorted(key for key in found if not key.endswith(("_target_", "_partial_")))


def choices_with(group: str, setting: str) -> list[str]:
    """The choices of a group that have a setting."""
    files = sorted((folder("conf") / group).glob("*.yaml"))
    return [file.stem for file in files if setting in (yaml_text.load(file) or {})]


FULL_KEY = r"full_key: (\S+)"
# An example of each option that is a number, where its value is no word at all.
NUMBERS = {"lr": 0.1, "epochs": 3, "batch_size": 64, "seed": 0, "points": 13, "n_trials": 20}
WANTED = {
    "Float": "a number, for example 0.1",
    "Integer": "a whole number, for example 3",
    "Boolean": "true or false",
}


def one_line(error: Exception, chosen: Mapping[str, str] | None = None) -> str:
    """What a Hydra or OmegaConf error means to the user, in one line.

    Args:
        error: a ``HydraException`` or ``OmegaConfBaseException``.
        chosen: what was chosen in the groups, where it is known.
    """
    parts = [str(error)]
    cause = error.__cause__
    while cause is not None:
        parts.append(str(cause))
        cause = cause.__cause__
    text = "\n".join(parts)

    if isinstance(error, InterpolationResolutionError) and error.child_node is not None:
        return _wrong_reference(error, text)
    if match := re.search(r"Error resolving interpolation '(.*)', possible .*keys: (.*)", text):
        return (
            f"{match[1]}: stands for the choice of a group, and there it can name only another "
            f"group ({match[2]}); write the choice's name"
        )
    if (override := getattr(error, "override", None)) is not None:
        return _not_understood(str(override))
    if match := re.search(r"Value '(.*)' of type '.*' could not be converted to (\w+)", text):
        value, kind = match.groups()
        key = _search(FULL_KEY, text)
        if INTERVAL.fullmatch(value):
            return misplaced_interval(key, value)
        return f"{key}={value}: must be {WANTED.get(kind, kind.lower())}"
    if match := re.search(r"Error merging override (\S+)\s+field '(\w+)' is not Optional", text):
        return f"{match[1]}: {match[2]} needs a value"
    if (override := _search(r"input_line='(\S*)'", text)) != "?":
        return f"{override}: not understood; write option=value, or ~option to leave one out"
    if match := re.search(r"Error merging override (\S+)\s+Cannot convert '\w+' to string", text):
        return f"{match[1]}: must be a text"
    if "to string: " in text and re.search(r"Cannot convert '\w+' to string", text):
        return f"{_search(FULL_KEY, text)}: must be a text"
    if match := re.search(r"Error merging override (.*)\s+Cannot merge \w+ with (List|Dict)", text):
        wanted = "a list, like [1,2]" if match[2] == "List" else "settings by their names"
        return f"{match[1]}: must be {wanted}"
    if match := re.search(r"Could not delete from config\. '(.+)' does not exist", text):
        return f"~{match[1]}: there is no such option that could be left out"
    if match := re.search(r"Could not delete '(.*)'\. No match", text):
        return f"~{match[1]}: there is no such group or choice that could be left out"
    if match := re.search(r"The value of '(\S+)' is (.*) and not (.*)\.", text):
        return f"~{match[1]}={match[3]}: is {match[2]}; ~{match[1]} leaves it out"
    if match := re.search(r"Override (\S+) looks .* config group '(.*)' does not exist", text):
        near = nearest(match[2], (*GROUPS, *SWEEP_GROUPS))
        return f"{match[1]}: there is no group {match[2]}{near}"
    if match := re.search(r"force-add of config groups is not supported: '([^=]*)=", text):
        group = match[1].lstrip("+")
        return f"{match[1]}: is a group; choose from it without signs, as {group}=…"
    if "Config group override must be a string" in text:
        return "a group takes the name of a choice, like data=mnist or network=cnn"
    if match := re.search(r"(?s)Error in call to target '([\w.]+)'.*TypeError", text):
        name = match[1].rpartition(".")[2]
        part = "sweeper" if "sweep" in name.lower() else "launcher"
        wrong = re.search(r"unexpected keyword argument '(\w+)'", text)
        key = f"hydra.{part}.{wrong[1]}" if wrong else f"hydra.{part}"
        none = f"{name} has no such setting" if wrong else f"{name} has no settings"
        return f"{key}: {none}; leave it out"
    if match := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '(.*)'", text):
        return f"{match[1]}: several values, where one run is trained or shown; give one value"
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1]
        known = known_keys()
        if key in known:
            group, _, setting = key.partition(".")
            having = ", ".join(choices_with(group, setting))
            this = f"{group}={chosen[group]}" if chosen and group in chosen else f"this {group}"
            return f"{key}: not a setting of {this}; {group}={having} has it"
        from lrlab.config import wishes

        return wishes.no_such(key)
    if match := re.search(r"(?:Could not find|Could not load) '([^']+)/([^'/]*)'", text):
        group, choice = match.groups()
        listing = text.partition("Available options in")[2].partition("Config search path")[0]
        choices = [line.strip() for line in listing.splitlines() if line.startswith("\t")]
        listed = f"; choose from {', '.join(choices)}" if choices else ""
        if group.partition("/")[0] == "data" and "." in choice:
            choice, group = f"{group}/{choice}".removeprefix("data/"), "data"
            listed = f"; a file is read by data=csv data.path={choice} data.label=…, or data=arrays"
            return f"{group}={choice}: no such choice{listed}"
        return f"{group}={choice}: no such choice{nearest(choice, choices)}{listed}"
    if match := re.search(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"+{match[1]}: is there already; write {match[1]}=… without the +"
    if "Missing mandatory value" in text:
        key = _search(r"(?:Missing mandatory value: |full_key: )(\S+)", text)
        return f"{key}: needs a value, give it as {key}=…"
    if match := re.search(r"Value '(.*)' is not a valid bool", text):
        return f"{_search(FULL_KEY, text)}={match[1]}: must be true or false"
    if match := re.search(r"In '(.*)': .* raised while composing config:\s+Key '(\w+)'", text):
        return _unknown_in_file(match[1], _search(FULL_KEY, text))
    if match := re.search(r"(?:Missing key |Key ')(\w+)", text):
        return f"~{match[1]}: cannot be left out"
    inner = re.compile(r"\s*(full_key|object_type|reference_type)\b")  # Hydra's own
    lines = [line.strip() for line in text.splitlines() if not inner.match(line)]
    return " ".join(dict.fromkeys(line for line in lines if line))


def _unknown_in_file(file: str, key: str) -> str:
    """The line for a key that the schema does not have, in a config of the user's own."""
    if file.partition("/")[0] == key:  # a group of the user's own
        return (
            f"{key}={file.partition('/')[2]}: nothing reads what it sets; the file {file}.yaml "
            "must begin with the line `# @package _global_`"
        )
    from lrlab.config import wishes

    return f"{file}.yaml: {wishes.no_such(key)}"


def _not_understood(word: str) -> str:
    """The line for a word that Hydra's grammar does not take."""
    key, equals, text = word.partition("=")
    line = f"{word}: not understood; write option=value"
    if not (equals and text and re.fullmatch(r"\+{0,2}[A-Za-z_][\w.]*", key, re.ASCII)):
        return line
    if key.lstrip("+") in NUMBERS:
        return f"{line}, for example {key}={NUMBERS[key.lstrip('+')]}"
    from lrlab.config.spelling import quoted

    return (
        f"{line}, and where the value is a text, quote it: {shlex.quote(f'{key}={quoted(text)}')}"
    )


def _wrong_reference(error: InterpolationResolutionError, text: str) -> str:
    """The line for a value such as ``${lr}`` that stands for no other one."""
    key, node = str(error.full_key), error.child_node
    assert node is not None
    value = node._value()
    wanted = WANTED.get(type(node).__name__.removesuffix("Node"), "a value")
    instead = f"give {wanted}, or refer to another option that has one"
    if "Recursive interpolation" in text or "Interpolation to parent node" in text:
        way = [key]
        while isinstance(value, str) and (match := re.fullmatch(r"\$\{([\w.]+)\}", value)):
            way.append(match[1])
            if match[1] in way[:-1]:
                break
            found = OmegaConf.to_container(node._get_root(), resolve=False)
            value = flat(found).get(match[1]) if isinstance(found, dict) else None
        by = f", by way of {', '.join(way[1:-1])}" if len(way) > 2 and way[-1] == key else ""
        return f"{key}={node._value()}: refers to itself{by}; {instead}"
    if match := re.search(r"Interpolation key '(.*)' not found", text):
        near = "" if match[1].startswith("hydra.") else nearest(match[1], known_keys())
        return f"{key}={value}: there is no option {match[1]}{near}; {instead}"
    if match := re.search(r"Unsupported interpolation type (\S+)", text):
        return f"{key}={value}: there is no resolver {match[1]}; {instead}"
    if match := re.search(r"Value '(.*)' of type '.*' could not be converted", text):
        return f"{key}={value}: stands for {match[1]}; {instead}"
    reason = text.splitlines()[0].rpartition("resolving interpolation: ")[2]
    return f"{key}={value}: leads nowhere ({reason}); {instead}"


def group_of_unknown_setting(error: Exception) -> str | None:
    """The group of which a Hydra error says that its choice lacks a setting, or None."""
    match = re.search(r"Could not override '([^'.]+)\.", str(error))
    return match[1] if match else None


def misplaced_interval(key: str, interval: str) -> str:
    """The line for an interval that stands where one value belongs."""
    return (
        f"{key}={interval}: an interval is searched by a sweep, and here stands one value; "
        f"in a YAML file it belongs in hydra.sweeper.params: {{{key}: {interval}}}"
    )


def _search(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else "?"
