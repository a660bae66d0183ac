"""lrlab.Probe in odd loops and wrong hands: nothing disturbed, no wrong word, one clear line."""

import contextlib
import copy
import math
import random
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrlab
from lrlab import records
from lrlab.errors import UserError
from lrlab.own_loop import probe as probes
from lrlab.own_loop import words
from lrlab.own_loop.measuring import Measured
from lrlab.verdicts import loading

pytestmark = pytest.mark.unit

X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))


def walk(
    model: nn.Module,
    optimizer: Any,
    loss: Callable[[], Tensor],
    folder: Path,
    steps: int = 4,
    **options: Any,
) -> lrlab.Probe:
    probe = lrlab.Probe(model, optimizer, folder, **{"every": 1, **options})
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        with probe.step(loss):
            optimizer.step()
    return probe


def test_misuse_is_one_line_before_anything_is_changed(tmp_path: Path) -> None:
    model = nn.Linear(3, 1)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    without = torch.optim.SGD(model.parameters(), lr=0.1)
    without.param_groups[0]["lr"] = None

    def loss() -> Tensor:
        return model(X).square().mean()

    def make(**options: Any) -> lrlab.Probe:
        return lrlab.Probe(model, sgd, **{"folder": tmp_path, **options})

    cases: list[tuple[str, Callable[[], Any]]] = [
        ("folder=None: must be", lambda: make(folder=None)),
        ("curvature: must be a function, such as .* not Tensor", lambda: make(curvature=loss())),
        ("settings: 1=2: the name must be a text", lambda: make(settings={1: 2})),
        ("settings=5: must be a dict", lambda: make(settings=5)),
        ("settings: seed='a': must be a number$", lambda: make(settings={"seed": "a"})),
        ("its lr is None", lambda: lrlab.Probe(model, without, tmp_path)),
    ]
    for line, attempt in cases:
        with pytest.raises(UserError, match=line):
            attempt()
    assert not [*tmp_path.iterdir()]

    probe = make(every=1)
    computed = loss()
    loss().backward()
    before = copy.deepcopy(model.state_dict())
    numbers: Any = lambda *_: float(loss().detach())  # noqa: E731
    steps: list[tuple[str, Callable[[], Any]]] = [
        ("loss: must be a function, such as .* not Tensor", lambda: probe.step(computed)),  # type: ignore[arg-type]
        ("loss: must be a function, .* not NoneType", lambda: probe.step(None)),  # type: ignore[arg-type]
        ("batches=5: must be", lambda: probe.branch(batches=5, loss=numbers)),  # type: ignore[arg-type]
        ("loss: must be a function", lambda: probe.branch(batches=[X], loss=computed)),  # type: ignore[arg-type]
        ("not float", lambda: probe.branch(2, batches=[X], loss=numbers)),
        ("before_step: must", lambda: probe.branch(batches=[X], loss=numbers, before_step=1)),  # type: ignore[arg-type]
    ]
    for line, attempt in steps:
        with pytest.raises(UserError, match=line):
            attempt()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    for line, wrong in (
        ("must return a tensor of floating point, not float", numbers),
        (r"one for each sample, not \(8, 1\)", lambda: model(X)),
        ("it was computed before the step", lambda: computed),
        ("does not depend on the optimizer's parameters", lambda: computed.detach()),
    ):
        with pytest.raises(UserError, match=line), probe.step(wrong):
            sgd.step()
    with pytest.raises(UserError, match="its parameters changed"), probe.step(loss):
        sgd.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    assert probe.measured == []


