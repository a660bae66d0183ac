"""`lrlab.find` moves nothing: network, optimizer, loader and random numbers stay as they were."""

from __future__ import annotations

import copy
import functools
import multiprocessing
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.networks import net
from helpers.own_loops import (
    LABELS,
    ROWS,
    SHORT,
    TEXTS,
    Small,
    X,
    encoded,
    normed,
    of_dict,
    shuffled,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import lrlab
from lrlab.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


class Augmented(Dataset[Any]):
    """Draws from all generators that there are, and from two of its own."""

    def __init__(self) -> None:
        self.numpy, self.python = np.random.default_rng(1), [random.Random(2)]
        self.reads = 0

    def __len__(self) -> int:
        return 44

    def __getitem__(self, i: int) -> Any:
        self.reads += 1
        noise = self.numpy.random() + self.python[0].random()
        noise += np.random.rand() + random.random() + torch.rand(()).item()
        return {"x": X[i] + 0.1 * noise, "y": LABELS[i]}


class Rising:
    """A sampler that begins each pass one further, in an order of its own generator."""

    def __init__(self) -> None:
        self.begins, self.drawn = 0, random.Random(4)

    def __iter__(self) -> Iterator[int]:
        self.begins += 1
        return iter(self.drawn.sample(range(44), 40))

    def __len__(self) -> int:
        return 40


def loaders(workers: int) -> dict[str, DataLoader[Any]]:
    many: dict[str, Any] = {"num_workers": workers}
    return {
        "shuffled": shuffled(Augmented(), **many),
        "own generator": shuffled(Augmented(), generator=torch.Generator().manual_seed(1), **many),
        "own sampler": DataLoader(Augmented(), 8, sampler=Rising(), **many),
    }


def all_of(network: nn.Module, optimizer: Any, loader: DataLoader[Any]) -> list[Any]:
    data: Any = loader.dataset
    own = [loader.generator, getattr(loader.sampler, "generator", None)]
    return [
        torch.get_rng_state().tolist(),
        repr(np.random.get_state()),
        random.getstate(),
        {name: t.tolist() for name, t in network.state_dict().items()},
        [p.grad.tolist() for p in network.parameters()],
        [module.training for module in network.modules()],
        repr(optimizer.state_dict()),
        [g.get_state().tolist() for g in own if g is not None],
        repr(data.numpy.bit_generator.state),
        data.python[0].getstate(),
        data.reads,
        {k: v for k, v in vars(loader.sampler).items() if k == "begins"},
        loader.sampler.drawn.getstate() if isinstance(loader.sampler, Rising) else None,
    ]


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network in the middle of its training, with gradients and an optimizer's state."""
    network = normed()
    network[1].eval()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.02, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(network(X), LABELS).backward()
        optimizer.step()
    return network, optimizer


class Failing:
    """A loss that fails at its n-th call, by an error or by Ctrl-C."""

    def __init__(self, left: int, error: BaseException) -> None:
        self.left, self.error = [left], error

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        self.left[0] -= 1
        if self.left[0] < 0:
            raise self.error
        random.random()
        return of_dict(model, batch)


ENDS = {"": None, "fails": ValueError("mine"), "interrupted": KeyboardInterrupt()}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    ("workers", "kind"),
    [*((0, kind) for kind in loaders(0)), (2, "shuffled"), (2, "own sampler")],
)  # fmt: skip
def test_all_is_afterwards_as_it_was(workers: int, kind: str, end: str) -> None:
    if workers and end == "fails":
        pytest.skip("as interrupted")
    network, optimizer = trained()
    loader = loaders(workers)[kind]
    before = all_of(network, optimizer, loader)
    error = ENDS[end]
    loss: Any = of_dict if error is None else functools.partial(Failing(30, error))
    settings = {**SHORT, "val": DataLoader(Augmented(), 8, num_workers=0)}
    if error is None:
        lrlab.find(network, loader, loss, optimizer, **settings)
    else:
        with pytest.raises(type(error)):
            lrlab.find(network, loader, loss, optimizer, **settings)
    assert all_of(network, optimizer, loader) == before
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("persistent", [False, True])
def test_a_pass_that_has_begun_goes_on_where_it_was(persistent: bool) -> None:
    """Also one of workers that stay, which a second pass would begin anew."""

    network = net()

    def rest(find: bool) -> list[list[float]]:
        torch.manual_seed(0)
        more = {"num_workers": 2, "persistent_workers": True} if persistent else {}
        loader = shuffled(ROWS, **more)
        running = iter(loader)
        next(running)
        if find:
            lrlab.find(network, loader, of_dict, **SHORT)
        left = [batch["x"].flatten().tolist() for batch in running]
        return left + [batch["x"].flatten().tolist() for batch in loader]

    assert rest(find=True) == rest(find=False)


