"""Tables and arrays as people have them: read as they are meant, or one line; against NumPy."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.commands import command, error, forget
from helpers.images import picture

import lrlab
from lrlab import own_data
from lrlab.config.words import arguments
from lrlab.data import Dataset
from lrlab.data.own import from_python
from lrlab.reproduce import main as reproduce
from lrlab.resume import main as resume
from lrlab.sweep import main as sweep

pytestmark = pytest.mark.unit

QUICK = ("threads=1", "plots=false", "diagnostics=off", "device=cpu")

ROWS = 40
DRAW = np.random.default_rng(0)
PLAIN = pd.DataFrame(
    {
        "a": DRAW.normal(size=ROWS).round(3),
        "b": DRAW.normal(size=ROWS).round(3),
        "y": np.repeat(["cat", "dog"], ROWS // 2),
    }
)
TEXT = PLAIN.to_csv(index=False, lineterminator="\n")
BODY = TEXT.partition("\n")[2]
CODES = PLAIN["y"].map({"cat": 0, "dog": 1})


def read(file: Path, content: str | bytes | pd.DataFrame, label: Any = "y", **how: Any) -> Dataset:
    if isinstance(content, pd.DataFrame):
        content.to_csv(file)
    else:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return own_data.table(str(file), label, standardise=False, **{"check": True, **how})


def rows(data: Dataset) -> list[tuple[float, ...]]:
    """Each sample with its class, in order."""
    x, y = torch.cat([data.train_x, data.val_x]), torch.cat([data.train_y, data.val_y])
    return sorted(zip(*x.T.tolist(), y.tolist(), strict=True))


MEANT = sorted(
    (float(np.float32(a)), float(np.float32(b)), code)
    for a, b, code in zip(PLAIN["a"], PLAIN["b"], CODES, strict=True)
)
SEMICOLONS = PLAIN.to_csv(sep=";", decimal=",", index=False, lineterminator="\n")
MADE: dict[str, tuple[Any, dict[str, Any], str]] = {
    # content, settings, the sentence
    "plain": (TEXT, {}, ""),
    "a saved index": (PLAIN, {}, "the column Unnamed: 0 is a saved index, and left out"),
    "from 1": (PLAIN.set_axis(range(1, ROWS + 1)), {}, "is a saved index, and left out"),
    "shuffled": (PLAIN.sample(frac=1, random_state=0), {}, "is a saved index, and left out"),
    "twice": (PLAIN.reset_index(names="Unnamed: 0"), {}, "Unnamed: 0.1 is a saved index"),
    "semicolons": (SEMICOLONS, {"sep": ";", "decimal": ","}, ""),
    "by name": (SEMICOLONS, {"sep": "semicolon", "decimal": "comma"}, ""),
    "tab": (TEXT.replace(",", "\t"), {"sep": r"\t"}, ""),
    "blanks": (TEXT.replace(",", "   "), {"sep": "blanks"}, ""),
    "no header": (BODY, {"label": "2", "header": False}, ""),
    "blanks in names": (TEXT.replace("a,b,y", "a , b, y "), {}, ""),
    "blanks in classes": (TEXT.replace("dog", "dog ", 3), {}, "'dog' with spaces after it"),
    "BOM": ("\ufeff" + TEXT, {}, ""),
    "UTF-16": (TEXT.encode("utf-16"), {}, ""),
    "CRLF": (TEXT.replace("\n", "\r\n"), {}, ""),
    "quotes": (TEXT.replace("dog", '"dog"'), {}, ""),
    "surplus separators": (TEXT.replace("\n", ",\n"), {}, "an empty column without a name"),
    "of rows alone": ("a,b,y\n" + BODY.replace("\n", ",\n"), {}, ""),
    "empty rows": (TEXT + "\n\n,,\n,,\n", {}, "the last 2 rows are empty, and left out"),
    "floats": (PLAIN.assign(y=CODES * 1.0), {"task": "classification"}, "saved index"),
    "called nan": (TEXT.replace("dog", "nan"), {}, ""),
}


@pytest.mark.parametrize("kind", MADE)
def test_a_table_is_read_as_it_is_meant(kind: str, tmp_path: Path) -> None:
    content, how, sentence = MADE[kind]
    data = read(tmp_path / "t.csv", content, **how)
    assert rows(data) == MEANT
    said = "; ".join(data.notices)
    assert sentence in said and bool(said) == bool(sentence)


@pytest.mark.parametrize("name", ["None", "NA", "N/A", "null", "NaN"])
def test_a_class_may_be_called_none(name: str, tmp_path: Path) -> None:
    data = read(tmp_path / "t.csv", TEXT.replace("dog", name))
    first = (pd.Series([name, "cat"]).sort_values() == name).to_numpy()[0]
    assert rows(data) == sorted((a, b, code ^ int(first)) for a, b, code in MEANT)
    path = str(tmp_path / "t.csv")
    tested = own_data.table(path, "y", path, check=True)
    assert tested.test_y.tolist() == [code ^ int(first) for code in CODES]


def test_packed_files_are_read(tmp_path: Path) -> None:
    packed = gzip.compress(TEXT.encode())
    assert rows(read(tmp_path / "t.csv.gz", packed)) == MEANT
    assert "let its name end in .gz" in error(read, tmp_path / "t.csv", packed)


def cell(text: str) -> str:
    return TEXT + f'"{text}",1,cat\n'


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "a copy": (PLAIN.assign(y=CODES, z=CODES), {}, "column z equals the label y"),
    "codes": (PLAIN.assign(z=3 - 2 * CODES), {}, "column z is one-to-one with the label y"),
    "of a regression": (PLAIN.assign(z=PLAIN["a"]), {"label": "z", "drop": ["y"]}, "a equals"),
    "two labels": (TEXT.replace("a,b", "a,y"), {}, "2 columns are called y"),
    "and a blank": (TEXT.replace("a,b", "a,y "), {}, "2 columns are called y"),
    "two features": (TEXT.replace("a,b", "a,a"), {}, "2 columns are called a"),
    "label dropped": (TEXT, {"drop": ["y"]}, "data.drop=[y]: y is the label"),
    "all dropped": (TEXT, {"drop": ["a", "b"]}, "must leave features"),
    "none dropped": (TEXT, {"drop": ["c"]}, "data.drop=c: no such column"),
    "label twice": (TEXT, {"label": ["y", "y"]}, "names y twice"),
    "semicolons": (SEMICOLONS, {}, "suggests data.sep=semicolon"),
    "tabs": (TEXT.replace(",", "\t"), {}, "suggests data.sep=tab"),
    "decimal commas": (SEMICOLONS, {"sep": ";"}, "use data.decimal=comma"),
    "both commas": (TEXT, {"decimal": "comma"}, "data.decimal=comma: must differ from data.sep=,"),
    "Excel's line": ("sep=;\n" + SEMICOLONS, {"sep": ";"}, "take that line out"),
    "no header": (BODY, {"label": "cat"}, "or use data.header=false"),
    "of numbers": (BODY.replace("cat", "0").replace("dog", "1"), {"label": "0"}, "looks like data"),
    "no class": (TEXT.replace("dog", "", 1), {}, "the label y is empty, in row 21"),
    "no number": (PLAIN.assign(y=CODES.where(CODES.index != 9)), {}, "y is empty in row 10"),
    "latin-1": (TEXT.replace("dog", "Löwe").encode("latin-1"), {}, "is no text in UTF-8"),
    "a workbook": (b"PK\x03\x04" + b"\0" * 9, {}, "is a spreadsheet or a zip file"),
    "surplus": ("a,b,y\n" + BODY.replace("\n", ",5\n"), {}, "names 3 columns, and rows have 4"),
    "thousands": (cell("12,345,678"), {}, "write thousands without separators"),
    "per cent": (cell("12%"), {}, "write it without %"),
    "infinite": (cell("-inf"), {}, "column a holds -inf, no finite float32, in row 41"),
    "missing": (cell("NA"), {}, "column a is empty in row 41"),
    "a date": (cell("2020-01-01"), {}, "holds '2020-01-01' in row 41, no number"),
    "underscores": (cell("1_000"), {}, "holds '1_000' in row 41"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_table_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    content, how, says = REFUSED[kind]
    assert says in error(read, tmp_path / "t.csv", content, **how)


def test_headers_of_numbers_that_are_names(tmp_path: Path) -> None:
    for names, label in (("0,1,2", 2), ("1990,1991,y", "y"), ("400.5,401.2,y", "y")):
        assert rows(read(tmp_path / "t.csv", f"{names}\n{BODY}", label)) == MEANT


def test_what_may_not_be_meant_is_said(tmp_path: Path) -> None:
    def said(frame: pd.DataFrame, **how: Any) -> str:
        return "; ".join(read(tmp_path / "t.csv", frame.to_csv(index=False), **how).notices)

    assert "column t numbers the rows" in said(PLAIN.assign(t=range(7, 7 + ROWS)))
    assert "by data.drop=[id]" in said(PLAIN.assign(id=DRAW.permutation(ROWS)))
    assert said(PLAIN.assign(width=DRAW.permutation(ROWS))) == ""
    assert "use data.task=classification" in said(PLAIN.assign(y=CODES * 1.0))
    assert "'Dog' and 'dog' are taken for classes" in said(PLAIN.replace({"y": {"cat": "Dog"}}))
    path = str(tmp_path / "t.csv")
    assert "so it is no test" in own_data.table(path, "y", path, check=True).notices[0]


def test_without_check_each_column_is_taken(tmp_path: Path) -> None:
    frame = PLAIN.assign(code=CODES)
    data = read(tmp_path / "t.csv", frame, check=False)
    x = torch.cat([data.train_x, data.val_x])
    assert data.notices == () and x.shape == (ROWS, 4)
    assert sorted(x[:, 0].tolist()) == list(range(ROWS))


def test_signs_need_no_quotes_on_the_command_line() -> None:
    for sign in (";", "|", " ", "\\t", "\\s+", "\t", ","):
        (word,) = list(arguments.read([f"data.sep={sign}"]).for_hydra)
        override = arguments._parse(word)
        assert override is not None and override.value() == sign
    for word in ("data.sep=tab", "data.sep=';'", "lr=0.1,1"):
        assert list(arguments.read([word]).for_hydra) == [word]


# --- records of a time when each column was taken -------------------------------------------------


@pytest.mark.full
def test_an_older_sweep_keeps_its_columns(tmp_path: Path) -> None:
    PLAIN.to_csv(tmp_path / "t.csv")
    words = ["data=csv", "data.path=t.csv", "data.label=y", "network=perceptron", "batch_size=16"]
    words += ["lr=0.01,0.1", "epochs=1", "name=old", "data.check=false", *QUICK]
    assert command(sweep, words, tmp_path).code == 0
    folder = tmp_path / "outputs/old"
    for file in [*folder.rglob("*.yaml")]:
        lines = file.read_text("utf-8").replace(",data.check=false", "").splitlines(True)
        later = ("check: false", "decimal: point", "header: true", "- data.check=false")
        kept = [line for line in lines if line.strip() not in later]
        file.write_text("".join(kept), "utf-8")
    for run in "01":
        forget(folder / run / "summary.json", "data.check")
    again = command(reproduce, ["outputs/old/1"], tmp_path)
    assert again.code == 0 and "bitwise" in again.out and "saved index" not in again.err
    more = command(resume, ["outputs/old", "lr=0.01,0.1,1"], tmp_path)
    assert more.code == 0, more.err
    again = command(reproduce, ["outputs/old/2"], tmp_path)
    assert again.code == 0 and "bitwise" in again.out
    best = ["--config-dir", "outputs/old", "--config-name", "best", "name=best", *QUICK]
    if (folder / "best.yaml").is_file():
        done = command(sweep, best, tmp_path)
        assert done.code == 0 and "saved index" not in done.err


# --- arrays, and what is given from Python --------------------------------------------------------

X = np.column_stack([PLAIN["a"], PLAIN["b"]])
Y = CODES.to_numpy()


def test_arrays_with_the_labels_among_them_are_told() -> None:
    def said(x: Any, y: Any = Y) -> str:
        return "; ".join(own_data.make((x, y), "m", "data").notices)

    assert said(X) == said(torch.from_numpy(X)) == ""
    assert "x[:, 2] equals the labels" in said(np.column_stack([X, Y]))
    assert "x[:, 0] is one-to-one with the labels" in said(np.column_stack([5 - 3 * Y, X]))
    assert "x[:, 2] numbers the samples" in said(np.column_stack([X, np.arange(ROWS)]))
    assert "x[:, 1] equals the labels" in said(X, X[:, 1].astype(np.float32))
    assert said(np.arange(ROWS)) == ""  # all that there is


def test_pandas_tables_are_judged(tmp_path: Path) -> None:
    x = PLAIN[["a", "b"]]
    name, said = from_python.write((x, CODES), tmp_path)
    index = x.reset_index(names="Unnamed: 0")
    assert from_python.write((index, CODES), tmp_path) == (
        name,
        ["data: x: the column Unnamed: 0 is a saved index, and left out"],
    )
    assert said == []
    for given, says in (
        ((PLAIN.assign(y=CODES), CODES), "column y of x equals the label"),
        ((x.assign(z=3 - CODES), CODES), "column z of x is one-to-one with the label"),
        ((PLAIN[["a", "a"]], CODES), "x has two columns called a"),
        ((PLAIN, CODES), "column y of x holds no numbers"),
        ((x, PLAIN["y"]), "number its classes from 0, like pandas.factorize"),
        ((x, CODES.sample(frac=1, random_state=0)), "the same index in another order"),
        ((x.where(x > -1), CODES), "of x is empty in row"),
        (x, "is one table, which does not say which column to predict"),
        (X, "is one array; give inputs and targets"),
    ):
        assert says in error(from_python.write, given, tmp_path)


class Bunch(dict):  # type: ignore[type-arg]
    """As scikit-learn's."""


