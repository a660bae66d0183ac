"""Measure each lane's sharpness: the largest eigenvalue of its loss's Hessian, by Lanczos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lrlab.engine import devices
from lrlab.engine.diagnostics.vectors import divided, dot, flat, length_of, normed, parts_of

if TYPE_CHECKING:
    from lrlab.engine.lanes.chunks import Samples
    from lrlab.engine.lanes.lane_stack import Lanes

# A product with the Hessian has this share, or less, outside the span of those before it: rounding.
_EXHAUSTED = 1e-6
_RANDOM_SHARE = 0.1  # of the first direction: the gradient alone may lack the steepest one


@dataclass(frozen=True)
class Curvature:
    """The curvature on a batch.

    Attributes:
        loss: (lanes,).
        gradients: (lanes, ...) for each parameter, None where no loss depends on it.
        sharpness: (lanes,) the largest eigenvalue; NaN for a lane that took no product.
        vectors: (lanes, ...) each, the direction of it, of length 1; None where an operation of
            the network has no second derivative.
    """

    loss: Tensor
    gradients: Sequence[Tensor | None]
    sharpness: Tensor
    vectors: list[Tensor] | None


def sharpest(
    lanes: Lanes,
    batch: Samples,
    vectors: list[Tensor],
    products: np.ndarray,
    preconditioner: Sequence[Tensor] | None,
    fresh: Tensor | None,
) -> Curvature:
    """Find the largest eigenvalue of the Hessian of each lane's loss on a batch.

    By the Lanczos method each lane takes so many products with the Hessian, from its last vector.
    The result is the largest eigenvalue on the span of v, Hv, H²v ... It finds the largest with
    fewer products than the power method, and a negative one of larger size does not mislead it.
    With a preconditioner P the matrix is P^-½ H P^-½, which has the eigenvalues of P⁻¹H.

    Args:
        batch: inputs and targets, the same for all lanes.
        vectors: (lanes, ...) each, where to begin.
        products: (lanes,) int, some above 0; a lane with 0 stays where it stands.
        preconditioner: (lanes, ...) each, as from ``LaneOptimizer.preconditioner``.
        fresh: (lanes,) bool, the lanes that begin at the gradient of the loss, mixed with the
            random direction of their seed. A gradient lies mostly in the few steepest directions,
            so that half as many products find the largest.
    """
    size = int(products.max())
    roots = None if preconditioner is None else flat(preconditioner).sqrt()
    loss, gradients, product = lanes.curvature(*batch)
    sharpness = torch.full_like(loss, torch.nan)
    begin = flat(vectors)
    if fresh is not None:
        steep = normed(divided(flat(gradients, vectors), roots))
        steep = torch.where(steep.isfinite(), steep, torch.zeros_like(steep))
        mixed = normed(steep + _RANDOM_SHARE * begin)
        begin = torch.where(fresh.to(begin.device)[:, None], mixed, begin)
    basis, matrix = [begin], loss.new_zeros(len(lanes), size, size)
    try:
        for i in range(size):
            image = flat(product(parts_of(divided(basis[i], roots), vectors)))
            image = divided(image, roots)
            for k, vector in enumerate(basis):
                matrix[:, i, k] = matrix[:, k, i] = dot(vector, image)
            whole = length_of(image)
            for vector in basis * 2:  # twice, because float32 does not hold them at right angles
                share = dot(image, vector)[:, None]
                image = torch.addcmul(image, vector, share, value=-1)
            left = length_of(image) > _EXHAUSTED * whole
            basis.append(normed(image) * left[:, None])
    except RuntimeError as error:
        if devices.out_of_memory(error):
            raise
        return Curvature(loss, gradients, sharpness, None)
    # A lane whose directions are used up, as of a network with few parameters, has no more of them.
    there = torch.stack([length_of(vector) > 0 for vector in basis[:size]], dim=1)
    taken = torch.from_numpy(products).to(loss.device).minimum(there.cumprod(1).sum(1))
    values, weights = _largest_eigenpair(matrix, taken)
    found = torch.zeros_like(basis[0])
    for i, vector in enumerate(basis[:size]):
        found.addcmul_(vector, weights[:, i, None])
    usable = (taken > 0) & values.isfinite()
    found = torch.where(usable[:, None], normed(found), basis[0])
    sharpness = torch.where(taken > 0, values, sharpness)
    return Curvature(loss, gradients, sharpness, parts_of(found, vectors))


def _largest_eigenpair(matrix: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest eigenvalue of the upper left corner of each matrix, and its eigenvector.

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
    # Outside the corner is an eigenvalue below all others, so that it is never the largest.
    below = -1 - 2 * corner.abs().sum((1, 2))
    corner = corner + torch.diag_embed(torch.where(inside, 0.0, below[:, None]))
    values, vectors = torch.linalg.eigh(corner)
    return torch.where(finite, values[:, -1], torch.nan), vectors[:, :, -1]
