"""The training loop: a stack of lanes, step by step, in lockstep, an epoch at a time."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lrlab import records
from lrlab.config import schema
from lrlab.engine import devices, forms, python_state
from lrlab.engine.diagnostics import branch_budget, quantities
from lrlab.engine.diagnostics.meter import Meter, build_meter
from lrlab.engine.lanes import stacking
from lrlab.engine.lanes.chunks import of_each_lane
from lrlab.engine.lanes.lane_stack import Lanes
from lrlab.engine.optimizers import lane_optimizers
from lrlab.engine.optimizers.protocol import LaneOptimizer
from lrlab.engine.step.batches import gather
from lrlab.engine.step.choosing import build_step
from lrlab.engine.step.protocol import Step
from lrlab.errors import Stopped, in_a_line
from lrlab.plan import references as plan_references
from lrlab.plan.build import batch_order, build_network, build_schedule, loss_function
from lrlab.plan.references import References, references_of
from lrlab.plan.spec import RunSpec, new_summary
from lrlab.process.profiling import phase
from lrlab.training import checkpoints

if TYPE_CHECKING:
    from lrlab.data import Dataset
    from lrlab.process.progress import Update

Python = dict[str, python_state.State]  # of the network, the loss and the optimizer

_TOLD = ("train_loss", "val_loss", "test_loss", "test_acc")  # what a log says of the end
SEGMENT = 100  # steps between two looks at the losses; each look waits for the device
VAL_PARTS = 20  # of the held-out samples
TRIAL = 20  # steps of a segment that finds out how fast a number of threads is
CAPTURE_FROM = 50  # steps left; to capture one takes as long as it saves in about so many
CHECKPOINT_SECONDS = 60  # checkpoint_every=auto
# of a summary, what a checkpoint keeps
KEPT = ("initial_loss", "steps_to_target", "seconds_to_target", "timing")


@dataclass
class Run:
    """A run while it trains: what its lane needs besides its tensors.

    Attributes:
        row: its row in the display.
        steps: its length in steps; ``step`` is where it is.
        evaluation: the latest full evaluation, val_loss and val_acc; ``evaluations`` has all that
            its schedule was told.
        epoch_losses: sum and count of this epoch's mini-batch losses.
        last_values: what its schedule said of the latest step: lr, and momentum or beta1.
    """

    spec: RunSpec
    row: int
    schedule: Any
    steps: int
    summary: dict[str, Any]
    step: int = 0
    evaluation: tuple[float, float] = (float("nan"), float("nan"))
    evaluations: list[float] = field(default_factory=list)
    epoch_losses: tuple[float, int] = (0.0, 0)
    train_seconds: float = 0.0  # of its stack while it was in it: lanes share them
    evaluate_seconds: float = 0.0
    diagnose_seconds: float = 0.0
    last_values: dict[str, float] = field(default_factory=dict)
    last_loss: float = float("nan")  # the mean over the last segment, for the display
    ended: bool = False
    begun: Python = field(default_factory=dict)  # what it kept in Python before its first step
    unsaved: str = ""  # what of that has changed and cannot be saved


@dataclass
class Stack:
    """Lanes of one group at the same place of an epoch, each at an epoch of its own.

    Attributes:
        data: on the device.
        order: the epoch's samples, (steps, orders, batch); ``order_of``: (rows,) the order
            of each lane, and of the rows that pad the stack.
        references: what its losses are told in, and compared with.
        meter: what its steps are measured with, if they are.
        place: steps into the epoch.
        step: how its steps are made, if it has made any since its lanes changed.
        checkpointed: when its lanes were last saved, as time.monotonic().
    """

    key: str
    runs: list[Run]
    lanes: Lanes
    optimizer: LaneOptimizer
    data: Dataset
    steps_per_epoch: int
    references: plan_references.References
    meter: Meter | None = None
    order: Tensor = field(default_factory=lambda: torch.empty(0))
    order_of: Tensor = field(default_factory=lambda: torch.empty(0))
    place: int = 0
    step: Step | None = None
    checkpointed: float = field(default_factory=time.monotonic)


# --- the loop -------------------------------------------------------------------------------------


def train_epoch(stack: Stack, update: Update, stop: Callable[[], bool]) -> None:
    """Train a stack to the end of the epoch and evaluate it.

    A lane leaves when its run is over: at its last epoch's end, or at its first non-finite loss.
    Its neighbours go on, unchanged to the bit. Each run's metrics, summary and log are written as
    it goes.

    Args:
        update: reports to the display.
        stop: asked at every step.

    Raises:
        Stopped: ``stop`` said so; all that was trained is recorded.
        NotWritten: a record could not be written.
    """
    spec = stack.runs[0].spec
    devices.prepare(spec.device, spec["threads"], _precision(spec))
    if stack.place == 0:
        take_order(stack)
    while stack.place < stack.steps_per_epoch:
        count = min(longest_segment(stack), stack.steps_per_epoch - stack.place)
        segment = train_steps(
            stack, _schedule_values(stack.runs, count), stop, partial(_show_step, stack, update)
        )
        going = _record(stack, segment, update)
        stack.place += len(segment.losses)
        if len(going) < len(stack.runs):
            keep(stack, going)
        if not stack.runs:
            return
        if stack.place < stack.steps_per_epoch:
            if stop():
                raise Stopped
            if _checkpoint_due(stack, at_boundary=False):
                checkpoint(stack)

    stack.place = 0
    _evaluate(stack)
    for run in stack.runs:
        run.schedule.observe(run.evaluation[0])
        run.evaluations.append(run.evaluation[0])
    done = [lane for lane, run in enumerate(stack.runs) if run.step == run.steps]
    if done:
        _finish(stack, done)
    _show_epoch(stack, update)
    keep(stack, [lane for lane in range(len(stack.runs)) if lane not in done])


@dataclass(frozen=True)
class Segment:
    """Some steps of a stack, as they went.

    Attributes:
        schedule_values: name to (steps, lanes), see ``_schedule_values``.
        losses: (steps, lanes), of the mini-batch before each update, in the targets' own units.
        measured: place in the segment to what was measured there, (lanes, 7), see
            ``diagnostics.table``, and what was measured of each lane, (lanes,) int; 0: nothing.
        seconds: of wall time, without those of measuring.
    """

    schedule_values: dict[str, np.ndarray]
    losses: np.ndarray
    measured: dict[int, tuple[np.ndarray, np.ndarray]]
    seconds: float
    diagnose_seconds: float


@phase("steps")
def train_steps(
    stack: Stack,
    schedule_values: dict[str, np.ndarray],
    stop: Callable[[], bool],
    tell: Callable[[int], None] = lambda made: None,
) -> Segment:
    """Make the next steps of a stack, in the epoch that it is in.

    Args:
        schedule_values: name to (steps, lanes), with ``lr``.
        stop: asked at every step; the segment ends behind the step at which it says so.
        tell: hears at every step how many were made before it.
    """
    count = len(schedule_values["lr"])
    first_steps = [run.step for run in stack.runs]
    started, spent = time.perf_counter(), 0.0
    if stack.optimizer.general:
        stack.optimizer.seeds = stack.lanes.seeds
    coefficients = stack.optimizer.coefficients(schedule_values, np.array(first_steps))
    step = _step(stack)
    step.begin(stack.order[stack.place : stack.place + count], first_steps, coefficients)
    meter, due, raw = stack.meter, _due(stack, first_steps, count), {}
    for i in range(count):
        losses, gradients = step.gradients(i)
        tell(i)
        if meter and i in due:
            paused = time.perf_counter()
            meter.before(stack.lanes)
            spent += time.perf_counter() - paused
        step.update(i)
        if meter and i in due:
            paused = time.perf_counter()
            divisor = stack.optimizer.preconditioner(coefficients, i)
            raw[i] = meter.after(
                stack.lanes, losses, gradients, step.batch, first_steps, i, due[i], divisor
            )
            spent += time.perf_counter() - paused
        if stop():
            count = i + 1
            break

    train_losses = step.losses[:count].cpu().numpy()  # waits for the device
    with np.errstate(over="ignore"):
        train_losses = train_losses * stack.references.unit
    measured = {}
    if raw:
        scale = stack.optimizer.stability_scale(schedule_values, np.array(first_steps))
        for i, tensor in raw.items():
            measured[i] = (quantities.table(tensor.cpu().numpy(), scale[i]), due[i])
    seconds = time.perf_counter() - started - spent
    step.end(seconds / count)
    values = {name: table[:count] for name, table in schedule_values.items()}
    return Segment(values, train_losses, measured, seconds, spent)


def _due(stack: Stack, first_steps: Sequence[int], count: int) -> dict[int, np.ndarray]:
    if stack.meter is None:
        return {}
    steps = [run.steps for run in stack.runs]
    return stack.meter.due(first_steps, count, steps, stack.steps_per_epoch)


@phase("order")
def take_order(stack: Stack) -> None:
    """Put in place the samples of the epoch that each lane is in, or begins."""
    samples, batch_size = len(stack.data.train_y), stack.runs[0].spec["batch_size"]
    steps, device = stack.steps_per_epoch, stack.data.train_y.device
    keys = [(run.spec["seed"], run.step // steps) for run in stack.runs]
    distinct = list(dict.fromkeys(keys))
    batches = [
        batch_order(*key, samples)[: steps * batch_size].reshape(steps, -1) for key in distinct
    ]
    stack.order = torch.from_numpy(np.stack(batches, axis=1)).to(device)
    padding = [0] * max(stack.lanes.pad - len(keys), 0)
    stack.order_of = torch.tensor([distinct.index(key) for key in keys] + padding).to(device)


def longest_segment(stack: Stack) -> int:
    """In steps. A GPU works ahead of Python, so nothing waits for it before the epoch's end."""
    if stack.data.train_y.is_cuda:
        return stack.steps_per_epoch
    return TRIAL if stack.step is not None and stack.step.on_trial else SEGMENT


