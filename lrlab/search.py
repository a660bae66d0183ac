"""The sweeper's work: a grid of options becomes the trials of an Optuna study, each a run."""

from __future__ import annotations

import itertools
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict

from lrlab import config as configs
from lrlab import environment, launch, plan, records
from lrlab.errors import UserError

if TYPE_CHECKING:
    import optuna

OBJECTIVE = "val_loss"

# What belongs to the sweep as a whole: a list of values of these makes no runs.
NOT_SWEPT = ("name", "output", "plots", "lanes")


def sweep(config: DictConfig, loader: Any, launcher: Any, arguments: Sequence[str]) -> list[float]:
    """Run a whole sweep: check, train, record, draw, print.

    Args:
        config: the composed config, with Hydra's part.
        loader: Hydra's config loader.
        launcher: the Hydra launcher that trains a batch of runs.
        arguments: the command line's overrides.

    Returns:
        The objective of each finished run.

    Raises:
        UserError: an option that cannot work. Nothing was trained or written then.
        SystemExit: with 1, when a run failed.
    """
    setup_globals()
    configs.check_folder(config)
    environment.make_deterministic()  # before the checks, whose networks multiply matrices
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
    fixed, lists = split(overrides)
    grid = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]

    while True:
        folder = _free_folder(config, overrides)
        own = [f"name={_quoted(folder.name)}", f"hydra.sweep.dir={_quoted(str(folder))}"]
        batch = [fixed + own + [f"{key}={text}" for key, text in point.items()] for point in grid]
        jobs = [launch.compose(config, loader, job, number) for number, job in enumerate(batch)]
        plan.check_runs([launch.spec(job) for job in jobs])
        if records.create_sweep(folder):
            break  # else another sweep took the name in between
    with open_dict(config):
        config.hydra.sweep.dir = str(folder)
        config.name = folder.name
    records.write_sweep_config(folder, OmegaConf.to_yaml(config, resolve=False))
    study = _study(folder)
    for point in grid:
        study.enqueue_trial({key: _value(text) for key, text in point.items()})
    trials = [study.ask() for _ in grid]
    for trial in trials:
        _suggest(trial, lists)
    returns = launcher.launch(batch, initial_job_idx=0)

    summaries = []
    for trial, returned in zip(trials, returns, strict=True):
        run = folder / str(trial.number)
        launch.note_failure(run, returned)
        summaries.append(_tell(study, trial, run))
    _finish(folder, config.plots)
    if any(summary["state"] == "failed" for summary in summaries):
        raise SystemExit(1)
    values = [summary.get(OBJECTIVE) for summary in summaries]
    return [value for value in values if value is not None]


# --- the grid -------------------------------------------------------------------------------------


def split(overrides: Sequence[Override]) -> tuple[list[str], dict[str, list[str]]]:
    """Fixed overrides, and for each swept key its distinct values as typed.

    ``lr=0.1,0.1,1e-1`` has one value. Of a key given twice the last one counts.

    Raises:
        UserError: a search over an interval.
    """
    fixed: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        fixed.pop(key, None)
        lists.pop(key, None)
        if not override.is_sweep_override():
            fixed[key] = override.input_line or f"{key}={override.get_value_element_as_str()}"
        elif key in NOT_SWEPT:
            raise UserError(f"{override.input_line}: takes one value, for the sweep as a whole")
        elif override.is_discrete_sweep():
            values = dict.fromkeys(override.sweep_string_iterator())
            distinct = {_canonical(value): value for value in reversed(list(values))}
            lists[key] = list(reversed(distinct.values()))
        else:
            raise UserError(
                f"{override.input_line}: an interval cannot be searched yet; "
                f"give a list of values, for example {key}=0.001,0.01,0.1"
            )
    return list(fixed.values()), lists


def _quoted(text: str) -> str:
    """A text as Hydra's override grammar takes it, whatever it holds."""
    return '"' + text.replace('"', '\\"') + '"'


def _value(text: str) -> float | int | str:
    """A value for Optuna: a number where it is one, else the text."""
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return value if math.isfinite(value) else text
    return text


def _canonical(text: str) -> str:
    value = _value(text)
    return text if isinstance(value, str) else repr(float(value))


# --- the study ------------------------------------------------------------------------------------


def _study(folder: Path) -> optuna.Study:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(records.journal_file(folder))))
    return optuna.create_study(study_name=folder.name, storage=storage, direction="minimize")


def _suggest(trial: optuna.Trial, lists: Mapping[str, Sequence[str]]) -> None:
    """Read the enqueued point as parameters of the trial.

    A number's distribution spans all numbers, so that the grid can grow: a categorical cannot.
    """
    largest = sys.float_info.max
    for key, texts in lists.items():
        values = [_value(text) for text in texts]
        if all(isinstance(value, int) for value in values) and key.lstrip("+") != "lr":
            trial.suggest_int(key, -(2**62), 2**62)
        elif all(isinstance(value, int | float) and value > 0 for value in values):
            trial.suggest_float(key, sys.float_info.min, largest, log=True)
        elif all(isinstance(value, int | float) for value in values):
            trial.suggest_float(key, -largest / 4, largest / 4)
        else:
            trial.suggest_categorical(key, values)


def _tell(study: optuna.Study, trial: optuna.Trial, run: Path) -> dict[str, Any]:
    from optuna.trial import TrialState

    summary = records.read_summary(run)
    trial.set_user_attr("state", summary["state"])
    value = summary.get(OBJECTIVE)
    if value is None:  # NaN never reaches Optuna
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, value)
    return summary


# --- the folder -----------------------------------------------------------------------------------


def _free_folder(config: DictConfig, overrides: Sequence[Override]) -> Path:
    """A folder that no sweep has: the user's, or the default one, with -2, -3 ... if taken.

    Raises:
        UserError: the user named a folder that is there already.
    """
    given = {override.get_key_element() for override in overrides}
    named = "name" in given or str(config.hydra.sweep.dir) != f"{config.output}/{config.name}"
    folder = Path(config.hydra.sweep.dir).expanduser().absolute()
    return records.free_folder(folder, may_rename=not named)


def _finish(folder: Path, draw: bool) -> None:
    """Write runs.csv, draw, and print the table."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    from lrlab import analysis, table

    runs = analysis.runs(folder)
    records.write_runs(folder, runs)
    if draw:
        from lrlab import plots

        figures = {
            "loss_curves": plots.loss_curves(analysis.curves(folder)),
            "lr_against_loss": plots.lr_against_loss(runs),
        }
        plots.save(figures, records.plot_folder(folder))
    print(table.results(runs, folder), flush=True)
