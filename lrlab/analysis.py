"""``python -m lrlab.analysis PATH ...``: say what each learning rate did, and which one to use.

A path is the folder of a sweep, a CSV of curves, or the log of another program. Several are judged
together.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lrlab import errors, records
from lrlab._version import __version__
from lrlab.errors import NotWritten, UserError, in_a_line
from lrlab.logs import rates
from lrlab.process import fitting, only_json, verbs
from lrlab.process import paths as process_paths
from lrlab.records import thresholds
from lrlab.verdicts.judging import verdicts as verdicts  # of a DataFrame: docs/analysis.md
from lrlab.verdicts.loading import load
from lrlab.verdicts.printed import end_loss_words
from lrlab.verdicts.printed.answer_words import terminal_text
from lrlab.verdicts.printed.run_words import as_object, evidence_lines, in_order, verdict_table

EVIDENCE_OF = 40  # with more runs, the evidence would push the table off the screen


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    verbs.begin()
    parser = verbs.Parser(
        prog="python -m lrlab.analysis",
        description="Say for each run whether its learning rate was too small, too large or "
        "right, with the evidence, and which learning rate to use.",
        epilog="Read as exported: Lightning, Hugging Face, Keras, W&B, TensorBoard, MLflow, "
        "Optuna, AlgoPerf, and a CSV with a loss and steps or epochs, or with end losses alone. "
        "A CSV's columns: run, lr, train_loss, and step or epoch. It may also have: seed, "
        "val_loss, alpha, stability_ratio, grad_norm, initial_loss, num_classes, gain_low, "
        "gain_high, seconds, state, and settings (optimizer, schedule, ...). Exit code: 0, or 2 "
        "for bad input.",
    )
    parser.add_argument(
        "paths",
        type=verbs.path,
        nargs="*",
        metavar="PATH",
        help="a sweep's folder, a CSV of curves, or another program's log or folder of logs; "
        "several are judged together",
    )
    rates.add_options(parser)
    parser.add_argument(
        "--output", type=verbs.path, metavar="FILE", help="write the verdicts as CSV"
    )
    parser.add_argument(
        "--target",
        type=float,
        metavar="LOSS",
        help="the loss to be reached (default: 95%% of the way to the best)",
    )
    parser.add_argument(
        "--evidence",
        action="store_true",
        help=f"print the evidence for each run, even for more than {EVIDENCE_OF} runs",
    )
    parser.add_argument("--json", action="store_true", help=only_json.HELP)
    parser.add_argument(
        "--thresholds", action="store_true", help="print the thresholds of the verdicts"
    )
    parser.add_argument("--version", action="version", version=f"lrlab {__version__}")
    try:
        found, notes = _run(parser.parse_args(arguments))
    except UserError as error:
        verbs.fail(str(error))
    except NotWritten as error:
        verbs.fail(str(error), code=1)
    except KeyboardInterrupt:
        verbs.fail("interrupted", code=130)
    if not isinstance(found, str):
        only_json.show(found)
        return
    for note in notes:
        print(f"lrlab: {in_a_line(note)}", file=sys.stderr)
    print(errors.printable(found))


def _run(options: argparse.Namespace) -> tuple[str | dict[str, Any], tuple[str, ...]]:
    """Return the text to print, or the object, and the notes that go with a text."""
    shown = {"thresholds": thresholds.table()} if options.thresholds else {}
    if options.thresholds and not options.paths:
        if options.json:
            return {**only_json.head("analysis"), **shown}, ()
        return "\n".join(thresholds.lines()), ()
    if options.target is not None and not math.isfinite(options.target):
        raise UserError(f"--target={options.target}: must be a finite number, like --target=0.1")
    if options.output is not None:
        options.output = _output(options.output, options.paths)
    loaded = load(options.paths, with_branches=False, wanted=rates.wanted(options))
    found = in_order(loaded.verdicts(options.target))
    answers = loaded.answers(found)
    if options.output is not None:
        records.write_whole(options.output, records.csv_text(found))
    if options.json:
        one = options.paths[0] if len(options.paths) == 1 and options.paths[0].is_dir() else None
        return {**as_object(found, answers, loaded.notes, one), **shown}, ()
    width = fitting.terminal_width()
    parts = [] if loaded.ends else [verdict_table(found, width)]
    if loaded.ends:
        parts += [evidence_lines(found, width)] if options.evidence else []
        parts.append(end_loss_words.text(found, answers, width))
    elif options.evidence or len(found) <= EVIDENCE_OF:
        parts.append(evidence_lines(found, width))
    else:
        parts.append(f"evidence of {len(found)} runs: use --evidence, or --output FILE")
    if options.thresholds:
        parts.append("\n".join(thresholds.lines()))
    if not loaded.ends:
        parts.append(terminal_text(answers, width))
    if options.output is not None:
        parts.append(f"verdicts  {process_paths.display_path(options.output)}")
    return "\n\n".join(parts), loaded.notes


def _output(file: Path, paths: Sequence[Path]) -> Path:
    if file.resolve() in [path.resolve() for path in paths]:
        raise UserError(f"--output={file}: would overwrite an input; name another file")

    def is_verdicts(text: str) -> bool:
        return {"run", "outcome", "evidence"} <= set(text.partition("\n")[0].strip().split(","))

    return verbs.output_file("--output", file, "verdicts.csv", is_verdicts)


if __name__ == "__main__":
    main()
