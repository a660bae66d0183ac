"""Captured steps against plain ones: equal to the bit, and captured where they can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers.networks import BatchNorm
from helpers.step_networks import (
    Counts,
    Doubled,
    DrawsByNumpy,
    DrawsByPython,
    Linear,
    MeanInFloat64,
    ReadsAsList,
    ReadsByNumpy,
    Remembers,
    StartsAtZero,
)
from helpers.training import CLASSES, IN_SHAPE, Silent, Trainer, assert_same_bits, tiny_images
from torch import Tensor, nn

from lrlab import losses, networks
from lrlab.engine.capture import calls as capture_calls
from lrlab.engine.capture.program import Program
from lrlab.engine.lanes import chunks, stacking
from lrlab.engine.lanes.lane_stack import Lanes
from lrlab.engine.optimizers import known, lane_optimizers
from lrlab.engine.optimizers.protocol import LaneOptimizer
from lrlab.engine.step import captured as captured_step
from lrlab.engine.step.captured import CapturedStep
from lrlab.engine.step.choosing import build_step
from lrlab.engine.step.pace import Pace
from lrlab.engine.step.plain import PlainStep
from lrlab.errors import UserError
from lrlab.plan import checks, spec
from lrlab.training import building
from lrlab.training import stack as stacks
from lrlab.training import train as training

DATA = tiny_images(200, 20, 20)
BATCH, LENGTH = 16, 5
batch_norm = partial(BatchNorm, CLASSES)


def mlp(**options: Any) -> Callable[[], nn.Module]:
    return lambda: networks.MLP(IN_SHAPE, CLASSES, **{"hidden": [8, 8], **options})


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp(),
    "odd widths": mlp(hidden=[7, 3]),
    "no bias": mlp(bias=False),
    "cnn": lambda: networks.CNN(IN_SHAPE, CLASSES, channels=[2, 3], hidden=[4]),
    "batch norm": batch_norm,
    "unused layer": Linear,
    "float64": Doubled,
    **{name: mlp(activation=name) for name in networks.ACTIVATIONS if name != "relu"},
}
OPTIMIZERS = {
    "sgd": [{}] * 3,
    "momentum": [{"momentum": 0.9}, {"momentum": 0.0, "weight_decay": 0.1}, {"momentum": 0.5}],
    "dampening": [{"momentum": 0.9, "dampening": 0.5}] * 3,
    "nesterov": [{"momentum": 0.9, "nesterov": True}] * 3,
    "Adam": [{"weight_decay": w} for w in (0.0, 0.1, 0.0)],
    "AdamW": [{"betas": [0.8, 0.9]}, {}, {}],
    "RMSprop": [{"momentum": 0.5}, {}, {}],
    "Adagrad": [{"lr_decay": 0.1}] * 3,
}


def lanes_of(make: Callable[[], nn.Module], loss: Any = losses.nll, **options: Any) -> Lanes:
    torch.manual_seed(0)
    stack = stacking.stack([make() for _ in range(3)], [0, 1, 2], loss, "cpu", **options)
    order, _ = orders(False)
    x, y = DATA.train_x[order[0, 0]], DATA.train_y[order[0, 0]]
    stack.settle(x, y, (DATA.val_x, DATA.val_y))
    return stack


def optimizer_of(stack: Lanes, name: str) -> LaneOptimizer:
    kind = name if name[0].isupper() else "SGD"
    found = [
        {"_target_": f"torch.optim.{kind}", "lr": 0.1, **options} for options in OPTIMIZERS[name]
    ]
    return lane_optimizers.build(found, list(stack.params.values()), stack.units)


def orders(own: bool) -> tuple[Tensor, Tensor]:
    """The batches of three segments, and each lane's order: one for all, or two for three."""
    draw = torch.Generator().manual_seed(1)
    count = 2 if own else 1
    order = torch.randint(0, len(DATA.train_y), (3 * LENGTH, count, BATCH), generator=draw)
    return order, torch.tensor([0, 1, 0]) if own else torch.zeros(3, dtype=torch.int64)