def _step(stack: Stack) -> Step:
    """How the stack makes its steps; made anew where its lanes or their orders are others."""
    if stack.step is not None and stack.place == 0 and not stack.step.holds():
        stack.step = None
    if stack.step is None:
        spec, left = stack.runs[0].spec, max(run.steps - run.step for run in stack.runs)
        stack.step = build_step(
            stack.lanes,
            stack.optimizer,
            stack.data,
            stack.order[stack.place :],
            stack.order_of,
            longest_segment(stack),
            captured=left >= CAPTURE_FROM and spec.config.get("capture", True),
            any_threads=spec["threads"] is None,
        )
    return stack.step


def _schedule_values(runs: Sequence[Run], count: int) -> dict[str, np.ndarray]:
    """Name to (count, lanes) float64; NaN where a lane's schedule leaves that number alone."""
    tables = [run.schedule.values(run.step, count) for run in runs]
    unmoved = np.full(count, np.nan)
    names = dict.fromkeys(name for table in tables for name in table)
    return {n: np.stack([t.get(n, unmoved) for t in tables], axis=1) for n in names}


# --- lanes that come and leave --------------------------------------------------------------------


def build(
    key: str,
    specs: Sequence[RunSpec],
    rows: Sequence[int],
    data: Dataset,
    ways: dict[tuple[int, bool], str],
    pad: int = 0,
) -> list[Stack]:
    """Stacks of runs that start, or go on from their checkpoints; those at one place together.

    Args:
        specs: runs of one ``plan.group_key``, whose folders exist.
        rows: each run's row in the display.
        data: on the device.
        ways: what is known of this group, as ``lanes.Lanes.ways``.
        pad: as for ``lanes.Lanes``.

    Raises:
        NotWritten: a record could not be written.
        Exception: whatever building or evaluating the networks raises.
    """
    steps_per_epoch = len(data.train_y) // specs[0]["batch_size"]
    given = (key, specs, rows, data, ways, pad)
    saved = [checkpoints.load(spec.folder) for spec in specs]
    places = [0 if state is None else state["step"] % steps_per_epoch for state in saved]
    found = []
    for place in dict.fromkeys(places):
        chosen = [i for i, other in enumerate(places) if other == place]
        chosen_specs, chosen_rows = [specs[i] for i in chosen], [rows[i] for i in chosen]
        stack = build_stack(key, chosen_specs, chosen_rows, data, ways, pad)
        stack.place = place
        unfit = _restore(stack, [saved[i] for i in chosen])
        if unfit:  # damaged, or of a network that was another then: those are trained anew
            for lane, reason in unfit.items():
                folder = chosen_specs[lane].folder
                checkpoints.drop(folder)
                records.log(folder, f"is trained anew: its checkpoint does not fit ({reason})")
            return build(*given)
        found.append(stack)
    return found


