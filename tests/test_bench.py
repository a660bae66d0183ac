"""``python -m lrlab.bench``: that all of it does the same work, counts it right, and tells it."""

from __future__ import annotations

import gzip
import importlib.util
import json
import math
import os
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from test_sweep import Ended, command, process, strict_json
from torch.utils.flop_counter import FlopCounterMode

from lrlab import bench, bench_jax, bench_process, bench_torch, sweep
from lrlab.bench import Figures, Options, Times, main
from lrlab.bench_jax import Jax
from lrlab.bench_process import NotMeasured
from lrlab.data import SHIPPED_FOLDER, Dataset
from lrlab.plan import build

HAS_JAX = importlib.util.find_spec("jax") is not None
LRS = [0.01, 0.03, 0.1]
OVERRIDES = ["device=cpu", "threads=1"]


def options(**given: Any) -> Options:
    usual: dict[str, Any] = {"lanes": (1, 2), "repeats": 2, "steps": 3, "threads": 1}
    return Options(**usual | {"device": "cpu", "json": None, "whole": False} | given)


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
    stack = bench_torch.stack(bench_torch.specs(OVERRIDES, LRS), data)
    return bench_torch.lane_steps(stack)(steps)


def test_the_ordinary_loop_has_the_losses_of_the_lanes(noise: Dataset) -> None:
    lanes = lane_losses(noise, 15)  # over the end of the ten steps: they begin again
    assert lanes[9].mean() < 0.8 * lanes[0].mean()  # it learns, so the updates are compared too
    for lane, spec in enumerate(bench_torch.specs(OVERRIDES, LRS)):
        network, batches = build.build_network(spec, noise), bench_torch.resident_batches(noise)
        loop = bench_torch.ordinary(network, batches, spec["lr"], "cpu")
        found = np.concatenate([loop(4), loop(11)])
        np.testing.assert_allclose(found, lanes[:, lane], rtol=1e-4)


@pytest.mark.skipif(not HAS_JAX, reason="jax is not installed: pip install 'lrlab[bench]'")
def test_jax_has_the_losses_of_the_lanes(noise: Dataset) -> None:
    stack = bench_torch.stack(bench_torch.specs(OVERRIDES, LRS), noise)
    initial = [tensor.detach().numpy().copy() for tensor in stack.lanes.params.values()]
    lanes = bench_torch.lane_steps(stack)(10)
    x, y = noise.train_x.flatten(1).numpy(), noise.train_y.numpy()
    with Jax(x, y, "cpu", threads=1) as jax:
        jax.prepare(initial, LRS, bench_torch.order(noise))
        np.testing.assert_allclose(jax.losses(), lanes, rtol=1e-4)
        jax.run(10)
        np.testing.assert_allclose(jax.losses(), lanes, rtol=1e-4)
        # another number of lanes and of steps, in the same process
        jax.prepare([p[:1] for p in initial], LRS[:1], bench_torch.order(noise)[:4])
        np.testing.assert_allclose(jax.losses(), lanes[:4, :1], rtol=1e-4)


def test_whole_trainings_have_an_order_of_their_own_in_each_epoch(noise: Dataset) -> None:
    specs = bench_torch.specs(OVERRIDES, LRS[1:])
    found = bench_torch.whole_training(bench_torch.stack(specs, noise), epochs=2)
    orders = [build.batch_order(0, epoch, 640).reshape(10, 64) for epoch in (0, 1)]
    rows = torch.from_numpy(np.concatenate(orders))
    for lane, spec in enumerate(specs):
        batches = ((noise.train_x[row], noise.train_y[row]) for row in rows)
        loop = bench_torch.ordinary(build.build_network(spec, noise), batches, spec["lr"], "cpu")
        np.testing.assert_allclose(found[:, lane], loop(20), rtol=1e-4)


