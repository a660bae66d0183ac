"""Make captured steps: one program up to the gradients, one for the update."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lrlab.data import Dataset, inputs
from lrlab.data.inputs import Batch
from lrlab.engine.capture.capturing import capture
from lrlab.engine.capture.program import NotCapturable, Program
from lrlab.engine.lanes.lane_stack import Lanes
from lrlab.engine.optimizers import stacked
from lrlab.engine.optimizers.protocol import Coefficients, Gradients, LaneOptimizer
from lrlab.engine.step import trying
from lrlab.engine.step.pace import Pace
from lrlab.engine.step.plain import gather
from lrlab.process.profiling import phase

TRIED = 3  # the most steps in a row before a step is captured


class CapturedStep:
    """Two programs, one up to the gradients and one for the update, so that steps can be measured.

    Everything that differs from step to step is in a ``RowTable``.
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
        """Capture the lanes' gradients.

        Args:
            order: a segment's, of at most ``length`` steps.
            any_threads: whether one thread may do it, too, if that changes no bit.

        Raises:
            NotCapturable: they cannot be captured, or then have other bits.
        """
        self._lanes, self._optimizer, self._data = lanes, optimizer, data
        self._order_of = order_of
        length = max(length, TRIED)
        self._index = RowTable(length, order[0])
        self._index.table[: len(order)].copy_(order)
        self._index.take(0)
        self.losses = torch.empty(length, len(lanes), device=order.device)
        self._losses = self.losses.unbind()
        self._own = False  # whether each lane has its own batch
        self._counter = None
        if _counts(order.device):
            self._counter = torch.zeros(1, dtype=torch.int64, device=order.device)
        self._params = list(lanes.params.values())
        self._coefficients: dict[tuple[str, ...], CoefficientTables] = {}
        self._updates: dict[tuple[str, ...], Program] = {}
        self._threads = [torch.get_num_threads()]
        self._masks: list[tuple[Tensor, float]] = []  # of dropout, drawn before each step
        self._attributes = copy.deepcopy(trying.attributes_of(lanes.modules))
        self._find = self._capture_gradients(any_threads and not order.is_cuda)
        self._pace = Pace(self._threads)

    @property
    def on_trial(self) -> bool:
        return self._pace.on_trial

    def holds(self) -> bool:
        return trying.equal_values(self._attributes, trying.attributes_of(self._lanes.modules))

    def begin(self, order: Tensor, first_steps: Sequence[int], coefficients: Coefficients) -> None:
        self._index.table[: len(order)].copy_(order)
        if self._counter is not None:
            self._counter.zero_()
        self._first_steps = first_steps
        names = tuple(coefficients)
        known = names in self._updates
        if not known:
            self._coefficients[names] = CoefficientTables(len(self._index.table), coefficients)
        self._now = self._coefficients[names]
        self._now.put(coefficients)
        if not known:
            self._updates[names] = self._capture_update(self._now)
        self._update = self._updates[names]
        self._chosen = self._pace.choose()
        if len(self._threads) > 1:
            torch.set_num_threads(self._chosen)

    @phase("gradients")
    def gradients(self, i: int) -> tuple[Tensor, Gradients]:
        if self._counter is not None:
            self._find.run()
        else:
            self._index.take(i)
            self._lanes.passes.fill(self._masks, [step + i for step in self._first_steps])
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

        def find(step: int = 0) -> list[Tensor | None]:
            x, y, own = gather(self._data, self._index.now, self._order_of, bool(lanes.pad))
            self._own = own
            losses, gradients = lanes.gradients(x, y, [step] * len(lanes), 0, own)
            return [losses, y, *inputs.tensors(x), *gradients]

        changing = [*self._params, *lanes.fixed.values(), self._index.now]
        counted = [] if self._counter is None else [self._counter, self.losses]
        with lanes.rehearsal(), trying.restoring([*changing, *counted]) as restore:
            before = lanes.python(0)
            with trying.same_python(lanes.modules):
                expected = trying.clones(find())
            if lanes.changed(before):  # the loss, too, and within objects
                raise NotCapturable("it changes more than tensors")
            self._masks = lanes.passes.taken if lanes.draws else []
            restore()
            self._disturb()
            disturbed = trying.clones(find(step=1))
            restore()

            def wrong(program: Program) -> set[int]:
                restore()
                lanes.passes.fill(self._masks, [0] * len(lanes))
                found = trying.differing(program, program.results, expected)
                restore()
                self._disturb()
                lanes.passes.fill(self._masks, [1] * len(lanes))
                return found | trying.differing(program, program.results, disturbed)

            units, into = self._into(expected)
            lanes.passes.masks = self._masks or None
            try:
                watched = capture(find, [*changing, *(mask for mask, _ in self._masks)])
            finally:
                lanes.passes.masks = None
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
            losses, y, *others = program.results
            first = len(others) - len(self._params)
            x = [tensor for tensor in others[:first] if tensor is not None]
            self._gradients = others[first:]
            assert losses is not None and y is not None
            self._found = losses
            self.batch = Batch(inputs.like(self._data.train_x, x), y, self._own)
            if self._counter is None:
                return program
            calls = [self._index.taking(self._counter), *program.calls, self._note_losses]
            return Program(calls, program.results).on(self._counter.device)

    @torch.no_grad()
    def _disturb(self) -> None:
        """Put another batch and other parameters in place.

        A network that takes numbers out of torch would keep those of the first batch. And gradients
        of 0, as after a layer that starts at 0, are equal in any order of their sums.
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
        """Return where the gradients are written: in the parameters' layout, for a short update."""
        if any(t is None for t in expected):
            return [], {}
        units = [torch.zeros_like(unit) for unit in self._lanes.units]
        parts = stacked.parts(self._params, self._lanes.units, units) if units else []
        return units, dict(enumerate(parts, start=len(expected) - len(self._params)))

    def _capture_update(self, coefficients: CoefficientTables) -> Program:
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
        with trying.restoring([*changing, *counted]) as restore:
            update([])
            expected = [t.clone() for t in changing]
            captured = True
            try:
                program = capture(lambda: update(self._units), [*changing, *given]).program()
                restore()
                if trying.differing(program, changing, expected):
                    raise NotCapturable("other bits")
            except NotCapturable:
                program, captured = Program([functools.partial(update, [])], []), False
            restore()
            if counter is None:
                return program
            count = functools.partial(counter.add_, 1)
            program = Program([*coefficients.taking(counter), *program.calls, count], [])
            return program.on(counter.device) if captured else program


