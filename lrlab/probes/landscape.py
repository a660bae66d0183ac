"""The loss surface under a sweep: along one update for three lrs, and in the plane of their paths.

Three runs of a finished sweep are trained again for their first steps, as lanes, to the bit of
their records: one whose lr is small, a good one, a large one. From what is seen on the way come
three tables, `lines`, `surface` and `paths`, in the sweep's folder. Pictures are drawn elsewhere.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lrlab import records
from lrlab.errors import UserError
from lrlab.tables import tidy

if TYPE_CHECKING:
    from torch import Tensor

    from lrlab.data import Dataset
    from lrlab.engine.lanes.lane_stack import Lanes
    from lrlab.engine.optimizers.protocol import LaneOptimizer
    from lrlab.plan.spec import RunSpec

STEPS = 300  # that are replayed at most
SNAPSHOTS = 30  # places on each path, besides its start
GRID = 31  # points of the surface along each axis
SAMPLES = 1000  # training samples whose loss the surface shows, at most
LEAST_SAMPLES = 128
POINTS = 61  # of each line, at least
MARGIN = 0.15  # of the paths' extent around them
FAR = 2.0  # the picture reaches no further than so many times as far as the good run comes

_WORK = 1e11  # multiply-adds for the surface; a few seconds on two cores
_PATH_NUMBERS = 2**27  # weights of all snapshots together
_CHUNK_BYTES = 2**28  # of lanes that are evaluated at once
_CLEARLY = 4.0  # the small lr is below the good one by this factor, if there is such a one

ROLES = ("small", "good", "large")
LINES, SURFACE, PATHS = (records.LANDSCAPE[name] for name in ("lines", "surface", "paths"))


@dataclass(frozen=True)
class Landscape:
    """The tables; all empty where there is nothing to show.

    Attributes:
        lines: columns LINES, the mini-batch loss along the update that each lr would make from one
            state of the good run. t is in updates: 0 the state, 1 where the update lands; distance
            is t · the update's length in weight space. f(t) = w0 + w1·t + w2·t² and alpha are as
            in `lrlab.engine.diagnostics`; NaN where the loss is not finite at t = 1.
        surface: columns SURFACE, the mean loss of some training samples on a regular grid of the
            plane; x and y are distances in weight space from the runs' common start. inf or NaN
            where it is not finite.
        paths: columns PATHS, up to the last weights that are finite, with the same loss at the
            weights themselves, which lie off the plane: share says how much of the path's squared
            distance from the start lies in it, as far as it is near (see FAR).
        reason: why there is nothing, one line; "" where there is.
        exact: whether the replayed losses were those of the records, to the bit.
    """

    lines: pd.DataFrame
    surface: pd.DataFrame
    paths: pd.DataFrame
    reason: str = ""
    exact: bool = True


def measure(
    sweep: Path,
    verdicts: pd.DataFrame,
    best: int | None = None,
    steps: int = STEPS,
    device: str | None = None,
    threads: int | None = None,
    trusted: bool = False,
) -> Landscape:
    """Replay three runs of a sweep and measure the loss around them.

    The sweep's records and the states of all random number generators stay as they are.

    Args:
        sweep: the sweep's folder.
        verdicts: of its runs, as from `lrlab.verdicts.judging.verdicts`.
        best: the run that is recommended; None: the one with the lowest end loss.
        steps: how many are replayed at most.
        device: where to train; None: as the runs' configs say.
        threads: the most that are used, where others want the cores too; None: as the configs say.
        trusted: whether all that the runs' configs name may be called; else only what
            `lrlab.config.trust` knows to be harmless.

    Returns:
        The tables, or why there are none. Never raises for what a sweep holds.
    """
    runs = choose(verdicts, best)
    if isinstance(runs, str):
        return nothing(runs)
    import torch

    try:
        specs = {role: _saved_spec(sweep / str(run), device, trusted) for role, run in runs.items()}
        reason = _unlike(list(specs.values()))
        if reason:
            return nothing(reason)
        where = next(iter(specs.values())).device
        cuda = [torch.device(where)] if where.startswith("cuda") else []
        with torch.random.fork_rng(devices=cuda):
            return _measure(specs, steps, threads)
    except UserError as error:
        return nothing(str(error))
    except Exception as error:  # a sweep must not fail at its end for want of a picture
        return nothing(f"{type(error).__name__}: {' '.join(str(error).split())}")


def write(sweep: Path, landscape: Landscape) -> None:
    """Write lines.csv, surface.csv and paths.csv into the sweep's folder.

    Where there is nothing to show, those of an earlier state of the sweep are taken away.

    Raises:
        NotWritten: the disk is full, the folder gone or read-only.
    """
    for name in records.LANDSCAPE:
        table = None if landscape.reason else getattr(landscape, name)
        records.write_landscape(sweep, name, table)


def nothing(reason: str) -> Landscape:
    """No landscape, and why."""
    lines, surface, paths = (
        pd.DataFrame({name: [] for name in names}) for names in (LINES, SURFACE, PATHS)
    )
    return Landscape(lines, surface, paths, reason=reason)


# --- which runs -----------------------------------------------------------------------------------


def choose(verdicts: pd.DataFrame, best: int | None = None) -> dict[str, int] | str:
    """The runs that are shown, by role: small, good, large.

    They differ from the good one in their lr only, not even in their seed, so all start from the
    same weights and see the same mini-batches. Good is ``best``, or the lowest end loss. Small is
    the largest lr that undershoots and is below the good one by a factor of 4, else the smallest
    lr. Large is the smallest lr above the good one that overshoots, collapses or diverges, else
    the largest lr. At an edge of the sweep one of them is missing.

    Returns:
        Role to run, in the order of ROLES, at least two of them; or why there is nothing to show.
    """
    from lrlab.verdicts.outcomes import FAILED, TOO_LARGE

    runs: list[dict[str, Any]] = verdicts.to_dict("records")
    runs = sorted((run for run in runs if math.isfinite(run["lr"])), key=lambda run: run["lr"])
    if not runs:
        return "there are no runs"
    if best is None:
        learned = [r for r in runs if math.isfinite(r["end_loss"]) and r["outcome"] not in FAILED]
        learned = [r for r in learned if r["outcome"] != "pruned"] or learned
        if not learned:
            return "every run diverged or collapsed"
        good = min(learned, key=lambda run: run["end_loss"])
    else:
        found = [run for run in runs if run["run"] == best]
        if not found:
            return f"run {best} has no verdict"
        good = found[0]
    names = ["seed", *tidy.settings_of(verdicts)]
    group = [run for run in runs if all(_same(run.get(n), good.get(n)) for n in names)]
    below = [run for run in group if run["lr"] < good["lr"]]
    above = [run for run in group if run["lr"] > good["lr"]]
    under = [
        run
        for run in below
        if run["outcome"] == "undershooting" and run["lr"] <= good["lr"] / _CLEARLY
    ]
    over = [run for run in above if run["outcome"] in TOO_LARGE]
    small = (under[-1:] or below[:1])[:1]
    large = (over[:1] or above[-1:])[:1]
    chosen = {"small": small, "good": [good], "large": large}
    roles = {role: int(one[0]["run"]) for role, one in chosen.items() if one}
    if len(roles) < 2:
        return "needs at least two learning rates whose other settings are equal"
    return roles


def _same(one: Any, other: Any) -> bool:
    return one == other or (one != one and other != other) or (one is None and other is None)


def _saved_spec(run: Path, device: str | None, trusted: bool) -> RunSpec:
    """A recorded run as it would be trained again."""
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from lrlab.config import schema, trust
    from lrlab.plan.spec import run_spec

    text = records.read_config(run)
    try:
        saved = OmegaConf.create(records.options(text))
        config = OmegaConf.merge(OmegaConf.structured(schema.Config), saved)
        assert isinstance(config, DictConfig)
        config = trust.settled(config, schema.GROUPS, str(run), trust.TRUST, trusted)
        config.device = device or config.device
        return run_spec(int(run.name), run, config, records.read_choices(run), {})
    except (OmegaConfBaseException, ValueError, TypeError, YAMLError) as error:
        raise UserError(f"{run}: its config is damaged: {str(error).splitlines()[0]}") from None


def _unlike(specs: Sequence[RunSpec]) -> str:
    from lrlab.plan.spec import group_key

    if len({group_key(spec) for spec in specs}) > 1 or len({s["seed"] for s in specs}) > 1:
        numbers = ", ".join(str(spec.number) for spec in specs)
        return f"runs {numbers} differ in more than their lr, so their paths cannot be compared"
    return ""


# --- the replay -----------------------------------------------------------------------------------


@dataclass
class _Replay:
    """What was seen on the way.

    Attributes:
        losses: (steps, lanes) float32.
        at: steps of the snapshots, 0 first.
        weights: [lanes] each (snapshots, weights) float32 on the CPU; those that are not finite
            are left out, with all behind them.
        lanes, optimizer: at ``state_step``, one lane for each role, all of them the good run's.
        values: schedule values at ``state_step``, name to (1, lanes).
    """

    losses: np.ndarray
    at: list[int]
    weights: list[np.ndarray]
    lanes: Lanes
    optimizer: LaneOptimizer
    state_step: int
    values: dict[str, np.ndarray]


def _measure(specs: Mapping[str, RunSpec], steps: int, threads: int | None) -> Landscape:
    from lrlab.engine import devices
    from lrlab.plan import build, references
    from lrlab.training import first_steps

    any_spec = next(iter(specs.values()))
    devices.make_deterministic()
    allowed = [count for count in (any_spec["threads"], threads) if count is not None]
    devices.prepare(any_spec.device, min(allowed, default=None))
    data = build.load_data(any_spec).to(any_spec.device)
    steps_per_epoch = len(data.train_y) // any_spec["batch_size"]
    recorded = [records.read_metrics(spec.folder) for spec in specs.values()]
    recorded = [table.dropna(subset=["lr"]) for table in recorded]  # the last row is no step
    roles = list(specs)
    # A run that diverged was recorded up to there, but goes on for the others' sake.
    known = [len(table) for role, table in zip(roles, recorded, strict=True) if role != "large"]
    steps = min(steps, *known)
    if steps < 2:
        return nothing("fewer than two steps are recorded")
    values = _schedules(list(specs.values()), recorded, steps, steps_per_epoch)

    batch = first_steps.batches(data, any_spec["seed"], any_spec["batch_size"])
    good = roles.index("good")
    state_step = _clear_step(_losses(recorded[good], steps))
    replay = _replay(list(specs.values()), data, values, batch, state_step, good, steps)
    unit = references.loss_unit(replay.lanes.loss, data)
    replay.losses *= unit
    exact = all(
        np.array_equal(replay.losses[: len(table), lane], _losses(table, steps), equal_nan=True)
        for lane, table in enumerate(recorded)
    )
    names = [
        {"run": spec.number, "lr": float(spec["lr"]), "role": role} for role, spec in specs.items()
    ]
    lines = _lines(replay, batch(state_step), names)
    surface, paths = _surface(replay, data, names, good)
    for table in (surface, paths):
        table["loss"] *= unit
    for column in ("loss", "w0", "w1", "w2"):
        lines[column] *= unit
    return Landscape(lines, surface, paths, exact=exact)


def _losses(table: pd.DataFrame, steps: int) -> np.ndarray:
    """As float32, of which the record holds every bit."""
    return table["train_loss"].to_numpy(float)[:steps].astype(np.float32)


def _schedules(
    specs: Sequence[RunSpec],
    recorded: Sequence[pd.DataFrame],
    steps: int,
    steps_per_epoch: int,
) -> dict[str, np.ndarray]:
    """Schedule values of the replay, name to (steps, lanes); NaN where a schedule leaves it alone.

    A schedule that follows val_loss is told the recorded one; a lane whose record ends goes on at
    its last lr.
    """
    from lrlab.plan import build

    tables: list[dict[str, np.ndarray]] = []
    for spec, record in zip(specs, recorded, strict=True):
        schedule = build.build_schedule(spec, steps_per_epoch)
        evaluations = dict(zip(record["step"], record["val_loss"], strict=True))
        parts = []
        for first in range(0, steps, steps_per_epoch):
            if first and schedule.closed_loop:
                schedule.observe(evaluations.get(first, math.nan))
            parts.append(schedule.values(first, min(steps_per_epoch, steps - first)))
        tables.append({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    unmoved = np.full(steps, np.nan)
    every = dict.fromkeys(name for table in tables for name in table)
    return {name: np.stack([t.get(name, unmoved) for t in tables], axis=1) for name in every}


def _clear_step(losses: np.ndarray) -> int:
    """Where the lines begin: the good run has made half of its progress, as a mean of ten steps."""
    if len(losses) < 12:
        return len(losses) // 2
    mean = np.convolve(losses, np.full(10, 0.1), mode="valid")
    half = (mean[0] + np.nanmin(mean)) / 2
    return int(np.clip(np.argmax(mean <= half) + 5, 5, len(losses) - 1))


def _replay(
    specs: Sequence[RunSpec],
    data: Dataset,
    values: Mapping[str, np.ndarray],
    batch: Any,
    state_step: int,
    good: int,
    steps: int,
) -> _Replay:
    import torch

    from lrlab.engine.lanes import stacking
    from lrlab.engine.optimizers import lane_optimizers
    from lrlab.plan import build
    from lrlab.training import first_steps

    networks = [build.build_network(spec, data) for spec in specs]
    loss = build.loss_function(specs[0])
    seeds = [spec["seed"] for spec in specs]
    pad = max(records.recorded_pad(spec.folder) for spec in specs)
    stack = stacking.stack(networks, seeds, loss, specs[0].device, pad=pad)
    rule = lane_optimizers.build(
        [{**spec["optimizer"], "lr": spec["lr"]} for spec in specs], list(stack.params.values())
    )
    x, y = batch(0)
    stack.settle(x, y, (data.val_x, data.val_y))
    count = sum(tensor[0].numel() for tensor in stack.params.values())
    held = _PATH_NUMBERS // max(count * len(specs), 1)
    snapshots = min(SNAPSHOTS, held, steps)
    if held < 3:
        raise UserError(f"{count:,} weights are too many for a picture of the paths")
    # dense early, where the large lr leaves the others within a few steps
    spaced = np.geomspace(1, steps, snapshots) if snapshots < steps else np.arange(1, steps + 1)
    at = [0, *sorted({round(step) for step in spaced})]
    taken = [_flat(stack.params)]
    found: list[Tensor] = []
    state: tuple[Lanes, LaneOptimizer] | None = None
    for step, losses in enumerate(first_steps.walk(stack, rule, values, batch), start=1):
        found.append(losses)
        if step in at:
            taken.append(_flat(stack.params))
        if step == state_step:
            state = _copies(stack, rule, good)
    assert state is not None
    state[0].settle(x, y, (data.val_x, data.val_y))
    weights = []
    for lane in range(len(specs)):
        path = np.stack([snapshot[lane] for snapshot in taken])
        finite = np.isfinite(path).all(axis=1)
        weights.append(path[: int(np.argmin(np.append(finite, False)))])
    table = torch.stack(found).float().cpu().numpy()
    at_state = {name: column[state_step : state_step + 1] for name, column in values.items()}
    return _Replay(table, at, weights, state[0], state[1], state_step, at_state)


def _flat(params: Mapping[str, Tensor]) -> np.ndarray:
    """(lanes, weights) float32."""
    import torch

    from lrlab.engine.lanes.real_pairs import as_real

    flat = [as_real(t.detach()).flatten(1) for t in params.values()]
    return torch.cat(flat, dim=1).float().cpu().numpy()


def _copies(stack: Lanes, rule: LaneOptimizer, lane: int) -> tuple[Lanes, LaneOptimizer]:
    """As many copies of one lane as there are lanes, and of what its optimizer remembers."""
    import torch

    copies = [lane] * len(stack)
    selected = stack.select(copies)
    # deep, for the general way shares leaves; the stack's own are not written to by it
    optimizer = copy.deepcopy(rule)
    optimizer.keep(torch.tensor(copies), list(selected.params.values()))
    optimizer.take_rates(rule)  # a copy makes the step of its role
    return selected, optimizer


# --- along one update -----------------------------------------------------------------------------


def _lines(
    replay: _Replay, batch: tuple[Tensor, Tensor], names: Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    import torch

    from lrlab.engine.diagnostics import quantities

    lanes, step = replay.lanes, replay.state_step
    start = {name: t.detach().clone() for name, t in lanes.params.items()}
    fixed = {name: t.detach().clone() for name, t in lanes.fixed.items()}
    _, gradients = lanes.gradients(*batch, [step] * len(lanes), 0)
    coefficients = replay.optimizer.coefficients(replay.values, np.array([step] * len(lanes)))
    replay.optimizer.update(gradients, coefficients, 0)
    update = {name: t.detach() - start[name] for name, t in lanes.params.items()}

    parts = []
    for lane, name in enumerate(names):
        begin = {key: t[lane] for key, t in start.items()}
        along = {key: t[lane] for key, t in update.items()}
        buffers = {key: t[lane] for key, t in fixed.items()}

        def seen(
            t: np.ndarray,
            begin: dict[str, Tensor] = begin,
            along: dict[str, Tensor] = along,
            buffers: dict[str, Tensor] = buffers,
        ) -> tuple[np.ndarray, np.ndarray]:
            return _along(lanes, begin, along, buffers, t, batch, step)

        ends, slopes = seen(np.array([0.0, 1.0]))
        fit = quantities.parabola(ends[1] - ends[0], slopes[0], slopes[1])
        w0, w1, w2 = (float(w) for w in fit) if np.isfinite(ends).all() else (np.nan,) * 3
        alpha = float(quantities.alpha(ends[1] - ends[0], slopes[0], slopes[1]))
        lowest = -w1 / (2 * w2) if w2 > 0 else np.nan
        reach = max(1.5, 1.3 * lowest) if 0 < lowest <= 6 else 1.5
        t = np.unique(np.append(np.linspace(-0.25, reach, POINTS), [0.0, 1.0]))
        length = float(torch.stack([(_double(v) ** 2).sum() for v in along.values()]).sum().sqrt())
        part = pd.DataFrame({**name, "step": step, "t": t, "distance": t * length})
        part = part.assign(loss=seen(t)[0], w0=ends[0] + w0, w1=w1, w2=w2, alpha=alpha)
        parts.append(part)
    return pd.concat(parts, ignore_index=True).reindex(columns=list(LINES))


def _along(
    lanes: Lanes,
    begin: Mapping[str, Tensor],
    along: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    t: np.ndarray,
    batch: tuple[Tensor, Tensor],
    step: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Losses and their slopes at begin + t · along, as training sees them: (points,) float64."""
    import torch

    from lrlab.engine.lanes.lane_stack import Lanes

    size = max(1, _CHUNK_BYTES // (8 * sum(v.nbytes for v in begin.values()) + 1))
    losses, slopes = [], []
    for places in np.array_split(t, -(-len(t) // size)):
        device = next(iter(begin.values())).device
        where = torch.tensor(places, dtype=torch.float32, device=device)
        params = {
            key: b + where.to(b.dtype).view(-1, *(1,) * b.ndim) * along[key]
            for key, b in begin.items()
        }
        fixed = {
            key: b.expand(len(places), *b.shape).contiguous().clone() for key, b in buffers.items()
        }
        count = len(places)
        # one at a time only the last bit would differ, which does not show
        way = "together" if lanes.way == "one at a time" else lanes.way
        modules, seeds = lanes.modules[:1] * count, lanes.seeds[:1] * count
        stack = Lanes(modules, params, fixed, seeds, lanes.loss, {(count, False): way})
        stack.settle(*batch, batch)
        loss, gradients = stack.gradients(*batch, [step] * count, 0)
        slope = _double(torch.zeros(count, device=device))
        for key, gradient in zip(params, gradients, strict=True):
            if gradient is not None:
                slope += (_double(gradient) * _double(along[key])).flatten(1).sum(1)
        losses.append(_double(loss).cpu().numpy())
        slopes.append(slope.cpu().numpy())
    return np.concatenate(losses), np.concatenate(slopes)


# --- the plane of the paths -----------------------------------------------------------------------


def _surface(
    replay: _Replay,
    data: Dataset,
    names: Sequence[Mapping[str, Any]],
    good: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
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

    def loss(coordinates: np.ndarray | None, weights: np.ndarray | None = None) -> np.ndarray:
        return _loss_at(replay.lanes, data, chosen, origin, axes, coordinates, weights)

    grid = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    surface = pd.DataFrame({"x": grid[:, 0], "y": grid[:, 1], "loss": loss(grid)})
    parts = []
    for name, path, place, end in zip(names, moved, flat, near, strict=True):
        length = float((path[:end].astype(np.float64) ** 2).sum())
        share = float((place[:end] ** 2).sum()) / length if length else 1.0
        part = pd.DataFrame({**name, "step": replay.at[: len(path)]})
        parts.append(
            part.assign(x=place[:, 0], y=place[:, 1], loss=loss(None, path + origin), share=share)
        )
    return surface, pd.concat(parts, ignore_index=True).reindex(columns=list(PATHS))


def _near(moved: Sequence[np.ndarray], good: int) -> list[int]:
    """How many snapshots of each path count for the picture's place and size.

    A run that blows up must not set its scale.
    """
    far = [np.sqrt((path.astype(np.float64) ** 2).sum(axis=1)) for path in moved]
    limit = FAR * float(far[good].max())
    return [max(1, int(np.argmax(np.append(distance, np.inf) > limit))) for distance in far]


def _plane(moved: Sequence[np.ndarray], good: int) -> np.ndarray:
    """(2, weights) two orthonormal axes through the start, the main directions of the paths.

    Each path counts as much, however far it leads. The good one ends at positive x; most of the
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


def _double(values: Tensor) -> Tensor:
    """In float64, which MPS does not have; a complex number as two."""
    from lrlab.engine.lanes.real_pairs import as_real

    values = as_real(values)
    return (values.cpu() if values.device.type == "mps" else values).double()


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a · bᵀ in float64, without a float64 copy of either."""
    total = np.zeros((len(a), len(b)))
    for first in range(0, a.shape[1], 2**20):
        part = slice(first, first + 2**20)
        total += a[:, part].astype(np.float64) @ b[:, part].astype(np.float64).T
    return total


def _grid(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(GRID,) each, around all places; neither axis shorter than a third of the other."""
    low, high = places.min(axis=0), places.max(axis=0)
    least = max(float((high - low).max()) / 3, 1e-6)
    centre, extent = (low + high) / 2, np.maximum(high - low, least)
    half = extent * (0.5 + MARGIN)
    xs, ys = (np.linspace(c - h, c + h, GRID) for c, h in zip(centre, half, strict=True))
    return xs, ys


def _affordable(replay: _Replay, data: Dataset, points: int) -> tuple[int, int]:
    """How many samples, and how many grid points, by the network's cost of one sample."""
    most = min(SAMPLES, len(data.train_y))
    each = _multiply_adds(replay.lanes, data.train_x[:2]) / 2
    # what does not train together, such as a convolution, is slower here too
    work = _WORK if replay.lanes.way == "together" else _WORK / 4
    samples = int(np.clip(work / (each * points), min(LEAST_SAMPLES, most), most))
    return samples, max(121, int(min(points, work / (each * samples))))


def _multiply_adds(lanes: Lanes, x: Tensor) -> float:
    """Of one forward pass, roughly: those of all that has weights for each output."""
    import torch
    from torch.func import functional_call

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
        functional_call(network, one, (x,))
    return counted


def _loss_at(
    lanes: Lanes,
    data: Dataset,
    chosen: np.ndarray,
    origin: np.ndarray,
    axes: np.ndarray,
    coordinates: np.ndarray | None,
    weights: np.ndarray | None,
) -> np.ndarray:
    """(points,) loss of the chosen samples, as training sees it: at places of the plane, or at
    weights."""
    import torch

    from lrlab.engine.lanes.real_pairs import as_real, like_real

    index = torch.from_numpy(chosen).to(data.train_y.device)
    x, y = data.train_x[index], data.train_y[index]
    total = (
        len(coordinates) if coordinates is not None else len(weights if weights is not None else [])
    )
    size = _lanes_at_once(lanes, x, y)
    found = []
    for first in range(0, total, size):
        part = slice(first, first + size)
        if coordinates is not None:
            flat = origin + coordinates[part] @ axes
        else:
            assert weights is not None
            flat = weights[part]
        rows = torch.from_numpy(flat.astype(np.float32)).to(x.device)
        sizes = [as_real(t[0]).numel() for t in lanes.params.values()]
        pieces = zip(lanes.params.items(), rows.split(sizes, dim=1), strict=True)
        params = {name: like_real(piece, t).to(t.dtype) for (name, t), piece in pieces}
        fixed = {
            name: t.detach()[:1].expand(len(rows), *t.shape[1:]).clone()
            for name, t in lanes.fixed.items()
        }
        found.append(_forward(lanes, params, fixed, x, y).double().cpu().numpy())
    return np.concatenate(found)


def _lanes_at_once(lanes: Lanes, x: Tensor, y: Tensor) -> int:
    from lrlab.engine.lanes import memory
    from lrlab.engine.lanes.chunks import EVALUATION_CHUNK

    few = min(len(y), 16)
    network = copy.deepcopy(lanes.modules[0]).cpu()
    each = memory.bytes_a_lane(network, lanes.loss, x[:few].cpu(), y[:few].cpu())
    each = each * max(len(y), EVALUATION_CHUNK) // EVALUATION_CHUNK
    return int(np.clip(_CHUNK_BYTES // max(each, 1), 1, 64))


def _forward(
    lanes: Lanes, params: Mapping[str, Tensor], fixed: Mapping[str, Tensor], x: Tensor, y: Tensor
) -> Tensor:
    """(points,) losses without gradients, in training mode: batch norm by the samples' own mean."""
    import torch
    from torch.func import functional_call, vmap

    module = lanes.modules[0].train()

    def loss(params: dict[str, Tensor], fixed: dict[str, Tensor]) -> Tensor:
        return lanes.loss(functional_call(module, (params, fixed), (x,)), y)

    with torch.no_grad():
        if lanes.way != "unmapped":
            return vmap(loss)(dict(params), dict(fixed))
        losses = []
        for i in range(len(next(iter(params.values())))):
            # the same numbers are drawn everywhere; torch.manual_seed would take milliseconds
            torch.default_generator.manual_seed(0)
            if x.is_cuda:
                torch.cuda.manual_seed(0)
            one = ({n: t[i] for n, t in params.items()}, {n: t[i] for n, t in fixed.items()})
            losses.append(loss(*one))
        return torch.stack(losses)
