"""The range test against ordinary torch loops and lrlab's own runs, and its command as typed."""

from __future__ import annotations

import copy
import functools
import json
import math
import random
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers.commands import Ended, command, files, process, strict_json
from helpers.networks import AlwaysNoisy, BatchNorm, Dropout
from helpers.training import CLASSES, IN_SHAPE, Trainer
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lrlab.data import Dataset
from lrlab.errors import UserError
from lrlab.find import USAGE, Options, find, main
from lrlab.networks import MLP
from lrlab.plan import build
from lrlab.range_test import training
from lrlab.range_test.command import read_options
from lrlab.range_test.constants import read_constants
from lrlab.range_test.ramp import SMOOTHING

SHORT: Any = {"lr": (1e-3, 10.0), "points": 5, "steps": 30}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def mlp(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return MLP(IN_SHAPE, CLASSES, hidden=(16,))


# --- against others -------------------------------------------------------------------------------


def loop(
    network: nn.Module,
    data: Dataset,
    make: Callable[..., torch.optim.Optimizer],
    lrs: Any,
    loss: Any = F.cross_entropy,
) -> list[float]:
    """An everyday training loop, one lr a step."""
    network = copy.deepcopy(network).train()
    optimizer = make(network.parameters(), lr=1.0)
    found, batches = [], []
    while len(batches) < len(lrs):
        order = torch.from_numpy(build.batch_order(0, len(batches) // 10, len(data.train_y)))
        batches += [order[i * 64 : (i + 1) * 64] for i in range(10)]
    for lr, index in zip(lrs, batches, strict=False):
        value = loss(network(data.train_x[index]), data.train_y[index])
        optimizer.zero_grad()
        value.backward()
        optimizer.param_groups[0]["lr"] = float(lr)
        optimizer.step()
        found.append(float(value.detach()))
    return found


@pytest.mark.parametrize(
    "make",
    [
        torch.optim.SGD,
        functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True),
        torch.optim.Adam,
        torch.optim.NAdam,  # by the general way
    ],
)
def test_each_lr_and_the_ramp_train_as_in_torch(data: Dataset, make: Any) -> None:
    network = mlp()
    found = find(network, data, F.cross_entropy, make, lr=(1e-4, 0.1), points=3, steps=25)
    for lr, losses in zip(found.constant_lr, found.constant_losses.T, strict=True):
        truth = loop(network, data, make, [lr] * 25)
        np.testing.assert_allclose(losses, truth, rtol=3e-4, atol=1e-6)
    rise = 1e-4 * 1000 ** (np.arange(25) / 24)
    np.testing.assert_allclose(found.ramp_lr, rise, rtol=1e-12)
    np.testing.assert_allclose(found.ramp_loss, loop(network, data, make, rise), rtol=3e-4)


def test_constant_lrs_are_to_the_bit_the_runs_that_a_sweep_makes(
    trainer: Trainer, data: Dataset
) -> None:
    run, other = trainer.together(["lr=0.001", "lr=10.0"], "network.hidden=[16]")
    ramp = trainer.alone(
        "schedule=range_test schedule.min_lr=0.001 schedule.max_lr=10", "network.hidden=[16]"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MLP(IN_SHAPE, CLASSES, hidden=(16,))
    found = find(network, data, F.cross_entropy, lr=(1e-3, 10.0), points=2, steps=20)
    for column, truth in zip(found.constant_losses.T, (run, other), strict=True):
        recorded = truth.metrics["train_loss"][:20].to_numpy(np.float32)
        np.testing.assert_allclose(column, recorded, rtol=1e-5)  # nll and cross_entropy round apart
    np.testing.assert_allclose(found.ramp_loss, ramp.metrics["train_loss"][:20], rtol=1e-5)
    np.testing.assert_array_equal(found.ramp_lr, ramp.metrics["lr"][:20])


def test_where_a_quadratic_diverges_is_found() -> None:
    """One weight, loss ½·λ·(w − 1)² with noise in the targets: it diverges above 2/λ."""
    draw = torch.Generator().manual_seed(0)
    sharp = 8.0
    x = torch.full((640, 1), math.sqrt(sharp))
    y = x + 0.1 * torch.randn(640, 1, generator=draw)
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    found = find(
        network,
        (x, y),
        lambda outputs, targets: 0.5 * F.mse_loss(outputs, targets),
        lr=(1e-3, 10.0),
        points=41,
        steps=120,
    )
    assert found.constants.fails_from == found.constant_lr[found.constant_lr > 2 / sharp][0]
    assert found.best is not None and 0.05 / sharp < found.best < 2 / sharp
    assert found.ramp.blow_up is not None and found.ramp.blow_up > 2 / sharp  # it lags
    assert any("a blow-up takes some steps" in line for line in found.misleads)


# --- what it leaves alone -------------------------------------------------------------------------


class Partly(nn.Module):
    """Batch norm in different modes, a frozen layer, a gradient that someone still needs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(math.prod(IN_SHAPE), 12)
        self.norm = nn.BatchNorm1d(12)
        self.last = nn.Linear(12, CLASSES)
        self.first.requires_grad_(False)
        self.last.weight.grad = torch.ones_like(self.last.weight)
        self.norm.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x.flatten(1))).relu())


def everything(network: nn.Module) -> dict[str, Any]:
    state = {f"state {n}": t.detach().clone() for n, t in network.state_dict().items()}
    grads = {
        f"grad {n}": None if p.grad is None else p.grad.clone()
        for n, p in network.named_parameters()
    }
    modes = {f"mode {n}": m.training for n, m in network.named_modules()}
    asked = {f"asked {n}": p.requires_grad for n, p in network.named_parameters()}
    places = {f"place {n}": p.data_ptr() for n, p in network.named_parameters()}
    return {**state, **grads, **modes, **asked, **places}


def equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other


@pytest.mark.full(after=3)
@pytest.mark.parametrize("kind", ["tensors", "loader", "own generator", "dataset"])
@pytest.mark.parametrize(
    "make",
    [Partly, lambda: Dropout(CLASSES), lambda: AlwaysNoisy(CLASSES), lambda: BatchNorm(CLASSES)],
)
def test_network_data_and_randomness_are_left_as_they_were(
    data: Dataset, make: Callable[[], nn.Module], kind: str
) -> None:
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    network = make()
    given: Any = {
        "tensors": (data.train_x, data.train_y),
        "loader": DataLoader(TensorDataset(data.train_x, data.train_y), 64, shuffle=True),
        "own generator": DataLoader(
            TensorDataset(data.train_x, data.train_y),
            64,
            shuffle=True,
            generator=torch.Generator().manual_seed(3),
        ),
        "dataset": data,
    }[kind]
    x, y = data.train_x.clone(), data.train_y.clone()
    before = everything(network)
    states = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    found = find(network, given, F.cross_entropy, torch.optim.Adam, **SHORT)
    after = everything(network)
    assert before.keys() == after.keys()
    assert all(equal(before[name], after[name]) for name in before)
    assert torch.equal(torch.get_rng_state(), states[0])
    if kind == "own generator":
        assert given.generator.initial_seed() == 3
        fresh = torch.Generator().manual_seed(3)
        assert torch.equal(given.generator.get_state(), fresh.get_state())
    assert random.getstate() == states[1] and repr(np.random.get_state()) == states[2]
    assert torch.equal(data.train_x, x) and torch.equal(data.train_y, y)
    assert np.isfinite(found.constant_losses[:, 0]).all()


@pytest.mark.full
def test_the_same_question_has_the_same_answer(data: Dataset) -> None:
    for network in (mlp(), Dropout(CLASSES)):
        torch.manual_seed(1)
        one = find(network, data, F.cross_entropy, **SHORT)
        torch.manual_seed(2)
        other = find(network, data, F.cross_entropy, **SHORT)
        np.testing.assert_array_equal(one.constant_losses, other.constant_losses)
        np.testing.assert_array_equal(one.ramp_loss, other.ramp_loss)


# --- what it takes --------------------------------------------------------------------------------


def test_tensors_a_loader_and_a_generator_give_the_same(data: Dataset) -> None:
    order = torch.from_numpy(build.batch_order(0, 0, 640))
    batches = [(data.train_x[i], data.train_y[i]) for i in order.split(64)]
    batches += [(data.train_x[:5], data.train_y[:5])]  # a last partial one, which is dropped
    settings: Any = {**SHORT, "steps": 10}
    truth = find(mlp(), (data.train_x, data.train_y), F.cross_entropy, **settings)
    for given in (batches, (batch for batch in batches)):
        found = find(mlp(), given, F.cross_entropy, **settings)
        np.testing.assert_array_equal(found.constant_losses, truth.constant_losses)
    again: Any = {**SHORT, "steps": 25}  # more than one pass
    loader = find(mlp(), batches, F.cross_entropy, **again)
    once = find(mlp(), (batch for batch in batches), F.cross_entropy, **again)
    np.testing.assert_array_equal(loader.constant_losses, once.constant_losses)


@pytest.mark.full
def test_the_ramp_may_be_longer_or_shorter_than_the_others(data: Dataset) -> None:
    base = find(mlp(), data, F.cross_entropy, lr=(1e-3, 1.0), points=3, steps=120)
    for ramp_steps in (15, 230):
        found = find(
            mlp(),
            data,
            F.cross_entropy,
            lr=(1e-3, 1.0),
            points=3,
            steps=120,
            ramp_steps=ramp_steps,
        )
        assert len(found.ramp_loss) == ramp_steps and np.isfinite(found.ramp_loss).all()
        np.testing.assert_array_equal(found.constant_losses, base.constant_losses)


def test_a_lane_that_becomes_non_finite_leaves_and_changes_no_other(data: Dataset) -> None:
    settings: Any = {"points": 3, "steps": 150}
    found = find(mlp(), data, F.cross_entropy, lr=(1e-3, 1e35), **settings)
    first = int(np.argmin(np.isfinite(found.constant_losses[:, 2])))
    assert 0 < first < 10
    assert np.isnan(found.constant_losses[first + 1 :, 2]).all()
    small = find(mlp(), data, F.cross_entropy, lr=(1e-3, 1e-2), **settings)
    np.testing.assert_array_equal(found.constant_losses[:, 0], small.constant_losses[:, 0])
    assert found.constants.fails_from in found.constant_lr
    assert found.ramp.blow_up is not None


def test_where_memory_does_not_hold_all_lanes_they_are_trained_in_parts(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = find(mlp(), data, F.cross_entropy, **SHORT)
    train, widths = training._train, []

    def small_memory(subject: Any, lrs: np.ndarray, *rest: Any) -> None:
        widths.append(lrs.shape[1])
        if lrs.shape[1] > 2:
            raise MemoryError
        train(subject, lrs, *rest)

    monkeypatch.setattr(training, "_train", small_memory)
    found = find(mlp(), data, F.cross_entropy, **SHORT)
    assert widths == [6, 3, 1, 1, 1, 1, 1, 1]
    np.testing.assert_array_equal(found.constant_losses, truth.constant_losses)
    np.testing.assert_array_equal(found.ramp_loss, truth.ramp_loss)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": nn.Flatten()}, "network: has nothing to train"),
        ({"data": 3}, "data: must be two tensors"),
        ({"data": (torch.zeros(5, 3), torch.zeros(4))}, "data: 5 samples and 4 targets"),
        ({"data": []}, "data: gives no mini-batch"),
        ({"data": [(torch.zeros(2, 3), 1)]}, "each mini-batch must be a pair of tensors"),
        ({"batch_size": 0}, "batch_size=0: must be from 1 to the 640 samples"),
        ({"batch_size": 641}, "batch_size=641"),
        ({"lr": (1.0, 0.1)}, "lr=1..0.1: must rise"),
        ({"lr": (1e-200, 1e200)}, "lr=1e-200..1e+200: must lie between 1e-150 and 1e+150"),
        ({"lr": (0.0, 0.1)}, "lr=0..0.1: its end 0 must be a finite number above 0"),
        ({"points": 1}, "points=1: must be a whole number of at least 2"),
        ({"steps": 9}, "steps=9: must be a whole number of at least 10"),
        ({"smoothing": 0.7}, "smoothing=0.7: must be from 0 to 0.5"),
        ({"optimizer": "sdg"}, "optimizer=sdg: no such optimizer"),
        ({"optimizer": functools.partial(torch.optim.SGD, [])}, "keyword arguments only"),
        ({"optimizer": torch.optim.LBFGS}, "evaluates the loss several times"),
    ],
)
def test_what_cannot_work_is_said(data: Dataset, change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"network": mlp(), "data": data, "loss": F.cross_entropy, **SHORT}
    with pytest.raises(UserError, match=re.escape(message)):
        find(**{**given, **change})


# --- the command ----------------------------------------------------------------------------------

QUICK = ("data.train_size=320", "data.val_size=100", "threads=1", "network.hidden=[16]")
TINY = (*QUICK, "lr=1e-3..10", "points=4", "steps=20")


def run(*arguments: str, cwd: Path) -> Ended:
    return command(main, arguments, cwd)


def test_the_command_records_draws_and_says_what_to_run_next(tmp_path: Path) -> None:
    ended = run(*TINY, "optimizer=momentum", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    (folder,) = (tmp_path / "outputs").iterdir()
    assert re.fullmatch(r"find_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", folder.name)
    records = ["config.yaml", "constant.csv", "find.png", "held_out.csv", "ramp.csv"]
    assert files(folder) == [*records, "suggestions.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]

    answer = strict_json((folder / "suggestions.json").read_text("utf-8"))
    constant = pd.read_csv(folder / "constant.csv")
    assert len(constant) == 4 * 20
    table = constant.pivot(index="step", columns="lr", values="loss")
    read = read_constants(table.columns.to_numpy(), table.to_numpy())
    assert answer["train_best_lr"] == read.best
    held_out = pd.read_csv(folder / "held_out.csv")
    held_out = held_out[held_out["test"] == "constant"]
    table = held_out.pivot(index="step", columns="lr", values="loss")
    read = read_constants(table.columns.to_numpy(), table.to_numpy(), 4)
    assert answer["best_lr"] == read.best and answer["fails_from"] == read.fails_from
    assert (answer["judged_by"], answer["held_out_samples"]) == ("held-out loss", 100)
    ramp = pd.read_csv(folder / "ramp.csv")
    np.testing.assert_allclose(ramp["lr"], 1e-3 * 1e4 ** (np.arange(20) / 19), rtol=1e-12)
    assert [each["rule"] for each in answer["suggestions"]] == ["steepest", "valley", "minimum/10"]
    assert answer["options"] == {
        "low": 1e-3,
        "high": 10.0,
        "points": 4,
        "steps": 20,
        "ramp_steps": 20,
        "smoothing": 0.03,
    }
    assert OmegaConf.load(folder / "config.yaml").optimizer.momentum == 0.9

    lines = ended.out.splitlines()
    assert f"constant lr {read.best:.3g} did best in 20 steps" in ended.out
    (following,) = (line for line in lines if line.startswith("next"))
    words = shlex.split(following.removeprefix("next"))
    assert words[:3] == ["python", "-m", "lrlab.sweep"]
    assert words[3:-2] == [*QUICK, "optimizer=momentum"] and words[-1] == "points=7"
    assert re.fullmatch(r"lr=[\de.-]+\.\.[\de.-]+", words[-2])
    assert answer["next"] == shlex.join(words)


@pytest.mark.full
def test_a_name_is_the_folders_and_is_not_taken_over(tmp_path: Path) -> None:
    first = run(*TINY, "name=here", "output=mine", "plots=false", cwd=tmp_path)
    assert first.code == 0
    folder = tmp_path / "mine" / "here"
    records = ["config.yaml", "constant.csv", "held_out.csv", "ramp.csv", "suggestions.json"]
    assert files(folder) == records
    assert "name=here" not in first.out and "output=mine" in first.out
    again = run(*TINY, "name=here", "output=mine", cwd=tmp_path)
    assert again.code == 2 and "name=here" in again.err and "is there already" in again.err


def test_where_nothing_is_learned_it_says_so_with_its_exit_code(tmp_path: Path) -> None:
    ended = run(*QUICK, "lr=1e-12..1e-10", "points=3", "steps=20", cwd=tmp_path)
    assert (ended.code, ended.err) == (1, "")
    assert "no learning rate to suggest: no lr brought the loss below its start" in ended.out
    assert "next" not in ended.out
    (folder,) = (tmp_path / "outputs").iterdir()
    answer = json.loads((folder / "suggestions.json").read_text("utf-8"))
    assert answer["best_lr"] is None and answer["next"] is None and answer["why_none"]


def test_hydras_own_flags_show_and_train_nothing(tmp_path: Path) -> None:
    ended = run(*QUICK, "optimizer=adam", "--cfg", "job", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert OmegaConf.create(ended.out).optimizer._target_ == "torch.optim.Adam"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.full(after=16)
@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("lr=0.1", "lr=0.1: must be a range of learning rates, for example lr=1e-5..10"),
        ("lr=0.01,0.1", "lr=0.01,0.1: must be a range of learning rates"),
        ("lr=0.1..inf", "lr=0.1..inf: its end inf must be a finite number above 0"),
        ("lr=10..1", "lr=10..1: must rise, for example lr=1e-5..10"),
        ("lr=0..1", "lr=0..1: its end 0 must be a finite number above 0"),
        ("points=many", "points=many: must be a whole number, for example points=32"),
        ("points=1", "points=1: must be a whole number of at least 2"),
        ("steps=2.5", "steps=2.5: must be a whole number, for example steps=300"),
        ("ramp_steps=3", "ramp_steps=3: must be a whole number of at least 10"),
        ("smoothing=x", "smoothing=x: must be a number from 0 to 0.5"),
        ("smoothing=nan", "smoothing=nan: must be from 0 to 0.5"),
        ("schedule=cosine", "schedule=cosine: the range test has its own schedules"),
        ("schedule.gamma=1", "schedule.gamma=1: the range test has its own schedules"),
        ("network=mpl", "network=mpl: no such choice (did you mean mlp?)"),
        ("optimzer=adam", "optimzer: no such option (did you mean optimizer?)"),
        ("optimizer.beta=1", "optimizer.beta: no such option"),
        ("batch_size=0", "batch_size=0: must be at least 1"),
        ("batch_size=1000", "batch_size=1000: more than the 320 training samples"),
        ("seed=x", "seed=x: must be a whole number"),
        ("seed=0,1", "seed=0,1: several values, where one run is trained"),
        ("network=mlp,cnn", "network=mlp,cnn: several values"),
        ("data=5", "a group takes the name of a choice"),
        ("device=cuda:99", "device=cuda:99"),
        ("name=a/b", "name=a/b: must be one folder's name"),
        ("nonsense", "nonsense: not understood"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path: Path, words: str, line: str) -> None:
    ended = run(*QUICK, words, cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"lrlab: {line}") and ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_options_are_read_as_a_sweep_reads_them() -> None:
    options, rest = read_options(["lr='interval(1e-4, 1)'", "network=cnn", "steps=50"])
    assert options == Options(1e-4, 1.0, steps=50, ramp_steps=50)
    assert rest == ["network=cnn"]
    assert read_options(["steps=50", "ramp_steps=80"])[0].ramp_steps == 80
    assert read_options([])[0] == Options()


def test_the_help_answers_without_torch_and_tells_the_defaults(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['lrlab.find', '--help']\n"
        "from lrlab import find; find.main()\n"
        "print(sorted({'torch', 'hydra', 'numpy', 'omegaconf'} & set(sys.modules)))\n"
    )
    ended = process("-c", code, cwd=tmp_path)
    assert ended.stderr == ""
    assert ended.stdout == USAGE + "[]\n"
    told = dict(re.findall(r"^  (\w+)=(\S+)  ", USAGE, flags=re.MULTILINE))
    default = Options()
    assert told["lr"] == f"{default.low:g}..{default.high:g}".replace("1e-05", "1e-5")
    for name in ("points", "steps", "ramp_steps", "smoothing"):
        assert told[name] == f"{getattr(default, name):g}"
    assert default.smoothing == SMOOTHING
    assert all(len(line) <= 100 for line in USAGE.splitlines())
