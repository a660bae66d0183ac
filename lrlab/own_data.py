"""The user's own data: arrays, tables, image folders, torchvision's sets, functions.

Each reader returns parts: a dict with ``x`` and ``y`` and, where they exist, ``val_x``, ``val_y``,
``test_x`` and ``test_y``. ``make`` turns them into a ``Dataset``. Floating-point targets make it a
regression, whole numbers a classification.

To add a reader, write a function here, next to ``arrays``, the shortest. If it takes many lines to
read, add a file to ``lrlab/data/own/``. Give the reader a name with a file ``conf/data/NAME.yaml``.
Name it in ``READERS`` of ``lrlab/config/known.py``, if it never runs what it reads: without that,
its own records need trust=true. Its tests are in ``tests/test_own_data.py``.

The arguments that all readers share, in ``Split``:

standardise: subtract the training part's mean and divide by its standard deviation, for each
    feature or, in (samples, channels, ...), for each channel
train_size: train on so many samples only; None: on all that are not held out
val_size: held out from the samples, as a count or as a share below 1; ignored where the data
    have a validation part of their own
split_seed: seeds the draw of both
stratify: hold out each class's share, as near as whole samples allow
standardise_targets: of a regression, train on (y - mean) / std, with the mean of each column
    and one std for all columns, the root of their mean variance; of the training part. Losses
    are reported in the targets' own units
integers: what becomes of inputs that are whole numbers or booleans, except for uint8, which are
    pixels: ``float``; ``keep``, as int64 or bool; or ``auto``, see ``_scaled``
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrlab.data import Dataset, inputs
from lrlab.data.dataset import parts_sha256
from lrlab.data.inputs import Inputs
from lrlab.data.own import csv_file, float32, images, odd_columns, tables
from lrlab.data.own.parts import (
    PARTS,
    checked_finite,
    mean_and_std,
    named_tensors,
    parts_of,
    scaled,
    standardise_targets,
)
from lrlab.data.own.split import Split, checked_split, divided, split_generator
from lrlab.errors import UserError

_OF_NUMPY = (torch.float32, torch.float64, torch.uint8, torch.int32, torch.int64)
# Beyond so many classes, labels count as ids where fewer than 1 sample in so many repeats one.
MANY_CLASSES, SPARSE = 200_000, 100


def arrays(path: str, **split: Any) -> Dataset:
    """Tensors that ``torch.save`` wrote (.pt), or arrays that ``numpy.savez`` wrote (.npz).

    The file holds a dict in the form that the module describes. Nothing in it is executed.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    option, file = f"data.path={path}", csv_file.file_of("data.path", path)
    try:
        if file.suffix == ".npz":
            # open it here: NumPy would leave a damaged file open
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as saved:
                made = dict(saved)
        elif file.suffix in (".pt", ".pth"):
            made = torch.load(file, map_location="cpu", weights_only=True)
        else:
            raise UserError(
                f"{option}: must end in .pt, from torch.save, or .npz, from numpy.savez"
            )
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        raise UserError(
            f"{option}: cannot be read; it must hold nothing but a dict of tensors (torch.save) "
            "or arrays of numbers (numpy.savez), and be whole"
        ) from error
    return make(made, file.stem, option, **split)


def table(
    path: str,
    label: str | Sequence[str],
    test_path: str | None = None,
    drop: Sequence[str] = (),
    sep: str = ",",
    task: str = "auto",
    standardise: bool = True,
    decimal: str = "point",
    header: bool = True,
    check: bool = False,  # true in conf/; the saved configs of older runs lack it
    **split: Any,
) -> Dataset:
    """Return a CSV with a header line: numeric features, and one column to predict.

    A label of text, of whole numbers, or of true and false is a class, numbered in sorted order.
    Floating-point labels, and several label columns, make it a regression.

    Args:
        label: the column to be predicted, or several.
        test_path: another CSV with the same columns, for the final report.
        drop: columns that are left out.
        sep: what stands between two cells: a character, or its name in ``csv_file.SEPARATORS``.
        task: ``classification`` or ``regression`` where ``auto`` would take the other.
        decimal: ``point`` or ``comma``.
        header: whether the first line names the columns; else they are called 0, 1, 2, ...
        check: leave out a saved index, unnamed empty columns and empty last rows; refuse columns of
            one name, one that repeats the label, and a first line of data; take NA and None in a
            label of texts for classes, and texts that differ in blanks at an end for one.

    Raises:
        UserError: it cannot be read, lacks a column, or has a cell that is no number.
    """
    how = csv_file.form(sep, decimal, header, check)
    parts, said, names = tables.read(path, label, test_path, drop, how, task)
    split["standardise"] = standardise
    return _made(parts, Path(path).stem, f"data.path={path}", split, said, names)


