"""Data of the user's own: arrays, tables, image folders, torchvision's sets, functions.

Each is read into parts, a dict with ``x`` and ``y`` and, where there are any, ``val_x``, ``val_y``,
``test_x`` and ``test_y``; ``make`` makes a ``Dataset`` of them. Floating-point targets make it a
regression, whole numbers a classification.

The arguments that all readers share, in ``Split``:

    standardise: take the training part's mean off and divide by its standard deviation, each
        feature for itself, of (samples, channels, ...) each channel
    train_size: train on so many samples only; None: on all that are not held out
    val_size: held out from the samples, as a count or as a share below 1; not heeded where the
        data have a validation part of their own
    split_seed: seeds the draw of both
    stratify: of classes, hold out each one's share, as near as whole samples come to it
    standardise_targets: of a regression, train on (y - mean) / std, with the mean of each column
        and one std for all columns, the root of their mean variance; of the training part. Losses
        are told in the targets' own units
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrlab.config import data_paths
from lrlab.config.schema import nearest
from lrlab.data import (
    Dataset,
    cache_folder,
    check_draw,
    own_columns,
    own_csv,
    own_float32,
    own_tables,
    patient,
    quiet_torchvision,
    tensors_sha256,
)
from lrlab.data.pixels import Pixels
from lrlab.errors import UserError
from lrlab.process.plain import is_whole

PARTS = ("x", "y", "val_x", "val_y", "test_x", "test_y")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
PARTS_OF_FOLDERS = {
    *("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"),
}
_OF_NUMPY = (torch.float32, torch.float64, torch.uint8, torch.int32, torch.int64)


@dataclass(frozen=True)
class Split:
    """How samples are divided and scaled, see the module."""

    standardise: bool = False
    train_size: int | None = None
    val_size: float = 0.1
    split_seed: int = 0
    stratify: bool = False  # true in conf/; the saved configs of older runs lack it
    standardise_targets: bool = False


# Beyond so many classes, labels are ids where fewer than 1 in so many occur.
MANY_CLASSES, SPARSE = 200_000, 100

SPLIT = tuple(field.name for field in fields(Split))


def arrays(path: str, **split: Any) -> Dataset:
    """Tensors that ``torch.save`` wrote (.pt), or arrays that ``numpy.savez`` wrote (.npz).

    The file holds a dict as the module describes it. Nothing in it is executed.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    option, file = f"data.path={path}", own_csv.file_of("data.path", path)
    try:
        if file.suffix == ".npz":
            # opened here: of a damaged one NumPy would leave the file open
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
    """A CSV with a header line: numeric features, and one column to be predicted.

    A label of text, whole numbers or true and false is a class, numbered in sorted order; one of
    floating-point numbers is a target of a regression, as several are.

    Args:
        label: the column to be predicted, or several.
        test_path: another CSV with the same columns, for the final report.
        drop: columns that are left out.
        sep: what stands between two cells: a character, or its name in ``own_csv.SEPARATORS``.
        task: ``classification`` or ``regression`` where ``auto`` would take the other.
        decimal: ``point`` or ``comma``.
        header: whether the first line names the columns; else they are called 0, 1, 2, ...
        check: leave out a saved index, unnamed empty columns and empty last rows; refuse columns of
            one name, one that repeats the label, and a first line of data; take NA and None in a
            label of texts for classes, and texts that differ in blanks at an end for one.

    Raises:
        UserError: it cannot be read, lacks a column, or has a cell that is no number.
    """
    how = own_csv.form(sep, decimal, header, check)
    parts, said, names = own_tables.read(path, label, test_path, drop, how, task)
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
    are grey, else three.

    Args:
        test_root: another such folder, for the final report.
        size: (height, width) that each image is resized to.

    Raises:
        UserError: no such folder, no images, one that cannot be read or that has another size.
    """
    roots = {"": root} if test_root is None else {"": root, "test_": test_root}
    found: dict[str, list[tuple[str, str]]] = {}
    for prefix, folder in roots.items():
        option = f"data.{prefix}root={folder}"
        if not isinstance(folder, str):
            raise UserError(f"{option}: must be a folder's name")
        base = data_paths.find(folder)
        if not base.is_dir():
            raise UserError(f"{option}: no such folder, {data_paths.tried(folder)}")
        found[prefix] = [
            (file.relative_to(base).parts[0], str(file))
            for file in sorted(base.rglob("*"))
            if file.suffix.lower() in IMAGE_ENDINGS
            and len(file.relative_to(base).parts) > 1
            and not (file.name.startswith("._") or "__MACOSX" in file.parts)  # a Mac's notes
        ]
        if not found[prefix]:
            raise UserError(
                f"{option}: holds no folders of images; it must hold one for each class, like "
                f"{base / 'cat' / '1.png'}"
            )
    names = sorted({name for name, _ in found[""]})
    parts = {}
    pixels = Pixels(size)
    for prefix, listed in found.items():
        option = f"data.{prefix}root={roots[prefix]}"
        for name, _ in listed:
            if name not in names:
                raise UserError(f"{option}: has a class {name}, which {root} has not")
        parts[f"{prefix}x"] = [pixels.read(file, option) for _, file in listed]
        parts[f"{prefix}y"] = np.array([names.index(name) for name, _ in listed])
    split["standardise"] = standardise
    said = [line for prefix in roots for line in _said_of_folder(roots[prefix], prefix, names)]
    if test_root is not None and data_paths.find(test_root).samefile(data_paths.find(root)):
        said.append(
            f"data.test_root={test_root}: is the folder of data.root, so the test is no test"
        )
    return _made(pixels.stacked(parts), Path(root).name, f"data.root={root}", split, said)


def _said_of_folder(root: str, prefix: str, names: Sequence[str]) -> list[str]:
    """What lies in a folder of classes and is none, or is one and may not be meant."""
    option, inside = f"data.{prefix}root={root}", sorted(data_paths.find(root).iterdir())
    said = []
    stray = sum(file.is_file() and file.suffix.lower() in IMAGE_ENDINGS for file in inside)
    if stray:
        said.append(f"{option}: images that lie in no folder of a class are left out, {stray}")
    empty = [each.name for each in inside if each.is_dir() and each.name not in names]
    if empty and not prefix:
        said.append(f"{option}: folders without images are no classes: {', '.join(empty[:9])}")
    if not prefix and (parts := [name for name in names if name.lower() in PARTS_OF_FOLDERS]):
        said.append(
            f"{option}: {' and '.join(parts)} are taken for classes; if they are parts, use "
            f"data.root={Path(root) / parts[-1]}, and data.test_root for the test"
        )
    if hidden := [name for name in names if name.startswith(".")]:
        said.append(f"{option}: the hidden folder {hidden[0]} is taken for a class")
    return said


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

    Its training and test parts are used where its class takes ``train=`` or ``split=``; else all
    of it, without a test part.

    Args:
        root: where its files lie; None: lrlab's cache folder.
        download: whether torchvision may download them.
        arguments: further arguments of the class, like ``{"split": "letters"}`` of EMNIST.
        size: (height, width) that each image is resized to.

    Raises:
        UserError: no such set, no files, or no set of images with one class each.
    """
    option, folder = f"data.dataset={dataset}", _image_cache(root)
    if not isinstance(dataset, str):
        raise UserError(f"{option}: must be the name of a class, like data.dataset=CIFAR10")
    if not isinstance(download, bool):
        raise UserError(f"data.download={download}: must be true or false")
    if not isinstance(arguments, Mapping | None):
        raise UserError(f"data.arguments={arguments}: must be a mapping, like {{split: letters}}")
    with quiet_torchvision():
        from torchvision import datasets
    call = getattr(datasets, dataset, None)
    if not (isinstance(call, type) and issubclass(call, datasets.VisionDataset)):
        raise UserError(
            f"{option}: torchvision.datasets has no such set{nearest(dataset, datasets.__all__)}"
        )
    given, known = dict(arguments or {}), _parameters(call)
    offered = {"root": str(folder), "download": download}
    given = {key: value for key, value in offered.items() if key in known} | given
    if "train" in known and "train" not in given:
        kinds: dict[str, dict[str, Any]] = {"": {"train": True}, "test_": {"train": False}}
    elif "split" in known and "split" not in given:
        kinds = {"": {"split": "train"}, "test_": {"split": "test"}}
    else:
        kinds = {"": {}}
    parts: dict[str, Any] = {}
    pixels = Pixels(size)
    for prefix, kind in kinds.items():
        try:
            with quiet_torchvision(), patient():
                samples: Any = call(**given, **kind)
                pairs = [samples[i] for i in range(len(samples))]
        except UserError:
            raise
        except Exception as error:  # urllib, PIL and torchvision raise what they like
            reason = " ".join(str(error).split()) or type(error).__name__
            hint = "" if download else "; data.download=true lets torchvision download it"
            raise UserError(f"{option}: cannot be read from {folder} ({reason}){hint}") from error
        if not all(len(pair) == 2 and _is_class(pair[1]) for pair in pairs):
            raise UserError(f"{option}: is no set of images with one class each")
        parts[f"{prefix}x"] = [
            pixels.of(image, f"sample {number}", option) for number, (image, _) in enumerate(pairs)
        ]
        parts[f"{prefix}y"] = np.array([int(target) for _, target in pairs], dtype=np.int64)
    split["standardise"] = standardise
    return make(pixels.stacked(parts), dataset, option, **split)


