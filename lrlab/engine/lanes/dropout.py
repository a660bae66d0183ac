"""Let lanes that run together drop out, each by its own seed and step.

vmap refuses random numbers. So a dropout layer gets masks that are drawn lane by lane, each from a
generator of its lane: the numbers that torch would draw for the lane alone. Only the functions in
``_MASKS`` are replaced. Networks that draw in other ways run one lane after the other, without
vmap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

DRAWS = (-2, False)  # in the table of ways: whether lanes drop out together; unset: not known yet


@dataclass
class Masks:
    """The masks of one pass through the network, in the order of its dropout layers.

    A mask is 0 with probability p, otherwise 1 / (1 - p), as torch computes it.

    Attributes:
        seeds: (lanes,) of their generators.
        held: masks that ``fill`` has filled already; a pass takes them in order.
        taken: the masks that the pass has taken so far, with their p.
    """

    seeds: Callable[[], Sequence[int]]
    held: list[tuple[Tensor, float]] | None = None
    taken: list[tuple[Tensor, float]] = field(default_factory=list)
    _generators: list[torch.Generator] = field(default_factory=list)

    def next(self, shape: Sequence[int], p: float, dtype: torch.dtype) -> Tensor:
        """Return the next dropout layer's masks, (lanes, *shape)."""
        if self.held is not None:
            mask, _ = self.held[len(self.taken)]
        else:
            self._generators = self._generators or _generators(self.seeds())
            mask = torch.empty(len(self._generators), *shape, dtype=dtype)
            _fill(mask, p, self._generators)
        self.taken.append((mask, p))
        return mask


def fill(held: Sequence[tuple[Tensor, float]], seeds: Sequence[int]) -> None:
    """Draw the masks of a pass in place, as ``Masks.next`` draws them."""
    generators = _generators(seeds)
    for mask, p in held:
        _fill(mask, p, generators)


def _generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _fill(mask: Tensor, p: float, generators: Sequence[torch.Generator]) -> None:
    for lane, generator in zip(mask, generators, strict=True):
        lane.bernoulli_(1 - p, generator=generator)
    mask.div_(1 - p)


# --- within a pass --------------------------------------------------------------------------------


def _each(x: Tensor) -> Sequence[int]:
    return x.shape


def _channels(dims: int) -> Callable[[Tensor], Sequence[int] | None]:
    """Return a function to the shape of a mask for whole channels; None for an unbatched x."""
    return lambda x: (*x.shape[:2], *[1] * dims) if x.ndim == dims + 2 else None


# A function to the shape of its mask.
_MASKS: dict[Any, Callable[[Tensor], Sequence[int] | None]] = {
    F.dropout: _each,
    torch.dropout: _each,
    F.dropout1d: _channels(1),
    F.dropout2d: _channels(2),
    F.dropout3d: _channels(3),
}


class LaneDropout(TorchFunctionMode):
    """Replace dropout in a forward pass under vmap, on the CPU."""

    def __init__(self, lane: Tensor, masks: Masks) -> None:
        """Prepare for one pass.

        Args:
            lane: a number of each lane, under vmap.
        """
        super().__init__()
        self._lane, self._masks = lane, masks

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shape_of = _MASKS.get(func)
        if shape_of is None:
            return func(*args, **(kwargs or {}))
        x, p, train, inplace = _arguments(*args, **(kwargs or {}))
        shape = shape_of(x)
        if shape is None or not train or not 0 < p < 1 or not x.numel() or x.device.type != "cpu":
            return func(*args, **(kwargs or {}))
        mask = _UnderVmap.apply(self._lane, self._masks, shape, p, x.dtype)
        return x.mul_(mask) if inplace else x * mask


def _arguments(
    input: Tensor, p: float = 0.5, train: bool = True, inplace: bool = False, training: bool = True
) -> tuple[Tensor, float, bool, bool]:
    """Return the arguments of a function of ``_MASKS``; torch.dropout says train, F's training."""
    return input, p, train and training, inplace


class _UnderVmap(torch.autograd.Function):
    """The next masks: outside of vmap one for each lane, inside of it the lane's."""

    @staticmethod
    def forward(*args: Any) -> Tensor:
        raise NotImplementedError("it runs under vmap only")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Tensor, int]:  # type: ignore[override]
        _, masks, shape, p, dtype = args
        return masks.next(shape, p, dtype), 0
