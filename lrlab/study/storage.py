"""Where a sweep's study is kept: a journal file, or a database that several machines share.

Both hold an Optuna storage, and a lock that one worker at a time can have. A lock ends with the
process that holds it, however that ends.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from errno import ENOENT
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import parse_qsl, unquote

from lrlab.config.passwords import masked, secrets, split
from lrlab.errors import NotWritten, UserError

if TYPE_CHECKING:
    import sqlalchemy
    from optuna.storages import BaseStorage, RDBStorage
    from optuna.trial import FrozenTrial

JOURNAL = "journal"
CONNECT_TIMEOUT = 5  # seconds, for each address of the server
PATIENCE = 60.0  # seconds for which a database may fail before a worker gives up
LOCK_PATIENCE = 600.0  # seconds for which another process may hold the lock
PAUSES = (0.1, 5.0)  # seconds from one attempt to the next: the first, and the longest

_PSYCOPG = "postgresql+psycopg"
_DRIVERS = {"postgresql": "lrlab[postgres]", "postgres": "lrlab[postgres]", "mysql": "pymysql"}

_LAST_ID = 2**31 - 1  # of a database's trials

T = TypeVar("T")


class Store(Protocol):
    """An Optuna storage with its lock. Nobody calls the storage but through these two."""

    @property
    def storage(self) -> BaseStorage: ...

    def locked(self, body: Callable[[], T]) -> T:
        """Run the body while no other worker runs such a one.

        A body may run again from its start when the storage failed, so that it must not mind what
        it has done already.

        Raises:
            UserError: the storage has failed for too long.
            NotWritten: the journal cannot be written.
        """
        ...

    def unlocked(self, body: Callable[[], T]) -> T:
        """Run the body at any time, again from its start when the storage failed."""
        ...

    def runs(self, study_id: int, only_states: bool = False) -> list[FrozenTrial]:
        """All trials of the study, by number.

        Of a database, those that wait may be as they were a while ago, and with only_states all
        but their states may be.
        """
        ...

    def sync(self) -> None:
        """Make all that was written survive a loss of power."""
        ...

    def enter(self, worker: str) -> None:
        """Make it known, as far as the storage can, that this process is there. Under the lock."""
        ...

    def has_left(self, worker: str) -> bool:
        """Whether a worker's process is known to be gone."""
        ...

    def close(self) -> None: ...


def open_store(storage: str, name: str, journal: Path | None) -> Store:
    """Open the storage, made where it is not there yet.

    Args:
        storage: ``journal``, or a database's URL.
        name: of the study, which a database's lock belongs to.
        journal: the journal's file.

    Raises:
        UserError: it is no URL, its driver is missing, or it does not answer.
        NotWritten: the journal cannot be made.
    """
    _quiet_optuna()
    if storage == JOURNAL:
        if journal is None:
            raise UserError("storage=journal: needs a folder to lie in")
        return _Journal(journal)
    return _Database(storage, name)


def _quiet_optuna() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)


# --- a journal ------------------------------------------------------------------------------------


class _Journal:
    """Optuna's journal with one lock for all: the kernel frees it when its process dies.

    Optuna's own locks are files that stay behind after a SIGKILL, for half a minute.
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
            with contextlib.suppress(OSError):  # gone, or in a folder that is read-only by now
                Path(lock.lock_file).unlink()

    def _presence(self, worker: str) -> Any:
        """A lock that the worker holds as long as its process lives, however that ends."""
        from filelock import FileLock

        return FileLock(self._file.with_name(f".{worker}.alive"), thread_local=False)


@functools.cache
def _journal_storage() -> Any:
    """The class of a journal's storage, which says in one line that the journal cannot be read."""
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
            except Exception as error:  # whatever a damaged line makes of it
                raise UserError(f"{file}: is damaged, no journal of Optuna ({error})") from None

    return Storage


@functools.cache
def _backend() -> Any:
    """The class of our journal, made late because importing Optuna takes time."""
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
                    f"{self._file}: is locked by another process that does not go on"
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
    """Append all of the lines or nothing; a torn line that a dead process left is cut off first.

    The file is there: one that was deleted is not made again.
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
    """Cut off a torn last line; the file's size then, in bytes."""
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


