"""Read the records of a sweep or of a run, which may be damaged or come from elsewhere."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrlab.errors import UserError
from lrlab.process.plain import is_number
from lrlab.records import files
from lrlab.records.names import (
    BRANCHES,
    DIAGNOSTICS,
    FIRST_METRICS,
    LANDSCAPE,
    METRICS,
    MOST_TEXT,
    answer_file,
    budget_file,
    run_folders,
    summary_file,
)

if TYPE_CHECKING:
    import pandas as pd


_OWN_LOOP = "was trained in your own loop, by lrlab.Probe; only your program can train it again"


def read_best(sweep: Path) -> str:
    """Return best.yaml as text; raise a UserError if it is missing or cannot be read."""
    try:
        return _text(sweep / "best.yaml")
    except OSError as error:
        raise UserError(f"{sweep / 'best.yaml'}: cannot be read ({error.strerror})") from None


def check_contained(folder: Path) -> None:
    """Raise a UserError if anything in a sweep's or run's folder is a link or no ordinary file."""
    for entry in files.entries(folder):
        files.check_entry(entry)
        if not entry.is_dir(follow_symlinks=False):
            continue
        if entry.name.isdecimal():
            for inner in files.entries(entry.path):
                files.check_entry(inner)
                if inner.name == ".hydra" and inner.is_dir(follow_symlinks=False):
                    for each in files.entries(inner.path):
                        files.check_entry(each)
        elif entry.name in ("plots", ".hydra", "profile"):
            for inner in files.entries(entry.path):
                files.check_entry(inner)


def _text(file: Path) -> str:
    """Return a YAML or JSON record.

    Raises:
        FileNotFoundError: it does not exist.
        UserError: it is a link, too large, no text, or cannot be read.
    """
    for each in (file.parent, file) if file.parent.name == ".hydra" else (file,):
        files.check_own(each)
    with _readable(file):
        size = file.stat().st_size
        if size > MOST_TEXT:
            raise UserError(f"{file}: has {size:,} bytes, more than lrlab writes; remove it")
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{file}: is damaged, no text") from None


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn an OSError into a UserError, except for a record that does not exist."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(
            f"{file}: cannot be read ({error.strerror}); change its permissions, or restore the "
            "file that lrlab wrote"
        ) from None


def plain_yaml(text: str) -> Any:
    """Return a YAML record's plain values, as ``yaml_text.record``."""
    from lrlab.config import yaml_text

    return yaml_text.record(text, plain=True)


def options(text: str) -> dict[Any, Any]:
    """Return a run's config as OmegaConf reads YAML, with interpolations as written.

    Raises:
        ValueError, yaml.YAMLError: it names no options, or is damaged.
    """
    from lrlab.config import yaml_text

    found = yaml_text.record(text)
    if not isinstance(found, dict):
        raise ValueError("it names no options")
    return found


def read_sweep_config(sweep: Path) -> str:
    """Return the sweep's multirun.yaml as text.

    Raises:
        UserError: this is no folder of a sweep.
    """
    file = sweep / "multirun.yaml"
    if not file.is_file():
        if (sweep / ".hydra").is_dir() and (sweep.parent / file.name).is_file():
            raise UserError(f"{sweep}: is a run's folder; name its sweep's, {sweep.parent}")
        if sweep.is_dir() and any((f / "probe.csv").is_file() for f in run_folders(sweep)):
            raise UserError(f"{sweep}: {_OWN_LOOP}")
        raise UserError(f"{sweep}: is no folder of a sweep; it has no multirun.yaml")
    return _text(file)


def recorded_pad(run: Path) -> int:
    """Return how many rows the run's lanes were padded to; 0: it has not trained."""
    try:
        lanes = read_summary(run).get("lanes")
    except (FileNotFoundError, UserError):
        return 0
    return int((lanes or {}).get("pad") or 0)


def read_config(run: Path) -> str:
    """Return the run's config as YAML text.

    Raises:
        UserError: this is no folder of a run.
    """
    file = run / ".hydra" / "config.yaml"
    if not file.is_file():
        if run.is_dir() and any((f / ".hydra").is_dir() for f in run_folders(run)):
            example = shlex.quote(str(run / "0"))
            raise UserError(f"{run}: is a sweep's folder; name one of its runs, like {example}")
        if (run / "probe.csv").is_file():
            raise UserError(f"{run}: {_OWN_LOOP}")
        raise UserError(f"{run}: is no folder of a run; it has no {file.relative_to(run)}")
    return _text(file)


