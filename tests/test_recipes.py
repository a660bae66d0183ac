"""Options around a step: clipping, smoothed labels, parameter groups. Truth: an ordinary loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.commands import command
from helpers.pools import stopped, went_on
from helpers.training import (
    Ordinary,
    Silent,
    Trainer,
    assert_equal_weights,
    assert_same_bits,
    assert_trained_like,
    evaluate,
    mlp,
    ordinary,
    read,
    tiny_images,
)
from torch import nn, optim
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lrlab import find, records, reproduce, resume, sweep
from lrlab.engine.optimizers.around import norms
from lrlab.errors import UserError
from lrlab.plan import build, checks
from lrlab.plan import spec as plan_spec
from lrlab.probes import branches
from lrlab.training import pool

NET = "network.hidden=[37,11]"
LONG = f"{NET} epochs=8"  # long enough for steps to be captured


def clipped(kind: type[optim.Optimizer], limit: float, **settings: Any) -> Callable[..., Any]:
    """An optimizer that clips as an ordinary loop does, just before its step."""

    def made(params: Any) -> optim.Optimizer:
        params = list(params)
        built = kind(params, **settings)
        built.register_step_pre_hook(lambda *_: clip_grad_norm_(params, limit) and None)
        return built

    return made


# --- clip_grad_norm -------------------------------------------------------------------------------

KINDS: dict[str, tuple[type[optim.Optimizer], dict[str, Any]]] = {
    "optimizer=sgd": (optim.SGD, {}),
    "optimizer=momentum optimizer.weight_decay=0.01": (
        optim.SGD,
        {"momentum": 0.9, "weight_decay": 0.01},
    ),
    "optimizer=adamw": (optim.AdamW, {}),
    "optimizer=only_target optimizer._target_=torch.optim.NAdam": (optim.NAdam, {}),
}


@pytest.mark.full(after=2)
@pytest.mark.parametrize("typed", KINDS)
def test_a_clipped_run_trains_as_in_torch(trainer: Trainer, typed: str) -> None:
    kind, settings = KINDS[typed]
    lr, limit = (0.3, 0.4) if kind is optim.SGD else (0.003, 0.4)
    run, loose = trainer.together(
        [f"lr={lr} clip_grad_norm={limit}", f"lr={lr} clip_grad_norm=1e6"], f"{LONG} {typed}"
    )
    data = tiny_images()
    truth = ordinary(mlp, data, clipped(kind, limit, lr=lr, foreach=False, **settings), epochs=8)
    assert_trained_like(run, truth, data, rtol=1e-4)
    assert not np.allclose(run.metrics["train_loss"], loose.metrics["train_loss"], equal_nan=True)


def test_a_clipped_lane_has_its_own_bits_and_a_high_limit_changes_none(trainer: Trainer) -> None:
    runs = ["lr=0.3 clip_grad_norm=0.3", "lr=0.1 clip_grad_norm=1e9 seed=3", "lr=1e30 seed=1"]
    runs[2] += " clip_grad_norm=1"  # it diverges next to them
    common = f"{LONG} diagnostics=default"
    together = trainer.together(runs, common)
    for run, text in zip(together, runs, strict=True):
        alone = trainer.reference(text, common)
        assert_same_bits(run, alone)
        files = [each.folder / "diagnostics.csv" for each in (run, alone)]
        measured = [file.read_bytes() if file.exists() else b"" for file in files]
        assert measured[0] == measured[1]
    assert_same_bits(together[1], trainer.reference("lr=0.1 seed=3", common))
    plain = trainer.alone(runs[0], f"{common} capture=false")
    assert_same_bits(together[0], plain)


def test_the_norm_is_the_gradients_own_and_alpha_that_of_the_clipped_update(
    trainer: Trainer,
) -> None:
    """Along lr·limit/norm of the gradient: a step of plain descent at that rate."""
    limit = 0.2
    run = trainer.alone(f"lr=1 clip_grad_norm={limit}", f"{NET} epochs=1 diagnostics=full")
    first = records.read_diagnostics(run.folder).iloc[0]
    assert first["grad_norm"] > limit
    again = trainer.alone(
        f"lr={limit / first['grad_norm']}", f"{NET} epochs=1 diagnostics=full"
    )
    same = records.read_diagnostics(again.folder).iloc[0]
    assert first["grad_norm"] == same["grad_norm"]
    for name in ("alpha", "update_ratio", "sharpness"):
        assert first[name] == pytest.approx(same[name], rel=1e-3), name


@pytest.mark.unit
@pytest.mark.parametrize("threads", [1, 2])
def test_norms_have_the_bits_that_a_lane_has_alone(threads: int) -> None:
    draw = torch.Generator().manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for shapes in ([(3, 5), (3,)], [(784, 64), (64,), (10, 64)], [(1,)], [(512, 256), (7,)]):
            tensors = [torch.randn(9, *shape, generator=draw) for shape in shapes]
            found = norms(tensors)
            for lane in range(9):
                whole = torch.cat([t[lane].flatten().double() for t in tensors])
                assert float(found[lane]) == pytest.approx(float(whole.norm()), rel=1e-6)
                for part in (slice(lane, lane + 1), slice(lane, lane + 3)):
                    assert torch.equal(norms([t[part] for t in tensors]), found[part])
    finally:
        torch.set_num_threads(before)


@pytest.mark.unit
def test_an_exploding_gradient_has_a_finite_norm() -> None:
    assert norms([torch.full((1, 4), 1e25)]).tolist() == pytest.approx([2e25])
    assert norms([torch.full((1, 4), 1e-10)]).tolist() == pytest.approx([2e-10])


@pytest.mark.unit
@pytest.mark.parametrize("value", ["0", "-1", ".inf", ".nan"])
def test_a_limit_that_cannot_work_is_one_line(trainer: Trainer, value: str) -> None:
    with pytest.raises(UserError, match=r"^clip_grad_norm=.*: must be null or a finite number abo"):
        trainer.specs(["lr=0.1"], f"clip_grad_norm={value}")


# --- label smoothing ------------------------------------------------------------------------------


def smoothed(share: float) -> Callable[..., torch.Tensor]:
    loss = nn.CrossEntropyLoss(label_smoothing=share)
    return lambda s, y: loss(s, y) if torch.is_grad_enabled() else F.cross_entropy(s, y)


@pytest.mark.parametrize("loss", ["nll", "cross_entropy"])
def test_labels_are_smoothed_in_training_alone(trainer: Trainer, loss: str) -> None:
    common = f"{LONG} loss={loss} loss.label_smoothing=0.2"
    run, other = trainer.together(["lr=0.3", "lr=0.1"], common)
    assert_same_bits(other, trainer.alone("lr=0.1", common))
    data = tiny_images()
    made = partial(optim.SGD, lr=0.3, foreach=False)
    assert_trained_like(run, ordinary(mlp, data, made, epochs=8, loss=smoothed(0.2)), data)
    plain = trainer.reference("lr=0.3", f"{LONG} loss={loss}")
    assert run.summary["chance_loss"] == plain.summary["chance_loss"]
    assert run.summary["initial_loss"] == plain.summary["initial_loss"]
    assert run.metrics["train_loss"].iloc[0] != plain.metrics["train_loss"].iloc[0]


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("loss.label_smoothing=1", "loss.label_smoothing=1: must be a number from 0, below 1"),
        ("loss.label_smoothing=-0.1", "loss.label_smoothing=-0.1: must be a number from 0"),
        ("loss.label_smoothing=x", "loss.label_smoothing=x: must be a number from 0"),
        ("loss=mse_one_hot loss.label_smoothing=0.1", "loss.label_smoothing=0.1: mse_one_hot has"),
    ],
)
def test_a_smoothing_that_cannot_work_is_one_line(trainer: Trainer, typed: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        checks.check_runs(trainer.specs(["lr=0.1"], typed))
    assert str(caught.value).startswith(line)


# --- parameter groups -----------------------------------------------------------------------------

def grouped(head: float = 10, decay: float = 0) -> str:
    own = f'"layers.2":{{"lr":{head}}},"*.bias":{{"weight_decay":{decay}}}'
    return f"optimizer.groups={{{own}}}"


def in_groups(kind: type[optim.Optimizer], lr: float, **settings: Any) -> Callable[..., Any]:
    """torch's own groups: the last layer at 10 times lr, and no decay of biases."""

    def made(params: Any) -> optim.Optimizer:
        *body, weight, bias = params
        groups = [
            {"params": [p for p in body if p.ndim > 1]},
            {"params": [p for p in body if p.ndim == 1], "weight_decay": 0.0},
            {"params": [weight], "lr": 10 * lr},
            {"params": [bias], "lr": 10 * lr, "weight_decay": 0.0},
        ]
        return kind(groups, lr=lr, weight_decay=0.1, foreach=False, **settings)

    return made


