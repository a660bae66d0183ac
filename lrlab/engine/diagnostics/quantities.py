"""Turn a measurement into the recorded numbers: alpha, stability ratio, lengths."""

from __future__ import annotations

import numpy as np

# In the order of the tensor that ``Meter.after`` returns.
RAW = (
    *("loss", "loss_after", "slope", "slope_after"),
    *("probe_loss", "probe_loss_after", "probe_slope", "probe_slope_after"),
    *("sharpness", "grad_norm", "update_norm", "weight_norm", "distance"),
)


def table(raw: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the recorded numbers of a measurement.

    Args:
        raw: (..., 13) as from ``Meter.after``.
        scale: (...) as from ``LaneOptimizer.stability_scale``.

    Returns:
        (..., 7) float64: alpha, alpha_probe, stability_ratio, sharpness, grad_norm, update_ratio,
        distance.
    """
    r = dict(zip(RAW, np.moveaxis(raw.astype(np.float64), -1, 0), strict=True))
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


# Least squares of f(1) − f(0), f'(0) and f'(1) by w1·t + w2·t², where f(0) may move, too.
_FIT = np.linalg.pinv(np.array([[1, 0, 0], [1, 1, 1], [0, 1, 0], [0, 1, 2]], float))


def parabola(
    change: np.ndarray, slope: np.ndarray, slope_after: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the parabola w0 + w1·t + w2·t² through both ends of an update, t in updates.

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
    """Return how far an update goes, relative to the minimum of the loss along it.

    −1: no way towards it; 0: exactly to it; 1: as far beyond it as it began before it. inf: it led
    uphill from its start, or to a loss that is not finite. The minimum is that of ``parabola``: t*
    = −w1/(2·w2), alpha = 1/t* − 1. If the loss does not curve upwards there is none, and alpha is
    −1 (Schneider, Dangel & Hennig 2021, arXiv:2102.06604, section 3.1).

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
