"""Draw all figures and the report at a sweep's end, and say which were not drawn."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from lrlab import records
from lrlab.config import schema
from lrlab.errors import NotWritten
from lrlab.sweeping.resuming import resume_command

if TYPE_CHECKING:
    from lrlab.plots import Tables


def draw(
    config: DictConfig, folder: Path, tables: Tables
) -> tuple[dict[str, str], NotWritten | None]:
    """Draw all figures and the report; measure the loss around three of the runs meanwhile.

    Failed ones are left out.

    Returns:
        The figures that failed, "report" among them, and why; the first write error, if any.
    """
    from lrlab import plots, report
    from lrlab.plots.drawing import Drawing, described
    from lrlab.process.cores import cores
    from lrlab.tables import frames

    failed: dict[str, str] = {}
    unwritten = []
    tables = replace(tables, branches=frames.branches(folder))
    first = [name for name in plots.NAMES if name not in plots.OF_LANDSCAPE]
    with Drawing(records.plot_folder(folder), free=cores() - 1) as drawing:
        drawing.add(first, tables)
        if schema.diagnostics(config) != "off":
            trusted = not config.hydra.sweeper.get("resume") or config.hydra.sweeper.get("trust")
            _measure_landscape(folder, tables, max(1, cores() - drawing.processes), bool(trusted))
        lines, surface, paths = frames.landscape(folder)
        tables = replace(tables, lines=lines, surface=surface, paths=paths)
        drawing.add(plots.OF_LANDSCAPE, tables)

        def pictures() -> dict[str, bytes | Path]:
            drawn = drawing.wait()
            failed.update(drawn.failed)
            unwritten.append(drawn.unwritten)
            return report.pictures(folder)

        try:
            report.write(folder, pictures, tables)
        except NotWritten as error:
            unwritten.append(error)
        except Exception as error:  # the runs are recorded, and their results printed
            failed["report"] = described(error)
    return failed, next((error for error in unwritten if error is not None), None)


def _measure_landscape(folder: Path, tables: Tables, threads: int, trusted: bool) -> None:
    best = next((a.best_run for a in tables.answers if a.best_run is not None), None)
    if best is None or tables.verdicts is None:
        return
    from lrlab.probes import landscape
    from lrlab.verdicts import three_runs

    runs = three_runs.choose(tables.verdicts, int(str(best)))
    if isinstance(runs, str):
        measured = landscape.nothing(runs)
    else:
        measured = landscape.measure(folder, runs, threads=threads, trusted=trusted)
    landscape.write(folder, measured)


def say_failed(folder: Path, failed: Mapping[str, str]) -> None:
    if not failed:
        return
    for name, reason in failed.items():
        print(f"lrlab: {name} was not drawn: {reason}", file=sys.stderr)
    from lrlab.process.paths import typed_path

    sweep = typed_path(folder)
    figures = [name for name in failed if name != "report"]
    again = [f"python -m lrlab.plots {sweep} --only {' '.join(figures)}"] if figures else []
    again.append(f"python -m lrlab.report {sweep}")  # it shows the figures that exist
    print(
        f"lrlab: the records are whole; draw what is missing with {', then '.join(again)}",
        file=sys.stderr,
    )


def say_undrawn(folder: Path) -> None:
    from lrlab.process.paths import typed_path

    sweep = typed_path(folder)
    print(
        "lrlab: interrupted while drawing, the records are whole; draw with "
        f"python -m lrlab.plots {sweep}, or all of it with {resume_command(folder)}",
        file=sys.stderr,
    )
