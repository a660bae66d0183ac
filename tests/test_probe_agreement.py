"""A probe in an ordinary loop measures what a sweep measures of the same training."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.training import IN_SHAPE

import lrlab
from lrlab import networks, records
from lrlab.engine.diagnostics.meter import PROBE
from lrlab.plan import build

RUNS = {
    "optimizer=sgd lr=0.3": partial(torch.optim.SGD, lr=0.3),
    "optimizer=momentum lr=0.03": partial(torch.optim.SGD, lr=0.03, momentum=0.9),
    "optimizer=adam lr=0.003": partial(torch.optim.Adam, lr=0.003),
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.usefixtures("one_thread")
def test_alpha_and_stability_ratio_are_those_of_the_sweep(
    run: str, trainer: Any, data: Any, tmp_path: Path
) -> None:
    swept = records.read_diagnostics(trainer.alone(run, "diagnostics=full").folder)
    torch.manual_seed(0)
    model = networks.MLP(IN_SHAPE, data.num_classes)
    optimizer = RUNS[run](model.parameters())
    chosen = np.sort(np.random.default_rng(0).permutation(len(data.train_y))[:PROBE])
    x, y = data.train_x[chosen], data.train_y[chosen]
    probe = lrlab.Probe(
        model, optimizer, tmp_path / "own", 1, curvature=lambda: F.cross_entropy(model(x), y)
    )
    for epoch in range(2):
        order = torch.from_numpy(build.batch_order(0, epoch, len(data.train_y)))
        for index in order.split(64):
            a, b = data.train_x[index], data.train_y[index]
            optimizer.zero_grad()
            F.cross_entropy(model(a), b).backward()
            with probe.step(lambda a=a, b=b: F.cross_entropy(model(a), b)):
                optimizer.step()
    own = records.read_diagnostics(probe.folder).set_index("step").loc[swept["step"]]
    assert len(own) > 10
    swept = swept.set_index("step")
    for name, tolerance in (("alpha", 1e-4), ("grad_norm", 1e-4), ("update_ratio", 1e-4)):
        np.testing.assert_allclose(own[name], swept[name], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(own["stability_ratio"], swept["stability_ratio"], rtol=0.05)