def build_stack(
    key: str,
    specs: Sequence[RunSpec],
    rows: Sequence[int],
    data: Dataset,
    ways: dict[tuple[int, bool], str],
    pad: int = 0,
) -> Stack:
    """A stack of runs before their first step; the arguments are those of ``build``."""
    device = specs[0].device
    steps_per_epoch = len(data.train_y) // specs[0]["batch_size"]
    devices.prepare(device, specs[0]["threads"], _precision(specs[0]))
    networks = [build_network(spec, data) for spec in specs]
    references = references_of(specs[0], data, networks[0])
    loss = loss_function(specs[0])
    seeds = [spec["seed"] for spec in specs]
    stacked = stacking.stack(networks, seeds, loss, device, ways, pad, _precision(specs[0]))
    optimizer = lane_optimizers.build(
        [{**spec["optimizer"], "lr": spec["lr"]} for spec in specs],
        list(stacked.params.values()),
        stacked.units,
    )
    runs = [
        _start(spec, row, stacked, steps_per_epoch, data, references)
        for spec, row in zip(specs, rows, strict=True)
    ]
    for run, border in zip(runs, _swings_from(runs, optimizer), strict=True):
        run.summary["swings_from"] = border
    _begin(runs, stacked, optimizer)
    mode, size = schema.diagnostics(specs[0].config), specs[0]["batch_size"]
    meter = build_meter(mode, stacked, data, size)
    stack = Stack(key, runs, stacked, optimizer, data, steps_per_epoch, references, meter)
    _settle(stack)
    return stack


