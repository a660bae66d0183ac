"""Keep per-step values in tables, of which a captured step reads one row."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lrlab.engine.step.protocol import Coefficients


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
