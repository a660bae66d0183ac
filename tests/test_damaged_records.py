"""Records of a sweep that are damaged, crafted or may not be read: one line, the rest goes on."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.commands import command
from helpers.hostile import no_hang, told
from helpers.interrupted import QUICK
from helpers.made_sweeps import write_sweep
from helpers.training import Silent, Trainer, assert_same_bits, read

from lrlab import analysis as judge
from lrlab import api, compare, records, reproduce, resume, tracking
from lrlab.config import trust, yaml_text
from lrlab.errors import NotWritten, Stopped
from lrlab.plan import best
from lrlab.plots import __main__ as plots_command
from lrlab.probes import branches
from lrlab.study import journal
from lrlab.sweep import main
from lrlab.tables import frames
from lrlab.training import checkpoints, pool
from lrlab.verdicts import loading

pytestmark = pytest.mark.unit

LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)
)
DIGITS = f"lr: {'9' * 400}\n"
TWICE = "lr: 0.1\nlr: 0.2\n"
NO_DATE = "lr: !!timestamp 2024-02-31\n"
DAMAGES = {"aliases": LAUGHS, "digits": DIGITS, "twice": TWICE, "no date": NO_DATE}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_sweep(tmp_path / "s", 2, steps=8)
    return tmp_path / "s" / "0"


@pytest.mark.parametrize("text", [*DAMAGES.values(), "lr: {a: 1, a: 2}\n", "!!int x", "!!bool x"])
@pytest.mark.parametrize("read", [records.plain_yaml, records.options, yaml_text.record])
def test_what_no_record_has_is_refused(read: Callable[[str], Any], text: str) -> None:
    with no_hang(), pytest.raises(yaml.YAMLError):
        read(text)


def test_a_date_is_a_text_also_where_there_is_no_such_day() -> None:
    for reader in (records.plain_yaml, records.options):
        assert reader("name: 2024-02-31\nold: 2024-02-03") == {
            "name": "2024-02-31",
            "old": "2024-02-03",
        }


def test_what_a_record_has_is_read_as_before() -> None:
    text = "a: 1e-3\nb: [1, 2.5, true, null]\nc: {d: -9223372036854775808, 1: 0x10}\n"
    both = {"b": [1, 2.5, True, None], "c": {"d": -(2**63), 1: 16}}
    assert records.plain_yaml(text) == {"a": "1e-3", **both}
    assert records.options(text) == {"a": 1e-3, **both}


@pytest.mark.parametrize("text", [*DAMAGES.values(), "- 1\n", "false\n", ""])
def test_a_best_run_whose_config_is_damaged_is_named(run: Path, text: str) -> None:
    (run / ".hydra/config.yaml").write_text(text, "utf-8")
    with no_hang():
        line = told(lambda: best.text(run, "this sweep"))
    assert line is not None and line.startswith(f"{run}: its config is damaged: ")


@pytest.mark.parametrize("text", DAMAGES.values())
def test_a_best_run_whose_hydra_yaml_is_damaged_is_named(run: Path, text: str) -> None:
    (run / ".hydra/hydra.yaml").write_text(text, "utf-8")
    with no_hang():
        line = told(lambda: best.text(run, "this sweep"))
    assert line is not None and line.startswith(f"{run}: its hydra.yaml is damaged: ")


@pytest.mark.parametrize("text", [*DAMAGES.values(), "- 1\n"])
def test_other_readers_of_a_damaged_record_end_in_one_line(run: Path, text: str) -> None:
    for name in ("0/.hydra/config.yaml", "0/.hydra/hydra.yaml", "multirun.yaml", "best.yaml"):
        (run.parent / name).write_text(text, "utf-8")
    with no_hang():
        assert list(reproduce._hydra_records(run)) == []
        assert records.best_run(run.parent) is None
        assert told(lambda: trust.in_best(records.read_best(run.parent))) is not None
        with pytest.raises((ValueError, yaml.YAMLError)):
            tracking._hyperparameters(run, {})


def test_a_summary_with_a_number_that_no_float_holds_is_damaged(run: Path) -> None:
    (run / "summary.json").write_text(f'{{"lr": {"9" * 400}}}', "utf-8")
    assert "is damaged" in str(told(lambda: records.read_summary(run)))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("summary.json", records.read_summary),
        ("metrics.csv", records.read_metrics),
        ("diagnostics.csv", records.read_diagnostics),
        ("branches.csv", records.read_branches),
    ],
)
def test_a_record_that_may_not_be_read_is_named(
    run: Path, name: str, read: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = run / name
    file.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        read(run)
    file.mkdir()
    assert str(told(lambda: read(run))).startswith(f"{file}: cannot be read (Is a directory)")
    file.rmdir()
    file.write_text("", "utf-8")

    def denied(*_: Any, **__: Any) -> Any:  # of mode 000, which root reads all the same
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(Path, "read_bytes", denied)
    monkeypatch.setattr(Path, "read_text", denied)
    assert str(told(lambda: read(run))).startswith(f"{file}: cannot be read (Permission denied)")


# --- the commands that read many runs -------------------------------------------------------------


def _junk(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00\x01" * 9)


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _texts(text: str) -> Callable[[Path], object]:
    return lambda file: file.write_text(text, "utf-8")


# A run each; the key says what may be said of it, and what must be.
SPOILT: list[tuple[str, str, Callable[[Path], object]]] = [
    *(("", ".hydra/config.yaml", _texts(text)) for text in (LAUGHS, DIGITS, "- 1\n", "")),
    *(("", ".hydra/hydra.yaml", how) for how in (_texts(TWICE), _junk, _folder)),
    *(("summary.json", "summary.json", how) for how in (_texts("[" * 3000), _junk, _folder)),
    ("summary.json", "summary.json", _texts(f'{{"lr": {"9" * 400}}}')),
    *(("metrics.csv", "metrics.csv", how) for how in (_texts(""), _junk, _folder)),
    ("metrics.csv", "metrics.csv", _texts("step,epoch,lr,train_loss,val_loss,val_acc\nx,y,z,,,\n")),
    *(("diagnostics", "diagnostics.csv", how) for how in (_texts(NO_DATE), _junk, _folder)),
    *(("branch test", "branches.csv", how) for how in (_texts("a,b\n1,2\n"), _junk, _folder)),
    ("summary.json", "summary.json", _texts('{"run": 0, "lr": 0.1, "num_classes": -1}')),
]
WORD = {"aliases": LAUGHS, "a folder": _folder, "junk": _junk, "twice": TWICE}


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sweep = tmp_path_factory.mktemp("spoilt") / "s"
    write_sweep(sweep, len(SPOILT) + 2, steps=60)
    for run, (_, name, spoil) in enumerate(SPOILT):
        (sweep / str(run) / ".hydra/hydra.yaml").write_text("hydra: {}\n", "utf-8")
        spoil(sweep / str(run) / name)
    (sweep / "best.yaml").write_text("source: s/0\n", "utf-8")
    return sweep


def _told_of(notes: str) -> None:
    """That a line each names all runs of a kind, and no other run."""
    for what in ("summary.json", "metrics.csv"):
        runs = [str(run) for run, (kind, *_) in enumerate(SPOILT) if kind == what]
        (line,) = [line for line in notes.splitlines() if f"readable {what}" in line]
        assert f"(run {', '.join(runs)})" in line
    assert "Traceback" not in notes and "have not ended" not in notes


@pytest.mark.default
@pytest.mark.parametrize(
    ("main", "words"),
    [
        (plots_command.main, ["--only", "lr_against_loss", "--format", "png"]),
        (compare.main, ["good", "--no-files"]),
        (judge.main, []),
    ],
)
def test_a_command_names_the_damaged_runs_and_goes_on_with_the_others(
    main: Callable[..., None], words: list[str], spoilt: Path
) -> None:
    if words[:1] == ["good"]:
        write_sweep(spoilt.parent / "good", 3, steps=24)
    ended = command(main, [spoilt.name, *words], spoilt.parent)
    assert ended.code == 0 and ended.out
    _told_of(ended.err)


def test_a_result_of_a_damaged_sweep_has_a_note_and_the_other_runs(spoilt: Path) -> None:
    result = api.load(spoilt)
    assert len(result.runs) == len(SPOILT) + 2 and len(result.verdicts)
    runs = [str(run) for run, (kind, *_) in enumerate(SPOILT) if kind == "summary.json"]
    (note,) = result.notes
    assert note.endswith(f"have no readable summary.json (run {', '.join(runs)})")
    good = result.runs.loc[result.runs["run"] >= len(SPOILT), "state"]
    assert set(good) <= {"finished", "diverged"}


@pytest.mark.parametrize("how", WORD)
def test_records_of_a_whole_sweep_that_are_damaged_stop_no_reader(how: str, run: Path) -> None:
    for name in ("multirun.yaml", "best.yaml", "lines.csv", "surface.csv", "paths.csv"):
        file = run.parent / name
        file.touch()
        spoil = WORD[how]
        if callable(spoil):
            spoil(file)
        else:
            file.write_text(spoil, "utf-8")
    with no_hang():
        if (run.parent / "multirun.yaml").is_file():
            assert len(api.load(run.parent).verdicts) == 2
        assert set(loading.load([run.parent]).runs["state"]) == {"finished"}
        assert not any(len(table) for table in frames.landscape(run.parent))


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Root reads what has mode 000; for a while nobody does."""
    before = os.geteuid()
    try:
        if before == 0:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(before)


