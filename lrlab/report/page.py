"""The whole page as one text: what the tables and records hold, and what it needs to show it."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import re
import shlex
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrlab.report import advice, chart, figures, table
from lrlab.report.chart import setting_text
from lrlab.report.markup import Markup, copyable, embedded_json, markup, plain, tag

if TYPE_CHECKING:
    from lrlab.plots.tables import Tables

_NOT_ENDED = {
    "training": "training",
    "running": "training",
    "waiting": "waiting",
    "interrupted": "interrupted",
}
_BOTH = 40  # up to so many runs can be drawn with train and validation loss at once
_FACTS = ("network", "data", "optimizer", "schedule", "loss", "batch_size", "epochs", "seed")


@dataclass(frozen=True)
class Details:
    """What the records hold beside the tables.

    Attributes:
        configs: the config of each run with dotted names, None where it cannot be read.
        environments: the versions, device ... that each run was trained with.
        command: the command line that began the sweep; "" where it is not known.
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
    """The page: one file that asks for no other, in which all that was recorded is escaped.

    Args:
        tables: as from `lrlab.analysis`; runs and curves are needed. What is missing of verdicts
            and answers is made.
        pictures: PNG files, or their paths, by the name of the figure; or what gives them, which is
            asked when all else that takes its time is made.
        sweep_folder: where the sweep lies; commands name it so, unless details.folder does.
        details: configs, environments and the rest.

    Raises:
        UserError: a table lacks a column.
    """
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
    sections = {
        "Answer": advice.section(answers, rows, details.command),
        "Loss curves": _chart(curves, "loss_curves" in pictures),
        "Runs": table.section(rows, settings, best, drawn, _unmeasured(rows, verdicts)),
        "Figures": figures.section(pictures),
        "Configs": _configs(rows, details, folder),
        "Environment": _environment(rows, details),
        "Thresholds": _thresholds(),
    }
    sections = {title: content for title, content in sections.items() if content}
    body = [
        _header(name, rows, details, folder),
        tag("main", sections.values(), id="main"),
        _footer(details, folder),
    ]
    return _assembled(name, body, list(sections), curves)


# --- parts ----------------------------------------------------------------------------------------


def _header(name: str, rows: Sequence[Mapping[Any, Any]], details: Details, folder: str) -> Markup:
    facts = [f"{len(rows)} run{'s' if len(rows) != 1 else ''}"]
    for fact in _FACTS:
        values = {setting_text(row.get(fact)) for row in rows} - {setting_text(None)}
        if len(values) == 1:
            facts.append(f"{fact.replace('_', ' ')} {values.pop()}")
    again = f"python -m lrlab.report {shlex.quote(folder)}"
    banners = []
    if waiting := _not_ended(rows):
        banners.append(
            tag(
                "p",
                tag("strong", "This sweep is not over. "),
                f"{waiting} of {len(rows)} runs; the page shows what there was when it was made. "
                "To make it anew: ",
                tag("code", again),
                class_="banner",
                role="status",
            )
        )
    banners += [tag("p", note, class_="banner") for note in details.notes]
    return tag(
        "header",
        tag("p", "Learning rate report", class_="eyebrow"),
        tag("h1", name),
        tag("p", [tag("span", fact) for fact in facts], class_="facts"),
        tag("p", copyable(details.command), class_="command") if details.command else None,
        banners,
        class_="top",
    )


def _chart(curves: Mapping[str, Any], has_picture: bool) -> Markup:
    if not any(run["y"] or run["vy"] for run in curves["runs"]):
        return tag(
            "section",
            tag("h2", "Loss curves"),
            tag("p", "No run has recorded a finite loss.", class_="note"),
            id="loss-curves",
        )
    has_val = any(run["vy"] for run in curves["runs"])
    has_train = any(run["y"] for run in curves["runs"])
    colours = [("lr", "learning rate"), ("outcome", "outcome")]
    colours += [(str(i), name) for i, name in enumerate(curves["settings"])]
    losses = [("train", "train")] if has_train else []
    losses += [("val", "validation")] if has_val else []
    drawn = len(curves["runs"])
    # Twice as many curves as can be told apart would only make the page slow.
    losses += [("both", "both")] if len(losses) == 2 and drawn <= _BOTH else []
    notes = [f"Train loss: of mini-batches, a moving average over {curves['span']:,} steps."]
    if drawn < curves["of"]:
        notes.append(f"{drawn} of {curves['of']:,} runs are drawn, evenly over the lrs.")
    return tag(
        "section",
        tag("h2", "Loss curves"),
        tag(
            "div",
            _choice("by", "colour by", colours, "lr"),
            _choice("loss", "loss", losses, losses[0][0]),
            _choice("scale", "loss axis", [("log", "log"), ("linear", "linear")], "log"),
            tag("button", "reset zoom", type="button", id="reset", class_="plain"),
            class_="controls no-print needs-js",
        ),
        tag(
            "div",
            tag("div", id="plot"),
            tag("p", "The interactive chart is being prepared …", id="plot-status"),
            tag("div", id="tip", hidden=True),
            tag("span", id="tip-dot", hidden=True),
            id="chart",
            class_="chart needs-js",
            tabindex="0",
            role="application",
            aria_label="Loss curves. Left and right arrow keys go along a curve, "
            "up and down to another run.",
        ),
        tag("p", id="readout", class_="unseen", aria_live="polite"),
        tag("div", id="legend", class_="legend needs-js", role="group", aria_label="Shown runs"),
        tag("p", " ".join(notes), class_="note needs-js"),
        tag(
            "noscript",
            tag(
                "p",
                "The interactive chart needs JavaScript. The figures below show the same curves.",
                class_="note",
            ),
        ),
        id="loss-curves",
        class_="drawn-below" if has_picture else None,
    )


