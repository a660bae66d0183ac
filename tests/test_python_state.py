"""State that networks, losses and optimizers keep in Python: alone, together, and resumed."""

from __future__ import annotations

import itertools
import math
import random
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from helpers.training import Silent, Trained, Trainer, assert_same_bits, read
from torch import Tensor, nn

from lrlab import records
from lrlab.engine import forms, python_state
from lrlab.errors import Stopped, UserError
from lrlab.plan import checks
from lrlab.training import pool

PIXELS = 144


class Keeps(nn.Module):
    """Scales its scores by what it keeps in Python, in a nested module; ``kind`` says what.

    Of kinds that are joined by a + it takes the product, so that each of them shows.
    """

    def __init__(self, num_classes: int, kind: str = "calls", convolve: bool = False) -> None:
        super().__init__()
        self.inner = nn.ModuleList([Kept(kind)])
        self.last = nn.Linear(PIXELS, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.flatten(1)) * self.inner[0](self.training)


class Counter:
    """An object of the user's, with slots."""

    __slots__ = ("steps",)

    def __init__(self) -> None:
        self.steps = 0


class Kept(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.calls, self.evaluations = kind, 0, 0
        self.seen: list[float] = []
        self.table: dict[str, Any] = {"recent": deque(maxlen=3), "x": np.zeros(2)}
        self.counter = Counter()
        self.mean = torch.zeros(2)
        self.generator: Any = None
        if "torch" in kind.split("+"):
            self.of_torch = torch.Generator().manual_seed(3)
        if "numpy" in kind.split("+"):
            self.of_numpy = np.random.default_rng(3)
        if "python" in kind.split("+"):
            self.of_python = random.Random(3)
        if kind in ("iterator", "extra"):
            self.generator = iter(range(10_000))

    def forward(self, training: bool) -> float | Tensor:
        if not training:
            self.evaluations += 1
            return 1 + self.evaluations / 10
        self.calls += 1
        return math.prod(map(self.factor, self.kind.split("+")))

    def factor(self, kind: str) -> Any:
        match kind:
            case "list":
                self.seen.append(self.calls / 7)
                return 1 + sum(self.seen) / 40
            case "dict":
                self.table["recent"].append(self.calls)
                self.table["x"] = self.table["x"] + 0.01
                return 1 + sum(self.table["recent"]) / 50 + float(self.table["x"].sum())
            case "object":
                self.counter.steps += 2
                return 1 + self.counter.steps / 50
            case "tensor":
                self.mean = 0.9 * self.mean.detach() + 0.1 * torch.full((2,), float(self.calls))
                return 1 + self.mean.mean() / 20
            case "torch":
                return 1 + float(torch.rand((), generator=self.of_torch))
            case "numpy":
                return 1 + float(self.of_numpy.random())
            case "python":
                return 1 + self.of_python.random()
            case "global_numpy":
                return 1 + float(np.random.rand())
            case "global_python":
                return 1 + random.random()
            case "global_torch":
                return 1 + float(torch.rand(()))
            case "iterator" | "extra":
                return 1 + next(self.generator) / 50
        return 1 + self.calls / 50


class Extra(Keeps):
    """With what only its ``get_extra_state`` can save."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.inner = nn.ModuleList([KeptExtra()])


class KeptExtra(Kept):
    def __init__(self) -> None:
        super().__init__("extra")

    def get_extra_state(self) -> Any:
        return {"at": self.calls}

    def set_extra_state(self, state: Any) -> None:
        self.generator = iter(range(state["at"], 10_000))


class CountingLoss(nn.Module):
    """Smooths more and more, and keeps a running mean in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        found = nn.functional.cross_entropy(outputs, targets, label_smoothing=self.calls / 1000)
        self.mean.mul_(0.9).add_(0.1 * found.detach())
        return found * (1 + self.mean)


class CountingSGD(torch.optim.Optimizer):
    """Counts its steps outside of its state dict, and draws noise of torch's global generator."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})
        self.calls = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        self.calls += 1
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(p.grad, alpha=-group["lr"] / (1 + self.calls / 10))
                p.add_(torch.randn_like(p), alpha=1e-3 * np.random.rand() * random.random())


def of(name: str, more: str = "") -> str:
    return f"network=custom network._target_={__name__}.{name} {more}"


def interrupted(trainer: Trainer, runs: Sequence[str], common: str, at: int) -> list[Trained]:
    """Train runs that are interrupted after so many looks at the signal, and go on."""
    specs = trainer.specs(runs, f"{common} checkpoint_every=1")
    rows = {spec.number: row for row, spec in enumerate(specs)}
    looks = itertools.count()
    with pytest.raises(Stopped):
        pool.run(pool.Batch(specs), None, "cpu", Silent(), rows, lambda: next(looks) >= at)
    random.seed(at), np.random.seed(at), torch.manual_seed(at)  # another process has others
    pool.run(pool.Batch(specs), None, "cpu", Silent(), rows)
    return [read(spec.folder) for spec in specs]


KINDS = ("calls", "list+dict+object+tensor", "torch+numpy+python")
GLOBALS = "global_numpy+global_python+global_torch"


def assert_alone_as_together_and_resumed(trainer: Trainer, common: str) -> None:
    lrs = ["lr=0.1", "lr=0.02 seed=1"]
    alone = [trainer.alone(lr, common) for lr in lrs]
    for run, whole in zip(trainer.together(lrs, common), alone, strict=True):
        assert_same_bits(run, whole)
    for run, whole in zip(interrupted(trainer, lrs, common, 14), alone, strict=True):
        assert "goes on from its checkpoint at step 1" in run.log
        assert_same_bits(run, whole)


@pytest.mark.full(after=1)
@pytest.mark.parametrize("kind", [*KINDS, GLOBALS])
def test_a_network_that_keeps_state_trains_alone_as_together_and_resumed(
    trainer: Trainer, kind: str
) -> None:
    common = of("Keeps", f"network.kind={kind}")
    assert_alone_as_together_and_resumed(trainer, common)


def test_what_cannot_be_saved_is_said_and_trained_anew(trainer: Trainer) -> None:
    common = of("Keeps", "network.kind=iterator")
    whole = trainer.alone("lr=0.1", common)
    (run,) = interrupted(trainer, ["lr=0.1"], common, 14)
    assert "inner.0.generator changes in training and cannot be saved: no checkpoint" in run.log
    assert "goes on from its checkpoint" not in run.log
    assert_same_bits(run, whole)


def test_get_extra_state_saves_what_attributes_cannot(trainer: Trainer) -> None:
    whole = trainer.alone("lr=0.1", of("Extra"))
    (run,) = interrupted(trainer, ["lr=0.1"], of("Extra"), 14)
    assert "goes on from its checkpoint at step 1" in run.log
    for each in (run, whole):  # and model.pt has it
        assert each.weights.pop("inner.0._extra_state") == {"at": 20}  # type: ignore[attr-defined]
    assert_same_bits(run, whole)


@pytest.mark.full
@pytest.mark.parametrize(
    "common",
    [
        f"loss._target_={__name__}.CountingLoss",
        f"optimizer=only_target optimizer._target_={__name__}.CountingSGD",
    ],
)
def test_losses_and_optimizers_keep_their_own(trainer: Trainer, common: str) -> None:
    common = f"{common} network.hidden=[8]"
    assert_alone_as_together_and_resumed(trainer, common)


@pytest.mark.full
def test_a_run_that_joins_later_counts_its_own(trainer: Trainer) -> None:
    """Its neighbour is an epoch ahead by then."""
    common = of("Keeps")
    runs = ["lr=0.1 epochs=3", "lr=0.1 epochs=1", "lr=0.05 epochs=2"]
    specs = trainer.specs(runs, common)
    pool.run(pool.Batch(specs), 2, "cpu", Silent(), {s.number: s.number for s in specs})
    for spec, text in zip(specs, runs, strict=True):
        assert_same_bits(read(spec.folder), trainer.alone(text, common))


class ByChance(nn.Module):
    """Numbers that its seed gave it, in Python alone."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.last = nn.Linear(PIXELS, num_classes)
        self.scale, self.mask = float(torch.rand(())), torch.rand(PIXELS)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.flatten(1) * self.mask) * self.scale


