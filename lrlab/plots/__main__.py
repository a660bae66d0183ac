"""``python -m lrlab.plots outputs/<sweep>``: draw a sweep again, or a part of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lrlab._version import __version__
from lrlab.errors import NotWritten, UserError, printable
from lrlab.logs import rates
from lrlab.logs.columns import Wanted
from lrlab.plots.tables import FORMATS, NAMES, SUMMARIES, Drawn
from lrlab.process import only_json, verbs
from lrlab.process.verbs import Parser, path


def _parser() -> Parser:
    width = max(map(len, NAMES))
    names = "\n".join(f"  {name:{width}}  {SUMMARIES[name]}" for name in NAMES)
    parser = Parser(
        prog="python -m lrlab.plots",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Draw the plots of a sweep, also of one that is still running.",
        epilog=f"plots:\n{names}\n\n"
        "Exit code: 0 drawn, 1 nothing was drawn or a plot failed, 2 bad input.",
    )
    parser.add_argument("sweep", type=path, metavar="SWEEP", help="a sweep's folder, or a log")
    many: Any = {"nargs": "+", "action": "extend", "default": []}
    parser.add_argument("--only", metavar="NAME", help="draw only these", **many)
    formats = f"{', '.join(FORMATS)} (png svg)"
    parser.add_argument("--format", metavar="KIND", help=formats, **many)
    parser.add_argument(
        "--output",
        type=path,
        metavar="FOLDER",
        help="where the files go (plots/ in the sweep's folder)",
    )
    rates.add_options(parser)
    parser.add_argument("--json", action="store_true", help=only_json.HELP)
    parser.add_argument("--version", action="version", version=f"lrlab {__version__}")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    verbs.begin()
    try:
        options = _parser().parse_args(arguments)
        only = [_known("--only", name, NAMES) for name in options.only]
        formats = [_known("--format", kind, FORMATS) for kind in options.format] or ["png", "svg"]
        asked = rates.wanted(options)
        drawn, notes = _draw(options.sweep, only, formats, options.output, asked)
    except UserError as error:
        verbs.fail(str(error), 2)
    except NotWritten as error:
        verbs.fail(str(error), 1)
    except KeyboardInterrupt:
        verbs.fail("interrupted", 130)
    if options.json:
        found = {
            "plots": [str(path.absolute()) for path in drawn.paths],
            "left_out": drawn.left_out,
            "failed": drawn.failed,
            "notes": list(notes),
        }
        only_json.show({**only_json.head("plots"), **found})
    else:
        failed = [f"{name} was not drawn: {reason}" for name, reason in drawn.failed.items()]
        for note in (*notes, *failed):
            print(printable(f"lrlab: {note}"), file=sys.stderr)
        print(printable("\n".join(_lines(drawn))))
    if drawn.failed or not drawn.paths:
        sys.exit(1)


def _draw(
    sweep: Path, only: Sequence[str], formats: Sequence[str], output: Path | None, wanted: Wanted
) -> tuple[Drawn, tuple[str, ...]]:
    """Return what was drawn, and notes about the records."""
    from lrlab.plots.reading import load

    tables, notes = load(sweep, wanted)
    if output is None:
        from lrlab import records

        output = records.plot_folder(sweep) if sweep.is_dir() else sweep.parent / "plots"
    elif output.exists() and not output.is_dir():
        raise UserError(f"--output={output}: is a file; name a folder")
    from lrlab.plots.drawing import Drawing
    from lrlab.process.cores import cores

    names = list(dict.fromkeys(only)) or NAMES
    free = cores() if len(names) > 2 and cores() > 1 else 0  # two are drawn while processes start
    with Drawing(output, list(dict.fromkeys(formats)), free) as drawing:
        drawing.add(names, tables)
        drawn = drawing.wait()
    if drawn.unwritten is not None:
        raise drawn.unwritten
    return drawn, notes


def _lines(drawn: Drawn) -> list[str]:
    """Return a line for each file written, and for each figure left out."""
    from lrlab.process.paths import display_path

    width = max(map(len, drawn.left_out), default=0)
    left_out = [f"left out  {name:{width}}  {reason}" for name, reason in drawn.left_out.items()]
    return [*(f"plot      {display_path(path)}" for path in drawn.paths), *left_out]


def _known(option: str, word: str, words: Sequence[str]) -> str:
    from lrlab.config.schema import nearest

    if word not in words:
        raise UserError(
            f"{option}={word}: no such {'plot' if option == '--only' else 'format'}"
            f"{nearest(word, words)}; choose from {', '.join(words)}"
        )
    return word


if __name__ == "__main__":
    main()
