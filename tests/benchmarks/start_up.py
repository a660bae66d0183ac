"""``python -m lrlab.sweep lr=0.1`` from the process's start to its first training step.

    python tests/benchmarks/start_up.py

Against ``python -c "import torch, hydra"``, in turns within one run; medians. The first step is
seen, not guessed: a hook that Python loads at its start waits for `lrlab.training.train`, and
writes down when `advance` is entered and when it first asks whether to stop, which it does
behind its first step. There the process ends. The data's tensors are in the cache, as they are from
a machine's second sweep on; the very first one, which unpacks them and imports torchvision, is
shown apart. Exits with 1 if the target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import REPOSITORY, machine, verdict

TARGET = 1.5  # times the imports
REPEATS = 9
SWEEP = (sys.executable, "-m", "lrlab.sweep", "lr=0.1")
IMPORTS = (sys.executable, "-c", "import torch, hydra")

# time.monotonic() is one clock for all processes of a machine.
HOOK = """
import importlib.abc, importlib.util, json, os, pathlib, sys, time

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "lrlab.training.train":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            advance = module.advance
            def observed(stack, values, stop, *_):
                begun = time.monotonic()
                def first_step_is_made():
                    seen = {"begins": begun, "is made": time.monotonic()}
                    pathlib.Path(os.environ["SEEN"]).write_text(json.dumps(seen))
                    os._exit(0)
                return advance(stack, values, first_step_is_made)
            module.advance = observed
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    repeats = parser.parse_args().repeats
    print(machine())
    with tempfile.TemporaryDirectory(prefix="lrlab-benchmark-") as name:
        folder = Path(name)
        (folder / "sitecustomize.py").write_text(HOOK)
        first = sweep(folder)  # fills the cache
        found: dict[str, list[float]] = {"imports": [], "begins": [], "is made": []}
        for _ in range(repeats):  # in turns, so that a busy moment hits all
            found["imports"].append(imports(folder))
            for moment, seconds in sweep(folder).items():
                found[moment].append(seconds)
    middle = {moment: statistics.median(times) for moment, times in found.items()}
    print(f"import torch, hydra: {middle['imports']:.2f} s")
    print(f"the first step begins: {middle['begins']:.2f} s")
    print(f"the first step is made and measured: {middle['is made']:.2f} s")
    print(f"the first step begins, in a machine's very first sweep: {first['begins']:.2f} s")
    ratio = middle["begins"] / middle["imports"]
    sys.exit(not verdict("start / import torch, hydra", ratio, TARGET, at_least=False))


def imports(folder: Path) -> float:
    """Seconds of the bare imports, the process's start and end included."""
    start = time.monotonic()
    subprocess.run(IMPORTS, cwd=folder, check=True)
    return time.monotonic() - start


def sweep(folder: Path) -> dict[str, float]:
    """Seconds from the start of a sweep's process to its first step."""
    seen = folder / "seen.json"
    seen.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY)]),
        "LRLAB_CACHE": str(folder / "cache"),
        "SEEN": str(seen),
    }
    start = time.monotonic()
    done = subprocess.run(SWEEP, cwd=folder, env=environment, capture_output=True, text=True)
    if not seen.exists():
        sys.exit(f"no step was seen:\n{done.stdout}{done.stderr}")
    return {moment: at - start for moment, at in json.loads(seen.read_text()).items()}


if __name__ == "__main__":
    main()
