"""``python -m lrlab.compare outputs/a outputs/b``: compare two to six sweeps."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrlab import records
from lrlab._version import __version__
from lrlab.comparison.by_lr import by_lr_table
from lrlab.comparison.differences import differences
from lrlab.comparison.reading import Side, read
from lrlab.comparison.together import together
from lrlab.comparison.words import text
from lrlab.errors import NotWritten, UserError, in_a_line, printable
from lrlab.logs import rates
from lrlab.process import fitting, only_json, verbs
from lrlab.process import paths as process_paths
from lrlab.tables.frames import rows
from lrlab.verdicts.printed import answer_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def default_folder(paths: Sequence[Path], names: Sequence[str]) -> Path:
    """Return compare_<a>_<b> next to the sweeps, in the folder that they have in common."""
    parents = [str(path.resolve().parent) for path in paths]
    short = "_".join(re.sub(r"[^\w.-]+", "_", name) for name in names)
    short = short.encode()[:100].decode(errors="ignore")  # bytes count for a name's length
    return Path(os.path.commonpath(parents)) / f"compare_{short}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    verbs.begin()
    parser = verbs.Parser(
        prog="python -m lrlab.compare",
        description="Compare two to six sweeps: their differences, the answer of each, their "
        "losses at each lr, the best against the best, and figures on shared axes.",
        epilog="Exit code: 0, 1 a figure or a file failed, or 2 for bad input.",
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
        help="where to write figures and tables (compare_<a>_<b> next to the sweeps)",
    )
    rates.add_options(parser)
    parser.add_argument("--no-files", action="store_true", help="print only, write nothing")
    parser.add_argument("--json", action="store_true", help=only_json.HELP)
    parser.add_argument("--version", action="version", version=f"lrlab {__version__}")
    failed: dict[str, str] = {}
    written: list[Path] = []
    try:
        options = parser.parse_args(arguments)
        sides, notes = read(options.paths, rates.wanted(options))
        words = whole = text(sides)
        folder = options.output or default_folder(options.paths, [s.name for s in sides])
        if (width := fitting.terminal_width()) is not None:
            file = f"{process_paths.display_path(folder)}/compare.txt has"
            words = text(sides, width, "a pipe gets" if options.no_files else file)
        if not options.no_files:
            words = "\n".join([words, "", *_write(folder, sides, whole, failed, written)])
    except UserError as error:
        verbs.fail(str(error))
    except NotWritten as error:
        verbs.fail(str(error), code=1)
    except KeyboardInterrupt:
        verbs.fail("interrupted", code=130)
    if options.json:
        only_json.show(
            {
                **only_json.head("compare"),
                "folder": None if options.no_files else str(folder),
                "sweeps": [_side(side) for side in sides],
                "differences": rows(differences(sides)),
                "by_lr": rows(by_lr_table(sides)),
                "text": whole,
                "plots": list(map(str, written)),
                "failed": failed,
                "notes": list(notes),
            }
        )
        sys.exit(1 if failed else 0)
    for note in notes:
        print(f"lrlab: {in_a_line(note)}", file=sys.stderr)
    for name, reason in failed.items():
        print(in_a_line(f"lrlab: {name} was not drawn: {reason}"), file=sys.stderr)
    print(printable(words), flush=True)
    if failed:
        sys.exit(1)


def _side(side: Side) -> dict[str, Any]:
    sweep = side.path if side.path.is_dir() else None
    answer = answer_json.of_sweep(side.answers, sweep)
    return {"letter": side.letter, "name": side.name, "path": str(side.path), "answer": answer}


def _write(
    folder: Path,
    sides: Sequence[Side],
    words: str,
    failed: dict[str, str],
    written: list[Path],
) -> list[str]:
    """Write the text, the tables and the figures; return a line for each figure and the folder.

    Args:
        failed: gets the figures that could not be drawn, and why.
        written: gets the files of the figures.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output={folder}: is a file; name a folder")
    if (folder / "multirun.yaml").is_file() or (folder / ".hydra").is_dir():
        raise UserError(f"--output={folder}: is a sweep's or a run's folder; name another")
    records.make_folder(folder)
    records.write_whole(folder / "compare.txt", words + "\n")
    records.write_whole(folder / "differences.csv", records.csv_text(differences(sides)))
    records.write_whole(folder / "by_lr.csv", records.csv_text(by_lr_table(sides)))
    from lrlab.plots import writing

    try:
        paths = writing.save(figures(sides, failed), folder)
    except OSError as error:
        raise NotWritten(folder, error) from error
    written += paths
    lines = [f"plot      {process_paths.display_path(path)}" for path in paths]
    return [*lines, f"compared  {process_paths.display_path(folder)}"]


def figures(sides: Sequence[Side], failed: dict[str, str] | None = None) -> dict[str, Figure]:
    """Draw the figures of all sweeps on shared axes; return by name those for which there is data.

    Args:
        failed: gets the figures that could not be drawn, and why; None: raise the reason.
    """
    from lrlab.plots import comparing
    from lrlab.plots.tables import Tables

    found = together(sides)
    tables = Tables(found.runs, found.curves, found.verdicts, objective=found.objective)
    return comparing.figures(tables, found.timed, found.only_best, failed)


if __name__ == "__main__":
    main()
