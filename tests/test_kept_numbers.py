"""What lies between a file and a tensor: no class, and no difference of numbers, is lost unsaid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.commands import error

from lrlab import own_data
from lrlab.data import Dataset
from lrlab.data.own import float32, from_python
from lrlab.range_test import batches

pytestmark = pytest.mark.unit

ROWS = 60
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(ROWS, 2))
SECONDS = 1.7e9 + np.arange(ROWS) / 2  # float32 has steps of 128 there


def labelled(texts: list[str], folder: Path, **how: Any) -> tuple[Dataset, list[tuple[str, int]]]:
    """A table with these labels in turn, and which text became which class."""
    cells = [texts[row % len(texts)] for row in range(ROWS)]
    lines = [f"{row * 0.37:.2f},{cell}" for row, cell in enumerate(cells)]
    (folder / "t.csv").write_text("\n".join(["a,y", *lines]), "utf-8")
    how = {"check": True, "standardise": False, **how}
    data = own_data.table(str(folder / "t.csv"), "y", **how)
    x = torch.cat([data.train_x, data.val_x]).flatten()
    y = torch.cat([data.train_y, data.val_y]).flatten()
    found = {cells[round(float(a) / 0.37)]: int(code) for a, code in zip(x, y, strict=True)}
    return data, sorted(found.items())


# --- classes --------------------------------------------------------------------------------------

NOT_ALIKE = "are equal as numbers and taken for classes of their own; write them alike"


@pytest.mark.parametrize(
    ("texts", "classes", "sentence"),
    [
        (["01", "1", "10", "010"], [0, 2, 3, 1], f"'01' and '1' (1 more like these) {NOT_ALIKE}"),
        (["+1", "1", "2"], [0, 1, 2], f"'+1' and '1' {NOT_ALIKE}"),
        (["0", "-0", "3"], [1, 0, 2], f"'-0' and '0' {NOT_ALIKE}"),
        (["1e1", "10", "x"], [1, 0, 2], f"'10' and '1e1' {NOT_ALIKE}"),
        (["1", "1.0", "x"], [0, 1, 2], f"'1' and '1.0' {NOT_ALIKE}"),
        (["é", "e\u0301", "x"], [2, 0, 1], "are taken for classes of their own"),
        (["True", "true", "FALSE"], [1, 1, 0], "'True' and 'true' are taken for one class"),
        # as before: numbers in the order of numbers
        (["1", "10", "2"], [0, 2, 1], ""),
        (["01", "10", "02"], [0, 2, 1], ""),
        (["+1", "-1"], [1, 0], ""),
        (["9007199254740993", "9007199254740992"], [1, 0], ""),
    ],
)
def test_texts_that_differ_are_classes_of_their_own(
    texts: list[str], classes: list[int], sentence: str, tmp_path: Path
) -> None:
    data, found = labelled(texts, tmp_path)
    assert found == sorted(zip(texts, classes, strict=True))
    assert data.num_classes == len(set(classes))
    assert sentence in "; ".join(data.notices) and bool(data.notices) == bool(sentence)


def test_whole_numbers_written_as_floats_are_those_numbers(tmp_path: Path) -> None:
    data, found = labelled(["1", "1.0", "2.00", "10"], tmp_path, task="classification")
    assert found == [("1", 0), ("1.0", 0), ("10", 2), ("2.00", 1)] and data.notices == ()
    data, found = labelled(["1.5", "1.50", "01.5"], tmp_path, task="classification")
    assert found == [("01.5", 0), ("1.5", 1), ("1.50", 1)] and NOT_ALIKE in data.notices[0]
    how = {"sep": "semicolon", "decimal": "comma", "task": "classification", "check": True}
    (tmp_path / "t.csv").write_text("a;y\n" + "1,5;2,0\n2,5;2\n3,5;02\n" * 9, "utf-8")
    data = own_data.table(str(tmp_path / "t.csv"), "y", **how)
    assert data.num_classes == 2 and "'02' and '2'" in data.notices[0]


def test_unchecked_classes_are_merged_with_a_line(tmp_path: Path) -> None:
    data, found = labelled(["01", "1", "2"], tmp_path, check=False)
    assert found == [("01", 0), ("1", 0), ("2", 1)]
    assert data.notices == (
        f"data.path={tmp_path / 't.csv'}: '01' and '1' are taken for one class",
    )


def test_the_tests_labels_are_read_as_the_tables(tmp_path: Path) -> None:
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text("a,y\n" + "1.5,1\n2.5,2\n" * 9, "utf-8")
    for cell, says in (("01", "the label y is 01, an unknown class, in row 2"), ("1.0", None)):
        test.write_text(f"a,y\n1.5,2\n2.5,{cell}\n", "utf-8")
        if says:
            assert says in error(own_data.table, str(train), "y", str(test), check=True)
        else:
            data = own_data.table(str(train), "y", str(test), check=True)
            assert data.test_y.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["1%", "2.5%", "3%"], "write it without %"),
        (['"1,000"', '"2,500"'], "write thousands without separators"),
        (['"1,5"', '"2,25"'], "for decimal commas use data.decimal=comma"),
        (["$3", "$4.50"], "write them as plain numbers"),
        (["3 €", "4 €"], "write them as plain numbers"),
        (["\u22121", "1"], "write them as plain numbers"),
        (["2020-01-01", "2021-01-01"], "write them as plain numbers"),
        (["31.12.2020", "1.1.2021"], "write them as plain numbers"),
    ],
)
def test_quantities_that_became_classes_are_told(
    texts: list[str], says: str, tmp_path: Path
) -> None:
    def notices(**how: Any) -> str:
        cells = "".join(f"{row}.5,{texts[row % len(texts)]}\n" for row in range(ROWS))
        (tmp_path / "t.csv").write_text("a,y\n" + cells, "utf-8")
        return "; ".join(own_data.table(str(tmp_path / "t.csv"), "y", check=True, **how).notices)

    assert says in notices() and f"taken as {len(texts)} classes" in notices()
    assert notices(task="classification") == ""


def test_classes_that_look_a_little_like_quantities(tmp_path: Path) -> None:
    for texts in (["a1", "b2"], ["1-2", "3-4"], ["v1.0", "v2.0"], ["#1", "#2"], ["0", "1"]):
        assert labelled(texts, tmp_path)[0].notices == ()


# --- numbers --------------------------------------------------------------------------------------


def standardised(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    return ((values - of.mean()) / of.std()).astype(np.float32)


def made(x: Any, y: Any, **how: Any) -> Dataset:
    return own_data.make({"x": x, "y": y, "val_x": x[:9], "val_y": y[:9]}, "m", "data", **how)


def test_targets_are_standardised_before_they_are_rounded(tmp_path: Path) -> None:
    truth = standardised(SECONDS, SECONDS)
    name, _ = from_python.write((X, SECONDS), tmp_path)
    pd.DataFrame({"a": X[:, 0], "y": SECONDS}).to_csv(tmp_path / "t.csv", index=False)
    np.savez(tmp_path / "t.npz", x=X, y=SECONDS)
    tensors = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(SECONDS))
    tables = (pd.DataFrame(X, columns=["a", "b"]), pd.Series(SECONDS))
    files = [from_python.write(given, tmp_path)[0] for given in (tensors, tables)]
    assert files == [name, name]
    for read in (
        lambda **how: own_data.arrays(str(tmp_path / name), **how),
        lambda **how: own_data.arrays(str(tmp_path / "t.npz"), **how),
        lambda **how: own_data.table(str(tmp_path / "t.csv"), "y", check=True, **how),
        lambda **how: own_data.make((X, SECONDS), "m", "data", **how),
        lambda **how: own_data.make((X, np.column_stack([SECONDS] * 2)), "m", "data", **how),
    ):
        data = read(standardise_targets=True)
        back = np.array(data.target_mean) + data.target_std * data.train_y.double().numpy()
        assert len(np.unique(data.train_y[:, 0])) == len(data.train_y)
        assert {*np.round(back * 2).flatten().tolist()} <= {*(SECONDS * 2).tolist()}
        assert "has a std of 8.66 around 1.7e+09, where float32 has steps of 128" in error(read)
        assert "use data.standardise_targets=true" in error(read)
    data = made(X, SECONDS, standardise_targets=True)
    np.testing.assert_array_equal(data.train_y[:, 0].numpy(), truth)
    np.testing.assert_array_equal(data.val_y[:, 0].numpy(), truth[:9])


def test_inputs_are_standardised_before_they_are_rounded(tmp_path: Path) -> None:
    x, y = np.column_stack([X, SECONDS]), X[:, 0] + 1
    frame = pd.DataFrame(x, columns=["a", "b", "t"]).assign(y=y)
    frame.to_csv(tmp_path / "t.csv", index=False)
    says = "has a std of 8.66 around 1.7e+09, where float32 has steps of 128; use data.standardise"
    for read, name in (
        (lambda **how: own_data.make((x, y), "m", "data", **how), "x[:, 2]"),
        (lambda **how: own_data.table(str(tmp_path / "t.csv"), "y", **how), "column t"),
    ):
        assert f"{name} {says}=true" in error(read, standardise=False)
        data = read(standardise=True)
        inputs = torch.cat([data.train_x, data.val_x]).double()[:, 2]
        assert len(inputs.unique()) == ROWS
        np.testing.assert_allclose(inputs.sort()[0].diff(), 0.5 / SECONDS.std(), rtol=0.05)
    whole = np.column_stack([SECONDS, SECONDS]).astype(np.int64)
    assert "x[:, 0] has a std" in error(own_data.make, (whole, y), "m", "data")
    images = SECONDS[:, None, None, None] + np.zeros((1, 3, 2, 2))
    assert "x[:, 0] has a std" in error(own_data.make, (images, y), "m", "data")


@pytest.mark.parametrize("offset", [0.0, 3.0, 2015.0, 1e4])
def test_what_float32_holds_keeps_its_bits(offset: float) -> None:
    """The targets are rounded first where that loses nothing, as they were in older records."""
    y = DRAW.normal(size=ROWS) + offset
    rounded = y.astype(np.float32).astype(np.float64)
    data = made(X, y, standardise_targets=True)
    np.testing.assert_array_equal(data.train_y[:, 0].numpy(), standardised(rounded, rounded))
    assert data.sha256 == made(X, y.astype(np.float32), standardise_targets=True).sha256
    assert made(X, y).train_y[:, 0].tolist() == y.astype(np.float32).tolist()
    assert float32.narrowed(torch.from_numpy(y)).dtype == torch.float32


def test_large_numbers_that_float32_holds_are_taken() -> None:
    y = 2.0**30 + 128 * np.arange(ROWS)  # its steps
    for targets in (y, y.astype(np.float32)):
        assert made(X, targets).train_y[:, 0].tolist() == y.tolist()
    noise = 0.1 * 3 + 2e-17 * np.arange(ROWS)  # no more than float64 rounds
    made(np.column_stack([X, noise]), X[:, 0])
    made(np.column_stack([X, np.full(ROWS, 1.7e9 + 1)]), X[:, 0])
    assert made(X, np.where(np.arange(ROWS) % 2, 0.1 + 0.2, 0.3)).notices[0].startswith("data: all")


def test_the_callers_own_arrays_are_left_as_they_are() -> None:
    """Standardised in place, they were standardised once more by the next run."""
    x, y = torch.from_numpy(X.copy()), torch.from_numpy(SECONDS.copy())[:, None]
    parts = {"x": x, "y": y, "val_x": x[:9].clone(), "val_y": y[:9].clone()}
    before = {key: part.clone() for key, part in parts.items()}
    for _ in range(2):
        own_data.make(parts, "m", "data", standardise=True, standardise_targets=True)
    assert all(torch.equal(parts[key], before[key]) for key in parts)


def test_few_values_that_are_left_of_many_are_told(tmp_path: Path) -> None:
    gaps = np.where(np.arange(ROWS) % 9, SECONDS, 0.0)
    says = "different values, and float32 keeps 2 of them"
    assert says in made(X, gaps).notices[0]
    x = np.column_stack([X, gaps])
    told = made(x, X[:, 0] + 1, standardise=True).notices[0]
    assert "x[:, 2] has 54 different values, and float32 keeps" in told
    pd.DataFrame(x, columns=["a", "b", "t"]).assign(y=X[:, 0] + 1).to_csv(tmp_path / "t.csv")
    (line,) = own_data.table(str(tmp_path / "t.csv"), "y", check=True).notices[1:]
    assert "column t has 48 different values" in line  # of those that are trained on
    assert made(X, DRAW.normal(size=ROWS)).notices[1:] == ()


def test_constant_targets_are_no_regression(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": X[:, 0], "y": 3.5, "z": X[:, 1]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    read = str(tmp_path / "t.csv")
    says = "the label y is 3.5 in each row"
    assert f"{says}; there is nothing to learn" in error(own_data.table, read, "y", check=True)
    assert says in own_data.table(read, ["y", "z"], check=True).notices[0]
    own_data.table(read, "y")  # as older records mean it
    # a network may compute what is to be 0
    says = "data: all targets are 3.5, so a network needs no input to predict them"
    assert says in made(X, np.full(ROWS, 3.5)).notices
    assert "are (0, 1)," in "; ".join(made(X, np.tile([0.0, 1.0], (ROWS, 1))).notices)


def test_tables_from_python(tmp_path: Path) -> None:
    x = pd.DataFrame(X, columns=["a", "b"])
    texts = pd.Series(["01", "1"] * (ROWS // 2))
    for given, says in (
        (texts.to_frame("y"), "column y of y holds no numbers (str)"),
        (texts.astype(object).to_frame("y"), "column y of y holds no numbers (object)"),
        (texts.astype("category").to_frame("y"), "column y of y holds no numbers (category)"),
        (pd.DataFrame({"p": 1.5 * x["a"], "q": texts}), "column q of y holds no numbers (str)"),
        (pd.Series([0, None] * (ROWS // 2), dtype="Int64"), "y is empty in row 1"),
        (pd.DataFrame({"p": [0.5, None] * (ROWS // 2)}), "y is empty in row 1"),
    ):
        assert says in error(from_python.write, (x, given), tmp_path)
    bits = pd.DataFrame({"a": np.arange(ROWS) % 2, "b": np.arange(ROWS) % 3 == 0}, dtype="uint8")
    told = own_data.make((bits.to_numpy(), X[:, 0]), "m", "data").notices
    assert "x is uint8 and at most 1, and is divided by 255" in "; ".join(told)


def test_bfloat16_is_standardised() -> None:
    x = torch.from_numpy(X).bfloat16()
    truth = made(x.double(), X[:, 0], standardise=True)
    assert made(x, X[:, 0], standardise=True).sha256 == truth.sha256


def test_find_refuses_arrays_whose_differences_are_lost() -> None:
    for x, y, says in (
        (X, SECONDS, "data: y has a std of 8.66 around 1.7e+09"),
        (np.column_stack([X, SECONDS]), X[:, 0], "give (x - x.mean(0)) / x.std(0)"),
    ):
        assert says in error(batches.of_whole, (x, y), 8, 0, "cpu")


def test_labels_that_are_ids_are_refused() -> None:
    """A network of a billion outputs took all memory there is."""
    y = np.arange(ROWS) % 2 * 10**9
    says = "the largest label is 1000000000, of 2 different ones"
    assert says in error(own_data.make, (X, y), "m", "data")
    assert made(X, np.arange(ROWS) % 2 * 50256).num_classes == 50257
    for given in (-y, -(y // 10**9)):
        says = "classes count from 0, and targets of a regression are floats"
        assert says in error(own_data.make, (X, given), "m", "data")


@pytest.mark.parametrize("bad", [np.nan, -np.inf, 1e39])
@pytest.mark.parametrize("row", [0, 26, 59])
def test_a_number_that_is_none_is_named_by_its_place(bad: float, row: int) -> None:
    spoilt = X.copy()
    spoilt[row, 1] = bad
    for x, y, key in ((spoilt, X[:, 0], "x"), (X, spoilt[:, 1], "y")):
        says = f"{key} has a value that is no finite float32, in sample {row}, counted from 0"
        assert says in error(own_data.make, (x, y), "m", "data", train_size=40, val_size=20)
    if bad != 1e39:  # standardising would spread it over all samples
        says = f"x has a value that is no finite float32, in sample {row}, counted from 0"
        assert says in error(own_data.make, (spoilt, X[:, 0]), "m", "data", standardise=True)