def read_texts(run: Path) -> tuple[str, str]:
    """Return hydra.yaml and overrides.yaml unchanged, for a copy; empty if missing."""
    texts = (run / ".hydra" / f"{name}.yaml" for name in ("hydra", "overrides"))
    hydra, overrides = (_text(file) if file.is_file() else "" for file in texts)
    return hydra, overrides


def read_choices(run: Path) -> dict[str, Any]:
    """Return the choices in the groups of a run's config, as written; {} if unknown."""
    found = plain_yaml(read_texts(run)[0])
    for key in ("hydra", "runtime", "choices"):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def read_summary(run: Path) -> dict[str, Any]:
    """Return the run's summary.json.

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


def read_budget(sweep: Path) -> dict[str, Any] | None:
    """Return what a sweep's budget.json says of its budget; None: it had none, or it is damaged."""
    try:
        found = json.loads(_text(budget_file(sweep)), parse_int=_whole)
        left_out, told = found["left_out"], [found["asked"], found["trained"]]
        is_whole = is_number(found["seconds"]) and isinstance(found["budget"], str)
        is_whole = (
            is_whole and isinstance(left_out, list) and all(isinstance(t, dict) for t in told)
        )
        return found if is_whole and all(isinstance(each, str) for each in left_out) else None
    except (UserError, OSError, ValueError, RecursionError, LookupError, TypeError):
        return None


def read_answer(sweep: Path) -> dict[str, Any] | None:
    """Return a sweep's answer.json; None: it has none yet, or it is damaged."""
    try:
        found = json.loads(_text(answer_file(sweep)), parse_int=_whole)
    except (UserError, OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _whole(digits: str) -> int:
    if len(digits) > 300:  # no float holds it
        raise ValueError("a number of too many digits")
    return int(digits)


def read_metrics(run: Path) -> pd.DataFrame:
    """Return the run's metrics.csv, columns as in ``METRICS``; a torn last line is left out.

    A column that an older lrlab did not write is NaN.

    Raises:
        FileNotFoundError: there is none (yet).
        UserError: it cannot be read.
    """
    added = METRICS.keys() - FIRST_METRICS.keys()
    return _read_table(run / "metrics.csv", list(METRICS), ("step", "epoch"), added=added)


def read_diagnostics(run: Path) -> pd.DataFrame:
    """Return the run's diagnostics.csv as ``read_metrics`` does, columns as in ``DIAGNOSTICS``."""
    return _read_table(run / "diagnostics.csv", DIAGNOSTICS)


def read_branches(run: Path) -> pd.DataFrame:
    """Return the run's branches.csv as ``read_metrics`` does, columns as in ``BRANCHES``."""
    return _read_table(run / "branches.csv", BRANCHES)


def read_landscape(sweep: Path, name: str) -> pd.DataFrame:
    """Return the sweep's lines.csv, surface.csv or paths.csv, by its name without .csv."""
    return _read_table(sweep / f"{name}.csv", LANDSCAPE[name], numeric=False)


def _read_table(
    file: Path,
    columns: Sequence[str],
    counts: Sequence[str] = (),
    numeric: bool = True,
    added: Collection[str] = (),
) -> pd.DataFrame:
    """Return the columns of a CSV as float64; counts, and all if not numeric, as they come.

    Args:
        added: columns that may be missing, and then are NaN.
    """
    import io

    import pandas as pd

    files.check_own(file)
    with _readable(file):
        data = file.read_bytes()
    header = data.partition(b"\n")[0].decode("utf-8", "replace").strip().split(",")
    there = [name for name in columns if name not in added or name in header]
    try:
        # Given types and one piece take a third of the time. Since pandas 3.1, this is exact to the
        # last bit.
        frame = pd.read_csv(
            io.BytesIO(data[: data.rfind(b"\n") + 1]),
            usecols=there,
            dtype={name: "float64" for name in there if name not in counts} if numeric else None,
            low_memory=False,
        )
        for name in counts:
            frame[name] = pd.to_numeric(frame[name])
            if math.inf in frame[name].abs().tolist():
                raise ValueError(f"an infinite {name}")
        if list(frame.columns) != list(columns):
            frame = frame.reindex(columns=list(columns))
        return frame
    except (ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file}: is damaged, not a table of {file.stem} ({reason})") from None


def best_run(sweep: Path) -> int | None:
    """Return the number of the run in best.yaml; None: there is none."""
    import yaml

    try:
        saved = plain_yaml(_text(sweep / "best.yaml"))
        return int(Path(saved["source"]).name)
    except (OSError, UserError, yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError):
        return None
