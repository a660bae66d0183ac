"""``python -m lrlab.sweep --help`` against the bare imports of Hydra and torch.

    python tests/benchmarks/help_time.py

Exits with 1 if the target is missed.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from measure import REPOSITORY, machine, seconds, verdict

TARGET = 1.2  # times the imports
REPEATS = 7


def main() -> None:
    print(machine())
    commands = {
        "--help": [sys.executable, "-m", "lrlab.sweep", "--help"],
        "import hydra, torch": [sys.executable, "-c", "import hydra, torch"],
        "import hydra": [sys.executable, "-c", "import hydra"],
    }
    found: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory(prefix="lrlab-benchmark-") as folder:
        for _ in range(REPEATS):  # in turns, so that a busy moment hits all
            for name, command in commands.items():
                path = {"PYTHONPATH": str(REPOSITORY)}
                found[name].append(seconds(command, Path(folder), path))
    middle = {name: statistics.median(times) for name, times in found.items()}
    for name, time in middle.items():
        print(f"{name}: {time:.2f} s")
    ratio = middle["--help"] / middle["import hydra, torch"]
    sys.exit(not verdict("--help / import hydra, torch", ratio, TARGET, at_least=False))


if __name__ == "__main__":
    main()
