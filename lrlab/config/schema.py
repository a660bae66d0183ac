"""Define the schema of the config: its options, groups and objectives, and `conf/`'s choices.

It imports neither torch nor Hydra, so that ``--help`` and tab completion answer at once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from lrlab.config import yaml_text
from lrlab.config.recipe import RECIPE as RECIPE

GROUPS = ("data", "network", "loss", "optimizer", "schedule")  # groups of a run
SWEEP_GROUPS = ("sampler", "pruner", "tracking")  # groups of the sweep as a whole
DEVICES = ("auto", "cpu", "cuda", "mps")
DIAGNOSTICS = ("default", "off", "full")
PRECISIONS = ("float32", "tf32", "bf16", "float64")

# The quantities that name the best run, and their direction.
OBJECTIVES = {
    "val_loss": "minimize",
    "val_acc": "maximize",
    "train_loss": "minimize",
    "seconds_to_target": "minimize",
    "steps_to_target": "minimize",
}

NUMBER = r"([+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf|nan))"
INTERVAL = re.compile(rf"{NUMBER}\.\.{NUMBER}")  # 1e-4..1

# Options of the sweep as a whole: a list of values of these makes no runs.
NOT_SWEPT = (
    *("name", "output", "plots", "lanes", "objective", "target", "n_trials", "timeout", "points"),
    *("storage", "workers", "lease", "checkpoint_every", "diagnostics", "source", "profile"),
    *("pad", "capture", "lane_dropout", "memory_limit", "budget"),
    *SWEEP_GROUPS,
)

# Options that an older run lacks, and what that means.
NEUTRAL = {
    **RECIPE,
    "loss.label_smoothing": 0.0,
    "optimizer.groups": None,
    "data.integers": "auto",  # what trained on floats still does
    "loss.ignore_index": None,
    "loss.class_axis": None,
}


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
    # With defaults, because the saved configs of older runs lack them.
    memory_limit: Any = "auto"
    accumulate: int = 1
    clip_grad_norm: float | None = None
    ema: float | None = None
    objective: str = "val_loss"
    target: float | None = None
    n_trials: int | None = None
    timeout: float | None = None
    points: int | None = None
    budget: Any = None
    storage: str = "journal"
    workers: Any = 1
    lease: float = 60
    checkpoint_every: Any = "auto"
    diagnostics: Any = "off"
    profile: bool = False
    precision: str = "float32"
    pad: Any = None
    capture: bool = True
    lane_dropout: bool = False
    source: str | None = None
    sampler: Any = None
    pruner: Any = None
    tracking: Any = None


def folder(name: str) -> Path:
    """Return the folder of ``conf`` or ``experiments``: in an installed lrlab, or in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def diagnostics(config: Mapping[str, Any]) -> str:
    """Return ``default``, ``full`` or ``off``; a plain off in YAML is read as false."""
    value = config.get("diagnostics", "off")
    return "off" if value is False else value


def direction(objective: str) -> str:
    """Return ``minimize`` or ``maximize``, Optuna's words."""
    return OBJECTIVES[objective]


def nearest(word: object, words: Iterable[str]) -> str:
    """Return `` (did you mean X?)``, or nothing if no word is near; a config may hold no word."""
    found = difflib.get_close_matches(str(word)[:200], list(words), n=1, cutoff=0.5)
    return f" (did you mean {found[0]}?)" if found else ""


def no_such(typed: str, what: str, word: object, choices: Collection[str]) -> str:
    """Return the line for a word that is none of the choices.

    Args:
        typed: as the user typed it, to begin the line with.
        what: what the choices are.
    """
    return f"{typed}: no such {what}{nearest(word, choices)}; choose from {', '.join(choices)}"


def keys(config: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """Return all dotted keys of a config, without Hydra's own."""
    for key, value in config.items():
        if not prefix and key == "hydra":
            continue
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from keys(value, f"{prefix}{key}.")


def flat(config: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a nested config by dotted key; an empty mapping is a value."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def known_keys() -> list[str]:
    """Return all dotted keys of the default config and of every choice of every group."""
    conf = folder("conf")
    found = {field.name for field in fields(Config)}
    for group in (*GROUPS, *SWEEP_GROUPS):
        for file in (conf / group).glob("*.yaml"):
            found.update(keys(yaml_text.load(file), f"{group}."))
    return sorted(key for key in found if not key.endswith(("_target_", "_partial_")))


def default_choices() -> dict[str, str]:
    """Return the choice of each group in lrlab's own config."""
    entries = yaml_text.load(folder("conf") / "config.yaml")["defaults"]
    return {
        str(group): str(choice)
        for entry in entries
        if isinstance(entry, Mapping)
        for group, choice in entry.items()
        if not str(group).startswith("override ")
    }


def choices_with(group: str, setting: str) -> list[str]:
    """Return the choices of a group that have a setting."""
    files = sorted((folder("conf") / group).glob("*.yaml"))
    return [file.stem for file in files if setting in (yaml_text.load(file) or {})]
