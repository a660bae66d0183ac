"""``python -m lrlab.analysis PATH ...``: what each learning rate did, and which one to use.

A path is a sweep's folder or a CSV of curves, of anyone's runs. Several are judged together.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from lrlab import errors, records
from lrlab._version import __version__
from lrlab.errors import NotWritten, UserError
from lrlab.process import fitting, verbs
from lrlab.process.plain import to_json
from lrlab.records import thresholds
from lrlab.tables import curve_csv, frames, sweep_settings, table, tidy
from lrlab.verdicts import answer_words, recommend
from lrlab.verdicts.evidence import Numbers
from lrlab.verdicts.judging import UNFINISHED, judge, measured, verdicts

EVIDENCE_OF = 40  # runs whose evidence is printed unasked; with more the table leaves the screen
_STATES = ("running", "training", "waiting", "interrupted")
_ONE_A_RUN = ("run", "lr", "seed", "state", "initial_loss", "chance_loss", "num_classes")


@dataclass(frozen=True)
class Loaded:
    """Runs of one source or of several.

    Attributes:
        runs: one row a run, as from `analysis.runs`; of a CSV what its columns tell of a run.
        curves: as from `analysis.curves`, or the CSV's columns. Of one sweep alone they are thinned
            to what a figure needs, see `lrlab.tables.thinning`; `verdicts` is of the whole ones.
        branches: as from `analysis.branches`; of a CSV none.
        names: of the sources, each another, in the order given. With several of them, `run` is
            "name/3" in all tables, a column `sweep` holds the name, and settings that differ
            between the sweeps are columns.
        notes: lines about what is missing, or was left out.
    """

    runs: pd.DataFrame
    curves: pd.DataFrame
    branches: pd.DataFrame
    names: tuple[str, ...]
    notes: tuple[str, ...]
    measured: tuple[list[Numbers], list[str]] | UserError | None = None

    def verdicts(self, target: float | None = None) -> pd.DataFrame:
        """As `lrlab.verdicts.judging.verdicts`.

        Raises:
            UserError: as there.
        """
        if isinstance(self.measured, UserError):
            raise self.measured
        if self.measured is None:
            found = verdicts(self.curves, target=target)
        else:
            found = judge(*self.measured, target, thresholds.THRESHOLDS)
        return frames.with_parts(found, self.runs)


def load(paths: Sequence[Path], with_branches: bool = True) -> Loaded:
    """Read sweeps' folders and CSVs of curves.

    Args:
        with_branches: False: the steps of the branch tests are not read, which takes long of many
            runs; their gains are in the curves.

    Raises:
        UserError: a path is neither, or what it holds is damaged beyond use.
    """
    if not paths:
        raise UserError("name a sweep's folder or a CSV of curves, for example outputs/NAME")
    same = [path for i, path in enumerate(paths) if path.resolve() in _resolved(paths[:i])]
    if same:
        raise UserError(f"{same[0]}: is named twice; name it once")
    parts = [_load_one(path, with_branches, whole=len(paths) > 1) for path in paths]
    names = distinct_names(paths)
    notes = tuple(note for part in parts for note in part.notes)
    if len(parts) == 1:
        one = parts[0]
        return Loaded(one.runs, one.curves, one.branches, names, notes, one.measured)
    parts = _with_differing_settings(parts)
    runs, curves, branches = (
        _joined([getattr(part, kind) for part in parts], names)
        for kind in ("runs", "curves", "branches")
    )
    return Loaded(runs, curves, branches, names, notes)


def distinct_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """The last part of each path, of a file without its ending; with its parents where needed."""
    whole = [_without_ending(path.resolve()).parts for path in paths]
    length = [1] * len(paths)
    while True:
        names = ["/".join(parts[-n:]) for parts, n in zip(whole, length, strict=True)]
        alike = [i for i, name in enumerate(names) if names.count(name) > 1]
        longer = [i for i in alike if length[i] < len(whole[i])]
        if not longer:  # two files whose names differ in their endings only
            return tuple(str(paths[i]) if i in alike else name for i, name in enumerate(names))
        for i in longer:
            length[i] += 1


def _without_ending(path: Path) -> Path:
    if path.is_dir():
        return path
    name = path.name.removesuffix(".gz").removesuffix(".csv")
    return path.with_name(name) if name else path


def _resolved(paths: Sequence[Path]) -> list[Path]:
    return [path.resolve() for path in paths]


# --- one source -----------------------------------------------------------------------------------


def _load_one(path: Path, with_branches: bool, whole: bool) -> Loaded:
    if path.is_dir():
        found = read_sweep(path, whole)
        branches = frames.branches(path) if with_branches else _no_branches()
        return replace(found, branches=branches)
    if not path.exists():
        raise UserError(
            f"{path}: no such file or folder{_near(path)}; name a sweep's folder or a CSV of "
            "curves, for example outputs/NAME"
        )
    curves, notes = curve_csv.read(path)
    # a CSV's own column "folder" would be taken for a run's, and read
    not_settings = (*_ONE_A_RUN, "folder")
    settings = [name for name in tidy.settings_of(curves) if name not in not_settings]
    of_run = [name for name in (*_ONE_A_RUN, *settings) if name in curves]
    runs = pd.DataFrame(curves[of_run]).groupby("run", as_index=False).first()
    return Loaded(runs, curves, _no_branches(), (path.name,), tuple(notes))


def _near(path: Path) -> str:
    from lrlab.config.schema import nearest

    try:
        names = [each.name for each in path.absolute().parent.iterdir()]
    except OSError:
        return ""
    return nearest(path.name, names)


def read_sweep(folder: Path, whole: bool = False) -> Loaded:
    """Its runs and curves as from `analysis`, mended where records are damaged; no branches.

    A finished run whose curve ends before its last step, and a run with a curve and no summary,
    have the state interrupted; the latter has the lr of its config, or the first of its curve, and
    what else is the same in all other runs.

    Args:
        whole: the curves are not thinned, and not measured.

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
    notes = _notes(folder, runs, curves)
    told = _mends(runs, curves)
    for each in (runs, curves):
        _mend(each, told)
    return Loaded(runs, curves, _no_branches(), (folder.name,), tuple(notes), found)


