"""CSVs of curves that others wrote, good ones and broken ones, read and analysed."""

import gzip
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.judged import MNIST, called
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrlab import analysis as judge
from lrlab.tables import curve_csv
from lrlab.verdicts.judging import verdicts

pytestmark = pytest.mark.unit


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    return called(judge.main, capsys)


GOOD = "run,lr,step,train_loss\n0,0.1,0,2.3\n0,0.1,1,1.5\n0,0.1,2,1.0\n"
FRAME = pd.read_csv(MNIST).query("run < 2").reset_index(drop=True)


@pytest.mark.parametrize(
    "text",
    [
        GOOD.encode(),
        GOOD.replace(",", ";").encode(),
        GOOD.replace(",", ";").replace(".", ",").encode(),
        GOOD.replace(",", "\t").encode(),
        GOOD.replace(",", " | ").encode(),
        GOOD.replace("\n", "\r\n").encode(),
        GOOD.replace("\n", "\r").encode(),
        GOOD.rstrip("\n").encode(),
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.encode("utf-16"),
        gzip.compress(GOOD.encode(), mtime=0),
        b"\n  \n" + GOOD.replace("\n", "\n\n").encode(),
        GOOD.replace("\n", ",\n").replace("loss,", "loss").encode(),
        b"," + GOOD.replace("\n", "\n9,", 3).encode(),
        GOOD.replace(",", ", ").encode(),
        (GOOD + ",,,\n,,,\n").encode(),
        GOOD.replace("train_loss", '"train_loss"').replace("2.3", '"2.3"').encode(),
    ],
)
def test_one_table_in_many_dialects(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "curves.csv"
    file.write_bytes(text)
    frame, notes = curve_csv.read(file)
    assert notes == []
    assert frame["run"].tolist() == [0, 0, 0] and frame["step"].tolist() == [0, 1, 2]
    assert frame["train_loss"].tolist() == [2.3, 1.5, 1.0] and frame["lr"].tolist() == [0.1] * 3
    assert verdicts(frame)["run"].tolist() == [0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("run,lr,step,train_loss\n", "names its columns and has no rows"),
        ("run,lr,step,train_loss", "names its columns and has no rows"),
        ("0,0.1,0,2.3\n0,0.1,1,1\n", "its first line is 0, 0.1, 0, 2.3; it must name the columns"),
        (GOOD.replace("lr", "gamma"), "read as CSV, the learning rate is not in it; add it, for e"),
        (GOOD.replace("train_loss", "metric"), "none of its columns is a loss by its name; --col"),
        (GOOD.replace("step", "row"), "has no column step or epoch; run, lr, train_loss, and step"),
        (GOOD.replace("step", "lr"), "two columns are called lr; keep one"),
        (GOOD.replace("1.5", "1.5x"), "train_loss='1.5x' in line 3: must be a number, or empty"),
        ("\n" + GOOD.replace("1.5", "x"), "train_loss='x' in line 4: must be a number"),
        (GOOD.replace("1.5", "true"), "train_loss='true' in line 3: must be a number"),
        (GOOD.replace("1.5", '"1,5"'), "train_loss='1,5' in line 3: has a comma; write numbers"),
        (
            GOOD.replace(",", ";").replace("0.1", "0,1,2"),
            "lr='0,1,2' in line 2: has a comma; write numbers with a decimal point, like 0.52",
        ),
        (GOOD.replace("1.5", "1,5"), "line 3 has 5 cells, not 4; a decimal comma makes two cells"),
        (GOOD.replace(".", ","), "rows have more cells than its columns have names; a decimal"),
        (GOOD.replace("1.5", '"1.5'), "is no table that can be read (EOF inside string"),
        (GOOD.replace("2.3", "\0"), "is no text"),
        ("PK\x03\x04rest", "is a workbook or an archive; save its table as CSV"),
    ],
)
def test_a_broken_csv_is_one_line(run: Any, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "curves.csv"
    file.write_text(text)
    code, out, err = run(file)
    assert (code, out) == (2, "")
    assert message in err and err.startswith(f"lrlab: {file}: ") and err.count("\n") == 1


def test_a_torn_last_line_is_left_out_and_told(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "curves.csv"
    for torn in ("0,0.1,3", '0,0.1,3,"0.', "0"):
        file.write_text(GOOD + torn)
        frame, notes = curve_csv.read(file)
        assert len(frame) == 3
        assert notes == [f"{file}: its last line is incomplete ({torn}) and was left out"]
    code, out, err = run(file)
    assert code == 0 and err == f"lrlab: {notes[0]}\n" and "answer" in out


def test_a_damaged_gzip_is_one_line(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "curves.csv.gz"
    whole = gzip.compress(GOOD.encode() * 50)
    for damaged in (whole[:40], whole[:20] + b"\xff" * 20 + whole[40:], b"\x1f\x8b"):
        file.write_bytes(damaged)
        code, out, err = run(file)
        assert (code, out) == (2, "") and "gzip file" in err and err.count("\n") == 1


def test_runs_may_be_names_that_look_like_anything(tmp_path: Path) -> None:
    file = tmp_path / "curves.csv"
    file.write_text("run,lr,step,train_loss\n1,0.1,0,2\nb,0.1,0,2\n1e3,0.1,0,2\n")
    frame, _ = curve_csv.read(file)
    assert frame["run"].tolist() == ["1", "b", "1e3"]


def test_infinite_and_missing_losses_are_read(tmp_path: Path) -> None:
    file = tmp_path / "curves.csv"
    file.write_text(
        "run,lr,step,train_loss,seed,gain_low,gain_high\n"
        "0,0.1,0,2,0,,\n0,0.1,1,1.5,0,,\n0,0.1,2,1.4,0,0.2,-inf\n1,9,0,2,0,,\n1,9,1,inf,0,,\n"
    )
    found = verdicts(curve_csv.read(file)[0])
    assert found["outcome"].tolist()[1] == "diverged"
    assert found["gain_high"].tolist()[0] == -math.inf


@pytest.mark.default
def test_many_rows_are_read_in_one_piece(tmp_path: Path) -> None:
    """pandas reads large files in parts by itself, whose types then can differ."""
    rows = 300_000
    file = tmp_path / "curves.csv"
    runs = np.where(np.arange(rows) < rows - 1, "7", "x")
    pd.DataFrame({"run": runs, "lr": 0.1, "step": np.arange(rows), "train_loss": 1.5}).to_csv(
        file, index=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame, _ = curve_csv.read(file)
    assert frame["run"].nunique() == 2 and set(map(type, frame["run"])) == {str}


def ends_well(file: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the command; a result, or one line and exit code 2. Returns what it printed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            judge.main([str(file), "--evidence"])
    except SystemExit as end:
        out, err = capsys.readouterr()
        assert end.code == 2 and out == ""
        assert err.startswith("lrlab: ") and err[:-1].isprintable() and err[-1] == "\n"
        return err
    out, err = capsys.readouterr()
    assert "answer  " in out
    return out


SLOW = settings(
    max_examples=60,
    deadline=None,
    database=None,  # it would lie in the repository
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
CELLS = st.one_of(
    st.sampled_from(
        ["", "0", "1", "0.1", "1e-3", "nan", "inf", "-inf", "2.3", "x", '"', '"a,b"', "0,5", "None"]
    ),
    st.floats().map(repr),
    st.text(max_size=4),
)
NAMES = st.sampled_from(
    [
        *("run", "lr", "step", "epoch", "train_loss", "val_loss", "seed", "state", "num_classes"),
        *("initial_loss", "gain_low", "gain_high", "schedule", "a.b", "", "loss", "alpha"),
    ]
)


@SLOW
@given(
    st.lists(NAMES, min_size=0, max_size=9),
    st.lists(st.lists(CELLS, max_size=10), max_size=8),
    st.sampled_from([",", ";", "\t", "|", ", "]),
    st.sampled_from(["\n", "\r\n", "\r", "\n\n"]),
    st.booleans(),
)
def test_any_table_of_cells_ends_in_a_result_or_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    names: list[str],
    rows: list[list[str]],
    delimiter: str,
    end: str,
    needed: bool,
) -> None:
    if needed:
        names = ["run", "lr", "step", "train_loss", *names]
        rows = [[str(i % 2), "0.1", str(i), f"{2 / (i + 1)}", *row] for i, row in enumerate(rows)]
    text = end.join(delimiter.join(line) for line in [names, *rows])
    file = tmp_path / "curves.csv"
    file.write_bytes(text.encode("utf-8", errors="replace"))
    ends_well(file, capsys)


@SLOW
@given(st.binary(max_size=300), st.integers(0, 200), st.booleans())
def test_any_bytes_end_in_a_result_or_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, at: int, inside: bool
) -> None:
    file = tmp_path / "curves.csv"
    whole = FRAME.to_csv(index=False).encode()
    file.write_bytes(whole[:at] + data + whole[at + len(data) :] if inside else data)
    ends_well(file, capsys)


@pytest.mark.full
@SLOW
@given(st.integers(0, 2000))
def test_a_file_cut_anywhere_ends_in_a_result_or_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cut: int
) -> None:
    whole = FRAME.to_csv(index=False)
    file = tmp_path / "curves.csv"
    file.write_text(whole[:cut])
    printed = ends_well(file, capsys)
    rows = whole[:cut].count("\n") - 1
    if rows > 0:
        frame, _ = curve_csv.read(file)
        assert len(frame) in (rows, rows + 1) and "answer" in printed
        pd.testing.assert_frame_equal(frame.iloc[:rows], FRAME.iloc[:rows], check_dtype=False)
