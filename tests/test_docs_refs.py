"""docs/files.md and docs/troubleshooting.md against what lrlab does.

Files: a real sweep leaves the files, columns and keys that the page names, and no others.
Troubleshooting: each message is printed, by its command or in the situation that it is about.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
from filelock import FileLock
from helpers.commands import command
from helpers.pages import (
    DOCS,
    FEW,
    FILES,
    TROUBLES,
    commands,
    quoted,
    rows,
    run,
    section,
)

from lrlab import records
from lrlab.errors import NotWritten
from lrlab.plots import NAMES
from lrlab.study import journal
from lrlab.sweep import main as sweep
from lrlab.training import pool

SMALL = (*FEW[1:], "data.train_size=192", "batch_size=16", "network.hidden=[8]")
QUICK = ("plots=false", "diagnostics=off", "epochs=1")


# --- a sweep to look at ---------------------------------------------------------------------------

MINE = """\
import torch


class Net(torch.nn.Module):
    def __init__(self, in_shape, num_classes, width=3):
        super().__init__()
        self.width = width
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, num_classes))

    def forward(self, x):
        if self.width == 0 and self.training:
            raise RuntimeError("width 0 is too thin")
        return self.layers(x)


class Two(Net):
    def forward(self, x, mask):
        return self.layers(x * mask)


class Narrow(Net):
    def __init__(self, in_shape):
        super().__init__(in_shape, 3)
"""


class Seen:
    """The files of a sweep that come and go while it trains."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: set[str] = set()
        self.write = records.write_summary

    def __call__(self, run: Path, summary: Mapping[str, Any]) -> None:
        self.write(run, summary)
        self.names |= names(self.folder)


