"""lrlab's Hydra plugins: a sweeper that asks Optuna for trials, a launcher that trains in lanes.

Every Hydra program in the environment imports this module, so it imports nothing heavy: the work is
in ``lrlab.search`` and ``lrlab.launch``. (No ``from __future__ import annotations`` here: beside a
dataclass it breaks Hydra 1.3.8.)
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LrlabSweeper(Sweeper):
    """``hydra/sweeper=lrlab``: one trial of an Optuna study is one run."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from hydra.core.plugins import Plugins

        self.loader = hydra_context.config_loader
        self.composed = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from lrlab import search

        return search.sweep(self.composed, self.loader, self.launcher, arguments)


class LaneLauncher(Launcher):
    """``hydra/launcher=lanes``: all jobs of a batch train together, in this process."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.loader = hydra_context.config_loader
        self.composed = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from lrlab import launch

        return launch.launch(self.composed, self.loader, job_overrides, initial_job_idx)


for _group, _name, _class in (
    ("hydra/sweeper", "lrlab", "LrlabSweeper"),
    ("hydra/launcher", "lanes", "LaneLauncher"),
):
    ConfigStore.instance().store(
        group=_group,
        name=_name,
        node={"_target_": f"hydra_plugins.lrlab_hydra.{_class}"},
        provider="lrlab",
    )
