"""Networks with several inputs, against ordinary torch loops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.commands import command, summaries
from helpers.training import Trained, Trainer, assert_same_bits, make_specs
from torch import Tensor, nn
from torch.optim import SGD

import lrlab
from lrlab import own_data
from lrlab.data import inputs
from lrlab.errors import UserError
from lrlab.find import find
from lrlab.plan import build, checks
from lrlab.reproduce import main as reproduce
from lrlab.resume import main as resume
from lrlab.sweep import main as sweep

HERE = "test_several_inputs"
KINDS, WIDTH, CLASSES = 5, 4, 3


def drawn(samples: int = 192, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """A kind, some features of which some are hidden, and a class that needs all of them."""
    draw = torch.Generator().manual_seed(seed)
    kind = torch.randint(KINDS, (samples,), generator=draw)
    x = torch.randn(samples, WIDTH, generator=draw)
    mask = torch.rand(samples, WIDTH, generator=draw) < 0.7
    y = ((x * mask).sum(1) > 0).long() + (kind == 0).long()
    return {"features": x, "kind": kind, "mask": mask}, y


def by_name() -> dict[str, Any]:
    x, y = drawn()
    val_x, val_y = drawn(60, seed=1)
    turned = {name: x[name] for name in reversed(x)}  # the order of names says nothing
    return {"x": turned, "y": y, "val_x": {n: val_x[n] for n in turned}, "val_y": val_y}


def by_order() -> dict[str, Any]:
    found = by_name()
    return {k: tuple(reversed(v.values())) if k.endswith("x") else v for k, v in found.items()}


class Net(nn.Module):
    def __init__(self, num_classes: int = CLASSES, in_shape: Any = None) -> None:
        super().__init__()
        self.kind = nn.Embedding(KINDS, WIDTH)
        self.body, self.head = nn.Linear(WIDTH, 8), nn.Linear(8, num_classes)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, features: Tensor, kind: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            assert mask.dtype == torch.bool
            features = features.masked_fill(~mask, 0.0)
        return self.head(self.norm(self.body(features + self.kind(kind))).relu())


class Wider(Net):
    def forward(self, features: Tensor, kind: Tensor, mask: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(features * scale, kind, mask)


class ByKeyword(Net):
    def forward(self, *, features: Tensor, kind: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(features, kind, mask)


def ordinary(lr: float, epochs: int = 2) -> tuple[list[float], list[float], nn.Module]:
    torch.manual_seed(0)
    net, (x, y), (val_x, val_y) = Net().train(), drawn(), drawn(60, seed=1)
    optimizer, losses, val = SGD(net.parameters(), lr=lr, momentum=0.9), [], []

    def evaluate() -> None:
        net.eval()
        with torch.no_grad():
            val.append(float(F.cross_entropy(net(**val_x), val_y)))
        net.train()

    evaluate()
    for epoch in range(epochs):
        for index in torch.from_numpy(build.batch_order(0, epoch, len(y))).split(16):
            loss = F.cross_entropy(net(**{k: t[index] for k, t in x.items()}), y[index])
            optimizer.zero_grad()
            loss.backward()
            losses.append(float(loss.detach()))
            optimizer.step()
        evaluate()
    return losses, val, net


def common(data: Callable[[], Any], network: str = "Net") -> str:
    return (
        f"data=custom data._target_={HERE}.{data.__name__} batch_size=16 optimizer=momentum "
        f"network=custom network._target_={HERE}.{network}"
    )


def assert_like(run: Trained, lr: float) -> None:
    assert run.summary["state"] == "finished", run.log
    losses, val, net = ordinary(lr)
    np.testing.assert_allclose(run.metrics["train_loss"].iloc[:-1], losses, rtol=3e-5, atol=1e-6)
    found = run.metrics["val_loss"].dropna()
    np.testing.assert_allclose(found, val, rtol=3e-5, atol=1e-6)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(run.weights[name], tensor, rtol=3e-4, atol=3e-6)


@pytest.mark.parametrize("data", [by_name, by_order])
def test_they_train_as_in_torch(trainer: Trainer, data: Callable[[], Any]) -> None:
    lrs = (0.03, 0.1)
    group = trainer.together([f"lr={lr}" for lr in lrs], common(data))
    assert group[0].summary["lanes"]["way"] != "unmapped"
    for lr, run in zip(lrs, group, strict=True):
        assert_like(run, lr)
        assert_same_bits(run, trainer.alone(f"lr={lr}", common(data)))


def test_lanes_with_batches_of_their_own_have_the_bits_they_have_alone(trainer: Trainer) -> None:
    runs = [f"lr=0.1 seed={seed}" for seed in (1, 2, 3)]
    full = f"{common(by_name)} diagnostics=full"
    for run, typed in zip(trainer.together(runs, full), runs, strict=True):
        assert_same_bits(run, trainer.alone(typed, full))


# --- files, records -------------------------------------------------------------------------------


QUICK = ("threads=1", "diagnostics=off", "plots=false", "device=cpu", "batch_size=16")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep on a file, with everything that is measured and drawn."""
    folder = tmp_path_factory.mktemp("inputs")
    x, y = drawn(320)
    np.savez(folder / "some.npz", y=y, **{f"x.{name}": t for name, t in x.items()})
    torch.save({"x": x, "y": y}, folder / "some.pt")
    words = ["data=arrays", "data.path=some.npz", "data.val_size=0.2", "lr=0.01,0.1,1", "name=some"]
    words += ["network=custom", f"network._target_={HERE}.Net", "epochs=60", *QUICK]
    done = command(sweep, [*words, "diagnostics=default", "plots=true"], folder)
    assert done.code == 0, done.err
    return folder


