"""``python -m lrlab.compare outputs/a outputs/b``: two or more sweeps side by side.

What differs between them, the answer of each, their losses lr by lr, the best against the best, and
figures of them all on shared axes.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from lrlab import records
from lrlab._version import __version__
from lrlab.comparison.sides_by_side import (
    At,
    Row,
    Side,
    accuracy_column,
    best_ends,
    best_runs,
    by_lr,
    by_lr_table,
    differences,
    incomparable,
    is_common,
    read,
    to_one_target,
    told_apart,
    with_best_settings,
    within,
)
from lrlab.errors import NotWritten, UserError, in_a_line, printable
from lrlab.process import fitting, verbs
from lrlab.tables import sweep_settings, table, tidy
from lrlab.verdicts import answer_words
from lrlab.verdicts.judging import verdicts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEAD = len("A  ")
_LONGEST_NAME = 32  # characters of a sweep's name in a figure
_TOLD_APART = 7  # combinations of sweep and settings that have a colour and a shape each


# --- words ----------------------------------------------------------------------------------------


class _Shape(NamedTuple):
    """How wide a table may be, and what has all of it; see ``fitting.fitted``."""

    width: int | None
    where: str

    def table(
        self, columns: Mapping[str, Sequence[str]], left: Set[str], least: Sequence[str] = ()
    ) -> list[str]:
        return fitting.fitted(columns, left, self.width, least, self.where)


def text(sides: Sequence[Side], width: int | None = None, where: str = "a pipe gets") -> str:
    """The whole comparison; ends without a newline.

    Args:
        width: columns of the terminal; None: lines of any width.
        where: what has all columns of the tables, where a narrow one leaves some out.
    """
    rows = by_lr(sides)
    why_not = incomparable(sides)
    shape = _Shape(width, where)
    told = [f"{side.letter}  {_indented(answer_words.text(side.answers))}" for side in sides]
    parts = [_sweep_lines(sides), *(each.splitlines() for each in told)]
    parts = ["\n".join(fitting.sentences(lines, width, _HEAD)) for lines in parts]
    parts.insert(1, _difference_text(sides, shape))
    if rows:
        of = "" if why_not else f" ({sides[0].verdicts['judged_by'].iloc[0]})"
        title = f"end loss{of}, median over seeds"
        if why_not:
            title += f"; not to be compared, for {why_not}"
        parts.append(_block(title, rows, sides, "end", shape, ranked=not why_not))
        if name := accuracy_column(sides):
            title = f"{name.replace('_', ' ')}, median over seeds"
            parts.append(_block(title, rows, sides, "accuracy", shape, ranked=True))
        parts.append(_outcome_block(rows, sides, shape))
    lines = _best_lines(sides, why_not)
    parts.append("\n".join(fitting.sentences(lines, width, answer_words.HEAD)))
    return "\n\n".join(parts)


def _sweep_lines(sides: Sequence[Side]) -> list[str]:
    lines = []
    for side in sides:
        lrs, seeds = (len(side.verdicts[name].dropna().unique()) for name in ("lr", "seed"))
        told = f"{_count(len(side.runs), 'run')}, {_count(lrs, 'lr')}"
        told += f", {seeds} seeds" if seeds > 1 else ""
        lines.append(f"{side.letter}  {table.display_path(side.path)}: {told}")
    return lines


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _difference_text(sides: Sequence[Side], shape: _Shape) -> str:
    found = differences(sides)
    if len(found) == 0:
        return "no difference in settings, versions, device or data"
    letters = [side.letter for side in sides]
    columns = {"differs": found["setting"].tolist()}
    columns |= {letter: found[letter].tolist() for letter in letters}
    return "\n".join(shape.table(columns, {"differs", *letters}))


def _indented(words: str) -> str:
    return words.removeprefix("answer  ").replace("\n        ", "\n   ")


def _block(
    title: str,
    rows: Sequence[Row],
    sides: Sequence[Side],
    measure: str,
    shape: _Shape,
    ranked: bool,
) -> str:
    """A table of one measure: lr, each sweep, and of those that have it the best, and by what."""
    columns = _heads(rows)
    is_loss = measure == "end"
    for side in sides:
        columns[side.letter] = [_value(row.at.get(side.letter), measure) for row in rows]
    if ranked:
        ranks = [_ranked(row, measure) for row in rows]
        columns["lowest" if is_loss else "highest"] = [each[0] for each in ranks]
        columns["by"] = [each[1] for each in ranks]
        columns["seed noise"] = [each[2] for each in ranks]
    left = {*rows[0].settings, "lowest", "highest", "seed noise"}
    least = ["seed noise", "by", "lowest", "highest", *reversed(list(rows[0].settings))]
    title_lines = fitting.sentences([title], shape.width)
    return "\n".join([*title_lines, *shape.table(columns, left, least)])


def _heads(rows: Sequence[Row]) -> dict[str, list[str]]:
    names = rows[0].settings
    return {
        "lr": [f"{row.lr:g}" for row in rows],
        **{name: [row.settings[name] for row in rows] for name in names},
    }


def _value(at: At | None, measure: str) -> str:
    if at is None:
        return "-"
    if measure == "accuracy":
        return "-" if math.isnan(at.accuracy) else f"{at.accuracy:.2%}"
    return "fails" if math.isinf(at.end) else f"{at.end:.4g}"


def _ranked(row: Row, measure: str) -> tuple[str, str, str]:
    """The best sweep's letter, its lead before the next, and whether that is noise."""
    sign = 1 if measure == "end" else -1
    values = {
        letter: (at.ends if measure == "end" else at.accuracies) for letter, at in row.at.items()
    }
    medians = {letter: median(each.values()) for letter, each in values.items() if each}
    order = sorted((sign * middle, letter) for letter, middle in medians.items())
    if len(order) < 2 or not math.isfinite(order[0][0]):
        return "-", "-", "-"
    (first, best), (second, other) = order[:2]
    if first == second:
        return "equal", "0", "-"
    if math.isinf(second):
        return best, "-", "the other fails" if len(order) == 2 else "the others fail"
    lead = f"{second - first:.3g}" if measure == "end" else f"{second - first:.2%}"
    return best, lead, told_apart(values[best], values[other])


