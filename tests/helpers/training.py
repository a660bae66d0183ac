"""Small data, specs without Hydra's start-up, trained runs to compare, ordinary torch loops."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn, optim
from torch.optim import lr_scheduler

from lrlab import records
from lrlab.config import schema
from lrlab.data import Dataset
from lrlab.networks import MLP
from lrlab.plan import build
from lrlab.plan import spec as plan_spec
from lrlab.plan.spec import RunSpec
from lrlab.process.progress import LaneRow
from lrlab.training import pool

IN_SHAPE = (1, 12, 12)  # the smallest images that the CNN takes


CLASSES = 5


RESULTS = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")


def tiny_images(train_size: int = 640, val_size: int = 100, test_size: int = 130) -> Dataset:
    """Noisy copies of one random image a class: learnable within an epoch, but not at once."""
    draw = torch.Generator().manual_seed(0)
    prototypes = torch.randn(CLASSES, *IN_SHAPE, generator=draw)
    parts = []
    for size in (train_size, val_size, test_size):
        labels = torch.randint(0, CLASSES, (size,), generator=draw)
        noise = torch.randn(size, *IN_SHAPE, generator=draw)
        parts += [0.5 * prototypes[labels] + noise, labels]
    return Dataset("tiny", *parts, num_classes=CLASSES, sha256=f"{train_size} {val_size}")


@dataclass(frozen=True)
class Trained:
    """What a run left behind."""

    folder: Path
    summary: dict[str, Any]
    metrics: pd.DataFrame
    csv: str
    weights: dict[str, Tensor]  # of model.pt; empty where there is none

    @property
    def log(self) -> str:
        return (self.folder / "run.log").read_text(encoding="utf-8")

    @property
    def results(self) -> dict[str, Any]:
        keys = ("state", "first_nonfinite_step", "initial_loss", *RESULTS)
        return {key: self.summary[key] for key in keys}


class Silent:
    """A display that shows nothing but remembers the states it is told."""

    def __init__(self) -> None:
        self.states: dict[int, str] = {}
        self.notes: list[str] = []

    def due(self) -> bool:
        return True

    def add(self, row: LaneRow) -> int:
        return row.run

    def note(self, text: str) -> None:
        self.notes.append(text)

    def __call__(self, lane: int, **news: Any) -> None:
        if news.get("state"):
            self.states[lane] = news["state"]


def make_specs(folder: Path, runs: Sequence[str], common: str = "") -> list[RunSpec]:
    """Specs as lrlab composes them from its own conf/, on tiny_images, on one CPU thread.

    runs: each run's overrides, as typed: ``"lr=0.1 schedule=step schedule.gamma=0.5"``.
    common: overrides of all runs, which come first.
    """
    first = "data=tiny device=cpu threads=1 save_model=true name=test epochs=2 diagnostics=off"
    specs = [_spec(tuple(f"{first} {common} {run}".split())) for run in runs]
    return [
        replace(spec, number=number, folder=folder / str(number), config=copy.deepcopy(spec.config))
        for number, spec in enumerate(specs)
    ]


@functools.cache  # a run is composed once for all that train it, alone or together
def _spec(overrides: tuple[str, ...]) -> RunSpec:
    given = [override.split("=", 1) for override in overrides]
    choices = {"network": "mlp", "loss": "nll", "optimizer": "sgd", "schedule": "fixed"}
    choices |= {key: value for key, value in given if key in schema.GROUPS}
    rest = [f"{key}={value}" for key, value in given if key not in schema.GROUPS]
    config = OmegaConf.merge(_chosen(tuple(choices.items())), OmegaConf.from_dotlist(rest))
    assert isinstance(config, DictConfig)
    return plan_spec.run_spec(0, Path(), config, choices, dict(given))


@functools.cache
def _chosen(choices: tuple[tuple[str, str], ...]) -> DictConfig:
    config = OmegaConf.merge(OmegaConf.structured(schema.Config), _yaml("config"))
    assert isinstance(config, DictConfig)
    for group, choice in choices:
        config[group] = _yaml(f"{group}/{choice}")
    return config


@functools.cache
def _yaml(name: str) -> DictConfig:
    if name == "data/tiny":
        return OmegaConf.create({"_target_": "helpers.training.tiny_images"})
    if name == "optimizer/only_target":  # as of a user who names a class and nothing else
        return OmegaConf.create({"_partial_": True})
    loaded = OmegaConf.load(schema.folder("conf") / f"{name}.yaml")
    assert isinstance(loaded, DictConfig)
    return OmegaConf.masked_copy(loaded, [k for k in loaded if k not in ("defaults", "hydra")])  # type: ignore[arg-type]


def read(folder: Path) -> Trained:
    model = records.model_file(folder)
    return Trained(
        folder,
        records.read_summary(folder),
        records.read_metrics(folder),
        (folder / "metrics.csv").read_text(encoding="utf-8"),
        torch.load(model) if model.exists() else {},
    )


_references: dict[tuple[str, str], Trained] = {}


class Trainer:
    """Trains runs in folders of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = itertools.count()

    def specs(self, runs: Sequence[str], common: str = "") -> list[RunSpec]:
        specs = make_specs(self.folder / f"sweep{next(self.count)}", runs, common)
        for spec in specs:
            spec.folder.mkdir(parents=True)
            records.start_metrics(spec.folder)
        return specs

    def together(
        self, runs: Sequence[str], common: str = "", data: Dataset | None = None
    ) -> list[Trained]:
        """Train runs as one lane group, the first as lane 0."""
        specs = self.specs(runs, common)
        assert len({plan_spec.group_key(spec) for spec in specs}) == 1
        rows = {spec.number: row for row, spec in enumerate(specs)}
        loads = mock.patch.object(build, "load_data", lambda spec: data)
        with loads if data is not None else contextlib.nullcontext():
            pool.run(pool.Batch(specs), None, "cpu", Silent(), rows)
        return [read(spec.folder) for spec in specs]

    def alone(self, run: str, common: str = "", data: Dataset | None = None) -> Trained:
        return self.together([run], common, data)[0]

    def reference(self, run: str, common: str = "") -> Trained:
        """As ``alone``, trained once for all tests: to compare others with."""
        if (run, common) not in _references:
            _references[run, common] = self.alone(run, common)
        return _references[run, common]


