"""Register lrlab with Hydra, and adapt Hydra, while a command of lrlab's runs.

Another Hydra program in the same process finds Hydra unchanged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.types import RunMode

from lrlab.config import schema

# Hydra 1.3 warns without it, Hydra 1.4 with it.
BASE: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}

_SCHEMA = "lrlab_schema"


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
