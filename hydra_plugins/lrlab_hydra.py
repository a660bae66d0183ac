"""lrlab's Hydra plugins: a sweeper that asks Optuna for trials, a launcher that trains in lanes.

Every Hydra program in the environment imports this module, so it imports nothing heavy. The work is
in ``lrlab.sweeping.sweeper`` and ``lrlab.sweeping.launch``. (No ``from __future__ import
annotations`` here: with a dataclass it breaks Hydra 1.3.8.)
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.utils import JobReturn
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class LrlabSweeper(Sweeper):
    """``hydra/sweeper=lrlab``: one trial of an Optuna study is one run.

    Args:
        params: the swept part of an experiment's YAML: key to list, interval or value.
        resume: finish the sweep in the folder instead of starting one.
        trust: whether everything that its records name may be called.
    """

    def __init__(self, params: Any = None, resume: bool = False, trust: bool = False) -> None:
        self.params = params
        self.resume = resume
        self.trust = trust

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from hydra.core.plugins import Plugins

        from lrlab.config.words import arguments

        # A task function of lrlab carries the parsed command line; other task functions have none.
        self.command = getattr(task_function, "command", None) or arguments.Command()
        arguments.restore(config, self.command.typed)
        self.loader = hydra_context.config_loader
        self.composed = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from lrlab.sweeping import sweeper

        return sweeper.sweep(self.composed, self.loader, self.launcher, arguments, self.command)


class LaneLauncher(Launcher):
    """``hydra/launcher=lanes``: all jobs of a batch train together, in this process."""

    trains_lanes = True  # the sweeper asks for it

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.loader = hydra_context.config_loader
        self.composed = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from lrlab.sweeping import launch

        return launch.launch(self.composed, self.loader, job_overrides, initial_job_idx)


class Experiments(ConfigSource):
    """``lrlab://experiments``: the files of experiments/ as the group ``experiments``.

    The folder's parent as a plain path would turn everything in it into groups.
    """

    @staticmethod
    def scheme() -> str:
        return "lrlab"

    def _file(self, config_path: str) -> Path | None:
        from lrlab.config import schema

        group, _, name = config_path.removesuffix(".yaml").partition("/")
        if group != "experiments" or not name:
            return None
        file = schema.folder("experiments") / f"{name}.yaml"
        return file if file.is_file() else None

    def load_config(self, config_path: str) -> ConfigResult:
        file = self._file(config_path)
        if file is None:
            raise ConfigLoadError(f"no such experiment: {config_path}")
        text = file.read_text(encoding="utf-8")
        return ConfigResult(
            provider=self.provider,
            path=f"{self.scheme()}://{self.path}",
            config=OmegaConf.create(text),
            header=self._get_header_dict(text),
        )

    def is_group(self, config_path: str) -> bool:
        return config_path.rstrip("/") in ("", "experiments")

    def is_config(self, config_path: str) -> bool:
        return self._file(config_path) is not None

    def available(self) -> bool:
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        from lrlab.config import schema

        if not config_path.rstrip("/"):
            return [] if results_filter == ObjectType.CONFIG else ["experiments"]
        if results_filter == ObjectType.GROUP:
            return []
        return sorted(file.stem for file in schema.folder("experiments").glob("*.yaml"))


class ExperimentsSearchPath(SearchPathPlugin):
    """Add ``lrlab://experiments`` where the program is lrlab, and to no other Hydra program."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        main = [path.path for path in search_path.get_path() if path.provider == "main"]
        if "lrlab.config.schema" in sys.modules:  # otherwise this is another program
            conf = str(sys.modules["lrlab.config.schema"].folder("conf"))
            if main == [conf]:
                search_path.append(provider="lrlab", path="lrlab://experiments")


_STORE = ConfigStore.instance()
_STORE.store(
    group="hydra/sweeper",
    name="lrlab",
    node={
        "_target_": "hydra_plugins.lrlab_hydra.LrlabSweeper",
        "params": {},
        "resume": False,
        "trust": False,
    },
    provider="lrlab",
)
_STORE.store(
    group="hydra/launcher",
    name="lanes",
    node={"_target_": "hydra_plugins.lrlab_hydra.LaneLauncher"},
    provider="lrlab",
)