def _begin(runs: Sequence[Run], stacked: Lanes, optimizer: LaneOptimizer) -> None:
    """Note what each run keeps in Python; runs that begin alike share the note."""
    notes: list[Python] = []
    for lane, run in enumerate(runs):
        now = _python(stacked, optimizer, lane)
        alike = (note for note in notes if not _changes(note, now))
        run.begun = next(alike, now)
        if run.begun is now:
            notes.append(now)


def _python(stacked: Lanes, optimizer: LaneOptimizer, lane: int) -> Python:
    network, loss = stacked.python(lane)
    own = optimizer.torch_optimizer(lane)  # of one that lrlab does not know
    rule = {} if own is None else python_state.of(own)
    return {"network": network, "loss": loss, "optimizer": rule}


def _changes(before: Python, now: Python) -> Python:
    found = {name: python_state.changes(before[name], now[name]) for name in now}
    return {name: state for name, state in found.items() if state}


def changed_python(stack: Stack, lane: int) -> Python:
    """What a lane's network, loss and optimizer keep in Python that was another at the start."""
    return _changes(stack.runs[lane].begun, _python(stack.lanes, stack.optimizer, lane))


def _saved(python: Python) -> Python:
    return {name: python_state.saved(kept) for name, kept in python.items()}


def load_python(stack: Stack, lane: int, state: Python) -> None:
    """Put what ``changed_python`` gave into a lane.

    Raises:
        forms.Unfit: it does not belong there.
    """
    try:
        stack.lanes.load_python(lane, state.get("network", {}), state.get("loss", {}))
        if state.get("optimizer"):
            own = stack.optimizer.torch_optimizer(lane)
            if own is None:
                raise forms.Unfit("it is of another optimizer")
            python_state.put_back(own, state["optimizer"])
    except Exception as error:  # whatever a file from elsewhere makes of it
        raise forms.Unfit(str(error)) from error


def _precision(spec: RunSpec) -> str:
    return spec.config.get("precision", "float32")


