"""Files that somebody sent are read as they lie, and what they hold is shown as text."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
import yaml
from helpers.commands import Ended, command
from helpers.sent import MARK, ran, refused, reproduce, resume

from lrlab import analysis, compare, errors, records, report
from lrlab.errors import UserError
from lrlab.report import markup
from lrlab.verdicts import loading

# --- files ----------------------------------------------------------------------------------------


def readers(home: Path) -> dict[str, Callable[[], Ended]]:
    from lrlab.plots.__main__ import main as plots
    from lrlab.report.__main__ import main as reports

    def two() -> None:
        compare.main(["s", "other", "--no-files"])

    return {
        "analysis": lambda: command(lambda: analysis.main(["s"]), [], home),
        "report": lambda: command(reports, ["s"], home),
        "plots": lambda: command(lambda: plots(["s", "--only=lr_against_loss"]), [], home),
        "compare": lambda: command(two, [], home),
        "reproduce": lambda: reproduce(cwd=home),
        "resume": lambda: resume(cwd=home),
    }


LINKS = ("0/metrics.csv", "0/.hydra/config.yaml", "0/.hydra", "0/run.log")
OF_SWEEP = ("1", "study.journal", "plots", "report.html")


@pytest.mark.parametrize("name", [*LINKS, *OF_SWEEP])
def test_no_link_leads_out_of_a_folder(name: str, here: Path, sent: Path) -> None:
    outside = here / "outside"
    shutil.copytree(sent, outside)
    (outside / "plots").mkdir(exist_ok=True)
    (outside / "report.html").write_text("mine")
    shutil.copytree(sent, here / "other")
    link = here / "s" / name
    shutil.rmtree(link) if link.is_dir() else link.unlink(missing_ok=True)
    link.symlink_to(outside / name)
    before = {f: f.read_bytes() for f in outside.rglob("*") if f.is_file()}
    for reader, read in readers(here).items():
        if reader == "reproduce" and not name.startswith("0/"):
            continue  # which has the run's folder only
        refused(read(), f"s/{name}: is a link")
    assert {f: f.read_bytes() for f in outside.rglob("*") if f.is_file()} == before


def test_a_link_would_have_told_a_secret(here: Path) -> None:
    (here / "mine.yaml").write_text("password: hunter2\n")
    file = here / "s" / "0" / ".hydra" / "config.yaml"
    file.unlink()
    file.symlink_to(here / "mine.yaml")
    unguarded = [
        mock.patch.object(module, name, lambda *_: None)
        for module, name in ((records, "check_contained"), (records.files, "check_own"))
    ]
    with unguarded[0], unguarded[1]:
        assert "hunter2" in report.write(here / "s").read_text("utf-8")
    (here / "s" / "report.html").unlink()
    with pytest.raises(UserError, match="is a link"):
        report.write(here / "s")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_block(here: Path) -> None:
    shutil.copytree(here / "s", here / "other")
    (here / "s" / "0" / "metrics.csv").unlink()
    os.mkfifo(here / "s" / "0" / "metrics.csv")
    for read in readers(here).values():
        refused(read(), "s/0/metrics.csv: is no ordinary file")


def test_a_folder_column_of_a_csv_is_not_read(here: Path) -> None:
    rows = [
        f"{run},{lr},{step},{2 - lr * step}"
        for run, lr in ((0, 0.1), (1, 0.2))
        for step in range(9)
    ]
    for name, folder in (("a", here / "s" / "0"), ("b", here / "s" / "1")):
        text = "\n".join(f"{row},{folder}" for row in rows)
        (here / f"{name}.csv").write_text(f"run,lr,step,train_loss,folder\n{text}\n")
    loaded = loading.load([here / "a.csv", here / "b.csv"])
    assert "folder" not in loaded.runs
    assert not any("." in str(column) for column in loaded.runs), "no setting of a config"


def test_yaml_makes_no_objects_and_no_bombs(here: Path) -> None:
    file = here / "s" / "0" / ".hydra" / "config.yaml"
    file.write_text(f"network: !!python/object/apply:os.system ['touch {MARK}']\n", "utf-8")
    assert report.write(here / "s").is_file()
    refused(reproduce("trust=true", cwd=here), "damaged")
    assert not ran(here)
    yaml.unsafe_load(file.read_text("utf-8"))
    assert ran(here)

    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "\n".join(levels) + "\n"
    assert len(yaml.safe_load(bomb)["a9"]) == 9, "whoever walks through it never ends"
    file.write_text(bomb, "utf-8")
    assert report.write(here / "s").is_file()
    refused(reproduce("trust=true", cwd=here), "damaged")
    (here / "s" / "multirun.yaml").write_text(bomb, "utf-8")
    refused(resume(cwd=here), "damaged")
    file.write_text("[" * 100_000, "utf-8")
    assert report.write(here / "s").is_file()
    refused(reproduce(cwd=here), "damaged")


def test_a_text_record_has_a_size(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (here / "s" / "0" / "summary.json").stat().st_size
    monkeypatch.setattr(records.reading, "MOST_TEXT", size - 1)
    with pytest.raises(UserError, match="more than lrlab writes"):
        records.read_summary(here / "s" / "0")
    monkeypatch.setattr(records.reading, "MOST_TEXT", size)
    assert records.read_summary(here / "s" / "0")["run"] == 0


# --- what is shown --------------------------------------------------------------------------------


HTML = (
    '</script><script src="http://theirs.example/x.js"></script><img src=x onerror=alert(1)>\u2028'
)


class Page(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts, self.asked, self.handlers = 0, [], []
        self.policy = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            if name in ("src", "href", "action", "data", "poster", "srcset", "background"):
                self.asked += [] if str(value).startswith(("data:", "#")) else [value]
            self.handlers += [name] if name.startswith("on") else []
        told = dict(attrs)
        if told.get("http-equiv") == "Content-Security-Policy":
            self.policy = told["content"]


def hostile(sweep: Path, text: str) -> None:
    """Have that text wherever a record can hold a text."""
    for run in "01":
        file = sweep / run / "summary.json"
        summary = json.loads(file.read_text("utf-8"))
        summary |= {"state": "failed", "error": text, "network": text, f"x.{text}": f"{run}{text}"}
        summary["environment"] = {text: text, "torch": f"{run}{text}"}
        file.write_text(json.dumps(summary), "utf-8")
        config = {"lr": 0.1, text: f"{run}{text}", "network": {"a": text, text: text}}
        (sweep / run / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    multirun = {"hydra": {"overrides": {"task": [f"name={text}"]}}}
    (sweep / "multirun.yaml").write_text(yaml.safe_dump(multirun), "utf-8")


def test_a_report_runs_and_asks_for_nothing(here: Path) -> None:
    plain = Page(report.write(here / "s").read_text("utf-8"))
    hostile(here / "s", HTML)
    picture = here / "s" / "plots" / "<img src=x onerror=alert(1)>.png"
    picture.parent.mkdir()
    from PIL import Image

    Image.new("RGB", (40, 40)).save(picture)
    text = report.write(here / "s").read_text("utf-8")
    page = Page(text)
    assert (page.scripts, page.asked, page.handlers) == (plain.scripts, [], [])
    assert "theirs.example" in text, "it is shown"
    island = text.partition('id="curves">')[2].partition("</script>")[0]
    assert "theirs.example" in island and "\u2028" not in island and "<" not in island
    assert json.loads(island)["runs"]
    rules = dict(rule.split(" ", 1) for rule in page.policy.split("; "))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert "unsafe" not in rules["script-src"] and "http" not in page.policy
    assert text.index("Content-Security-Policy") < text.index("<title>"), "before what it stops"

    templates = markup._templates().overlay(autoescape=False)
    unescaped = mock.patch.object(markup, "_templates", lambda: templates)
    raw = mock.patch("lrlab.report.page.embedded_json", lambda data: json.dumps(data))
    with unescaped, raw:
        page = Page(report.write(here / "s").read_text("utf-8"))
    assert page.scripts > plain.scripts and page.asked and page.handlers


ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"


def test_a_terminal_is_told_no_commands(here: Path, tmp_path: Path) -> None:
    shutil.copytree(here / "s", here / "other")
    hostile(here / "s", ESCAPE)
    for name, read in readers(here).items():
        ended = read()
        for shown in (ended.out, ended.err):
            assert not any(c for c in ESCAPE if not c.isprintable() and c in shown), (name, shown)
    with mock.patch.object(errors, "printable", lambda text: text):
        assert "\x1b" in command(lambda: analysis.main(["s"]), [], here).out
    assert "\x1b" not in str(UserError(ESCAPE)) and str(UserError("a\tb")) == "a b"


def test_what_a_spreadsheet_would_run_is_text(tmp_path: Path) -> None:
    formula = '=HYPERLINK("http://theirs.example";A1)'
    texts = [
        formula,
        "+cmd|' /C calc'!A0",
        "@SUM(1)",
        "\t=1+1",
        "-2+3",
        "-",
        "-0.5",
        "+1e-3",
        "sgd",
    ]
    table = pd.DataFrame({"run": range(len(texts)), "optimizer": texts, formula: -1.5})
    assert "=HYPERLINK(" in table.to_csv(), "as pandas writes it"
    records.write_verdicts(tmp_path, table)
    back = pd.read_csv(tmp_path / "verdicts.csv", keep_default_na=False)
    assert back["optimizer"].tolist() == [f"'{text}" for text in texts[:5]] + texts[5:]
    assert back.columns.tolist() == ["run", "optimizer", f"'{formula}"]
    assert (back[f"'{formula}"] == -1.5).all(), "numbers stay numbers"
