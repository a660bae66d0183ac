"""The files of a run: whole or recognisably torn, and exact to the last bit."""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from lrlab import records
from lrlab.errors import NotWritten, UserError

pytestmark = pytest.mark.unit

THREE_ROWS = {"step": range(3), "epoch": [0] * 3, "lr": [0.1] * 3, "train_loss": [2.5] * 3}
UNWRITABLE = "x" * 100_000 + "\ud800"  # a lone surrogate: UTF-8 cannot hold it


def float32s(count: int) -> list[float]:
    """Every kind of float32: random bit patterns, and the ends and specials by hand."""
    bits = np.random.default_rng(0).integers(0, 2**32, count, dtype=np.uint32)
    special = [0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38, 1.17549435e-38, 3.4028235e38]
    special += [1.0, np.nextafter(np.float32(1), np.float32(2)), np.inf, -np.inf, np.nan]
    values = np.concatenate([bits.view(np.float32), np.array(special, dtype=np.float32)])
    return [float(v) for v in values]


def same_bits(one: list[float], other: list[float], form: str) -> bool:
    """Equal bits, any NaN being like another."""

    def bits(value: float) -> bytes:
        return b"nan" if math.isnan(value) else struct.pack(form, value)

    return [bits(v) for v in one] == [bits(v) for v in other]


# --- whole ----------------------------------------------------------------------------------------


