"""``python -m lrlab.analysis PATH ...``: what each learning rate did, and which one to use.

A path is the folder of a sweep, or a CSV of curves from any program. Several are judged together.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from lrlab import errors, records
from lrlab._version import __version__
from lrlab.errors import NotWritten, UserError, in_a_line
from lrlab.process import fitting, verbs
from lrlab.process import paths as process_paths
from lrlab.records import thresholds
from lrlab.verdicts import recommend
from lrlab.verdicts.judging import verdicts as verdicts  # of a DataFrame: docs/analysis.md
from lrlab.verdicts.loading import load, resolved
from lrlab.verdicts.printed.answer_words import terminal_text
from lrlab.verdicts.printed.run_words import as_json, evidence_lines, in_order, verdict_table

EVIDENCE_OF = 40  # print the evidence up to so many runs; with more the table leaves the screen


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
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
        verbs.fail(str(error))
    except NotWritten as error:
        verbs.fail(str(error), code=1)
    except KeyboardInterrupt:
        verbs.fail("interrupted", code=130)
    for note in notes:
        print(f"lrlab: {in_a_line(note)}", file=sys.stderr)
    print(errors.printable(text))


def _run(options: argparse.Namespace) -> tuple[str, tuple[str, ...]]:
    """Return the text to print, and the notes that go with it."""
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
        one = options.paths[0] if len(options.paths) == 1 and options.paths[0].is_dir() else None
        return as_json(found, answers, loaded.notes, one), ()
    width = fitting.terminal_width()
    parts = [verdict_table(found, width)]
    if options.evidence or len(found) <= EVIDENCE_OF:
        parts.append(evidence_lines(found, width))
    else:
        parts.append(f"the evidence of {len(found)} runs: --evidence prints it, --output writes it")
    if options.thresholds:
        parts.append("\n".join(thresholds.lines()))
    parts.append(terminal_text(answers, width))
    if options.output is not None:
        parts.append(f"verdicts  {process_paths.display_path(options.output)}")
    return "\n\n".join(parts), loaded.notes


def _output(file: Path, paths: Sequence[Path]) -> Path:
    if file.resolve() in resolved(paths):
        raise UserError(f"--output={file}: would replace what is read; name another file")
    return verbs.output_file("--output", file, "verdicts.csv", _is_verdicts)


def _is_verdicts(text: str) -> bool:
    return {"run", "outcome", "evidence"} <= set(text.partition("\n")[0].strip().split(","))


if __name__ == "__main__":
    main()
