"""Networks that need one forward pass before they train, and those that cannot train at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.training import (
    CLASSES,
    IN_SHAPE,
    Trainer,
    assert_same_bits,
    assert_trained_like,
    make_specs,
    ordinary,
    sgd,
    tiny_images,
)
from torch import Tensor, nn

from lrlab.data import Dataset
from lrlab.errors import UserError
from lrlab.plan import build, checks
from lrlab.plan.spec import RunSpec

pytestmark = pytest.mark.unit

PIXELS = 144


class Lazy(nn.Module):
    """Layers without sizes; with ``aside`` one that evaluation leaves out."""

    def __init__(self, num_classes: int, aside: bool = False) -> None:
        super().__init__()
        self.first, self.norm = nn.LazyLinear(12), nn.LazyBatchNorm1d()
        self.last = nn.LazyLinear(num_classes)
        self.aside = nn.LazyLinear(num_classes) if aside else None

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x.flatten(1))))
        if self.aside is not None and self.training:
            return self.last(x) + self.aside(x)
        return self.last(x)


class Normed(nn.Module):
    def __init__(self, num_classes: int, kind: str, running: bool = True) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 12)
        norm = getattr(nn, kind)
        self.inner = nn.ModuleDict({"norm": norm(4, track_running_stats=running)})
        self.last = nn.Linear(4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner["norm"](self.convolution(x)).flatten(1))


class Embedded(nn.Module):
    def __init__(self, num_classes: int, kind: str = "module", sparse: bool = True) -> None:
        super().__init__()
        self.kind, self.sparse = kind, sparse
        made = nn.EmbeddingBag if kind == "bag" else nn.Embedding
        self.words = nn.ModuleList([made(8, 6, sparse=sparse and kind != "function")])
        self.last = nn.Linear(6, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        index = (x.flatten(1)[:, :20].abs() * 3).long().clamp(0, 7)
        if self.kind == "function":
            found = F.embedding(index, self.words[0].weight, sparse=self.sparse)
        else:
            found = self.words[0](index)
        return self.last(found if self.kind == "bag" else found.mean(1))


class OnlyTrained(Lazy):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, aside=True)


class Unfit(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first, self.last = nn.LazyLinear(5), nn.LazyLinear(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x.flatten(1)) @ torch.ones(4, 4))


def of(name: str, more: str = "") -> str:
    return f"network=custom network._target_={__name__}.{name} {more}"


def refusal(folder: Path, common: str) -> str:
    with pytest.raises(UserError) as caught:
        checks.check_runs(make_specs(folder, ["lr=0.1"], common))
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.mark.full
def test_lazy_layers_train_as_in_torch_and_alone_as_together(
    trainer: Trainer, data: Dataset
) -> None:
    def initialised() -> nn.Module:
        network = Lazy(CLASSES)
        network.eval()(torch.zeros(2, *IN_SHAPE))  # the values do not matter, the shape does
        return network

    runs = ["lr=0.1", "lr=0.05 seed=3"]
    group = trainer.together(runs, of("Lazy"))
    for text, run, lr, seed in zip(runs, group, (0.1, 0.05), (0, 3), strict=True):
        truth = ordinary(initialised, data, sgd(lr=lr), seed=seed)
        assert_trained_like(run, truth, data, rtol=1e-4)
        assert_same_bits(run, trainer.alone(text, of("Lazy")))
    checks.check_runs(make_specs(trainer.folder, runs, of("Lazy")))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("OnlyTrained", "aside.weight has no shape, because a forward pass in evaluation mode"),
        ("Unfit", "last.weight has no shape before its first forward pass, and that fails (Runt"),
    ],
)
def test_a_lazy_layer_that_gets_no_shape_is_refused(name: str, words: str, tmp_path: Path) -> None:
    said = refusal(tmp_path, of(name))
    assert said.startswith(f"network._target_={__name__}.{name}: {words}")
    assert said.partition(";")[2] or name == "OnlyTrained"


@pytest.mark.parametrize("running", ["true", "false"])
def test_batch_norm_with_batches_of_one_is_refused(running: str, tmp_path: Path) -> None:
    common = of("Normed", f"network.kind=BatchNorm2d network.running={running}")
    checks.check_runs(make_specs(tmp_path, ["lr=0.1"], common))  # of another size it trains
    said = refusal(tmp_path, f"{common} batch_size=1")
    assert said.startswith(f"batch_size=1: network._target_={__name__}.Normed: in training, inner.")
    assert "inner.norm (BatchNorm2d) does not take a batch of one sample" in said
    assert "use batch_size=2 or more" in said


def test_instance_norm_of_one_pixel_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, of("Normed", "network.kind=InstanceNorm2d network.running=false"))
    assert "Expected more than 1 spatial element" in said
    assert said.endswith("leaves nothing to normalise: leave this norm out")
    # with running statistics it is so in training alone
    said = refusal(tmp_path, of("Normed", "network.kind=InstanceNorm2d"))
    assert "in training, it does not take a batch of shape (2, 1, 12, 12)" in said


def test_one_sample_in_the_last_batch_of_an_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "load_data", lambda spec: tiny_images(val_size=1))
    common = of("Normed", "network.kind=BatchNorm2d network.running=")
    checks.check_runs(make_specs(tmp_path, ["lr=0.1"], f"{common}true"))
    said = refusal(tmp_path, f"{common}false")
    assert "in evaluation, it does not take a batch of one sample" in said
    assert "the last batch of the 1 held-out samples has one" in said


@pytest.mark.parametrize("kind", ["module", "bag", "function"])
def test_sparse_gradients_are_refused_by_the_name_of_their_module(
    kind: str, tmp_path: Path
) -> None:
    common = of("Embedded", f"network.kind={kind}")
    said = refusal(tmp_path, common)
    assert said.startswith(f"network._target_={__name__}.Embedded: words.0 gives sparse gradients")
    assert "use sparse=False" in said
    checks.check_runs(make_specs(tmp_path, ["lr=0.1"], f"{common} network.sparse=false"))


def test_weights_drawn_by_numpy_or_python_are_those_of_the_seed(tmp_path: Path) -> None:
    specs: Sequence[RunSpec] = make_specs(tmp_path, ["seed=0", "seed=0", "seed=1"], of("Drawn"))
    found = [build.build_network(spec, tiny_images()).last.weight for spec in specs]
    assert torch.equal(found[0], found[1])
    assert not torch.isclose(found[0], found[2]).any()


class Drawn(nn.Module):
    def __init__(self, num_classes: int) -> None:
        import random

        import numpy as np

        super().__init__()
        self.last = nn.Linear(PIXELS, num_classes)
        drawn = np.random.randn(num_classes, PIXELS) * random.random()
        self.last.weight = nn.Parameter(torch.from_numpy(drawn).float())

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.flatten(1))
