"""Do the launcher's work: turn a batch of override lists into trained runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, setup_globals
from omegaconf import DictConfig, OmegaConf

from lrlab import records
from lrlab.config import schema
from lrlab.config.words import arguments
from lrlab.engine import devices
from lrlab.engine.diagnostics import branch_budget, meter
from lrlab.errors import Stopped, UserError
from lrlab.plan import build, checks, memory
from lrlab.plan.compose import Job, compose, without_hydra
from lrlab.plan.spec import RunSpec, new_summary, samples_a_step
from lrlab.process import broken_pipe, gc_pause, profiling, progress, signals
from lrlab.study import heartbeat
from lrlab.training import pool


def launch(
    config: DictConfig, loader: Any, job_overrides: Sequence[Sequence[str]], first: int
) -> list[JobReturn]:
    """Train a batch of jobs together, numbered from ``first`` on; return each run's summary.

    Raises:
        UserError: an option cannot work. Nothing was trained or written.
    """
    setup_globals()
    jobs = [
        compose(config, loader, list(overrides), number)
        for number, overrides in enumerate(job_overrides, start=first)
    ]
    specs = [job.spec for job in jobs]
    checks.check_runs(specs)
    memory.check(specs)
    for job in jobs:
        records.create_run(job.folder, *job.texts)
    train(specs)
    test_branches([spec for spec in specs if records.end_file(spec.folder).is_file()])
    return [_returned(job) for job in jobs]


def run_one(run: RunSpec) -> dict[str, Any]:
    """Train one run after Hydra wrote its .hydra files; return its summary.

    Raises:
        UserError: an option cannot work.
        RuntimeError: the run failed; its run.log says how.
    """
    checks.check_runs([run])
    memory.check([run])
    records.start_metrics(run.folder)
    train([run])
    summary = records.read_summary(run.folder)
    if summary["state"] == "failed":
        raise RuntimeError(f"run {run.number} failed: {summary['error']}")
    return summary


@dataclass(frozen=True)
class OwnersTask:
    """A task in the form that Hydra's own launchers give to a job, in any process.

    Before each write the job checks that its run still belongs to the worker that started it.

    Attributes:
        task: trains a run, given its config.
        owner: the worker.
    """

    task: Callable[[DictConfig], Any]
    owner: str

    def __call__(self, config: DictConfig) -> Any:
        from hydra.core.hydra_config import HydraConfig

        if records.is_asked_for():  # in the worker's own process, which asks the study
            return self.task(config)
        folder = Path(HydraConfig.get().runtime.output_dir)
        with records.written_by_owner(lambda file: records.check_owner(folder, self.owner, file)):
            return self.task(config)

    def __reduce__(self) -> tuple[Any, ...]:
        return _in_a_job, (self.task, self.owner)


def _in_a_job(task: Callable[[DictConfig], Any], owner: str) -> OwnersTask:
    """Run the task in its job, before Hydra composes and hands streams to its loggers."""
    broken_pipe.outlive()
    heartbeat.end_with_parent()
    return OwnersTask(task, owner)


def note_failure(folder: Path, returned: JobReturn) -> None:
    """Record that a run's job failed, even before training began.

    With Hydra's own launchers a job can fail before it has a summary.
    """
    try:
        summary = records.read_summary(folder)
    except (FileNotFoundError, UserError):
        summary = {"run": int(folder.name), "state": "waiting"}
    if summary["state"] in records.ENDED:
        return
    error = getattr(returned, "_return_value", None)
    folder.mkdir(exist_ok=True)
    if isinstance(error, Exception):
        records.mark_failed(folder, summary, error)
    else:
        records.write_summary(folder, summary | {"state": "failed", "error": "no result"})


def train(specs: Sequence[RunSpec]) -> None:
    """Train runs, together if possible, with a display; mark and log those that fail.

    Raises:
        SystemExit: with 130, when it was interrupted.
        NotWritten: a record could not be written.
    """
    gc_pause.resume()
    devices.make_deterministic()
    rows = [
        progress.LaneRow(run.number, label, epochs=run["epochs"])
        for run, label in zip(specs, _labels(specs), strict=True)
    ]
    for run in specs:
        records.write_summary(run.folder, new_summary(run))
    announce(specs[0], "1 run" if len(specs) == 1 else f"{len(specs)} runs")
    announce_measuring(specs)
    row_of = {run.number: row for row, run in enumerate(specs)}
    wanted = specs[0].config.get("profile")
    traced = records.profile_folder(specs[0].folder.parent) if wanted else None
    name = f"run{specs[0].number}" if len(specs) == 1 else ""  # others may train at the same time
    with signals.stoppable() as stop:
        try:
            with profiling.traces(traced, name), progress.show(rows) as update:
                pool.run(pool.Batch(specs), width(specs[0]), specs[0].device, update, row_of, stop)
        except Stopped:
            states = [records.read_summary(run.folder)["state"] for run in specs]
            unfinished = sum(state not in records.ENDED for state in states)
            print(
                f"lrlab: interrupted; {unfinished} of {len(specs)} runs had not ended, "
                f"what they recorded is in {specs[0].folder.parent}",
                file=sys.stderr,
            )
            raise SystemExit(stop.exit_code) from None


def test_branches(specs: Sequence[RunSpec], remedy: str = "") -> None:
    """Make the branch tests of runs with a saved end state; name those that failed.

    Args:
        remedy: how to go on, printed if the user interrupts it.
    """
    if not specs:
        return
    from lrlab.probes import branches

    runs = "1 run" if len(specs) == 1 else f"{len(specs)} runs"
    print(f"lrlab: branch test of {runs}: {branches.cost_line(specs)}", flush=True)
    with signals.stoppable() as stop:
        try:
            with progress.share("branch test") as tell:
                failed = branches.test(specs, width(specs[0]), stop, tell)
            if stop():  # it came after the last step
                raise Stopped
        except Stopped:
            print(f"lrlab: interrupted in the branch test{remedy}", file=sys.stderr)
            raise SystemExit(stop.exit_code) from None
    for run in failed:
        print(f"lrlab: the branch test of run {run} failed; its run.log says why", file=sys.stderr)


def width(spec: RunSpec) -> int | None:
    """Return how many lanes train at once; None: as many as memory holds."""
    return None if spec["lanes"] == "auto" else int(spec["lanes"])


def announce(run: RunSpec, runs: str) -> None:
    """Say in one line what will train, on what."""
    data = build.load_data(run)
    where = devices.device_name(run.device)
    print(
        f"lrlab: {runs} on {run.device} ({where}), {len(data.train_y):,} training samples, "
        f"{len(data.val_y):,} held out",
        flush=True,
    )


def announce_measuring(specs: Sequence[RunSpec]) -> None:
    """Say in one line what measuring costs, if more was requested than the default's budget."""
    asked = [spec for spec in specs if schema.diagnostics(spec.config) == "full"]
    lines = {_asked_line(spec): None for spec in asked[:100]}
    for line in list(lines)[:1]:
        more = " (of the first run; others differ in length)" if len(lines) > 1 else ""
        print(f"lrlab: {line}{more}", flush=True)