def trained(
    step: CapturedStep | PlainStep, stack: Lanes, optimizer: LaneOptimizer, own: bool = False
) -> list[Tensor]:
    """All that three segments leave behind: losses, gradients, batches, parameters, buffers."""
    order, _ = orders(own)
    found: list[Tensor] = []
    for segment in range(3):
        count = LENGTH - segment  # the last ones are shorter
        first = segment * LENGTH
        steps = np.arange(first, first + count)[:, None] + np.ones(3, int)
        values = {"lr": 0.1 / steps * [1.0, 2.0, 0.5]}
        coefficients = optimizer.coefficients(values, np.full(3, first))
        step.begin(order[first : first + count], [first] * 3, coefficients)
        for i in range(count):
            losses_, gradients = step.gradients(i)
            found += [losses_.clone(), *(g.clone() for g in gradients if g is not None)]
            found += [t.clone() for t in step.batch[:2]]
            step.update(i)
        step.end(float(segment))
        found.append(step.losses[:count].clone())
    state = [stack.params, stack.fixed]
    found += [t.detach().clone() for tensors in state for t in tensors.values()]
    kept = [optimizer.state(lane) for lane in range(3)]
    return found + [t for lane in kept for buffers in lane.values() for t in buffers]


def assert_equal(some: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    for one, other in zip(some, others, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        assert one.numpy().tobytes() == other.numpy().tobytes()


def both(
    make: Callable[[], nn.Module], optimizer: str = "sgd", own: bool = False, **options: Any
) -> tuple[list[Tensor], list[Tensor], CapturedStep | PlainStep]:
    """What a plain step leaves behind, what the best way does, and that step."""
    order, order_of = orders(own)
    stack = lanes_of(make, **options)
    rule = optimizer_of(stack, optimizer)
    plain = trained(PlainStep(stack, rule, DATA, order_of), stack, rule, own)
    stack = lanes_of(make, **options)
    rule = optimizer_of(stack, optimizer)
    step = build_step(stack, rule, DATA, order[:LENGTH], order_of, LENGTH, captured=True)
    assert isinstance(step, CapturedStep | PlainStep)
    return plain, trained(step, stack, rule, own), step


@pytest.mark.full(after=9)
@pytest.mark.parametrize("own", [False, True], ids=["one batch", "own batches"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_captured_step_has_the_bits_of_a_plain_one(name: str, own: bool) -> None:
    plain, captured, step = both(NETWORKS[name], own=own)
    assert step.way == "captured"
    assert_equal(plain, captured)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_with_every_optimizer(name: str) -> None:
    plain, captured, step = both(mlp(), name)
    assert step.way == "captured"
    assert_equal(plain, captured)


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.mse_one_hot])
def test_with_every_loss(loss: Any) -> None:
    plain, captured, step = both(mlp(), loss=loss)
    assert step.way == "captured"
    assert_equal(plain, captured)


@pytest.mark.parametrize("options", [{"pad": 5}, {"precision": "bf16"}])
def test_padded_and_in_bf16(options: dict[str, Any]) -> None:
    plain, captured, step = both(mlp(), own=True, **options)
    assert step.way == "captured"
    assert_equal(plain, captured)


@pytest.mark.parametrize(
    "make",
    [
        Counts,
        Remembers,
        ReadsByNumpy,
        ReadsAsList,
        DrawsByNumpy,
        DrawsByPython,
    ],
)
def test_a_network_that_does_more_than_tensors_show_is_not_captured(
    make: Callable[[], nn.Module],
) -> None:
    plain, found, step = both(make)
    assert step.way == "plain"
    assert_equal(plain, found)


@pytest.mark.parametrize("own", [False, True], ids=["one batch", "own batches"])
@pytest.mark.parametrize(
    "make",
    [
        StartsAtZero,
        MeanInFloat64,
        lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, CLASSES)),
    ],
)
def test_captured_and_equal_all_the_same(make: Callable[[], nn.Module], own: bool) -> None:
    plain, captured, step = both(make, own=own)
    assert step.way == "captured"
    assert_equal(plain, captured)


