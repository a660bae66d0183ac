"""Claim runs, give them back, and take them over from dead workers."""

from __future__ import annotations

import dataclasses
import math
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrlab.study import heartbeat, sampling
from lrlab.study.draws import Draws
from lrlab.study.heartbeat import Place, Sign
from lrlab.study.points import SEED, STATE, Points
from lrlab.study.sampling import CLAIM, OVERRIDES
from lrlab.study.storage import OpenStudy

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_WORKER = "lrlab:worker:"  # the study's system attribute of a worker: its sign of life
_PLACE = "lrlab:place:"  # its place, kept after it has left


@dataclass(frozen=True)
class Trial:
    """A run for this worker to train.

    Attributes:
        number: the run.
        setting: shared by the runs that differ only in their seed.
        overrides: swept key to text, seed included.
        tick: the pool's tick at which the run first joined.
        epochs_reported: by an interrupted run; it goes on after them.
    """

    number: int
    setting: int
    overrides: dict[str, str]
    tick: int
    epochs_reported: int


class Claims:
    """One worker's claims, and its view of the others'.

    Attributes:
        worker: this worker's name, which no other has.
        held: the runs that this worker trains.
        looked: when the dead were last looked for.
    """

    def __init__(self, study: OpenStudy, points: Points, draws: Draws, lease: float) -> None:
        self._study, self._points, self._draws, self._lease = study, points, draws, lease
        self.worker = heartbeat.new_id()
        self.held: set[int] = set()
        self.looked = -math.inf
        self.watch = heartbeat.Watch(lease)
        self.heart: heartbeat.Heart | None = None
        self._asking = threading.Lock()  # overrides the claims that it has lost
        self._sign = heartbeat.me()
        self._renewed = heartbeat.clock()
        self._was_away = False
        self._fresh_from = 0  # the tick from which runs that never ran may start

    def enter(self, place: Place | None) -> None:
        """Give the first sign of life, and forget the dead; call it under the lock."""
        self._beat_now()
        if place is not None:
            self._study.set(_PLACE + self.worker, dataclasses.asdict(place))
        self._forget_the_dead()

    def start(self) -> None:
        """Give signs of life from now on, regularly."""
        self.heart = heartbeat.Heart(self._lease, self.beat)

    def leave(self) -> None:
        """Give no more signs of life, so that others can take the claimed runs."""
        if self.heart is not None:
            self.heart.stop()
        self._study.store.unlocked(lambda: self._study.set(_WORKER + self.worker, None))

    def others(self) -> int:
        """Return how many other workers live, as far as is known."""
        signs = self._study.store.unlocked(self._signs)
        return sum(not self._study.store.has_left(w) for w in self.watch.living(signs))

    def take(self, tick: int) -> Trial | None:
        """Claim a run, see ``Queue.take``."""
        runs = self._study.runs(only_states=not self._points.space.searched)
        run = self._next(self._points.wanted(runs), tick)
        if run is None and self._points.without_end:
            self._points.add_settings(runs, [len({sampling.setting_of(run) for run in runs})])
            runs = self._study.runs()
            run = self._next(self._points.wanted(runs), tick)
        if run is None:
            return None
        # A worker that died may have left a part of its parameters.
        if self._draws.distributions.keys() - run.params.keys():
            self._draws.draw(run, self._points.wanted(runs))
        attrs = self._study.storage.get_trial_user_attrs(run._trial_id)
        claim = {"tick": tick, **attrs.get(CLAIM, {})}
        if not self._claimed(run, {"worker": self.worker, "tick": claim["tick"]}):
            return self.take(tick)
        self.held.add(run.number)
        epochs = claim.get("epochs", 0)
        overrides = attrs[OVERRIDES]
        # A sweep that had one seed did not name it.
        if SEED in self._points.space.lists and SEED not in overrides:
            overrides = {**overrides, SEED: str(self._points.seed)}
        return Trial(run.number, sampling.setting_of(run), overrides, claim["tick"], epochs)

    def _next(self, runs: Sequence[FrozenTrial], tick: int) -> FrozenTrial | None:
        """Return the run to start: an interrupted one, in the order in which they had started."""
        can = startable(runs)
        interrupted = [run for run in can if CLAIM in run.user_attrs]
        if interrupted:
            return min(interrupted, key=lambda run: (sampling.claim_of(run)["tick"], run.number))
        if self.held and tick < self._fresh_from:
            return None
        return can[0] if can else None

    def _claimed(self, run: FrozenTrial, claim: dict[str, Any]) -> bool:
        """Claim a run for this worker; return False if it no longer waits."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        try:
            if not self._study.storage.set_trial_state_values(run._trial_id, TrialState.RUNNING):
                return False
        except UpdateFinishedTrialError:
            return False
        self._study.storage.set_trial_user_attr(run._trial_id, CLAIM, claim)
        return True

    def tell(self, number: int, state: str, value: float | None) -> bool:
        """End a run, see ``Queue.tell``."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        trial_id = self._study.trial_id(number)
        if self._lapsed() and not self._holds(self._study.runs()[number]):
            return False
        if state == "pruned" and value is None:
            steps = self._study.storage.get_trial(trial_id).intermediate_values
            value = steps[max(steps)] if steps else None
        values = [value] if value is not None and math.isfinite(value) else None
        kind = TrialState.PRUNED if state == "pruned" else TrialState.COMPLETE
        if state not in ("pruned", "finished") or (state == "finished" and values is None):
            kind, values = TrialState.FAIL, None
        try:
            self._study.storage.set_trial_user_attr(trial_id, STATE, state)
            self._study.storage.set_trial_state_values(trial_id, kind, values)
        except UpdateFinishedTrialError:
            return False
        return True

    def give_back(self, number: int) -> None:
        """Release an interrupted run."""
        runs = self._study.runs()
        run = runs[number]
        if self._holds(run):
            groups = sampling.groups(self._points.wanted(runs))
            epochs = self._draws.epochs(run, groups, self._draws.notes())
            claim = {**sampling.claim_of(run), "worker": None, "epochs": epochs}
            self._study.storage.set_trial_user_attr(run._trial_id, CLAIM, claim)
            self._to_waiting(run)

    def start_tick(self) -> int:
        """Return the tick at which the pool goes on, see ``Queue.start_tick``."""
        runs = self._points.wanted(self._study.store.unlocked(self._study.runs))
        begun = [sampling.claim_of(run) for run in runs if sampling.interrupted(run)]
        ended = [run for run in runs if run.state.is_finished() and sampling.claim_of(run)]
        # No earlier than the last ones had ended. With runs of a setting that are taken one by one,
        # those taken before another death would seem to have begun while these still trained.
        last_end = max(map(_end_tick, ended), default=0)
        if not begun:
            return last_end
        start = min(claim["tick"] + claim.get("epochs", 0) for claim in begun)
        # New runs start no earlier than without the interruption. If the worker died while it ended
        # the runs of one tick, their places were to be filled at the next, after all had ended.
        self._fresh_from = min(last_end, start + 1)
        return start

    def lost(self) -> list[int]:
        """Return the runs that others have taken over, see ``Queue.lost``."""
        with self._asking:
            return self._study.store.locked(self._missing) if self._lapsed() else []

    def _missing(self) -> list[int]:
        runs = self._study.runs()
        lost = [run.number for run in runs if run.number in self.held and not self._holds(run)]
        if not lost:
            self._beat_now()
            self._was_away = False
        return lost

    def _holds(self, run: FrozenTrial) -> bool:
        return run.state.name == "RUNNING" and sampling.claim_of(run).get("worker") == self.worker

    def beat(self) -> None:
        """Give a sign of life."""
        self._study.store.unlocked(self._beat_now)
        self._study.store.sync()

    def _beat_now(self) -> None:
        now = heartbeat.clock()  # before it is written: others may have seen it no earlier
        self._was_away = self._lapsed()
        self._sign = dataclasses.replace(self._sign, beat=self._sign.beat + 1)
        self._study.set(_WORKER + self.worker, dataclasses.asdict(self._sign))
        self._renewed = now

    def _lapsed(self) -> bool:
        """Return whether others may have taken this worker for dead."""
        return self._was_away or heartbeat.clock() - self._renewed > self._lease

    def requeue_the_dead(self) -> bool:
        """Let the runs of dead workers wait again; return whether there were any."""
        self.looked = heartbeat.clock()
        if not self._study.store.unlocked(lambda: self._dead(self._study.runs())):
            return False
        return self._study.store.locked(lambda: self.requeue(self._study.runs()))

    def requeue(self, runs: Sequence[FrozenTrial]) -> bool:
        """Do so under the lock; return whether there were any."""
        dead = self._dead(runs)
        groups, notes = sampling.groups(self._points.wanted(runs)), self._draws.notes()
        for held in _by_worker(dead).values():
            # Lanes go in step. A run that was a report ahead of the others when its worker died
            # goes back to them, so that they are judged together as they would have been.
            epochs = {run.number: self._draws.epochs(run, groups, notes) for run in held}
            together = min(sampling.claim_of(run)["tick"] + epochs[run.number] for run in held)
            for run in held:  # all before the first: a death in this loop changes nothing
                own, back = epochs[run.number], together - sampling.claim_of(run)["tick"]
                done = max(own - 1, min(own, back), 0)
                claim = {"epochs": done, **sampling.claim_of(run)}
                self._study.storage.set_trial_user_attr(run._trial_id, CLAIM, claim)
        for run in dead:
            self._to_waiting(run)
        return bool(dead)

    def _forget_the_dead(self) -> None:
        """Clear away the traces of workers that are known to be gone."""
        for worker, sign in self._signs().items():
            if sign is not None and self._study.store.has_left(worker):
                self._study.set(_WORKER + worker, None)

    def _dead(self, runs: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return the running runs without a living worker."""
        running = [run for run in runs if run.state.name == "RUNNING"]
        others = [r for r in running if r.number not in self.held or not self._holds(r)]
        if not others:
            return []
        signs = self._signs()
        holders = {sampling.claim_of(run).get("worker") for run in others}
        living = self.watch.living({w: sign for w, sign in signs.items() if w in holders})
        left = {worker for worker in living if self._study.store.has_left(worker)}
        return [run for run in others if sampling.claim_of(run).get("worker") not in living - left]

    def _signs(self) -> dict[str, Sign | None]:
        """Return the other workers' signs of life; None: it has left."""
        attrs = self._study.attrs()
        return {
            key.removeprefix(_WORKER): None if sign is None else Sign(**sign)
            for key, sign in attrs.items()
            if re.fullmatch(rf"{_WORKER}[\w.-]+", key) and key != _WORKER + self.worker
        }

    def places(self) -> dict[int, Place]:
        """Return where each run's latest worker writes, as far as noted."""
        attrs = self._study.attrs()
        found = {}
        for run in self._study.runs():
            if worker := sampling.claim_of(run).get("worker"):
                noted = attrs.get(_PLACE + worker)
                host = heartbeat.host_of(worker)
                found[run.number] = Place(**noted) if noted else Place(host, "")
        return found

    def _to_waiting(self, run: FrozenTrial) -> None:
        from optuna.trial import TrialState

        self._study.storage.set_trial_state_values(run._trial_id, TrialState.WAITING)


def startable(runs: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the runs that can start: a setting is drawn with its first run, others follow it."""
    from optuna.trial import TrialState

    waiting = [run for run in runs if run.state is TrialState.WAITING]
    if all(map(sampling.drawn, waiting)):  # a grid; one of many runs is asked for each of them
        return waiting
    leads: dict[int, FrozenTrial] = {}
    for run in runs:
        leads.setdefault(sampling.setting_of(run), run)
    return [
        run
        for run in waiting
        if (lead := leads[sampling.setting_of(run)]) is run or sampling.drawn(lead)
    ]


def _end_tick(run: FrozenTrial) -> int:
    """Return the tick at which the run's place was free.

    Only a pruned run ends with a report. Others end within an epoch, or at the last one's end,
    before the others report.
    """
    return sampling.claim_of(run)["tick"] + (run.last_step or 0) + (run.state.name != "PRUNED")


def _by_worker(runs: Sequence[FrozenTrial]) -> dict[str | None, list[FrozenTrial]]:
    """Return the claimed runs of each worker."""
    found: dict[str | None, list[FrozenTrial]] = {}
    for run in runs:
        if CLAIM in run.user_attrs:
            found.setdefault(sampling.claim_of(run)["worker"], []).append(run)
    return found