def _outcome_block(rows: Sequence[Row], sides: Sequence[Side], shape: _Shape) -> str:
    columns = _heads(rows)
    for side in sides:
        cells = []
        for row in rows:
            at = row.at.get(side.letter)
            if at is None:
                cells.append("-")
            elif 0 < at.failed < len(at.ends):
                cells.append(f"{at.outcome} ({at.failed} of {len(at.ends)} failed)")
            else:
                cells.append(at.outcome)
        columns[side.letter] = cells
    left = {*rows[0].settings, *(side.letter for side in sides)}
    least = list(reversed(list(rows[0].settings)))
    return "\n".join(["outcome", *shape.table(columns, left, least)])


def _best_lines(sides: Sequence[Side], why_not: str) -> list[str]:
    """The best of each sweep against that of the others."""
    having = [side for side in sides if side.answer.best_lr is not None]
    if not having:
        return ["best    no sweep learned anything"]
    ends = {side.letter: best_ends(side) for side in having}
    order = sorted(having, key=lambda side: median(ends[side.letter].values()))
    if why_not:
        order = having
    lines = []
    told = [(side, a) for side in order for a in side.answers if a.best_lr is not None]
    for side, a in told:
        lines.append(f"best    {side.letter} {_indented(answer_words.headline(a))}")
    if why_not or len(order) < 2:
        return lines
    first, *others = order
    for other in others:
        lines.append(f"        {_lead(first, other, ends)}")
    lines += [f"        {line}" for line in _time_lines(order)]
    return lines


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "less than 0.1%"