class Deep(nn.Module):
    """A network that counts in everything but objects of a class of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))
        self.nested = {"a": [[0], {"t": torch.zeros(1)}], "b": (torch.zeros(1), [0])}
        self.array, self.queue, self.set = np.zeros(2), deque([0], maxlen=2), {0}
        self.drawn: list[Any] = [np.random.default_rng(0), np.random.RandomState(0)]
        self.drawn += [random.Random(0), torch.Generator()]
        self.hidden = [nn.BatchNorm1d(3)]  # not registered
        self.register_buffer("nothing", None)

    def forward(self, x: Tensor) -> Tensor:
        self.nested["a"][0][0] += 1
        self.nested["a"][1]["t"] += 1
        self.nested["b"][0].add_(1)
        self.nested["b"][1].append(1)
        self.array += 1
        self.queue.append(len(self.set))
        self.set.add(len(self.set))
        noise = sum(each.random() for each in self.drawn[:3:2]) + self.drawn[1].rand()
        noise += float(torch.rand((), generator=self.drawn[3])) + np.random.randn()
        return self.hidden[0](x * self.w).square().mean() + noise * self.w.mean()


def test_what_modules_hold_deep_inside_is_put_back(tmp_path: Path) -> None:
    np.random.seed(0)
    model = Deep()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = lrlab.Probe(model, optimizer, tmp_path, 1)
    model(X).backward()
    plain = copy.deepcopy({k: v for k, v in vars(model).items() if k[0] != "_" and k != "drawn"})
    states = [model.drawn[0].bit_generator.state, model.drawn[1].get_state()[1].tolist()]
    states += [model.drawn[2].getstate(), model.drawn[3].get_state().tolist()]
    buffers = copy.deepcopy(model.hidden[0].state_dict())
    of_numpy = np.random.get_state()
    with probe.step(lambda: model(X)):
        optimizer.step()
    assert len(probe.measured) == 1
    for name, value in plain.items():
        if name not in ("hidden", "training"):
            assert repr(vars(model)[name]) == repr(value), name
    again = [model.drawn[0].bit_generator.state, model.drawn[1].get_state()[1].tolist()]
    again += [model.drawn[2].getstate(), model.drawn[3].get_state().tolist()]
    assert again == states
    assert repr(np.random.get_state()) == repr(of_numpy)
    assert repr(model.hidden[0].state_dict()) == repr(buffers)


class Heads(nn.Module):
    """Two heads with an optimizer each, and buffers that each pass changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.heads = nn.ModuleList([nn.Linear(4, 1), nn.Linear(4, 1)])
        self.register_buffer("scale", torch.ones(4))
        self.other = torch.ones(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.scale.mul_(0.99)
        self.other.mul_(0.9)
        found = self.body(x)
        outputs = self.heads[0](found * self.scale), self.heads[1](found * self.other)
        return outputs[0].square().mean(), outputs[1].square().mean()


def test_a_graph_that_is_still_needed_survives_a_measurement_and_a_branch(tmp_path: Path) -> None:
    def train(probed: bool) -> Heads:
        torch.manual_seed(0)
        model = Heads()
        both = [torch.optim.SGD(head.parameters(), lr=0.1) for head in model.heads]
        probe = lrlab.Probe(model, both[0], tmp_path, 1) if probed else None
        for _ in range(3):
            first, second = model(X)
            both[0].zero_grad()
            first.backward(retain_graph=True)
            if probe is None:
                both[0].step()
            else:
                with probe.step(lambda: model(X)[0]):
                    both[0].step()
                probe.branch(2, batches=[X], loss=lambda x: model(x)[0])
            both[1].zero_grad()
            second.backward()
            both[1].step()
        return model

    mine, other = train(True), train(False)
    its = other.state_dict()
    assert all(torch.equal(value, its[name]) for name, value in mine.state_dict().items())
    assert torch.equal(mine.other, other.other)


def test_weights_of_others_that_the_loss_changes_are_refused(tmp_path: Path) -> None:
    model = nn.ModuleList([nn.Linear(3, 1), nn.Linear(3, 1)])
    model[1].requires_grad_(False)

    def loss() -> Tensor:  # of a network and its slow copy
        with torch.no_grad():
            model[1].weight.lerp_(model[0].weight, 0.1)  # type: ignore[operator,arg-type]
        return (model[0](X) - model[1](X)).square().mean()

    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    with pytest.raises(UserError, match="changes parameters of the model"):
        walk(model, optimizer, loss, tmp_path)


def test_inside_autocast_no_cast_of_other_weights_is_used(tmp_path: Path) -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = lrlab.Probe(model, optimizer, tmp_path, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(X).float().square().mean().backward()
        with probe.step(lambda: model(X).float().square().mean()):
            optimizer.step()
        after = float(model(X).detach().float().square().mean())
    found = probe.measured[0]
    assert found.loss_after < found.loss and found.loss_after == pytest.approx(after)


def test_hooks_of_the_optimizer_do_not_run_in_a_branch_and_its_attributes_stay(
    tmp_path: Path,
) -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    ran: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: ran.append("before"))
    optimizer.register_step_post_hook(lambda *_: ran.append("after"))
    torch.optim.lr_scheduler.StepLR(optimizer, 10)
    probe = walk(model, optimizer, lambda: model(X).square().mean(), tmp_path, 2)
    own, count = dict(vars(optimizer)), len(ran)
    probe.branch(3, batches=[X], loss=lambda x: model(x).square().mean())
    assert len(ran) == count == 4 and vars(optimizer) == own
    optimizer.step()
    assert len(ran) == count + 2


@pytest.mark.parametrize("lrs", [(0.001, 0.01), (0.0, 0.01), (0.001, 0.002, 0.01)])
def test_several_rates_are_all_named(lrs: tuple[float, ...], tmp_path: Path) -> None:
    parts = [nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in lrs]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parts, lrs, strict=True)]
    optimizer = torch.optim.SGD(groups)

    def loss() -> Tensor:
        return 95 * parts[-1].square().sum() + 0 * torch.stack(list(parts)).sum()

    text = str(walk(nn.ParameterList(parts), optimizer, loss, tmp_path, 5).verdict())
    between = "and" if len(lrs) == 2 else "to"
    assert text.startswith(f"lr {lrs[0]:g} {between} 0.01 ({len(lrs)} groups), step 4: ")
    assert "95% of what this loss can bear" in text and "0.53 times each lr would lower" in text


