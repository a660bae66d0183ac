"""Networks as a user may write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INPUTS = 144  # 12 × 12


class Dropout(nn.Module):
    """Drops out in training."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, 20)
        self.norm = nn.BatchNorm1d(20)
        self.last = nn.Linear(20, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.first(x.flatten(1))).relu()
        return self.last(F.dropout(hidden, 0.3, self.training))


class AlwaysNoisy(nn.Module):
    """Draws in evaluations too: F.dropout without self.training, an everyday slip."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(INPUTS, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.dropout(x.flatten(1), 0.3))


class Noise(nn.Module):
    """Draws random numbers outside of a dropout layer, so vmap refuses it."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(INPUTS, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1) + 0.1 * torch.randn(x.shape[0], INPUTS))


class BatchNorm(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, 20)
        self.norm = nn.BatchNorm1d(20)
        self.last = nn.Linear(20, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x.flatten(1))).relu())


class Odd(nn.Module):
    """A frozen layer, two layers with one weight, and a parameter that no output depends on."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.frozen = nn.Linear(INPUTS, 20)
        self.frozen.requires_grad_(False)
        self.one = nn.Linear(20, 20)
        self.two = nn.Linear(20, 20)
        self.two.weight = self.one.weight
        self.last = nn.Linear(20, num_classes)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.one(self.frozen(x.flatten(1)).relu()).relu()
        return self.last(self.two(hidden).relu())


class FailsLate(nn.Module):
    """Raises once its weights have grown: in some lane, at some step."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(INPUTS, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if self.linear.weight.abs().max() > 1.5:
            raise ArithmeticError("a weight is too large")
        return self.linear(x.flatten(1))


def net(out: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, out))