def _asked_line(spec: RunSpec) -> str:
    data = build.load_data(spec)
    steps_per_epoch = len(data.train_y) // samples_a_step(spec)
    batches = meter.probe_size(data) / samples_a_step(spec)
    return branch_budget.asked_line(spec["epochs"] * steps_per_epoch, steps_per_epoch, batches)


def _labels(specs: Sequence[RunSpec]) -> list[str]:
    """Return what distinguishes each run from the others, as typed."""
    keys = dict.fromkeys(key for run in specs for key in run.swept)
    apart = [key for key in keys if len({run.swept.get(key) for run in specs}) > 1]
    return [" ".join(f"{k}={run.swept[k]}" for k in apart if k in run.swept) for run in specs]


def _returned(job: Job) -> JobReturn:
    summary = records.read_summary(job.folder)
    failed = summary["state"] == "failed"
    config = job.config()
    result = JobReturn()
    result.overrides = arguments.noted(config, "task")
    result.cfg = without_hydra(config)
    result.hydra_cfg = OmegaConf.masked_copy(config, "hydra")
    result.working_dir = str(job.folder)
    result.task_name = str(config.hydra.job.name)
    result.status = JobStatus.FAILED if failed else JobStatus.COMPLETED
    result.return_value = RuntimeError(summary["error"]) if failed else summary
    return result