def test_rates_with_other_ratios_than_the_last_are_not_taken_together() -> None:
    def made(*lrs: float) -> Measured:
        return Measured(1, 0.9, -0.5, 20, 18, 22, 1, 0.1, (0.1,), 0, math.nan, lrs[0], lrs)

    then, now = made(0.1, 0.1), made(0.01, 0.1)
    assert words.verdict([then] * 3 + [now] * 2, 5).steps == ""
    assert "other ratios" in str(words.verdict([then] * 3 + [now] * 2, 5))
    assert words.verdict([then] * 2 + [now] * 3, 5).steps == "far too short"
    assert "lr is 0" in str(words.verdict([made(0.0)] * 5, 5))


def test_a_scheduler_inside_the_step_does_not_change_the_step_that_is_measured(
    tmp_path: Path,
) -> None:
    w = nn.Parameter(torch.ones(1, dtype=torch.float64))
    model = nn.ParameterList([w])
    optimizer = torch.optim.SGD([w], lr=0.2)
    halved = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    def loss() -> Tensor:
        return 2 * w.square().sum()

    probe = lrlab.Probe(model, optimizer, tmp_path, 1, curvature=loss)
    loss().backward()
    with probe.step(loss):
        optimizer.step()
        halved.step()
    assert probe.measured[0].lr == 0.2
    assert probe.measured[0].stability_ratio == pytest.approx(0.2 * 4 / 2)


