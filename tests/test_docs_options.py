"""docs/options.md: its tables are what conf/ says, and all that is named works."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import command
from helpers.pages import (
    DOCS,
    FEW,
    OPTIONS,
    commands,
    entry,
    quoted,
    rows,
    run,
    section,
)
from omegaconf import OmegaConf

from lrlab.__main__ import VERBS
from lrlab.config import checks
from lrlab.config import schema as configs


@pytest.fixture
def make_options(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(DOCS))
    yield importlib.import_module("make_options")
    sys.modules.pop("make_options")


def test_the_tables_of_options_are_what_conf_says(make_options: Any) -> None:
    assert make_options.filled(OPTIONS) == OPTIONS, "run python docs/make_options.py"
    stale = OPTIONS.replace("| `epochs` | `3` |", "| `epochs` | `4` |")
    assert stale != OPTIONS and make_options.filled(stale) == OPTIONS


def test_every_option_choice_and_setting_has_its_line() -> None:
    named = [row[0].strip("`") for row in rows(OPTIONS)]
    options = [field.name for field in fields(configs.Config)]
    groups = (*configs.GROUPS, *configs.SWEEP_GROUPS)
    assert [name for name in options if name not in (*named, *groups)] == []
    settings = [key for key in configs.known_keys() if "." in key]
    assert len(settings) > 60
    assert [key for key in settings if key not in named] == []
    for group in groups:
        for file in (configs.folder("conf") / group).glob("*.yaml"):
            assert OPTIONS.count(f"- `{group}={file.stem}`") == 1, file


def test_what_options_shows_as_code_is_taken() -> None:
    """Each option=value that stands in the prose: the name is known, the value passes."""
    base = OmegaConf.load(configs.folder("conf") / "config.yaml")
    base = OmegaConf.masked_copy(base, [key for key in base if key not in ("defaults", "hydra")])  # type: ignore[arg-type]
    groups = (*configs.GROUPS, *configs.SWEEP_GROUPS)
    known = set(configs.known_keys())
    judged = 0
    texts = [text for text in quoted(OPTIONS) if "=" in text and not text.startswith("-")]
    for word in {word for text in texts for word in shlex.split(text.replace("…", "x"))}:
        key, _, value = word.partition("=")
        if not value or word.startswith(("+", "hydra", "[")) or key.isupper() or value.isupper():
            continue
        if key in groups:
            assert value in [f.stem for f in (configs.folder("conf") / key).glob("*.yaml")], word
        elif "." in key:
            assert key in known or key.endswith("._target_"), word
        elif key in ("option", "trust") or "__" in key:  # in general, no option, or from Python
            continue
        elif "," not in value and ".." not in value and "(" not in value:
            given = OmegaConf.from_dotlist([word])
            schema = OmegaConf.structured(configs.Config)
            chosen = {group: {} for group in groups}
            merged = OmegaConf.merge(schema, base, chosen, {"name": "x", "target": 1}, given)
            checks.check(merged)  # type: ignore[arg-type]
        else:
            assert key in known, word
        judged += 1
    assert judged > 25


FLAGS = {"reproduce", "analysis", "plots", "report", "compare", "bench"}


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "sweep"])
def test_the_options_of_a_verb_are_those_of_its_help(verb: str, tmp_path: Path) -> None:
    ended = run(f"lrlab {verb} --help", tmp_path)
    assert ended.code == 0
    said = [row[0].strip("`") for row in rows(section(OPTIONS, f"### {verb}"))]
    if verb in FLAGS:
        flags = set(re.findall(r"^  (?:-h, )?(--[\w-]+)", ended.out, re.MULTILINE))
        words = [word for word in said if not word.startswith("--")]
        assert words == (["trust=true"] if verb == "reproduce" else [])
        assert all(f"\n  {word} " in ended.out for word in words)
        assert sorted({*said} - {*words}) == sorted(flags - {"--help", "--version"})
    else:
        begins = [f"\n  {word}{' ' if word.startswith('--') else '='}" for word in said]
        assert [begin for begin in begins if begin not in ended.out] == []
        assert (verb in ("find", "resume")) == bool(said)
    versions = 2 if verb == "completion" else 0
    assert run(f"lrlab {verb} --version", tmp_path).code == versions


@pytest.mark.full
def test_the_commands_of_options_run_as_written(tmp_path: Path) -> None:
    for typed, _ in commands(OPTIONS):
        few = FEW if "data.train_size" not in typed else ("threads=1",)
        quick = ("plots=false",) if "lrlab.find" in typed else ("plots=false", "diagnostics=off")
        # The last word of an option counts: the page's own.
        call, arguments = entry(shlex.split(typed))
        ended = command(call, [*few, *quick, *arguments], tmp_path)
        # On few data a schedule has few steps, and is said to have.
        err = [line for line in ended.err.splitlines() if "lrlab: schedule" not in line]
        assert (ended.code, err) == (0, []), typed
        assert ended.out, typed
    assert len(commands(OPTIONS)) >= 6