def _restore(stack: Stack, saved: Sequence[Mapping[str, Any] | None]) -> dict[int, str]:
    """Put each lane where its checkpoint left it; one without is evaluated at its start.

    Returns:
        Why not, of each lane whose checkpoint does not belong there; then the stack is of no use.
    """
    unfit: dict[int, str] = {}
    for lane, state in enumerate(saved):
        if state is None:
            continue
        try:
            _put_back(stack, lane, state)
        except (MemoryError, torch.OutOfMemoryError):
            raise  # no fault of the checkpoint's
        except Exception as error:  # whatever a damaged file, or one from elsewhere, makes of it
            unfit[lane] = in_a_line(f"{type(error).__name__}: {error}")
    if unfit:
        return unfit
    for run, state in zip(stack.runs, saved, strict=True):
        if state is None:
            records.start_metrics(run.spec.folder)
            continue
        records.cut_diagnostics(run.spec.folder, state["step"])
        records.log(run.spec.folder, f"goes on from its checkpoint at step {run.step}")
    if any(state is None for state in saved):
        evaluations = [run.evaluation for run in stack.runs]
        _evaluate(stack)
        for run, evaluation, state in zip(stack.runs, evaluations, saved, strict=True):
            if state is None:
                run.summary["initial_loss"] = run.evaluation[0]
                _reach_target(run)
            else:
                run.evaluation = evaluation
    take_order(stack)
    return unfit


def _put_back(stack: Stack, lane: int, state: Mapping[str, Any]) -> None:
    """Put a lane where its checkpoint left it.

    Raises:
        Exception: of any kind, where it does not belong there.
    """
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
    if try_out := getattr(stack.optimizer, "try_out", None):  # of one that lrlab does not know
        try_out(lane, state["optimizer"], state.get("python", {}).get("optimizer") or {})
    for val_loss in evaluations:
        run.schedule.observe(val_loss)
    run.step, run.evaluation, run.evaluations = state["step"], (loss, accuracy), evaluations
    run.epoch_losses = (float(total), int(count))
    run.train_seconds, run.evaluate_seconds, run.diagnose_seconds = seconds
    run.summary |= kept


def merge(stack: Stack, other: Stack) -> None:
    """Take the lanes of a stack of the same group in, both at an epoch's start."""
    stack.lanes = stack.lanes.join(other.lanes)
    stack.optimizer.join(other.optimizer, list(stack.lanes.params.values()), stack.lanes.units)
    if stack.meter and other.meter:
        stack.meter.join(other.meter)
    stack.runs += other.runs
    _settle(stack)


def _settle(stack: Stack) -> None:
    """Choose the fastest way that keeps each lane's bits, and put the epoch's order in place."""
    take_order(stack)
    stack.step = None
    batch = gather(stack.data, stack.order[0], stack.order_of, bool(stack.lanes.pad))
    stack.lanes.settle(*batch, *_evaluated(stack.data))


def _evaluated(data: Dataset) -> list[tuple[Tensor, Tensor]]:
    """All samples and targets that runs on this data are evaluated on."""
    whole = [(data.val_x, data.val_y), (data.train_x, data.train_y), (data.test_x, data.test_y)]
    return [pair for pair in (*whole, *_parts(data)) if len(pair[1])]


def keep(stack: Stack, going: Sequence[int]) -> None:
    """Cut the stack, and the optimizer with it, down to the lanes that go on."""
    if len(going) == len(stack.runs):
        return
    stack.runs = [stack.runs[lane] for lane in going]
    if not stack.runs:
        return
    stack.lanes = stack.lanes.select(going)
    stack.meter = stack.meter and stack.meter.select(going)
    stack.optimizer.keep(
        torch.tensor(list(going)), list(stack.lanes.params.values()), stack.lanes.units
    )
    _settle(stack)


def split(stack: Stack, leaving: Sequence[int]) -> Stack:
    """Take lanes out into a stack of their own; the others stay."""
    optimizer = copy.copy(stack.optimizer)
    selected = stack.lanes.select(leaving)
    optimizer.keep(torch.tensor(list(leaving)), list(selected.params.values()), selected.units)
    runs = [stack.runs[lane] for lane in leaving]
    meter = stack.meter and stack.meter.select(leaving)
    other = dataclasses.replace(stack, runs=runs, lanes=selected, optimizer=optimizer, meter=meter)
    _settle(other)
    keep(stack, [lane for lane in range(len(stack.runs)) if lane not in leaving])
    return other