def test_a_file_is_measured_branched_and_drawn(home: Path) -> None:
    folder = home / "outputs/some"
    assert (folder / "plots/lr_against_loss.png").is_file()
    assert (folder / "surface.csv").is_file() and (folder / "lines.csv").is_file()
    found = (folder / "1/diagnostics.csv").read_text().splitlines()
    assert len(found) > 2 and "nan" not in found[-1].split(",")[:4]
    assert (folder / "1/branches.csv").is_file()
    log = (folder / "1/run.log").read_text()
    assert "inputs: features float32, kind int64, mask bool" in log


@pytest.mark.full
def test_it_reproduces_to_the_bit(home: Path) -> None:
    done = command(reproduce, ["outputs/some/1", "trust=true"], home)
    assert done.code == 0 and "bitwise" in done.out, done.out + done.err


@pytest.mark.full
def test_it_goes_on(home: Path) -> None:
    words = ["outputs/some", "lr=0.01,0.1,1,0.3", "trust=true"]
    assert command(resume, words, home).code == 0
    found = summaries(home / "outputs/some")
    assert len(found) == 4 and len({each["data_sha256"] for each in found}) == 1


def test_a_dict_of_torch_holds_the_same_data(home: Path) -> None:
    files = [str(home / f"some.{ending}") for ending in ("npz", "pt")]
    one, other = (own_data.arrays(file, integers="auto") for file in files)
    assert one.sha256 == other.sha256
    assert list(inputs.mapped(lambda t: t.dtype, one.train_x).items()) == [
        ("features", torch.float32),
        ("kind", torch.int64),
        ("mask", torch.bool),
    ]


def test_only_floats_are_standardised() -> None:
    x, y = drawn()
    made = own_data.make((x, y), "some", "data", integers="auto", standardise=True)
    features, kind, mask = inputs.tensors(made.train_x)
    torch.testing.assert_close(features.mean(0), torch.zeros(WIDTH), atol=1e-6, rtol=0)
    assert kind.dtype == torch.int64 and mask.dtype == torch.bool


def test_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x, y = drawn()
    network = {"_target_": f"{HERE}.Net"}
    settings: dict[str, Any] = {"threads": 1, "plots": False, "batch_size": 16, "epochs": 1}
    settings |= {"diagnostics": "off"}
    found = [
        lrlab.run_sweep(data=given, network=network, lr=[0.1], name=name, **settings)
        for name, given in (("a", (x, y)), ("b", {"x": tuple(x.values()), "y": y}))
    ]
    one, other = (each.curves["train_loss"].dropna().tolist() for each in found)
    assert one == other and len(one) > 5


# --- find -----------------------------------------------------------------------------------------


def test_find_takes_them(one_thread: None) -> None:
    x, y = drawn(320)
    torch.manual_seed(0)
    net = Net()
    options: dict[str, Any] = {"steps": 40, "points": 4, "batch_size": 16, "lr": (1e-3, 1.0)}
    val = ({k: t[:64] for k, t in x.items()}, y[:64])
    found = find(net, (x, y), nn.CrossEntropyLoss(), val=val, **options)
    by_place, val_by_place = ((tuple(each[0].values()), each[1]) for each in ((x, y), val))
    again = find(net, by_place, nn.CrossEntropyLoss(), val=val_by_place, **options)
    assert np.array_equal(found.constant_losses, again.constant_losses)
    assert found.val_samples == 60  # five parts of equal length

    def of_model(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(**batch[0]), batch[1])

    loop = find(net, (x, y), of_model, **options)
    np.testing.assert_allclose(loop.constant_losses, found.constant_losses, rtol=1e-4)


# --- what does not fit ----------------------------------------------------------------------------


def without_mask() -> Any:
    x, y = drawn()
    return {k: x[k] for k in ("features", "kind")}, y


def misspelt() -> Any:
    x, y = drawn()
    return {**x, "masc": x["mask"]}, y


def unequal() -> Any:
    x, y = drawn()
    return {**x, "kind": x["kind"][:-1]}, y


def pair() -> Any:
    x, y = drawn()
    return tuple(x.values())[:2], y


def one() -> Any:
    x, y = drawn()
    return x["features"], y


def many() -> Any:
    x, y = drawn()
    return (*x.values(), x["mask"]), y


@pytest.mark.parametrize(
    ("data", "network", "says"),
    [
        (misspelt, "Net", "its forward has no parameter masc; it has features, kind, mask"),
        (without_mask, "Wider", "its forward needs mask, and the data have features, kind"),
        (pair, "Wider", r"takes 4 inputs \(features, kind, mask, scale\), and the data have 2;"),
        (one, "Net", r"takes 2 inputs \(features, kind\), and the data have one; give x as a dict"),
        (many, "Net", r"takes 3 inputs \(features, kind, mask\), and the data have 4"),
        (pair, "ByKeyword", "takes features by its name only; give the inputs as a dict with"),
        (unequal, "Net", r"x.kind has shape \(191,\), y \(192,\); both need one entry a sample"),
    ],
)
def test_what_cannot_work_is_one_line(data: Callable[[], Any], network: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        checks.check_runs(make_specs(Path(), ["lr=0.1"], common(data, network)))
    assert "\n" not in str(caught.value)


def test_a_parameter_with_a_default_may_be_left_out(trainer: Trainer) -> None:
    for data in (without_mask, pair):
        assert trainer.alone("lr=0.1", common(data)).summary["state"] == "finished"
    assert trainer.alone("lr=0.1", common(by_name, "ByKeyword")).summary["state"] == "finished"
