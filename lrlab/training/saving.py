"""Save a stack's lanes so that they can go on later, and put them back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lrlab import records
from lrlab.config import schema
from lrlab.engine import forms, python_state
from lrlab.engine.diagnostics import branch_budget
from lrlab.engine.lanes.lane_stack import Lanes
from lrlab.engine.optimizers.protocol import LaneOptimizer
from lrlab.errors import in_a_line
from lrlab.process.profiling import phase
from lrlab.training import checkpoints
from lrlab.training.evaluation import evaluate, reach_target
from lrlab.training.stack import Python, Run, Stack

CHECKPOINT_SECONDS = 60  # checkpoint_every=auto
# the part of a summary that a checkpoint keeps
KEPT = ("initial_loss", "steps_to_target", "seconds_to_target", "timing")


def restore(stack: Stack, saved: Sequence[Mapping[str, Any] | None]) -> dict[int, str]:
    """Put each lane back where its checkpoint left it; evaluate one without a checkpoint.

    Returns:
        The reason for each lane whose checkpoint does not belong there; then the stack is useless.
    """
    unfit: dict[int, str] = {}
    for lane, state in enumerate(saved):
        if state is None:
            continue
        try:
            _put_back(stack, lane, state)
        except (MemoryError, torch.OutOfMemoryError):
            raise  # not the checkpoint's fault
        except Exception as error:  # any error that a damaged or foreign file causes
            unfit[lane] = in_a_line(f"{type(error).__name__}: {error}")
    if unfit:
        return unfit
    for run, state in zip(stack.runs, saved, strict=True):
        if state is None:
            records.start_metrics(run.spec.folder, run.spec.config.get("ema") is not None)
            continue
        records.cut_diagnostics(run.spec.folder, state["step"])
        records.log(run.spec.folder, f"goes on from its checkpoint at step {run.step}")
    if any(state is None for state in saved):
        evaluations = [(run.evaluation, run.averaged) for run in stack.runs]
        evaluate(stack)
        for run, before, state in zip(stack.runs, evaluations, saved, strict=True):
            if state is None:
                run.summary["initial_loss"] = run.evaluation[0]
                reach_target(run)
            else:
                run.evaluation, run.averaged = before
    stack.take_order()
    return unfit


def _put_back(stack: Stack, lane: int, state: Mapping[str, Any]) -> None:
    """Put a lane back where its checkpoint left it; raise any exception if it does not fit."""
    run = stack.runs[lane]
    loss, accuracy = map(float, state["evaluation"])
    evaluations = [float(each) for each in state["evaluations"]]
    total, count = state["epoch_losses"]
    seconds = [float(each) for each in [*state["seconds"], 0.0][:3]]
    kept = {key: state["summary"][key] for key in KEPT if key in state["summary"]}
    if state["step"] > run.steps:
        raise forms.Unfit(f"step {state['step']} of {run.steps}")
    if stack.meter and state.get("curvature"):
        stack.meter.load(lane, state["curvature"])
    stack.lanes.load(lane, state["tensors"])
    stack.optimizer.load(lane, state["optimizer"])
    load_python(stack, lane, state.get("python", {}))
    if try_out := getattr(stack.optimizer, "try_out", None):  # one that lrlab does not know
        try_out(lane, state["optimizer"], state.get("python", {}).get("optimizer") or {})
    for val_loss in evaluations:
        run.schedule.observe(val_loss)
    stack.put(lane, state["step"])
    run.evaluation, run.evaluations = (loss, accuracy), evaluations
    if averaged := state.get("averaged"):
        run.averaged = (float(averaged[0]), float(averaged[1]))
    run.epoch_losses = (float(total), int(count))
    run.train_seconds, run.evaluate_seconds, run.diagnose_seconds = seconds
    run.summary |= kept


def keep_end(stack: Stack, lane: int) -> None:
    """Write a finished run's state for its branch test, if it gets one at the sweep's end."""
    run = stack.runs[lane]
    mode = schema.diagnostics(run.spec.config)
    annealed = branch_budget.is_annealed(run.last_values.get("lr", np.nan), run.spec["lr"])
    if not branch_budget.branch_steps(mode, run.steps, annealed):
        if mode != "off" and not annealed:
            records.log(run.spec.folder, branch_budget.no_branches(run.steps))
        return
    python = changed_python(stack, lane)
    state = {
        "step": run.step,
        "tensors": stack.lanes.state(lane),
        "optimizer": stack.optimizer.state(lane),
        "python": _saved_python(python),
        "values": run.last_values,
    }
    checkpoints.write(records.end_file(run.spec.folder), state)


def checkpoint_if_due(stack: Stack) -> None:
    """Save the stack's lanes if ``checkpoint_every`` says so."""
    every = stack.runs[0].spec.config.get("checkpoint_every")
    if every == "auto":
        due = time.monotonic() - stack.checkpointed > CHECKPOINT_SECONDS
    else:
        epochs = [run.step // stack.steps_per_epoch for run in stack.runs]
        due = every and stack.place == 0 and any(epoch % every == 0 for epoch in epochs)
    if due:
        checkpoint(stack)


@phase("checkpoint")
def checkpoint(stack: Stack) -> None:
    """Save all lanes of the stack.

    Raises:
        NotWritten: there is no space, or no permission.
    """
    for lane, run in enumerate(stack.runs):
        python = changed_python(stack, lane)
        if _unsaved(run, python):
            checkpoints.drop(run.spec.folder)
            continue
        state = {
            "step": run.step,
            "tensors": stack.lanes.state(lane),
            "optimizer": stack.optimizer.state(lane),
            "python": _saved_python(python),
            "evaluation": list(run.evaluation),
            "averaged": list(run.averaged or ()),
            "evaluations": run.evaluations,
            "epoch_losses": list(run.epoch_losses),
            "seconds": [run.train_seconds, run.evaluate_seconds, run.diagnose_seconds],
            "curvature": stack.meter.state(lane) if stack.meter else [],
            "summary": {key: run.summary[key] for key in KEPT if key in run.summary},
        }
        checkpoints.write(records.checkpoint_file(run.spec.folder), state)
    stack.checkpointed = time.monotonic()


def _unsaved(run: Run, python: Python) -> bool:
    """Return whether some state cannot be saved; log it the first time."""
    found = [key for kept in python.values() for key in python_state.unsaved(kept)]
    if found and not run.unsaved:
        run.unsaved = ", ".join(found[:3])
        records.log(run.spec.folder, unsaved_line(run.unsaved))
    return bool(found)


def unsaved_line(names: str) -> str:
    """Return a line: the run's Python state is in no checkpoint, and what would help."""
    return (
        f"{names} changes in training and cannot be saved: no checkpoint is written, and a resumed "
        "run is trained anew; keep numbers, tensors, lists, dicts or random generators, or return "
        "them from get_extra_state"
    )


def interrupt(stack: Stack) -> None:
    """Record in all runs of the stack that they were interrupted, and at which step."""
    if stack.runs[0].spec.config.get("checkpoint_every") is not None:
        checkpoint(stack)
    for run in stack.runs:
        records.write_summary(run.spec.folder, run.summary | {"state": "interrupted"})
        records.log(run.spec.folder, f"interrupted at step {run.step}")


# --- the Python values that a lane keeps next to its tensors --------------------------------------


def note_start(runs: Sequence[Run], stacked: Lanes, optimizer: LaneOptimizer) -> None:
    """Note the Python values that each run keeps; runs that begin alike share the note."""
    notes: list[Python] = []
    for lane, run in enumerate(runs):
        now = _kept(stacked, optimizer, lane)
        alike = (note for note in notes if not _changes(note, now))
        run.begun = next(alike, now)
        if run.begun is now:
            notes.append(now)


def _kept(stacked: Lanes, optimizer: LaneOptimizer, lane: int) -> Python:
    network, loss = stacked.python(lane)
    own = optimizer.torch_optimizer(lane)  # an optimizer that lrlab does not know
    rule = {} if own is None else python_state.of(own)
    return {"network": network, "loss": loss, "optimizer": rule}


def _changes(before: Python, now: Python) -> Python:
    found = {name: python_state.changes(before[name], now[name]) for name in now}
    return {name: state for name, state in found.items() if state}


def changed_python(stack: Stack, lane: int) -> Python:
    """Return the Python values of a lane's network, loss and optimizer that have changed."""
    return _changes(stack.runs[lane].begun, _kept(stack.lanes, stack.optimizer, lane))


def _saved_python(python: Python) -> Python:
    """Return those of the changed values that can be saved."""
    return {name: python_state.saved(kept) for name, kept in python.items()}


def load_python(stack: Stack, lane: int, state: Python) -> None:
    """Put the values from ``changed_python`` into a lane.

    Raises:
        forms.Unfit: they do not belong there.
    """
    try:
        stack.lanes.load_python(lane, state.get("network", {}), state.get("loss", {}))
        if state.get("optimizer"):
            own = stack.optimizer.torch_optimizer(lane)
            if own is None:
                raise forms.Unfit("it is of another optimizer")
            python_state.put_back(own, state["optimizer"])
    except Exception as error:  # any error that a file from elsewhere causes
        raise forms.Unfit(str(error)) from error
