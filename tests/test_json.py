"""For programs: answer.json, and the one JSON object that each verb prints with --json."""

from __future__ import annotations

import io
import json
import math
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.commands import QUICK, Ended, assert_refused, command, process, strict_json, sweep
from helpers.judged import falling, write_run

from lrlab import analysis, bench, compare, find, records, reproduce, resume
from lrlab.errors import printable
from lrlab.plots.__main__ import main as plots_main
from lrlab.process import only_json
from lrlab.process.plain import to_json
from lrlab.records.thresholds import THRESHOLDS
from lrlab.report.__main__ import main as report_main
from lrlab.sweep import main as sweep_main
from lrlab.tables.frames import rows
from lrlab.verdicts.answer import Answer
from lrlab.verdicts.noise import Rival
from lrlab.verdicts.printed import answer_json

HERE = Path(__file__).parent
ANSWER_KEYS = {
    *("settings", "lr", "range", "refusal", "alone", "edge", "try_next", "next", "loss"),
    *("judged_by", "run", "confidence", "decay_gain", "at_end", "overfit", "steps", "too_small"),
    *("too_large", "fails_from", "lrs", "runs", "not_judged", "counts", "length", "target_loss"),
    *("to_target", "search"),
}


def only(ended: Ended, verb: str) -> dict[str, Any]:
    """The object that is all of stdout."""
    found = strict_json(ended.out)
    assert list(found)[:3] == ["schema", "lrlab", "verb"]
    assert (found["schema"], found["verb"]) == (1, verb)
    return found


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A sweep of three lrs, of which the middle one is best, written by hand."""
    folder = tmp_path / "outputs" / "s"
    for number, (lr, end) in enumerate({0.01: 1.5, 0.1: 0.1, 1.0: 0.4}.items()):
        write_run(folder, number, falling(end), lr)
    task = ["lr=0.01,0.1,1.0", "network.hidden=[8,8]", "name=s"]
    (folder / "multirun.yaml").write_text(
        json.dumps({"hydra": {"overrides": {"task": task, "hydra": ["hydra.mode=MULTIRUN"]}}})
    )
    return folder


# --- the answer -----------------------------------------------------------------------------------


def rival(higher: float, error: float, **more: Any) -> Rival:
    return Rival(0.3, higher, error, "seeds", **more)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (Answer({}, refusal="nothing was learned"), "none"),
        (Answer({}, best_lr=0.1, lrs=1, seeds=1), "alone"),
        (Answer({}, best_lr=0.1, lrs=2, seeds=1), "unknown"),
        (Answer({}, best_lr=0.1, lrs=2, seeds=1, rival=rival(0.1, math.nan)), "unknown"),
        (Answer({}, best_lr=0.1, lrs=2, seeds=1, rival=rival(0.1, 0.1)), "chance"),
        (Answer({}, best_lr=0.1, lrs=2, seeds=3, rival=rival(-0.05, 0.1)), "chance"),
        (Answer({}, best_lr=0.1, lrs=2, seeds=1, rival=rival(0.2, 0.1)), "likely"),
        (Answer({}, best_lr=0.1, lrs=2, seeds=3, rival=rival(-0.2, 0.1, fails=True)), "likely"),
        (Answer({}, best_lr=0.1, lrs=2, seeds=1, rival=rival(1.1, 0.1)), "sure"),
        (Answer({}, best_lr=0.1, lrs=2, seeds=3, rival=rival(0.2, 0.1)), "sure"),
    ],
)
def test_one_word_says_how_sure_it_is(answer: Answer, word: str) -> None:
    assert answer_json.of_answer(answer)["confidence"]["word"] == word


COMMAND = ["python", "-m", "lrlab.sweep", "lr=0.01,0.1", "network.hidden=[8,8]", "name=s"]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("more", "typed", "why", "words"),
    [
        ({"edge": "high", "try_next": (0.01, 1.0)}, COMMAND, "range", "lr=0.01..1 … points=7"),
        ({}, COMMAND, "seeds", "lr=0.01,0.1 … seed=0,1,2"),
        ({"rival": rival(9.0, 0.1)}, COMMAND, None, ""),
        ({"seeds": 3}, [*COMMAND, "seed=0,1,2"], None, ""),
        ({}, [*COMMAND, "seed=4"], "seeds", "lr=0.01,0.1 … seed=0,1,2"),
        ({"try_next": (0.01, 1.0)}, [], None, ""),
        ({"try_next": (0.01, 1.0)}, [*COMMAND[:3], "epochs=1"], "range", "epochs=1 lr=0.01..1 …"),
        ({"try_next": (0.01, 1.0)}, [*COMMAND[:3], "+experiments=seeds"], "seeds", ""),
    ],
)
def test_the_next_command_is_words_and_a_line_to_paste(
    more: dict[str, Any], typed: list[str], why: str | None, words: str
) -> None:
    answer = Answer({}, best_lr=0.1, lrs=2, **{"seeds": 1, **more})
    found = answer_json.of_answer(answer, typed)["next"]
    if why is None:
        assert found is None
        return
    assert found["why"] == why
    assert shlex.split(found["text"]) == found["words"]
    assert found["words"][:3] == ["python", "-m", "lrlab.sweep"]
    assert not [word for word in found["words"] if word.startswith("name=")]
    assert sum(word.startswith("seed=") for word in found["words"]) <= 1
    if "network.hidden=[8,8]" in typed:
        assert "'network.hidden=[8,8]'" in found["text"]
    begin, _, end = words.partition(" …")
    assert begin in found["text"] and found["text"].endswith(end)


@pytest.mark.unit
def test_every_key_is_there_and_every_number_is_json(tmp_path: Path) -> None:
    answers = [
        Answer({"optimizer": "adam"}, best_lr=0.1, best_loss=0.2, as_good=(0.1, 0.3), lrs=3),
        Answer({"optimizer": "sgd"}, refusal="every run diverged", fails_from=1.0),
    ]
    records.write_answer(tmp_path, answer_json.of_sweep(answers))
    found = strict_json((tmp_path / "answer.json").read_text("utf-8"))
    assert list(found) == ["schema", "lrlab", "command", "comparable", "lr", "budget", "answers"]
    assert (found["schema"], found["command"], found["lr"]) == (1, None, 0.1)
    best, refused = found["answers"]
    assert set(best) == set(refused) == ANSWER_KEYS
    assert (best["range"], best["refusal"], best["decay_gain"]) == ([0.1, 0.3], None, None)
    assert (refused["lr"], refused["range"], refused["loss"]) == (None, None, None)
    assert refused["refusal"] == "every run diverged" and refused["next"] is None
    assert refused["confidence"]["sentence"] is None


@pytest.mark.unit
def test_each_key_is_documented() -> None:
    page = (HERE.parent / "docs" / "files.md").read_text("utf-8")
    section = page.partition("### answer.json")[2].partition("\n### ")[0]
    confidence = {"word", "seeds", "failed_seeds", "seed_noise", "rival", "sentence"}
    of_rival = {"difference", "noise", "noise_of", "fewer_failures_decide", "not_told_apart"}
    of_sweep = {"schema", "lrlab", "command", "comparable", "budget"}
    for key in ANSWER_KEYS | confidence | of_rival | of_sweep:
        assert f"`{key}`" in section, key
    found = answer_json.of_answer(Answer({}, best_lr=0.1, lrs=2, rival=rival(0.1, 0.2)))
    assert set(found["confidence"]) == confidence
    assert set(found["confidence"]["rival"]) == {"lr", *of_rival}


# --- the form of the object -----------------------------------------------------------------------


@pytest.mark.unit
def test_numbers_keep_every_bit_and_what_is_missing_is_null() -> None:
    numbers = [1.2345678901234567e-12, 1 / 3, 1e300, 123456789.12345679, 5e-324]
    table = pd.DataFrame({"a": numbers, "b": pd.array([1, None, 2**53, 0, 7], dtype="Int64")})
    found = json.loads(to_json(rows(table)))
    assert [row["a"] for row in found] == numbers
    assert [row["b"] for row in found] == [1, None, 2**53, 0, 7]
    odd = {"x": np.float32("nan"), "y": np.float64("inf"), "z": np.int64(3), "w": pd.NA}
    assert strict_json(to_json({**odd, "v": [np.bool_(True), pd.NaT]})) == {
        "x": None, "y": None, "z": 3, "w": None, "v": [True, None],
    }  # fmt: skip


@pytest.mark.unit
def test_no_encoding_refuses_it_and_no_gate_changes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate of a terminal replaces control characters by "?", as it must in other text."""
    raw = io.BytesIO()
    found = {"name": "schöne … \u202e \x9b[31m \x7f \ud800", "lrlab: ": "lrlab: x"}
    with io.TextIOWrapper(raw, encoding="ascii") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        only_json.show(found)
        stream.flush()
        text = raw.getvalue().decode("ascii")
    assert json.loads(text) == found
    assert printable(text) == text