def _counts(device: torch.device) -> bool:
    """Return whether steps on this device find their rows by a counter there, as in a graph."""
    return device.type == "cuda"


# --- the values that differ from step to step -----------------------------------------------------


class RowTable:
    """A table of which a captured step sees one row.

    Attributes:
        now: the row. On a GPU the step reads it itself, by a counter on the device, so that nothing
            waits for the device within a segment. Elsewhere it is put there before the step.
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


class CoefficientTables:
    """The coefficients of an update, in one table for each type of number.

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
        self._rows: dict[torch.dtype, RowTable] = {}
        self.now: dict[str, Tensor] = {}
        for kind, names in self._names.items():
            row = torch.stack([like[name][0] for name in names])
            self._rows[kind] = RowTable(count, row)
            self.now |= dict(zip(names, self._rows[kind].now.split(1), strict=True))

    def rows(self) -> list[Tensor]:
        """Return the tensors around ``now``."""
        return [rows.now for rows in self._rows.values()]

    def put(self, coefficients: Coefficients) -> None:
        """Prepare a segment with these coefficients."""
        for kind, names in self._names.items():
            for place, name in enumerate(names):
                values = coefficients[name]
                self._rows[kind].table[: len(values), place].copy_(values)

    def take(self, i: int) -> None:
        for rows in self._rows.values():
            rows.take(i)

    def taking(self, counter: Tensor) -> list[Callable[[], Any]]:
        return [rows.taking(counter) for rows in self._rows.values()]
