"""What ``yardsticks.py`` measures of whole processes: a sweep's overhead, a lane's memory.

Run as a script, with a number of lanes and options, it is the process with lanes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

STEPS = 10  # of a run, in both


def sweep_overhead(runs: int, options: Sequence[str]) -> float:
    """Seconds that the process of a sweep takes beside training and evaluating.

    The sweep is a grid of runs of ten steps without figures or diagnostics; the time holds the
    interpreter's start, imports and data as well as what each run costs.
    """
    from lrlab import records

    grid = ["lr=0.1"] if runs == 1 else ["lr=1e-4..1", f"points={runs}"]
    tiny = ["epochs=1", f"data.train_size={STEPS * 64}", "data.val_size=200", "name=tiny"]
    with tempfile.TemporaryDirectory(prefix="lrlab-bench-") as folder:
        command = ["-m", "lrlab.sweep", *grid, *tiny, "plots=false", "diagnostics=off", *options]
        started = time.perf_counter()
        _python(command, Path(folder))
        seconds = time.perf_counter() - started
        for run in records.run_folders(Path(folder, "outputs", "tiny")):
            summary = records.read_summary(run)
            timing = summary["timing"]
            # of its whole stack, which the lanes of the stack share
            inside = timing["train_seconds"] + timing["evaluate_seconds"]
            seconds -= inside / summary["lanes"]["width"]
    return seconds


def bytes_a_lane(lanes: int, options: Sequence[str]) -> tuple[int, int]:
    """What one more lane takes at the most while it is built, trained and evaluated.

    Returns:
        measured: how much higher the peak of a process with so many lanes is than that of one
            with a single lane, over the lanes more.
        predicted: what lrlab reckons with when it decides how many lanes memory holds.
    """
    few, many = (
        json.loads(_python([__file__, str(count), *options], Path.cwd())) for count in (1, lanes)
    )
    return round((many["peak"] - few["peak"]) / (lanes - 1)), few["predicted"]


def _python(words: Sequence[str], folder: Path) -> str:
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout


# --- the process with lanes -----------------------------------------------------------------------


def _train_lanes(count: int, options: Sequence[str]) -> dict[str, int]:
    """Train lanes on noise in the shape of MNIST, of which little is needed; its peak of memory."""
    import torch

    from lrlab import bench, plan
    from lrlab.data import Dataset
    from lrlab.engine import devices, lanes

    devices.make_deterministic()
    runs = bench.specs(options, [0.01] * count)
    draw = torch.Generator().manual_seed(0)
    parts = []
    for size in (STEPS * bench.BATCH_SIZE, 1000, 1):
        parts.append(torch.randn(size, 1, 28, 28, generator=draw))
        parts.append(torch.randint(0, 10, (size,), generator=draw))
    data = Dataset("noise", *parts, num_classes=10, sha256="")
    network, loss = plan.build_network(runs[0], data), plan.loss_function(runs[0])
    first = slice(bench.BATCH_SIZE)
    predicted = lanes.bytes_a_lane(network, loss, data.train_x[first], data.train_y[first])
    stack = bench.stack(runs, data.to(runs[0].device))
    bench.lane_steps(stack)(STEPS)
    stack.lanes.evaluate(stack.data.val_x, stack.data.val_y)
    return {"peak": _peak(runs[0].device), "predicted": predicted}


def _peak(device: str) -> int:
    """The most bytes that this process has held, on the GPU if it trains there."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device)
    try:
        # ru_maxrss would be that of the parent where it is larger
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    print(json.dumps(_train_lanes(int(sys.argv[1]), sys.argv[2:])))
