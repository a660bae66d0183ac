"""The launcher's work: a batch of override lists becomes trained runs."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict

from lrlab import environment, lanes, plan, progress, records
from lrlab.errors import UserError
from lrlab.plan import RunSpec

_composed: dict[tuple[Any, ...], DictConfig] = {}


def launch(
    config: DictConfig, loader: Any, job_overrides: Sequence[Sequence[str]], first: int
) -> list[JobReturn]:
    """Train a batch of jobs together.

    Args:
        config: the sweep's config, with Hydra's part.
        loader: Hydra's config loader.
        job_overrides: the overrides of each job.
        first: the number of the first job.

    Returns:
        One for each job; its value is the run's summary.

    Raises:
        UserError: an option that cannot work. Nothing was trained or written then.
    """
    setup_globals()
    jobs = [
        compose(config, loader, list(overrides), number)
        for number, overrides in enumerate(job_overrides, start=first)
    ]
    specs = [spec(job) for job in jobs]
    plan.check_runs(specs)
    for job, run in zip(jobs, specs, strict=True):
        records.create_run(run.folder, *_yaml(job))
    train(specs)
    return [_returned(job, run) for job, run in zip(jobs, specs, strict=True)]


def compose(config: DictConfig, loader: Any, overrides: list[str], number: int) -> DictConfig:
    """A job's config, with Hydra's part.

    The sweeper composes each job to check it, and the launcher to train it; Hydra takes a tenth of
    a second for it, so what the one made waits for the other.

    Raises:
        HydraException, OmegaConfBaseException: overrides that do not fit.
    """
    key = (id(loader), number, *overrides)
    if key in _composed:
        return _composed.pop(key)
    job = _composed[key] = loader.load_sweep_config(config, overrides)
    with open_dict(job):
        job.hydra.job.id = number
        job.hydra.job.num = number
        job.hydra.runtime.output_dir = str(
            (Path(job.hydra.sweep.dir) / str(job.hydra.sweep.subdir)).absolute()
        )
    return job


def spec(job: DictConfig) -> RunSpec:
    """A composed job as a run spec.

    Raises:
        UserError: a value that cannot work.
    """
    hydra = job.hydra
    overrides = [str(o) for o in hydra.overrides.task]
    swept = dict(o.lstrip("+").split("=", 1) for o in overrides if "=" in o and o[0] != "~")
    own = {"name", "output", "device", "threads", "lanes", "plots", "save_model"}
    return plan.run_spec(
        number=int(OmegaConf.select(hydra, "job.num", default=0) or 0),
        folder=Path(hydra.runtime.output_dir),
        config=_without_hydra(job),
        choices=hydra.runtime.choices,
        swept={key: value for key, value in swept.items() if key not in own},
    )


def run_one(run: RunSpec) -> dict[str, Any]:
    """Train one run whose .hydra files Hydra has written; returns its summary.

    Raises:
        UserError: an option that cannot work.
        RuntimeError: the run failed; its run.log says how.
    """
    plan.check_runs([run])
    records.start_metrics(run.folder)
    train([run])
    summary = records.read_summary(run.folder)
    if summary["state"] == "failed":
        raise RuntimeError(f"run {run.number} failed: {summary['error']}")
    return summary


def note_failure(folder: Path, returned: JobReturn) -> None:
    """See to it that a run whose job failed says so, also where it never came to training.

    With Hydra's own launchers a job can fail before it has a summary.
    """
    try:
        summary = records.read_summary(folder)
    except (FileNotFoundError, UserError):
        summary = {"run": int(folder.name), "state": "waiting"}
    if summary["state"] in ("finished", "diverged", "failed"):
        return
    error = getattr(returned, "_return_value", None)
    folder.mkdir(exist_ok=True)
    if isinstance(error, Exception):
        _mark_failed(folder, summary, error)
    else:
        records.write_summary(folder, summary | {"state": "failed", "error": "no result"})


def train(specs: Sequence[RunSpec]) -> None:
    """Train runs, those that can together, with a display; what fails is marked and logged."""
    environment.make_deterministic()
    rows = [
        progress.LaneRow(run.number, label, epochs=run["epochs"])
        for run, label in zip(specs, _labels(specs), strict=True)
    ]
    row_of = {run.number: row for row, run in enumerate(specs)}
    for run in specs:
        records.write_summary(run.folder, plan.summary(run))
    _announce(specs)
    try:
        with progress.show(rows) as update:
            for group in plan.lane_groups(specs):
                width = _width(group)
                for start in range(0, len(group), width):
                    _train_group(group[start : start + width], row_of, update)
    except KeyboardInterrupt:
        unfinished = sum(_mark_interrupted(run) for run in specs)
        print(
            f"lrlab: interrupted; {unfinished} of {len(specs)} runs had not ended, "
            f"what they recorded is in {specs[0].folder.parent}",
            file=sys.stderr,
        )
        raise SystemExit(130) from None


def _train_group(group: Sequence[RunSpec], row_of: Mapping[int, int], update: Any) -> None:
    from lrlab.train import train as train_lanes

    try:
        rows = [row_of[run.number] for run in group]
        train_lanes(group, rows, plan.load_data(group[0]), update)
    except Exception as error:
        if len(group) > 1:
            # Only one of them may be at fault: alone, the others finish, with the same bits.
            for run in group:
                if records.read_summary(run.folder)["state"] not in ("finished", "diverged"):
                    records.start_metrics(run.folder)
                    _train_group([run], row_of, update)
            return
        run = group[0]
        _mark_failed(run.folder, records.read_summary(run.folder), error)
        update(row_of[run.number], state="failed")


def _width(group: Sequence[RunSpec]) -> int:
    """How many lanes of the group train at once."""
    if group[0]["lanes"] != "auto":
        return int(group[0]["lanes"])
    data, run = plan.load_data(group[0]), group[0]
    size = run["batch_size"]
    try:
        network, loss = plan.build_network(run, data), plan.loss_function(run)
        each = lanes.bytes_a_lane(network, loss, data.train_x[:size], data.train_y[:size])
    except Exception:
        return 1  # it fails in training too, and is reported there
    return max(1, int(environment.free_memory(run.device) * 0.6 // each))


def _mark_failed(folder: Path, summary: Mapping[str, Any], error: Exception) -> None:
    """The error's first line in the summary, its traceback in the log."""
    message = str(error).strip().splitlines()
    line = f"{type(error).__name__}: {' '.join(message[:1])}"
    records.write_summary(folder, {**summary, "state": "failed", "error": line})
    records.log(folder, "".join(traceback.format_exception(error)))


