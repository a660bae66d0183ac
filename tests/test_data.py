"""The oracle for contents is gzip and numpy, for normalisation torchvision's own transforms."""

import gzip
import hashlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lrlab import data
from lrlab.data import cache as cache_of_data
from lrlab.data import mnist_like, torchvision_images
from lrlab.data.cache import cache_folder
from lrlab.data.mnist_like import FILE_NAMES, SHIPPED_FOLDER, SHIPPED_SHA256
from lrlab.errors import UserError

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).parent.parent
TENSORS = ("train_x", "train_y", "val_x", "val_y", "test_x", "test_y")


@pytest.fixture(scope="module")
def filled_cache(tmp_path_factory) -> Path:
    """A cache folder that one first use has filled."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LRLAB_CACHE", str(folder))
        torchvision_images()
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder that does not exist yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LRLAB_CACHE", str(folder))
    cache_of_data._warn_once.cache_clear()
    return folder


def shipped(name: str) -> np.ndarray:
    contents = gzip.decompress((SHIPPED_FOLDER / f"{name}.gz").read_bytes())
    if "images" in name:
        return np.frombuffer(contents, np.uint8, offset=16).reshape(-1, 28, 28)
    return np.frombuffer(contents, np.uint8, offset=8)


def idx(values: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()


def write_folder(root: Path, name="MNIST", packed=False, train=40, test=12, seed=0) -> Path:
    """A tiny data set in torchvision's layout; returns the folder of the four files."""
    random = np.random.default_rng(seed)
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for file_name, shape in zip(
        FILE_NAMES, [(train, 28, 28), (train,), (test, 28, 28), (test,)], strict=True
    ):
        high = 256 if "images" in file_name else 10
        contents = idx(random.integers(0, high, shape, dtype=np.uint8))
        if packed:
            (folder / f"{file_name}.gz").write_bytes(gzip.compress(contents))
        else:
            (folder / file_name).write_bytes(contents)
    return folder