def test_one_that_was_tried_is_as_it_was() -> None:
    """Building a step trains nothing, counts no call and draws no number."""
    for make in (batch_norm, Counts, Remembers, DrawsByNumpy):
        stack = lanes_of(make)
        rule = optimizer_of(stack, "momentum")
        order, order_of = orders(False)
        before = [t.clone() for t in [*stack.params.values(), *stack.fixed.values()]]
        attributes = [str(vars(module)) for module in stack.modules]
        build_step(stack, rule, DATA, order[:LENGTH], order_of, LENGTH, captured=True)
        assert_equal(before, [*stack.params.values(), *stack.fixed.values()])
        assert [str(vars(module)) for module in stack.modules] == attributes


def test_other_bits_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def off(*args: Any, out: Tensor) -> Tensor:
        return torch.bmm(*args, out=out).mul_(1 + 2**-20)

    monkeypatch.setitem(capture_calls._SHORT, torch.ops.aten.bmm.default, off)
    plain, found, step = both(mlp())
    assert step.way == "plain"
    assert_equal(plain, found)


def test_an_update_that_cannot_be_captured_is_made_plainly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, _, _ = both(mlp(), "momentum")
    rule = known.RULES[torch.optim.SGD]

    def update(param: Tensor, grad: Tensor, *rest: Any) -> None:
        assert grad.sum().item() == grad.sum().item() or True  # looks at numbers
        rule.update(param, grad, *rest)

    monkeypatch.setitem(known.RULES, torch.optim.SGD, replace(rule, update=update))
    _, found, step = both(mlp(), "momentum")
    assert step.way == "captured"
    assert_equal(plain, found)


