"""Sweeps of an earlier lrlab, in tests/kept_sweeps: each goes on, repeats itself and reads as then.

tests/make_kept_sweeps.py made them and says what they are. Everything here is typed as a user types
it, so that no test depends on where in lrlab a function lies. Bits are compared where torch and
processor are those that the sweeps were made on, which ``made_on.json`` names; elsewhere curves are
compared within ``TOLERANCE``. What was recorded then stays byte for byte on every machine.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import make_kept_sweeps as kept
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.commands import Ended, command, summaries, without_notices

import lrlab
from lrlab.__main__ import main

pytestmark = pytest.mark.full

MADE_ON = json.loads((kept.KEPT / "made_on.json").read_text("utf-8"))
WENT_ON = kept.KEPT / "went_on"
TOLERANCE = 1e-3  # as in test_golden: other processors round otherwise
LOOSE = 0.05  # of a curvature, which is a difference of losses
INTERRUPTED = tuple(kept.SIGNALS)
ENDED = tuple(name for name in kept.MORE if name not in INTERRUPTED)
SENTENCES = ("evidence",)
TRUST = {name: [word for word in more if word == "trust=true"] for name, more in kept.MORE.items()}


def verb(*words: str, cwd: Path) -> Ended:
    return command(main, words, cwd)


def copied(folder: Path) -> Path:
    return Path(shutil.copytree(kept.KEPT / "project", folder / "project"))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A copy of the folder in which everything was typed, to work in."""
    yield copied(tmp_path)
    sys.modules.pop("code_of_kept", None)


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy for tests that write nothing."""
    return copied(tmp_path_factory.mktemp("kept"))


def runs(sweep: Path) -> list[Path]:
    return sorted((each for each in sweep.iterdir() if each.name.isdecimal()), key=number)


def number(run: Path) -> int:
    return int(run.name)


def contents(run: Path) -> dict[str, bytes]:
    files = [file for file in run.rglob("*") if file.is_file()]
    return {file.relative_to(run).as_posix(): file.read_bytes() for file in files}


def as_made(run: Path) -> bool:
    """Whether a run was trained with the torch and on the processor of the kept ones."""
    here = json.loads((run / "summary.json").read_text("utf-8"))["environment"]
    return all(here[name] == MADE_ON[name] for name in kept.DECIDES)


def assert_same_table(new: Path, old: Path, bits: bool) -> None:
    """That a run's table is the old one: to the bit, or within what another processor rounds."""
    if bits and new.name != "diagnostics.csv":
        assert new.read_text("utf-8") == old.read_text("utf-8"), new
        return
    one, other = pd.read_csv(new), pd.read_csv(old)
    assert list(one) == list(other) and one["step"].tolist() == other["step"].tolist(), new
    # What is measured of a run beside others may round otherwise than of the run alone.
    near = TOLERANCE if bits or new.name == "metrics.csv" else LOOSE
    np.testing.assert_allclose(one, other, rtol=near, atol=near, err_msg=str(new))


def assert_same_run(new: Path, old: Path, bits: bool) -> None:
    for file in sorted(old.glob("*.csv")):
        assert_same_table(new / file.name, file, bits)


def assert_same_verdicts(new: Path, old: Path) -> None:
    """That labels and numbers of each run are the same; sentences may be reworded."""
    one, other = (pd.read_csv(file).drop(columns=list(SENTENCES)) for file in (new, old))
    pd.testing.assert_frame_equal(one, other, rtol=1e-9, atol=0)


# --- go on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENDED)
def test_one_that_has_ended_is_left_as_it_is(name: str, project: Path) -> None:
    sweep, old = project / "outputs" / name, kept.KEPT / "project" / "outputs" / name
    ended = verb("resume", f"outputs/{name}", *TRUST[name], "plots=false", cwd=project)
    assert (ended.code, without_notices(ended.err)) == (0, "")
    assert [run.name for run in runs(sweep)] == [run.name for run in runs(old)]
    for run in runs(old):
        assert contents(sweep / run.name) == contents(run)
    for file in ("runs.csv", "best.yaml"):
        assert (sweep / file).read_text("utf-8") == (old / file).read_text("utf-8")
    assert_same_verdicts(sweep / "verdicts.csv", old / "verdicts.csv")


