"""Run the branch test: would a shorter or a longer step have done better from a run's end?

From its end state each run trains on three times, on the same batches: with a tenth of its last lr,
with that lr, and with three times it. All branches of all runs train together as lanes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lrlab import records
from lrlab.config import checks, schema
from lrlab.engine import devices
from lrlab.engine.bits import same_bits
from lrlab.engine.diagnostics import branch_budget
from lrlab.errors import NotWritten, Stopped
from lrlab.plan import memory
from lrlab.plan.build import load_data
from lrlab.plan.spec import RunSpec, group_key
from lrlab.training import building, checkpoints, loop, saving
from lrlab.training.stack import Stack

MULTIPLIERS = tuple(records.MULTIPLIERS.values())

State = dict[str, Any]
Ways = dict[tuple[int, bool], str]  # as `lanes.Lanes.ways`


def test(
    specs: Sequence[RunSpec],
    width: int | None,
    stop: Callable[[], bool],
    tell: Callable[[float], None] = lambda share: None,
) -> list[int]:
    """Make the branch test of ended runs, and write each one's branches.csv.

    A run with an annealed lr has no test, nor has a run that is too short
    (`branch_budget.branch_steps`). If a test fails, the run's run.log says why.

    Args:
        specs: ended runs with a `records.end_file`.
        width: the most lanes at once; None: as many as memory holds.
        stop: asked at every step.
        tell: called at every step with the finished share of all steps of the test.

    Returns:
        The numbers of the runs whose test failed.

    Raises:
        Stopped: ``stop`` returned true; the rest can be made later.
        NotWritten: a record could not be written.
    """
    groups: dict[tuple[str, int], list[RunSpec]] = {}
    failed = []
    for spec in specs:
        state = checkpoints.read(records.end_file(spec.folder))
        if state is None or not _fits(spec, state) or not _steps(spec, state):
            records.end_file(spec.folder).unlink(missing_ok=True)
            continue
        groups.setdefault((group_key(spec), state["step"]), []).append(spec)
    total = sum(_steps_of(spec, step) for (_, step), g in groups.items() for spec in g)
    made = 0

    def count(steps: int) -> None:
        nonlocal made
        made += steps
        tell(min(made / max(total, 1), 1.0))

    for group in groups.values():
        size = _runs_at_once(group[0], width)
        ways = _ways(group[0], size * len(MULTIPLIERS))
        for start in range(0, len(group), size):
            chunk = group[start : start + size]
            states = [checkpoints.read(records.end_file(spec.folder)) for spec in chunk]
            together = [(spec, s) for spec, s in zip(chunk, states, strict=True) if s is not None]
            failed += _attempt(together, ways, stop, count)
    return failed


def cost_line(specs: Sequence[RunSpec]) -> str:
    """Return in words what the branch tests of runs cost."""
    summaries = [records.read_summary(spec.folder) for spec in specs]
    run_steps = [int(summary["steps"]) for summary in summaries]
    steps = [_steps_of(spec, count) for spec, count in zip(specs, run_steps, strict=True)]
    whole = [len(MULTIPLIERS) * count + branch_budget.BRANCH_SETUP for count in steps]
    share = sum(whole) / max(sum(run_steps), 1)
    span = f"{min(steps):,}" if min(steps) == max(steps) else f"{min(steps):,} to {max(steps):,}"
    several = "each run" if len(specs) > 1 else "the run"
    told = branch_budget.times(share)
    return (
        f"{len(MULTIPLIERS)} branches of {span} steps for {several}, about {told} its training time"
    )


def _steps_of(spec: RunSpec, steps: int) -> int:
    """Return the steps of each branch, for a run of so many steps without an annealed lr."""
    return branch_budget.branch_steps(schema.diagnostics(spec.config), steps, annealed=False)


def _fits(spec: RunSpec, state: State) -> bool:
    """Return whether the state can be an end of the run; if not, log that it has no branch test."""
    values = state.get("values")
    are_numbers = isinstance(values, dict) and all(
        isinstance(each, int | float) for each in values.values()
    )
    if are_numbers and 0 < state["step"] <= checks.MOST_STEPS:
        return True
    records.log(spec.folder, "has no branch test: its end.pt is damaged")
    return False


def _steps(spec: RunSpec, state: State) -> int:
    """Return the steps of each branch of a run with this end; 0: it has no test."""
    annealed = branch_budget.is_annealed(state["values"].get("lr", math.nan), spec["lr"])
    return 0 if annealed else _steps_of(spec, state["step"])


def _ways(spec: RunSpec, lanes: int) -> Ways:
    """Return for every number of lanes the way in which the run trained.

    Finding the fastest way for each would take a fifth of the branches' training time. Whether it
    keeps their bits, ``_keep_bits`` checks.
    """
    way = records.read_summary(spec.folder)["lanes"]["way"]
    return {(count, own): way for count in range(1, lanes + 1) for own in (False, True)}


def _runs_at_once(spec: RunSpec, width: int | None) -> int:
    if width is not None:
        return max(1, width // len(MULTIPLIERS))
    needs = memory.needs(spec)
    free = memory.budget(spec, devices.free_memory(spec.device)) - needs.data_bytes
    lanes = min(free / max(1, needs.branch), needs.fastest)
    return max(1, int(lanes / len(MULTIPLIERS)))


def _attempt(
    group: Sequence[tuple[RunSpec, State]],
    ways: Ways,
    stop: Callable[[], bool],
    count: Callable[[int], None],
) -> list[int]:
    """Test runs together, and after an error in halves, until the failing runs are alone."""
    try:
        lrs, losses = _train_on(group, ways, stop, count)
    except (Stopped, NotWritten):
        raise
    except Exception as error:
        if len(group) > 1:
            half = len(group) // 2
            halves = group[:half], group[half:]
            return [number for part in halves for number in _attempt(part, ways, stop, count)]
        spec = group[0][0]
        records.log(spec.folder, f"the branch test failed: {type(error).__name__}: {error}")
        records.end_file(spec.folder).unlink(missing_ok=True)
        return [spec.number]
    for i, (spec, state) in enumerate(group):
        steps = enumerate(losses[:, i].tolist(), start=state["step"])
        rows = [(step, float(lrs[i]), *three) for step, three in steps]
        records.write_branches(spec.folder, rows)
        records.end_file(spec.folder).unlink(missing_ok=True)
    return []


def _train_on(
    group: Sequence[tuple[RunSpec, State]],
    ways: Ways,
    stop: Callable[[], bool],
    tell: Callable[[int], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the runs' last lrs, (runs,), and their branches' mini-batch losses, (steps, runs, 3).

    A branch with a non-finite loss leaves the stack; its later losses are NaN.
    """
    branches = [(*each, multiplier) for each in group for multiplier in MULTIPLIERS]
    steps = _steps(*group[0])
    data = load_data(group[0][0]).to(group[0][0].device)
    specs = [spec for spec, _, _ in branches]
    stack = building.build_stack("", specs, range(len(specs)), data, ways, measured=False)
    for lane, (_, state, _) in enumerate(branches):
        stack.lanes.load(lane, state["tensors"])
        stack.optimizer.load(lane, state["optimizer"])
        saving.load_python(stack, lane, state.get("python", {}))
        stack.put(lane, state["step"], more=steps)

    done = 0
    losses = np.full((steps, len(branches)), np.nan)
    _keep_bits(stack, ways)
    while done < steps and stack.runs:
        if stack.place == 0:
            stack.take_order()
        count = min(stack.longest_segment(), stack.steps_per_epoch - stack.place, steps - done)
        lanes = [run.row for run in stack.runs]
        values = _values([branches[lane] for lane in lanes], count)
        segment = loop.advance(stack, values, stop, lambda i: tell(len(group)) if i else None)
        tell(len(group))
        if stop():
            raise Stopped
        losses[done : done + count, lanes] = segment.losses
        done += count
        going = np.flatnonzero(np.isfinite(segment.losses).all(axis=0)).tolist()
        if len(going) < len(stack.runs):
            stack.keep(going)
            if going:
                _keep_bits(stack, ways)
    lrs = np.array([state["values"]["lr"] for _, state in group])
    return lrs, losses.reshape(steps, len(group), len(MULTIPLIERS))


