"""Define a data set as tensors, and the hash by which a record identifies it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lrlab.data import inputs
from lrlab.data.inputs import Inputs
from lrlab.errors import must_be
from lrlab.process.plain import is_whole


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs and targets, wholly in memory.

    Inputs are (N, ...) float32, images (N, channels, height, width), and normalised; or int64 or
    bool; or several of them, see `lrlab.data.inputs`. Targets are (N,) int64, classes below
    `num_classes`, or (N, positions, ...), where a negative one may be one that a loss ignores. In a
    regression they are (N, width) float32, or (N, ...), and `num_classes` is None. `val_*` is held
    out from training; `test_*` may be empty. `sha256` covers the contents and order of all six:
    two datasets with equal hashes hold equal tensors.

    If targets are standardised, `target_std` times one of them, plus `target_mean` of its column,
    (width,), is the target in its own unit. One deviation is for all columns.

    `notices` are sentences for before training: omitted parts, and values that may not be meant.

    `integral`: whether inputs were given as whole numbers or booleans, other than pixels.

    `other_x`: the inputs of the three parts in other types, for a network that does not take
    these; see `in_other_types`. None: there are no others.
    """

    name: str
    train_x: Inputs
    train_y: Tensor
    val_x: Inputs
    val_y: Tensor
    test_x: Inputs
    test_y: Tensor
    num_classes: int | None
    sha256: str
    target_mean: tuple[float, ...] = ()
    target_std: float = 1.0
    notices: tuple[str, ...] = ()
    integral: bool = False
    other_x: tuple[Inputs, Inputs, Inputs] | None = None

    @property
    def outputs(self) -> int:
        """How many numbers a network returns for a sample: one a class, or the targets' width.

        With positions, for each of them: (N, positions, width), (N, channels, height, width).
        """
        return self.num_classes or self.train_y.shape[-1 if self.train_y.ndim == 3 else 1]

    @property
    def parts(self) -> tuple[Inputs, ...]:
        """All six, in the order of `sha256`."""
        of_x = (self.train_x, self.val_x, self.test_x)
        pairs = zip(of_x, (self.train_y, self.val_y, self.test_y), strict=True)
        return tuple(part for pair in pairs for part in pair)

    @property
    def nbytes(self) -> int:
        return sum(map(inputs.nbytes, self.parts))

    @property
    def in_shape(self) -> Any:
        """The shape of one sample's input; of several, in their structure."""
        return inputs.mapped(lambda tensor: tuple(tensor.shape[1:]), self.train_x)

    @property
    def types(self) -> str:
        """The inputs' types in words, for a log; "" if they are floats of 32 bits as ever."""
        kinds = inputs.mapped(lambda t: str(t.dtype).removeprefix("torch."), self.train_x)
        floats = [kind for kind in inputs.leaves(kinds) if kind.startswith("float")]
        made = ", made of the data's whole numbers" if self.integral and floats else ""
        if isinstance(kinds, str):
            return "" if kinds == "float32" and not made else f"inputs: {kinds}{made}"
        named = kinds.items() if isinstance(kinds, dict) else enumerate(kinds)
        return "inputs: " + ", ".join(f"{name} {kind}" for name, kind in named)

    def head(self, count: int) -> tuple[Any, Tensor]:
        """Return the first training samples and their targets."""
        return inputs.mapped(lambda tensor: tensor[:count], self.train_x), self.train_y[:count]

    def to(self, device: torch.device | str) -> Dataset:
        """Return the same data on `device`; tensors that are there already are not copied."""
        names = ("train_x", "train_y", "val_x", "val_y", "test_x", "test_y")

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device)

        there = {name: inputs.mapped(moved, getattr(self, name)) for name in names}
        return replace(self, **there, other_x=None)

    def double(self) -> Dataset:
        """Return the same data with floats of 64 bits."""

        def wide(tensor: Tensor) -> Tensor:
            return tensor.double() if tensor.is_floating_point() else tensor

        names = ("train_x", "train_y", "val_x", "val_y", "test_x", "test_y")
        made = {name: inputs.mapped(wide, getattr(self, name)) for name in names}
        changed = replace(self, **made, other_x=None)
        return replace(changed, sha256=parts_sha256(changed.parts))

    def in_other_types(self) -> Dataset:
        """Return the same data with `other_x` as inputs."""
        assert self.other_x is not None
        train, val, test = self.other_x
        changed = replace(self, train_x=train, val_x=val, test_x=test, other_x=None)
        return replace(changed, sha256=parts_sha256(changed.parts))


def check_draw(train_size: Any, seed: Any, samples: str) -> None:
    """Check the settings that say which samples are trained on.

    Args:
        samples: what they are called in a message.
    """
    if train_size is not None and not is_whole(train_size, 1):
        works = f"a whole number of at least 1, or null for all {samples}"
        raise must_be("data.train_size", train_size, works, 1000)
    if not (is_whole(seed) and 0 <= seed < 2**63):
        raise must_be("data.split_seed", seed, "a whole number from 0 to 2**63 - 1", 0)


def parts_sha256(parts: Iterable[Inputs]) -> str:
    """Return the hash of inputs and targets; for one tensor each that of the tensors."""
    found: list[Tensor] = []
    for part in parts:
        if not isinstance(part, Tensor):
            names = str(list(part) if isinstance(part, dict) else len(part)).encode()
            found.append(torch.frombuffer(bytearray(names), dtype=torch.uint8))
        found += inputs.tensors(part)
    return tensors_sha256(found)


def tensors_sha256(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).numpy().data)
    return digest.hexdigest()
