"""A whole sweep by lrlab against the same sweep by an ordinary Hydra script (peer_script/).

Both are timed as whole processes, start-up and imports included:

    python tests/benchmarks/sweep_against_script.py

The script finds its data unpacked, so lrlab's ratio is taken with its data cache filled; the time
of a first use, which unpacks the data, is printed as well. lrlab also evaluates on the validation
set and records every step in this time; the script does not.
Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import tempfile
from pathlib import Path

from measure import REPOSITORY, machine, peak_gigabytes, seconds, verdict

PEER = Path(__file__).parent / "peer_script" / "train.py"
SPEED_TARGET = 8.0  # times the script's speed
MEMORY_TARGET = 1.5  # 10⁹ bytes


def unpack_mnist(root: Path) -> None:
    """Lay lrlab's copy of MNIST out as torchvision wants it."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in (REPOSITORY / "lrlab" / "mnist").glob("*.gz"):
        (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))


def main() -> None:
    parser = argparse.ArgumentParser(description="lrlab against an ordinary script")
    parser.add_argument("--lr", default="0.001,0.1,1.0")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--train-size", type=int, default=55_000)
    parser.add_argument("--repeats", type=int, default=1, help="the fastest of so many counts")
    arguments = parser.parse_args()

    sweep = [f"lr={arguments.lr}", f"epochs={arguments.epochs}"]
    with tempfile.TemporaryDirectory(prefix="lrlab-benchmark-") as name:
        folder = Path(name)
        unpack_mnist(folder / "data")
        environment = {
            "LRLAB_CACHE": str(folder / "cache"),
            "PYTHONPATH": str(REPOSITORY),
        }
        script = [sys.executable, str(PEER), "-m", *sweep]
        script += [f"train_size={arguments.train_size}", f"root={folder / 'data'}"]
        lrlab = [sys.executable, "-m", "lrlab.sweep", *sweep]
        lrlab += ["diagnostics=off", "plots=false"]  # the script neither measures nor draws
        if arguments.train_size != 55_000:
            lrlab.append(f"data.train_size={arguments.train_size}")

        print(machine())
        print("both:", " ".join(sweep), f"batch 64, {arguments.train_size} training images, SGD")
        first = seconds(lrlab, folder, environment)
        memory = peak_gigabytes(lrlab, folder, environment)
        ours, theirs = [], []
        for _ in range(arguments.repeats):  # in turns, so that a busy moment hits both
            theirs.append(seconds(script, folder, {}))
            ours.append(seconds(lrlab, folder, environment))
        print("script:", " ".join(f"{time:.1f} s" for time in theirs))
        print("lrlab: ", " ".join(f"{time:.1f} s" for time in ours), f"(first use {first:.1f} s)")
        met = [
            verdict("script / lrlab", min(theirs) / min(ours), SPEED_TARGET, at_least=True),
            verdict("lrlab's peak memory", memory, MEMORY_TARGET, at_least=False, unit=" GB"),
        ]
    sys.exit(not all(met))


if __name__ == "__main__":
    main()
