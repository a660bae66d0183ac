"""Join tables of several sweeps: distinct names, and columns that all tables have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def distinct_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return the last part of each path, without its ending; with parents if names repeat."""
    whole = [_without_ending(path.resolve()).parts for path in paths]
    length = [1] * len(paths)
    while True:
        names = ["/".join(parts[-n:]) for parts, n in zip(whole, length, strict=True)]
        alike = [i for i, name in enumerate(names) if names.count(name) > 1]
        longer = [i for i in alike if length[i] < len(whole[i])]
        if not longer:  # two files that differ only in their endings
            return tuple(str(paths[i]) if i in alike else name for i, name in enumerate(names))
        for i in longer:
            length[i] += 1


def _without_ending(path: Path) -> Path:
    if path.is_dir():
        return path
    name = path.name.removesuffix(".gz").removesuffix(".csv")
    return path.with_name(name) if name else path


def with_columns(part: pd.DataFrame, told: Mapping[str, Mapping[Any, Any]]) -> pd.DataFrame:
    """Return the table with more columns; their values are given by run."""
    code, runs = pd.factorize(part["run"].to_numpy())
    columns = {
        name: pd.Series([of_run[run] for run in runs]).reindex(code).to_numpy()
        for name, of_run in told.items()
    }
    return part.assign(**columns)


def joined(parts: Sequence[pd.DataFrame], names: Sequence[str]) -> pd.DataFrame:
    """Return one table with a column sweep; runs are renamed to "sweep/run"."""
    named = [
        part.assign(run=_run_names(name, part), sweep=name)
        for part, name in zip(parts, names, strict=True)
    ]
    columns = list(dict.fromkeys(column for part in named for column in part.columns))
    # Columns without any value would change the type of the others.
    filled = [part.dropna(axis=1, how="all") for part in named if len(part)]
    together = pd.concat(filled, ignore_index=True) if filled else named[0]
    return together.reindex(columns=columns)


def _run_names(name: str, part: pd.DataFrame) -> np.ndarray:
    """Return (rows,) "name/3"; an empty run stays empty, and `verdicts` refuses it."""
    code, values = pd.factorize(part["run"].to_numpy())
    told = [f"{name}/{value}" for value in values]
    if len(values) == 1 and f"/{name}".endswith(f"/{values[0]}") and isinstance(values[0], str):
        told = [name]  # a log of one run has the name of its file
    texts = np.array([*told, None], dtype=object)
    return texts[code]
