"""Commands run in this process, and what they leave."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from lrlab.errors import UserError
from lrlab.reproduce import main as reproduce_main
from lrlab.sweep import main as sweep_main

# One thread, for a machine that is busy with other work.
QUICK = (
    *("data.train_size=640", "data.val_size=200", "epochs=1", "threads=1"),
    *("plots=false", "diagnostics=off"),
)


STEPS = 10  # 640 samples in batches of 64, one epoch


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int | str | None
    out: str
    err: str


def command(entry: Callable[[], None], arguments: Sequence[str], cwd: Path) -> Ended:
    """Run an entry point in this process as if by a shell in `cwd`; torch is loaded once.

    Of an option that a test gives besides a list like `QUICK` the last word counts. Two words alone
    are what the test is about.
    """
    arguments = last_words(arguments) if len(arguments) > 2 else list(arguments)
    GlobalHydra.instance().clear()
    out, err, code = io.StringIO(), io.StringIO(), 0
    threads = torch.get_num_threads()
    level = logging.root.level  # Hydra's --info and hydra.verbose leave it at DEBUG
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["lrlab", *arguments]),
        mock.patch.object(sys, "path", [str(cwd), *sys.path]),
        mock.patch.dict(os.environ),
    ):
        try:
            entry()
        except SystemExit as exit_:
            code = exit_.code
    torch.set_num_threads(threads)
    logging.root.setLevel(level)
    return Ended(code, out.getvalue(), err.getvalue())


def last_words(words: Sequence[str]) -> list[str]:
    """The words without those whose option is given again: a command refuses that."""
    last = {word.partition("=")[0]: place for place, word in enumerate(words) if "=" in word}
    return [w for place, w in enumerate(words) if last.get(w.partition("=")[0], place) == place]


def sweep(*arguments: str, cwd: Path) -> Ended:
    return command(sweep_main, [*QUICK, *arguments], cwd)


def process(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def files(folder: Path) -> list[str]:
    """All files and empty folders below, in order."""
    found = (p for p in folder.rglob("*") if p.is_file() or not any(p.iterdir()))
    return sorted(p.relative_to(folder).as_posix() for p in found)


def contents(folder: Path) -> dict[str, bytes]:
    """All files below by their names, with their bytes."""
    found = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in found}


def summaries(folder: Path) -> list[dict[str, Any]]:
    """The summaries of a sweep's runs, in order of their numbers."""
    numbers = sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())
    return [strict_json((folder / str(n) / "summary.json").read_text("utf-8")) for n in numbers]


def strict_json(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in JSON")

    return json.loads(text, parse_constant=refuse)


def one_folder(outputs: Path) -> Path:
    (folder,) = outputs.iterdir()
    return folder


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).trials


def without_notices(err: str) -> str:
    """What a command wrote to stderr but lines about few samples or steps, which tests want."""
    few = r"lrlab: (only \d+ samples? held out|\d+ steps? only).*\n"
    return re.sub(few, "", err)


def assert_refused(ended: Ended, *words: str) -> None:
    assert ended.code == 2, ended
    assert ended.out == ""
    assert ended.err.startswith("lrlab: ") and ended.err.endswith("\n")
    assert ended.err.count("\n") == 1
    line = ended.err.rstrip("\n")
    assert line == line.strip() and not line.endswith(":")
    for word in words:
        assert word in line
    # Nothing of Hydra's inner workings, of this machine or of a template that found nothing.
    for noise in (
        "full_key",
        "object_type",
        "hydra.cc",
        "pkg://",
        "file://",
        "?:",
        "Error merging",
    ):
        assert noise not in line


def reproduce(*arguments: str, cwd: Path) -> Ended:
    return command(reproduce_main, arguments, cwd)


def error(call: Any, *args: Any, **arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*args, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def forget(file: Path, key: str) -> None:
    """Take a key out of a summary."""
    summary = json.loads(file.read_text("utf-8"))
    del summary[key]
    file.write_text(json.dumps(summary), "utf-8")