@pytest.mark.parametrize("name", INTERRUPTED)
def test_one_that_was_interrupted_ends_as_if_it_never_was(name: str, project: Path) -> None:
    sweep = project / "outputs" / name
    begun = {run.name: contents(run) for run in runs(sweep)}
    steps = {
        file.parent.name: torch.load(file, weights_only=True)["step"]
        for file in sweep.glob("*/checkpoint.pt")
    }
    states = [summary["state"] for summary in summaries(sweep)]
    assert len(steps) == 2 and all(8 < step < 32 for step in steps.values())
    ended = verb("resume", f"outputs/{name}", *TRUST[name], cwd=project)
    assert ended.code == 0
    wanted = runs(WENT_ON / name)
    assert [run.name for run in runs(sweep)] == [run.name for run in wanted]
    assert {summary["state"] for summary in summaries(sweep)} == {"finished"}
    bits = all(as_made(run) for run in runs(sweep))  # some of the runs were begun here
    for run in wanted:
        assert_same_run(sweep / run.name, run, bits)
    # What was recorded before the checkpoint, or of a run that had ended, is what it was.
    for run, step in steps.items():
        lines = [
            text.splitlines()[: step + 1]
            for text in (begun[run]["metrics.csv"], (sweep / run / "metrics.csv").read_bytes())
        ]
        assert lines[0] == lines[1] and len(lines[0]) == step + 1
    for run, state in zip(begun, states, strict=True):
        if state == "finished":
            assert (sweep / run / "metrics.csv").read_bytes() == begun[run]["metrics.csv"]
            assert (sweep / run / "model.pt").read_bytes() == begun[run]["model.pt"]
    left = [file.name for file in sweep.rglob("*") if file.name in ("checkpoint.pt", "end.pt")]
    assert not left
    assert (sweep / "best.yaml").is_file() and len(pd.read_csv(sweep / "runs.csv")) == len(wanted)


@pytest.mark.parametrize("name", ENDED)
def test_each_is_extended_by_what_is_new(name: str, project: Path) -> None:
    sweep, old = project / "outputs" / name, kept.KEPT / "project" / "outputs" / name
    typed = [f"outputs/{name}", *kept.MORE[name], "plots=false"]
    assert verb("resume", *typed, cwd=project).code == 0
    before, new = runs(old), runs(WENT_ON / name)
    assert [run.name for run in runs(sweep)] == [run.name for run in (*before, *new)]
    for run in before:
        assert contents(sweep / run.name) == contents(run)
    for run in new:
        assert_same_run(sweep / run.name, run, as_made(sweep / run.name))
    # The table has the new runs beside the old ones, whose cells are as they were.
    table, was = (pd.read_csv(at / "runs.csv").set_index("run") for at in (sweep, old))
    pd.testing.assert_frame_equal(
        table.loc[was.index, list(was)], was, check_dtype=False, check_like=True
    )


LATER = """
from lrlab import records
records.METRICS["later"] = "%.9g"
from lrlab.__main__ import main
main()
"""


@pytest.mark.parametrize("name", (ENDED[0], INTERRUPTED[0]))
def test_one_goes_on_after_a_column_was_added_to_the_curves(name: str, project: Path) -> None:
    sweep = project / "outputs" / name
    words = [sys.executable, "-c", LATER, "resume", f"outputs/{name}", *TRUST[name], "plots=false"]
    subprocess.run(words, cwd=project, check=True, capture_output=True)
    old = kept.KEPT / "project" / "outputs" / name if name in ENDED else WENT_ON / name
    for run in runs(old):
        lines = (sweep / run.name / "metrics.csv").read_text("utf-8").splitlines()
        if lines[0].endswith(",later"):  # every cell of the new column is empty
            lines[0] = lines[0].removesuffix("later")
            lines = [line.removesuffix(",") for line in lines]
        if as_made(sweep / run.name):
            assert lines == (run / "metrics.csv").read_text("utf-8").splitlines()
    verdicts = pd.read_csv(sweep / "verdicts.csv")
    assert len(verdicts) == len(runs(old)) and verdicts["outcome"].notna().all()
    if name in ENDED:
        assert_same_verdicts(sweep / "verdicts.csv", old / "verdicts.csv")


# --- train again ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "run",
    ["grid/2", "search/1", "search/3", "cmaes/1", "own/1", "arrays/3", "stopped/0", "stopped/2"],
)
def test_a_run_is_reproduced(run: str, project: Path) -> None:
    name, at = run.split("/")
    typed = [f"outputs/{run}", *TRUST[name], "--output=again", f"--tolerance={LOOSE}"]
    ended = verb("reproduce", *typed, cwd=project)
    assert (ended.code, ended.err) == (0, ""), ended
    again = project / "again" / f"reproduce_{name}_{at}" / at
    provenance = json.loads((again / "provenance.json").read_text("utf-8"))
    told = provenance["comparison"]
    assert told["largest"] <= TOLERANCE
    if as_made(again):
        assert told["identical"] == told["steps"] and provenance["differences"] == {}


@pytest.mark.parametrize("name", ["grid", "own"])
def test_best_yaml_trains_the_best_run_again(name: str, project: Path) -> None:
    typed = ["--config-dir", f"outputs/{name}", "--config-name", "best", "name=again"]
    ended = verb("sweep", *typed, *TRUST[name], "plots=false", cwd=project)
    assert ended.code == 0
    (again,) = runs(project / "outputs" / "again")
    best = lrlab.load(project / "outputs" / name).best
    assert best is not None
    record = project / "outputs" / name / str(best["run"])
    assert_same_table(again / "metrics.csv", record / "metrics.csv", as_made(again))