@pytest.mark.parametrize("own", [False, True], ids=["one batch", "own batches"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_that_find_their_rows_by_themselves(
    monkeypatch: pytest.MonkeyPatch, name: str, own: bool
) -> None:
    """As on a GPU: what differs from step to step is found by a counter on the device."""
    monkeypatch.setattr(captured_step, "_counts", lambda device: True)
    plain, captured, step = both(mlp(), name, own)
    assert step.way == "captured"
    assert_equal(plain, captured)


def test_what_a_graph_tries_out_before_it_is_captured_is_undone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A CUDA graph runs the work some times first; here one that only does that."""

    def on(program: Program, device: torch.device) -> Program:
        for _ in range(2):
            program.run()
        return program

    monkeypatch.setattr(captured_step, "_counts", lambda device: True)
    monkeypatch.setattr(Program, "on", on)
    for name in ("batch norm", "mlp"):
        plain, captured, step = both(NETWORKS[name], "momentum")
        assert step.way == "captured"
        assert_equal(plain, captured)


# --- threads --------------------------------------------------------------------------------------


def test_the_number_of_threads_that_is_fastest_is_used() -> None:
    truth = {2: 1.0, 1: 3.0}
    pace = Pace([2, 1])
    chosen = []
    for segment in range(500):
        if segment == 150:
            truth = {2: 40.0, 1: 3.0}  # others keep a core busy
        if segment == 300:
            truth = {2: 1.0, 1: 3.0}
        count = pace.choose()
        chosen.append(count)
        hiccup = 5.0 if segment in (0, 75) else 1.0  # at first caches are cold
        pace.note(count, truth[count] * hiccup)
    assert chosen[:6] == [2, 1, 2, 1, 2, 1]
    assert chosen[6:150].count(1) == 4  # a hiccup is not believed, and the other has its chances
    assert chosen[150:152] == [2, 2] and chosen[155:300].count(2) == 1  # it costs more here
    assert chosen[401:].count(1) <= 3


def test_a_number_of_threads_that_is_nearly_as_fast_has_its_next_chance_sooner() -> None:
    pace = Pace([2, 1])
    chosen = []
    for _ in range(206):
        chosen.append(pace.choose())
        pace.note(chosen[-1], 1.0 if chosen[-1] == 2 else 1.1)
    assert chosen[6:].count(1) == 200 // 12


def test_one_thread_has_no_choice() -> None:
    pace = Pace([1])
    for _ in range(120):
        assert pace.choose() == 1
        pace.note(1, 1.0)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_step_may_have_one_thread_if_no_bit_changes(two_threads: None) -> None:
    order, order_of = orders(False)
    results = []
    for any_threads in (False, True):
        stack = lanes_of(mlp())
        rule = optimizer_of(stack, "sgd")
        first = order[:LENGTH]
        step = CapturedStep(stack, rule, DATA, order_of, first, LENGTH, any_threads)
        assert step._threads == ([2, 1] if any_threads else [2])
        results.append(trained(step, stack, rule))
        assert torch.get_num_threads() == 2
    assert_equal(*results)


def test_one_thread_that_changes_a_bit_is_not_used(
    two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def product(*args: Any, out: Tensor) -> Tensor:
        return torch.bmm(*args, out=out).mul_(1.0 if torch.get_num_threads() == 2 else 1 + 2**-20)

    monkeypatch.setitem(capture_calls._SHORT, torch.ops.aten.bmm.default, product)
    order, order_of = orders(False)
    stack = lanes_of(mlp())
    rule = optimizer_of(stack, "sgd")
    step = CapturedStep(stack, rule, DATA, order_of, order[:LENGTH], LENGTH, True)
    assert step._threads == [2]


@pytest.mark.parametrize("right", [True, False])
def test_products_that_threads_share_keep_all_bits_or_are_made_whole(
    two_threads: None, monkeypatch: pytest.MonkeyPatch, right: bool
) -> None:
    monkeypatch.setattr(capture_calls, "LARGE", 1)
    monkeypatch.setattr(capture_calls, "FEWEST_ROWS", 2)
    original, made = capture_calls._evenly, []

    def parts(*product: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        found = original(*product)
        made.append(len(found))
        return found if right else [*found, found[0]][1:]  # one is made twice, and one not at all

    monkeypatch.setattr(capture_calls, "_evenly", parts)
    plain, captured, step = both(mlp())
    assert max(made) == 2  # two of the three lanes, and the rows of the third
    assert step.way == "captured"
    assert_equal(plain, captured)


# --- whole runs -----------------------------------------------------------------------------------

RUNS = [
    "lr=0.1",
    "lr=0.3 optimizer.momentum=0.9 schedule=one_cycle",
    "lr=0.2 seed=1 schedule=exponential schedule.gamma=1.1",
]


@pytest.mark.full(after=1)
@pytest.mark.parametrize("common", ["network.hidden=[8]", "network=cnn epochs=1"])
def test_runs_are_the_same_without_capture(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, common: str
) -> None:
    made = []
    original = CapturedStep.__init__

    def counted(self: CapturedStep, *args: Any) -> None:
        original(self, *args)
        made.append(len(args[0]))

    monkeypatch.setattr(CapturedStep, "__init__", counted)
    monkeypatch.setattr(stacks, "CAPTURE_FROM", 1)
    captured = trainer.together(RUNS, f"{common} capture=true")
    assert made and made[0] == 3
    made.clear()
    plain = trainer.together(RUNS, f"{common} capture=false")
    assert not made
    for one, other in zip(captured, plain, strict=True):
        assert_same_bits(one, other)


def test_a_network_that_evaluations_change_is_captured_anew(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "CAPTURE_FROM", 1)
    common = "network=custom network._target_=helpers.step_networks.AnnealsByEpochs"
    captured, plain = (
        trainer.alone("lr=0.1", f"{common} capture={on}") for on in ("true", "false")
    )
    assert_same_bits(captured, plain)


def test_a_network_that_changes_its_input_is_refused(trainer: Trainer) -> None:
    given = "network=custom network._target_=helpers.step_networks.ChangesItsInput"
    specs = trainer.specs(["lr=0.1"], given)
    with pytest.raises(UserError, match="changes its input in place"):
        checks.check_runs(specs)


@pytest.mark.full
def test_a_padded_lane_is_its_run_alone_at_that_width(trainer: Trainer) -> None:
    """And on a CPU the width does not matter."""
    common = "network.hidden=[8] pad=4"
    group = trainer.together(RUNS, common)
    for text, run in zip(RUNS, group, strict=True):
        assert run.summary["lanes"]["pad"] == 4 and run.summary["lanes"]["width"] == 3
        assert_same_bits(run, trainer.alone(text, common))
        assert_same_bits(run, trainer.reference(text, "network.hidden=[8]"))


def test_lanes_of_a_padded_stack_have_a_batch_of_their_own(trainer: Trainer) -> None:
    """Also with one seed: a lane takes the same products whether others share its batch or not."""
    specs = trainer.specs(["lr=0.1", "lr=0.2", "lr=0.3"], "epochs=60")
    key = spec.group_key(specs[0])
    (stack,) = building.build(key, specs, range(3), DATA, {}, pad=4)
    training.train_epoch(stack, Silent(), lambda: False)
    assert stack.step is not None and stack.step.way == "captured"
    x, y, _ = stack.step.batch
    assert y.shape == (4, 64) and x.shape[:2] == (4, 64)
    assert all(torch.equal(y[0], row) for row in y)


@pytest.mark.full
@pytest.mark.parametrize("batch", [64, 30])
def test_what_a_gpu_sums_by_fours_is_not_cut_by_lanes(
    batch: int, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that is no multiple of 4 trains one at a time, and so is an evaluation's end."""
    monkeypatch.setattr(chunks, "summed_at_once", lambda device, pad: 4 if pad > 1 else 1)
    common = f"network.hidden=[8] pad=4 batch_size={batch}"
    group = trainer.together(RUNS, common)
    way = "one at a time" if batch % 4 else "together"
    for text, run in zip(RUNS, group, strict=True):
        alone = trainer.alone(text, common)
        assert run.summary["lanes"]["way"] == alone.summary["lanes"]["way"] == way
        assert_same_bits(run, alone)
        if text != RUNS[0]:
            continue
        unpadded = trainer.alone(text, f"network.hidden=[8] batch_size={batch}")
        assert run.results["test_loss"] == pytest.approx(unpadded.results["test_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("samples", "multiple", "sizes"),
    [
        *((2000, 4, [1000, 1000]), (130, 4, [128, 2]), (2303, 4, [1000, 1000, 300, 3])),
        *((3, 4, [3]), (130, 1, [130]), (1001, 1, [1000, 1]), (1, 1, [1])),
    ],
)
def test_chunks_of_an_evaluation(samples: int, multiple: int, sizes: list[int]) -> None:
    assert chunks.chunk_sizes(samples, multiple) == sizes


def test_padding_does_not_show_in_the_curvature() -> None:
    found = []
    for pad in (0, 5):
        stack = lanes_of(mlp(activation="tanh"), pad=pad)
        vectors = [torch.ones_like(p) for p in stack.params.values()]
        found.append(stack.curvature(DATA.val_x, DATA.val_y)[2](vectors))
    assert all(vector.any() for vector in found[0])
    assert_equal(*found)


@pytest.mark.full
def test_more_runs_than_the_padded_width_train_beside_one_another(trainer: Trainer) -> None:
    group = trainer.together(RUNS, "network.hidden=[8] pad=2")
    assert [run.summary["lanes"]["width"] for run in group] == [2, 2, 1]
    for text, run in zip(RUNS, group, strict=True):
        assert_same_bits(run, trainer.reference(text, "network.hidden=[8]"))