# --- a database -----------------------------------------------------------------------------------


class _Database:
    """A database through SQLAlchemy; its lock is the server's, on a connection of its own.

    The study's row would be no lock: Optuna locks it itself to number a trial.
    """

    def __init__(self, storage: str, name: str) -> None:
        import optuna

        self._shown = masked(storage)
        self._secrets = secrets(storage)
        url, options = _engine(storage)
        self._locks = self._made(lambda: _create_engine(url, options))
        self._lock = self._lock_of(name)
        text = url.render_as_string(hide_password=False).replace("{", "%7B").replace("}", "%7D")

        def create() -> RDBStorage:
            # Two workers that make the tables at once would make one of them fail.
            with self._lock_of("")(self._locks):
                return optuna.storages.RDBStorage(text, engine_kwargs=dict(options))

        self.storage: RDBStorage = self._made(create)
        self._trials: dict[int, FrozenTrial] = {}  # by id, as they were last read
        self._stale: set[int] = set()  # of which only the state has been read since

    def locked(self, body: Callable[[], T]) -> T:
        def with_lock() -> T:
            with self._lock(self._locks):
                return body()

        return self.unlocked(with_lock)

    def unlocked(self, body: Callable[[], T]) -> T:
        pause, longest = PAUSES
        since = time.monotonic()
        while True:
            try:
                return body()
            except Exception as error:
                cause = _sql_error(error)
                if cause is None:
                    raise
                if not _may_pass(cause) or time.monotonic() - since > PATIENCE:
                    raise UserError(
                        f"storage={self._shown}: fails ({self._reason(cause)}); "
                        "python -m lrlab.resume goes on once it works again"
                    ) from None
            time.sleep(pause)
            pause = min(2 * pause, longest)

    def runs(self, study_id: int, only_states: bool = False) -> list[FrozenTrial]:
        """Reading a trial costs the database half a millisecond: only what may differ is read."""
        import sqlalchemy
        from optuna.storages._rdb.models import TrialModel
        from optuna.trial import TrialState

        columns = sqlalchemy.select(TrialModel.trial_id, TrialModel.state)
        query = columns.where(TrialModel.study_id == study_id)
        with self.storage.engine.connect() as connection:
            states = {row[0]: row[1] for row in connection.execute(query)}
        running = {i for i, state in states.items() if state is TrialState.RUNNING}
        for number, trial in self._trials.items():
            if trial.state is not states[number]:
                self._trials[number] = trial = copy.copy(trial)
                trial.state = states[number]
                self._stale.add(number)
        unknown = states.keys() - self._trials.keys()
        self._read(study_id, unknown if only_states else unknown | running | self._stale)
        return sorted(self._trials.values(), key=lambda trial: trial.number)

    def _read(self, study_id: int, ids: set[int]) -> None:
        if ids:
            # these, and those behind the last one: there is none
            for trial in self.storage._get_trials(study_id, None, ids, _LAST_ID):
                self._trials[trial._trial_id] = trial
            self._stale -= ids

    def sync(self) -> None:
        pass

    def enter(self, worker: str) -> None:
        pass

    def has_left(self, worker: str) -> bool:
        return False

    def close(self) -> None:
        self.storage.engine.dispose()
        self._locks.dispose()

    def _made(self, make: Callable[[], T]) -> T:
        from optuna.exceptions import OptunaError
        from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

        try:
            return make()
        except NoSuchModuleError:
            raise UserError(
                f"storage={self._shown}: there is no database of this kind; "
                "for example postgresql://user@host/database"
            ) from None
        except ImportError as error:
            package = _DRIVERS.get(_system(split(self._shown).scheme), str(error.name))
            raise UserError(
                f"storage={self._shown}: its driver is not installed; pip install '{package}'"
            ) from None
        except (OptunaError, SQLAlchemyError, ValueError, RuntimeError, OSError) as error:
            reason = self._reason(_sql_error(error) or error)
            raise UserError(f"storage={self._shown}: cannot be used ({reason})") from None

    def _reason(self, error: BaseException) -> str:
        """What a driver says, in one line that does not tell the password."""
        lines = [line.strip() for line in str(getattr(error, "orig", None) or error).splitlines()]
        text = "; ".join(line for line in lines if line) or type(error).__name__
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _lock_of(self, name: str) -> Callable[[Any], contextlib.AbstractContextManager[None]]:
        backend = self._locks.url.get_backend_name()
        if backend == "sqlite":
            return _sqlite_lock(self._locks, self._shown)
        number = int.from_bytes(hashlib.sha256(f"lrlab {name}".encode()).digest()[:8], signed=True)
        statements = {
            # of the transaction, and so gone with it, also behind a connection pooler
            "postgresql": ("SELECT pg_advisory_xact_lock(:number)", None),
            "mysql": ("SELECT GET_LOCK(:number, 600)", "SELECT RELEASE_LOCK(:number)"),
            "mariadb": ("SELECT GET_LOCK(:number, 600)", "SELECT RELEASE_LOCK(:number)"),
        }
        if backend not in statements:
            raise UserError(
                f"storage={self._shown}: has no lock that lrlab knows; "
                "take postgresql://, mysql:// or sqlite:///"
            )
        return functools.partial(_server_lock, *statements[backend], number)