def make(made: Any, name: str, option: str, **split: Any) -> Dataset:
    """A ``Dataset`` of parts.

    Args:
        made: a pair (x, y), or a dict as the module describes it, of tensors or arrays. x has shape
            (samples, ...); of type uint8 it is divided by 255. y is (samples,) whole numbers from
            0, the classes, or (samples,) or (samples, width) floating-point numbers.
        name: of the data.
        option: what the user typed, to begin an error line with.
        split: see ``Split``.

    Raises:
        UserError: something that cannot be trained on.
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
    """As ``make``.

    Args:
        said: what is worth a line; None: what the arrays say.
        names: of the columns of x and y, where they have any.
    """
    how = _checked_split(split)
    parts = parts_of(made, option)
    for k in parts:
        checked_finite(parts[k], k, option)
    said = [*(_said_of(parts, option) if said is None else said)]
    called = {
        k: own_float32.named((names or {}).get(k), k, parts[k][0].numel()) for k in ("x", "y")
    }
    _check_spread(parts, how, option, called)
    if not parts["y"].is_floating_point():
        _check_classes(parts, option)
    # by part: the one that its samples are drawn from, and their places there
    rows: dict[str, tuple[str, Tensor | None]] = {}
    if "val_x" in parts:
        train = torch.arange(len(parts["x"]))
        if how.train_size is not None:
            train = torch.randperm(len(train), generator=_generator(how))
    else:
        train, held_out = _divided(parts["y"], how, option)
        parts |= {f"val_{k}": parts[k].index_select(0, held_out) for k in ("x", "y")}
        rows = {f"val_{k}": (k, held_out) for k in ("x", "y")}
    if how.train_size is not None and how.train_size > len(train):
        raise UserError(
            f"data.train_size={how.train_size}: only {len(train)} training samples are there, "
            f"for example data.train_size={len(train)}"
        )
    train = train[: how.train_size]
    rows |= {k: (k, train) for k in ("x", "y")}
    parts |= {k: parts[k].index_select(0, train) for k in ("x", "y")}
    for k in ("x", "y"):
        parts.setdefault(f"test_{k}", parts[k][:0])
    shift = _mean_and_std(parts["x"]) if how.standardise else None
    given = {k: parts[k] for k in ("x", "y")}
    for k in ("x", "val_x", "test_x"):
        parts[k] = _scaled(parts[k], shift)
    if not how.standardise_targets and parts["y"].is_floating_point():
        parts |= {k: parts[k].float() for k in ("y", "val_y", "test_y")}
    for k in PARTS:  # float32 ends at 3e38
        key, places_before = rows.get(k, (k, None))
        checked_finite(parts[k], key, option, places_before)
    mean, std = (), 1.0
    if how.standardise_targets:
        mean, std = _standardise_targets(parts, option)
    said += [
        f"{option}: {line}"
        for k in ("x", "y")
        for line in own_float32.merged(given[k], parts[k], called[k])
    ]
    if not how.standardise:
        rounded = own_float32.rounded_whole(given["x"], called["x"])
        said += [f"{option}: {line}" for line in rounded]
    del given
    ordered = [parts[k] for k in PARTS]
    classes = None
    if not parts["y"].is_floating_point():
        labels = [int(parts[k].max()) for k in ("y", "val_y", "test_y") if len(parts[k])]
        classes = max(labels) + 1
        if classes < 2:
            raise UserError(f"{option}: all samples are of one class; there is nothing to learn")
    return Dataset(
        name,
        *ordered,
        num_classes=classes,
        sha256=tensors_sha256(ordered),
        target_mean=mean,
        target_std=std,
        notices=tuple(dict.fromkeys(said)),
    )


def _check_classes(parts: Mapping[str, Tensor], option: str) -> None:
    """Refuse labels that are ids, of which a network would have an output for each whole number."""
    labels = torch.cat([parts[k] for k in ("y", "val_y", "test_y") if k in parts])
    classes = int(labels.max()) + 1
    if classes > MANY_CLASSES and classes > SPARSE * (distinct := len(labels.unique())):
        raise UserError(
            f"{option}: the largest label is {classes - 1}, of {distinct} different ones, and a "
            f"network has an output for each class from 0 on; number them 0 to {distinct - 1}, "
            "like numpy.unique(y, return_inverse=True)[1], or give quantities as floats"
        )


def _check_spread(
    parts: Mapping[str, Tensor],
    how: Split,
    option: str,
    called: Mapping[str, Callable[[int], str]],
) -> None:
    """Refuse numbers that float32 would make equal, and standardising would not."""
    x, y = parts["x"], parts["y"]
    for place in range(x.shape[1]) if x.ndim == 2 and own_float32.is_whole(x) else ():
        if (one := own_float32.merged_by_float64(x[:, place].numpy())) is not None:
            raise UserError(
                f"{option}: {called['x'](place)} holds {one}, and floats do not tell it from "
                "others; take off what all have in common"
            )
    if not how.standardise and (words := own_float32.lost(x, called["x"])):
        raise UserError(f"{option}: {words}; use data.standardise=true")
    if not y.is_floating_point():
        return
    if not how.standardise_targets and (words := own_float32.lost(y, called["y"])):
        raise UserError(f"{option}: {words}; use data.standardise_targets=true")


def _said_of(parts: Mapping[str, Tensor], option: str) -> list[str]:
    """Parts that are one, and features that may be none, for there are no names to tell."""
    said = [
        f"{option}: {prefix}x is the same as x, so what is judged on it has been trained on"
        for prefix in ("val_", "test_")
        if f"{prefix}x" in parts and torch.equal(parts["x"], parts[f"{prefix}x"])
    ]
    y = parts["y"]
    if y.is_floating_point() and bool((y == y[0]).all()):
        said.append(
            f"{option}: all targets are {_few(y[0])}, so an output that heeds no input answers them"
        )
    if parts["x"].dtype == torch.uint8 and int(parts["x"].max()) <= 1:
        said.append(
            f"{option}: x is uint8 and at most {int(parts['x'].max())}, and is divided by 255 as "
            "pixels are; give it as floats if it holds none"
        )
    if parts["x"].ndim != 2 or not parts["x"].shape[1] or parts["x"].dtype not in _OF_NUMPY:
        return said
    y = y if y.ndim == 2 else y.unsqueeze(1)
    x = parts["x"].to(y.dtype) if y.is_floating_point() else parts["x"]
    given, targets = x.numpy(), y.numpy()
    said += [
        f"{option}: x[:, {place}] {what} the labels, so the answer is among the inputs"
        for place, what in own_columns.repeats(given, targets)
    ]
    said += [
        f"{option}: x[:, {place}] numbers the samples; if it is no feature, leave it out"
        for place in own_columns.numbering(given)
    ]
    return said


def _few(row: Tensor) -> str:
    """A sample's targets, at most four of them."""
    shown = ", ".join(f"{value:g}" for value in row[:4].tolist())
    return shown if len(row) == 1 else f"({shown}{', ...' if len(row) > 4 else ''})"