# --- read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", kept.MORE)
def test_each_is_judged_as_it_was(name: str, read_only: Path, tmp_path: Path) -> None:
    sweep = read_only / "outputs" / name
    file = tmp_path / "verdicts.csv"
    ended = verb("analysis", f"outputs/{name}", "--json", f"--output={file}", cwd=read_only)
    assert ended.code == 0
    told: dict[str, Any] = json.loads(ended.out)
    wanted = json.loads((kept.KEPT / "words.json").read_text("utf-8"))[name]
    found = {row["run"]: row["outcome"] for row in told["verdicts"]}
    assert [found[run] for run in sorted(found)] == wanted["outcome"]
    assert [answer["best_lr"] for answer in told["answers"]] == wanted["best_lr"]
    if name in ENDED:
        assert_same_verdicts(file, sweep / "verdicts.csv")


def test_each_says_what_it_said() -> None:
    """Where wording is meant to change: ``python tests/make_kept_sweeps.py words``."""
    wanted = json.loads((kept.KEPT / "words.json").read_text("utf-8"))
    assert kept.words(kept.KEPT / "project") == wanted


@pytest.mark.parametrize("name", kept.MORE)
def test_load_reads_the_tables_and_draws(name: str, read_only: Path) -> None:
    folder = read_only / "outputs" / name
    sweep = lrlab.load(folder)
    texts = [(run / "metrics.csv").read_text("utf-8") for run in runs(folder)]
    assert len(sweep.runs) == len(sweep.verdicts) >= len(texts)
    trained = sum(1 for text in texts for line in text.splitlines()[1:] if line.split(",")[3] != "")
    assert int(sweep.curves["train_loss"].notna().sum()) in (trained, trained - _nans(texts))
    if name in ENDED:
        table = pd.read_csv(folder / "runs.csv")
        assert sweep.runs["val_loss"].tolist() == pytest.approx(
            table["val_loss"].tolist(), rel=1e-6, nan_ok=True
        )
        assert sweep.best is not None and sweep.answer.lr is not None
    assert sweep.plot("loss_curves").axes


def _nans(texts: list[str]) -> int:
    return sum(line.split(",")[3] == "nan" for text in texts for line in text.splitlines()[1:])


def test_figures_are_drawn_of_them(project: Path) -> None:
    for name, only in (("grid", ["textbook", "surface"]), ("search", ["lr_against_loss"])):
        typed = [f"outputs/{name}", "--only", *only, "--format", "png"]
        ended = verb("plots", *typed, cwd=project)
        assert (ended.code, ended.err) == (0, "")
        drawn = sorted(file.name for file in (project / "outputs" / name / "plots").iterdir())
        assert drawn == sorted(f"{each}.png" for each in only)


@pytest.mark.parametrize("name", ["grid", "arrays", "stopped"])
def test_the_report_is_written_of_them(name: str, project: Path) -> None:
    ended = verb("report", f"outputs/{name}", cwd=project)
    assert (ended.code, ended.err) == (0, "")
    page = (project / "outputs" / name / "report.html").read_text("utf-8")
    assert page.rstrip().endswith("</html>")
    for row in lrlab.load(project / "outputs" / name).verdicts.to_dict("records"):
        assert row["outcome"] in page


def test_two_are_compared(project: Path) -> None:
    ended = verb("compare", "outputs/own", "outputs/search", "--output=both", cwd=project)
    assert ended.code == 0
    by_lr = pd.read_csv(project / "both" / "by_lr.csv")
    lrs = np.array([0.03, 0.3, *pd.read_csv(project / "outputs/search/runs.csv")["lr"]])
    assert all(np.isclose(lrs, lr, rtol=1e-3).any() for lr in by_lr["lr"]) and len(by_lr) >= 4
    differs = (project / "both" / "differences.csv").read_text("utf-8")
    assert "code_of_kept" in differs or "smoothed" in differs
    assert list((project / "both").glob("*.png"))


# --- find -----------------------------------------------------------------------------------------


def test_a_range_test_finds_what_it_found(project: Path) -> None:
    old = project / "outputs" / "find"
    told = json.loads((old / "suggestions.json").read_text("utf-8"))
    words = [word for word in told["command"][3:] if not word.startswith("name=")]
    ended = verb("find", *words, "name=again", cwd=project)
    assert ended.code == 0
    new = project / "outputs" / "again"
    again = json.loads((new / "suggestions.json").read_text("utf-8"))
    assert again.keys() - told.keys() == {"budget"} and told.keys() <= again.keys()
    bits = all(again["environment"][name] == MADE_ON[name] for name in kept.DECIDES)
    for name in ("ramp.csv", "constant.csv", "held_out.csv"):
        if bits:
            assert (new / name).read_bytes() == (old / name).read_bytes()
        else:
            assert list(pd.read_csv(new / name)) == list(pd.read_csv(old / name))
    assert again["best_lr"] == told["best_lr"] and again["data_sha256"] == told["data_sha256"]
    # and it is no sweep, which a reader says
    assert verb("analysis", "outputs/find", cwd=project).code == 2


def test_no_record_names_the_machine_it_was_made_on() -> None:
    for file in kept.KEPT.rglob("*"):
        if file.is_file():
            found = file.read_bytes()
            assert not any(word in found for word in (b"/tmp/", b"/work/", b"/home/", b"/root"))
