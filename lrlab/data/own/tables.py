"""Turn CSV files into parts of a data set: which columns are features, which classes exist."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lrlab.config.schema import nearest, no_such
from lrlab.data.own import odd_columns
from lrlab.data.own.csv_file import Form, Table, listed, reads_as_number
from lrlab.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

TASKS = ("auto", "classification", "regression")
# A float label with so few values, all whole, may be meant as classes.
FEW_VALUES, FEW_EACH = 10, 10
_DECORATED = re.compile(
    r"[-+−]?[$€£¥₹]? ?[-+−]?\d[\d.,' \u00a0\u202f]*(e[-+]?\d+)? ?[%$€£¥₹]?", re.IGNORECASE
)
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?([ T].*)?|\d{1,4}([./])\d{1,2}\2\d{2,4}( .*)?")


def read(
    path: str,
    label: str | Sequence[str],
    test_path: str | None,
    drop: Sequence[str],
    how: Form,
    task: str,
) -> tuple[dict[str, Any], list[str], dict[str, list[str]]]:
    """Return the parts of a CSV and of the test's, with notes; see ``own_data.table``.

    Returns:
        parts: x (rows, features) float64, y (rows,) int64 classes or (rows, labels) float64, and
            the same of the test.
        said: sentences.
        names: the columns of x and y.

    Raises:
        UserError: see ``own_data.table``.
    """
    if task not in TASKS:
        raise UserError(no_such(f"data.task={task}", "task", task, TASKS))
    labels, dropped = _column_names("label", label, how), _column_names("drop", drop, how)
    said: list[str] = []
    tables = {"": Table("data.path", path, how, said)}
    if test_path is not None:
        tables["test_"] = Table("data.test_path", test_path, how, said)
        if how.check and tables["test_"].file.samefile(tables[""].file):
            said.append(f"data.test_path={test_path}: is the file of data.path, so it is no test")
    frame = tables[""].frame
    columns = [str(name) for name in frame.columns]
    for key, names in (("label", labels), ("drop", dropped)):
        for name in names:
            if name not in columns:
                raise UserError(
                    f"data.{key}={name}: no such column in {path}{nearest(name, columns)}; "
                    f"it has {listed(columns)}"
                )
    if doubled := [name for name, count in Counter(labels).items() if count > 1]:
        raise UserError(f"data.label={label}: names {doubled[0]} twice; name each column once")
    if both := [name for name in dropped if name in labels]:
        raise UserError(
            f"data.drop=[{','.join(dropped)}]: {both[0]} is the label; take it out of data.drop, "
            "because the label is never a feature"
        )
    features = [name for name in columns if name not in (*labels, *dropped)]
    if how.check:
        features, lines = odd_columns.without_index(frame, features)
        said += [f"data.path={path}: {line}" for line in lines]
    if not features or not labels:
        raise UserError(f"data.label={label}: must leave features, of {listed(columns)}")
    if how.check and "test_" in tables:
        more = [str(n) for n in tables["test_"].frame.columns if str(n) not in columns]
        if more := [name for name in more if not odd_columns.is_unnamed(name)]:
            said.append(f"data.test_path={test_path}: {listed(more)} left out, {path} lacks it")

    is_float = any(frame[name].dtype.kind == "f" for name in labels)
    regression = task == "regression" or (task == "auto" and (len(labels) > 1 or is_float))
    if len(labels) > 1 and not regression:
        raise UserError(f"data.label={label}: a classification has one label")
    parts: dict[str, Any] = {}
    classes = None
    texts = {} if regression else _numbers_as_texts(tables, labels[0], how, said)
    for prefix, one in tables.items():
        if missing := [name for name in (*features, *labels) if name not in one.frame]:
            raise UserError(f"{one.option}: has no column {missing[0]}, which {path} has")
        parts[f"{prefix}x"] = _numbers(one, features, "{}")
        if regression:
            parts[f"{prefix}y"] = _numbers(one, labels, "a regression needs numbers")
            continue
        cells: Any = texts.get(prefix, one.frame[labels[0]])
        if how.check and not texts:
            cells = _classes_as_meant(one, labels[0], tables[""], said)
        if classes is None:
            classes = sorted(cells.dropna().unique().tolist())
            said += _of_quantities(classes, labels[0], task, one) if how.check else []
        parts[f"{prefix}y"] = _classes(cells, labels[0], classes, one.option)
    if how.check:
        y = parts["y"] if parts["y"].ndim == 2 else parts["y"][:, None]
        if regression and len(y) > 1:
            said += _of_constants(y, labels, path)
        if found := odd_columns.repeats(parts["x"], y):
            place, what = found[0]
            is_other = classes is not None and isinstance(classes[0], str)
            what = "is one-to-one with" if is_other else what
            raise UserError(
                f"data.path={path}: column {features[place]} {what} the label {labels[0]}, so the "
                f"answer is among the inputs; leave it out by {drop_word(features[place])}, or "
                "keep it by data.check=false"
            )
        said += _of_label(parts["y"], labels, task, classes)
        said += [
            f"data.path={path}: column {features[place]} numbers the rows, and is taken as a "
            f"feature; leave it out by {drop_word(features[place])} unless it is one"
            for place in odd_columns.numbering(parts["x"], features)
        ]
    return parts, said, {"x": features, "y": labels}


def drop_word(name: str) -> str:
    """Return the option that leaves a column out, as one types it in a shell."""
    if re.fullmatch(r"[\w.-]+", name):
        return f"data.drop=[{name}]"
    escaped = name.replace("\\", "\\\\").replace('"', '\\"').replace("'", "'\\''")
    return f"""'data.drop=["{escaped}"]'"""


# --- columns --------------------------------------------------------------------------------------


def _column_names(key: str, given: Any, how: Form) -> list[str]:
    """Return the column names of one name or several; a column may be called 3."""
    names = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if not all(isinstance(name, str | int) and not isinstance(name, bool) for name in names):
        raise UserError(
            f"data.{key}={given}: must be a column's name or a list of them, like data.{key}=[a,b]"
        )
    return [str(name).strip() if how.check else str(name) for name in names]


def _numbers(table: Table, names: Sequence[str], remedy: str) -> np.ndarray:
    """Return columns of numbers, (rows, columns) float64."""
    frame, option = table.frame, table.option
    for name in names:
        column, drop = frame[name], drop_word(name)
        if column.dtype.kind not in "biuf":
            cells = column.tolist()
            wrong = (row for row, cell in enumerate(cells) if not reads_as_number(cell))
            row = next(wrong, max(range(len(cells)), key=lambda row: len(str(cells[row]))))
            if _is_missing(cells[row]):
                raise _empty(option, name, row)
            raise UserError(
                f"{option}: column {name} holds {cells[row]!r} in row {row + 1}, no number; "
                + _advice(cells[row], table.how, remedy.format(f"leave it out by {drop}"))
            )
        if column.hasnans:
            row = next(i for i, cell in enumerate(column.tolist()) if cell != cell)
            raise _empty(option, name, row)
        if column.dtype.kind == "f" and np.isinf(values := column.to_numpy()).any():
            row = int(np.isinf(values).argmax())
            raise UserError(
                f"{option}: column {name} holds {values[row]}, no finite float32, in row "
                f"{row + 1}; put a number there, or leave out the row or the column ({drop})"
            )
    return frame[list(names)].to_numpy(dtype=np.float64)


def _empty(option: str, name: str, row: int) -> UserError:
    return UserError(
        f"{option}: column {name} is empty in row {row + 1}; fill it, or leave out the row "
        "or the column (data.drop)"
    )


def _is_missing(cell: Any) -> bool:
    return cell is None or cell != cell


def _advice(cell: Any, how: Form, remedy: str) -> str:
    """Return advice about a cell that is no number."""
    text = str(cell).strip()
    if how.decimal == "." and re.fullmatch(r"[-+]?\d*,\d+(e[-+]?\d+)?", text, re.IGNORECASE):
        if not re.fullmatch(r"[-+]?[1-9]\d{0,2},\d{3}", text):
            return f"for decimal commas use data.decimal=comma, else {remedy}"
        return (
            "write thousands without separators, for decimal commas use data.decimal=comma, "
            f"else {remedy}"
        )
    if re.fullmatch(r"[-+]?\d{1,3}([,. '_]\d{3})+([.,]\d*)?", text):
        return f"write thousands without separators, or {remedy}"
    if re.fullmatch(r"[-+]?[\d.,]+ ?%", text):
        return f"write it without %, or {remedy}"
    return remedy


# --- classes --------------------------------------------------------------------------------------


def _numbers_as_texts(
    tables: Mapping[str, Table], name: str, how: Form, said: list[str]
) -> dict[str, pd.Series]:
    """Return the label's cells as texts, if numbers would merge different texts; else nothing.

    Texts that differ only in zeros after the decimal point are one class.
    """
    frames = [one.frame for one in tables.values() if name in one.frame]
    kind = frames[0][name].dtype.kind
    if kind not in "biuf" or any(frame[name].dtype.kind not in "biuf" for frame in frames):
        return {}
    cells = {prefix: one.texts(name) for prefix, one in tables.items() if name in one.frame}
    point = how.decimal
    if kind != "b":
        cells = {
            prefix: each.map(lambda text: _as_class(text, point), na_action="ignore")
            for prefix, each in cells.items()
        }
        kind = "f" if any(frame[name].dtype.kind == "f" for frame in frames) else "i"
    different = sorted({text for each in cells.values() for text in each.dropna().unique()})
    if not (groups := _equal_as_read(different, kind, point)):
        return {}
    option = tables[""].option
    if kind == "b" or not how.check:
        said.append(f"{option}: {_first_of(groups)} are taken for one class")
        return {}
    said.append(
        f"{option}: {_first_of(groups)} are equal as numbers and taken for classes of "
        "their own; write them alike if they are one"
    )
    return cells


def _classes_as_meant(table: Table, name: str, training: Table, said: list[str]) -> Any:
    """Return the label's cells; among texts, NA and None are classes, and blanks at ends none."""
    if training.frame[name].dtype.kind in "biuf":
        return table.frame[name]
    known = training.frame[name].dropna().tolist()
    if known and not any(isinstance(cell, str) for cell in known):
        return table.frame[name]  # true and false, with gaps
    cells: Any = table.frame[name]
    if cells.hasnans or cells.dtype.kind in "biuf":
        cells = table.texts(name)
    texts = sorted(cells.dropna().astype(str).unique())
    stripped = Counter(text.strip() for text in texts)
    for text, count in stripped.items():
        if count > 1:
            said.append(f"{table.option}: {text!r} with spaces after it is the same class")
    if alike := _equal_as_read(stripped, "f", table.how.decimal):
        said.append(
            f"{table.option}: {_first_of(alike)} are equal as numbers and taken for "
            "classes of their own; write them alike if they are one"
        )
    folded = Counter(map(_folded, stripped))
    for text in stripped:
        if folded.pop(key := _folded(text), 1) > 1:
            alike = [repr(other) for other in stripped if _folded(other) == key]
            said.append(
                f"{table.option}: {' and '.join(alike)} are taken for classes of their own; write "
                "them alike if they are one"
            )
    return cells.astype(object).where(cells.isna(), cells.str.strip())


