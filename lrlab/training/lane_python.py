"""Note, save and put back the Python values that a lane keeps next to its tensors."""

from __future__ import annotations

from collections.abc import Sequence

from lrlab.engine import forms, python_state
from lrlab.engine.lanes.lane_stack import Lanes
from lrlab.engine.optimizers.protocol import LaneOptimizer
from lrlab.training.stack import Run, Stack

Python = dict[str, python_state.State]  # attributes of the network, the loss and the optimizer


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


def changed(stack: Stack, lane: int) -> Python:
    """Return the Python values of a lane's network, loss and optimizer that have changed."""
    return _changes(stack.runs[lane].begun, _kept(stack.lanes, stack.optimizer, lane))


def saved(python: Python) -> Python:
    """Return those of the changed values that can be saved."""
    return {name: python_state.saved(kept) for name, kept in python.items()}


def load(stack: Stack, lane: int, state: Python) -> None:
    """Put the values from ``changed`` into a lane.

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
