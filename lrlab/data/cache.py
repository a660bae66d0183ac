"""Find and fill the cache folder, and call torchvision quietly."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import logging
import os
import secrets
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from lrlab.errors import UserError
from lrlab.process import broken_pipe

log = logging.getLogger("lrlab.data")

DOWNLOAD_TIMEOUT = 20.0  # seconds without an answer; a silent firewall would stall a job for ever


def cache_folder() -> Path | None:
    """Return lrlab's cache folder: `$LRLAB_CACHE`, else one in the platform's cache folder.

    None if the user has no home folder. The folder need not exist.
    """
    chosen = os.environ.get("LRLAB_CACHE")
    try:
        if chosen:
            return Path(chosen).expanduser().absolute()
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA")
            return (Path(local) if local else Path.home() / "AppData" / "Local") / "lrlab"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "lrlab"
        xdg = os.environ.get("XDG_CACHE_HOME", "")
        # The XDG specification says to ignore a relative path.
        return (Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache") / "lrlab"
    except RuntimeError:  # pathlib: no home folder can be determined
        return None


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """During a download, wait for silent servers for DOWNLOAD_TIMEOUT and no longer."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(timeout)


@contextlib.contextmanager
def quiet_torchvision() -> Iterator[None]:
    """Import and call torchvision without warnings, and with progress bars only on a terminal."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if not (sys.stderr is not None and sys.stderr.isatty()):
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        else:  # its bars return to the start of their line
            stack.enter_context(contextlib.redirect_stderr(broken_pipe.ungated(sys.stderr)))
        try:
            import torchvision  # noqa: F401
        except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
            reason = " ".join(str(error).split())
            raise UserError(
                f"data: torchvision cannot be imported ({reason}); install the version that belongs"
                f" to torch {torch.__version__}"
            ) from error
        yield


@contextlib.contextmanager
def filled_folder(name: str, fill: Callable[[Path], None]) -> Iterator[Path]:
    """Yield a folder that `fill` has put files into: the cache's, or a temporary one if needed."""
    cache = cache_folder()
    if cache is None:
        _warn_once("no home folder, so nothing is cached; LRLAB_CACHE may name a folder")
    else:
        folder = cache / name / "raw"
        try:
            fill(folder)
        except OSError as error:
            _warn_once(
                f"cannot write to the cache folder {cache} ({error.strerror or error}), so the data"
                " is unpacked anew each time; LRLAB_CACHE may name another folder"
            )
        else:
            yield folder
            return
    with tempfile.TemporaryDirectory(prefix="lrlab-") as temporary:
        fill(Path(temporary))
        yield Path(temporary)


@functools.cache
def _warn_once(message: str) -> None:
    log.warning(message)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, contents: bytes | memoryview) -> None:
    """Write a file so that others see all of it or nothing. OSError: cannot write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: only the owner can read its files, and a cache may be shared.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(contents)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
