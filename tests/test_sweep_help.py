"""`python -m lrlab.sweep`: its help, what Hydra's flags show, and its completion in bash."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from unittest import mock

import pytest
from helpers.commands import (
    command,
    files,
    process,
    sweep,
)

from lrlab.errors import UserError
from lrlab.sweep import main


def test_help_is_quick_because_it_imports_nothing_heavy(tmp_path: Path) -> None:
    done = process("-X", "importtime", "-m", "lrlab.sweep", "--help", cwd=tmp_path)
    assert done.returncode == 0 and files(tmp_path) == []
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported and "omegaconf" in imported  # the listing can be read
    assert "lrlab.config" in imported
    heavy = {
        "torch",
        "torchvision",
        "optuna",
        "pandas",
        "matplotlib",
        "numpy",
        "rich",
        "sqlalchemy",
    }
    assert imported & heavy == set()


def test_help_names_every_option_and_choice_with_examples(tmp_path: Path) -> None:
    from lrlab.config import schema

    text = command(main, ["--help"], tmp_path).out
    before_dump = text.split("This command's config")[0]
    for key in schema.Config.__dataclass_fields__:
        assert re.search(rf"^ *{key}(=|:)", before_dump, re.MULTILINE), key
    for group in schema.GROUPS:
        for file in (schema.folder("conf") / group).glob("*.yaml"):
            assert re.search(rf"^{group}: .*\b{file.stem}\b", text, re.MULTILINE), file
    assert "python -m lrlab.sweep lr=0.001,0.1,1.0" in text
    assert "python -m lrlab.reproduce" in text


@pytest.mark.full
def test_examples_of_the_help_are_understood(tmp_path: Path) -> None:
    text = command(main, ["--help"], tmp_path).out
    examples = re.findall(r"python -m lrlab\.sweep (\w+=.*)", text.split("Options")[0])
    assert len(examples) >= 3
    for example in examples:
        with mock.patch("lrlab.records.create_sweep", side_effect=UserError("got there")):
            ended = sweep(*example.split(), cwd=tmp_path)
        assert (ended.code, ended.err) == (2, "lrlab: got there\n"), example


def test_info_lists_the_plugins(tmp_path: Path) -> None:
    ended = command(main, ["--info", "plugins"], tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert "LrlabSweeper" in ended.out and "LaneLauncher" in ended.out
    assert files(tmp_path) == []


def complete(line: str, cwd: Path) -> set[str]:
    """What bash would offer for the last word of the line, after the documented set-up."""
    command = shutil.which("bash")
    assert command is not None
    words = line.split(" ")
    script = dedent(f"""
        eval "$(python -m lrlab.sweep -sc install=bash)"
        COMP_LINE='{line}'; COMP_POINT={len(line)}
        COMP_WORDS=({" ".join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}
        spec=$(complete -p {words[0]}); spec=${{spec##*-F }}
        ${{spec%% *}} {words[0]} '{words[-1]}' '{words[-2]}'
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [command, "--norc", "-c", script],
        cwd=cwd,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.full(after=1)
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("net", {"network=", "network."}),
        ("network=c", {"network=cnn", "network=custom"}),
        ("lr=0.1 optimizer=ada", {"optimizer=adam", "optimizer=adamw", "optimizer=adagrad"}),
    ],
)
def test_bash_completes(typed: str, offered: set[str], tmp_path: Path) -> None:
    assert complete(f"python -m lrlab.sweep {typed}", tmp_path) == offered
    assert files(tmp_path) == []