def test_what_libraries_print_in_c_does_not_come_behind_the_object() -> None:
    program = (
        "import ctypes; from lrlab.process import only_json\n"
        "with only_json.stdout_free(): ctypes.CDLL(None).puts(b'of a library'); print('of lrlab')\n"
        "only_json.show({'a': 1})"
    )
    ended = process("-c", program, cwd=HERE)
    assert strict_json(ended.stdout) == {"a": 1}
    assert sorted(ended.stderr.splitlines()) == ["of a library", "of lrlab"]


# --- verbs that read ------------------------------------------------------------------------------


@pytest.mark.unit
def test_json_is_taken_from_the_words_wherever_it_stands() -> None:
    assert only_json.asked(["lr=1", "--json", "a"]) == (["lr=1", "a"], True)
    assert only_json.asked(["lr=1"]) == (["lr=1"], False)
    assert only_json.asked(["a", "--", "--json"]) == (["a", "--", "--json"], False)


def test_analysis_keeps_its_keys_and_has_the_answer(written: Path, tmp_path: Path) -> None:
    found = only(command(analysis.main, [str(written), "--json"], tmp_path), "analysis")
    assert set(found) >= {"verdicts", "answers", "notes"}
    assert found["answers"][0]["best_lr"] == found["answer"]["lr"] == 0.1
    assert found["answer"]["command"]["words"][3:] == [
        *("lr=0.01,0.1,1.0", "network.hidden=[8,8]", "name=s")
    ]
    assert found["answer"]["answers"][0]["counts"] == {
        "undershooting": 1,
        "converged": 1,
        "overshooting": 1,
    }


