"""Programs against the work that they repeat."""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import vmap

from lrlab.engine.capture import program as capture_program
from lrlab.engine.capture.capturing import capture
from lrlab.engine.capture.program import NotCapturable, Program

pytestmark = pytest.mark.unit

aten = torch.ops.aten


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


def assert_repeats(
    work: Callable[..., Sequence[Tensor | None]], *inputs: Tensor, runs: int = 3
) -> Program:
    """The program gives on new numbers what the work gives on them, bit for bit."""
    mine = [t.clone() for t in inputs]
    program = capture(lambda: work(*mine), mine).program()
    for seed in range(runs):
        draw = torch.Generator().manual_seed(seed)
        for tensor in mine:
            tensor.copy_(torch.randn(tensor.shape, generator=draw))
        theirs = [t.clone() for t in mine]
        expected = work(*theirs)
        program.run()
        for found, wanted in zip(program.results, expected, strict=True):
            assert (found is None) == (wanted is None)
            if found is not None and wanted is not None:
                assert bits(found) == bits(wanted)
        for one, other in zip(mine, theirs, strict=True):
            assert bits(one) == bits(other)  # what the work changes in place
    return program


def _chain(x: Tensor, w: Tensor) -> list[Tensor]:
    return [F.relu(x @ w + 1).sum(0), (x @ w).mean(1)]


def _views(x: Tensor, w: Tensor) -> list[Tensor]:
    return [x.t().reshape(-1)[3:].view(-1, 1) * 2, torch.stack(x.unbind(0)[:2]), x.expand(2, 4, 5)]


def _in_place(x: Tensor, w: Tensor) -> list[Tensor]:
    x.mul_(0.5).add_(w.t()[:4, :5])
    return [x + 1]


def _scattered(x: Tensor, w: Tensor) -> list[Tensor]:
    places = torch.tensor([0, 2, 1, 0])
    zeros = torch.zeros(5, 5)
    zeros.index_add_(0, places, x)  # into a tensor that must be zero again at each run
    return [zeros]


def _several_results(x: Tensor, w: Tensor) -> list[Tensor]:
    values, places = x.max(1)
    return [values, places.to(torch.float32), torch.cat([x, x * 2])]


def _aliases(x: Tensor, w: Tensor) -> list[Tensor]:
    y = x + 1
    return [y, y * 2, y.t() + w[:5, :4], y.mul(1), y - y.flip(0)]


def _constants(x: Tensor, w: Tensor) -> list[Tensor]:
    half = torch.tensor(0.5) * torch.ones(5)  # anew at each call
    return [x * half, torch.arange(5) + x]


def _nothing_to_do(x: Tensor, w: Tensor) -> list[Tensor | None]:
    return [x, None, x.t()]


def _differentiated(x: Tensor, w: Tensor) -> list[Tensor]:
    leaf = w.detach().requires_grad_()
    loss = F.cross_entropy(torch.tanh(x @ leaf), torch.tensor([0, 1, 2, 0]))
    return [loss.detach(), *torch.autograd.grad(loss, [leaf])]


def _mapped(x: Tensor, w: Tensor) -> list[Tensor]:
    return [vmap(lambda row: F.linear(row, w.t(), w[0]).softmax(0))(x)]


def _pooled(x: Tensor, w: Tensor) -> list[Tensor]:
    leaf = torch.cat([x.flatten(), x.flatten()[:16]]).view(1, 1, 6, 6).requires_grad_()
    pooled = F.max_pool2d(F.conv2d(leaf, leaf[:, :, :3, :3], padding=1), 2)
    return [pooled.detach(), *torch.autograd.grad(pooled.sum(), [leaf])]


WORKS = (
    _chain,
    _views,
    _in_place,
    _scattered,
    _several_results,
    _aliases,
    _constants,
    _nothing_to_do,
    _differentiated,
    _mapped,
    _pooled,
)


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.__name__[1:])
def test_a_program_repeats_the_work_on_new_numbers(
    work: Callable[[Tensor, Tensor], Sequence[Tensor | None]],
) -> None:
    assert_repeats(work, torch.randn(4, 5), torch.randn(5, 5))