# --- parts ----------------------------------------------------------------------------------------


def parts_of(made: Any, option: str) -> dict[str, Tensor]:
    """The parts as tensors of agreeing shapes; targets (N,) int64 or (N, width) float32.

    Targets are float64 where float32 would lose their differences.
    """
    if isinstance(made, tuple | list) and len(made) == 2:
        made = {"x": made[0], "y": made[1]}
    if not isinstance(made, Mapping) or not {"x", "y"} <= set(made):
        has = f"; it has {', '.join(map(str, list(made)[:9]))}" if isinstance(made, Mapping) else ""
        raise UserError(
            f"{option}: must be a pair (x, y) or a dict with x and y, and if there are any "
            f"{', '.join(PARTS[2:])}{has}"
        )
    if unknown := [str(key) for key in made if key not in PARTS]:
        raise UserError(
            f"{option}: has a part {unknown[0]}{nearest(unknown[0], PARTS)}; "
            f"the parts are {', '.join(PARTS)}"
        )
    parts = {key: _tensor(made[key], key, option) for key in PARTS if made.get(key) is not None}
    for prefix in ("", "val_", "test_"):
        x, y = parts.get(f"{prefix}x"), parts.get(f"{prefix}y")
        if x is None and y is None:
            continue
        if x is None or y is None:
            here, lacking = ("y", "x") if x is None else ("x", "y")
            raise UserError(f"{option}: has {prefix}{here} but no {prefix}{lacking}")
        if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
            raise UserError(
                f"{option}: {prefix}x has shape {tuple(x.shape)}, {prefix}y {tuple(y.shape)}; "
                "both need one entry a sample"
            )
        if not len(x) and not prefix:
            raise UserError(f"{option}: holds no samples")
        if 0 in x.shape[1:]:
            raise UserError(f"{option}: {prefix}x has shape {tuple(x.shape)}, and so no features")
        parts[f"{prefix}x"] = x.unsqueeze(1) if x.ndim == 1 else x
        parts[f"{prefix}y"] = _targets(y, f"{prefix}y", option)
    targets = [key for key in parts if key.endswith("y")]
    if any(parts[key].dtype == torch.float64 for key in targets):
        parts |= {key: parts[key].double() for key in targets if parts[key].is_floating_point()}
    for prefix in ("val_", "test_"):
        for key in ("x", "y"):
            own, other = parts[key], parts.get(prefix + key)
            if other is not None and (own.shape[1:], own.dtype) != (other.shape[1:], other.dtype):
                raise UserError(
                    f"{option}: a sample of {key} is {tuple(own.shape[1:])} {own.dtype}, of "
                    f"{prefix}{key} {tuple(other.shape[1:])} {other.dtype}; they must be alike"
                )
    return parts


