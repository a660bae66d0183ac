"""Record which process owns a run, so that another one can take it over from a silent worker."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from lrlab.errors import NotOurs, NotWritten
from lrlab.records import files
from lrlab.records.names import PART


def take_over(run: Path, owner: str = "") -> None:
    """Take a run's folder from a process that may still live; call it before the run goes on.

    This does not replace metrics.csv and diagnostics.csv, which going on with the run does.

    Args:
        owner: the worker whose jobs cannot ask the study, and learn from ``check_owner`` that the
            run is theirs; empty if the worker trains by itself.
    """
    for entry in files.entries(run):
        if entry.name.endswith(_OWNER):
            files.remove(Path(entry.path))
    if owner:
        files.write_whole(_owner_file(run, owner), "")
    for entry in files.entries(run):
        part = PART.fullmatch(entry.name)
        if part is not None and int(part[1] or part[2]) != os.getpid():
            with contextlib.suppress(OSError):
                os.unlink(entry.path)
    log_file = run / "run.log"
    files.check_own(log_file)
    with contextlib.suppress(FileNotFoundError):
        files.write_bytes(log_file, log_file.read_bytes())


_OWNER = ".owner"


def _owner_file(run: Path, owner: str) -> Path:
    """Return a file for each worker, so that each removes only its own."""
    return run / f".{owner}{_OWNER}"


def disown(run: Path, owner: str) -> None:
    """Stop the jobs of a worker from writing to a run."""
    _owner_file(run, owner).unlink(missing_ok=True)


def check_owner(run: Path, owner: str, file: Path) -> None:
    """Check that a run still belongs to the job's worker, just before the job writes a file.

    Raises:
        NotOurs: another process has taken the run over.
        NotWritten: the owner cannot be determined.
    """
    mark = _owner_file(run, owner)
    try:
        mark.open("rb").close()  # on a network drive, only opening a file asks the server
    except FileNotFoundError:
        if run.is_dir():  # otherwise the writer reports that it is gone
            raise NotOurs(file, f"another process has taken over run {run.name}") from None
    except OSError as error:
        raise NotWritten(mark, error, "read") from error
