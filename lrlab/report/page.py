"""Make the whole page as one text, from tables and records, with its own script and style."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import shlex
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrlab.report import advice, chart, figures, table
from lrlab.report.chart import setting_text
from lrlab.report.markup import Markup, embedded_json, part, render

if TYPE_CHECKING:
    from lrlab.plots.tables import Tables

_NOT_ENDED = {
    "training": "training",
    "running": "training",
    "waiting": "waiting",
    "interrupted": "interrupted",
}
_BOTH = 40  # up to so many runs can be drawn with train and validation loss at once
_TITLES = (*("Answer", "Loss curves", "Runs", "Figures"), *("Configs", "Environment", "Thresholds"))
_FACTS = ("network", "data", "optimizer", "schedule", "loss", "batch_size", "epochs", "seed")


@dataclass(frozen=True)
class Details:
    """The parts of the records that are not in the tables.

    Attributes:
        configs: the config of each run with dotted names, None where it cannot be read.
        environments: the versions, device ... that each run was trained with.
        command: the command line that began the sweep; "" if it is not known.
        folder: the sweep's folder as one would type it.
        made: when the page was made.
        notes: what could not be read, one sentence each.
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
        pictures: PNG files, or their paths, by the name of the figure; or a function that returns
            them, called after all other slow work.
        sweep_folder: the sweep's folder; commands name it so, unless details.folder does.
        details: configs, environments and the rest.

    Raises:
        UserError: a table lacks a column.
    """
    from lrlab._version import __version__
    from lrlab.records import thresholds
    from lrlab.verdicts import judging, recommend

    details = details or Details()
    verdicts = tables.verdicts
    if verdicts is None:
        verdicts = judging.verdicts(tables.curves)
    answers = tables.answers or recommend.recommend(verdicts)
    known = {row["run"]: row for row in tables.runs.to_dict("records")}
    rows = [
        {**known.get(row["run"], {}), **_told(row), "lr": row["lr"]}
        for row in verdicts.to_dict("records")
    ]
    settings = _varying(rows)
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
    return render(
        "page.html",
        # The page may load nothing from a network, and only these two programs may run. So the
        # content of a record could not become a program even if it were not escaped.
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
        losses=_losses(has_train, has_val, len(drawn)),
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


def _losses(has_train: bool, has_val: bool, drawn: int) -> list[tuple[str, str]]:
    """Return the losses that can be drawn; the first is drawn at the start."""
    found = [("train", "train")] if has_train else []
    found += [("val", "validation")] if has_val else []
    # Twice as many curves as can be told apart would only make the page slow.
    return [*found, ("both", "both")] if len(found) == 2 and drawn <= _BOTH else found


# Name, value, and whether it is the same in all runs.
_Pairs = list[tuple[str, str, bool]]


def _configs(
    rows: Sequence[Mapping[Any, Any]], details: Details, folder: str
) -> tuple[_Pairs, list[tuple[Any, list[str] | None, str]]]:
    """Return the settings that all runs share; and how each run differs, and its command."""
    known = {run: config for run, config in details.configs.items() if config}
    common, differing = _compared(list(known.values()))
    found: list[tuple[Any, list[str] | None, str]] = []
    for run in (row["run"] for row in rows):
        config = known.get(run, {})
        differs = [f"{key}={_value(config[key])}" for key in differing if key in config]
        command = f"python -m lrlab.reproduce {shlex.quote(f'{folder}/{run}')}"
        found.append((run, differs if run in known else None, command))
    same = sorted(common.items(), key=_top_level_first)
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


# --- words ----------------------------------------------------------------------------------------


def _told(row: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the known parts of a verdict: a missing value must not hide the record's."""
    return {key: value for key, value in row.items() if value is not None}


def _varying(rows: Sequence[Mapping[Any, Any]]) -> list[str]:
    from lrlab.tables.frames import SETTINGS

    names = [*SETTINGS, *sorted({str(key) for row in rows for key in row if "." in str(key)})]
    found = []
    for name in names:
        values = [row.get(name) for row in rows]
        if len({str(value) for value in values if value is not None and value == value}) > 1:
            found.append(name)
    return list(dict.fromkeys(found))


def _unmeasured(rows: Sequence[Mapping[Any, Any]], verdicts: Any) -> list[str]:
    """Return the measurements that the verdicts lacked."""
    missing = []
    if verdicts[["alpha", "stability_ratio"]].isna().all(axis=None):
        missing.append(
            "alpha and the stability ratio were not measured (diagnostics=default measures them "
            "in runs that are long enough, diagnostics=full in any)"
        )
    if verdicts[["gain_low", "gain_high"]].isna().all(axis=None):
        missing.append("there was no branch test, which tells what a smaller lr would win")
    if not missing:
        return []
    return ["Not in these records: " + "; ".join(missing) + "."]


def _not_ended(rows: Sequence[Mapping[Any, Any]]) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        state = _NOT_ENDED.get(str(row.get("state")))
        if state:
            counts[state] = counts.get(state, 0) + 1
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


def _top_level_first(item: tuple[str, Any]) -> tuple[bool, str]:
    return "." in item[0], item[0]


def _some(runs: Sequence[str]) -> str:
    return ", ".join(runs[:8]) + (f" and {len(runs) - 8} more" if len(runs) > 8 else "")


# --- the file -------------------------------------------------------------------------------------


@functools.cache
def _plotly() -> tuple[str, str]:
    """Return Plotly's program, packed, and its hash.

    Packed it is a third as large, and the browser parses it after the page can be read.
    """
    from plotly.offline import get_plotlyjs

    program = get_plotlyjs()
    packed = gzip.compress(program.encode(), 9, mtime=0)
    return base64.b64encode(packed).decode(), _hash(program)


def _hash(program: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
