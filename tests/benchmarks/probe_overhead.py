"""What a probe costs: an ordinary loop with one and without, in turns.

    python tests/benchmarks/probe_overhead.py

It prints, for the default network and for a small transformer, the CPU time of 100 steps with a
probe at ``every=100``, divided by that of 100 steps without: the median over turns, in which each
of two trainings makes 100 steps, and the quarters around it. The first 100 steps, of which 8 are
measured rather than 1, are left out. It takes under three minutes.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from statistics import quantiles

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lrlab


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


class Training:
    """An ordinary training, with a probe or without."""

    def __init__(self, model: nn.Module, data: TensorDataset, batch: int, folder: str) -> None:
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        self.probe = lrlab.Probe(model, self.optimizer, folder, every=100) if folder else None
        self.loader = DataLoader(data, batch, shuffle=True, drop_last=True)
        self.batches = (batch for _ in itertools.count() for batch in self.loader)

    def seconds(self, steps: int = 100) -> float:
        began = time.process_time()
        for x, y in itertools.islice(self.batches, steps):
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(x), y).backward()
            if self.probe is None:
                self.optimizer.step()
            else:
                with self.probe.step(lambda x=x, y=y: F.cross_entropy(self.model(x), y)):
                    self.optimizer.step()
        return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = TensorDataset(torch.randn(6400, 1, 28, 28), torch.randint(0, 10, (6400,)))
    text = TensorDataset(torch.randint(0, 64, (3200, 32)), torch.randint(0, 64, (3200, 32)))
    cases = (("default network, batch 64", perceptron, images, 64, 20),)
    cases += (("small transformer, batch 32", Transformer, text, 32, 5),)
    for name, build, data, batch, turns in cases:
        with tempfile.TemporaryDirectory() as folder:
            both = [Training(build(), data, batch, each) for each in ("", folder)]
            for training in both:
                training.seconds()
            ratios, plain = [], 0.0
            for turn in range(turns):
                order = (0, 1) if turn % 2 else (1, 0)
                took = {i: both[i].seconds() for i in order}
                ratios.append(took[1] / took[0])
                plain += took[0] / turns
        low, middle, high = quantiles(ratios, n=4)
        print(f"{name}: {middle:.3f} times as long ({low:.3f} to {high:.3f}, {turns} turns);")
        more = 1e3 * plain * (middle - 1)
        print(f"    a step takes {10 * plain:.1f} ms, and {more:.1f} ms more if measured")


if __name__ == "__main__":
    main()