def test_analysis_has_the_thresholds_if_they_are_asked_for(written: Path, tmp_path: Path) -> None:
    alone = only(command(analysis.main, ["--thresholds", "--json"], tmp_path), "analysis")
    whole = only(
        command(analysis.main, [str(written), "--thresholds", "--json"], tmp_path), "analysis"
    )
    assert alone["thresholds"] == whole["thresholds"] and whole["verdicts"]
    assert alone["thresholds"]["noise"]["value"] == THRESHOLDS.noise
    lines = command(analysis.main, ["--thresholds"], tmp_path).out.splitlines()
    assert [line.split()[0] for line in lines] == list(alone["thresholds"])


@pytest.mark.parametrize("kept", [{"left_out": ["3 of 5 epochs"]}, "damaged", None])
def test_the_budget_of_a_sweep_is_in_each_of_its_answers(
    kept: Any, written: Path, tmp_path: Path
) -> None:
    if kept == "damaged":
        (written / "answer.json").write_text('{"budget": {')
        kept = None
    elif kept is not None:
        records.write_answer(written, answer_json.of_sweep([], None, kept))
    other = written.with_name("other")
    shutil.copytree(written, other)
    (other / "answer.json").unlink(missing_ok=True)
    for main, verb in ((analysis.main, "analysis"), (compare.main, "compare")):
        more = [str(other), "--no-files"] if verb == "compare" else []
        found = only(command(main, [str(written), "--json", *more], tmp_path), verb)
        answer = found["answer"] if verb == "analysis" else found["sweeps"][0]["answer"]
        assert answer["budget"] == kept


def test_compare_prints_its_tables(written: Path, tmp_path: Path) -> None:
    words = [str(written), str(written.parent / "t"), "--no-files", "--json"]
    for number, lr in enumerate((0.1, 0.3)):
        write_run(written.parent / "t", number, falling(0.2), lr)
    (written.parent / "t" / "multirun.yaml").write_text("{}\n")
    ended = command(compare.main, words, tmp_path)
    found = only(ended, "compare")
    assert (ended.code, ended.err) == (0, "")
    assert [side["answer"]["lr"] for side in found["sweeps"]] == [0.1, 0.1]
    assert found["folder"] is None and found["plots"] == []
    assert {row["lr"] for row in found["by_lr"]} == {0.01, 0.1, 0.3, 1.0}
    assert found["differences"] and found["text"]


def test_plots_and_report_name_their_files(written: Path, tmp_path: Path) -> None:
    ended = command(
        plots_main, [str(written), "--only", "lr_against_loss", "importances", "--json"], tmp_path
    )
    found = only(ended, "plots")
    assert ended.code == 0 and list(found["left_out"]) == ["importances"]
    assert all(Path(path).is_file() for path in found["plots"]) and len(found["plots"]) == 2
    ended = command(report_main, [str(written), "--json"], tmp_path)
    found = only(ended, "report")
    assert ended.code == 0 and Path(found["report"]) == written / "report.html"


