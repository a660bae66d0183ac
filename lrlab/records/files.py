"""Write one file whole, or append to it, if this process owns it; refuse links and devices."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from lrlab.errors import NotWritten, UserError


def is_special(mode: int) -> bool:
    """Return whether a mode of ``stat`` is that of a device, a pipe or a socket."""
    kinds = (stat.S_ISCHR, stat.S_ISBLK, stat.S_ISFIFO, stat.S_ISSOCK)
    return any(kind(mode) for kind in kinds)


def entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:  # missing, or no folder: reported where it is read
        return []


def check_entry(entry: os.DirEntry[str]) -> None:
    # a folder's listing already says what its entries are
    if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
        check_own(Path(entry.path))


def check_own(file: Path) -> None:
    """Check that a record, if it exists, is an ordinary file.

    Raises:
        UserError: it is a link, which could lead anywhere, or a pipe or device.
    """
    try:
        mode = file.lstat().st_mode
    except OSError:
        return
    if stat.S_ISLNK(mode):
        raise UserError(
            f"{file}: is a link, which lrlab does not follow; replace it by the file that it names"
        )
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{file}: is no ordinary file; remove it")


_owned: Callable[[Path], None] | None = None


@contextlib.contextmanager
def written_by_owner(check: Callable[[Path], None]) -> Iterator[None]:
    """While the block runs, check before each change of a file that its run is still ours.

    The check comes last: after the file to append to was opened, or after the new file was written
    and before it is renamed. A process that takes the run over (``take_over``) replaces open files,
    and removes those that wait to be renamed. So a process that pauses between the check and the
    change changes nothing.

    Args:
        check: is given the file, and raises ``NotOurs``.
    """
    global _owned
    before, _owned = _owned, check
    try:
        yield
    finally:
        _owned = before


def check_owned(file: Path) -> None:
    """Make the check of ``written_by_owner``, if there is one.

    Raises:
        NotOurs: another process has taken the run over.
    """
    if _owned is not None:
        _owned(file)


def write_whole(file: Path, text: str) -> None:
    """Write another file in the same folder, then rename it: a reader never sees half a file.

    Raises:
        NotWritten: the disk is full, the folder gone or read-only.
    """
    write_bytes(file, text.encode("utf-8"))


def write_bytes(file: Path, data: bytes | memoryview) -> None:
    """As ``write_whole``, for bytes."""
    part = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        _check_replaceable(file)
        part.write_bytes(data)
        check_owned(file)
        os.replace(part, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        check_owned(file)  # the run's new owner may have removed the unfinished file
        raise NotWritten(file, error) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _check_replaceable(file: Path) -> None:
    """Raise an OSError for a device, a pipe or a socket: replacing /dev/null would remove it."""
    with contextlib.suppress(FileNotFoundError):
        if is_special(file.lstat().st_mode):
            raise OSError(errno.EEXIST, "it is a device, a pipe or a socket", str(file))


def remove(file: Path) -> None:
    """Remove a run's file, if it exists and is still ours (``check_owned``)."""
    check_owned(file)
    file.unlink(missing_ok=True)


def append(file: Path, text: str) -> None:
    check_own(file)
    check_owned(file)  # opening it would create an empty file
    try:
        with file.open("a", encoding="utf-8", newline="") as stream:
            check_owned(file)
            stream.write(text)
    except OSError as error:
        raise NotWritten(file, error) from error


def is_asked_for() -> bool:
    """Return whether ``written_by_owner`` is in force."""
    return _owned is not None