class Stream(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """As somebody writes one."""


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Bunch(data=X, target=Y, frame=None), "with data and target; give data=(data['data']"),
        ({"images": X, "labels": Y}, "give data=(data['images'], data['labels'])"),
        ({"a": X}, "in which 'a' is an object of the type ndarray"),
        ({}, "is empty"),
        (3, "is int 3"),
        (True, "is bool True"),
        ([3], "is int 3"),
        ((n for n in range(3)), "collect what it yields"),
        (torch.utils.data.DataLoader(Stream()), "lrlab draws its batches itself"),  # type: ignore[arg-type]
        (Stream(), "give all samples as two tensors"),
        (Stream, "is a class of data sets and holds no data"),
        (torch.nn.Linear(2, 2), "a network or optimizer holds no data"),
        (torch.nn.Linear, "is a network"),
        (([1.0], [0]), "numpy.array(x)"),
        ((X, Y, Y), "has 3 parts"),
        ("points.npz", "use data='arrays', data__path='points.npz'"),
        (Path("pets.csv"), "use data='csv', data__path='pets.csv', data__label=COLUMN"),
        (" ", "is empty"),
        (math, "of the type module"),
        (SimpleNamespace(shape=3), "of the type SimpleNamespace"),
    ],
)
def test_what_is_no_data_is_refused_at_once(given: Any, says: str) -> None:
    message = error(lrlab.run_sweep, data=given, lr=0.1)
    assert message.startswith("data") and says in message and len(message) < 260