def test_each_lane_has_the_numbers_of_its_own_seed(trainer: Trainer) -> None:
    runs = ["lr=0.1 seed=0", "lr=0.1 seed=1"]
    for run, text in zip(trainer.together(runs, of("ByChance")), runs, strict=True):
        assert_same_bits(run, trainer.alone(text, of("ByChance")))


def test_a_state_from_elsewhere_sets_no_other_attribute() -> None:
    network = Keeps(3)
    for key in (":forward", "inner.0:_parameters", ":__class__", "nowhere:calls", "=last"):
        with pytest.raises(forms.Unfit):
            python_state.put_back(network, {key: ["opaque", "x", None]})
    for key in ("inner.0:_forward_hooks", ":__dict__", ":training"):
        with pytest.raises(forms.Unfit):
            python_state.put_back(network, {key: 3})


def test_a_damaged_state_is_trained_anew(trainer: Trainer) -> None:
    from lrlab.training import checkpoints

    specs = trainer.specs(["lr=0.1"], f"{of('Keeps')} checkpoint_every=1")
    looks = itertools.count()
    with pytest.raises(Stopped):
        pool.run(pool.Batch(specs), None, "cpu", Silent(), {0: 0}, lambda: next(looks) >= 14)
    state = checkpoints.read(records.checkpoint_file(specs[0].folder))
    assert state is not None and state["python"]["network"]["inner.0:calls"] > 9
    state["python"]["network"]["inner.0:calls"] = ["numpy.Generator", "os.system", "true"]
    checkpoints.write(records.checkpoint_file(specs[0].folder), state)
    pool.run(pool.Batch(specs), None, "cpu", Silent(), {0: 0})
    assert_same_bits(read(specs[0].folder), trainer.alone("lr=0.1", of("Keeps")))