def test_write_whole_replaces(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    records.write_whole(file, "old")
    records.write_whole(file, "größer\n")
    assert file.read_bytes() == "größer\n".encode()
    assert list(tmp_path.iterdir()) == [file]


def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_half_one(tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    records.write_whole(file, "old")
    with pytest.raises(UnicodeEncodeError):
        records.write_whole(file, UNWRITABLE)
    assert file.read_text("utf-8") == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_rename_that_fails_leaves_no_half_file(tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    (file / "in_the_way").mkdir(parents=True)
    with pytest.raises(NotWritten, match=r"summary\.json: cannot be written"):
        records.write_whole(file, "new")
    assert list(tmp_path.iterdir()) == [file]


def test_a_reader_never_sees_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the rename the old file is there, whole."""
    records.write_summary(tmp_path, {"state": "running"})
    seen = []
    replace = os.replace

    def look_then_replace(source: Path, target: Path) -> None:
        seen.append((records.read_summary(tmp_path)["state"], json.loads(source.read_text())))
        replace(source, target)

    monkeypatch.setattr(os, "replace", look_then_replace)
    records.write_summary(tmp_path, {"state": "finished"})
    assert seen == [("running", {"state": "finished"})]
    assert records.read_summary(tmp_path) == {"state": "finished"}


# --- exact ----------------------------------------------------------------------------------------


def test_metrics_keep_every_bit(tmp_path: Path) -> None:
    losses = float32s(3000)
    draw = np.random.default_rng(1)
    lrs = [float(v) for v in np.exp(draw.uniform(-700, 700, len(losses)))]
    lrs[:5] = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, 0.1 + 0.2]
    records.start_metrics(tmp_path)
    steps, epochs = list(range(len(losses))), [s // 7 for s in range(len(losses))]
    rows = {"step": steps, "epoch": epochs, "lr": lrs, "train_loss": losses}
    records.append_metrics(tmp_path, rows)
    read = records.read_metrics(tmp_path)
    assert list(read.columns) == ["step", "epoch", "lr", "train_loss", "val_loss", "val_acc"]
    assert list(read["step"]) == steps and list(read["epoch"]) == epochs
    assert same_bits(list(read["lr"]), lrs, "d")
    as_float32 = [float(v) for v in read["train_loss"].to_numpy().astype(np.float32)]
    assert same_bits(as_float32, losses, "f")
    assert read["val_loss"].isna().all() and read["val_acc"].isna().all()


def test_evaluations_keep_every_bit(tmp_path: Path) -> None:
    values = float32s(500)
    pairs = list(zip(values, reversed(values), strict=True))
    records.start_metrics(tmp_path)
    for step, pair in enumerate(pairs):
        train = {} if step % 2 else {"lr": [0.1 + step], "train_loss": [pair[1]]}
        row = {"step": [step], "epoch": [3], "val_loss": [pair[0]], "val_acc": [pair[1]]}
        records.append_metrics(tmp_path, row | train)
    read = records.read_metrics(tmp_path)
    for column, side in (("val_loss", 0), ("val_acc", 1)):
        told = [float(v) for v in read[column].to_numpy().astype(np.float32)]
        assert same_bits(told, [pair[side] for pair in pairs], "f")
    assert list(read["lr"].isna()) == [step % 2 == 1 for step in range(len(pairs))]
    assert list(read["lr"][::2]) == [0.1 + step for step in range(0, len(pairs), 2)]


def test_nine_digits_are_needed(tmp_path: Path) -> None:
    """The test above can fail: with eight digits some float32 come back as a neighbour."""
    losses = [v for v in float32s(3000) if math.isfinite(v)]
    eight = [float(np.float32(float(f"{v:.8g}"))) for v in losses]
    assert not same_bits(eight, losses, "f")


# --- a column that is added later -----------------------------------------------------------------


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run whose metrics.csv was written before the column ``added``."""
    records.start_metrics(tmp_path)
    records.append_metrics(tmp_path, THREE_ROWS)
    monkeypatch.setitem(records.METRICS, "added", "%.9g")
    return tmp_path


def test_a_column_that_an_older_record_lacks_is_nan(older: Path) -> None:
    read = records.read_metrics(older)
    assert list(read.columns) == list(records.METRICS) and read["added"].isna().all()
    assert list(read["step"]) == [0, 1, 2] and list(read["train_loss"]) == [2.5] * 3


def test_a_run_of_an_older_lrlab_goes_on_with_the_new_column(older: Path) -> None:
    assert records.cut_metrics(older, 2)
    row = {"step": [2], "epoch": [0], "lr": [0.1], "train_loss": [2.25], "added": [7.0]}
    records.append_metrics(older, row)
    lines = (older / "metrics.csv").read_text().splitlines()
    assert lines[0] == "step,epoch,lr,train_loss,val_loss,val_acc,added"
    assert lines[1:] == ["0,0,0.1,2.5,,,", "1,0,0.1,2.5,,,", "2,0,0.1,2.25,,,7"]
    read = records.read_metrics(older)
    assert list(read["train_loss"]) == [2.5, 2.5, 2.25]
    assert list(read["added"].isna()) == [True, True, False] and read["added"][2] == 7.0


# --- torn and damaged -----------------------------------------------------------------------------


@pytest.mark.parametrize("torn", ["3", "3,0,0.1,2.", "3,0,0.1,2.25,,", "\x00\x00", "3,0,ü"])
def test_a_torn_last_line_is_left_out(torn: str, tmp_path: Path) -> None:
    records.start_metrics(tmp_path)
    records.append_metrics(tmp_path, THREE_ROWS)
    with (tmp_path / "metrics.csv").open("a", encoding="utf-8") as stream:
        stream.write(torn)
    read = records.read_metrics(tmp_path)
    assert list(read["step"]) == [0, 1, 2] and list(read["train_loss"]) == [2.5] * 3


def test_metrics_without_rows_read_as_an_empty_table(tmp_path: Path) -> None:
    records.start_metrics(tmp_path)
    assert list(records.read_metrics(tmp_path).columns) == list(records.METRICS)
    assert len(records.read_metrics(tmp_path)) == 0


@pytest.mark.parametrize(
    "text",
    ["", "\n", "step,epoch\n1,2\n", "step,epoch,lr,train_loss,val_loss,val_acc\na,b,c,d,e,f\n"],
)
def test_damaged_metrics_are_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(UserError, match=r"metrics\.csv: is damaged") as caught:
        records.read_metrics(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '{"a": 1'])
def test_a_damaged_summary_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(UserError, match=r"summary\.json: is damaged") as caught:
        records.read_summary(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_told_apart_from_what_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        records.read_metrics(tmp_path)
    with pytest.raises(FileNotFoundError):
        records.read_summary(tmp_path)


# --- JSON -----------------------------------------------------------------------------------------


def test_json_never_holds_nan(tmp_path: Path) -> None:
    values = {"a": math.nan, "b": [1.5, -math.inf], "c": {"d": (math.inf, "NaN")}, "e": 0.1 + 0.2}
    expected = {"a": None, "b": [1.5, None], "c": {"d": [None, "NaN"]}, "e": 0.1 + 0.2}
    records.write_summary(tmp_path, values)
    records.write_provenance(tmp_path, values)
    for name in ("summary.json", "provenance.json"):
        text = (tmp_path / name).read_text("utf-8")
        constants: list[str] = []
        assert json.loads(text, parse_constant=constants.append) == expected
        assert constants == []


def test_numpy_nan_is_null_too(tmp_path: Path) -> None:
    records.write_summary(tmp_path, {"a": np.float64("nan"), "b": np.float64(0.1)})
    assert records.read_summary(tmp_path) == {"a": None, "b": 0.1}


# --- folders --------------------------------------------------------------------------------------


def test_run_folders_are_sorted_by_number(tmp_path: Path) -> None:
    for name in ("10", "2", "0", "plots", ".hydra", "-1", "1.5"):
        (tmp_path / name).mkdir()
    (tmp_path / "7").write_text("a file")
    assert [p.name for p in records.run_folders(tmp_path)] == ["0", "2", "10"]


def test_free_folder_counts_on(tmp_path: Path) -> None:
    wanted = tmp_path / "a"
    assert records.free_folder(wanted, may_rename=False) == wanted
    wanted.mkdir()
    assert records.free_folder(wanted, may_rename=True) == tmp_path / "a-2"
    (tmp_path / "a-2").mkdir()
    assert records.free_folder(wanted, may_rename=True) == tmp_path / "a-3"
    with pytest.raises(UserError, match=r"name=a: .* take another name"):
        records.free_folder(wanted, may_rename=False)


def test_only_one_makes_a_sweeps_folder(tmp_path: Path) -> None:
    assert records.create_sweep(tmp_path / "deep" / "a") is True
    assert records.create_sweep(tmp_path / "deep" / "a") is False
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        records.create_sweep(tmp_path / "file" / "a")
