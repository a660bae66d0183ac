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

import math
from typing import Any, ClassVar

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


class StableDecayLR(LRScheduler):
    """lr, then a decay over the last ticks; with a warm-up before it: warm-up, stable, decay (WSD).

    With s from 0 to 1 over the last decay_steps ticks before total_steps:

        lr(tick) = lr · (end_factor + (1 − end_factor) · f(s))
        f(s) = 1 − s (linear), 1 − √s (1-sqrt), (1 + cos(π · s)) / 2 (cosine)

    So a run can be prolonged from any tick before the decay (Hu et al. 2024, arXiv:2404.06395; for
    1-sqrt Hägele et al. 2024, arXiv:2405.18392).

    Args:
        optimizer: whose lr it moves.
        total_steps: number of ticks, after which lr is lr · end_factor.
        decay_steps: number of ticks of the decay, at most total_steps.
        shape: ``linear``, ``1-sqrt`` or ``cosine``.
        end_factor: share of lr at the end.
        last_epoch: as in torch's schedulers.

    Attributes:
        numbers: as for ``RangeTestLR``.

    Raises:
        ValueError: decay_steps is more than total_steps.
    """

    numbers: ClassVar[dict[str, tuple[str, Any]]] = {
        "decay_steps": ("a whole number of at least 1", 100),
        "shape": ("linear, 1-sqrt or cosine", "linear"),
    }

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        total_steps: int,
        decay_steps: int,
        shape: str = "1-sqrt",
        end_factor: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if decay_steps > total_steps:
            raise ValueError(f"decay_steps={decay_steps} is more than the {total_steps} ticks")
        self.total_steps, self.decay_steps = total_steps, decay_steps
        self.shape, self.end_factor = shape, end_factor
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | torch.Tensor]:
        into = self.last_epoch - (self.total_steps - self.decay_steps)
        s = min(max(into / self.decay_steps, 0.0), 1.0)
        if self.shape == "cosine":
            left = (1 + math.cos(math.pi * s)) / 2
        else:
            left = 1 - (s if self.shape == "linear" else math.sqrt(s))
        share = self.end_factor + (1 - self.end_factor) * left
        return [lr * share for lr in self.base_lrs]
