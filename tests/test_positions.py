"""lrlab's losses of targets with positions, and the share of right answers, against torch's."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lrlab import losses

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("index", [None, -100, 2])
@pytest.mark.parametrize("last", [False, True])
def test_losses_of_positions_are_torchs(index: int | None, last: bool) -> None:
    draw = torch.Generator().manual_seed(1)
    outputs = torch.randn(5, 4, 3, generator=draw, requires_grad=True)  # classes at axis 1
    targets = torch.randint(0, 4, (5, 3), generator=draw)
    if index is not None:
        targets[torch.rand(5, 3, generator=draw) < 0.3] = index
    given = outputs.movedim(1, -1) if last else outputs
    options = {} if index is None else {"ignore_index": index}
    truth = F.cross_entropy(outputs, targets, **options)
    counts = torch.ones(5, 3).bool() if index is None else targets != index
    one_hot = F.one_hot(targets.clamp_min(0), 4).movedim(-1, 1)
    squares = ((outputs - one_hot) ** 2).mean(1)[counts].mean()
    for loss, expected in (
        (losses.nll, truth),
        (losses.cross_entropy, truth),
        (losses.mse_one_hot, squares),
    ):
        found = loss(given, targets, **options)
        torch.testing.assert_close(found, expected)
        slope = partial(torch.autograd.grad, inputs=outputs, retain_graph=True)
        torch.testing.assert_close(slope(found), slope(expected))
        partial_loss = partial(loss, ignore_index=index, class_axis=None)
        assert losses.task(partial_loss) == "classification"
        assert losses.ignored(partial_loss) == index
        guess = losses.chance_loss(partial_loss, targets, given.shape[1:])
        shares = np.bincount(targets[counts & (targets >= 0)].numpy(), minlength=4)
        shares = shares / shares.sum()
        entropy = -sum(p * math.log(p) for p in shares if p)
        if loss is losses.mse_one_hot:
            assert guess == pytest.approx((shares * (1 - shares)).sum() / 4)
        else:
            assert guess == pytest.approx(entropy)


def test_right_answers_are_those_that_count() -> None:
    targets = torch.tensor([[0, 1, -100], [2, 2, 1]])
    outputs = F.one_hot(torch.tensor([[0, 1, 2], [2, 0, 0]]), 5).float()
    for given in (outputs, outputs.movedim(-1, 1)):
        found = losses.right_answers(given, targets)
        assert found is not None and int(found) == 3
        found = losses.right_answers(given, targets, without=2)
        assert found is not None and int(found) == 2
        assert losses.right_answers(given, targets, 6) is None
    square = outputs[..., :3]  # as many positions as classes
    found = losses.right_answers(square, targets, axis=-1)
    assert found is not None and int(found) == 3
    other = losses.right_answers(square.movedim(-1, 1), targets)
    assert other is not None and int(other) == 3
