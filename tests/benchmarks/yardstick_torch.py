"""What ``yardsticks.py`` times in its own process beside lrlab's step: its products, a DataLoader.

Each is a ``Piece`` of ``lrlab.bench``, or gives batches to its ordinary loop.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lrlab.bench import BATCH_SIZE, Piece, segment
from lrlab.engine.capture import program as capture_program
from lrlab.training.stack import Stack

LAYERS = (784, 64, 64, 64, 10)  # network=mlp on MNIST


def whole_training(lanes: Stack, epochs: int) -> np.ndarray:
    """Train the lanes for some epochs, each in an order of its own; returns (steps, lanes)."""
    found = []
    for _ in range(epochs):
        lanes.take_order()
        left = lanes.steps_per_epoch
        while left:
            part = min(lanes.longest_segment(), left)
            found.append(segment(lanes, part))
            left -= part
    return np.concatenate(found)


# --- the matrix products alone --------------------------------------------------------------------


def products(lanes: int, device: str, joined: bool) -> Piece:
    """The matrix products of one step of the default network, and nothing else.

    Forward: x·Wᵀ in each layer; backward: the weights' gradients, and the inputs' gradients of all
    layers but the first. Operands and results are there before; on a GPU they are one graph.

    Args:
        joined: the first layer, whose input the lanes share, as one product of all lanes; else as
            one a lane, like the others.
    """

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device=device)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).to(device)

    draw = torch.Generator().manual_seed(0)
    work: list[tuple[Callable[..., Any], Tensor, Tensor, Tensor]] = []
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(LAYERS)):
        weight, grad = random(lanes, outputs, inputs), random(lanes, BATCH_SIZE, outputs)
        if layer == 0:
            x = random(BATCH_SIZE, inputs)
            if joined:
                wide, rows = lanes * outputs, grad.transpose(0, 1).reshape(BATCH_SIZE, -1)
                flat = weight.view(wide, inputs)
                work.append((torch.mm, x, flat.t(), empty(BATCH_SIZE, wide)))
                work.append((torch.mm, rows.t(), x, empty(wide, inputs)))
                continue
            x = x.expand(lanes, -1, -1)
        else:
            x = random(lanes, BATCH_SIZE, inputs)
            work.append((torch.bmm, grad, weight, empty(lanes, BATCH_SIZE, inputs)))
        work.append((torch.bmm, x, weight.mT, empty(lanes, BATCH_SIZE, outputs)))
        work.append((torch.bmm, grad.mT, x, empty(lanes, outputs, inputs)))

    calls = [functools.partial(call, left, right, out=out) for call, left, right, out in work]
    program = capture_program.Program(calls, []).on(torch.device(device))

    def run(count: int) -> None:
        for _ in range(count):
            program.run()
        wait(device)

    return run


@contextmanager
def loader_batches(shuffle: bool = True) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
    """Mini-batches from torchvision's MNIST and a DataLoader, as its examples have them.

    Raises:
        UserError: torchvision cannot be imported.
        OSError: no room for the unpacked files in the temporary folder.
    """
    import tempfile

    from lrlab.data import cache, mnist_like

    with tempfile.TemporaryDirectory(prefix="lrlab-bench-") as root:
        mnist_like.unpack_shipped(Path(root, "MNIST", "raw"))
        with cache.quiet_torchvision():
            from torchvision import datasets, transforms

            steps = [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
            mnist = datasets.MNIST(root, train=True, transform=transforms.Compose(steps))
        loader = DataLoader(mnist, BATCH_SIZE, shuffle=shuffle, drop_last=True)
        yield itertools.chain.from_iterable(itertools.repeat(loader))


def wait(device: str) -> None:
    """Until the device has done all that it was given: a clock read before tells nothing."""
    if device != "cpu":
        torch.accelerator.synchronize(torch.device(device))