def test_where_nothing_can_be_told_nothing_is(tmp_path: Path) -> None:
    model = nn.Linear(3, 1)

    def verdict(optimizer: Any, loss: Callable[[], Tensor]) -> words.Verdict:
        return walk(model, optimizer, loss, tmp_path, 6).verdict()

    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    decayed = torch.optim.AdamW(model.parameters(), lr=0.1)
    found = verdict(sgd, lambda: 0 * model(X).sum())
    assert "lr or the gradient is 0" in str(found) and found.steps == ""
    for loss in (lambda: 0 * model(X).sum(), lambda: 5 + 0 * model(X).sum()):
        found = verdict(decayed, loss)
        assert "cannot be judged" in str(found) and found.steps == ""
    found = verdict(sgd, lambda: model(X * math.nan).mean())
    assert "nor was it before: look at the data" in str(found) and found.steps == ""


def test_a_verdict_is_not_repeated_when_steps_no_longer_change_a_weight(tmp_path: Path) -> None:
    w = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([w], lr=0.1)
    model = nn.ParameterList([w])
    probe = walk(model, optimizer, lambda: w.square().sum(), tmp_path, 5)
    assert probe.verdict().steps == "about right"
    for _ in range(3):
        with probe.step(lambda: w.square().sum()):
            pass
    assert "3 steps changed no weight" in str(probe.verdict())


def test_a_batch_of_nan_that_the_training_survives_is_no_divergence(tmp_path: Path) -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with lrlab.Probe(model, optimizer, tmp_path, 1) as probe:
        for step in range(6):
            x = X * math.nan if step == 3 else X
            optimizer.zero_grad()
            loss = model(x).square().mean()
            probe.record(loss)
            loss.backward()
            with probe.step(lambda x=x: model(x).square().mean()):
                if step != 3:  # as a gradient scaler does
                    optimizer.step()
    summary = records.read_summary(probe.folder)
    assert (summary["state"], summary.get("first_nonfinite_step")) == ("finished", None)


def test_a_run_of_which_only_measured_steps_are_recorded_did_not_diverge(tmp_path: Path) -> None:
    model = nn.Linear(3, 1)
    for lr in (0.01, 0.1):
        nn.init.ones_(model.weight)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        probe = walk(model, optimizer, lambda: model(X).square().mean(), tmp_path, 177, every=50)
        probe.close()
    found = loading.load([tmp_path])
    assert found.notes == ()
    assert found.verdicts()["outcome"].tolist() == ["undershooting", "converged"]


def test_sparse_gradients_have_no_second_derivative_and_are_measured(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Flatten(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    index = torch.randint(0, 10, (8, 2))

    def loss() -> Tensor:
        return model(index).square().mean()

    probe = walk(model, optimizer, loss, tmp_path, 5, curvature=loss)
    assert len(probe.measured) == 5 and math.isnan(probe.measured[-1].stability_ratio)
    assert "and second derivatives" in str(probe.verdict())


def test_a_loss_that_half_a_batch_has_not_leaves_the_noise_empty(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = lrlab.Probe(model, optimizer, tmp_path)

    def loss(x: Tensor) -> Tensor:
        return (model(x) - 1).square().mean()

    loss(X[:3]).backward()
    with probe.step(loss, X[:3]):
        optimizer.step()
    assert math.isnan(probe.measured[0].noise)


def test_only_an_error_after_its_last_step_interrupts_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = nn.Parameter(torch.ones(1))
    monkeypatch.setattr(probes, "_open", set())
    monkeypatch.setattr(sys, "last_value", ValueError("of another cell"), raising=False)

    def states(last: BaseException) -> list[str]:
        made = walk(nn.ParameterList([w]), torch.optim.SGD([w], lr=0.1), w.sum, tmp_path, 2)
        monkeypatch.setattr(sys, "last_value", last, raising=False)
        with contextlib.suppress(KeyError):
            probes._open.add(made)
            probes._end()
        return [records.read_summary(made.folder)["state"]]

    assert states(sys.last_value) == ["finished"]
    assert states(ValueError("of this training")) == ["interrupted"]