def prune(stack: Stack, pruned: set[int], update: Update) -> None:
    """Let runs that are not worth their time leave, at an epoch's end. Their curves are kept.

    Args:
        pruned: run numbers; those that are not in this stack do not matter.
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
        _end(run, "pruned", f"pruned after epoch {epoch}: val loss {run.evaluation[0]:.4f}")
        update(run.row, state="pruned")
    keep(stack, going)


@phase("final evaluation")
def _finish(stack: Stack, done: Sequence[int]) -> None:
    """The final report of the runs that are over: full evaluations on training and test data."""
    data, finished = stack.data, stack.lanes
    if len(done) < len(stack.runs):
        x, y = gather(data, stack.order[0], stack.order_of, bool(stack.lanes.pad))
        own = of_each_lane(y)
        finished = finished.select(done)
        finished.settle(x[done] if own else x, y[done] if own else y, *_evaluated(data))
    started = time.perf_counter()
    train_loss, train_acc = _scores(stack, finished, data.train_x, data.train_y)
    test_loss = test_acc = torch.full_like(train_loss, torch.nan)
    if len(data.test_y):
        test_loss, test_acc = _scores(stack, finished, data.test_x, data.test_y)
    val_parts = _val_parts(stack, finished)
    seconds = time.perf_counter() - started
    for i, lane in enumerate(done):
        run = stack.runs[lane]
        run.evaluate_seconds += seconds
        epochs = run.spec["epochs"]
        records.append_evaluated(run.spec.folder, run.step, epochs, None, run.evaluation)
        finite = np.isfinite(run.evaluation[0]) and bool(train_loss[i].isfinite())
        if not finite:
            _diverge(run, run.step)
            continue
        run.summary |= {
            "train_loss": float(train_loss[i]),
            "train_acc": float(train_acc[i]),
            "val_loss": run.evaluation[0],
            "val_acc": run.evaluation[1],
            "test_loss": float(test_loss[i]),
            "test_acc": float(test_acc[i]),
            "val_parts": [float(part[i]) for part in val_parts],
        }
        _keep_end(stack, lane)
        if run.spec["save_model"]:
            checkpoints.write(records.model_file(run.spec.folder), finished.state_dict(i))
        line = "finished\n" + ", ".join(_told(run.summary, _TOLD))
        if stack.optimizer.moved(lane):
            rates = dict.fromkeys(f"{rate:g}" for rate in stack.optimizer.rates(lane))
            line += f"\nthe optimizer moved its lr itself, to {', '.join(rates)} times the recorded"
        _end(run, "finished", line)


def _val_parts(stack: Stack, finished: Lanes) -> list[Tensor]:
    """The val losses, (lanes,) each, on parts of the held-out samples that have none in common.

    How much the differences of two runs' parts vary says how far the difference of their val losses
    can be trusted. Part k of n is every n-th sample from the k-th on. It leaves no trace.
    """
    with finished.rehearsal():
        return [_scores(stack, finished, x, y)[0] for x, y in _parts(stack.data)]


def _parts(data: Dataset) -> list[tuple[Tensor, Tensor]]:
    """The parts of the held-out samples; none where there are too few."""
    count = min(VAL_PARTS, len(data.val_y) // 2)
    if count < 2:
        return []
    return [(data.val_x[k::count], data.val_y[k::count]) for k in range(count)]


def _scores(stack: Stack, of: Lanes, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Losses and accuracies, (lanes,) each, of lanes of this stack; see ``Lanes.evaluate``."""
    references = stack.references
    loss, accuracy = of.evaluate(x, y, stack.data.num_classes, references.logit)
    return loss * references.unit, accuracy


def _told(summary: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    """The results that there are, in words."""
    for name in names:
        if not np.isnan(value := summary[name]):
            share = name.endswith("_acc")
            words = name.replace("_acc", " accuracy").replace("_", " ")
            yield f"{words} {value:.2%}" if share else f"{words} {value:.4f}"


def _keep_end(stack: Stack, lane: int) -> None:
    """Write a finished run's state for its branch test, if it has one when the sweep ends."""
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
        "python": _saved(python),
        "values": run.last_values,
    }
    checkpoints.write(records.end_file(run.spec.folder), state)


# --- records and display --------------------------------------------------------------------------


def _start(
    spec: RunSpec,
    row: int,
    stack: Lanes,
    steps_per_epoch: int,
    data: Dataset,
    references: References,
) -> Run:
    steps = spec["epochs"] * steps_per_epoch
    summary = new_summary(spec) | {
        "state": "running",
        "parameters": sum(t[0].numel() for t in stack.params.values()),
        "steps": steps,
        "steps_per_epoch": steps_per_epoch,
        "num_classes": data.num_classes,
        "chance_loss": references.chance_loss,
        "majority_share": references.majority_share,
        "data_sha256": data.sha256,
        **_of_targets(data),
        "environment": devices.describe(spec.device),
        "timing": {"started": datetime.now(UTC).isoformat(timespec="seconds")},
    }
    return Run(spec, row, build_schedule(spec, steps_per_epoch), steps, summary)


