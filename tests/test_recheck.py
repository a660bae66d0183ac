"""What a record says besides its losses: every key and cell, changed one at a time, is told of."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from helpers.commands import reproduce as command
from helpers.commands import sweep

from lrlab import records, reproduce
from lrlab.sweeping import launch
from lrlab.training import checkpoints, recheck

DATA = ("network.hidden=[4]", "epochs=2", "save_model=true", "target=2.2")


@pytest.fixture(scope="module")
def true(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep's folder; what its run 1 says is true."""
    home = tmp_path_factory.mktemp("true")
    # the last of a word wins
    ended = sweep(*DATA, "diagnostics=full", "lr=0.01,0.1", "name=s", cwd=home)
    assert ended.code == 0
    return home / "outputs" / "s"


@pytest.fixture(scope="module")
def again(true: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run 1 trained again."""
    home = tmp_path_factory.mktemp("again")
    ended = command(str(true / "1"), f"--output={home}", cwd=home)
    assert ended.code == 0 and "identical: 20 of 20 steps, bitwise" in ended.out
    return home / "reproduce_s_1" / "1"


@pytest.fixture
def run(true: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(true / "1", tmp_path / "1"))


def reproduced(run: Path, again: Path, **how: Any) -> tuple[bool, str]:
    """Whether the record agrees, and what is printed; the new run is the one trained before."""

    def trained(specs: Any) -> None:
        for file in again.iterdir():
            if file.is_file() and file.name != "provenance.json":
                shutil.copy(file, specs[0].folder / file.name)

    out = io.StringIO()
    with mock.patch.object(launch, "train", trained), contextlib.redirect_stdout(out):
        agrees = reproduce.reproduce(run, run.parent / "again", 1e-3, None, **how)
    return agrees, out.getvalue()


def told(run: Path, again: Path, *words: str, agrees: bool = False) -> str:
    """That the record is not said to be identical; the lines that say why."""
    did, out = reproduced(run, again)
    assert did == agrees, out
    assert "identical:" not in out
    assert all(word in out for word in words), (words, out)
    assert "Traceback" not in out and len(out.splitlines()) < 20
    return out


# --- the summary ----------------------------------------------------------------------------------

# What may differ from run to run, or from machine to machine, and so is not told.
ALLOWED = {"timing", "environment", "lanes"}


def others(value: Any) -> Iterator[Any]:
    """Values that a key could have instead of its own."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        yield from (["another"] if isinstance(value, str | None) else [[*value, 1], value[1:]])
        if isinstance(value, list):
            yield [value[0] + 1, *value[1:]]
    else:
        yield from (value * 2 + 1, str(value), True, [value], math.nan, 10**400)
    yield from () if value is None else (None,)


def test_every_key_of_a_summary_is_compared(run: Path, again: Path) -> None:
    file = run / "summary.json"
    whole = json.loads(file.read_text("utf-8"))
    metrics = records.read_metrics(again)
    new = records.read_summary(again)
    assert set(recheck.MAY_DIFFER) == ALLOWED | {"seconds_to_target"}
    assert {"val_loss", "val_acc", "lr", "optimizer", "parameters", "steps", "state"} <= set(whole)
    assert recheck.of_summary(whole, new, run, metrics) == []
    for key, value in whole.items():
        if key in ALLOWED:
            continue
        for other in others(value):
            if key == "seconds_to_target" and isinstance(other, float | int):
                if type(other) is float and math.isfinite(other):
                    continue  # a time
                if type(other) is int:
                    continue
            lie = {**whole, key: other}
            if key == "run" and (type(other) is not int or other >= 2**53):
                continue  # refused by the reader
            found = recheck.of_summary(lie, new, run, metrics)
            assert any(each.name.partition("[")[0] == key for each in found), (key, other)
            assert all(len(str(each)) < 250 for each in found)
        # one that was made before there was such a key
        older = {name: each for name, each in whole.items() if name != key}
        if key not in ("steps_to_target", "state"):
            assert recheck.of_summary(older, new, run, metrics) == []


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("val_loss", 0.5, "val_loss: 0.5 in the record"),
        ("val_acc", 0.99, "val_acc: 0.99 in the record"),
        ("lr", 0.5, "lr: 0.5 in the record, 0.1 here"),
        ("optimizer", "adam", "optimizer: adam in the record, sgd here"),
        ("parameters", 7, "parameters: 7 in the record"),
        ("steps", 7, "steps: 7 in the record, 20 here"),
        ("data_sha256", "0" * 64, "data_sha256"),
        ("network.hidden", [400], "network.hidden[0]: 400 in the record, 4 here"),
        ("network.depth", 3, "network.depth: 3 in the record"),
        ("mine", 3, "mine: 3 in the record, no such key here"),
        ("run", 7, "run: 7 in the record, its folder is 1 here"),
        ("state", "finishes", "state: finishes in the record, finished here"),
        ("state", "pruned", "state: pruned in the record, finished here"),
        ("state", "interrupted", "state: interrupted in the record, finished here"),
        ("state", "running", "val_loss"),
        ("state", 1, "state"),
    ],
)
def test_a_lie_is_told_with_both_values(
    key: str, value: Any, words: str, run: Path, again: Path
) -> None:
    summary = {**records.read_summary(run), key: value}
    (run / "summary.json").write_text(json.dumps(summary), "utf-8")
    told(run, again, words)


