"""Make the page as one text from tables and records, with its script and style."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import shlex
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrlab.report import advice, chart, figures, table
from lrlab.report.chart import setting_text
from lrlab.report.markup import Markup, embedded_json, part, render

if TYPE_CHECKING:
    from lrlab.plots.tables import Tables

_NOT_ENDED = ("training", "running", "waiting", "interrupted")
_BOTH = 40  # up to so many runs can be drawn with train and validation loss at once
_TITLES = ("Answer", "Loss curves", "Runs", "Figures", "Configs", "Environment", "Thresholds")
_FACTS = ("network", "data", "optimizer", "schedule", "loss", "batch_size", "epochs", "seed")


@dataclass(frozen=True)
class Details:
    """The parts of the records that are not in the tables.

    Attributes:
        configs: each run's config with dotted names; None if it cannot be read.
        environments: the versions, device ... that each run was trained with.
        command: the command line that began the sweep; "" if it is not known.
        folder: the sweep's folder as one would type it.
        made: when the page was made.
        notes: sentences about what could not be read.
    """

    configs: Mapping[Hashable, Mapping[str, Any] | None] = field(default_factory=dict)
    environments: Mapping[Hashable, Mapping[str, Any]] = field(default_factory=dict)
    command: str = ""
    folder: str = ""
    made: str = ""
    notes: Sequence[str] = ()


def html(
    tables: Tables,
    pictures: Mapping[str, bytes | Path] | Callable[[], Mapping[str, bytes | Path]],
    sweep_folder: Path,
    details: Details | None = None,
) -> str:
    """Return the page: one file that loads no other, with all recorded text escaped.

    Args:
        tables: as from `lrlab.tables`; runs and curves are needed. Missing verdicts and answers
            are made.
        pictures: PNG files, or their paths, by the figure's name; or a function that returns them,
            called after all other slow work.
        sweep_folder: named in commands if details.folder is "".
        details: configs, environments and the rest.

    Raises:
        UserError: a table lacks a column.
    """
    import pandas as pd

    from lrlab._version import __version__
    from lrlab.records import thresholds
    from lrlab.tables import frames
    from lrlab.verdicts import judging, recommend

    details = details or Details()
    verdicts = tables.verdicts
    verdicts = judging.verdicts(tables.curves) if verdicts is None else verdicts
    answers = tables.answers or recommend.recommend(verdicts)
    known = {row["run"]: row for row in tables.runs.to_dict("records")}
    rows = []
    for row in verdicts.to_dict("records"):  # a missing verdict must not hide the record's value
        judged = {key: value for key, value in row.items() if value is not None}
        rows.append({**known.get(row["run"], {}), **judged, "lr": row["lr"]})
    settings = frames.varying(pd.DataFrame(rows))
    curves = chart.data(tables.curves, verdicts, settings)
    drawn = [run["run"] for run in curves["runs"]]
    best = [each.best_run for each in recommend.best_of_each(answers) if each.best_lr is not None]
    pictures = pictures() if callable(pictures) else pictures
    folder = details.folder or str(sweep_folder)
    name = sweep_folder.name or str(sweep_folder)
    runs = table.section(rows, settings, best, drawn, _unmeasured(rows, verdicts))
    shown = figures.section(pictures)
    same, configs = _configs(rows, details, folder)
    environment, told = _environment(details)
    there = {"Figures": shown, "Environment": environment}
    style, program = part("page.css"), part("page.js")
    packed, plotly_hash = _plotly()
    has_train, has_val = (any(run[y] for run in curves["runs"]) for y in ("y", "vy"))
    losses = [("train", "train")] * has_train + [("val", "validation")] * has_val
    # More curves could not be told apart, and would make the page slow.
    losses += [("both", "both")] * (has_train and has_val and len(drawn) <= _BOTH)
    return render(
        "page.html",
        # The page may load nothing from a network, and run only these two programs. So the content
        # of a record could not run as a program even if it were not escaped.
        policy="default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src '{_hash(program)}' '{plotly_hash}'; base-uri 'none'; form-action 'none'",
        name=name,
        titles=[title for title in _TITLES if there.get(title, True)],
        facts=_facts(rows),
        details=details,
        not_ended=_not_ended(rows),
        count=len(rows),
        again=f"python -m lrlab.report {shlex.quote(folder)}",
        answer=advice.section(answers, rows, details.command),
        curves=curves,
        has_train=has_train,
        has_val=has_val,
        has_picture="loss_curves" in pictures,
        colours=[
            *(("lr", "learning rate"), ("outcome", "outcome")),
            *((str(place), setting) for place, setting in enumerate(settings)),
        ],
        losses=losses,
        runs=runs,
        figures=shown or "",
        same=same,
        configs=configs,
        environment=environment,
        told=told,
        thresholds=[line.split(None, 2) for line in thresholds.lines()],
        version=__version__,
        folder=folder,
        style=Markup(style),
        json=embedded_json(curves),
        plotly=Markup(packed),
        program=Markup(program),
    )


# --- parts ----------------------------------------------------------------------------------------


def _facts(rows: Sequence[Mapping[Any, Any]]) -> list[str]:
    """Return the settings that all runs share."""
    facts = [f"{len(rows)} run{'s' if len(rows) != 1 else ''}"]
    for fact in _FACTS:
        values = {setting_text(row.get(fact)) for row in rows} - {setting_text(None)}
        if len(values) == 1:
            facts.append(f"{fact.replace('_', ' ')} {values.pop()}")
    return facts


# Name, value, and whether it is the same in all runs.
_Pairs = list[tuple[str, str, bool]]


def _configs(
    rows: Sequence[Mapping[Any, Any]], details: Details, folder: str
) -> tuple[_Pairs, list[tuple[Any, list[str] | None, str]]]:
    """Return the settings that all runs share; and for each run its differences and its command."""
    known = {run: config for run, config in details.configs.items() if config}
    common, differing = _compared(list(known.values()))
    found: list[tuple[Any, list[str] | None, str]] = []
    for run in (row["run"] for row in rows):
        config = known.get(run, {})
        differs = [f"{key}={_value(config[key])}" for key in differing if key in config]
        command = f"python -m lrlab.reproduce {shlex.quote(f'{folder}/{run}')}"
        found.append((run, differs if run in known else None, command))
    same = sorted(common.items(), key=lambda item: ("." in item[0], item[0]))  # top level first
    return [(key, _value(value), True) for key, value in same], found


def _environment(details: Details) -> tuple[_Pairs, int]:
    """Return versions and devices, and how many runs report them."""
    known = {run: each for run, each in details.environments.items() if each}
    common, differing = _compared(list(known.values()))
    pairs = [(key, _value(value), True) for key, value in common.items()]
    for key in differing:
        by_value: dict[str, list[str]] = {}
        for run, each in known.items():
            by_value.setdefault(_value(each.get(key)), []).append(str(run))
        told = "; ".join(f"{value} (runs {_some(runs)})" for value, runs in by_value.items())
        pairs.append((key, told, False))
    return pairs, len(known)


def _unmeasured(rows: Sequence[Mapping[Any, Any]], verdicts: Any) -> list[str]:
    """Return a sentence about the measurements that the verdicts lacked, if any."""
    missing = []
    if verdicts[["alpha", "stability_ratio"]].isna().all(axis=None):
        missing.append(
            "alpha and the stability ratio were not measured (diagnostics=default measures them "
            "in runs that are long enough, diagnostics=full in any)"
        )
    if verdicts[["gain_low", "gain_high"]].isna().all(axis=None):
        missing.append("there was no branch test, which shows how much a smaller lr would gain")
    return [f"Not in these records: {'; '.join(missing)}."] if missing else []


def _not_ended(rows: Sequence[Mapping[Any, Any]]) -> str:
    states = [str(row.get("state")) for row in rows if row.get("state") in _NOT_ENDED]
    counts = Counter("training" if state == "running" else state for state in states)
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _compared(configs: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Return the settings that are equal in all runs, and the names of the others."""
    names = list(dict.fromkeys(name for config in configs for name in config))
    common, differing = {}, []
    for name in names:
        values = {_value(config[name]) if name in config else None for config in configs}
        if len(values) == 1:
            common[name] = configs[0][name]
        else:
            differing.append(name)
    return common, differing


def _value(value: Any) -> str:
    """Return a value as in YAML, on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(_value(each) for each in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_value(each)}' for key, each in value.items())}}}"
    return str(value)


def _some(runs: Sequence[str]) -> str:
    return ", ".join(runs[:8]) + (f" and {len(runs) - 8} more" if len(runs) > 8 else "")


# --- the file -------------------------------------------------------------------------------------


@functools.cache
def _plotly() -> tuple[str, str]:
    """Return Plotly's program, compressed, and its hash.

    Compressed it is a third as large, and the browser parses it after the page can be read.
    """
    from plotly.offline import get_plotlyjs

    program = get_plotlyjs()
    packed = gzip.compress(program.encode(), 9, mtime=0)
    return base64.b64encode(packed).decode(), _hash(program)


def _hash(program: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
