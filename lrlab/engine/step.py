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
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lrlab.data import Dataset
from lrlab.engine import devices
from lrlab.engine.capture.capturing import capture
from lrlab.engine.capture.program import NotCapturable, Program
from lrlab.engine.lanes import Lanes, same_bits
from lrlab.engine.optimizers import stacked
from lrlab.engine.optimizers.protocol import LaneOptimizer
from lrlab.process.profiling import phase

Coefficients = Mapping[str, Tensor]

TRIED = 3  # the most steps that are made in a row while a step is captured
TRIALS = 3  # segments for each number of threads; the first ones are slow while caches are cold
PATIENCE = 10  # segments between two trials, times how much slower the other number of threads was
MOST_PATIENCE = 100


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

    @property
    def on_trial(self) -> bool:
        """Whether the next segment finds out how fast something is."""
        ...

    def holds(self) -> bool:
        """Whether the networks' own Python state is what it was; asked between two epochs, for
        evaluations and changes of the mode may change it."""
        ...

    def end(self, seconds_a_step: float) -> None:
        """Hear how long the steps of the segment took, which is over."""
        ...


def gather(
    data: Dataset, index: Tensor, order_of: Tensor, apart: bool = False
) -> tuple[Tensor, Tensor]:
    """Samples and labels, (batch, ...) if all lanes have the same ones, else (lanes, batch, ...).

    Lanes of one seed and epoch share what is gathered: to copy it costs less.

    Args:
        index: (orders, batch) int64.
        order_of: (lanes,) int64, each lane's order.
        apart: each lane has a batch of its own even so. In a padded stack, for there a lane must
            take the same products whether others share its batch or not.
    """
    flat = index.reshape(-1)
    x, y = data.train_x.index_select(0, flat), data.train_y.index_select(0, flat)
    if len(index) == 1 and not apart:
        return x, y
    x, y = x.view(*index.shape, *x.shape[1:]), y.view(*index.shape, *y.shape[1:])
    if len(index) == len(order_of):
        return x, y
    return x.index_select(0, order_of), y.index_select(0, order_of)


_gather = phase("gather")(gather)  # not where it is captured