def _lead(first: Side, other: Side, ends: Mapping[str, Mapping[Any, float]]) -> str:
    low, high = first.answer.best_loss, other.answer.best_loss
    if low == high:
        return f"{first.letter} and {other.letter} are equal"
    share = f", {_percent((high - low) / abs(high))}" if high else ""
    words = {
        "within": "which is within seed noise: they cannot be told apart",
        "beyond": "which is beyond seed noise",
        "few seeds": "with so few seeds nobody can say whether by chance",
    }[told_apart(ends[first.letter], ends[other.letter])]
    return f"{first.letter} is {high - low:.3g} lower than {other.letter}{share}, {words}"


def _time_lines(order: Sequence[Side]) -> list[str]:
    """How soon the best of each sweep came to the loss at which the last of them ended."""
    goal = max(side.answer.best_loss for side in order)
    told = []
    for side in order:
        runs = best_runs(side)["run"]
        found = verdicts(side.curves.loc[side.curves["run"].isin(runs)], target=goal)
        steps, seconds = median(found["steps_to_target"]), found["seconds_to_target"]
        if not math.isfinite(steps):
            continue
        known = seconds[np.isfinite(seconds)]
        time = f" ({median(known):.3g} s)" if len(known) else ""
        told.append(f"{side.letter} in {steps:,.0f} {found['unit'].iloc[0]}s{time}")
    return [f"loss {goal:.4g}: reached by {', '.join(told)}"] if len(told) > 1 else []


# --- the command ----------------------------------------------------------------------------------


def default_folder(paths: Sequence[Path], names: Sequence[str]) -> Path:
    """compare_<a>_<b> beside the sweeps, in the folder that they have in common."""
    parents = [str(path.resolve().parent) for path in paths]
    short = "_".join(re.sub(r"[^\w.-]+", "_", name) for name in names)
    short = short.encode()[:100].decode(errors="ignore")  # bytes count for a name's length
    return Path(os.path.commonpath(parents)) / f"compare_{short}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry."""
    verbs.begin()
    parser = verbs.Parser(
        prog="python -m lrlab.compare",
        description="Set two or more sweeps side by side: what differs, the answer of each, their "
        "losses lr by lr, and figures of them all on shared axes.",
        epilog="Exit code: 0, or 2 for bad input.",
    )
    parser.add_argument(
        "paths",
        type=verbs.path,
        nargs="+",
        metavar="SWEEP",
        help="a sweep's folder, for example outputs/a, or a CSV of curves",
    )
    parser.add_argument(
        "--output",
        type=verbs.path,
        metavar="FOLDER",
        help="where the figures and tables are written (compare_<a>_<b> beside the sweeps)",
    )
    parser.add_argument("--no-files", action="store_true", help="print only, write nothing")
    parser.add_argument("--version", action="version", version=f"lrlab {__version__}")
    failed: dict[str, str] = {}
    try:
        options = parser.parse_args(arguments)
        sides, notes = read(options.paths)
        words = whole = text(sides)
        folder = options.output or default_folder(options.paths, [s.name for s in sides])
        if (width := fitting.terminal_width()) is not None:
            file = f"{table.display_path(folder)}/compare.txt has"
            words = text(sides, width, "a pipe gets" if options.no_files else file)
        if not options.no_files:
            words = "\n".join([words, "", *_write(folder, sides, whole, failed)])
    except UserError as error:
        verbs.fail(str(error))
    except NotWritten as error:
        verbs.fail(str(error), code=1)
    except KeyboardInterrupt:
        verbs.fail("interrupted", code=130)
    for note in notes:
        print(f"lrlab: {in_a_line(note)}", file=sys.stderr)
    for name, reason in failed.items():
        print(in_a_line(f"lrlab: {name} was not drawn: {reason}"), file=sys.stderr)
    print(printable(words), flush=True)
    if failed:
        sys.exit(1)


