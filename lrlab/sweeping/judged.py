"""Hold a checked command: what it sweeps, and how its runs are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lrlab.config import schema, trust
from lrlab.config.space import Space
from lrlab.config.words.arguments import Command
from lrlab.errors import UserError
from lrlab.plan import checks, compose, memory
from lrlab.sweeping.resuming import resume_command

DEFAULT_TRIALS = 20

# Options that may differ when a sweep is resumed or joined, as they decide no run's numbers.
FREE = (
    *("name", "output", "lanes", "plots", "save_model", "device", "threads", "source"),
    *("n_trials", "timeout", "budget", "points", "storage", "workers", "lease", "checkpoint_every"),
    *("diagnostics", "tracking", "profile", "memory_limit", "pad", "capture", "lane_dropout"),
)


@dataclass
class Sweep:
    """A checked command: what it sweeps, and how its runs are made."""

    config: DictConfig
    loader: Any
    launcher: Any
    space: Space
    storage: str  # with its password, which no record has
    worker: bool  # a process of another lrlab, which reports the results
    command: Command
    folder: Path = Path()
    own: list[str] = field(default_factory=list)  # overrides of all runs that say where they lie

    judged: dict[int, compose.Job] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)  # printed when the sweep is announced
    budget: dict[str, Any] | None = None  # of a budget: what fits into it, as budget.json has it

    def job(self, point: Mapping[str, str], number: int) -> compose.Job:
        """Return a run that is checked and can train; check it only once.

        Raises:
            UserError: it cannot work.
        """
        before = self.judged.pop(number, None)
        self._check_point(point)
        if before is not None and before.overrides == self._overrides(point):
            return before
        job = self.composed(point, number)
        checks.check_runs([job.spec])
        memory.check([job.spec])
        return job

    def _overrides(self, point: Mapping[str, str]) -> list[str]:
        return self.space.fixed + self.own + [f"{key}={text}" for key, text in point.items()]

    def composed(self, point: Mapping[str, str], number: int) -> compose.Job:
        """Return a run that is not yet checked."""
        self._check_point(point)
        overrides = self._overrides(point)
        if self.guarded:
            # before it is composed, which reads the files that choices name
            words = [word for word in overrides if word not in self.own]
            trust.refuse(trust.in_words(words), f"run {number}", self.allow)
        job = compose.compose(self.config, self.loader, overrides, number)
        if self.guarded:
            groups = (*schema.GROUPS, *schema.SWEEP_GROUPS)
            found = [c for group in groups for c in trust.in_node(job.spec.config[group], group)]
            trust.refuse(found, f"run {number}", self.allow)
        return job

    def _check_point(self, point: Mapping[str, str]) -> None:
        """Check that a run in the study sets only what this command sweeps.

        A study may come from elsewhere, and an override can call anything.
        """
        lists = {key.lstrip("+"): texts for key, texts in self.space.lists.items()}
        swept = {*lists, *(key.lstrip("+") for key in self.space.intervals), "seed"}
        for key, text in point.items():
            name = key.lstrip("+")
            if name not in swept:
                raise UserError(f"{name}={text}: is in the study, but not swept by this command")
            if trust.in_words([f"{key}={text}"]) and text not in lists.get(name, ()):
                raise UserError(f"{name}={text}: is in the study, but not named by this command")

    @property
    def guarded(self) -> bool:
        """Return whether it goes on with records that may come from elsewhere."""
        return self.resumed and not self.config.hydra.sweeper.get("trust")

    @property
    def allow(self) -> str:
        return f"{resume_command(self.folder)} {trust.TRUST}"

    @property
    def shared(self) -> bool:
        """Return whether other machines may work on it."""
        return self.storage != "journal"

    @property
    def resumed(self) -> bool:
        return bool(self.config.hydra.sweeper.get("resume"))


def has_lanes(current: Sweep) -> bool:
    """Return whether the launcher trains runs together, in this process."""
    return getattr(current.launcher, "trains_lanes", False)


def prunes(config: DictConfig) -> bool:
    """Return whether runs may end early."""
    target = OmegaConf.select(config, "pruner._target_", default="")
    return not str(target).endswith("NopPruner")
