"""Measure the loss along one update of each of the runs, from one state."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lrlab import records
from lrlab.engine.diagnostics import quantities
from lrlab.engine.lanes.chunks import Samples
from lrlab.engine.lanes.lane_stack import Lanes
from lrlab.engine.lanes.real_pairs import as_real
from lrlab.probes.paths import CHUNK_BYTES, Replay
from lrlab.training.loop import advance
from lrlab.training.on_batches import Batches

LINES = records.LANDSCAPE["lines"]
POINTS = 61  # points of each line, at least


def lines(replay: Replay, batch: Batches, names: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the mini-batch loss along the next update of each lane, columns LINES."""
    stack, step = replay.stack, replay.state_step
    lanes = stack.lanes
    start = {name: t.detach().clone() for name, t in lanes.params.items()}
    fixed = {name: t.detach().clone() for name, t in lanes.fixed.items()}
    advance(stack, replay.values)
    update = {name: t.detach() - start[name] for name, t in lanes.params.items()}

    parts = []
    for lane, name in enumerate(names):
        begin, along, buffers = (
            {key: t[lane] for key, t in tensors.items()} for tensors in (start, update, fixed)
        )
        seen = functools.partial(_along, lanes, begin, along, buffers, batch(step), step)
        ends, slopes = seen(np.array([0.0, 1.0]))
        fit = quantities.parabola(ends[1] - ends[0], slopes[0], slopes[1])
        w0, w1, w2 = (float(w) for w in fit) if np.isfinite(ends).all() else (np.nan,) * 3
        alpha = float(quantities.alpha(ends[1] - ends[0], slopes[0], slopes[1]))
        lowest = -w1 / (2 * w2) if w2 > 0 else np.nan
        reach = max(1.5, 1.3 * lowest) if 0 < lowest <= 6 else 1.5
        t = np.unique(np.append(np.linspace(-0.25, reach, POINTS), [0.0, 1.0]))
        length = float(torch.stack([(double(v) ** 2).sum() for v in along.values()]).sum().sqrt())
        part = pd.DataFrame({**name, "step": step, "t": t, "distance": t * length})
        part = part.assign(loss=seen(t)[0], w0=ends[0] + w0, w1=w1, w2=w2, alpha=alpha)
        parts.append(part)
    return pd.concat(parts, ignore_index=True).reindex(columns=list(LINES))


def _along(
    lanes: Lanes,
    begin: Mapping[str, Tensor],
    along: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    batch: Samples,
    step: int,
    t: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return losses and slopes at begin + t · along, as training sees them: (points,) float64."""
    size = max(1, CHUNK_BYTES // (8 * sum(v.nbytes for v in begin.values()) + 1))
    device = next(iter(begin.values())).device
    losses, slopes = [], []
    for places in np.array_split(t, -(-len(t) // size)):
        where = torch.tensor(places, dtype=torch.float32, device=device)
        params = {
            key: b + where.to(b.dtype).view(-1, *(1,) * b.ndim) * along[key]
            for key, b in begin.items()
        }
        fixed = {
            key: b.expand(len(places), *b.shape).contiguous().clone() for key, b in buffers.items()
        }
        count = len(places)
        # "one at a time" is slower, and would change only the last bit, which does not show
        way = "together" if lanes.way == "one at a time" else lanes.way
        modules, seeds = lanes.modules[:1] * count, lanes.seeds[:1] * count
        stack = Lanes(
            modules, params, fixed, seeds, lanes.losses[:1] * count, {(count, False): way}
        )
        stack.accumulate = lanes.accumulate
        stack.settle(*batch, batch)
        loss, gradients = stack.gradients(*batch, [step] * count, 0)
        slope = double(torch.zeros(count, device=device))
        for key, gradient in zip(params, gradients, strict=True):
            if gradient is not None:
                slope += (double(gradient) * double(along[key])).flatten(1).sum(1)
        losses.append(double(loss).cpu().numpy())
        slopes.append(slope.cpu().numpy())
    return np.concatenate(losses), np.concatenate(slopes)


def double(values: Tensor) -> Tensor:
    """Return values in float64, on the CPU if on MPS, which lacks it; a complex number as two."""
    values = as_real(values)
    return (values.cpu() if values.device.type == "mps" else values).double()
