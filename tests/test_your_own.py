"""docs/your-own.md: its files, taken from the page, and its commands, run as written."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
from helpers.commands import command, summaries, without_notices
from helpers.documents import FILES, YOUR_OWN

from lrlab.reproduce import main as reproduce
from lrlab.sweep import main

pytestmark = pytest.mark.full

COMMANDS = re.findall(
    r"^    \$ python -m lrlab\.sweep (.*)\n(?:    (lrlab: .*)\n)?", YOUR_OWN, re.MULTILINE
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("project")
    for name, text in FILES:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    with chdir(folder):
        runpy.run_path("make_files.py")
    yield folder
    for name, _ in FILES:
        sys.modules.pop(Path(name).stem, None)


def test_the_page_has_examples_and_each_command_is_found() -> None:
    assert len(FILES) == YOUR_OWN.count("```") / 2
    assert len(COMMANDS) == YOUR_OWN.count("    $ ") >= 15


def is_slow(typed: str) -> bool:
    """Of MNIST, or torchvision, which takes seconds to import."""
    return "data=" not in typed or "data=torchvision" in typed


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(number, marks=pytest.mark.full) if is_slow(typed) else number
        for number, (typed, _) in enumerate(COMMANDS)
    ],
)
def test_commands_do_what_the_page_says(number: int, project: Path) -> None:
    typed, refusal = COMMANDS[number]
    quick = ["threads=1", "plots=false", "diagnostics=off", f"name=s{number}"]
    if "data=" not in typed:
        quick.append("data.val_size=200")
    ended = command(main, [*shlex.split(typed), *quick], project)
    if refusal:
        assert (ended.code, ended.err) == (2, refusal + "\n")
        assert not (project / "outputs" / f"s{number}").exists()
        return
    assert (ended.code, without_notices(ended.err)) == (0, "")
    runs = summaries(project / "outputs" / f"s{number}")
    assert len(runs) >= 2 and {run["state"] for run in runs} == {"finished"}
    assert min(run["train_loss"] / run["initial_loss"] for run in runs) < 1
    if "--config-dir" in typed:
        ended = command(reproduce, [f"outputs/s{number}/1", "trust=true"], project)
        assert ended.code == 0 and "steps, bitwise" in ended.out, ended.out
    assert runs[0]["lanes"]["way"] != "unmapped"  # dropout trains together, too
