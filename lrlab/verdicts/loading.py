"""Read sweeps' folders and CSVs of curves, and judge them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from lrlab.errors import UserError
from lrlab.logs import reading
from lrlab.logs.columns import Wanted
from lrlab.tables import curve_csv, frames, sweep_settings, tidy
from lrlab.tables.joining import distinct_names, joined, with_columns
from lrlab.tables.mending import mend, mends
from lrlab.tables.missing import missing_notes
from lrlab.tables.sweep_folder import check_sweep, near
from lrlab.verdicts import end_losses, recommend
from lrlab.verdicts.answer import Answer
from lrlab.verdicts.evidence import Numbers
from lrlab.verdicts.judging import judge, measured


def verdicts_of(sweep: Path | str, target: float | None = None) -> pd.DataFrame:
    """Judge a sweep without ever holding all its curves in memory."""
    reading = frames.Reading(sweep)
    return _with_parts(judge(*measured(reading.pieces()), target), reading.runs)


def _with_parts(found: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Add the column val_parts, from which `lrlab.verdicts.noise` reads how sure verdicts are."""
    if frames.PARTS not in runs:
        return found
    of_run = dict(zip(runs["run"].tolist(), runs[frames.PARTS].tolist(), strict=True))
    return found.assign(**{frames.PARTS: [of_run.get(run) for run in found["run"].tolist()]})


