"""Name the files of a sweep and of a run, and the columns of their tables."""

from __future__ import annotations

import re
from pathlib import Path

# The words by which a command line goes on with a sweep; multirun.yaml says how it began.
RESUMING = ("hydra.sweeper.resume=", "hydra.sweeper.trust=", "hydra.sweep.dir=")

MOST_TEXT = 2**24  # bytes of a YAML or JSON record; lrlab's own have some thousand

# The states of a run that is over. Others: waiting, running, interrupted.
ENDED = ("finished", "diverged", "pruned", "failed")

# A row describes the parameters before update `step`: the mini-batch loss there, and the full
# evaluation where one was made. The last row, after all updates, has an evaluation only.
# `append_metrics` and `append_evaluated` write the cells of a row in this order. A column that is
# added here is missing in the records of before, which `read_metrics` would then call damaged: let
# it read NaN there.
METRICS = ("step", "epoch", "lr", "train_loss", "val_loss", "val_acc")

# A row describes the update made at `step`; see lrlab.engine.diagnostics.
DIAGNOSTICS = (
    *("step", "alpha", "alpha_probe", "stability_ratio", "sharpness"),
    *("grad_norm", "update_ratio", "distance"),
)

# A row is a step of the branch test, counted on from the run's last one. It has the lr of the
# branch with the run's own lr, and the mini-batch losses at a tenth of it, at it, and at three
# times it.
MULTIPLIERS = {"low": 0.1, "same": 1.0, "high": 3.0}
BRANCHES = ("step", "lr", *MULTIPLIERS)

# The tables of lrlab.probes.landscape, which describes them, in the sweep's folder.
LANDSCAPE = {
    "lines": ("run", "lr", "role", "step", "t", "distance", "loss", "w0", "w1", "w2", "alpha"),
    "surface": ("x", "y", "loss"),
    "paths": ("run", "lr", "role", "step", "x", "y", "loss", "share"),
}

VAL_PARTS = "val_parts"  # a column for computations, not for readers: no CSV has it


def summary_file(run: Path) -> Path:
    return run / "summary.json"


def model_file(run: Path) -> Path:
    return run / "model.pt"


def checkpoint_file(run: Path) -> Path:
    return run / "checkpoint.pt"


def end_file(run: Path) -> Path:
    """Return the file in which a run's end state waits for its branch test."""
    return run / "end.pt"


def journal_file(sweep: Path) -> Path:
    return sweep / "study.journal"


def answer_file(sweep: Path) -> Path:
    return sweep / "answer.json"


def budget_file(sweep: Path) -> Path:
    return sweep / "budget.json"


def report_file(sweep: Path) -> Path:
    return sweep / "report.html"


def profile_folder(sweep: Path) -> Path:
    return sweep / "profile"


def plot_folder(sweep: Path) -> Path:
    return sweep / "plots"


def run_folders(sweep: Path) -> list[Path]:
    """Return the folders of a sweep's runs, sorted by run number, without links."""
    found = [f for f in sweep.iterdir() if f.name.isdecimal() and f.is_dir() and not f.is_symlink()]
    return sorted(found, key=lambda folder: int(folder.name))


PART = re.compile(r"\..+\.(\d+)\.(?:tmp|part)|\.(\d+)\..+\.json\.gz")  # the latter of a profile
