"""data.root and downloads: files in torchvision's layout, whole, damaged, or not there."""

import gzip
import hashlib
import os
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.mnist_files import error_of, idx, same_tensors, write_folder

from lrlab.data import torchvision_images
from lrlab.data.mnist_like import FILE_NAMES

pytestmark = pytest.mark.unit


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
