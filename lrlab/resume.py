# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""``python -m lrlab.resume outputs/<sweep>``: finish a sweep that was interrupted, or extend it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from lrlab._version import __version__
from lrlab.config import data_paths, trust
from lrlab.errors import UserError
from lrlab.process import gc_pause, only_json, verbs
from lrlab.study import heartbeat
from lrlab.sweeping import as_json, sweep
from lrlab.sweeping.resuming import bounded, command_line

USAGE = """\
usage: python -m lrlab.resume SWEEP [option=value ...] [--json]

Finish a sweep that was interrupted, or extend it. Runs that ended are not
trained again. The others go on from their last checkpoint, or begin again. The
results equal those of an uninterrupted sweep.

  SWEEP           the sweep's folder, for example outputs/2026-11-25_21-04-33
  option=value    extend it: a longer list of what it sweeps (lr=0.01,0.1,1),
                  seed=..., n_trials=...; or change how it is trained: workers=,
                  lanes=, memory_limit=, device=, timeout=, ...
  trust=true      also call classes and functions that its records name and that
                  are not lrlab's, torch's, torchvision's or Optuna's: your own,
                  or those of a sender whom you trust
  --json          print the answer as one JSON object on stdout, and nothing
                  else there

Exit code: 0 all runs ended, 1 a run or a figure failed or others took over,
2 bad input, 130 interrupted again.
"""


def main() -> None:
    """Run the command."""
    verbs.begin()
    words, wanted = sys.argv[1:], False
    if not words or "--help" in words or "-h" in words:
        print(USAGE, end="")
        sys.exit(0 if words else 2)
    if words[0] == "--version":
        print(f"lrlab {__version__}")
        return
    try:
        words, wanted = only_json.asked(words)
        if not words:
            raise UserError("--json: needs the sweep's folder before it; see --help")
        folder = verbs.path(words[0])
        if ("=" in words[0] or words[0].startswith("-")) and not folder.is_dir():
            raise UserError(f"{words[0]}: the sweep's folder comes first; see --help")
        found = command_line(folder, words[1:])
        began = data_paths.go_back(folder, [found.hydra], found.trusted)
        line = found.words
        if not found.trusted:
            trust.leave_current_folder()
            line = line if "LRLAB_WORKER" in os.environ else bounded(line, words[1:])
    except UserError as error:
        sweep.fail(error)
    heartbeat.end_with_parent()
    sys.argv = ["lrlab.resume", *line]

    def work(words: list[str], opened: Callable[[Path], object]) -> None:
        sweep.run(words, began=began, opened=opened)

    typed = [only_json.FLAG, *line] if wanted else line
    with gc_pause.put_off():
        sweep.guarded(lambda: as_json.run(typed, "resume", work))


if __name__ == "__main__":
    main()
