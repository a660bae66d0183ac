"""Measure the quantities of a stack at the steps that the cadence names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lrlab.data import inputs
from lrlab.data.inputs import Batch, Inputs
from lrlab.engine import python_state
from lrlab.engine.diagnostics.cadence import CADENCES, FIRST, WHOLE, Cadence, due
from lrlab.engine.diagnostics.curvature import sharpest
from lrlab.engine.diagnostics.vectors import dot, flat, length_of, random_vectors
from lrlab.process.profiling import phase

if TYPE_CHECKING:
    from lrlab.data import Dataset
    from lrlab.engine.lanes.lane_stack import Lanes


# Samples of the fixed probe batch: with fewer the sharpness is too high, more cost too much.
PROBE = 192


@dataclass
class Meter:
    """The measuring state of a stack of lanes.

    Attributes:
        cadence: how often.
        start: (lanes, ...) each, the parameters before training.
        vectors: (lanes, ...) each, the last found direction of largest curvature; each lane's
            length is 1.
        twin: copies of the lanes, made at the first measurement after the stack has changed.
        curves: whether the network has second derivatives.
        batches: how many batches' worth of samples the probe has.
    """

    cadence: Cadence
    probe_x: Inputs
    probe_y: Tensor
    start: list[Tensor]
    vectors: list[Tensor]
    twin: Lanes | None = None
    curves: bool = True
    batches: float = 1.0

    def due(
        self, first_steps: Sequence[int], count: int, steps: Sequence[int], steps_per_epoch: int
    ) -> dict[int, np.ndarray]:
        """Return offsets of the next steps at which a lane is due, to each lane's measurement.

        Returns:
            (lanes,) int for each, as from ``lrlab.engine.diagnostics.cadence.due``.
        """
        table = np.stack(
            [
                due(self.cadence, first, count, total, steps_per_epoch, self.batches)
                for first, total in zip(first_steps, steps, strict=True)
            ],
            axis=1,
        )
        return {int(i): table[i] for i in np.flatnonzero(table.any(axis=1))}

    @phase("measure")
    def before(self, lanes: Lanes) -> None:
        """Remember the lanes before an update."""
        if self.twin is None or lanes.keeps_state:
            self.twin = lanes.twin()
        self.twin.follow(lanes)

    @phase("measure")
    def after(
        self,
        lanes: Lanes,
        losses: Tensor,
        gradients: Sequence[Tensor | None],
        batch: tuple[Any, ...],
        first_steps: Sequence[int],
        offset: int,
        lanes_due: np.ndarray,
        preconditioner: Sequence[Tensor] | None,
    ) -> Tensor:
        """Measure the update that the lanes have just made.

        Args:
            losses, gradients: of the update, as the lanes gave them for the batch.
            batch: as ``Batch``.
            first_steps, offset: as for ``Lanes.gradients``.
            lanes_due: (lanes,) int, as from ``due``; the known curvature of the others stays.
            preconditioner: as from ``LaneOptimizer.preconditioner``.

        Returns:
            (lanes, 13) as ``table`` takes it; it stays on the device, without waiting for it.
        """
        twin = self.twin
        assert twin is not None  # ``before`` was called
        before = [p.clone() for p in twin.params.values()]
        old = flat(before)
        update = flat(list(lanes.params.values())) - old
        products = np.select(
            [lanes_due == FIRST, lanes_due == WHOLE], [self.cadence.first, self.cadence.products]
        )
        whole = bool(products.any())
        probe_loss, probe_gradients, sharpness = losses, gradients, losses
        if whole:
            fresh = None
            if self.cadence.budget is not None and (lanes_due == FIRST).any():
                fresh = torch.from_numpy(lanes_due == FIRST)
            probe_loss, probe_gradients, sharpness = self._sharpness(
                twin, products, preconditioner, fresh
            )

        twin.follow(lanes)
        x, y, own = Batch(*batch)
        loss_after, gradients_after = twin.gradients(x, y, first_steps, offset, own)
        gradient = flat(gradients, before)
        moved = old - flat(self.start)
        along = [losses, loss_after, dot(gradient, update)]
        along.append(dot(flat(gradients_after, before), update))
        probe = [torch.full_like(losses, torch.nan)] * 5
        if whole:
            probe_loss_after, probe_gradients_after = twin.gradients_at_once(
                self.probe_x, self.probe_y, [0] * len(lanes), 0
            )
            probe = [
                probe_loss,
                probe_loss_after,
                dot(flat(probe_gradients, before), update),
                dot(flat(probe_gradients_after, before), update),
                sharpness,
            ]
            if (products == 0).any():  # each lane records the same as alone
                hidden = torch.from_numpy(products == 0).to(losses.device)
                probe = [t.masked_fill(hidden, torch.nan) for t in probe]
        lengths = [length_of(v) for v in (gradient, update, old, moved)]
        return torch.stack([*along, *probe, *lengths], dim=1)

    def _sharpness(
        self,
        twin: Lanes,
        products: np.ndarray,
        preconditioner: Sequence[Tensor] | None,
        fresh: Tensor | None = None,
    ) -> tuple[Tensor, Sequence[Tensor | None], Tensor]:
        """Return loss and gradients on the probe batch, and the sharpness; see ``sharpest``."""
        if not self.curves or not products.any():
            given = self.probe_x, self.probe_y, [0] * len(twin), 0
            loss, gradients = twin.gradients_at_once(*given)
            return loss, gradients, torch.full_like(loss, torch.nan)
        probe = (self.probe_x, self.probe_y)
        found = sharpest(twin, probe, self.vectors, products, preconditioner, fresh)
        self.curves = found.vectors is not None
        self.vectors = found.vectors or self.vectors
        return found.loss, found.gradients, found.sharpness

    def join(self, other: Meter) -> None:
        """Append the lanes of another stack of the same group."""
        self.start = [torch.cat(pair) for pair in zip(self.start, other.start, strict=True)]
        self.vectors = [torch.cat(pair) for pair in zip(self.vectors, other.vectors, strict=True)]
        self.twin = None

    def select(self, lanes: Sequence[int]) -> Meter:
        """Return a meter of some of the lanes."""
        index = torch.as_tensor(list(lanes), device=self.start[0].device)
        return Meter(
            self.cadence,
            self.probe_x,
            self.probe_y,
            [t[index] for t in self.start],
            [t[index] for t in self.vectors],
            curves=self.curves,
            batches=self.batches,
        )

    def state(self, lane: int) -> list[Tensor]:
        """Return a lane's direction of largest curvature, on the CPU."""
        return [t[lane].cpu().clone() for t in self.vectors]

    def load(self, lane: int, state: Sequence[Tensor]) -> None:
        """Put the result of ``state`` into a lane.

        Raises:
            forms.Unfit: it is the state of another network.
        """
        for mine, theirs in zip(self.vectors, state, strict=True):
            python_state.put_tensor(mine[lane], theirs, "curvature")


def build_meter(mode: str, lanes: Lanes, data: Dataset, batch_size: int = PROBE) -> Meter | None:
    """Return the meter of lanes before their first step; None if nothing is measured.

    Args:
        mode: ``off``, ``default`` or ``full``.
        data: on the device.
    """
    if mode == "off" or not lanes.params:
        return None
    count = probe_size(data)
    chosen = np.sort(np.random.default_rng(0).permutation(len(data.train_y))[:count])
    index = torch.from_numpy(chosen).to(data.train_y.device)
    params = list(lanes.params.values())
    return Meter(
        cadence=CADENCES[mode],
        probe_x=inputs.mapped(lambda tensor: tensor[index], data.train_x),
        probe_y=data.train_y[index],
        start=[p.detach().clone() for p in params],
        vectors=random_vectors(params, lanes.seeds),
        batches=count / batch_size,
    )


def probe_size(data: Dataset) -> int:
    """Return how many samples the probe batch of these data has."""
    return min(PROBE, len(data.train_y))