def _tensor(value: Any, key: str, option: str) -> Tensor:
    if isinstance(value, tuple | list) and key.endswith("y"):
        raise UserError(f"{option}: {key} is a {type(value).__name__}; give numpy.array({key})")
    if isinstance(value, np.ndarray) and value.dtype.kind in "OUS" and key.endswith("y"):
        raise UserError(
            f"{option}: {key} must be a tensor or an array of real numbers; number classes from 0, "
            f"like numpy.unique({key}, return_inverse=True)[1]"
        )
    if isinstance(value, tuple | list | Mapping):
        raise UserError(
            f"{option}: {key} is a {type(value).__name__}; a network takes one tensor, so put "
            "several inputs into one and split it in its forward"
        )
    if isinstance(value, np.ma.MaskedArray):
        raise UserError(
            f"{option}: {key} is a masked array, and training would not heed the mask; give the "
            "samples without one, or fill it: x.filled(0)"
        )
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.dtype.itemsize > 8:
        value = value.astype(np.float64)  # torch has none longer
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        # a copy of its own, in the machine's byte order and of a type that torch has
        value = torch.tensor(np.ascontiguousarray(value, value.dtype.newbyteorder("=")))
    if not isinstance(value, Tensor) or value.is_complex():
        raise UserError(f"{option}: {key} must be a tensor or an array of real numbers")
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise UserError(
            f"{option}: {key} is a sparse, quantized or meta tensor; give a dense one of numbers"
        )
    return value.detach().cpu().contiguous()


