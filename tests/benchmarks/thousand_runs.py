"""Time and memory of a sweep of 1,000 runs against one of 100, whole processes, records and all.

    python tests/benchmarks/thousand_runs.py
    python tests/benchmarks/thousand_runs.py --diagnostics default

Time should be linear in the number of runs, and memory should not grow with it: runs train in
chunks, and what they record is written as they go. A sweep of one run is timed too, so that the
time that starting takes, which favours the larger sweep, can be left out.
Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path

from measure import REPOSITORY, machine, peak_gigabytes, verdict

TIME_TARGET = 1.15  # time a run, that of the larger sweep over that of the smaller one
MEMORY_TARGET = 1.15  # likewise, of the peaks


def measure(runs: int, options: list[str], folder: Path) -> tuple[float, float, list[int]]:
    """Seconds and peak memory (10⁹ bytes) of a sweep, and the widths in which its runs trained."""
    name = f"of{runs}"
    swept = [f"lr=1e-4..1 points={runs}"] if runs > 1 else ["lr=0.1"]
    words = [*swept[0].split(), *options, "plots=false", f"name={name}"]
    environment = {"LRLAB_CACHE": str(folder / "cache"), "PYTHONPATH": str(REPOSITORY)}
    started = time.perf_counter()
    peak = peak_gigabytes([sys.executable, "-m", "lrlab.sweep", *words], folder, environment)
    seconds = time.perf_counter() - started
    logs = [(folder / "outputs" / name / str(run) / "run.log").read_text() for run in range(runs)]
    widths = [int(of[1]) for log in logs if (of := re.search(r"lane \d+ of (\d+)", log))]
    return seconds, peak, widths


def main() -> None:
    parser = argparse.ArgumentParser(description="1,000 runs against 100")
    parser.add_argument("--few", type=int, default=100)
    parser.add_argument("--many", type=int, default=1000)
    parser.add_argument("--train-size", type=int, default=2000)
    parser.add_argument("--diagnostics", default="off", choices=["off", "default", "full"])
    parser.add_argument("--threads", default="null")
    parser.add_argument("--memory-limit", default="auto")
    arguments = parser.parse_args()

    options = ["epochs=1", f"data.train_size={arguments.train_size}"]
    options += [f"diagnostics={arguments.diagnostics}", f"threads={arguments.threads}"]
    options += [f"memory_limit={arguments.memory_limit}"]
    print(machine())
    print(" ".join(options))
    found = {}
    with tempfile.TemporaryDirectory(prefix="lrlab-benchmark-") as folder:
        measure(1, options, Path(folder))  # fills the data cache
        for runs in (1, arguments.few, arguments.many):
            again = Path(folder) / str(runs)
            again.mkdir()
            (again / "cache").symlink_to(Path(folder) / "cache")
            seconds, peak, widths = found[runs] = measure(runs, options, again)
            print(
                f"{runs:>5} runs: {seconds:7.1f} s, {1000 * seconds / runs:7.1f} ms a run, peak "
                f"{peak:.2f} GB, at most {max(widths)} lanes at once",
                flush=True,
            )
    alone, few, many = found[1][0], found[arguments.few][0], found[arguments.many][0]
    whole = (many / arguments.many) / (few / arguments.few)
    each_few, each_many = (few - alone) / (arguments.few - 1), (many - alone) / (arguments.many - 1)
    print(f"without the start: {1000 * each_few:.1f} and {1000 * each_many:.1f} ms a run")
    met = [
        verdict("time a run, whole", whole, TIME_TARGET, at_least=False),
        verdict("time a run, without the start", each_many / each_few, TIME_TARGET, at_least=False),
        verdict(
            "peak memory",
            found[arguments.many][1] / found[arguments.few][1],
            MEMORY_TARGET,
            at_least=False,
        ),
    ]
    sys.exit(not all(met))


if __name__ == "__main__":
    main()
