"""Measure the memory that a lane takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lrlab.data import inputs
from lrlab.data.inputs import Inputs
from lrlab.engine.lanes.block import Loss
from lrlab.engine.lanes.chunks import EVALUATION_CHUNK


def bytes_a_lane(
    network: nn.Module,
    loss: Loss,
    x: Inputs,
    y: Tensor,
    probe: int = 0,
    evaluated: int = EVALUATION_CHUNK,
) -> int:
    """Return the memory that one more lane takes, by measuring one forward pass on the CPU.

    It counts parameters, gradients, the optimizer's and a trial stack's memory. It counts a batch
    of its own, with autograd's memory and gradients, and ``evaluated`` samples of an evaluation,
    which the lanes share. If the lane is measured with a probe batch of so many samples, it adds
    the meter's vectors and the memory of second derivatives. The factors were measured: the peak in
    training was 40% to 97% of this, for MLPs, CNNs, SGD and Adam, measured or not.
    """
    kept = 0
    tensors = [*network.parameters(), *network.buffers()]
    others = {t.untyped_storage().data_ptr() for t in (*inputs.tensors(x), y, *tensors)}

    def count(tensor: Tensor) -> None:
        # Nothing is kept: an output that its own node kept would never be freed.
        nonlocal kept
        if tensor.untyped_storage().data_ptr() not in others:
            kept += tensor.nbytes

    own = sum(t.nbytes for t in tensors)
    with (
        torch.random.fork_rng(devices=[]),
        torch.autograd.graph.saved_tensors_hooks(count, lambda nothing: nothing),
    ):
        loss(inputs.called(network, x), y)
    given = inputs.nbytes(x)
    sample = kept // max(len(y), 1)
    meter = 20 * own + probe * (8 * sample + given // max(len(y), 1)) if probe else 0
    return 7 * own + 2 * kept + given + evaluated * sample + meter
