"""The files of a sweep and of a run: the only code that knows them. Never imports torch.

    <sweep>/multirun.yaml  best.yaml  study.journal  runs.csv  verdicts.csv
            lines.csv  surface.csv  paths.csv  report.html  plots/*.png  data-<hash>.pt
    <sweep>/<run number>/.hydra/{config,hydra,overrides}.yaml  metrics.csv  summary.json  run.log
                         diagnostics.csv  branches.csv

A file is written whole and then renamed, or appended to such that a torn last line is recognised.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import os
import re
import shlex
import stat
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrlab.errors import NotOurs, NotWritten, UserError
from lrlab.process import signals
from lrlab.process.plain import to_json

if TYPE_CHECKING:
    import pandas as pd

# How a command line says that it goes on with a sweep; multirun.yaml says how it began.
RESUMING = ("hydra.sweeper.resume=", "hydra.sweeper.trust=", "hydra.sweep.dir=")

MOST_TEXT = 2**24  # bytes of a YAML or JSON record; those that lrlab writes have some thousand

# The states of a run that is over. Others: waiting, running, interrupted.
ENDED = ("finished", "diverged", "pruned", "failed")

# A row describes the parameters before update `step`: the mini-batch loss there, and the full
# evaluation where one was made. The last row, after all updates, has an evaluation only.
METRICS = ("step", "epoch", "lr", "train_loss", "val_loss", "val_acc")

# A row describes the update made at `step`; see lrlab.engine.diagnostics.
DIAGNOSTICS = (
    *("step", "alpha", "alpha_probe", "stability_ratio", "sharpness"),
    *("grad_norm", "update_ratio", "distance"),
)

# A row is a step of the branch test, counted on from the run's last one: the lr of the branch that
# goes on as the run did, and the mini-batch losses at a tenth of it, at it, and at three times it.
MULTIPLIERS = {"low": 0.1, "same": 1.0, "high": 3.0}
BRANCHES = ("step", "lr", *MULTIPLIERS)

# The tables of lrlab.probes.landscape, which says what they hold, in the sweep's folder.
LANDSCAPE = {
    "lines": ("run", "lr", "role", "step", "t", "distance", "loss", "w0", "w1", "w2", "alpha"),
    "surface": ("x", "y", "loss"),
    "paths": ("run", "lr", "role", "step", "x", "y", "loss", "share"),
}


# --- writing --------------------------------------------------------------------------------------


VAL_PARTS = "val_parts"  # a column for reckoning, not for reading: no CSV has it

_owned: Callable[[Path], None] | None = None


@contextlib.contextmanager
def written_by_owner(check: Callable[[Path], None]) -> Iterator[None]:
    """While the block runs, ask before each change of a file whether its run is still ours.

    The question comes last: of what is appended after the file was opened, of what is renamed after
    it was written beside. Whoever takes the run over puts other files in the place of those that
    are open, and removes those that wait to be renamed (``take_over``). So also a process that
    stands still between the answer and the change changes nothing.

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
    """Ask ``written_by_owner``'s question, if there is one.

    Raises:
        NotOurs: another process has taken the run over.
    """
    if _owned is not None:
        _owned(file)


def is_asked_for() -> bool:
    """Whether this process asks ``written_by_owner``'s question now."""
    return _owned is not None


def take_over(run: Path, owner: str = "") -> None:
    """Take a run's folder from a process that may still be there; call it before the run goes on.

    metrics.csv and diagnostics.csv are put in place anew by whoever goes on with the run.

    Args:
        owner: the worker whose jobs, which cannot ask the study, are to find by ``check_owner``
            that the run is theirs; empty where the worker trains by itself.
    """
    for entry in _entries(run):
        if entry.name.endswith(_OWNER):
            remove(Path(entry.path))
    if owner:
        write_whole(_owner_file(run, owner), "")
    for entry in _entries(run):
        part = _PART.fullmatch(entry.name)
        if part is not None and int(part[1] or part[2]) != os.getpid():
            with contextlib.suppress(OSError):
                os.unlink(entry.path)
    log_file = run / "run.log"
    _check_own(log_file)
    with contextlib.suppress(FileNotFoundError):
        write_bytes(log_file, log_file.read_bytes())


_OWNER = ".owner"


def _owner_file(run: Path, owner: str) -> Path:
    """A file for each worker: who removes its own removes nobody else's."""
    return run / f".{owner}{_OWNER}"


