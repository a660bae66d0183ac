"""A search with ASHA and refilled places against the same search without pruning.

    python tests/benchmarks/pruned_search.py

32 trials of 3 epochs, as whole processes, one after the other, each with its default number of
places: 8, and 16 where runs are pruned. ``--lanes 8`` gives both the same. Exits with 1 if a target
is missed: the time, or the val_loss of what the pruned search found.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import pandas as pd
from measure import REPOSITORY, machine, seconds, verdict

TIME_TARGET = 0.6  # of the unpruned search's
LOSS_TARGET = 1.05  # times the best val_loss


def main() -> None:
    parser = argparse.ArgumentParser(description="a pruned search against an unpruned one")
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--train-size", type=int, default=55_000)
    parser.add_argument("--lanes", default="auto")
    parser.add_argument("--seeds", type=int, default=1, help="repeat with so many seeds")
    arguments = parser.parse_args()

    print(machine())
    search = f"lr=1e-4..1 n_trials={arguments.trials} epochs={arguments.epochs}"
    search += " plots=false diagnostics=off"
    search += f" lanes={arguments.lanes}"
    if arguments.train_size != 55_000:
        search += f" data.train_size={arguments.train_size}"
    print(search)
    met = []
    with tempfile.TemporaryDirectory(prefix="lrlab-benchmark-") as name:
        folder = Path(name)
        environment = {"LRLAB_CACHE": str(folder / "cache"), "PYTHONPATH": str(REPOSITORY)}
        for seed in range(arguments.seeds):
            took, lowest = {}, {}
            for pruner in ("none", "asha"):
                sweep = f"{search} seed={seed} pruner={pruner} name={pruner}{seed}".split()
                command = [sys.executable, "-m", "lrlab.sweep", *sweep]
                took[pruner] = seconds(command, folder, environment)
                runs = pd.read_csv(folder / "outputs" / f"{pruner}{seed}" / "runs.csv")
                finished = runs[runs["state"] == "finished"]
                lowest[pruner] = finished["val_loss"].min()
                print(
                    f"seed {seed}, pruner={pruner}: {took[pruner]:.1f} s, "
                    f"{len(finished)} of {len(runs)} runs finished, "
                    f"lowest val_loss {lowest[pruner]:.4f}"
                )
            time, loss = took["asha"] / took["none"], lowest["asha"] / lowest["none"]
            met += [
                verdict("time, asha / none", time, TIME_TARGET, at_least=False),
                verdict("lowest val_loss, asha / none", loss, LOSS_TARGET, at_least=False),
            ]
    sys.exit(not all(met))


if __name__ == "__main__":
    main()
