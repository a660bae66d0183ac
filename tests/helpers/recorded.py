"""A run's folder that is written as training writes it, without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lrlab import records

CONFIG = """
lr: 0.183
seed: 3
epochs: 2
batch_size: 64
name: ${now:%Y}
data: {_target_: lrlab.data.torchvision_images, dataset: MNIST, root: null}
network: {_target_: lrlab.networks.MLP, hidden: [64, 32], bias: true}
loss: {_target_: torch.nn.functional.nll_loss, _partial_: true}
optimizer: {_target_: torch.optim.SGD, _partial_: true, momentum: 0.9, lr: "${lr}"}
schedule: {_target_: lrlab.schedules.fixed, _partial_: true}
"""
RESULTS = {"train_loss": 0.25, "val_loss": 0.5, "val_acc": 0.75, "test_loss": 0.375}


class Recorded:
    """A run's folder that is written as training writes it, without training."""

    def __init__(self, sweep: Path, number: int = 17) -> None:
        self.folder = sweep / str(number)
        config = CONFIG.replace("${now:%Y}", "x")
        records.create_run(self.folder, config, "", "")
        self.summary: dict[str, Any] = {"run": number, "lr": 0.183, "seed": 3, "epochs": 2}
        self.summary |= {"batch_size": 64, "network": "mlp", "optimizer": "momentum"}
        self.summary |= {"data": "mnist", "loss": "nll", "schedule": "fixed"}
        self.state("running")

    def state(self, state: str, **more: Any) -> None:
        self.summary |= {"state": state, **more}
        records.write_summary(self.folder, self.summary)

    def epoch(self, number: int, loss: float = 1.0, steps: int = 4) -> None:
        """An epoch's rows: losses that are exact in float32, an evaluation at its start."""
        first = number * steps
        self.rows([first], number, [loss], val_loss=[2 * loss], val_acc=[0.5])
        later = range(first + 1, first + steps)
        self.rows(later, number, [loss + step / 64 for step in later])

    def rows(self, steps: Sequence[int], epoch: int, losses: list[float], **more: Any) -> None:
        rows = {"step": steps, "epoch": [epoch] * len(steps), "lr": [0.183] * len(steps)}
        records.append_metrics(self.folder, rows | {"train_loss": losses} | more)

    def end(self, step: int = 8) -> None:
        row = {"step": [step], "epoch": [2], "val_loss": [0.5], "val_acc": [0.75]}
        records.append_metrics(self.folder, row)
        self.state("finished", **RESULTS)