def _of_targets(data: Dataset) -> dict[str, Any]:
    """What gives a prediction of standardised targets in their own units."""
    if not data.target_mean:
        return {}
    return {"target_mean": list(data.target_mean), "target_std": data.target_std}


def _swings_from(runs: Sequence[Run], optimizer: LaneOptimizer) -> list[float | None]:
    """The stability ratio from which on each run's steps swing; None where no rule is known.

    Of a momentum that its schedule moves, the median over the run counts.
    """
    values = {"lr": np.ones((1, len(runs)))}
    for lane, run in enumerate(runs):
        if run.schedule.closed_loop:  # it moves the lr alone
            continue
        for name, column in run.schedule.values(0, run.steps).items():
            if name != "lr":
                row = values.setdefault(name, np.full((1, len(runs)), np.nan))
                row[0, lane] = np.median(column)
    borders = optimizer.swings_from(values, np.zeros(len(runs), int))[0]
    return [float(border) if np.isfinite(border) else None for border in borders]


def log_start(stack: Stack, run: Run) -> None:
    """Say in the run's records that it trains, what and where."""
    lane, width, way, data = stack.runs.index(run), len(stack.runs), stack.lanes.way, stack.data
    run.summary["lanes"] = {"width": width, "lane": lane, "way": way, "pad": stack.lanes.pad}
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
        f"lane {lane + 1} of {width}, trained {way}",
    ]
    if way == "one at a time":
        lines.append("one at a time, because together they would be slower or change bits")
    if way == "unmapped":
        lines.append("one at a time, because vmap does not take this network")
    if stack.optimizer.general:
        lines.append("optimizer by the general, slower way: one torch optimizer a lane")
    rates = dict.fromkeys(f"{rate:g}" for rate in stack.optimizer.rates(lane))
    if list(rates) != ["1"]:
        lines.append(f"parameter groups at {', '.join(rates)} times lr")
    records.log(run.spec.folder, "\n".join(lines))


@phase("evaluate")
def _evaluate(stack: Stack) -> None:
    started = time.perf_counter()
    val_loss, val_acc = _scores(stack, stack.lanes, stack.data.val_x, stack.data.val_y)
    seconds = time.perf_counter() - started
    for run, loss, accuracy in zip(stack.runs, val_loss.tolist(), val_acc.tolist(), strict=True):
        run.evaluation = (loss, accuracy)
        run.evaluate_seconds += seconds
        _reach_target(run)


def _reach_target(run: Run) -> None:
    """Note the first evaluation that is as good as ``target``."""
    target = run.spec.config.get("target")
    if target is None or run.summary.get("steps_to_target") is not None:
        return
    if run.evaluation[0] <= target:
        run.summary["steps_to_target"] = run.step
        run.summary["seconds_to_target"] = round(run.train_seconds, 4)


