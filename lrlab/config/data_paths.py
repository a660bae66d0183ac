# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""Resolve a config's relative paths against the folder in which its sweep began.

A record has a path as it was typed, and the folder at that time. A later command may run elsewhere,
and the sweep may have moved, alone or with everything around it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

# The folders to search before the current one; a variable, for the started processes.
VARIABLE = "LRLAB_LOOK_IN"


def find(path: str | Path) -> Path:
    """Return the absolute path of a file or folder that a config names.

    A relative path is searched where its sweep began, if that is known, then in the current folder.
    It need not exist there.
    """
    given = Path(os.path.expanduser(path))
    if not given.is_absolute():
        for folder in _folders():
            if (folder / given).exists():
                return folder / given
    return given.absolute()


def tried(path: str | Path) -> str:
    """Return where a missing path was searched, for the end of an error line."""
    given = Path(os.path.expanduser(path))
    here = given.absolute()
    others = [] if given.is_absolute() else [str(folder / given) for folder in _folders()]
    return ", nor ".join(dict.fromkeys([str(here), *others]))


def look_in(folders: Iterable[Path]) -> None:
    """Search relative paths in these folders first, in this process and those it starts."""
    os.environ[VARIABLE] = os.pathsep.join(map(str, folders))


@contextlib.contextmanager
def found_in(folder: Path) -> Generator[None, None, None]:
    """Let a sweep find the files in a folder."""
    looked = os.environ.get(VARIABLE)
    look_in([folder])
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if looked is not None:
            os.environ[VARIABLE] = looked


def _folders() -> list[Path]:
    return [Path(each) for each in os.environ.get(VARIABLE, "").split(os.pathsep) if each]


def go_back(sweep: Path, records: Iterable[Any], trusted: bool) -> Path | None:
    """Let paths and code be found where a recorded sweep began.

    Args:
        sweep: its folder, where it is now.
        records: Hydra's part of its config as it was saved, of the sweep or of a run of it. A
            damaged one is ignored.
        trusted: whether code may be imported from there, too.

    Returns:
        The folder in which the sweep began, if it exists.
    """
    sweep = sweep.absolute()
    folders, kept = [], [sweep]
    for record in records:
        folder = _text(record, "runtime", "cwd")
        if folder is None:
            continue
        was = Path(folder, os.path.expanduser(_text(record, "sweep", "dir") or sweep))
        kept.append(was)
        folders.append(Path(folder))
        # If everything was moved, it is as far from the sweep as it was.
        with contextlib.suppress(ValueError):  # on another drive of Windows
            folders.append(Path(os.path.normpath(sweep / os.path.relpath(folder, was))))
    folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
    look_in(folder for folder in dict.fromkeys([*folders, *kept]) if folder.is_dir())
    # Code of the current folder comes first, as Python has it.
    if trusted:
        sys.path += [str(folder) for folder in folders if str(folder) not in sys.path]
    return folders[0] if folders else None


def _text(record: Any, *keys: str) -> str | None:
    for key in keys:
        record = record.get(key) if isinstance(record, Mapping) else None
    return record if isinstance(record, str) and "${" not in record else None