def _write(folder: Path, sides: Sequence[Side], words: str, failed: dict[str, str]) -> list[str]:
    """Write the text, the tables and the figures; a line for each file.

    Args:
        failed: gets the figures that could not be drawn, and why.
    """
    _check_folder(folder)
    records.make_folder(folder)
    records.write_whole(folder / "compare.txt", words + "\n")
    records.write_whole(folder / "differences.csv", records.csv_text(differences(sides)))
    records.write_whole(folder / "by_lr.csv", records.csv_text(by_lr_table(sides)))
    from lrlab.plots import writing

    try:
        paths = writing.save(figures(sides, failed), folder)
    except OSError as error:
        raise NotWritten(folder, error) from error
    lines = [f"plot      {table.display_path(path)}" for path in paths]
    return [*lines, f"compared  {table.display_path(folder)}"]


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output={folder}: is a file; name a folder")
    if (folder / "multirun.yaml").is_file() or (folder / ".hydra").is_dir():
        raise UserError(f"--output={folder}: is a sweep's or a run's folder; name another")


def _short(side: Side) -> str:
    """A name that has room beside a figure; its letter tells it from another that begins alike."""
    name, half = side.name, _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{side.letter} {name[:half]}…{name[-half:]}"


def figures(sides: Sequence[Side], failed: dict[str, str] | None = None) -> dict[str, Figure]:
    """The figures of all sweeps on shared axes, by name; without those there is nothing for.

    Settings that are one value in each sweep are left to the sweep's name.

    Args:
        failed: gets the names of those that could not be drawn, and why; None: that is raised.
    """
    from lrlab import plots
    from lrlab.plots.drawing import described
    from lrlab.plots.figures.compare import side_by_side

    sides = [replace(side, name=_short(side)) for side in sides]
    kept = {*within(sides), "sweep"}
    swept = [n for side in sides for n in tidy.settings_of(side.curves)]
    dropped = {name for name in swept if name not in kept and not is_common(sides, name)}

    def joined(kind: str) -> pd.DataFrame:
        parts = [getattr(side, kind).assign(sweep=side.name) for side in sides]
        parts = [part.drop(columns=[c for c in dropped if c in part]) for part in parts]
        filled = [part.dropna(axis=1, how="all") for part in parts if len(part)]
        whole = pd.concat(filled or parts[:1], ignore_index=True)
        return whole.reindex(columns=list(dict.fromkeys(c for p in parts for c in p.columns)))

    runs, curves, found = joined("runs"), joined("curves"), joined("verdicts")
    timed = to_one_target(sides, found)
    of = ""
    combinations = {
        (row["sweep"], *(str(row.get(n)) for n in within(sides))) for row in _rows(found)
    }
    if len(combinations) > _TOLD_APART:
        best = [run for side in sides for run in with_best_settings(side)["run"].tolist()]
        runs = runs.loc[runs["run"].isin(best)]
        timed = timed.loc[timed["run"].isin(best)]
        of = ", of each sweep the best settings"
    loss, accuracy = (
        f"{what} at the end against learning rate{of}" for what in ("Loss", "Accuracy")
    )
    objectives = {sweep_settings.objective(side.path) for side in sides}
    objective = objectives.pop() if len(objectives) == 1 else ""  # else none decides them all
    makers = {
        "loss_curves": lambda: side_by_side(curves, found),
        "lr_against_loss": lambda: plots.lr_against_loss(
            runs, found, objective=objective, title=loss
        ),
        "lr_against_accuracy": lambda: plots.lr_against_accuracy(
            runs, found, objective=objective, title=accuracy
        ),
        "to_target": lambda: plots.to_target(timed),
        "mechanics": lambda: plots.mechanics(curves, found),
    }
    drawn = {}
    for name, make in makers.items():
        try:
            drawn[name] = make()
        except plots.NothingToDraw:
            pass
        except Exception as error:  # one figure's fault spoils no other
            if failed is None:
                raise
            failed[name] = described(error)
    return drawn


def _rows(table: pd.DataFrame) -> list[dict[Any, Any]]:
    return table.to_dict("records")


if __name__ == "__main__":
    main()
