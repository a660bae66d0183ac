"""Record a run of the user's own loop in lrlab's own files.

The folder is that of a sweep, and each probe is a new run in it: ``folder/0``, ``folder/1``, ...
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrlab import records
from lrlab._version import __version__
from lrlab.errors import NotWritten, UserError
from lrlab.process.plain import is_number

# Values that an optimizer keeps for its own work; they do not set runs apart.
_TECHNICAL = ("lr", "foreach", "fused", "capturable", "differentiable", "maximize")


def new_run(folder: Path) -> Path:
    """Make the folder of the next run in this folder, with an empty metrics.csv.

    Raises:
        UserError: it is not a folder for probes.
        NotWritten: it cannot be written.
    """
    if (folder / "multirun.yaml").exists():
        raise UserError(
            f"folder={folder}: holds a sweep of python -m lrlab.sweep; name another folder"
        )
    if (folder / "metrics.csv").exists():
        raise UserError(f"folder={folder}: is a run's folder; name another, like {folder.parent}")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"folder={folder}: is a file; name a folder")
    taken = [int(run.name) for run in records.run_folders(folder)] if folder.is_dir() else []
    for number in itertools.count(max(taken, default=-1) + 1):
        run = folder / str(number)
        try:
            run.mkdir(parents=True)
        except FileExistsError:  # another process has just made it
            continue
        except OSError as error:
            raise NotWritten(run, error) from error
        records.start_metrics(run)
        return run
    raise AssertionError


def described(optimizer: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a summary says of the optimizer, and the user's settings.

    Raises:
        UserError: a setting cannot work.
    """
    kind = type(getattr(optimizer, "optimizer", optimizer))  # Accelerate wraps it
    found: dict[str, Any] = {"optimizer": kind.__name__.lower()}
    for name, value in optimizer.param_groups[0].items():
        if name not in _TECHNICAL and name != "params" and _is_plain(value):
            found[f"optimizer.{name}"] = value
    if not isinstance(settings, Mapping):
        raise UserError(f"settings={settings!r}: must be a dict, such as {{'width': 64}}")
    for name, value in settings.items():
        if not isinstance(name, str):
            raise UserError(f"settings: {name!r}={value!r}: the name must be a text")
        least = _NUMBERS.get(name)
        if name in _NUMBERS and not (is_number(value) and (least is None or value > least)):
            above = "" if least is None else f" above {least}"
            raise UserError(f"settings: {name}={value!r}: must be a number{above}")
        if name in _OWN:
            raise UserError(f"settings: {name}={value!r}: the probe records it; leave it out")
        if not _is_plain(value):
            raise UserError(
                f"settings: {name}={value!r}: must be a number, a text, True, False or None"
            )
        # A dot marks a setting for whoever reads the records.
        known = "." in name or name in (*_KNOWN, *_NUMBERS)
        found[name if known else f"own.{name}"] = value
    return found


_KNOWN = ("schedule", "optimizer", "network", "loss", "data", "batch_size", "epochs")
_NUMBERS = {"seed": None, "num_classes": 1, "chance_loss": None}
_OWN = ("lr", "run", "state", "steps", "initial_loss", "measured_by", "folder")


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def summary(
    run: Path, state: str, steps: int, about: Mapping[str, Any], **numbers: float | None
) -> None:
    """Write the run's summary.json."""
    known = {name: value for name, value in numbers.items() if value is not None}
    finite = {name: value for name, value in known.items() if math.isfinite(value)}
    records.write_summary(
        run,
        {
            "run": int(run.name),
            "state": state,
            "steps": steps,
            "measured_by": f"lrlab.Probe {__version__}",
            **about,
            **finite,
        },
    )