def test_the_loader_gives_mnist_as_lrlab_normalises_it() -> None:
    def raw(name: str, header: int) -> np.ndarray:
        packed = (SHIPPED_FOLDER / f"{name}.gz").read_bytes()
        return np.frombuffer(gzip.decompress(packed), np.uint8, offset=header)

    images = raw("train-images-idx3-ubyte", 16)[: 2 * 64 * 784].reshape(2, 64, 1, 28, 28)
    labels = raw("train-labels-idx1-ubyte", 8)[: 2 * 64].reshape(2, 64)
    with bench_torch.loader_batches(shuffle=False) as batches:
        for number, (x, y) in enumerate(islice(batches, 2)):
            np.testing.assert_array_equal(y.numpy(), labels[number])
            wanted = (images[number] / 255 - 0.1307) / 0.3081
            np.testing.assert_allclose(x.numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("lanes", [1, 3])
def test_the_floor_is_all_products_of_the_step_and_no_more(lanes: int, joined: bool) -> None:
    piece = bench_torch.products(lanes, "cpu", joined)
    with FlopCounterMode(display=False) as counter:
        piece(2)
    weights = [784 * 64, 64 * 64, 64 * 64, 64 * 10]
    # forward, the weights' gradients, and the inputs' but for the first layer's
    a_sample = 2 * (2 * sum(weights) + sum(weights[1:]))
    assert counter.get_total_flops() == 2 * lanes * 64 * a_sample


def test_own_batches_and_shared_ones_are_what_they_are_called(noise: Dataset) -> None:
    shared = bench_torch.stack(bench_torch.specs(OVERRIDES, LRS), noise)
    own = bench_torch.stack(bench_torch.specs(OVERRIDES, LRS, seeds=[0, 1, 2]), noise)
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


def test_pieces_take_turns_and_each_has_its_median(clock: Clock) -> None:
    pieces = {
        "a": (clock.piece("a", 9.0, 0.002, 9.0, 0.009, 9.0, 0.004), 10),  # the first ones are cold
        "b": (clock.piece("b", 0.001), 3),
    }
    found = bench.in_turns(pieces, 3)
    assert clock.calls == [name for name in "abbaab" for _ in range(2)]
    assert found["a"].all == pytest.approx((2, 9, 4)) and found["a"].median == pytest.approx(4)
    assert found["b"].all == pytest.approx((1, 1, 1))


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


def test_figures_keep_the_median_and_the_shortest() -> None:
    figures = Figures({"step_ms": None, "loader_ms": None})
    figures.note("step_ms", Times((3.0, 1.0, 2.0)), 1)
    figures.note("step_ms", Times((7.0, 5.0, 9.0)), 8)
    figures.note("loader_ms", Times((20.0, 10.0)))
    assert figures.found == {"step_ms": {"1": 2.0, "8": 7.0}, "loader_ms": 15.0}
    assert figures.shortest == {"step_ms": {"1": 1.0, "8": 5.0}, "loader_ms": 10.0}


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ended, dict[str, Any]]:
    """The whole command, with few steps; its output and its JSON.

    Its two sweeps train here rather than in processes of their own, as those that take memory do.
    """
    folder = tmp_path_factory.mktemp("bench")
    few = ["--lanes=1,2", "--steps=3", "--repeats=2", "--threads=1", "--device=cpu"]
    python = bench_process._python

    def here(words: list[str], where: Path) -> str:
        if words[0] != "lrlab.sweep":
            return python(words, where)
        trained = command(sweep.main, words[1:], where)
        assert trained.code == 0
        return trained.out

    with (
        mock.patch.multiple(bench, SWEEP_RUNS=3, MEMORY_LANES=9),
        mock.patch.object(bench_process, "_python", here),
    ):
        ended = command(main, [*few, "--json=found.json"], folder)
    assert (ended.code, ended.err) == (0, "")
    assert [path.name for path in folder.iterdir()] == ["found.json"]
    return ended, strict_json((folder / "found.json").read_text("utf-8"))


def lines(out: str, start: str) -> list[list[str]]:
    """The cells of a table's rows: those behind its header, up to an empty line."""
    rows = out[out.index(start) :].split("\n\n")[0].splitlines()[1:]
    return [row.split() for row in rows if not row.startswith("jax:")]


