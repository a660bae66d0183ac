"""`python -m lrlab.analysis`: what it prints, of several sweeps too, and of broken ones."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.judged import CONFIG, MNIST, called, falling, write_config, write_run

from lrlab import analysis as judge
from lrlab import report
from lrlab.report.__main__ import main as report_main
from lrlab.tables import branch_gains, joining, sweep_settings
from lrlab.verdicts import loading
from lrlab.verdicts.judging import most_judged_by, verdicts
from lrlab.verdicts.printed import run_words as words

pytestmark = pytest.mark.unit


def write_sweep(sweep: Path, ends: dict[float, float], **summary: Any) -> Path:
    for number, (lr, end) in enumerate(ends.items()):
        write_run(sweep, number, falling(end), lr, **summary)
    (sweep / "multirun.yaml").write_text("{}\n")
    return sweep


def write_branches(run: Path, steps: int) -> None:
    rows = "".join(f"{step},0.1,0.1,0.1,0.2\n" for step in range(steps))
    (run / "branches.csv").write_text("step,lr,low,same,high\n" + rows)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "one", {0.01: 1.5, 0.1: 0.1, 1.0: 0.4})


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    return called(judge.main, capsys)


# --- what it prints -------------------------------------------------------------------------------


def test_a_sweeps_folder_gives_the_table_the_evidence_and_the_answer(run: Any, sweep: Path) -> None:
    code, out, err = run(sweep)
    assert (code, err) == (0, "")
    table, evidence, answered = out.rstrip("\n").split("\n\n")
    rows = [line.split() for line in table.splitlines()]
    assert rows[0] == ["run", "lr", "outcome", "at", "the", "end", "steps", "end", "loss"]
    assert [row[:3] for row in rows[2:]] == [
        ["0", "0.01", "undershooting"],
        ["1", "0.1", "converged"],
        ["2", "1", "overshooting"],
    ]
    assert evidence.splitlines()[1].startswith("1  lr 0.1   val loss fell from 2.3 to 0.1")
    assert answered.startswith("answer  lr=0.1: end loss 0.1 (val loss), one seed")


def test_a_csv_gives_the_same_verdicts_as_the_function(run: Any) -> None:
    code, out, err = run(MNIST)
    assert code == 0 and err.count("\n") == 1
    assert "run 16, 20, 23: blank losses at the end, taken as lost" in err
    expected = verdicts(pd.read_csv(MNIST))
    printed = [line.split() for line in out.splitlines()[2 : 2 + len(expected)]]
    assert [row[0] for row in printed] == [str(number) for number in expected["run"]]
    assert [row[3] for row in printed] == expected["outcome"].tolist()
    assert printed[10][-1] == f"{expected['decay_gain'][10]:.2f}"
    for sentence in expected["evidence"]:
        assert sentence in out
    assert "answer  lr=0.1" in out


def test_columns_come_where_they_tell_something(run: Any, tmp_path: Path) -> None:
    write_run(tmp_path, 0, falling(0.2), 0.1, seed=0, **{"optimizer.momentum": 0.9})
    write_run(tmp_path, 1, falling(0.3), 0.1, seed=1, **{"optimizer.momentum": 0.0})
    write_run(tmp_path, 2, falling(2.0), 0.1, seed=1, state="pruned", pruned_at_epoch=1)
    code, out, _ = run(tmp_path)
    header = out.splitlines()[0].split()
    assert code == 0
    assert header[:5] == ["run", "lr", "seed", "optimizer.momentum", "outcome"]
    assert "state" in header and "schedule" not in header and "decay" not in header
    assert "pruned" in out.splitlines()[4]


def test_many_runs_leave_the_evidence_out_unless_asked(run: Any, tmp_path: Path) -> None:
    count = judge.EVIDENCE_OF + 1
    frame = pd.DataFrame(
        {
            "run": np.repeat(np.arange(count), 3),
            "lr": np.repeat(np.geomspace(1e-3, 1, count), 3),
            "step": np.tile([0, 1, 2], count),
            "train_loss": np.tile([2.0, 1.0, 0.5], count),
        }
    )
    file = tmp_path / "many.csv"
    frame.to_csv(file, index=False)
    _, short, _ = run(file)
    _, whole, _ = run(file, "--evidence")
    assert "loss fell" not in short and "--evidence" in short
    assert whole.count("loss fell from 2 to 0.5") == count
    assert short.splitlines()[-1] == whole.splitlines()[-1]


def test_lines_are_wrapped_to_the_terminal_and_not_in_a_pipe() -> None:
    found = verdicts(pd.read_csv(MNIST))
    piped = words.evidence_lines(found).splitlines()
    assert len(piped) == len(found) and max(map(len, piped)) > 150
    for width in (80, 120):
        wrapped = words.evidence_lines(found, width).splitlines()
        assert max(map(len, wrapped)) <= width
        unwrapped = " ".join(" ".join(wrapped).split())
        assert unwrapped == " ".join(" ".join(piped).split())
        table = words.verdict_table(found).splitlines()
        assert max(map(len, table)) <= 80


def test_output_writes_the_verdicts_whole(run: Any, sweep: Path, tmp_path: Path) -> None:
    file = tmp_path / "verdicts.csv"
    file.write_text("run,outcome,evidence\n")
    code, out, _ = run(sweep, "--output", file)
    assert code == 0 and out.splitlines()[-1].startswith("verdicts  ")
    written = pd.read_csv(file)
    assert written["outcome"].tolist() == ["undershooting", "converged", "overshooting"]
    assert written["evidence"].str.len().gt(20).all()
    assert not [each for each in tmp_path.iterdir() if each.name.endswith(".tmp")]


def test_json_is_all_there_is_on_stdout(run: Any, sweep: Path) -> None:
    write_run(sweep, 3, [2.3, 9.0, math.nan, math.nan, 1.0][:4], 9.0, state="running")
    code, out, err = run(sweep, "--json")
    found = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert (code, err) == (0, "")
    assert [row["outcome"] for row in found["verdicts"]][:2] == ["undershooting", "converged"]
    assert found["answers"][0]["best_lr"] == 0.1
    assert found["notes"] == [
        f"{sweep}: 1 of 4 runs have not ended (1 running); they are not compared"
    ]


def test_thresholds_are_printed_alone_and_beside_the_table(run: Any, sweep: Path) -> None:
    code, alone, _ = run("--thresholds")
    assert code == 0 and "converged: within this share" in alone and "answer" not in alone
    _, beside, _ = run(sweep, "--thresholds")
    assert alone.strip() in beside and "answer" in beside


def test_target_changes_what_is_reached(run: Any, sweep: Path) -> None:
    _, out, _ = run(sweep, "--target", "1.6")
    assert re.search(r"loss 1.6: reached at lr 0.1 in .*, at lr 1 in .*, at lr 0.01 in", out)
    code, out, err = run(sweep, "--target", "nan")
    assert (code, out) == (2, "") and err == (
        "lrlab: --target=nan: must be a finite number, like --target=0.1\n"
    )


@pytest.mark.default
def test_the_command_is_the_analysis(sweep: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "lrlab.analysis", str(sweep)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip().splitlines()[-1].lstrip().startswith("how sure: one seed")


@pytest.mark.default
def test_a_reader_that_closes_the_pipe_is_no_error(sweep: Path) -> None:
    words = [str(sweep), "--evidence", "--thresholds"]
    code = f"from lrlab import analysis; analysis.main({words!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


# --- several together -----------------------------------------------------------------------------


def test_several_sources_are_judged_together(run: Any, sweep: Path, tmp_path: Path) -> None:
    other = write_sweep(tmp_path / "two", {0.2: 0.05})
    loaded = loading.load([sweep, other])
    assert loaded.names == ("one", "two")
    assert loaded.runs["run"].tolist() == ["one/0", "one/1", "one/2", "two/0"]
    assert loaded.curves["sweep"].unique().tolist() == ["one", "two"]
    assert set(loaded.curves["run"]) == set(loaded.runs["run"])
    code, out, _ = run(sweep, other)
    assert code == 0 and "answer  lr=0.2" in out
    assert "the lowest of 4 lrs" in out, "the runs of both are compared"


def test_names_are_told_apart_by_their_parents(tmp_path: Path) -> None:
    paths = [tmp_path / "x" / "s", tmp_path / "y" / "s", tmp_path / "y" / "t"]
    for path in paths:
        path.mkdir(parents=True)
    assert joining.distinct_names(paths) == ("x/s", "y/s", "t")
    files = [tmp_path / "t.csv", tmp_path / "t.csv.gz", tmp_path / "u.csv"]
    assert joining.distinct_names(files)[2] == "u"
    assert len(set(joining.distinct_names(files))) == 3


def test_runs_are_sorted_as_people_count() -> None:
    found = pd.DataFrame({"run": ["b/10", "b/2", "a/3"]})
    assert words.in_order(found)["run"].tolist() == ["a/3", "b/2", "b/10"]


def test_settings_that_no_sweep_swept_still_tell_its_runs_apart(tmp_path: Path) -> None:
    narrow = write_sweep(tmp_path / "narrow", {0.1: 0.5})
    write_config(narrow / "0", CONFIG.format(name="narrow", hidden=[8, 8], momentum=0.0))
    wide = tmp_path / "wide"
    for number, momentum in enumerate((0.0, 0.9)):
        own = {"optimizer.momentum": momentum}
        folder = write_run(wide, number, falling(0.1 + momentum / 10), 0.1, **own)
        write_config(folder, CONFIG.format(name="wide", hidden=[512], momentum=momentum))
    loaded = loading.load([narrow, wide])
    assert loaded.runs["network.hidden"].tolist() == ["[8, 8]", "[512]", "[512]"]
    assert loaded.runs["optimizer.momentum"].tolist() == [0.0, 0.0, 0.9]
    by_run = loaded.curves.groupby("run")["network.hidden"].unique()
    assert by_run["narrow/0"].tolist() == ["[8, 8]"]
    names = {name for name in loaded.runs if "." in str(name)}
    assert names == {"network.hidden", "optimizer.momentum"}, "no name, threads, nor folder of data"
    found = verdicts(loaded.curves).set_index("run")
    assert found["best_loss"]["narrow/0"] == pytest.approx(0.5), "another network, another task"
    assert found["best_loss"]["wide/0"] == pytest.approx(0.1)


def test_settings_of_another_choice_are_no_difference() -> None:
    sgd = {"optimizer": "sgd", "optimizer.momentum": 0.0}
    adam = {"optimizer": "adam", "optimizer.betas": "[0.9, 0.999]"}
    assert sweep_settings.differing([sgd, adam]) == []
    assert sweep_settings.differing([sgd, adam, {**adam, "optimizer.betas": "[0.5, 0.9]"}]) == [
        "optimizer.betas"
    ]


def test_a_csv_and_a_sweep_go_together(sweep: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("run,lr,epoch,train_loss\na,0.5,0,2\na,0.5,1,1\n")
    loaded = loading.load([sweep, file])
    assert loaded.runs["run"].tolist() == ["one/0", "one/1", "one/2", "mine/a"]
    assert len(verdicts(loaded.curves)) == 4


# --- sweeps that are broken, or not ready ---------------------------------------------------------


def test_a_run_with_one_step(run: Any, tmp_path: Path) -> None:
    write_run(tmp_path, 0, [2.3], 0.1, state="running")
    write_run(tmp_path, 1, [2.3, 2.0], 0.1)
    code, out, _ = run(tmp_path)
    assert code == 0 and "unknown" in out.splitlines()[2]


def test_a_sweep_that_still_runs_shows_what_there_is(run: Any, sweep: Path) -> None:
    torn = write_run(sweep, 3, falling(1.0), 0.3, state="running") / "metrics.csv"
    torn.write_text(torn.read_text()[:-20])
    (sweep / "4").mkdir()
    code, out, err = run(sweep)
    assert code == 0
    assert "2 of 5 runs have not ended (1 running, 1 waiting)" in err and err.count("\n") == 1
    assert "still running at step" in out and "not begun" in out
    assert "1 of 4 runs were not trained to their end" in out, "of one nothing is known yet"
    header = ["run", "lr", "outcome", "at", "the", "end", "steps", "state", "end", "loss"]
    assert out.split()[:10] == header


def test_damaged_records_are_told_and_the_rest_is_judged(run: Any, sweep: Path) -> None:
    (sweep / "0" / "metrics.csv").write_text("what,is\nthis,file\n")
    (sweep / "2" / "summary.json").write_text('{"run": 2, "st')
    code, out, err = run(sweep)
    assert code == 0 and len(err.splitlines()) == 2
    assert "1 of 3 runs have no readable metrics.csv (run 0)" in err
    assert "1 of 3 runs have no readable summary.json (run 2)" in err
    assert "answer  lr=0.1" in out


def test_records_of_an_older_version_are_judged_by_what_they_have(run: Any, sweep: Path) -> None:
    (sweep / "1" / "diagnostics.csv").write_text(
        "step,alpha,alpha_probe,stability_ratio,sharpness,grad_norm,update_ratio,distance,new\n"
        "0,-0.5,-0.5,0.3,3,1,0.1,0,7\n"
    )
    write_branches(sweep / "1", branch_gains.FEWEST_STEPS)
    code, out, err = run(sweep)
    assert code == 0
    assert "2 of 3 runs have no diagnostics (run 0, 2); their steps are judged" in err
    assert "2 of 3 runs have no branch test (run 0, 2); their state at the end is" in err
    assert "(steps: stability ratio 0.30 at the one step measured, alpha -0.50 at the one" in out
    older = json.loads((sweep / "2" / "summary.json").read_text())
    del older["environment"], older["num_classes"], older["timing"], older["chance_loss"]
    (sweep / "2" / "summary.json").write_text(json.dumps({**older, "from_the_future": [1, {}]}))
    assert run(sweep)[0] == 0


def test_a_finished_run_whose_metrics_break_off_is_not_judged_as_whole(
    run: Any, sweep: Path
) -> None:
    write_run(sweep, 3, falling(0.05), 0.2, steps=20)
    write_run(sweep, 4, falling(0.05)[:12], 0.3, steps=20)
    code, out, err = run(sweep)
    assert code == 0 and err == (
        f"lrlab: {sweep}: 1 of 5 runs have a metrics.csv that ends before their last step "
        "(run 4); they are not compared\n"
    )
    rows = {line.split()[0]: line for line in out.splitlines()[2:7]}
    assert "interrupted" in rows["4"] and "interrupted" not in rows["3"]
    assert "interrupted at step 10: " in out
    assert "1 of 5 runs were not trained to their end" in out
    page = report.write(sweep).read_text()
    assert "The records of run 4 are damaged" in page


@pytest.mark.parametrize("config", ["", CONFIG.format(name="x", hidden=[8], momentum=0.0)])
def test_a_run_without_a_summary_has_the_lr_of_its_config_or_curve(
    run: Any, sweep: Path, config: str
) -> None:
    (sweep / "2" / "summary.json").write_text('{"run": 2, "st')
    if config:
        write_config(sweep / "2", config.replace("lr: 0.1", "lr: 0.7"))
    code, out, err = run(sweep)
    assert code == 0 and "no readable summary.json (run 2)" in err and "waiting" not in err
    assert "not begun" not in out and "interrupted at step 20" in out
    row = out.splitlines()[4].split()
    assert row[:2] == ["2", "0.7" if config else "1"]
    assert "answer  lr=0.1" in out, "no settings of its own"


def test_a_branch_test_that_is_missing_is_told_with_the_reason(run: Any, tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s", {0.01: 1.5, 0.1: 0.1, 0.2: 0.2, 1.0: 0.4, 2.0: 0.5})
    write_branches(sweep / "0", 40)
    write_branches(sweep / "1", 39)
    (sweep / "2" / "end.pt").write_bytes(b"")
    text = (sweep / "3" / "metrics.csv").read_text()
    (sweep / "3" / "metrics.csv").write_text(text.replace("19,0,1.0,", "19,0,0.01,"))
    code, _, err = run(sweep)
    assert code == 0 and err.splitlines() == [
        f"lrlab: {sweep}: {line}"
        for line in (
            f"the branch test of 1 of 5 runs was not made (run 2); python -m lrlab.resume {sweep} "
            "makes it",
            "the branch test of 1 of 5 runs (run 1) had less than 40 steps, too few to be used",
            "1 of 5 runs have no branch test, by design (run 3); their schedules have brought the "
            "lr down already, so they count as settled",
            "1 of 5 runs have no branch test (run 4); their state at the end is judged by "
            "their curves",
        )
    ]


def test_the_report_ends_as_the_analysis_does(
    sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def code_of(path: Path) -> Any:
        monkeypatch.setattr(sys, "argv", ["report", str(path)])
        with pytest.raises(SystemExit) as end:
            report_main()
        return end.value.code

    copy = sweep.parent / "a_copy" / "1"  # as reproduce makes it, which is no sweep more to name
    copy.mkdir(parents=True)
    (copy / "provenance.json").touch()
    assert code_of(sweep.parent) == 2
    assert f"holds a sweep, but no runs; name one or more, like {sweep}" in capsys.readouterr().err
    (sweep / "report.html").mkdir()  # no file can take its place
    assert code_of(sweep) == 1
    assert "report.html" in capsys.readouterr().err


def test_unknown_settings_columns_and_names_with_odd_letters(run: Any, tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "gr\u00f6\u00dfe $x", {0.1: 0.2})
    write_run(folder, 7, falling(0.3), 0.2, network="<script>")
    code, out, _ = run(folder)
    assert code == 0 and "<script>" in out


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        ("", "missing", "no such file or folder; name a sweep's folder or a CSV of curves"),
        ("", "onee", "no such file or folder (did you mean one?)"),
        ("empty/", "empty", "holds no runs; name a sweep's folder, the one with 0/, 1/"),
        ("", "one/1", "is a run's folder; name its sweep's, "),
        ("", ".", "holds a sweep, but no runs; name one or more, like "),
        ("", "one/1/metrics.csv", "has no column run"),
        ("begun/multirun.yaml", "begun", "has no run yet"),
    ],
)
def test_a_wrong_path_says_which_to_name(
    run: Any, sweep: Path, make: str, name: str, message: str
) -> None:
    folder = sweep.parent
    (sweep / "1" / ".hydra").mkdir()
    if make:
        (folder / make).parent.mkdir(exist_ok=True)
        (folder / make).mkdir() if make.endswith("/") else (folder / make).write_text("")
    path = folder / name
    code, out, err = run(path)
    assert (code, out) == (2, "")
    assert err.startswith(f"lrlab: {path}: {message}") and err.count("\n") == 1


def test_bad_options_are_one_line(run: Any, sweep: Path, tmp_path: Path) -> None:
    file = tmp_path / "in.csv"
    file.write_text("run,lr,step,train_loss\n0,0.1,0,1\n")
    for arguments, message in [
        ([], "name a sweep's folder or a CSV of curves"),
        ([sweep, sweep / "."], "is named twice"),
        ([sweep, "--output", tmp_path], "is a folder; name a file"),
        ([file, "--output", file], "would overwrite an input"),
        ([sweep, "--output", tmp_path / "no" / "v.csv"], "there is no folder"),
    ]:
        code, out, err = run(*arguments)
        assert (code, out) == (2, "") and message in err and err.count("\n") == 1, arguments
    assert file.read_text().startswith("run,lr"), "the input is as it was"


# --- CSVs -----------------------------------------------------------------------------------------


def test_the_loss_that_most_runs_are_judged_by() -> None:
    assert most_judged_by([]) == most_judged_by([float("nan"), ""]) == ""
    assert most_judged_by(["val_loss", float("nan"), "train_loss", "val_loss"]) == "val_loss"
    assert (
        most_judged_by(["val_loss", "train_loss"])
        == most_judged_by(["train_loss", "val_loss"])
        == "train_loss"
    )
