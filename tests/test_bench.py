"""``python -m lrlab.bench``: that both do the same work, that it is counted right, and told."""

from __future__ import annotations

import gzip
import importlib.util
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from helpers.commands import Ended, command, process, strict_json
from torch.utils.flop_counter import FlopCounterMode

from lrlab import bench
from lrlab.bench import main
from lrlab.data import Dataset
from lrlab.data.mnist_like import SHIPPED_FOLDER
from lrlab.plan import build

sys.path.append(str(Path(__file__).parent / "benchmarks"))
import yardstick_torch
from yardstick_jax import Jax

HAS_JAX = importlib.util.find_spec("jax") is not None
LRS = [0.01, 0.03, 0.1]
OVERRIDES = ["device=cpu", "threads=1"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def noise() -> Dataset:
    """Ten steps of MNIST's shape, learnable: each class has its own mean."""
    draw = torch.Generator().manual_seed(0)
    means = 2 * torch.randn(10, 1, 28, 28, generator=draw)
    parts = []
    for size in (640, 100, 1):
        labels = torch.randint(0, 10, (size,), generator=draw)
        parts += [means[labels] + torch.randn(size, 1, 28, 28, generator=draw), labels]
    return Dataset("noise", *parts, num_classes=10, sha256="")


# --- the same work --------------------------------------------------------------------------------


def lane_losses(data: Dataset, steps: int) -> np.ndarray:
    stack = bench.stack(bench.specs(OVERRIDES, LRS), data)
    return bench.lane_steps(stack)(steps)


def test_the_ordinary_loop_has_the_losses_of_the_lanes(noise: Dataset) -> None:
    lanes = lane_losses(noise, 15)  # over the end of the ten steps: they begin again
    assert lanes[9].mean() < 0.8 * lanes[0].mean()  # it learns, so the updates are compared too
    for lane, spec in enumerate(bench.specs(OVERRIDES, LRS)):
        network, batches = build.build_network(spec, noise), bench.resident_batches(noise)
        loop = bench.ordinary(network, batches, spec["lr"], "cpu")
        found = np.concatenate([loop(4), loop(11)])
        np.testing.assert_allclose(found, lanes[:, lane], rtol=1e-4)


def test_own_batches_and_shared_ones_are_what_they_are_called(noise: Dataset) -> None:
    shared = bench.stack(bench.specs(OVERRIDES, LRS), noise)
    own = bench.stack(bench.specs(OVERRIDES, LRS, seeds=[0, 1, 2]), noise)
    assert shared.order.shape == (10, 1, 64) and own.order.shape == (10, 3, 64)


# --- timing ---------------------------------------------------------------------------------------


class Clock:
    """A clock that goes on by what pieces take."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def piece(self, name: str, *seconds: float) -> Any:
        """A step takes the given time, in each call the next one of them."""

        def run(count: int) -> None:
            done = self.calls.count(name)
            self.calls.append(name)
            self.now += count * seconds[done % len(seconds)]

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("lrlab.bench.time.perf_counter", clock)
    return clock


def test_pieces_take_turns(clock: Clock) -> None:
    pieces = {
        "a": (clock.piece("a", 9.0, 0.002, 9.0, 0.009, 9.0, 0.004), 10),  # the first ones are cold
        "b": (clock.piece("b", 0.001), 3),
    }
    found = bench.in_turns(pieces, 3)
    assert clock.calls == [name for name in "abbaab" for _ in range(2)]
    assert found["a"] == pytest.approx([2, 9, 4])
    assert found["b"] == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(
    ("step", "enough"), [(1e-6, bench.MOST), (0.001, 150), (0.005, 30), (1.0, bench.FEWEST)]
)
def test_a_repeat_is_as_many_steps_as_take_its_time(clock: Clock, step: float, enough: int) -> None:
    cold = [10 * step] * bench.WARM_UPS
    assert bench.enough(clock.piece("a", *cold, step), None) == enough
    assert clock.calls == ["a"] * (bench.WARM_UPS + 1)


def test_steps_that_are_given_are_not_guessed(clock: Clock) -> None:
    assert bench.enough(clock.piece("a", 0.001), 7) == 7
    assert clock.now == pytest.approx(0.007)  # it is warm


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ended, dict[str, Any]]:
    """The whole command, with few steps; its output and its JSON."""
    folder = tmp_path_factory.mktemp("bench")
    few = ["--lanes=1,2", "--steps=3", "--repeats=2", "--threads=1", "--device=cpu"]
    ended = command(main, [*few, "--json=found.json"], folder)
    assert (ended.code, ended.err) == (0, "")
    assert [path.name for path in folder.iterdir()] == ["found.json"]
    return ended, strict_json((folder / "found.json").read_text("utf-8"))


@pytest.mark.full
def test_the_json_has_each_figure(ran: tuple[Ended, dict[str, Any]]) -> None:
    _, found = ran
    assert list(found) == ["step_ms", "resident_ms", "min", "repeats", "steps", "machine"]
    assert found["step_ms"].keys() == {"1", "2"}
    assert found["machine"]["threads"] == 1 and found["machine"]["device"] == "cpu"
    assert (found["repeats"], found["steps"]) == (2, 3)
    shortest = found["min"]
    assert 0 < shortest["resident_ms"] <= found["resident_ms"] < 60_000
    for lanes, ms in found["step_ms"].items():
        assert 0 < shortest["step_ms"][lanes] <= ms < 60_000


@pytest.mark.full
def test_what_is_printed_is_what_the_json_has(ran: tuple[Ended, dict[str, Any]]) -> None:
    ended, found = ran
    first, _, empty, head, *rows, last = ended.out.splitlines()
    machine = found["machine"]
    for part in (machine["processor"], f"{machine['cores']} cores", "1 thread,", machine["torch"]):
        assert part in first
    assert (empty, head.split()) == ("", ["lanes", "step", "a", "lane", "resident", "ratio"])
    assert [row.split()[0] for row in rows] == ["1", "2"]
    for row in rows:
        lanes, step, a_lane, resident, ratio = row.split()
        ms = found["step_ms"][lanes]
        assert (step, a_lane) == (bench.ms(ms), bench.ms(ms / int(lanes)))
        assert float(ratio) == pytest.approx(ms / int(lanes) / float(resident), abs=0.006)
        assert len(row) == len(head)
    assert last == "json   found.json"


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--lanes=0", "--lanes=0: must be whole numbers from 1, for example --lanes=1,3,8,32,128"),
        ("--lanes a", "--lanes=a: must be whole numbers"),
        ("--lanes=1,,3", "--lanes=: must be whole numbers"),
        ("--threads=9999", "--threads=9999: this machine has only "),
        ("--threads=0", "--threads=0: must be a whole number from 1, for example --threads=1"),
        ("--repeats=0", "--repeats=0: must be a whole number"),
        ("--repeats -1", "--repeats=-1: must be a whole number"),
        ("--steps=2.5", "--steps=2.5: must be a whole number"),
        ("--device=gpu", "--device=gpu: no such device (did you mean cpu?); choose from auto, cpu"),
        ("--device=cpu:1", "--device=cpu:1: no such device; use --device=cpu"),
        ("--lanes=99999999", "--lanes=99999999: needs"),
        ("--json=nowhere/x.json", "--json=nowhere/x.json: there is no folder nowhere; make it"),
        ("--json=.", "--json=.: is a folder; name a file, like bench.json"),
        ("lanes=3", "unrecognized arguments: lanes=3; python -m lrlab.bench --help shows"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_measured(
    words: str, said: str, tmp_path: Path
) -> None:
    ended = command(main, words.split(), tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"lrlab: {said}") and ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, dir: Path, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)  # root may write anywhere
    ended = command(main, ["--json=x.json"], tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "lrlab: --json=x.json: cannot write into . (Permission denied); "
        "name a file elsewhere\n"
    )


def test_an_interruption_is_one_line(tmp_path: Path) -> None:
    with mock.patch.object(bench, "measure", side_effect=KeyboardInterrupt):
        ended = command(main, ["--device=cpu", "--json=x.json"], tmp_path)
    assert (ended.code, ended.err) == (130, "lrlab: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_the_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom lrlab import bench\nsys.argv[1:] = ['--help']\n"
        "try:\n    bench.main()\nexcept SystemExit as end:\n    assert end.code in (0, None)\n"
        "assert not {'torch', 'hydra', 'numpy'} & set(sys.modules)\n"
    )
    done = process("-W", "error", "-c", code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--lanes" in done.stdout


def test_the_names_and_shapes_are_those_of_the_default_network() -> None:
    (spec,) = bench.specs(OVERRIDES, [0.1])
    assert (spec["batch_size"], spec["diagnostics"]) == (bench.BATCH_SIZE, "off")
    hidden = list(spec["network"]["hidden"])
    assert [784, *hidden, 10] == list(yardstick_torch.LAYERS)
    assert "MLP 784-64-64-64-10" in bench.EPILOG
    assert spec["optimizer"]["_target_"] == "torch.optim.SGD"
    assert spec["loss"]["_target_"].endswith(".nll")


# --- the yardsticks of tests/benchmarks do this work, all of it and no more -----------------------


@pytest.mark.full
@pytest.mark.skipif(not HAS_JAX, reason="jax is not installed: pip install 'lrlab[bench]'")
def test_jax_has_the_losses_of_the_lanes(noise: Dataset) -> None:
    stack = bench.stack(bench.specs(OVERRIDES, LRS), noise)
    initial = [tensor.detach().numpy().copy() for tensor in stack.lanes.params.values()]
    lanes = bench.lane_steps(stack)(10)
    x, y = noise.train_x.flatten(1).numpy(), noise.train_y.numpy()
    with Jax(x, y, "cpu", threads=1) as jax:
        jax.prepare(initial, LRS, bench.order(noise))
        np.testing.assert_allclose(jax.losses(), lanes, rtol=1e-4)
        jax.run(10)
        np.testing.assert_allclose(jax.losses(), lanes, rtol=1e-4)
        # another number of lanes and of steps, in the same process
        jax.prepare([p[:1] for p in initial], LRS[:1], bench.order(noise)[:4])
        np.testing.assert_allclose(jax.losses(), lanes[:4, :1], rtol=1e-4)


def test_whole_trainings_have_an_order_of_their_own_in_each_epoch(noise: Dataset) -> None:
    specs = bench.specs(OVERRIDES, LRS[1:])
    found = yardstick_torch.whole_training(bench.stack(specs, noise), epochs=2)
    orders = [build.batch_order(0, epoch, 640).reshape(10, 64) for epoch in (0, 1)]
    rows = torch.from_numpy(np.concatenate(orders))
    for lane, spec in enumerate(specs):
        batches = ((noise.train_x[row], noise.train_y[row]) for row in rows)
        loop = bench.ordinary(build.build_network(spec, noise), batches, spec["lr"], "cpu")
        np.testing.assert_allclose(found[:, lane], loop(20), rtol=1e-4)


def test_the_loader_gives_mnist_as_lrlab_normalises_it() -> None:
    def raw(name: str, header: int) -> np.ndarray:
        packed = (SHIPPED_FOLDER / f"{name}.gz").read_bytes()
        return np.frombuffer(gzip.decompress(packed), np.uint8, offset=header)

    images = raw("train-images-idx3-ubyte", 16)[: 2 * 64 * 784].reshape(2, 64, 1, 28, 28)
    labels = raw("train-labels-idx1-ubyte", 8)[: 2 * 64].reshape(2, 64)
    with yardstick_torch.loader_batches(shuffle=False) as batches:
        for number, (x, y) in enumerate(islice(batches, 2)):
            np.testing.assert_array_equal(y.numpy(), labels[number])
            wanted = (images[number] / 255 - 0.1307) / 0.3081
            np.testing.assert_allclose(x.numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("lanes", [1, 3])
def test_the_floor_is_all_products_of_the_step_and_no_more(lanes: int, joined: bool) -> None:
    piece = yardstick_torch.products(lanes, "cpu", joined)
    with FlopCounterMode(display=False) as counter:
        piece(2)
    weights = [784 * 64, 64 * 64, 64 * 64, 64 * 10]
    # forward, the weights' gradients, and the inputs' but for the first layer's
    a_sample = 2 * (2 * sum(weights) + sum(weights[1:]))
    assert counter.get_total_flops() == 2 * lanes * 64 * a_sample


@pytest.mark.skipif(not HAS_JAX, reason="jax is not installed: pip install 'lrlab[bench]'")
@pytest.mark.skipif(torch.cuda.is_available(), reason="here jax may have a GPU")
def test_a_jax_without_a_gpu_is_not_set_against_one(noise: Dataset) -> None:
    with pytest.raises(RuntimeError, match="has cpu only"):
        Jax(noise.train_x.numpy(), noise.train_y.numpy(), "cuda:0", threads=1)
