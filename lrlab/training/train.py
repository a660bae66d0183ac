"""Train a stack for an epoch, segment by segment, then evaluate it and let its ended runs leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from lrlab import records
from lrlab.engine import devices
from lrlab.errors import Stopped
from lrlab.process.profiling import phase
from lrlab.training import checkpoints
from lrlab.training.building import precision
from lrlab.training.evaluation import evaluate, evaluate_finished
from lrlab.training.loop import Values, advance
from lrlab.training.recording import diverge, end, evaluated, record, show_epoch, show_step
from lrlab.training.saving import checkpoint_if_due, keep_end
from lrlab.training.stack import Run, Stack

if TYPE_CHECKING:
    from lrlab.process.progress import Update


def train_epoch(stack: Stack, update: Update, stop: Callable[[], bool]) -> None:
    """Train a stack to the end of the epoch, and evaluate it.

    A lane leaves when its run is over: at its last epoch's end, or at its first non-finite loss.
    The other lanes go on, unchanged to the bit. Each run's metrics, summary and log are written
    along the way.

    Args:
        update: reports to the display.
        stop: asked at every step.

    Raises:
        Stopped: ``stop`` returned true; everything trained so far is recorded.
        NotWritten: a record could not be written.
    """
    spec = stack.runs[0].spec
    devices.prepare(spec.device, spec["threads"], precision(spec))
    if stack.place == 0:
        stack.take_order()
    while True:
        count = min(stack.longest_segment(), stack.steps_per_epoch - stack.place)
        values = schedule_values(stack.runs, count)
        segment = advance(stack, values, stop, partial(show_step, stack, update))
        stack.keep(record(stack, segment, update))
        if not stack.runs:
            return
        if stack.place == 0:
            break
        if stop():
            raise Stopped
        checkpoint_if_due(stack)

    evaluate(stack)
    for run in stack.runs:
        run.schedule.observe(run.evaluation[0])
        run.evaluations.append(run.evaluation[0])
    done = [lane for lane, run in enumerate(stack.runs) if run.step == run.steps]
    if done:
        finish(stack, done)
    show_epoch(stack, update)
    stack.keep([lane for lane in range(len(stack.runs)) if lane not in done])


def schedule_values(runs: Sequence[Run], count: int) -> Values:
    """Return name to (count, lanes) float64; NaN where a lane's schedule sets no such number."""
    tables = [run.schedule.values(run.step, count) for run in runs]
    unmoved = np.full(count, np.nan)
    names = dict.fromkeys(name for table in tables for name in table)
    return {n: np.stack([t.get(n, unmoved) for t in tables], axis=1) for n in names}


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
        _append_evaluation(run, epoch)
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
    with stack.optimizer.evaluating():
        final = evaluate_finished(stack, done)
        saved = [i for i, lane in enumerate(done) if stack.runs[lane].spec["save_model"]]
        models = {i: final.lanes.state_dict(i) for i in saved}
    for i, lane in enumerate(done):
        run = stack.runs[lane]
        run.evaluate_seconds += final.seconds
        _append_evaluation(run, run.spec["epochs"])
        finite = np.isfinite(run.evaluation[0]) and bool(final.train[0][i].isfinite())
        if not finite:
            diverge(run, run.step)
            continue
        run.summary |= {
            "train_loss": float(final.train[0][i]),
            "train_acc": float(final.train[1][i]),
            "val_loss": run.evaluation[0],
            "val_acc": run.evaluation[1],
            "test_loss": float(final.test[0][i]),
            "test_acc": float(final.test[1][i]),
            "val_parts": [float(part[i]) for part in final.val_parts],
        }
        if run.averaged is not None:
            found = (*run.averaged, *(float(score[i]) for score in final.averaged_test))
            names = (*records.OF_AVERAGE, "test_loss_ema", "test_acc_ema")
            run.summary |= dict(zip(names, found, strict=True))
        keep_end(stack, lane)
        if i in models:
            checkpoints.write(records.model_file(run.spec.folder), models[i])
            if final.averaged is not None:
                average = final.averaged.state_dict(i)
                checkpoints.write(records.average_file(run.spec.folder), average)
        line = "finished\n" + ", ".join(_results_in_words(run.summary))
        if stack.optimizer.moved(lane):
            rates = dict.fromkeys(f"{rate:g}" for rate in stack.optimizer.rates(lane))
            line += f"\nthe optimizer moved its lr itself, to {', '.join(rates)} times the recorded"
        end(run, "finished", line)


def _append_evaluation(run: Run, epoch: int) -> None:
    """Write the row of metrics.csv after the last update: an evaluation only."""
    records.append_metrics(
        run.spec.folder,
        {"step": [run.step], "epoch": [epoch], **evaluated(run)},
        run.averaged is not None,
    )


def _results_in_words(summary: Mapping[str, Any]) -> Iterator[str]:
    for name in ("train_loss", "val_loss", "test_loss", "test_acc"):
        if not np.isnan(value := summary[name]):
            share = name.endswith("_acc")
            words = name.replace("_acc", " accuracy").replace("_", " ")
            yield f"{words} {value:.2%}" if share else f"{words} {value:.4f}"