def names(folder: Path) -> set[str]:
    """All files below, a run's as <run>/..."""
    found = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    return {re.sub(r"^\d+/", "<run>/", name) for name in found}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, set[str]]]:
    """A folder with the sweep of files.md, and what came and went while it trained."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "mine.py").write_text(MINE)
    (folder / "curves.csv").write_text("step,loss\n0,2.3\n1,2.2\n")
    (folder / "table.csv").write_text("x,y\n1.0,0\n2.0,1\n")
    ((typed, _),) = commands(FILES)
    seen = Seen(folder / "outputs" / "first")
    # The last word of an option counts. In troubleshooting.md this sweep is called first.
    few = ("name=first", "checkpoint_every=1", "epochs=2", *SMALL, "diagnostics=full")
    with mock.patch.object(records, "write_summary", seen):
        ended = run(typed.replace("epochs=1 ", ""), folder, *few)
    assert (ended.code, ended.err) == (0, "")
    yield folder, seen.names
    sys.modules.pop("mine", None)


# --- files.md -------------------------------------------------------------------------------------


def listed(heading: str) -> dict[str, str]:
    """File or pattern to when it is there, of the first table below a heading."""
    return {name: when for cell, _, when in described(heading) for name in quoted(cell)}


def described(heading: str) -> list[list[str]]:
    """The lines of the first table below a heading: file, what it holds, when."""
    return rows(re.split(r"^###+ ", section(FILES, heading), flags=re.MULTILINE)[0])


def named(heading: str) -> tuple[set[str], set[str]]:
    """The columns or keys that are always there, and those that are at times."""
    always, at_times = set(), set()
    for cell, meaning in rows(section(FILES, heading)):
        (at_times if "Only " in meaning else always).update(quoted(cell))
    return always, at_times


def keys(node: Mapping[str, Any], nested: tuple[str, ...]) -> set[str]:
    """The keys of a JSON object, those of the objects in nested with a dot."""
    found: set[str] = set()
    for key, value in node.items():
        found |= {f"{key}.{inner}" for inner in value} if key in nested else {key}
    return found


def assert_named(found: set[str], heading: str, given: tuple[str, ...] = ()) -> None:
    always, at_times = named(heading)
    swept = {word.partition("=")[0] for word in given if "." in word.partition("=")[0]}
    assert found - swept <= always | at_times, found - swept - always - at_times
    assert always <= found, always - found


@pytest.mark.full
def test_a_sweep_leaves_the_files_that_the_page_names(study: tuple[Path, set[str]]) -> None:
    folder, came = study
    first = folder / "outputs" / "first"
    there = names(first)
    wanted = listed("## A sweep's folder")
    wanted |= {f"<run>/{name}": when for name, when in listed("## A run's folder").items()}
    unnamed = {n for n in there | came if not any(fnmatch.fnmatch(n, w) for w in wanted)}
    assert {name for name in unnamed if not name.endswith(".tmp")} == set()
    others = ("with `profile", "with `tracking", "with `hydra/launcher", "by `lrlab.reproduce`")
    others += ("with such `data=`", "with such code", "with `budget`", "with `ema`")
    for pattern, when in wanted.items():
        if pattern.endswith("<run>/"):
            continue
        is_there = any(fnmatch.fnmatch(name, pattern) for name in there)
        if when.startswith("until") or when.startswith("while"):
            assert any(fnmatch.fnmatch(name, pattern) for name in came) and not is_there, pattern
        else:
            assert is_there != when.startswith(others), (pattern, when)
    assert {f"{name}.png" for name in NAMES} >= {p.name for p in (first / "plots").iterdir()}


@pytest.mark.full
def test_every_column_and_key_is_named(study: tuple[Path, set[str]]) -> None:
    folder, _ = study
    first = folder / "outputs" / "first"
    for name in ("runs", "verdicts", "lines", "surface", "paths"):
        columns = set(pd.read_csv(first / f"{name}.csv").columns)
        assert_named(columns, f"### {name}.csv", SMALL)
    for name in ("metrics", "diagnostics", "branches"):
        columns = set(pd.read_csv(first / "0" / f"{name}.csv").columns)
        assert_named(columns, f"### {name}.csv")
    summary = json.loads((first / "0" / "summary.json").read_text())
    assert_named(keys(summary, ("environment", "timing", "lanes")), "### summary.json", SMALL)


@pytest.mark.full
def test_what_other_verbs_write_is_named(study: tuple[Path, set[str]]) -> None:
    folder, _ = study
    outputs = folder / "outputs"
    ended = run("python -m lrlab.find lr=1e-2..10 points=4 steps=30 name=found", folder, *SMALL)
    assert (ended.code, ended.err) == (0, "")
    assert names(outputs / "found") == set(listed("### lrlab.find"))
    answer = json.loads((outputs / "found" / "suggestions.json").read_text())
    found = {
        name for cell, _ in rows(section(FILES, "#### suggestions.json")) for name in quoted(cell)
    }
    assert found == set(answer)
    for table in ("ramp", "constant"):
        holds = next(text for file, text, _ in described("### lrlab.find") if table in file)
        assert quoted(holds) == list(pd.read_csv(outputs / "found" / f"{table}.csv").columns)
    told = {
        name: quoted(meaning) for name, meaning in rows(section(FILES, "#### suggestions.json"))
    }
    assert told["`options`"] == list(answer["options"])
    assert set(told["`suggestions`"]) == set(answer["suggestions"][0])

    ended = run("python -m lrlab.reproduce outputs/first/0", folder)
    assert (ended.code, ended.err) == (0, "")
    again = outputs / "reproduce_first_0" / "0"
    provenance = json.loads((again / "provenance.json").read_text())
    assert_named(keys(provenance, ("comparison",)), "### provenance.json")
    assert {f.name for f in again.iterdir() if f.is_file()} <= set(listed("## A run's folder"))

    shutil.copytree(outputs / "first", outputs / "second")
    ended = run("python -m lrlab.compare outputs/first outputs/second", folder)
    assert (ended.code, ended.err) == (0, "")
    patterns = listed("### lrlab.compare")
    written = names(outputs / "compare_first_second")
    assert all(any(fnmatch.fnmatch(name, p) for p in patterns) for name in written)
    assert all(any(fnmatch.fnmatch(name, p) for name in written) for p in patterns)
    by_lr = pd.read_csv(outputs / "compare_first_second" / "by_lr.csv")
    holds = next(text for file, text, _ in described("### lrlab.compare") if "by_lr" in file)
    assert set(quoted(holds)) == set(by_lr.columns)


# --- troubleshooting.md ---------------------------------------------------------------------------

HERE = "/home/me/study"  # where the page's reader types


def pattern(line: str, cwd: Path) -> str:
    """A line of the page as a regular expression: … stands for anything."""
    parts = line.replace(HERE, str(cwd)).split("…")
    return ".*".join(map(re.escape, parts))


def is_refusal(lines: list[str]) -> bool:
    return bool(lines) and lines[0].startswith("lrlab: ")


@contextlib.contextmanager
def damaged(study: Path) -> Iterator[None]:
    file = study / "outputs" / "first" / "1" / "summary.json"
    before = file.read_text()
    file.write_text(before[:40])
    yield
    file.write_text(before)


@contextlib.contextmanager
def locked(study: Path) -> Iterator[None]:
    lock = FileLock(f"{study / 'outputs' / 'first' / 'study.journal'}.lock")
    with lock, mock.patch.object(journal, "LOCK_PATIENCE", 0.05):
        yield


@contextlib.contextmanager
def changed(study: Path) -> Iterator[None]:
    """One loss of the record is another by a half."""
    file = study / "outputs" / "first" / "0" / "metrics.csv"
    before = file.read_text()
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    table.loc[3, "train_loss"] = repr(float(str(table.loc[3, "train_loss"])) + 0.5)
    table.to_csv(file, index=False)
    yield
    file.write_text(before)


# What must be so for a command to say what the page says.
SITUATIONS = {
    "python -m lrlab.reproduce outputs/first/1": damaged,
    "python -m lrlab.resume outputs/first": locked,
    "python -m lrlab.reproduce outputs/first/0": changed,
}
IN_STUDY = ("first", "failing", "mine.", "curves.csv", "table.csv")


def check_message(typed: str, lines: list[str], cwd: Path) -> None:
    if is_refusal(lines):
        before = names(cwd)
        ended = run(typed, cwd)
        assert ended.code == 2 and not ended.out, (typed, ended)
        wanted = "\n".join(pattern(line, cwd) for line in lines)
        assert re.fullmatch(wanted + "\n", ended.err), (typed, ended.err)
        assert names(cwd) == before
        return
    training = "lrlab.sweep" in typed
    few = [w for w in (*FEW, *QUICK) if w.split("=")[0] not in typed]
    ended = run(typed, cwd, *few) if training else run(typed, cwd)
    fails = "failed" in "".join(lines) or "difference" in "".join(lines)
    assert (ended.code, ended.err) == (int(fails), ""), (typed, ended)
    for line in lines:
        assert re.search(pattern(line, cwd), ended.out), (typed, line, ended.out)


ALL = commands(TROUBLES)
# Refused in other tests too (of the options, or of the sweep's plan), so not once more here.
ELSEWHERE = (
    *("lr=abc", "epochs=1.5", "+lr=0.1", "seed=0,1", "lr=1..1e-4", "seed=0..5", "loss=mse"),
    *("lr=1e-4..1 sampler=grid", "objective=steps_to_target", "batch_size=100000"),
    *("optimizer._target_=torch.optim.LBFGS", "device=cuda", "precision=tf32 device=cpu"),
    *("storage=postgres", "lr=0.1 points=13", "lr=0.1 n_trials=20"),
)
ALONE = [
    (typed, lines)
    for typed, lines in ALL
    if is_refusal(lines)
    and not any(word in typed for word in IN_STUDY)
    and " ".join(typed.split()[3:]) not in ELSEWHERE
]


@pytest.mark.full(after=6)
@pytest.mark.parametrize(("typed", "lines"), ALONE, ids=[typed for typed, _ in ALONE])
def test_a_refusal_is_the_one_of_the_page(typed: str, lines: list[str], tmp_path: Path) -> None:
    check_message(typed, lines, tmp_path)


@pytest.mark.full
def test_messages_about_a_study_are_those_of_the_page(study: tuple[Path, set[str]]) -> None:
    folder, _ = study
    by_words = {" ".join(one[0].split()[3:]): one for one in ALL}
    elsewhere = [by_words[words] for words in ELSEWHERE]
    rest = [one for one in ALL if one not in ALONE and one not in elsewhere]
    assert len(rest) > 12
    for typed, lines in rest:
        with SITUATIONS.get(typed, lambda _: contextlib.nullcontext())(folder):
            check_message(typed, lines, folder)


def said(heading: str) -> list[str]:
    """The lines that a section shows without a command."""
    text = re.sub(r"^    \$ .+\n(?:    .+\n)*", "", section(TROUBLES, heading), flags=re.MULTILINE)
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


def test_a_full_disk_and_an_interruption_are_said_so(tmp_path: Path) -> None:
    write = records.write_whole

    def full(file: Path, text: str) -> None:
        if file.name == "runs.csv":
            raise NotWritten(file, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        write(file, text)

    with mock.patch.object(records.files, "write_whole", full):
        ended = command(sweep, [*SMALL, *QUICK, "lr=0.1", "name=disk"], tmp_path)
    wanted = "\n".join(pattern(line, tmp_path) for line in said("### cannot be written"))
    assert ended.code == 1 and re.fullmatch(wanted + "\n", ended.err), ended.err

    train = pool.run

    def stopped(*arguments: Any) -> None:
        signal.raise_signal(signal.SIGINT)  # as Ctrl-C in the first step
        train(*arguments)

    with mock.patch.object(pool, "run", stopped):
        ended = command(sweep, [*SMALL, *QUICK, "lr=0.1,0.2", "name=stop"], tmp_path)
    wanted = "\n".join(pattern(line, tmp_path) for line in said("### interrupted"))
    assert ended.code == 130 and re.fullmatch(wanted + "\n", ended.err), ended.err


def test_out_of_memory_and_a_failed_tracker_are_said_so(tmp_path: Path) -> None:
    from lrlab import tracking
    from lrlab.training import train

    epoch, failed = train.train_epoch, list[bool]()

    def too_much(stack: Any, *rest: Any) -> None:
        if len(stack.runs) == 8 and not failed:
            failed.append(True)
            raise MemoryError
        epoch(stack, *rest)

    lrs = ",".join(f"0.{number}" for number in range(1, 9))
    with mock.patch.object(train, "train_epoch", too_much):
        ended = command(sweep, [*SMALL, *QUICK, f"lr={lrs}", "name=oom"], tmp_path)
    (line,) = said("### out of memory")
    assert ended.code == 0 and line in ended.out

    class Sink:
        def log(self, news: Any) -> None:
            raise OSError("the server is gone")

        def close(self) -> None: ...

    tracker = tracking.Tracker(Sink(), 1)  # type: ignore[arg-type]
    errors = tmp_path / "errors"
    with errors.open("w") as stream, contextlib.redirect_stderr(stream):
        tracker.follow(tmp_path / "outputs" / "oom" / "0")
    (line,) = said("### a tracker failed")
    assert re.fullmatch(pattern(line, tmp_path) + "\n", errors.read_text())


def test_the_exit_codes_are_those_that_lrlab_uses() -> None:
    source = "".join(p.read_text("utf-8") for p in (DOCS.parent / "lrlab").rglob("*.py"))
    ways = r"(?:exit|SystemExit)\((\d+)\)|verbs\.fail\(.*?(?:code=|, )(\d+)\)"
    used = {int(code) for pair in re.findall(ways, source) for code in pair if code}
    assert used | {0} == {int(code) for code, _ in rows(section(TROUBLES, "## Exit codes"))}