def assert_same_bits(one: Trained, other: Trained) -> None:
    """Equal to the bit: each recorded number, each result, each weight."""
    assert one.csv == other.csv
    assert one.results == other.results
    assert_equal_weights(one.weights, other.weights)


def assert_equal_weights(these: Mapping[str, Tensor], those: Mapping[str, Tensor]) -> None:
    assert these.keys() == those.keys()
    for name, tensor in these.items():
        assert torch.equal(tensor, those[name]), name


@dataclass
class Ordinary:
    """What an everyday torch program finds."""

    lr: list[float]  # used at each step
    train_loss: list[float]
    evaluations: list[tuple[float, float]]  # val_loss, val_acc: at the start, after each epoch
    network: nn.Module


def evaluate(network: nn.Module, x: Tensor, y: Tensor, loss: Any) -> tuple[float, float]:
    network.eval()
    with torch.no_grad():
        scores = network(x)
        found = float(loss(scores, y)), float((scores.argmax(1) == y).double().mean())
    network.train()
    return found


def ordinary(
    network: Callable[[], nn.Module],
    data: Dataset,
    optimizer: Callable[..., optim.Optimizer],
    scheduler: Callable[[optim.Optimizer], Any] | None = None,
    by_step: bool = False,
    epochs: int = 2,
    seed: int = 0,
    loss: Any = F.cross_entropy,
    batch_size: int = 64,
) -> Ordinary:
    torch.manual_seed(seed)
    net = network().train()
    trained = [p for p in net.parameters() if p.requires_grad]
    opt: Any = optimizer(trained)
    schedule: Any = scheduler(opt) if scheduler else None
    follows_loss = isinstance(schedule, lr_scheduler.ReduceLROnPlateau)
    tick: Any = getattr(schedule, "step", None)
    found = Ordinary([], [], [evaluate(net, data.val_x, data.val_y, loss)], net)
    for epoch in range(epochs):
        order = torch.from_numpy(build.batch_order(seed, epoch, len(data.train_y)))
        for index in order.split(batch_size):
            if len(index) < batch_size:
                continue
            value = loss(net(data.train_x[index]), data.train_y[index])
            net.zero_grad()  # parameters that are in no group too
            value.backward()
            found.lr.append(float(opt.param_groups[0]["lr"]))
            found.train_loss.append(float(value.detach()))
            opt.step()
            if tick and by_step:
                tick()
        found.evaluations.append(evaluate(net, data.val_x, data.val_y, loss))
        if follows_loss:
            tick(found.evaluations[-1][0])
        elif tick and not by_step:
            tick()
    return found


def assert_trained_like(run: Trained, truth: Ordinary, data: Dataset, rtol: float = 2e-5) -> None:
    rows, last = run.metrics.iloc[:-1], run.metrics.iloc[-1]
    steps = len(truth.lr)
    assert rows["step"].tolist() == list(range(steps))
    assert last["step"] == steps
    np.testing.assert_allclose(rows["lr"], truth.lr, rtol=1e-12)
    np.testing.assert_allclose(rows["train_loss"], truth.train_loss, rtol=rtol, atol=1e-6)
    evaluated = run.metrics[run.metrics["val_loss"].notna()]
    expected_loss, expected_accuracy = zip(*truth.evaluations, strict=True)
    np.testing.assert_allclose(evaluated["val_loss"], expected_loss, rtol=rtol, atol=1e-6)
    # one sample at the boundary may fall to either side
    np.testing.assert_allclose(evaluated["val_acc"], expected_accuracy, atol=1.01 / len(data.val_y))
    for name, tensor in truth.network.state_dict().items():
        torch.testing.assert_close(run.weights[name], tensor, rtol=10 * rtol, atol=2e-6)


def sgd(**settings: Any) -> Callable[..., optim.Optimizer]:
    return partial(optim.SGD, foreach=False, **settings)


def mlp() -> nn.Module:
    return MLP(IN_SHAPE, CLASSES, hidden=(37, 11))