OF_KIND: dict[str, Any] = {
    "optimizer=momentum": (optim.SGD, {"momentum": 0.9}),
    "optimizer=adamw": (optim.AdamW, {}),
    "optimizer=rmsprop": (optim.RMSprop, {}),
    "optimizer=adam optimizer.amsgrad=true": (optim.Adam, {"amsgrad": True}),  # the general way
    "optimizer=only_target optimizer._target_=torch.optim.NAdam": (optim.NAdam, {}),
}


@pytest.mark.full(after=2)
@pytest.mark.parametrize("typed", OF_KIND)
def test_groups_train_as_torchs_own(trainer: Trainer, typed: str) -> None:
    kind, settings = OF_KIND[typed]
    lr = 0.01 if kind is optim.SGD else 0.001
    common = f"{LONG} {typed} optimizer.weight_decay=0.1 schedule=cosine"
    runs = [f"lr={lr} {grouped()}", f"lr={lr} {grouped(0.5, 0.3)}", f"lr={lr} {grouped(1, 0.1)}"]
    together = trainer.together(runs, common)
    data = tiny_images()
    made = in_groups(kind, lr, **settings)
    truth = ordinary(mlp, data, made, lambda o: CosineAnnealingLR(o, 80), True, epochs=8)
    truth.lr = [rate if place else lr for place, rate in enumerate(truth.lr)]
    assert_trained_like(together[0], truth, data, rtol=3e-4)
    assert_same_bits(together[0], trainer.alone(runs[0], common))
    # groups of the optimizer's own settings are none
    assert_same_bits(together[2], trainer.alone(f"lr={lr}", common))
    assert "parameter groups at 1, 10 times lr" in together[0].log
    assert ("slower" in together[0].log) == ("NAdam" in typed or "amsgrad" in typed)


