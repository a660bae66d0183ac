"""Clip a stack's gradients before its optimizer updates, and average its weights after that."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrlab.engine import python_state
from lrlab.engine.optimizers.protocol import (
    Coefficients,
    Gradients,
    LaneOptimizer,
    Values,
    absent,
    note_absent,
)
from lrlab.engine.optimizers.stacked import beside, parts

OPTIONS = ("clip_grad_norm", "ema")  # options of a run, next to the optimizer's own

_AVERAGES = "averages"  # a key of a lane's state
_PARTS = 16  # of a row that is summed; a single sum of a single row would be shared by threads


class Around:
    """An optimizer with something around its update, in all lanes at once.

    Everything else is the inner optimizer's; see ``LaneOptimizer``.
    """

    def __init__(
        self,
        inner: LaneOptimizer,
        options: Mapping[str, np.ndarray],
        params: Sequence[Tensor],
        units: Sequence[Tensor],
    ) -> None:
        """
        Args:
            inner: the optimizer.
            options: those of ``OPTIONS`` that are set, each (lanes,) float64.
            params, units: as for ``lane_optimizers.build``.
        """
        self._inner, self._options = inner, dict(options)
        self._attach(params, units)
        averaged = self._whole if "ema" in options else []
        self._averages = [t.detach().clone() for t in averaged]

    def _attach(self, params: Sequence[Tensor], units: Sequence[Tensor]) -> None:
        self._params, self._units = list(params), list(units)
        self._whole = self._units or self._params

    @property
    def averages(self) -> list[Tensor]:
        """(lanes, ...) each, the average of each parameter; none without ``ema``.

        As of torch's ``get_ema_multi_avg_fn``: the weights after the first step, then at each step
        ema times the average and 1 − ema times the weights.
        """
        if not self._averages or not self._units:
            return self._averages
        return parts(self._params, self._units, self._averages)

    @property
    def general(self) -> bool:
        return self._inner.general

    @property
    def multiplies(self) -> bool:
        return self._inner.multiplies

    @property
    def seeds(self) -> Sequence[int]:
        return self._inner.seeds

    @seeds.setter
    def seeds(self, seeds: Sequence[int]) -> None:
        self._inner.seeds = seeds

    def torch_optimizer(self, lane: int) -> torch.optim.Optimizer | None:
        return self._inner.torch_optimizer(lane)

    def hyperparameters(self, lane: int) -> dict[str, float]:
        return self._inner.hyperparameters(lane)

    def rates(self, lane: int) -> list[float]:
        return self._inner.rates(lane)

    def moved(self, lane: int) -> bool:
        return self._inner.moved(lane)

    def take_rates(self, other: Any) -> None:
        self._inner.take_rates(other._inner)

    def coefficients(self, schedule_values: Values, first_steps: np.ndarray) -> dict[str, Tensor]:
        found = self._inner.coefficients(schedule_values, first_steps)
        count, device = len(schedule_values["lr"]), self._params[0].device
        for name, values in self._options.items():
            rows = np.broadcast_to(values, (count, len(values)))
            if name == "ema":  # the share of the new weights
                before = first_steps[None, :] + np.arange(count)[:, None]
                rows = np.where(before == 0, 1.0, 1 - rows)
            found[name] = torch.from_numpy(rows.astype(np.float32)).to(device)
        return found

    def update(self, grads: Gradients, coefficients: Coefficients, index: int) -> None:
        with torch.no_grad():
            if "clip_grad_norm" in self._options and any(g is not None for g in grads):
                factor = self._factor(grads, coefficients, index)
                grads = [None if g is None else _times(g, factor) for g in grads]
        self._inner.update(grads, self._own(coefficients), index)
        self._average(coefficients, index)

    def update_units(self, grads: Sequence[Tensor], coefficients: Coefficients, index: int) -> None:
        with torch.no_grad():
            if "clip_grad_norm" in self._options:
                of_params = parts(self._params, self._units, grads)
                factor = self._factor(of_params, coefficients, index)
                grads = [_times(g, factor) for g in grads]
        self._inner.update_units(grads, self._own(coefficients), index)
        self._average(coefficients, index)

    @torch.no_grad()
    def _average(self, coefficients: Coefficients, index: int) -> None:
        for average, now in zip(self._averages, self._whole if self._averages else [], strict=True):
            share = coefficients["ema"][index].to(now.dtype)
            average.lerp_(now.detach(), beside(now, share))

    def _factor(self, grads: Gradients, coefficients: Coefficients, index: int) -> Tensor:
        """Return (lanes,) the factor of each lane's gradient, as ``clip_grad_norm_`` has it."""
        norm = norms([g for g in grads if g is not None])
        return (coefficients["clip_grad_norm"][index] / (norm + 1e-6)).clamp(max=1.0)

    def _own(self, coefficients: Coefficients) -> Coefficients:
        return {name: v for name, v in coefficients.items() if name not in self._options}

    def evaluating(self) -> AbstractContextManager[None]:
        return self._inner.evaluating()

    def buffers(self) -> list[Tensor]:
        return [*self._inner.buffers(), *self._averages]

    def stability_scale(self, schedule_values: Values, first_steps: np.ndarray) -> np.ndarray:
        return self._inner.stability_scale(schedule_values, first_steps)

    def swings_from(self, schedule_values: Values, first_steps: np.ndarray) -> np.ndarray:
        return self._inner.swings_from(schedule_values, first_steps)

    def preconditioner(self, coefficients: Coefficients, index: int) -> list[Tensor] | None:
        return self._inner.preconditioner(self._own(coefficients), index)

    def keep(self, lanes: Tensor, params: Sequence[Tensor], units: Sequence[Tensor] = ()) -> None:
        self._inner = copy.copy(self._inner)  # a copy of this object may hold it, too
        self._inner.keep(lanes, params, units)
        self._options = {name: v[lanes.cpu().numpy()] for name, v in self._options.items()}
        self._averages = [t[lanes.to(t.device)] for t in self._averages]
        self._attach(params, units)

    def join(self, other: Any, params: Sequence[Tensor], units: Sequence[Tensor] = ()) -> None:
        self._inner.join(other._inner, params, units)
        self._options = {
            name: np.concatenate([v, other._options[name]]) for name, v in self._options.items()
        }
        pairs = zip(self._averages, other._averages, strict=True)
        self._averages = [torch.cat(pair) for pair in pairs]
        self._attach(params, units)

    def state(self, lane: int) -> dict[str, Any]:
        found = self._inner.state(lane)
        if self._averages:
            found[_AVERAGES] = [average[lane].cpu().clone() for average in self.averages]
        return found

    def load(self, lane: int, state: Mapping[str, Any]) -> None:
        given = dict(state)
        saved = given.pop(_AVERAGES, [])
        for average, tensor in zip(self.averages, saved, strict=True):
            python_state.put_tensor(average[lane], tensor, _AVERAGES)
        self._inner.load(lane, given)

    def try_out(self, lane: int, state: Mapping[str, Any], python: python_state.State) -> None:
        """As ``GeneralOptimizer.try_out``; nothing to try where the update is stacked."""
        if tried := getattr(self._inner, "try_out", None):
            tried(lane, {name: v for name, v in state.items() if name != _AVERAGES}, python)


