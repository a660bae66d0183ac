"""Read Lightning's CSVLogger: metrics.csv, with the hparams.yaml next to it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from lrlab import records
from lrlab.errors import UserError
from lrlab.logs import columns, generic
from lrlab.logs.columns import Wanted
from lrlab.logs.log import Log, log_of, plain_values, settings_columns
from lrlab.records import files
from lrlab.tables.text_table import Table

PROGRAM = "Lightning"
HPARAMS = "hparams.yaml"
_PLAIN_LINE = re.compile(r"(\w{1,80}): [\"']?(\d{1,30}\.?\d{0,30}(?:[eE][+-]?\d{1,3})?)[\"']?\s*")
_LARGEST = 2**20  # bytes of an hparams.yaml that is read


def takes(table: Table, wanted: Wanted) -> bool:
    """Return whether the columns are those of its CSVLogger."""
    if not table.has("step") or "run" in table.cells:
        return False
    own = any(re.fullmatch(r"lr-.+|.+_(step|epoch)", name) for name in table.names)
    beside = table.file.name == "metrics.csv" and "epoch" in table.cells
    return generic.takes(table, wanted) and (own or beside or _has_hparams(table.file.parent))


def _has_hparams(folder: Path) -> bool:
    return (folder / HPARAMS).is_file()


def read(table: Table, wanted: Wanted) -> list[Log]:
    """Return its one run; the lr is that of hparams.yaml, else the highest of its monitor.

    Raises:
        UserError: a column is ambiguous, or holds what is no number.
    """
    roles = generic.roles_of(table, wanted)
    roles.pop("run", None)
    hparams, notes = hyperparameters(table.file.parent / HPARAMS)
    log = log_of(table, PROGRAM, roles).saying(*notes)
    rows, lr_from, took = log.rows, log.lr_from, dict(log.took)
    name = wanted.lr_column if wanted.lr_column in hparams else lr_name(hparams)
    if name is not None and "lr" not in roles:
        rows, lr_from = rows.assign(lr=float(hparams[name])), f"{HPARAMS}"
    if (seed := columns.seed(list(hparams))) and "seed" not in roles:
        rows = rows.assign(seed=hparams[seed])
        took["seed"] = HPARAMS
    settings = settings_columns(hparams, "hparams")
    rows = rows.assign(**{key: value for key, value in settings.items() if key not in rows})
    return [replace(log, rows=rows, took=took, lr_from=lr_from)]


def lr_name(values: dict[str, Any]) -> str | None:
    """Return the name of the one hyperparameter that is a learning rate; None for none, or more."""
    found = [name for name, value in values.items() if columns.is_lr(name) and _is_rate(value)]
    exact = [name for name in found if columns.plain(name) in ("lr", "learning_rate")]
    found = exact or found
    alike = {float(values[name]) for name in found}
    return found[0] if len(alike) == 1 else None


def _is_rate(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and 0 <= float(value) < float("inf")
    except (TypeError, ValueError):
        return False


def hyperparameters(file: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the values of an hparams.yaml by dotted name, and a line if it cannot be read."""
    from yaml import YAMLError

    text = ""
    try:
        files.check_own(file)
        if not file.is_file():
            return {}, []
        if file.stat().st_size > _LARGEST:
            return {}, [f"{file.name} is too large to be read"]
        text = file.read_text(encoding="utf-8", errors="replace")
        found = records.plain_yaml(text)
    except UserError as error:
        return {}, [str(error)]
    except OSError:
        return {}, [f"{file.name} cannot be read"]
    except (ValueError, YAMLError, RecursionError):  # it names an object of Python, for example
        plain = {
            m[1]: plain_values([m[2]])[0] for m in map(_PLAIN_LINE.fullmatch, text.split("\n")) if m
        }
        return plain, [f"{file.name} is no plain YAML: only its lines with numbers are read"]
    return (flat(found), []) if isinstance(found, dict) else ({}, [])


def flat(values: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return the scalars of nested mappings by dotted name."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, str | int | float | bool):
            found[f"{prefix}{key}"] = value
    return found
