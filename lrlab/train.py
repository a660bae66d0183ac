"""The training loop: all lanes of a group, step by step, in lockstep."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lrlab import environment, lanes, losses, optimizers, plan, records
from lrlab.plan import RunSpec

if TYPE_CHECKING:
    from lrlab.data import Dataset
    from lrlab.progress import Update

SEGMENT = 100  # steps between two looks at the losses; each look waits for the device


@dataclass
class _Run:
    """A run while it trains: what its lane needs besides its tensors."""

    spec: RunSpec
    row: int  # its row in the display
    schedule: Any
    steps: int
    summary: dict[str, Any]
    evaluation: tuple[float, float] = (float("nan"), float("nan"))  # the latest val_loss, val_acc
    last_lr: float = float("nan")
    last_loss: float = float("nan")  # the mean over the last segment, for the display
    ended: bool = field(default=False)


def train(specs: Sequence[RunSpec], rows: Sequence[int], data: Dataset, update: Update) -> None:
    """Train a lane group and write each run's metrics, summary and log as it goes.

    A lane leaves the stack when its run is over: at its last epoch's end, or at its first
    non-finite loss. Its neighbours go on, unchanged to the bit.

    Args:
        specs: runs of one ``plan.group_key``, whose folders exist.
        rows: each run's row in the display.
        data: on the CPU.
        update: reports to the display.
    """
    device = specs[0].device
    environment.prepare(device, specs[0]["threads"])
    batch_size = specs[0]["batch_size"]
    steps_per_epoch = len(data.train_y) // batch_size
    networks = [plan.build_network(spec, data) for spec in specs]
    loss = plan.loss_function(specs[0])
    data = data.to(device)

    stack = lanes.stack(networks, [spec["seed"] for spec in specs], loss, device)
    active = [
        _start(spec, row, stack, steps_per_epoch, data)
        for spec, row in zip(specs, rows, strict=True)
    ]
    stack, order = _settled(active, stack, data, epoch=0)
    optimizer = optimizers.build(
        [{**run.spec["optimizer"], "lr": run.spec["lr"]} for run in active],
        list(stack.params.values()),
    )
    _log_start(active, stack, optimizer, data)

    seconds = {"train": 0.0, "evaluate": 0.0}
    initial_losses = _evaluate(active, stack, data, seconds)
    for run, initial_loss in zip(active, initial_losses, strict=True):
        run.summary["initial_loss"] = initial_loss
    step = 0
    while active:
        epoch, place = divmod(step, steps_per_epoch)
        if place == 0:
            order = _order(active, epoch, data)
        count = min(SEGMENT, steps_per_epoch - place)
        started = time.perf_counter()

        schedule_values = _schedule_values(active, step, count)
        coefficients = optimizer.coefficients(schedule_values, np.full(len(active), step))
        recorded = torch.empty(count, len(active), device=device)
        for i in range(count):
            x, y = _batch(data, order, place + i)
            recorded[i], gradients = stack.gradients(x, y, step + i)
            optimizer.update(gradients, coefficients, i)

        train_losses = recorded.cpu().numpy()  # waits for the device
        seconds["train"] += time.perf_counter() - started
        lrs = schedule_values["lr"]
        going = _record(active, step, steps_per_epoch, lrs, train_losses, seconds, update)
        step += count

        if going and step % steps_per_epoch == 0:
            if len(going) < len(active):
                active, stack, order = _keep(active, going, stack, optimizer, data, epoch)
                going = list(range(len(active)))
            _evaluate(active, stack, data, seconds)
            for run in active:
                run.schedule.observe(run.evaluation[0])
            done = [i for i in going if active[i].steps == step]
            if done:
                _finish(active, done, stack, data, step, seconds)
            _show_epoch(active, step, steps_per_epoch, update)
            going = [i for i in going if i not in done]
        if len(going) < len(active):
            active, stack, order = _keep(active, going, stack, optimizer, data, epoch)


# --- batches and schedules ------------------------------------------------------------------------


def _order(active: Sequence[_Run], epoch: int, data: Dataset) -> Tensor:
    """An epoch's samples: (steps, batch) if all lanes share a seed, else (steps, lanes, batch)."""
    samples, batch_size = len(data.train_y), active[0].spec["batch_size"]
    steps = samples // batch_size
    seeds = [run.spec["seed"] for run in active]
    shuffled = {seed: plan.batch_order(seed, epoch, samples) for seed in dict.fromkeys(seeds)}
    batches = [shuffled[seed][: steps * batch_size].reshape(steps, -1) for seed in seeds]
    order = batches[0] if len(shuffled) == 1 else np.stack(batches, axis=1)
    return torch.from_numpy(order).to(data.train_y.device)