def test_a_group_at_rate_0_stays_at_its_start(trainer: Trainer) -> None:
    frozen = 'optimizer.groups={"layers.0.*":{"lr":0}}'
    run = trainer.alone(f"lr=0.1 {frozen}", f"{LONG} diagnostics=full")
    torch.manual_seed(0)
    before = mlp().state_dict()
    same = {name for name, tensor in before.items() if torch.equal(tensor, run.weights[name])}
    assert same == {"layers.0.weight", "layers.0.bias"}
    measured = records.read_diagnostics(run.folder)
    assert bool(np.isfinite(measured["stability_ratio"]).all())


def test_the_stability_ratio_counts_with_each_groups_rate(trainer: Trainer) -> None:
    """All parameters at 4 times lr are a run at 4 times lr."""
    every = 'optimizer.groups={"*":{"lr":4}}'
    for optimizer in ("momentum", "adam"):
        common = f"{NET} epochs=2 diagnostics=full optimizer={optimizer}"
        one = records.read_diagnostics(trainer.alone(f"lr=0.005 {every}", common).folder)
        other = records.read_diagnostics(trainer.alone("lr=0.02", common).folder)
        # Adam's square root of the divisor rounds otherwise
        np.testing.assert_allclose(one["stability_ratio"], other["stability_ratio"], rtol=2e-2)
        np.testing.assert_allclose(one["alpha"].iloc[:5], other["alpha"].iloc[:5], atol=1e-3)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("{head:{lr:10}}", "optimizer.groups.head: matches no parameter that is trained; these ar"),
        ("{layers.1:{lr:2},*.1.*:{lr:3}}", "optimizer.groups: layers.1 and *.1.* both set lr of "),
        ("{layers.1:{lr:-1}}", "optimizer.groups.layers.1.lr=-1: must be a number of at least 0"),
        ("{layers.1:{lr:x}}", "optimizer.groups.layers.1.lr=x: must be a number of at least 0"),
        ("{layers.1:{wd:0}}", "optimizer.groups.layers.1.wd=0: a group has no such setting; it t"),
        ("{layers.1:{}}", "optimizer.groups={'layers.1': {}}: must give settings to patterns"),
        ("3", "optimizer.groups=3: must give settings to patterns of parameters' names, for"),
        ("[head]", "optimizer.groups=['head']: must give settings to patterns"),
    ],
)
def test_groups_that_cannot_work_are_one_line(typed: str, line: str, here: Path) -> None:
    ended = command(sweep.main, [*FEW, f"optimizer.groups={typed}"], here)
    assert ended.code == 2 and ended.err.startswith(f"lrlab: {line}"), ended.err
    assert len(ended.err.splitlines()) == 1 and not (here / "outputs").exists()


