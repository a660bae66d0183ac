"""Work on a sweep: train the runs from its queue."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from lrlab import records
from lrlab.config import space as spaces
from lrlab.engine import devices
from lrlab.errors import Stopped
from lrlab.plan import compose
from lrlab.process import profiling, progress, signals
from lrlab.study import heartbeat
from lrlab.study.trial_source import StudySource, label
from lrlab.sweeping import launch, leftout, workers
from lrlab.sweeping.judged import Sweep, has_lanes, prunes
from lrlab.sweeping.resuming import resume_command
from lrlab.training import pool
from lrlab.training.pool import Start

if TYPE_CHECKING:
    from lrlab.study.points import Run
    from lrlab.study.queue import Queue

# How many runs train at once if more come later. A search learns from those that ended, and other
# workers want some, too. With a pruner it is twice as many: most leave early, and a few in a narrow
# stack cost nearly as much as a full one.
PLACES = {"cpu": 8, "cuda": 64, "mps": 16}


def worker_threads(config: DictConfig, workers: int) -> int | None:
    """Return the threads of each worker.

    Workers share the cores, as threads that wait for one another spin.
    """
    if config.threads is not None or devices.choose_device(config.device) != "cpu":
        return config.threads
    return max(1, (os.cpu_count() or 1) // workers)


def work(current: Sweep, queue: Queue, first: compose.Job) -> None:
    """Train the queue's runs until none is left or the user stops it."""
    config, spec = current.config, first.spec
    with signals.stoppable() as stop:
        by_jobs = not has_lanes(current)
        source = StudySource(queue, current.folder, config, current.job, stop, by_jobs)
        try:
            if not current.worker:
                announce(current, first, amount_of_runs(current, queue))
                say_left_out(current, queue)
            if not by_jobs:
                rows = [
                    progress.LaneRow(run.number, label(run.overrides), epochs=spec["epochs"])
                    for run in ([] if current.space.searched else runs_left(queue))
                ]
                traced = records.profile_folder(current.folder) if config.profile else None
                with (
                    records.written_by_owner(source.check_owned),
                    profiling.traces(traced),
                    progress.show(rows) as update,
                ):
                    row_of = {row.run: i for i, row in enumerate(rows)}
                    pool.run(source, width(current), spec.device, update, row_of, stop)
            else:
                with records.written_by_owner(source.check_owned):
                    _launch(current, source)
        except Stopped:
            pass
        finally:
            source.close()
        if stop():
            say_interrupted(current, queue)
            raise SystemExit(stop.exit_code)
    if config.timeout is not None and len(runs_left(queue)) and not current.worker:
        print(f"lrlab: timeout={config.timeout:g}: no new run was started after it", flush=True)


def announce(current: Sweep, first: compose.Job, runs: str) -> None:
    launch.announce(first.spec, runs)
    launch.announce_measuring([first.spec])
    for line in current.notices:
        print(f"lrlab: {line}", file=sys.stderr)


def runs_left(queue: Queue) -> list[Run]:
    """Return the runs that this command has to train and that have not ended."""
    return [run for run in queue.trials() if run.is_asked and run.state not in records.ENDED]


def runs_taken(queue: Queue) -> list[Run]:
    """Return the runs that have ended, and those that this command has to train."""
    return [run for run in queue.trials() if run.is_asked or run.state in records.ENDED]


def say_left_out(current: Sweep, queue: Queue) -> None:
    """Print what an earlier command asked for and this one does not, a line each."""
    all_asked = all(run.is_asked for run in queue.trials())
    resume = "" if all_asked else resume_command(current.folder)
    for line in leftout.lines(queue, current.space, resume):
        print(f"lrlab: {line}", file=sys.stderr)


def worker_count(current: Sweep, queue: Queue) -> int:
    """Return how many workers there are, at most as many as runs are left."""
    wanted = workers.count(current.config.workers, current.config.device)
    if current.worker or wanted == 1:
        return 1
    without_end = current.space.searched and current.config.n_trials is None
    return wanted if without_end and current.config.timeout else min(wanted, len(runs_left(queue)))


def amount_of_runs(current: Sweep, queue: Queue) -> str:
    total, left = len(runs_taken(queue)), len(runs_left(queue))
    seeds = len(spaces.seeds(current.space))
    if current.space.searched and current.config.n_trials is None and current.config.timeout:
        what = f"a search for {current.config.timeout:g} s"
        return f"{what} more, {total - left} runs have ended" if total else what
    elif current.space.searched:
        what = f"a search with {total // max(seeds, 1)} settings"
        what += f" of {seeds} seeds each" if seeds > 1 else ""
    else:
        what = "1 run" if total == 1 else f"{total} runs"
    what = what if left == total else f"{what}, {left} to train"
    others = queue.others()
    shared = "another process" if others == 1 else f"{others} other processes"
    return f"{what}, shared with {shared}," if others else what


def width(current: Sweep) -> int | None:
    if current.config.lanes != "auto":
        return int(current.config.lanes)
    share = os.environ.get("LRLAB_PLACES")  # of a worker: not more than its share
    if not (current.space.searched or current.shared or share):
        return None
    kind = devices.choose_device(current.config.device).partition(":")[0]
    places = PLACES[kind] * (2 if prunes(current.config) else 1)
    return min(places, int(share or places))


def _launch(current: Sweep, source: StudySource) -> None:
    """Train with one of Hydra's own launchers, each run by itself, in the launcher's processes."""
    size = width(current) or sys.maxsize
    launcher = current.launcher
    if task := getattr(launcher, "task_function", None):
        launcher.task_function = launch.OwnersTask(task, source.queue.worker)
    while not source.stop():
        batch: list[Start] = []
        while len(batch) < size and (start := source.take(source.tick)):
            batch.append(start)
        if not batch and not source.wait():
            return
        for group in _consecutive(batch):
            overrides = [source.overrides[start.spec.number] for start in group]
            # If machines share only the database, nobody else informs the jobs of this one.
            heart = heartbeat.Heart(current.config.lease, source.disown_lost)
            try:
                with heartbeat.as_parent():
                    returns = launcher.launch(overrides, initial_job_idx=group[0].spec.number)
            finally:
                heart.stop()
            for start, returned in zip(group, returns, strict=True):
                source.check_owned(records.summary_file(start.spec.folder))
                launch.note_failure(start.spec.folder, returned)
                source.ended(start.spec.number)
                source.disown(start.spec.number)


def _consecutive(batch: Sequence[Start]) -> list[list[Start]]:
    """Group runs with consecutive numbers, as Hydra numbers the jobs of a launch."""
    groups: list[list[Start]] = []
    for start in batch:
        if groups and groups[-1][-1].spec.number + 1 == start.spec.number:
            groups[-1].append(start)
        else:
            groups.append([start])
    return groups


def say_interrupted(current: Sweep, queue: Queue) -> None:
    """Print the runs that have not ended and how to go on; write the table of those trained."""
    if current.worker:
        return
    from lrlab.tables import frames

    left, total = len(runs_left(queue)), len(runs_taken(queue))
    if records.run_folders(current.folder):
        records.write_runs(current.folder, frames.runs(current.folder))
    what = (
        f"{left} of {total} runs have not ended" if left else "all runs have ended, none is judged"
    )
    print(
        f"lrlab: interrupted, {what}; what was trained is recorded\n"
        f"lrlab: go on with {resume_command(current.folder)}",
        file=sys.stderr,
    )