def _measured(reading: frames.Reading) -> tuple[list[Numbers], list[str]] | UserError:
    def mended() -> Iterator[pd.DataFrame]:
        for piece in reading.pieces():
            _mend(piece, _mends(reading.runs, piece))
            yield piece

    try:
        return measured(mended())
    except UserError as error:
        for _ in reading.pieces():  # to be drawn all the same
            pass
        return error


def _mends(runs: pd.DataFrame, curves: pd.DataFrame) -> dict[str, dict[Any, Any]]:
    """What a table is to say instead: by its column, of each run that is there in the curves."""
    short = cut_short(runs, curves)
    begun = set(curves.loc[curves["step"].notna(), "run"].unique())
    lost = sorted(begun.intersection(runs.loc[runs["state"] == "waiting", "run"]))
    told: dict[str, dict[Any, Any]] = {"state": dict.fromkeys([*short, *lost], "interrupted")}
    if lost:
        of_run = runs.set_index("run")["folder"]
        first = curves.dropna(subset=["lr_at_step"]).groupby("run")["lr_at_step"].first()
        lrs = {run: sweep_settings.lr_of(Path(str(of_run[run]))) for run in lost}
        told["lr"] = {r: first.get(r, math.nan) if math.isnan(x) else x for r, x in lrs.items()}
        others = runs.loc[runs["state"] != "waiting"]
        for name in (*tidy.settings_of(runs), "seed", "chance_loss", "num_classes"):
            values = others[name].dropna().unique()
            if len(values) == 1:
                told[name] = dict.fromkeys(lost, values[0])
    return told


def _mend(table_: pd.DataFrame, told: Mapping[str, Mapping[Any, Any]]) -> None:
    for name, of_runs in told.items():
        if of_runs and name in table_:
            values = zip(table_["run"].tolist(), table_[name].tolist(), strict=True)
            table_[name] = [of_runs.get(run, value) for run, value in values]


def cut_short(runs: pd.DataFrame, curves: pd.DataFrame) -> list[int]:
    """The finished runs whose curves end before the last step that their summary tells of."""
    finished = runs.loc[runs["state"] == "finished"]
    last = finished["run"].map(curves.groupby("run")["step"].max())
    return finished.loc[last < finished["steps"], "run"].tolist()


