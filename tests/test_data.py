"""The oracle for contents is gzip and numpy, for normalisation torchvision's own transforms."""

import gzip
import hashlib
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.mnist_files import TENSORS, error_of, idx, write_folder
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lrlab import data
from lrlab.data import cache as cache_of_data
from lrlab.data import mnist_like, torchvision_images
from lrlab.data.cache import cache_folder
from lrlab.data.mnist_like import FILE_NAMES, SHIPPED_FOLDER, SHIPPED_SHA256

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).parent.parent


def shipped(name: str) -> np.ndarray:
    contents = gzip.decompress((SHIPPED_FOLDER / f"{name}.gz").read_bytes())
    if "images" in name:
        return np.frombuffer(contents, np.uint8, offset=16).reshape(-1, 28, 28)
    return np.frombuffer(contents, np.uint8, offset=8)


# --- The shipped MNIST --------------------------------------------------------------------------


def test_shipped_files_have_the_published_contents():
    for name, sha256 in SHIPPED_SHA256.items():
        contents = gzip.decompress((SHIPPED_FOLDER / f"{name}.gz").read_bytes())
        assert hashlib.sha256(contents).hexdigest() == sha256
    notice = (SHIPPED_FOLDER / "README.md").read_text(encoding="utf-8")
    assert "CC BY-SA 3.0" in notice
    for author in ("LeCun", "Cortes", "Burges"):
        assert author in notice


@pytest.mark.default
def test_every_tensor_agrees_with_numpy_and_torchvision(filled_cache, monkeypatch):
    from torchvision.transforms import Compose, Normalize, ToTensor

    monkeypatch.setenv("LRLAB_CACHE", str(filled_cache))
    dataset = torchvision_images(split_seed=3)
    shuffled = torch.randperm(60000, generator=torch.Generator().manual_seed(3)).numpy()
    images, labels = shipped("train-images-idx3-ubyte"), shipped("train-labels-idx1-ubyte")
    expected = {
        "train": (images[shuffled[5000:]], labels[shuffled[5000:]]),
        "val": (images[shuffled[:5000]], labels[shuffled[:5000]]),
        "test": (shipped("t10k-images-idx3-ubyte"), shipped("t10k-labels-idx1-ubyte")),
    }
    transform = Compose([ToTensor(), Normalize((0.1307,), (0.3081,))])
    for part, (part_images, part_labels) in expected.items():
        x, y = getattr(dataset, f"{part}_x"), getattr(dataset, f"{part}_y")
        assert x.shape == (len(part_images), 1, 28, 28)
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        # Undone and rounded, the pixels must be the file's; in float32 so that little is copied.
        pixels = x[:, 0].mul(0.3081).add_(0.1307).mul_(255).round_().to(torch.uint8).numpy()
        assert np.array_equal(pixels, part_images)
        assert np.array_equal(y.numpy(), part_labels)
        for at in (0, 1, len(part_images) - 1):
            assert torch.equal(x[at], transform(part_images[at].copy()))
    assert (dataset.name, dataset.num_classes) == ("MNIST", 10)
    assert dataset.train_x.is_contiguous()


@pytest.mark.full
def test_mnist_needs_no_torchvision(filled_cache, tmp_path):
    program = (
        "import sys; from lrlab.data import torchvision_images\n"
        "print(torchvision_images(train_size=7).sha256, 'torchvision' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=os.environ | {"LRLAB_CACHE": str(tmp_path), "PYTHONPATH": str(REPOSITORY)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LRLAB_CACHE", str(filled_cache))
        assert answer.stdout.split() == [torchvision_images(train_size=7).sha256, "False"]
    assert answer.stderr == ""


def test_first_use_fills_the_cache_with_checked_files_only(filled_cache):
    raw = filled_cache / "MNIST" / "raw"
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in raw.iterdir()}
    assert found == SHIPPED_SHA256


def test_the_unpacked_cache_is_itself_a_valid_root(filled_cache, cache, monkeypatch):
    own = torchvision_images(root=str(filled_cache))
    monkeypatch.setenv("LRLAB_CACHE", str(filled_cache))
    assert own.sha256 == torchvision_images().sha256


def first_use(ready, go, answers) -> None:
    ready.release()
    go.wait()
    try:
        answers.put(torchvision_images(train_size=10).sha256)
    except BaseException as error:
        answers.put(repr(error))


