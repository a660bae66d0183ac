"""All plots of a sweep of 13 learning rates, 2,577 steps each: seconds for each figure and format.

    python tests/benchmarks/plots_time.py [SWEEP]

SWEEP is a sweep's folder; without it the tables are made by formula, once with one schedule and
once with two (then every figure there is gets drawn). Reading is counted where a folder is given,
starting Python and importing matplotlib always.

Exits with 1 if the target is missed.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from measure import REPOSITORY, machine, seconds, verdict

TARGET = 15.0  # seconds on 2 cores, all figures in both formats
STEPS = 2577
CASES = {"13 lrs": ("fixed",), "13 lrs, 2 schedules": ("fixed", "cosine")}


def main(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["one"]:
        one(arguments[1])
        return
    print(machine())
    met = []
    with tempfile.TemporaryDirectory(prefix="lrlab-benchmark-") as name:
        if arguments:
            sweep = str(Path(arguments[0]).resolve())
            command = [sys.executable, "-m", "lrlab.plots", sweep, "--output", f"{name}/plots"]
            path = {"PYTHONPATH": str(REPOSITORY)}
            met.append(verdict(sweep, seconds(command, Path(name), path), TARGET, at_least=False))
        for case in CASES if not arguments else ():
            command = [sys.executable, __file__, "one", case]
            path = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
            took = seconds(command, Path(name), path)
            print(Path(name, "times.txt").read_text(), end="")
            met.append(verdict(f"all plots of {case}", took, TARGET, at_least=False))
    sys.exit(not all(met))


def one(case: str) -> None:
    """Draw everything into the current folder, and write down how long each figure took."""
    from helpers import made_tables

    from lrlab import plots

    tables = made_tables.tables(13, steps=STEPS, schedules=CASES[case])
    lines = []
    for name in plots.NAMES:
        start = time.perf_counter()
        try:
            figure = plots.figure(name, tables)
        except plots.NothingToDraw:
            continue
        parts = [f"drawn {time.perf_counter() - start:.2f} s"]
        for kind in ("png", "svg"):
            start = time.perf_counter()
            (path,) = plots.save({name: figure}, Path("plots"), [kind])
            size = path.stat().st_size / 1e6
            parts.append(f"{kind} {time.perf_counter() - start:.2f} s, {size:.2f} MB")
        lines.append(f"  {name:20}  {'; '.join(parts)}\n")
    Path("times.txt").write_text("".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