def _no_branches() -> pd.DataFrame:
    return pd.DataFrame(columns=["run", "lr", "multiplier", "lr_at_step", "step", "train_loss"])


def check_sweep(folder: Path) -> None:
    """That it is a sweep's folder; if not, which to name.

    Raises:
        UserError: it is not.
    """
    try:
        inside = sorted(each for each in folder.iterdir() if each.is_dir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None
    if records.run_folders(folder):
        return
    if (folder / ".hydra").is_dir() or (folder / "metrics.csv").is_file():
        parent = folder.absolute().parent
        raise UserError(
            f"{folder}: is a run's folder; name its sweep's, {table.typed_path(parent)}"
        )
    if (folder / "multirun.yaml").is_file():
        raise UserError(f"{folder}: has no run yet; start it again or wait for its first step")
    sweeps = [each for each in inside if records.run_folders(each)]
    # A reproduction is a copy of a run that its sweep has.
    sweeps = [each for each in sweeps if not _is_reproduction(each)] or sweeps
    if sweeps:
        count = f"{len(sweeps)} sweeps" if len(sweeps) > 1 else "a sweep"
        some = " or ".join(str(each) for each in sweeps[:3])
        raise UserError(f"{folder}: holds {count}, but no runs; name one or more, like {some}")
    raise UserError(
        f"{folder}: holds no runs; name a sweep's folder, the one with 0/, 1/, ... in it"
    )


def _is_reproduction(folder: Path) -> bool:
    return any((run / "provenance.json").is_file() for run in records.run_folders(folder))


def _notes(folder: Path, runs: pd.DataFrame, curves: pd.DataFrame) -> list[str]:
    """What is missing in a sweep's records, and what that means for the verdicts."""
    notes = []
    begun = set(curves.loc[curves["step"].notna(), "run"].unique())
    unread = [*unreadable(runs)]
    unread += [r for r in runs.loc[runs["state"] == "waiting", "run"] if r in begun - {*unread}]
    states = runs.loc[~runs["run"].isin(unread), "state"].tolist()
    going = {name: states.count(name) for name in _STATES if name in states}
    if going:
        told = ", ".join(f"{count} {name}" for name, count in going.items())
        notes.append(
            f"{sum(going.values())} of {len(runs)} runs have not ended ({told}); "
            "they are not compared"
        )
    expected = runs[~runs["state"].isin(("waiting", "failed"))]
    notes += _some_lack(
        "readable metrics.csv", [r for r in expected["run"] if r not in begun], runs
    )
    notes += _some_lack("readable summary.json", sorted(unread), runs)
    if short := [run for run in cut_short(runs, curves) if run in begun]:
        notes.append(
            f"{len(short)} of {len(runs)} runs have a metrics.csv that ends before their last step "
            f"({_named(short)}); they are not compared"
        )
    ended = runs.loc[runs["state"] == "finished", "run"].tolist()
    measured = _having(curves, ("alpha", "stability_ratio"))
    if measured:  # where no run has any, that was the user's choice
        lacking = [run for run in ended if run not in measured]
        then = "their steps are judged by their curves alone"
        notes += _some_lack("diagnostics", lacking, runs, then)
    notes += _branch_notes(folder, runs, curves, ended)
    return [f"{folder}: {note}" for note in notes]


def unreadable(runs: pd.DataFrame) -> list[Any]:
    """The runs whose summary is there, or may be, and cannot be read.

    Args:
        runs: as from `analysis.runs`.
    """
    found = []
    for row in runs.loc[runs["state"] == "waiting"].to_dict("records"):
        try:
            records.read_summary(Path(row["folder"]))
        except FileNotFoundError:
            continue
        except UserError:
            found.append(row["run"])
    return found


def unread_notes(folder: Path, runs: pd.DataFrame) -> list[str]:
    """A line where summaries are there and cannot be read, else none."""
    lacking = unreadable(runs)
    return [f"{folder}: {note}" for note in _some_lack("readable summary.json", lacking, runs)]


def _branch_notes(
    folder: Path, runs: pd.DataFrame, curves: pd.DataFrame, ended: Sequence[Any]
) -> list[str]:
    """Of which runs there is no branch test, and why."""
    tested = _having(curves, ("gain_low", "gain_high"))
    folders = {row["run"]: Path(row["folder"]) for row in runs.to_dict("records")}
    lacking = [run for run in ended if run not in tested]
    to_make = [run for run in lacking if records.end_file(folders[run]).is_file()]
    notes = []
    if to_make:
        path = table.typed_path(folder)
        notes.append(
            f"the branch test of {len(to_make)} of {len(runs)} runs was not made "
            f"({_named(to_make)}); python -m lrlab.resume {path} makes it"
        )
    lacking = [run for run in lacking if run not in to_make]
    brief = [run for run in lacking if _has_branches(folders[run])]
    if brief:
        notes.append(
            f"the branch test of {len(brief)} of {len(runs)} runs ({_named(brief)}) had less than "
            f"{frames.FEWEST_STEPS} steps, too few to be heard"
        )
    if tested:  # where no run has any, that was the user's choice
        rows = curves.loc[curves["lr_at_step"].notna()].groupby("run")
        share = rows["lr_at_step"].last() / rows["lr"].first()
        low = {run for run, value in share.items() if value < thresholds.THRESHOLDS.annealed}
        lacking = [run for run in lacking if run not in brief]
        notes += _some_lack(
            "branch test, by design",
            [run for run in lacking if run in low],
            runs,
            "their schedules have brought the lr down already, so they count as settled",
        )
        notes += _some_lack(
            "branch test",
            [run for run in lacking if run not in low],
            runs,
            "how they stood at their end is judged by their curves",
        )
    return notes


def _having(curves: pd.DataFrame, names: Sequence[str]) -> set[Any]:
    """The runs with a value in one of these columns."""
    measured = np.zeros(len(curves), dtype=bool)
    for name in names:
        if name in curves:
            measured |= curves[name].notna().to_numpy()
    return set(curves.loc[measured, "run"].unique())


def _has_branches(run: Path) -> bool:
    try:
        return len(records.read_branches(run)) > 0
    except (FileNotFoundError, UserError):
        return False


def _some_lack(what: str, lacking: Sequence[Any], runs: pd.DataFrame, then: str = "") -> list[str]:
    if not lacking:
        return []
    line = f"{len(lacking)} of {len(runs)} runs have no {what} ({_named(lacking)})"
    return [f"{line}; {then}" if then else line]


def _named(numbers: Sequence[Any]) -> str:
    return f"run {', '.join(map(str, numbers[:5]))}{', ...' if len(numbers) > 5 else ''}"


# --- several sources ------------------------------------------------------------------------------


def _with_differing_settings(parts: Sequence[Loaded]) -> list[Loaded]:
    """With a column for each setting that differs between the sweeps, and was swept in none.

    Two sweeps of networks of other widths are both "mlp": only their configs tell them apart.
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
            _with_columns(each, told) for each in (part.runs, part.curves, part.branches)
        )
        filled.append(Loaded(runs, curves, branches, part.names, part.notes))
    return filled


def _with_columns(part: pd.DataFrame, told: Mapping[str, Mapping[Any, Any]]) -> pd.DataFrame:
    """The table with a column of each name, by its run."""
    code, runs = pd.factorize(part["run"].to_numpy())
    columns = {
        name: pd.Series([of_run[run] for run in runs]).reindex(code).to_numpy()
        for name, of_run in told.items()
    }
    return part.assign(**columns)


def _joined(parts: Sequence[pd.DataFrame], names: Sequence[str]) -> pd.DataFrame:
    named = [
        part.assign(run=_run_names(name, part), sweep=name)
        for part, name in zip(parts, names, strict=True)
    ]
    columns = list(dict.fromkeys(column for part in named for column in part.columns))
    # Columns without a value have no type of their own, and would change that of the others.
    filled = [part.dropna(axis=1, how="all") for part in named if len(part)]
    together = pd.concat(filled, ignore_index=True) if filled else named[0]
    return together.reindex(columns=columns)


def _run_names(name: str, part: pd.DataFrame) -> np.ndarray:
    """(rows,) "name/3"; an empty run stays empty, for `verdicts` to refuse."""
    code, values = pd.factorize(part["run"].to_numpy())
    texts = np.array([*(f"{name}/{value}" for value in values), None], dtype=object)
    return texts[code]


# --- words ----------------------------------------------------------------------------------------


def in_order(found: pd.DataFrame) -> pd.DataFrame:
    """Sorted by run, "name/2" before "name/10"."""

    def key(row: int) -> tuple[tuple[int, int, str], ...]:
        parts = re.findall(r"\d+|\D+", str(runs[row]))
        return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts)

    runs = found["run"].tolist()
    return found.iloc[sorted(range(len(runs)), key=key)].reset_index(drop=True)


def verdict_table(found: pd.DataFrame, width: int | None = None) -> str:
    """One line a run: run, lr, what else varies, outcome, at the end, step mode, end loss.

    found: as from `verdicts`. Sorted as it is. Ends without a newline.
    width: columns of the terminal; None: a table of any width.
    """
    begun = found.loc[found["lr"].notna()]
    varying = ["seed"] if len(set(map(str, begun["seed"]))) > 1 else []
    varying += tidy.varying(found)
    columns = {
        "run": _names(found),
        "lr": [_cell(lr) for lr in found["lr"]],
        **{name: [_cell(value) for value in found[name]] for name in varying},
        "outcome": found["outcome"].tolist(),
        **_at_end(found),
        "steps": found["step_mode"].tolist(),
        **_states(found),
        "end loss": ["non-finite" if x == math.inf else _cell(x, ".4g") for x in found["end_loss"]],
        "decay": [_gain(gain) for gain in found["decay_gain"]],
    }
    if not bool(found["decay_gain"].notna().to_numpy().any()):  # no branch test
        del columns["decay"]
    left = {name for name in ("run", *varying) if not pd.api.types.is_numeric_dtype(found[name])}
    left |= {"outcome", "at the end", "steps", "state"}
    least = ["decay", "steps", "at the end", "state", *reversed(varying)]
    return "\n".join(fitting.fitted(columns, left, width, least, "--output FILE writes"))


def _at_end(found: pd.DataFrame) -> dict[str, list[str]]:
    """A column of how the runs stood at their end, where anything tells."""
    words = [str(word) or "-" for word in found["at_end"]]
    return {"at the end": words} if set(words) != {"-"} else {}


def _states(found: pd.DataFrame) -> dict[str, list[str]]:
    """A column of the states where some runs have not had their whole budget."""
    states = [str(state) for state in found["state"]]
    return {"state": states} if set(states) & set(UNFINISHED) else {}


def evidence_lines(found: pd.DataFrame, width: int | None = None) -> str:
    """The evidence of each run in words, behind its run and lr.

    found: as from `verdicts`. width: columns of the terminal; None: each run on one line.
    """
    runs, lrs = _names(found), [f"lr {_cell(lr)}" for lr in found["lr"]]
    of_run, of_lr = max(map(len, runs), default=0), max(map(len, lrs), default=0)
    is_number = pd.api.types.is_numeric_dtype(found["run"])
    heads = [
        f"{run.rjust(of_run) if is_number else run.ljust(of_run)}  {lr.ljust(of_lr)}  "
        for run, lr in zip(runs, lrs, strict=True)
    ]
    lines = zip(heads, found["evidence"], strict=True)
    return "\n".join(fitting.wrapped(head, text, width) for head, text in lines)


def _answer(answers: Sequence[recommend.Answer], width: int | None) -> str:
    lines = answer_words.text(answers).splitlines()
    return "\n".join(fitting.sentences(lines, width, answer_words.HEAD))


def _names(found: pd.DataFrame) -> list[str]:
    return [printable(str(run)) for run in found["run"].tolist()]


def printable(text: str) -> str:
    """On one line: names are the user's, and may hold what a terminal takes for a command."""
    return errors.printable(" ".join(text.split()))


def _cell(value: Any, spec: str = "g") -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:{spec}}" if isinstance(value, float) else printable(str(value))


