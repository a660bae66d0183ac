"""Sweeps that something interrupts, and what they come to, comparable."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from PIL import Image
from test_sweep import summaries, trials
from warm import DATA, Done, Server

from lrlab import records
from lrlab.training import checkpoints

QUICK = (*DATA, "network.hidden=[8]", "plots=false", "threads=1", "diagnostics=off")
RESULTS = ("state", "error", "first_nonfinite_step", "pruned_at_epoch", "initial_loss")
RESULTS += ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")

# One process draws, and two figures of the twelve: each takes half a second.
FEW_FIGURES = """
import os
import lrlab.plots, lrlab.plots.drawing
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
lrlab.plots.OF_LANDSCAPE = ("textbook",)
lrlab.plots.NAMES = lrlab.plots.drawing.NAMES = ("loss_curves", "textbook")
"""

MEASURED = (
    *(word for word in QUICK if word not in ("diagnostics=off", "plots=false")),
    *("lr=0.1,0.3,1e9", "epochs=3", "lanes=2", "lease=3600"),
    *("checkpoint_every=1", "diagnostics=full"),
)

# The signal comes in the middle of a step, counted over all of a process.
AT_STEP = """
import os, signal
from lrlab.engine import step
taken = 0

def counted(gradients):
    def take(self, i):
        global taken
        taken += 1
        if taken == {step}:
            for _ in range({times}):
                os.kill(os.getpid(), signal.{name})
        return gradients(self, i)
    return take

for kind in (step.PlainStep, step.CapturedStep):
    kind.gradients = counted(kind.gradients)
"""


def go_on(server: Server, folder: Path, typed: Sequence[str], **how: Any) -> Done:
    """Begin the sweep x, or go on with it where it has begun."""
    how = {"cwd": folder, "prepare": FEW_FIGURES, **how}
    if (folder / "outputs" / "x" / "multirun.yaml").exists():
        return server.run("lrlab.resume", "outputs/x", **how)
    if (folder / "outputs").exists():  # it had no time to begin
        shutil.rmtree(folder / "outputs")
    return server.run("lrlab.sweep", *typed, "name=x", **how)


def found(sweep: Path) -> dict[str, Any]:
    """All that a sweep has come to, comparable; not when, how fast and beside whom."""
    runs, found_trials = records.run_folders(sweep), trials(sweep)
    best = sweep / "best.yaml"
    for trial in found_trials:
        del trial.user_attrs["claim"]
    return {
        "curves": [(run / "metrics.csv").read_text("utf-8") for run in runs],
        "results": [{key: s[key] for key in RESULTS} for s in summaries(sweep)],
        "runs.csv": (sweep / "runs.csv").read_text("utf-8"),
        "best.yaml": best.read_text("utf-8") if best.is_file() else None,
        "trials": [
            (t.number, t.state.name, t.params, t.values, t.intermediate_values, t.user_attrs)
            for t in found_trials
        ],
        # all of them: what a dead process left half-written would be one more
        "files": sorted(f.relative_to(sweep).as_posix() for f in sweep.rglob("*")),
    }


def assert_readable(sweep: Path) -> None:
    """That each file that is there under its own name is whole; a torn last line may be cut off."""
    if not sweep.exists():
        return
    for file in sorted(f for f in sweep.rglob("*") if f.is_file()):
        if file.name.startswith("."):  # a writer's part, which nobody reads
            continue
        match file.suffix:
            case ".json":
                json.loads(file.read_text("utf-8"))
            case ".yaml":
                yaml.safe_load(file.read_text("utf-8"))
            case ".pt":
                assert checkpoints.read(file) is not None or file.name == "model.pt"
            case ".png":
                with Image.open(file) as image:
                    image.load()
            case ".html":
                assert file.read_text("utf-8").rstrip().endswith("</html>")
            case ".csv" if file.parent == sweep:
                pd.read_csv(file)
    for run in records.run_folders(sweep):
        if (run / "metrics.csv").exists():
            records.read_metrics(run)
        if (run / "diagnostics.csv").exists():
            records.read_diagnostics(run)
