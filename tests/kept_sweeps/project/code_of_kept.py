"""Code of a user, which records of sweeps name by its path."""

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR


class Net(nn.Module):
    def __init__(self, in_shape, num_classes, width=4):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_shape[0], width), nn.Tanh(), nn.Linear(width, num_classes)
        )

    def forward(self, x):
        return self.layers(x)


class Counting(Net):
    """Its outputs grow with the number of its training steps, which only Python knows."""

    def __init__(self, in_shape, num_classes, width=4):
        super().__init__(in_shape, num_classes, width)
        self.calls = 0
        self.dropout = nn.Dropout(0.1)

    def forward(self, x):
        if self.training:
            self.calls += 1
        return self.layers(self.dropout(x)) * (1 + 0.01 * self.calls)


def smoothed(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets, label_smoothing=0.1)


class Halved(LambdaLR):
    def __init__(self, optimizer, after=8):
        super().__init__(optimizer, lambda step: 1.0 if step < after else 0.5)
