"""What Hydra is told of lrlab, and what is changed in it, while a command of lrlab's runs.

Another Hydra program in the same process finds Hydra as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.types import RunMode

from lrlab.config import schema

# Hydra 1.3 warns where it is left out, Hydra 1.4 where it is given.
BASE: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}

_SCHEMA = "lrlab_schema"


@contextlib.contextmanager
def ready() -> Generator[None, None, None]:
    """Let Hydra compose lrlab's config while the block runs: it needs the schema.

    Hydra copies its one store with each look at its sources, a hundred times for ``--help``, and
    then copies again what it takes out of it. The first copies are spared.
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
    """Spare Hydra to compose the whole config once more, only to find that it sweeps: 0.2 s."""
    from hydra._internal.hydra import Hydra

    if not hasattr(Hydra, "get_mode"):  # another Hydra asks in another way
        yield
        return
    with _replaced(Hydra, "get_mode", lambda *_, **__: RunMode.MULTIRUN):
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Generator[None, None, None]:
    """Put a value in the place of a class's own, which comes back also where the block raises."""
    own, before = name in vars(owner), vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