UNARY = (
    torch.relu,
    torch.neg,
    torch.tanh,
    lambda t: t * 1,
    lambda t: t.t(),
    lambda t: t.sum(1, keepdim=True).expand(3, 3),
    lambda t: t.detach().clone().mul_(2),
    lambda t: t[0].expand(3, 3),
)
BINARY = (torch.add, torch.mul, torch.mm, lambda a, b: torch.cat([a, b])[1:4], torch.maximum)


@settings(max_examples=120, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(UNARY) + len(BINARY) - 1), st.integers(0), st.integers(0)),
        min_size=1,
        max_size=12,
    ),
    st.lists(st.integers(0), min_size=1, max_size=4),
)
def test_any_work_of_some_operations_is_repeated(
    operations: list[tuple[int, int, int]], results: list[int]
) -> None:
    def work(x: Tensor, y: Tensor) -> list[Tensor]:
        known = [x, y]
        for kind, first, second in operations:
            one, other = known[first % len(known)], known[second % len(known)]
            if kind < len(UNARY):
                known.append(UNARY[kind](one))
            else:
                known.append(BINARY[kind - len(UNARY)](one, other))
        return [known[place % len(known)] for place in results]

    assert_repeats(work, torch.randn(3, 3), torch.randn(3, 3), runs=2)


# --- where results are written --------------------------------------------------------------------


