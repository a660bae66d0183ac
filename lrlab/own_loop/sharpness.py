"""Measure the stability ratio of an ordinary torch optimizer, on a batch that stays the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from lrlab.engine.diagnostics.curvature import sharpest
from lrlab.engine.diagnostics.vectors import random_vectors
from lrlab.errors import UserError
from lrlab.own_loop.keeping import evaluated

# Products with the Hessian: at the first measurement, and at each later one, which goes on from it.
FIRST, LATER = 10, 5


@dataclass
class Sharpness:
    """The direction of largest curvature, which each measurement follows.

    Attributes:
        loss: of the fixed batch.
        has_curvature: False once an operation of the network turned out to have no second
            derivative.
    """

    loss: Callable[[], Tensor]
    has_curvature: bool = True
    _vectors: list[Tensor] = field(default_factory=list)

    def ratio(self, optimizer: torch.optim.Optimizer, lrs: Sequence[float]) -> float:
        """Return the stability ratio where the parameters stand; NaN where it is not defined.

        ``lrs`` are those of the update by group, which a scheduler may have changed since.

        It is defined for SGD with and without momentum, and for Adam and AdamW without amsgrad,
        with one lr for all parameters; see ``LaneOptimizer.stability_scale``.
        """
        params = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        scale, preconditioner = _scale(optimizer, params, lrs)
        if math.isnan(scale) or not self.has_curvature:
            return math.nan
        fresh = [v.shape[1:] for v in self._vectors] != [p.shape for p in params]
        if fresh:
            self._vectors = random_vectors([p.detach()[None] for p in params], [0])
        products = np.array([FIRST if fresh else LATER])
        lane = cast(Any, _OneLane(params, self.loss))
        found = sharpest(
            lane, cast(Any, ()), self._vectors, products, preconditioner, torch.tensor([fresh])
        )
        self.has_curvature = found.vectors is not None
        self._vectors = found.vectors or self._vectors
        return scale * float(found.sharpness[0])


class _OneLane:
    """An ordinary network, in the form of a stack of one lane."""

    def __init__(self, params: Sequence[Tensor], loss: Callable[[], Tensor]) -> None:
        self._params, self._loss = list(params), loss

    def __len__(self) -> int:
        return 1

    def curvature(
        self,
    ) -> tuple[Tensor, list[Tensor | None], Callable[[Sequence[Tensor]], list[Tensor]]]:
        """Return loss (1,), gradients (1, ...), and the product with the Hessian."""
        with torch.enable_grad():
            loss = evaluated(self._loss, (), "curvature").mean()
            if not loss.requires_grad:
                raise UserError("curvature: does not depend on the optimizer's parameters")
            gradients = torch.autograd.grad(
                loss, self._params, create_graph=True, allow_unused=True
            )

        def product(vectors: Sequence[Tensor]) -> list[Tensor]:
            pairs = [
                (g, v[0])
                for g, v in zip(gradients, vectors, strict=True)
                if g is not None and g.requires_grad
            ]
            used, along = zip(*pairs, strict=True) if pairs else ((), ())
            found = torch.autograd.grad(
                used, self._params, along, retain_graph=True, allow_unused=True
            )
            return [
                (torch.zeros_like(p) if h is None else h).detach()[None]
                for p, h in zip(self._params, found, strict=True)
            ]

        dense = [g.to_dense() if g is not None and g.is_sparse else g for g in gradients]
        ready = [None if g is None else g.detach()[None] for g in dense]
        return loss.detach()[None], ready, product


def _scale(
    optimizer: torch.optim.Optimizer, params: Sequence[Tensor], lrs: Sequence[float]
) -> tuple[float, list[Tensor] | None]:
    """Return the factor from sharpness to the stability ratio, and the preconditioner.

    The formulas are those of ``LaneOptimizer.stability_scale``.
    """
    groups = optimizer.param_groups
    same = len(set(lrs)) == 1 and all(
        group.get(name) == groups[0].get(name)
        for group in groups
        for name in ("momentum", "betas", "dampening", "nesterov", "eps")
    )
    group = groups[0]
    kind = type(getattr(optimizer, "optimizer", optimizer))  # Accelerate wraps it
    if not same or group.get("maximize"):
        return math.nan, None
    lr = lrs[0]
    if kind is torch.optim.SGD:
        beta, tau = group["momentum"], group["dampening"]
        if group["nesterov"]:
            return lr * (1 + 2 * beta) / (2 * (1 + beta)), None
        return lr * (1 - tau if beta else 1.0) / (2 * (1 + beta)), None
    if kind in (torch.optim.Adam, torch.optim.AdamW) and not group["amsgrad"]:
        beta1, beta2 = (float(beta) for beta in group["betas"])
        states = [optimizer.state.get(p) or {} for p in params]
        if not all("exp_avg_sq" in state for state in states):
            return math.nan, None
        step = float(states[0]["step"])
        divisor = [
            ((state["exp_avg_sq"] / (1 - beta2**step)).sqrt() + group["eps"])[None]
            for state in states
        ]
        scale = lr * (1 - beta1) / (1 - beta1**step) / (2 * (1 + beta1))
        return scale, divisor
    return math.nan, None
