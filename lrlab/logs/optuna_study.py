"""Read the trials of an Optuna study from its journal or its SQLite file, without Optuna."""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from lrlab.errors import UserError, in_a_line
from lrlab.logs import lightning
from lrlab.logs.columns import Wanted
from lrlab.logs.log import Log, settings_columns

PROGRAM = "Optuna"
_STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
_NUMBERED = ("RUNNING", "COMPLETE", "PRUNED", "FAIL", "WAITING")
_INFINITE = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}


@dataclass
class _Trial:
    study: str
    number: int
    state: str = "RUNNING"
    params: dict[str, Any] = field(default_factory=dict)
    points: dict[float, float] = field(default_factory=dict)
    value: float = math.nan


def is_journal(first: bytes) -> bool:
    """Return whether a file's first line is one of a journal."""
    try:
        found = json.loads(first.split(b"\n", 1)[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "op_code" in found


def read_journal(file: Path, wanted: Wanted) -> list[Log]:
    """Return the trials of a journal, each a run.

    Raises:
        UserError: it cannot be read, or its values are no losses.
    """
    studies: list[tuple[str, bool]] = []
    trials: list[_Trial] = []
    torn = 0
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    for line in text.split("\n"):
        if not line.strip():
            continue
        try:
            _replay(json.loads(line), studies, trials)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            torn += 1
    notes = (f"{torn} lines of the journal cannot be read, and were left out",) if torn else ()
    return _logs(file, [name for name, _ in studies], studies, trials, wanted, notes)


def _replay(entry: Any, studies: list[tuple[str, bool]], trials: list[_Trial]) -> None:
    """Do what one line of a journal says; the codes are those of Optuna's JournalOperation."""
    code = entry["op_code"]
    if code == 0:
        directions = [int(each) for each in entry["directions"]]
        studies.append((str(entry["study_name"]), directions == [1]))
    elif code == 4:
        name = studies[entry["study_id"]][0]
        trial = _Trial(name, sum(each.study == name for each in trials))
        trials.append(trial)
        if "params" in entry:  # one that was added whole
            for key, value in entry["params"].items():
                trial.params[key] = _external(value, json.loads(entry["distributions"][key]))
            points = entry.get("intermediate_values", {})
            trial.points = {float(k): _float(v) for k, v in points.items()}
            trial.state = _NUMBERED[int(entry["state"])]
            trial.value = _first(entry)
    elif code == 5:
        trial = trials[entry["trial_id"]]
        distribution = json.loads(entry["distribution"])
        trial.params[str(entry["param_name"])] = _external(
            entry["param_value_internal"], distribution
        )
    elif code == 6:
        trial = trials[entry["trial_id"]]
        trial.state = _NUMBERED[int(entry["state"])]
        trial.value = _first(entry)
    elif code == 7:
        trials[entry["trial_id"]].points[float(entry["step"])] = _float(entry["intermediate_value"])


def _first(entry: dict[str, Any]) -> float:
    values = entry.get("values") or [entry.get("value")]
    return _float(values[0]) if values and values[0] is not None else math.nan


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _external(value: Any, distribution: dict[str, Any]) -> Any:
    kind, told = str(distribution["name"]), distribution["attributes"]
    if kind == "CategoricalDistribution":
        return told["choices"][int(value)]
    return int(value) if kind.startswith("Int") else float(value)


def read_sqlite(file: Path, wanted: Wanted) -> list[Log]:
    """Return the trials of an SQLite file, which is only read.

    Raises:
        UserError: it is no study, or its values are no losses.
    """
    try:
        with _opened(file) as database:
            names = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
            if "studies" not in names or "trials" not in names:
                raise UserError(_other_database(file, names))
            studies, trials = _of_database(database)
    except sqlite3.Error as error:
        raise UserError(f"{file}: is a database that cannot be read ({error})") from None
    except (ValueError, LookupError, TypeError, RecursionError):
        raise UserError(f"{file}: is damaged, no study of Optuna") from None
    return _logs(file, [name for name, _ in studies], studies, trials, wanted, ())


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(f"file:{quote(str(file.absolute()))}?mode=ro", uri=True)
    try:
        yield database
    finally:
        database.close()


def _other_database(file: Path, names: set[str]) -> str:
    if {"metrics", "params"} <= names:
        return (
            f"{file}: is MLflow's database, which lrlab does not read; export its runs with "
            "mlflow experiments csv -x ID -o runs.csv (end losses), or copy them into folders"
        )
    return f"{file}: is a database, and holds no study of Optuna"


def _of_database(database: sqlite3.Connection) -> tuple[list[tuple[str, bool]], list[_Trial]]:
    directions: dict[int, list[str]] = {}
    for study, told in database.execute(
        "SELECT study_id, direction FROM study_directions ORDER BY objective"
    ):
        directions.setdefault(study, []).append(str(told))
    by_id = dict(database.execute("SELECT study_id, study_name FROM studies ORDER BY study_id"))
    studies = [(str(name), directions.get(key) == ["MINIMIZE"]) for key, name in by_id.items()]
    trials: dict[int, _Trial] = {}
    for key, number, study, state in database.execute(
        "SELECT trial_id, number, study_id, state FROM trials ORDER BY trial_id"
    ):
        trials[key] = _Trial(str(by_id[study]), int(number), str(state))
    for key, name, value, told in database.execute(
        "SELECT trial_id, param_name, param_value, distribution_json FROM trial_params"
    ):
        trials[key].params[str(name)] = _external(value, json.loads(told))
    for key, step, value, kind in database.execute(
        "SELECT trial_id, step, intermediate_value, intermediate_value_type "
        "FROM trial_intermediate_values ORDER BY step"
    ):
        trials[key].points[float(step)] = _INFINITE.get(str(kind), _float(value))
    for key, value, kind in database.execute(
        "SELECT trial_id, value, value_type FROM trial_values WHERE objective = 0"
    ):
        trials[key].value = _INFINITE.get(str(kind), _float(value))
    return studies, list(trials.values())


def _logs(
    file: Path,
    names: list[str],
    studies: list[tuple[str, bool]],
    trials: list[_Trial],
    wanted: Wanted,
    notes: tuple[str, ...],
) -> list[Log]:
    maximized = [in_a_line(name) for name, minimizes in studies if not minimizes]
    if maximized:
        raise UserError(
            f"{file}: the study {maximized[0]} does not minimize one value, so its values are no "
            "losses; a study that minimizes a loss is needed"
        )
    trials = [trial for trial in trials if trial.params and trial.state != "WAITING"]
    if not trials:
        raise UserError(f"{file}: has no trial with parameters")
    name = _lr_name(file, trials, wanted)
    with_points = [trial for trial in trials if trial.points]
    ends = not with_points
    told = list(notes)
    if ends:
        trials = [trial for trial in trials if trial.state == "COMPLETE"]
        if not trials:
            raise UserError(f"{file}: has no intermediate values, and no trial that is complete")
    elif len(with_points) < len(trials):
        told.append(
            f"{len(trials) - len(with_points)} of {len(trials)} trials have no intermediate "
            "values, and were left out"
        )
        trials = with_points
    several = len(set(names)) > 1
    # A value that is reported at step 0 is of after that step, and no loss before training.
    first = min((min(trial.points, default=1.0) for trial in trials), default=1.0)
    later = 1 if first == 0 and not ends else 0
    frames: list[pd.DataFrame] = []
    for trial in trials:
        points = {math.nan: trial.value} if ends else dict(sorted(trial.points.items()))
        settings = settings_columns(
            {key: value for key, value in trial.params.items() if key != name}, "params"
        )
        if several:
            settings["study.name"] = trial.study
        label = f"{trial.study}/{trial.number}" if several else str(trial.number)
        part: dict[str, Any] = {
            "run": label,
            "step": [step + later for step in points],
            "val_loss": list(points.values()),
            "lr": float(trial.params.get(name, math.nan)),
            "seed": trial.params.get("seed"),
            "state": _STATES.get(trial.state, ""),
            **settings,
        }
        frames.append(pd.DataFrame(part))
    rows = pd.concat(frames, ignore_index=True).dropna(axis=1, how="all")
    written = {"val_loss": np.isnan(rows["val_loss"].to_numpy(dtype=float))}
    if ends:
        lost = rows["val_loss"].fillna(math.inf)
        rows = rows.drop(columns="val_loss").assign(end_loss=lost, judged_by="val_loss")
    what = "the value of each trial" if ends else "the intermediate values"
    took = {"run": "the trial's number"}
    at = f"the step they were reported at{' + 1' if later else ''}"
    took |= {} if ends else {"step": at}
    took["end loss" if ends else "val_loss"] = f"{what}{'' if ends else ' (assumed)'}"
    return [
        Log(file, PROGRAM, rows, took, f"the parameter {name}", tuple(told), written, ends, False)
    ]


def _lr_name(file: Path, trials: list[_Trial], wanted: Wanted) -> str:
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    if wanted.lr_column:
        if wanted.lr_column not in names:
            raise UserError(
                f"--lr-column={wanted.lr_column}: {file} has no such parameter; it has "
                f"{in_a_line(', '.join(names))[:160]}"
            )
        return wanted.lr_column
    rates = {name: trial.params[name] for trial in trials for name in trial.params}
    found = lightning.lr_name(rates)
    if found is None:
        raise UserError(
            f"{file}: which parameter is the learning rate? It has "
            f"{in_a_line(', '.join(names))[:160]}; name it with --lr-column NAME"
        )
    return found
