"""Check the values of a config that need no data, network or device.

Each wrong value gets one clear line.
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lrlab.config.schema import (
    DEVICES,
    DIAGNOSTICS,
    GROUPS,
    OBJECTIVES,
    PRECISIONS,
    SWEEP_GROUPS,
    diagnostics,
    direction,
    no_such,
)
from lrlab.errors import UserError, must_be
from lrlab.process.plain import is_real, is_whole

# Units of memory: decimal as disks are sold, and binary.
BYTES = {"b": 1} | {
    f"{prefix}{binary}b": (1024 if binary else 1000) ** power
    for power, prefix in enumerate("kmgt", start=1)
    for binary in ("", "i")
}
_AMOUNT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*((?:[kmgt]i?)?)b?", re.IGNORECASE)

MOST_RUNS = 100_000  # runs of a sweep: each is checked, and has a folder
MOST_STEPS = 10**8  # steps of a run: the lr of each is kept in memory
MOST_THREADS = 1024
LEAST_MOST_WORKERS = 64  # so many may be requested on any machine
MOST_SECONDS = 1e9  # systems hardly wait longer
LONGEST_NAME = 200  # bytes; most file systems take 255, and other folders are named after it


def check(config: DictConfig) -> None:
    """Check the values that need no data, network or device; each wrong one is a ``UserError``."""
    check_lr(config.lr)
    for key, example in (("epochs", 3), ("batch_size", 64), ("accumulate", 4)):
        if config[key] < 1:
            raise must_be(key, config[key], "at least 1", example)
    if not 0 <= config.seed < 2**53:  # integers that JSON and CSV readers keep exact
        raise must_be("seed", config.seed, "from 0 to 2**53 − 1", 0)
    if config.threads is not None and not 1 <= config.threads <= MOST_THREADS:
        limit = "at least 1" if config.threads < 1 else f"at most {MOST_THREADS}"
        raise must_be("threads", config.threads, f"{limit}, or null for all cores")
    clip = config.clip_grad_norm
    if clip is not None and not (math.isfinite(clip) and clip > 0):
        raise must_be("clip_grad_norm", f"{clip:g}", "null or a finite number above 0", 1)
    if config.ema is not None and not 0 < config.ema < 1:
        raise must_be("ema", f"{config.ema:g}", "null or between 0 and 1", 0.999)
    lanes = config.lanes
    if lanes != "auto" and not is_whole(lanes, 1):
        raise must_be("lanes", lanes, "auto or a whole number from 1", 8)
    memory_limit(config)
    for key, what, word, choices in (
        ("device", "device", config.device.split(":")[0], DEVICES),
        ("diagnostics", "choice", diagnostics(config), DIAGNOSTICS),
        ("precision", "precision", config.precision, PRECISIONS),
    ):
        if word not in choices:
            raise UserError(no_such(f"{key}={config[key]}", what, config[key], choices))
    pad = config.pad
    if pad not in ("auto", None) and not is_whole(pad, 1):
        raise must_be("pad", pad, "auto, null or a whole number of lanes", 8)
    for group in GROUPS:
        if not isinstance(config[group], DictConfig):
            raise UserError(f"{group}={config[group]}: must name a choice of the group {group}")
    check_sweep(config)


def check_lr(lr: float, subject: str = "", example: str = "lr=0.1") -> None:
    """Raise ``UserError`` unless the lr is a finite number above 0.

    Args:
        subject: the start of the line; by default the lr itself.
        example: a value that would work.
    """
    if not (math.isfinite(lr) and lr > 0):
        subject = subject or f"lr={lr:g}:"
        raise UserError(f"{subject} must be a finite number above 0, for example {example}")


def check_lr_range(low: float, high: float, typed: str, example: str) -> None:
    """Raise ``UserError`` unless both ends of a range are finite numbers above 0.

    Args:
        typed: the range as given.
        example: a range that would work.
    """
    for end in (low, high):
        check_lr(end, f"{typed}: its end {end:g}", example)


def check_sweep(config: DictConfig) -> None:
    """Check the options of the sweep as a whole."""
    objective, target = config.objective, config.target
    budget(config)
    if objective not in OBJECTIVES:
        raise UserError(no_such(f"objective={objective}", "objective", objective, OBJECTIVES))
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
            raise must_be(key, f"{value:g}", "a finite number above 0", example)
        if key != "target" and (value or 0) > MOST_SECONDS:
            raise must_be(key, f"{value:g}", "at most 1e9 seconds")
    for key, least, example in (("n_trials", 1, 20), ("points", 2, 13)):
        if config[key] is not None and config[key] < least:
            raise must_be(key, config[key], f"at least {least}", example)
        if (config[key] or 0) > MOST_RUNS:
            raise UserError(f"{key}={config[key]}: more than {MOST_RUNS:,} runs; use fewer")
    workers, every = config.workers, config.checkpoint_every
    if workers != "auto" and not is_whole(workers, 1):
        raise must_be("workers", workers, "auto or a whole number from 1", 4)
    if workers != "auto" and workers > (most := max(LEAST_MOST_WORKERS, os.cpu_count() or 1)):
        raise UserError(f"workers={workers}: more than this machine can use; use at most {most}")
    if every not in ("auto", None) and not is_whole(every, 1):
        raise must_be("checkpoint_every", every, "auto, null or a whole number of epochs from 1", 5)
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


_TIME = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+) *(s|m|h)?")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


def budget(config: Mapping[str, Any]) -> float | None:
    """Return ``budget`` in seconds; None for null.

    Raises:
        UserError: it is no time.
    """
    told = config.get("budget")
    if told is None:
        return None
    match = None if isinstance(told, bool) else _TIME.fullmatch(str(told).strip())
    found = float(match[1]) * _SECONDS[match[2] or "s"] if match else 0.0
    if not 0 < found <= MOST_SECONDS:
        raise UserError(f"budget={told}: must be null or a time above 0, like budget=60s, 5m or 2h")
    return found


def memory_limit(config: Mapping[str, Any]) -> int | None:
    """Return ``memory_limit`` in bytes, None for auto; raise ``UserError`` if it is no amount."""
    told = config.get("memory_limit", "auto")
    if told == "auto":
        return None
    number, unit = told, ""
    if isinstance(told, str) and (match := _AMOUNT.fullmatch(told.strip())):
        number, unit = float(match[1]), match[2].lower()  # 100M as 100MB
    if is_real(number):
        found = number * BYTES[f"{unit}b"]
        if 1 <= found < math.inf:
            return int(found)
    raise UserError(
        f"memory_limit={told}: must be auto or an amount of memory, like memory_limit=2GB, 500MB "
        "or 1.5GiB"
    )


def check_folder(config: DictConfig) -> None:
    """Check the options that say where the sweep's folder is."""
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
