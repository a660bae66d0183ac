"""What the steps do, measured while training; no bit of the training is changed by it.

All lanes of a stack are measured at once, on copies of their parameters. By default measuring has
a budget: at any step it has cost at most a quarter of the steps so far. Costs are counted in steps,
by a formula, and never timed: which steps are measured depends on the run's settings alone, so that
a record is the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lrlab.engine import devices, python_state
from lrlab.engine.lanes import as_real, like_real
from lrlab.process.profiling import phase
from lrlab.records.thresholds import THRESHOLDS

if TYPE_CHECKING:
    from lrlab.data import Dataset
    from lrlab.engine.lanes import Lanes

# Samples of the fixed probe batch: the sharpness of fewer reads too high, more cost too much.
PROBE = 192

BUDGET = 0.25  # of the steps so far: what measuring may cost by default, in steps
# What a measurement costs, in steps. Measured with one thread: 2 to 11 along the step (copies, and
# a gradient that is not captured); on the probe 0.4 to 1.3 for each batch's worth of samples, of
# multilayer perceptrons, convolutional and residual networks with batches of 8 to 256.
ALONG_COST = 8.0
PROBE_COST = 1.4

# The branch test: three branches of at most a fifteenth of the run, and what it takes to build and
# to capture their stack, cost a quarter of the run's steps at most.
BRANCH_SHARE = 1 / 15
BRANCH_SETUP = 80  # steps
BRANCH_SHARE_ASKED = 1 / 8  # with diagnostics=full, which has no budget
FEWEST_BRANCH_STEPS = 40  # the mean over fewer mini-batches says little
BRANCHES = 3

# What is measured at a step.
ALONG = 1  # alpha, and the lengths of gradient, update and way
WHOLE = 2  # the probe batch and the sharpness too
FIRST = 3  # the first whole one, which knows no direction of curvature yet


@dataclass(frozen=True)
class Cadence:
    """How often is measured.

    Attributes:
        gap: steps between two measurements, later in training.
        growth: of the gaps early in training.
        first: products with the Hessian at the first measurement of the sharpness.
        products: at each later one, which goes on where the last one stood.
        budget: share of the steps so far that measuring may cost; None: no limit.
    """

    gap: int
    growth: float
    first: int
    products: int
    budget: float | None


CADENCES = {
    "default": Cadence(450, 2.0, 5, 3, BUDGET),
    "full": Cadence(10, 1.1, 10, 5, None),
}

_RANDOM_SHARE = 0.1  # of the first direction: the gradient alone may have no part in the steepest

# In the order of the tensor that ``Meter.measure`` returns.
_RAW = (
    *("loss", "loss_after", "slope", "slope_after"),
    *("probe_loss", "probe_loss_after", "probe_slope", "probe_slope_after"),
    *("sharpness", "grad_norm", "update_norm", "weight_norm", "distance"),
)


def due(
    cadence: Cadence, first: int, count: int, steps: int, steps_per_epoch: int, batches: float
) -> np.ndarray:
    """What is measured at the steps first, first + 1 ...

    It depends on nothing but the run's length, its epochs and its batch size. Later in training
    measurements lie at the same places of each epoch, so that lanes at different epochs are
    measured together.

    Args:
        steps: of the whole run.
        batches: how many batches' worth of samples the probe has.

    Returns:
        (count,) int: 0, ``ALONG``, ``WHOLE`` or ``FIRST``.
    """
    at, what = planned(cadence, steps, steps_per_epoch, batches)
    found = np.zeros(count, int)
    inside = (at >= first) & (at < first + count)
    found[at[inside] - first] = what[inside]
    return found


def cost(kind: int, cadence: Cadence, batches: float) -> float:
    """What a measurement costs, in training steps; ``batches`` as for ``due``."""
    if kind == ALONG:
        return ALONG_COST
    products = cadence.first if kind == FIRST else cadence.products
    # two gradients, and products with the Hessian that cost two each
    return ALONG_COST + PROBE_COST * (2 + 2 * products) * batches


@lru_cache(maxsize=64)
def planned(
    cadence: Cadence, steps: int, steps_per_epoch: int, batches: float
) -> tuple[np.ndarray, np.ndarray]:
    """The steps of a run that are measured, and what is measured there, as in ``due``.

    Of the steps that the cadence names, those are left out whose measurement the budget does not
    hold: all measurements up to a step cost at most ``cadence.budget`` of the steps up to it.
    Before the first whole measurement, those along the step are made, each at twice the step of the
    last.

    Returns:
        steps, kinds: (measurements,) int each.
    """
    if cadence.budget is None:
        at = _named(cadence, cadence.gap, steps, steps_per_epoch)
        return at, np.where(at == 0, FIRST, WHOLE)
    first, later = cost(FIRST, cadence, batches), cost(WHOLE, cadence, batches)
    along, whole_at = [], math.ceil(first / cadence.budget)  # steps that are to be made before
    made = math.ceil(ALONG_COST / cadence.budget)
    while made <= (whole_at / 2 if whole_at <= steps else steps):
        along.append(made - 1)
        made *= 2
    whole_at = math.ceil((first + len(along) * ALONG_COST) / cadence.budget)
    # so rarely that lanes of one stack that are at different epochs hold the budget together
    gap = max(cadence.gap, round(8 * later))
    spent, found, seen = 0.0, [], False
    for step in _named(cadence, gap, steps, steps_per_epoch, *along, whole_at - 1).tolist():
        if step in along:
            kind = ALONG
        elif spent + (later if seen else first) <= cadence.budget * (step + 1):
            kind, seen = WHOLE if seen else FIRST, True
        else:
            continue
        spent += cost(kind, cadence, batches)
        found.append((step, kind))
    table = np.array(found, int).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _named(cadence: Cadence, gap: int, steps: int, steps_per_epoch: int, *more: int) -> np.ndarray:
    """The steps that a cadence names, rising: ever rarer at first, then one each gap."""
    gap = max(1, min(gap, steps // 5))
    epochs = np.arange(0, -(-steps // steps_per_epoch), max(1, gap // steps_per_epoch))
    places = np.arange(0, steps_per_epoch, gap)
    grid = (epochs[:, None] * steps_per_epoch + places).ravel()
    early, at = [0, *more], 1.0
    while at * (cadence.growth - 1) < gap:  # until the gaps have grown to the later ones
        early.append(round(at))
        at = max(at + 1, at * cadence.growth)
    found = np.union1d(grid, np.array(early, int))
    return found[(found >= 0) & (found < steps)]


def branch_steps(mode: str, steps: int, annealed: bool) -> int:
    """The steps of each branch of the branch test; 0: there is none.

    A run whose schedule has annealed its lr has none: it has had its shorter steps already, and
    three times almost nothing is almost nothing.

    Args:
        mode: ``off``, ``default`` or ``full``.
        steps: of the run.
    """
    if mode == "off" or annealed:
        return 0
    if mode == "full":
        return max(FEWEST_BRANCH_STEPS, round(BRANCH_SHARE_ASKED * steps))
    found = int(min(BRANCH_SHARE * steps, (BUDGET * steps - BRANCH_SETUP) / BRANCHES))
    return found if found >= FEWEST_BRANCH_STEPS else 0


def no_branches(steps: int) -> str:
    """Why a run of so few steps has no branch test."""
    least = math.ceil((BRANCHES * FEWEST_BRANCH_STEPS + BRANCH_SETUP) / BUDGET)
    return (
        f"no branch test: with {steps:,} steps, fewer than {least}, it would take more than a "
        "quarter of the training time; diagnostics=full makes it"
    )


def is_annealed(last_lr: float, lr: float) -> bool:
    """Whether a schedule has brought the lr down; of an unknown one nothing is made."""
    return not last_lr >= THRESHOLDS.annealed * lr


def asked_line(steps: int, steps_per_epoch: int, batches: float) -> str:
    """What ``diagnostics=full`` costs, in a line to be said before training."""
    cadence, mode = CADENCES["full"], "full"
    at, what = planned(cadence, steps, steps_per_epoch, batches)
    share = sum(cost(int(kind), cadence, batches) for kind in what) / steps
    branches = (BRANCHES * branch_steps(mode, steps, annealed=False) + BRANCH_SETUP) / steps
    return (
        f"diagnostics=full measures {len(at):,} of {steps:,} steps, which takes about "
        f"{times(share)} the training time, and the branch test about {times(branches)} it; "
        f"diagnostics=default takes at most {BUDGET:.0%} for each"
    )


def times(share: float) -> str:
    """A share of a time in words: "38% of", "1.6 times"."""
    if round(share, 2) < 1:
        return f"{share:.0%} of"
    return f"{share:.2g} times" if share < 9.95 else f"{share:.0f} times"


@dataclass
class Meter:
    """What a stack of lanes is measured with.

    Attributes:
        cadence: how often.
        start: (lanes, ...) each, the parameters before training.
        vectors: (lanes, ...) each, the direction of largest curvature as last
            found; each lane's length is 1.
        twin: copies of the lanes, made at the first measurement after the stack has changed.
        curves: whether the network has second derivatives.
        batches: how many batches' worth of samples the probe has.
    """

    cadence: Cadence
    probe_x: Tensor
    probe_y: Tensor
    start: list[Tensor]
    vectors: list[Tensor]
    twin: Lanes | None = None
    curves: bool = True
    batches: float = 1.0

    def due(
        self, first_steps: Sequence[int], count: int, steps: Sequence[int], steps_per_epoch: int
    ) -> dict[int, np.ndarray]:
        """Offsets of the next steps at which a lane is due, to what is measured of each.

        Returns:
            (lanes,) int for each, as from ``lrlab.engine.diagnostics.due``.
        """
        table = np.stack(
            [
                due(self.cadence, first, count, total, steps_per_epoch, self.batches)
                for first, total in zip(first_steps, steps, strict=True)
            ],
            axis=1,
        )
        return {int(i): table[i] for i in np.flatnonzero(table.any(axis=1))}

    @phase("measure")
    def before(self, lanes: Lanes) -> None:
        """Remember the lanes as they are before an update."""
        if self.twin is None or lanes.keeps_state:
            self.twin = lanes.twin()
        self.twin.follow(lanes)

    @phase("measure")
    def after(
        self,
        lanes: Lanes,
        losses: Tensor,
        gradients: Sequence[Tensor | None],
        batch: tuple[Tensor, Tensor],
        first_steps: Sequence[int],
        offset: int,
        lanes_due: np.ndarray,
        preconditioner: Sequence[Tensor] | None,
    ) -> Tensor:
        """Measure the update that the lanes have just made.

        Args:
            losses, gradients: of the update, as the lanes gave them for the batch.
            first_steps, offset: as for ``Lanes.gradients``.
            lanes_due: (lanes,) int, as from ``due``; what is known of the others' curvature stays.
            preconditioner: as from ``LaneOptimizer.preconditioner``.

        Returns:
            (lanes, 13) as ``table`` takes it; it stays on the device, which is not waited for.
        """
        twin = self.twin
        assert twin is not None  # ``before`` was called
        before = [p.clone() for p in twin.params.values()]
        old = _flat(before)
        update = _flat(list(lanes.params.values())) - old
        products = np.select(
            [lanes_due == FIRST, lanes_due == WHOLE], [self.cadence.first, self.cadence.products]
        )
        whole = bool(products.any())
        probe_loss, probe_gradients, sharpness = losses, gradients, losses
        if whole:
            fresh = None
            if self.cadence.budget is not None and (lanes_due == FIRST).any():
                fresh = torch.from_numpy(lanes_due == FIRST)
            probe_loss, probe_gradients, sharpness = self._sharpness(
                twin, products, preconditioner, fresh
            )

        twin.follow(lanes)
        loss_after, gradients_after = twin.gradients(*batch, first_steps, offset)
        gradient = _flat(gradients, before)
        moved = old - _flat(self.start)
        along = [losses, loss_after, _dot(gradient, update)]
        along.append(_dot(_flat(gradients_after, before), update))
        probe = [torch.full_like(losses, torch.nan)] * 5
        if whole:
            probe_loss_after, probe_gradients_after = twin.gradients(
                self.probe_x, self.probe_y, [0] * len(lanes), 0
            )
            probe = [
                probe_loss,
                probe_loss_after,
                _dot(_flat(probe_gradients, before), update),
                _dot(_flat(probe_gradients_after, before), update),
                sharpness,
            ]
            if (products == 0).any():  # a lane records what it would record alone
                hidden = torch.from_numpy(products == 0).to(losses.device)
                probe = [t.masked_fill(hidden, torch.nan) for t in probe]
        lengths = [_length(v) for v in (gradient, update, old, moved)]
        return torch.stack([*along, *probe, *lengths], dim=1)

    def _sharpness(
        self,
        twin: Lanes,
        products: np.ndarray,
        preconditioner: Sequence[Tensor] | None,
        fresh: Tensor | None = None,
    ) -> tuple[Tensor, Sequence[Tensor | None], Tensor]:
        """Loss and gradients on the probe batch, and the largest eigenvalue of its Hessian.

        By the Lanczos method, of which each lane takes so many products with the Hessian, from
        where it stood: the largest eigenvalue on the span of v, Hv, H²v ... It finds the largest
        where the power method with as many products comes late, and is not misled by a negative
        one that is larger in size. With a preconditioner P the matrix is P^-½ H P^-½, which has
        the eigenvalues of P⁻¹H.

        Args:
            products: (lanes,) int; a lane with 0 stays where it stands, its sharpness is NaN.
            fresh: (lanes,) bool, the lanes that begin at the gradient of the probe's loss, mixed
                with the random direction of their seed. A gradient lies mostly in the few steepest
                directions, so that half as many products find the largest.
        """
        size = int(products.max()) if self.curves else 0
        if size == 0:
            loss, gradients = twin.gradients(self.probe_x, self.probe_y, [0] * len(twin), 0)
            return loss, gradients, torch.full_like(loss, torch.nan)
        roots = None if preconditioner is None else _flat(preconditioner).sqrt()
        loss, gradients, product = twin.curvature(self.probe_x, self.probe_y)
        sharpness = torch.full_like(loss, torch.nan)
        begin = _flat(self.vectors)
        if fresh is not None:
            steep = _normed(_divided(_flat(gradients, self.vectors), roots))
            steep = torch.where(steep.isfinite(), steep, torch.zeros_like(steep))
            mixed = _normed(steep + _RANDOM_SHARE * begin)
            begin = torch.where(fresh.to(begin.device)[:, None], mixed, begin)
        basis, matrix = [begin], loss.new_zeros(len(twin), size, size)
        try:
            for i in range(size):
                image = _flat(product(_parts(_divided(basis[i], roots), self.vectors)))
                image = _divided(image, roots)
                for k, vector in enumerate(basis):
                    matrix[:, i, k] = matrix[:, k, i] = _dot(vector, image)
                for vector in basis * 2:  # twice, for float32 does not hold them at right angles
                    share = _dot(image, vector)[:, None]
                    image = torch.addcmul(image, vector, share, value=-1)
                basis.append(_normed(image))
        except RuntimeError as error:
            if devices.out_of_memory(error):
                raise
            self.curves = False  # an operation of the network has no second derivative
            return loss, gradients, sharpness
        taken = torch.from_numpy(products).to(loss.device)
        values, weights = _largest_eigenpair(matrix, taken)
        found = torch.zeros_like(basis[0])
        for i, vector in enumerate(basis[:size]):
            found.addcmul_(vector, weights[:, i, None])
        usable = (taken > 0) & values.isfinite()
        found = torch.where(usable[:, None], _normed(found), basis[0])
        self.vectors = _parts(found, self.vectors)
        return loss, gradients, torch.where(taken > 0, values, sharpness)

    def join(self, other: Meter) -> None:
        """Take the lanes of another stack of the same group in, behind one's own."""
        self.start = [torch.cat(pair) for pair in zip(self.start, other.start, strict=True)]
        self.vectors = [torch.cat(pair) for pair in zip(self.vectors, other.vectors, strict=True)]
        self.twin = None

    def select(self, lanes: Sequence[int]) -> Meter:
        """A meter of some of the lanes."""
        index = torch.as_tensor(list(lanes), device=self.start[0].device)
        return Meter(
            self.cadence,
            self.probe_x,
            self.probe_y,
            [t[index] for t in self.start],
            [t[index] for t in self.vectors],
            curves=self.curves,
            batches=self.batches,
        )

    def state(self, lane: int) -> list[Tensor]:
        """Where a lane's direction of largest curvature lies, on the CPU."""
        return [t[lane].cpu().clone() for t in self.vectors]

    def load(self, lane: int, state: Sequence[Tensor]) -> None:
        """Put what ``state`` gave into a lane.

        Raises:
            python_state.Unfit: it is the state of another network.
        """
        for mine, theirs in zip(self.vectors, state, strict=True):
            python_state.put_tensor(mine[lane], theirs, "curvature")