def error_of(**arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        torchvision_images(**arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def same_tensors(one: data.Dataset, other: data.Dataset) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in TENSORS)


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


# --- data.root ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST"])
def test_a_root_may_be_packed_or_not_and_is_never_written_to(name, cache, tmp_path):
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    write_folder(plain, name)
    folder = write_folder(packed, name, packed=True)
    before = sorted(folder.iterdir())
    one = torchvision_images(name, root=str(plain), val_size=10)
    other = torchvision_images(name, root=str(packed), val_size=10)
    assert same_tensors(one, other)
    assert sorted(packed.rglob("*.gz")) == before == sorted(folder.iterdir())
    assert one.name == name


def test_changed_files_are_noticed_though_size_and_time_are_the_same(cache, tmp_path):
    folder = write_folder(tmp_path)
    labels = folder / "t10k-labels-idx1-ubyte"
    before = torchvision_images(root=str(tmp_path), val_size=10)
    times = labels.stat()
    labels.write_bytes(idx((before.test_y.numpy().astype(np.uint8) + 1) % 10))
    os.utime(labels, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = torchvision_images(root=str(tmp_path), val_size=10)
    assert torch.equal(after.test_y, (before.test_y + 1) % 10)


def test_files_left_by_an_old_torchvision_do_not_shadow_the_raw_ones(cache, tmp_path):
    write_folder(tmp_path)
    processed = tmp_path / "MNIST" / "processed"
    processed.mkdir()
    stale = (torch.zeros(40, 28, 28, dtype=torch.uint8), torch.zeros(40, dtype=torch.int64))
    for name in ("training.pt", "test.pt"):
        torch.save(stale, processed / name)
    dataset = torchvision_images(root=str(tmp_path), val_size=10)
    assert len(dataset.test_x) == 12 and dataset.test_y.any()


def test_a_root_without_the_files_says_what_is_expected(cache, tmp_path):
    message = error_of(root=str(tmp_path / "nowhere"))
    assert message.startswith(f"data.root={tmp_path / 'nowhere'}: no such folder; ")
    assert str(tmp_path / "nowhere" / "MNIST" / "raw") in message
    assert all(name in message for name in FILE_NAMES)

    (tmp_path / "file").write_text("")
    assert "is a file" in error_of(root=str(tmp_path / "file"))
    assert "no " + str(tmp_path / "MNIST" / "raw") in error_of(root=str(tmp_path))

    folder = write_folder(tmp_path)
    for too_deep in (folder, folder.parent):
        assert f"data.root={tmp_path}" in error_of(root=str(too_deep)).split("; ")[1]
    (folder / "t10k-labels-idx1-ubyte").unlink()
    assert "incomplete, no t10k-labels-idx1-ubyte;" in error_of(root=str(tmp_path))
    assert not (folder / "t10k-labels-idx1-ubyte").exists()


@pytest.mark.parametrize("name", FILE_NAMES)
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_file_is_named(name, packed, cache, tmp_path):
    folder = write_folder(tmp_path, packed=packed)
    path = folder / (f"{name}.gz" if packed else name)
    whole = path.read_bytes()
    damaged = [whole[:-3], whole[: len(whole) // 2], whole[:5], b"", b"<html>not found</html>"]
    if packed:
        damaged.append(gzip.compress(gzip.decompress(whole)[:-3]))
        damaged.append(whole[:-6] + bytes([whole[-6] ^ 0xFF]) + whole[-5:])
    else:
        damaged.append(whole + b"\0")
    for contents in damaged:
        path.write_bytes(contents)
        message = error_of(root=str(tmp_path), val_size=10)
        assert message.startswith(f"data.root={tmp_path}: {path} is corrupt or truncated (")
    path.write_bytes(whole)
    torchvision_images(root=str(tmp_path), val_size=10)


def test_files_that_do_not_belong_together_are_named(cache, tmp_path):
    folder = write_folder(tmp_path)
    images, labels = folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte"
    whole = labels.read_bytes()
    labels.write_bytes(idx(np.zeros(39, np.uint8)))
    message = error_of(root=str(tmp_path), val_size=10)
    assert f"{images} holds 40 images, but {labels} holds 39 labels" in message
    labels.write_bytes(idx(np.full(40, 10, np.uint8)))
    assert f"{labels} holds the label 10;" in error_of(root=str(tmp_path), val_size=10)
    labels.write_bytes(whole)
    images.write_bytes(idx(np.zeros((40, 14, 28), np.uint8)))
    assert "14 x 28" in error_of(root=str(tmp_path), val_size=10)
    images.write_bytes(idx(np.zeros((0, 28, 28), np.uint8)))
    assert f"{images} is corrupt" in error_of(root=str(tmp_path), val_size=10)


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


# --- Downloads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["FashionMNIST", "KMNIST"])
def test_without_a_network_one_line_says_where_to_put_which_files(
    name, cache, tmp_path, monkeypatch, capfd
):
    def unreachable(*args, **kwargs):
        raise urllib.error.URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    message = error_of(dataset=name)
    folder = cache / name / "raw"
    assert message.startswith(f"data.dataset={name}: the download failed (")
    assert "Name or service not known" in message
    assert f"FOLDER/{name}/raw and say data.root=FOLDER" in message
    assert all(file_name in message for file_name in FILE_NAMES)
    assert list(folder.iterdir()) == []
    assert capfd.readouterr() == ("", "")

    # Doing what it says mends it, and so does putting them into the cache.
    write_folder(tmp_path / "mine", name)
    assert len(torchvision_images(name, root=str(tmp_path / "mine"), val_size=10).test_x) == 12
    folder.rmdir()
    write_folder(cache, name, packed=True)
    assert torchvision_images(name, val_size=10).test_x.shape == (12, 1, 28, 28)


def test_a_download_goes_through_torchvision_and_is_used_again(cache, tmp_path, monkeypatch, capfd):
    import torchvision.datasets

    files = write_folder(tmp_path, "KMNIST", packed=True)
    urls = []

    def fetch(url, filename, **kwargs):
        urls.append(url)
        print("progress")
        print("progress", file=sys.stderr)
        shutil.copy(files / url.rsplit("/", 1)[1], filename)

    resources = [
        (f"{name}.gz", hashlib.md5((files / f"{name}.gz").read_bytes()).hexdigest())
        for name in FILE_NAMES
    ]
    monkeypatch.setattr(torchvision.datasets.KMNIST, "resources", resources)
    monkeypatch.setattr(torchvision.datasets.utils, "_urlretrieve", fetch)
    monkeypatch.setattr(
        torchvision.datasets.utils, "_get_redirect_url", lambda url, max_hops=3: url
    )
    first = torchvision_images("KMNIST", val_size=10)
    assert len(urls) == 4
    assert {path.name for path in (cache / "KMNIST" / "raw").iterdir()} == set(FILE_NAMES)
    assert same_tensors(first, torchvision_images("KMNIST", val_size=10))
    assert len(urls) == 4
    assert same_tensors(first, torchvision_images("KMNIST", root=str(tmp_path), val_size=10))
    assert capfd.readouterr() == ("", "")

    # A cache that cannot be written does not stop it, nor does it stay for the next use.
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LRLAB_CACHE", str(tmp_path / "file" / "cache"))
    assert same_tensors(first, torchvision_images("KMNIST", val_size=10))
    assert len(urls) == 8


def test_a_corrupt_download_is_refused(cache, tmp_path, monkeypatch):
    import torchvision.datasets

    monkeypatch.setattr(
        torchvision.datasets.utils,
        "_urlretrieve",
        lambda url, filename, **kwargs: Path(filename).write_bytes(b"<html>log in</html>"),
    )
    monkeypatch.setattr(
        torchvision.datasets.utils, "_get_redirect_url", lambda url, max_hops=3: url
    )
    assert "the download failed (" in error_of(dataset="KMNIST")
    assert list((cache / "KMNIST" / "raw").iterdir()) == []


def test_a_torchvision_that_does_not_fit_is_named(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    message = error_of(dataset="KMNIST")
    assert message.startswith("data: torchvision cannot be imported (")
    assert torch.__version__ in message
