"""Try out, and find, the fastest way in which each lane of a stack has the bits it has alone."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor
from torch.overrides import TorchFunctionMode

from lrlab.data import inputs
from lrlab.data.inputs import Batch
from lrlab.engine import devices, python_state
from lrlab.engine.bits import same_bits
from lrlab.engine.lanes import chunks, dropout
from lrlab.engine.lanes.chunks import Samples

if TYPE_CHECKING:
    from lrlab.engine.lanes.lane_stack import Lanes

KEEPS_STATE = (0, False)  # in the table of ways: whether it was found to keep state in Python
UNSAVED = (0, True)  # likewise: names of the state that cannot be saved


@dataclass(frozen=True)
class _Trial:
    """The results and side effects of a step and of an evaluation of each kind of chunk.

    Attributes:
        results: in a fixed order.
        draws: whether the global generators of Python or numpy moved, where nothing seeds them.
        left_mapped: whether a network or loss kept a tensor of vmap.
    """

    results: list[Tensor]
    draws: bool
    left_mapped: bool


def find_way(lanes: Lanes, batch: Batch, evaluated: Sequence[Samples]) -> str:
    """Return the way for ``Lanes.settle``, with the same arguments; leave any way set."""
    lanes.way = "together"
    try:
        # A network that draws random numbers, but in dropout layers, is refused here, because in a
        # stack its numbers would depend on the other lanes.
        with _Hooks() as hooks:
            tried = _trial(lanes, batch, evaluated)
    except RuntimeError as error:
        if devices.out_of_memory(error):
            raise
        _note_state(lanes, batch, evaluated)
        return "unmapped"
    if tried.draws:
        return "unmapped"
    lanes.ways.setdefault(dropout.DRAWS, "no")
    if hooks.found or tried.left_mapped:  # vmap calls no hook of a tensor's gradient
        lanes.ways.pop(KEEPS_STATE, None)
        _note_state(lanes, batch, evaluated)
        return "unmapped"
    if lanes.keeps_state and len(lanes) > 1:
        return "one at a time"
    if lanes.pad:
        return _padded_way(lanes, batch, evaluated)
    if len(lanes) == 1:
        return "together"
    lanes.way = "one at a time"
    if not same_bits(tried.results, _trial(lanes, batch, evaluated).results):
        return "one at a time"
    return "together" if _is_faster_together(lanes, batch) else "one at a time"


def _is_faster_together(lanes: Lanes, batch: Batch) -> bool:
    """Return whether a step of all lanes takes no longer than a step of each; no bit changes.

    One convolution of many lanes can take longer than one for each, other layers do not.
    """

    def seconds(way: str, times: int) -> float:
        lanes.way = way
        with lanes.rehearsal():
            return min(_gradient_seconds(lanes, batch) for _ in range(times))

    if batch.y.is_cuda or seconds("together", 1) < seconds("one at a time", 1):
        return True
    return seconds("together", 3) < seconds("one at a time", 3)


def _gradient_seconds(lanes: Lanes, batch: Batch) -> float:
    started = time.perf_counter()
    lanes.gradients(batch.x, batch.y, [0] * len(lanes), 0, batch.own)
    return time.perf_counter() - started


def _padded_way(lanes: Lanes, batch: Batch, evaluated: Sequence[Samples]) -> str:
    """Return the way without neighbours' influence in any bit, in a full stack of padded width.

    All stacks of the group use the result, and so does the run alone. So it is tried with copies of
    the lanes in all rows, and some rows are compared.
    """
    y = batch.y
    if y.shape[int(batch.own)] // lanes.accumulate % chunks.summed_at_once(y.device, lanes.pad):
        return "one at a time"

    def trial(picked: list[int]) -> list[Tensor]:
        return _trial(lanes.select(picked), _of_lanes(batch, picked), evaluated).results

    rows = [row % len(lanes) for row in range(lanes.pad)]
    together = trial(rows)
    for row in {0, 1, 2, 3, lanes.pad // 2, lanes.pad - 1} & set(range(lanes.pad)):
        if not same_bits([t[row : row + 1] for t in together], trial([rows[row]])):
            return "one at a time"
    return "together"


def _of_lanes(batch: Batch, lanes: list[int]) -> Batch:
    """Return the batch of some of the lanes."""
    if not batch.own:
        return batch
    return Batch(inputs.mapped(lambda t: t[lanes], batch.x), batch.y[lanes], own=True)


def _note_state(lanes: Lanes, batch: Batch, evaluated: Sequence[Samples]) -> None:
    """Try one lane without vmap, to see which Python values it changes."""
    if KEEPS_STATE in lanes.ways:
        return
    alone = lanes.select([0])
    alone.way = "unmapped"
    alone.cut()
    try:
        _trial(alone, _of_lanes(batch, [0]), evaluated)
    except Exception as error:  # it will raise in training, too, and be reported there
        if devices.out_of_memory(error):
            raise


def _trial(lanes: Lanes, batch: Batch, evaluated: Sequence[Samples]) -> _Trial:
    """Return the results of a step, and of an evaluation of each length and layout of samples.

    Outputs are compared, too: a mean can hide a difference in the last bit.
    """
    multiple = chunks.summed_at_once(batch.y.device, lanes.pad)
    pieces: dict[tuple[Any, ...], Samples] = {}
    for xs, ys in evaluated:
        layout = tuple(tensor.stride() for tensor in inputs.tensors(xs))
        for length in chunks.chunk_sizes(len(ys), multiple):
            pieces[length, layout] = inputs.mapped(lambda t, n=length: t[-n:], xs), ys[-length:]
    with lanes.rehearsal():
        before, drawn = lanes.python(0), _global_state()
        losses, gradients = lanes.gradients(batch.x, batch.y, [0] * len(lanes), 0, batch.own)
        found = [losses, *(g for g in gradients if g is not None)]
        lanes.train_mode(False)
        for xs, ys in pieces.values():
            blocks = lanes.single_blocks() if len(ys) % multiple else lanes.blocks
            with torch.no_grad():
                scores = [lanes.passes.scores(block, xs, ys, 0, _as_they_are) for block in blocks]
            found += [torch.cat(parts) for parts in zip(*scores, strict=True)]
        lanes.train_mode(True)
        draws = lanes.way != "unmapped" and drawn != _global_state()  # there it is seeded
        if any(map(_keeps_mapped, lanes.modules + lanes.losses)):
            # their tensors are of no use outside of vmap, not even to look at
            return _Trial(found, draws, left_mapped=True)
        changed = lanes.changed(before)
        pairs = zip(before, lanes.python(0), strict=True)
        lost = [n for pair in pairs for n in python_state.unsaved(python_state.changes(*pair))]
        if lost:
            lanes.ways[UNSAVED] = ", ".join(lost[:3])
        if changed or KEEPS_STATE not in lanes.ways:
            lanes.ways[KEEPS_STATE] = "yes" if changed else "no"
    return _Trial(found, draws, left_mapped=False)


def _as_they_are(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs


# --- side effects of a forward pass --------------------------------------------------------------


def _global_state() -> tuple[Any, ...]:
    """Return the states of the global generators of Python and numpy, comparable."""
    _, keys, place, *gauss = np.random.get_state()
    return random.getstate(), np.asarray(keys).tobytes(), place, gauss


class _Hooks(TorchFunctionMode):
    """Note whether a tensor is given a hook for its gradient, or asked if it has one.

    Under vmap hooks are not called, and no tensor says that it requires a gradient.

    Attributes:
        found: whether one was.
    """

    found = False
    _asked = (Tensor.requires_grad.__get__, Tensor.grad_fn.__get__)  # type: ignore[attr-defined]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.register_hook:
            self.found = True
        elif func in self._asked and is_batchedtensor(args[0]):
            self.found |= _asker().partition(".")[0] not in ("torch", "lrlab")
        return func(*args, **(kwargs or {}))


def _asker() -> str:
    """Return the module whose code called torch, through a mode or the ``dropout`` within it."""
    frame = sys._getframe(2)
    while frame.f_globals.get("__name__") == dropout.__name__ and frame.f_back is not None:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__"))


def _keeps_mapped(owner: Any) -> bool:
    """Return whether a network or loss has kept a tensor of all lanes, which vmap provides."""
    parts = owner.modules() if isinstance(owner, nn.Module) else [owner]
    values = (value for part in parts for value in getattr(part, "__dict__", {}).values())
    return any(isinstance(v, Tensor) and is_batchedtensor(v) for v in values)
