"""Take finished and pruned runs out of their stack, and evaluate the finished ones in full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lrlab import records
from lrlab.process.profiling import phase
from lrlab.training import checkpoints
from lrlab.training.evaluation import Final, evaluate_finished
from lrlab.training.recording import diverge, end, results_in_words
from lrlab.training.saving import keep_end
from lrlab.training.stack import Run, Stack

if TYPE_CHECKING:
    from lrlab.process.progress import Update

_TOLD = ("train_loss", "val_loss", "test_loss", "test_acc")  # the results that a log reports


def prune(stack: Stack, pruned: set[int], update: Update) -> None:
    """Let pruned runs leave at an epoch's end. Their curves are kept.

    Args:
        pruned: run numbers; those that are not in this stack are ignored.
    """
    going = []
    for lane, run in enumerate(stack.runs):
        if run.spec.number not in pruned:
            going.append(lane)
            continue
        epoch = run.step // stack.steps_per_epoch
        records.append_evaluated(run.spec.folder, run.step, epoch, None, run.evaluation)
        run.summary |= {
            "val_loss": run.evaluation[0],
            "val_acc": run.evaluation[1],
            "pruned_at_epoch": epoch,
        }
        end(run, "pruned", f"pruned after epoch {epoch}: val loss {run.evaluation[0]:.4f}")
        update(run.row, state="pruned")
    stack.keep(going)


@phase("final evaluation")
def finish(stack: Stack, done: Sequence[int]) -> None:
    """Evaluate finished runs in full, and write their last records."""
    final = evaluate_finished(stack, done)
    for i, lane in enumerate(done):
        run = stack.runs[lane]
        run.evaluate_seconds += final.seconds
        epochs = run.spec["epochs"]
        records.append_evaluated(run.spec.folder, run.step, epochs, None, run.evaluation)
        finite = np.isfinite(run.evaluation[0]) and bool(final.train[0][i].isfinite())
        if not finite:
            diverge(run, run.step)
            continue
        run.summary |= _results(run, final, i)
        keep_end(stack, lane)
        if run.spec["save_model"]:
            checkpoints.write(records.model_file(run.spec.folder), final.lanes.state_dict(i))
        line = "finished\n" + ", ".join(results_in_words(run.summary, _TOLD))
        if stack.optimizer.moved(lane):
            rates = dict.fromkeys(f"{rate:g}" for rate in stack.optimizer.rates(lane))
            line += f"\nthe optimizer moved its lr itself, to {', '.join(rates)} times the recorded"
        end(run, "finished", line)


def _results(run: Run, final: Final, i: int) -> dict[str, float | list[float]]:
    """Return the final results of the i-th of the finished runs, for its summary."""
    return {
        "train_loss": float(final.train[0][i]),
        "train_acc": float(final.train[1][i]),
        "val_loss": run.evaluation[0],
        "val_acc": run.evaluation[1],
        "test_loss": float(final.test[0][i]),
        "test_acc": float(final.test[1][i]),
        "val_parts": [float(part[i]) for part in final.val_parts],
    }