@phase("record")
def _record(stack: Stack, segment: Segment, update: Update) -> list[int]:
    """Write a segment's rows, move the runs on, and return the lanes that go on."""
    finite = np.isfinite(segment.losses)
    show = update.due()
    going = []
    for lane, run in enumerate(stack.runs):
        epoch, place = divmod(run.step, stack.steps_per_epoch)
        whole = bool(finite[:, lane].all())
        count = len(finite) if whole else int(np.argmin(finite[:, lane])) + 1
        lr = segment.schedule_values["lr"][:count, lane].tolist()
        loss = segment.losses[:count, lane].tolist()
        first = 0
        if place == 0:
            first = 1
            run.epoch_losses = (0.0, 0)
            evaluated = (run.spec.folder, run.step, epoch, (lr[0], loss[0]), run.evaluation)
            records.append_evaluated(*evaluated)
        steps = range(run.step + first, run.step + count)
        rows = zip(steps, [epoch] * len(steps), lr[first:], loss[first:], strict=True)
        records.append_metrics(run.spec.folder, rows)
        records.append_diagnostics(
            run.spec.folder,
            [
                (run.step + i, *numbers[lane].tolist())
                for i, (numbers, due) in segment.measured.items()
                if i < count and due[lane]
            ],
        )
        run.train_seconds += segment.seconds
        run.diagnose_seconds += segment.diagnose_seconds
        run.last_values = {
            name: float(values[count - 1, lane]) for name, values in segment.schedule_values.items()
        }
        if whole:
            going.append(lane)
            run.step += count
            # one by one, so that the sum does not hang on where the segments were cut
            total = np.cumsum([run.epoch_losses[0], *loss])[-1]
            run.epoch_losses = (float(total), run.epoch_losses[1] + count)
            run.last_loss = sum(loss) / count
            if show:
                update(
                    run.row,
                    epoch=run.step / stack.steps_per_epoch,
                    step=run.step,
                    lr=lr[-1],
                    loss=run.last_loss,
                    state="training",
                )
        else:
            run.step += count - 1
            _diverge(run, run.step)
            update(
                run.row,
                epoch=run.step / stack.steps_per_epoch,
                step=run.step,
                lr=lr[-1],
                loss=loss[-1],
                state="diverged",
            )
    return going


def _diverge(run: Run, step: int) -> None:
    run.summary["first_nonfinite_step"] = step
    _end(run, "diverged", f"diverged at step {step}: the loss is not finite")


def _end(run: Run, state: str, line: str) -> None:
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


def _show_step(stack: Stack, update: Update, made: int) -> None:
    """Show how far a segment is, so that slow steps show that they are made; fetches no loss."""
    if update.due():
        for run in stack.runs:
            step = run.step + made
            update(run.row, epoch=step / stack.steps_per_epoch, step=step, state="training")


def _show_epoch(stack: Stack, update: Update) -> None:
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


# --- checkpoints ----------------------------------------------------------------------------------


def checkpoint_at_boundary(stack: Stack) -> None:
    """Save the stack's lanes at an epoch's end, if ``checkpoint_every`` asks for it now."""
    if _checkpoint_due(stack, at_boundary=True):
        checkpoint(stack)


def _checkpoint_due(stack: Stack, at_boundary: bool) -> bool:
    every = stack.runs[0].spec.config.get("checkpoint_every")
    if every == "auto":
        return time.monotonic() - stack.checkpointed > CHECKPOINT_SECONDS
    if every is None or not at_boundary:
        return False
    return any(run.step // stack.steps_per_epoch % every == 0 for run in stack.runs)


@phase("checkpoint")
def checkpoint(stack: Stack) -> None:
    """Save all lanes of the stack as they are.

    Raises:
        NotWritten: no room, or no right, to write it.
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
            "python": _saved(python),
            "evaluation": list(run.evaluation),
            "evaluations": run.evaluations,
            "epoch_losses": list(run.epoch_losses),
            "seconds": [run.train_seconds, run.evaluate_seconds, run.diagnose_seconds],
            "curvature": stack.meter.state(lane) if stack.meter else [],
            "summary": {key: run.summary[key] for key in KEPT if key in run.summary},
        }
        checkpoints.save(run.spec.folder, state)
    stack.checkpointed = time.monotonic()


def _unsaved(run: Run, python: Python) -> bool:
    """Whether some of it cannot be saved; the first time a run's log says so."""
    found = [key for kept in python.values() for key in python_state.unsaved(kept)]
    if found and not run.unsaved:
        run.unsaved = ", ".join(found[:3])
        records.log(run.spec.folder, unsaved_line(run.unsaved))
    return bool(found)


def unsaved_line(names: str) -> str:
    """That what a run keeps in Python is in no checkpoint, and what would be."""
    return (
        f"{names} changes in training and cannot be saved: no checkpoint is written, and a resumed "
        "run is trained anew; keep numbers, tensors, lists, dicts or random generators, or return "
        "them from get_extra_state"
    )


def interrupt(stack: Stack) -> None:
    """Say in the records of all runs of the stack that they were interrupted, and where."""
    every = stack.runs[0].spec.config.get("checkpoint_every")
    if every is not None:
        checkpoint(stack)
    for run in stack.runs:
        records.write_summary(run.spec.folder, run.summary | {"state": "interrupted"})
        records.log(run.spec.folder, f"interrupted at step {run.step}")