@pytest.mark.skipif(sys.platform == "win32", reason="has no modes of folders")
def test_a_folder_that_may_not_be_read_is_named() -> None:
    with tempfile.TemporaryDirectory() as home:  # tmp_path is for one user alone
        os.chmod(home, 0o755)
        sweep = write_sweep(Path(home) / "s", 3, steps=24)
        loading.load([sweep])  # what it imports lies where it may not look either
        closed = sweep / "1"
        closed.chmod(0)
        try:
            with unprivileged():
                loaded, result = loading.load([sweep]), api.load(sweep)
                assert len(result.runs) == 3
            lines = [*loaded.notes, *result.notes]
            assert lines and all(line.startswith(f"{sweep}: 1 of 3 runs") for line in lines)
            assert sum("no readable summary.json (run 1)" in line for line in lines) == 2
            sweep.chmod(0)
            with unprivileged():
                for read in (lambda: loading.load([sweep]), lambda: api.load(sweep)):
                    assert str(told(read)).startswith(
                        f"{sweep}: cannot be read (Permission denied)"
                    )
        finally:
            sweep.chmod(0o755)
            closed.chmod(0o755)


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "a${oc.env:HOME}b", "${nosuch:1}"])
def test_a_tracker_is_told_nothing_that_a_record_would_call(text: str, run: Path) -> None:
    file = run / ".hydra/config.yaml"
    saved = yaml.safe_load(file.read_text("utf-8"))
    saved["optimizer"] |= {"momentum": text, "weight_decay": "${lr}", "nesterov": "${.momentum}"}
    file.write_text(yaml.safe_dump(saved), "utf-8")
    found = tracking._hyperparameters(run, records.read_summary(run))
    assert found["optimizer.momentum"] == found["optimizer.nesterov"] == text
    assert found["optimizer.weight_decay"] == saved["lr"]