def drawn_and_judged(
    sweep: Path | str, target: float | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the curves, thinned to the needs of a figure, and the verdicts on the whole ones."""
    reading = frames.Reading(sweep)
    found = judge(*measured(reading.pieces()), target)
    return reading.thinned, _with_parts(found, reading.runs)


_ONE_A_RUN = ("run", "lr", "seed", "state", "initial_loss", "chance_loss", "num_classes")


@dataclass(frozen=True)
class Loaded:
    """The runs of one sweep or CSV, or of several.

    With several, `run` is "name/3" in all tables, a column `sweep` holds the name, and settings
    that differ between the sweeps are columns.
    """

    runs: pd.DataFrame  # one row a run, as from `frames.runs`; for a CSV from its columns
    # As from `frames.curves`, or the CSV's columns. A single sweep's are thinned for figures,
    # see `lrlab.tables.thinning`; `verdicts` judges the whole ones.
    curves: pd.DataFrame
    branches: pd.DataFrame  # as from `frames.branches`; none for a CSV
    names: tuple[str, ...]  # of the sweeps and CSVs, all different, in the order given
    notes: tuple[str, ...]  # lines about what is missing, or was left out
    # What `judge` takes, or why measuring failed; None: measure `curves`.
    measured: tuple[list[Numbers], list[str]] | UserError | None = None
    ends: bool = False  # whether `curves` holds end losses, one row a run, and no curves
    counts_steps: bool = True  # whether the steps of a log are steps of training

    def verdicts(self, target: float | None = None) -> pd.DataFrame:
        """Return verdicts, as `lrlab.verdicts.judging.verdicts`.

        Raises:
            UserError: as there.
        """
        if self.ends:
            if target is not None:
                raise UserError(f"--target={target:g}: end losses alone do not say when it came")
            return end_losses.verdicts(self.curves)
        if isinstance(self.measured, UserError):
            raise self.measured
        numbers = measured([self.curves]) if self.measured is None else self.measured
        return _with_parts(judge(*numbers, target), self.runs)

    def answers(self, found: pd.DataFrame) -> list[Answer]:
        """Return the answers to these verdicts."""
        if self.ends:
            return end_losses.answers(found)
        told = recommend.recommend(found)
        # A budget of few calls of a logger is not one of few steps.
        return told if self.counts_steps else [replace(each, steps=math.nan) for each in told]


def load(paths: Sequence[Path], with_branches: bool = True, wanted: Wanted | None = None) -> Loaded:
    """Read sweeps' folders, CSVs of curves, and logs of other programs.

    Args:
        with_branches: False: do not read the steps of the branch tests, which takes long for many
            runs; the curves have their gains.
        wanted: where the lr of a log stands, and what its columns are.

    Raises:
        UserError: a path is neither, or its content is damaged beyond use.
    """
    if not paths:
        raise UserError("name a sweep's folder or a CSV of curves, for example outputs/NAME")
    paths = [reading.file_of(path) for path in paths]
    places = [path.resolve() for path in paths]
    for i, path in enumerate(paths):
        if places[i] in places[:i]:
            raise UserError(f"{path}: is named twice; name it once")
    asked = wanted or Wanted()
    parts = [_load_one(path, with_branches, len(paths) > 1, asked) for path in paths]
    if len({part.ends for part in parts}) > 1:
        of_ends = next(path for path, part in zip(paths, parts, strict=True) if part.ends)
        raise UserError(f"{of_ends}: holds end losses alone, the others curves; judge them apart")
    names = distinct_names(paths)
    if len(parts) == 1:
        return replace(parts[0], names=names)
    notes = tuple(note for part in parts for note in part.notes)
    counted = all(part.counts_steps for part in parts)
    parts = _with_differing_settings(parts)
    runs, curves, branches = (
        joined([getattr(part, kind) for part in parts], names)
        for kind in ("runs", "curves", "branches")
    )
    return Loaded(runs, curves, branches, names, notes, None, parts[0].ends, counted)


def _load_one(path: Path, with_branches: bool, whole: bool, wanted: Wanted) -> Loaded:
    log = reading.read(path, wanted) if path.exists() else None
    if log is not None:
        return of_frame(log, path.name)
    if path.is_dir():
        reading.check_unasked(path, wanted)
        found = read_sweep(path, whole)
        branches = frames.branches(path) if with_branches else _no_branches()
        return replace(found, branches=branches)
    if not path.exists():
        raise UserError(
            f"{path}: no such file or folder{near(path)}; name a sweep's folder or a CSV of "
            "curves, for example outputs/NAME"
        )
    curves, notes = curve_csv.read(path)
    reading.check_unasked(path, wanted)
    return Loaded(_runs_of(curves), curves, _no_branches(), (path.name,), tuple(notes))


def of_frame(log: reading.Found, name: str = "frame") -> Loaded:
    """Return the runs of another program's log, or of a DataFrame."""
    runs = _runs_of(log.rows)
    if log.ends:
        known = log.rows["judged_by"].iloc[0]
        runs = log.rows.rename(columns={"end_loss": "val_loss" if known == "loss" else known})
        runs = runs.drop(columns="judged_by")
    found = Loaded(
        *(runs, log.rows, _no_branches(), (name,), log.notes),
        ends=log.ends,
        counts_steps=log.counts_steps,
    )
    if log.ends or log.counts_steps:
        return found
    numbers, names = measured([log.rows])  # no row is known to be the next step after another
    return replace(found, measured=([replace(n, curve_mode="unknown") for n in numbers], names))


def _runs_of(curves: pd.DataFrame) -> pd.DataFrame:
    """Return one row a run, as far as the columns of its curve tell."""
    # a CSV's own column "folder" would be taken for a run's, and read
    not_settings = (*_ONE_A_RUN, "folder")
    settings = [name for name in tidy.settings_of(curves) if name not in not_settings]
    of_run = [name for name in (*_ONE_A_RUN, *settings) if name in curves]
    return pd.DataFrame(curves[of_run]).groupby("run", as_index=False).first()


def read_sweep(folder: Path, whole: bool = False) -> Loaded:
    """Return a sweep's runs and curves as from `frames`, with damaged records mended; no branches.

    The state is "interrupted" for a finished run with an incomplete curve, and for a run with a
    curve and no summary. A run without a summary gets the lr of its config, or the first one of its
    curve, and the values that all other runs share.

    Args:
        whole: do not thin or measure the curves.

    Raises:
        UserError: it is no sweep's folder.
    """
    if folder.is_dir():
        check_sweep(folder)
    reading = frames.Reading(folder)
    runs, found = reading.runs, None
    if whole:
        (curves,) = reading.pieces(math.inf)
    else:
        found = _measured(reading)
        curves = reading.thinned
    notes = missing_notes(folder, runs, curves)
    told = mends(runs, curves)
    for each in (runs, curves):
        mend(each, told)
    return Loaded(runs, curves, _no_branches(), (folder.name,), tuple(notes), found)


def _measured(reading: frames.Reading) -> tuple[list[Numbers], list[str]] | UserError:
    def mended() -> Iterator[pd.DataFrame]:
        for piece in reading.pieces():
            mend(piece, mends(reading.runs, piece))
            yield piece

    try:
        return measured(mended())
    except UserError as error:
        for _ in reading.pieces():  # the figures still need `reading.thinned`
            pass
        return error


def _no_branches() -> pd.DataFrame:
    return pd.DataFrame(columns=["run", "lr", "multiplier", "lr_at_step", "step", "train_loss"])


def _with_differing_settings(parts: Sequence[Loaded]) -> list[Loaded]:
    """Add a column for each setting that differs between the sweeps and was swept in none.

    Two sweeps with networks of different widths are both "mlp": only their configs tell them apart.
    """
    of_runs = [sweep_settings.of_runs(part.runs) if "folder" in part.runs else [] for part in parts]
    names = sweep_settings.differing([each for part in of_runs for each in part])
    if not names:
        return list(parts)
    filled = []
    for part, settings in zip(parts, of_runs, strict=True):
        if not settings:
            filled.append(part)
            continue
        of_run = dict(zip(part.runs["run"].tolist(), settings, strict=True))
        told = {name: {run: each.get(name) for run, each in of_run.items()} for name in names}
        runs, curves, branches = (
            with_columns(each, told) for each in (part.runs, part.curves, part.branches)
        )
        filled.append(replace(part, runs=runs, curves=curves, branches=branches))
    return filled