@contextlib.contextmanager
def _server_lock(
    lock: str, release: str | None, number: int, engine: sqlalchemy.Engine
) -> Iterator[None]:
    from sqlalchemy import text

    with engine.connect() as connection:
        connection.execute(text(lock), {"number": number})
        try:
            yield
        finally:
            if release is not None:
                connection.execute(text(release), {"number": number})
            connection.rollback()


def _sqlite_lock(
    engine: sqlalchemy.Engine, shown: str
) -> Callable[[Any], contextlib.AbstractContextManager[None]]:
    """SQLite has no lock that lets its own process write meanwhile: a file beside it has."""
    from filelock import FileLock

    database = engine.url.database
    if not database or database == ":memory:":
        raise UserError(f"storage={shown}: is gone with its process; name a file")
    lock = FileLock(f"{database}.lock", thread_local=False)

    @contextlib.contextmanager
    def held(_: Any) -> Iterator[None]:
        with lock.acquire(timeout=LOCK_PATIENCE, poll_interval=0.005):
            yield

    return held


def _create_engine(url: sqlalchemy.URL, options: dict[str, Any]) -> sqlalchemy.Engine:
    import sqlalchemy

    engine = sqlalchemy.create_engine(url, **options)
    with engine.connect():
        return engine


def _engine(storage: str) -> tuple[sqlalchemy.URL, dict[str, Any]]:
    """SQLAlchemy's URL, and the options of an engine for it.

    Raises:
        UserError: it is no URL.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    parts = split(storage)
    system = _system(parts.scheme)
    wrong = UserError(
        f"storage={masked(storage)}: must be journal, or a database's URL, "
        "for example postgresql://user@host/database"
    )
    if not parts.scheme:
        raise wrong
    try:
        if system == "sqlite":
            return make_url(storage), {}
        url = make_url(f"{parts.scheme}://{parts.place}")
    except (ArgumentError, ValueError):
        raise wrong from None
    url = url.set(
        drivername=_PSYCOPG if url.drivername in ("postgresql", "postgres") else url.drivername,
        username=unquote(parts.user) or None,
        password=None if parts.password is None else unquote(parts.password),
        query=dict(parse_qsl(parts.query, keep_blank_values=True)),
    )
    options: dict[str, Any] = {}
    if system == "postgresql":
        connect = {"connect_timeout": CONNECT_TIMEOUT, "keepalives_idle": 30}
        options["connect_args"] = {k: v for k, v in connect.items() if k not in url.query}
    return url, options


def _system(scheme: str) -> str:
    return scheme.partition("+")[0]


def _sql_error(error: BaseException | None) -> BaseException | None:
    """The database's error behind one of Optuna's, or None: it has nothing to do with it."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, StorageInternalError):
        return _sql_error(error.__cause__) or error
    return error if isinstance(error, SQLAlchemyError) else None


def _may_pass(error: BaseException) -> bool:
    """Whether a server that restarts, or a network that comes back, would mend it."""
    from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError

    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return lost or isinstance(error, InterfaceError | InternalError | OperationalError)
