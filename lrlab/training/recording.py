"""Write the records of a stack while it trains: rows of tables, summaries, logs, the display."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from lrlab import records
from lrlab.plan.spec import samples_a_step
from lrlab.process.profiling import phase
from lrlab.training import checkpoints
from lrlab.training.loop import Segment
from lrlab.training.stack import Run, Stack

if TYPE_CHECKING:
    from lrlab.process.progress import Update


def log_start(stack: Stack, run: Run) -> None:
    """Log that the run trains, what and where."""
    lane, width, way, data = stack.runs.index(run), len(stack.runs), stack.lanes.way, stack.data
    run.summary["lanes"] = {"width": width, "lane": lane, "way": way, "pad": stack.lanes.pad}
    records.write_summary(run.spec.folder, run.summary)
    env = run.summary["environment"]
    lines = [
        " ".join(f"{k}={v}" for k, v in run.spec.swept.items()) or "a single run",
        f"network {run.spec.choices['network']}: {run.summary['parameters']:,} parameters",
        f"data {run.spec.choices['data']}: {len(data.train_y):,} training samples, "
        f"{len(data.val_y):,} held out, {len(data.test_y):,} test",
        f"{run.steps:,} steps of {samples_a_step(run.spec)} samples, "
        f"{run.summary['steps_per_epoch']:,} an epoch",
        f"on {env['device']} ({env['device_name']}), {env['threads']} threads",
        f"lane {lane + 1} of {width}, trained {way}",
    ]
    if data.types:
        lines.append(data.types)
    if way == "one at a time":
        lines.append("one at a time, because together they would be slower or change bits")
    if way == "unmapped":
        lines.append("one at a time, because torch.vmap cannot run this network")
    if stack.optimizer.general:
        lines.append("slower: one torch optimizer a lane, as lrlab has no stacked update for it")
    rates = dict.fromkeys(f"{rate:g}" for rate in stack.optimizer.rates(lane))
    if list(rates) != ["1"]:
        lines.append(f"parameter groups at {', '.join(rates)} times lr")
    records.log(run.spec.folder, "\n".join(lines))


@phase("record")
def record(stack: Stack, segment: Segment, update: Update) -> list[int]:
    """Write a segment's rows; return the lanes that go on, those with finite losses only."""
    finite = np.isfinite(segment.losses)
    show = update.due()
    going = []
    for lane, run in enumerate(stack.runs):
        whole = bool(finite[:, lane].all())
        count = len(finite) if whole else int(np.argmin(finite[:, lane])) + 1
        lr, loss = _write_rows(stack, segment, lane, count)
        run.train_seconds += segment.seconds
        run.diagnose_seconds += segment.diagnose_seconds
        run.last_values = {
            name: float(values[count - 1, lane]) for name, values in segment.values.items()
        }
        step = segment.first_steps[lane] + count
        if whole:
            going.append(lane)
            # one by one, so that the sum does not depend on where segments end
            total = np.cumsum([run.epoch_losses[0], *loss])[-1]
            run.epoch_losses = (float(total), run.epoch_losses[1] + count)
            run.last_loss = sum(loss) / count
            state, shown_loss = "training", run.last_loss
        else:
            step -= 1
            diverge(run, step)
            state, shown_loss = "diverged", loss[-1]
        if show or not whole:
            epoch = step / stack.steps_per_epoch
            update(run.row, epoch=epoch, step=step, lr=lr[-1], loss=shown_loss, state=state)
    return going


def _write_rows(
    stack: Stack, segment: Segment, lane: int, count: int
) -> tuple[list[float], list[float]]:
    """Write a lane's first rows of a segment; return their lrs and losses."""
    run, first_step = stack.runs[lane], segment.first_steps[lane]
    folder = run.spec.folder
    epoch, place = divmod(first_step, stack.steps_per_epoch)
    lr = segment.values["lr"][:count, lane].tolist()
    loss = segment.losses[:count, lane].tolist()
    steps = range(first_step, first_step + count)
    rows = {"step": steps, "epoch": [epoch] * count, "lr": lr, "train_loss": loss}
    if place == 0:
        run.epoch_losses = (0.0, 0)
        first = {name: values[:1] for name, values in rows.items()}
        records.append_metrics(folder, first | evaluated(run), run.averaged is not None)
        rows = {name: values[1:] for name, values in rows.items()}
    records.append_metrics(folder, rows, run.averaged is not None)
    measured = [
        (first_step + i, *numbers[lane].tolist())
        for i, (numbers, due) in segment.measured.items()
        if i < count and due[lane]
    ]
    records.append_diagnostics(folder, measured)
    return lr, loss


def evaluated(run: Run) -> dict[str, list[float]]:
    """Return the cells of metrics.csv for the latest evaluation; a regression has no accuracy."""
    loss, accuracy = run.evaluation
    found = {"val_loss": loss, "val_acc": accuracy}
    if run.averaged is not None:
        found |= dict(zip(records.OF_AVERAGE, run.averaged, strict=True))
    is_loss = ("val_loss", "val_loss_ema")
    return {k: [v] for k, v in found.items() if k in is_loss or not np.isnan(v)}


def diverge(run: Run, step: int) -> None:
    """End a run at its first non-finite loss."""
    run.summary["first_nonfinite_step"] = step
    end(run, "diverged", f"diverged at step {step}: the loss is not finite")


def end(run: Run, state: str, line: str) -> None:
    """Write a run's last summary, and a line in its log."""
    run.ended = True
    run.summary["state"] = state
    run.summary["timing"] |= {
        "train_seconds": round(run.train_seconds, 4),
        "evaluate_seconds": round(run.evaluate_seconds, 4),
        "diagnose_seconds": round(run.diagnose_seconds, 4),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    records.write_summary(run.spec.folder, run.summary)
    records.log(run.spec.folder, line)
    checkpoints.drop(run.spec.folder)


def show_step(stack: Stack, update: Update, made: int) -> None:
    """Show how far a segment is, so that slow steps are seen to progress; fetches no loss."""
    if update.due():
        for run in stack.runs:
            step = run.step + made
            update(run.row, epoch=step / stack.steps_per_epoch, step=step, state="training")


def show_epoch(stack: Stack, update: Update) -> None:
    """Show all runs at an epoch's end."""
    for run in stack.runs:
        state = run.summary["state"] if run.ended else "training"
        update(
            run.row,
            epoch=run.step / stack.steps_per_epoch,
            step=run.step,
            lr=run.last_values.get("lr", float("nan")),
            loss=run.last_loss,
            accuracy=run.evaluation[1],
            state=state,
        )