def test_a_result_within_the_tolerance_is_told_and_agrees(run: Path, again: Path) -> None:
    summary = records.read_summary(run)
    summary["val_loss"] += 1e-6
    records.write_summary(run, summary)
    told(run, again, "val_loss", agrees=True)


def test_of_many_lies_some_are_named_and_the_rest_counted(run: Path, again: Path) -> None:
    summary = records.read_summary(run)
    lies = {key: "x" for key, value in summary.items() if isinstance(value, float)}
    records.write_summary(run, summary | lies)
    out = told(run, again, f"and {len(lies) - recheck.MOST} more differences")
    assert out.count(" in the record, ") == recheck.MOST


def test_an_old_record_is_identical_in_what_it_has(run: Path, again: Path) -> None:
    summary = records.read_summary(run)
    for key in ("val_parts", "swings_from", "majority_share", "chance_loss", "data_sha256"):
        del summary[key]
    records.write_summary(run, summary)
    for name in ("branches.csv", "diagnostics.csv", "model.pt"):
        (run / name).unlink()
    agrees, out = reproduced(run, again)
    assert agrees and "identical: 20 of 20 steps, bitwise" in out


# --- tables ---------------------------------------------------------------------------------------


@pytest.mark.full(after=1)
@pytest.mark.parametrize("name", ["metrics.csv", "diagnostics.csv", "branches.csv"])
def test_every_column_is_compared(name: str, run: Path, again: Path) -> None:
    file = run / name
    whole = file.read_text("utf-8")
    rows = [line.split(",") for line in whole.splitlines()]
    for column, title in enumerate(rows[0]):
        row = next(i for i in range(len(rows) - 2, 0, -1) if rows[i][column])
        for cell in (f"{float(rows[row][column]) + 7:g}", ""):
            if (title, cell) == ("step", ""):
                continue
            lie = [*rows[row][:column], cell, *rows[row][column + 1 :]]
            lines = [*rows[:row], lie, *rows[row + 1 :]]
            file.write_text("".join(",".join(each) + "\n" for each in lines), "utf-8")
            told(run, again)
    file.write_text(whole, "utf-8")


