"""Data of the user's own that cannot work, or hardly: a data set or one line, and no traceback."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.hostile import NUMBERS, cases, damaged, told, values, words
from hypothesis import example, given
from hypothesis import strategies as st

from lrlab import own_data
from lrlab.data import Dataset

pytestmark = pytest.mark.full

GOOD = "a,b,label\n1,0.5,x\n2,1.5,y\n3,0.25,x\n4,-1,y\n5,2,x\n6,3,y\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def judge(read: Callable[..., Dataset], **arguments: Any) -> None:
    """See that data are refused in one line, or can be trained on."""
    made: list[Dataset] = []
    if told(lambda: made.append(read(**arguments))) is None:
        good(made[0])


def good(data: Dataset) -> None:
    for part in ("train", "val", "test"):
        x, y = getattr(data, f"{part}_x"), getattr(data, f"{part}_y")
        assert len(x) == len(y) and x.dtype == torch.float32 and bool(x.isfinite().all())
        if data.num_classes is None:
            assert y.dtype == torch.float32 and y.ndim == 2 and bool(y.isfinite().all())
        elif len(y):
            assert int(y.min()) >= 0 and int(y.max()) < data.num_classes
    assert len(data.train_y) and len(data.val_y) and data.outputs >= 1


# --- tables ---------------------------------------------------------------------------------------

cells = st.one_of(st.sampled_from([*NUMBERS, "x", "y", "true", "2020-01-01"]), words)


@st.composite
def tables(draw: Any) -> bytes:
    """A CSV of a few rows: well-formed, or as somebody wrote it by hand."""
    if draw(st.booleans()):
        return draw(damaged(GOOD.encode()))
    name = st.one_of(st.sampled_from(["a", "label"]), words)
    names = draw(st.lists(name, min_size=1, max_size=4))
    sep = draw(st.sampled_from([",", ",", ";", "\t"]))
    kinds = [draw(st.sampled_from(["number", "class", "any"])) for _ in names]
    rows = [names]
    for row in range(draw(st.integers(0, 8))):
        made = []
        for kind in kinds:
            plain = str(row + 0.5) if kind == "number" else "xyz"[row % 3]
            made.append(draw(cells) if kind == "any" else plain)
        rows.append(made)
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    text = end.join(sep.join(row) for row in rows) + end
    return text.encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-16", "latin-1"])), "replace")


settings_of_a_table = st.fixed_dictionaries(
    {"label": st.one_of(st.just("label"), st.lists(words, max_size=2), values)},
    optional={
        "drop": st.one_of(st.just(["a"]), values),
        "sep": st.one_of(st.sampled_from([*',;\té\n"', r"\s+", "", "ab"]), values),
        "task": st.one_of(st.sampled_from(["classification", "regression"]), values),
        "standardise": values,
        "train_size": values,
        "val_size": st.one_of(st.sampled_from([0.5, 1, 0.999]), values),
        "split_seed": values,
        "path": values,
        "test_path": st.one_of(st.just("table.csv"), values),
        "nonsense": values,
    },
)


MANY = (",".join(f"p{i}" for i in range(785)) + "\n").encode()


@cases(300)
@example(data=b"a\ta\n0.5\t0.5\n", settings={"label": "label"})
@example(data=b"0,1\n0.5,0\n1.5,1\n2.5,0\n", settings={"label": 1})
@example(data=b"a,label\n1e308,x\n-1e308,y\n1e308,x\n1,y\n", settings={"label": "label"})
@example(data=b"a,label\ninf,x\n-inf,y\n1,x\n1,y\n", settings={"label": "label"})
@example(data=MANY, settings={"label": "label"})
@example(data=GOOD.encode(), settings={"label": "label", "task": None})
@example(data=GOOD.encode(), settings={"label": "label", "sep": []})
@example(data=GOOD.encode(), settings={"label": "label", "drop": 5})
@given(data=tables(), settings=settings_of_a_table)
def test_a_table_is_read_or_refused_in_one_line(
    data: bytes, settings: dict[str, Any], folder: Path
) -> None:
    file = folder / "table.csv"
    file.write_bytes(data)
    if settings.get("test_path") == "table.csv":
        settings["test_path"] = str(file)
    judge(own_data.table, **{"path": str(file), **settings})


@cases(60)
@given(data=tables(), label=st.sampled_from(["label", "a", "b"]))
def test_a_table_with_plain_settings(data: bytes, label: str, folder: Path) -> None:
    file = folder / "table.csv"
    file.write_bytes(data)
    judge(own_data.table, path=str(file), label=label)


# --- arrays ---------------------------------------------------------------------------------------


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.arange(12.0).reshape(6, 2), y=np.array([0, 1, 0, 1, 0, 1]))
    return buffer.getvalue()


def pt() -> bytes:
    buffer = io.BytesIO()
    torch.save({"x": torch.arange(12.0).view(6, 2), "y": torch.tensor([0, 1, 0, 1, 0, 1])}, buffer)
    return buffer.getvalue()


@cases(80)
@example(data=npz()[:-30], ending=".npz")
@given(data=st.one_of(damaged(npz()), damaged(pt())), ending=st.sampled_from([".npz", ".pt", ""]))
def test_a_damaged_file_of_arrays(data: bytes, ending: str, folder: Path) -> None:
    file = folder / f"arrays{ending}"
    file.write_bytes(data)
    judge(own_data.arrays, path=str(file))


kinds = ["bool", "uint8", "int8", "int64", "uint64", "float16", "float32", "float64", "complex64"]


@st.composite
def arrays(draw: Any) -> np.ndarray:
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    kind = draw(st.sampled_from([*kinds, "U3", "datetime64[s]", ">f4"]))
    number = draw(st.sampled_from([0, 1, 2, 5, 10**6, 2**40, -1]))
    with np.errstate(all="ignore"):
        return np.full(shape, number).astype(kind)


@cases(80)
@given(
    x=arrays(),
    y=arrays(),
    more=st.dictionaries(st.sampled_from(["val_x", "val_y", "test_x", "test_y", "z"]), arrays()),
    split=st.dictionaries(
        st.sampled_from(["standardise", "train_size", "val_size", "split_seed", "nonsense"]), values
    ),
)
def test_arrays_of_any_shape_and_kind(
    x: Any, y: Any, more: dict[str, Any], split: dict[str, Any], folder: Path
) -> None:
    file = folder / "any.npz"
    np.savez(file, x=x, y=y, **more)
    judge(own_data.arrays, path=str(file), **split)
