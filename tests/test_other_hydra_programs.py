"""A Hydra program of someone else's that imports lrlab behaves as it does without it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir, version
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.extra.pytest_plugin import hydra_restore_singletons
from omegaconf.basecontainer import BaseContainer

import lrlab
from lrlab import sweep
from lrlab.config import hydra_store
from lrlab.config.hydra_store import BASE
from lrlab.errors import UserError

__all__ = ["hydra_restore_singletons"]  # Hydra's own fixture

PROGRAM = """
{imports}
from dataclasses import dataclass
import hydra
from hydra.core.config_store import ConfigStore


@dataclass
class Config:
    size: int = 3
    name: str = "theirs"


ConfigStore.instance().store(name="config", node=Config)


@hydra.main(**{base!r}, config_path=None, config_name="config")
def program(config):
    print("runs", config.size, config.name)


if __name__ == "__main__":
    program()
"""

COMMANDS = {
    "a run": [],
    "hydra's config": ["--cfg", "hydra"],
    "several runs": ["-m", "size=1,2", "hydra.sweep.dir=many"],
    "an unknown option": ["colour=red"],
}


def outcome(here: Path, imports: str, words: list[str]) -> tuple[Any, ...]:
    """Exit code, output, errors and the files with their texts, in a folder of their own."""
    here.mkdir()
    program = here / "program.py"
    program.write_text(textwrap.dedent(PROGRAM.format(imports=imports, base=BASE)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("HYDRA_FULL_ERROR", None)
    command = [sys.executable, program.name, *words, "hydra.run.dir=one"]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    files = {
        str(file.relative_to(here)): told(file.read_text(), here)
        for file in sorted(here.rglob("*"))
        if file.is_file() and file.suffix in (".yaml", ".log")
    }
    return done.returncode, told(done.stdout, here), told(done.stderr, here), files


def told(text: str, here: Path) -> str:
    """A text without what differs from start to start: the folder, and the time."""
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+", "now", text.replace(str(here), "here"))


@pytest.mark.full
@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_program_that_imports_lrlab_says_and_writes_the_same(
    words: list[str], tmp_path: Path
) -> None:
    without = outcome(tmp_path / "without", "", words)
    assert outcome(tmp_path / "with", "import lrlab, lrlab.api, lrlab.sweep", words) == without
    assert without[0] == (words == ["colour=red"])


def state() -> dict[str, Any]:
    """What Hydra keeps for a process, without its plugins, which it finds anew."""
    for kind in (Plugins, ConfigStore, GlobalHydra, HydraConfig, version.VersionBase, JobRuntime):
        kind.instance()
    instances: Any = Singleton._instances
    return {
        "singletons": {kind: one for kind, one in instances.items() if kind is not Plugins},
        "nodes": paths(ConfigStore.instance().repo),
        "resolvers": dict(BaseContainer._resolvers),
        "copying": ConfigStore.__dict__.get("__deepcopy__"),
        "mode": Hydra.__dict__["get_mode"],
        "job": dict(JobRuntime.instance().conf),
        "base": version.getbase(),
        "config": HydraConfig.instance().cfg,
        "global": GlobalHydra.instance().hydra,
    }


def paths(repo: dict[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, node in repo.items():
        below = f"{above}/{name}"
        found |= paths(node, below) if isinstance(node, dict) else {below: node}
    return found


@pytest.fixture
def theirs(tmp_path: Path, hydra_restore_singletons: None) -> Iterator[dict[str, Any]]:
    """Hydra in use by another program, which has composed a config of its own."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("size: 3\n")
    with initialize_config_dir(str(tmp_path / "conf"), **BASE):
        before = state()
        yield before
        assert state() == before
        assert compose("config", ["size=4"]) == {"size": 4}


def test_a_sweep_from_python_leaves_hydra_as_it_was(
    theirs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = lrlab.run_sweep(
        lr=[0.1, 0.2],
        epochs=1,
        data__train_size=64,
        data__val_size=32,
        network__hidden=[(2,)],
        threads=1,
        plots=False,
        diagnostics="off",
    )
    assert set(result.runs["state"]) == {"finished"}
    assert state() == theirs


def test_a_command_that_fails_leaves_hydra_as_it_was(
    theirs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for wrong in ({"network": "nowhere"}, {"lr": [0.1, -1]}, {"lr": [0.1], "epochs": "many"}):
        with pytest.raises(UserError):
            lrlab.run_sweep(**wrong)  # type: ignore[arg-type]
        assert state() == theirs


def test_what_is_changed_in_hydra_comes_back_also_when_the_block_raises() -> None:
    before = state()
    for block in (hydra_store.ready, hydra_store.mode_known):
        with pytest.raises(KeyError), block():
            assert state() != before
            raise KeyError
        assert state() == before
    with hydra_store.ready():
        with hydra_store.ready():
            pass
        assert "/lrlab_schema.yaml" in state()["nodes"]  # the outer block still needs it
    assert state() == before


def test_importing_the_sweep_registers_nothing() -> None:
    assert sweep
    assert not [path for path in state()["nodes"] if "schema" in path]