# --- checkpoints ----------------------------------------------------------------------------------


def _first(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], str]:
    return state["tensors"], next(n for n, t in state["tensors"].items() if t.dim() == 2)


def _row(state: dict[str, Any]) -> None:
    tensors, name = _first(state)
    tensors[name] = tensors[name][:1].clone()  # which copy_ would spread over all rows


def _double(state: dict[str, Any]) -> None:
    tensors, name = _first(state)
    tensors[name] = tensors[name].double()


def _lacks(state: dict[str, Any]) -> None:
    tensors, name = _first(state)
    del tensors[name]


def _momentum(state: dict[str, Any]) -> None:
    name = next(iter(state["optimizer"]))
    state["optimizer"][name] = [part.flatten()[:1].clone() for part in state["optimizer"][name]]


BAD: dict[str, Callable[[dict[str, Any]], object]] = {
    "a row for all": _row,
    "float64": _double,
    "a tensor too few": _lacks,
    "a number for all of the optimizer's": _momentum,
    "no optimizer": lambda state: state.pop("optimizer"),
    "evaluations that are none": lambda state: state.update(evaluations=None),
    "a summary that is none": lambda state: state.update(summary=3),
}


def _of_one(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    """What happens to the state of one of a general optimizer's parameters."""
    return lambda state: change(state["optimizer"]["state"][0])


# Of an optimizer of which lrlab does not know the rule: torch takes a state of any shape.
GENERAL: dict[str, Callable[[dict[str, Any]], object]] = {
    "a row of a moment": _of_one(lambda own: own.update(exp_avg=own["exp_avg"][:1].clone())),
    "a moment that is none": _of_one(lambda own: own.update(exp_avg="much")),
    "a moment too few": _of_one(lambda own: own.pop("exp_avg_sq")),
    "betas that are none": lambda state: state["optimizer"]["param_groups"][0].update(betas=3),
    "groups that are none": lambda state: state["optimizer"].update(param_groups=[]),
}
GENERALLY = "optimizer._target_=torch.optim.RAdam"


@pytest.mark.full(after=1)
@pytest.mark.parametrize(
    ("name", "optimizer"),
    [*((name, "optimizer.momentum=0.9") for name in BAD), *((name, GENERALLY) for name in GENERAL)],
)
def test_a_run_with_a_bad_checkpoint_is_trained_anew_and_the_others_go_on(
    name: str, optimizer: str, trainer: Trainer
) -> None:
    common = f"checkpoint_every=1 {optimizer} network.hidden=[4]"
    specs = trainer.specs(lrs := ["lr=0.1", "lr=0.05"], common)
    rows, looks = {0: 0, 1: 1}, itertools.count()
    with pytest.raises(Stopped):
        pool.run(pool.Batch(specs), None, "cpu", Silent(), rows, lambda: next(looks) >= 14)
    state = checkpoints.read(records.checkpoint_file(specs[0].folder))
    assert state is not None and checkpoints.read(records.checkpoint_file(specs[1].folder))
    (GENERAL if optimizer == GENERALLY else BAD)[name](state)
    checkpoints.write(records.checkpoint_file(specs[0].folder), state)
    pool.run(pool.Batch(specs), None, "cpu", Silent(), rows)
    bad, good = (read(spec.folder) for spec in specs)
    assert "starts again at step 0: its checkpoint does not fit" in bad.log
    assert "goes on from" in good.log and "anew" not in good.log
    for run, lr in zip((bad, good), lrs, strict=True):
        assert_same_bits(run, trainer.reference(lr, common))


@pytest.mark.parametrize(
    "state", [{"step": 3}, {"step": 2**60, "values": {}}, {"step": 3, "values": 1}]
)
def test_a_bad_end_is_told_in_the_log_and_makes_no_branch_test(
    state: dict[str, Any], trainer: Trainer
) -> None:
    (spec,) = trainer.specs(["lr=0.1"], "network.hidden=[4]")
    file = records.end_file(spec.folder)
    checkpoints.write(file, state)
    assert branches.test([spec], None, lambda: False) == []
    assert not file.exists() and not (spec.folder / "branches.csv").exists()
    assert "its end.pt is damaged" in (spec.folder / "run.log").read_text("utf-8")


# --- the study ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["3", "[]", "null", '{"op_code": []}', '{"op_code": 0}', "[" * 3000]
)
def test_a_journal_of_odd_lines_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "study.journal").write_text(f"{text}\n{{}}\n", "utf-8")
    line = told(lambda: journal.Journal(tmp_path / "study.journal"))
    assert line is not None and "is damaged, no journal of Optuna" in line


