"""The pool decides which runs train when. Waiting runs take free places until none wait.

A *tick* is one epoch of every stack. At its end all runs report. Pruned and finished runs leave,
and waiting runs fill their places. A decision at a tick depends only on the reports up to it. So an
interrupted sweep that goes on decides the same.
"""

from __future__ import annotations

import gc
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from lrlab import records
from lrlab.engine import devices
from lrlab.errors import NotWritten, Stopped
from lrlab.plan import build, memory
from lrlab.plan.spec import RunSpec, group_key, new_summary
from lrlab.process import progress
from lrlab.training import building, recording, saving, train
from lrlab.training.stack import Stack, merge, split

if TYPE_CHECKING:
    from lrlab.data import Dataset
    from lrlab.process.progress import Update

INTERRUPTED = {"state": "interrupted"}


@dataclass(frozen=True)
class Start:
    """A run to train; its folder exists.

    Attributes:
        epochs: how many it had reported when it was interrupted. They are trained again, or read
            from its checkpoint, before it takes part; they are not reported again.
        label: distinguishes it in the display.
        alone: not in a stack with others, because one of them may have made the stack fail.
    """

    spec: RunSpec
    epochs: int = 0
    label: str = ""
    alone: bool = False


@dataclass(frozen=True)
class Report:
    """A run at an epoch's end. Losses are means over the samples; train_loss that over the
    mini-batches.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_acc: float


class Source(Protocol):
    """Where runs come from, and where they are judged.

    Attributes:
        tick: the tick to begin with.
    """

    tick: int

    def take(self, tick: int) -> Start | None:
        """Return the next run to train, or None if there is none now."""
        ...

    def report(self, reports: Mapping[int, Report]) -> set[int]:
        """Take the runs' results, by number; return the numbers of those to prune."""
        ...

    def ended(self, run: int) -> None:
        """The run has ended; its summary is final."""
        ...

    def interrupted(self, run: int) -> None:
        """The run was interrupted; its records say at which step."""
        ...

    def wait(self) -> bool:
        """Wait for a run to take, while nothing trains here; return False if none will come."""
        ...


@dataclass
class Batch:
    """A plain list of runs as a source: each trains to its end."""

    specs: Sequence[RunSpec]
    tick: int = 0

    def __post_init__(self) -> None:
        self._waiting = deque(self.specs)

    def take(self, tick: int) -> Start | None:
        return Start(self._waiting.popleft()) if self._waiting else None

    def report(self, reports: Mapping[int, Report]) -> set[int]:
        return set()

    def ended(self, run: int) -> None:
        pass

    def interrupted(self, run: int) -> None:
        pass

    def wait(self) -> bool:
        return bool(self._waiting)


@dataclass
class _Pool:
    source: Source
    update: Update
    stop: Callable[[], bool]
    width: int | None  # the most runs at once, or None: as many as memory holds and are fast
    free: int  # bytes of memory, before the first run
    rows: dict[int, int]  # the display's rows, by run number
    reported: dict[int, int] = field(default_factory=dict)  # epochs, by run number
    tick: int = 0
    stacks: list[Stack] = field(default_factory=list)
    waiting: deque[Start] = field(default_factory=deque)  # taken from the source, without a place
    keys: dict[int, str] = field(default_factory=dict)  # spec.group_key, by run number
    groups: dict[str, memory.Needs] = field(default_factory=dict)
    ways: dict[str, dict[tuple[int, bool], str]] = field(default_factory=dict)
    pads: dict[str, int] = field(default_factory=dict)  # rows of a product, by group
    data: dict[str, Dataset] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)  # groups whose unsaved state was reported


