"""Make the folders of sweeps and runs, and remove the remains of dead writers."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
from pathlib import Path

from lrlab.errors import NotWritten, UserError
from lrlab.process import signals
from lrlab.records import files
from lrlab.records.names import PART, plot_folder, profile_folder, run_folders
from lrlab.records.writing import start_metrics


def free_folder(folder: Path, may_rename: bool) -> Path:
    """Return the folder or, if it exists, its name with -2, -3 ... added.

    Raises:
        UserError: it exists, and may not be renamed.
    """
    if not folder.exists():
        return folder
    if may_rename:
        others = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
        return next(other for other in others if not other.exists())
    line = f"name={folder.name}: {folder} is there already; take another name, or none"
    if (folder / "multirun.yaml").is_file():
        again = f"python -m lrlab.resume {shlex.quote(str(folder))}"
        line += f". To go on with that sweep: {again}"
    raise UserError(line)


def create_sweep(folder: Path) -> bool:
    """Make a sweep's folder; return False if another sweep made it a moment ago.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True)
        return True
    except OSError as error:
        if folder.is_dir():
            return False
        raise UserError(
            f"output={folder.parent}: cannot be written ({error.strerror}); "
            "name a folder of yours, for example output=my_outputs"
        ) from None


def create_run(folder: Path, config: str, hydra: str, overrides: str) -> None:
    """Make a run's folder with its three YAML texts and an empty metrics.csv."""
    make_folder(folder / ".hydra")
    for name, text in (("config", config), ("hydra", hydra), ("overrides", overrides)):
        files.write_whole(folder / ".hydra" / f"{name}.yaml", text)
    start_metrics(folder)


def take_along(sweep: Path, folder: Path) -> None:
    """Copy the files of a folder, the data of ``run_sweep``, into the sweep's."""
    for file in sorted(folder.iterdir()):
        files.write_bytes(sweep / file.name, file.read_bytes())


def remove_parts(sweep: Path) -> None:
    """Remove files that a dead process was about to rename; call it while no process writes."""
    runs = run_folders(sweep)
    own = (sweep, plot_folder(sweep), profile_folder(sweep))
    for folder in (*own, *runs, *(run / ".hydra" for run in runs)):
        for entry in files.entries(folder):
            part = PART.fullmatch(entry.name)
            if part is None:
                continue
            writer = int(part[1] or part[2])
            # this process writes none now, so a file with its number is an earlier process's
            if writer == os.getpid() or not signals.is_running(writer):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def make_folder(run: Path, parents: bool = True) -> None:
    """Make a run's folder, if it does not exist.

    Args:
        parents: also make the folders above it; False in a sweep, whose folder may be deleted.
    """
    try:
        run.mkdir(parents=parents, exist_ok=True)
    except OSError as error:
        raise NotWritten(run, error) from error