class PlainStep:
    way = "plain"
    on_trial = False

    def holds(self) -> bool:
        return True

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
        apart = bool(self._lanes.pad)
        self.batch = _gather(self._data, self._order[i], self._order_of, apart)
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
    The other number has a trial now and then, the sooner the less it costs.
    """

    def __init__(self, choices: Sequence[int]) -> None:
        # seconds a step of the latest two segments, of which the better one is believed: others'
        # work comes in bursts
        self._seconds = {count: deque([math.inf], maxlen=2) for count in choices}
        self._segments = 0
        self._without_trial = 0  # segments

    @property
    def on_trial(self) -> bool:
        """Whether the next segment may not be made by the number that is fastest."""
        return self._untried or self._without_trial >= self._patience

    def choose(self) -> int:
        choices = list(self._seconds)
        if self._untried:
            count = choices[self._segments % len(choices)]
        else:
            fastest, *others = sorted(choices, key=self._believed)
            count = others[0] if self.on_trial else fastest
        self._without_trial = 0 if self.on_trial else self._without_trial + 1
        self._segments += 1
        return count

    def note(self, count: int, seconds: float) -> None:
        self._seconds[count].append(seconds)

    def _believed(self, count: int) -> float:
        return min(self._seconds[count])

    @property
    def _untried(self) -> bool:
        choices = len(self._seconds)
        return choices > 1 and self._segments < TRIALS * choices

    @property
    def _patience(self) -> float:
        if len(self._seconds) == 1:
            return math.inf
        believed = [self._believed(count) for count in self._seconds]
        return min(PATIENCE * max(believed) / min(believed), MOST_PATIENCE)


class _Rows:
    """A table of which a captured step sees one row.

    Attributes:
        now: the row. On a GPU the step takes it by itself, by a counter on the device, so that
            nothing waits for the device within a segment; else it is put there before the step.
    """

    def __init__(self, count: int, row: Tensor) -> None:
        self.table = row.new_zeros(count, *row.shape)
        self._rows = self.table.unbind()
        self.now = torch.zeros_like(row)

    def take(self, i: int) -> None:
        self.now.copy_(self._rows[i])

    def taking(self, counter: Tensor) -> Callable[[], Any]:
        into = self.now[None]
        return functools.partial(torch.index_select, self.table, 0, counter, out=into)


class CapturedStep:
    """Two programs, one up to the gradients and one for the update, so that steps can be measured.

    All that differs from step to step lies in tables (``_Rows``).
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
        self._index = _Rows(length, order[0])
        self._index.table[: len(order)].copy_(order)
        self._index.take(0)
        self.losses = torch.empty(length, len(lanes), device=order.device)
        self._losses = self.losses.unbind()
        self._counter = None
        if _counts(order.device):
            self._counter = torch.zeros(1, dtype=torch.int64, device=order.device)
        self._params = list(lanes.params.values())
        self._coefficients: dict[tuple[str, ...], _Coefficients] = {}
        self._updates: dict[tuple[str, ...], Program] = {}
        self._threads = [torch.get_num_threads()]
        self._attributes = copy.deepcopy(_attributes(lanes.modules))
        self._find = self._capture_gradients(any_threads and not order.is_cuda)
        self._pace = Pace(self._threads)

    @property
    def on_trial(self) -> bool:
        return self._pace.on_trial

    def holds(self) -> bool:
        return _equal(self._attributes, _attributes(self._lanes.modules))

    def begin(self, order: Tensor, first_steps: Sequence[int], coefficients: Coefficients) -> None:
        self._index.table[: len(order)].copy_(order)
        if self._counter is not None:
            self._counter.zero_()
        names = tuple(coefficients)
        known = names in self._updates
        if not known:
            self._coefficients[names] = _Coefficients(len(self._index.table), coefficients)
        self._now = self._coefficients[names]
        self._now.put(coefficients)
        if not known:
            self._updates[names] = self._capture_update(self._now)
        self._update = self._updates[names]
        self._chosen = self._pace.choose()
        if len(self._threads) > 1:
            torch.set_num_threads(self._chosen)

    @phase("gradients")
    def gradients(self, i: int) -> tuple[Tensor, Sequence[Tensor | None]]:
        if self._counter is not None:
            self._find.run()
        else:
            self._index.take(i)
            self._find.run()
            self._losses[i].copy_(self._found)
        return self._found, self._gradients

    @phase("update")
    def update(self, i: int) -> None:
        if self._counter is None:
            self._now.take(i)
        self._update.run()

    def end(self, seconds_a_step: float) -> None:
        self._pace.note(self._chosen, seconds_a_step)
        if len(self._threads) > 1:
            torch.set_num_threads(self._threads[0])

    # --- inside -----------------------------------------------------------------------------------

    def _capture_gradients(self, any_threads: bool) -> Program:
        lanes = self._lanes

        def find() -> list[Tensor | None]:
            x, y = gather(self._data, self._index.now, self._order_of, bool(lanes.pad))
            losses, gradients = lanes.gradients(x, y, [0] * len(lanes), 0)
            return [losses, x, y, *gradients]

        changing = [*self._params, *lanes.fixed.values(), self._index.now]
        counted = [] if self._counter is None else [self._counter, self.losses]
        with lanes.rehearsal(), _kept([*changing, *counted]) as restore:
            before = lanes.python(0)
            with _same_python(lanes.modules):
                expected = _clones(find())
            if lanes.changed(before):  # the loss too, and within objects
                raise NotCapturable("it changes more than tensors")
            restore()
            self._disturb()
            disturbed = _clones(find())
            restore()

            def wrong(program: Program) -> set[int]:
                restore()
                found = _wrong(program, program.results, expected)
                restore()
                self._disturb()
                return found | _wrong(program, program.results, disturbed)

            units, into = self._into(expected)
            watched = capture(find, changing)
            for shared in (True, False):
                program = watched.program(into, shared=shared)
                if not (found := wrong(program)):
                    break
                program = watched.program(into, copied=found, shared=shared)
                if not wrong(program):
                    break
            else:
                raise NotCapturable("other bits")
            if any_threads and self._threads[0] > 1:
                torch.set_num_threads(1)
                if not wrong(program):
                    self._threads.append(1)
                torch.set_num_threads(self._threads[0])
            restore()
            self._units = units
            losses, x, y, *self._gradients = program.results
            assert losses is not None and x is not None and y is not None
            self._found, self.batch = losses, (x, y)
            if self._counter is None:
                return program
            calls = [self._index.taking(self._counter), *program.calls, self._note_losses]
            return Program(calls, program.results).on(self._counter.device)

    @torch.no_grad()
    def _disturb(self) -> None:
        """Put another batch and other parameters in place.

        A network that takes numbers out of torch would have those of the first batch for good, and
        gradients of 0, as behind a layer that starts at 0, are equal in any order of their sums.
        """
        self._index.now.add_(1).remainder_(len(self._data.train_y))
        for param in self._params:
            if param.is_floating_point():
                noise = torch.linspace(-0.01, 0.01, param.numel(), device=param.device)
                param.add_(noise.view(param.shape).to(param.dtype))

    def _note_losses(self) -> None:
        assert self._counter is not None
        row = self._found[None].to(self.losses.dtype)
        self.losses.index_copy_(0, self._counter, row)

    def _into(self, expected: Sequence[Tensor | None]) -> tuple[list[Tensor], dict[int, Tensor]]:
        """Where the gradients are written: as the parameters lie, to be few in an update."""
        if any(t is None for t in expected):
            return [], {}
        units = [torch.zeros_like(unit) for unit in self._lanes.units]
        parts = stacked.parts(self._params, self._lanes.units, units) if units else []
        return units, dict(enumerate(parts, start=3))

    def _capture_update(self, coefficients: _Coefficients) -> Program:
        optimizer, counter = self._optimizer, self._counter
        changing = [*self._params, *optimizer.buffers()]
        coefficients.take(0)

        def update(units: Sequence[Tensor]) -> list[Tensor]:
            if units:
                optimizer.update_units(units, coefficients.now, 0)
            else:
                optimizer.update(self._gradients, coefficients.now, 0)
            return []

        given = [*coefficients.rows(), *(g for g in self._gradients if g is not None)]
        counted = [] if counter is None else [counter]
        with _kept([*changing, *counted]) as restore:
            update([])
            expected = [t.clone() for t in changing]
            captured = True
            try:
                program = capture(lambda: update(self._units), [*changing, *given]).program()
                restore()
                if _wrong(program, changing, expected):
                    raise NotCapturable("other bits")
            except NotCapturable:
                program, captured = Program([functools.partial(update, [])], []), False
            restore()
            if counter is None:
                return program
            count = functools.partial(counter.add_, 1)
            program = Program([*coefficients.taking(counter), *program.calls, count], [])
            return program.on(counter.device) if captured else program


