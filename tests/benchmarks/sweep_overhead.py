"""What Optuna, Hydra and the records cost a trial, at 200 trials of a tiny run.

    python tests/benchmarks/sweep_overhead.py

The sweep runs in this process, and all that is not training is timed: composing and judging each
run's config, asking, reporting and telling, and every file that is written, the run's log, metrics
and summary included. For comparison, Hydra composes one job of the same sweep by itself.
Exits with 1 if the target is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from hydra import compose, initialize_config_dir
from measure import machine, verdict

from lrlab import records, sweep
from lrlab.config import hydra_store, schema
from lrlab.plan import checks
from lrlab.plan import compose as jobs
from lrlab.study import queue
from lrlab.sweeping import sweeper

TARGET = 15.0  # ms a trial

PARTS: dict[str, list[tuple[Any, str]]] = {
    "Hydra": [(jobs, "compose"), (checks, "check_runs")],
    "Optuna": [
        (queue, "open_queue"),
        *((queue.Queue, n) for n in ("take", "report", "tell", "wait", "trials", "best", "close")),
    ],
    "records": [
        (records, name)
        for name in (
            *("create_run", "start_metrics", "append_metrics", "log"),
            *("write_summary", "read_summary", "write_runs", "write_best", "write_sweep_config"),
        )
    ],
}


@contextlib.contextmanager
def timed() -> Iterator[Counter[str]]:
    """Seconds by part, while the block runs; what one part calls of another counts once."""
    spent: Counter[str] = Counter()
    inside = 0

    def wrap(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal inside
            inside += 1
            start = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                inside -= 1
                if not inside:
                    spent[part] += time.perf_counter() - start

        return wrapped

    with contextlib.ExitStack() as patches:
        for part, places in PARTS.items():
            for owner, name in places:
                patched = wrap(part, getattr(owner, name))
                patches.enter_context(mock.patch.object(owner, name, patched))
        yield spent


def hydra_alone(count: int = 5) -> float:
    """Seconds in which Hydra composes one job's config."""
    found = []
    conf = str(schema.folder("conf"))
    with hydra_store.ready(), initialize_config_dir(conf, version_base="1.3"):
        for number in range(count):
            start = time.perf_counter()
            compose("config", [f"lr=0.{number + 1}"])
            found.append(time.perf_counter() - start)
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description="what a trial costs beside its training")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--search", action="store_true", help="a search by TPE, not a grid")
    arguments = parser.parse_args()

    swept = f"lr=1e-4..1 points={arguments.trials}"
    if arguments.search:
        swept = f"lr=1e-4..1 n_trials={arguments.trials}"
    tiny = "epochs=1 data.train_size=640 data.val_size=200 threads=1 name=tiny"
    tiny += " plots=false diagnostics=off"
    print(machine())
    print(f"{arguments.trials} trials of 10 steps: {swept}")
    with tempfile.TemporaryDirectory(prefix="lrlab-benchmark-") as name:
        os.chdir(name)
        sys.argv = ["lrlab.sweep", *f"{swept} {tiny}".split()]
        start = time.perf_counter()
        with timed() as spent, contextlib.redirect_stdout(io.StringIO()):
            sweep.main()
        whole = time.perf_counter() - start
        os.chdir("/")
    for part, seconds in spent.items():
        print(f"{part}: {1000 * seconds / arguments.trials:.2f} ms a trial")
    alone = 1000 * hydra_alone()
    print(f"the whole sweep: {whole:.1f} s; Hydra's own compose: {alone:.0f} ms a job")
    each = 1000 * sum(spent.values()) / arguments.trials
    met = verdict("Optuna, Hydra and records", each, TARGET, at_least=False, unit=" ms a trial")
    sys.exit(not met)


assert sweeper  # imported before its parts are wrapped

if __name__ == "__main__":
    main()
