"""Read the settings that runs were trained with from the records. Never imports torch."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lrlab import records
from lrlab.config.schema import GROUPS, NOT_SWEPT, OBJECTIVES, RECIPE, diagnostics, flat
from lrlab.errors import UserError
from lrlab.process.plain import is_real
from lrlab.tables.tidy import is_option

# Options that do not change the training: where it ran, and what it wrote. The diagnostics are
# settings here, because verdicts depend on them.
_BESIDE = {*NOT_SWEPT, "save_model", "device", "threads", "hydra"} - {"diagnostics"}


def of_runs(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Return each run's settings by dotted key, lists as text: ``optimizer.momentum``.

    One config is read for each combination of choices (network=mlp, optimizer=sgd ...): runs of
    equal choices differ only in swept options, which are in the table.

    Args:
        runs: as from `frames.runs`, of one sweep. Runs without a config get the table's settings.
    """
    bases: dict[tuple[str, ...], dict[str, Any]] = {}
    found = []
    swept = [name for name in map(str, runs.columns) if is_option(name)]
    for row in runs.to_dict("records"):
        choices = tuple(str(row.get(group)) for group in GROUPS)
        if not bases.get(choices):
            bases[choices] = _flat(Path(str(row["folder"])))
        told = {name: row.get(name) for name in ("lr", "seed", "epochs", "batch_size", *swept)}
        own: dict[str, Any] = dict(zip(GROUPS, choices, strict=True))
        own |= {name: value for name, value in told.items() if not _is_missing(value)}
        own |= {name: None for name in told if name in RECIPE and name not in own}  # swept, null
        found.append({**bases[choices], **own})
    return found


def objective(sweep: Path) -> str:
    """Return the objective that names the sweep's best run; val_loss if no config can be read."""
    from yaml import YAMLError

    try:
        saved = records.plain_yaml(records.read_sweep_config(sweep))
    except (UserError, OSError, ValueError, YAMLError, RecursionError):
        return "val_loss"
    found = str(saved.get("objective")) if isinstance(saved, dict) else ""
    return found if found in OBJECTIVES else "val_loss"


def command(sweep: Path) -> list[str]:
    """Return the words of the command that began the sweep; [] if it is not known.

    It comes from multirun.yaml, with the flags that named the user's own configs and the overrides
    of Hydra's options.
    """
    from yaml import YAMLError

    try:
        hydra = records.plain_yaml(records.read_sweep_config(sweep))["hydra"]
        given = [str(word) for word in hydra["overrides"]["task"]]
    except (UserError, OSError, YAMLError, RecursionError, KeyError, TypeError, ValueError):
        return []
    return ["python", "-m", "lrlab.sweep", *_flags(hydra), *given]


def _flags(hydra: Any) -> list[str]:
    found: list[str] = []
    with contextlib.suppress(LookupError, TypeError, AttributeError):
        for source in hydra["runtime"]["config_sources"]:
            if source["provider"] == "command-line":
                found.append(f"--config-dir={source['path']}")
    with contextlib.suppress(LookupError, TypeError, AttributeError):
        if (name := hydra["job"]["config_name"]) not in (None, "config"):
            found.append(f"--config-name={name}")
    with contextlib.suppress(LookupError, TypeError, AttributeError):
        words = map(str, hydra["overrides"]["hydra"])
        found += [word for word in words if not word.startswith("hydra.mode=")]
    return found


def lr_of(run: Path) -> float:
    """Return the lr in a run's config; NaN if no config can be read."""
    lr = _flat(run).get("lr")
    return float(lr) if is_real(lr) else math.nan


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the dotted keys that differ among runs with the same choice of their group.

    For example, adam's betas do not differ from sgd, which has none: the optimizer does.

    Args:
        settings: one a run, as from `of_runs`, of any number of sweeps.
    """
    values: dict[tuple[str, str], set[str]] = {}
    for each in settings:
        for key, value in each.items():
            if is_option(key):
                group, dot, _ = key.partition(".")
                choice = str(each.get(group)) if dot else ""
                values.setdefault((key, choice), set()).add(shown(value))
    return sorted({key for (key, _), found in values.items() if len(found) > 1})


def shown(value: Any) -> str:
    """Return a setting as one would type it."""
    if _is_missing(value):
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)


def _flat(run: Path) -> dict[str, Any]:
    """Return the run's config by dotted key; {} if none can be read."""
    from yaml import YAMLError

    try:
        config = records.options(records.read_config(run))
    except (UserError, OSError, ValueError, YAMLError, RecursionError):
        return {}
    kept = {**RECIPE, **{str(k): v for k, v in config.items() if k not in _BESIDE}}
    if "diagnostics" in kept:
        kept["diagnostics"] = diagnostics(kept)
    return {
        key: str(value) if isinstance(value, list) else value
        for key, value in flat(kept).items()
        if key != "data.root" and not key.endswith("_partial_") and value != {}
    }
