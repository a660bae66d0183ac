"""Configs of schedules, and the curve of a run under one."""

from __future__ import annotations

from lrlab.plan.schedules import lane_schedules

TORCH = "torch.optim.lr_scheduler."
LR = 0.3
STEPS, STEPS_PER_EPOCH = 53, 7  # the last epoch is cut short


def config(kind, interval="step", warmup: float = 0, start=0.01, **arguments):
    own = {"interval": interval, "warmup_steps": warmup, "warmup_start_factor": start}
    return {"_target_": TORCH + kind, "_partial_": True, **own, **arguments}


def curve(schedule, steps=STEPS, lr=LR, steps_per_epoch=STEPS_PER_EPOCH, name="lr", **more):
    built = lane_schedules.build(schedule, {"lr": lr, **more}, steps, steps_per_epoch)
    return built.values(0, steps)[name]
