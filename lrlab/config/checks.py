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

from lrlab.config import learning_rate
from lrlab.config.schema import (
    DEVICES,
    DIAGNOSTICS,
    GROUPS,
    OBJECTIVES,
    PRECISIONS,
    SWEEP_GROUPS,
    diagnostics,
    direction,
    nearest,
)
from lrlab.errors import UserError
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
    """Check the values that need no data, network or device.

    Raises:
        UserError: names the option, its value and what would work.
    """
    learning_rate.check(config.lr)
    for key, example in (("epochs", 3), ("batch_size", 64)):
        if config[key] < 1:
            raise UserError(f"{key}={config[key]}: must be at least 1, for example {key}={example}")
    if not 0 <= config.seed < 2**53:  # integers that JSON and CSV readers keep exact
        raise UserError(f"seed={config.seed}: must be from 0 to 2**53 − 1, for example seed=0")
    if config.threads is not None and config.threads < 1:
        raise UserError(f"threads={config.threads}: must be at least 1, or null for all cores")
    if (config.threads or 1) > MOST_THREADS:
        raise UserError(
            f"threads={config.threads}: more than {MOST_THREADS}, which no machine has cores for; "
            "use threads=null for all cores"
        )
    lanes = config.lanes
    if lanes != "auto" and not is_whole(lanes, 1):
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
    if pad not in ("auto", None) and not is_whole(pad, 1):
        raise UserError(f"pad={pad}: must be auto, null or a whole number of lanes, like pad=8")
    for group in GROUPS:
        if not isinstance(config[group], DictConfig):
            raise UserError(f"{group}={config[group]}: must name a choice of the group {group}")
    check_sweep(config)


def check_sweep(config: DictConfig) -> None:
    """Check the options of the sweep as a whole.

    Raises:
        UserError: names the option, its value and what would work.
    """
    objective, target = config.objective, config.target
    budget(config)
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
    if workers != "auto" and not is_whole(workers, 1):
        raise UserError(f"workers={workers}: must be auto or a whole number from 1, like workers=4")
    if workers != "auto" and workers > (most := max(LEAST_MOST_WORKERS, os.cpu_count() or 1)):
        raise UserError(f"workers={workers}: more processes than are wise here; at most {most}")
    if every not in ("auto", None) and not is_whole(every, 1):
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
    """Return ``memory_limit`` in bytes; None for auto.

    Raises:
        UserError: it is no amount of memory.
    """
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
    """Check the options that say where the sweep's folder is.

    Raises:
        UserError: names the option, its value and what would work.
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