def _classes(cells: pd.Series, name: str, classes: Sequence[Any], option: str) -> np.ndarray:
    number = {value: place for place, value in enumerate(classes)}
    found = cells.tolist()
    for row, cell in enumerate(found):
        if cell not in number:
            what = "is empty" if _is_missing(cell) else f"is {cell}, an unknown class"
            raise UserError(f"{option}: the label {name} {what}, in row {row + 1}")
    return np.array([number[cell] for cell in found], dtype=np.int64)


def _of_quantities(classes: Sequence[Any], name: str, task: str, table: Table) -> list[str]:
    """Return a note on a label of text that may be meant as numbers."""
    if task != "auto" or not all(isinstance(each, str) for each in classes):
        return []
    if (text := _quantity(classes)) is None:
        return []
    advice = _advice(text, table.how, "write them as plain numbers")
    return [
        f"{table.option}: the label {name} holds texts like {text!r}, taken as "
        f"{len(classes)} classes; if they are quantities, {advice}, and if they are classes, use "
        "data.task=classification"
    ]


def _of_constants(y: np.ndarray, labels: Sequence[str], path: str) -> list[str]:
    """Return constant labels of a regression; refuse them if there is no other."""
    still = np.flatnonzero((y == y[:1]).all(0)).tolist()
    lines = [
        f"data.path={path}: the label {labels[place]} is {y[0, place]:g} in each row"
        for place in still
    ]
    if len(still) == len(labels):
        raise UserError(f"{lines[0]}; there is nothing to learn")
    return lines


