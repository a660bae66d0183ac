"""Data of the user's own: arrays, tables, images and functions, against pandas and NumPy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.commands import error
from helpers.images import picture
from helpers.training import make_specs
from omegaconf import OmegaConf
from PIL import Image

from lrlab import own_data
from lrlab.config import schema
from lrlab.data import Dataset
from lrlab.data.own import parts, split
from lrlab.errors import UserError
from lrlab.plan import build
from lrlab.plan.spec import RunSpec

pytestmark = pytest.mark.unit


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
            "x is a list; give one array, or several inputs as a tuple or a dict",
        ),
        ((torch.ones(3, 2), torch.ones(2)), "x has shape (3, 2), y (2,)"),
        ((torch.ones(0, 2), torch.ones(0)), "holds no samples"),
        ((torch.ones(1, 2), torch.ones(1)), "holds one sample; at least two are needed"),
        ((torch.ones(4, 2), torch.tensor([0, 1, -1, 2])), "y holds the class -1; classes count"),
        ((torch.ones(4, 2), torch.zeros(4, 0).long()), "y has shape (4, 0), and so no targets"),
        ((torch.ones(4, 2), torch.zeros(4, 2, 0)), "y has shape (4, 2, 0), and so no targets"),
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
    assert message == f"data.test_path={other}: the label kind is bee, an unknown class, in row 1"
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
    plain = split.Split(standardise=name not in ("arrays", "custom"), stratify=True)
    wanted = {key: value for key, value in vars(plain).items() if key in split.SPLIT}
    if name in ("arrays", "custom"):  # likewise, with whole numbers that became floats
        wanted["integers"] = "auto"
    else:
        del wanted["integers"]
    if name in ("image_folder", "torchvision"):  # which are classifications
        del wanted["standardise_targets"]
    assert {key: config[key] for key in split.SPLIT if key in config} == wanted
    assert split.Split().stratify is False and split.Split().integers == "float"


# --- records of a time when no held-out part was stratified ---------------------------------------


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


# --- from elsewhere -------------------------------------------------------------------------------


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
        parts._tensor(value, "x", "data")


def test_long_doubles_are_doubles() -> None:
    found = parts._tensor(np.array([[0.5, 3.0]], np.longdouble), "x", "data")
    assert found.dtype == torch.float64 and found.tolist() == [[0.5, 3.0]]
