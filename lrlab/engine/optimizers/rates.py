"""Keep the lr of each parameter group as a ratio to the run's lr."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lrlab.engine.optimizers.instance import instance
from lrlab.errors import UserError

if TYPE_CHECKING:
    from lrlab.config import targets


@dataclass
class Rates:
    """The lr that each parameter group of an optimizer was built with, and the run's lr.

    A schedule moves the lr of every group by the same factor, as ``torch.optim.lr_scheduler`` does,
    so a group keeps its ratio to the run's lr.

    Attributes:
        lr: the run's, above 0.
        groups: each group's.
    """

    lr: float
    groups: list[float]

    def at(self, lr: float) -> list[float]:
        """Return each group's lr for this lr of the run."""
        # lr / self.lr first: if the two are equal, a group's own lr keeps its bits
        return [lr if own == self.lr else own * (lr / self.lr) for own in self.groups]


def rates_of(
    target: targets.Target,
    leaves: Sequence[torch.nn.Parameter],
    lr: float,
    built: torch.optim.Optimizer,
) -> Rates:
    """Return the rates of an optimizer that was built with this lr.

    At an lr of 0 there is no ratio, so the optimizer is built once more with an lr of 1.

    Raises:
        UserError: it has no ratio, for at lr=0 a group has another lr.
    """
    groups = [float(group["lr"]) for group in built.param_groups]
    if lr > 0:
        return Rates(lr, groups)
    if any(groups):
        raise UserError(
            f"lr=0: {target.name} has parameters with lr {max(groups, key=abs):g}, which is in no "
            "ratio to 0; use an lr above 0"
        )
    again = instance(target, leaves, 1.0)
    return Rates(1.0, [float(group["lr"]) for group in again.param_groups])