class _Coefficients:
    """What an update reads, in one table for each type of number.

    Attributes:
        now: name to (1, lanes), of the step that is made.
    """

    def __init__(self, count: int, like: Coefficients) -> None:
        """
        Args:
            count: of steps.
            like: name to (steps, lanes).
        """
        self._names: dict[torch.dtype, list[str]] = {}
        for name, values in like.items():
            self._names.setdefault(values.dtype, []).append(name)
        self._rows: dict[torch.dtype, _Rows] = {}
        self.now: dict[str, Tensor] = {}
        for kind, names in self._names.items():
            row = torch.stack([like[name][0] for name in names])
            self._rows[kind] = _Rows(count, row)
            self.now |= dict(zip(names, self._rows[kind].now.split(1), strict=True))

    def rows(self) -> list[Tensor]:
        """What ``now`` lies in."""
        return [rows.now for rows in self._rows.values()]

    def put(self, coefficients: Coefficients) -> None:
        """Make ready for a segment, whose coefficients these are."""
        for kind, names in self._names.items():
            for place, name in enumerate(names):
                values = coefficients[name]
                self._rows[kind].table[: len(values), place].copy_(values)

    def take(self, i: int) -> None:
        for rows in self._rows.values():
            rows.take(i)

    def taking(self, counter: Tensor) -> list[Callable[[], Any]]:
        return [rows.taking(counter) for rows in self._rows.values()]


def _counts(device: torch.device) -> bool:
    """Whether steps on this device find their rows by a counter there: in a graph."""
    return device.type == "cuda"


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
        except Exception as error:  # of an operation that a program has in another form
            if devices.out_of_memory(error):
                raise
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


def _clones(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [t if t is None else t.clone() for t in tensors]


def _wrong(program: Program, found: Sequence[Tensor | None], expected: Sequence[Any]) -> set[int]:
    """Places of what has other bits once the program has run.

    Raises:
        NotCapturable: it does not run.
    """
    try:
        program.run()
    except (RuntimeError, TypeError) as error:
        if devices.out_of_memory(error):
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
    return [random.getstate(), np.random.get_state(), _attributes(modules)]


def _attributes(modules: Sequence[nn.Module]) -> list[dict[str, Any]]:
    kept = ("_parameters", "_buffers", "_modules")
    return [
        {name: value for name, value in vars(module).items() if name not in kept}
        for root in dict.fromkeys(modules)
        for module in root.modules()
    ]


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
