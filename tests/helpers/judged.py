"""Sweeps with the records that verdicts read, written by hand."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MNIST = Path(__file__).parents[1] / "hand_labelled" / "mnist.csv.gz"
METRICS = "step,epoch,lr,train_loss,val_loss,val_acc\n"


def falling(end: float, start: float = 2.3, rows: int = 21) -> list[float]:
    return [float(x) for x in np.geomspace(start, end, rows)]


def write_run(sweep: Path, number: int, losses: list[float], lr: float, **summary: Any) -> Path:
    """A run's folder as lrlab writes it: evaluations at every second step."""
    folder = sweep / str(number)
    folder.mkdir(parents=True)
    last = len(losses) - 1
    text = METRICS
    for step, loss in enumerate(losses):
        val = f"{loss:.9g},0.9" if step % 2 == 0 else ","
        text += f"{step},0,,,{val}\n" if step == last else f"{step},0,{lr!r},{loss:.9g},{val}\n"
    (folder / "metrics.csv").write_text(text)
    whole = {
        "run": number,
        "state": "finished",
        "lr": lr,
        "seed": 0,
        "epochs": 2,
        "batch_size": 64,
        "data": "mnist",
        "network": "mlp",
        "loss": "nll",
        "optimizer": "sgd",
        "schedule": "fixed",
        "initial_loss": losses[0],
        "chance_loss": math.log(10),
        "num_classes": 10,
        "test_acc": 1 - losses[-1] / 3,
        "data_sha256": "ab" * 32,
        "environment": {"torch": "2.9", "device": "cpu", "threads": 1},
        "timing": {"train_seconds": 2.0},
        **summary,
    }
    (folder / "summary.json").write_text(json.dumps(whole))
    return folder


def write_config(run: Path, text: str) -> None:
    (run / ".hydra").mkdir(exist_ok=True)
    (run / ".hydra" / "config.yaml").write_text(text)


CONFIG = """
lr: 0.1
name: {name}
threads: 1
data: {{_target_: lrlab.data.torchvision_images, root: /somewhere/{name}}}
network: {{_target_: lrlab.networks.MLP, hidden: {hidden}}}
optimizer: {{_target_: torch.optim.SGD, _partial_: true, momentum: {momentum}}}
"""


def make_sweep(
    folder: Path, ends: Mapping[float, Sequence[float]], config: str = "", **summary: Any
) -> Path:
    """A sweep's folder; ends: by lr the end loss of each seed, inf for a run that diverged."""
    number = itertools.count()
    for lr, losses in ends.items():
        for seed, end in enumerate(losses):
            lost = {"state": "diverged", "first_nonfinite_step": 20} if math.isinf(end) else {}
            curve = falling(9.0 if lost else end)
            run = write_run(folder, next(number), curve, lr, **{"seed": seed, **lost, **summary})
            if config:
                write_config(run, config)
    (folder / "multirun.yaml").write_text("{}\n")
    return folder


def called(
    main: Callable[[list[str]], None], capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """A verb that runs in this process: its exit code, what it printed, and its errors."""

    def command(*arguments: object) -> tuple[int, str, str]:
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        out, err = capsys.readouterr()
        return code, out, err

    return command
