"""Name the files of a sweep and of a run, and the columns of their tables."""

from __future__ import annotations

import re
from pathlib import Path

# Words that only continue a sweep; multirun.yaml keeps the command line that began it.
RESUMING = ("hydra.sweeper.resume=", "hydra.sweeper.trust=", "hydra.sweep.dir=")

MOST_TEXT = 2**24  # bytes of a YAML or JSON record; lrlab writes a few thousand

# The states of a run that is over. Others: waiting, running, interrupted.
ENDED = ("finished", "diverged", "pruned", "failed")

# A row describes the parameters before update `step`: the mini-batch loss there, and the full
# evaluation where one was made. The last row, after all updates, has an evaluation only. Each
# column has the format of its cells; a loss is a float32, which nine digits hold.
FIRST_METRICS = {
    "step": "%d",
    "epoch": "%d",
    "lr": "%r",
    "train_loss": "%.9g",
    "val_loss": "%.9g",
    "val_acc": "%.9g",
}
# Add a new column here. Records that were written before lack it, and read as NaN there.
METRICS = {**FIRST_METRICS}

# A row describes the update made at `step`; see lrlab.engine.diagnostics.
DIAGNOSTICS = (
    *("step", "alpha", "alpha_probe", "stability_ratio", "sharpness"),
    *("grad_norm", "update_ratio", "distance"),
)

# A row describes the update made at `step` in a loop of the user's own; see lrlab.own_loop. After
# these there is a column for each parameter group, update_ratio_0 and so on.
PROBE = ("step", "loss", "loss_after", "critical", "low", "high", "noise")

# A row is a step of the branch test, counted on from the run's last one: the run's own lr, and the
# mini-batch losses of the branches with lr/10, lr and 3·lr.
MULTIPLIERS = {"low": 0.1, "same": 1.0, "high": 3.0}
BRANCHES = ("step", "lr", *MULTIPLIERS)

# The tables in the sweep's folder that lrlab.probes.landscape describes.
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


def code_file(sweep: Path, name: str) -> Path:
    """Return where the source of a class or function is kept that no file has."""
    return sweep / f"code-{name}.py"


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