ODD = ["3", "[]", "null", '{"op_code": []}', '{"op_code": 4}', "[" * 3000, "{", "\xff"]


@pytest.mark.parametrize("text", ODD)
def test_odd_lines_that_come_into_a_journal_later_are_told(text: str, tmp_path: Path) -> None:
    file = tmp_path / "study.journal"
    store = journal.Journal(file)
    with file.open("ab") as stream:
        stream.write(f"{text}\n{{}}\n".encode("latin-1"))
    for reach in (store.locked, store.unlocked):
        line = told(lambda reach=reach: reach(store.storage.get_all_studies))
        assert line is not None and line.startswith(f"{file}: is damaged, no journal of Optuna")
    store.close()


def test_a_journal_that_may_not_be_read_any_more_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "study.journal"
    store = journal.Journal(file)

    def denied(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(type(store._backend), "read_logs", denied)
    with pytest.raises(NotWritten, match=r"study\.journal: cannot be read \(Permission denied\)"):
        store.locked(store.storage.get_all_studies)
    with pytest.raises(NotWritten, match=r"cannot be read \(Permission denied\)"):
        journal.Journal(file)
    monkeypatch.undo()
    store.close()


# --- folders --------------------------------------------------------------------------------------


@pytest.mark.full(after=1)
@pytest.mark.parametrize("name", ["a${lr}", "\\${oc.env:HOME}%{}[1]*"])
def test_nothing_in_a_folders_name_is_evaluated(name: str, tmp_path: Path) -> None:
    home, moved = tmp_path / name, tmp_path / f"{name}2"
    home.mkdir()
    ended = command(main, [*QUICK, "lr=0.1,0.2", "epochs=1", "name=s"], home)
    assert (ended.code, ended.err) == (0, "")
    assert [each.name for each in tmp_path.iterdir()] == [name]
    (home / "outputs" / "s").rename(moved)
    ended = command(resume.main, [str(moved), "lr=0.1,0.2,0.3"], tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert (moved / "2" / "summary.json").is_file()
    assert {each.name for each in tmp_path.iterdir()} == {name, moved.name}
