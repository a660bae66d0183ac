"""What the benchmarks share: whole processes timed, their memory, and the machine they ran on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

# ru_maxrss of a child can include its parent's memory at the fork, so a small process does it.
PEAK_MEMORY = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
sys.stderr.buffer.write(code.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code.returncode)
"""


def machine() -> str:
    """One line: processor, cores this process may use, versions."""
    import torch

    model = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        names = [ln for ln in cpu_info.read_text().splitlines() if ln.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores; Python {platform.python_version()}, torch {torch.__version__}"


def seconds(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> float:
    """Wall-clock time of a whole process. Ends the benchmark if the process fails."""
    start = time.perf_counter()
    _run(command, folder, environment)
    return time.perf_counter() - start


def peak_gigabytes(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> float:
    """Largest resident memory (10⁹ bytes) of a process, or of one of its children if larger."""
    output = _run([sys.executable, "-c", PEAK_MEMORY, *command], folder, environment)
    unit = 1 if sys.platform == "darwin" else 1024
    return int(output) * unit / 1e9


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def verdict(name: str, value: float, target: float, at_least: bool, unit: str = "") -> bool:
    """Print a number beside its target. Returns whether it is met."""
    met = value >= target if at_least else value <= target
    bound = "at least" if at_least else "at most"
    print(
        f"{name}: {value:.2f}{unit} (target: {bound} {target:g}{unit}) {'ok' if met else 'MISSED'}"
    )
    return met
