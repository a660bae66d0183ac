"""Check data given from Python, as ``data=`` of ``lrlab.run_sweep``, and write it to a file."""

from __future__ import annotations

import inspect
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lrlab import records
from lrlab.config import schema
from lrlab.data import Dataset
from lrlab.data.dataset import tensors_sha256
from lrlab.data.own import odd_columns
from lrlab.data.own.parts import (
    IMAGE_ENDINGS,
    PARTS,
    checked_finite,
    named_tensors,
    parts_of,
)
from lrlab.errors import UserError

WHAT_WORKS = "give a choice like data='mnist', or arrays or tensors, data=(x, y)"
_PLAIN = (bool, int, float, str, Path, np.generic, type(None))


def is_arrays(value: Any) -> bool:
    """Whether these are arrays or tensors, as ``own_data.make`` takes them, and not settings."""
    if isinstance(value, Mapping):
        return "_target_" not in value and not value.keys().isdisjoint(PARTS)
    if isinstance(value, tuple | list):
        return any(map(_has_samples, value))
    return _has_samples(value) or (
        hasattr(value, "tensors") and isinstance(value, torch.utils.data.Dataset)
    )


def _has_samples(value: Any) -> bool:
    shape = () if isinstance(value, type) else getattr(value, "shape", ())
    return isinstance(shape, tuple) and shape != ()


def check(data: Any) -> None:
    """Refuse anything but arrays, a choice, a mapping of settings, or the user's code."""
    if isinstance(data, list) and any(
        isinstance(each, tuple | Mapping) and is_arrays(each) for each in data
    ):
        raise UserError(
            "data: is a list of several sets of arrays; a sweep takes one, as data=(x, y), so make "
            "a sweep of each"
        )
    if is_arrays(data):
        return
    if isinstance(data, list) and data and not any(isinstance(each, list) for each in data):
        for each in data:
            check(each)
    elif isinstance(data, str | Path):
        _check_text(str(data))
    elif isinstance(data, Mapping):
        _check_mapping(data)
    elif inspect.isclass(data):
        _check_class(data)
    elif not inspect.isroutine(data):
        raise UserError(f"data: is {_named(data)}; {_remedy(data)}")


def _check_text(text: str) -> None:
    """Refuse the name of a file or folder, which is no choice."""
    file = Path(text)
    if "," in text or (schema.folder("conf") / "data" / f"{text}.yaml").is_file():
        return
    if not text.strip():
        raise UserError(f"data={text!r}: is empty; {WHAT_WORKS}")
    if remedy := of_file(file):
        raise UserError(f"data={text}: is a file or folder; use {remedy}")


def of_file(file: Path) -> str | None:
    """Return how to name the data of a file or folder from Python; None if it has none."""
    name, ending = str(file), file.suffix.lower()
    if ending in (".npz", ".pt", ".pth"):
        return f"data='arrays', data__path={name!r}"
    if ending in (".csv", ".tsv", ".txt", ".gz"):
        tab = ", data__sep='tab'" if ending == ".tsv" else ""
        return f"data='csv', data__path={name!r}, data__label=COLUMN{tab}"
    if ending in (".npy", ".parquet", ".xlsx", ".xls", ".json", ".h5", ".mat", ".pkl", ".feather"):
        return "data=(x, y), with the arrays that you read from it"
    if ending in IMAGE_ENDINGS or "/" in name or "\\" in name:
        folder = name if ending not in IMAGE_ENDINGS else str(file.parent.parent)
        return f"data='image_folder', data__root={folder!r}"
    return None


def _check_mapping(data: Mapping[str, Any]) -> None:
    if not data:
        raise UserError(f"data={{}}: is empty; {WHAT_WORKS}")
    called = _named(data) if type(data) is not dict else "a dict"
    for x, y in (("data", "target"), ("data", "labels"), ("images", "labels"), ("X", "y")):
        bulky = _has_samples(data.get(x)) or isinstance(data.get(x), list | tuple)
        if bulky and y in data:
            raise UserError(
                f"data: is {called} with {x} and {y}; give data=(data[{x!r}], data[{y!r}])"
            )
    for key, value in data.items():
        if _has_samples(value) or not _is_plain(value):
            raise UserError(
                f"data: is {called} in which {str(key)!r} is {_named(value)}; arrays are given as "
                f"a dict with x and y, and if you have them {', '.join(PARTS[2:])}"
            )


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN) or inspect.isclass(value) or inspect.isroutine(value)