def _mark_interrupted(run: RunSpec) -> bool:
    """Whether the run had not ended; then its records say so."""
    summary = records.read_summary(run.folder)
    unfinished = summary["state"] in ("waiting", "running")
    if unfinished:
        records.write_summary(run.folder, summary | {"state": "interrupted"})
        records.log(run.folder, "interrupted")
    return unfinished


def _announce(specs: Sequence[RunSpec]) -> None:
    run = specs[0]
    data = plan.load_data(run)
    runs = "1 run" if len(specs) == 1 else f"{len(specs)} runs"
    where = environment.device_name(run.device)
    print(
        f"lrlab: {runs} on {run.device} ({where}), {len(data.train_y):,} training samples, "
        f"{len(data.val_y):,} held out",
        flush=True,
    )


def _labels(specs: Sequence[RunSpec]) -> list[str]:
    """What sets each run apart from the others, as typed."""
    keys = dict.fromkeys(key for run in specs for key in run.swept)
    apart = [key for key in keys if len({run.swept.get(key) for run in specs}) > 1]
    return [" ".join(f"{k}={run.swept[k]}" for k in apart if k in run.swept) for run in specs]


def _without_hydra(job: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(job, [str(key) for key in job if key != "hydra"])


def _yaml(job: DictConfig) -> tuple[str, str, str]:
    hydra = OmegaConf.masked_copy(job, "hydra")
    return (
        OmegaConf.to_yaml(_without_hydra(job), resolve=False),
        OmegaConf.to_yaml(hydra, resolve=False),
        OmegaConf.to_yaml(job.hydra.overrides.task),
    )


def _returned(job: DictConfig, run: RunSpec) -> JobReturn:
    summary = records.read_summary(run.folder)
    failed = summary["state"] == "failed"
    result = JobReturn()
    result.overrides = list(job.hydra.overrides.task)
    result.cfg = _without_hydra(job)
    result.hydra_cfg = OmegaConf.masked_copy(job, "hydra")
    result.working_dir = str(run.folder)
    result.task_name = str(job.hydra.job.name)
    result.status = JobStatus.FAILED if failed else JobStatus.COMPLETED
    result.return_value = RuntimeError(summary["error"]) if failed else summary
    return result
