"""Keep a study in a journal file, with one lock for all of it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
from collections.abc import Callable, Iterator
from errno import ENOENT
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lrlab.errors import NotWritten, UserError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

LOCK_PATIENCE = 600.0  # seconds for which another process may hold the lock

T = TypeVar("T")


class Journal:
    """Optuna's journal with one lock for all; the kernel frees it when its process dies.

    Optuna's own locks are files that remain for half a minute after a SIGKILL.
    """

    def __init__(self, file: Path) -> None:
        self._backend = _backend()(file)
        self._file = file
        self._entered: dict[str, Any] = {}
        self.storage: BaseStorage = _journal_storage()(self._backend)

    def locked(self, body: Callable[[], T]) -> T:
        # Optuna's thread lock comes after ours in each thread, so that two threads cannot block
        # each other.
        with self._backend.held():
            return body()

    def unlocked(self, body: Callable[[], T]) -> T:
        return self.locked(body)

    def runs(self, study_id: int, only_states: bool = False) -> list[FrozenTrial]:
        return self.storage.get_all_trials(study_id, deepcopy=False)

    def sync(self) -> None:
        try:
            with self._file.open("rb+") as stream:  # one that was deleted is not made again
                os.fsync(stream.fileno())
        except OSError as error:
            raise NotWritten(self._file, error) from None

    def enter(self, worker: str) -> None:
        if worker in self._entered:
            return
        for file in self._file.parent.glob(".*.alive"):  # some died before the study knew of them
            self.has_left(file.name[1:].removesuffix(".alive"))
        lock = self._presence(worker)
        try:
            lock.acquire(timeout=0)
        except OSError as error:
            raise NotWritten(lock.lock_file, error) from None
        self._entered[worker] = lock

    def has_left(self, worker: str) -> bool:
        from filelock import Timeout

        lock = self._presence(worker)
        if not Path(lock.lock_file).exists():
            return True
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError, NotImplementedError):
            return False
        lock.release()
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()
        return True

    def close(self) -> None:
        with contextlib.suppress(NotWritten):
            self.sync()
        for lock in self._entered.values():
            lock.release()
            with contextlib.suppress(OSError):  # gone, or in a folder that has become read-only
                Path(lock.lock_file).unlink()

    def _presence(self, worker: str) -> Any:
        """Return a lock that the worker holds while its process lives, however that ends."""
        from filelock import FileLock

        return FileLock(self._file.with_name(f".{worker}.alive"), thread_local=False)


@functools.cache
def _journal_storage() -> Any:
    """Return the class of a journal's storage, which reports in one line an unreadable journal."""
    from optuna.exceptions import OptunaError
    from optuna.storages import JournalStorage

    class Storage(JournalStorage):
        def __init__(self, backend: Any) -> None:
            self._file: Path = backend._file
            super().__init__(backend)

        def _sync_with_backend(self) -> None:
            file = self._file
            try:
                super()._sync_with_backend()
            except (OptunaError, UserError, NotWritten, MemoryError):
                raise
            except FileNotFoundError as error:
                raise NotWritten(file, error) from None
            except OSError as error:
                raise NotWritten(file, error, "read") from None
            except Exception as error:  # any error that a damaged line causes
                raise UserError(f"{file}: is damaged, no journal of Optuna ({error})") from None

    return Storage


@functools.cache
def _backend() -> Any:
    """Return the class of our journal, made late because importing Optuna takes time."""
    from filelock import FileLock, Timeout
    from optuna.storages.journal import JournalFileBackend

    class Backend(JournalFileBackend):
        def __init__(self, file: Path) -> None:
            try:
                super().__init__(str(file))
            except OSError as error:
                raise NotWritten(file, error) from None
            self._file = file
            self._between_processes = FileLock(f"{file}.lock", thread_local=False)
            self._between_threads = threading.RLock()
            self._depth = 0

        @contextlib.contextmanager
        def held(self) -> Iterator[None]:
            with self._between_threads:
                if not self._depth:
                    self._acquire()
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
                    if not self._depth:
                        self._between_processes.release()

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            if not self._depth:
                raise RuntimeError("the journal is written without its lock")
            lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
            try:
                _append_whole(self._file, "".join(lines).encode())
            except OSError as error:
                raise NotWritten(self._file, error) from None

        def _acquire(self) -> None:
            gone = NotWritten(self._file, FileNotFoundError(ENOENT, os.strerror(ENOENT)))
            if not self._file.exists():
                raise gone
            try:
                self._between_processes.acquire(timeout=LOCK_PATIENCE, poll_interval=0.005)
            except Timeout:
                raise UserError(
                    f"{self._file}: is locked by another process, which does not release it"
                ) from None
            except (OSError, NotImplementedError) as error:
                raise NotWritten(self._file, error) from None
            if not self._file.exists():  # filelock makes a folder again that was deleted just now
                self._between_processes.release()
                with contextlib.suppress(OSError):
                    Path(self._between_processes.lock_file).unlink(missing_ok=True)
                    self._file.parent.rmdir()
                raise gone

    return Backend


def _append_whole(file: Path, lines: bytes) -> None:
    """Append all of the lines or nothing; cut off a torn line of a dead process first.

    The file must exist: a deleted one is not made again.
    """
    binary = getattr(os, "O_BINARY", 0)  # without it Windows writes \r\n
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND | binary)
    try:
        size = _whole_lines(descriptor)
        try:
            done = 0
            while done < len(lines):
                done += os.write(descriptor, lines[done:])
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def _whole_lines(descriptor: int) -> int:
    """Cut off a torn last line; return the file's size, in bytes."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if not size:
        return 0
    os.lseek(descriptor, -1, os.SEEK_END)
    if os.read(descriptor, 1) == b"\n":
        return size
    end, chunk = size, 4096
    while end:
        start = max(0, end - chunk)
        os.lseek(descriptor, start, os.SEEK_SET)
        newline = os.read(descriptor, end - start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    os.ftruncate(descriptor, end)
    return end