@pytest.mark.slow
def test_the_json_has_each_figure(ran: tuple[Ended, dict[str, Any]]) -> None:
    _, found = ran
    wanted = ["step_ms", "floor_ms", "resident_ms", "loader_ms", "jax_ms"]
    assert list(found)[:5] == wanted
    assert found["step_ms"].keys() == found["floor_ms"].keys() == {"1", "2"}
    assert (found["jax_ms"] is not None) == HAS_JAX
    if HAS_JAX:
        assert found["jax_ms"].keys() == {"1", "2"}
    assert found["cnn_step_ms"].keys() == {"1", "3"}
    assert found["adam_ms"].keys() == found["own_batches_ms"].keys() == {"8"}
    assert found["machine"]["threads"] == 1 and found["machine"]["device"] == "cpu"
    assert (found["repeats"], found["steps"]) == (2, 3)
    for key, value in found.items():
        if key.endswith("_ms") and value is not None:
            shortest = found["min"][key]
            pairs = value.items() if isinstance(value, dict) else [("", value)]
            for lanes, ms in pairs:
                least = shortest[lanes] if lanes else shortest
                assert 0 < least <= ms < 60_000, key
    # a DataLoader decodes and collates each image by itself
    assert found["loader_ms"] > found["resident_ms"]
    # at least parameters, gradients and one batch's activations; far less than the data
    parameters = 4 * (784 * 64 + 2 * 64 * 64 + 64 * 10)
    assert 2 * parameters < found["lane_bytes"] < 20e6
    assert 6 * parameters < found["lane_bytes_predicted"] < 20e6
    assert 0 < found["sweep_seconds"] < 120


@pytest.mark.slow
def test_what_is_printed_is_what_the_json_has(ran: tuple[Ended, dict[str, Any]]) -> None:
    ended, found = ran
    first = ended.out.splitlines()[0]
    machine = found["machine"]
    for part in (machine["processor"], f"{machine['cores']} cores", "1 thread,", machine["torch"]):
        assert part in first
    rows = lines(ended.out, "lanes    floor")
    assert [row[0] for row in rows] == ["1", "2"]
    for lanes, floor, step, over_floor, a_lane, resident, share, jax, over_jax in rows:
        ms = found["step_ms"][lanes]
        assert (floor, step) == (bench._ms(found["floor_ms"][lanes]), bench._ms(ms))
        assert over_floor == f"{ms / found['floor_ms'][lanes]:.2f}"
        assert a_lane == bench._ms(ms / int(lanes))
        assert float(share) == pytest.approx(ms / int(lanes) / float(resident), abs=0.006)
        if HAS_JAX:
            assert jax == bench._ms(found["jax_ms"][lanes])
            assert over_jax == f"{ms / found['jax_ms'][lanes]:.2f}"
        else:
            assert (jax, over_jax) == ("-", "-")
    beside = lines(ended.out, "ms  beside")
    assert [row[0] for row in beside] == ["DataLoader", "adam,", "8", "cnn,", "cnn,"]
    adam, sgd = found["adam_ms"]["8"], found["sgd_ms"]["8"]
    words = f"adam, 8 lanes {bench._ms(adam)} sgd, 8 lanes {bench._ms(sgd)} {adam / sgd:.2f}"
    assert beside[1] == words.split()
    alone = 3 * found["cnn_step_ms"]["1"]
    assert beside[3][-2:] == [bench._ms(alone), f"{found['cnn_step_ms']['3'] / alone:.2f}"]
    assert f"memory: {found['lane_bytes'] / 1e6:.1f} MB a lane" in ended.out
    assert f"sweep: {found['sweep_seconds']:.1f} s" in ended.out
    assert ended.out.endswith("json   found.json\n")


def table(data: Dataset, capsys: pytest.CaptureFixture[str], **given: Any) -> tuple[str, Figures]:
    figures = Figures({"jax_ms": None})
    bench._lanes(options(**given), data, figures)
    return capsys.readouterr().out, figures


def test_without_jax_one_line_says_how_to_have_it(
    noise: Dataset, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_jax.importlib.util, "find_spec", lambda name: None)
    out, figures = table(noise, capsys)
    assert out.endswith("jax: not measured: pip install 'lrlab[bench]'\n")
    assert [row[-2:] for row in lines(out, "lanes")] == [["-", "-"], ["-", "-"]]
    assert figures.found["jax_ms"] is None and figures.found["step_ms"].keys() == {"1", "2"}


