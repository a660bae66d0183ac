"""The README's commands, run as written: the main one as processes, the others in this one.

So are the commands with which several processes share a sweep (docs/resume.md), and the search of
experiments/README.md.
"""

import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from helpers.commands import Ended
from helpers.commands import command as in_process
from helpers.documents import COMMAND, COMMANDS, README, ROOT, SEARCH, STUDIES, rows
from helpers.postgres import postgres, postgres_url  # noqa: F401

from lrlab.__main__ import VERBS

pytestmark = pytest.mark.full


def call(command: str, folder: Path) -> Ended:
    """Run it in this process, where torch is loaded once."""
    words = shlex.split(command)
    assert words[:2] == ["python", "-m"]
    module = VERBS[words[2].removeprefix("lrlab.")][0]
    return in_process(import_module(module).main, words[3:], folder)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = command.split()
    assert words[:2] == ["python", "-m"]
    return subprocess.run(
        [sys.executable, "-W", "error", *words[1:]], cwd=folder, capture_output=True, text=True
    )


@pytest.mark.default
def test_it_opens_with_the_two_commands_that_are_all_the_set_up():
    first = [line.strip() for line in README.splitlines() if line.startswith("    ")][:2]
    assert first == [
        "pip install -e . && python -m lrlab.sweep lr=0.001,0.1,1.0",
        "pip install -e '.[test]' && python -m pytest",
    ]


@pytest.mark.default
def test_every_link_leads_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        prose = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
        links = re.findall(r"\]\(([^)#]+)\)", prose)
        for link in links:
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_main_command_trains_draws_and_reproduces(tmp_path):
    done = run("python -m lrlab.sweep lr=0.001,0.1,1.0", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (sweep,) = (tmp_path / "outputs").iterdir()
    # what docs/files.md says that a sweep leaves
    names = ["multirun.yaml", "study.journal", "runs.csv", "plots/loss_curves.png"]
    names += ["plots/lr_against_loss.png", "2/.hydra/config.yaml", "2/.hydra/hydra.yaml"]
    names += ["2/.hydra/overrides.yaml", "2/metrics.csv", "2/summary.json", "2/run.log"]
    assert [name for name in names if not (sweep / name).is_file()] == []

    table = rows(done.stdout)
    assert table.keys() == rows(README).keys() == {"0", "1", "2"}
    accuracy = {run: cells[6] for run, cells in table.items()}
    assert float(accuracy["0"].rstrip("%")) < 80  # too small to arrive in three epochs
    assert float(accuracy["1"].rstrip("%")) >= 96.5  # good
    assert accuracy["2"] == "-" or float(accuracy["2"].rstrip("%")) < 50  # too large
    assert f"sweep  outputs/{sweep.name}\n" in done.stdout

    command = "python -m lrlab.reproduce outputs/<sweep>/1"
    assert f"    {command}\n" in README
    again = run(command.replace("<sweep>", sweep.name), tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert "identical: 2577 of 2577 steps, bitwise\n" in again.stdout


# As written, but on fewer images: that the numbers are right is for the main command to show.
FEWER = "data.train_size=640 data.val_size=200 threads=1"
FEW = f"{FEWER} epochs=1 plots=false"
TRIALS = 4  # of a search


def test_the_search_of_the_studies_is_among_them():
    assert f"    {SEARCH}\n" in STUDIES


@pytest.mark.parametrize("command", COMMANDS)
def test_a_search_runs_as_written(command, tmp_path, request):
    if "postgresql://me@db/lrlab" in command:
        url = request.getfixturevalue("postgres_url")
        command = command.replace("postgresql://me@db/lrlab", url)
    done = call(f"{command} {FEW} diagnostics=off n_trials={TRIALS}", tmp_path)
    assert (done.code, done.err) == (0, "")
    assert len(rows(done.out)) == TRIALS


ANALYSIS = (ROOT / "docs" / "analysis.md").read_text(encoding="utf-8")
READING = ("analysis", "plots", "report", "compare", "find")
# What the pages have too that lead from step to step: test_docs_site.py runs them.
WALKED = "".join((ROOT / "docs" / f"{page}.md").read_text("utf-8") for page in ("choosing", "faq"))


def test_the_commands_that_read_a_sweep_run_as_written(tmp_path):
    """On two small sweeps, and a CSV of curves from elsewhere."""
    done = call(f"python -m lrlab.sweep lr=0.01,0.1,0.3 name=a diagnostics=full {FEW}", tmp_path)
    assert (done.code, done.err) == (0, "")
    shutil.copytree(tmp_path / "outputs" / "a", tmp_path / "outputs" / "b")
    rows = [f"{run},{lr},{step},{2.3 / (1 + lr * step)}" for run, lr in ((0, 0.1), (1, 1.0))
            for step in range(20)]  # fmt: skip
    (tmp_path / "curves.csv").write_text("run,lr,step,train_loss\n" + "\n".join(rows) + "\n")
    found = [*COMMAND.findall(README), *COMMAND.findall(ANALYSIS)]
    commands = [c for c in dict.fromkeys(found) if c.split()[2].removeprefix("lrlab.") in READING]
    assert {c.split()[2].removeprefix("lrlab.") for c in commands} == set(READING)
    here = [c for c in commands if f"$ {c}\n" not in WALKED and f"`{c}`" not in WALKED]
    assert len(commands) > len(here) > 0
    for command in here:
        done = call(command.replace("<sweep>", "a").replace("<other>", "b"), tmp_path)
        assert (done.code, done.err) == (0, ""), command
        assert done.out, command
