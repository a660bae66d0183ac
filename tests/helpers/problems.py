"""Problems whose gradient and curvature are known."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Problem:
    """A loss without noise.

    Attributes:
        start: (d,) where every run begins.
        loss: (..., d) -> (...,).
        grad: (..., d) -> (..., d).
        top: largest eigenvalue of the Hessian, divided row by row by a scale (or 1).
        spread: (d,) size of the gradient's noise in each direction, for noise 1.
        curvatures: (d,) of a quadratic.
    """

    start: Array
    loss: Callable[[Array], Array]
    grad: Callable[[Array], Array]
    top: Callable[[Array, Array], Array]
    spread: Array
    curvatures: Array | None = None


def quadratic(condition: float, dimensions: int = 12) -> Problem:
    """½ Σ λ x², λ from 1/condition to 1; noise √λ·σξ, whose loss settles at ½σ²·lr·λ/(2−lr·λ)."""
    curvatures = np.geomspace(1 / condition, 1.0, dimensions)
    return Problem(
        start=1.0 + 0.3 * np.cos(np.arange(dimensions)),
        loss=lambda x: 0.5 * (curvatures * x**2).sum(-1),
        grad=lambda x: curvatures * x,
        top=lambda x, scale: (curvatures / scale).max(-1) + 0.0 * x[..., 0],
        spread=np.sqrt(curvatures),
        curvatures=curvatures,
    )


def _by_hessian(
    start: Array,
    loss: Callable[[Array], Array],
    grad: Callable[[Array], Array],
    hessian: Callable[[Array], Array],
) -> Problem:
    def top(x: Array, scale: Array) -> Array:
        del scale  # these are trained by plain steps only
        there = hessian(x)
        fine = np.isfinite(there).all((-2, -1))
        found = np.linalg.eigvalsh(np.where(np.expand_dims(fine, (-2, -1)), there, 0.0))[..., -1]
        return np.where(fine, found, np.nan)

    return Problem(start, loss, grad, top, np.ones(len(start)))


def rosenbrock() -> Problem:
    def grad(x: Array) -> Array:
        bend = x[..., 1] - x[..., 0] ** 2
        return np.stack([-2 * (1 - x[..., 0]) - 40 * x[..., 0] * bend, 20 * bend], -1)

    def hessian(x: Array) -> Array:
        a, b = x[..., 0], x[..., 1]
        rows = [[2 - 40 * (b - 3 * a**2), -40 * a], [-40 * a, 20 + 0 * a]]
        return np.stack([np.stack(row, -1) for row in rows], -2)

    return _by_hessian(
        np.array([-1.2, 1.0]),
        lambda x: (1 - x[..., 0]) ** 2 + 10 * (x[..., 1] - x[..., 0] ** 2) ** 2,
        grad,
        hessian,
    )


def factorisation(size: int = 5, rank: int = 2) -> Problem:
    """½|UVᵀ − M|², M of the same rank, from a small start: first a plateau, then it learns."""
    draw = np.random.default_rng(0)
    left, right = (np.linalg.qr(draw.normal(size=(size, size)))[0][:, :rank] for _ in range(2))
    target = left * np.array([1.0, 0.4]) @ right.T
    half = size * rank

    def parts(x: Array) -> tuple[Array, Array, Array]:
        u = x[..., :half].reshape(*x.shape[:-1], size, rank)
        v = x[..., half:].reshape(*x.shape[:-1], size, rank)
        return u, v, u @ np.swapaxes(v, -1, -2) - target

    def flat(u: Array, v: Array) -> Array:
        return np.concatenate([part.reshape(*part.shape[:-2], half) for part in (u, v)], -1)

    def grad(x: Array) -> Array:
        u, v, error = parts(x)
        return flat(error @ v, np.swapaxes(error, -1, -2) @ u)

    def hessian(x: Array) -> Array:
        """Column by column, how the gradient changes: d(E·V) = dE·V + E·dV."""
        u, v, error = parts(x)
        columns = []
        for each in np.eye(2 * half):
            du, dv, _ = parts(each)
            moved = du @ np.swapaxes(v, -1, -2) + u @ dv.T
            columns.append(
                flat(
                    moved @ v + error @ dv,
                    np.swapaxes(moved, -1, -2) @ u + np.swapaxes(error, -1, -2) @ du,
                )
            )
        return np.stack(columns, -1)

    def loss(x: Array) -> Array:
        return 0.5 * (parts(x)[2] ** 2).sum((-2, -1))

    return _by_hessian(0.2 * draw.normal(size=2 * half), loss, grad, hessian)


def quartic(dimensions: int = 8) -> Problem:
    """¼ Σ x⁴: the curvature goes with the loss, and the fall is slower than any exponential."""
    scaled = np.linspace(0.4, 1.0, dimensions)
    return Problem(
        start=scaled,
        loss=lambda x: 0.25 * (x**4).sum(-1),
        grad=lambda x: x**3,
        top=lambda x, scale: (3 * x**2 / scale).max(-1),
        spread=np.ones(dimensions),
    )


def logistic(samples: int = 80, dimensions: int = 4) -> Problem:
    """Two classes that no line parts: from ln 2 down to a loss above 0, with tails like exp(−x)."""
    draw = np.random.default_rng(1)
    inputs = draw.normal(size=(samples, dimensions)) * np.array([2.0, 1.0, 0.5, 0.25])
    odds = inputs @ np.array([1.0, -1.0, 1.0, -1.0])
    signs = np.where(draw.random(samples) < 1 / (1 + np.exp(-odds)), 1.0, -1.0)
    facing = inputs * signs[:, None]  # (samples, d)

    def wrong(x: Array) -> Array:
        return 1 / (1 + np.exp(np.clip(x @ facing.T, -700, 700)))

    def hessian(x: Array) -> Array:
        p = wrong(x)
        return np.einsum("...n,ni,nj->...ij", p * (1 - p), facing, facing) / samples

    return _by_hessian(
        np.zeros(dimensions),
        lambda x: np.logaddexp(0, -(x @ facing.T)).mean(-1),
        lambda x: -(wrong(x) @ facing) / samples,
        hessian,
    )