@pytest.mark.parametrize("main", [analysis.main, plots_main, report_main, reproduce.main])
def test_an_error_is_still_one_line_and_nothing_on_stdout(
    main: Callable[[], None], tmp_path: Path
) -> None:
    assert_refused(command(main, ["nowhere", "--json"], tmp_path), "nowhere: ")


# --- verbs that train -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    home = tmp_path_factory.mktemp("json")
    return home, sweep("--json", "lr=0.03,0.3", "name=s", cwd=home)


def test_a_sweep_prints_its_answer_and_writes_it(trained: tuple[Path, Ended]) -> None:
    home, ended = trained
    found = only(ended, "sweep")
    folder = home / "outputs" / "s"
    assert (ended.code, Path(found["folder"])) == (0, folder)
    assert found["states"] == {"finished": 2}
    assert found["answer"] == strict_json((folder / "answer.json").read_text("utf-8"))
    (answer,) = found["answer"]["answers"]
    assert (answer["lr"], answer["edge"], answer["next"]["why"]) == (0.3, "high", "range")
    # the words that a reader would see are on stderr
    assert "answer  lr=0.3" in ended.err and "run 0  lr=0.03" in ended.err


def test_the_command_to_run_next_runs(trained: tuple[Path, Ended]) -> None:
    home, ended = trained
    words = json.loads(ended.out)["answer"]["answers"][0]["next"]["words"]
    assert words[:3] == ["python", "-m", "lrlab.sweep"]
    ended = command(sweep_main, [*words[3:], "--cfg", "job"], home)
    assert ended.code == 2 and "lr=0.03..3" in ended.err  # an interval, which only a sweep takes
    ended = command(sweep_main, [*words[3:], "points=2", "name=next", "--json"], home)
    assert only(ended, "sweep")["states"] == {"finished": 2}


def test_resume_prints_the_answer_of_the_whole_sweep(trained: tuple[Path, Ended]) -> None:
    home, _ = trained
    ended = command(resume.main, ["outputs/s", "lr=0.03,0.3,1e9", "--json"], home)
    found = only(ended, "resume")
    assert (ended.code, found["states"]) == (0, {"finished": 2, "diverged": 1})
    assert found["answer"]["answers"][0]["counts"]["diverged"] == 1
    assert found["answer"]["answers"][0]["fails_from"] == 1e9


def test_reproduce_says_in_keys_whether_it_is_the_same(trained: tuple[Path, Ended]) -> None:
    home, _ = trained
    ended = command(reproduce.main, ["outputs/s/1", "--json"], home)
    found = only(ended, "reproduce")
    assert (ended.code, found["agrees"], found["bitwise"]) == (0, True, True)
    assert found["steps"] == found["identical"] == 10
    assert found["first"] is None and found["largest"] == 0
    assert Path(found["folder"]).is_dir() and "identical: 10 of 10" in ended.err


def test_find_prints_its_suggestions(tmp_path: Path) -> None:
    words = [word for word in QUICK if not word.startswith(("epochs", "diagnostics"))]
    ended = command(
        find.main, [*words, "network.hidden=[16]", "points=3", "steps=20", "--json"], tmp_path
    )
    found = only(ended, "find")
    folder = Path(found["folder"])
    kept = strict_json((folder / "suggestions.json").read_text("utf-8"))
    assert {key: found[key] for key in kept} == kept
    assert ended.code == (0 if found["best_lr"] else 1)
    assert "--json" not in found["command"] and "find: " in ended.err


def test_bench_without_a_file_prints_its_figures(tmp_path: Path) -> None:
    few = ["--lanes=1", "--steps=3", "--repeats=2", "--threads=1", "--device=cpu"]
    found = only(command(bench.main, [*few, "--json"], tmp_path), "bench")
    assert found["step_ms"]["1"] > 0 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("main", "words", "said"),
    [
        (sweep_main, "lr=1 --json=x", "--json=x: takes no value; write --json"),
        (sweep_main, "lr=1 --jsn", "--jsn: no such flag (did you mean --json?)"),
        (sweep_main, "--json --cfg job", "--json: does not go with --cfg; leave one of them out"),
        (sweep_main, "--json hydra.mode=RUN", "--json: does not go with hydra.mode=RUN"),
        (sweep_main, "--json lr=0", "lr=0"),
        (find.main, "--json --cfg job", "--json: does not go with --cfg"),
        (resume.main, "nowhere --json", "nowhere"),
        (resume.main, "--json", "--json: needs the sweep's folder before it"),
    ],
)
def test_bad_input_prints_no_object(
    main: Callable[[], None], words: str, said: str, tmp_path: Path
) -> None:
    assert_refused(command(main, words.split(), tmp_path), said)
    assert list(tmp_path.iterdir()) == []