def _targets(y: Tensor, key: str, option: str) -> Tensor:
    if y.is_floating_point():
        if y.ndim > 2 or 0 in y.shape[1:]:
            raise UserError(
                f"{option}: {key} has shape {tuple(y.shape)}; floating-point targets must be "
                "(samples,) or (samples, width)"
            )
        return own_float32.narrowed(y.unsqueeze(1) if y.ndim == 1 else y)
    if y.ndim != 1:
        raise UserError(
            f"{option}: {key} has shape {tuple(y.shape)}; classes must be whole numbers "
            "(samples,), targets of a regression floating point"
        )
    y = y.long()
    if len(y) and int(y.min()) < 0:
        raise UserError(
            f"{option}: {key} holds the class {int(y.min())}; classes count from 0, and targets of "
            "a regression are floats"
        )
    return y


def _checked_split(split: Mapping[str, Any]) -> Split:
    for key, value in split.items():
        if key not in SPLIT:
            raise UserError(
                f"data.{key}={value}: no such setting of these data{nearest(key, SPLIT)}; "
                f"all data have {', '.join(SPLIT)}"
            )
    how = Split(**split)
    size = how.val_size
    is_count = is_whole(size, 1)
    if not (is_count or (isinstance(size, float) and 0 < size < 1)):
        raise UserError(
            f"data.val_size={size}: must be a number of samples from 1 or a share below 1, "
            "for example data.val_size=0.1"
        )
    check_draw(how.train_size, how.split_seed, "samples")
    for key in ("standardise", "stratify", "standardise_targets"):
        if not isinstance(value := getattr(how, key), bool):
            raise UserError(f"data.{key}={value}: must be true or false")
    return how


