"""Keep a study in a database that several machines share, with a lock of the server."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, unquote

from lrlab.config.passwords import masked, secrets, split
from lrlab.errors import UserError
from lrlab.study.journal import LOCK_PATIENCE

if TYPE_CHECKING:
    import sqlalchemy
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial


CONNECT_TIMEOUT = 5  # seconds, for each address of the server
PATIENCE = 60.0  # seconds for which a database may fail before a worker gives up
PAUSES = (0.1, 5.0)  # seconds between attempts: the first, and the longest

_PSYCOPG = "postgresql+psycopg"
_DRIVERS = {"postgresql": "lrlab[postgres]", "postgres": "lrlab[postgres]", "mysql": "pymysql"}

_LAST_ID = 2**31 - 1  # states of a database's trials

T = TypeVar("T")


class Database:
    """A database through SQLAlchemy; its lock is the server's, on a connection of its own.

    The study's row cannot be the lock: Optuna itself locks it to number a trial.
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
        self._stale: set[int] = set()  # read since then only for its state

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
        """Return the trials; each costs half a millisecond, so read only those that may differ."""
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
            # these, and those after the last one, of which there is none
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
        """Return a driver's message in one line, without the password."""
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
            # bound to the transaction, and so gone with it, also with a connection pooler
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
    """Lock a file next to a SQLite database, which has no lock that lets its owner write."""
    from filelock import FileLock

    database = engine.url.database
    if not database or database == ":memory:":
        raise UserError(f"storage={shown}: a database in memory ends with its process; name a file")
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
    """Return SQLAlchemy's URL, and the options of an engine for it.

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
    """Return the database's error that caused one of Optuna's, or None if there is none."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, StorageInternalError):
        return _sql_error(error.__cause__) or error
    return error if isinstance(error, SQLAlchemyError) else None


def _may_pass(error: BaseException) -> bool:
    """Return whether a restarted server, or a restored network, would solve the problem."""
    from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError

    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return lost or isinstance(error, InterfaceError | InternalError | OperationalError)