def _choice(name: str, label: str, options: Sequence[tuple[str, str]], chosen: str) -> Markup:
    """A row of radio buttons."""
    return tag(
        "fieldset",
        tag("legend", label),
        [
            tag(
                "label",
                tag("input", type="radio", name=name, value=value, checked=value == chosen),
                tag("span", text),
            )
            for value, text in options
        ],
    )


def _configs(rows: Sequence[Mapping[Any, Any]], details: Details, folder: str) -> Markup:
    known = {run: config for run, config in details.configs.items() if config}
    common, differing = _compared(list(known.values()))
    body = []
    for row in rows:
        run = row["run"]
        config = known.get(run)
        command = f"python -m lrlab.reproduce {shlex.quote(f'{folder}/{run}')}"
        if config is None:
            differs: Any = tag("em", "its config cannot be read")
        else:
            shown = [(key, config[key]) for key in differing if key in config]
            differs = [tag("code", f"{key}={_value(value)}") for key, value in shown]
        body.append(
            tag(
                "tr",
                tag("th", run, scope="row", class_="n"),
                tag("td", tag("div", differs, class_="tokens")),
                tag("td", copyable(command)),
            )
        )
    pairs = [
        tag("div", tag("dt", key), tag("dd", _value(value)))
        for key, value in sorted(common.items(), key=_top_level_first)
    ]
    head = [tag("th", name, scope="col") for name in ("run", "differs in", "train it again")]
    return tag(
        "section",
        tag("h2", "Configs, and how to train a run again"),
        [tag("h3", "The same in all runs"), tag("dl", pairs, class_="config")] if pairs else None,
        tag("h3", "Each run") if pairs else None,
        tag(
            "div",
            tag("table", tag("thead", tag("tr", head)), tag("tbody", body), class_="again"),
            class_="scroll tall",
            tabindex="0",
            role="region",
            aria_label="Configs and commands",
        ),
        id="configs",
    )


def _environment(rows: Sequence[Mapping[Any, Any]], details: Details) -> Markup | None:
    known = {run: each for run, each in details.environments.items() if each}
    if not known:
        return None
    common, differing = _compared(list(known.values()))
    pairs = [tag("div", tag("dt", key), tag("dd", _value(v))) for key, v in common.items()]
    for key in differing:
        by_value: dict[str, list[str]] = {}
        for run, each in known.items():
            by_value.setdefault(_value(each.get(key)), []).append(str(run))
        told = "; ".join(f"{value} (runs {_some(runs)})" for value, runs in by_value.items())
        pairs.append(tag("div", tag("dt", key), tag("dd", told), class_="differs"))
    note = None
    if len(known) < len(rows):
        note = tag("p", f"Told by {len(known)} of {len(rows)} runs.", class_="note")
    return tag(
        "section",
        tag("h2", "Environment"),
        tag("dl", pairs, class_="config"),
        note,
        id="environment",
    )


def _thresholds() -> Markup:
    from lrlab.records import thresholds

    rows = []
    for line in thresholds.lines():
        name, value, means = line.split(None, 2)
        cells = tag("th", name, scope="row"), tag("td", value, class_="n"), tag("td", means)
        rows.append(tag("tr", cells))
    return tag(
        "section",
        tag("h2", "Thresholds of the verdicts"),
        tag(
            "div",
            tag("table", tag("tbody", rows), class_="thresholds"),
            class_="scroll",
            tabindex="0",
            role="region",
            aria_label="Thresholds",
        ),
        id="thresholds",
    )


def _footer(details: Details, folder: str) -> Markup:
    from lrlab._version import __version__

    made = f" on {details.made}" if details.made else ""
    return tag(
        "footer",
        tag("p", f"Made by lrlab {__version__}{made} from the records in ", tag("code", folder)),
    )


# --- words ----------------------------------------------------------------------------------------


def _told(row: Mapping[Any, Any]) -> dict[Any, Any]:
    """Of a verdict what is there: a missing value must not hide what the record holds."""
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
    """What the verdicts had to do without."""
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


def _compared(
    configs: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Any], list[str]]:
    """What is equal in all of them, and the names of what is not."""
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
    """As in YAML on one line."""
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


def _assembled(
    name: str, body: Sequence[Markup], titles: Sequence[str], curves: Mapping[str, Any]
) -> str:
    style, program = _part("page.css"), _part("page.js")
    packed, plotly_hash = _plotly()
    links = [tag("a", title, href=f"#{title.lower().replace(' ', '-')}") for title in titles]
    policy = (
        # Nothing may be asked of any network, and only these two programs may run: what a record
        # holds could not become one even if it were not escaped.
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src '{_hash(program)}' '{plotly_hash}'; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": markup(policy),
        "title": markup(f"{plain(name)}: learning rate report"),
        "style": style,
        "nav": tag("nav", links, aria_label="Sections", class_="no-print"),
        "body": markup(body),
        "curves": embedded_json(curves),
        "plotly": packed,
        "program": program,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _part("page.html"))


@functools.cache
def _plotly() -> tuple[str, str]:
    """Plotly's program, packed, and its hash.

    Packed it is a third as large, and the browser parses it when the page is there to be read.
    """
    from plotly.offline import get_plotlyjs

    program = get_plotlyjs()
    packed = gzip.compress(program.encode(), 9, mtime=0)
    return base64.b64encode(packed).decode(), _hash(program)


def _hash(program: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()


def _part(name: str) -> str:
    from importlib.resources import files

    return files("lrlab.report").joinpath(name).read_text(encoding="utf-8")
