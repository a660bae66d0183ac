"""The fastest ordinary way to run a sweep without lanes: resident data, one run after the other.

No DataLoader: the images are one tensor and each batch is gathered by index. Apart from that it is
an everyday torch loop. lanes_against_sequential.py compares lrlab's lanes with it.

    python tests/benchmarks/sequential.py --runs 2 --train-size 6400
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from lrlab.data import Dataset, torchvision_images
from lrlab.networks import MLP

BATCH_SIZE = 64


def learning_rates(count: int) -> list[float]:
    """Evenly spaced on a log scale from 1e-4 to 1."""
    return torch.logspace(-4, 0, count, dtype=torch.float64).tolist()


def train(data: Dataset, lr: float, epochs: int, seed: int = 0) -> torch.Tensor:
    """One run with plain SGD. Returns the loss at each step, (steps,), on the data's device."""
    torch.manual_seed(seed)
    device = data.train_x.device
    network = MLP(data.train_x.shape[1:], data.num_classes).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    losses = []
    for _ in range(epochs):
        order = torch.randperm(len(data.train_x)).to(device)
        for batch in order[: len(order) // BATCH_SIZE * BATCH_SIZE].view(-1, BATCH_SIZE):
            outputs = network(data.train_x[batch])
            loss = F.nll_loss(F.log_softmax(outputs, dim=1), data.train_y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    return torch.stack(losses)


def seconds(data: Dataset, lrs: Sequence[float], epochs: int = 1) -> float:
    """Wall-clock time of the training loops alone, after a short warm-up."""
    few = 10 * BATCH_SIZE
    warm_up = replace(data, train_x=data.train_x[:few], train_y=data.train_y[:few])
    train(warm_up, lrs[0], epochs=1)
    _wait(data)
    start = time.perf_counter()
    for lr in lrs:
        train(data, lr, epochs)
    _wait(data)
    return time.perf_counter() - start


def _wait(data: Dataset) -> None:
    if data.train_x.is_cuda:
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description="resident-data runs one after the other")
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--train-size", type=int, default=55_000)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    data = torchvision_images(train_size=arguments.train_size).to(arguments.device)
    time_taken = seconds(data, learning_rates(arguments.runs))
    steps = arguments.runs * (arguments.train_size // BATCH_SIZE)
    each = 1e3 * time_taken / steps
    print(f"{arguments.runs} runs of one epoch: {time_taken:.2f} s, {each:.3f} ms a step")


if __name__ == "__main__":
    main()