FAKE = """
import sys
__version__ = "0"
{}
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ImportError('built for another numpy')", "ImportError: built for another numpy"),
        ("sys.exit(3)", "its process ended without a word"),
    ],
)
def test_a_jax_that_does_not_work_is_said_and_the_rest_goes_on(
    code: str,
    said: str,
    noise: Dataset,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "jax.py").write_text(FAKE.format(code))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    out, figures = table(noise, capsys, lanes=(2,))
    assert out.endswith(f"jax: not measured: {said}\n")
    assert figures.found["jax_ms"] is None and figures.found["floor_ms"].keys() == {"2"}


def test_a_jax_that_fails_on_the_way_is_said_and_the_rest_goes_on(
    noise: Dataset, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Weak:
        def __init__(self, *_: Any) -> None:
            self.lanes = 0

        def __enter__(self) -> Weak:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def prepare(self, params: Any, lrs: list[float], order: Any) -> None:
            self.lanes = len(lrs)

        def run(self, count: int) -> None:
            if self.lanes == 2:
                raise NotMeasured("out of memory")

    monkeypatch.setattr(bench_jax, "Jax", Weak)
    out, figures = table(noise, capsys, lanes=(1, 2, 3))
    assert out.endswith("jax: not measured: 2 lanes: out of memory\n")
    assert figures.found["jax_ms"].keys() == {"1"}
    assert figures.found["step_ms"].keys() == {"1", "2", "3"}


@pytest.mark.skipif(not HAS_JAX, reason="jax is not installed: pip install 'lrlab[bench]'")
@pytest.mark.skipif(torch.cuda.is_available(), reason="here jax may have a GPU")
def test_a_jax_without_a_gpu_is_not_set_against_one(noise: Dataset) -> None:
    with pytest.raises(NotMeasured, match="has cpu only"):
        Jax(noise.train_x.numpy(), noise.train_y.numpy(), "cuda:0", threads=1)


def test_a_loader_without_torchvision_is_said(
    noise: Dataset, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    figures = Figures()
    assert bench._loops(options(), noise, figures) == []
    assert figures.found == {"loader_ms": None}
    assert capsys.readouterr().out.startswith("DataLoader script: not measured: data: torchvision")


def test_a_part_that_fails_is_said_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def python(words: list[str], folder: Path) -> str:
        if words[0] == "lrlab.sweep":
            raise NotMeasured("no room")
        return json.dumps({"peak": 1000 * int(words[1]), "predicted": 900})

    monkeypatch.setattr(bench_process, "_python", python)
    figures = Figures()
    bench._processes(options(), figures)
    assert capsys.readouterr().out.startswith("sweep: not measured: no room\nmemory: 0.0 MB")
    assert figures.found == {"lane_bytes": 1000, "lane_bytes_predicted": 900}


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(NotMeasured, match=r"No module named lrlab\.nothing"):
        bench_process._python(["lrlab.nothing"], Path.cwd())


def test_whole_trainings_are_set_against_the_loop(
    noise: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = Figures({"resident_ms": 2.0})
    bench._gpu(options(), noise, figures, lanes=3, epochs=2)
    whole = figures.found["whole"]
    assert whole["resident_seconds"] == pytest.approx(3 * 20 * 0.002)  # lanes, steps, seconds
    assert whole["seconds"] > 0
    assert capsys.readouterr().out.startswith("3 learning rates, 2 epochs: ")


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--lanes=0", "--lanes=0: must be whole numbers from 1, for example --lanes=1,3,8,32,128"),
        ("--lanes a", "--lanes=a: must be whole numbers"),
        ("--lanes=1,,3", "--lanes=: must be whole numbers"),
        ("--threads=9999", "--threads=9999: more than this machine's cores, of which there are "),
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
        ("--json", "--json: needs a value, as --json FILE"),
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
        "lrlab: --json=x.json: nothing can be written into . (Permission denied); "
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
        "assert not {'torch', 'hydra', 'numpy', 'jax'} & set(sys.modules)\n"
    )
    done = process("-W", "error", "-c", code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--lanes" in done.stdout and "pip install 'lrlab[bench]'" in done.stdout


def test_the_names_and_shapes_are_those_of_the_default_network() -> None:
    (spec,) = bench_torch.specs(OVERRIDES, [0.1])
    assert (spec["batch_size"], spec["diagnostics"]) == (bench_torch.BATCH_SIZE, "off")
    hidden = list(spec["network"]["hidden"])
    assert [784, *hidden, 10] == list(bench_torch.LAYERS)
    assert math.prod((28, 28)) == bench_torch.LAYERS[0]
    assert spec["optimizer"]["_target_"] == "torch.optim.SGD"
    assert spec["loss"]["_target_"].endswith(".nll")


def test_this_very_lrlab_is_found_from_any_folder(tmp_path: Path) -> None:
    with mock.patch.dict(os.environ, {"PYTHONPATH": "elsewhere"}):
        path = bench_process.with_lrlab({"OWN": "1"})["PYTHONPATH"].split(os.pathsep)
    here = str(Path(bench.__file__).parents[1])
    assert path == list(dict.fromkeys([here, *filter(None, sys.path)]))