def _gain(gain: float) -> str:
    if math.isnan(gain):
        return "-"
    return "non-finite" if gain == -math.inf else f"{round(gain, 2) + 0.0:.2f}"


def as_json(found: pd.DataFrame, answers: Sequence[recommend.Answer], notes: Sequence[str]) -> str:
    """Verdicts, answers and notes as one JSON object; what is not finite is null."""
    shown = found.drop(columns=frames.PARTS, errors="ignore")
    rows = json.loads(shown.to_json(orient="records", double_precision=15) or "[]")
    whole = {"verdicts": rows, "answers": [asdict(each) for each in answers], "notes": list(notes)}
    return to_json(whole, default=_plain)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


# --- the command ----------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry."""
    verbs.begin()
    parser = verbs.Parser(
        prog="python -m lrlab.analysis",
        description="Say of each run whether its steps overshoot, undershoot or converge, with "
        "the evidence, and which learning rate to use.",
        epilog="A CSV needs the columns run, lr, train_loss, and step or epoch; used where there: "
        "seed, val_loss, alpha, stability_ratio, grad_norm, initial_loss, num_classes, gain_low, "
        "gain_high, seconds, state, and settings (optimizer, schedule, ...). Exit code: 0, or 2 "
        "for bad input.",
    )
    parser.add_argument(
        "paths",
        type=verbs.path,
        nargs="*",
        metavar="PATH",
        help="a sweep's folder, or a CSV of curves; several are judged together",
    )
    parser.add_argument(
        "--output", type=verbs.path, metavar="FILE", help="write the verdicts as CSV"
    )
    parser.add_argument(
        "--target",
        type=float,
        metavar="LOSS",
        help="the loss to reach (95%% of the way to the best)",
    )
    parser.add_argument(
        "--evidence",
        action="store_true",
        help=f"print it for each run, also where there are more than {EVIDENCE_OF}",
    )
    parser.add_argument("--json", action="store_true", help="print verdicts and answer as JSON")
    parser.add_argument(
        "--thresholds", action="store_true", help="print the numbers at which verdicts turn"
    )
    parser.add_argument("--version", action="version", version=f"lrlab {__version__}")
    try:
        text, notes = _run(parser.parse_args(arguments))
    except UserError as error:
        fail(str(error))
    except NotWritten as error:
        fail(str(error), code=1)
    except KeyboardInterrupt:
        fail("interrupted", code=130)
    for note in notes:
        print(f"lrlab: {printable(note)}", file=sys.stderr)
    print(errors.printable(text))