def _batch(data: Dataset, order: Tensor, place: int) -> tuple[Tensor, Tensor]:
    index = order[place]
    return data.train_x[index], data.train_y[index]


def _schedule_values(active: Sequence[_Run], step: int, count: int) -> dict[str, np.ndarray]:
    """Name to (count, lanes) float64; NaN where a lane's schedule leaves that number alone."""
    tables = [run.schedule.values(step, count) for run in active]
    unmoved = np.full(count, np.nan)
    names = dict.fromkeys(name for table in tables for name in table)
    return {n: np.stack([t.get(n, unmoved) for t in tables], axis=1) for n in names}


# --- lanes that leave -----------------------------------------------------------------------------


def _keep(
    active: Sequence[_Run],
    going: Sequence[int],
    stack: lanes.Lanes,
    optimizer: optimizers.LaneOptimizer,
    data: Dataset,
    epoch: int,
) -> tuple[list[_Run], lanes.Lanes, Tensor]:
    """Cut the stack, and the optimizer with it, down to the lanes that go on."""
    runs = [active[i] for i in going]
    if not runs:
        return runs, stack, torch.empty(0)
    smaller, order = _settled(runs, stack.select(going), data, epoch)
    optimizer.keep(torch.tensor(list(going)), list(smaller.params.values()))
    return runs, smaller, order


def _settled(
    runs: Sequence[_Run], stack: lanes.Lanes, data: Dataset, epoch: int
) -> tuple[lanes.Lanes, Tensor]:
    """The stack in the fastest way that keeps each lane's bits, and the epoch's order."""
    order = _order(runs, epoch, data)
    stack.settle(*_batch(data, order, 0), data.val_x, data.val_y)
    return stack, order


def _finish(
    active: Sequence[_Run],
    done: Sequence[int],
    stack: lanes.Lanes,
    data: Dataset,
    step: int,
    seconds: dict[str, float],
) -> None:
    """The final report of the runs that are over: full evaluations on training and test data."""
    if len(done) < len(active):
        stack, _ = _settled([active[i] for i in done], stack.select(done), data, epoch=0)
    started = time.perf_counter()
    train_loss, train_acc = stack.evaluate(data.train_x, data.train_y)
    test_loss, test_acc = stack.evaluate(data.test_x, data.test_y)
    seconds["evaluate"] += time.perf_counter() - started
    for lane, i in enumerate(done):
        run = active[i]
        records.append_evaluated(run.spec.folder, step, run.spec["epochs"], None, run.evaluation)
        finite = np.isfinite(run.evaluation[0]) and bool(train_loss[lane].isfinite())
        if finite:
            run.summary |= {
                "train_loss": float(train_loss[lane]),
                "train_acc": float(train_acc[lane]),
                "val_loss": run.evaluation[0],
                "val_acc": run.evaluation[1],
                "test_loss": float(test_loss[lane]),
                "test_acc": float(test_acc[lane]),
            }
            if run.spec["save_model"]:
                torch.save(stack.state_dict(lane), records.model_file(run.spec.folder))
        _end(run, "finished" if finite else "diverged", None if finite else step, seconds)


# --- records and display --------------------------------------------------------------------------


def _start(
    spec: RunSpec, row: int, stack: lanes.Lanes, steps_per_epoch: int, data: Dataset
) -> _Run:
    steps = spec["epochs"] * steps_per_epoch
    summary = plan.summary(spec) | {
        "state": "running",
        "parameters": sum(t[0].numel() for t in stack.params.values()),
        "steps": steps,
        "steps_per_epoch": steps_per_epoch,
        "num_classes": data.num_classes,
        "chance_loss": losses.chance_loss(stack.loss, data.num_classes),
        "data_sha256": data.sha256,
        "environment": environment.describe(spec.device),
        "timing": {"started": datetime.now(UTC).isoformat(timespec="seconds")},
    }
    return _Run(spec, row, plan.build_schedule(spec, steps_per_epoch), steps, summary)