def _check_class(code: type) -> None:
    from torch import nn

    name = code.__qualname__
    if issubclass(code, nn.Module):
        raise UserError(f"data={name}: is a network; give network={name}, and {WHAT_WORKS}")
    if issubclass(code, torch.utils.data.Dataset):
        is_known = code.__module__.startswith("torchvision.datasets")
        how = f"data='torchvision', data__dataset={name!r}" if is_known else "data=(x, y)"
        raise UserError(
            f"data={name}: is a class of data sets and holds no data; give the tensors of one, "
            f"or a function that returns them, {how}"
        )


def _named(value: Any) -> str:
    """Describe an object in a few words, without its contents."""
    kind = type(value)
    if isinstance(value, bool | int | float | bytes) and len(repr(value)) <= 20:
        return f"{kind.__name__} {value!r}"
    return f"an object of the type {kind.__name__}"


def _remedy(data: Any) -> str:
    if isinstance(data, Dataset):
        return (
            "give its tensors: data=dict(x=d.train_x, y=d.train_y, val_x=d.val_x, val_y=d.val_y), "
            "or the function that makes it"
        )
    if isinstance(data, torch.utils.data.DataLoader):
        inner = "data.dataset.tensors" if hasattr(data.dataset, "tensors") else "(x, y)"
        return f"lrlab draws its batches itself, so give all samples as tensors, data={inner}"
    if isinstance(data, torch.utils.data.Dataset):
        return "lrlab holds data in memory, so give all samples as two tensors, data=(x, y)"
    if isinstance(data, tuple | list) and any(isinstance(each, list | tuple) for each in data):
        return "give arrays, not lists of numbers: data=(numpy.array(x), numpy.array(y))"
    if hasattr(data, "state_dict"):
        return f"a network or optimizer holds no data; {WHAT_WORKS}"
    if hasattr(data, "__next__"):
        return f"lrlab needs all samples at once, so collect what it yields; {WHAT_WORKS}"
    return WHAT_WORKS


# --- arrays as a file -----------------------------------------------------------------------------


def write(made: Any, folder: Path, exact: bool = False) -> tuple[str, list[str]]:
    """Write arrays of this process into a file that ``own_data.arrays`` reads.

    Args:
        made: as ``own_data.make`` takes it, also with pandas' tables or as torch's TensorDataset.
        folder: an existing one.
        exact: keep targets of float64, for a network of that type.

    Returns:
        name: the file's, which is a hash of the contents: equal arrays have the same.
        said: sentences on what was left out of pandas' tables, or may not be meant.

    Raises:
        UserError: the data cannot be trained on.
        NotWritten: there is no space for it.
    """
    made = tuple(made.tensors) if hasattr(made, "tensors") else made
    if _is_frame(made):
        last = str(made.columns[-1]) if len(made.columns) else "label"
        raise UserError(
            "data: is one table, which does not say which column to predict; give two, like "
            f"data=(table.drop(columns=[{last!r}]), table[{last!r}])"
        )
    if _has_samples(made):
        raise UserError("data: is one array; give inputs and targets, data=(x, y)")
    said: list[str] = []
    if isinstance(made, tuple | list) and len(made) == 2:
        made = {"x": made[0], "y": made[1]}
    if isinstance(made, Mapping):
        made = _of_pandas(made, said)
    elif isinstance(made, tuple | list):
        raise UserError(
            f"data: has {len(made)} parts; give a pair (x, y) or a dict with x and y, and if there "
            f"are any {', '.join(PARTS[2:])}"
        )
    parts = parts_of(made, "data", exact)
    for key, part in parts.items():
        checked_finite(part, key, "data")
    named = [pair for key, part in parts.items() for pair in named_tensors(part, key)]
    # names and contents; bytes of any type, which NumPy may lack
    contents = [t.contiguous().view(-1).view(torch.uint8) for _, t in named]
    head = str([(name, t.dtype, tuple(t.shape)) for name, t in named]).encode()
    digest = tensors_sha256([torch.frombuffer(bytearray(head), dtype=torch.uint8), *contents])
    name = f"data-{digest[:16]}.pt"
    buffer = io.BytesIO()
    torch.save(parts, buffer)
    records.write_bytes(folder / name, buffer.getbuffer())
    return name, said


def _is_frame(value: Any) -> bool:
    return hasattr(value, "columns") and hasattr(value, "iloc")