@pytest.mark.full
def test_processes_may_race_for_the_cache(cache, filled_cache):
    # A fork server that has imported lrlab.data: no process gets ahead by importing sooner.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lrlab.data"])
    ready, go, answers = context.Semaphore(0), context.Event(), context.Queue()
    processes = [context.Process(target=first_use, args=(ready, go, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    for _ in processes:
        assert ready.acquire(timeout=60)
    go.set()
    found = {answers.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LRLAB_CACHE", str(filled_cache))
        assert found == {torchvision_images(train_size=10).sha256}
    # Nothing half-written stays behind.
    assert {path.name for path in (cache / "MNIST" / "raw").iterdir()} == set(FILE_NAMES)


def test_a_damaged_shipped_file_is_named(cache, tmp_path, monkeypatch):
    copy = tmp_path / "mnist"
    shutil.copytree(SHIPPED_FOLDER, copy)
    monkeypatch.setattr(mnist_like, "SHIPPED_FOLDER", copy)
    victim = copy / "t10k-labels-idx1-ubyte.gz"
    whole = victim.read_bytes()
    other = gzip.compress(idx(np.zeros(10000, np.uint8)))
    for damaged in (whole[:-100], b"nothing like gzip", other):
        victim.write_bytes(damaged)
        assert str(victim) in error_of()
    victim.unlink()
    assert str(victim) in error_of()


def test_a_damaged_unpacked_file_is_unpacked_again(cache):
    raw = cache / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, contents in (("t10k-labels-idx1-ubyte", b"junk"), ("t10k-images-idx3-ubyte", b"")):
        (raw / name).write_bytes(contents)
    mnist_like.unpack_shipped(raw)
    for name, sha256 in SHIPPED_SHA256.items():
        assert hashlib.sha256((raw / name).read_bytes()).hexdigest() == sha256


def test_an_unwritable_cache_does_not_stop_the_job(filled_cache, tmp_path, monkeypatch, caplog):
    # Root may write anywhere, but nobody can make a folder below a file.
    (tmp_path / "file").write_text("")
    cache_of_data._warn_once.cache_clear()
    monkeypatch.setenv("LRLAB_CACHE", str(tmp_path / "file" / "cache"))
    dataset = torchvision_images(train_size=10)
    assert caplog.text.count("LRLAB_CACHE") == 1
    monkeypatch.setenv("LRLAB_CACHE", str(filled_cache))
    assert dataset.sha256 == torchvision_images(train_size=10).sha256


def test_a_missing_home_does_not_stop_the_job(tmp_path, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("LRLAB_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert cache_folder() is None
    write_folder(tmp_path)
    assert len(torchvision_images(root=str(tmp_path), val_size=10).train_x) == 30
    with cache_of_data.filled_folder("MNIST", lambda folder: None) as folder:
        assert folder.is_dir()
    assert not folder.exists()


def test_the_platforms_cache_folder(monkeypatch, tmp_path):
    for variable in ("LRLAB_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for platform, expected in (
        ("linux", tmp_path / ".cache" / "lrlab"),
        ("darwin", tmp_path / "Library" / "Caches" / "lrlab"),
        ("win32", tmp_path / "AppData" / "Local" / "lrlab"),
    ):
        monkeypatch.setattr(sys, "platform", platform)
        assert cache_folder() == expected
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "lrlab"
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "lrlab"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "lrlab"
    monkeypatch.setenv("LRLAB_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


# --- The split ----------------------------------------------------------------------------------


def test_the_split_is_seeded_disjoint_and_complete(cache, tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    write_folder(tmp_path)
    # Each training image carries its own number as all its pixels.
    numbered = np.repeat(np.arange(40, dtype=np.uint8), 28 * 28).reshape(40, 28, 28)
    (folder / FILE_NAMES[0]).write_bytes(idx(numbered))

    def numbers(x: torch.Tensor) -> list[int]:
        return x[:, 0, 0, 0].mul(255).round().int().tolist()

    def load(**arguments) -> data.Dataset:
        return torchvision_images(root=str(tmp_path), mean=0.0, std=1.0, **arguments)

    one = load(val_size=10)
    assert sorted(numbers(one.train_x) + numbers(one.val_x)) == list(range(40))
    assert numbers(one.val_x) == numbers(load(val_size=10, train_size=5).val_x)
    assert numbers(load(val_size=10, train_size=5).train_x) == numbers(one.train_x)[:5]
    assert numbers(one.train_x)[:5] != sorted(numbers(one.train_x)[:5])
    assert numbers(load(val_size=10, split_seed=1).val_x) != numbers(one.val_x)
    assert len(load(val_size=0).train_x) == 40 and load(val_size=0).val_x.shape == (0, 1, 28, 28)
    assert len(load(val_size=39).train_x) == 1
    assert len(load(val_size=10, train_size=30).train_x) == 30


def test_the_global_generator_is_left_alone(cache, tmp_path):
    write_folder(tmp_path)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    torchvision_images(root=str(tmp_path), val_size=10)
    assert torch.equal(torch.get_rng_state(), before)


def test_sha256_covers_contents_split_and_normalisation(cache, tmp_path):
    write_folder(tmp_path / "one")
    write_folder(tmp_path / "copy", packed=True)
    write_folder(tmp_path / "other", seed=1)
    one: dict[str, Any] = {"root": str(tmp_path / "one"), "val_size": 10}
    variants: list[dict[str, Any]] = [
        one,
        one | {"root": str(tmp_path / "other")},
        one | {"val_size": 11},
        one | {"train_size": 20},
        one | {"split_seed": 1},
        one | {"mean": 0.5},
        one | {"std": 0.5},
    ]
    hashes = [torchvision_images(**variant).sha256 for variant in variants]
    assert len(set(hashes)) == len(variants)
    assert torchvision_images(**{**one, "root": str(tmp_path / "copy")}).sha256 == hashes[0]
    assert torchvision_images(**{**one, "train_size": 30}).sha256 == hashes[0]


def test_to_moves_every_tensor_and_keeps_the_rest(cache, tmp_path):
    write_folder(tmp_path)
    dataset = torchvision_images(root=str(tmp_path), val_size=10)
    moved = dataset.to("meta")
    assert all(getattr(moved, name).device.type == "meta" for name in TENSORS)
    assert (moved.name, moved.num_classes, moved.sha256) == ("MNIST", 10, dataset.sha256)
    assert dataset.to("cpu").train_x.data_ptr() == dataset.train_x.data_ptr()


# --- Values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        ({"val_size": -1}, "data.val_size=-1: must be"),
        ({"val_size": 40}, "data.val_size=40: must be below the 40 training images"),
        ({"val_size": 5000}, "data.val_size=5000: must be below the 40 training images"),
        ({"val_size": 2.5}, "data.val_size=2.5: must be a whole number"),
        ({"val_size": True}, "data.val_size=True: must be a whole number"),
        ({"train_size": 0}, "data.train_size=0: must be a whole number of at least 1"),
        ({"train_size": 31}, "data.train_size=31: only 30 training images are left"),
        ({"train_size": "many"}, "data.train_size=many: must be"),
        ({"split_seed": -1}, "data.split_seed=-1: must be"),
        ({"split_seed": 2**63}, "data.split_seed=9223372036854775808: must be"),
        ({"split_seed": None}, "data.split_seed=None: must be"),
        ({"mean": float("nan")}, "data.mean=nan: must be a number"),
        ({"mean": "0.1 3"}, "data.mean=0.1 3: must be a number"),
        ({"std": 0}, "data.std=0: must be a number above 0"),
        ({"std": -0.5}, "data.std=-0.5: must be a number above 0"),
        ({"std": 1e-60}, "data.std=1e-60: with data.mean=0.1307 the images overflow"),
        ({"dataset": "CIFAR10"}, "data.dataset=CIFAR10: must be one of MNIST, FashionMNIST"),
    ],
)
def test_values_out_of_range(arguments, start, cache, tmp_path):
    write_folder(tmp_path)
    assert error_of(**{"root": str(tmp_path), "val_size": 10} | arguments).startswith(start)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_configs_instantiate_and_comment_every_key(name, cache, tmp_path):
    path = REPOSITORY / "conf" / "data" / f"{name}.yaml"
    config = OmegaConf.load(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert all("# " in line for line in lines)
    write_folder(tmp_path, config.dataset)
    config.root, config.val_size = str(tmp_path), 10
    dataset = instantiate(config)
    assert isinstance(dataset, data.Dataset)
    assert (dataset.name, len(dataset.train_x)) == (config.dataset, 30)


def test_mnists_mean_and_std_are_those_of_its_training_pixels():
    config = OmegaConf.load(REPOSITORY / "conf" / "data" / "mnist.yaml")
    counts = np.bincount(shipped("train-images-idx3-ubyte").ravel(), minlength=256)
    levels = np.arange(256) / 255
    mean = np.average(levels, weights=counts)
    std = np.sqrt(np.average((levels - mean) ** 2, weights=counts))
    assert (config.mean, config.std) == (round(mean, 4), round(std, 4))
