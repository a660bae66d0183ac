"""Write ``report.html``: one page with all results of a sweep, which opens without a network.

`html` makes its text from tables, figures and details; `write` reads these from a sweep's folder.

May be imported by ``sweeping``, ``api`` and the verbs, lazily. It imports ``plots``, ``verdicts``
and those below them.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrlab.report.page import Details, html

if TYPE_CHECKING:
    from lrlab.plots.tables import Tables

__all__ = ["Details", "html", "pictures", "write"]


def write(
    sweep: Path,
    figures: Mapping[str, bytes | Path] | Callable[[], Mapping[str, bytes | Path]] | None = None,
    tables: Tables | None = None,
) -> Path:
    """Write ``<sweep>/report.html`` from the sweep's records.

    Args:
        sweep: the sweep's folder; it may still be running.
        figures: PNG files by name, or a function that returns them, called late, as they may still
            be drawn. None: those in its plots/.
        tables: None: read them.

    Returns:
        The file's path.

    Raises:
        UserError: there is no such folder, it is no sweep's, or it holds no run.
        NotWritten: the page cannot be written.
    """
    from lrlab import records

    tables = tables or _tables(sweep)
    if figures is None:
        figures = pictures(sweep)
    file = records.report_file(sweep)
    page = html(tables, figures, sweep.absolute(), _details(sweep, tables))
    records.write_whole(file, f"{page}\n")
    return file


def pictures(sweep: Path) -> dict[str, bytes | Path]:
    """Return the PNG files in the sweep's plots/, by name."""
    from lrlab import records

    return {path.stem: path for path in sorted(records.plot_folder(sweep).glob("*.png"))}


def _tables(sweep: Path) -> Tables:
    from lrlab.plots.tables import Tables
    from lrlab.verdicts import loading, recommend

    found = loading.read_sweep(sweep)
    judged = found.verdicts()
    return Tables(found.runs, found.curves, judged, answers=recommend.recommend(judged))


def _details(sweep: Path, tables: Tables) -> Details:
    from lrlab.process.paths import display_path
    from lrlab.tables import sweep_settings

    configs: dict[Hashable, Mapping[str, Any] | None] = {}
    environments: dict[Hashable, Mapping[str, Any]] = {}
    last = tables.curves.loc[tables.curves["step"].notna()].drop_duplicates("run", keep="last")
    recorded = dict(zip(last["run"], last["step"], strict=True))
    damaged = []
    for run, folder in zip(tables.runs["run"], tables.runs["folder"], strict=True):
        configs[run] = _config(Path(folder))
        environments[run] = _environment(Path(folder))
        if _is_damaged(Path(folder), recorded.get(run)):
            damaged.append(str(run))
    notes = []
    if damaged:
        notes.append(f"The records of run {', '.join(damaged)} are damaged, and left out in part.")
    return Details(
        configs=configs,
        environments=environments,
        command=shlex.join(sweep_settings.command(sweep)),
        folder=display_path(sweep),
        made=time.strftime("%Y-%m-%d %H:%M"),
        notes=notes,
    )


def _config(run: Path) -> dict[str, Any] | None:
    """Return the run's config with dotted names; None where it cannot be read."""
    from lrlab import records
    from lrlab.config import schema
    from lrlab.errors import UserError

    try:
        loaded = _yaml(records.read_config(run))
    except (UserError, OSError):
        return None
    return schema.flat(loaded) if isinstance(loaded, dict) else None


def _yaml(text: str) -> Any:
    """Return the file's content; None if it is damaged."""
    import yaml

    from lrlab import records

    try:
        return records.plain_yaml(text)
    except (yaml.YAMLError, RecursionError):
        return None


def _environment(run: Path) -> dict[str, Any]:
    from lrlab import records
    from lrlab.errors import UserError

    try:
        found = records.read_summary(run).get("environment")
    except (UserError, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_damaged(run: Path, last: float | None) -> bool:
    """Return whether a file of the run exists but cannot be read, or is cut off.

    last: the last step of its metrics; None: none could be read.
    """
    from lrlab import records
    from lrlab.errors import UserError

    try:
        summary = records.read_summary(run)
        steps = summary.get("steps")
        if summary.get("state") == "finished" and isinstance(steps, int) and last is not None:
            return last < steps
    except FileNotFoundError:
        pass
    except (UserError, OSError):
        return True
    try:
        if last is None:
            records.read_metrics(run)
    except FileNotFoundError:
        pass
    except (UserError, OSError):
        return True
    return False
