"""Write ``report.html``: one page with all results of a sweep, which opens without a network.

`html` makes the page from tables, figures and details; `write` reads these from a sweep's folder.

May be imported by ``sweeping``, ``api`` and the verbs, lazily. It imports ``plots``, ``verdicts``
and those below them.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
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
        figures: PNG files by name, or a function that returns them; it is called last, so that
            they can be drawn meanwhile. None: those in the sweep's plots/.
        tables: None: read them.

    Returns:
        The file's path.

    Raises:
        UserError: there is no such folder, it is no sweep's, or it holds no run.
        NotWritten: the page cannot be written.
    """
    from lrlab import records

    tables = tables or _tables(sweep)
    figures = pictures(sweep) if figures is None else figures
    page = html(tables, figures, sweep.absolute(), _details(sweep, tables))
    file = records.report_file(sweep)
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

    last = tables.curves.loc[tables.curves["step"].notna()].drop_duplicates("run", keep="last")
    recorded = dict(zip(last["run"], last["step"], strict=True))
    folders = dict(zip(tables.runs["run"], map(Path, tables.runs["folder"]), strict=True))
    damaged = [str(run) for run in folders if _is_damaged(folders[run], recorded.get(run))]
    note = f"The records of run {', '.join(damaged)} are damaged; parts of them are missing here."
    return Details(
        configs={run: _config(folder) for run, folder in folders.items()},
        environments={run: _environment(folder) for run, folder in folders.items()},
        command=shlex.join(sweep_settings.command(sweep)),
        folder=display_path(sweep),
        made=time.strftime("%Y-%m-%d %H:%M"),
        notes=[note] if damaged else [],
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
    """Return whether a file of the run cannot be read, or is cut off.

    last: the last step of its metrics; None if none could be read.
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
