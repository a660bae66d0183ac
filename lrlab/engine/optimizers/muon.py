"""Define Muon for matrices, with AdamW for all other parameters."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.adamw import adamw

from lrlab.engine.optimizers import rule
from lrlab.engine.optimizers.adam import ADAMW
from lrlab.engine.optimizers.rule import Columns, Common, Rows, Rule

STEPS = 5  # of the iteration, with Jordan's coefficients
_A, _B, _C = 3.4445, -4.7750, 2.0315
_EPS = 1e-7  # the least length that a matrix is divided by


class Muon(torch.optim.Optimizer):
    """Muon for matrices (Jordan et al. 2024), AdamW for all other parameters.

    It is ``torch.optim.Muon``, but the iteration keeps the parameters' precision, where torch's is
    in bfloat16: on most CPUs that takes many times as long. A schedule multiplies both lrs.

    Args:
        params: parameters, or groups of them; a group's lr and weight_decay are for its matrices,
            and its other parameters have adamw_lr times the same factor. With adamw=True all of
            its parameters are AdamW's.
        lr: of matrices. momentum, nesterov, weight_decay: theirs.
        match_rms: scale a step by 0.2 · √max(rows, columns), so that it is as long as one of
            AdamW (Liu et al. 2025, arXiv:2502.16982); else by √max(1, rows / columns).
        adamw_lr, adamw_weight_decay, betas, eps: of the other parameters.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.1,
        match_rms: bool = False,
        adamw_lr: float = 3e-4,
        adamw_weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        defaults = {
            **{"lr": lr, "momentum": momentum, "nesterov": nesterov, "match_rms": match_rms},
            **{"weight_decay": weight_decay, "betas": betas, "eps": eps, "adamw": False},
        }
        given = list(params)
        is_divided = bool(given) and isinstance(given[0], dict)
        groups: list[dict[str, Any]] = given if is_divided else [{"params": given}]
        made = []
        for group in groups:
            factor = group["lr"] / lr if lr and "lr" in group else 1.0
            are_others = group.get("adamw", False)
            matrices = [p for p in group["params"] if p.ndim == 2 and not are_others]
            others = [p for p in group["params"] if p.ndim != 2 or are_others]
            own = {"weight_decay": adamw_weight_decay, **group, "lr": adamw_lr * factor}
            made += [{**group, "params": matrices}] if matrices else []
            made += [{**own, "params": others, "adamw": True}] if others else []
        super().__init__(made, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            (self._adamw if group["adamw"] else self._muon)(params, group)

    def _muon(self, params: list[Tensor], group: dict[str, Any]) -> None:
        lr, momentum = group["lr"], group["momentum"]
        for p in params:
            grad, state = p.grad, self.state[p]
            assert grad is not None
            buffer = state.setdefault("momentum", torch.zeros_like(p)).lerp_(grad, 1 - momentum)
            ahead = grad.lerp(buffer, momentum) if group["nesterov"] else buffer
            p.mul_(1 - lr * group["weight_decay"])
            step = torch.tensor(lr).to(p) * _scale(p, group["match_rms"])
            p.addcmul_(orthogonal(ahead[None])[0], step, value=-1)

    def _adamw(self, params: list[Tensor], group: dict[str, Any]) -> None:
        states = [self.state[p] for p in params]
        for p, state in zip(params, states, strict=True):
            if not state:
                state |= {"step": torch.tensor(0.0), "average": torch.zeros_like(p)}
                state["square"] = torch.zeros_like(p)
        adamw(
            params,
            [p.grad for p in params if p.grad is not None],
            [state["average"] for state in states],
            [state["square"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=False,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _scale(matrix: Tensor, match_rms: float) -> float:
    rows, columns = matrix.shape[-2:]
    return 0.2 * math.sqrt(max(rows, columns)) if match_rms else math.sqrt(max(1, rows / columns))


def orthogonal(matrices: Tensor) -> Tensor:
    """Return for each matrix U·Sᵐ·Vᵀ, whose singular values are all near 1 (Newton-Schulz).

    Args:
        matrices: (lanes, rows, columns). A lane has the bits that it has alone.
    """
    lanes, *shape = matrices.shape
    threads = torch.get_num_threads()
    if lanes == 1 or _keeps_bits(lanes, *shape, threads, matrices.device, matrices.dtype):
        return _iterated(matrices)
    return torch.cat([_iterated(matrices[i : i + 1]) for i in range(lanes)])


def _iterated(matrices: Tensor) -> Tensor:
    is_tall = matrices.shape[1] > matrices.shape[2]
    # In one layout, because that of a gradient may differ, and products round by layout.
    x = (matrices.mT if is_tall else matrices).contiguous()
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=_EPS)
    for _ in range(STEPS):
        squared = torch.bmm(x, x.mT)
        x = torch.baddbmm(
            x, torch.baddbmm(squared, squared, squared, beta=_B, alpha=_C), x, beta=_A
        )
    return x.mT if is_tall else x


@functools.cache
def _keeps_bits(
    lanes: int, rows: int, columns: int, threads: int, device: torch.device, kind: torch.dtype
) -> bool:
    """Try whether products of so many lanes have the bits of each lane's own: not of all shapes."""
    numbers = torch.arange(lanes * rows * columns, dtype=torch.float64).mul_(0.7).sin_()
    tried = numbers.to(kind).to(device).view(lanes, rows, columns)
    alone = torch.cat([_iterated(tried[i : i + 1]) for i in range(lanes)])
    return torch.equal(_iterated(tried), alone)


def _state(params: list[Tensor], constants: Columns) -> dict[str, list[Tensor]]:
    return {"momentum": [torch.zeros_like(p) for p in params]}


def _coefficients(h: Columns, before: np.ndarray) -> Columns:
    c = {"lr": h["lr"], "momentum": h["momentum"], "gradient_share": 1 - h["momentum"]}
    if h["weight_decay"].any():
        c["shrink"] = 1 - h["lr"] * h["weight_decay"]
    return c


def _update(param: Tensor, grad: Tensor, state: Rows, c: Rows, common: Common) -> None:
    buffer = state["momentum"].lerp_(grad, c["gradient_share"])
    ahead = torch.lerp(grad, buffer, c["momentum"]) if common["nesterov"] else buffer
    if "shrink" in c:
        param.mul_(c["shrink"])
    step = c["lr"] * _scale(param, common["match_rms"])
    param.addcmul_(orthogonal(ahead), step, value=-1)


def _unknown(h: Columns, before: np.ndarray, nesterov: bool) -> np.ndarray:
    return np.full(h["lr"].shape, np.nan)  # its step does not grow with the gradient


MUON = Rule(
    general_flags=(),
    state=_state,
    coefficients=_coefficients,
    update=_update,
    stability_scale=_unknown,
    numbers={
        "momentum": rule.MOMENTUM,
        "weight_decay": rule.WEIGHT_DECAY,
        "adamw_lr": ("a number of at least 0", 0.0003),
        "adamw_weight_decay": rule.WEIGHT_DECAY,
        "eps": rule.EPS,
    },
    rest=ADAMW,
)
