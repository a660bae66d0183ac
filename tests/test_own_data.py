"""Data of the user's own, against pandas, NumPy and ordinary torch loops; and regression."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.commands import command, error, forget, summaries, without_notices
from helpers.images import picture
from helpers.training import Trainer, assert_same_bits, make_specs
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from lrlab import own_data
from lrlab.config import schema
from lrlab.data import Dataset, own_parts, own_split
from lrlab.errors import UserError
from lrlab.plan import build, checks
from lrlab.plan.spec import RunSpec
from lrlab.reproduce import main as reproduce
from lrlab.resume import main as resume
from lrlab.sweep import main as sweep
from lrlab.tables.frames import runs as runs_of
from lrlab.verdicts.printed import sweep_table

pytestmark = pytest.mark.unit

QUICK = ("threads=1", "plots=false", "diagnostics=off", "device=cpu")


def line(**arguments: Any) -> str:
    """The numbers of a plane with noise, as a file's parts."""
    draw = np.random.default_rng(3)
    x = draw.normal(size=(160, 3))
    y = x @ np.array([[1.0, 0.5], [-2.0, 0.0], [0.5, 3.0]]) + 0.1 * draw.normal(size=(160, 2))
    path = str(arguments.pop("path"))
    np.savez(path, x=x, y=y, **arguments)
    return path


# --- arrays and the split -------------------------------------------------------------------------


