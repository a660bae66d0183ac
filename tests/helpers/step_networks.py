"""Networks whose steps can be captured, and some whose steps cannot."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor, nn

from helpers.training import CLASSES


class Linear(nn.Module):
    """With a layer that no loss depends on, and what its subclasses do besides."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(144, CLASSES), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x.flatten(1)) * self.factor()

    def factor(self) -> Tensor | float:
        return torch.tensor(0.5)


class Counts(Linear):
    calls = 0

    def factor(self) -> float:
        self.calls += 1
        return 1 + self.calls % 2


class ReadsByNumpy(Linear):
    """Takes a number of the batch out of torch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / (1 + float(x.detach().numpy().std())))


class ReadsAsList(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * (1 + abs(x.flatten()[:3].tolist()[0])))


class AnnealsByEpochs(Linear):
    """Counts evaluations, and trains otherwise after each."""

    evaluations = 0

    def train(self, mode: bool = True) -> AnnealsByEpochs:
        if not mode:
            self.evaluations = self.evaluations + 1
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / (1 + self.evaluations)


class StartsAtZero(nn.Sequential):
    """Its gradients behind the head are 0 at the first step."""

    def __init__(self) -> None:
        layers = [nn.Flatten(), nn.Linear(144, 10), nn.ReLU(), nn.Linear(10, 7), nn.ReLU()]
        super().__init__(*layers, nn.Linear(7, CLASSES))
        head = self[-1]
        assert isinstance(head, nn.Linear)
        nn.init.zeros_(head.weight)


class MeanInFloat64(Linear):
    def forward(self, x: Tensor) -> Tensor:
        outputs = super().forward(x)
        return outputs - outputs.mean(1, keepdim=True, dtype=torch.float64).float()


class ChangesItsInput(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(0.9))


class Remembers(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def factor(self) -> float:
        self.seen.append(1)
        return 1.0


class DrawsByNumpy(Linear):
    def factor(self) -> float:
        np.random.rand()
        return 1.0


class DrawsByPython(Linear):
    def factor(self) -> float:
        random.random()
        return 1.0


class Doubled(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double())