def _divided(y: Tensor, how: Split, option: str) -> tuple[Tensor, Tensor]:
    """The places of the samples to train on, shuffled, and of those held out."""
    available = len(y)
    share = isinstance(how.val_size, float)
    size = max(1, int(how.val_size * available)) if share else int(how.val_size)
    if available == 1:
        raise UserError(
            f"{option}: holds one sample; give two or more, for one at least is trained on and one "
            "held out"
        )
    if size >= available:
        raise UserError(
            f"data.val_size={how.val_size}: must be below the {available} samples, "
            "for example data.val_size=0.1"
        )
    generator = _generator(how)
    shuffled = torch.randperm(available, generator=generator)
    if not how.stratify or y.is_floating_point():
        return shuffled[size:], shuffled[:size]
    labels = y[shuffled]
    counts = torch.bincount(labels)
    ties = torch.randperm(len(counts), generator=generator)
    quotas = torch.from_numpy(_quotas(counts.numpy(), size, ties.numpy()))
    # each sample's place among those of its class, in the shuffled order
    by_class = labels.argsort(stable=True)
    first = counts.cumsum(0) - counts
    place = torch.empty_like(labels)
    place[by_class] = torch.arange(available) - first[labels[by_class]]
    held_out = place < quotas[labels]
    return shuffled[~held_out], shuffled[held_out]


def _quotas(counts: np.ndarray, size: int, ties: np.ndarray) -> np.ndarray:
    """How many samples of each class to hold out, by the largest remainder.

    Of each class one stays in training at least, as far as that leaves enough.

    Args:
        counts: (classes,) int64, the samples of each class.
        size: how many to hold out in all, at most as many as there are.
        ties: (classes,) an order, in which classes of equal remainders are served.
    """
    most = np.maximum(counts - 1, 0)
    most = most if most.sum() >= size else counts
    exact = counts * (size / counts.sum())
    quotas = np.minimum(np.floor(exact).astype(np.int64), most)
    while (missing := size - quotas.sum()) > 0:
        wanting = np.where(quotas < most, exact - quotas, -np.inf)
        order = ties[np.argsort(-wanting[ties], kind="stable")]
        chosen = order[: min(missing, (quotas < most).sum())]
        quotas[chosen] += 1
    return quotas


def _generator(how: Split) -> torch.Generator:
    return torch.Generator().manual_seed(how.split_seed)


