"""Configs of optimizers, one a lane."""

from __future__ import annotations

LRS = [0.1, 0.003, 1.0, 0.02, 0.0]


def path_of(kind):
    return kind if "." in kind else f"torch.optim.{kind}"


def configs(kind, arguments, lrs=LRS):
    return [
        {"_target_": path_of(kind), "_partial_": True, "lr": lr, **given}
        for lr, given in zip(lrs, arguments, strict=True)
    ]
