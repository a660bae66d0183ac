"""Register lrlab with Hydra, and adapt Hydra, while a command of lrlab's runs.

Another Hydra program in the same process finds Hydra unchanged.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator, Sequence
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.version import VersionBase
from omegaconf import DictConfig, open_dict
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import OmegaConfBaseException

from lrlab.config import schema

# Hydra 1.3 warns without it, Hydra 1.4 with it.
BASE: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}

# What composing a config, or reading one, may raise.
ERRORS = (HydraException, OmegaConfBaseException)

_SCHEMA = "lrlab_schema"
_RESOLVERS = ("now", "hydra", "python_version")  # those that Hydra registers when it starts


@contextlib.contextmanager
def ready() -> Generator[None, None, None]:
    """Let Hydra compose lrlab's config while the block runs: register the schema.

    Hydra copies its one store each time that it looks at its sources, a hundred times for
    ``--help``. Then it copies the part that it takes out. The first copies are avoided.
    """
    store: Any = ConfigStore.instance()
    before = dict(store.repo)
    store.store(name=_SCHEMA, node=schema.Config, provider="lrlab")
    with _replaced(ConfigStore, "__deepcopy__", lambda self, memo: self):
        try:
            yield
        finally:
            own = f"{_SCHEMA}.yaml"
            store.repo.pop(own, None)
            if own in before:  # a block around this one still needs it
                store.repo[own] = before[own]


@contextlib.contextmanager
def mode_known() -> Generator[None, None, None]:
    """Save Hydra from composing the whole config only to find that it sweeps: 0.2 s."""
    from hydra._internal.hydra import Hydra

    if not hasattr(Hydra, "get_mode"):  # another version of Hydra asks in another way
        yield
        return
    with _replaced(Hydra, "get_mode", lambda *_, **__: RunMode.MULTIRUN):
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Generator[None, None, None]:
    """Replace a class's attribute, and restore it also if the block raises."""
    own, before = name in vars(owner), vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


def composed(overrides: Sequence[str]) -> DictConfig:
    """Compose lrlab's config, without Hydra's part."""
    with ready(), hydra.initialize_config_dir(str(schema.folder("conf")), **BASE):
        return hydra.compose("config", list(overrides))


def composed_for_run(
    program: str, flags: Sequence[str], overrides: Sequence[str]
) -> DictConfig | None:
    """Compose lrlab's config from the words of a command, with Hydra's part, as for one run.

    Hydra makes no folder.

    Returns:
        None if a flag makes Hydra print something instead, as ``--cfg job`` does.
    """
    found: list[DictConfig] = []

    def task(config: DictConfig) -> None:
        # only this, because Hydra adds its own lines to an exception raised here
        with open_dict(config):
            config.hydra = HydraConfig.get()
        found.append(config)

    task.__module__ = program  # Hydra names the job after it
    conf, before = str(schema.folder("conf")), sys.argv
    own = ("hydra.mode=RUN", "hydra.run.dir=.", "hydra.output_subdir=null")
    sys.argv = [program, *flags, *own, *overrides]
    try:
        with ready():
            hydra.main(**BASE, config_path=conf, config_name="config")(task)()
    finally:
        sys.argv = before
        GlobalHydra.instance().clear()
    return found[0] if found else None


@contextlib.contextmanager
def kept() -> Generator[None, None, None]:
    """Give the block a Hydra of its own, and restore the caller's Hydra at the end.

    The caller may be a Hydra program, or a notebook that has composed a config.
    """
    own: Any = (GlobalHydra, HydraConfig, VersionBase, JobRuntime)
    instances: Any = Singleton._instances  # pyright: ignore[reportPrivateUsage]
    before = {kind: instances.pop(kind) for kind in own if kind in instances}
    known: dict[str, Any] = BaseContainer._resolvers  # pyright: ignore[reportPrivateUsage]
    resolvers = dict(known)
    try:
        yield
    finally:
        for kind in own:
            instances.pop(kind, None)
        instances.update(before)
        for name in _RESOLVERS:  # a resolver that the user's code registered stays
            known.pop(name, None)
        known.update(resolvers)
