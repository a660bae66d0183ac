"""Supply the pool with runs from the study: each taken trial becomes a run in its folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lrlab import records
from lrlab.config import space as spaces
from lrlab.config.words import spelling
from lrlab.errors import NotOurs, UserError
from lrlab.plan.spec import new_summary
from lrlab.training.pool import Report, Start

if TYPE_CHECKING:
    from lrlab.plan.compose import Job
    from lrlab.study.claims import Trial
    from lrlab.study.queue import Queue


@dataclass
class StudySource:
    """The study as the pool's source of runs.

    Attributes:
        queue: of the study.
        folder: the sweep's.
        config: the sweep's.
        job: makes a run, checked, from its overrides and its number.
        stop: whether the user wants it to end.
        by_jobs: whether a launcher's jobs train the runs; they cannot ask the queue.
    """

    queue: Queue
    folder: Path
    config: DictConfig
    job: Callable[[Mapping[str, str], int], Job]
    stop: Callable[[], bool]
    by_jobs: bool = False

    def __post_init__(self) -> None:
        self.objective = str(self.config.objective)
        self._tell_what_ended()
        self.tick = self.queue.start_tick()
        self.overrides: dict[int, list[str]] = {}  # by the number of each run that was taken
        timeout = self.config.timeout
        self.deadline = math.inf if timeout is None else time.monotonic() + timeout
        self.labels: dict[int, str] = {}
        self.tracker = None
        if node := tracker_settings(self.config):
            from lrlab import tracking

            self.tracker = tracking.open(node, self.folder)

    def take(self, tick: int) -> Start | None:
        while time.monotonic() < self.deadline:
            trial = self.queue.take(tick)
            if trial is None:
                return None
            start = self._start(trial, tick)
            if start is not None:
                return start
        return None

    def check_owned(self, file: Path) -> None:
        """Check that a file's run is still this process's, just before the file is written.

        Raises:
            NotOurs: another process has taken over one of the runs that this one trains.
        """
        above = self.folder.parts
        parts = file.parts
        if len(parts) < len(above) + 2 or parts[: len(above)] != above:
            return
        name = parts[len(above)]
        if name.isdecimal():
            self._check_kept(file)
            if not self.queue.holds(int(name)):
                raise NotOurs(file, f"run {name} is not this process's")

    def _check_kept(self, file: Path) -> None:
        if lost := self.queue.lost():
            word = "run" if len(lost) == 1 else "runs"
            raise NotOurs(
                file,
                f"this process stood still for longer than lease={self.config.lease:g} seconds, "
                f"and others took over {word} {', '.join(map(str, lost))}",
            )

    def report(self, reports: Mapping[int, Report]) -> set[int]:
        self._check_kept(self.folder)
        name = "train_loss" if self.objective == "train_loss" else "val_loss"
        name = "val_acc" if self.objective == "val_acc" else name
        values = {run: (r.epoch, getattr(r, name)) for run, r in reports.items()}
        pruned = self.queue.report(values)
        for run in reports:
            self._follow(run)
        return pruned

    def ended(self, run: int) -> None:
        self._follow(run)
        self._tell(run, records.read_summary(self.folder / str(run)))

    def interrupted(self, run: int) -> None:
        self._follow(run)
        self.queue.give_back(run)

    def wait(self) -> bool:
        return time.monotonic() < self.deadline and self.queue.wait(self._over)

    def disown_lost(self) -> None:
        """Let the jobs of runs that others have taken over write nothing more."""
        for run in self.queue.lost():
            self.disown(run)

    def disown(self, run: int) -> None:
        records.disown(self.folder / str(run), self.queue.worker)

    def close(self) -> None:
        if self.tracker is not None:
            self.tracker.close()

    def _follow(self, run: int) -> None:
        if self.tracker is not None:
            self.tracker.follow(self.folder / str(run), self.labels.get(run, ""))

    def _over(self) -> bool:
        return self.stop() or time.monotonic() >= self.deadline

    def _tell(self, run: int, summary: Mapping[str, Any]) -> None:
        state = str(summary["state"])
        self.queue.tell(run, state, summary.get(self.objective) if state == "finished" else None)

    def _tell_what_ended(self) -> None:
        """Report to the study the runs that had ended when their process died.

        They count before the tick to begin with is known.
        """
        for run in self.queue.trials():
            if run.state == "interrupted":
                self._tell_if_ended(run.number, self._summary(run.number))

    def _summary(self, run: int) -> dict[str, Any]:
        try:
            return records.read_summary(self.folder / str(run))
        except (FileNotFoundError, UserError):
            return {}

    def _tell_if_ended(self, run: int, summary: Mapping[str, Any]) -> bool:
        if summary.get("state") not in records.ENDED:
            return False
        records.checkpoint_file(self.folder / str(run)).unlink(missing_ok=True)
        records.take_over(self.folder / str(run))
        self._tell(run, summary)
        return True

    def _start(self, trial: Trial, tick: int) -> Start | None:
        """Return the trial as a run to train, or None if it has ended or cannot be trained."""
        folder = self.folder / str(trial.number)
        summary = self._summary(trial.number)
        if self._tell_if_ended(trial.number, summary):
            return None
        try:
            job = self.job(trial.overrides, trial.number)
        except Exception as error:
            records.make_folder(folder, parents=False)
            failed = {"run": trial.number, **_typed(trial.overrides)}
            records.mark_failed(folder, failed, error)
            self._tell(trial.number, {"state": "failed"})
            return None
        if not summary:
            records.make_folder(folder, parents=False)
        records.take_over(folder, self.queue.worker if self.by_jobs else "")
        if not summary:
            records.create_run(folder, *job.texts)
            records.write_summary(folder, new_summary(job.spec))
        self.overrides[trial.number] = job.overrides
        self.labels[trial.number] = label(trial.overrides)
        epochs = max(0, min(tick - trial.tick, trial.epochs_reported))
        return Start(job.spec, epochs, self.labels[trial.number])


def _typed(overrides: Mapping[str, str]) -> dict[str, Any]:
    return {key.lstrip("+"): spaces.value(text) for key, text in overrides.items()}


def label(overrides: Mapping[str, str]) -> str:
    """Return the words that distinguish a run, for people: numbers in four digits."""
    words = []
    for key, text in overrides.items():
        number = spaces.value(text)
        short = (
            f"{number:.4g}"
            if isinstance(number, float) and len(text) > 6
            else spelling.unquoted(text)
        )
        words.append(f"{key}={short}")
    return " ".join(words)


def tracker_settings(config: DictConfig) -> dict[str, Any]:
    """Return the tracker's settings; empty where nothing is tracked."""
    node = OmegaConf.to_container(config.tracking, resolve=True)
    return node if isinstance(node, dict) and node.get("_target_") else {}  # type: ignore[return-value]