def test_an_optimizer_without_decay_has_none_in_a_group(here: Path) -> None:
    words = ["optimizer._target_=torch.optim.Rprop", "optimizer.groups={layers.1:{weight_decay:1}}"]
    ended = command(sweep.main, [*FEW, *words], here)
    told = "optimizer.groups.layers.1.weight_decay=1: Rprop has no weight decay"
    assert ended.code == 2 and told in ended.err, ended.err


# --- accumulate -----------------------------------------------------------------------------------


def in_parts(count: int, size: int = 32) -> Callable[..., torch.Tensor]:
    """The mean loss of so many mini-batches, with the sum of their gradients, as loss/count has."""

    def loss(scores: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return F.cross_entropy(scores, y)
        pairs = zip(scores.split(size), y.split(size), strict=True)
        return sum((F.cross_entropy(*pair) / count for pair in pairs), torch.zeros(()))

    return loss


def test_gradients_are_accumulated_over_mini_batches(trainer: Trainer) -> None:
    common = f"{LONG} batch_size=32 accumulate=4 optimizer=momentum diagnostics=default"
    run, other = trainer.together(["lr=0.1", "lr=0.03 seed=2"], common)
    data = tiny_images()
    made = partial(optim.SGD, lr=0.1, momentum=0.9, foreach=False)
    truth = ordinary(mlp, data, made, epochs=8, loss=in_parts(4), batch_size=128)
    assert_trained_like(run, truth, data)
    assert run.summary["steps_per_epoch"] == 640 // 128
    assert "40 steps of 128 samples" in run.log
    assert_same_bits(other, trainer.alone("lr=0.03 seed=2", f"{common} capture=false"))


class Norm(nn.Module):
    """Batch norm and dropout: each mini-batch has statistics and drawn numbers of its own."""

    def __init__(self, in_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.into = nn.Linear(int(np.prod(in_shape)), 13)
        self.norm = nn.BatchNorm1d(13)
        self.out = nn.Linear(13, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.norm(self.into(x.flatten(1))).relu())


class Dropping(Norm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.dropout(x, 0.5, self.training))


def test_each_mini_batch_has_statistics_of_its_own(trainer: Trainer) -> None:
    common = f"network=custom network._target_={__name__}.Norm batch_size=32 accumulate=2"
    run = trainer.alone("lr=0.1", common)
    data = tiny_images()
    torch.manual_seed(0)
    net = Norm((1, 12, 12), 5)
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    losses = []
    for epoch in range(2):
        order = torch.from_numpy(build.batch_order(0, epoch, 640))
        for step in order.split(64):
            found = [F.cross_entropy(net(data.train_x[i]), data.train_y[i]) for i in step.split(32)]
            optimizer.zero_grad()
            for loss in found:
                (loss / 2).backward()
            optimizer.step()
            losses.append(float(sum(found).detach()) / 2)
    np.testing.assert_allclose(run.metrics["train_loss"].iloc[:-1], losses, rtol=2e-5)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(run.weights[name], tensor, rtol=1e-3, atol=1e-5)


def test_each_mini_batch_draws_its_own_numbers(trainer: Trainer) -> None:
    """Of equal halves of a batch the losses differ, by dropout alone; a lane has its own bits."""
    common = f"network=custom network._target_={__name__}.Dropping batch_size=32 accumulate=2"
    together = trainer.together(["lr=0.1", "lr=0.2"], common)
    assert_same_bits(together[1], trainer.alone("lr=0.2", common))
    one = trainer.alone("lr=0.1 accumulate=1 batch_size=64", f"{common}")
    assert one.metrics["train_loss"].iloc[0] != together[0].metrics["train_loss"].iloc[0]


def test_more_mini_batches_than_there_are_are_one_line(trainer: Trainer) -> None:
    with pytest.raises(UserError, match=r"^accumulate=11: with batch_size=64 more than the 640"):
        checks.check_runs(trainer.specs(["lr=0.1"], "accumulate=11"))
    with pytest.raises(UserError, match=r"^accumulate=0: must be at least 1"):
        trainer.specs(["lr=0.1"], "accumulate=0")


# --- ema ------------------------------------------------------------------------------------------


def averaging(share: float, epochs: int) -> tuple[Ordinary, nn.Module, list[tuple[float, float]]]:
    """An ordinary loop with torch's own average of the weights, evaluated at each epoch."""
    data, found = tiny_images(), []
    average: AveragedModel | None = None

    def made(params: Any) -> optim.Optimizer:
        return optim.SGD(params, lr=0.1, momentum=0.9, foreach=False)

    torch.manual_seed(0)
    net = Norm((1, 12, 12), 5).train()
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(share))
    optimizer = made(net.parameters())
    found.append(evaluate(net, data.val_x, data.val_y, F.cross_entropy))
    losses = []
    for epoch in range(epochs):
        order = torch.from_numpy(build.batch_order(0, epoch, 640))
        for index in order.split(64):
            loss = F.cross_entropy(net(data.train_x[index]), data.train_y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update_parameters(net)
            losses.append(float(loss.detach()))
        found.append(evaluate(average.module, data.val_x, data.val_y, F.cross_entropy))
    return Ordinary([], losses, [], net), average.module, found


OWN_NORM = f"network=custom network._target_={__name__}.Norm optimizer=momentum"


def test_the_average_of_the_weights_is_torchs(trainer: Trainer) -> None:
    common = f"{OWN_NORM} epochs=8 ema=0.9"
    run, other = trainer.together(["lr=0.1", "lr=0.02 seed=1"], common)
    truth, average, found = averaging(0.9, 8)
    np.testing.assert_allclose(run.metrics["train_loss"].iloc[:-1], truth.train_loss, rtol=1e-4)
    table = records.read_metrics(run.folder, averaged=True)
    table = table[table["val_loss"].notna()]
    losses, accuracies = zip(*found, strict=True)
    np.testing.assert_allclose(table["val_loss_ema"], losses, rtol=1e-4)
    np.testing.assert_allclose(table["val_acc_ema"], accuracies, atol=0.011)
    saved = torch.load(records.average_file(run.folder))
    for name, tensor in average.state_dict().items():
        torch.testing.assert_close(saved[name], tensor, rtol=1e-3, atol=1e-5)
    data = tiny_images()
    tested = evaluate(average, data.test_x, data.test_y, F.cross_entropy)
    assert run.summary["test_loss_ema"] == pytest.approx(tested[0], rel=1e-4)
    assert run.summary["val_loss_ema"] == pytest.approx(losses[-1], rel=1e-4)
    # it changes nothing else, and a lane's average is its own
    plain = trainer.alone("lr=0.1", common.replace("ema=0.9", ""))
    assert plain.results == run.results and "ema" not in plain.csv
    alone = trainer.alone("lr=0.02 seed=1", f"{common} capture=false")
    assert_same_bits(other, alone)
    assert other.summary["test_loss_ema"] == alone.summary["test_loss_ema"]
    averages = [torch.load(records.average_file(each.folder)) for each in (other, alone)]
    assert_equal_weights(*averages)


@pytest.mark.parametrize("optimizer", ["optimizer._target_=torch.optim.NAdam"])
def test_the_average_goes_on_from_a_checkpoint(trainer: Trainer, optimizer: str) -> None:
    """Of a torch optimizer a lane, too, and where one lane leaves early."""
    common = f"{NET} optimizer=only_target {optimizer} ema=0.8 clip_grad_norm=1"
    runs = ["lr=0.01", "lr=0.001 epochs=1", "lr=0.003"]
    specs = trainer.specs(runs, f"{common} checkpoint_every=auto")
    before = stopped(specs, 13)
    went_on(specs, before)
    for spec, text in zip(specs, runs, strict=True):
        again = trainer.alone(text, common)
        assert_same_bits(read(spec.folder), again)
        averages = [torch.load(records.average_file(f)) for f in (spec.folder, again.folder)]
        assert_equal_weights(*averages)


def test_a_share_that_cannot_work_is_one_line(trainer: Trainer) -> None:
    for value in ("0", "1", "-0.5", ".nan"):
        with pytest.raises(UserError, match=r"^ema=.*: must be null or between 0 and 1, for exam"):
            trainer.specs(["lr=0.1"], f"ema={value}")


# --- together, and as commands --------------------------------------------------------------------

RECIPE = f"clip_grad_norm=0.5 batch_size=32 accumulate=2 loss.label_smoothing=0.1 {grouped()}"
RECIPE += " schedule=wsd optimizer=adamw ema=0.9"


@pytest.mark.full(after=1)
@pytest.mark.parametrize("steps", [3, 17])
def test_a_run_goes_on_from_its_checkpoint(trainer: Trainer, steps: int) -> None:
    common = f"{LONG} {RECIPE} checkpoint_every=auto"
    specs = trainer.specs(["lr=0.01", "lr=0.003"], f"{common} capture=false")
    before = stopped(specs, steps)
    went_on(specs, before)
    for spec, text in zip(specs, ["lr=0.01", "lr=0.003"], strict=True):
        run = read(spec.folder)
        assert f"goes on from its checkpoint at step {steps}" in run.log
        assert_same_bits(run, trainer.reference(text, common))


def test_a_branch_goes_on_by_the_same_recipe(trainer: Trainer) -> None:
    recipe = f"clip_grad_norm=0.4 {grouped()} optimizer=momentum optimizer.weight_decay=0.1"
    specs = trainer.specs(["lr=0.01"], f"{NET} {recipe} diagnostics=full")
    pool.run(pool.Batch(specs), None, "cpu", Silent(), {0: 0})
    assert branches.test(specs, None, lambda: False) == []
    found = records.read_branches(specs[0].folder)
    longer = trainer.alone("lr=0.01 epochs=6", f"{NET} {recipe}")
    np.testing.assert_allclose(found["same"], longer.metrics["train_loss"].iloc[20:60], rtol=1e-4)


DATA = ("data=arrays", "data.path=points.npz", "network.hidden=[5]", "batch_size=16")
FEW = (*DATA, "epochs=4", "threads=1", "plots=false", "diagnostics=off", "device=cpu")
TYPED = (
    "clip_grad_norm=0.5",
    "accumulate=3",
    "ema=0.9",
    "loss.label_smoothing=0.1",
    """optimizer.groups={"layers.1": {lr: 3}, '*.bias':{weight_decay:0}}""",
    "optimizer=adamw",
    "schedule=wsd",
    "schedule.shape=1-sqrt",
)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(1600, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0.5)
    np.savez(tmp_path / "points.npz", x=x, y=y)
    return tmp_path


def test_a_sweep_is_resumed_reproduced_and_read(here: Path) -> None:
    ended = command(sweep.main, [*FEW, *TYPED, "lr=0.01,0.1", "name=s"], here)
    assert (ended.code, ended.err) == (0, ""), ended.err
    ended = command(reproduce.main, ["outputs/s/1"], here)
    assert ended.code == 0 and "bitwise" in ended.out, ended.out + ended.err
    ended = command(resume.main, ["outputs/s", "lr=0.01,0.1,0.3"], here)
    assert (ended.code, ended.err) == (0, ""), ended.err
    assert records.read_summary(here / "outputs/s/2")["state"] == "finished"


@pytest.mark.full(after=2)
@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("clip_grad_norm=0.1,10", [0.1, 10]),
        ("optimizer.groups.layers.1.lr=1,10", [1, 10]),
        ("clip_grad_norm=null,0.1", [None, 0.1]),
        ("loss.label_smoothing=0,0.3", [0, 0.3]),
        ("accumulate=1,2", [1, 2]),
        ("optimizer.groups={layers.1:{lr:1}},{layers.1:{lr:5}}", None),
    ],
)
def test_what_is_swept_is_a_setting_of_the_answer(
    typed: str, values: list[Any] | None, here: Path
) -> None:
    ended = command(sweep.main, [*FEW, typed, "lr=0.01,0.3", "name=s"], here)
    assert (ended.code, ended.err) == (0, ""), ended.err
    name = typed.partition("=")[0]
    assert f"{name}=" in ended.out.partition("answer")[2], ended.out
    found = [records.read_summary(here / f"outputs/s/{n}")[name] for n in range(4)]
    if values is None:
        values = ["{layers.1:{lr:1}}", "{layers.1:{lr:5}}"]
    assert found == [values[0]] * 2 + [values[1]] * 2 or found == values * 2
    runs = [(here / f"outputs/s/{n}/metrics.csv").read_bytes() for n in range(4)]
    assert len(set(runs)) == 4


def test_find_clips_and_groups_too(here: Path) -> None:
    """With gradients of a norm of 1e-6 the largest lr is too small; at rates of 0 nothing moves."""
    words = [*DATA, "threads=1", "plots=false", "steps=60", "points=8"]
    ended = command(find.main, [*words, "clip_grad_norm=1e-6", "name=a"], here)
    assert "lr 10 is the largest one tried" in ended.out, ended.out + ended.err
    frozen = "optimizer.groups={*:{lr:0}}"
    ended = command(find.main, [*words, frozen, "name=b"], here)
    assert ended.code == 1, ended.out


@pytest.mark.unit
def test_lanes_share_a_stack_whatever_the_values(trainer: Trainer) -> None:
    def keys(*runs: str) -> int:
        return len({plan_spec.group_key(spec) for spec in trainer.specs(runs)})

    assert keys("clip_grad_norm=1", "clip_grad_norm=2") == 1
    assert keys("clip_grad_norm=1", "lr=0.2") == 2
    assert keys(grouped(), grouped(3, 0.5)) == 1
    assert keys(grouped(), "lr=0.2") == 2