def test_what_has_changed_is_found_whatever_it_is() -> None:
    def changed(make: Any, change: Any) -> list[str]:
        owner = nn.Module()
        owner.x = make()  # type: ignore[assignment]
        before = python_state.of(owner)
        assert python_state.changes(before, python_state.of(owner)) == {}, "nothing has changed"
        change(owner)
        return python_state.names(python_state.changes(before, python_state.of(owner)))

    class Words(list[str]):
        pass

    class Drawn(random.Random):
        pass

    for make, change in [
        (lambda: 0, lambda o: setattr(o, "x", False)),
        (lambda: float("nan"), lambda o: setattr(o, "x", 1.0)),
        (lambda: 2**70, lambda o: setattr(o, "x", 2**70 + 1)),
        (lambda: torch.tensor([torch.nan]), lambda o: o.x.zero_()),
        (lambda: {1, 2}, lambda o: o.x.add(3)),
        (lambda: [[1]], lambda o: o.x[0].append(1)),
        (lambda: Words("a"), lambda o: o.x.append("b")),
        (lambda: Drawn(1), lambda o: o.x.random()),
        (lambda: itertools.count(), lambda o: next(o.x)),
        (lambda: iter([1, 2]), lambda o: next(o.x)),
        (lambda: (i for i in range(3)), lambda o: next(o.x)),
        (lambda: np.float32(1), lambda o: setattr(o, "x", np.float64(1))),
        (lambda: np.random.RandomState(1), lambda o: o.x.rand()),
        (lambda: 1, lambda o: delattr(o, "x")),
    ]:
        assert changed(make, change) == ["x"]


def test_forms_give_back_their_values(tmp_path: Any) -> None:
    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = np.random.default_rng(0)
            self.a = self.b = [1]
            self.c = {"k": (1, 2.5, None, True), 3: {4}, "g": self.shared}

    owner, fresh = Owner(), Owner()
    begun = python_state.of(owner)
    owner.a.append(2)
    owner.shared.random(3)
    owner.d = deque([b"x", 1j, 2**80, np.arange(3, dtype=np.uint16), np.float16(2)], maxlen=9)  # type: ignore[assignment]
    state = python_state.changes(begun, python_state.of(owner))
    torch.save(state, tmp_path / "x.pt")
    python_state.put_back(fresh, torch.load(tmp_path / "x.pt", weights_only=True))
    assert python_state.changes(python_state.of(owner), python_state.of(fresh)) == {}
    assert fresh.a is fresh.b and fresh.c["g"] is fresh.shared
    assert fresh.shared.random() == owner.shared.random()


def test_what_cannot_be_saved_is_said_once_before_training(trainer: Trainer) -> None:
    class Notes(Silent):
        def note(self, text: str) -> None:
            notes.append((text, int(looks[0])))

    looks, notes = [0], []

    def stop() -> bool:
        looks[0] += 1
        return False

    for kind, said in (("iterator", 1), ("calls", 0)):
        notes.clear()
        looks[0] = 0
        specs = trainer.specs(["lr=0.1", "lr=0.2"], of("Keeps", f"network.kind={kind} epochs=1"))
        pool.run(pool.Batch(specs), None, "cpu", Notes(), {0: 0, 1: 1}, stop)
        assert len(notes) == said
        for text, look in notes:
            assert text.startswith("lrlab: inner.0.generator changes in training and cannot be")
            assert look < 5, "before the first step"


# --- what all runs share --------------------------------------------------------------------------

CALLS = 0
GENERATOR = np.random.default_rng(0)
CACHE: dict[str, int] = {}


class Shares(nn.Module):
    calls = 0
    seen: list[int] = []  # noqa: RUF012

    def __init__(self, num_classes: int, kind: str) -> None:
        super().__init__()
        self.kind, self.last = kind, nn.Linear(PIXELS, num_classes)

    def forward(self, x: Tensor, kept: list[int] = []) -> Tensor:  # noqa: B006
        global CALLS
        match self.kind:
            case "global":
                CALLS += 1
            case "class":
                type(self).calls += 1
            case "list":
                self.seen.append(1)
            case "default":
                kept.append(1)
            case "generator":
                GENERATOR.random()
            case "cache":
                CACHE.setdefault("x", 1)
        return self.last(x.flatten(1))


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("global", ".CALLS"),
        ("class", ".Shares.calls"),
        ("list", ".Shares.seen"),
        ("default", ".Shares.forward"),
        ("generator", ".GENERATOR"),
    ],
)
def test_what_all_runs_share_is_refused(kind: str, named: str, trainer: Trainer) -> None:
    specs = trainer.specs(["lr=0.1"], of("Shares", f"network.kind={kind}"))
    with pytest.raises(UserError) as caught:
        checks.check_runs(specs)
    said = str(caught.value)
    assert "\n" not in said
    assert f"{__name__}{named}, which all runs share" in said
    for harmless in ("none", "cache"):  # what is filled once changes no number
        checks.check_runs(trainer.specs(["lr=0.1"], of("Shares", f"network.kind={harmless}")))
