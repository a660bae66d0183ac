"""What all tests share: how torch and Hydra are set up, and fixtures; all else is in helpers."""

from __future__ import annotations

import collections
import functools
import gc
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

# Two test processes share the cores, where threads that spin at each barrier would take them from
# one another. torch reads it when it is imported, in this process and all that it starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Where hypothesis keeps what it found out of Python: not in the repository.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", f"{tempfile.gettempdir()}/lrlab-hypothesis")

import hydra
import pytest
import torch
from helpers import tiers
from helpers.training import Trainer, tiny_images
from omegaconf import OmegaConf, base

from lrlab.config import data_paths
from lrlab.config import schema as configs
from lrlab.data import Dataset
from lrlab.engine import devices

# MKL reads its variable at the first product, so it is set before any test runs.
devices.make_deterministic()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """``-m unit`` and ``-m full`` import no module that has no such test."""
    only = config.option.markexpr
    if only not in ("unit", "full") or not collection_path.name.startswith("test_"):
        return None
    return f"mark.{only}" not in collection_path.read_text("utf-8") or None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each test gets its tier; without ``-m`` the full one is left out.

    Files with few tests come first in each process's share, for those are the long ones: none of
    them ends alone. Of n processes xdist gives the first the first n-th part of all tests, and so
    on. Within a file the order stays, for tests share what they trained.
    """
    tiers.assign(items)
    if not config.option.markexpr:
        left = {item for item in items if tiers.is_left_out(item, config.args)}
        config.hook.pytest_deselected(items=list(left))
        items[:] = [item for item in items if item not in left]
    shares = [0] * int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if len(shares) == 1:
        return
    count = collections.Counter(item.path for item in items)
    place: dict[Path, tuple[int, int]] = {}
    for number, path in enumerate(sorted(count, key=lambda path: (count[path], path))):
        share = shares.index(min(shares))
        shares[share] += count[path]
        place[path] = share, number
    items.sort(key=lambda item: place[item.path])


def pytest_collection_finish() -> None:
    """What is imported stays: pools of runs search for garbage, and need not search among it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def read_once() -> Iterator[None]:
    """In this process a YAML file of lrlab's and Hydra's own is parsed once, as is a reference.

    A command reads twenty of them. Processes that tests start do it as a user's do.
    """
    load = OmegaConf.load
    folders = (configs.folder("conf"), Path(hydra.__file__).parent / "conf")
    kept: dict[str, bytes] = {}

    def load_once(file: Any) -> Any:
        name = str(getattr(file, "name", file))
        if not Path(name).is_relative_to(folders[0]) and not Path(name).is_relative_to(folders[1]):
            return load(file)
        if name not in kept:
            kept[name] = pickle.dumps(load(file))
        return pickle.loads(kept[name])  # much faster than a deep copy

    with (
        mock.patch.object(OmegaConf, "load", load_once),
        mock.patch.object(base, "parse", functools.lru_cache(maxsize=4096)(base.parse)),
    ):
        yield


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Processes of lrlab that start at once, ``warm.Server``."""
    from helpers.warm import Server

    started = Server(tmp_path_factory.mktemp("warm"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def whole(server: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """A sweep of ``interrupted.MEASURED`` that nothing interrupted, and what it came to."""
    from helpers.interrupted import MEASURED, found, go_on

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
def promise(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test of the unit tier fails where it starts a process or a sweep."""
    with tiers.kept_promise() if tiers.tier(request.node) == "unit" else nullcontext():
        yield


@pytest.fixture(autouse=True)
def nowhere_else() -> Iterator[None]:
    """Where a resume or a reproduction in this process looked for files ends with its test."""
    yield
    os.environ.pop(data_paths.VARIABLE, None)


@pytest.fixture(scope="session")
def data() -> Dataset:
    return tiny_images()


@pytest.fixture
def trainer(tmp_path: Path) -> Any:
    threads = torch.get_num_threads()
    yield Trainer(tmp_path)
    torch.set_num_threads(threads)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    """Opens queues on a journal, ``studies.Opener``."""
    from helpers.studies import Opener

    opener = Opener(tmp_path)
    yield opener
    for queue in list(opener.opened):
        opener.close(queue)


@pytest.fixture(scope="session")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that somebody sent, of two runs, which has a best one."""
    from helpers.commands import command
    from helpers.sent import LITTLE

    from lrlab.sweep import main

    home = tmp_path_factory.mktemp("sender")
    longer = ["epochs=40" if word.startswith("epochs=") else word for word in LITTLE]
    ended = command(main, [*longer, "lr=0.1,0.2", "name=s"], home)
    assert (ended.code, ended.err) == (0, "")
    return home / "outputs" / "s"


@pytest.fixture
def here(tmp_path: Path, sent: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The receiver's folder, in which the sent sweep lies as s, and a module evil can be found."""
    from helpers.sent import EVIL

    shutil.copytree(sent, tmp_path / "s")
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def filled_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that one first use has filled."""
    from lrlab.data import torchvision_images

    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LRLAB_CACHE", str(folder))
        torchvision_images()
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder that does not exist yet."""
    from lrlab.data import cache as cache_of_data

    folder = tmp_path / "cache"
    monkeypatch.setenv("LRLAB_CACHE", str(folder))
    cache_of_data._warn_once.cache_clear()
    return folder


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run ``lrlab.analysis`` here; returns its exit code, stdout and stderr."""
    from lrlab import analysis

    def run(*arguments: Any) -> tuple[int, str, str]:
        code = 0
        try:
            analysis.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        out, err = capsys.readouterr()
        return code, out, err

    return run
