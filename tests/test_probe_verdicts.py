"""What a probe says of a step: closed forms, careful brackets, nothing that rounding hides."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrlab
from lrlab import records
from lrlab.errors import UserError
from lrlab.own_loop import words
from lrlab.own_loop.measuring import Measured

pytestmark = pytest.mark.unit


SAID = [  # critical multiple, stability ratio, kind, factor, a part of the text
    (20.0, math.nan, "far too short", 10, "a twentieth of what this loss could bear: lr could"),
    (4.0, math.nan, "about right", 2, "a quarter of what this loss could bear: about right"),
    (1.5, math.nan, "about right", 0.75, "67% of what this loss could bear: they end beyond"),
    (1.0, math.nan, "at the edge", 0.5, "100% of what this loss can bear"),
    (0.5, math.nan, "too long", 0.25, "too long: at 0.5 times their length"),
    (20.0, 0.05, "far too short", 10, "10 times as large; stability ratio 0.05"),
    (20.0, 0.3, "about right", 3, "a twentieth of what this loss could bear; stability ratio 0.3"),
    (20.0, 0.95, "at the edge", 0.9 / 0.95, "is at its limit (stability ratio 0.95)"),
    (20.0, 1.5, "too long", 0.6, "climbs out of the valley (stability ratio 1.5)"),
    (math.inf, 0.009, "far too short", 100, "lr could be 100 times as large"),
]


@pytest.mark.parametrize(("critical", "ratio", "kind", "factor", "text"), SAID)
def test_the_verdict_is_that_of_the_worse_of_both_directions(
    critical: float, ratio: float, kind: str, factor: float, text: str
) -> None:
    ends = (0.9 * critical, 1.1 * critical)
    one = Measured(1, 0.9, -0.5, critical, *ends, 1, 0.1, (0.1,), 0, ratio, 0.1)
    found = words.verdict([one] * 3, 200)
    assert (found.steps, found.factor) == (kind, pytest.approx(factor))
    assert text in found.text and found.text.startswith("lr=0.1, step 200: ")
    assert words.verdict([one] * 2, 2).steps == ""


def walk(
    loss: Callable[[], Tensor], w: nn.Parameter, lrs: list[float], folder: Path, **options: Any
) -> lrlab.Probe:
    """Descend on a loss of one parameter, at an lr for each step, and measure each."""
    model = nn.ParameterList([w])
    optimizer = torch.optim.SGD([w], lr=lrs[0])
    probe = lrlab.Probe(model, optimizer, folder, 1, **options)
    for lr in lrs:
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        loss().backward()
        with probe.step(loss):
            optimizer.step()
    return probe


def test_the_verdict_is_that_of_the_last_lr_of_a_schedule(tmp_path: Path) -> None:
    w = nn.Parameter(torch.ones(1, dtype=torch.float64))
    probe = walk(lambda: 0.5 * w.square().sum(), w, [1.9, 1.9, 1.9, 1.9, 0.019], tmp_path)
    found = probe.verdict()
    assert found.critical == pytest.approx(2 / 0.019, rel=1e-3)
    assert (found.steps, found.factor) == ("far too short", pytest.approx(1 / 0.019, rel=1e-3))


def test_a_long_way_down_is_not_taken_for_an_endless_one(tmp_path: Path) -> None:
    # Steep at the end of a long flat slope: at 3^(20/19) / 0.01 = 318 times the step, not before.
    w = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    probe = walk(lambda: (-w + (w / 3) ** 20).sum(), w, [0.01] * 5, tmp_path)
    for found in probe.measured:
        assert found.low < 318 and found.high > 313 and found.critical < 318
    assert "or more" not in str(probe.verdict())


def test_a_step_to_infinity_is_bracketed_from_below(tmp_path: Path) -> None:
    w = nn.Parameter(torch.full((1,), -1.0, dtype=torch.float64))
    probe = walk(lambda: (w.exp() - 3 * w).sum(), w, [3000.0], tmp_path)
    (found,) = probe.measured
    # exp(−1 + 7896·t) − 3·(7896·t) is back at its start near t = 0.0004
    assert found.loss_after == math.inf and found.high < 0.02


def test_across_a_ravine_without_an_end_the_stability_ratio_decides(tmp_path: Path) -> None:
    w = nn.Parameter(torch.tensor([0.0, 0.0], dtype=torch.float64))

    def loss() -> Tensor:
        return 10 - w[0] + 100 * w[1] ** 2

    probe = walk(loss, w, [0.02] * 4, tmp_path, curvature=loss)
    assert probe.verdict().steps == "too long"
    assert probe.measured[-1].stability_ratio == pytest.approx(2)


def test_buffers_are_put_back_before_each_evaluation(tmp_path: Path) -> None:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.full((1,), 3.0))
            self.register_buffer("mean", torch.zeros(1))

        def forward(self) -> Tensor:
            self.mean = 0.5 * self.mean + 1
            return (self.w - self.mean).square().sum()

    model = Norm()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = lrlab.Probe(model, optimizer, tmp_path, 1)
    model().backward()
    mean, start = model.mean.clone(), model.w.detach().clone()
    with probe.step(lambda: model()):
        optimizer.step()
    seen = 0.5 * mean + 1
    change = (model.w.detach() - seen).square() - (start - seen).square()
    found = probe.measured[0]
    assert found.loss_after - found.loss == pytest.approx(float(change), rel=1e-4)
    assert torch.equal(model.mean, mean)


def test_what_rounding_hides_is_not_judged(tmp_path: Path) -> None:
    w = nn.Parameter(torch.full((1,), 1e-6))
    probe = walk(lambda: (1 + 0.5 * w.square()).sum(), w, [0.001] * 5, tmp_path)
    assert "cannot be judged" in str(probe.verdict())
    assert all(math.isnan(found.critical) for found in probe.measured)
    still = nn.Parameter(torch.ones(1))
    probe = walk(lambda: (still * 2).sum(), still, [0.0] * 4, tmp_path)
    assert "changed no weight" in str(probe.verdict())


def test_a_closed_probe_says_so_and_one_that_is_dropped_is_closed(tmp_path: Path) -> None:
    w = nn.Parameter(torch.ones(1))
    probe = walk(lambda: w.square().sum(), w, [0.1] * 5, tmp_path)
    with pytest.raises(UserError, match="must be finished or interrupted"):
        probe.close("hello")
    with pytest.raises(UserError, match=r"must be a share"):
        probe.evaluated(1.0, 93.0)
    folder = probe.folder
    del probe
    summary = records.read_summary(folder)
    assert (summary["state"], summary["steps"]) == ("finished", 5)
    probe = lrlab.Probe(nn.ParameterList([w]), torch.optim.SGD([w], lr=0.1), tmp_path)
    probe.close()
    for use in (lambda: probe.evaluated(1.0), lambda: probe.step(w.sum).__enter__()):
        with pytest.raises(UserError, match="this probe is closed"):
            use()