@pytest.mark.parametrize("copied", [False, True])
def test_results_are_written_where_they_are_wanted(copied: bool) -> None:
    x, w = torch.randn(3, 4, 5), torch.randn(3, 5, 6)
    room = torch.zeros(3, 100)  # one row a lane, a product's transpose and a sum side by side
    places = {0: room[:, :24].view(3, 6, 4), 1: room[:, 32:38]}

    def work() -> list[Tensor]:
        return [torch.bmm(x, w).transpose(1, 2), w.sum(1)]

    captured = capture(work, [x, w])
    program = captured.program(places, copied={0, 1} if copied else ())
    for _ in range(2):
        x.normal_()
        w.normal_()
        program.run()
        product, total = work()
        torch.testing.assert_close(places[0], product)  # its sums may run in another order
        assert torch.equal(places[1], total)
        assert not room[:, 24:32].any() and not room[:, 38:].any()
    assert program.results[0] is places[0] and program.results[1] is places[1]
    copies = [call for call in program.calls if "copy_" in str(call)]
    # into memory with gaps a product is copied in any case, for to multiply there takes longer
    assert len(copies) == (2 if copied else 1)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_threads_share_a_product_evenly(
    monkeypatch: pytest.MonkeyPatch, count: int, threads: int
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x, w = torch.randn(count, 48, 200), torch.randn(count, 200, 128)

    def work() -> list[Tensor]:
        return [torch.bmm(x, w), torch.bmm(x, w[:, :, :10])]

    program = capture(work, [x, w]).program(shared=True)
    parts = [len(call.keywords["out"]) for call in program.calls]  # type: ignore[attr-defined]
    left = count % threads
    even = [count - left] if count > left else []
    # a small product that has even parts is not worth another call
    small = [threads] if count == 1 else [count]
    assert parts == [*even, *[threads] * left, *small]
    x.normal_()
    program.run()
    assert program.results[0] is not None and program.results[1] is not None
    torch.testing.assert_close(program.results[0], x @ w)
    torch.testing.assert_close(program.results[1], x @ w[:, :, :10])


def test_rows_that_threads_cannot_share_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for rows in (33, 30):  # no even number, and fewer than are worth a thread
        x, w = torch.randn(1, rows, 200), torch.randn(1, 200, 300)
        program = capture(lambda x=x, w=w: [torch.bmm(x, w)], [x, w]).program(shared=True)
        assert len(program.calls) == 1
        program.run()
        assert program.results[0] is not None and torch.equal(program.results[0], torch.bmm(x, w))


def test_a_result_that_is_read_on_and_one_that_is_given_twice_are_copied() -> None:
    x = torch.randn(4, 3)
    places = {0: torch.zeros(3, 4), 1: torch.zeros(4, 3)}

    def work() -> list[Tensor]:
        y = x.exp()
        return [y.t(), y, y + 1]

    program = capture(work, [x]).program(places)
    x.normal_()
    program.run()
    expected = work()
    assert all(torch.equal(places[i], expected[i]) for i in places)
    assert program.results[2] is not None and torch.equal(program.results[2], expected[2])


def test_what_nothing_comes_of_is_left_out() -> None:
    x, noted = torch.randn(4), torch.zeros(4)

    def work() -> list[Tensor]:
        x.exp().sum()  # nobody asks
        noted.copy_(x)  # a change of something given is asked for
        return [x * 2]

    program = capture(work, [x, noted]).program()
    assert len(program.calls) == 2
    x.normal_()
    program.run()
    assert torch.equal(noted, x)


def test_what_hangs_on_nothing_that_changes_is_computed_once() -> None:
    x, table = torch.randn(4), torch.randn(4)
    program = capture(lambda: [table.exp().sum() * torch.ones(4)], [x]).program()
    assert program.calls == []


# --- what cannot be repeated ----------------------------------------------------------------------


def _alternating() -> Callable[[Tensor], list[Tensor]]:
    calls = []

    def work(x: Tensor) -> list[Tensor]:
        calls.append(1)
        return [x + 1] if len(calls) % 2 else [x * 1.5]

    return work


def _counting() -> Callable[[Tensor], list[Tensor]]:
    calls = []

    def work(x: Tensor) -> list[Tensor]:
        calls.append(1)
        return [x * len(calls)]

    return work


@pytest.mark.parametrize(
    ("work", "why"),
    [
        (lambda x: [F.dropout(x, 0.5)], "something else at each call"),
        (lambda x: [x + torch.rand(4)], "something else at each call"),
        (lambda x: [x * x.sum().item()], "looks at numbers|something else"),
        (lambda x: [x[x > 0]], "something else at each call"),
        (lambda x: [x if bool((x > 0).any()) else -x], "looks at numbers|something else"),
        (_alternating(), "the same at each call"),
        (_counting(), "the same at each call"),
    ],
)
def test_work_that_is_not_the_same_each_time_is_refused(
    work: Callable[[Tensor], list[Tensor]], why: str
) -> None:
    x = torch.randn(4)
    with pytest.raises(NotCapturable, match=why):
        capture(lambda: work(x), [x])


def test_an_error_of_the_work_is_its_own() -> None:
    def work() -> list[Tensor]:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        capture(work, [])


# --- on a GPU -------------------------------------------------------------------------------------


def test_on_a_gpu_a_program_becomes_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Graph:
        def __init__(self, work: Callable[[], None], device: torch.device) -> None:
            asked.append(device)
            self.replay = work

    monkeypatch.setattr(capture_program, "_graph", Graph)
    x = torch.randn(4)
    program = capture(lambda: [x.exp() + 1], [x]).program()
    assert program.on(torch.device("cpu")) is program and not asked
    graph = program.on(torch.device("cuda", 1))
    assert asked == [torch.device("cuda", 1)] and len(graph.calls) == 1
    x.normal_()
    graph.run()
    assert graph.results[0] is not None and torch.equal(graph.results[0], x.exp() + 1)


def test_a_graph_keeps_the_memory_that_it_writes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows only addresses; freed, they would be somebody else's."""
    replays = types.SimpleNamespace(replay=lambda: None)
    monkeypatch.setattr(capture_program, "_graph", lambda work, device: replays)
    x = torch.randn(4)
    program = capture(lambda: [x.exp() + 1], [x]).program()
    held = weakref.ref(program.calls[0])
    graph = program.on(torch.device("cuda", 0))
    del program
    assert held() is not None
    del graph
    assert held() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_cuda_graph_repeats_the_work() -> None:
    x = torch.randn(64, 64, device="cuda")

    def work() -> list[Tensor]:
        return [(x @ x).relu().sum(0)]

    program = capture(work, [x]).program().on(x.device)
    for _ in range(3):
        x.normal_()
        program.run()
        assert program.results[0] is not None and torch.equal(program.results[0], work()[0])