def rows_of(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        lines = change(file.read_text("utf-8").splitlines())
        file.write_text("\n".join(lines) + "\n", "utf-8")

    return spoil


CHANGES = {
    "a step twice, with another loss": (
        lambda rows: [*rows[:6], "4,0,0.1,9,,", *rows[6:]],
        "repeated steps: 4 in the record",
    ),
    "a step twice, equal": (lambda rows: [*rows[:6], rows[5], *rows[6:]], "repeated steps: 4"),
    "a step missing": (lambda rows: rows[:6] + rows[7:], "first difference at step 5"),
    "rows out of order": (
        lambda rows: [*rows[:5], rows[6], rows[5], *rows[7:]],
        "out of order: 4 after 5",
    ),
    "rows after the end": (lambda rows: [*rows, "21,2,0.1,1,,"], "first difference at step 21"),
    "one more column": (
        lambda rows: [f"{row},{'test' if i == 0 else 1}" for i, row in enumerate(rows)],
        "metrics.csv, columns: test in the record",
    ),
    "a column twice": (
        lambda rows: [f"{row},{'val_loss' if i == 0 else 1}" for i, row in enumerate(rows)],
        "val_loss twice",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_odd_rows_are_told(change: str, run: Path, again: Path) -> None:
    spoil, words = CHANGES[change]
    rows_of(spoil)(run / "metrics.csv")
    told(run, again, words)


# --- the model ------------------------------------------------------------------------------------


def test_a_model_is_compared(run: Path, again: Path) -> None:
    file = records.model_file(run)
    state = checkpoints.tensors(file)
    name = next(iter(state))
    for lie, words in (
        ({**state, name: state[name] + 1}, f"model.pt, {name}"),
        ({**state, name: state[name].double()}, "torch.float64"),
        ({**state, name: state[name][:1]}, "(1, "),
        ({key: state[key] for key in state if key != name}, f"{name}: none in the record"),
        ({**state, "more": state[name]}, "more: there in the record"),
        ({**state, "more": 3}, "model.pt: is damaged"),
        ([1], "model.pt: is damaged"),
    ):
        torch.save(lie, file)
        told(run, again, words)
    file.write_bytes(b"PK")
    told(run, again, "model.pt: is damaged")


# --- runs that did not finish ---------------------------------------------------------------------


def stopped(run: Path, state: str, rows: int) -> dict[str, Any]:
    """The record of the run as if it had stopped after so many rows."""
    file = run / "metrics.csv"
    lines = file.read_text("utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[: rows + 1]), "utf-8")
    for name in ("branches.csv", "model.pt"):
        (run / name).unlink()
    file = run / "diagnostics.csv"
    lines = file.read_text("utf-8").splitlines(keepends=True)
    kept = [line for line in lines[1:] if int(line.partition(",")[0]) < rows]
    file.write_text("".join(lines[:1] + kept), "utf-8")
    summary = records.read_summary(run) | dict.fromkeys(recheck.RESULTS) | {"state": state}
    del summary["val_parts"]
    return summary


@pytest.mark.parametrize("state", ["interrupted", "running", "failed"])
def test_an_interrupted_run_is_identical_as_far_as_it_goes(
    state: str, run: Path, again: Path
) -> None:
    summary = stopped(run, state, 13)
    if state == "failed":
        summary["error"] = "RuntimeError: no memory"
    records.write_summary(run, summary)
    agrees, out = reproduced(run, again)
    assert agrees and "identical: 13 of 13 steps" in out and f"ends there ({state})" in out
    records.write_summary(run, summary | {"val_loss": 0.1})
    told(run, again, "val_loss: 0.1 in the record, null here")
    records.write_summary(run, summary | {"initial_loss": 9.0})
    told(run, again, "initial_loss: 9.0 in the record")


def test_a_pruned_run_is_identical_as_far_as_it_goes(run: Path, again: Path) -> None:
    summary = stopped(run, "pruned", 10)
    new = records.read_metrics(again).set_index("step").loc[10]
    with (run / "metrics.csv").open("a") as stream:
        stream.write(f"10,1,,,{new['val_loss']:.9g},{new['val_acc']:.9g}\n")
    ended = {name: float(torch.tensor(new[name], dtype=torch.float32)) for name in new.index[3:]}
    summary |= {"pruned_at_epoch": 1, **ended}
    records.write_summary(run, summary)
    agrees, out = reproduced(run, again)
    assert agrees and "identical: 10 of 10 steps" in out, out
    for key, lie in (("val_loss", 0.1), ("val_acc", 0.9), ("pruned_at_epoch", 2)):
        records.write_summary(run, summary | {key: lie})
        told(run, again, f"{key}: {lie} in the record")
