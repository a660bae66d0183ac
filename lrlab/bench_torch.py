"""What ``lrlab.bench`` times in its own process: lrlab's step, its products alone, ordinary loops.

Each is a ``Piece``: called with a number of steps, it makes that many of them, waits until the
device has made them, and returns the losses.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lrlab import config as configs
from lrlab.data import Dataset
from lrlab.engine import capture
from lrlab.plan import build, spec
from lrlab.plan.spec import RunSpec
from lrlab.training import pool, train
from lrlab.training.train import Stack

Piece = Callable[[int], Any]

LAYERS = (784, 64, 64, 64, 10)  # network=mlp on MNIST
BATCH_SIZE = 64


# --- lrlab ----------------------------------------------------------------------------------------


def specs(
    options: Sequence[str], lrs: Sequence[float], seeds: Sequence[int] | None = None
) -> list[RunSpec]:
    """A run of each lr, composed as a sweep composes it, with ``diagnostics=off``.

    Args:
        options: overrides of all runs.
        seeds: one a run; None: 0 for all, so they share their batches.
    """
    from hydra import compose, initialize_config_dir

    from lrlab.config import hydra_store

    conf = str(configs.folder("conf"))
    with hydra_store.ready(), initialize_config_dir(conf, **hydra_store.BASE):
        config = compose("config", ["diagnostics=off", "name=bench", *options])
    found = []
    for number, lr in enumerate(lrs):
        config.lr = float(lr)
        config.seed = 0 if seeds is None else seeds[number]
        found.append(spec.run_spec(number, Path("bench", str(number)), config, {}, {}))
    return found


def stack(runs: Sequence[RunSpec], data: Dataset) -> Stack:
    """The runs as lanes before their first step, padded as a sweep pads them.

    Args:
        data: on the runs' device.
    """
    pad = pool.power_of_two(len(runs)) if pool.is_padded(runs[0]) else 0
    return train.build_stack(spec.group_key(runs[0]), runs, range(len(runs)), data, {}, pad)


def lane_steps(lanes: Stack) -> Piece:
    """The training step as a sweep makes it, again and again through the lanes' first epoch."""

    def run(count: int) -> np.ndarray:
        found = []
        while count:
            part = min(count, train.longest_segment(lanes), lanes.steps_per_epoch - lanes.place)
            found.append(_segment(lanes, part))
            count -= part
            if lanes.place == lanes.steps_per_epoch:
                lanes.place = 0
                for run in lanes.runs:
                    run.step = 0
        return np.concatenate(found)

    return run


def whole_training(lanes: Stack, epochs: int) -> np.ndarray:
    """Train the lanes for some epochs, each in an order of its own; returns (steps, lanes)."""
    found = []
    for _ in range(epochs):
        lanes.place = 0
        train.take_order(lanes)
        while lanes.place < lanes.steps_per_epoch:
            left = lanes.steps_per_epoch - lanes.place
            found.append(_segment(lanes, min(train.longest_segment(lanes), left)))
    return np.concatenate(found)


def _segment(lanes: Stack, count: int) -> np.ndarray:
    lrs = [run.spec["lr"] for run in lanes.runs]
    values = {"lr": np.tile(np.array(lrs), (count, 1))}
    losses = train.train_steps(lanes, values, lambda: False).losses.copy()  # a buffer used again
    lanes.place += count
    for run in lanes.runs:
        run.step += count
    return losses


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
    program = capture.Program(calls, []).on(torch.device(device))

    def run(count: int) -> None:
        for _ in range(count):
            program.run()
        wait(device)

    return run


# --- ordinary loops -------------------------------------------------------------------------------


def ordinary(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], lr: float, device: str
) -> Piece:
    """The loop that everybody writes: autograd, and ``torch.optim.SGD``.

    Args:
        network: is trained.
        batches: (samples, labels), without end.
    """
    network = network.to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    source = iter(batches)

    def run(count: int) -> np.ndarray:
        losses = []
        for x, y in itertools.islice(source, count):
            outputs = network(x.to(device))
            loss = F.nll_loss(F.log_softmax(outputs, dim=1), y.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses).cpu().numpy()

    return run


def resident_batches(data: Dataset) -> Iterator[tuple[Tensor, Tensor]]:
    """Mini-batches of data that lie on the device as one tensor, those of a run with seed 0.

    The first epoch's, again and again.
    """
    rows = torch.from_numpy(order(data)).to(data.train_y.device)
    return ((data.train_x[index], data.train_y[index]) for index in itertools.cycle(rows))


def order(data: Dataset) -> np.ndarray:
    """(steps, batch) the samples of the first epoch of a run with seed 0."""
    samples = len(data.train_y)
    steps = samples // BATCH_SIZE
    return build.batch_order(0, 0, samples)[: steps * BATCH_SIZE].reshape(steps, BATCH_SIZE)


@contextmanager
def loader_batches(shuffle: bool = True) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
    """Mini-batches from torchvision's MNIST and a DataLoader, as its examples have them.

    Raises:
        UserError: torchvision cannot be imported.
        OSError: no room for the unpacked files in the temporary folder.
    """
    import tempfile

    from lrlab import data as images

    with tempfile.TemporaryDirectory(prefix="lrlab-bench-") as root:
        images.unpack_shipped(Path(root, "MNIST", "raw"))
        with images.quiet_torchvision():
            from torchvision import datasets, transforms

            steps = [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
            mnist = datasets.MNIST(root, train=True, transform=transforms.Compose(steps))
        loader = DataLoader(mnist, BATCH_SIZE, shuffle=shuffle, drop_last=True)
        yield itertools.chain.from_iterable(itertools.repeat(loader))


def wait(device: str) -> None:
    """Until the device has done all that it was given: a clock read before tells nothing."""
    if device != "cpu":
        torch.accelerator.synchronize(torch.device(device))
