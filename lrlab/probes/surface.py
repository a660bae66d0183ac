"""Measure the loss in the plane that is nearest to the runs' paths through weight space."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.func import functional_call, vmap

from lrlab import records
from lrlab.data import inputs
from lrlab.data.inputs import Inputs
from lrlab.engine.lanes import memory
from lrlab.engine.lanes.chunks import EVALUATION_CHUNK
from lrlab.engine.lanes.lane_stack import Lanes
from lrlab.engine.lanes.real_pairs import as_real, like_real
from lrlab.probes.paths import CHUNK_BYTES, Replay

if TYPE_CHECKING:
    from lrlab.data import Dataset

SURFACE, PATHS = records.LANDSCAPE["surface"], records.LANDSCAPE["paths"]
GRID = 31  # points of the surface along each axis
SAMPLES = 1000  # training samples at most for the surface's loss
LEAST_SAMPLES = 128
MARGIN = 0.15  # margin around the paths, relative to their extent
FAR = 2.0  # the figure extends at most this many times as far as the good run

_WORK = 1e11  # multiply-adds for the surface; a few seconds on two cores


def surface(
    replay: Replay,
    data: Dataset,
    names: Sequence[Mapping[str, Any]],
    good: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the loss on a grid of the paths' plane, and the paths: columns SURFACE and PATHS."""
    origin = replay.weights[good][0]
    moved = [path - origin for path in replay.weights]
    near = _near(moved, good)
    axes = _plane([path[:end] for path, end in zip(moved, near, strict=True)], good)
    flat = [path @ axes.T for path in moved]  # (snapshots, 2) each
    xs, ys = _grid(np.concatenate([place[:end] for place, end in zip(flat, near, strict=True)]))
    samples, points = _affordable(replay, data, len(xs) * len(ys))
    if points < len(xs) * len(ys):
        xs, ys = (np.linspace(v[0], v[-1], int(points**0.5)) for v in (xs, ys))
    chosen = np.sort(np.random.default_rng(0).permutation(len(data.train_y))[:samples])

    def loss(points: int, weights: Callable[[slice], np.ndarray]) -> np.ndarray:
        return _loss_at(replay.stack.lanes, data, chosen, points, weights)

    grid = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    on_plane = loss(len(grid), lambda part: origin + grid[part] @ axes)
    table = pd.DataFrame({"x": grid[:, 0], "y": grid[:, 1], "loss": on_plane})
    parts = []
    for name, path, place, end in zip(names, moved, flat, near, strict=True):
        length = float((path[:end].astype(np.float64) ** 2).sum())
        share = float((place[:end] ** 2).sum()) / length if length else 1.0
        part = pd.DataFrame({**name, "step": replay.at[: len(path)]})
        losses = loss(len(path), lambda some, whole=path + origin: whole[some])
        parts.append(part.assign(x=place[:, 0], y=place[:, 1], loss=losses, share=share))
    return table, pd.concat(parts, ignore_index=True).reindex(columns=list(PATHS))


def _near(moved: Sequence[np.ndarray], good: int) -> list[int]:
    """Return how many snapshots of each path set the figure's extent, without any blow-up."""
    far = [np.sqrt((path.astype(np.float64) ** 2).sum(axis=1)) for path in moved]
    limit = FAR * float(far[good].max())
    return [max(1, int(np.argmax(np.append(distance, np.inf) > limit))) for distance in far]


def _plane(moved: Sequence[np.ndarray], good: int) -> np.ndarray:
    """Return (2, weights) two orthonormal axes through the start, the main directions of the paths.

    Each path counts equally, however long it is. The good one ends at positive x, most of the
    others at positive y.
    """
    scaled = []
    for path in moved:
        length = np.sqrt((path.astype(np.float64) ** 2).sum())
        scaled.append(path / length if length else path)
    table = np.concatenate(scaled)
    gram = _products(table, table)
    values, vectors = np.linalg.eigh(gram)
    axes = []
    for k in (-1, -2):
        if len(values) >= -k and values[k] > 1e-10 * max(values[-1], 1e-30):
            axes.append(vectors[:, k].astype(np.float32) @ table / np.sqrt(values[k]))
    while len(axes) < 2:  # a straight path, or none: any other direction will do
        drawn = np.random.default_rng(len(axes)).standard_normal(table.shape[1])
        for axis in axes:
            drawn -= (drawn @ axis) * axis
        axes.append(drawn / np.linalg.norm(drawn))
    first, second = (axis.astype(np.float64) for axis in axes)
    first /= np.linalg.norm(first)
    second -= (second @ first) * first
    second /= np.linalg.norm(second)
    if moved[good][-1] @ first < 0:
        first = -first
    if sum(float((path @ second).sum()) for i, path in enumerate(moved) if i != good) < 0:
        second = -second
    return np.stack([first, second])


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a · bᵀ in float64, without a float64 copy of either."""
    total = np.zeros((len(a), len(b)))
    for first in range(0, a.shape[1], 2**20):
        part = slice(first, first + 2**20)
        total += a[:, part].astype(np.float64) @ b[:, part].astype(np.float64).T
    return total


def _grid(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (GRID,) each, around all points; no axis is shorter than a third of the other."""
    low, high = places.min(axis=0), places.max(axis=0)
    least = max(float((high - low).max()) / 3, 1e-6)
    centre, extent = (low + high) / 2, np.maximum(high - low, least)
    half = extent * (0.5 + MARGIN)
    xs, ys = (np.linspace(c - h, c + h, GRID) for c, h in zip(centre, half, strict=True))
    return xs, ys


