"""Read and judge the sweeps to compare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lrlab import records
from lrlab.errors import UserError
from lrlab.logs.columns import Wanted
from lrlab.tables import sweep_settings
from lrlab.verdicts import loading
from lrlab.verdicts.answer import Answer
from lrlab.verdicts.judging import verdicts
from lrlab.verdicts.recommend import best_of_each, recommend

LETTERS = "ABCDEF"


@dataclass(frozen=True)
class Side:
    """One of the compared sweeps.

    Attributes:
        letter: A, B ... in the order given.
        name: a unique one.
        path: its folder, or CSV.
        runs, curves: as from `lrlab.verdicts.loading.load`.
        verdicts: as from `lrlab.verdicts.judging.verdicts`, for this sweep alone.
        answers: the answer for its best settings; one for each kind of loss, if there are several.
        settings: each run's, by dotted key; empty for a CSV.
        environment: the values of each key in the runs' summaries; empty for a CSV.
    """

    letter: str
    name: str
    path: Path
    runs: pd.DataFrame
    curves: pd.DataFrame
    verdicts: pd.DataFrame
    answers: tuple[Answer, ...]
    settings: tuple[Mapping[str, Any], ...]
    environment: Mapping[str, tuple[str, ...]]

    @property
    def answer(self) -> Answer:
        """The first answer."""
        return self.answers[0]


def read(paths: Sequence[Path], wanted: Wanted | None = None) -> tuple[list[Side], tuple[str, ...]]:
    """Return the sweeps to compare, and lines about what their records lack.

    wanted: where the lr of a log stands, and what its columns are.

    Raises:
        UserError: fewer than two sweeps, more than six, one twice, or one that cannot be read.
    """
    if not 2 <= len(paths) <= len(LETTERS):
        raise UserError(
            f"name two to {len(LETTERS)} sweeps to compare, not {len(paths)}; for example "
            "python -m lrlab.compare outputs/a outputs/b"
        )
    loaded = loading.load(paths, with_branches=False, wanted=wanted)
    if loaded.ends:
        raise UserError(f"{paths[0]}: holds end losses alone; python -m lrlab.analysis judges them")
    sides = []
    for letter, name, path in zip(LETTERS, loaded.names, paths, strict=False):
        runs = loaded.runs.loc[loaded.runs["sweep"] == name]
        curves = loaded.curves.loc[loaded.curves["sweep"] == name]
        found = verdicts(curves)
        folders = runs["folder"].dropna().tolist() if "folder" in runs else []
        sides.append(
            Side(
                letter=letter,
                name=name,
                path=path,
                runs=runs,
                curves=curves,
                verdicts=found,
                answers=tuple(best_of_each(recommend(found))),
                settings=tuple(sweep_settings.of_runs(runs)) if len(folders) else (),
                environment=_environment([Path(folder) for folder in folders]),
            )
        )
    return sides, loaded.notes


def _environment(folders: Sequence[Path]) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for folder in folders:
        try:
            summary = records.read_summary(folder)
        except (FileNotFoundError, UserError):
            continue
        environment = summary.get("environment")
        told = environment if isinstance(environment, dict) else {}
        told = {**told, "data_sha256": str(summary.get("data_sha256") or "")[:12]}
        for key, value in told.items():
            if value not in (None, ""):
                found.setdefault(str(key), set()).add(sweep_settings.shown(value))
    return {key: tuple(sorted(values)) for key, values in found.items()}