def _log_start(
    active: Sequence[_Run],
    stack: lanes.Lanes,
    optimizer: optimizers.LaneOptimizer,
    data: Dataset,
) -> None:
    for lane, run in enumerate(active):
        run.summary["lanes"] = {"width": len(active), "lane": lane, "way": stack.way}
        records.write_summary(run.spec.folder, run.summary)
        env = run.summary["environment"]
        lines = [
            " ".join(f"{k}={v}" for k, v in run.spec.swept.items()) or "a single run",
            f"network {run.spec.choices['network']}: {run.summary['parameters']:,} parameters",
            f"data {run.spec.choices['data']}: {len(data.train_y):,} training samples, "
            f"{len(data.val_y):,} held out, {len(data.test_y):,} test",
            f"{run.steps:,} steps of {run.spec['batch_size']} samples, "
            f"{run.summary['steps_per_epoch']:,} an epoch",
            f"on {env['device']} ({env['device_name']}), {env['threads']} threads",
            f"lane {lane + 1} of {len(active)}, trained {stack.way}",
        ]
        if stack.way == "one at a time":
            lines.append("one at a time, because a stack of this network would change bits")
        if stack.way == "unmapped":
            lines.append("one at a time, because vmap does not take this network")
        if optimizer.general:
            lines.append("optimizer by the general, slower way: one torch optimizer a lane")
        records.log(run.spec.folder, "\n".join(lines))


def _evaluate(
    active: Sequence[_Run], stack: lanes.Lanes, data: Dataset, seconds: dict[str, float]
) -> list[float]:
    started = time.perf_counter()
    val_loss, val_acc = stack.evaluate(data.val_x, data.val_y)
    seconds["evaluate"] += time.perf_counter() - started
    for run, loss, accuracy in zip(active, val_loss.tolist(), val_acc.tolist(), strict=True):
        run.evaluation = (loss, accuracy)
    return val_loss.tolist()


def _record(
    active: Sequence[_Run],
    step: int,
    steps_per_epoch: int,
    lrs: np.ndarray,
    train_losses: np.ndarray,
    seconds: dict[str, float],
    update: Update,
) -> list[int]:
    """Write a segment's rows and return the lanes that go on.

    Args:
        lrs, train_losses: (count, lanes).
    """
    epoch, place = divmod(step, steps_per_epoch)
    finite = np.isfinite(train_losses)
    show = update.due()
    going = []
    for lane, run in enumerate(active):
        whole = bool(finite[:, lane].all())
        count = len(finite) if whole else int(np.argmin(finite[:, lane])) + 1
        lr, loss = lrs[:count, lane].tolist(), train_losses[:count, lane].tolist()
        first = 0
        if place == 0:
            first = 1
            records.append_evaluated(run.spec.folder, step, epoch, (lr[0], loss[0]), run.evaluation)
        steps = range(step + first, step + count)
        rows = zip(steps, [epoch] * len(steps), lr[first:], loss[first:], strict=True)
        records.append_metrics(run.spec.folder, rows)
        run.last_lr = lr[-1]
        if whole:
            going.append(lane)
            run.last_loss = float(train_losses[:, lane].mean())
            if show:
                update(
                    run.row,
                    epoch=(step + count) / steps_per_epoch,
                    step=step + count,
                    lr=lr[-1],
                    loss=run.last_loss,
                    state="training",
                )
        else:
            at = step + count - 1
            _end(run, "diverged", at, seconds)
            update(
                run.row,
                epoch=at / steps_per_epoch,
                step=at,
                lr=lr[-1],
                loss=loss[-1],
                state="diverged",
            )
    return going


def _end(run: _Run, state: str, nonfinite_step: int | None, seconds: dict[str, float]) -> None:
    run.ended = True
    run.summary["state"] = state
    run.summary["first_nonfinite_step"] = nonfinite_step
    run.summary["timing"] |= {
        # of the whole stack up to here: lanes share it
        "train_seconds": round(seconds["train"], 4),
        "evaluate_seconds": round(seconds["evaluate"], 4),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    records.write_summary(run.spec.folder, run.summary)
    where = "" if nonfinite_step is None else f" at step {nonfinite_step}: the loss is not finite"
    records.log(run.spec.folder, f"{state}{where}")
    if run.summary.get("test_loss") is not None:
        records.log(
            run.spec.folder,
            f"train loss {run.summary['train_loss']:.4f}, test loss "
            f"{run.summary['test_loss']:.4f}, test accuracy {run.summary['test_acc']:.2%}",
        )


def _show_epoch(active: Sequence[_Run], step: int, steps_per_epoch: int, update: Update) -> None:
    for run in active:
        state = run.summary["state"] if run.ended else "training"
        update(
            run.row,
            epoch=step / steps_per_epoch,
            step=step,
            lr=run.last_lr,
            loss=run.last_loss,
            accuracy=run.evaluation[1],
            state=state,
        )
