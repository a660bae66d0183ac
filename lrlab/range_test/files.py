# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""Write the files of the range test."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from omegaconf import OmegaConf

from lrlab import records
from lrlab.config import passwords
from lrlab.engine import devices
from lrlab.plan import compose
from lrlab.process.plain import to_json

_SECRETS = {"storage": passwords.masked, "tracking.uri": passwords.masked_tracking}

if TYPE_CHECKING:
    from lrlab.data import Dataset
    from lrlab.plan.spec import RunSpec
    from lrlab.range_test.found import Found


def write(
    folder: Path,
    found: Found,
    spec: RunSpec,
    data: Dataset,
    config: Any,
    typed: Sequence[str],
    command: str | None,
    budget: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Write the records of the test; return the content of suggestions.json.

    Args:
        typed: the words of the test; ``command`` is the sweep to run next.
        budget: the time that it was given, and what it used.
    """
    ramp, constants, options = found.ramp, found.constants, found.options
    trained = found.train_ramp or ramp
    smooth = np.full(len(found.ramp_lr), np.nan)
    if len(trained.smooth):
        read = found.ramp_lr <= trained.lr[-1]
        smooth[read] = np.interp(np.log(found.ramp_lr[read]), np.log(trained.lr), trained.smooth)
    columns = [np.arange(len(found.ramp_lr)), found.ramp_lr, found.ramp_loss, smooth]
    records.write_whole(folder / "ramp.csv", rows(("step", "lr", "loss", "smooth"), columns))
    columns = [
        np.repeat(found.constant_lr, options.steps),
        np.tile(np.arange(options.steps), options.points),
        found.constant_losses.T.ravel(),
    ]
    records.write_whole(folder / "constant.csv", rows(("lr", "step", "loss"), columns))
    if found.val_samples is not None:
        records.write_whole(folder / "held_out.csv", _held_out(found))
    answer = {
        "judged_by": found.judged_by,
        "held_out_samples": found.val_samples,
        "best_lr": constants.best,
        "as_good": constants.as_good,
        "fails_from": constants.fails_from,
        "edge": constants.edge,
        "why_none": constants.why_none,
        "start_loss": constants.start,
        "end_losses": [[lr, end] for lr, end in zip(constants.lr, constants.end, strict=True)],
        "train_best_lr": (found.train_constants or constants).best,
        "suggestions": [
            {
                "rule": each.rule,
                "lr": each.lr,
                "why_not": each.why_not,
                "end_loss": None if each.lr is None else constants.loss_at(each.lr),
            }
            for each in ramp.suggestions
        ],
        "ramp_minimum": ramp.minimum,
        "ramp_blow_up": ramp.blow_up,
        "misleads": list(found.misleads),
        "next": command,
        "budget": None if budget is None else {**budget, "left_out": list(found.left_out)},
        "options": vars(options),
        "command": ["python", "-m", "lrlab.find", *typed],
        "data_sha256": data.sha256,
        "environment": devices.describe(spec.device),
    }
    records.write_whole(folder / "suggestions.json", to_json(answer) + "\n")
    records.write_whole(folder / "config.yaml", _config(config))
    return answer


def _config(config: Any) -> str:
    """Return the config as YAML without passwords."""
    plain = copy.deepcopy(compose.without_hydra(config))
    for key, hide in _SECRETS.items():
        given = OmegaConf.select(plain, key)
        if isinstance(given, str) and hide(given) != given:
            OmegaConf.update(plain, key, hide(given))
    return OmegaConf.to_yaml(plain)


def _held_out(found: Found) -> str:
    """Return the held-out losses of both tests, as CSV text."""
    assert found.val_steps is not None and found.constant_val is not None
    assert found.ramp_val_steps is not None and found.ramp_val is not None
    ramp, looks, points = found.ramp_val_steps, len(found.val_steps), found.options.points
    columns = [
        ["ramp"] * len(ramp) + ["constant"] * looks * points,
        np.append(found.ramp_lr[ramp], np.repeat(found.constant_lr, looks)),
        np.append(ramp, np.tile(found.val_steps, points)),
        np.append(found.ramp_val, found.constant_val.T.ravel()),
    ]
    return rows(("test", "lr", "step", "loss"), columns)


def rows(names: Sequence[str], columns: Sequence[ArrayLike]) -> str:
    """Return columns of numbers as CSV text; each number keeps every bit, NaN is empty."""
    table = pd.DataFrame(dict(zip(names, columns, strict=True)))
    return table.to_csv(index=False, lineterminator="\n")