NUMPY, PYTHON, TORCH = np.random.default_rng(5), random.Random(6), torch.Generator()


def noisy(rows: list[Any]) -> Any:
    noise = NUMPY.random() + PYTHON.random() + sum(torch.rand(1, generator=TORCH) for _ in rows)
    return {"x": torch.stack([row["x"] for row in rows]) + noise, "y": LABELS[: len(rows)]}


class Noisy(Dataset[Any]):
    def __len__(self) -> int:
        return 44

    def __getitem__(self, i: int) -> Any:
        return {"x": X[i] + NUMPY.normal() + PYTHON.random(), "y": LABELS[i]}


@pytest.mark.parametrize("loader", [DataLoader(ROWS, 8, collate_fn=noisy), DataLoader(Noisy(), 8)])
def test_generators_that_are_variables_of_a_module_do_not_move(loader: Any) -> None:
    def states() -> Any:
        own = NUMPY.bit_generator.state, PYTHON.getstate(), TORCH.get_state().tolist()
        return copy.deepcopy(own)

    before = states()
    lrlab.find(net(), loader, of_dict, **SHORT)
    assert states() == before


def test_pairs_leave_the_loader_too() -> None:
    sampler = Rising()
    loader = DataLoader(TensorDataset(X, LABELS), 8, sampler=sampler)
    lrlab.find(net(), loader, F.cross_entropy, val=loader, **SHORT)
    assert sampler.begins == 0 and sampler.drawn.getstate() == random.Random(4).getstate()


def test_batches_that_the_user_keeps_are_not_changed() -> None:
    batches = [encoded(TEXTS[:8]), encoded(TEXTS[8:16])]
    before = copy.deepcopy(batches)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        batch["tokens"].clamp_(max=5)
        return model(batch.pop("tokens"), **batch)["loss"]

    lrlab.find(Small(), batches, loss, **SHORT)
    for batch, old in zip(batches, before, strict=True):
        assert batch.keys() == old.keys()
        assert all(torch.equal(batch[name], old[name]) for name in old)


def test_a_generator_is_consumed_by_as_many_batches_as_are_needed() -> None:
    running = iter([{"x": X[i : i + 4], "y": LABELS[i : i + 4]} for _ in range(9) for i in (0, 8)])
    endless = (batch for batch in running)
    lrlab.find(net(), endless, of_dict, **SHORT)
    assert len(list(endless)) == 18 - 12


class Unread(Rising):
    def __init__(self) -> None:
        super().__init__()
        self.running = (i for i in range(44))


def test_a_sampler_that_cannot_be_copied_is_refused() -> None:
    loader = DataLoader(ROWS, 8, sampler=Unread())
    with pytest.raises(UserError, match=r"^data: the loader's sampler cannot be copied .*\(loader"):
        lrlab.find(net(), loader, of_dict, **SHORT)
    assert np.isfinite(lrlab.find(net(), iter(loader), of_dict, **SHORT).ramp_loss).all()
