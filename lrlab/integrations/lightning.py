"""``LearningRateProbe``: measure what the learning rate does to a training by Lightning.

trainer = lightning.Trainer(callbacks=[LearningRateProbe(folder="runs/a")])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lrlab.errors import UserError
from lrlab.own_loop.probe import Probe


class LearningRateProbe(Callback):
    """Make a ``lrlab.Probe`` of a training; ``callback.probe.verdict()`` says what it found.

    Args:
        loss: of the module and a batch, returns the loss as a tensor; None: the module's own
            ``training_step``, whose calls of ``log`` are then left out.
        options: of ``Probe``: folder, every, settings, ...

    Raises:
        UserError: the module steps its optimizers itself; it needs a probe in its own code.
    """

    def __init__(
        self, loss: Callable[[LightningModule, Any], Tensor] | None = None, **options: Any
    ) -> None:
        self._loss, self._options = loss, options
        self.probe: Probe | None = None
        self._step: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not pl_module.automatic_optimization or len(trainer.optimizers) != 1:
            raise UserError(
                f"{type(pl_module).__name__}: has several optimizers or steps them itself; put a "
                "lrlab.Probe for each optimizer into its training_step"
            )
        if self.probe is None:
            self.probe = Probe(pl_module, trainer.optimizers[0], **self._options)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        assert self.probe is not None
        self._step = self.probe.begin()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._step is None:  # gradients are still being accumulated
            return
        step, self._step = self._step, None
        if self._loss is not None:
            own = self._loss
            step.end(lambda: own(pl_module, batch))
        else:
            step.end(lambda: _training_loss(trainer, pl_module, batch, batch_idx))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = trainer.callback_metrics.get("val_loss")
        if value is not None and self.probe is not None and not trainer.sanity_checking:
            self.probe.evaluated(float(value))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if self.probe is not None:
            self.probe.close("interrupted")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.probe is not None:
            self.probe.close()


def _training_loss(trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> Tensor:
    """Return the loss of the module's training_step, which logs nothing meanwhile."""
    silent = {name: vars(module).get(name) for name in ("log", "log_dict")}
    vars(module).update(dict.fromkeys(silent, lambda *a, **k: None))
    try:
        with trainer.precision_plugin.train_step_context():
            found = module.training_step(batch, batch_idx)
    finally:
        for name, own in silent.items():
            vars(module).pop(name) if own is None else vars(module).update({name: own})
    if isinstance(found, dict):
        found = found["loss"]
    if not isinstance(found, Tensor):
        raise UserError(f"{type(module).__name__}.training_step: returned no loss; give loss=")
    return found
