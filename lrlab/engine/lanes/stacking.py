"""Make a stack of lanes from networks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.func import stack_module_state

from lrlab.engine import python_state
from lrlab.engine.lanes.block import Loss
from lrlab.engine.lanes.lane_stack import Lanes


def stack(
    networks: Sequence[nn.Module],
    seeds: Sequence[int],
    loss: Loss,
    device: str,
    ways: dict[tuple[int, bool], str] | None = None,
    pad: int = 0,
    precision: str = "float32",
) -> Lanes:
    """Stack networks that differ only in their numbers as lanes, on the device.

    Their Python values may differ, too, such as numbers that a network has drawn.
    """
    module = networks[0].to(device).train()
    for network in networks[1:]:
        network.to(device).train()
    frozen = {n for n, p in module.named_parameters() if not p.requires_grad}
    params, buffers = stack_module_state(list(networks))
    trained = {n: t.detach() for n, t in params.items() if n not in frozen}
    fixed = {n: t.detach() for n, t in {**params, **buffers}.items() if n not in trained}
    first = python_state.of(module)
    modules = [
        module
        if other is module or not python_state.changes(first, python_state.of(other))
        else other
        for other in networks
    ]
    losses = [loss] * len(seeds)
    return Lanes(modules, trained, fixed, seeds, losses, ways, pad, precision)