def run(
    source: Source,
    width: int | None,
    device: str,
    update: Update,
    rows: Mapping[int, int],
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train all runs of a source; mark and log those that fail, and go on.

    Args:
        width: the most runs that train at once; None: as many as memory holds and are fastest
            together.
        device: where the first runs train; its memory counts.
        rows: the display's rows of the runs that it knows; others are added to it.

    Raises:
        Stopped: ``stop`` returned true. Every run's records are written, unfinished ones are marked
            interrupted.
        NotWritten: a record could not be written.
    """
    free = devices.free_memory(device)
    pool = _Pool(source, update, stop, width, free, dict(rows), tick=source.tick)
    try:
        while True:
            _fill(pool)
            if stop():
                raise Stopped
            if not pool.stacks:
                if pool.waiting or source.wait():
                    continue
                return
            trained = len(pool.stacks)
            _train(pool)
            _judge(pool)
            if len(pool.stacks) < trained:
                gc.collect()  # lanes refer to themselves; the next ones need their memory
    except Stopped:
        _interrupt(pool)
        raise


def _train(pool: _Pool) -> None:
    for stack in list(pool.stacks):
        _attempt(pool, stack, lambda stack: train.train_epoch(stack, pool.update, pool.stop))
    pool.tick += 1


def _judge(pool: _Pool) -> None:
    """Let all runs report, and let the pruned ones leave."""
    reports = {}
    for stack in pool.stacks:
        for run in stack.runs:
            total, count = run.epoch_losses
            epoch = run.step // stack.steps_per_epoch
            reports[run.spec.number] = Report(epoch, total / max(count, 1), *run.evaluation)
            pool.reported[run.spec.number] = epoch
    pruned = pool.source.report(reports) if reports else set()
    if pruned:
        for stack in list(pool.stacks):
            _attempt(pool, stack, lambda stack: train.prune(stack, pruned, pool.update))
    for stack in pool.stacks:
        saving.checkpoint_if_due(stack)


def _attempt(pool: _Pool, stack: Stack, work: Callable[[Stack], None]) -> None:
    """Do something with a stack, handle its errors, and note which runs ended."""
    runs = list(stack.runs)
    try:
        work(stack)
    except (Stopped, NotWritten):
        raise
    except Exception as error:
        starts = [
            Start(run.spec, pool.reported.get(run.spec.number, 0)) for run in runs if not run.ended
        ]
        pool.stacks.remove(stack)
        stack.runs = []
        _recover(pool, starts, error)
    for run in runs:
        if run.ended:
            pool.source.ended(run.spec.number)
    if not stack.runs and stack in pool.stacks:
        pool.stacks.remove(stack)


def _recover(pool: _Pool, starts: Sequence[Start], error: Exception) -> None:
    """After an error train fewer runs at once if memory is out, else each alone.

    One run may have caused the error. All start anew or at their last checkpoint, and reach the
    same bits.
    """
    if len(starts) == 1:
        spec = starts[0].spec
        records.mark_failed(spec.folder, new_summary(spec), error)
        pool.update(pool.rows[spec.number], state="failed")
        pool.source.ended(spec.number)
    elif devices.out_of_memory(error):
        pool.width = max(1, len(starts) // 2)
        pool.update.note(f"out of memory with {len(starts)} lanes; going on with {pool.width}")
        pool.waiting.extendleft(reversed(starts))
    else:
        pool.waiting.extendleft(replace(start, alone=True) for start in reversed(starts))


# --- filling the places ---------------------------------------------------------------------------


def _fill(pool: _Pool) -> None:
    """Take runs while there is room, build their lanes, and add them to their group's stack."""
    starts: list[Start] = []
    places = _Places(pool)
    while _has_room(pool, starts) and (pool.waiting or places.for_another()):
        start = pool.waiting.popleft() if pool.waiting else pool.source.take(pool.tick)
        if start is None:
            break
        number = start.spec.number
        if number not in pool.rows:
            row = progress.LaneRow(number, start.label, epochs=start.spec["epochs"])
            pool.rows[number] = pool.update.add(row)
        if not places.take(start.spec):
            pool.waiting.appendleft(start)
            break
        starts.append(start)
    groups: dict[str, list[Start]] = {}
    for start in starts:
        groups.setdefault(_key(pool, start), []).append(start)
    for key, group in groups.items():
        _build(pool, key, group)
    _merge(pool)


def _has_room(pool: _Pool, starts: Sequence[Start]) -> bool:
    trained = sum(len(stack.runs) for stack in pool.stacks) + len(starts)
    return not pool.stop() and (pool.width is None or trained < pool.width)


class _Places:
    """The memory of the pool's lanes and data, and whether one more lane fits."""

    def __init__(self, pool: _Pool) -> None:
        self._pool = pool
        self._lanes: Counter[str] = Counter()  # by group
        self._data: dict[str, int] = {}  # bytes, by name
        self._taken = 0
        self._last: RunSpec | None = None
        for stack in pool.stacks:
            for run in stack.runs:
                self._add(run.spec)
        for name in pool.data.keys() - self._data.keys():  # no lane uses it any more
            del pool.data[name]

    def for_another(self) -> bool:
        """Return whether one more run like the last one fits.

        Ask before taking a run: a taken run that had to wait would be kept from other workers. In a
        search it would also be drawn too early.
        """
        return self._last is None or self._fits(self._last)

    def take(self, spec: RunSpec) -> bool:
        """Give a run a place, if there is one; the first run is always tried."""
        fits = self._last is None or self._fits(spec)
        if fits:
            self._add(spec)
        return fits

    def _fits(self, spec: RunSpec) -> bool:
        pool, needs = self._pool, _needs(self._pool, spec)
        if pool.width is None and self._lanes[_group(pool, spec)] >= needs.fastest:
            return False
        data = sum({**self._data, needs.data: needs.data_bytes}.values())
        return self._taken + self._more(spec) + data <= memory.budget(spec, pool.free)

    def _add(self, spec: RunSpec) -> None:
        needs, self._last = _needs(self._pool, spec), spec
        self._taken += self._more(spec)
        self._data[needs.data] = needs.data_bytes
        self._lanes[_group(self._pool, spec)] += 1

    def _more(self, spec: RunSpec) -> int:
        """Return the bytes that one more lane takes; in padded stacks that may be none or many."""
        lanes = self._lanes[_group(self._pool, spec)]
        rows = _rows(self._pool, spec, lanes + 1) - _rows(self._pool, spec, lanes)
        return _needs(self._pool, spec).lane * max(rows, 0)


def _group(pool: _Pool, spec: RunSpec) -> str:
    if spec.number not in pool.keys:
        pool.keys[spec.number] = group_key(spec)
    return pool.keys[spec.number]


def _needs(pool: _Pool, spec: RunSpec) -> memory.Needs:
    group = _group(pool, spec)
    if group not in pool.groups:
        pool.groups[group] = memory.needs(spec)
    return pool.groups[group]


def _key(pool: _Pool, start: Start) -> str:
    group = _group(pool, start.spec)
    return f"{group} {start.spec.number}" if start.alone else group


def _build(pool: _Pool, key: str, group: Sequence[Start]) -> None:
    specs = [start.spec for start in group]
    ways = pool.ways.setdefault(_group(pool, specs[0]), {})
    pad = _pad(pool, specs)
    if pad and len(group) > pad:
        for first in range(0, len(group), pad):
            _build(pool, key, group[first : first + pad])
        return
    try:
        rows = [pool.rows[spec.number] for spec in specs]
        stacks = building.build(key, specs, rows, _data(pool, specs[0]), ways, pad)
    except (Stopped, NotWritten):
        raise
    except Exception as error:
        _recover(pool, group, error)
        return
    pool.stacks += stacks
    epochs = {start.spec.number: start.epochs for start in group}
    for stack in stacks:
        _attempt(pool, stack, lambda stack: _catch_up(pool, stack, epochs))


def _pad(pool: _Pool, specs: Sequence[RunSpec]) -> int:
    """Return the rows of all products of a group, ``lanes.Lanes.pad``; 0 if its bits need none.

    On a GPU the bits need padding. All stacks of a group then have one width throughout. It is that
    of its first stack, or the recorded one of a run that goes on.
    """
    if not is_padded(specs[0]):
        return 0
    group = _group(pool, specs[0])
    if group not in pool.pads and (asked := specs[0].config.get("pad", "auto")) != "auto":
        pool.pads[group] = int(asked)
    elif group not in pool.pads:
        recorded = [records.recorded_pad(spec.folder) for spec in specs]
        pool.pads[group] = max(recorded) or power_of_two(len(specs))
    return pool.pads[group]


def is_padded(spec: RunSpec) -> bool:
    asked = spec.config.get("pad", "auto")
    return asked is not None and (asked != "auto" or spec.device.startswith("cuda"))


def power_of_two(lanes: int) -> int:
    return 1 << (lanes - 1).bit_length()


def _rows(pool: _Pool, spec: RunSpec, lanes: int) -> int:
    """Return the rows of the stacks of so many lanes of a group, with padding."""
    if not lanes or not is_padded(spec):
        return lanes
    asked = spec.config.get("pad", "auto")
    known = pool.pads.get(_group(pool, spec), 0 if asked == "auto" else int(asked))
    pad = known or power_of_two(lanes)
    return -(-lanes // pad) * pad


def _catch_up(pool: _Pool, stack: Stack, epochs: Mapping[int, int]) -> None:
    """Train the runs of a new stack up to the epoch that each had reported before.

    On the way each leaves for a stack of its own at its epoch; ``_merge`` joins these.
    """
    while stack.runs:
        behind = [
            lane
            for lane, run in enumerate(stack.runs)
            if run.step < epochs[run.spec.number] * stack.steps_per_epoch
        ]
        if not behind:
            return
        _log_new(pool, stack)
        if len(behind) < len(stack.runs):
            arrived = [lane for lane in range(len(stack.runs)) if lane not in behind]
            pool.stacks.append(split(stack, arrived))
        train.train_epoch(stack, pool.update, pool.stop)
        if pool.stop():
            raise Stopped


def _merge(pool: _Pool) -> None:
    """Merge all lanes of a group that are at an epoch's start into one stack."""
    first: dict[str, Stack] = {}
    merged = []
    for stack in pool.stacks:
        if stack.place == 0 and stack.key in first and _room(first[stack.key], stack):
            merge(first[stack.key], stack)
        else:
            merged.append(stack)
            if stack.place == 0:
                first[stack.key] = stack
    pool.stacks = merged
    for stack in merged:
        _log_new(pool, stack)


def _room(stack: Stack, other: Stack) -> bool:
    return not stack.lanes.pad or len(stack.runs) + len(other.runs) <= stack.lanes.pad


def _log_new(pool: _Pool, stack: Stack) -> None:
    for run in stack.runs:
        if run.summary.get("lanes") is None:
            recording.log_start(stack, run)
    group = _group(pool, stack.runs[0].spec) if stack.runs else ""
    if stack.runs and stack.lanes.unsaved and group not in pool.told:
        pool.told.add(group)
        pool.update.note(f"lrlab: {saving.unsaved_line(stack.lanes.unsaved)}")


def _data(pool: _Pool, spec: RunSpec) -> Dataset:
    name = _needs(pool, spec).data
    if name not in pool.data:
        pool.data[name] = build.load_data(spec).to(spec.device)
    return pool.data[name]


def _interrupt(pool: _Pool) -> None:
    for stack in pool.stacks:
        saving.interrupt(stack)
        for run in stack.runs:
            pool.source.interrupted(run.spec.number)
    for start in pool.waiting:
        records.write_summary(start.spec.folder, new_summary(start.spec) | INTERRUPTED)
        pool.source.interrupted(start.spec.number)