def _keep_bits(stack: Stack, ways: Ways) -> None:
    """Let branches train one at a time if together they would not have the bits that they have so.

    The run may have trained in another number of lanes, or alone: products of some networks depend
    on that number. On a GPU they do so in any case.
    """
    lanes, (x, y, own) = stack.lanes, stack.first_batch()
    if lanes.way != "together" or len(lanes) == 1 or y.is_cuda:
        return
    found = []
    for way in ("one at a time", "together"):
        lanes.way = way
        with lanes.rehearsal():
            losses, gradients = lanes.gradients(x, y, [0] * len(lanes), 0, own)
            found.append([losses, *(each for each in gradients if each is not None)])
    if not same_bits(*found):
        ways.update(dict.fromkeys(ways, "one at a time"))
        stack.settle()


def _values(branches: Sequence[tuple[RunSpec, State, float]], count: int) -> dict[str, np.ndarray]:
    """Return the schedules' last values, with lr times each multiplier, (count, lanes) each."""
    names = {name for _, state, _ in branches for name in state["values"]}
    last = {
        name: np.array([state["values"].get(name, math.nan) for _, state, _ in branches])
        for name in names
    }
    last["lr"] = last["lr"] * [multiplier for _, _, multiplier in branches]
    return {name: np.broadcast_to(v, (count, len(branches))) for name, v in last.items()}
