"""Small data, specs without Hydra's start-up, and trained runs to compare."""

from __future__ import annotations

import collections
import contextlib
import copy
import functools
import itertools
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

# Two test processes share the cores, where threads that spin at each barrier would take them from
# one another. torch reads it when it is imported, in this process and all that it starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Where hypothesis keeps what it found out of Python: not in the repository.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", f"{tempfile.gettempdir()}/lrlab-hypothesis")

import hydra
import pandas as pd
import pytest
import torch
from omegaconf import DictConfig, OmegaConf, base
from torch import Tensor

from lrlab import plan, records
from lrlab.config import data_paths, schema
from lrlab.data import Dataset
from lrlab.engine import devices
from lrlab.plan import RunSpec
from lrlab.process.progress import LaneRow
from lrlab.training import pool

# MKL reads its variable at the first product, so it is set before any test runs.
devices.make_deterministic()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first in each process's share, so that none of them ends alone.

    Of n processes xdist gives the first the first n-th part of all tests, and so on. Within a file
    the order stays, for tests share what they trained.
    """
    shares = [0] * int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if len(shares) == 1:
        return
    count = collections.Counter(item.path for item in items)
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    place: dict[Path, tuple[int, int]] = {}
    for number, path in enumerate(sorted(count, key=lambda path: (-slow[path], path))):
        share = shares.index(min(shares))
        shares[share] += count[path]
        place[path] = share, number
    items.sort(key=lambda item: place[item.path])


@pytest.fixture(scope="session", autouse=True)
def read_once() -> Iterator[None]:
    """In this process a YAML file of lrlab's and Hydra's own is parsed once, as is a reference.

    A command reads twenty of them. Processes that tests start do it as a user's do.
    """
    load = OmegaConf.load
    folders = (schema.folder("conf"), Path(hydra.__file__).parent / "conf")
    kept: dict[str, Any] = {}

    def load_once(file: Any) -> Any:
        name = str(getattr(file, "name", file))
        if not Path(name).is_relative_to(folders[0]) and not Path(name).is_relative_to(folders[1]):
            return load(file)
        if name not in kept:
            kept[name] = load(file)
        return copy.deepcopy(kept[name])

    with (
        mock.patch.object(OmegaConf, "load", load_once),
        mock.patch.object(base, "parse", functools.lru_cache(maxsize=4096)(base.parse)),
    ):
        yield


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Processes of lrlab that start at once, ``warm.Server``."""
    from warm import Server

    started = Server(tmp_path_factory.mktemp("warm"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def whole(server: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """A sweep of ``interrupted.MEASURED`` that nothing interrupted, and what it came to."""
    from interrupted import MEASURED, found, go_on

    folder = tmp_path_factory.mktemp("whole")
    done = go_on(server, folder, MEASURED)
    assert (done.code, done.err) == (0, "")
    return done, found(folder / "outputs" / "x")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """While the test runs, torch computes on one thread of this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def nowhere_else() -> Iterator[None]:
    """Where a resume or a reproduction in this process looked for files ends with its test."""
    yield
    os.environ.pop(data_paths.VARIABLE, None)


def without_notices(err: str) -> str:
    """What a command wrote to stderr but lines about few samples or steps, which tests want."""
    few = r"lrlab: (only \d+ samples? held out|\d+ steps? only).*\n"
    return re.sub(few, "", err)


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
    return [
        _spec(number, folder / str(number), f"{first} {common} {run}".split())
        for number, run in enumerate(runs)
    ]


def _spec(number: int, folder: Path, overrides: Sequence[str]) -> RunSpec:
    given = [override.split("=", 1) for override in overrides]
    choices = {"network": "mlp", "loss": "nll", "optimizer": "sgd", "schedule": "fixed"}
    choices |= {key: value for key, value in given if key in schema.GROUPS}
    config = OmegaConf.merge(OmegaConf.structured(schema.Config), _yaml("config"))
    assert isinstance(config, DictConfig)
    for group, choice in choices.items():
        config[group] = _yaml(f"{group}/{choice}")
    rest = [f"{key}={value}" for key, value in given if key not in schema.GROUPS]
    config = OmegaConf.merge(config, OmegaConf.from_dotlist(rest))
    assert isinstance(config, DictConfig)
    return plan.run_spec(number, folder, config, choices, dict(given))


@functools.cache
def _yaml(name: str) -> DictConfig:
    if name == "data/tiny":
        return OmegaConf.create({"_target_": "conftest.tiny_images"})
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
        assert len({plan.group_key(spec) for spec in specs}) == 1
        rows = {spec.number: row for row, spec in enumerate(specs)}
        loads = mock.patch.object(plan, "load_data", lambda spec: data)
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


@pytest.fixture(scope="session")
def data() -> Dataset:
    return tiny_images()


@pytest.fixture
def trainer(tmp_path: Path) -> Any:
    threads = torch.get_num_threads()
    yield Trainer(tmp_path)
    torch.set_num_threads(threads)