def averages(optimizer: LaneOptimizer) -> list[Tensor]:
    """Return the averages of the parameters of a stack, (lanes, ...) each; none without ``ema``."""
    return optimizer.averages if isinstance(optimizer, Around) else []


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return (lanes,) the length of each lane's vector of all numbers; no other lane changes a bit.

    Args:
        tensors: (lanes, ...) each, some.
    """
    rows = [(torch.view_as_real(t) if t.is_complex() else t).flatten(1) for t in tensors]
    if rows[0].is_cuda:
        flat = torch.cat(rows, dim=1)
        return folded(flat * flat).sqrt()
    found = [torch.linalg.vector_norm(part, dim=-1) for row in rows for part in _in_parts(row)]
    return torch.linalg.vector_norm(torch.cat([n.flatten(1) for n in found], dim=1), dim=1)


def _in_parts(row: Tensor) -> list[Tensor]:
    """Return the numbers of each lane in parts, (lanes, parts, numbers).

    If a single long sum were asked for, threads would share it, and round otherwise.
    """
    even = row.shape[1] // _PARTS * _PARTS
    parts = [row[:, :even].unflatten(1, (_PARTS, -1))] if even else []
    return parts + ([row[:, None, even:]] if even < row.shape[1] else [])


def folded(rows: Tensor) -> Tensor:
    """Return (lanes,) the sum of each row, half upon half.

    A GPU chooses how to sum by the number of rows. Sums of pairs do not depend on it.
    """
    while (width := rows.shape[1]) > 1:
        half = width // 2
        sums = rows[:, :half] + rows[:, half : 2 * half]
        rows = torch.cat([sums, rows[:, 2 * half :]], dim=1) if width % 2 else sums
    return rows[:, 0]


def _times(grad: Tensor, factor: Tensor) -> Tensor:
    found = grad * beside(grad, factor)
    if lanes := absent(grad):
        note_absent(found, lanes)
    return found