def image_folder(
    root: str,
    test_root: str | None = None,
    size: Sequence[int] | None = None,
    standardise: bool = True,
    **split: Any,
) -> Dataset:
    """Images of one size, a folder for each class: root/cat/1.png, root/dog/7.jpg, ...

    Classes are numbered in the sorted order of their names. Images have one channel if all of them
    are grey, otherwise three.

    Args:
        test_root: another such folder, for the final report.
        size: (height, width) that each image is resized to.

    Raises:
        UserError: there is no such folder, no image, one that cannot be read, or one of another
            size.
    """
    parts, said = images.read_folder(root, test_root, size)
    split["standardise"] = standardise
    return _made(parts, Path(root).name, f"data.root={root}", split, said)


def torchvision_set(
    dataset: str,
    root: str | None = None,
    download: bool = False,
    arguments: Mapping[str, Any] | None = None,
    size: Sequence[int] | None = None,
    standardise: bool = True,
    **split: Any,
) -> Dataset:
    """Any classification set of ``torchvision.datasets`` by its class's name.

    It uses the training and test parts where the class takes ``train=`` or ``split=``, otherwise
    all of it, without a test part.

    Args:
        root: where its files lie; None: lrlab's cache folder.
        download: whether torchvision may download them.
        arguments: further arguments of the class, like ``{"split": "letters"}`` of EMNIST.
        size: (height, width) that each image is resized to.

    Raises:
        UserError: no such set, no files, or no set of images with one class each.
    """
    parts = images.read_torchvision(dataset, root, download, arguments, size)
    split["standardise"] = standardise
    return make(parts, dataset, f"data.dataset={dataset}", **split)


def make(made: Any, name: str, option: str, **split: Any) -> Dataset:
    """Make a ``Dataset`` of parts.

    Args:
        made: a pair (x, y), or a dict in the form that the module describes, of tensors or arrays.
            x has shape (samples, ...); type uint8 is divided by 255. Several inputs are a tuple or
            a dict of such x. y is (samples,) or (samples, positions, ...) whole numbers from 0,
            the classes, or (samples,) or (samples, width, ...) floating-point numbers.
        name: of the data.
        option: what the user typed; an error line begins with it.
        split: see ``Split``.

    Raises:
        UserError: the parts cannot be trained on.
    """
    return _made(made, name, option, split)


