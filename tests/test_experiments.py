"""The ready-made studies: each is documented as it is, and trains."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from helpers.commands import command
from hydra.core.override_parser.overrides_parser import OverridesParser

from lrlab.sweep import main

pytestmark = pytest.mark.full

FOLDER = Path(__file__).parent.parent / "experiments"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
STUDIES = [name for name in NAMES if name != "lr_search"]  # which the README's test runs

QUICK = ["threads=1", "plots=off", "diagnostics=off", "name=quick", "lr=0.1", "data.val_size=100"]
SMALLER = {
    "batch_size": ["data.train_size=1024"],  # the largest batch is one step
    "edge_of_stability": ["epochs=3"],
    "seeds": ["seed=0"],
    "width": ["data.train_size=256"],
    "warmup": ["schedule.warmup_steps=4"],
}


def swept(name: str) -> dict[str, list[str]]:
    """Each option that a study sweeps, with its values."""
    params = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["hydra"]["sweeper"]["params"]
    parser = OverridesParser.create()
    found = {}
    for key, text in params.items():
        value = parser.parse_override(f"{key}={text}").value()
        found[key] = [str(one) for one in getattr(value, "list", [value])]
    return found


def test_readme_has_each_study_with_its_command_its_picture_and_its_number_of_runs() -> None:
    rows = dict(re.findall(r"^\| \[(\w+)\]\(\1\.yaml\) \|.*\| (\d+) \|", README, re.MULTILINE))
    assert sorted(rows) == NAMES
    for name in STUDIES:
        assert int(rows[name]) == math.prod(map(len, swept(name).values())), name
        section = README.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert f"    python -m lrlab.sweep +experiments={name}\n" in section, name
        assert re.search(rf"!\[.+\]\(\.\./docs/images/studies/{name}\.png\)", section), name


@pytest.mark.parametrize("name", STUDIES)
def test_each_study_trains_all_that_it_sweeps_besides_the_lr(name: str, tmp_path: Path) -> None:
    fewer = ["epochs=1", "data.train_size=512", *SMALLER.get(name, [])]
    done = command(main, [f"+experiments={name}", *QUICK, *fewer], tmp_path)
    assert (done.code, done.err) == (0, "")
    runs = pd.read_csv(tmp_path / "outputs" / "quick" / "runs.csv")
    others = [len(values) for key, values in swept(name).items() if key != "lr"]
    expected = 1 if name == "seeds" else math.prod(others)
    assert runs["state"].tolist() == ["finished"] * expected
