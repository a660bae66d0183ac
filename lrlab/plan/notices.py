"""Write notices before training: settings that work, but may not be meant."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lrlab.plan import build, schedule_notices
from lrlab.plan.spec import RunSpec, samples_a_step
from lrlab.records.thresholds import THRESHOLDS

if TYPE_CHECKING:
    from lrlab.data import Dataset

FEW_HELD_OUT = 100  # samples
# Beyond this, classes look like quantities: most are rare, or they are many and none common.
FEW_CLASSES, FEW_EACH = 10, 10
MANY_CLASSES, FEW_OF_MANY = 50, 20  # mean number of samples of each

TABLE = "lrlab.own_data.table"
OF_CLASSES = {  # losses that cannot be a regression's
    "lrlab.data.torchvision_images",
    "lrlab.own_data.image_folder",
    "lrlab.own_data.torchvision_set",
}
CLASSIFICATION = {f"lrlab.losses.{name}" for name in ("nll", "cross_entropy", "mse_one_hot")}


def lines(specs: Sequence[RunSpec]) -> list[str]:
    """Return one sentence for each notice, without repetition, in the order of the runs.

    Args:
        specs: the runs of a sweep, or in a search those at the ends of its intervals.
    """
    # only one of equal ones is examined: a sweep of a thousand lrs has one data set
    of_data = {json.dumps([spec[key] for key in _OF_DATA], default=str): spec for spec in specs}
    found = [line for spec in of_data.values() for line in _of_data(spec)]
    found += schedule_notices.of_sweep(specs)
    for spec in schedule_notices.one_each(specs):
        found += schedule_notices.of_run(spec)
    return list(dict.fromkeys(found))


_OF_DATA = ("data", "loss", "batch_size", "epochs")


def _of_data(spec: RunSpec) -> Iterator[str]:
    data, batch_size, epochs = build.load_data(spec), spec["batch_size"], spec["epochs"]
    target = str(spec["data"].get("_target_"))
    yield from data.notices
    # with positions, such as a text's, numbers that never occur are usual
    if data.num_classes is not None and data.train_y.ndim == 1 and target not in OF_CLASSES:
        yield from _of_labels(spec, data)
    if (held_out := len(data.val_y)) < FEW_HELD_OUT:
        noisy = "val losses are noisy"
        if data.num_classes is not None:
            noisy = f"one of them is {1 / held_out:.1%} of the val accuracy"
        yield (
            f"only {_counted(held_out, 'sample')} held out, so {noisy}; "
            "use a larger data.val_size, or a larger validation part of your own"
        )
    each = len(data.train_y) // samples_a_step(spec)
    # Setting train_size shows that a short run is wanted.
    if each * epochs < THRESHOLDS.few_steps and spec["data"].get("train_size") is None:
        yield (
            f"{_counted(each * epochs, 'step')} only: {_counted(epochs, 'epoch')} of {each}, with "
            f"batch_size={batch_size}; use more epochs or a smaller batch_size"
        )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _of_labels(spec: RunSpec, data: Dataset) -> Iterator[str]:
    """Return notices about the whole numbers of a classification."""
    counts = _counts(data)
    distinct = int((counts > 0).sum())
    few = distinct > FEW_CLASSES and np.median(counts[counts > 0]) < FEW_EACH
    many = distinct > MANY_CLASSES and counts.sum() < FEW_OF_MANY * distinct
    if (few or many) and str(spec["loss"].get("_target_")) in CLASSIFICATION:
        is_table = str(spec["data"].get("_target_")) == TABLE
        remedy = "use data.task=regression" if is_table else "give them as floats"
        yield (
            f"the targets are {distinct} different whole numbers, taken as classes; "
            f"if they are quantities, {remedy} with loss=mse"
        )
    elif distinct < len(counts):
        shown = ", ".join(map(str, np.flatnonzero(counts)[:3])) + (", ..." if distinct > 3 else "")
        missing = "class 0 never occurs" if counts[0] == 0 else "there are gaps between them"
        yield (
            f"the labels are {shown} and {missing}, but the network has {len(counts)} outputs, by "
            f"the largest label; renumber them 0 to {distinct - 1}"
        )


def _counts(data: Dataset) -> np.ndarray:
    """Return how often each class occurs in all parts, (num_classes,)."""
    labels = [getattr(data, f"{part}_y").flatten().numpy() for part in ("train", "val", "test")]
    every = np.concatenate(labels)
    return np.bincount(every[every >= 0], minlength=data.num_classes or 0)
