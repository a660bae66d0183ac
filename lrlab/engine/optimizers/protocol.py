"""Define the protocol ``LaneOptimizer``: what every optimizer of a stack of lanes can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

Values = Mapping[str, np.ndarray]  # of schedules: lr, and momentum or beta1 if scheduled
Coefficients = Mapping[str, Tensor]
Gradients = Sequence[Tensor | None]


class LaneOptimizer(Protocol):
    """The optimizer of a stack of lanes.

    Attributes:
        general: one torch optimizer a lane does the work, which is slower than a stacked update.
        multiplies: its update has products of matrices, whose bits may depend on the threads.
        seeds: (lanes,) of the runs, for a general one that draws random numbers; () until set.
    """

    @property
    def general(self) -> bool: ...

    @property
    def multiplies(self) -> bool: ...

    @property
    def seeds(self) -> Sequence[int]: ...

    @seeds.setter
    def seeds(self, seeds: Sequence[int]) -> None: ...

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
        """Take over the rates of another optimizer of as many lanes and the same parameters."""
        ...

    def coefficients(self, schedule_values: Values, first_steps: np.ndarray) -> dict[str, Tensor]:
        """Return every number that the updates of the next steps need.

        They are computed in float64, as torch.optim computes with Python numbers, then rounded
        once.

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

    def update(self, grads: Gradients, coefficients: Coefficients, index: int) -> None:
        """Make one step of every lane, in place on the parameters.

        Args:
            grads: one (lanes, ...) a parameter, contiguous or not; they stay unchanged. None for a
                parameter that no loss depends on: as in torch, nothing changes it, nor that of a
                lane in ``absent``.
            coefficients: from ``coefficients``.
            index: the row of the coefficients.
        """
        ...

    def update_units(self, grads: Sequence[Tensor], coefficients: Coefficients, index: int) -> None:
        """Do the work of ``update`` in fewer operations, to the same bits; needs ``units``.

        Args:
            grads: laid out as ``units``; numbers between the parameters are 0.
        """
        ...

    def evaluating(self) -> AbstractContextManager[None]:
        """Put the weights for evaluations in place, if the optimizer has others for training."""
        ...

    def buffers(self) -> list[Tensor]:
        """Return all tensors that ``update`` changes besides parameters; none if general."""
        ...

    def stability_scale(self, schedule_values: Values, first_steps: np.ndarray) -> np.ndarray:
        """Return the factor from sharpness to the stability ratio.

        The step on a quadratic of curvature λ grows without bound if scale · λ > 1. With momentum β
        and dampening τ, the scale is:

        - plain gradient descent: lr/2
        - heavy ball: lr(1−τ)/(2(1+β))
        - nesterov: lr(1+2β)/(2(1+β)) (Cohen et al. 2021, arXiv:2103.00065, appendix B)
        - Adam: lr(1−β1)/(2(1+β1)) on the preconditioned Hessian, bias correction included (Cohen et
          al. 2022, arXiv:2207.14484, section 2: 38/lr at β1 = 0.9)

        Args:
            schedule_values, first_steps: as for ``coefficients``.

        Returns:
            (count, lanes) float64; NaN in the general way, which knows no rule.
        """
        ...

    def swings_from(self, schedule_values: Values, first_steps: np.ndarray) -> np.ndarray:
        """Return the stability ratio at which steps on a quadratic begin to swing.

        On a quadratic of curvature λ an update is a recurrence in the distance x from the minimum.
        x creeps towards 0 while all roots r are real and positive. From the returned ratio on they
        are complex or negative, and x changes its sign. With h = lr·(1−τ)·λ:

            plain        r = 1 − h                          h = 1                ratio 1/2
            heavy ball   r² − (1+β−h)·r + β = 0             h = (1−√β)²          h/(2(1+β))
            nesterov     r² − (1+β)(1−h)·r + β(1−h) = 0     h = ((1−β)/(1+β))²   h(1+2β)/(2(1+β))

        Adam averages its gradients, which is heavy ball with τ = β = β1, on the preconditioned
        Hessian. RMSprop is heavy ball with its own momentum. Both assume a constant preconditioner.
        At the border the discriminant in r is 0: for heavy ball see Goh 2017
        (doi:10.23915/distill.00006), for nesterov O'Donoghue and Candès 2015 (arXiv:1204.3982).

        Args:
            schedule_values, first_steps: as for ``coefficients``.

        Returns:
            (count, lanes) float64; NaN in the general way, which knows no rule.
        """
        ...

    def preconditioner(self, coefficients: Coefficients, index: int) -> list[Tensor] | None:
        """Return the divisors of each gradient element in the last update, (lanes, ...), positive.

        Args:
            coefficients, index: of that update.

        Returns:
            None if the update divides by nothing.
        """
        ...

    def keep(self, lanes: Tensor, params: Sequence[Tensor], units: Sequence[Tensor] = ()) -> None:
        """Keep only some lanes; one that is named again is copied, with its state.

        Coefficients made before must be cut as well (``c[:, lanes]``) or made again.

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
        """Return copies on the CPU of the lane's buffers, which its past updates filled."""
        ...

    def load(self, lane: int, state: Mapping[str, Any]) -> None:
        """Put the result of ``state`` into a lane.

        Raises:
            forms.Unfit: it is the state of another optimizer or network.
        """
        ...


def note_absent(grad: Tensor, lanes: Sequence[int]) -> None:
    """Note the lanes with a loss that does not depend on a parameter, in all lanes' gradient."""
    grad.absent_lanes = tuple(lanes)  # type: ignore[attr-defined]


def absent(grad: Tensor) -> tuple[int, ...]:
    """Return the lanes from ``note_absent``."""
    return getattr(grad, "absent_lanes", ())
