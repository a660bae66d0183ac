"""Keep a sweep's study: in a journal file, or in a database that several machines share.

Both hold an Optuna storage, and a lock for one worker at a time. A lock ends with the process that
holds it, however that ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from lrlab.errors import UserError
from lrlab.study.database import Database
from lrlab.study.journal import Journal

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

JOURNAL = "journal"

T = TypeVar("T")


class Store(Protocol):
    """An Optuna storage with its lock; all calls of the storage go through these two."""

    @property
    def storage(self) -> BaseStorage: ...

    def locked(self, body: Callable[[], T]) -> T:
        """Run the body while no other worker runs such a body.

        A body may run again from its start when the storage failed, so repeating its work must be
        harmless.

        Raises:
            UserError: the storage has failed for too long.
            NotWritten: the journal cannot be written.
        """
        ...

    def unlocked(self, body: Callable[[], T]) -> T:
        """Run the body at any time; run it again from its start when the storage failed."""
        ...

    def runs(self, study_id: int, only_states: bool = False) -> list[FrozenTrial]:
        """Return all trials of the study, by number.

        From a database, waiting ones may be outdated, and with only_states everything but the
        states may be.
        """
        ...

    def sync(self) -> None:
        """Make all written data survive a loss of power."""
        ...

    def enter(self, worker: str) -> None:
        """Show, as far as the storage can, that this process exists; call it under the lock."""
        ...

    def has_left(self, worker: str) -> bool:
        """Return whether a worker's process is known to be gone."""
        ...

    def close(self) -> None: ...


class OpenStudy:
    """One study of a store: its runs, and the notes on the whole.

    Attributes:
        store: of the study; its ``storage`` is Optuna's.
        direction: ``minimize`` or ``maximize``.
        name, id: of the study, once it is found or made.
    """

    def __init__(self, store: Store, direction: str) -> None:
        self.store, self.storage = store, store.storage
        self.direction = direction
        self.name, self.id = "", -1
        self._ids: dict[int, int] = {}  # number to Optuna's id

    def runs(self, only_states: bool = False) -> list[FrozenTrial]:
        """Return the study's trials, by number; see ``Store.runs``."""
        found = self.store.runs(self.id, only_states)
        if len(self._ids) != len(found):
            self._ids = {run.number: run._trial_id for run in found}
        return found

    def trial_id(self, number: int) -> int:
        """Return Optuna's id of a run."""
        return self._ids[number]

    def attrs(self) -> dict[str, Any]:
        """Return what lrlab has noted about the study."""
        return self.storage.get_study_system_attrs(self.id)

    def set(self, key: str, value: Any) -> None:
        """Note something about the study."""
        self.storage.set_study_system_attr(self.id, key, value)


def open_store(storage: str, name: str, journal: Path | None) -> Store:
    """Open the storage; make it if it does not exist.

    Raises:
        UserError: it is no URL, its driver is missing, or it does not answer.
        NotWritten: the journal cannot be made.
    """
    _quiet_optuna()
    if storage == JOURNAL:
        if journal is None:
            raise UserError("storage=journal: needs a folder to lie in")
        return Journal(journal)
    return Database(storage, name)


def _quiet_optuna() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
