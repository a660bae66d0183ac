"""What every optimizer of a stack of lanes can do: the protocol ``LaneOptimizer``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class LaneOptimizer(Protocol):
    """The optimizer of a stack of lanes.

    Attributes:
        general: one torch optimizer a lane does the work, which is slower than a stacked update.
        seeds: (lanes,) of the runs, for a general one that draws random numbers; () until set.
    """

    general: bool
    seeds: Sequence[int]

    def torch_optimizer(self, lane: int) -> torch.optim.Optimizer | None:
        """Return a lane's own torch optimizer; None where the update is stacked."""
        ...

    def hyperparameters(self, lane: int) -> dict[str, float]:
        """Return a lane's constants without lr: momentum, beta1, beta2, eps, weight_decay ..."""
        ...

    def rates(self, lane: int) -> list[float]:
        """Return the lr of each parameter group, as a multiple of the lane's own."""
        ...

    def moved(self, lane: int) -> bool:
        """Return whether a lane's optimizer has moved its own lr, in addition to the schedule."""
        ...

    def take_rates(self, other: Any) -> None:
        """Take over those of another optimizer of as many lanes and the same parameters."""
        ...

    def coefficients(
        self, schedule_values: Mapping[str, np.ndarray], first_steps: np.ndarray
    ) -> dict[str, Tensor]:
        """Every number that the updates of the next steps need.

        Computed in float64, as torch.optim computes with Python numbers, then rounded once.

        Args:
            schedule_values: lr, and momentum or beta1 if scheduled: (count, lanes) float64. A NaN
                in momentum or beta1 stands for the lane's constant.
            first_steps: (lanes,) int, the updates that each lane has had.

        Returns:
            Name to (count, lanes) on the parameters' device: bool for masks, else float32, or
            float64 where all parameters are. In the general way float64 on the CPU, because
            torch optimizers take Python numbers.
        """
        ...

    def update(
        self, grads: Sequence[Tensor | None], coefficients: Mapping[str, Tensor], index: int
    ) -> None:
        """One step of every lane, in place on the parameters.

        Args:
            grads: one (lanes, ...) a parameter, contiguous or not; they are left as they are.
                None for a parameter that no loss depends on: as in torch, nothing changes it, nor
                that of a lane in ``absent``.
            coefficients: what ``coefficients`` returned.
            index: the row of the coefficients.
        """
        ...

    def update_units(
        self, grads: Sequence[Tensor], coefficients: Mapping[str, Tensor], index: int
    ) -> None:
        """``update`` in fewer operations, to the same bits; only if it was given ``units``.

        Args:
            grads: laid out as ``units``; what lies between the parameters is 0.
        """
        ...

    def buffers(self) -> list[Tensor]:
        """Return all that ``update`` changes besides the parameters; empty in the general way."""
        ...

    def stability_scale(
        self, schedule_values: Mapping[str, np.ndarray], first_steps: np.ndarray
    ) -> np.ndarray:
        """What sharpness is to be multiplied by to give the stability ratio.

        The step on a quadratic of curvature λ grows without bound where scale · λ > 1: plain
        gradient descent lr/2; heavy ball lr(1−τ)/(2(1+β)) with dampening τ; nesterov
        lr(1+2β)/(2(1+β)) (Cohen et al. 2021, arXiv:2103.00065, appendix B); Adam
        lr(1−β1)/(2(1+β1)) on the preconditioned Hessian, bias correction included (Cohen et al.
        2022, arXiv:2207.14484, section 2: 38/lr at β1 = 0.9).

        Args:
            schedule_values, first_steps: as for ``coefficients``.

        Returns:
            (count, lanes) float64; NaN in the general way, which knows no rule.
        """
        ...

    def swings_from(
        self, schedule_values: Mapping[str, np.ndarray], first_steps: np.ndarray
    ) -> np.ndarray:
        """The stability ratio from which on the steps on a quadratic swing about its minimum.

        On a quadratic of curvature λ an update is a recurrence in the distance x from the minimum.
        x creeps towards 0 while all roots r are real and positive; from the ratio returned here
        on they are complex or negative, and x changes its sign. With h = lr·(1−τ)·λ:

            plain        r = 1 − h                          h = 1                ratio 1/2
            heavy ball   r² − (1+β−h)·r + β = 0             h = (1−√β)²          h/(2(1+β))
            nesterov     r² − (1+β)(1−h)·r + β(1−h) = 0     h = ((1−β)/(1+β))²   h(1+2β)/(2(1+β))

        Adam averages its gradients, which is heavy ball with τ = β = β1, on the preconditioned
        Hessian; RMSprop is heavy ball with its own momentum. Both are thought of with a
        preconditioner that stands still. At the border the discriminant in r is 0: of the heavy
        ball see Goh 2017 (doi:10.23915/distill.00006), of nesterov O'Donoghue and Candès 2015
        (arXiv:1204.3982).

        Args:
            schedule_values, first_steps: as for ``coefficients``.

        Returns:
            (count, lanes) float64; NaN in the general way, which knows no rule.
        """
        ...

    def preconditioner(self, coefficients: Mapping[str, Tensor], index: int) -> list[Tensor] | None:
        """What the last update divided each gradient element by, (lanes, ...) each and positive.

        Args:
            coefficients, index: of that update.

        Returns:
            None where the update divides by nothing.
        """
        ...

    def keep(self, lanes: Tensor, params: Sequence[Tensor], units: Sequence[Tensor] = ()) -> None:
        """Keep only some lanes; one that is named again is copied, with its state.

        Coefficients made before must be cut as well (``c[:, lanes]``) or made anew.

        Args:
            lanes: (kept,) int64, in their new order.
            params: the new stacked parameters, (kept, ...) each.
            units: as for ``build``, if that was given any.
        """
        ...

    def join(self, other: Any, params: Sequence[Tensor], units: Sequence[Tensor] = ()) -> None:
        """Append the lanes of another optimizer of the same ``group_key``.

        Args:
            other: its state is taken over; do not use it again.
            params: the new stacked parameters, (lanes of both, ...) each.
            units: as for ``build``, if both were given any.
        """
        ...

    def state(self, lane: int) -> dict[str, Any]:
        """What the lane's past updates left in its buffers, copied to the CPU."""
        ...

    def load(self, lane: int, state: Mapping[str, Any]) -> None:
        """Put what ``state`` gave into a lane.

        Raises:
            forms.Unfit: it is the state of another optimizer or network.
        """
        ...


def note_absent(grad: Tensor, lanes: Sequence[int]) -> None:
    """Note the lanes whose loss does not depend on a parameter, in the gradient of all lanes."""
    grad.absent_lanes = tuple(lanes)  # type: ignore[attr-defined]


def absent(grad: Tensor) -> tuple[int, ...]:
    """Return the lanes that ``note_absent`` has noted."""
    return getattr(grad, "absent_lanes", ())