def _run(options: argparse.Namespace) -> tuple[str, tuple[str, ...]]:
    """What to print, and the notes beside it."""
    if options.thresholds and not options.paths:
        return "\n".join(thresholds.lines()), ()
    if options.target is not None and not math.isfinite(options.target):
        raise UserError(f"--target={options.target}: must be a finite number, like --target=0.1")
    if options.output is not None:
        options.output = _output(options.output, options.paths)
    loaded = load(options.paths, with_branches=False)
    found = in_order(loaded.verdicts(options.target))
    answers = recommend.recommend(found)
    if options.output is not None:
        records.write_whole(options.output, records.csv_text(found))
    if options.json:
        return as_json(found, answers, loaded.notes), ()
    width = fitting.terminal_width()
    parts = [verdict_table(found, width)]
    if options.evidence or len(found) <= EVIDENCE_OF:
        parts.append(evidence_lines(found, width))
    else:
        parts.append(f"the evidence of {len(found)} runs: --evidence prints it, --output writes it")
    if options.thresholds:
        parts.append("\n".join(thresholds.lines()))
    parts.append(_answer(answers, width))
    if options.output is not None:
        parts.append(f"verdicts  {table.display_path(options.output)}")
    return "\n\n".join(parts), loaded.notes


def _output(file: Path, paths: Sequence[Path]) -> Path:
    if file.resolve() in _resolved(paths):
        raise UserError(f"--output={file}: would replace what is read; name another file")
    return verbs.output_file("--output", file, "verdicts.csv", _is_verdicts)


def _is_verdicts(text: str) -> bool:
    return {"run", "outcome", "evidence"} <= set(text.partition("\n")[0].strip().split(","))


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one line and end the program."""
    print(f"lrlab: {printable(message)}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