def _of_label(
    y: np.ndarray, labels: Sequence[str], task: str, classes: Sequence[Any] | None
) -> list[str]:
    """Return a note on a regression's label that may be one of classes."""
    if task != "auto" or classes is not None or y.shape[1] > 1:
        return []
    values = np.unique(y)
    if len(values) > FEW_VALUES or len(y) < FEW_EACH * len(values) or (values % 1).any():
        return []
    return [
        f"the label {labels[0]} holds {len(values)} different whole numbers written as floats, "
        "taken for a regression; if they are classes, use data.task=classification"
    ]


# --- texts that are one class ---------------------------------------------------------------------


def _as_class(text: str, decimal: str) -> str:
    """Return the class that a number names: 1.0 is class 1, but 01 and +1 have their own.

    A program that meets an empty cell writes a column of whole numbers as 1.0, 2.0.
    """
    found = re.fullmatch(r"([-+]?\d+)(?:\.0*|(\.\d*[1-9])0*)", text.replace(decimal, "."))
    return text if found is None else found[1] + (found[2] or "")


def _equal_as_read(texts: Iterable[str], kind: str, decimal: str) -> list[list[str]]:
    """Return different texts that pandas reads as one value.

    Args:
        texts: the different cells of a column, without blanks around them.
        kind: of the column's dtype, one of ``biuf``.
        decimal: the decimal point.
    """
    groups: dict[Any, list[str]] = {}
    for text in texts:
        value: Any = text.casefold()
        if kind != "b":
            try:  # an int, for float64 holds whole numbers up to 2**53
                plain = text.replace(decimal, ".")
                value = int(plain) if kind in "iu" else float(plain)
            except ValueError:
                continue
        groups.setdefault(value, []).append(text)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def _folded(text: str) -> str:
    """Return the common form of texts that look alike: any case, any storage of accents."""
    return unicodedata.normalize("NFKC", text).casefold()


def _first_of(groups: Sequence[Sequence[str]]) -> str:
    """Return the first of such groups, in words."""
    first = " and ".join(map(repr, groups[0]))
    return first + (f" ({len(groups) - 1} more like these)" if len(groups) > 1 else "")


def _quantity(texts: Sequence[str]) -> str | None:
    """Return the first text, if all are numbers with signs that no parser takes, or dates."""
    plain = re.compile(r"[-+]?\d+")
    if not texts or all(plain.fullmatch(text) for text in texts):
        return None
    for form in (_DECORATED, _DATE):
        if all(form.fullmatch(text) for text in texts):
            return next(text for text in texts if not plain.fullmatch(text))
    return None