def _of_pandas(made: Mapping[str, Any], said: list[str]) -> dict[str, Any]:
    """Turn pandas' tables into arrays without saved indices; check their columns and rows."""
    found = dict(made)
    for prefix in ("", "val_", "test_"):
        x: Any = made.get(f"{prefix}x")
        y: Any = made.get(f"{prefix}y")
        names: list[Any] = []
        if _is_frame(x):
            _check_frame(x, y, f"{prefix}x")
            names, lines = odd_columns.without_index(x, list(x.columns))
            if not names:
                raise UserError(f"data: {prefix}x has no columns but a saved index")
            found[f"{prefix}x"] = x if len(names) == len(x.columns) else x[names]
            said += [f"data: {prefix}x: {line}" for line in lines]
        if hasattr(x, "iloc") and hasattr(y, "iloc"):
            _check_rows(x, y, prefix)
        for key in (f"{prefix}x", f"{prefix}y"):
            if hasattr(found.get(key), "to_numpy"):
                found[key] = _numpy(found[key], key)
        if names and not prefix:
            _check_columns(found, names, said)
    return found


def _check_columns(found: Mapping[str, Any], names: list[Any], said: list[str]) -> None:
    x, y = found["x"], np.asarray(found.get("y", 0))
    y = y[:, None] if y.ndim == 1 else y
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        return  # reported later
    y = y.astype(np.int64) if y.dtype == bool else y
    for place, what in odd_columns.repeats(x, y)[:1]:
        raise UserError(
            f"data: column {names[place]} of x {what} the label, so the answer is among the "
            f"inputs; give x.drop(columns=[{names[place]!r}])"
        )
    running = odd_columns.numbering(x)  # reported for the file
    said += [
        f"data: column {names[place]} of x numbers the rows; if it is no feature, give "
        f"x.drop(columns=[{names[place]!r}])"
        for place in odd_columns.numbering(x, names)
        if place not in running
    ]


def _check_frame(x: Any, y: Any, key: str) -> None:
    doubled = x.columns[x.columns.duplicated()]
    if len(doubled):
        raise UserError(
            f"data: {key} has two columns called {doubled[0]}; give each a name of its own"
        )
    for name in x.columns:
        cells = x[name]
        if not odd_columns.is_unnamed(name) and cells.dtype.kind not in "biuf":
            raise UserError(
                f"data: column {name} of {key} holds no numbers ({cells.dtype}); give "
                f"x.drop(columns=[{name!r}]), or make numbers of it"
            )
        if cells.dtype.kind in "biuf" and cells.isna().any():
            row = int(np.argmax(cells.isna().to_numpy()))
            raise UserError(
                f"data: column {name} of {key} is empty in row {row}, counted from 0; fill it, or "
                "leave out the row or the column"
            )


def _check_rows(x: Any, y: Any, prefix: str) -> None:
    """Refuse two tables with the same row names in a different order."""
    mine, other = x.index, y.index
    if len(mine) != len(other) or mine.equals(other) or not (mine.is_unique and other.is_unique):
        return
    if mine.sort_values().equals(other.sort_values()):
        raise UserError(
            f"data: the rows of {prefix}x and {prefix}y have the same index in another order; "
            "bring them into one by y.loc[x.index], or give arrays, as they are by .to_numpy()"
        )


def _numpy(value: Any, key: str) -> np.ndarray:
    array = value.to_numpy()
    if key.endswith("y") and (gaps := value.isna().to_numpy().reshape(len(value), -1).any(1)).any():
        row = int(np.argmax(gaps))
        raise UserError(f"data: {key} is empty in row {row}, counted from 0; fill it")
    if array.dtype.kind not in "biuf" and key.endswith("y") and array.ndim == 1:
        raise UserError(
            f"data: {key} holds no numbers ({value.dtype}); number its classes from 0, like "
            "pandas.factorize(y, sort=True)[0]"
        )
    if key.endswith("y") and array.ndim == 2:
        for name, kind in value.dtypes.items():
            if kind.kind not in "biuf":
                raise UserError(
                    f"data: column {name} of {key} holds no numbers ({kind}); give floats, or of a "
                    f"classification one column, numbered from 0, like pandas.factorize({key}"
                    f"[{name!r}], sort=True)[0]"
                )
    if array.dtype == object:  # columns of several types, all of them numbers
        array = value.astype(np.float64).to_numpy()
    return array
