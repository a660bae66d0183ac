"""``LearningRateProbe``: measure what the learning rate does to a training by Hugging Face.

trainer = transformers.Trainer(..., callbacks=[LearningRateProbe(folder="runs/a")])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from lrlab.own_loop.probe import Probe


class LearningRateProbe(TrainerCallback):
    """Make a ``lrlab.Probe`` of a training; ``callback.probe.verdict()`` says what it found.

    Args:
        loss: of the model and the keyword arguments of its last forward pass, returns the loss as a
            tensor; None: ``model(**inputs).loss``. Give your own where the Trainer computes
            another loss.
        options: of ``Probe``: folder, every, settings, ...
    """

    def __init__(
        self, loss: Callable[[Any, dict[str, Any]], Tensor] | None = None, **options: Any
    ) -> None:
        self._loss = loss or (lambda model, inputs: model(**inputs).loss)
        self._options = options
        self.probe: Probe | None = None
        self._inputs: dict[str, Any] = {}
        self._hook: Any = None
        self._step: Any = None

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: Any, optimizer: Any, **_: Any
    ) -> None:
        self.probe = self.probe or Probe(model, optimizer, **self._options)
        self._hook = model.register_forward_pre_hook(self._remember, with_kwargs=True)

    def _remember(self, model: Any, arguments: Any, inputs: dict[str, Any]) -> None:
        if model.training and self._step is None:
            self._inputs = inputs

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.probe is not None
        self._step = self.probe.begin()

    def on_optimizer_step(
        self, args: Any, state: Any, control: Any, *, model: Any, **_: Any
    ) -> None:
        self._step.end(lambda: self._loss(model, self._inputs))
        self._step = None

    def on_evaluate(
        self, args: Any, state: Any, control: Any, *, metrics: dict[str, float], **_: Any
    ) -> None:
        if self.probe is not None and "eval_loss" in metrics:
            self.probe.evaluated(metrics["eval_loss"], metrics.get("eval_accuracy"))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._hook.remove()
        assert self.probe is not None
        self.probe.close()
