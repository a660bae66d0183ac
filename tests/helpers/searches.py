"""Searches and grids that train in a second."""

from __future__ import annotations

from pathlib import Path

from helpers.commands import Ended, command
from lrlab import resume
from lrlab.sweep import main

# Two steps an epoch of a small network, so that a whole sweep takes a second.
QUICK = ("data.train_size=128", "data.val_size=100", "plots=false", "threads=1", "diagnostics=off")


SMALL = "network.hidden=[8]"


def sweep(*arguments: str, cwd: Path) -> Ended:
    return command(main, [*QUICK, *arguments], cwd)


def go_on(*arguments: str, cwd: Path) -> Ended:
    return command(resume.main, arguments, cwd)


# A module of a user's: a network, and one that fails as soon as it trains.
NETWORKS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes, width=5):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, num_classes)
        )

    def forward(self, x):
        return self.layers(x)


class Broken(Net):
    def forward(self, x):
        if self.training:
            raise RuntimeError("the cat is on the keyboard")
        return super().forward(x)
"""