def _made(
    made: Any,
    name: str,
    option: str,
    split: Mapping[str, Any],
    said: Sequence[str] | None = None,
    names: Mapping[str, Sequence[str]] | None = None,
) -> Dataset:
    """Do the work of ``make``.

    Args:
        said: notes worth a line; None: notes on the arrays.
        names: of the columns of x and y, where they have any.
    """
    how = checked_split(split)
    parts = parts_of(made, option, exact=how.floats == "float64")
    for k in parts:
        checked_finite(parts[k], k, option)
    said = [*(_said_of(parts, option) if said is None else said)]
    if how.floats == "float32":
        _check_spread(parts, how, option, names or {})
    if not parts["y"].is_floating_point():
        _check_classes(parts, option)
    # by part: the part from which its samples are drawn, and their positions there
    rows: dict[str, tuple[str, Tensor | None]] = {}
    if "val_x" in parts:
        train = torch.arange(len(parts["y"]))
        if how.train_size is not None:
            train = torch.randperm(len(train), generator=split_generator(how))
    else:
        train, held_out = divided(parts["y"], how, option)
        parts |= {f"val_{k}": _picked(parts[k], held_out) for k in ("x", "y")}
        rows = {f"val_{k}": (k, held_out) for k in ("x", "y")}
    if how.train_size is not None and how.train_size > len(train):
        raise UserError(
            f"data.train_size={how.train_size}: only {len(train)} training samples are there, "
            f"for example data.train_size={len(train)}"
        )
    train = train[: how.train_size]
    rows |= {k: (k, train) for k in ("x", "y")}
    parts |= {k: _picked(parts[k], train) for k in ("x", "y")}
    for k in ("x", "y"):
        parts.setdefault(f"test_{k}", inputs.mapped(lambda tensor: tensor[:0], parts[k]))
    given = {k: parts[k] for k in ("x", "y")}
    parts, other_x = _scaled(parts, how)
    if not how.standardise_targets and parts["y"].is_floating_point():
        parts |= {k: parts[k].to(how.kind) for k in ("y", "val_y", "test_y")}
    for k in PARTS:  # the largest float32 is 3e38
        key, places_before = rows.get(k, (k, None))
        checked_finite(parts[k], key, option, places_before)
    mean, std = (), 1.0
    if how.standardise_targets:
        mean, std = standardise_targets(parts, option, how.kind)
    said += [f"{option}: {line}" for line in _merged(given, parts, names or {})]
    ordered = [parts[k] for k in PARTS]
    classes = None
    if not parts["y"].is_floating_point():
        labels = [int(parts[k].max()) for k in ("y", "val_y", "test_y") if len(parts[k])]
        classes = max(*labels, 0) + 1
        if classes < 2:
            raise UserError(f"{option}: all samples are of one class; there is nothing to learn")
    return Dataset(
        name,
        *ordered,
        num_classes=classes,
        sha256=parts_sha256(ordered),
        target_mean=mean,
        target_std=std,
        notices=tuple(dict.fromkeys(said)),
        integral=any(map(is_integral, inputs.tensors(given["x"]))),
        other_x=other_x,
    )


def _picked(part: Inputs, index: Tensor) -> Any:
    return inputs.mapped(lambda tensor: tensor.index_select(0, index), part)


def _scaled(
    parts: Mapping[str, Any], how: Split
) -> tuple[dict[str, Any], tuple[Inputs, Inputs, Inputs] | None]:
    """Return the parts with scaled inputs, and for ``integers=auto`` the inputs' other types.

    One input of whole numbers becomes floats, as it always did, so that the networks that take
    these go on to train as before. Those of a network that does not, such as one that begins with
    an embedding, stay integers. Several inputs stay what they are, because a mask of floats would
    mean something else; they are floats for a network that takes nothing else.
    """
    keys = ("x", "val_x", "test_x")
    train = parts["x"]

    def of_type(tensor: Tensor, shift: Any, as_integers: bool) -> Tensor:
        if as_integers and is_integral(tensor):
            return tensor if tensor.dtype == torch.bool else tensor.long()
        return scaled(tensor, shift, how.kind)

    def made(as_integers: bool) -> dict[str, Any]:
        shifts = [mean_and_std(t) if how.standardise else None for t in inputs.tensors(train)]
        found = {}
        for key in keys:
            columns = zip(inputs.tensors(parts[key]), shifts, strict=True)
            tensors = [of_type(tensor, shift, as_integers) for tensor, shift in columns]
            found[key] = inputs.like(train, tensors)
        return found

    several = not isinstance(train, Tensor)
    integral = any(map(is_integral, inputs.tensors(train)))
    keep = how.integers == "keep" or (how.integers == "auto" and several)
    chosen = {**parts, **made(keep)}
    if how.integers != "auto" or not integral or (how.standardise and not several):
        return chosen, None
    others = made(not keep)
    return chosen, (others["x"], others["val_x"], others["test_x"])


def is_integral(tensor: Tensor) -> bool:
    """Return whether it holds whole numbers or booleans that are no pixels."""
    return not tensor.is_floating_point() and tensor.dtype != torch.uint8