def test_npz_and_pt_hold_the_same_data_and_the_split_is_whole(tmp_path: Path) -> None:
    x, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 3
    np.savez(tmp_path / "a.npz", x=x, y=y)
    torch.save({"x": torch.tensor(x), "y": torch.tensor(y)}, tmp_path / "a.pt")
    one = own_data.arrays(str(tmp_path / "a.npz"))
    other = own_data.arrays(str(tmp_path / "a.pt"))
    assert one.sha256 == other.sha256 and one.num_classes == one.outputs == 3
    assert (len(one.train_x), len(one.val_x), len(one.test_x)) == (18, 2, 0)
    rows = torch.cat([one.train_x, one.val_x]).tolist()
    assert sorted(rows) == x.tolist() and rows != x.tolist()
    labels = torch.cat([one.train_y, one.val_y]).tolist()
    assert all(label == y[int(row[0]) // 2] for row, label in zip(rows, labels, strict=True))
    fewer = own_data.arrays(str(tmp_path / "a.npz"), train_size=5)
    assert torch.equal(fewer.train_x, one.train_x[:5]) and torch.equal(fewer.val_x, one.val_x)
    assert own_data.arrays(str(tmp_path / "a.npz"), split_seed=1).sha256 != one.sha256
    assert len(own_data.arrays(str(tmp_path / "a.npz"), val_size=7).val_x) == 7


COUNTS = {0: 70, 1: 25, 2: 10, 4: 1}  # of class 3 there is none


@pytest.mark.parametrize("val_size", [0.1, 0.25, 0.5, 10, 37, 100, 105])
def test_of_each_class_its_share_is_held_out(val_size: float) -> None:
    y = np.repeat(list(COUNTS), list(COUNTS.values()))
    y = np.random.default_rng(0).permutation(y)
    x = np.arange(106.0)[:, None]
    split = {"val_size": val_size, "split_seed": 3}
    old = own_data.make((x, y), "a", "data.path=a", **split)
    data = own_data.make((x, y), "a", "data.path=a", stratify=True, **split)
    again = own_data.make((x, y), "a", "data.path=a", stratify=True, **split)
    other = own_data.make(
        (x, y), "a", "data.path=a", **(split | {"split_seed": 4, "stratify": True})
    )
    assert data.sha256 == again.sha256 != other.sha256
    assert (len(data.val_y), len(data.train_y)) == (len(old.val_y), len(old.train_y))
    both = torch.cat([data.train_x, data.val_x]).flatten().long()
    assert sorted(both.tolist()) == list(range(106))
    assert torch.equal(torch.cat([data.train_y, data.val_y]), torch.from_numpy(y)[both])
    counts = np.bincount(data.val_y, minlength=5)
    for label, count in COUNTS.items():
        if len(data.val_y) <= 102:  # so many can be held out while one of each class stays
            assert abs(counts[label] - count * len(data.val_y) / 106) < 1.5
            assert counts[label] < count


def test_classes_of_one_sample_each_are_held_out_at_random() -> None:
    x, y = np.zeros((200, 1)), np.arange(200)
    data = own_data.make((x, y), "a", "data.path=a", stratify=True, val_size=40)
    assert len(data.val_y) == 40 and 60 < data.val_y.double().mean() < 140


def test_a_regression_is_not_stratified() -> None:
    x, y = np.arange(40.0), np.arange(40.0)
    one = own_data.make((x, y), "a", "data.path=a", stratify=True)
    assert one.sha256 == own_data.make((x, y), "a", "data.path=a").sha256


def test_parts_of_the_users_own_are_kept_as_they_are() -> None:
    x = {"x": np.arange(6.0), "val_x": np.arange(2.0), "test_x": np.arange(3.0)}
    y = {"y": np.arange(6) % 2, "val_y": np.array([0, 1]), "test_y": np.array([0, 3, 1])}
    found = own_data.make(x | y, "mine", "data", standardise=True)
    mean, std = np.mean(x["x"]), np.std(x["x"])
    for name in ("train", "val", "test"):
        given = x["x" if name == "train" else f"{name}_x"]
        assert getattr(found, f"{name}_x").shape == (len(given), 1)
        assert np.allclose(getattr(found, f"{name}_x")[:, 0], (given - mean) / std)
    assert found.num_classes == 4 and found.test_y.tolist() == [0, 3, 1]


def test_bytes_become_shares_and_channels_are_standardised(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (30, 3, 4, 5), dtype=np.uint8)
    x[:, 2] = 9  # a constant channel
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(30) % 2)
    plain = own_data.arrays(str(tmp_path / "a.npz"))
    whole = torch.cat([plain.train_x, plain.val_x])
    assert sorted(whole.unique().mul(255).round().int().tolist()) == np.unique(x).tolist()
    scaled = own_data.arrays(str(tmp_path / "a.npz"), standardise=True)
    train = plain.train_x.double().numpy()
    mean, std = train.mean((0, 2, 3), keepdims=True), train.std((0, 2, 3), keepdims=True)
    std[0, 2] = 1
    assert np.allclose(scaled.train_x, (train - mean) / std, atol=1e-5)
    assert np.allclose(scaled.val_x, (plain.val_x.numpy() - mean) / std, atol=1e-5)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (3, "must be a pair (x, y) or a dict"),
        ({"x": torch.ones(3, 2)}, "must be a pair (x, y) or a dict"),
        (
            {"x": torch.ones(3), "y": torch.ones(3), "valx": 1},
            "has a part valx (did you mean val_x",
        ),
        (
            ([torch.ones(3), torch.ones(3)], torch.ones(3)),
            "x is a list; a network takes one tensor",
        ),
        ((torch.ones(3, 2), torch.ones(2)), "x has shape (3, 2), y (2,)"),
        ((torch.ones(0, 2), torch.ones(0)), "holds no samples"),
        ((torch.ones(1, 2), torch.ones(1)), "holds one sample; give two or more"),
        ((torch.ones(4, 2), torch.tensor([0, 1, -1, 2])), "y holds the class -1; classes count"),
        ((torch.ones(4, 2), torch.zeros(4, 2).long()), "y has shape (4, 2); classes must be"),
        ((torch.ones(4, 2), torch.zeros(4, 2, 2)), "y has shape (4, 2, 2); floating-point targets"),
        ((torch.ones(4, 2), torch.zeros(4).long()), "all samples are of one class"),
        ((np.array(["a", "b"]), np.array([0, 1])), "x must be a tensor or an array of real"),
        ((torch.tensor([1.0, math.nan, 2]), torch.tensor([0, 1, 0])), "no finite float32"),
        ((torch.tensor([1.0, 1e300, 2]).double() * 1e9, torch.ones(3)), "no finite float32"),
        ({"x": torch.ones(3), "y": torch.ones(3), "test_x": torch.ones(3)}, "test_x but no test_y"),
        (
            {
                "x": torch.ones(3, 2),
                "y": torch.ones(3),
                "val_x": torch.ones(3),
                "val_y": np.ones(3),
            },
            "a sample of x is (2,) torch.float32, of val_x (1,) torch.float32",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_refused(made: Any, says: str) -> None:
    message = error(own_data.make, made, "mine", "data.path=a.npz")
    assert message.startswith("data.path=a.npz: ") and says in message


@pytest.mark.parametrize(
    "setting",
    [
        *({"val_size": bad} for bad in (0, 20, 1.0, -0.1, True, "some")),
        *({"train_size": bad} for bad in (0, 19, 1.5)),
        *({"split_seed": bad} for bad in (-1, None, 0.5)),
        {"standardise": "yes"},
        {"valsize": 3},
    ],
)
def test_settings_that_cannot_work(setting: dict[str, Any]) -> None:
    ((key, value),) = setting.items()
    message = error(own_data.make, (torch.rand(20), torch.rand(20)), "m", "data", **setting)
    assert message.startswith(f"data.{key}={value}: ")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no such file" in error(own_data.arrays, str(tmp_path / "a.npz"))
    (tmp_path / "a.csv").write_text("")
    assert "must end in .pt" in error(own_data.arrays, str(tmp_path / "a.csv"))
    for name in ("a.npz", "a.pt"):
        (tmp_path / name).write_bytes(b"nothing of use")
        assert "cannot be read; it must hold" in error(own_data.arrays, str(tmp_path / name))
    np.savez(tmp_path / "b.npz", x=np.array([{}], dtype=object), y=np.ones(1))
    assert "cannot be read; it must hold" in error(own_data.arrays, str(tmp_path / "b.npz"))
    torch.save({"x": Path("x"), "y": torch.ones(1)}, tmp_path / "b.pt")  # needs code to be loaded
    assert "cannot be read; it must hold" in error(own_data.arrays, str(tmp_path / "b.pt"))


# --- tables ---------------------------------------------------------------------------------------


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    draw = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "when": 1.7e9 + draw.normal(size=50),  # so far from 0 that float32 cannot tell it apart
            "count": draw.integers(0, 9, 50),
            "kind": draw.choice(["owl", "ant", "cat"], 50),
            "age": draw.normal(40, 9, 50),
        }
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame[:9].to_csv(tmp_path / "test.csv", index=False)
    return frame


def test_features_are_standardised_as_pandas_does(frame: pd.DataFrame, tmp_path: Path) -> None:
    path, test_path = str(tmp_path / "t.csv"), str(tmp_path / "test.csv")
    found = own_data.table(path, "age", test_path, drop=["kind"], val_size=10)
    assert found.num_classes is None and found.outputs == 1
    places = {np.float32(age): row for row, age in enumerate(frame["age"])}
    train = frame.iloc[[places[np.float32(age)] for age in found.train_y[:, 0]]]
    assert len(train) == 40
    features = ["when", "count"]
    scaled = (frame[features] - train[features].mean()) / train[features].std(ddof=0)
    assert np.allclose(found.train_x, scaled.loc[train.index], atol=1e-5)
    assert np.allclose(found.test_x, scaled[:9], atol=1e-5)
    frame.assign(when=frame["when"] - 1.6999e9).to_csv(path, index=False)
    plain = own_data.table(path, ["age", "count"], drop=["kind"], standardise=False)
    assert plain.outputs == 2 and plain.train_x.shape == (45, 1) and plain.train_x.mean() > 9e4


def test_labels_are_numbered_in_sorted_order(frame: pd.DataFrame, tmp_path: Path) -> None:
    path = str(tmp_path / "t.csv")
    found = own_data.table(path, "kind", standardise=False, drop=["when"])
    kinds = dict(zip(frame["age"].astype("float32"), frame["kind"], strict=True))
    told = [kinds[age] for age in found.train_x[:, 1].numpy()]
    assert [["ant", "cat", "owl"][label] for label in found.train_y] == told
    assert own_data.table(path, "count", drop=["kind"]).num_classes == frame["count"].nunique()
    as_number = own_data.table(path, "count", drop=["kind"], task="regression")
    assert as_number.num_classes is None
    assert sorted(as_number.train_y[:, 0].unique().tolist()) == sorted(frame["count"].unique())


def test_tables_that_cannot_work(frame: pd.DataFrame, tmp_path: Path) -> None:
    path, other = str(tmp_path / "t.csv"), str(tmp_path / "other.csv")
    assert "label=kinds: no such column" in error(own_data.table, path, "kinds")
    assert "(did you mean kind?)" in error(own_data.table, path, "kinds")
    message = error(own_data.table, path, "age")
    assert f"column kind holds {frame['kind'][0]!r} in row 1, no number" in message
    assert "data.drop=[kind]" in error(own_data.table, path, "age")
    assert "data.task=class: no such task" in error(own_data.table, path, "kind", task="class")
    assert "must leave features" in error(
        own_data.table, path, "age", drop=["kind", "count", "when"]
    )
    frame.loc[4, "when"] = math.nan
    frame.loc[6, "kind"] = None
    frame.to_csv(other, index=False)
    assert "column when is empty in row 5" in error(own_data.table, other, "kind")
    assert "label kind is empty, in row 7" in error(own_data.table, other, "kind", drop=["when"])
    frame["kind"] = "bee"
    frame.to_csv(other, index=False)
    message = error(own_data.table, path, "kind", other, drop=["when"])
    assert message == f"data.test_path={other}: the label kind is bee, which is no class, in row 1"
    frame.drop(columns="count").to_csv(other, index=False)
    message = error(own_data.table, path, "age", other, drop=["kind"])
    assert f"data.test_path={other}: has no column count" in message


# --- images ---------------------------------------------------------------------------------------


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for number in range(12):
        name = f"{'zebra' if number % 3 else 'ant'}/{number}.png"
        picture(tmp_path / "a" / name, draw.integers(0, 256, (6, 5)) // 2 + number)
    picture(tmp_path / "t" / "zebra" / "1.bmp", np.full((6, 5), 255))
    (tmp_path / "a" / "ant" / "notes.txt").write_text("no image")
    found = own_data.image_folder(
        str(tmp_path / "a"), str(tmp_path / "t"), standardise=False, val_size=3
    )
    assert found.train_x.shape == (9, 1, 6, 5) and found.val_x.shape == (3, 1, 6, 5)
    assert torch.equal(found.test_x, torch.ones(1, 1, 6, 5)) and found.test_y.tolist() == [1]
    for image, label in zip(found.train_x, found.train_y, strict=True):
        pixels = image[0].mul(255).round().byte().numpy()
        names = [
            file.parent.name
            for file in (tmp_path / "a").rglob("*.png")
            if (np.asarray(Image.open(file)) == pixels).all()
        ]
        assert names == [["ant", "zebra"][label]]

    picture(tmp_path / "a" / "ant" / "big.png", np.full((12, 10, 3), 7))
    message = error(own_data.image_folder, str(tmp_path / "a"))
    assert "big.png is 12 x 10, but " in message
    assert "0.png 6 x 5; data.size=[6,5] would resize all" in message
    coloured = own_data.image_folder(str(tmp_path / "a"), size=[6, 5], standardise=False)
    assert coloured.train_x.shape[1:] == (3, 6, 5)
    assert any((image == 7 / 255).all() for image in torch.cat([coloured.train_x, coloured.val_x]))
    assert "data.size=6" in error(own_data.image_folder, str(tmp_path / "a"), size=6)

    (tmp_path / "a" / "ant" / "bad.png").write_bytes(b"no image")
    assert "bad.png cannot be read" in error(own_data.image_folder, str(tmp_path / "a"))
    assert "no such folder" in error(own_data.image_folder, str(tmp_path / "b"))
    assert "holds no folders of images" in error(own_data.image_folder, str(tmp_path / "a" / "ant"))
    picture(tmp_path / "t" / "bee" / "1.png", np.ones((6, 5)))
    message = error(own_data.image_folder, str(tmp_path / "a"), str(tmp_path / "t"), size=[6, 5])
    assert "has a class bee" in message or "bad.png" in message


def test_any_set_of_torchvision_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    made: list[dict[str, Any]] = []

    class Stub(datasets.VisionDataset):
        def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
            made.append({"root": root, "train": train, "download": download})
            if not download:
                raise RuntimeError("Dataset not found")
            self.train = train

        def __len__(self) -> int:
            return 8 if self.train else 3

        def __getitem__(self, index: int) -> Any:
            return Image.new("RGB", (4, 5), (index, 0, 255)), index % 2

    class Derived(Stub):
        def __init__(self, root: str, letters: str, **more: Any) -> None:
            super().__init__(root, **more)
            self.letters = letters

    class Halves(Stub):
        def __init__(self, root: str, split: str = "train") -> None:
            super().__init__(root, split == "train", True)

    for stub in (Stub, Derived, Halves):
        monkeypatch.setattr(datasets, stub.__name__, stub, raising=False)
    root = str(tmp_path)
    message = error(own_data.torchvision_set, "Stub", root)
    assert "Dataset not found" in message and "data.download=true" in message
    assert made == [{"root": root, "train": True, "download": False}]
    plain = own_data.torchvision_set("Stub", root, download=True, val_size=2, standardise=False)
    assert (len(plain.train_x), len(plain.val_x), len(plain.test_x)) == (6, 2, 3)
    assert plain.train_x.shape[1:] == (3, 5, 4) and plain.num_classes == 2
    reds = plain.test_x[:, 0, 0, 0].mul(255).round().int().tolist()
    assert reds == [0, 1, 2] and plain.test_y.tolist() == [0, 1, 0]
    derived = own_data.torchvision_set(
        "Derived", root, True, {"letters": "a"}, val_size=2, standardise=False
    )
    halves = own_data.torchvision_set("Halves", root, val_size=2, standardise=False)
    assert derived.sha256 == halves.sha256 == plain.sha256
    assert own_data.torchvision_set("Stub", root, True, size=[2, 2]).train_x.shape == (7, 3, 2, 2)
    assert "no such set (did you mean SVHN?)" in error(own_data.torchvision_set, "SVH", root)


# --- functions ------------------------------------------------------------------------------------


def make(points: int = 30, split_seed: int = 5) -> Any:
    return torch.rand(points, 2), (torch.arange(points) + split_seed) % 3


def divided() -> Dataset:
    return Dataset("d", *(torch.rand(8, 1), torch.rand(8)) * 3, num_classes=None, sha256="")


def load(tmp_path: Path, **node: Any) -> Dataset:
    (spec,) = make_specs(tmp_path, ["lr=0.1"])
    config = {**spec.config, "data": node}
    return build.load_data(RunSpec(0, tmp_path, config, spec.choices, {}, "cpu"))


def test_a_function_gets_its_own_settings_and_draws_the_same_again(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    found = load(tmp_path, _target_="test_own_data.make", points=40, split_seed=1, val_size=4)
    assert (len(found.train_x), len(found.val_x), found.name) == (36, 4, "make")
    build._load_data.cache_clear()
    again = load(tmp_path, _target_="test_own_data.make", points=40, split_seed=1, val_size=4)
    assert again is not found and again.sha256 == found.sha256
    assert torch.equal(torch.get_rng_state(), state)
    message = error(load, tmp_path, _target_="test_own_data.make", valsize=3)
    assert "data._target_=test_own_data.make: " in message and "valsize" in message
    message = error(load, tmp_path, _target_="test_own_data.divided", val_size=3)
    assert message.startswith(
        "data.val_size=3: test_own_data.divided returns data that are divided"
    )
    message = error(load, tmp_path, _target_="test_own_data.divided")
    assert "must have the shape (samples, width)" in message
    message = error(load, tmp_path, _target_="lrlab.own_data.arrays", path="???")
    assert message == "data.path: needs a value, give it as data.path=…"


@pytest.mark.parametrize("name", ["arrays", "csv", "image_folder", "torchvision", "custom"])
def test_configs_comment_every_key_and_hold_the_defaults(name: str) -> None:
    file = schema.folder("conf") / "data" / f"{name}.yaml"
    assert all("#" in row for row in file.read_text("utf-8").splitlines() if "_target_" not in row)
    config = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(config, dict)
    # records of a time when there was no stratify lack it, and mean what is without it
    plain = own_split.Split(standardise=name not in ("arrays", "custom"), stratify=True)
    wanted = dict(vars(plain))
    if name in ("image_folder", "torchvision"):  # which are classifications
        del wanted["standardise_targets"]
    assert {key: config[key] for key in own_split.SPLIT if key in config} == wanted
    assert own_split.Split().stratify is False


# --- records of a time when no held-out part was stratified ---------------------------------------


def uneven(file: Path) -> None:
    draw = np.random.default_rng(1)
    y = (draw.random(120) < 0.1).astype(np.int64)
    np.savez(file, x=draw.normal(size=(120, 3)) + 4 * y[:, None], y=y)


def lacking(file: Path) -> None:
    """Take the setting out of a record, as it was written before there was one."""
    text = file.read_text("utf-8")
    assert "  stratify: false\n" in text
    file.write_text(text.replace("  stratify: false\n", ""), "utf-8")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep whose records say nothing of stratify, and so does its study."""
    home = tmp_path_factory.mktemp("old")
    uneven(home / "uneven.npz")
    words = ["data=arrays", "data.path=uneven.npz", "network=perceptron", "batch_size=20"]
    words += ["epochs=20", "lr=0.01,0.1", "data.stratify=false", "name=old", *QUICK]
    assert command(sweep, words, home).code == 0
    for file in [home / "outputs/old/multirun.yaml", *home.glob("outputs/old/*/.hydra/*.yaml")]:
        text = file.read_text("utf-8").replace("  - data.stratify=false\n", "")
        text = text.replace("- data.stratify=false\n", "").replace(",data.stratify=false", "")
        file.write_text(text, "utf-8")
        if "  stratify: false" in text:
            lacking(file)
    for run in "01":
        forget(home / "outputs/old" / run / "summary.json", "data.stratify")
    best = home / "outputs/old/best.yaml"
    text = best.read_text("utf-8")
    assert "  stratify: false\n" in text
    best.write_text(text.replace("  stratify: false\n", ""), "utf-8")
    read_again = [*home.rglob("*.yaml"), *home.rglob("*.journal")]
    assert not any("stratify" in file.read_text("utf-8") for file in read_again)
    return home


@pytest.mark.full
def test_they_reproduce(old: Path) -> None:
    done = command(reproduce, ["outputs/old/1"], old)
    assert done.code == 0 and "bitwise" in done.out, done.out


@pytest.mark.full
def test_they_are_resumed_on_the_same_data(old: Path, tmp_path: Path) -> None:
    shutil.copytree(old, tmp_path, dirs_exist_ok=True)
    done = command(resume, ["outputs/old", "lr=0.01,0.1,1"], tmp_path)
    assert done.code == 0
    assert len({s["data_sha256"] for s in summaries(tmp_path / "outputs/old")}) == 1
    again = command(resume, ["outputs/old", "lr=0.01,0.1,1,2"], tmp_path)
    assert again.code == 0
    found = summaries(tmp_path / "outputs/old")
    assert len(found) == 4 and len({s["data_sha256"] for s in found}) == 1
    done = command(reproduce, ["outputs/old/2"], tmp_path)
    assert done.code == 0 and "bitwise" in done.out, done.out
    words = ["outputs/old", "lr=0.01,0.1,1,2,3", "data.stratify=true"]
    refused = command(resume, words, tmp_path)
    assert refused.code == 2 and "data.stratify" in refused.err


@pytest.mark.default
def test_their_best_is_trained_again_on_the_same_data(old: Path, tmp_path: Path) -> None:
    shutil.copytree(old, tmp_path, dirs_exist_ok=True)
    words = ["--config-dir", "outputs/old", "--config-name", "best", "name=again", *QUICK]
    assert command(sweep, words, tmp_path).code == 0
    both = summaries(tmp_path / "outputs/old") + summaries(tmp_path / "outputs/again")
    assert len({s["data_sha256"] for s in both}) == 1


def test_a_function_of_ones_own_is_stratified_too(tmp_path: Path) -> None:
    node = "data=custom data._target_=test_own_data.rare data.val_size=50 network=perceptron"
    (spec,) = make_specs(tmp_path, ["lr=0.1"], node)
    assert int(build.load_data(spec).val_y.sum()) == 5
    (spec,) = make_specs(tmp_path, ["lr=0.1"], f"{node} data.stratify=false")
    assert int(build.load_data(spec).val_y.sum()) != 5
    node = "data=custom data._target_=test_own_data.divided_rare network=perceptron"
    (spec,) = make_specs(tmp_path, ["lr=0.1"], node)
    assert len(build.load_data(spec).val_y) == 9


def rare() -> Any:
    y = torch.zeros(500, dtype=torch.int64)
    y[:50] = 1
    return torch.randn(500, 3), y


def divided_rare() -> Dataset:
    return own_data.make(rare(), "rare", "data", val_size=9)


# --- regression -----------------------------------------------------------------------------------


@pytest.mark.default
def test_least_squares_is_reached(trainer: Trainer, tmp_path: Path) -> None:
    path = line(path=tmp_path / "plane.npz")
    run = trainer.alone(
        "lr=0.2",
        f"data=arrays data.path={path} data.val_size=10 loss=mse network=perceptron batch_size=150 "
        "epochs=150",
    )
    data = own_data.arrays(path, val_size=10)
    x = np.column_stack([data.train_x.double(), np.ones(150)])
    best = np.linalg.lstsq(x, data.train_y.double().numpy(), rcond=None)[0]
    weight, bias = run.weights.values()
    assert np.allclose(weight, best[:3].T, atol=1e-5) and np.allclose(bias, best[3], atol=1e-5)
    optimum = np.mean((x @ best - data.train_y.double().numpy()) ** 2)
    assert math.isclose(run.summary["train_loss"], optimum, rel_tol=1e-5)
    assert run.summary["majority_share"] is run.summary["num_classes"] is None
    variance = data.train_y.double().numpy().var(axis=0).mean()
    assert math.isclose(run.summary["chance_loss"], variance, rel_tol=1e-12)
    assert [run.summary[f"{part}_acc"] for part in ("train", "val", "test")] == [None] * 3
    assert run.summary["test_loss"] is None
    assert run.metrics["val_acc"].isna().all() and run.metrics["val_loss"].count() == 151
    assert "test" not in run.log.partition("finished")[2]
    shown = sweep_table.results(runs_of(run.folder.parent), Path("s"))
    assert "train loss" in shown and "test" not in shown and "acc" not in shown


@pytest.mark.full(after=1)
@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_each_lane_is_an_ordinary_torch_loop(loss: str, trainer: Trainer, tmp_path: Path) -> None:
    path = line(path=tmp_path / "plane.npz")
    common = f"data=arrays data.path={path} loss={loss} network.hidden=[8] batch_size=16"
    runs = ["lr=0.1 seed=1", "lr=0.01 seed=2", "lr=1e9 seed=3"]
    together = trainer.together(runs, common)
    assert together[2].summary["state"] == "diverged"
    for run, own in zip(runs, together, strict=True):
        assert_same_bits(own, trainer.alone(run, common))
    assert_same_bits(together[0], trainer.alone(runs[0], f"{common} capture=false"))

    (spec,) = make_specs(tmp_path, runs[:1], common)
    data = own_data.arrays(path)
    network = build.build_network(spec, data)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    criterion = {"mse": nn.MSELoss(), "l1": nn.L1Loss()}[loss]
    losses = []
    for epoch in range(2):
        order = torch.from_numpy(build.batch_order(1, epoch, len(data.train_y)))
        for index in order.split(16)[: len(order) // 16]:
            optimizer.zero_grad()
            value = criterion(network(data.train_x[index]), data.train_y[index])
            value.backward()
            optimizer.step()
            losses.append(value.item())
    assert np.allclose(together[0].metrics["train_loss"].dropna(), losses, rtol=1e-5)
    network.eval()
    with torch.no_grad():
        end = criterion(network(data.val_x), data.val_y).item()
    assert math.isclose(together[0].summary["val_loss"], end, rel_tol=1e-5)


def test_losses_and_targets_must_be_of_a_kind(tmp_path: Path) -> None:
    path = line(path=tmp_path / "plane.npz")
    data = f"data=arrays data.path={path} network=perceptron batch_size=16"
    for loss in ("nll", "cross_entropy", "mse_one_hot"):
        (spec,) = make_specs(tmp_path, [f"lr=0.1 loss={loss}"], data)
        message = error(checks.check_runs, [spec])
        assert message.startswith(
            f"loss={loss}: compares with classes, and the targets of data=arr"
        )
    for loss in ("mse", "l1"):
        (spec,) = make_specs(tmp_path, [f"lr=0.1 loss={loss}"])
        message = error(checks.check_runs, [spec])
        assert message.startswith(
            f"loss={loss}: compares with floating-point targets, and those of"
        )
    (spec,) = make_specs(tmp_path, ["lr=0.1 loss=mse objective=val_acc"], data)
    assert "objective=val_acc: a regression" in error(checks.check_runs, [spec])
    (spec,) = make_specs(tmp_path, ["lr=0.1 loss=mse loss._target_=torch.nn.HuberLoss"], data)
    checks.check_runs([spec])
    assert build.loss_function(spec)(torch.tensor([3.0]), torch.tensor([0.0])) == 2.5


@pytest.mark.full
def test_reproduce_says_that_the_data_file_has_changed(tmp_path: Path) -> None:
    path = line(path=tmp_path / "plane.npz")
    given = [*QUICK, "data=arrays", f"data.path={path}", "loss=mse", "network=perceptron"]
    ended = command(sweep, [*given, "lr=0.1", "batch_size=16", "name=s"], tmp_path)
    assert (ended.code, without_notices(ended.err)) == (0, "")
    ended = command(reproduce, ["outputs/s/0"], tmp_path)
    assert ended.code == 0 and "steps, bitwise" in ended.out and "data:" not in ended.out
    saved = dict(np.load(path))
    saved["y"] = saved["y"] + 0.5
    np.savez(path, **saved)
    ended = command(reproduce, ["outputs/s/0"], tmp_path)
    assert ended.code == 1 and "data: the training data are not those of the record" in ended.out
    Path(path).unlink()
    ended = command(reproduce, ["outputs/s/0"], tmp_path)
    assert (ended.code, ended.err) == (2, f"lrlab: data.path={path}: no such file, {path}\n")


# --- from elsewhere -------------------------------------------------------------------------------

FUNCTION = """
import numpy as np

def make(file):
    return np.arange(40.0).reshape(40, 1) / 40, np.load(file)["y"][:40]
"""
PLANE = ["data=arrays", "data.path=plane.npz", "loss=mse", "network=perceptron", "batch_size=16"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project's folder with a file of data and, in outputs/s, a sweep that names it as it lies.

    In the folder beside it is another file of that name.
    """
    project, beside = tmp_path / "project", tmp_path / "beside"
    for folder in (project, beside):
        folder.mkdir()
    path = line(path=project / "plane.npz")
    saved = dict(np.load(path))
    np.savez(beside / "plane.npz", **{**saved, "y": saved["y"] + 0.5})
    ended = command(sweep, [*QUICK, *PLANE, "lr=0.1,0.01", "name=s"], project)
    assert (ended.code, without_notices(ended.err)) == (0, "")
    return project


def bitwise(run: str, cwd: Path, *words: str) -> None:
    ended = command(reproduce, [run, *words], cwd)
    assert (ended.code, ended.err) == (0, ""), ended
    assert "steps, bitwise" in ended.out and "data:" not in ended.out


@pytest.mark.full
def test_a_relative_path_leads_to_where_the_sweep_began(project: Path) -> None:
    bitwise(str(project / "outputs" / "s" / "1"), project.parent / "beside")
    bitwise("outputs/reproduce_s_1/1", project.parent / "beside")
    ended = command(resume, [str(project / "outputs" / "s"), "lr=0.1,0.01,0.2"], project.parent)
    assert (ended.code, without_notices(ended.err)) == (0, "")
    told = summaries(project / "outputs" / "s")
    assert [summary["state"] for summary in told] == ["finished"] * 3
    assert len({summary["data_sha256"] for summary in told}) == 1
    # What was added elsewhere has no data in the folder that it was added from.
    bitwise(str(project / "outputs" / "s" / "2"), project.parent / "beside")


@pytest.mark.full
def test_a_relative_path_is_found_after_a_move(project: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    moved = (project / "outputs" / "s").rename(tmp_path / "out" / "moved")  # the sweep alone
    bitwise(str(moved / "0"), tmp_path)
    moved = moved.rename(project / "outputs" / "s")
    project = project.rename(tmp_path / "other")  # all of it
    bitwise("0", project / "outputs" / "s")
    assert command(resume, [str(project / "outputs" / "s")], tmp_path).code == 0
    (project / "plane.npz").unlink()
    ended = command(reproduce, [str(project / "outputs" / "s" / "0")], tmp_path)
    assert ended.code == 2
    assert ended.err.startswith(f"lrlab: data.path=plane.npz: no such file, {tmp_path}/plane.npz, ")
    assert f", nor {project}/plane.npz" in ended.err and ended.err.count("\n") == 1


@pytest.mark.full
def test_code_is_found_where_the_sweep_began(project: Path, tmp_path: Path) -> None:
    (project / "made_of_places.py").write_text(FUNCTION)
    words = ["data=custom", "data._target_=made_of_places.make", f"+data.file={project}/plane.npz"]
    typed = [*QUICK, *words, "loss=mse", "network=perceptron", "batch_size=16"]
    ended = command(sweep, [*typed, "lr=0.1", "name=own"], project)
    assert (ended.code, without_notices(ended.err)) == (0, "")
    sys.modules.pop("made_of_places")
    bitwise(str(project / "outputs" / "own" / "0"), tmp_path, "trust=true")
    sys.modules.pop("made_of_places")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.eye(4).to_sparse(), "x is a sparse, quantized or meta tensor"),
        (torch.empty(4, 2, device="meta"), "x is a sparse, quantized or meta tensor"),
        (np.ma.masked_array(np.ones((4, 2)), np.eye(4, 2)), "x is a masked array"),
    ],
)
def test_arrays_that_hold_no_plain_numbers_are_refused(value: Any, words: str) -> None:
    with pytest.raises(UserError, match=f"^data: {words}"):
        own_parts._tensor(value, "x", "data")


def test_long_doubles_are_doubles() -> None:
    found = own_parts._tensor(np.array([[0.5, 3.0]], np.longdouble), "x", "data")
    assert found.dtype == torch.float64 and found.tolist() == [[0.5, 3.0]]


# --- standardised targets -------------------------------------------------------------------------


def far(path: Path, columns: int = 1) -> str:
    """The plane's targets around 1000, and some more with spreads of their own."""
    draw = np.random.default_rng(3)
    x = draw.normal(size=(160, 3))
    slopes = np.array([[1.0, 0.5], [-2.0, 0.0], [0.5, 3.0]])[:, :columns]
    y = 1000 + (x @ slopes + 0.1 * draw.normal(size=(160, columns))) * np.array([7, 50])[:columns]
    np.savez(path, x=x, y=y)
    return str(path)


@pytest.mark.full(after=1)
@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_standardised_targets_train_as_in_torch_and_losses_have_their_units(
    loss: str, columns: int, trainer: Trainer, tmp_path: Path
) -> None:
    path = far(tmp_path / "far.npz", columns)
    common = f"data=arrays data.path={path} loss={loss} network.hidden=[8] batch_size=16 "
    common += "data.standardise_targets=true diagnostics=full"
    together = trainer.together(["lr=0.1 seed=1", "lr=0.01 seed=2", "lr=1e9 seed=3"], common)
    assert_same_bits(together[0], trainer.alone("lr=0.1 seed=1", common))
    assert [run.summary["state"] for run in together] == ["finished", "finished", "diverged"]

    raw = own_data.arrays(path)
    mean = raw.train_y.double().mean(0)
    std = raw.train_y.double().var(0, unbiased=False).mean().sqrt()
    (spec,) = make_specs(tmp_path, ["lr=0.1 seed=1"], common)
    network = build.build_network(spec, build.load_data(spec))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    criterion = {"mse": nn.MSELoss(), "l1": nn.L1Loss()}[loss]
    told = []
    for epoch in range(2):
        order = torch.from_numpy(build.batch_order(1, epoch, len(raw.train_y)))
        for index in order.split(16)[: len(order) // 16]:
            optimizer.zero_grad()
            outputs, y = network(raw.train_x[index]), raw.train_y[index]
            criterion(outputs, ((y - mean) / std).float()).backward()
            optimizer.step()
            told.append(criterion(outputs.double() * std + mean, y.double()).item())
    assert np.allclose(together[0].metrics["train_loss"].dropna(), told, rtol=1e-4)
    summary = together[0].summary
    with torch.no_grad():
        said = network(raw.val_x).double() * std + mean
    assert math.isclose(summary["val_loss"], criterion(said, raw.val_y), rel_tol=1e-4)
    assert np.isclose(np.mean(summary["val_parts"]), summary["val_loss"], rtol=1e-5)
    assert np.allclose(summary["target_mean"], mean) and math.isclose(summary["target_std"], std)
    values = raw.train_y.double().numpy()
    spread = values.var(0) if loss == "mse" else np.abs(values - np.median(values, axis=0)).mean(0)
    assert math.isclose(summary["chance_loss"], spread.mean(), rel_tol=1e-4)


@pytest.mark.full
def test_branches_diagnostics_and_records_of_standardised_targets(tmp_path: Path) -> None:
    far(tmp_path / "far.npz")
    words = ["data=arrays", "network=perceptron", "batch_size=16", "loss=mse"]
    words += ["epochs=4", "lr=0.01,0.1", "threads=1", "plots=false", "device=cpu"]
    words += ["diagnostics=full"]
    # the same numbers, standardised before lrlab sees them
    data = own_data.arrays(str(tmp_path / "far.npz"), standardise_targets=True)
    parts = {"x": data.train_x, "y": data.train_y, "val_x": data.val_x, "val_y": data.val_y}
    np.savez(tmp_path / "plain.npz", **{key: part.numpy() for key, part in parts.items()})
    for name in ("far", "plain"):
        more = [f"data.path={name}.npz", f"name={name}"]
        more += ["data.standardise_targets=true"] if name == "far" else []
        assert command(sweep, [*words, *more], tmp_path).code == 0
    unit = data.target_std**2
    assert unit > 100
    for run in ("0", "1"):
        told, plain = tmp_path / "outputs/far" / run, tmp_path / "outputs/plain" / run
        for file, losses in (
            ("metrics.csv", ["train_loss", "val_loss"]),
            ("branches.csv", ["low", "same", "high"]),
            ("diagnostics.csv", []),
        ):
            one, other = pd.read_csv(told / file), pd.read_csv(plain / file)
            assert list(one) == list(other)
            for column in one:
                factor = unit if column in losses else 1
                assert np.allclose(one[column], factor * other[column], rtol=1e-4, equal_nan=True)
    done = command(reproduce, ["outputs/far/1"], tmp_path)
    assert done.code == 0 and "bitwise" in done.out, done.out
    done = command(resume, ["outputs/far", "lr=0.01,0.1,0.3"], tmp_path)
    assert done.code == 0
    assert len({s["target_std"] for s in summaries(tmp_path / "outputs/far")}) == 1


def test_where_targets_cannot_be_standardised(tmp_path: Path) -> None:
    message = error(
        own_data.make,
        (np.zeros((9, 2)), np.arange(9) % 3),
        "a",
        "data.path=a",
        standardise_targets=True,
    )
    assert message.startswith("data.standardise_targets=true: ") and "classes" in message
    node = f"data=arrays data.path={far(tmp_path / 'far.npz')} data.standardise_targets=true "
    for loss in ("loss._target_=torch.nn.HuberLoss", "loss._target_=test_own_data.cubed"):
        specs = make_specs(tmp_path, ["lr=0.1"], node + loss)
        message = error(checks.check_runs, specs)
        assert message.endswith("use loss=mse or loss=l1")
    constant = np.full(9, 3.0)
    data = own_data.make((np.zeros((9, 2)), constant), "a", "data.path=a", standardise_targets=True)
    assert data.target_std == 1 and not data.train_y.any()


def cubed(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).abs().pow(3).mean()