# --- folders of images, and files of arrays -------------------------------------------------------


def test_what_lies_in_a_folder_and_is_no_class_is_said(tmp_path: Path) -> None:
    for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
        picture(tmp_path / "a" / name, np.full((4, 4), 7))
    folder = str(tmp_path / "a")
    assert own_data.image_folder(folder, val_size=1).notices == ()
    (tmp_path / "a" / "cat" / "._1.png").write_bytes(b"of a Mac")
    (tmp_path / "a" / "bird").mkdir()
    picture(tmp_path / "a" / "cover.png", np.full((4, 4), 7))
    data = own_data.image_folder(folder, folder, val_size=1)
    assert len(data.train_x) == 3 and data.num_classes == 2
    said = "; ".join(data.notices)
    assert "1 images outside the class folders are left out" in said
    assert "folders without images are left out: bird" in said and "so it is no test" in said
    for name in ("train/cat/1.png", "test/cat/1.png", "train/dog/1.png", ".old/1.png"):
        picture(tmp_path / "b" / name, np.full((4, 4), 7))
    said = "; ".join(own_data.image_folder(str(tmp_path / "b"), val_size=1).notices)
    assert "test and train are taken for classes; if they are parts, use data.root=" in said
    assert "the hidden folder .old is taken for a class" in said


def test_clumsy_settings_of_images_and_arrays(tmp_path: Path) -> None:
    assert "data.root=3: must be a folder's name" in error(own_data.image_folder, 3)
    assert "data.dataset=3: must be the name" in error(own_data.torchvision_set, 3)
    says = error(own_data.torchvision_set, "FakeData", str(tmp_path), "yes")
    assert says == "data.download=yes: must be true or false"
    says = error(own_data.torchvision_set, "FakeData", str(tmp_path), False, "x")
    assert says.startswith("data.arguments=x: must be a mapping")
    np.savez(tmp_path / "a.npz", X=X, labels=Y)
    assert error(own_data.arrays, str(tmp_path / "a.npz")).endswith("; it has X, labels")
    assert "no features" in error(own_data.make, (X[:, :0], Y), "m", "data")
    same = own_data.make({"x": X, "y": Y, "val_x": X, "val_y": Y}, "m", "data")
    assert same.notices == (
        "data: val_x is the same as x, so it measures the loss on trained samples",
    )
