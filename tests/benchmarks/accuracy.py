"""What ordinary settings reach on MNIST's test images after three epochs:

    python tests/benchmarks/accuracy.py

Exits with 1 if a target is missed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import machine, verdict

TARGETS = {  # options: test accuracy in percent
    "lr=0.1": 96.5,
    "optimizer=adam lr=0.001": 96.0,
    "network=cnn optimizer=adam lr=0.001": 98.5,
}


def main() -> None:
    print(machine())
    met = []
    with tempfile.TemporaryDirectory(prefix="lrlab-benchmark-") as name:
        for number, (options, target) in enumerate(TARGETS.items()):
            command = [sys.executable, "-m", "lrlab.sweep", *options.split(), "epochs=3"]
            command += ["plots=false", "diagnostics=off", f"name=run{number}"]
            subprocess.run(command, cwd=name, check=True, capture_output=True)
            summary = Path(name, "outputs", f"run{number}", "0", "summary.json").read_text()
            accuracy = 100 * json.loads(summary)["test_acc"]
            met.append(verdict(options, accuracy, target, at_least=True, unit=" %"))
    sys.exit(not all(met))


if __name__ == "__main__":
    main()
