"""The next step of a stack: its batch, its losses and gradients, its update.

A step is *captured* (see ``capture``) where its network, its loss and its optimizer allow it, and
then costs little more than its kernels. Where they do not, or where one bit would differ, it is
*plain*: through vmap, autograd and the optimizer's own code at each step.
"""

from __future__ import annotations

import copy
import functools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lrlab import environment, optimizers
from lrlab.capture import NotCapturable, Program, capture
from lrlab.data import Dataset
from lrlab.lanes import Lanes, same_bits
from lrlab.optimizers import LaneOptimizer
from lrlab.profiling import phase

Coefficients = Mapping[str, Tensor]

TRIED = 3  # the most steps that are made in a row while a step is captured
TRIALS = 3  # segments for each number of threads; the first ones are slow while caches are cold
RETRY = 40  # segments after which another number of threads has its next chance
BELIEVED = 1.3  # times slower than before a segment seems at most, for others' work comes in bursts


class Step(Protocol):
    """The steps of a segment, one after the other.

    Attributes:
        way: ``captured`` or ``plain``.
        batch: what the lanes were last given: inputs and targets.
        losses: (steps, lanes), of the mini-batch before each update.
    """

    way: str
    batch: tuple[Tensor, Tensor]
    losses: Tensor

    def begin(self, order: Tensor, first_steps: Sequence[int], coefficients: Coefficients) -> None:
        """Make ready for a segment.

        Args:
            order: (steps, orders, batch) int64, the samples of its batches.
            first_steps: (lanes,) each lane's step at its beginning.
            coefficients: of the optimizer for its steps.
        """
        ...

    def gradients(self, i: int) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Losses, (lanes,), and gradients, (lanes, ...) for each parameter, at its i-th step."""
        ...

    def update(self, i: int) -> None:
        """Change the parameters by the gradients that were found last."""
        ...

    def end(self, seconds_a_step: float) -> None:
        """Hear how long the steps of the segment took, which is over."""
        ...


def gather(data: Dataset, index: Tensor, order_of: Tensor) -> tuple[Tensor, Tensor]:
    """Samples and labels, (batch, ...) if all lanes have the same ones, else (lanes, batch, ...).

    Lanes of one seed and epoch share what is gathered: to copy it costs less.

    Args:
        index: (orders, batch) int64.
        order_of: (lanes,) int64, each lane's order.
    """
    flat = index.reshape(-1)
    x, y = data.train_x.index_select(0, flat), data.train_y.index_select(0, flat)
    if len(index) == 1:
        return x, y
    x, y = x.view(*index.shape, *x.shape[1:]), y.view(*index.shape, *y.shape[1:])
    if len(index) == len(order_of):
        return x, y
    return x.index_select(0, order_of), y.index_select(0, order_of)


_gather = phase("gather")(gather)  # not where it is captured


class PlainStep:
    way = "plain"

    def __init__(
        self, lanes: Lanes, optimizer: LaneOptimizer, data: Dataset, order_of: Tensor
    ) -> None:
        self._lanes, self._optimizer, self._data = lanes, optimizer, data
        self._order_of = order_of

    def begin(self, order: Tensor, first_steps: Sequence[int], coefficients: Coefficients) -> None:
        self._order, self._first_steps, self._coefficients = order, first_steps, coefficients
        self.losses = torch.empty(len(order), len(self._lanes), device=order.device)

    @phase("gradients")
    def gradients(self, i: int) -> tuple[Tensor, Sequence[Tensor | None]]:
        self.batch = _gather(self._data, self._order[i], self._order_of)
        losses, self._gradients = self._lanes.gradients(*self.batch, self._first_steps, i)
        self.losses[i] = losses
        return losses, self._gradients

    @phase("update")
    def update(self, i: int) -> None:
        self._optimizer.update(self._gradients, self._coefficients, i)

    def end(self, seconds_a_step: float) -> None:
        pass


class Pace:
    """How many threads make a segment: as many as were fastest of late.

    torch's threads wait for one another by spinning. Where other work keeps a core busy, one
    thread can be many times as fast as two, and some products are too small for two at any time.
    """

    def __init__(self, choices: Sequence[int]) -> None:
        self._choices = list(choices)
        self._seconds = dict.fromkeys(choices, math.inf)  # a step, by number of threads
        self._segments = 0

    def choose(self) -> int:
        place, self._segments = self._segments, self._segments + 1
        if place < TRIALS * len(self._choices):
            return self._choices[place % len(self._choices)]
        fastest = min(self._choices, key=lambda count: self._seconds[count])
        if place % RETRY == 0:
            return next((count for count in self._choices if count != fastest), fastest)
        return fastest

    def note(self, count: int, seconds: float) -> None:
        self._seconds[count] = min(seconds, BELIEVED * self._seconds[count])


class CapturedStep:
    """Two programs, one up to the gradients and one for the update, so that steps can be measured.

    All that differs from step to step lies in tables, of which both read the row that a counter
    on the device names: nothing waits for the device within a segment.
    """

    way = "captured"

    def __init__(
        self,
        lanes: Lanes,
        optimizer: LaneOptimizer,
        data: Dataset,
        order_of: Tensor,
        order: Tensor,
        length: int,
        any_threads: bool,
    ) -> None:
        """Captures the lanes' gradients.

        Args:
            order: a segment's, of at most ``length`` steps.
            any_threads: whether one thread may do it too, if that changes no bit.

        Raises:
            NotCapturable: they cannot be captured, or have other bits then.
        """
        self._lanes, self._optimizer, self._data = lanes, optimizer, data
        self._order_of = order_of
        length = max(length, TRIED)
        self._order = order.new_zeros(length, *order.shape[1:])
        self._order[: len(order)].copy_(order)
        self._counter = torch.zeros(1, dtype=torch.int64, device=order.device)
        self.losses = torch.empty(length, len(lanes), device=order.device)
        self._params = list(lanes.params.values())
        self._coefficients: dict[tuple[str, ...], dict[str, Tensor]] = {}
        self._updates: dict[tuple[str, ...], Program] = {}
        self._threads = [torch.get_num_threads()]
        self._find = self._capture_gradients(any_threads and not order.is_cuda)
        self._pace = Pace(self._threads)

    def begin(self, order: Tensor, first_steps: Sequence[int], coefficients: Coefficients) -> None:
        self._order[: len(order)].copy_(order)
        self._counter.zero_()
        names = tuple(coefficients)
        if names not in self._updates:
            self._coefficients[names] = {
                name: values.new_zeros(len(self._order), len(self._lanes))
                for name, values in coefficients.items()
            }
        for name, values in coefficients.items():
            self._coefficients[names][name][: len(values)].copy_(values)
        if names not in self._updates:
            self._updates[names] = self._capture_update(names)
        self._update = self._updates[names]
        self._chosen = self._pace.choose()
        if len(self._threads) > 1:
            torch.set_num_threads(self._chosen)

    @phase("gradients")
    def gradients(self, i: int) -> tuple[Tensor, Sequence[Tensor | None]]:
        with torch.no_grad():
            self._find.run()
        return self._found, self._gradients

    @phase("update")
    def update(self, i: int) -> None:
        with torch.no_grad():
            self._update.run()

    def end(self, seconds_a_step: float) -> None:
        self._pace.note(self._chosen, seconds_a_step)
        if len(self._threads) > 1:
            torch.set_num_threads(self._threads[0])

    # --- inside -----------------------------------------------------------------------------------

    def _capture_gradients(self, any_threads: bool) -> Program:
        lanes = self._lanes

        def find() -> list[Tensor | None]:
            index = self._order.index_select(0, self._counter)[0]
            x, y = gather(self._data, index, self._order_of)
            losses, gradients = lanes.gradients(x, y, [0] * len(lanes), 0)
            self.losses.index_copy_(0, self._counter, losses[None].to(self.losses.dtype))
            return [losses, x, y, *gradients]

        changing = [*self._params, *lanes.fixed.values(), self._order, self._counter, self.losses]
        with lanes.rehearsal(), _kept(changing) as restore:
            with _same_python(lanes.modules):
                expected = [t if t is None else t.clone() for t in find()]
            units, into = self._into(expected)
            watched = capture(find, changing)
            program = watched.program(into)
            restore()
            if wrong := _wrong(program, program.results, expected):
                program = watched.program(into, copied=wrong)
                restore()
                if _wrong(program, program.results, expected):
                    raise NotCapturable("other bits")
            if any_threads and self._threads[0] > 1:
                restore()
                torch.set_num_threads(1)
                if not _wrong(program, program.results, expected):
                    self._threads.append(1)
                torch.set_num_threads(self._threads[0])
            restore()
            program = program.on(self._counter.device)
        self._units = units
        losses, x, y, *self._gradients = program.results
        assert losses is not None and x is not None and y is not None
        self._found, self.batch = losses, (x, y)
        return program

    def _into(self, expected: Sequence[Tensor | None]) -> tuple[list[Tensor], dict[int, Tensor]]:
        """Where the gradients are written: as the parameters lie, to be few in an update."""
        if any(t is None for t in expected):
            return [], {}
        units = [torch.zeros_like(unit) for unit in self._lanes.units]
        parts = optimizers.parts(self._params, self._lanes.units, units) if units else []
        return units, dict(enumerate(parts, start=3))

    def _capture_update(self, names: tuple[str, ...]) -> Program:
        tables, optimizer = self._coefficients[names], self._optimizer
        changing = [*self._params, *optimizer.buffers()]

        def update(units: Sequence[Tensor]) -> list[Tensor]:
            row = {name: table.index_select(0, self._counter) for name, table in tables.items()}
            if units:
                optimizer.update_units(units, row, 0)
            else:
                optimizer.update(self._gradients, row, 0)
            self._counter.add_(1)
            return []

        given = [*tables.values(), self._counter, *(g for g in self._gradients if g is not None)]
        with _kept([*changing, self._counter]) as restore:
            update([])
            expected = [t.clone() for t in changing]
            try:
                program = capture(lambda: update(self._units), [*changing, *given]).program()
                restore()
                if _wrong(program, changing, expected):
                    raise NotCapturable("other bits")
            except NotCapturable:
                restore()
                return Program([functools.partial(update, [])], [])
            restore()
            return program.on(self._counter.device)


@phase("capture")
def build_step(
    lanes: Lanes,
    optimizer: LaneOptimizer,
    data: Dataset,
    order: Tensor,
    order_of: Tensor,
    length: int,
    captured: bool,
    any_threads: bool = False,
) -> Step:
    """The step of a stack, by the faster way that is to be had.

    Args:
        order: (steps, orders, batch) int64, some batches of its.
        order_of: (lanes,) int64, each lane's order.
        length: of the longest segment, in steps.
        captured: whether it may be captured at all.
        any_threads: as for ``CapturedStep``.
    """
    if captured and lanes.way != "unmapped" and not optimizer.general:
        try:
            first = order[:length]
            return CapturedStep(lanes, optimizer, data, order_of, first, length, any_threads)
        except NotCapturable:
            pass
    return PlainStep(lanes, optimizer, data, order_of)


# --- trying it out --------------------------------------------------------------------------------


@contextmanager
def _kept(tensors: Sequence[Tensor]) -> Iterator[Callable[[], None]]:
    """Tensors that are put back as they were at the end, and whenever the callable is called."""
    before = [t.detach().clone() for t in tensors]

    def restore() -> None:
        with torch.no_grad():
            for tensor, old in zip(tensors, before, strict=True):
                tensor.copy_(old)

    try:
        yield restore
    finally:
        restore()


def _wrong(program: Program, found: Sequence[Tensor | None], expected: Sequence[Any]) -> set[int]:
    """Places of what has other bits once the program has run.

    Raises:
        NotCapturable: it does not run.
    """
    try:
        with torch.no_grad():
            program.run()
    except (RuntimeError, TypeError) as error:
        if environment.out_of_memory(error):
            raise
        raise NotCapturable(str(error)) from error
    pairs = zip(found, expected, strict=True)
    return {i for i, (f, e) in enumerate(pairs) if f is not None and not same_bits([f], [e])}


@contextmanager
def _same_python(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Refuses work that changes more than tensors: a program would not repeat that.

    Raises:
        NotCapturable: an attribute of a module or a global random generator has changed.
    """
    before = copy.deepcopy(_python_state(modules))
    yield
    if not _equal(before, _python_state(modules)):
        raise NotCapturable("it changes more than tensors")


def _python_state(modules: Sequence[nn.Module]) -> list[Any]:
    kept = ("_parameters", "_buffers", "_modules")
    attributes = [
        {name: value for name, value in vars(module).items() if name not in kept}
        for root in dict.fromkeys(modules)
        for module in root.modules()
    ]
    return [random.getstate(), np.random.get_state(), attributes]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_equal(v, other[k]) for k, v in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one is other or bool(one == other)