def _affordable(replay: Replay, data: Dataset, points: int) -> tuple[int, int]:
    """Return how many samples and grid points take a few seconds."""
    most = min(SAMPLES, len(data.train_y))
    each = _multiply_adds(replay.stack.lanes, inputs.mapped(lambda t: t[:2], data.train_x)) / 2
    # networks that cannot train together, such as convolutions, are slower here as well
    work = _WORK if replay.stack.lanes.way == "together" else _WORK / 4
    samples = int(np.clip(work / (each * points), min(LEAST_SAMPLES, most), most))
    return samples, max(121, int(min(points, work / (each * samples))))


def _multiply_adds(lanes: Lanes, x: Inputs) -> float:
    """Estimate the multiply-adds of one forward pass, those of all modules with weights."""
    network = copy.deepcopy(lanes.modules[0]).eval()
    counted = float(sum(t[0].numel() for t in lanes.params.values()))

    def count(module: Any, _: Any, output: Any) -> None:
        nonlocal counted
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor) and isinstance(output, torch.Tensor) and len(weight):
            counted += output.numel() * weight.numel() / len(weight)

    for module in network.modules():
        module.register_forward_hook(count)
    one = {n: t[0] for n, t in {**lanes.params, **lanes.fixed}.items()}
    with torch.no_grad():
        functional_call(network, one, *inputs.arguments_of(x))
    return counted


def _loss_at(
    lanes: Lanes,
    data: Dataset,
    chosen: np.ndarray,
    points: int,
    weights: Callable[[slice], np.ndarray],
) -> np.ndarray:
    """Return (points,) loss of the chosen samples at weights, as training sees it."""
    index = torch.from_numpy(chosen).to(data.train_y.device)
    x, y = inputs.mapped(lambda tensor: tensor[index], data.train_x), data.train_y[index]
    size = _lanes_at_once(lanes, x, y)
    found = []
    for first in range(0, points, size):
        flat = weights(slice(first, first + size))
        rows = torch.from_numpy(flat.astype(np.float32)).to(y.device)
        sizes = [as_real(t[0]).numel() for t in lanes.params.values()]
        pieces = zip(lanes.params.items(), rows.split(sizes, dim=1), strict=True)
        params = {name: like_real(piece, t).to(t.dtype) for (name, t), piece in pieces}
        fixed = {
            name: t.detach()[:1].expand(len(rows), *t.shape[1:]).clone()
            for name, t in lanes.fixed.items()
        }
        found.append(_forward(lanes, params, fixed, x, y).double().cpu().numpy())
    return np.concatenate(found)


def _lanes_at_once(lanes: Lanes, x: Inputs, y: Tensor) -> int:
    few = min(len(y), 16)
    network = copy.deepcopy(lanes.modules[0]).cpu()
    few_x = inputs.mapped(lambda tensor: tensor[:few].cpu(), x)
    each = memory.bytes_a_lane(network, lanes.losses[0], few_x, y[:few].cpu())
    each = each * max(len(y), EVALUATION_CHUNK) // EVALUATION_CHUNK
    return int(np.clip(CHUNK_BYTES // max(each, 1), 1, 64))


def _forward(
    lanes: Lanes, params: Mapping[str, Tensor], fixed: Mapping[str, Tensor], x: Inputs, y: Tensor
) -> Tensor:
    """Return (points,) losses without gradients, in training mode: batch norm by sample means."""
    module, arguments = lanes.modules[0].train(), inputs.arguments_of(x)

    def loss(params: dict[str, Tensor], fixed: dict[str, Tensor]) -> Tensor:
        return lanes.losses[0](functional_call(module, (params, fixed), *arguments), y)

    with torch.no_grad():
        if lanes.way != "unmapped" and not lanes.draws:
            return vmap(loss)(dict(params), dict(fixed))
        losses = []
        for i in range(len(next(iter(params.values())))):
            # the same numbers are drawn everywhere; torch.manual_seed would take milliseconds
            torch.default_generator.manual_seed(0)
            if y.is_cuda:
                torch.cuda.manual_seed(0)
            one = ({n: t[i] for n, t in params.items()}, {n: t[i] for n, t in fixed.items()})
            losses.append(loss(*one))
        return torch.stack(losses)