def _mean_and_std(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of each feature, or channel, in float64; a constant one has the std 1. (1, features, ...)."""
    shape = (1, x.shape[1], *(1,) * (x.ndim - 2))
    if x.dtype == torch.uint8 and x.ndim > 2:  # few channels of many pixels: exact, by counting
        flat = x.movedim(1, 0).reshape(x.shape[1], -1).numpy()
        counts = np.stack([np.bincount(channel, minlength=256) for channel in flat])
        levels, total = np.arange(256) / 255, counts.sum(1)
        mean = counts @ levels / total
        std = np.sqrt([c @ (levels - m) ** 2 / c.sum() for c, m in zip(counts, mean, strict=True)])
    else:  # by numpy, for torch's sums hang on the number of threads
        values, axes = _to_numpy(x), (0, *range(2, x.ndim))
        if x.dtype == torch.uint8:
            values = values / 255
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused later
            mean = np.mean(values, axes, dtype=np.float64)
            std = np.std(values, axes, dtype=np.float64)
    std = np.where(std > 1e-12 * np.abs(mean), std, 1.0)  # what rounding leaves is no spread
    return torch.from_numpy(mean).view(shape), torch.from_numpy(std).view(shape)


def _to_numpy(x: Tensor) -> np.ndarray:
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()  # which NumPy lacks


def _standardise_targets(parts: dict[str, Tensor], option: str) -> tuple[tuple[float, ...], float]:
    """Change the targets of all parts, and return what was taken off, and what they are divided by.

    One divisor for all columns, so that a squared error in their own units is this one's times its
    square.
    """
    if not parts["y"].is_floating_point():
        raise UserError(
            f"data.standardise_targets=true: the targets of {option} are classes; use false, or "
            "give the targets of a regression as floats"
        )
    values = parts["y"].numpy().astype(np.float64)
    mean, std = values.mean(axis=0), float(np.sqrt(values.var(axis=0).mean()))
    std = std if std > 1e-12 * np.abs(mean).max() else 1.0  # what rounding leaves is no spread
    for key in ("y", "val_y", "test_y"):
        copy = parts[key].to(torch.float64, copy=True)  # of what may be the caller's own
        parts[key] = copy.sub_(torch.from_numpy(mean)).div_(std).float()
    return tuple(mean.tolist()), std


def _scaled(x: Tensor, shift: tuple[Tensor, Tensor] | None) -> Tensor:
    """As float32, rounded once from float64 where it is standardised, pixels apart."""
    if x.dtype == torch.uint8:
        x = x.float().div_(255)
        return x if shift is None else x.sub_(shift[0].float()).div_(shift[1].float())
    if shift is None:
        return x.float()
    copy = x.to(torch.float64, copy=True)  # of what may be the caller's own
    return copy.sub_(shift[0]).div_(shift[1]).float()


def checked_finite(tensor: Tensor, key: str, option: str, rows: Tensor | None = None) -> None:
    """Refuse what is NaN or infinite, by its sample.

    Args:
        rows: the places that samples have in what the user gave; None: those here.
    """
    if tensor.is_floating_point() and not (finite := tensor.isfinite()).all():
        at = int((~finite.flatten(1).all(1)).nonzero()[0])
        at = at if rows is None else int(rows[at])
        raise UserError(
            f"{option}: {key} has a value that is no finite float32, in sample {at}, counted from 0"
        )


# --- images ---------------------------------------------------------------------------------------


def _is_class(target: Any) -> bool:
    return isinstance(target, int | np.integer) or (
        isinstance(target, Tensor) and target.ndim == 0 and not target.is_floating_point()
    )


def _parameters(call: type) -> set[str]:
    """The arguments of a class, with those that it hands on to the classes it derives from."""
    found: set[str] = set()
    for base in call.__mro__:
        parameters = inspect.signature(base).parameters.values()
        found |= {p.name for p in parameters}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def _image_cache(root: str | None) -> Path:
    if root is not None:
        return data_paths.find(root)
    cache = cache_folder()
    if cache is None:
        raise UserError("data.root=null: there is no home folder; name one, like data.root=data")
    return cache / "torchvision"
