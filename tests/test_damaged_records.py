"""Records of a sweep that are damaged, crafted or may not be read: one line, the rest goes on."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import Silent, Trainer, assert_same_bits, read
from hostile import no_hang, told
from interrupted import QUICK
from made_sweeps import write_sweep
from test_sweep import command

from lrlab import (
    best,
    branches,
    checkpoints,
    pool,
    quick_yaml,
    records,
    reproduce,
    resume,
    storage,
    tracking,
    trust,
)
from lrlab.errors import Stopped
from lrlab.sweep import main

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
@pytest.mark.parametrize("read", [records.plain_yaml, records.options, quick_yaml.record])
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


@pytest.mark.parametrize("name", BAD)
def test_a_run_with_a_bad_checkpoint_is_trained_anew_and_the_others_go_on(
    name: str, trainer: Trainer
) -> None:
    common = "checkpoint_every=1 optimizer.momentum=0.9 network.hidden=[4]"
    specs = trainer.specs(lrs := ["lr=0.1", "lr=0.05"], common)
    rows, looks = {0: 0, 1: 1}, itertools.count()
    with pytest.raises(Stopped):
        pool.run(pool.Batch(specs), None, "cpu", Silent(), rows, lambda: next(looks) >= 14)
    state = checkpoints.read(records.checkpoint_file(specs[0].folder))
    assert state is not None and checkpoints.read(records.checkpoint_file(specs[1].folder))
    BAD[name](state)
    checkpoints.save(specs[0].folder, state)
    pool.run(pool.Batch(specs), None, "cpu", Silent(), rows)
    bad, good = (read(spec.folder) for spec in specs)
    assert "is trained anew: its checkpoint does not fit" in bad.log
    assert "goes on from" in good.log and "anew" not in good.log
    for run, lr in zip((bad, good), lrs, strict=True):
        assert_same_bits(run, trainer.alone(lr, common))


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
    line = told(lambda: storage._Journal(tmp_path / "study.journal"))
    assert line is not None and "is damaged, no journal of Optuna" in line


# --- folders --------------------------------------------------------------------------------------


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
