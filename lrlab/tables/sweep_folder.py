"""Check that a path is a sweep's folder; if not, suggest another."""

from __future__ import annotations

from pathlib import Path

from lrlab import records
from lrlab.errors import UserError
from lrlab.process import paths

NO_RUNS = (
    "holds no runs; name a sweep's folder, the one with 0/, 1/, ... in it (analysis, compare and "
    "plots also read other programs' logs)"
)


def near(path: Path) -> str:
    """Return similar names in the same folder, in the words of a message."""
    from lrlab.config.schema import nearest

    try:
        names = [each.name for each in path.absolute().parent.iterdir()]
    except OSError:
        return ""
    return nearest(path.name, names)


def check_sweep(folder: Path) -> None:
    """Check that a path is a sweep's folder.

    Raises:
        UserError: it is not; the message suggests which to name.
    """
    try:
        inside = sorted(each for each in folder.iterdir() if each.is_dir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None
    if records.run_folders(folder):
        return
    if (folder / ".hydra").is_dir() or has_own_metrics(folder):
        sweep = paths.typed_path(folder.absolute().parent)
        raise UserError(f"{folder}: is a run's folder; name its sweep's, {sweep}")
    if (folder / "multirun.yaml").is_file():
        raise UserError(f"{folder}: has no run yet; start it again or wait for its first step")
    sweeps = [each for each in inside if records.run_folders(each)]
    # A reproduction only copies a run of a sweep: suggest it last.
    sweeps = [each for each in sweeps if not _is_reproduction(each)] or sweeps
    if not sweeps:
        raise UserError(f"{folder}: {NO_RUNS}")
    count = f"{len(sweeps)} sweeps" if len(sweeps) > 1 else "a sweep"
    some = " or ".join(str(each) for each in sweeps[:3])
    raise UserError(f"{folder}: holds {count}, but no runs; name one or more, like {some}")


def has_own_metrics(folder: Path) -> bool:
    """Return whether a folder's metrics.csv is lrlab's: Lightning's has this name too."""
    try:
        with (folder / "metrics.csv").open("rb") as stream:
            return stream.readline(200).startswith(b"step,epoch,lr,train_loss,val_loss")
    except OSError:
        return False


def _is_reproduction(folder: Path) -> bool:
    return any((run / "provenance.json").is_file() for run in records.run_folders(folder))