def build(mode: str, lanes: Lanes, data: Dataset, batch_size: int = PROBE) -> Meter | None:
    """The meter of lanes that stand before their first step; None where nothing is measured.

    Args:
        mode: ``off``, ``default`` or ``full``.
        data: on the device.
    """
    if mode == "off" or not lanes.params:
        return None
    count = probe_size(data)
    chosen = np.sort(np.random.default_rng(0).permutation(len(data.train_y))[:count])
    index = torch.from_numpy(chosen).to(data.train_y.device)
    params = list(lanes.params.values())
    return Meter(
        cadence=CADENCES[mode],
        probe_x=data.train_x[index],
        probe_y=data.train_y[index],
        start=[p.detach().clone() for p in params],
        vectors=_random_vectors(params, lanes.seeds),
        batches=count / batch_size,
    )


def probe_size(data: Dataset) -> int:
    """How many samples the probe batch of these data has."""
    return min(PROBE, len(data.train_y))


def table(raw: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """What is recorded of a measurement.

    Args:
        raw: (..., 13) as from ``Meter.after``.
        scale: (...) as from ``LaneOptimizer.stability_scale``.

    Returns:
        (..., 7) float64: alpha, alpha_probe, stability_ratio, sharpness, grad_norm, update_ratio,
        distance.
    """
    r = dict(zip(_RAW, np.moveaxis(raw.astype(np.float64), -1, 0), strict=True))
    with np.errstate(all="ignore"):
        return np.stack(
            [
                alpha(r["loss_after"] - r["loss"], r["slope"], r["slope_after"]),
                alpha(
                    r["probe_loss_after"] - r["probe_loss"],
                    r["probe_slope"],
                    r["probe_slope_after"],
                ),
                scale * r["sharpness"],
                r["sharpness"],
                r["grad_norm"],
                r["update_norm"] / r["weight_norm"],
                r["distance"],
            ],
            axis=-1,
        )


# Least squares of f(1) − f(0), f'(0) and f'(1) by w1·t + w2·t², where f(0) may move too.
_FIT = np.linalg.pinv(np.array([[1, 0, 0], [1, 1, 1], [0, 1, 0], [0, 1, 2]], float))


def parabola(
    change: np.ndarray, slope: np.ndarray, slope_after: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The parabola w0 + w1·t + w2·t² through both ends of an update, t in units of the update.

    The least-squares fit of Cockpit (Schneider, Dangel & Hennig 2021, arXiv:2102.06604, section
    3.1) with equal weights: two losses and two slopes, three unknowns.

    Args:
        change: (...), loss after the update minus loss before it.
        slope, slope_after: (...), the directional derivatives along the update at its ends.

    Returns:
        w0 (on top of the loss before the update), w1, w2: (...) each.
    """
    observed = np.stack(
        np.broadcast_arrays(np.zeros_like(np.asarray(change, float)), change, slope, slope_after)
    )
    w0, w1, w2 = np.tensordot(_FIT, observed, axes=1)
    return w0, w1, w2


def alpha(change: np.ndarray, slope: np.ndarray, slope_after: np.ndarray) -> np.ndarray:
    """How far an update goes, against the minimum of the loss along it.

    −1: no way towards it; 0: exactly to it; 1: as far behind it as it began before; inf: it led
    uphill from its start, or to a loss that is not finite. The minimum is that of ``parabola``:
    t* = −w1/(2·w2), alpha = 1/t* − 1; where the loss does not curve upwards there is none, and
    alpha is −1 (Schneider, Dangel & Hennig 2021, arXiv:2102.06604, section 3.1).

    Args: as for ``parabola``.

    Returns:
        (...) float64; NaN where slope is not finite.
    """
    change, slope, slope_after = (np.asarray(a, float) for a in (change, slope, slope_after))
    with np.errstate(all="ignore"):
        _, w1, w2 = parabola(change, slope, slope_after)
        found = np.where(w2 > 0, np.where(w1 < 0, 2 * w2 / -w1 - 1, np.inf), -1.0)
        lost = ~(np.isfinite(change) & np.isfinite(slope_after))
    return np.where(np.isfinite(slope), np.where(lost, np.inf, found), np.nan)


# --- vectors in the space of all parameters -------------------------------------------------------


def _flat(tensors: Sequence[Tensor | None], like: Sequence[Tensor] = ()) -> Tensor:
    """(lanes, ...) each as (lanes, numbers), one behind the other; 0 for None, as many as like."""
    whole = [torch.zeros_like(like[i]) if t is None else t for i, t in enumerate(tensors)]
    return torch.cat([as_real(t).flatten(1) for t in whole], dim=1)


def _parts(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """What ``_flat`` has put together."""
    sizes = [as_real(t[0]).numel() for t in like]
    return [like_real(p, t) for p, t in zip(flat.split(sizes, dim=1), like, strict=True)]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(lanes,) the scalar product of each lane's vectors, (lanes, numbers)."""
    return (a * b).sum(1)


def _length(vectors: Tensor) -> Tensor:
    return _dot(vectors, vectors).sqrt()


def _normed(vectors: Tensor) -> Tensor:
    """Each lane's vector with length 1; one of length 0 as it is."""
    length = _length(vectors)
    return vectors / torch.where(length > 0, length, torch.ones_like(length))[:, None]


def _largest_eigenpair(matrix: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The largest eigenvalue of the upper left corner of each matrix, and its eigenvector.

    Args:
        matrix: (lanes, n, n), symmetric. sizes: (lanes,) int, of the corners.

    Returns:
        values: (lanes,), NaN where an element is not finite; vectors: (lanes, n).
    """
    place = torch.arange(matrix.shape[1], device=matrix.device)
    inside = place[None, :] < sizes[:, None]
    finite = matrix.isfinite().flatten(1).all(1)
    usable = inside[:, :, None] & inside[:, None, :] & finite[:, None, None]
    corner = torch.where(usable, matrix, torch.zeros_like(matrix))
    # Outside of the corner lies an eigenvalue below all others, so that it is never the largest.
    below = -1 - 2 * corner.abs().sum((1, 2))
    corner = corner + torch.diag_embed(torch.where(inside, 0.0, below[:, None]))
    values, vectors = torch.linalg.eigh(corner)
    return torch.where(finite, values[:, -1], torch.nan), vectors[:, :, -1]


def _divided(vectors: Tensor, by: Tensor | None) -> Tensor:
    return vectors if by is None else vectors / by


def _random_vectors(params: Sequence[Tensor], seeds: Sequence[int]) -> list[Tensor]:
    """(lanes, ...) each, a direction for each seed, of length 1 over all parameters."""
    lanes = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        drawn = [
            torch.randn(p.shape[1:], generator=generator, dtype=torch.complex64)
            if p.is_complex()
            else torch.randn(p.shape[1:], generator=generator)
            for p in params
        ]
        length = torch.stack([as_real(v * v.conj()).sum() for v in drawn]).sum().sqrt()
        lanes.append([v / length for v in drawn])
    return [
        torch.stack(column).to(p)
        for column, p in zip(zip(*lanes, strict=True), params, strict=True)
    ]
