"""Update in the fast way: all lanes at once, by an optimizer's ``Rule``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrlab.engine import python_state
from lrlab.engine.optimizers.protocol import Coefficients, Gradients, Values, absent
from lrlab.engine.optimizers.rule import Columns, Rows, Rule

_AT = "@"  # before a group's number


@dataclass(frozen=True)
class _Piece:
    """Columns of a unit that belong to one group.

    Attributes:
        shape: of the parameter that they are; () where an update needs none.
    """

    unit: int
    columns: slice
    group: int
    shape: tuple[int, ...] = ()

    def of(self, units: Sequence[Tensor]) -> Tensor:
        part = units[self.unit][:, self.columns]
        return part.unflatten(1, self.shape) if self.shape else part


class StackedOptimizer:
    """Keep buffers in the layout of the units around the parameters, else of the parameters."""

    general = False
    seeds: Sequence[int] = ()

    def __init__(
        self,
        rule: Rule,
        constants: Columns,
        nesterov: bool,
        params: Sequence[Tensor],
        units: Sequence[Tensor],
        group_of: Sequence[int],
        rules: Sequence[Rule],
    ) -> None:
        """
        Args:
            constants: each hyperparameter, (lanes,); where parameters have groups also ``of_group``
                of lr, a factor, of weight_decay, and of own_lr, where no lr moves it.
            group_of: each parameter's group, its number; ``rules``: of each group.
        """
        self._rule, self._rules = rule, list(rules)
        self._constants = constants
        self._nesterov = nesterov
        self._group_of = group_of
        self._grouped = of_group("lr", 0) in constants
        self._attach(params, units)
        with torch.no_grad():
            self._state = rule.state(self._units, constants)
            if rule.rest is not None:
                self._state |= rule.rest.state(self._units, constants)

    def _attach(self, params: Sequence[Tensor], units: Sequence[Tensor]) -> None:
        self._params = list(params)
        self._units = list(units) or self._params
        self._pieces = self._of_one_group(units)
        self._common = {"nesterov": float(self._nesterov)} | {
            name: float(v[0]) for name, v in self._constants.items() if (v == v[0]).all()
        }

    def _parts(self, name: str) -> list[Tensor]:
        """Return a buffer's part for each parameter, (lanes, ...)."""
        if self._units is self._params:
            return self._state[name]
        return parts(self._params, self._units, self._state[name])

    def torch_optimizer(self, lane: int) -> None:
        return None

    def buffers(self) -> list[Tensor]:
        return [buffer for buffers in self._state.values() for buffer in buffers]

    def hyperparameters(self, lane: int) -> dict[str, float]:
        return {name: float(values[lane]) for name, values in self._constants.items()}

    def rates(self, lane: int) -> list[float]:
        if not self._grouped:
            return [1.0]
        return [float(self._constants[of_group("lr", g)][lane]) for g in self._groups()]

    def _groups(self) -> list[int]:
        return sorted(set(self._group_of))

    def moved(self, lane: int) -> bool:
        return False

    def take_rates(self, other: Any) -> None:
        """Ignore rates: all parameters have the run's lr."""

    def coefficients(self, schedule_values: Values, first_steps: np.ndarray) -> dict[str, Tensor]:
        numbers, before = self._numbers(schedule_values, first_steps)
        device = self._params[0].device
        double = all(p.dtype == torch.float64 for p in self._params)
        kind = np.float64 if double else np.float32
        found = {} if self._grouped else self._rule.coefficients(numbers, before)
        for group in self._groups() if self._grouped else []:
            factor, decay = (numbers[of_group(name, group)] for name in ("lr", "weight_decay"))
            lr = numbers.get(of_group("own_lr", group), numbers["lr"] * factor)
            own = {**numbers, "lr": lr, "weight_decay": decay}
            its = self._rules[group].coefficients(own, before)
            found |= {of_group(name, group): values for name, values in its.items()}
        if {"momentum", of_group("momentum", 0)} & found.keys() and "momentum" not in self._state:
            self._state["momentum"] = self._unused("momentum")
        with np.errstate(over="ignore"):  # a number that is too large makes its lane diverge
            return {
                name: torch.from_numpy(
                    np.ascontiguousarray(v, bool if v.dtype == bool else kind)
                ).to(device)
                for name, v in found.items()
            }

    def stability_scale(self, schedule_values: Values, first_steps: np.ndarray) -> np.ndarray:
        numbers, before = self._numbers(schedule_values, first_steps)
        return self._rule.stability_scale(numbers, before, self._nesterov)

    def swings_from(self, schedule_values: Values, first_steps: np.ndarray) -> np.ndarray:
        numbers, _ = self._numbers(schedule_values, first_steps)
        beta = numbers[self._rule.momentum] if self._rule.momentum else 0 * numbers["lr"]
        border = _nesterov_border(beta) if self._nesterov else _heavy_ball_border(beta)
        return np.where(self._rule.rest is None, border, np.nan)

    def preconditioner(self, coefficients: Coefficients, index: int) -> list[Tensor] | None:
        if (self._rule.divisor is None and not self._grouped) or self._rule.rest is not None:
            return None
        row = {name: values[index] for name, values in coefficients.items()}
        state = {name: self._parts(name) for name in self._state}
        found = []
        for i, (param, group) in enumerate(zip(self._params, self._group_of, strict=True)):
            divisor = torch.ones_like(param)
            if self._rule.divisor is not None:
                own = {name: buffers[i] for name, buffers in state.items()}
                divisor = self._rule.divisor(own, self._row(param, row, group))
            if self._grouped:  # a factor of its own on the step
                factor = torch.from_numpy(self._constants[of_group("lr", group)]).to(param)
                divisor = divisor / beside(param, factor)
            found.append(divisor)
        return found

    def _row(self, param: Tensor, row: Rows, group: int) -> Rows:
        """Return the coefficients of a parameter of the group."""
        if self._grouped:
            end = of_group("", group)
            row = {name.removesuffix(end): v for name, v in row.items() if name.endswith(end)}
        return {name: beside(param, values) for name, values in row.items()}

    def _numbers(
        self, schedule_values: Values, first_steps: np.ndarray
    ) -> tuple[Columns, np.ndarray]:
        """Return the next steps' hyperparameters, and the updates before each, (count, lanes)."""
        lr = np.asarray(schedule_values["lr"], float)
        numbers = {name: np.broadcast_to(v, lr.shape) for name, v in self._constants.items()}
        numbers["lr"] = lr
        for name in ("momentum", "beta1"):
            if name in schedule_values and name in numbers:
                scheduled = np.asarray(schedule_values[name], float)
                numbers[name] = np.where(np.isnan(scheduled), numbers[name], scheduled)
        return numbers, np.asarray(first_steps)[None, :] + np.arange(len(lr))[:, None]

    def update(self, grads: Gradients, coefficients: Coefficients, index: int) -> None:
        with torch.no_grad():
            row = {name: values[index] for name, values in coefficients.items()}
            state = {name: self._parts(name) for name in self._state}
            for i, (param, grad) in enumerate(zip(self._params, grads, strict=True)):
                if grad is None:
                    continue
                of_param = self._row(param, row, self._group_of[i])
                own = {name: buffers[i] for name, buffers in state.items()}
                # torch leaves a parameter without gradient unchanged, and its buffers, too
                rows = [t[lane] for t in (param, *own.values()) for lane in absent(grad)]
                before = [row.clone() for row in rows]
                self._rules[self._group_of[i]].update(param, grad, own, of_param, self._common)
                for row_of, kept in zip(rows, before, strict=True):
                    row_of.copy_(kept)

    def evaluating(self) -> AbstractContextManager[None]:
        return nullcontext()

    def update_units(self, grads: Sequence[Tensor], coefficients: Coefficients, index: int) -> None:
        with torch.no_grad():
            row = {name: values[index] for name, values in coefficients.items()}
            for piece in self._pieces:
                part, grad = piece.of(self._units), piece.of(grads)
                own = {name: piece.of(buffers) for name, buffers in self._state.items()}
                of_part = self._row(part, row, piece.group)
                self._rules[piece.group].update(part, grad, own, of_part, self._common)

    @property
    def multiplies(self) -> bool:
        return self._rule.rest is not None

    def _of_one_group(self, units: Sequence[Tensor]) -> list[_Piece]:
        """Return the largest pieces of the units that have one group each; matrices by themselves.

        Only those of a rule for matrices are matrices there.
        """
        found: list[_Piece] = []
        for i, unit in enumerate(units):
            storage = unit.untyped_storage().data_ptr()
            inside = sorted(
                (param.storage_offset(), group, tuple(param.shape[1:]))
                for param, group in zip(self._params, self._group_of, strict=True)
                if param.untyped_storage().data_ptr() == storage
            )
            ends = [first for first, _, _ in inside[1:]] + [unit.shape[1]]
            for (first, group, shape), end in zip(inside, ends, strict=True):
                if self._rules[group].rest is not None:
                    found.append(_Piece(i, slice(first, first + math.prod(shape)), group, shape))
                elif found and (found[-1].unit, found[-1].group) == (i, group):
                    found[-1] = replace(found[-1], columns=slice(found[-1].columns.start, end))
                else:
                    found.append(_Piece(i, slice(first, end), group))
        return found

    def _unused(self, name: str) -> list[Tensor]:
        """Return a buffer that no update has touched, for those that exist only where needed.

        −0 is the only start that leaves every first gradient unchanged: 0 + −0 would be 0.
        """
        return [torch.full_like(p, -0.0) for p in self._units]

    def join(self, other: Any, params: Sequence[Tensor], units: Sequence[Tensor] = ()) -> None:
        with torch.no_grad():
            state = {}
            for name in {**self._state, **other._state}:
                pairs = zip(
                    self._state.get(name) or self._unused(name),
                    other._state.get(name) or other._unused(name),
                    strict=True,
                )
                state[name] = [torch.cat(pair) for pair in pairs]
        self._state = state
        self._constants = {
            name: np.concatenate([values, other._constants[name]])
            for name, values in self._constants.items()
        }
        self._attach(params, units)

    def state(self, lane: int) -> dict[str, Any]:
        return {
            name: [part[lane].cpu().clone() for part in self._parts(name)] for name in self._state
        }

    def load(self, lane: int, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, saved in state.items():
                if name not in self._state:
                    self._state[name] = self._unused(name)
                for part, tensor in zip(self._parts(name), saved, strict=True):
                    python_state.put_tensor(part[lane], tensor, name)

    def keep(self, lanes: Tensor, params: Sequence[Tensor], units: Sequence[Tensor] = ()) -> None:
        kept = lanes.cpu().numpy()
        self._constants = {name: values[kept] for name, values in self._constants.items()}
        self._state = {
            name: [buffer[lanes.to(buffer.device)] for buffer in buffers]
            for name, buffers in self._state.items()
        }
        self._attach(params, units)


def parts(
    params: Sequence[Tensor], units: Sequence[Tensor], likes: Sequence[Tensor]
) -> list[Tensor]:
    """Return the parts of other tensors at each parameter's position in its unit.

    Args:
        units: tensors of which all ``params`` are parts, each with memory of its own.
        likes: of the units' shapes, contiguous.
    """
    of = {unit.untyped_storage().data_ptr(): i for i, unit in enumerate(units)}
    return [
        likes[of[p.untyped_storage().data_ptr()]].as_strided(
            p.shape, p.stride(), p.storage_offset()
        )
        for p in params
    ]


def of_group(name: str, group: int) -> str:
    """Return the name of a group's own constant or coefficient."""
    return f"{name}{_AT}{group}"


def beside(param: Tensor, numbers: Tensor) -> Tensor:
    """Return (lanes,) numbers as (lanes, 1, ...), to go with the parameter."""
    return numbers.view(-1, *(1,) * (param.ndim - 1))


def _heavy_ball_border(beta: np.ndarray) -> np.ndarray:
    return (1 - np.sqrt(beta)) ** 2 / (2 * (1 + beta))


def _nesterov_border(beta: np.ndarray) -> np.ndarray:
    return ((1 - beta) / (1 + beta)) ** 2 * (1 + 2 * beta) / (2 * (1 + beta))
