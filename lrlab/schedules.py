"""The schedules that ship with lrlab in addition to torch's own: torch ``LRScheduler`` classes.

To add one, write its class here. The class may have:

- ``numbers``: argument to the numbers that work, a key of
  ``lrlab.plan.schedules.reading.WORKS``, and an example. Arguments that are named as in torch's
  schedulers are checked like those.
- ``rises_to_the_end = True``: its purpose is a rising lr, so no warning is printed.

Then give it a name on the command line with a file ``conf/schedule/NAME.yaml``, and add its curve
to ``SHIPPED`` in ``tests/test_schedules.py``. ``lrlab.plan.schedules`` reads and steps schedules.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.optim.lr_scheduler import LRScheduler


class RangeTestLR(LRScheduler):
    """The range test's exponential rise (Smith 2017, arXiv:1506.01186), a straight line in log lr.

    lr(tick) = min_lr · (max_lr / min_lr)^(tick / (total_steps − 1)), and max_lr from there on. The
    optimizer's own lr has no influence.

    Args:
        optimizer: whose lr it moves.
        min_lr: lr at tick 0, above 0.
        max_lr: lr at tick total_steps − 1, not below min_lr.
        total_steps: number of ticks of the rise, at least 1; with 1 all are at min_lr.
        last_epoch: as in torch's schedulers.

    Attributes:
        rises_to_the_end: true; its purpose is a rising lr.
        numbers: which numbers work where torch's schedulers take others, and an example.

    Raises:
        ValueError: max_lr is below min_lr.
    """

    rises_to_the_end = True
    numbers: ClassVar[dict[str, tuple[str, float]]] = {"min_lr": ("a number above 0", 1e-5)}

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        min_lr: float,
        max_lr: float,
        total_steps: int,
        last_epoch: int = -1,
    ) -> None:
        if max_lr < min_lr:
            raise ValueError(f"max_lr={max_lr} must not be below min_lr={min_lr}")
        self.min_lr, self.max_lr = float(min_lr), float(max_lr)
        self.total_steps = total_steps
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | torch.Tensor]:
        last = max(self.total_steps - 1, 1)
        tick = min(self.last_epoch, self.total_steps - 1)
        rise = (self.max_lr / self.min_lr) ** (tick / last)
        lr = self.max_lr if tick == last else self.min_lr * rise
        return [lr for _ in self.optimizer.param_groups]