def disown(run: Path, owner: str) -> None:
    """Let the jobs of a worker write nothing more of a run."""
    _owner_file(run, owner).unlink(missing_ok=True)


def check_owner(run: Path, owner: str, file: Path) -> None:
    """That a run is still the worker's whose job asks, just before it writes a file.

    Raises:
        NotOurs: another process has taken the run over.
        NotWritten: that cannot be told.
    """
    mark = _owner_file(run, owner)
    try:
        mark.open("rb").close()  # on a network drive, only opening a file asks the server
    except FileNotFoundError:
        if run.is_dir():  # else whoever writes says that it is gone
            raise NotOurs(file, f"another process has taken over run {run.name}") from None
    except OSError as error:
        raise NotWritten(mark, error, "read") from error


def write_whole(file: Path, text: str) -> None:
    """Write beside the file, then rename: a reader sees the old file or the new one, never half.

    Raises:
        NotWritten: the disk is full, the folder gone or read-only.
    """
    write_bytes(file, text.encode("utf-8"))


def write_bytes(file: Path, data: bytes | memoryview) -> None:
    """As ``write_whole``, for what is no text."""
    beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        _check_replaceable(file)
        beside.write_bytes(data)
        check_owned(file)
        os.replace(beside, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        check_owned(file)  # whose new owner has removed what was beside it
        raise NotWritten(file, error) from error
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _check_replaceable(file: Path) -> None:
    """Keep a device, a pipe or a socket from being replaced by a file: /dev/null would be gone.

    Raises:
        OSError: it is one.
    """
    with contextlib.suppress(FileNotFoundError):
        if is_special(file.lstat().st_mode):
            raise OSError(errno.EEXIST, "it is a device, a pipe or a socket", str(file))


def is_special(mode: int) -> bool:
    """Whether a mode of ``stat`` is that of a device, a pipe or a socket."""
    kinds = (stat.S_ISCHR, stat.S_ISBLK, stat.S_ISFIFO, stat.S_ISSOCK)
    return any(kind(mode) for kind in kinds)


def free_folder(folder: Path, may_rename: bool) -> Path:
    """The folder, or one with -2, -3 ... behind its name, that is not there yet.

    Raises:
        UserError: it is there, and may not be renamed.
    """
    if not folder.exists():
        return folder
    if not may_rename:
        raise UserError(
            f"name={folder.name}: {folder} is there already; take another name, or none"
            f"{_or_resume(folder)}"
        )
    return next(
        other
        for other in (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
        if not other.exists()
    )


def _or_resume(folder: Path) -> str:
    if not (folder / "multirun.yaml").is_file():
        return ""
    return f". To go on with that sweep: python -m lrlab.resume {shlex.quote(str(folder))}"


def create_sweep(folder: Path) -> bool:
    """Make a sweep's folder; False where another sweep has made it a moment ago.

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
        write_whole(folder / ".hydra" / f"{name}.yaml", text)
    start_metrics(folder)


def start_metrics(folder: Path) -> None:
    """Begin metrics.csv anew; what was measured beside it goes."""
    write_whole(folder / "metrics.csv", ",".join(METRICS) + "\n")
    remove(folder / "diagnostics.csv")


def remove(file: Path) -> None:
    """Remove a run's file, if it is there.

    Raises:
        NotOurs: another process has taken the run over.
    """
    check_owned(file)
    file.unlink(missing_ok=True)


def cut_metrics(folder: Path, step: int) -> bool:
    """Keep the rows before a step in metrics.csv, for a run that goes on from there.

    Returns:
        Whether they are all there; if not, nothing is changed.
    """
    file = folder / "metrics.csv"
    _check_own(file)
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except FileNotFoundError:
        return False
    if len(lines) <= step or (step and not lines[step].startswith(f"{step - 1},")):
        return False
    if not lines[step].endswith("\n"):
        return False
    write_whole(file, "".join(lines[: step + 1]))
    return True


def cut_diagnostics(folder: Path, step: int) -> None:
    """Keep the rows before a step in diagnostics.csv, for a run that goes on from there."""
    file = folder / "diagnostics.csv"
    _check_own(file)
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except FileNotFoundError:
        return
    numbers = ((line, line.partition(",")[0]) for line in lines[1:] if line.endswith("\n"))
    kept = [line for line, number in numbers if number.isdecimal() and int(number) < step]
    write_whole(file, "".join(lines[:1] + kept))


def append_diagnostics(folder: Path, rows: Sequence[Sequence[float]]) -> None:
    """Append rows as in ``DIAGNOSTICS``; NaN, what could not be measured, is left empty."""
    if not rows:
        return
    file = folder / "diagnostics.csv"
    is_new = not file.exists()
    text = ",".join(DIAGNOSTICS) + "\n" if is_new else ""
    for step, *values in rows:
        cells = ("" if value != value else f"{value:.9g}" for value in values)
        text += f"{step},{','.join(cells)}\n"
    if is_new:  # whole, for of a torn header a run that goes on could make no table any more
        write_whole(file, text)
    else:
        _append(file, text)


def write_branches(folder: Path, rows: Iterable[Sequence[float]]) -> None:
    """Write branches.csv, rows as in ``BRANCHES``."""
    lines = (
        f"{step},{lr!r},{','.join(f'{loss:.9g}' for loss in losses)}\n"
        for step, lr, *losses in rows
    )
    write_whole(folder / "branches.csv", ",".join(BRANCHES) + "\n" + "".join(lines))


def append_metrics(folder: Path, rows: Iterable[tuple[int, int, float, float]]) -> None:
    """Append rows of (step, epoch, lr, train_loss); the loss is a float32, 9 digits hold it."""
    cells = tuple(itertools.chain.from_iterable(rows))
    text = "%d,%d,%r,%.9g,,\n" * (len(cells) // 4) % cells  # at once: half the time of row by row
    _append(folder / "metrics.csv", text)


def append_evaluated(
    folder: Path,
    step: int,
    epoch: int,
    train: tuple[float, float] | None,
    evaluation: tuple[float, float],
) -> None:
    """Append one row with a full evaluation.

    Args:
        train: (lr, train_loss), or None after the last update.
        evaluation: (val_loss, val_acc), both float32; an accuracy of NaN, a regression's, is left
            empty.
    """
    left = "," if train is None else f"{train[0]!r},{train[1]:.9g}"
    loss, accuracy = evaluation
    right = "" if accuracy != accuracy else f"{accuracy:.9g}"
    text = f"{step},{epoch},{left},{loss:.9g},{right}\n"
    _append(folder / "metrics.csv", text)


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write summary.json. NaN and infinities become null: JSON has no others."""
    text = to_json(summary)
    write_whole(summary_file(folder), text + "\n")


def mark_failed(folder: Path, summary: Mapping[str, Any], error: BaseException) -> None:
    """The error's first line in the summary, its traceback in the run's log.

    Args:
        summary: what to write where the run has none yet.
    """
    with contextlib.suppress(FileNotFoundError, UserError):
        summary = {**summary, **read_summary(folder)}
    message = str(error).strip().splitlines()
    line = f"{type(error).__name__}: {' '.join(message[:1])}"
    write_summary(folder, {**summary, "state": "failed", "error": line})
    log(folder, "".join(traceback.format_exception(error)))


def log(folder: Path, text: str) -> None:
    """Append to the run's run.log, each line with the time."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    lines = "".join(f"{stamp}  {line}\n" for line in text.splitlines())
    _append(folder / "run.log", lines)


def take_along(sweep: Path, folder: Path) -> None:
    """Copy the files of a folder, the data of ``run_sweep``, into the sweep's."""
    for file in sorted(folder.iterdir()):
        write_bytes(sweep / file.name, file.read_bytes())


def write_sweep_config(sweep: Path, text: str) -> None:
    """Write multirun.yaml, the config of the whole sweep with the command line that made it."""
    write_whole(sweep / "multirun.yaml", text)


def write_best(sweep: Path, text: str) -> None:
    """Write best.yaml, the config of the best run, which can itself be run."""
    write_whole(sweep / "best.yaml", text)


def remove_best(sweep: Path) -> None:
    """Remove best.yaml, if it is there: no run is the best any more."""
    file = sweep / "best.yaml"
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise NotWritten(file, error) from error


def read_best(sweep: Path) -> str:
    """best.yaml as text.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    try:
        return _text(sweep / "best.yaml")
    except OSError as error:
        raise UserError(f"{sweep / 'best.yaml'}: cannot be read ({error.strerror})") from None


def best_run(sweep: Path) -> int | None:
    """The number of the run that best.yaml is the config of; None: there is none."""
    import yaml

    try:
        saved = plain_yaml(_text(sweep / "best.yaml"))
        return int(Path(saved["source"]).name)
    except (OSError, UserError, yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError):
        return None


def write_runs(sweep: Path, runs: pd.DataFrame) -> None:
    """Write runs.csv, one row a run; the folder's name is the run, wherever the sweep lies."""
    # Timings differ each time, and this table of a sweep trained again should not.
    table = runs.drop(columns=["folder", "train_seconds"], errors="ignore")
    table = table.convert_dtypes()  # a column with gaps holds whole numbers as floats
    write_whole(sweep / "runs.csv", csv_text(table))


def write_verdicts(sweep: Path, verdicts: pd.DataFrame) -> None:
    """Write verdicts.csv, one row a run; a sentence says what each verdict rests on."""
    write_whole(sweep / "verdicts.csv", csv_text(verdicts))


_FORMULA = re.compile(r"\s*[=+\-@\t\r]")
_NUMBER = re.compile(r"\s*([+-]?(\d+\.?\d*|\.\d+|inf|nan)(e[+-]?\d+)?%?|-)\s*", re.IGNORECASE)


def csv_text(table: pd.DataFrame) -> str:
    """A table as CSV. A text that a spreadsheet would take for a formula begins with an apostrophe.

    Texts come from options and names, which in a sweep from elsewhere are another's.
    """
    import pandas as pd

    def told(value: Any) -> Any:
        is_formula = isinstance(value, str) and _FORMULA.match(value)
        return f"'{value}" if is_formula and not _NUMBER.fullmatch(value) else value

    safe = table.drop(columns=VAL_PARTS, errors="ignore").rename(columns=told)
    for name in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[name]):
            safe[name] = safe[name].map(told)
    return safe.to_csv(index=False)


def write_landscape(sweep: Path, name: str, table: pd.DataFrame | None) -> None:
    """Write lines.csv, surface.csv or paths.csv; None takes an older one away.

    Args:
        name: ``lines``, ``surface`` or ``paths``.
    """
    file = sweep / f"{name}.csv"
    if table is None:
        file.unlink(missing_ok=True)
    else:
        write_whole(file, table.to_csv(index=False, lineterminator="\n"))


def write_provenance(run: Path, provenance: Mapping[str, Any]) -> None:
    """Write provenance.json: which run this one is a reproduction of, and what came of it."""
    write_whole(run / "provenance.json", to_json(provenance, ensure_ascii=True) + "\n")


def summary_file(run: Path) -> Path:
    return run / "summary.json"


def model_file(run: Path) -> Path:
    return run / "model.pt"


def checkpoint_file(run: Path) -> Path:
    return run / "checkpoint.pt"


def end_file(run: Path) -> Path:
    """Where a run's end state waits for its branch test."""
    return run / "end.pt"


def journal_file(sweep: Path) -> Path:
    return sweep / "study.journal"


def report_file(sweep: Path) -> Path:
    return sweep / "report.html"


def profile_folder(sweep: Path) -> Path:
    return sweep / "profile"


def plot_folder(sweep: Path) -> Path:
    return sweep / "plots"


def _append(file: Path, text: str) -> None:
    _check_own(file)
    check_owned(file)  # else it would make an empty one
    try:
        with file.open("a", encoding="utf-8", newline="") as stream:
            check_owned(file)
            stream.write(text)
    except OSError as error:
        raise NotWritten(file, error) from error


# --- what a dead writer left ----------------------------------------------------------------------


def remove_parts(sweep: Path) -> None:
    """Remove the files that a process that died was about to rename; call it where none writes."""
    runs = run_folders(sweep)
    own = (sweep, plot_folder(sweep), profile_folder(sweep))
    for folder in (*own, *runs, *(run / ".hydra" for run in runs)):
        for entry in _entries(folder):
            part = _PART.fullmatch(entry.name)
            if part is None:
                continue
            writer = int(part[1] or part[2])
            # this process writes none now: what has its number is an earlier process's
            if writer == os.getpid() or not signals.is_running(writer):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


_PART = re.compile(r"\..+\.(\d+)\.(?:tmp|part)|\.(\d+)\..+\.json\.gz")  # the latter of a profile


# --- reading --------------------------------------------------------------------------------------


def check_contained(folder: Path) -> None:
    """Refuse a sweep's or run's folder in which something leads out of it, or is no ordinary file.

    Raises:
        UserError: names the link, pipe or device.
    """
    for entry in _entries(folder):
        _check_entry(entry)
        if not entry.is_dir(follow_symlinks=False):
            continue
        if entry.name.isdecimal():
            for inner in _entries(entry.path):
                _check_entry(inner)
                if inner.name == ".hydra" and inner.is_dir(follow_symlinks=False):
                    for each in _entries(inner.path):
                        _check_entry(each)
        elif entry.name in ("plots", ".hydra", "profile"):
            for inner in _entries(entry.path):
                _check_entry(inner)


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:  # not there, or no folder: said where it is read
        return []


def _check_entry(entry: os.DirEntry[str]) -> None:
    # of a folder's listing, which costs nothing more
    if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
        _check_own(Path(entry.path))


def _check_own(file: Path) -> None:
    """That a record is an ordinary file, if it is there.

    Raises:
        UserError: it is a link, which could lead anywhere, or a pipe or device.
    """
    try:
        mode = file.lstat().st_mode
    except OSError:
        return
    if stat.S_ISLNK(mode):
        raise UserError(
            f"{file}: is a link, and no record is followed out of its folder; put there what it "
            "leads to"
        )
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{file}: is no ordinary file; remove it")


def _text(file: Path) -> str:
    """A YAML or JSON record.

    Raises:
        FileNotFoundError: it is not there.
        UserError: it is a link, too large, no text, or may not be read.
    """
    for each in (file.parent, file) if file.parent.name == ".hydra" else (file,):
        _check_own(each)
    with _readable(file):
        size = file.stat().st_size
        if size > MOST_TEXT:
            raise UserError(f"{file}: is too large, {size:,} bytes; lrlab wrote no such")
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{file}: is damaged, no text") from None


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Say in one line that a record is there and cannot be read.

    Raises:
        FileNotFoundError: it is not there.
        UserError: reading it is not allowed, or it is a folder.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(
            f"{file}: cannot be read ({error.strerror}); give yourself the right to read it, or "
            "put the file there that lrlab wrote"
        ) from None


def plain_yaml(text: str) -> Any:
    """What a YAML record holds: plain values only; see ``quick_yaml.record`` for what it refuses.

    Raises:
        yaml.YAMLError: it is no YAML, or damaged.
    """
    from lrlab.config import yaml_text

    return yaml_text.record(text, plain=True)


def options(text: str) -> dict[Any, Any]:
    """What a run's config holds, interpolations as they are written; as OmegaConf reads YAML.

    Raises:
        ValueError: it names no options.
        yaml.YAMLError: it is no YAML, or damaged.
    """
    from lrlab.config import yaml_text

    found = yaml_text.record(text)
    if not isinstance(found, dict):
        raise ValueError("it names no options")
    return found


def read_sweep_config(sweep: Path) -> str:
    """The sweep's multirun.yaml as text.

    Raises:
        UserError: this is no folder of a sweep.
    """
    file = sweep / "multirun.yaml"
    if not file.is_file():
        if (sweep / ".hydra").is_dir() and (sweep.parent / file.name).is_file():
            raise UserError(f"{sweep}: is a run's folder; name its sweep's, {sweep.parent}")
        raise UserError(f"{sweep}: is no folder of a sweep; it has no multirun.yaml")
    return _text(file)


def make_folder(run: Path, parents: bool = True) -> None:
    """Make a run's folder, if it is not there.

    Args:
        parents: make those above it too; not in a sweep, whose folder may have been deleted.

    Raises:
        NotWritten: it cannot be made.
    """
    try:
        run.mkdir(parents=parents, exist_ok=True)
    except OSError as error:
        raise NotWritten(run, error) from error


def recorded_pad(run: Path) -> int:
    """The rows that the run's lanes were padded to, if it has trained; else 0."""
    try:
        lanes = read_summary(run).get("lanes")
    except (FileNotFoundError, UserError):
        return 0
    return int((lanes or {}).get("pad") or 0)


def run_folders(sweep: Path) -> list[Path]:
    """The folders of a sweep's runs, sorted by run number; a link to one is none of them."""
    found = [f for f in sweep.iterdir() if f.name.isdecimal() and f.is_dir() and not f.is_symlink()]
    return sorted(found, key=lambda folder: int(folder.name))


def read_config(run: Path) -> str:
    """The run's config as YAML text.

    Raises:
        UserError: this is no folder of a run.
    """
    file = run / ".hydra" / "config.yaml"
    if not file.is_file():
        if run.is_dir() and any((f / ".hydra").is_dir() for f in run_folders(run)):
            example = shlex.quote(str(run / "0"))
            raise UserError(f"{run}: is a sweep's folder; name one of its runs, like {example}")
        raise UserError(f"{run}: is no folder of a run; it has no {file.relative_to(run)}")
    return _text(file)


def read_texts(run: Path) -> tuple[str, str]:
    """hydra.yaml and overrides.yaml as they are, for a copy; empty where missing."""
    files = [run / ".hydra" / f"{name}.yaml" for name in ("hydra", "overrides")]
    hydra, overrides = (_text(f) if f.is_file() else "" for f in files)
    return hydra, overrides


def read_choices(run: Path) -> dict[str, Any]:
    """What was chosen in the groups of a run's config, as written; {} where that is not told.

    Raises:
        yaml.YAMLError: the record is no YAML, or has aliases.
    """
    found = plain_yaml(read_texts(run)[0])
    for key in ("hydra", "runtime", "choices"):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def read_summary(run: Path) -> dict[str, Any]:
    """The run's summary.json.

    Raises:
        FileNotFoundError: there is none (yet).
        UserError: it cannot be read.
    """
    file = summary_file(run)
    try:
        found = json.loads(_text(file), parse_int=_whole)
    except (ValueError, RecursionError):
        raise UserError(f"{file}: is damaged, not JSON") from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: is damaged, no JSON object")
    for key in ("environment", "lanes"):
        if not isinstance(found.get(key), dict | None):
            raise UserError(f"{file}: is damaged, its {key} is no JSON object")
    number = found.get("run", 0)
    if type(number) is not int or not 0 <= number < 2**53:
        raise UserError(f"{file}: is damaged, its run is no number of a run")
    classes = found.get("num_classes")
    if classes is not None and (type(classes) not in (int, float) or not classes >= 2):
        raise UserError(f"{file}: is damaged, its num_classes is no number of classes")
    return found


def _whole(digits: str) -> int:
    if len(digits) > 300:  # which no float holds
        raise ValueError("a number of too many digits")
    return int(digits)


def read_metrics(run: Path) -> pd.DataFrame:
    """The run's metrics.csv, columns as in ``METRICS``; a torn last line is left out.

    Raises:
        FileNotFoundError: there is none (yet).
        UserError: it cannot be read.
    """
    return _read_table(run / "metrics.csv", METRICS, counts=("step", "epoch"))


def read_diagnostics(run: Path) -> pd.DataFrame:
    """The run's diagnostics.csv, columns as in ``DIAGNOSTICS``, float64.

    Raises: as ``read_metrics``.
    """
    return _read_table(run / "diagnostics.csv", DIAGNOSTICS)


def read_branches(run: Path) -> pd.DataFrame:
    """The run's branches.csv, columns as in ``BRANCHES``, float64.

    Raises: as ``read_metrics``.
    """
    return _read_table(run / "branches.csv", BRANCHES)


def read_landscape(sweep: Path, name: str) -> pd.DataFrame:
    """The sweep's lines.csv, surface.csv or paths.csv.

    Args:
        name: ``lines``, ``surface`` or ``paths``.

    Raises: as ``read_metrics``.
    """
    return _read_table(sweep / f"{name}.csv", LANDSCAPE[name], numeric=False)


def _read_table(
    file: Path, columns: Sequence[str], counts: Sequence[str] = (), numeric: bool = True
) -> pd.DataFrame:
    """The columns of a CSV as float64; those in counts, or where not numeric all, as they come."""
    import io

    import pandas as pd

    _check_own(file)
    with _readable(file):
        data = file.read_bytes()
    try:
        # Types told, and in one piece: that takes a third of the time, which counts with a thousand
        # runs. Since pandas 3.1 exact to the last bit.
        frame = pd.read_csv(
            io.BytesIO(data[: data.rfind(b"\n") + 1]),
            usecols=list(columns),
            dtype={name: "float64" for name in columns if name not in counts} if numeric else None,
            low_memory=False,
        )
        for name in counts:
            frame[name] = pd.to_numeric(frame[name])
            if math.inf in frame[name].abs().tolist():
                raise ValueError(f"an infinite {name}")
        if list(frame.columns) != list(columns):
            frame = frame.loc[:, list(columns)]
        return frame
    except (ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file}: is damaged, not a table of {file.stem} ({reason})") from None
