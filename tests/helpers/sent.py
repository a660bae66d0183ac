"""A sweep that somebody sent, what a payload does, and verbs that take the sweep."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from helpers.commands import Ended, command
from lrlab import reproduce as reproducing
from lrlab import resume as resume_verb

LITTLE = (
    *("data.train_size=128", "data.val_size=100", "epochs=1", "threads=1", "plots=false"),
    *("diagnostics=off", "network.hidden=[4]"),
)
MARK = "it-ran"
EVIL = f"""
import pathlib, torch

def touch(*args, **kwargs):
    pathlib.Path({MARK!r}).write_text("")
    return torch.nn.ReLU()

class Callback:
    def __init__(self):
        touch()

    def __getattr__(self, name):
        return touch

class Net(torch.nn.Sequential):
    def __init__(self, num_classes=10, **_):
        touch()
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(784, num_classes))
"""


class Touch:
    """A pickle that leaves the mark in the current folder when it is read."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {MARK}",)


def ran(home: Path) -> bool:
    """Whether a payload has run since this was asked last."""
    mark = home / MARK
    found = mark.exists()
    mark.unlink(missing_ok=True)
    sys.modules.pop("evil", None)
    return found


def change(file: Path, **values: Any) -> None:
    """Set dotted keys of a YAML file; a dot is written as two underscores."""
    node = OmegaConf.create(file.read_text("utf-8"))
    for key, value in values.items():
        OmegaConf.update(node, key.replace("__", "."), value, force_add=True)
    file.write_text(OmegaConf.to_yaml(node), "utf-8")


def reproduce(*words: str, cwd: Path) -> Ended:
    return command(reproducing.main, ["s/0", *words], cwd)


def resume(*words: str, cwd: Path) -> Ended:
    return command(resume_verb.main, ["s", *words], cwd)


def refused(ended: Ended, *named: str) -> None:
    assert ended.code == 2, ended
    assert ended.err.count("\n") == 1 and "Traceback" not in ended.err, ended.err
    for each in named:
        assert each in ended.err, ended.err
