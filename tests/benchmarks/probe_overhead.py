"""What a probe costs: an ordinary loop with one and without, in turns.

    python tests/benchmarks/probe_overhead.py

It prints, for the default network and for a small transformer, the median over rounds of the CPU
time with a probe at ``every=100``, divided by the time without. The two take turns in each round.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lrlab

ROUNDS, STEPS = 5, 1000


class Transformer(nn.Module):
    """Two layers, width 64, context 32, 64 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(64, 64), nn.Embedding(32, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 256, 0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 64)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(32))

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x) + self.places.weight
        return self.head(self.layers(h, mask=self.mask, is_causal=True)).transpose(1, 2)


def perceptron() -> nn.Module:
    sizes = (784, 64, 64, 64, 10)
    layers = [nn.Flatten()]
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.Linear(a, b), *([nn.ReLU()] if i < 3 else [])]
    return nn.Sequential(*layers)


def seconds(
    build: Callable[[], nn.Module], data: TensorDataset, batch: int, steps: int, probed: bool
) -> float:
    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with tempfile.TemporaryDirectory() as folder:
        probe = lrlab.Probe(model, optimizer, folder, every=100) if probed else None
        loader = DataLoader(data, batch, shuffle=True, drop_last=True)
        made, began = 0, time.process_time()
        while made < steps:
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                if probe is None:
                    optimizer.step()
                else:
                    with probe.step(lambda x=x, y=y: F.cross_entropy(model(x), y)):
                        optimizer.step()
                made += 1
                if made == steps:
                    break
        return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = TensorDataset(torch.randn(6400, 1, 28, 28), torch.randint(0, 10, (6400,)))
    text = TensorDataset(torch.randint(0, 64, (3200, 32)), torch.randint(0, 64, (3200, 32)))
    cases = (("default network, batch 64", perceptron, images, 64, 4 * STEPS),)
    cases += (("small transformer, batch 32", Transformer, text, 32, STEPS),)
    for name, build, data, batch, steps in cases:
        ratios = []
        for turn in range(ROUNDS):
            order = (False, True) if turn % 2 else (True, False)
            took = {probed: seconds(build, data, batch, steps, probed) for probed in order}
            ratios.append(took[True] / took[False])
        shown = ", ".join(f"{ratio:.3f}" for ratio in sorted(ratios))
        print(f"{name}, {steps} steps: {median(ratios):.3f} times as long (rounds: {shown})")


if __name__ == "__main__":
    main()