def _check_classes(parts: Mapping[str, Any], option: str) -> None:
    """Refuse labels that are ids: a network would have one output for each whole number."""
    labels = torch.cat([parts[k].flatten() for k in ("y", "val_y", "test_y") if k in parts])
    classes = int(labels.max()) + 1
    if classes > MANY_CLASSES and classes > SPARSE * (distinct := len(labels.unique())):
        raise UserError(
            f"{option}: the largest label is {classes - 1}, of {distinct} different ones, and a "
            f"network has an output for each class from 0 on; number them 0 to {distinct - 1}, "
            "like numpy.unique(y, return_inverse=True)[1], or give quantities as floats"
        )


def _called(names: Mapping[str, Sequence[str]], key: str, tensor: Tensor) -> Callable[[int], str]:
    """Return the names of the columns of a part's tensor."""
    return float32.named(names.get(key), key, tensor[0].numel())


def _check_spread(
    parts: Mapping[str, Any], how: Split, option: str, names: Mapping[str, Sequence[str]]
) -> None:
    """Refuse numbers that float32 makes equal, unless standardising keeps them apart."""
    for name, x in [] if how.standardise else named_tensors(parts["x"], "x"):
        stays = how.integers == "keep" or (how.integers == "auto" and name != "x")
        if is_integral(x) and stays:
            continue
        if words := float32.lost(x, _called(names, name, x)):
            raise UserError(f"{option}: {words}; use data.standardise=true")
    y = parts["y"]
    if not y.is_floating_point() or how.standardise_targets:
        return
    if words := float32.lost(y, _called(names, "y", y)):
        raise UserError(f"{option}: {words}; use data.standardise_targets=true")


def _merged(
    given: Mapping[str, Any], parts: Mapping[str, Any], names: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return sentences on columns of which float32 keeps few values."""
    lines = []
    for key in ("x", "y"):
        pairs = zip(named_tensors(given[key], key), inputs.tensors(parts[key]), strict=True)
        for (name, exact), rounded in pairs:
            if rounded.dtype == torch.float32 or key == "y":
                lines += float32.merged(exact, rounded, _called(names, name, exact))
    return lines


def _said_of(parts: Mapping[str, Any], option: str) -> list[str]:
    """Return notes on equal parts, and on features that may be none, as there are no names."""
    said = [
        f"{option}: {prefix}x is the same as x, so it measures the loss on trained samples"
        for prefix in ("val_", "test_")
        if f"{prefix}x" in parts
        and all(map(torch.equal, *(inputs.tensors(parts[k]) for k in ("x", f"{prefix}x"))))
    ]
    y = parts["y"]
    if y.is_floating_point() and bool((y == y[0]).all()):
        said.append(
            f"{option}: all targets are {_few(y[0])}, so a network needs no input to predict them"
        )
    for name, x in named_tensors(parts["x"], "x"):
        if x.dtype == torch.uint8 and int(x.max()) <= 1:
            said.append(
                f"{option}: {name} is uint8 and at most {int(x.max())}, and is divided by 255 as "
                "pixels are; give it as floats if it holds none"
            )
    if not isinstance(parts["x"], Tensor) or y.ndim > (2 if y.is_floating_point() else 1):
        return said  # of sequences, the next token is among the inputs on purpose
    if parts["x"].ndim != 2 or not parts["x"].shape[1] or parts["x"].dtype not in _OF_NUMPY:
        return said
    y = y if y.ndim == 2 else y.unsqueeze(1)
    x = parts["x"].to(y.dtype) if y.is_floating_point() else parts["x"]
    given, targets = x.numpy(), y.numpy()
    said += [
        f"{option}: x[:, {place}] {what} the labels, so the answer is among the inputs"
        for place, what in odd_columns.repeats(given, targets)
    ]
    said += [
        f"{option}: x[:, {place}] numbers the samples; if it is no feature, leave it out"
        for place in odd_columns.numbering(given)
    ]
    return said


def _few(row: Tensor) -> str:
    """Return a sample's targets as text, at most four of them."""
    row = row.flatten()
    shown = ", ".join(f"{value:g}" for value in row[:4].tolist())
    return shown if len(row) == 1 else f"({shown}{', ...' if len(row) > 4 else ''})"
